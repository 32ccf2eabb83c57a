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
from dataclasses import dataclass, fields, replace
from functools import cache
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import numpy as np
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from steadymap.bench.core.names import nearest
from steadymap.metrics import METRICS, Maps, Metric, TensorMaps
from steadymap.metrics.maps import Array
from steadymap.models import MODELS, Classifier, Model, ModelError, load_classifier

Kind = Literal["method", "family", "metric", "model"]

GROUPS: dict[Kind, str] = {
    "method": "steadymap.methods",
    "family": "steadymap.families",
    "metric": "steadymap.metrics",
    "model": "steadymap.models",
}

# Dots, colons and commas mean something in a spec.
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
MESSAGE_LENGTH = 300
YOUR_OWN = "your own"

T = TypeVar("T")


class PluginError(ValueError):
    """A plug-in that cannot be had: which, of whom, and why."""


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
    found: dict[str, list[EntryPoint]] = defaultdict(list)
    try:
        entries = importlib.metadata.entry_points(group=GROUPS[kind])
    except Exception as error:  # noqa: BLE001 - a damaged distribution may raise anything; the line says what
        warn(f"no plug-ins: the installed distributions cannot be read: {one_line(error)}")
        return {}
    for entry in entries:
        found[entry.name].append(entry)
    return {name: tuple(found[name]) for name in sorted(found)}


def warn(text: str) -> None:
    """Print a line on stderr."""
    sys.stderr.write(f"steadymap: {text}\n")


def one_line(error: BaseException) -> str:
    """Return an exception's type and message in one line."""
    text = " ".join(str(error).split())[:MESSAGE_LENGTH]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


class Shelf(Generic[T]):
    """Everything of one kind: ours, what distributions offer, and what a user names.

    Args:
        kind: which.
        ours: by name.
        adapt: makes an entry of what was found; TypeError says what it should have been.
        reserved: names that mean something else in records.
    """

    def __init__(
        self,
        kind: Kind,
        ours: Mapping[str, T],
        adapt: Callable[[object], T],
        reserved: Collection[str] = (),
    ) -> None:
        self.kind = kind
        self.ours = ours
        self.adapt = adapt
        self.reserved = reserved
        self._found: dict[str, Found[T]] = {}

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
                raise PluginError(f"unknown {self.kind} {name!r}; {nearest(name, self.names())}")
        return self._found[name].entry

    def known(self, name: str) -> T | None:
        """Return what has a name, if it is ours or has been found before; load nothing."""
        found = self._found.get(name)
        return self.ours.get(name) or (found.entry if found else None)

    def loaded(self) -> dict[str, T]:
        """Return the plug-ins that have been found before."""
        return {name: found.entry for name, found in self._found.items()}

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
            found = self.adapt(entry.load())
        except (Exception, SystemExit) as error:  # a plug-in may raise anything; the line says what
            raise PluginError(f"{label}: {one_line(error)}") from error
        return Found(found, _distribution(entry), entry.value)

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
            found = self.adapt(getattr(module, attribute))
        except TypeError as error:
            raise PluginError(f"{self.kind}: {name}: {error}") from error
        return Found(found, YOUR_OWN, name)


def _distribution(entry: EntryPoint) -> str:
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist else "an unnamed distribution"


def check_function(found: object, takes: str) -> None:
    """See that something is a function that can be called with so many arguments.

    Args:
        found: the function.
        takes: its positional arguments, e.g. "image, severity, rng".

    Raises:
        TypeError: it is none, or takes others.
    """
    if not callable(found) or inspect.isclass(found):
        raise TypeError(f"is {_type_name(found)}, expected a function ({takes})")
    try:
        inspect.signature(found).bind(*(takes.split(", ") if takes else ()))
    except (TypeError, ValueError) as error:
        raise TypeError(f"must take ({takes}): {error}") from error


def _type_name(found: object) -> str:
    return f"the class {found.__name__}" if inspect.isclass(found) else type(found).__name__


def check_fields(entry: object) -> None:
    """See that the fields of a dataclass have the types that they are declared with.

    Raises:
        TypeError: one has not.
    """
    values = {field.name: getattr(entry, field.name) for field in fields(entry)}  # type: ignore[arg-type] # a dataclass
    try:
        TypeAdapter(type(entry)).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise TypeError(f"{key}: {first['msg']}, got {first['input']!r}") from error


def summary_of(found: object) -> str:
    """Return the first line of what something says of itself; its name where it says nothing."""
    name = str(getattr(found, "__name__", type(found).__name__))
    return (inspect.getdoc(found) or name).partition("\n")[0]


# --- metrics --------------------------------------------------------------------------------------


def _as_metric(found: object) -> Metric:
    """Make an entry of a `Metric`, or of a function of the clean and the perturbed maps.

    Of a function nothing is known but that it compares two maps: higher is taken for better, it is
    not calibrated, because nobody says what a perfect score is, and no map is recognised by it.
    """
    if isinstance(found, Metric):
        check_fields(found)
        if found.identity is not None and not np.isfinite(found.identity):
            raise TypeError(f"identity: must be a finite number or None, got {found.identity}")
        metric = found
    else:
        check_function(found, "clean, perturbed")
        metric = Metric(
            found,  # type: ignore[arg-type] # seen to be a function of two
            "signed",
            "map",
            "higher",
            None,
            symmetric=False,
            summary=summary_of(found),
            source=YOUR_OWN,
        )
    on_tensors = metric.on_tensors and _on_copies(metric.on_tensors)
    return replace(metric, compute=_on_copies(metric.compute), on_tensors=on_tensors)


def _on_copies(compute: Callable[..., Any]) -> Callable[..., Any]:
    """Give a function maps of its own: what it writes into them changes no other metric."""

    def on_copies(*given: Maps | TensorMaps | Array | Tensor) -> object:
        return compute(*map(_copy, given))

    return on_copies


def _copy(given: Maps | TensorMaps | Array | Tensor) -> Maps | TensorMaps | Array | Tensor:
    if isinstance(given, Maps):
        return Maps(given.signed.copy())
    if isinstance(given, TensorMaps):
        return TensorMaps(given.signed.clone())
    return given.clone() if isinstance(given, Tensor) else given.copy()


# All but what computes.
DESCRIBED = tuple(
    field.name for field in fields(Metric) if field.name not in ("compute", "on_tensors")
)

# What records hold beside metrics of maps: of the input, and of paths.
METRIC_SHELF = Shelf("metric", METRICS, _as_metric, ("input_change", "saturated_share", "steps"))


def describe(metrics: Mapping[str, Metric]) -> dict[str, dict[str, object]]:
    """Return what must be known of metrics to read their values, for a manifest."""
    return {
        name: {key: getattr(metric, key) for key in DESCRIBED} for name, metric in metrics.items()
    }


def known_metrics(*manifests: Mapping[str, Any]) -> dict[str, Metric]:
    """Return the metrics whose values can be read: ours, and those that manifests describe.

    Nothing is loaded for a name in a manifest: a metric that is described there can be read, not
    computed. Without a manifest, those that have been loaded already are known, too.

    Raises:
        PluginError: a description that is none.
    """
    found = {} if manifests else METRIC_SHELF.loaded()
    for manifest in manifests:
        own = manifest.get("own_metrics") or {}
        if not isinstance(own, Mapping):
            raise PluginError("own_metrics: the manifest does not describe metrics")
        for name, described in own.items():
            try:
                given = {**described, "compute": _elsewhere}
                found[name] = _described().validate_python(given)
            except (ValidationError, TypeError) as error:
                raise PluginError(f"metric {name!r}: the manifest does not describe it") from error
    return METRICS | {name: metric for name, metric in found.items() if name not in METRICS}


@cache
def _described() -> TypeAdapter[Metric]:
    return TypeAdapter(Metric)


def _elsewhere(_maps: Maps, _other: Maps) -> Array:
    raise TypeError("a metric that a manifest describes can be read, not computed")


# --- models ---------------------------------------------------------------------------------------


def _as_factory(found: object) -> Model | Callable[[], Classifier]:
    check_function(found, "")
    return found  # type: ignore[return-value] # seen to be a function; what it returns is seen later


MODEL_SHELF: Shelf[Model | Callable[[], Classifier]] = Shelf("model", MODELS, _as_factory)


def load_model(
    spec: str, weights: Path | None = None, device: str | torch.device = "cpu"
) -> Classifier:
    """Load a classifier by name, as `load_classifier` does, or the plug-in of that name.

    Raises:
        ModelError: as `load_classifier`, or a plug-in that cannot be loaded.
    """
    if spec in MODELS or ":" in spec or spec not in offers("model"):
        return load_classifier(spec, weights, device)
    try:
        MODEL_SHELF.find(spec)
    except PluginError as error:
        raise ModelError(str(error)) from error
    place = offers("model")[spec][0].value
    return replace(load_classifier(place, weights, device), name=spec)
