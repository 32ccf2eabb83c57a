"""The first picture of the page: one image, nudged, with the maps of the best and the worst."""

from __future__ import annotations

from dataclasses import replace

import pytest
from pages import parsed

from steadymap.bench.analysis.leaderboard import board_metrics, leaderboard
from steadymap.bench.report import pictures
from steadymap.bench.report.finished_run import FinishedRun
from steadymap.bench.report.page import render
from steadymap.bench.report.sections import lead, words


def test_the_picture_shows_a_nudge_under_which_the_answer_stayed(finished_run: FinishedRun) -> None:
    picture = lead.context(finished_run)["picture"]
    gallery = finished_run.gallery
    assert gallery is not None
    (image_id,) = [name for name, kind in gallery.kinds.items() if kind == "typical"]
    rows = gallery.rows[gallery.rows["image_id"] == image_id]
    clean = rows[rows["family"] == "clean"]
    held = rows[(rows["family"] == "bias") & (rows["prediction"] == clean["prediction"].iloc[0])]
    strongest = held.loc[held["severity"].abs().idxmax()]
    assert picture["nudge"].startswith(f"bias {strongest['severity']:g}".replace("0.", "")[:5])
    assert picture["images"] == [
        pictures.as_uri(pictures.photo(gallery.images[place]))
        for place in (clean.index[0], strongest.name)
    ]
    assert all(len(method["maps"]) == 2 for method in picture["methods"])


def test_its_methods_are_the_first_and_the_last_of_the_leaderboard(
    finished_run: FinishedRun,
) -> None:
    metric = board_metrics(finished_run.findings)[0]
    lines = [line for line in leaderboard(finished_run.findings) if line.spec and not line.control]
    scores = {
        f"{line.label}, {value:.2f}": value
        for line in lines
        for value in [line.scores[metric].value]
    }
    shown = lead.context(finished_run)["picture"]["methods"]
    assert [method["role"] for method in shown] == ["held best", "held least"]
    values = [scores[method["name"]] for method in shown]
    assert values == [max(scores.values()), min(scores.values())]


def test_where_every_nudge_changes_the_answer_there_is_no_picture(
    finished_run: FinishedRun,
) -> None:
    gallery = finished_run.gallery
    assert gallery is not None
    rows = gallery.rows.copy()
    rows.loc[rows["family"] != "clean", "prediction"] += 1
    changed = replace(finished_run, gallery=replace(gallery, rows=rows))
    assert lead.context(changed) == {"picture": None}
    assert lead.context(replace(finished_run, gallery=None)) == {"picture": None}


def test_the_page_says_what_it_is_and_what_its_words_mean(finished_run: FinishedRun) -> None:
    page = render([finished_run])
    day = finished_run.manifest["measured_at"].partition("T")[0]
    assert f"<title>compact on hands ({day}) - steadymap</title>" in page
    assert "A saliency map colours the pixels" in page
    texts = " ".join(parsed(page).texts)
    for word, meaning in words.WORDS.items():
        assert word in texts
        assert meaning in texts


@pytest.mark.parametrize("word", ["calibrated score", "recognised", "coverage", "uninformative"])
def test_the_words_of_the_tables_are_explained(word: str) -> None:
    assert word in words.WORDS
