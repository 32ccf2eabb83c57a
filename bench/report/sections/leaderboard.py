"""The sections with scores: the leaderboard, by family, and ranks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from steadymap.bench.analysis.leaderboard import (
    PROBES_TITLE,
    LeaderboardRow,
    Score,
    board_metrics,
    is_probe,
    leaderboard,
    probe_lines,
)
from steadymap.bench.core.names import file_name, short_names
from steadymap.bench.records.vocabulary import OVERALL, is_control
from steadymap.bench.report.answer import metric_name
from steadymap.bench.report.finished_run import FinishedRun
from steadymap.bench.report.grid import Drawing, Grid, TableCell, probe_cell, score_cell, share_cell
from steadymap.bench.report.sections.cost import milliseconds_cell, passes_cell
from steadymap.bench.report.sections.curves import COMPLETENESS
from steadymap.metrics import METRICS


def board_grid(shown: FinishedRun) -> Grid:
    """Return the leaderboard with what each method costs."""
    findings = shown.findings
    metrics = board_metrics(findings)
    lines = leaderboard(findings)
    complete = any(line.completeness for line in lines) and COMPLETENESS not in metrics
    calibrated = findings.calibrates(metrics[0])
    columns = ["method"]
    for name in metrics:
        columns += [metric_name(name), *(["rank", "recognised"] if calibrated else [])]
    columns += [*(["completeness error"] if complete else []), "ms a map", "passes", "coverage"]
    costs = {str(row["method"]): row for row in shown.costs.to_dict("records")}
    rows = [
        (line, _board_row(line, metrics, calibrated, complete, costs.get(line.spec)))
        for line in lines
    ]
    scale = (
        "calibrated: 1, the maps did not move; 0, no closer than unrelated maps"
        if calibrated
        else "raw scores: unrelated maps may score as high"
    )
    return Grid(
        f"All families together; {scale}",
        tuple(columns),
        tuple(row for line, row in rows if not line.control),
        tuple(row for line, row in rows if line.control),
    )


def _board_row(
    line: LeaderboardRow,
    metrics: Sequence[str],
    calibrated: bool,
    complete: bool,
    cost: Mapping[Any, Any] | None,
) -> tuple[TableCell, ...]:
    row = [TableCell(line.label, key=line.label)]
    for name in metrics:
        probed = is_probe(name)
        row.append((probe_cell if probed else score_cell)(line.scores[name]))
        if calibrated:
            rank = line.ranks.get(name)
            ends = f"[{rank.low:g}, {rank.high:g}]" if rank and rank.low < rank.high else ""
            row.append(TableCell(f"{rank.value:g}", ends, rank.value) if rank else TableCell(""))
            row.append(share_cell(line.recognised.get(name, math.nan)))
    if complete:
        row.append(score_cell(line.completeness))
    row += [milliseconds_cell(cost), passes_cell(cost), share_cell(line.coverage)]
    return tuple(row)


def family_grid(shown: FinishedRun, metric: str) -> Grid:
    """Return a metric's scores: methods down, families across."""
    findings = shown.findings
    calibrated = findings.calibrates(metric)
    if calibrated:
        source = findings.calibrated.rename(columns={"calibrated": "mean"})
    else:
        source = findings.summary[findings.summary["subset"] == "all"]
    rows = source[source["metric"] == metric]
    families = [name for name in findings.families() if name in set(rows["family"])]
    cells = {(str(r["method"]), str(r["family"])): r for r in rows.to_dict("records")}
    methods, controls = findings.methods(metric)
    names = short_names([*methods, *controls])

    def line(spec: str) -> tuple[TableCell, ...]:
        found = [cells.get((spec, family)) for family in (*families, OVERALL)]
        label = f"control: {names[spec]}" if is_control(spec) else names[spec]
        numbers = [
            score_cell(Score(r["mean"], r["low"], r["high"])) if r else TableCell("-")
            for r in found
        ]
        return (TableCell(label, key=label), *numbers)

    scale = "calibrated" if calibrated else f"{shown.findings.known[metric].better} is better"
    return Grid(
        f"{metric}: {shown.findings.known[metric].summary}; {scale}",
        ("method", *(family.replace("_", " ") for family in families), OVERALL),
        tuple(line(spec) for spec in methods),
        tuple(line(spec) for spec in controls),
    )


def probe_grids(shown: FinishedRun) -> list[Grid]:
    """Return the metrics of the clean image alone, in one table; none where there are none."""
    metrics = shown.findings.probed()
    if not metrics:
        return []
    lines = probe_lines(shown.findings)
    rows = [
        (
            TableCell(line.label, key=line.label),
            *(probe_cell(line.scores[name]) for name in metrics),
            share_cell(line.coverage),
        )
        for line in lines
    ]
    count = sum(not line.control for line in lines)
    return [
        Grid(
            PROBES_TITLE.capitalize(),
            (
                "method",
                *(f"{metric_name(name)} ({METRICS[name].better} is better)" for name in metrics),
                "coverage",
            ),
            tuple(rows[:count]),
            tuple(rows[count:]),
        )
    ]


# --- figures --------------------------------------------------------------------------------------


def rank_drawings(shown: FinishedRun) -> list[Drawing]:
    """Return the critical-difference diagrams."""
    found = []
    for metric, figure in shown.diagrams.items():
        if metric in board_metrics(shown.findings):
            text = (
                f"Mean ranks within an image by {metric_name(metric)}; methods joined by a bar "
                "have not been shown to differ (Nemenyi's test)"
            )
            found.append(Drawing(f"ranks-{file_name(metric)}", figure, text))
    return found
