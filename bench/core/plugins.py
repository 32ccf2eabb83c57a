"""Plug-ins: what other distributions bring, or a user's own module.

Installed distributions offer methods, families, metrics and models by entry points; anything else
is named `package.module:name`. Code is loaded for names from the command line, a configuration file
or Python, never for names that come out of the files of a run: these are looked up in what is known
already, or read as the run's manifest describes them.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import inspect
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Generic, Literal, TypeVar
from uuid import uuid4

from pydantic import TypeAdapter, ValidationError

from steadymap.bench.core.errors import PluginError, first_error, one_line
from steadymap.bench.core.names import nearest

Kind = Literal["method", "family", "metric", "model"]

GROUPS: dict[Kind, str] = {
    "method": "steadymap.methods",
    "family": "steadymap.families",
    "metric": "steadymap.metrics",
    "model": "steadymap.models",
}

# Dots, colons and commas mean something in a spec.
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
YOUR_OWN = "your own"

T = TypeVar("T")


@dataclass(frozen=True)
class Found(Generic[T]):
    """What was found under a name.

    Attributes:
        entry: it.
        source: the distribution and its version, or `your own`.
        place: `package.module:name`.
    """

    entry: T
    source: str
    place: str


@cache
def offers(kind: Kind) -> Mapping[str, tuple[EntryPoint, ...]]:
    """Return what installed distributions offer, by name; nothing of it is loaded."""
    by_name: dict[str, list[EntryPoint]] = defaultdict(list)
    try:
        entries = importlib.metadata.entry_points(group=GROUPS[kind])
    except Exception as error:  # noqa: BLE001 - a damaged distribution may raise anything; the line says what
        warn(f"no plug-ins: the installed distributions cannot be read: {one_line(error)}")
        return {}
    for entry in entries:
        by_name[entry.name].append(entry)
    return {name: tuple(by_name[name]) for name in sorted(by_name)}


def warn(text: str) -> None:
    """Print a line on stderr."""
    sys.stderr.write(f"steadymap: {text}\n")


class Shelf(Generic[T]):
    """Everything of one kind: ours, what distributions offer, and what a user names.

    Args:
        kind: which.
        ours: by name.
        adapt: makes an entry of what was found; TypeError says what it should have been.
        reserved: names that mean something else in records.
        also_called: by other names that people use, ours.
    """

    def __init__(
        self,
        kind: Kind,
        ours: Mapping[str, T],
        adapt: Callable[[object], T],
        reserved: Collection[str] = (),
        also_called: Mapping[str, str] | None = None,
    ) -> None:
        self.kind = kind
        self.ours = ours
        self.adapt = adapt
        self.reserved = reserved
        self.also_called = also_called or {}
        self._found: dict[str, Found[T]] = {}
        self._lent: dict[str, object] = {}

    def find(self, name: str) -> T:
        """Return what has a name; a plug-in, or `package.module:name`, is loaded.

        Raises:
            PluginError: nothing has it, two distributions have, or it cannot be loaded.
        """
        if name in self.ours:
            return self.ours[name]
        if name not in self._found:
            if name in offers(self.kind):
                self._found[name] = self._installed(name)
            elif ":" in name:
                self._found[name] = self._own(name)
            else:
                raise PluginError(f"unknown {self.kind} {name!r}; {self._hint(name)}")
        return self._found[name].entry

    def _hint(self, name: str) -> str:
        plain = name.lower().replace("-", "_").replace(" ", "_")
        if plain in self.also_called:
            return f"here it is called {self.also_called[plain]}"
        return nearest(name, self.names())

    def lend(self, entry: object) -> str:
        """Take an object of the user's; return the name that it has from now on.

        A function or class that its module has under its own name is named by its place, as on the
        command line. Any other, a lambda say, has a name in this process alone; since nobody can
        see all that it depends on, what it computes is not taken for what another process computed.

        Raises:
            PluginError: it is nothing of that kind.
        """
        place, lasting = _place_of(entry)
        name, number = place, 1
        while not lasting and self._lent.get(name, entry) is not entry:
            number += 1
            name = f"{place}_{number}"
        if self._lent.get(name) is not entry:
            try:
                adapted = self.adapt(entry)
            except TypeError as error:
                raise PluginError(f"{self.kind}: {name}: {error}") from error
            source = YOUR_OWN if lasting else f"{YOUR_OWN}, {uuid4().hex[:12]}"
            self._found[name] = Found(adapted, source, name)
            self._lent[name] = entry
        return name

    def known(self, name: str) -> T | None:
        """Return what has a name, if it is ours or has been found before; load nothing."""
        shelved = self._found.get(name)
        return self.ours.get(name) or (shelved.entry if shelved else None)

    def loaded(self) -> dict[str, T]:
        """Return the plug-ins that have been found before."""
        return {name: shelved.entry for name, shelved in self._found.items()}

    def where(self, name: str) -> Found[T] | None:
        """Return where a plug-in was found that has been asked for; None for what is ours."""
        return None if name in self.ours else self._found.get(name)

    def names(self) -> list[str]:
        """Return the names of ours and of plug-ins; nothing is loaded."""
        return [*self.ours, *(name for name in offers(self.kind) if name not in self.ours)]

    def installed(self) -> dict[str, Found[T]]:
        """Load every plug-in; those that cannot be had are left out, with a line on stderr each."""
        for name in offers(self.kind):
            if name in self._found:
                continue
            try:
                self._found[name] = self._installed(name)
            except PluginError as error:
                warn(f"left out: {error}")
        return {name: self._found[name] for name in offers(self.kind) if name in self._found}

    def _installed(self, name: str) -> Found[T]:
        entries = offers(self.kind)[name]
        whose = " and ".join(f"{_distribution(entry)} ({entry.value})" for entry in entries)
        label = f"{self.kind} {name!r} of {whose}"
        if name in self.ours:
            raise PluginError(f"{label}: the name is steadymap's own")
        if name in self.reserved or not NAME.fullmatch(name):
            raise PluginError(f"{label}: that is no name for a plug-in; rename its entry point")
        if len(entries) > 1:
            raise PluginError(f"{label}: two distributions have that name; uninstall one")
        (entry,) = entries
        try:
            adapted = self.adapt(entry.load())
        except (Exception, SystemExit) as error:  # a plug-in may raise anything; the line says what
            raise PluginError(f"{label}: {one_line(error)}") from error
        return Found(adapted, _distribution(entry), entry.value)

    def _own(self, name: str) -> Found[T]:
        module_name, _, attribute = name.partition(":")
        # A console script does not look in the current folder, where a user's own module is.
        if str(Path.cwd()) not in sys.path:
            sys.path.insert(0, str(Path.cwd()))
        try:
            module = importlib.import_module(module_name)
        except (Exception, SystemExit) as error:  # as above
            reason = one_line(error)
            if isinstance(error, ModuleNotFoundError) and error.name == module_name:
                reason += f"; {nearest(module_name, self.names())}"
            raise PluginError(f"{self.kind}: cannot import {module_name!r}: {reason}") from error
        if not hasattr(module, attribute):
            raise PluginError(f"{self.kind}: {module_name} has no {attribute!r}")
        try:
            adapted = self.adapt(getattr(module, attribute))
        except TypeError as error:
            raise PluginError(f"{self.kind}: {name}: {error}") from error
        return Found(adapted, YOUR_OWN, name)


def _place_of(entry: object) -> tuple[str, bool]:
    """Return `package.module:name` of an object, and whether whoever imports that gets it.

    A dataclass, a method say, is named by its first field, which is its function.
    """
    named: object = entry
    if is_dataclass(entry) and not inspect.isclass(entry):
        named = getattr(entry, fields(entry)[0].name)
    home = str(getattr(named, "__module__", None) or type(named).__module__)
    full = str(getattr(named, "__qualname__", type(named).__qualname__))
    name = re.sub(r"\W+", "_", full.rpartition("<locals>.")[2]).strip("_")
    # The shortest package that has it: that is where its authors want it found.
    parts = home.split(".")
    for length in range(1, len(parts) + 1):
        module = sys.modules.get(".".join(parts[:length]))
        if getattr(module, name, None) is entry:
            return f"{'.'.join(parts[:length])}:{name}", hasattr(module, "__file__")
    return f"{home}:{name}", False


def _distribution(entry: EntryPoint) -> str:
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist else "an unnamed distribution"


def check_function(function: object, takes: str) -> None:
    """See that something is a function that can be called with so many arguments.

    Args:
        function: the function.
        takes: its positional arguments, e.g. "image, severity, rng".

    Raises:
        TypeError: it is none, or takes others.
    """
    if not callable(function) or inspect.isclass(function):
        raise TypeError(f"is {_type_name(function)}, expected a function ({takes})")
    try:
        inspect.signature(function).bind(*(takes.split(", ") if takes else ()))
    except (TypeError, ValueError) as error:
        raise TypeError(f"must take ({takes}): {error}") from error


def _type_name(value: object) -> str:
    return f"the class {value.__name__}" if inspect.isclass(value) else type(value).__name__


def check_fields(entry: object) -> None:
    """See that the fields of a dataclass have the types that they are declared with.

    Raises:
        TypeError: one has not.
    """
    values = {field.name: getattr(entry, field.name) for field in fields(entry)}  # type: ignore[arg-type] # a dataclass
    try:
        TypeAdapter(type(entry)).validate_python(values)
    except ValidationError as error:
        value = error.errors()[0]["input"]
        raise TypeError(f"{first_error(error)}, got {value!r}") from error


def summary_of(entry: object) -> str:
    """Return the first line of what something says of itself; its name where it says nothing."""
    name = str(getattr(entry, "__name__", type(entry).__name__))
    return (inspect.getdoc(entry) or name).partition("\n")[0]
