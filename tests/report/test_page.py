"""The page: its numbers are those of the records, and nothing in it breaks or loads."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from finished import HOSTILE, METHODS, hostile
from pages import Page, parsed
from support import call

from steadymap.bench.analysis.curves import severity_curves
from steadymap.bench.analysis.findings import Findings
from steadymap.bench.report.finished_run import FinishedRun
from steadymap.bench.report.page import render
from steadymap.bench.report.sections.faults import PARTS


def test_every_other_table_has_the_numbers_of_what_was_found(
    finished_folder: Path, finished_run: FinishedRun, finished_records: pd.DataFrame
) -> None:
    page = parsed((finished_folder / "report.html").read_text())
    statuses = next(rows for name, rows in page.tables.items() if name.startswith("All values"))
    counts = {(row[0], row[1]): int(row[2].replace(",", "")) for row in statuses[1:]}
    assert sum(counts.values()) == len(finished_records)
    assert counts["ok", ""] == (finished_records["status"] == "ok").sum()
    flipped = {row[0]: row[1] for row in page.tables["Predictions that changed"][1:]}
    pairs = finished_records[finished_records["family"] == "bias"].drop_duplicates(
        ["image_id", "severity"]
    )
    assert flipped["bias"] == f"{(~pairs['kept']).sum()} of {len(pairs)}"
    faults = next(rows for name, rows in page.tables.items() if name.startswith("Instability"))
    of_all = finished_run.findings.faults
    row = of_all[
        of_all["severity"].isna()
        & (of_all["metric"] == "ssim")
        & (of_all["method"] == "gradient_x_input")
    ].iloc[0]
    line = next(line for line in faults if line[0] == "gradient_x_input")
    assert line[1:4] == [f"{row[part]:.3f}" for part in PARTS]
    family = next(rows for name, rows in page.tables.items() if name.startswith("ssim:"))
    place = family[0].index("bias")
    calibrated = finished_run.findings.calibrated
    for method, name in ((METHODS[0], "gradient"), (METHODS[2], "integrated_gradients")):
        row = calibrated[
            (calibrated["method"] == method)
            & (calibrated["metric"] == "ssim")
            & (calibrated["family"] == "bias")
        ].iloc[0]
        text = f"{row['calibrated']:.2f} [{row['low']:.2f}, {row['high']:.2f}]"
        assert next(line for line in family if line[0] == name)[place] == text


def test_the_same_records_give_the_same_bytes(
    finished_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = (finished_folder / "report.html").read_bytes()
    monkeypatch.chdir(finished_folder)
    assert call(monkeypatch, "report", ".", "--output", "again.html") == 0
    assert (finished_folder / "again.html").read_bytes() == first
    (finished_folder / "again.html").unlink()


def test_the_page_needs_nothing_but_itself(finished_folder: Path) -> None:
    text = (finished_folder / "report.html").read_text()
    page = parsed(text)
    for tag, attributes in page.tags:
        for name in ("src", "href", "xlink:href", "action", "data"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:image/png;base64,", "#")), (tag, value)
        assert not any(name.startswith("on") for name in attributes)
        if tag == "img":
            assert "alt" in attributes
        if tag == "svg":
            assert attributes["role"] == "img"
            assert attributes["aria-label"]
    assert "default-src 'none'" in text
    assert str(finished_folder.parent) not in text
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    inputs = [identifier for identifier in ids if str(identifier).startswith("run0-")]
    assert len(inputs) == len(set(inputs)) == 9, "three images under three families"


def test_no_name_can_break_or_script_the_page(
    finished_run: FinishedRun, finished_records: pd.DataFrame
) -> None:
    usual, attacked = (
        parsed(render([finished_run])),
        parsed(render([hostile(finished_run, finished_records)])),
    )

    def scripts(page: Page) -> int:
        return sum(tag == "script" for tag, _ in page.tags)

    assert scripts(attacked) == scripts(usual)
    assert not any(name.startswith("on") for _, attributes in attacked.tags for name in attributes)
    assert not any(attributes.get("src") == "x" for _, attributes in attacked.tags)
    said = "".join(attacked.texts)
    assert HOSTILE[0] in said
    assert "{{ 7 * 7 }}" in said


def test_mathematics_in_a_name_is_no_mathematics(
    finished_run: FinishedRun, finished_records: pd.DataFrame
) -> None:
    """A name like $\\frac$ must not be typeset: it would fail."""
    named = finished_records.astype({"method": str})
    named["method"] = named["method"].replace({"gradient": r"$\frac$"})
    findings = Findings.of(named)
    changed = replace(
        finished_run, findings=findings, curves=severity_curves(named, findings.calibrated)
    )
    assert r"$\frac$" in render([changed])


def test_two_runs_share_a_page(
    finished_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert call(monkeypatch, "report", str(finished_folder), str(finished_folder)) == 0
    page = parsed((tmp_path / "report.html").read_text())
    assert [a["id"] for tag, a in page.tags if tag == "article"] == ["run0", "run1"]
    assert (
        call(monkeypatch, "report", str(finished_folder), str(finished_folder), "--format", "md")
        == 2
    )


def test_a_folder_without_a_run_has_no_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "report", str(tmp_path)) == 2
    assert "holds no finished run" in capsys.readouterr().err


def test_a_page_is_the_same_in_every_process(finished_folder: Path, tmp_path: Path) -> None:
    """The order of sets of names changes with the process."""
    pages = []
    for seed in ("1", "2"):
        path = tmp_path / f"{seed}.html"
        script = str(Path(sys.executable).parent / "steadymap")
        subprocess.run(  # noqa: S603 - our own script
            [script, "report", str(finished_folder), "--output", str(path)],
            env=os.environ | {"PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
        )
        pages.append(path.read_bytes())
    assert pages[0] == pages[1]


# --- in a browser ---------------------------------------------------------------------------------


@pytest.fixture
def browser(browser: Any, finished_folder: Path) -> Any:
    """Show the page in the browser that all tests share."""
    browser.get((finished_folder / "report.html").as_uri())
    return browser


def select(browser: Any, selector: str) -> list[Any]:
    return list(browser.find_elements("css selector", selector))


def test_a_browser_sorts_slides_and_lays_over(browser: Any) -> None:
    def names() -> list[str]:
        return [
            cell.text for cell in select(browser, "table.board tbody:not(.below) th:first-child")
        ]

    before = names()
    button = select(browser, "table.board th button")[0]
    button.click()
    assert names() == sorted(before, reverse=True)
    button.click()
    assert names() == sorted(before)
    assert button.find_element("xpath", "..").get_attribute("aria-sort") == "ascending"
    below = [row.text for row in select(browser, "table.board tbody.below th:first-child")]
    assert all(text.startswith("control: ") for text in below)

    row = select(browser, ".family")[0]
    slider = row.find_element("css selector", "input")
    frames = json.loads(row.find_element("css selector", "script").get_property("textContent"))
    picture = row.find_element("css selector", ".picture")
    over = row.find_element("css selector", ".map .over")
    first = picture.get_property("src"), over.get_property("src")
    slider.send_keys("\ue012")  # the left arrow: the keyboard is enough
    assert slider.get_attribute("aria-valuetext") == frames[-2]["severity"]
    assert row.find_element("css selector", "output").text == frames[-2]["severity"]
    second = picture.get_property("src"), over.get_property("src")
    assert first[0] != second[0]
    assert first[1] != second[1]
    slider.send_keys("\ue010" * 1)  # End
    assert (picture.get_property("src"), over.get_property("src")) == first

    under = row.find_element("css selector", ".map .under")
    assert under.value_of_css_property("visibility") == "hidden"
    select(browser, ".switch input")[0].click()
    assert under.value_of_css_property("visibility") == "visible"
    assert under.get_property("src") == picture.get_property("src")
    assert not [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]


@pytest.mark.parametrize("width", [360, 1280])
def test_a_page_is_no_wider_than_its_window(browser: Any, width: int) -> None:
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 800},
    )
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
