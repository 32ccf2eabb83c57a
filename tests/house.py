"""Figures of the house, by syntax tree: `python tests/house.py [ROOT]`.

How many modules a room has, how long they and their functions are, how many imports a module has,
how many local names say nothing, and how many public names are defined twice.
"""

from __future__ import annotations

import ast
import statistics
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

FOLDERS = ("bench", "metrics", "models")
# Lines of a function.
LONG = 50

# Names that do not say what they hold.
VAGUE = {
    "done", "every", "found", "gone", "given", "here", "it", "left", "like", "made", "mine", "more",
    "now", "one", "ones", "said", "some", "take", "taken", "them", "there", "these", "thing",
    "things", "this", "those", "told", "what", "whole",
}  # fmt: skip


@dataclass(frozen=True)
class Module:
    """One file of code.

    Attributes:
        room: its folder, below the repository.
        path: of the file, below the repository.
        tree: its syntax tree.
        lines: how many it has.
    """

    room: str
    path: str
    tree: ast.Module
    lines: int

    @property
    def imports(self) -> int:
        """How many statements import something, `from __future__` aside."""
        return sum(
            isinstance(node, ast.Import)
            or (isinstance(node, ast.ImportFrom) and node.module != "__future__")
            for node in ast.walk(self.tree)
        )

    @property
    def functions(self) -> list[ast.FunctionDef]:
        """Every function and method."""
        return [node for node in ast.walk(self.tree) if isinstance(node, ast.FunctionDef)]

    @property
    def public(self) -> set[str]:
        """Names of the functions and classes that others may use."""
        kinds = (ast.FunctionDef, ast.ClassDef)
        names = {node.name for node in self.tree.body if isinstance(node, kinds)}
        return {name for name in names if not name.startswith("_")}


def modules_of(root: Path) -> list[Module]:
    """Return the modules of the package, `__init__` aside."""
    modules = []
    for folder in FOLDERS:
        for path in sorted((root / folder).rglob("*.py")):
            if path.name == "__init__.py":
                continue
            code = path.read_text(encoding="utf-8")
            place = path.relative_to(root)
            lines = len(code.splitlines())
            modules.append(Module(str(place.parent), str(place), ast.parse(code), lines))
    return modules


def locals_of(function: ast.FunctionDef) -> set[str]:
    """Return the arguments of a function and the names that it sets."""
    names = {
        node.id
        for node in ast.walk(function)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    }
    return names | {node.arg for node in ast.walk(function) if isinstance(node, ast.arg)}


def defined_twice(modules: list[Module]) -> list[str]:
    """Return the public names that more than one module defines."""
    counts = Counter(name for module in modules for name in module.public)
    return sorted(name for name, count in counts.items() if count > 1)


def figures(root: Path) -> list[str]:
    """Return the figures of a checkout, a line each."""
    modules = modules_of(root)
    functions = [function for module in modules for function in module.functions]
    lengths = [(node.end_lineno or node.lineno) - node.lineno + 1 for node in functions]
    names = [name for function in functions for name in locals_of(function)]
    vague = sum(name in VAGUE for name in names)
    rooms = Counter(module.room for module in modules)
    lines = Counter[str]()
    for module in modules:
        lines[module.room] += module.lines
    longest = max(modules, key=lambda module: module.lines)
    twice = defined_twice(modules)
    return [
        f"{len(modules)} modules, {sum(module.lines for module in modules)} lines",
        f"imports a module: {statistics.median(module.imports for module in modules):g} (median)",
        f"longest module: {longest.path}, {longest.lines} lines",
        f"functions: {len(functions)}, median {statistics.median(lengths):g} lines",
        f"functions of more than 50 lines: {sum(length > LONG for length in lengths)}",
        f"vague local names: {vague} of {len(names)}, {vague / len(names):.1%}",
        f"public names defined twice or more: {len(twice)}",
        *(f"{room}: {count} modules, {lines[room]} lines" for room, count in rooms.items()),
    ]


if __name__ == "__main__":
    root = Path(sys.argv[1]) if sys.argv[1:] else Path(__file__).resolve().parents[1]
    sys.stdout.write("\n".join(figures(root)) + "\n")
