"""Laws that hold for every section of the page."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pandas as pd
import pytest
from pages import parsed
from support import ROOT

from steadymap.bench.analysis.cells import is_unrelated
from steadymap.bench.analysis.curves import breaking_points
from steadymap.bench.analysis.findings import Findings
from steadymap.bench.records.vocabulary import DIAGNOSIS, NULLS
from steadymap.bench.report import page
from steadymap.bench.report.finished_run import FinishedRun, curves_of
from steadymap.bench.report.sections.table import SECTIONS

MODULES = {path.stem for path in (ROOT / "bench/report/sections").glob("*.py")}
PARTIALS = {path.stem for path in (ROOT / "bench/templates/sections").iterdir()}


@pytest.fixture(scope="module")
def bare_run(finished_run: FinishedRun, finished_records: pd.DataFrame) -> FinishedRun:
    """A run without nulls, of one family, without witnesses, steps, timings or diagrams."""
    bare = ~finished_records["family"].isin((*NULLS, *DIAGNOSIS))
    bare &= ~finished_records["metric"].astype(str).map(is_unrelated)
    findings = Findings.of(finished_records[bare])
    curves = curves_of(findings)
    return replace(
        finished_run,
        findings=findings,
        curves=curves,
        breaking=breaking_points(curves),
        costs=finished_run.costs.assign(milliseconds=float("nan")),
        gallery=None,
        steps=pd.DataFrame(),
        diagrams={},
    )


@pytest.fixture
def text_of(monkeypatch: pytest.MonkeyPatch) -> Callable[[FinishedRun, str], str]:
    """Return what a section alone puts into the page of a run."""

    def rendered(run: FinishedRun, name: str) -> str:
        monkeypatch.setattr(page, "SECTIONS", {name: SECTIONS[name]})
        _, _, text = page.render([run]).partition(f"; {run.manifest['run_id']}</p>\n")
        return text.partition("</article>")[0]

    return rendered


def test_a_section_is_one_module_and_one_partial_listed_once() -> None:
    assert set(SECTIONS) == PARTIALS == MODULES - {"__init__", "table"}
    for name, section in SECTIONS.items():
        assert section.context.__module__.endswith(f".sections.{name}")
        assert section.drawings.__module__.endswith((f".sections.{name}", ".sections.table"))


@pytest.mark.parametrize("name", SECTIONS)
def test_a_section_needs_nothing_of_the_others(
    finished_run: FinishedRun,
    judged_run: FinishedRun,
    name: str,
    text_of: Callable[[FinishedRun, str], str],
) -> None:
    """A name that its partial misses would be an error."""
    run = judged_run if name == "admission" else finished_run
    text = text_of(run, name)
    assert text.startswith("<")
    figures = [tag for tag, _ in parsed(text).tags if tag == "svg"]
    assert len(figures) == len(SECTIONS[name].drawings(run))


@pytest.mark.parametrize("name", SECTIONS)
def test_a_section_renders_from_a_run_that_lacks_all_it_may(
    bare_run: FinishedRun, name: str, text_of: Callable[[FinishedRun, str], str]
) -> None:
    text = text_of(bare_run, name)
    assert (text == "") == (name in ("faults", "admission"))
    assert len(SECTIONS[name].drawings(bare_run)) == {"curves": 2, "completeness": 1}.get(name, 0)


def test_a_page_is_its_sections_in_the_order_of_the_table(
    finished_run: FinishedRun, text_of: Callable[[FinishedRun, str], str]
) -> None:
    whole = page.render([finished_run])
    texts = [text_of(finished_run, name) for name in SECTIONS]
    assert "\n".join(texts) in whole
