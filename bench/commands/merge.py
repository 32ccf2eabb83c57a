"""`steadymap merge`: join the shards of one run that several machines have computed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from steadymap.bench.commands.finish import print_findings, put_together, see_errors
from steadymap.bench.core.console import EXIT_CELLS_FAILED, say
from steadymap.bench.core.errors import ConfigError
from steadymap.bench.core.files import make_folder
from steadymap.bench.runs import folder as store
from steadymap.bench.runs.ledger import not_the_same
from steadymap.bench.runs.shard_files import kept, only_writer
from steadymap.bench.runs.table import missing


def merge_command(
    runs: Annotated[list[Path], typer.Argument(help="Folders of one run, of several machines.")],
    output: Annotated[Path, typer.Option(help="Folder of the joined run.")],
) -> None:
    """Join the shards of one run that several machines have computed."""
    ledger, manifest = store.read_ledger(runs[0])
    for other in runs[1:]:
        theirs, _ = store.read_ledger(other)
        if reasons := not_the_same(ledger, theirs):
            raise ConfigError(
                f"merge: {other} is of another run than {runs[0]}: {', '.join(reasons)} differ"
            )
    make_folder(output)
    with only_writer(output):
        store.claim_folder(output, ledger)
        store.begin(output, ledger, manifest)
        for folder in runs:
            if folder.resolve() != output.resolve():
                store.take_over(folder, output, say)
        lost, every = missing(ledger, kept(output, say))
        if lost:
            say(
                f"{lost} of {every} units are missing; {output} has the others: merge it "
                "with the shards that are not there yet, or run the same experiment with "
                f"--output {output}"
            )
            raise typer.Exit(EXIT_CELLS_FAILED)
        found = put_together(output, {})
        print_findings(output, None)
    see_errors(found, manifest["configuration"].get("allow_failed", 0.0))
