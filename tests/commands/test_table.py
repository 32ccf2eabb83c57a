"""The tables of a run: for people at any width, for programs, and for papers."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console
from support import call

from steadymap.bench.analysis.findings import Findings
from steadymap.bench.report.finished_run import FinishedRun
from steadymap.bench.report.grid import Grid, TableCell
from steadymap.bench.report.markdown import latex_table
from steadymap.bench.report.terminal import fitting, short_table, tables


def printed(findings: Findings, width: int) -> str:
    console = Console(width=width, file=io.StringIO(), record=True)
    for title, table in tables(findings, width):
        console.print(title)
        console.print(table)
    return console.export_text()


@pytest.mark.parametrize("width", [60, 80, 100, 128, 200])
def test_no_name_and_no_number_is_cut_at_any_width(judged_run: FinishedRun, width: int) -> None:
    findings = judged_run.findings
    text = printed(findings, width)
    wide = printed(findings, 1000)
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width
    # Nothing is lost but the line breaks.
    numbers = {word for word in wide.split() if any(letter.isdigit() for letter in word)}
    assert numbers <= set(text.split())


def test_a_wide_table_is_cut_between_columns_and_keeps_the_names_of_its_rows() -> None:
    cells = tuple(TableCell("x" * 20) for _ in range(3))
    grid = Grid("caption", ("method", "a", "b", "c"), ((TableCell("name"), *cells),))
    parts = fitting(grid, 52)
    assert [part.columns for part in parts] == [("method", "a", "b"), ("method", "c")]
    assert all(part.rows[0][0].text == "name" for part in parts)
    # One that fits nowhere stands alone.
    assert [part.columns for part in fitting(grid, 5)] == [("method", name) for name in "abc"]


def test_the_short_table_says_what_limits_a_method_beside_it_or_below(
    judged_run: FinishedRun,
) -> None:
    rows = judged_run.findings.admission.set_index("method")
    reason = str(rows.loc["grad_cam:relu=true", "reason"])
    console = Console(width=140, file=io.StringIO(), record=True)
    table, notes = short_table(judged_run.findings, 140)
    console.print(table)
    assert reason.split()[:3] == ["its", "map", "of"]
    assert all(word in console.export_text(clear=False) for word in reason.split())
    assert not [note for note in notes if reason in note]
    table, notes = short_table(judged_run.findings, 60)
    assert [note for note in notes if note.endswith(reason)]
    narrow = Console(width=60, file=io.StringIO(), record=True)
    narrow.print(table)
    text = narrow.export_text()
    assert "…" not in text
    assert "control" not in text


def command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str
) -> str:
    assert call(monkeypatch, "table", *words) == 0
    return capsys.readouterr().out


def test_programs_get_every_number(
    finished_folder: Path,
    finished_run: FinishedRun,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = str(finished_folder)
    calibrated = finished_run.findings.calibrated
    overall = calibrated[calibrated["family"] == "overall"]
    rows = json.loads(command(monkeypatch, capsys, folder, "methods", "--format", "json"))
    numbers = [float("nan") if row["calibrated"] is None else row["calibrated"] for row in rows]
    assert numbers == pytest.approx(overall["calibrated"].tolist(), nan_ok=True)
    text = command(monkeypatch, capsys, folder, "families", "--format", "csv")
    assert len(pd.read_csv(io.StringIO(text))) == len(calibrated) - len(overall)
    assert call(monkeypatch, "table", folder, "--format", "csv") == 2
    assert "name it: methods, families, metrics, faults" in capsys.readouterr().err


def test_papers_get_booktabs_with_everything_escaped(
    finished_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = command(monkeypatch, capsys, str(finished_folder), "methods", "--format", "latex")
    assert text.count(r"\toprule") == text.count(r"\bottomrule") == 1
    assert r"gradient\_x\_input" in text
    grid = Grid("", (r"a_b", "50%"), ((TableCell(r"\{&$#^~}"), TableCell("1", "[0, 2]")),))
    lines = latex_table(grid)
    assert lines[3] == r"a\_b & 50\% \\"
    assert lines[5] == (
        r"\textbackslash{}\{\&\$\#\textasciicircum{}\textasciitilde{}\} & 1 [0, 2] \\"
    )
    text = command(monkeypatch, capsys, str(finished_folder), "methods", "--format", "md")
    assert "| gradient_x_input |" in text.replace("\\_", "_")
