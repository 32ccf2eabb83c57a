"""A short report as Markdown, and as HTML for notebooks."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

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
from steadymap.bench.report.sections import cost, curves
from steadymap.bench.report.sections.leaderboard import board_grid


def markdown(run: FinishedRun, folder: Path) -> str:
    """Write two figures into a folder; return Markdown with the answer, the table and these."""
    lines = [f"## {safe_markdown(run.manifest['run_id'])}", "", safe_markdown(about_run(run)), ""]
    lines += [f"- {safe_markdown(sentence)}" for sentence in answer(run.findings)]
    lines += ["", *markdown_table(board_grid(run.findings, run.costs_by_method()))]
    for drawing in [*curves.drawings(run)[:1], *cost.drawings(run)]:
        path = folder / f"{drawing.name}.svg"
        write_file(path, figures.as_svg(drawing.figure))
        lines += ["", f"![{safe_markdown(drawing.description)}]({path.name})"]
    return "\n".join(lines) + "\n"


def markdown_table(grid: Grid) -> list[str]:
    """Return a table as lines of Markdown."""
    rows = [grid.columns]
    rows += [
        tuple(f"{cell.text} {cell.small}".strip() for cell in row)
        for row in (*grid.rows, *grid.below)
    ]
    head, *lines = [f"| {' | '.join(map(safe_markdown, row))} |" for row in rows]
    return [head, "|---" * len(grid.columns) + "|", *lines]


# What means something to LaTeX, and how it is written there.
LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
        "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    }
)  # fmt: skip


def latex_table(grid: Grid) -> list[str]:
    """Return a table as lines of LaTeX, with booktabs."""

    def row(cells: Iterable[str]) -> str:
        return " & ".join(cell.translate(LATEX) for cell in cells) + r" \\"

    body = [
        [f"{cell.text} {cell.small}".strip() for cell in cells]
        for cells in (*grid.rows, *grid.below)
    ]
    return [
        r"% \usepackage{booktabs}",
        r"\begin{tabular}{l" + "r" * (len(grid.columns) - 1) + "}",
        r"\toprule",
        row(grid.columns),
        r"\midrule",
        *map(row, body[: len(grid.rows)]),
        *([r"\midrule"] if grid.rows and grid.below else []),
        *map(row, body[len(grid.rows) :]),
        r"\bottomrule",
        r"\end{tabular}",
    ]


def fragment(records: pd.DataFrame) -> str:
    """Return the answer and the leaderboard of records as HTML, for a notebook."""
    findings = Findings.of(records)
    # What maps cost is not in the records, so that its columns are empty.
    return _notebook(answer(findings), board_grid(findings, {}))


def fragment_of(run: FinishedRun) -> str:
    """Return the same of a finished run, which says what maps cost."""
    return _notebook(answer(run.findings), board_grid(run.findings, run.costs_by_method()))


def _notebook(sentences: Iterable[str], grid: Grid) -> str:
    parts = ["".join(f"<p>{escape(text)}</p>" for text in sentences), "<table><thead><tr>"]
    parts += [f"<th>{escape(column)}</th>" for column in grid.columns]
    parts.append("</tr></thead><tbody>")
    for row in (*grid.rows, *grid.below):
        cells = (f"<td>{escape(cell.text)}<br>{escape(cell.small)}</td>" for cell in row)
        parts.append(f"<tr>{''.join(cells)}</tr>")
    parts.append(f"</tbody></table><p>{escape(grid.caption)}</p>")
    return "".join(parts)
