"""One picture before and after."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from support import call


def test_one_picture_is_shown_before_and_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    options = ["--steps", "2", "--severity", "0.2"]
    assert call(monkeypatch, "show", "hands:162", *options) == 0
    with Image.open(tmp_path / "hands-162-bias-0.2.png") as picture:
        wide, high = picture.size
    # Seven columns, two rows.
    assert wide == pytest.approx(200 * (7 * 1.5 + 0.9), abs=2)
    assert high == pytest.approx(200 * (2 * 1.5 + 0.4), abs=2)
    (tmp_path / "no.png").write_text("no picture")
    capsys.readouterr()
    for bad, words in (
        ("gone.png", "there is no file"),
        ("no.png", "cannot be decoded"),
        ("hands:x", "whole number"),
    ):
        assert call(monkeypatch, "show", bad, *options) == 2
        assert words in capsys.readouterr().err
    assert call(monkeypatch, "show", "hands:1", "--output", "a.jpg") == 2
