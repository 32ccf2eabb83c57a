"""A short report as Markdown, and as HTML for notebooks."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
from markupsafe import escape

from steadymap.bench.analysis.findings import Findings
from steadymap.bench.core.files import write_file
from steadymap.bench.core.names import safe_markdown
from steadymap.bench.report import figures
from steadymap.bench.report.answer import answer
from steadymap.bench.report.finished_run import FinishedRun
from steadymap.bench.report.grid import Grid
from steadymap.bench.report.page import about_run
from steadymap.bench.report.sections.cost import cost_drawing
from steadymap.bench.report.sections.curves import curve_drawings
from steadymap.bench.report.sections.leaderboard import board_grid


def markdown(shown: FinishedRun, folder: Path) -> str:
    """Write two figures into a folder; return Markdown with the answer, the table and these."""
    grid = board_grid(shown)
    drawings = [*curve_drawings(shown)[:1], *[one for one in (cost_drawing(shown),) if one]]
    lines = [
        f"## {safe_markdown(shown.manifest['run_id'])}",
        "",
        safe_markdown(about_run(shown)),
        "",
    ]
    lines += [f"- {safe_markdown(sentence)}" for sentence in answer(shown.findings)]
    lines += [
        "",
        f"| {' | '.join(map(safe_markdown, grid.columns))} |",
        "|---" * len(grid.columns) + "|",
    ]
    for row in (*grid.rows, *grid.below):
        texts = [safe_markdown(f"{cell.text} {cell.small}".strip()) for cell in row]
        lines.append(f"| {' | '.join(texts)} |")
    for drawing in drawings:
        path = folder / f"{drawing.name}.svg"
        write_file(path, figures.as_svg(drawing.figure))
        lines += ["", f"![{safe_markdown(drawing.description)}]({path.name})"]
    return "\n".join(lines) + "\n"


def fragment(records: pd.DataFrame) -> str:
    """Return the answer and the leaderboard of records as HTML, for a notebook."""
    findings = Findings.of(records)
    manifest: dict[str, Any] = {"methods": []}
    shown = FinishedRun(
        findings,
        manifest,
        pd.DataFrame(),
        pd.DataFrame(),
        _no_costs(findings),
        None,
        pd.DataFrame(),
        {},
    )
    return _notebook(answer(findings), replace(board_grid(shown)))


def _no_costs(findings: Findings) -> pd.DataFrame:
    specs = [str(spec) for spec in findings.scan.counts["method"].unique()]
    return pd.DataFrame(
        {
            "method": specs,
            "milliseconds": math.nan,
            "passes": math.nan,
            "shared": False,
            "forward_only": 0,
        }
    )


def _notebook(sentences: Iterable[str], grid: Grid) -> str:
    parts = ["".join(f"<p>{escape(text)}</p>" for text in sentences), "<table><thead><tr>"]
    parts += [f"<th>{escape(column)}</th>" for column in grid.columns]
    parts.append("</tr></thead><tbody>")
    for row in (*grid.rows, *grid.below):
        cells = (f"<td>{escape(cell.text)}<br>{escape(cell.small)}</td>" for cell in row)
        parts.append(f"<tr>{''.join(cells)}</tr>")
    parts.append(f"</tbody></table><p>{escape(grid.caption)}</p>")
    return "".join(parts)
