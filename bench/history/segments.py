"""A history in segments: runs that can be compared with each other, in the order of their dates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from steadymap.bench.gate.differences import differences
from steadymap.bench.history.entry import Entry

RENEWED = "renewed on purpose"


@dataclass(frozen=True)
class Segment:
    """Runs that can be compared with each other.

    Attributes:
        entries: the oldest first, one at least.
        borders: why they cannot be compared with the runs before; empty in the first segment.
    """

    entries: tuple[Entry, ...]
    borders: tuple[str, ...]


def segments(entries: Sequence[Entry]) -> list[Segment]:
    """Cut a history where runs cannot be compared.

    An entry belongs to the newest segment with whose last entry it can be compared: two experiments
    that are added by turns are two segments. One that is renewed on purpose starts a segment, and
    those before it are continued by nobody who can be compared with it.

    Args:
        entries: of a history, in any order.
    """
    cut: list[tuple[list[Entry], tuple[str, ...]]] = []
    for entry in sorted(entries, key=lambda entry: entry.order):
        borders: tuple[str, ...] = ()
        home = None
        for chain, _ in reversed(cut):
            forbidding = _forbidding(chain[-1], entry)
            borders = borders or forbidding
            if not forbidding:
                home = chain
                break
        if home is not None and not entry.facts["renewed"]:
            home.append(entry)
            continue
        if entry.facts["renewed"] and cut:
            borders = (RENEWED,)
        cut.append(([entry], borders))
    return [Segment(tuple(chain), borders) for chain, borders in cut]


def _forbidding(before: Entry, after: Entry) -> tuple[str, ...]:
    """Return what forbids to compare two entries, as the gate has it, and other rules."""
    first, second = before.facts["rules"], after.facts["rules"]
    other = (f"rules: {first} and {second}",) if first != second else ()
    return other + differences(before.manifest, after.manifest).forbidding
