"""In what two runs differ beside their scores, and what forbids to compare them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from steadymap.bench.core.names import without_steps


@dataclass(frozen=True)
class Differences:
    """What differs between two manifests.

    Attributes:
        forbidding: what makes a comparison meaningless.
        explaining: what may be why the scores differ.
    """

    forbidding: tuple[str, ...]
    explaining: tuple[str, ...]


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> Differences:
    """Hold two manifests against each other."""
    forbidding = [
        _unlike(subject, value_at(before, *path), value_at(after, *path))
        for subject, path in {
            "schema version": ("schema_version",),
            "data": ("data", "sha256"),
            "seed": ("seed",),
            "draws": ("configuration", "draws"),
            "null maps": ("configuration", "nulls"),
            "admission": ("configuration", "admission"),
            "cells of deletion": ("configuration", "cell_share"),
            "masks": ("configuration", "mask"),
        }.items()
        if value_at(before, *path) != value_at(after, *path)
    ]
    forbidding += _unlike_entries(
        "severities of", value_at(before, "severities"), after["severities"]
    )
    forbidding += _unlike_entries("metric", value_at(before, "metrics"), value_at(after, "metrics"))
    forbidding += _unlike_entries(
        "scale of", value_at(before, "own_metrics"), value_at(after, "own_metrics")
    )
    forbidding += _other_steps(before["methods"], after["methods"])
    explaining = [
        _unlike(subject, value_at(before, *path), value_at(after, *path))
        for subject, path in {
            "model": ("model", "name"),
            "weights": ("model", "weights_sha256"),
            "variant": ("configuration", "variant"),
            "layer for Grad-CAM": ("model", "cam_layer"),
            "input size": ("model", "input_size"),
            "engine": ("configuration", "engine"),
            "precision": ("configuration", "precision"),
            "device": ("machine", "device"),
            "processor": ("machine", "processor"),
            "commit": ("git", "commit"),
        }.items()
        if value_at(before, *path) != value_at(after, *path)
    ]
    explaining += _unlike_entries("version of", before["versions"], after["versions"])
    explaining += _unlike_entries(
        "plug-in", value_at(before, "plugins"), value_at(after, "plugins")
    )
    return Differences(tuple(forbidding), tuple(explaining))


def value_at(manifest: Mapping[str, Any], *path: str) -> Any:  # noqa: ANN401 - JSON
    """Return what a manifest holds under keys within keys; None where one is missing."""
    value: Any = manifest
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _unlike(subject: str, before: object, after: object) -> str:
    return f"{subject}: {_short(before)} and {_short(after)}"


def _short(value: object) -> str:
    text = "none" if value is None else str(value)
    # A hash says no more when it is whole.
    return text[:12] if len(text) in (40, 64) and " " not in text else text


def _unlike_entries(
    subject: str, before: Mapping[str, Any] | None, after: Mapping[str, Any] | None
) -> list[str]:
    """Name the entries that both have and that differ."""
    first, second = before or {}, after or {}
    return [
        _unlike(f"{subject} {name}", first[name], second[name])
        for name in first
        if name in second and first[name] != second[name]
    ]


def _other_steps(before: Sequence[str], after: Sequence[str]) -> list[str]:
    """Name the methods that both have with another number of steps."""
    sides: list[dict[str, set[str]]] = [{}, {}]
    for side, specs in zip(sides, (before, after), strict=True):
        for spec in specs:
            side.setdefault(without_steps(spec), set()).add(spec)
    first, second = sides
    return [
        f"steps: {', '.join(sorted(first[name]))} and {', '.join(sorted(second[name]))}"
        for name in first
        if name in second and not first[name] & second[name]
    ]
