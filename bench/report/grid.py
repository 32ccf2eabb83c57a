"""Tables and drawings, before they are HTML, Markdown, or a terminal's."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from markupsafe import Markup, escape

from steadymap.bench.analysis.leaderboard import Score, significant
from steadymap.bench.core.names import percent
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
    """A table; the first column names its rows.

    Attributes:
        caption: what it shows.
        columns: what stands above each.
        rows: of the table.
        below: rows that stay under the others, however these are sorted.
        heads: by column, what stands above it on a terminal; left out, its words one below the
            other.
    """

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[TableCell, ...], ...]
    below: tuple[tuple[TableCell, ...], ...] = ()
    heads: Mapping[str, str] = field(default_factory=dict)


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


# --- cells ----------------------------------------------------------------------------------------


def name_cell(name: str) -> TableCell:
    """Return a name, by which it is sorted."""
    return TableCell(name, key=name)


def score_cell(score: Score | None) -> TableCell:
    """Return a score above its interval, or the word in its place; empty for None."""
    if score is None:
        return TableCell("")
    if math.isnan(score.value):
        return TableCell(score.word or "-")
    ends = "" if math.isnan(score.low) else f"[{score.low:.2f}, {score.high:.2f}]"
    return TableCell(f"{score.word}{score.value:.2f}", ends, score.value)


def probe_cell(score: Score) -> TableCell:
    """Return a score whose size nobody knows beforehand, above its interval."""
    if math.isnan(score.value):
        return TableCell(score.word or "-")
    known = not math.isnan(score.low)
    ends = f"[{significant(score.low)}, {significant(score.high)}]" if known else ""
    return TableCell(significant(score.value), ends, score.value)


def rank_cell(rank: Score | None) -> TableCell:
    """Return a rank above the ranks that it may have; empty for None."""
    if rank is None:
        return TableCell("")
    ends = f"[{rank.low:g}, {rank.high:g}]" if rank.low < rank.high else ""
    return TableCell(f"{rank.value:g}", ends, rank.value)


def share_cell(share: float) -> TableCell:
    """Return a share in per cent; empty for NaN."""
    return TableCell("") if math.isnan(share) else TableCell(percent(share), key=share)


def milliseconds_cell(cost: Mapping[Any, Any] | None) -> TableCell:
    """Return the milliseconds a map of a row of `method_costs`; empty where they are not known."""
    if cost is None or math.isnan(cost["milliseconds"]):
        return TableCell("")
    return TableCell(f"{cost['milliseconds']:.3g}", key=cost["milliseconds"])


def passes_cell(cost: Mapping[Any, Any] | None) -> TableCell:
    """Return the passes of a row of `method_costs`, and which do not come back, or are shared."""
    if cost is None or math.isnan(cost["passes"]):
        return TableCell("")
    count = cost["passes"] + cost["forward_only"]
    small = "shared" if cost["shared"] else ""
    if cost["forward_only"]:
        small = f"{cost['forward_only']:g} forward only" if cost["passes"] else "forward only"
    return TableCell(f"{count:g}", small, count)
