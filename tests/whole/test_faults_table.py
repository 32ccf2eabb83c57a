"""The table of faults names tests that there are."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from support import ROOT

ROWS = [
    [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
    for line in (ROOT / "docs" / "faults.md").read_text(encoding="utf-8").splitlines()
    if line.startswith("|") and not line.startswith(("| fault ", "|---"))
]
NO_PROMISE = ("not caught", "out of scope", "no promise", "not seen")


def functions_of(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_there_is_a_table() -> None:
    assert len(ROWS) > 100


@pytest.mark.parametrize("row", ROWS, ids=[row[0][:60] for row in ROWS])
def test_each_promise_has_a_test(row: list[str]) -> None:
    assert len(row) == 3, "fault, promise, test"
    named = re.findall(r"`(tests/\w+/\w+\.py)::(\w+)`", row[2])
    assert named or any(words in row[1] for words in NO_PROMISE), row
    for file, name in named:
        assert name in functions_of(ROOT / file), f"{file} has no {name}"
