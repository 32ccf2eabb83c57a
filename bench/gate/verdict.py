"""A comparison for people and for CI: tables, Markdown, JUnit XML, JSON of other tools."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from steadymap.bench.core import console
from steadymap.bench.core.names import short_names
from steadymap.bench.gate.comparison import (
    EQUIVALENT,
    FAIL,
    INCONCLUSIVE,
    PASS,
    UNDECIDED,
    Case,
)
from steadymap.bench.gate.differences import Differences
from steadymap.bench.gate.network_lines import NetworkLines
from steadymap.bench.gate.retraining import NOT_JUDGED
from steadymap.bench.records.vocabulary import FAMILY, METHOD, METRIC

STYLES = {
    "worse": "bold red",
    "missing": "bold red",
    FAIL: "bold red",
    "improved": "green",
    INCONCLUSIVE: "yellow",
    UNDECIDED: "bold yellow",
}


@dataclass(frozen=True)
class Verdict:
    """What a comparison came to.

    Attributes:
        before: name of the baseline.
        after: name of the run.
        rows: see `compare`.
        differences: between the two runs.
        timing: see `timing_cases`.
        strict: whether what is inconclusive or undecided fails.
        allow_undecided: whether what is undecided passes.
        errors: how many values of the run itself had errors.
        question: which was asked, and of what.
        network: the lines of the network itself.
    """

    before: str
    after: str
    rows: pd.DataFrame
    differences: Differences
    timing: tuple[Case, ...] = ()
    strict: bool = False
    allow_undecided: bool = False
    errors: int = 0
    question: str = ""
    network: NetworkLines = field(default_factory=NetworkLines)

    def cases(self) -> list[Case]:
        """Return what the gate looks at: comparisons with a margin, the network, passes, times."""
        gated = self.rows[self.rows["gate"] != ""]
        comparisons = [
            Case(
                name,
                str(row["gate"]),
                numbers(row) + (f"; {row['reason']}" if row["reason"] else ""),
            )
            for name, row in zip(self._names(gated), gated.to_dict("records"), strict=True)
        ]
        return [*comparisons, *self.network.cases, *self.timing]

    def _names(self, rows: pd.DataFrame) -> list[str]:
        """Return what comparisons are of."""
        names = short_names([str(spec) for spec in self.rows[METHOD].unique()])
        keys = rows[[METHOD, FAMILY, METRIC]].itertuples(index=False)
        return [f"{names[str(spec)]} / {family} / {metric}" for spec, family, metric in keys]

    def failing(self) -> tuple[str, ...]:
        """Return the results that fail the gate."""
        return (FAIL, INCONCLUSIVE, UNDECIDED) if self.strict else (FAIL,)

    def stopping(self) -> tuple[str, ...]:
        """Return the results that end with another exit code than 0."""
        failing = self.failing()
        return failing if self.allow_undecided else tuple(dict.fromkeys((*failing, UNDECIDED)))

    def unjudged(self) -> str:
        """Return why no score was judged; nothing where one was.

        What maps cost says nothing of them: a gate of these alone has judged nothing.
        """
        rows = self.rows
        if ((rows["gate"] == FAIL) | ((rows["gate"] != "") & (rows["images"] > 0))).any():
            return ""
        if not len(rows):
            return "there is no method, family and metric to compare"
        if rows["before"].isna().all():
            return f"{self.before} has no value at all"
        if not rows["images"].any():
            return "no image has a value in both"
        return "no metric with a margin has values in both"

    def undecided(self) -> str:
        """Return why the gate has decided nothing; nothing where it has.

        It names the comparison that needs most images.
        """
        if reason := self.unjudged():
            return f"nothing to judge: {reason}"
        rows = self.rows[self.rows["gate"] == UNDECIDED].sort_values("needed")
        if not len(rows):
            return ""
        name, row = self._names(rows)[-1], rows.to_dict("records")[-1]
        finite = np.isfinite(row["needed"])
        needed = f"{row['needed']:.0f} are needed" if finite else "no number of them is enough"
        count = int((self.rows["gate"] != "").sum())
        return (
            f"undecided: {row['images']} images find {_loss(row['detectable'])}, {needed} "
            f"({name}: the margin is {row['margin']:.3g}, and a loss of twice that must "
            f"be found; {len(rows)} of {count} comparisons are undecided)"
        )

    def ending(self) -> int:
        """Return the exit code: errors of the run before failures, these before what is open."""
        if self.errors:
            return console.EXIT_CELLS_FAILED
        if any(case.result in self.failing() for case in self.cases()):
            return console.EXIT_FAILED
        if not self.undecided() or self.allow_undecided:
            return console.EXIT_FINE
        return console.EXIT_FAILED if self.strict else console.EXIT_UNDECIDED

    def word(self) -> str:
        """Return the verdict in a word or two."""
        counts = self.count()
        if self.errors:
            return f"the run had errors ({self.errors} values)"
        if any(counts[result] for result in self.failing()):
            return "failed"
        if (reason := self.undecided()) and not self.allow_undecided:
            return reason
        open_ones = [f"{counts[kind]} {kind}" for kind in (INCONCLUSIVE, UNDECIDED) if counts[kind]]
        return ", ".join(["passed", *open_ones])

    def count(self) -> Counter[str]:
        """Return how many cases passed, failed, were inconclusive and undecided."""
        return Counter(case.result for case in self.cases())


def numbers(row: dict[Any, Any]) -> str:
    """Write one comparison in a line."""
    if np.isnan(row["after"]):
        return f"{row['before']:.4g} before, no value after"
    if np.isnan(row["gain"]):
        return f"{row['before']:.4g} before, {row['after']:.4g} after, but of no image both"
    known = not np.isnan(row["low"])
    ends = f" [{row['low']:+.4f}, {row['high']:+.4f}]" if known else ", no interval"
    return (
        f"{row['before']:.4g} -> {row['after']:.4g} ({row['better']} is better; "
        f"gain {row['gain']:+.4f}{ends}, "
        f"margin {row['margin']:.3g}, {row['images']} images)"
    )


# Columns of the table that a terminal which is too narrow does without, the first one first.
SPARED = ("images", "margin", "detectable", "before", "after", "verdict")
# What the numbers of a row need at most.
WIDEST = 1000


def comparison_table(verdict: Verdict, width: int = WIDEST, *, show_all: bool = False) -> Table:
    """Return the comparisons as a table for a terminal.

    Args:
        verdict: what to show.
        width: of the terminal, in characters: no name and no number is cut, some columns are left
            out. `compare --output` and `gate` write all of them.
        show_all: whether those that are equivalent, and pass, are shown, too.
    """
    ruler = Console(width=WIDEST)
    # At last the names one below the other.
    choices = [(SPARED[:spared], False) for spared in range(len(SPARED) + 1)]
    for without, stacked in [*choices, (SPARED, True)]:
        table = _table(verdict, without, stacked=stacked, show_all=show_all)
        if ruler.measure(table).maximum <= width:
            break
    return table


def _table(verdict: Verdict, without: Sequence[str], *, stacked: bool, show_all: bool) -> Table:
    """Return the comparisons without some columns."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for column in ("comparison",) if stacked else ("method", "family", "metric"):
        table.add_column(column, no_wrap=True)
    columns = ("before", "after", "gain", "margin", "detectable", "images", "verdict", "gate")
    shown = [column for column in columns if column not in without]
    for column in shown:
        words = column in {"verdict", "gate"}
        table.add_column(column, justify="left" if words else "right", no_wrap=True)
    names = short_names([str(spec) for spec in verdict.rows[METHOD].unique()])
    for row in _telling(verdict.rows, show_all=show_all).to_dict("records"):
        worst = row["gate"] if row["gate"] in (FAIL, INCONCLUSIVE, UNDECIDED) else row["verdict"]
        gain = f"{row['gain']:+.3f}"
        if np.isfinite(row["low"]):
            gain += f"\n[{row['low']:+.3f},{row['high']:+.3f}]"
        # One of a user's own is named by its place.
        family = str(row[FAMILY])
        spelled = family if ":" in family else family.replace("_", " " if stacked else "\n")
        cells = {
            "before": f"{row['before']:.3f}",
            "after": f"{row['after']:.3f}",
            "gain": escape(gain) if np.isfinite(row["gain"]) else "-",
            "margin": f"{row['margin']:.3g}",
            "detectable": f"{row['detectable']:.3g}" if np.isfinite(row["detectable"]) else "-",
            "images": f"{row['images']}",
            "verdict": str(row["verdict"]),
            "gate": str(row["gate"]),
        }
        named = [
            escape(names[str(row[METHOD])].replace(" ", "\n")),
            escape(spelled),
            escape(str(row[METRIC]) if stacked else str(row[METRIC]).replace(".", "\n.")),
        ]
        table.add_row(
            *(["\n".join(named)] if stacked else named),
            *(cells[column] for column in shown),
            style=STYLES.get(worst),
        )
    return table


def _telling(rows: pd.DataFrame, *, show_all: bool) -> pd.DataFrame:
    """Leave out what stayed as it was."""
    quiet = rows["verdict"].isin((EQUIVALENT, NOT_JUDGED))
    return rows if show_all else rows[~quiet | (rows["gate"] == FAIL)]


def closing_line(verdict: Verdict) -> str:
    """Return the whole in one line."""
    kinds = Counter(str(kind) for kind in verdict.rows["verdict"])
    text = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
    return f"{verdict.before} -> {verdict.after}: {len(verdict.rows)} comparisons: {text}"


def power_line(verdict: Verdict) -> str:
    """Return in one sentence which losses the gate would have found; nothing where it judged none.

    Of each metric that of the comparison in which least is found.
    """
    judged = verdict.rows[(verdict.rows["gate"] != "") & (verdict.rows["images"] > 0)]
    if not len(judged):
        return ""
    least = judged.loc[judged.groupby(METRIC)["detectable"].idxmax()].to_dict("records")
    losses = [
        f"{_loss(row['detectable'])} in {row[METRIC]} (margin {row['margin']:.3g})" for row in least
    ]
    return (
        "power: in whichever comparison it were, the gate would have found in four of five such "
        f"runs: {', '.join(losses)}"
    )


def _loss(detectable: float) -> str:
    """Name a loss that would be found."""
    return f"a loss of {detectable:.3g}" if np.isfinite(detectable) else "no loss"


def gate_line(verdict: Verdict) -> str:
    """Return what the gate says in one line."""
    counts = verdict.count()
    kinds = (PASS, FAIL, INCONCLUSIVE, UNDECIDED)
    return f"gate: {', '.join(f'{counts[kind]} {kind}' for kind in kinds)}"
