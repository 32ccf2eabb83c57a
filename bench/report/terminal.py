"""The summary as tables for a terminal."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from steadymap.bench.analysis import calibration, intervals, leaderboard
from steadymap.bench.analysis.estimates import ESTIMAND
from steadymap.bench.analysis.findings import Findings
from steadymap.bench.core.names import percent
from steadymap.bench.records.vocabulary import (
    CLEAN,
    FAMILY,
    INPUT,
    KEPT,
    METHOD,
    METRIC,
    OVERALL,
    REFERENCES,
    STATUS,
    is_control,
)
from steadymap.bench.report.answer import metric_name
from steadymap.bench.report.grid import Grid, TableCell, score_cell, share_cell
from steadymap.bench.report.sections.faults import distance_words, fault_grid
from steadymap.bench.report.sections.leaderboard import board_grid, family_grid, probe_grid
from steadymap.metrics import Status

# Wider than any table.
ANY_WIDTH = 1000
# On a terminal: a place, a score above its interval, and the words beside them.
WIDTH_OF_PLACE = 6
WIDTH_OF_SCORE = 14
LEAST_WIDTH = 24

# Families that go side by side on a screen.
MOST_ACROSS = 5


Titled = list[tuple[str, Table]]


def tables(findings: Findings, width: int = ANY_WIDTH) -> Titled:
    """Return title and table of everything, in the order of `KINDS`.

    Args:
        findings: of the run.
        width: of the terminal, in characters: a wider table is cut into several, column by column.
    """
    return [titled for kind in KINDS for titled in tables_of(findings, kind, width)]


def tables_of(findings: Findings, kind: str, width: int = ANY_WIDTH) -> Titled:
    """Return title and table of one of `KINDS`."""
    return [
        (
            title if part is parts[0] else f"{title.partition(':')[0]}, more columns",
            rich_table(part),
        )
        for title, grid in KINDS[kind](findings)
        for parts in [fitting(grid, width)]
        for part in parts
    ]


def fitting(grid: Grid, width: int) -> list[Grid]:
    """Cut a table into as few as are no wider than a terminal, each with the names of its rows.

    A column that alone is too wide has a table of its own.
    """
    ruler = Console(width=ANY_WIDTH)
    parts: list[list[int]] = [[]]
    for place in range(1, len(grid.columns)):
        wider = [*parts[-1], place]
        if parts[-1] and ruler.measure(rich_table(_columns(grid, wider))).maximum > width:
            parts.append([place])
        else:
            parts[-1] = wider
    return [_columns(grid, places) for places in parts]


def _columns(grid: Grid, places: list[int]) -> Grid:
    chosen = [0, *places]
    rows, below = (
        tuple(tuple(row[place] for place in chosen) for row in group)
        for group in (grid.rows, grid.below)
    )
    return replace(
        grid, columns=tuple(grid.columns[place] for place in chosen), rows=rows, below=below
    )


def _of_methods(findings: Findings) -> list[tuple[str, Grid]]:
    if any(findings.calibrates(name) for name in findings.metrics()):
        title = (
            "steadiness, calibrated: 1 = the maps did not move, 0 = no closer than unrelated maps"
        )
        return [(title, board_grid(findings))]
    return []


def _of_families(findings: Findings) -> list[tuple[str, Grid]]:
    return [
        titled
        for metric in findings.family_metrics()
        for titled in _family_tables(findings, metric)
    ]


def _of_metrics(findings: Findings) -> list[tuple[str, Grid]]:
    probes = probe_grid(findings)
    return [(leaderboard.PROBES_TITLE, probes)] if probes else []


def _of_faults(findings: Findings) -> list[tuple[str, Grid]]:
    faults = fault_grid(findings)
    title = (
        f"whose fault: instability under bias ({distance_words(findings)}), split between "
        "method and network"
    )
    return [(title, faults)] if faults else []


# What `steadymap table` shows, by name.
KINDS: dict[str, Callable[[Findings], list[tuple[str, Grid]]]] = {
    "methods": _of_methods,
    "families": _of_families,
    "metrics": _of_metrics,
    "faults": _of_faults,
}


def short_table(findings: Findings, width: int) -> tuple[Table, list[str]]:
    """Return the methods in one narrow table, and notes on it.

    The table has place, scores with intervals, and what limits a method; where that does not fit,
    the limits are among the notes.

    Args:
        findings: of the run.
        width: of the terminal, in characters.
    """
    metrics = leaderboard.board_metrics(findings)
    lines = [line for line in leaderboard.leaderboard(findings) if line.spec and not line.control]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("", no_wrap=True)
    table.add_column("method", no_wrap=True)
    for metric in metrics:
        table.add_column(metric_name(metric).replace(" ", "\n"), justify="right", no_wrap=True)
    taken = max((len(line.label) for line in lines), default=0) + WIDTH_OF_SCORE * len(metrics)
    limited = width - taken - WIDTH_OF_PLACE >= LEAST_WIDTH and any(line.reason for line in lines)
    if limited:
        table.add_column("what limits it", overflow="fold")
    for line in lines:
        place = line.ranks.get(metrics[0])
        cells = [score_cell(line.scores[name]) for name in metrics]
        table.add_row(
            Text("-" if place is None or not line.ranked else _place(place)),
            Text(line.label),
            *map(_text, cells),
            *([Text(line.reason)] if limited else []),
            style="" if line.ranked else "dim",
        )
    notes = _short_notes(findings)
    return table, [
        *notes,
        *(f"{line.label}: {line.reason}" for line in lines if line.reason and not limited),
    ]


def _place(rank: leaderboard.Score) -> str:
    return f"{rank.low:g}-{rank.high:g}" if rank.low < rank.high else f"{rank.value:g}"


def _short_notes(findings: Findings) -> list[str]:
    images = len(findings.scan.images)
    if not findings.calibrates(leaderboard.board_metrics(findings)[0]):
        scale = "raw scores: unrelated maps may score as high"
    else:
        scale = "1: the maps did not move; 0: they are no closer than unrelated maps"
    notes = [f"{scale}; in brackets 95% intervals, of {images} images"]
    if images < intervals.ROUGH_BELOW:
        notes.append(f"below {intervals.ROUGH_BELOW} images the intervals are rough")
    return notes


def rich_table(grid: Grid) -> Table:
    """Return a table for a terminal: narrow heads, each interval below its number."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for place, column in enumerate(grid.columns):
        head = grid.heads.get(column, column.replace(" ", "\n"))
        table.add_column(Text(head), justify="right" if place else "left", no_wrap=not place)
    for row in grid.rows:
        table.add_row(*map(_text, row))
    table.add_section()
    for row in grid.below:
        table.add_row(*map(_text, row), style="dim")
    return table


def _text(cell: TableCell) -> Text:
    if not cell.small:
        return Text(cell.text)
    return Text.assemble(f"{cell.text}\n", (cell.small.replace(", ", ","), "dim"))


def _family_tables(findings: Findings, metric: str) -> list[tuple[str, Grid]]:
    """Return as many families across as go side by side; what is said of all beside the last."""
    counts = findings.scan.counts
    of_metric = counts[(counts[METRIC] == metric) & ~counts[FAMILY].isin(REFERENCES)]
    families = of_metric[FAMILY].unique().tolist()
    titled = []
    for start in range(0, len(families), MOST_ACROSS):
        across = families[start : start + MOST_ACROSS]
        closing = _closing_columns(findings, metric) if across[-1] == families[-1] else {}
        grid = family_grid(findings, metric, across, closing, within_rounding="~")
        shares = [TableCell(_kept(findings.scan.pairs, family)) for family in across]
        kept = (TableCell("prediction kept"), *shares, *[TableCell("")] * len(closing))
        title = f"{metric}, more families" if start else grid.caption
        titled.append((title, replace(grid, below=(*grid.below, kept))))
    return titled


def _closing_columns(findings: Findings, metric: str) -> dict[str, dict[str, TableCell]]:
    """Return, by column and method, what is said of all families together beside their scores."""
    specs = [spec for group in findings.methods(metric) for spec in group]
    calibrated = findings.calibrated
    rows = calibrated[(calibrated[METRIC] == metric) & (calibrated[FAMILY] == OVERALL)]
    columns = {"raw": "score", "null": "null", "other seed": "other_seed"}
    if calibrated.loc[calibrated[METRIC] == metric, "other_seed"].isna().all():
        del columns["other seed"]
    of_all = rows.set_index(METHOD)
    closing = {
        name: {
            spec: score_cell(leaderboard.Score(of_all[source].get(spec, math.nan)))
            for spec in specs
        }
        for name, source in columns.items()
        if findings.calibrates(metric)
    }
    shares = {spec: share_cell(leaderboard.coverage(findings, spec, [metric])) for spec in specs}
    return closing | {"coverage": shares}


def _kept(images: pd.DataFrame, family: str) -> str:
    if family == CLEAN:
        return ""
    cells = images[images[FAMILY] == family]
    return percent(float(cells[KEPT].mean())) if len(cells) else "-"


def footnotes(findings: Findings) -> list[str]:
    """Return what a reader of the tables must know."""
    counts, (units, what) = findings.scan.counts, findings.units()
    notes = [findings.over(), ESTIMAND]
    if units < intervals.ROUGH_BELOW:
        notes.append(f"below {intervals.ROUGH_BELOW} {what} the intervals are rough")
    notes += [
        f"{name}: left out, because neither we nor the manifest say how to read it"
        for name in findings.unknown()
    ]
    notes += _notes_on_admission(findings)
    notes += _notes_on_calibration(findings)
    maps = counts[(counts[METHOD] != INPUT) & ~counts[FAMILY].isin(REFERENCES)]
    maps = maps[[not is_control(str(spec)) for spec in maps[METHOD]]]
    lost = maps[maps[STATUS] != Status.OK.value]
    if len(lost):
        sizes = lost.groupby(STATUS, observed=True)["size"].sum()
        text = ", ".join(f"{size} {status}" for status, size in sizes.items())
        total = maps["size"].sum()
        notes.append(f"left out of the means: {text} of {total} values (controls not counted)")
    return notes


def _notes_on_admission(findings: Findings) -> list[str]:
    """Say who is not ranked and why, and what limits those who are."""
    if findings.admission.empty:
        return [
            "it was not measured whether maps know their own image: every method is ranked"
            for _ in findings.ranks[:1].index
        ]
    lines = [line for line in leaderboard.leaderboard(findings) if not line.control]
    notes = [
        f"{line.label}{'' if line.ranked else ' is not ranked'}: {line.reason}"
        for line in lines
        if line.reason
    ]
    notes.append(
        "faithful: how much more it hurts the class to delete what a map marks than what the "
        "method's maps of other images and networks mark, as a share of the best method's; "
        "evidence kept: how much of that is left when the image is perturbed"
    )
    return notes


def _notes_on_calibration(findings: Findings) -> list[str]:
    calibrated = findings.calibrated
    if calibrated.empty:
        return [
            (
                "scores are raw, not calibrated against chance: compare methods down a column "
                "(results/README.md says what each number means)"
            )
        ]
    chosen = calibrated[calibrated[METRIC].isin(findings.metrics())]
    if chosen.empty:
        return ["no metric of these tables compares two maps: nothing to calibrate in them"]
    verdicts = set(chosen["verdict"])
    notes = [
        (
            "null: the closest of unrelated clean maps to the perturbed one: other images', "
            "others' of its class, randomised networks'; raw: overall, before that"
        ),
    ]
    for name in leaderboard.board_metrics(findings):
        if missing := calibration.missing_nulls(calibrated, name):
            kinds = ", ".join(kind.replace("_", " ") for kind in missing)
            notes.append(f"{name}: some scores were not held against maps of: {kinds}")
    if len(chance := chosen["chance"].dropna()):
        by_chance = _span(float(chance.min()), float(chance.max()))
        notes.append(
            "recognised: closest to its own clean map of all images of its block; "
            f"by chance {by_chance}"
        )
    if calibration.UNINFORMATIVE in verdicts:
        notes.append("uninformative: unrelated maps score as high; no number can be given")
    if calibration.UNCALIBRATED in verdicts:
        notes.append(
            "uncalibrated: a null is missing, or defined on less than a fifth of the images"
        )
    if calibration.UNRESOLVABLE in verdicts:
        notes.append("~: moved no more than rounding moves the maps")
    if np.isfinite(chosen["other_seed"]).any():
        notes.append("other seed: the calibrated score of clean maps under two seeds")
    notes += [
        f"{name}: ranks differ within images (Friedman's test, p = {p:.1g}, {count:.0f} images)"
        if p < 1 - intervals.CONFIDENCE
        else f"{name}: no difference shown within images (Friedman's test, p = {p:.2f})"
        for name, p, count in _friedman(findings)
    ]
    return notes


def _span(low: float, high: float) -> str:
    least, most = percent(low), percent(high)
    return least if least == most else f"{least} to {most}"


def _friedman(findings: Findings) -> list[tuple[str, float, float]]:
    rows = findings.ranks[findings.ranks[METRIC].isin(findings.metrics())]
    once = rows.drop_duplicates(METRIC).dropna(subset=["friedman_p"])
    return list(zip(once[METRIC], once["friedman_p"], once["images"], strict=True))
