"""The names of units hold the code that makes their records, wherever it lies."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from support import image_set, tiny

import steadymap.bench
import steadymap.metrics
import steadymap.models
from steadymap.bench.plan.plan import Plan
from steadymap.bench.plan.setup import prepare
from steadymap.bench.runs.draw_up import code_hash, draw_up, hash_of_modules
from steadymap.bench.runs.ledger import Ledger

PACKAGES = tuple(
    Path(str(package.__file__)).parent
    for package in (steadymap.bench, steadymap.metrics, steadymap.models)
)


def rooms() -> Iterator[str]:
    """Yield every folder of the package that has modules."""
    for package in PACKAGES:
        for folder in sorted({path.parent for path in package.rglob("*.py")}):
            yield folder.relative_to(package.parent).as_posix()


@pytest.fixture(scope="module")
def copies(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Copy the package to where it may be changed."""
    home = tmp_path_factory.mktemp("package")
    names = shutil.ignore_patterns("__pycache__", "*.safetensors")
    return [
        Path(shutil.copytree(package, home / package.name, ignore=names)) for package in PACKAGES
    ]


def test_the_hash_is_that_of_the_package_itself(copies: list[Path]) -> None:
    assert hash_of_modules(copies) == code_hash()


@pytest.mark.parametrize("room", list(rooms()))
def test_a_changed_line_in_any_room_changes_the_hash(room: str, copies: list[Path]) -> None:
    for path in sorted((copies[0].parent / room).glob("*.py")):
        code = path.read_text(encoding="utf-8")
        path.write_text(code + "CHANGED = True\n", encoding="utf-8")
        assert hash_of_modules(copies) != code_hash(), path
        path.write_text(code, encoding="utf-8")
    assert hash_of_modules(copies) == code_hash()


def test_a_module_that_moves_to_another_room_changes_the_hash(copies: list[Path]) -> None:
    source = copies[0] / "core" / "randomness.py"
    moved = source.rename(copies[1] / source.name)
    assert hash_of_modules(copies) != code_hash()
    moved.rename(source)


def ledger() -> Ledger:
    plan = Plan(method=("gradient",), family=("bias",), severity=(0.1,), metric=("ssim",))
    return draw_up(prepare(tiny(), image_set(), plan), "run", "test")


def test_units_of_other_code_are_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    now = ledger()
    names = {
        name
        for block, views in now.pieces()
        for view in views
        for name in now.grid(block, view).values()
    }
    assert now.missing(lambda _block: names, lambda _place: True) == []
    monkeypatch.setattr("steadymap.bench.runs.draw_up.code_hash", lambda: "another")
    later = ledger()
    assert later.fixed == now.fixed
    assert replace(later, others=now.others, answers=now.answers) == now
    again = later.missing(lambda _block: names, lambda _place: True)
    everything = later.missing(lambda _block: set(), lambda _place: True)
    assert again == everything
    assert len(again) > 0
