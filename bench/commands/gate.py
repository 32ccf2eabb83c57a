"""`steadymap gate`: fail if a run is worse than a baseline."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from steadymap.bench.commands.baseline import ROOT_HELP, RUN_HELP
from steadymap.bench.commands.compare import show_verdict, verdict_of
from steadymap.bench.core import console
from steadymap.bench.core.errors import ConfigError
from steadymap.bench.core.files import listed, make_folder, refuse_links
from steadymap.bench.gate import baseline_runs, comparison, formats, side
from steadymap.bench.gate.margins import read_margins
from steadymap.bench.gate.verdict import Verdict, gate_line, power_line
from steadymap.bench.records.read import LEDGER, RECORDS
from steadymap.metrics import Status


def gate_command(  # noqa: PLR0913, PLR0917 - typer reads the flags off the signature
    run: Annotated[
        Path | None, typer.Argument(help=f"{RUN_HELP} Left out: the newest below runs/.")
    ] = None,
    baseline: Annotated[str, typer.Option(help="Its name.")] = "",
    margin: Annotated[list[str] | None, typer.Option(help="METRIC=0.05; repeat for more.")] = None,
    margins: Annotated[Path | None, typer.Option(help="YAML file of margins.")] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="What is inconclusive or undecided fails.")
    ] = False,
    allow_undecided: Annotated[
        bool,
        typer.Option("--allow-undecided", help="Exit code 0, not 5, where images are too few."),
    ] = False,
    output: Annotated[Path | None, typer.Option(help="For reports; left out: in the run.")] = None,
    root: Annotated[Path, typer.Option(help=ROOT_HELP)] = baseline_runs.BASELINES_FOLDER,
) -> None:
    """Fail if a run is worse than a baseline by more than the margins, beyond doubt."""
    if not baseline:
        raise ConfigError("baseline: give its name with --baseline NAME")
    if strict and allow_undecided:
        raise ConfigError("give --strict or --allow-undecided, not both")
    before = baseline_runs.open_baseline(baseline, root)
    chosen = read_margins(margins, margin or (), before.manifest["baseline"]["metrics"])
    folder = run or _newest_run()
    after = side.read_side(folder, before.manifest["baseline"]["metrics"])
    errors = int(after.manifest["statuses"].get(Status.ERROR.value, 0))
    verdict = replace(
        verdict_of(before, after, chosen),
        strict=strict,
        allow_undecided=allow_undecided,
        errors=errors,
    )
    show_verdict(verdict)
    _write(verdict, folder, output)
    if errors:
        console.say("the run itself had errors: see `detail` in its records")
    elif reason := verdict.undecided():
        console.say(reason)
    if code := verdict.ending():
        raise typer.Exit(code)


def _write(verdict: Verdict, folder: Path, output: Path | None) -> None:
    """Print what fails, and the whole in a line; write the reports, into the run unless told."""
    stdout = console.console_of()
    for case in verdict.cases():
        if case.result == comparison.FAIL:
            console.line(stdout, f"FAIL {case.name}: {case.message}")
    if power := power_line(verdict):
        console.line(stdout, power)
    console.line(stdout, gate_line(verdict))
    reports = output or folder / "gate"
    make_folder(reports)
    if output is None:
        refuse_links(folder)
    formats.write_outputs(verdict, reports)
    console.line(stdout, f"{reports}")
    summary = os.environ.get("GITHUB_STEP_SUMMARY")
    if summary:
        try:
            formats.append_summary(verdict, Path(summary))
        except OSError as error:
            console.say(f"cannot write the step summary {summary}: {error.strerror}")


def _newest_run() -> Path:
    """Return the folder of the run that was begun last, whether it has come to its end or not.

    An older one in its place would be judged by mistake.
    """
    begun = [
        path
        for folder in listed(console.RUNS)
        for path in (folder / LEDGER, folder / RECORDS)
        if path.is_file()
    ]
    if not begun:
        raise ConfigError(f"run: no finished run below {console.RUNS}; give its folder")
    return max(begun, key=lambda path: path.stat().st_mtime).parent
