"""What maps know: the tables on the page hold the numbers of the files of the run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from pages import Page, parsed

from steadymap.bench.core.safe_csv import parse_csv
from steadymap.bench.records.vocabulary import is_control
from steadymap.bench.report.finished_run import FinishedRun
from steadymap.bench.report.page import render
from steadymap.bench.report.sections.admission import evidence_grid, margin_grid

SCORES = {
    "over another image's": "other_image",
    "over another's of its class": "same_class",
    "over a randomised network's": "random_network",
    "faithful": "faithful",
    "moves with the image": "reacts_image",
    "moves with the network": "reacts_network",
    "moves with the class": "reacts_class",
}


@pytest.fixture(scope="module")
def page(judged_run: FinishedRun) -> Page:
    return parsed(render([judged_run]))


def table_of(page: Page, caption: str) -> tuple[list[str], dict[str, dict[str, str]]]:
    """Return the columns of a table, and its cells by the first word of a row."""
    (found,) = (rows for name, rows in page.tables.items() if name.startswith(caption))
    head, *rows = found
    return head, {row[0]: dict(zip(head, row, strict=True)) for row in rows}


def written(row: pd.Series, name: str) -> str:
    """Write a number and its interval as a cell does."""
    if pd.isna(row[name]):
        return "-"
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    return f"{row[name]:.2f}" + ("" if pd.isna(low) else f" [{low:.2f}, {high:.2f}]")


def test_the_margins_are_those_of_the_file(page: Page, judged_folder: Path) -> None:
    file = parse_csv((judged_folder / "admission.csv").read_bytes(), ("method",))
    head, cells = table_of(page, "By how many logits")
    assert head == ["method", "verdict", *list(SCORES)[:3], "p", "faithful", "class-specific",
                    *list(SCORES)[4:]]  # fmt: skip
    by_name = {name.partition(" its ")[0]: row for name, row in cells.items()}
    assert len(by_name) == len(file) == 8
    for _, row in file.iterrows():
        name = str(row["method"]).partition(":")[0]
        line = by_name[f"control: {name}" if is_control(name) else name]
        assert {column: line[column] for column in SCORES} == {
            column: written(row, field) for column, field in SCORES.items()
        }
        assert line["p"] == ("-" if pd.isna(row["p"]) else f"{row['p']:.1g}")
        assert line["class-specific"] == row["class_specific"]
        verdict = "-" if is_control(name) else row["verdict"]
        assert line["verdict"] == verdict
        reason = "" if is_control(name) or pd.isna(row["reason"]) else f" {row['reason']}"
        assert line["method"].endswith(reason)
    verdicts = dict(zip(file["method"], file["verdict"], strict=True))
    assert verdicts["gradient"] == "admitted"
    assert by_name["grad_cam"]["verdict"] == verdicts["grad_cam:relu=true"] != "admitted"
    assert by_name["grad_cam"]["method"].startswith("grad_cam its map of another image may do")


def test_an_admitted_method_that_knows_too_little_is_called_not_ranked(
    judged_run: FinishedRun,
) -> None:
    admission = judged_run.findings.admission
    unranked = admission.assign(ranked=admission["ranked"] & (admission["method"] != "gradient"))
    findings = replace(judged_run.findings, admission=unranked)
    table = margin_grid(replace(judged_run, findings=findings))
    assert table is not None
    verdicts = {row[0].key: row[1].text for row in table.rows}
    assert verdicts["gradient"] == "not ranked"
    assert verdicts["gradient_x_input"] == "admitted"
    assert verdicts["grad_cam"] == admission.set_index("method")["verdict"]["grad_cam:relu=true"]


def test_the_evidence_is_that_of_the_file(page: Page, judged_folder: Path) -> None:
    file = parse_csv((judged_folder / "evidence_kept.csv").read_bytes(), ("method",))
    file = file.rename(columns={"low": "kept_low", "high": "kept_high"})
    head, cells = table_of(page, "Evidence kept")
    assert head == ["method", "bias", "gaussian noise", "overall"]
    found = {
        (name, family): text
        for name, row in cells.items()
        for family, text in row.items()
        if family != "method"
    }
    assert found == {
        (row["method"].partition(":")[0], row["family"].replace("_", " ")): written(row, "kept")
        for _, row in file.iterrows()
    }
    assert found["grad_cam", "overall"] == "-", "its clean margin may be 0"
    assert found["integrated_gradients", "overall"] != "-"


def test_a_run_without_margins_has_no_tables_of_them(finished_run: FinishedRun) -> None:
    assert finished_run.findings.admission.empty
    assert margin_grid(finished_run) is None
    assert evidence_grid(finished_run) is None
    assert "What the maps know" not in render([finished_run])
