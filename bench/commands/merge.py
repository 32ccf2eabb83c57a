"""`steadymap merge`: join the shards of one run that several machines have computed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from steadymap.bench.commands.finish import (
    Told,
    print_files,
    print_findings,
    put_together,
    see_errors,
)
from steadymap.bench.core import console, errors, files
from steadymap.bench.runs import folder as store
from steadymap.bench.runs import shard_files
from steadymap.bench.runs.ledger import not_the_same


def merge_command(
    runs: Annotated[list[Path], typer.Argument(help="Folders of one run, of several machines.")],
    output: Annotated[Path, typer.Option(help="Folder of the joined run.")],
) -> None:
    """Join the shards of one run that several machines have computed."""
    ledger, manifest = store.read_ledger(runs[0])
    for other in runs[1:]:
        other_ledger, _ = store.read_ledger(other)
        if reasons := not_the_same(ledger, other_ledger):
            raise errors.ConfigError(
                f"merge: {other} is of another run than {runs[0]}: {', '.join(reasons)} differ"
            )
        ledger = replace(ledger, answers=other_ledger.answers | ledger.answers)
    files.make_folder(output)
    with shard_files.only_writer(output):
        store.claim_folder(output, ledger, console.say)
        store.begin(output, ledger, manifest, console.say)
        for folder in runs:
            if folder.resolve() != output.resolve():
                store.take_over(folder, output, console.say)
        assembled = put_together(output, {})
        print_findings(output)
        print_files(output, Told.SHORT)
    see_errors(assembled, manifest["configuration"].get("allow_failed", 0.0))
