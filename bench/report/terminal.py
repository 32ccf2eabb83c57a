"""The summary as tables for a terminal."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
from rich import box
from rich.table import Table

from steadymap.bench.analysis.calibration import OK, UNCALIBRATED, UNINFORMATIVE, UNRESOLVABLE
from steadymap.bench.analysis.findings import Findings
from steadymap.bench.analysis.intervals import CONFIDENCE, ROUGH_BELOW
from steadymap.bench.analysis.leaderboard import (
    PROBES_TITLE,
    Score,
    board_metrics,
    coverage,
    leaderboard,
    percent,
    probe_lines,
    significant,
)
from steadymap.bench.core.names import short_names
from steadymap.bench.records.vocabulary import CLEAN, INPUT, OVERALL, REFERENCES, is_control
from steadymap.metrics import METRICS, Status

# Families that go side by side on a screen.
MOST_ACROSS = 7


def tables(findings: Findings) -> list[tuple[str, Table]]:
    """Return title and table of everything that people read first."""
    found = []
    calibrated = [name for name in findings.metrics() if findings.calibrates(name)]
    if calibrated:
        title = (
            "steadiness, calibrated: 1 = the maps did not move, 0 = no closer than unrelated maps"
        )
        found.append((title, _leaderboard(findings)))
    for name in findings.family_metrics():
        metric = findings.known[name]
        scale = "calibrated" if name in calibrated else f"{metric.better} is better"
        title = f"{name}: {metric.summary}; {scale}"
        parts = _metric_tables(name, findings)
        titles = [title, *(f"{name}, more families" for _ in parts[1:])]
        found += zip(titles, parts, strict=True)
    if findings.probed():
        found.append((PROBES_TITLE, _probe_table(findings)))
    faults = findings.faults[findings.faults["severity"].isna()]
    shares = faults[faults["metric"].isin(calibrated or findings.metrics())]
    if len(shares):
        title = "whose fault: instability under bias (1 - score), split between method and network"
        found.append((title, _fault_table(findings, shares)))
    return found


def _new_table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("method", no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right")
    return table


def _leaderboard(findings: Findings) -> Table:
    """Methods down, the steadiest first, controls below; headline metrics across."""
    metrics = board_metrics(findings)
    columns = [text for name in metrics for text in (name, "rank", "recog-\nnised")]
    complete = "completeness_error" in findings.metrics()
    table = _new_table(*columns, *(["completeness\nerror"] if complete else []), "coverage")
    lines = leaderboard(findings)
    for place, line in enumerate(lines):
        if line.control and place and not lines[place - 1].control:
            table.add_section()
        row = []
        for name in metrics:
            share = line.recognised.get(name, math.nan)
            row += [_score(line.scores[name]), _rank(line.ranks.get(name))]
            row.append("" if math.isnan(share) else percent(share))
        if complete:
            row.append(_score(line.completeness) if line.completeness else "")
        row.append("" if math.isnan(line.coverage) else percent(line.coverage))
        table.add_row(line.label, *row, style="dim" if line.control else None)
    return table


def _probe_table(findings: Findings) -> Table:
    """Methods down, controls below; the metrics of the clean image alone across."""
    metrics = findings.probed()
    columns = [f"{name.replace('_', chr(10))}\n({METRICS[name].better})" for name in metrics]
    table = _new_table(*columns, "coverage")
    lines = probe_lines(findings)
    for place, line in enumerate(lines):
        if line.control and place and not lines[place - 1].control:
            table.add_section()
        cells = [_probe_cell(line.scores[name]) for name in metrics]
        style = "dim" if line.control else None
        table.add_row(line.label, *cells, percent(line.coverage), style=style)
    return table


def _probe_cell(score: Score) -> str:
    if math.isnan(score.value):
        return score.word or "-"
    if math.isnan(score.low):
        return significant(score.value)
    ends = f"{significant(score.low)},{significant(score.high)}"
    return f"{significant(score.value)}\n[dim]\\[{ends}][/dim]"


def _score(score: Score) -> str:
    """Write a score with its interval, or the word in its place."""
    if math.isnan(score.value):
        return score.word or "-"
    return score.word + _with_interval(score.value, score.low, score.high)


def _label(name: str, spec: str) -> str:
    return f"control: {name}" if is_control(spec) else name


def _calibrated(row: dict[Any, Any]) -> str:
    """Write a calibrated score with its interval, or the verdict in its place."""
    if row["verdict"] not in (OK, UNRESOLVABLE):
        return str(row["verdict"])
    mark = "~" if row["verdict"] == UNRESOLVABLE else ""
    return mark + _with_interval(row["calibrated"], row["low"], row["high"])


def _with_interval(mean: float, low: float, high: float) -> str:
    if math.isnan(mean):
        return "-"
    if math.isnan(low):
        return f"{mean:.2f}"
    return f"{mean:.2f}\n[dim]\\[{low:.2f},{high:.2f}][/dim]"


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f}"


def _rank(rank: Score | None) -> str:
    if rank is None:
        return ""
    ends = f"\n[dim]\\[{rank.low:g},{rank.high:g}][/dim]" if rank.low < rank.high else ""
    return f"{rank.value:g}{ends}"


def _metric_tables(name: str, findings: Findings) -> list[Table]:
    """Methods down, families across, as many as go side by side; mean and interval in each cell."""
    counts = findings.scan.counts
    chosen = counts[(counts["metric"] == name) & ~counts["family"].isin(REFERENCES)]
    families = chosen["family"].unique().tolist()
    starts = range(0, len(families), MOST_ACROSS)
    return [
        _metric_table(
            name, findings, families[start : start + MOST_ACROSS], whole=start == starts[-1]
        )
        for start in starts
    ]


def _metric_table(name: str, findings: Findings, families: list[str], *, whole: bool) -> Table:
    """Return some families; with `whole`, what is said of all together stands beside them."""
    calibrates = findings.calibrates(name)
    methods, controls = findings.methods(name)
    seeds = calibrates and bool(
        findings.calibrated.loc[findings.calibrated["metric"] == name, "other_seed"].notna().any()
    )
    extra = ["raw", "null", *(["other\nseed"] if seeds else [])] if calibrates else []
    extra = [*extra, "coverage"] if whole else []
    table = _new_table(*(family.replace("_", "\n") for family in families), *extra)
    names = short_names([*methods, *controls])
    source = findings.calibrated if calibrates else findings.summary
    if not calibrates:
        source = source[source["subset"] == "all"]
    rows = source[source["metric"] == name].to_dict("records")
    cells = {(str(row["method"]), str(row["family"])): row for row in rows}
    for place, spec in enumerate([*methods, *controls]):
        if place == len(methods):
            table.add_section()
        line = [_family_cell(cells.get((spec, family)), calibrates) for family in families]
        if calibrates and whole:
            of_all = cells.get((spec, OVERALL), {})
            columns = ("score", "null", *(("other_seed",) if seeds else ()))
            line += [_number(of_all.get(column, math.nan)) for column in columns]
        if whole:
            line.append(percent(coverage(findings.scan.counts, spec, [name])))
        table.add_row(_label(names[spec], spec), *line, style="dim" if spec in controls else None)
    table.add_section()
    kept = [_kept(findings.scan.pairs, family) for family in families]
    table.add_row("prediction kept", *kept, style="dim")
    return table


def _family_cell(row: dict[Any, Any] | None, calibrates: bool) -> str:
    if calibrates:
        # The verdict stands once, in the leaderboard.
        return "-" if row is None or math.isnan(row["calibrated"]) else _calibrated(row)
    return "" if row is None else _with_interval(row["mean"], row["low"], row["high"])


def _fault_table(findings: Findings, faults: pd.DataFrame) -> Table:
    """Methods down; for each metric the instability under a bias, and what is the method's own."""
    metrics = list(dict.fromkeys(faults["metric"]))
    columns = [
        text
        for name in metrics
        for text in (f"{name}\ntotal", "method's\nown", "the\nnetwork's", "network's\nshare")
    ]
    table = _new_table(*columns)
    methods, _ = findings.methods(metrics[0])
    names = short_names(methods)
    cells = {(row["method"], row["metric"]): row for row in faults.to_dict("records")}
    for spec in methods:
        line = []
        for name in metrics:
            row = cells.get((spec, name))
            if row is None:
                line += ["-"] * 4
                continue
            line += [f"{row[part]:.3f}" for part in ("total", "own", "network")]
            line.append(_with_interval(row["network_share"], row["low"], row["high"]))
        table.add_row(names[spec], *line)
    return table


def _kept(images: pd.DataFrame, family: str) -> str:
    if family == CLEAN:
        return ""
    cells = images[images["family"] == family]
    return percent(float(cells["kept"].mean())) if len(cells) else "-"


def footnotes(findings: Findings) -> list[str]:
    """Return what a reader of the tables must know."""
    counts, images = findings.scan.counts, len(findings.scan.images)
    notes = [
        (
            f"{images} images; mean over images with its 95% bootstrap interval, "
            "severities and draws averaged within an image first"
        )
    ]
    if images < ROUGH_BELOW:
        notes.append(f"below {ROUGH_BELOW} images the intervals are rough")
    notes += [
        f"{name}: left out, because neither we nor the manifest say how to read it"
        for name in findings.unknown()
    ]
    notes += _notes_on_calibration(findings)
    maps = counts[(counts["method"] != INPUT) & ~counts["family"].isin(REFERENCES)]
    maps = maps[[not is_control(str(spec)) for spec in maps["method"]]]
    lost = maps[maps["status"] != Status.OK.value]
    if len(lost):
        sizes = lost.groupby("status", observed=True)["size"].sum()
        text = ", ".join(f"{size} {status}" for status, size in sizes.items())
        every = maps["size"].sum()
        notes.append(f"left out of the means: {text} of {every} values (controls not counted)")
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
    chosen = calibrated[calibrated["metric"].isin(findings.metrics())]
    if chosen.empty:
        return ["no metric of these tables compares two maps: nothing to calibrate in them"]
    shown = set(chosen["verdict"])
    notes = [
        (
            "calibrated = (score - null) / (perfect score - null); null: the higher of another "
            "image's map and a randomised network's; raw: overall, before that"
        ),
    ]
    if len(chance := chosen["chance"].dropna()):
        by_chance = _span(float(chance.min()), float(chance.max()))
        notes.append(
            "recognised: closer to its own clean map than to any unrelated one; "
            f"by chance {by_chance}"
        )
    if UNINFORMATIVE in shown:
        notes.append("uninformative: unrelated maps score as high; no number can be given")
    if UNCALIBRATED in shown:
        notes.append(
            "uncalibrated: a null is missing, or defined on less than a fifth of the images"
        )
    if UNRESOLVABLE in shown:
        notes.append("~: moved no more than rounding moves the maps")
    if np.isfinite(chosen["other_seed"]).any():
        notes.append("other seed: the calibrated score of clean maps under two seeds")
    notes += _fickle(chosen)
    notes += [
        f"{name}: ranks differ within images (Friedman's test, p = {p:.1g}, {count:.0f} images)"
        if p < 1 - CONFIDENCE
        else f"{name}: no difference shown within images (Friedman's test, p = {p:.2f})"
        for name, p, count in _friedman(findings)
    ]
    return notes


def _fickle(calibrated: pd.DataFrame) -> list[str]:
    """Name the methods that another seed moves more than all the perturbations."""
    overall = calibrated[(calibrated["family"] == OVERALL) & ~calibrated["control"]]
    moved = overall[overall["other_seed"] < overall["low"]]
    names = short_names([str(spec) for spec in calibrated["method"].unique()])
    return [
        f"{names[row['method']]}: another seed moves it more than these perturbations do "
        f"({row['metric']} {row['other_seed']:.2f} against {row['calibrated']:.2f})"
        for row in moved.to_dict("records")
    ]


def _span(low: float, high: float) -> str:
    return percent(low) if percent(low) == percent(high) else f"{percent(low)} to {percent(high)}"


def _friedman(findings: Findings) -> list[tuple[str, float, float]]:
    rows = findings.ranks[findings.ranks["metric"].isin(findings.metrics())]
    once = rows.drop_duplicates("metric").dropna(subset=["friedman_p"])
    return list(zip(once["metric"], once["friedman_p"], once["images"], strict=True))
