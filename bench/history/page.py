"""The page of a history: one file that needs nothing else and is the same when it is made again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from steadymap.bench.core.names import percent
from steadymap.bench.history.drawing import metric_figure
from steadymap.bench.history.lines import Line, titles
from steadymap.bench.history.scores import CALIBRATED
from steadymap.bench.history.timeline import Era
from steadymap.bench.report import answer, figures, grid, page

SECOND = len("2026-01-01T00:00:00")


def render(eras: Sequence[Era]) -> str:
    """Return the page of a history, the newest segment first."""
    numbered = [_context(number, era) for number, era in enumerate(eras, start=1)]
    text = page.templates().get_template("history.html").render(eras=numbered[::-1])
    return text if text.endswith("\n") else f"{text}\n"


def _context(number: int, era: Era) -> dict[str, Any]:
    return {
        "number": number,
        "about": era.about(),
        "borders": era.segment.borders,
        "summary": era.summary(),
        "steps": [_step(era, place) for place in range(len(era.steps))],
        "drawings": [(title(lines[0]), drawing) for lines, drawing in drawings(era)],
        "runs": [
            {
                "name": era.name(place),
                "at": entry.measured_at[:SECOND].replace("T", " "),
                "commit": entry.facts["commit"],
                "weights": entry.manifest["model"].get("weights_sha256", ""),
                "run": entry.facts["run_id"],
            }
            for place, entry in reversed(list(enumerate(era.segment.entries)))
        ],
    }


def drawings(era: Era) -> list[tuple[list[Line], grid.Drawing]]:
    """Return the lines of each metric of a segment, and their drawing."""
    names = titles(era.lines)
    made = []
    for key in dict.fromkeys((line.metric, line.kind) for line in era.lines):
        lines = [line for line in era.lines if (line.metric, line.kind) == key]
        drawing = grid.Drawing(
            f"history-{key[0]}", metric_figure(era, lines, names), _described(era, lines)
        )
        made.append((lines, drawing))
    return made


def title(line: Line) -> str:
    """Return what a drawing is called: the metric, and how to read it."""
    name = answer.metric_name(line.metric)
    calibrated = ", calibrated" if line.kind == CALIBRATED else ""
    return f"{name}{calibrated}; {line.better} is better"


def _described(era: Era, lines: Sequence[Line]) -> str:
    """Return what is to be seen, for who cannot see it."""
    at = [
        str(number)
        for number, step in enumerate(era.steps, start=1)
        if any(found.line is line for found in step.lines for line in lines)
    ]
    steps = f"steps: {', '.join(at)}" if at else "no step"
    count = len(era.segment.entries)
    runs = "1 run" if count == 1 else f"{count} runs from left to right"
    return f"{lines[0].metric}: {runs}; bands are 95% intervals; {steps}"


def _step(era: Era, place: int) -> dict[str, Any]:
    step = era.steps[place]
    return {
        "number": place + 1,
        "where": era.place(step),
        "lines": [era.moved(line) for line in step.lines],
        "blamed": era.blamed(place),
        "causes": [
            {
                "kind": cause.kind,
                "run": era.name(cause.run),
                "changes": cause.changes,
                "elsewhere": percent(cause.elsewhere),
            }
            for cause in era.causes[place]
        ],
    }


def as_picture(era: Era, metric: str) -> str:
    """Return the drawing of one metric as a file of its own, SVG.

    Raises:
        KeyError: the segment has no such metric.
    """
    by_metric = {lines[0].metric: drawing for lines, drawing in drawings(era)}
    return figures.as_svg(by_metric[metric].figure)
