"""Tables and drawings of the page, before they are HTML."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from markupsafe import Markup, escape

from steadymap.bench.analysis.leaderboard import Score, percent, significant
from steadymap.bench.report import figures

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class TableCell:
    """A cell of a table: its text, a second line, and what it is sorted by."""

    text: str
    small: str = ""
    key: float | str = ""


@dataclass(frozen=True)
class Grid:
    """A table of the page; `below` are rows that stay under the others."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[TableCell, ...], ...]
    below: tuple[tuple[TableCell, ...], ...] = ()


@dataclass(frozen=True)
class Drawing:
    """A figure with its name (of a file), what it shows, and the words below it."""

    name: str
    figure: Figure
    description: str

    @property
    def svg(self) -> Markup:
        """The figure for a page."""
        return Markup(figures.inline(figures.as_svg(self.figure), str(escape(self.description))))  # noqa: S704 - ours, with every text escaped


# --- numbers --------------------------------------------------------------------------------------


def score_cell(score: Score | None, digits: int = 2) -> TableCell:
    if score is None:
        return TableCell("")
    if math.isnan(score.value):
        return TableCell(score.word or "-")
    text = f"{score.word}{score.value:.{digits}f}"
    if math.isnan(score.low):
        return TableCell(text, key=score.value)
    return TableCell(text, f"[{score.low:.{digits}f}, {score.high:.{digits}f}]", score.value)


def probe_cell(score: Score) -> TableCell:
    if math.isnan(score.value):
        return TableCell(score.word or "-")
    known = not math.isnan(score.low)
    ends = f"[{significant(score.low)}, {significant(score.high)}]" if known else ""
    return TableCell(significant(score.value), ends, score.value)


def share_cell(share: float) -> TableCell:
    return TableCell("") if math.isnan(share) else TableCell(percent(share), key=share)
