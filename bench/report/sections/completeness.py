"""The section on the completeness error, against severity and against the number of steps."""

from __future__ import annotations

from typing import Any

from steadymap.bench.records.vocabulary import IMAGE_ID
from steadymap.bench.report import figures, finished_run, grid
from steadymap.bench.report.sections.curves import curve_drawings

COMPLETENESS = "completeness_error"


def context(run: finished_run.FinishedRun) -> dict[str, Any]:
    """Return the figures of completeness; there may be none."""
    return {"figures": drawings(run)}


def drawings(run: finished_run.FinishedRun) -> list[grid.Drawing]:
    """Return the error against severity, one figure a family, and against steps, if measured."""
    by_severity = curve_drawings(run, COMPLETENESS, unit=", logits")
    return by_severity if run.steps.empty else [*by_severity, steps_drawing(run)]


def steps_drawing(run: finished_run.FinishedRun) -> grid.Drawing:
    """Return the completeness error against the number of steps, of a run that measured it."""
    images = run.steps[IMAGE_ID].nunique()
    text = (
        f"Completeness error against the number of steps, {images} clean images: median and middle "
        "half"
    )
    return grid.Drawing("completeness-steps", figures.steps_figure(run.steps, run.names()), text)
