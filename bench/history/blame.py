"""Who did it: what changed between the runs either side of a step, the likeliest cause first.

A commit changes with nearly every run, a network's weights do not. What changes at the step, and
otherwise seldom without one, is named first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from steadymap.bench.gate.differences import value_at
from steadymap.bench.history.entry import SHORT, Entry
from steadymap.bench.history.segments import Segment
from steadymap.bench.history.steps import Step

WEIGHTS = "weights"
CODE = "code"
LIBRARY = "library"
MACHINE = "machine"
DATA = "data"
SETTINGS = "settings"
# What nobody changed on purpose comes last; of equals the first is named first.
CAUSES = (WEIGHTS, DATA, SETTINGS, LIBRARY, MACHINE, CODE)

# Settings that change where things go and how fast, and no score.
_NO_SETTINGS = ("data", "weights", "output", "model", "device", "shard", "parallel_config", "jobs")


@dataclass(frozen=True)
class Cause:
    """Something that changed at a step.

    Attributes:
        kind: one of `CAUSES`.
        changes: what of it, from what to what.
        run: the place of the first run that has it.
        elsewhere: the share of the segment's other changes from run to run, those where no step may
            be, at which something of this kind changed, too.
    """

    kind: str
    changes: tuple[str, ...]
    run: int
    elsewhere: float


def causes_of(segment: Segment, step: Step, steps: Sequence[Step]) -> list[Cause]:
    """Return what changed where a step may be, the likeliest cause first.

    First is what changed at the step itself and seldom changed elsewhere. Nothing is returned where
    the manifests of these runs say the same.

    Args:
        segment: of a history.
        step: of it.
        steps: all of the segment's.
    """
    at_steps = {place for other in steps for place in range(other.earliest, other.latest + 1)}
    quiet = [place for place in range(1, len(segment.entries)) if place not in at_steps]
    often = {
        kind: sum(bool(_changes(segment, place)[kind]) for place in quiet) / max(len(quiet), 1)
        for kind in CAUSES
    }
    found = [
        Cause(kind, changes, place, often[kind])
        for place in range(step.earliest, step.latest + 1)
        for kind, changes in _changes(segment, place).items()
        if changes
    ]
    return sorted(
        found,
        key=lambda cause: (
            cause.elsewhere,
            abs(cause.run - step.run),
            CAUSES.index(cause.kind),
        ),
    )


def _changes(segment: Segment, place: int) -> dict[str, tuple[str, ...]]:
    return changes(segment.entries[place - 1], segment.entries[place])


def changes(before: Entry, after: Entry) -> dict[str, tuple[str, ...]]:
    """Return by kind of cause what differs between two entries, from what to what."""
    first, second = before.manifest, after.manifest
    return {
        WEIGHTS: _unlike(first, second, _WEIGHTS),
        DATA: _unlike(first, second, _DATA),
        SETTINGS: _entries("", _settings(first), _settings(second)),
        LIBRARY: _entries("", first["versions"], second["versions"])
        + _entries("plug-in ", first.get("plugins", {}), second.get("plugins", {})),
        MACHINE: _entries("", first["machine"], second["machine"]),
        CODE: _code(before, after),
    }


_WEIGHTS = {
    "weights": ("model", "weights_sha256"),
    "model": ("model", "name"),
    "layer for Grad-CAM": ("model", "cam_layer"),
    "input size": ("model", "input_size"),
    "class names": ("model", "class_names"),
}
_DATA = {
    "data": ("data", "sha256"),
    "pictures": ("data", "pictures"),
    "pictures left out": ("data", "excluded"),
}


def _unlike(
    first: Mapping[str, Any], second: Mapping[str, Any], paths: Mapping[str, tuple[str, ...]]
) -> tuple[str, ...]:
    found = (
        (name, value_at(first, *path), value_at(second, *path)) for name, path in paths.items()
    )
    return tuple(_told(name, before, after) for name, before, after in found if before != after)


def _entries(prefix: str, first: Mapping[str, Any], second: Mapping[str, Any]) -> tuple[str, ...]:
    names = dict.fromkeys((*first, *second))
    found = ((name, first.get(name), second.get(name)) for name in names)
    return tuple(
        _told(f"{prefix}{name}", before, after) for name, before, after in found if before != after
    )


def _told(name: str, before: object, after: object) -> str:
    return f"{name} {_short(before)} -> {_short(after)}"


def _short(value: object) -> str:
    text = "none" if value is None else str(value)
    # A hash says no more when it is whole.
    return text[:SHORT] if len(text) in (40, 64) and " " not in text else text


def _settings(manifest: Mapping[str, Any]) -> dict[str, Any]:
    known = {
        key: value for key, value in manifest["configuration"].items() if key not in _NO_SETTINGS
    }
    return known | {"methods": ", ".join(manifest["methods"])}


def _code(before: Entry, after: Entry) -> tuple[str, ...]:
    """Return what differs in the code: the commit, and whether it had changes of its own."""
    texts = []
    if before.facts["commit"] != after.facts["commit"]:
        texts.append(_told("commit", before.facts["commit"], after.facts["commit"]))
    if value_at(after.manifest, "git", "changed"):
        texts.append("uncommitted changes after")
    if value_at(before.manifest, "git", "changed"):
        texts.append("uncommitted changes before")
    return tuple(texts)


Named = Callable[[int], str]


def verdict(causes: Sequence[Cause], step: Step, name: Named) -> str:
    """Return in a sentence what is likeliest to have done it.

    Args:
        causes: of the step, see `causes_of`.
        step: of a segment.
        name: returns what a run is called, by its place.
    """
    if not causes:
        return "nothing that manifests hold changed here: look at what they do not hold"
    first = causes[0]
    where = "" if first.run == step.run else f" with {name(first.run)}"
    others = [cause.kind for cause in causes[1:] if cause.run == first.run]
    beside = f"; {', '.join(others)} changed with it" if others else ""
    return f"{first.kind} changed{where}: {'; '.join(first.changes)}{beside}"
