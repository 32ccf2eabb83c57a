"""The house stays one that people find their way in: small rooms, short modules, few imports."""

from __future__ import annotations

import statistics
from collections import Counter

import pytest
from house import Module, modules_of
from support import ROOT

MODULES = modules_of(ROOT)
MOST_MODULES = 18
MOST_LINES = 450
MOST_IMPORTS = 8
MOST_BESIDE_ROOMS = 8


def test_bench_holds_little_beside_its_rooms() -> None:
    beside = [path.name for path in (ROOT / "bench").iterdir() if path.is_file()]
    assert len(beside) <= MOST_BESIDE_ROOMS, beside


def test_no_room_is_a_corridor() -> None:
    rooms = Counter(module.room for module in MODULES)
    assert {room: count for room, count in rooms.items() if count > MOST_MODULES} == {}


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.path)
def test_a_module_is_short(module: Module) -> None:
    assert module.lines <= MOST_LINES


def test_a_module_needs_few_others() -> None:
    assert statistics.median(module.imports for module in MODULES) <= MOST_IMPORTS


def test_a_room_s_init_is_a_docstring_and_nothing_else() -> None:
    for path in (ROOT / "bench").glob("*/__init__.py"):
        if path.parent.name != "front":
            text = path.read_text(encoding="utf-8").strip()
            assert text.startswith('"""'), path
            assert text.count('"""') == 2, path
            assert text.endswith('"""'), path
