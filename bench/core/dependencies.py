"""What a user's module runs on: its own source, and that of all it imports which is not installed.

The names of units hold a hash of it, so that what an edited helper would compute otherwise is not
taken for what is there. It is read off the sources, wherever an import stands in them, and off the
globals of modules that are loaded; nothing is imported for it. Of what is installed the version
counts. What cannot be seen so: files that code reads, and modules named only while it runs.
"""

from __future__ import annotations

import ast
import hashlib
import os
import sys
import sysconfig
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from steadymap.bench.core.errors import ConfigError, one_line
from steadymap.bench.core.origin import PACKAGE

# Folders of what is installed.
SITES = frozenset({"site-packages", "dist-packages"})
# Functions that import what their first argument says.
IMPORTERS = frozenset({"import_module", "__import__"})


@dataclass(frozen=True)
class _Home:
    """Where a module lies, loaded or not.

    Attributes:
        name: of the module.
        file: its source or its binary; None where it has none, as a folder without `__init__`.
        loader: what reads that file.
        below: where its submodules are looked for; None where it is no package.
        module: itself, if it is loaded.
    """

    name: str
    file: str | None
    loader: Any
    below: Sequence[str] | None
    module: ModuleType | None

    @property
    def package(self) -> str:
        """What relative imports start from."""
        return self.name if self.below is not None else self.name.rpartition(".")[0]


def source_hash(name: str, others: Iterable[str] = ()) -> str:
    """Return the SHA-256 of the source of modules, and of all that they import of a user's own.

    Each module counts with its name, not with where it lies, and its line endings do not count.

    Args:
        name: of a module, which counts with its top-level package even where it is installed; or
            empty.
        others: names of more modules; what is installed of them does not count.

    Returns:
        The hash; empty where nothing counts.

    Raises:
        ConfigError: a source can no longer be read.
    """
    top, digests = _top(name), dict[str, str]()
    waiting, met = [*_with_parents(name), *others], set[str]()
    while waiting:
        one = waiting.pop()
        home = None if one in met or _top(one) == PACKAGE else _home(one)
        met.add(one)
        if home is None or home.file is None or (_top(one) != top and _installed(home.file)):
            continue
        source = _read(home)
        digests[one] = hashlib.sha256(source).hexdigest()
        for imported in (*_imports(source, home), *_owners(home)):
            waiting += _with_parents(imported)
    lines = "".join(f"{one} {digests[one]}\n" for one in sorted(digests))
    return hashlib.sha256(lines.encode()).hexdigest() if lines else ""


def _top(name: str) -> str:
    return name.partition(".")[0]


def _with_parents(name: str) -> Iterator[str]:
    """Yield a module's name and those of the packages above it, which are loaded with it."""
    while name:
        yield name
        name = name.rpartition(".")[0]


def _home(name: str) -> _Home | None:
    """Return where a module lies; None where there is none of that name. Nothing is imported."""
    module = sys.modules.get(name)
    if module is not None:
        file, loader = getattr(module, "__file__", None), getattr(module, "__loader__", None)
        return _Home(name, file, loader, getattr(module, "__path__", None), module)
    parent = name.rpartition(".")[0]
    above = _home(parent) if parent else None
    path = None if above is None else above.below
    if parent and path is None:
        return None
    # Not `importlib.util.find_spec`, which imports the packages above.
    for finder in sys.meta_path:
        spec = finder.find_spec(name, path)
        if spec is not None:
            file = spec.origin if spec.has_location else None
            return _Home(name, file, spec.loader, spec.submodule_search_locations, None)
    return None


@cache
def _library() -> tuple[str, ...]:
    """Return the folders of the standard library, each with the way that links lead."""
    folders = {sysconfig.get_path(key) for key in ("stdlib", "platstdlib")}
    return tuple({*folders, *map(os.path.realpath, folders)})


def _installed(file: str) -> bool:
    """Return whether a file is of the standard library or of an installed distribution.

    One that is installed to be edited lies where its user edits it.
    """
    return not SITES.isdisjoint(Path(file).parts) or any(
        Path(place).is_relative_to(folder)
        for place in (file, os.path.realpath(file))
        for folder in _library()
    )


# By name, the source of a module as it was first read, and the spec that it was loaded by: a
# process that lives long goes on with what it has loaded, whatever the file says by then. The spec
# is None where the module was not loaded yet.
_first_read: dict[str, tuple[object, bytes]] = {}


def _read(home: _Home) -> bytes:
    """Return what a module is made of, lines ending as on Unix."""
    spec = getattr(home.module, "__spec__", None)
    known = _first_read.get(home.name)
    # By identity: loaded again, it has another spec that is equal.
    if home.module and known and known[0] is spec:
        return known[1]
    try:
        source = bytes(home.loader.get_data(home.file))
    except (OSError, AttributeError) as error:
        raise ConfigError(
            f"module {home.name}: its source cannot be read, and records depend on it: "
            f"{one_line(error)}"
        ) from error
    if not str(home.file).endswith(tuple(EXTENSION_SUFFIXES)):
        source = source.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    if home.module and known and known[0] is None and known[1] != source:
        # Edited between a first reading and now, it was loaded before the edit or after it: both
        # count, so that what it computes has a name of its own.
        source = known[1] + source
    _first_read[home.name] = (spec, source)
    return source


def _imports(source: bytes, home: _Home) -> Iterator[str]:
    """Yield what may be a module that a source imports, wherever the import stands."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes in texts that are not ours
            tree = ast.parse(source)
    except (SyntaxError, ValueError):  # a binary, or no Python that could be loaded
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(node.level, node.module or "", home.package)
            yield base
            # Submodules are not told from what a module defines: those are looked for in vain.
            yield from (f"{base}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and node.args:
            called = getattr(node.func, "attr", getattr(node.func, "id", ""))
            named = getattr(node.args[0], "value", None)
            if called in IMPORTERS and isinstance(named, str):
                plain = named.lstrip(".")
                yield _absolute(len(named) - len(plain), plain, home.package)


def _absolute(level: int, name: str, package: str) -> str:
    """Return the whole name of what is imported with so many dots in front."""
    above = package.rsplit(".", level - 1)[0] if level else ""
    return ".".join(part for part in (above, name) if part)


def _owners(home: _Home) -> Iterator[str]:
    """Yield the modules that a loaded module's globals are, or are defined in."""
    # Anything may stand in place of a module.
    for key, value in list(getattr(home.module, "__dict__", {}).items()):
        if isinstance(value, ModuleType):
            # Python puts a submodule into its package, whoever has imported it.
            if value.__name__ != f"{home.name}.{key}":
                yield value.__name__
        else:
            kind = value if isinstance(value, type | FunctionType) else type(value)
            if isinstance(kind.__module__, str):
                yield kind.__module__
