"""The section on the completeness error, against severity and against the number of steps."""

from __future__ import annotations

from typing import Any

from steadymap.bench.records.vocabulary import IMAGE_ID
from steadymap.bench.report import figures
from steadymap.bench.report.finished_run import FinishedRun
from steadymap.bench.report.grid import Drawing
from steadymap.bench.report.sections.curves import curve_drawings

COMPLETENESS = "completeness_error"


def context(run: FinishedRun) -> dict[str, Any]:
    """Return the figures of completeness; there may be none."""
    return {"figures": drawings(run)}


def drawings(run: FinishedRun) -> list[Drawing]:
    """Return the error against severity, one figure a family, and against steps, if measured."""
    by_severity = curve_drawings(run, COMPLETENESS, unit=", logits")
    return by_severity if run.steps.empty else [*by_severity, steps_drawing(run)]


def steps_drawing(run: FinishedRun) -> Drawing:
    """Return the completeness error against the number of steps, of a run that measured it."""
    images = run.steps[IMAGE_ID].nunique()
    text = (
        f"Completeness error against the number of steps, {images} clean images: median and middle "
        "half"
    )
    return Drawing("completeness-steps", figures.steps_figure(run.steps, run.names()), text)
