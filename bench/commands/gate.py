"""The commands that compare: `steadymap baseline`, `compare` and `gate`."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from steadymap.bench.core.console import EXIT_CELLS_FAILED, EXIT_FAILED, RUNS, console_of, line, say
from steadymap.bench.gate.baseline_runs import (
    BASELINES_FOLDER,
    KEPT_METRICS,
    Side,
    baseline_names,
    open_baseline,
    read_side,
    save_baseline,
)
from steadymap.bench.gate.comparison import FAIL, Margins, compare, differences, timing_cases
from steadymap.bench.gate.margins import read_margins
from steadymap.bench.gate.verdict import (
    Verdict,
    append_summary,
    closing_line,
    comparison_table,
    gate_line,
    write_outputs,
)
from steadymap.bench.plan.plan import ConfigError
from steadymap.bench.runs import folder as store
from steadymap.bench.runs.shard_files import make_folder
from steadymap.metrics import Status

baseline_app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Keep runs to compare with."
)
ROOT_HELP = "Folder of the baselines."
RUN_HELP = "Folder of a finished run."
SIDE_HELP = "Folder of a run or of a baseline, or a baseline's name."


@baseline_app.command("save")
def baseline_save_command(
    run: Annotated[Path, typer.Argument(help=RUN_HELP)],
    name: Annotated[str, typer.Argument(help="What to call it.")],
    metric: Annotated[
        list[str] | None, typer.Option(help=f"Repeat for more; {', '.join(KEPT_METRICS)}.")
    ] = None,
    root: Annotated[Path, typer.Option(help=ROOT_HELP)] = BASELINES_FOLDER,
) -> None:
    """Keep a run's scores by image, and its manifest, for committing."""
    folder = save_baseline(run, name, root, metric or KEPT_METRICS)
    size = sum(path.stat().st_size for path in folder.iterdir())
    side = open_baseline(name, root)
    line(console_of(), f"{len(side.scores)} scores, {size / 1000:,.0f} kB: {folder}")


@baseline_app.command("list")
def baseline_list_command(
    root: Annotated[Path, typer.Option(help=ROOT_HELP)] = BASELINES_FOLDER,
) -> None:
    """Name the baselines there are."""
    for name in baseline_names(root):
        side = open_baseline(name, root)
        model, data = side.manifest["model"]["name"], side.manifest["data"]["name"]
        images = side.scores["image_id"].nunique()
        line(console_of(), f"{name}: {model} on {data}, {images} images, {len(side.scores)} scores")


@baseline_app.command("show")
def baseline_show_command(
    name: Annotated[str, typer.Argument(help="Of the baseline.")],
    root: Annotated[Path, typer.Option(help=ROOT_HELP)] = BASELINES_FOLDER,
) -> None:
    """Print a baseline's means."""
    side = open_baseline(name, root)
    means = side.scores.groupby(["metric", "method", "family"], sort=False)["value"].mean()
    line(console_of(), means.unstack("family").round(4).to_string())


def compare_command(
    before: Annotated[str, typer.Argument(help=SIDE_HELP)],
    after: Annotated[str, typer.Argument(help=SIDE_HELP)],
    every: Annotated[bool, typer.Option("--all", help="Show what is equivalent, too.")] = False,
    output: Annotated[Path | None, typer.Option(help="Folder for CSV, JSON and Markdown.")] = None,
    root: Annotated[Path, typer.Option(help=ROOT_HELP)] = BASELINES_FOLDER,
) -> None:
    """Say what moved between two runs, by how much, and whether that is beyond doubt."""
    verdict = _verdict(*_alike(_side(before, root), _side(after, root)), Margins())
    _show(verdict, every=every)
    if output:
        make_folder(output)
        for path in write_outputs(verdict, output):
            line(console_of(), f"{path}")


def gate_command(  # noqa: PLR0913, PLR0917 - typer reads the flags off the signature
    run: Annotated[
        Path | None, typer.Argument(help=f"{RUN_HELP} Left out: the newest below runs/.")
    ] = None,
    baseline: Annotated[str, typer.Option(help="Its name.")] = "",
    margin: Annotated[list[str] | None, typer.Option(help="METRIC=0.05; repeat for more.")] = None,
    margins: Annotated[Path | None, typer.Option(help="YAML file of margins.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Inconclusive fails.")] = False,
    output: Annotated[Path | None, typer.Option(help="For reports; left out: in the run.")] = None,
    root: Annotated[Path, typer.Option(help=ROOT_HELP)] = BASELINES_FOLDER,
) -> None:
    """Fail if a run is worse than a baseline by more than the margins, beyond doubt."""
    if not baseline:
        raise ConfigError("baseline: give its name with --baseline NAME")
    before = open_baseline(baseline, root)
    chosen = read_margins(margins, margin or (), before.manifest["baseline"]["metrics"])
    folder = run or _newest_run()
    after = read_side(folder, before.manifest["baseline"]["metrics"])
    errors = int(after.manifest["statuses"].get(Status.ERROR.value, 0))
    verdict = replace(_verdict(before, after, chosen), strict=strict, errors=errors)
    console = console_of()
    _show(verdict)
    for case in verdict.cases():
        if case.result == FAIL:
            line(console, f"FAIL {case.name}: {case.message}")
    line(console, gate_line(verdict))
    reports = output or folder / "gate"
    make_folder(reports)
    if output is None:
        store.refuse_links(folder)
    write_outputs(verdict, reports)
    line(console, f"{reports}")
    summary = os.environ.get("GITHUB_STEP_SUMMARY")
    if summary:
        try:
            append_summary(verdict, Path(summary))
        except OSError as error:
            say(f"cannot write the step summary {summary}: {error.strerror}")
    if errors:
        say("the run itself had errors: see `detail` in its records")
        raise typer.Exit(EXIT_CELLS_FAILED)
    if any(case.result in verdict.failing() for case in verdict.cases()):
        raise typer.Exit(EXIT_FAILED)


def _side(text: str, root: Path) -> Side:
    """Read a folder, or a baseline by its name."""
    return read_side(Path(text)) if Path(text).is_dir() else open_baseline(text, root)


def _alike(before: Side, after: Side) -> tuple[Side, Side]:
    """Leave what a baseline does not keep out of both."""
    kept = [
        set(side.manifest["baseline"]["metrics"])
        for side in (before, after)
        if "baseline" in side.manifest
    ]
    if not kept:
        return before, after
    wanted = set.intersection(*kept)
    first, second = (
        replace(side, scores=side.scores[side.scores["metric"].isin(wanted)])
        for side in (before, after)
    )
    return first, second


def _verdict(before: Side, after: Side, margins: Margins) -> Verdict:
    """Compare, or refuse to.

    Raises:
        ConfigError: the two cannot be compared, with every reason.
    """
    found = differences(before.manifest, after.manifest)
    if found.forbidding:
        reasons = "; ".join(found.forbidding)
        raise ConfigError(f"{before.name} and {after.name} cannot be compared: {reasons}")
    for text in found.explaining:
        say(f"differs: {text}")
    rows = compare(before, after, margins)
    return Verdict(before.name, after.name, rows, found, tuple(timing_cases(before, after)))


def _show(verdict: Verdict, *, every: bool = False) -> None:
    """Print what moved, and the whole in one line."""
    table = comparison_table(verdict, every=every)
    if table.row_count:
        console_of().print(table)
    line(console_of(), closing_line(verdict))


def _newest_run() -> Path:
    runs = sorted(RUNS.glob(f"*/{store.RECORDS}"), key=lambda path: path.stat().st_mtime)
    if not runs:
        raise ConfigError(f"run: no finished run below {RUNS}; give its folder")
    return runs[-1].parent
