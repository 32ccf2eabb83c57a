"""The verdict as JSON, Markdown, JUnit, and for benchmark services."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pandas as pd

from steadymap.bench.core import files, names, safe_csv
from steadymap.bench.gate.comparison import PASS, plain
from steadymap.bench.gate.verdict import Verdict, gate_line, power_line
from steadymap.bench.records.vocabulary import FAMILY, METHOD, METRIC

# GitHub cuts a step's summary at 1 MiB.
SUMMARY_BYTES = 2**20 - 4096


def as_json(verdict: Verdict) -> str:
    """Return everything as JSON."""
    content = {
        "before": verdict.before,
        "after": verdict.after,
        "question": verdict.question,
        "forbidding": verdict.differences.forbidding,
        "explaining": verdict.differences.explaining,
        "comparisons": [plain(row) for row in verdict.rows.to_dict("records")],
        "cases": [asdict(case) for case in verdict.cases()],
        "notes": verdict.network.notes,
        "undecided": verdict.undecided(),
    }
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def as_markdown(verdict: Verdict) -> str:
    """Return the verdict for a pull request, within what GitHub takes."""
    cases = verdict.cases()
    bad = [case for case in cases if case.result != PASS]
    sides = f"{names.safe_markdown(verdict.before)} -> {names.safe_markdown(verdict.after)}"
    lines = [
        f"### steadymap: {verdict.word()}",
        "",
        f"{sides}; {gate_line(verdict)}",
        "",
    ]
    if verdict.question:
        lines[2:2] = [names.safe_markdown(verdict.question), ""]
    if power := power_line(verdict):
        lines += [names.safe_markdown(power), ""]
    if verdict.differences.explaining:
        lines += [
            f"- differs: {names.safe_markdown(text)}" for text in verdict.differences.explaining
        ]
        lines.append("")
    if bad:
        lines += ["| case | result | numbers |", "|---|---|---|"]
        rows = [
            f"| {names.safe_markdown(c.name)} | {c.result} | {names.safe_markdown(c.message)} |"
            for c in bad
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
    """Return JUnit XML, a test case a case; what is neither passed nor failed is skipped.

    What ends the gate with another exit code than 0 is a failure here, too: with `--strict` what is
    inconclusive; what is undecided, unless that is allowed.
    """
    cases = verdict.cases()
    counts, stopping = verdict.count(), verdict.stopping()
    open_ones = sum(size for result, size in counts.items() if result not in (PASS, *stopping))
    suite = ET.Element(
        "testsuite",
        name="steadymap",
        tests=str(len(cases)),
        failures=str(sum(counts[result] for result in stopping)),
        skipped=str(open_ones),
        errors="0",
    )
    for case in cases:
        element = ET.SubElement(
            suite, "testcase", classname="steadymap.gate", name=names.printable(case.name)
        )
        message = names.printable(case.message)
        if case.result in stopping:
            ET.SubElement(element, "failure", message=message).text = message
        elif case.result != PASS:
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
            "name": f"{row[METHOD]} / {row[FAMILY]} / {row[METRIC]}",
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
    benchmarks: dict[str, dict[str, dict[str, float]]] = {}
    for row in rows.to_dict("records"):
        if np.isfinite(row["after"]):
            benchmark = benchmarks.setdefault(f"{row[METHOD]} / {row[FAMILY]}", {})
            benchmark[str(row[METRIC])] = {"value": float(row["after"])}
    return json.dumps(benchmarks, indent=2) + "\n"


def write_outputs(verdict: Verdict, folder: Path) -> list[Path]:
    """Write every form into a folder; return the files."""
    texts = {
        "comparison.csv": safe_csv.csv_text(verdict.rows),
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
        files.write_file(path, text)
        written.append(path)
    return written


def append_summary(verdict: Verdict, path: Path) -> None:
    """Append the Markdown to a file, as GitHub Actions has it, within what it takes.

    Raises:
        OSError: the file cannot be written.
    """
    with path.open("a", encoding="utf-8") as file:
        file.write(as_markdown(verdict))
