"""A history in a terminal, on its page, and for other programs."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from finished import HOSTILE
from histories import EXAMPLE, OF_EXAMPLE, Planted, Simulation, example
from pages import Page, parsed
from rich.console import Console

from steadymap.bench.history import page, show
from steadymap.bench.history.timeline import Era, timeline

STEPPED = Simulation("show", 30, (Planted(20, "weights", {"gradient": -0.1}),), noise=0.0)


@pytest.fixture(scope="module")
def era() -> Era:
    (found,) = timeline(STEPPED.entries())
    return found


# --- sparklines -----------------------------------------------------------------------------------


def test_a_sparkline_goes_from_the_lowest_to_the_highest() -> None:
    assert show.sparkline(np.array([0.0, 1, 2, 3, 4, 5, 6, 7]), show.BARS) == show.BARS
    assert show.sparkline(np.array([0.5, 0.1, 0.5]), show.BARS) == "█▁█"
    assert show.sparkline(np.array([0.0, 7.0]), show.PLAIN_BARS) == "_#"


def test_what_is_missing_is_a_gap_and_what_is_flat_is_in_the_middle() -> None:
    assert show.sparkline(np.array([0.0, np.nan, 1.0]), show.BARS) == "▁ █"
    assert show.sparkline(np.array([0.4, 0.4, np.nan]), show.BARS) == "▄▄ "
    assert show.sparkline(np.array([0.4, 0.4004]), show.BARS, floor=0.0005) == "▄▄"
    assert show.sparkline(np.array([np.nan]), show.BARS) == " "
    assert show.PLAIN_BARS.isascii()


def drawn(era: Era, width: int, bars: str) -> list[str]:
    console = Console(width=width, file=io.StringIO(), force_terminal=False)
    console.print(show.era_table(era, width, bars))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


@pytest.mark.parametrize("width", [70, 80, 128])
def test_a_table_is_as_wide_as_the_terminal_and_ends_with_the_newest(era: Era, width: int) -> None:
    lines = drawn(era, width, show.PLAIN_BARS)
    assert max(map(len, lines)) <= width
    (gradient,) = [text for text in lines if text.split()[:2] == ["gradient", "ssim"]]
    newest, runs, steps = gradient.split()[2:]
    assert (newest, steps) == ("0.140", "1")
    assert runs.endswith("#__________"), "ten runs since the step"
    assert set(runs) == {"#", "_"}


def test_the_change_since_the_run_before_is_said_where_it_is_one() -> None:
    entries = STEPPED.entries()[:21]
    (era,) = timeline(entries)
    (gradient,) = [t for t in drawn(era, 100, show.BARS) if t.split()[:2] == ["gradient", "ssim"]]
    (cam,) = [t for t in drawn(era, 100, show.BARS) if t.split()[:2] == ["grad_cam", "ssim"]]
    assert gradient.split()[3] == "-0.100"
    assert cam.split()[2:] == ["0.720", "▄" * 21]


# --- for other programs ---------------------------------------------------------------------------


def test_json_and_csv_have_every_value_step_and_cause(era: Era) -> None:
    (segment,) = json.loads(show.as_json([era]))
    assert len(segment["runs"]) == 30
    (gradient,) = [
        one for one in segment["lines"] if (one["method"], one["metric"]) == ("gradient", "ssim")
    ]
    assert gradient["values"] == [0.24] * 20 + [0.14] * 10
    assert gradient["better"] == "higher"
    (step,) = segment["steps"]
    assert (step["run"], step["earliest"], step["latest"]) == (20, 20, 20)
    assert [cause["kind"] for cause in step["causes"]] == ["weights", "code"]
    table = pd.read_csv(io.StringIO(show.as_csv([era])))
    chosen = table[(table["method"] == "gradient") & (table["metric"] == "spearman")]
    assert chosen["value"].tolist() == gradient["values"]
    assert chosen["step"].tolist() == [place == 20 for place in range(30)]


def test_sentences_and_markdown_say_where_and_who(era: Era) -> None:
    before, after = (entry.facts["commit"][:9] for entry in STEPPED.entries()[19:21])
    told = show.sentences(era)
    assert told[0] == "1 step."
    assert told[1] == (
        f"step 1, between {before} and {after}: gradient ssim: 0.24 -> 0.14 (worse); "
        "and 1 other line"
    )
    assert told[2].startswith("  weights changed: weights 000000000 -> ")
    text = show.as_markdown([era])
    assert "| gradient | ssim | 0.140 |" in text
    assert f"between {before} and {after}" in text


def test_few_runs_and_no_step_are_said() -> None:
    (few,) = timeline(STEPPED.entries()[:5])
    (flat,) = timeline(STEPPED.entries()[:6])
    assert few.summary() == "Steps are looked for from 6 runs on."
    assert flat.summary() == "No line took a step."


# --- the page -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def text() -> str:
    entries = STEPPED.entries()
    other = [
        replace(entry, facts=dict(entry.facts) | {"rules": 3, "label": "after"})
        for entry in entries[26:]
    ]
    return page.render(timeline([*entries[:26], *other]))


@pytest.fixture(scope="module")
def parts(text: str) -> Page:
    return parsed(text)


def test_a_page_made_again_is_the_same_to_the_byte(era: Era) -> None:
    assert page.render([era]) == page.render(timeline(STEPPED.entries()[::-1]))


def test_a_page_needs_no_network_and_has_no_script(parts: Page) -> None:
    loading = ("src", "href", "action", "data")
    links = [
        value
        for _, attributes in parts.tags
        for name, value in attributes.items()
        if name.rpartition(":")[2] in loading and value and not value.startswith("#")
    ]
    assert links == []
    assert not any(tag in ("script", "link", "iframe", "object") for tag, _ in parts.tags)
    (policy,) = [
        attributes["content"]
        for tag, attributes in parts.tags
        if tag == "meta" and attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policy
    assert policy.startswith("default-src 'none'")
    assert "script-src" not in policy


def test_a_page_has_its_segments_the_newest_first_with_steps_and_causes(
    text: str, parts: Page
) -> None:
    said = " ".join(" ".join(parts.texts).split())
    assert said.index("Segment 2: 4 runs") < said.index("Segment 1: 26 runs")
    assert "rules: 2 and 3" in said
    before, after = (entry.facts["commit"][:9] for entry in STEPPED.entries()[19:21])
    assert f"Step 1, between {before} and {after}" in said
    assert "gradient ssim: 0.24 -> 0.14 (worse)" in said
    (rows,) = [rows for caption, rows in parts.tables.items() if caption.startswith("What changed")]
    assert [row[0] for row in rows[1:]] == ["weights", "code"]
    assert rows[1][3] == "0%"
    assert rows[2][3] == "100%"
    # A drawing a metric and segment: SSIM, rank correlation, accuracy.
    assert text.count("<svg") == 6


def test_names_that_would_break_out_do_not() -> None:
    (first, *rest) = Simulation("hostile", 3).entries()
    scores = first.scores.replace({"method": {"gradient": HOSTILE[0]}})
    manifest = dict(first.manifest) | {
        "methods": [HOSTILE[0]],
        "model": dict(first.manifest["model"]) | {"name": HOSTILE[1]},
        "data": dict(first.manifest["data"]) | {"name": HOSTILE[2]},
    }
    facts = dict(first.facts) | {"label": HOSTILE[1], "commit": HOSTILE[3], "run_id": HOSTILE[2]}
    hostile = replace(first, facts=facts | {"manifest": manifest}, scores=scores)
    plain, attacked = (parsed(page.render(timeline([one, *rest]))) for one in (first, hostile))
    assert {tag for tag, _ in attacked.tags} == {tag for tag, _ in plain.tags}
    assert not any(name.startswith("on") for _, given in attacked.tags for name in given)
    assert "<script>" not in show.as_markdown(timeline([hostile, *rest]))


# --- the committed example ------------------------------------------------------------------------


def test_the_committed_example_is_what_its_script_makes() -> None:
    held = (Path(EXAMPLE) / "ssim.svg").read_text(encoding="utf-8")
    assert len(held.encode()) < 100_000
    # Another version of matplotlib or FreeType may draw a little otherwise: the same points, then.
    assert held.count("<path") == example().count("<path")
    (era,) = timeline(OF_EXAMPLE.entries())
    assert len(era.steps) == held.count("stroke-dasharray: 3.6,1.8") == 2
