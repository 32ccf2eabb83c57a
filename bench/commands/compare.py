"""`steadymap compare`: what moved between two runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from steadymap.bench.commands.baseline import ROOT_HELP
from steadymap.bench.core import console, errors, files
from steadymap.bench.gate import baseline_runs, comparison, formats
from steadymap.bench.gate.differences import Differences, differences
from steadymap.bench.gate.margins import Margins
from steadymap.bench.gate.side import Side, read_side
from steadymap.bench.gate.verdict import Verdict, closing_line, comparison_table, power_line
from steadymap.bench.records.vocabulary import METRIC

SIDE_HELP = "Folder of a run or of a baseline, or a baseline's name."


def compare_command(
    before: Annotated[str, typer.Argument(help=SIDE_HELP)],
    after: Annotated[str, typer.Argument(help=SIDE_HELP)],
    show_all: Annotated[bool, typer.Option("--all", help="Show what is equivalent, too.")] = False,
    output: Annotated[Path | None, typer.Option(help="Folder for CSV, JSON and Markdown.")] = None,
    root: Annotated[Path, typer.Option(help=ROOT_HELP)] = baseline_runs.BASELINES_FOLDER,
) -> None:
    """Say what moved between two runs, by how much, and whether that is beyond doubt."""
    verdict = verdict_of(*_alike(_read(before, root), _read(after, root)), Margins())
    show_verdict(verdict, show_all=show_all)
    if power := power_line(verdict):
        console.line(console.console_of(), power)
    if output:
        files.make_folder(output)
        for path in formats.write_outputs(verdict, output):
            console.line(console.console_of(), f"{path}")


def _read(text: str, root: Path) -> Side:
    """Read a folder, or a baseline by its name."""
    return read_side(Path(text)) if Path(text).is_dir() else baseline_runs.open_baseline(text, root)


def _alike(before: Side, after: Side) -> tuple[Side, Side]:
    """Leave what a baseline does not keep out of both."""
    kept = [
        set(side.manifest["baseline"]["metrics"])
        for side in (before, after)
        if "baseline" in side.manifest
    ]
    if not kept:
        return before, after
    metrics = set.intersection(*kept)
    first, second = (
        replace(side, scores=side.scores[side.scores[METRIC].isin(metrics)])
        for side in (before, after)
    )
    return first, second


def verdict_of(before: Side, after: Side, margins: Margins) -> Verdict:
    """Compare, or refuse to.

    Raises:
        ConfigError: the two cannot be compared, with every reason.
    """
    differing = refuse_unlike(before, after)
    for text in differing.explaining:
        console.say(f"differs: {text}")
    rows = comparison.compare(before, after, margins)
    return Verdict(
        before.name, after.name, rows, differing, tuple(comparison.timing_cases(before, after))
    )


def refuse_unlike(before: Side, after: Side) -> Differences:
    """Return in what two sides differ that may be compared.

    Raises:
        ConfigError: the two cannot be compared, with every reason.
    """
    differing = differences(before.manifest, after.manifest)
    if differing.forbidding:
        reasons = "; ".join(differing.forbidding)
        raise errors.ConfigError(f"{before.name} and {after.name} cannot be compared: {reasons}")
    return differing


def show_verdict(verdict: Verdict, *, show_all: bool = False) -> None:
    """Print what moved, and the whole in one line."""
    table = comparison_table(verdict, show_all=show_all)
    if table.row_count:
        console.console_of().print(table)
    console.line(console.console_of(), closing_line(verdict))
