"""A crossing: the weights from before a step, measured with what is installed now.

Where weights and something else changed at one step, two runs cannot tell which of them moved the
scores. The old weights with the new code can: scores as before the step mean that the weights did
it, scores as after it that they did not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from steadymap.bench.core import errors
from steadymap.bench.history import blame, entry, timeline
from steadymap.bench.records.vocabulary import FAMILY, METHOD, METRIC, VALUE

# Of a step so much must be on one side for a cause to be named.
CLEAR_SHARE = 0.25
# Keys of an experiment that say where things lie, or who computes.
_PLACES = ("weights", "parallel_config", "shard", "save_maps")


@dataclass(frozen=True)
class Crossing:
    """A step that is to be crossed.

    Attributes:
        era: the segment.
        number: of the step, from 1.
        before: the run whose weights are measured.
        after: the run after the step, whose installation is wanted.
    """

    era: timeline.Era
    number: int
    before: entry.Entry
    after: entry.Entry


def crossing_of(eras: Sequence[timeline.Era], number: int = 0) -> Crossing:
    """Return what is to be crossed, in the newest segment that has steps.

    Args:
        eras: of a history.
        number: of the step, from 1; 0 for the newest.

    Raises:
        ConfigError: there is no such step, or the weights are the same on both sides.
    """
    stepped = [era for era in eras if era.steps]
    if not stepped:
        raise errors.ConfigError("history: no line took a step: there is nothing to measure")
    era = stepped[-1]
    count = len(era.steps)
    if not 0 <= number <= count:
        raise errors.ConfigError(f"step: the newest segment has steps 1 to {count}, got {number}")
    number = number or count
    step = era.steps[number - 1]
    before = era.segment.entries[step.earliest - 1]
    after = era.segment.entries[step.latest]
    if not blame.changes(before, after)[blame.WEIGHTS]:
        raise errors.ConfigError(
            f"history: the weights are the same on both sides of step {number}: something else "
            "did it, and old weights cannot tell what"
        )
    return Crossing(era, number, before, after)


def settings_of(before: entry.Entry, data: str) -> dict[str, Any]:
    """Return the experiment of a run, as a configuration has it, without its weights.

    Args:
        before: the run.
        data: the spec of its data; "" takes the name that it had.
    """
    known = before.manifest["configuration"]
    settings = {
        key: value for key, value in known.items() if value is not None and key not in _PLACES
    }
    return settings | ({"data": data} if data else {})


def see_weights(before: entry.Entry, found: str) -> None:
    """See that weights are those of a run, by their hash.

    Raises:
        ConfigError: they are others.
    """
    wanted = str(before.manifest["model"].get("weights_sha256", ""))
    if found != wanted:
        raise errors.ConfigError(
            f"weights: the run before the step, {before.name}, has weights {wanted[:12]}, and "
            f"these are {found[:12]}; give its file with --weights"
        )


def see_data(before: entry.Entry, measured: entry.Entry) -> None:
    """See that a run was measured on the images of another.

    Raises:
        ConfigError: they are others.
    """
    if before.manifest["data"].get("sha256") != measured.manifest["data"].get("sha256"):
        raise errors.ConfigError(
            f"data: these are not the images of the run {before.name}; give their spec with --data"
        )


def sentences(crossing: Crossing, measured: entry.Entry) -> list[str]:
    """Return what a crossing says: the lines of the step, then who did it.

    Args:
        crossing: the step.
        measured: the weights from before it, with what is installed now.
    """
    step = crossing.era.steps[crossing.number - 1]
    values = {_key(row): float(row[VALUE]) for row in measured.scores.to_dict("records")}
    told, shares = [], []
    for found in step.lines:
        line = found.line
        value = values.get((line.method, line.metric, line.kind, line.family))
        if value is None:
            continue
        shares.append((value - found.before) / (found.after - found.before))
        told.append(f"{crossing.era.moved(found)}; the old weights here: {value:.4g}")
    if not shares:
        raise errors.ConfigError("history: the run measured here has no line of the step")
    return [*told, *_installed(crossing.after, measured), _verdict(shares[0])]


def _key(row: Mapping[Any, Any]) -> tuple[str, str, str, str]:
    return str(row[METHOD]), str(row[METRIC]), str(row["kind"]), str(row[FAMILY])


def _verdict(share: float) -> str:
    """Say who did it, by the share of a step that the old weights take, too."""
    if abs(share) <= CLEAR_SHARE:
        return "the weights did it: the old ones still give what was before the step"
    if abs(share - 1) <= CLEAR_SHARE:
        return "the weights did not do it: the old ones now give what is after the step, too"
    return "neither alone: the old weights are neither where they were, nor where the new ones are"


def _installed(after: entry.Entry, measured: entry.Entry) -> list[str]:
    """Return what this installation has otherwise than the run after the step."""
    differing = blame.changes(after, measured)
    kinds = (blame.CODE, blame.LIBRARY, blame.MACHINE, blame.SETTINGS)
    return [
        f"here, and not as in the run after the step: {text}"
        for kind in kinds
        for text in differing[kind]
    ]


def other_command(crossing: Crossing, settings: str) -> list[str]:
    """Return how the other crossing is measured: the new weights with the old installation.

    Args:
        crossing: the step.
        settings: the file of the experiment.
    """
    before, after = crossing.before, crossing.after
    changed = blame.changes(before, after)
    weights = str(after.manifest["model"].get("weights_sha256", ""))[: entry.SHORT]
    commit = str(before.facts["commit"])
    lines = ["the new weights with the old installation, which is not here:"]
    if commit:
        lines.append(f"  git worktree add ../before {commit}")
    pins = [
        f"{name}=={version}"
        for name, version in before.manifest["versions"].items()
        if any(text.startswith(f"{name} ") for text in changed[blame.LIBRARY])
        and name not in ("python", "steadymap")
    ]
    if pins:
        lines.append(f"  uv pip install {' '.join(pins)}")
    lines.append(
        f"  steadymap run --config {settings} --weights FILE-OF-{weights} --output runs/new-weights"
    )
    return lines
