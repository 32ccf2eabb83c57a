"""A report as Markdown and in a notebook."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pytest
from finished import hostile, spoilt
from pages import board_of, parsed
from support import CLASSES, call, conv_network, random_images, seeded

import steadymap.bench
from steadymap.bench import Plan, from_tensor
from steadymap.bench.report.finished_run import FinishedRun
from steadymap.bench.report.markdown import fragment, markdown
from steadymap.models import make_classifier


def test_markdown_has_the_table_and_two_figures(
    finished_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["report", str(finished_folder), "--format", "md", "--output", "out/report.md"]
    assert call(monkeypatch, *arguments, "--figures", "figures") == 0
    text = (tmp_path / "out" / "report.md").read_text()
    figures = re.findall(r"\]\(([^)]+)\)", text)
    assert len(figures) == 2
    assert all((tmp_path / "out" / name).is_file() for name in figures)
    _, board = board_of(parsed((finished_folder / "report.html").read_text()))
    for name, cells in board.items():
        line = next(line for line in text.splitlines() if line.startswith(f"| {_escaped(name)} |"))
        assert cells[0].split()[0] in line
    names = {path.stem for path in (tmp_path / "figures").iterdir()}
    assert names >= {"ssim-bias", "fault-ssim", "cost", "completeness-steps", "ranks-ssim"}
    assert all((tmp_path / "figures" / f"{name}.png").is_file() for name in names)


def _escaped(name: str) -> str:
    return name.replace("_", r"\_")


def test_no_name_can_break_markdown_or_a_notebook(
    finished_run: FinishedRun, tmp_path: Path, finished_records: pd.DataFrame
) -> None:
    attacked = hostile(finished_run, finished_records)
    text = markdown(attacked, tmp_path)
    assert "<script" not in text
    assert "<img" not in text
    assert "<script" not in fragment(spoilt(finished_records))
    assert "<img" not in fragment(spoilt(finished_records))


def test_a_notebook_shows_the_answer_and_the_leaderboard() -> None:
    classifier = make_classifier(seeded(conv_network), (16, 16), CLASSES)
    plan = Plan(method=("gradient",), family=("bias",), severity=(0.2,), controls=False, nulls=1)
    images = from_tensor(random_images(4))
    html = steadymap.bench.run(classifier, images, plan)._repr_html_()
    assert "On 4 images no method is ranked" in html, "four images are too few to admit any"
    everyone = plan.model_copy(update={"admission": False})
    records = steadymap.bench.run(classifier, images, everyone)
    html = records._repr_html_()
    assert "On 4 images gradient held best" in html
    assert "<table>" in html
    # What is cut out of it is an ordinary table.
    assert type(records[records["metric"] == "ssim"]) is pd.DataFrame
