"""How a run went, and its manifest once that is known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from steadymap.bench.records.manifest_schema import MEASURED_AT
from steadymap.bench.runs.table import Assembled


@dataclass(frozen=True)
class Result:
    """How a run went.

    Attributes:
        seconds: by the clock.
        statuses: values by status.
        complete: whether it got to its end.
        at_once: the fewest images that went through the network together.
        halved: how many times that was halved because memory ran out.
        measured_at: when the last of it was computed, UTC, ISO 8601; "" where that is not known.
    """

    seconds: float
    statuses: Mapping[str, int]
    complete: bool
    at_once: int = 0
    halved: int = 0
    measured_at: str = ""


def result_of(table: Assembled) -> Result:
    """Return how a run went, of all the shards that its table was put together from."""
    return Result(
        sum(facts["seconds"] for facts in table.machines.values()),
        table.statuses,
        complete=True,
        at_once=table.at_once,
        halved=table.halved,
        measured_at=table.measured_at,
    )


def completed(manifest: Mapping[str, Any], result: Result) -> dict[str, Any]:
    """Return the manifest of a run that has been made."""
    # When it was measured is in no name and no identity: with it runs are put in order, no more.
    dated = {MEASURED_AT: result.measured_at} if result.measured_at else {}
    return (
        dict(manifest)
        | dated
        | {
            "complete": result.complete,
            "wall_seconds": round(result.seconds, 2),
            "images_at_once": result.at_once,
            "halved_for_memory": result.halved,
            "statuses": dict(sorted(result.statuses.items())),
        }
    )
