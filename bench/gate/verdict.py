"""A comparison for people and for CI: tables, Markdown, JUnit XML, JSON of other tools."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pandas as pd
from rich import box
from rich.markup import escape
from rich.table import Table

from steadymap.bench.core.names import printable, safe_markdown, short_names
from steadymap.bench.core.safe_csv import csv_text
from steadymap.bench.gate.comparison import (
    EQUIVALENT,
    FAIL,
    INCONCLUSIVE,
    PASS,
    Case,
    Differences,
    plain,
)
from steadymap.bench.runs.folder import write_file

# GitHub cuts a step's summary at 1 MiB.
SUMMARY_BYTES = 2**20 - 4096

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
    """

    before: str
    after: str
    rows: pd.DataFrame
    differences: Differences
    timing: tuple[Case, ...] = ()
    strict: bool = False
    errors: int = 0

    def cases(self) -> list[Case]:
        """Return what the gate looks at: comparisons with a margin, then passes and times."""
        names = short_names([str(spec) for spec in self.rows["method"].unique()])
        gated = self.rows[self.rows["gate"] != ""].to_dict("records")
        found = [
            Case(
                f"{names[str(row['method'])]} / {row['family']} / {row['metric']}",
                str(row["gate"]),
                numbers(row) + (f"; {row['reason']}" if row["reason"] else ""),
            )
            for row in gated
        ]
        return [*found, *self.timing]

    def failing(self) -> tuple[str, ...]:
        """Return the results that fail the gate."""
        return (FAIL, INCONCLUSIVE) if self.strict else (FAIL,)

    def word(self) -> str:
        """Return the verdict in a word or two."""
        counts = self.count()
        if self.errors:
            return f"the run had errors ({self.errors} values)"
        if any(counts[result] for result in self.failing()):
            return "failed"
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


def comparison_table(verdict: Verdict, *, every: bool = False) -> Table:
    """Return the comparisons as a table for a terminal.

    Args:
        verdict: what to show.
        every: whether those that are equivalent, and pass, are shown, too.
    """
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for column in ("method", "family", "metric"):
        table.add_column(column, overflow="fold")
    for column in ("before", "after", "gain", "margin", "detectable", "images"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    table.add_column("gate", no_wrap=True)
    names = short_names([str(spec) for spec in verdict.rows["method"].unique()])
    for row in _telling(verdict.rows, every=every).to_dict("records"):
        worst = row["gate"] if row["gate"] in (FAIL, INCONCLUSIVE) else row["verdict"]
        interval = f"{row['gain']:+.3f}\n[{row['low']:+.3f},{row['high']:+.3f}]"
        table.add_row(
            escape(names[str(row["method"])]),
            escape(str(row["family"]).replace("_", " ")),
            escape(str(row["metric"])),
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


def _telling(rows: pd.DataFrame, *, every: bool) -> pd.DataFrame:
    """Leave out what stayed as it was."""
    return rows if every else rows[(rows["verdict"] != EQUIVALENT) | (rows["gate"] == FAIL)]


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


def as_json(verdict: Verdict) -> str:
    """Return everything as JSON."""
    content = {
        "before": verdict.before,
        "after": verdict.after,
        "forbidding": verdict.differences.forbidding,
        "explaining": verdict.differences.explaining,
        "comparisons": [plain(row) for row in verdict.rows.to_dict("records")],
        "cases": [asdict(case) for case in verdict.cases()],
    }
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def as_markdown(verdict: Verdict) -> str:
    """Return the verdict for a pull request, within what GitHub takes."""
    cases = verdict.cases()
    bad = [case for case in cases if case.result != PASS]
    lines = [
        f"### steadymap: {verdict.word()}",
        "",
        f"{safe_markdown(verdict.before)} -> {safe_markdown(verdict.after)}; {gate_line(verdict)}",
        "",
    ]
    if verdict.differences.explaining:
        lines += [f"- differs: {safe_markdown(text)}" for text in verdict.differences.explaining]
        lines.append("")
    if bad:
        lines += ["| case | result | numbers |", "|---|---|---|"]
        rows = [
            f"| {safe_markdown(c.name)} | {c.result} | {safe_markdown(c.message)} |" for c in bad
        ]
        size = len("\n".join(lines).encode())
        for place, row in enumerate(rows):
            size += len(row.encode()) + 1
            if size > SUMMARY_BYTES:
                lines.append(f"\n{len(rows) - place} more are in the JUnit file and the JSON.")
                break
            lines.append(row)
    return "\n".join(lines) + "\n"


def as_junit(verdict: Verdict) -> str:
    """Return JUnit XML, a test case a case; what is inconclusive is skipped, or fails if strict."""
    cases = verdict.cases()
    counts = verdict.count()
    suite = ET.Element(
        "testsuite",
        name="steadymap",
        tests=str(len(cases)),
        failures=str(sum(counts[result] for result in verdict.failing())),
        skipped=str(0 if verdict.strict else counts[INCONCLUSIVE]),
        errors="0",
    )
    for case in cases:
        element = ET.SubElement(
            suite, "testcase", classname="steadymap.gate", name=printable(case.name)
        )
        message = printable(case.message)
        if case.result in verdict.failing():
            ET.SubElement(element, "failure", message=message).text = message
        elif case.result == INCONCLUSIVE:
            ET.SubElement(element, "skipped", message=message)
        else:
            ET.SubElement(element, "system-out").text = message
    root = ET.Element("testsuites")
    root.append(suite)
    ET.indent(root)
    return ET.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def as_benchmark(rows: pd.DataFrame, better_is: str) -> str:
    """Return JSON for github-action-benchmark, of the metrics that are better one way.

    Args:
        rows: of a comparison; the values are those after.
        better_is: `higher` for customBiggerIsBetter, `lower` for customSmallerIsBetter.
    """
    entries = [
        {
            "name": f"{row['method']} / {row['family']} / {row['metric']}",
            "unit": "score" if better_is == "higher" else "error",
            "value": row["after"],
            "extra": f"{row['images']} images; before {row['before']:.4g}",
        }
        for row in rows.to_dict("records")
        if row["better"] == better_is and np.isfinite(row["after"])
    ]
    return json.dumps(entries, indent=2) + "\n"


def as_bencher(rows: pd.DataFrame) -> str:
    """Return Bencher Metric Format: by benchmark (method and family) and measure (metric)."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for row in rows.to_dict("records"):
        if np.isfinite(row["after"]):
            benchmark = found.setdefault(f"{row['method']} / {row['family']}", {})
            benchmark[str(row["metric"])] = {"value": float(row["after"])}
    return json.dumps(found, indent=2) + "\n"


def write_outputs(verdict: Verdict, folder: Path) -> list[Path]:
    """Write every form into a folder; return the files."""
    texts = {
        "comparison.csv": csv_text(verdict.rows),
        "comparison.json": as_json(verdict),
        "comparison.md": as_markdown(verdict),
        "junit.xml": as_junit(verdict),
        "bigger-is-better.json": as_benchmark(verdict.rows, "higher"),
        "smaller-is-better.json": as_benchmark(verdict.rows, "lower"),
        "bencher.json": as_bencher(verdict.rows),
    }
    written = []
    for name, text in texts.items():
        path = folder / name
        write_file(path, text)
        written.append(path)
    return written


def append_summary(verdict: Verdict, path: Path) -> None:
    """Append the Markdown to a file, as GitHub Actions has it, within what it takes.

    Raises:
        OSError: the file cannot be written.
    """
    with path.open("a", encoding="utf-8") as file:
        file.write(as_markdown(verdict))
