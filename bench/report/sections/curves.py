"""The section on scores against severity."""

from __future__ import annotations

import math
from typing import Any

from steadymap.bench.analysis.curves import THRESHOLD
from steadymap.bench.analysis.leaderboard import board_metrics
from steadymap.bench.core.names import file_name
from steadymap.bench.records import manifest_schema, vocabulary
from steadymap.bench.report import answer, figures, finished_run, grid

# Where a method does not break, it is sorted as if at a severity that no family has.
HOLDS = 1000.0


def context(run: finished_run.FinishedRun) -> dict[str, Any]:
    """Return the curves by metric, and where methods break."""
    return {
        "threshold": f"{THRESHOLD:g}",
        "curves": [(answer.metric_name(name), curve_drawings(run, name)) for name in _metrics(run)],
        "breaking": breaking_grid(run),
    }


def drawings(run: finished_run.FinishedRun) -> list[grid.Drawing]:
    """Return scores against severity, one figure a metric that compares maps and family."""
    return [drawing for metric in _metrics(run) for drawing in curve_drawings(run, metric)]


def _metrics(run: finished_run.FinishedRun) -> list[str]:
    metrics = board_metrics(run.findings)
    return [metric for metric in metrics if run.findings.known[metric].against == "map"]


def curve_drawings(
    run: finished_run.FinishedRun, metric: str, unit: str = ""
) -> list[grid.Drawing]:
    """Return a metric against severity, one figure a family.

    Args:
        run: the run.
        metric: the metric.
        unit: of the metric, as it stands behind its name.
    """
    curves = run.curves[run.curves[vocabulary.METRIC] == metric]
    breaking = run.breaking[run.breaking[vocabulary.METRIC] == metric]
    drawn = []
    for family in dict.fromkeys(curves[vocabulary.FAMILY]):
        rows = curves[curves[vocabulary.FAMILY] == family]
        scale = "calibrated " if bool(rows["calibrated"].all()) else ""
        label = f"{scale}{answer.metric_name(metric)}"
        figure = figures.curve_figure(
            rows,
            breaking[breaking[vocabulary.FAMILY] == family],
            run.names(),
            label + unit,
            manifest_schema.unit_of(run.manifest, str(family)),
        )
        text = f"{label} against the severity of {family.replace('_', ' ')}, band: 95% interval"
        drawn.append(grid.Drawing(file_name(metric, str(family)), figure, text))
    return drawn


def breaking_grid(run: finished_run.FinishedRun) -> grid.Grid | None:
    """Return the severities at which methods break; None without calibrated curves."""
    if run.breaking.empty:
        return None
    metric = board_metrics(run.findings)[0]
    rows = run.breaking[run.breaking[vocabulary.METRIC] == metric]
    sides = list(dict.fromkeys(zip(rows[vocabulary.FAMILY], rows["sign"], strict=True)))
    severities = {
        (row[vocabulary.METHOD], row[vocabulary.FAMILY], row["sign"]): row[vocabulary.SEVERITY]
        for row in rows.to_dict("records")
    }

    def cell(spec: str, side: tuple[str, int]) -> grid.TableCell:
        if (spec, *side) not in severities:
            return grid.TableCell("")
        value = severities[spec, *side]
        if math.isnan(value):
            return grid.TableCell("holds", key=HOLDS)
        # Two digits, and degrees in full.
        return grid.TableCell(f"{value:.2g}" if abs(value) < 1 else f"{value:.3g}", key=abs(value))

    return grid.Grid(
        f"Severity at which calibrated {answer.metric_name(metric)} is down to {THRESHOLD:g}, "
        "halfway to unrelated maps; between measured severities taken as a straight line",
        ("method", *(f"{family.replace('_', ' ')} {'-+'[sign > 0]}" for family, sign in sides)),
        tuple(
            (grid.name_cell(name), *(cell(spec, side) for side in sides))
            for spec, name in run.names().items()
            if spec in set(rows[vocabulary.METHOD])
        ),
    )
