"""The sections on scores against severity, completeness and steps."""

from __future__ import annotations

import math

from steadymap.bench.analysis.curves import THRESHOLD
from steadymap.bench.analysis.leaderboard import board_metrics
from steadymap.bench.core.names import file_name
from steadymap.bench.records.manifest_schema import unit_of
from steadymap.bench.report import figures
from steadymap.bench.report.answer import metric_name
from steadymap.bench.report.finished_run import FinishedRun
from steadymap.bench.report.grid import Drawing, Grid, TableCell

COMPLETENESS = "completeness_error"
# Where a method does not break, it is sorted as if at a severity that no family has.
HOLDS = 1000.0


def breaking_grid(shown: FinishedRun) -> Grid | None:
    """Return the severities at which methods break; None without calibrated curves."""
    names, breaking = shown.names(), shown.breaking
    if breaking.empty:
        return None
    metric = board_metrics(shown.findings)[0]
    rows = breaking[breaking["metric"] == metric]
    sides = list(dict.fromkeys(zip(rows["family"], rows["sign"], strict=True)))
    found = {(r["method"], r["family"], r["sign"]): r["severity"] for r in rows.to_dict("records")}

    def cell(spec: str, side: tuple[str, int]) -> TableCell:
        if (spec, *side) not in found:
            return TableCell("")
        value = found[spec, *side]
        if math.isnan(value):
            return TableCell("holds", key=HOLDS)
        # Two digits, and degrees in full.
        return TableCell(f"{value:.2g}" if abs(value) < 1 else f"{value:.3g}", key=abs(value))

    return Grid(
        f"Severity at which calibrated {metric_name(metric)} is down to {THRESHOLD:g}, halfway to "
        "unrelated maps; between measured severities taken as a straight line",
        ("method", *(f"{family.replace('_', ' ')} {'-+'[sign > 0]}" for family, sign in sides)),
        tuple(
            (TableCell(name, key=name), *(cell(spec, side) for side in sides))
            for spec, name in names.items()
            if spec in set(rows["method"])
        ),
    )


def curve_drawings(shown: FinishedRun) -> list[Drawing]:
    """Return scores against severity, one figure a metric that compares maps and family."""
    return [
        drawing for metric in curve_metrics(shown) for drawing in curve_drawings_of(shown, metric)
    ]


def curve_metrics(shown: FinishedRun) -> list[str]:
    every = board_metrics(shown.findings)
    return [metric for metric in every if shown.findings.known[metric].against == "map"]


def completeness_drawings(shown: FinishedRun) -> list[Drawing]:
    """Return the completeness error against severity, one figure a family."""
    return curve_drawings_of(shown, COMPLETENESS)


def curve_drawings_of(shown: FinishedRun, metric: str) -> list[Drawing]:
    rows = shown.curves[shown.curves["metric"] == metric]
    names, found = shown.names(), []
    for family in dict.fromkeys(rows["family"]):
        chosen = rows[rows["family"] == family]
        broken = shown.breaking[
            (shown.breaking["metric"] == metric) & (shown.breaking["family"] == family)
        ]
        scale = "calibrated " if len(chosen) and bool(chosen["calibrated"].all()) else ""
        label = f"{scale}{metric_name(metric)}"
        unit = ", logits" if metric == COMPLETENESS else ""
        figure = figures.curve_figure(
            chosen, broken, names, label + unit, unit_of(shown.manifest, str(family))
        )
        text = f"{label} against the severity of {family.replace('_', ' ')}, band: 95% interval"
        found.append(Drawing(file_name(str(metric), str(family)), figure, text))
    return found


def steps_drawing(shown: FinishedRun) -> Drawing | None:
    """Return the completeness error against the number of steps; None where it was not measured."""
    if shown.steps.empty:
        return None
    images = shown.steps["image_id"].nunique()
    text = (
        f"Completeness error against the number of steps, {images} clean images: median and middle "
        "half"
    )
    return Drawing("completeness-steps", figures.steps_figure(shown.steps, shown.names()), text)
