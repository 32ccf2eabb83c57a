"""`steadymap gate`: fail if a run is worse than a baseline."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from steadymap.bench.commands.baseline import ROOT_HELP, RUN_HELP
from steadymap.bench.commands.compare import Asking, show_verdict, verdict_of
from steadymap.bench.core import console
from steadymap.bench.core.errors import ConfigError
from steadymap.bench.core.files import listed, make_folder, refuse_links
from steadymap.bench.gate import baseline_runs, comparison, formats, side
from steadymap.bench.gate.margins import Margins, read_margins
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
    until_decided: Annotated[
        bool,
        typer.Option(
            "--until-decided",
            help="Measure, in the folder RUN, until it is decided: no more images than that takes.",
        ),
    ] = False,
    config: Annotated[
        Path | None,
        typer.Option(help="Of --until-decided: the experiment; left out, the baseline's."),
    ] = None,
    output: Annotated[Path | None, typer.Option(help="For reports; left out: in the run.")] = None,
    root: Annotated[Path, typer.Option(help=ROOT_HELP)] = baseline_runs.BASELINES_FOLDER,
    network: Annotated[
        bool,
        typer.Option("--network/--no-network", help="Judge the network's predictions, too."),
    ] = True,
    allow_one_seed: Annotated[
        bool,
        typer.Option(
            "--allow-one-seed", help="Hold new weights against a baseline of one network."
        ),
    ] = False,
) -> None:
    """Fail if a run is worse than a baseline by more than the margins, beyond doubt."""
    if not baseline:
        raise ConfigError("baseline: give its name with --baseline NAME")
    if strict and allow_undecided:
        raise ConfigError("give --strict or --allow-undecided, not both")
    if config is not None and not until_decided:
        raise ConfigError("config: goes with --until-decided; a finished run has its experiment")
    before = baseline_runs.open_baseline(baseline, root)
    chosen = read_margins(margins, margin or (), before.manifest["baseline"]["metrics"])
    asking = Asking(allow_one_seed=allow_one_seed, network=network)
    if until_decided:
        folder = run or console.RUNS / f"until-{baseline}"
        judged = _measured(before, chosen, asking, config, folder)
    else:
        folder = run or _newest_run()
        judged = _stored(before, chosen, asking, folder)
    verdict = replace(judged, strict=strict, allow_undecided=allow_undecided)
    show_verdict(verdict)
    _write(verdict, folder, output)
    if verdict.errors:
        console.say("the run itself had errors: see `detail` in its records")
    elif reason := verdict.undecided():
        console.say(reason)
    if code := verdict.ending():
        raise typer.Exit(code)


def _stored(before: side.Side, margins: Margins, asking: Asking, folder: Path) -> Verdict:
    """Judge a run that is there."""
    after = side.read_side(folder, before.manifest["baseline"]["metrics"])
    errors = int(after.manifest["statuses"].get(Status.ERROR.value, 0))
    verdict = verdict_of(
        before, after, margins, allow_one_seed=asking.allow_one_seed, network=asking.network
    )
    return replace(verdict, errors=errors)


def _measured(
    before: side.Side, margins: Margins, asking: Asking, config: Path | None, folder: Path
) -> Verdict:
    """Measure a run until it is judged."""
    # It brings torch, which a stored run does not need.
    from steadymap.bench.commands import until_decided  # noqa: PLC0415

    experiment = until_decided.experiment_of(before, config, folder)
    return until_decided.decide(before, margins, asking, experiment)


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
