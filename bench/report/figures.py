"""Figures: what the numbers look like, for the page, and for papers as SVG or PNG.

Methods differ in colour, in dash and in marker, and are named beside their line: a figure reads in
greyscale, too. Colours: Okabe and Ito 2008.
"""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from steadymap.bench.analysis.curves import THRESHOLD
from steadymap.bench.core.names import label, without_steps
from steadymap.bench.records.vocabulary import METHOD, SEVERITY
from steadymap.bench.report.pictures import DIVERGING, SEQUENTIAL

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F", "#000000")
DASHES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")

# What is drawn in these becomes the page's own colour, so that it reads on light and on dark.
INK = "#010203"
FIGURE_SIZE = (5.6, 3.1)
# Of a line of text in a figure.
MOST_SIGNS = 100
# Share of the height that a label takes.
LABEL_HEIGHT = 0.065


def new_figure(size: tuple[float, float] = FIGURE_SIZE) -> Figure:
    """Return an empty figure; matplotlib takes a second to load, and is loaded here."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - see above

    figure = Figure(figsize=size)
    # Margins in inches, and room for names at the right; a layout engine draws everything twice.
    width, height = size
    figure.subplots_adjust(0.62 / width, 0.5 / height, 1 - 2.0 / width, 1 - 0.12 / height)
    return figure


def curve_figure(
    curves: pd.DataFrame,
    breaking: pd.DataFrame,
    names: Mapping[str, str],
    label: str,
    unit: str | None,
) -> Figure:
    """Draw scores against severity: one line a method with its band, breaking points marked.

    Args:
        curves: of one family and metric, see `severity_curves`.
        breaking: of the same, see `breaking_points`.
        names: of the methods, in the order in which they are drawn.
        label: of the vertical axis.
        unit: of severities; None where nobody says.
    """
    figure = new_figure()
    axes = figure.subplots()
    ends: list[tuple[float, str, str]] = []
    for place, (spec, name) in enumerate(names.items()):
        rows = curves[curves[METHOD] == spec].sort_values(SEVERITY)
        if rows["score"].notna().sum() == 0:
            continue
        colour = COLOURS[place % len(COLOURS)]
        if bool(rows["calibrated"].all()):
            rows = _from_unmoved(rows)
        x, y = rows[SEVERITY].to_numpy(), rows["score"].to_numpy()
        axes.fill_between(x, rows["low"], rows["high"], color=colour, alpha=0.15, linewidth=0)
        axes.plot(
            x,
            y,
            color=colour,
            linestyle=DASHES[place % len(DASHES)],
            marker=MARKERS[place % len(MARKERS)],
            markersize=3.5,
            linewidth=1.3,
        )
        ends.append((float(y[np.isfinite(y)][-1]), name, colour))
        broken = breaking[(breaking[METHOD] == spec) & breaking[SEVERITY].notna()]
        axes.plot(
            broken[SEVERITY],
            [THRESHOLD] * len(broken),
            linestyle="none",
            marker="x",
            markersize=8,
            markeredgewidth=2,
            color=colour,
        )
    if len(curves) and bool(curves["calibrated"].all()):
        axes.axhline(THRESHOLD, color=INK, linewidth=0.6, linestyle=(0, (1, 3)))
        axes.axhline(0, color=INK, linewidth=0.6)
    axes.set_xlabel(f"severity {unit}" if unit else "severity")
    axes.set_ylabel(label, fontsize=9)
    axes.tick_params(labelsize=8)
    name_ends(axes, ends)
    return figure


def _from_unmoved(rows: pd.DataFrame) -> pd.DataFrame:
    """Add severity 0, where every calibrated score is 1."""
    unmoved = rows.iloc[:1].assign(severity=0.0, score=1.0, low=1.0, high=1.0)
    return pd.concat([rows[rows[SEVERITY] != 0], unmoved]).sort_values(SEVERITY)


def name_ends(axes: Axes, ends: Sequence[tuple[float, str, str]]) -> None:
    """Write names at the right of the lines, apart from each other, in the order of the lines."""
    low, high = axes.get_ylim()
    step = LABEL_HEIGHT * (high - low)
    heights: list[float] = []
    for height, _, _ in sorted(ends):
        heights.append(max(height, heights[-1] + step) if heights else height)
    # All down by as much as the highest stands out.
    over = max(heights[-1] - high, 0.0) if heights else 0.0
    for (value, name, colour), height in zip(sorted(ends), heights, strict=True):
        axes.annotate(
            name,
            xy=(1, value),
            xycoords=("axes fraction", "data"),
            xytext=(1.03, height - over),
            textcoords=("axes fraction", "data"),
            # In ink: bright colours are hard to read as text; the line to it has the colour.
            color=INK,
            fontsize=8.5,
            va="center",
            parse_math=False,
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "relpos": (0, 0.5), "color": colour, "linewidth": 0.5},
        )


def steps_figure(steps: pd.DataFrame, names: Mapping[str, str]) -> Figure:
    """Draw the completeness error against the number of steps: medians, and the middle half.

    Args:
        steps: see `completeness_by_steps`.
        names: of the methods of the run, in the order of their colours.
    """
    figure = new_figure()
    axes = figure.subplots()
    ends = []
    for place, (spec, name) in enumerate(names.items()):
        chosen = steps[steps[METHOD] == without_steps(spec)]
        if chosen.empty:
            continue
        rows = chosen.groupby("steps")["completeness_error"]
        middle = rows.median()
        colour = COLOURS[place % len(COLOURS)]
        axes.fill_between(
            middle.index,
            rows.quantile(0.25),
            rows.quantile(0.75),
            color=colour,
            alpha=0.15,
            linewidth=0,
        )
        axes.plot(
            middle.index,
            middle,
            color=colour,
            linestyle=DASHES[place % len(DASHES)],
            marker=MARKERS[place % len(MARKERS)],
            markersize=3.5,
        )
        ends.append((float(middle.iloc[-1]), name, colour))
    axes.set_xscale("log", base=2)
    axes.set_xticks(sorted(steps["steps"].unique()), sorted(steps["steps"].unique()))
    axes.set_ylim(bottom=0)
    axes.set_xlabel("steps")
    axes.set_ylabel("completeness error, logits")
    name_ends(axes, ends)
    return figure


def fault_figure(faults: pd.DataFrame, names: Mapping[str, str]) -> Figure:
    """Draw the instability under a bias of each method: its own part, and the network's."""
    rows = faults[faults[SEVERITY].isna()].set_index(METHOD)
    specs = [spec for spec in names if spec in rows.index]
    size = (FIGURE_SIZE[0], 1.15 + 0.38 * len(specs))
    figure = new_figure(size)
    figure.subplots_adjust(left=2.05 / size[0], right=0.97, top=1 - 0.37 / size[1])
    axes = figure.subplots()
    for place, spec in enumerate(reversed(specs)):
        # Without the network shifted alone, what it does to the method is in both bars.
        halves = rows.loc[[spec], ["own", "compensated_bias", "total"]].to_numpy(dtype=np.float64)
        own, alone, total = halves[0].tolist()
        own = alone if np.isnan(own) else own
        axes.barh(place + 0.2, own, height=0.36, color=COLOURS[4], label="method's own")
        axes.barh(
            place - 0.2, total, height=0.36, color=COLOURS[0], hatch="///", label="with the network"
        )
    axes.set_yticks(range(len(specs)), [names[spec] for spec in reversed(specs)], fontsize=9)
    axes.set_xlabel("instability under bias")
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        # Above the axes: inside, a long bar runs through it.
        axes.legend(
            handles[:2],
            labels[:2],
            frameon=False,
            fontsize=8,
            ncols=2,
            loc="lower right",
            bbox_to_anchor=(1, 1),
        )
    return figure


def cost_figure(points: Sequence[tuple[str, float, float]], label: str) -> Figure:
    """Draw stability against cost; the line joins the methods that none beats in both.

    Args:
        points: (name, milliseconds a map, score).
        label: of the vertical axis.
    """
    figure = new_figure()
    axes = figure.subplots()
    for place, (name, cost, score) in enumerate(points):
        axes.plot(
            cost,
            score,
            color=COLOURS[place % len(COLOURS)],
            marker=MARKERS[place % len(MARKERS)],
            linestyle="none",
        )
        axes.annotate(
            name,
            (cost, score),
            xytext=(5, 4),
            textcoords="offset points",
            fontsize=8,
            color=INK,
            annotation_clip=False,
            parse_math=False,
        )
    front = pareto(points)
    axes.plot(
        [cost for _, cost, _ in front],
        [score for _, _, score in front],
        color=INK,
        linewidth=0.8,
        linestyle="--",
        zorder=0,
    )
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("")
    axes.margins(x=0.1, y=0.15)
    axes.set_xlabel("milliseconds a map")
    axes.set_ylabel(label)
    return figure


def pareto(points: Sequence[tuple[str, float, float]]) -> list[tuple[str, float, float]]:
    """Return the points that no other beats in cost without losing in score, the cheapest first."""
    front: list[tuple[str, float, float]] = []
    best = -math.inf
    for point in sorted(points, key=lambda point: (point[1], -point[2])):
        if point[2] > best:
            front.append(point)
            best = point[2]
    return front


def grid_figure(
    rows: Sequence[str],
    columns: Sequence[tuple[str, Sequence[NDArray[np.uint8]], bool | None]],
) -> Figure:
    """Draw pictures in a grid, each column one below the other.

    Args:
        rows: what stands at their left.
        columns: what stands above; the pictures, (3, H, W), or maps (h, w) in places of their
            scale; and whether that scale is signed.
    """
    figure = new_figure((1.5 * len(columns) + 0.9, 1.5 * len(rows) + 0.4))
    figure.subplots_adjust(0.9 / (1.5 * len(columns) + 0.9), 0.02, 0.995, 0.9, 0.04, 0.04)
    grid = figure.subplots(len(rows), len(columns), squeeze=False)
    for across, (title, pictures, signed) in enumerate(columns):
        grid[0, across].set_title(title.replace("_", " "), fontsize=7, parse_math=False)
        for down in range(len(rows)):
            axes = grid[down, across]
            axes.set_xticks([])
            axes.set_yticks([])
            axes.set_frame_on(False)
            if down < len(pictures):
                _draw_picture(axes, pictures[down], signed)
    for down, text in enumerate(rows):
        grid[down, 0].set_ylabel(
            text, fontsize=7, rotation=0, ha="right", va="center", parse_math=False
        )
    return figure


def _draw_picture(axes: Axes, picture: NDArray[np.uint8], signed: bool | None) -> None:
    if signed is None:
        axes.imshow(picture.transpose(1, 2, 0))
    else:
        axes.imshow(picture, cmap=DIVERGING if signed else SEQUENTIAL, vmin=0, vmax=255)


def as_svg(figure: Figure) -> str:
    """Return a figure as SVG for a page: the same figure always gives the same text."""
    return _saved(figure, "svg", {"Date": None, "Creator": None}).decode()


def as_png(figure: Figure) -> bytes:
    """Return a figure as PNG."""
    return _saved(figure, "png", {"Software": None})


def _saved(figure: Figure, form: str, metadata: dict[str, Any]) -> bytes:
    import matplotlib as mpl  # noqa: PLC0415 - takes a second

    settings: Any = {"svg.hashsalt": "steadymap", "svg.fonttype": "none"}
    from matplotlib.text import Text  # noqa: PLC0415 - takes a second

    for text in figure.findobj(Text):
        # A dollar sign in a name is a dollar sign, and XML has no signs for a terminal.
        text.set_parse_math(False)
        plain = "\n".join(label(line, MOST_SIGNS) for line in text.get_text().split("\n"))
        if plain != text.get_text():
            text.set_text(plain)
    buffer = io.BytesIO()
    with mpl.rc_context(settings), warnings.catch_warnings():
        figure.savefig(buffer, format=form, metadata=metadata, dpi=200)
    return buffer.getvalue()


def inline(svg: str, description: str) -> str:
    """Fit SVG into a page: no prolog, no identifiers that nothing points to, the page's ink.

    Args:
        svg: of `as_svg`.
        description: what is to be seen, for who cannot see it; already escaped.
    """
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    identifiers = set(re.findall(r"(?:url\(#|href=\"#)([^)\"]+)", body))
    body = re.sub(r' id="([^"]*)"', lambda match: match[0] if match[1] in identifiers else "", body)
    # White paper is left out, ink is whatever the page writes with.
    body = re.sub(r"fill: #ffffff(; stroke: #ffffff)?", "fill: none", body)
    body = body.replace(INK, "currentColor").replace("#000000", "currentColor")
    return body.replace("<svg ", f'<svg role="img" aria-label="{description}" ', 1)


def save_diagram(figure: Figure, path: Path) -> None:
    """Write a figure to a file, .svg or .png."""
    import matplotlib as mpl  # noqa: PLC0415 - takes a second

    with warnings.catch_warnings(), mpl.rc_context({"svg.hashsalt": "steadymap"}):
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
