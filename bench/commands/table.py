"""`steadymap table`: the tables of a finished run, for people, programs and papers."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer

from steadymap.bench.analysis.findings import Findings
from steadymap.bench.core import console, errors, safe_csv
from steadymap.bench.records.vocabulary import FAMILY, OVERALL
from steadymap.bench.report import finished_run, terminal
from steadymap.bench.report.grid import Grid
from steadymap.bench.report.markdown import latex_table, markdown_table
from steadymap.bench.report.sections import faults, leaderboard


class Kind(StrEnum):
    """What a table is of."""

    METHODS = "methods"
    FAMILIES = "families"
    METRICS = "metrics"
    FAULTS = "faults"


class Form(StrEnum):
    """What a table is written as."""

    TEXT = "text"
    JSON = "json"
    CSV = "csv"
    MD = "md"
    LATEX = "latex"


def _overall(findings: Findings, *, whole: bool) -> pd.DataFrame:
    """Return calibrated scores, or raw means where there are none: of all families, or of each."""
    source = findings.summary if findings.calibrated.empty else findings.calibrated
    return source[(source[FAMILY] == OVERALL) == whole]


FRAMES: dict[Kind, Callable[[Findings], pd.DataFrame]] = {
    Kind.METHODS: lambda findings: _overall(findings, whole=True),
    Kind.FAMILIES: lambda findings: _overall(findings, whole=False),
    Kind.METRICS: lambda findings: findings.summary,
    Kind.FAULTS: lambda findings: findings.faults,
}
GRIDS: dict[Kind, Callable[[Findings], list[Grid | None]]] = {
    Kind.METHODS: lambda findings: [leaderboard.board_grid(findings)],
    Kind.FAMILIES: lambda findings: [
        leaderboard.page_family_grid(findings, metric) for metric in findings.family_metrics()
    ],
    Kind.METRICS: lambda findings: [leaderboard.probe_grid(findings)],
    Kind.FAULTS: lambda findings: [faults.fault_grid(findings)],
}


def table_command(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run.")],
    what: Annotated[Kind | None, typer.Argument(help="Which table; left out: all.")] = None,
    form: Annotated[
        Form,
        typer.Option("--format", help="json and csv have every number; md and latex are short."),
    ] = Form.TEXT,
) -> None:
    """Print the tables of a finished run."""
    findings = finished_run.findings_of(run)
    kinds = [*Kind] if what is None else [what]
    stdout = console.console_of()
    if form is Form.TEXT:
        for title, shown in (
            pair for kind in kinds for pair in terminal.tables_of(findings, kind, stdout.width)
        ):
            stdout.print(title, style="bold", markup=False, highlight=False)
            stdout.print(shown)
        for note in terminal.footnotes(findings):
            console.line(stdout, f"- {note}")
        return
    if form in (Form.CSV, Form.JSON):
        if what is None:
            raise errors.ConfigError(f"format: {form} is of one table; name it: {', '.join(Kind)}")
        frame = FRAMES[what](findings)
        text = (
            safe_csv.csv_text(frame)
            if form is Form.CSV
            else frame.to_json(orient="records", indent=1)
        )
        typer.echo(text.rstrip("\n"))
        return
    grids = [grid for kind in kinds for grid in GRIDS[kind](findings) if grid is not None]
    if not grids:
        raise errors.ConfigError(f"{run} has no table of {', '.join(kinds)}")
    for grid in grids:
        lines = markdown_table(grid) if form is Form.MD else latex_table(grid)
        typer.echo("\n".join(lines) + "\n")
