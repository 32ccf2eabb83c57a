"""A history drawn: a metric from run to run, a line a method with its band, steps marked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from steadymap.bench.core.names import clipped
from steadymap.bench.history import lines, timeline
from steadymap.bench.report import figures

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SIZE = (9.4, 2.9)
# Names of runs below the axis, and signs of one.
MOST_NAMED = 9
MOST_SIGNS = 12


def metric_figure(
    era: timeline.Era, drawn: Sequence[lines.Line], names: Mapping[str, str]
) -> Figure:
    """Draw one metric of a segment.

    Args:
        era: the segment.
        drawn: the lines of the metric.
        names: of the methods of the segment, in the order of their colours.
    """
    figure = figures.new_figure(SIZE)
    # Room for the numbers of steps.
    figure.subplots_adjust(top=1 - 0.22 / SIZE[1])
    axes = figure.subplots()
    runs = np.arange(len(era.segment.entries))
    ends = []
    for line in drawn:
        place = list(names).index(line.method)
        colour = figures.COLOURS[place % len(figures.COLOURS)]
        dash = figures.DASHES[place % len(figures.DASHES)]
        axes.fill_between(runs, line.low, line.high, color=colour, alpha=0.15, linewidth=0)
        # A run between two that lack a value has no line: a dot shows it.
        alone = "." if len(runs) == 1 or not np.isfinite(line.values).all() else ""
        axes.plot(runs, line.values, color=colour, linestyle=dash, linewidth=1.3, marker=alone)
        last = float(line.values[np.isfinite(line.values)][-1])
        ends.append((last, names[line.method], colour))
    _mark_steps(axes, era, drawn)
    _name_runs(axes, era)
    axes.set_xlim(-0.5, len(runs) - 0.5)
    axes.tick_params(labelsize=8)
    figures.name_ends(axes, ends)
    return figure


def _mark_steps(axes: Axes, era: timeline.Era, drawn: Sequence[lines.Line]) -> None:
    """Draw a line where these lines took a step, with its number above."""
    for number, step in enumerate(era.steps, start=1):
        if not any(found.line is line for found in step.lines for line in drawn):
            continue
        axes.axvline(step.run - 0.5, color=figures.INK, linewidth=0.9, linestyle=(0, (4, 2)))
        axes.annotate(
            str(number),
            xy=(step.run - 0.5, 1),
            xycoords=("data", "axes fraction"),
            xytext=(0, 2),
            textcoords="offset points",
            ha="center",
            fontsize=8,
            color=figures.INK,
            annotation_clip=False,
        )


def _name_runs(axes: Axes, era: timeline.Era) -> None:
    """Name some runs below the axis, the first and the last among them."""
    count = len(era.segment.entries)
    places = np.unique(np.linspace(0, count - 1, min(count, MOST_NAMED)).round().astype(int))
    axes.set_xticks(places, clipped([era.name(place) for place in places], MOST_SIGNS))
