"""Mutants stay in step with the code: what each changes is there, once."""

from __future__ import annotations

from pathlib import Path

import pytest
from mutants import FOLDERS, MUTANTS, Mutant, copied
from support import ROOT, python


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_what_a_mutant_changes_is_there_once(mutant: Mutant) -> None:
    assert (ROOT / mutant.file).read_text(encoding="utf-8").count(mutant.true) == 1


def test_mutants_have_names_of_their_own() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)


def test_what_a_mutant_is_tried_on_is_its_copy(tmp_path: Path) -> None:
    place = copied(tmp_path / "copy")
    code = "import steadymap.bench, steadymap.metrics, steadymap.models; " + "; ".join(
        f"print(steadymap.{folder}.__file__)" for folder in FOLDERS
    )
    done = python(code, PYTHONPATH=str(place))
    assert done.returncode == 0, done.stderr
    for path in done.stdout.splitlines():
        assert Path(path).is_relative_to(place)
