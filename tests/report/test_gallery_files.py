"""The files of the witnesses, whole and damaged."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from support import call


@pytest.mark.parametrize(
    "damage",
    [
        "witnesses.csv gone",
        "predictions.csv cut",
        "scales.csv gone",
        "pictures.safetensors cut",
        "pictures.safetensors gone",
        "steps.csv empty",
    ],
)
def test_damaged_witnesses_are_named(
    finished_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    damage: str,
) -> None:
    name, harm = damage.split()
    shutil.copytree(finished_folder, tmp_path / "run")
    path = tmp_path / "run" / "witnesses" / name
    if harm == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[: 0 if harm == "empty" else path.stat().st_size // 2])
    assert call(monkeypatch, "report", str(tmp_path / "run")) == 2
    said = "cannot be read: No such file" if harm == "gone" else "is damaged"
    assert f"{name} {said}" in capsys.readouterr().err
