"""A comparison for people and for CI: tables, Markdown, JUnit XML, JSON of other tools."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from rich import box
from rich.markup import escape
from rich.table import Table

from steadymap.bench.core.names import short_names
from steadymap.bench.gate.comparison import EQUIVALENT, FAIL, INCONCLUSIVE, PASS, Case
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
        strict: whether what is inconclusive fails.
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
    errors: int = 0
    question: str = ""
    network: NetworkLines = field(default_factory=NetworkLines)

    def cases(self) -> list[Case]:
        """Return what the gate looks at: comparisons with a margin, the network, passes, times."""
        names = short_names([str(spec) for spec in self.rows[METHOD].unique()])
        gated = self.rows[self.rows["gate"] != ""].to_dict("records")
        comparisons = [
            Case(
                f"{names[str(row[METHOD])]} / {row[FAMILY]} / {row[METRIC]}",
                str(row["gate"]),
                numbers(row) + (f"; {row['reason']}" if row["reason"] else ""),
            )
            for row in gated
        ]
        return [*comparisons, *self.network.cases, *self.timing]

    def failing(self) -> tuple[str, ...]:
        """Return the results that fail the gate."""
        return (FAIL, INCONCLUSIVE) if self.strict else (FAIL,)

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

    def word(self) -> str:
        """Return the verdict in a word or two."""
        counts = self.count()
        if self.errors:
            return f"the run had errors ({self.errors} values)"
        if any(counts[result] for result in self.failing()):
            return "failed"
        if reason := self.unjudged():
            return f"nothing to judge: {reason}"
        return f"passed, {counts[INCONCLUSIVE]} inconclusive" if counts[INCONCLUSIVE] else "passed"

    def count(self) -> Counter[str]:
        """Return how many cases passed, failed and were inconclusive."""
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


def comparison_table(verdict: Verdict, *, show_all: bool = False) -> Table:
    """Return the comparisons as a table for a terminal.

    Args:
        verdict: what to show.
        show_all: whether those that are equivalent, and pass, are shown, too.
    """
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for column in ("method", "family", "metric"):
        table.add_column(column, overflow="fold")
    for column in ("before", "after", "gain", "margin", "detectable", "images"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    table.add_column("gate", no_wrap=True)
    names = short_names([str(spec) for spec in verdict.rows[METHOD].unique()])
    for row in _telling(verdict.rows, show_all=show_all).to_dict("records"):
        worst = row["gate"] if row["gate"] in (FAIL, INCONCLUSIVE) else row["verdict"]
        interval = f"{row['gain']:+.3f}\n[{row['low']:+.3f},{row['high']:+.3f}]"
        table.add_row(
            escape(names[str(row[METHOD])]),
            escape(str(row[FAMILY]).replace("_", " ")),
            escape(str(row[METRIC])),
            f"{row['before']:.3f}",
            f"{row['after']:.3f}",
            escape(interval) if np.isfinite(row["gain"]) else "-",
            f"{row['margin']:.3g}",
            f"{row['detectable']:.3g}",
            f"{row['images']}",
            str(row["verdict"]),
            str(row["gate"]),
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


def gate_line(verdict: Verdict) -> str:
    """Return what the gate says in one line."""
    counts = verdict.count()
    text = ", ".join(f"{counts[kind]} {kind}" for kind in (PASS, FAIL, INCONCLUSIVE))
    return f"gate: {text}"
