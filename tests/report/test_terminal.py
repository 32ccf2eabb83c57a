"""The tables on a terminal: the numbers of the records, a few columns at a time."""

from __future__ import annotations

import io
import math
import re
from dataclasses import replace
from pathlib import Path

import pandas as pd
from pages import board_of, parsed
from rich.console import Console
from rich.table import Table
from support import frame

from steadymap.bench.analysis.calibration import UNRESOLVABLE
from steadymap.bench.analysis.findings import Findings
from steadymap.bench.report.finished_run import FinishedRun
from steadymap.bench.report.grid import Grid, TableCell
from steadymap.bench.report.terminal import MOST_ACROSS, footnotes, rich_table, tables

METHODS_SHORT = ("gradient", "gradient_x_input", "integrated_gradients")


def dict_of_tables(run: FinishedRun) -> dict[str, Table]:
    """Return the tables of a run by the first words of their titles."""
    return {title.partition(":")[0]: table for title, table in tables(run.findings)}


def printed(*parts: str | Table) -> str:
    console = Console(width=200, record=True, file=io.StringIO())
    for part in parts:
        console.print(part)
    return console.export_text()


def rendered(records: pd.DataFrame) -> str:
    return printed(*(part for titled in tables(Findings.of(records)) for part in titled))


def test_a_table_is_narrow_and_says_what_is_in_it() -> None:
    grid = Grid(
        "a caption",
        ("method", "network's share", "rank"),
        ((TableCell("[red]:smile:"), TableCell("0.50", "[0.25, 0.75]"), TableCell("1")),),
        ((TableCell("below"), TableCell(""), TableCell("")),),
        {"rank": "its\nplace"},
    )
    lines = [line.split() for line in printed(rich_table(grid)).splitlines() if line.strip()]
    assert lines[:2] == [["network's", "its"], ["method", "share", "place"]]
    # A name is no markup, and no picture.
    assert lines[3:5] == [["[red]:smile:", "0.50", "1"], ["[0.25,0.75]"]]
    assert lines[-1] == ["below"]
    assert rich_table(grid).rows[0].end_section


def test_the_terminal_has_the_numbers_of_the_page(
    finished_folder: Path, finished_run: FinishedRun
) -> None:
    _, board = board_of(parsed((finished_folder / "report.html").read_text()))
    text = printed(dict_of_tables(finished_run)["steadiness, calibrated"])
    for name in METHODS_SHORT:
        numbers = next(line for line in text.splitlines() if line.split()[:1] == [name]).split()[1:]
        cells = [cell.split()[0] for cell in board[name] if cell.split()]
        # The page has what maps cost, too.
        assert numbers[:-1] == cells[: len(numbers) - 1]
        assert numbers[-1] == cells[-1]


def test_what_moved_no_more_than_rounding_is_marked_where_it_has_a_number(
    finished_run: FinishedRun,
) -> None:
    findings = finished_run.findings
    still = findings.calibrated.assign(verdict=UNRESOLVABLE)
    still.loc[still["family"] == "bias", "calibrated"] = math.nan
    rows = printed(
        dict_of_tables(replace(finished_run, findings=replace(findings, calibrated=still)))["ssim"]
    )
    line = next(line.split() for line in rows.splitlines() if line.split()[:1] == ["gradient"])
    assert line[1] == "-"
    assert line[2].startswith("~")


def test_the_table_shows_the_numbers_of_the_records() -> None:
    rows = [
        {"image_id": f"i{n}", "metric": metric, "value": value, "kept": n != 0}
        for n in range(4)
        for metric, value in (("ssim", 0.25 + n / 4), ("completeness_error", 2.0))
    ]
    rows += [
        {"image_id": f"i{n}", "family": "clean", "metric": "completeness_error", "value": 1.0}
        for n in range(4)
    ]
    rows.append({"image_id": "i3", "severity": 0.2, "value": math.nan, "status": "degenerate"})
    text = rendered(frame(rows))
    assert "0.62" in text or "0.63" in text
    header = next(line for line in text.splitlines() if "clean" in line)
    assert header.split() == ["method", "bias", "clean", "coverage"]
    assert re.search(r"gradient +2\.00 +1\.00 +100%", text)
    assert "80.0%" in text
    assert "prediction kept" in text


def test_the_footnotes_warn_of_few_images_and_lost_values() -> None:
    records = frame([{}, {"image_id": "b", "value": math.nan, "status": "degenerate"}])
    notes = " ".join(footnotes(Findings.of(records)))
    assert "2 images" in notes
    assert "below 30 images the intervals are rough" in notes
    assert "1 degenerate of 2 values (controls not counted)" in notes
    enough = frame([{"image_id": f"i{n}"} for n in range(30)])
    assert "rough" not in " ".join(footnotes(Findings.of(enough)))


def test_the_footnotes_say_who_is_not_ranked_and_why(judged_run: FinishedRun) -> None:
    findings = judged_run.findings
    admission = findings.admission.set_index("method")
    reason = admission["reason"]["grad_cam:relu=true"]
    assert reason.startswith("its map of another image may do as well (p = ")
    said = [note for note in footnotes(findings) if "ranked" in note or "plain gradient" in note]
    assert said == [f"grad_cam is not ranked: {reason}"]
    assert any(note.startswith("faithful: how much more") for note in footnotes(findings))
    # One that is ranked and knows less than plain gradient says so, and no control says anything.
    less = findings.admission["method"] == "gradient_x_input"
    less |= findings.admission["verdict"] == "control"
    limited = replace(findings, admission=findings.admission.assign(below_gradient=less))
    assert [note for note in footnotes(limited) if "plain gradient" in note] == [
        "gradient_x_input: it knows less of its image than plain gradient"
    ]


def test_the_footnotes_say_that_nobody_asked_what_maps_know(
    finished_run: FinishedRun, finished_records: pd.DataFrame
) -> None:
    note = "it was not measured whether maps know their own image: every method is ranked"
    assert footnotes(finished_run.findings).count(note) == 1
    assert not any(text.startswith("faithful") for text in footnotes(finished_run.findings))
    # Where nothing is ranked, there is nothing to say of ranks.
    raw = finished_records[finished_records["metric"] == "completeness_error"]
    assert note not in footnotes(Findings.of(raw))


def test_many_families_are_shown_a_few_at_a_time_each_once() -> None:
    names = [f"family_{place}" for place in range(2 * MOST_ACROSS + 1)]
    records = frame(
        [
            {"image_id": f"i{image}", "family": name, "metric": "completeness_error"}
            for name in names
            for image in range(2)
        ]
    )
    across = [
        [str(column.header) for column in table.columns]
        for _, table in tables(Findings.of(records))
    ]
    assert [len(headers) for headers in across] == [1 + MOST_ACROSS, 1 + MOST_ACROSS, 3]
    assert [headers[-1] for headers in across][-1] == "coverage"
    families = [text for headers in across for text in headers if text.startswith("family")]
    assert families == [name.replace("_", "\n") for name in names]
