"""The section on cost: passes, time and memory."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from steadymap.bench.analysis.leaderboard import board_metrics, leaderboard
from steadymap.bench.records.vocabulary import METHOD, is_control
from steadymap.bench.report import answer, figures, finished_run, grid


def context(run: finished_run.FinishedRun) -> dict[str, Any]:
    """Return what maps cost, and on what machine."""
    machine = run.manifest["machine"]
    return {
        "device": machine.get("device_name") or machine["processor"],
        "memory": memory_text(run.manifest),
        "table": cost_grid(run),
        "figures": drawings(run),
    }


def cost_grid(run: finished_run.FinishedRun) -> grid.Grid | None:
    """Return time and passes of each method; None where no time is known."""
    costs = run.costs[~run.costs[METHOD].map(is_control)]
    if costs["milliseconds"].isna().all():
        return None
    names = run.names()
    return grid.Grid(
        "Milliseconds of one worker for one map, and how often an image goes forward and backward; "
        "a shared pass serves all methods that read it",
        ("method", "ms a map", "passes"),
        tuple(
            (grid.name_cell(names[row[METHOD]]), grid.milliseconds_cell(row), grid.passes_cell(row))
            for row in costs.to_dict("records")
            if row[METHOD] in names
        ),
    )


def memory_text(manifest: Mapping[str, Any]) -> str:
    """Return the peak memory of each kind of process and device; empty where it is not known."""
    peak = manifest.get("peak_memory_bytes", {})
    return ", ".join(
        f"{name.replace('_', ' ')} {size / 2**20:,.0f} MiB" for name, size in peak.items()
    )


def drawings(run: finished_run.FinishedRun) -> list[grid.Drawing]:
    """Return stability against cost; none where one of them is not known."""
    metric = board_metrics(run.findings)[0]
    costs = dict(zip(run.costs[METHOD], run.costs["milliseconds"], strict=True))
    points = [
        (line.label, costs[line.spec], line.scores[metric].value)
        for line in leaderboard(run.findings)
        if not line.control
        and costs.get(line.spec, math.nan) > 0
        and not math.isnan(line.scores[metric].value)
    ]
    if not points or not run.findings.calibrates(metric):
        return []
    label = f"calibrated {answer.metric_name(metric)}"
    text = (
        f"{label} against milliseconds a map; the dashed line joins those that none beats in both"
    )
    return [grid.Drawing("cost", figures.cost_figure(points, label), text)]
