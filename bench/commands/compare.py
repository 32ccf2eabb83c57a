"""`steadymap compare`: what moved between two runs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import typer

from steadymap.bench.commands.baseline import ROOT_HELP
from steadymap.bench.core import console, errors, files
from steadymap.bench.gate import baseline_runs, comparison, formats, judging, question
from steadymap.bench.gate.differences import Differences, differences
from steadymap.bench.gate.margins import Margins
from steadymap.bench.gate.side import Side, read_side
from steadymap.bench.gate.verdict import Verdict, closing_line, comparison_table, power_line
from steadymap.bench.records.vocabulary import METRIC


@dataclass(frozen=True)
class Asking:
    """What a gate is asked beside its maps.

    Attributes:
        allow_one_seed: whether new weights may be held against a baseline of one network.
        network: whether the network's predictions are judged, too.
    """

    allow_one_seed: bool = False
    network: bool = True


SIDE_HELP = "Folder of a run or of a baseline, or a baseline's name."


def compare_command(
    before: Annotated[str, typer.Argument(help=SIDE_HELP)],
    after: Annotated[str, typer.Argument(help=SIDE_HELP)],
    show_all: Annotated[bool, typer.Option("--all", help="Show what is equivalent, too.")] = False,
    output: Annotated[Path | None, typer.Option(help="Folder for CSV, JSON and Markdown.")] = None,
    root: Annotated[Path, typer.Option(help=ROOT_HELP)] = baseline_runs.BASELINES_FOLDER,
) -> None:
    """Say what moved between two runs, by how much, and whether that is beyond doubt."""
    sides = _alike(_read(before, root), _read(after, root))
    verdict = verdict_of(*sides, Margins(), allow_one_seed=True)
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
    return _only(before, metrics), _only(after, metrics)


def _only(side: Side, metrics: set[str]) -> Side:
    """Leave other metrics out of a side, and of each of its networks."""
    scores = side.scores[side.scores[METRIC].isin(metrics)]
    networks = tuple(_only(network, metrics) for network in side.networks)
    return replace(side, scores=scores, networks=networks)


def verdict_of(
    before: Side,
    after: Side,
    margins: Margins,
    *,
    allow_one_seed: bool = False,
    network: bool = True,
) -> Verdict:
    """Compare, or refuse to.

    Args:
        before: the baseline.
        after: the run to judge.
        margins: how much worse is still as good.
        allow_one_seed: whether new weights may be held against one network.
        network: whether the network is judged, too.

    Raises:
        ConfigError: the two cannot be compared, with every reason.
    """
    differing = refuse_unlike(before, after)
    for text in differing.explaining:
        console.say(f"differs: {text}")
    asked = question.ask(before, after, allow_one_seed=allow_one_seed)
    judged = judging.judge(asked, after, margins, network=network)
    return Verdict(
        before.name,
        after.name,
        judged.rows,
        differing,
        tuple(comparison.timing_cases(asked.before, after)),
        question=judged.question,
        network=judged.network,
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
    """Print the question, what moved, and the whole in one line."""
    console.line(console.console_of(), verdict.question)
    table = comparison_table(verdict, console.console_of().width, show_all=show_all)
    if table.row_count:
        console.console_of().print(table)
    for note in verdict.network.notes:
        console.line(console.console_of(), note)
    console.line(console.console_of(), closing_line(verdict))
