"""The section on cost: passes, time and memory."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from steadymap.bench.analysis.leaderboard import board_metrics, leaderboard
from steadymap.bench.records.vocabulary import is_control
from steadymap.bench.report import figures
from steadymap.bench.report.answer import metric_name
from steadymap.bench.report.finished_run import FinishedRun
from steadymap.bench.report.grid import Drawing, Grid, TableCell


def milliseconds_cell(cost: Mapping[Any, Any] | None) -> TableCell:
    if cost is None or math.isnan(cost["milliseconds"]):
        return TableCell("")
    return TableCell(f"{cost['milliseconds']:.3g}", key=cost["milliseconds"])


def passes_cell(cost: Mapping[Any, Any] | None) -> TableCell:
    if cost is None or math.isnan(cost["passes"]):
        return TableCell("")
    count = cost["passes"] + cost["forward_only"]
    small = "shared" if cost["shared"] else ""
    if cost["forward_only"]:
        small = f"{cost['forward_only']:g} forward only" if cost["passes"] else "forward only"
    return TableCell(f"{count:g}", small, count)


def cost_grid(shown: FinishedRun) -> Grid | None:
    costs = shown.costs[~shown.costs["method"].map(is_control)]
    if costs["milliseconds"].isna().all():
        return None
    names = shown.names()
    rows = costs.to_dict("records")
    return Grid(
        "Milliseconds of one worker for one map, and how often an image goes forward and backward; "
        "a shared pass serves all methods that read it",
        ("method", "ms a map", "passes"),
        tuple(
            (
                TableCell(names[row["method"]], key=names[row["method"]]),
                milliseconds_cell(row),
                passes_cell(row),
            )
            for row in rows
            if row["method"] in names
        ),
    )


def memory_text(manifest: Mapping[str, Any]) -> str:
    peak = manifest.get("peak_memory_bytes", {})
    return ", ".join(
        f"{name.replace('_', ' ')} {size / 2**20:,.0f} MiB" for name, size in peak.items()
    )


def cost_drawing(shown: FinishedRun) -> Drawing | None:
    """Return stability against cost; None where neither is known."""
    metric = board_metrics(shown.findings)[0]
    costs = dict(zip(shown.costs["method"], shown.costs["milliseconds"], strict=True))
    points = [
        (line.label, costs[line.spec], line.scores[metric].value)
        for line in leaderboard(shown.findings)
        if not line.control
        and costs.get(line.spec, math.nan) > 0
        and not math.isnan(line.scores[metric].value)
    ]
    if not points or not shown.findings.calibrates(metric):
        return None
    label = f"calibrated {metric_name(metric)}"
    text = (
        f"{label} against milliseconds a map; the dashed line joins those that none beats in both"
    )
    return Drawing("cost", figures.cost_figure(points, label), text)
