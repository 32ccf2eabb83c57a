"""Functions that are named by where they stand."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import get_type_hints

import pytest

from steadymap.bench.core.on_demand import OnDemand, loaded

SOURCE = """
from __future__ import annotations

loaded = []

def join(first: str, *, end: int = 2) -> str:
    return first * end
"""
MODULE = "steadymap_named_by_place"


@pytest.fixture
def join(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[OnDemand]:
    (tmp_path / f"{MODULE}.py").write_text(SOURCE, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield OnDemand(f"{MODULE}:join")
    sys.modules.pop(MODULE, None)


def test_nothing_is_loaded_before_the_first_call(join: OnDemand) -> None:
    assert repr(join) == f"OnDemand(place='{MODULE}:join')"
    assert {join: 1}[OnDemand(f"{MODULE}:join")] == 1, "equal and hashable by its place"
    assert MODULE not in sys.modules
    assert join("a") == "aa"
    assert MODULE in sys.modules


def test_what_is_given_is_passed_on(join: OnDemand) -> None:
    assert join("a", end=3) == "aaa"
    with pytest.raises(TypeError, match="unexpected keyword argument 'start'"):
        join("a", start=3)


def test_it_is_loaded_once(join: OnDemand) -> None:
    function = join.load()
    del sys.modules[MODULE]
    assert join.load() is function
    assert join("a") == "aa"
    assert MODULE not in sys.modules


def test_signature_and_annotations_are_the_function_s(join: OnDemand) -> None:
    assert str(inspect.signature(join)) == "(first: 'str', *, end: 'int' = 2) -> 'str'"
    assert str(inspect.signature(partial(join, "a"))) == "(*, end: 'int' = 2) -> 'str'"
    assert get_type_hints(loaded(join)) == {"first": str, "end": int, "return": str}


def test_a_function_is_what_it_is_loaded_or_not(join: OnDemand) -> None:
    assert loaded(join) is join.load()
    assert loaded(len) is len


def test_what_is_not_there_is_said_at_the_call(join: OnDemand) -> None:
    with pytest.raises(ModuleNotFoundError, match="steadymap_of_nobody"):
        OnDemand("steadymap_of_nobody:join")()
    with pytest.raises(AttributeError, match="no attribute 'joint'"):
        OnDemand(join.place + "t")()
