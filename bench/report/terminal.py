"""The summary as tables for a terminal."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from rich import box
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
from steadymap.bench.report.grid import Grid, TableCell, score_cell, share_cell
from steadymap.bench.report.sections.faults import distance_words, fault_grid
from steadymap.bench.report.sections.leaderboard import board_grid, family_grid, probe_grid
from steadymap.metrics import Status

# Families that go side by side on a screen.
MOST_ACROSS = 5


def tables(findings: Findings) -> list[tuple[str, Table]]:
    """Return title and table of everything that people read first."""
    titled = []
    if any(findings.calibrates(name) for name in findings.metrics()):
        title = (
            "steadiness, calibrated: 1 = the maps did not move, 0 = no closer than unrelated maps"
        )
        titled.append((title, rich_table(board_grid(findings))))
    for metric in findings.family_metrics():
        titled += _family_tables(findings, metric)
    if probes := probe_grid(findings):
        titled.append((leaderboard.PROBES_TITLE, rich_table(probes)))
    if faults := fault_grid(findings):
        title = (
            f"whose fault: instability under bias ({distance_words(findings)}), split between "
            "method and network"
        )
        titled.append((title, rich_table(faults)))
    return titled


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


def _family_tables(findings: Findings, metric: str) -> list[tuple[str, Table]]:
    """Return as many families across as go side by side; what is said of all beside the last."""
    counts = findings.scan.counts
    of_metric = counts[(counts[METRIC] == metric) & ~counts[FAMILY].isin(REFERENCES)]
    families = of_metric[FAMILY].unique().tolist()
    titled = []
    for start in range(0, len(families), MOST_ACROSS):
        across = families[start : start + MOST_ACROSS]
        closing = _closing_columns(findings, metric) if across[-1] == families[-1] else {}
        grid = family_grid(findings, metric, across, closing, within_rounding="~")
        table = rich_table(grid)
        table.add_section()
        kept = [_kept(findings.scan.pairs, family) for family in across]
        table.add_row("prediction kept", *kept, style="dim")
        titled.append((f"{metric}, more families" if start else grid.caption, table))
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
