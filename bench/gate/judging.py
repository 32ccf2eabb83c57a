"""The question of a gate, put to its two sides: comparisons of maps, and lines of the network."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pandas as pd

from steadymap.bench.gate import comparison, network_bounds, network_lines, retraining
from steadymap.bench.gate.margins import Margins
from steadymap.bench.gate.network_lines import NetworkLines
from steadymap.bench.gate.question import Asked, weights_of
from steadymap.bench.gate.side import Side


@dataclass(frozen=True)
class Judged:
    """What a gate found.

    Attributes:
        question: which was asked, and of what; the first line of the output.
        rows: comparisons of maps, as `compare` returns them.
        network: lines of the network.
    """

    question: str
    rows: pd.DataFrame
    network: NetworkLines


def judge(asked: Asked, after: Side, margins: Margins, *, network: bool = True) -> Judged:
    """Judge a run by the question that its weights ask.

    Args:
        asked: the question, with the baseline.
        after: the run.
        margins: how much worse is still as good.
        network: whether the network itself is judged, too.
    """
    before = asked.before
    reason = "" if network else "Maps alone are judged (--no-network)."
    lacking = [
        side.name for side in (*(asked.networks or (before,)), after) if side.predictions is None
    ]
    if network and lacking:
        reason = (
            f"Maps alone are judged: {', '.join(dict.fromkeys(lacking))} holds no predictions of "
            f"the network; renew it: steadymap baseline save RUN {before.name}"
        )
    looked_at = not reason
    if asked.networks:
        rows, lines = _of_recipe(asked, after, margins, looked_at=looked_at)
    else:
        rows = comparison.compare(before, after, margins)
        lines = NetworkLines()
        if looked_at:
            lines = network_lines.network_lines(before, after, margins)
            if weights_of(before) == weights_of(after):
                lines = _with_changed(lines, before, after)
    if lines.fell:
        rows = network_lines.uncounted(rows)
        note = "The network fell: what improved in its maps is not counted."
        lines = replace(lines, notes=(*lines.notes, note))
    return Judged(" ".join(filter(None, (asked.text, reason))), rows, lines)


def _of_recipe(
    asked: Asked, after: Side, margins: Margins, *, looked_at: bool
) -> tuple[pd.DataFrame, NetworkLines]:
    """Judge a new training by bounds of one more network of its recipe."""
    lines = retraining.lines_of(asked.networks, after, margins)
    shares = network_bounds.shares_of(asked.networks, after, margins) if looked_at else []
    rows = retraining.judged(lines, margins, len(shares))
    found = NetworkLines()
    if shares:
        found = network_bounds.network_bounds(shares, (asked.before, after), len(lines))
    notes = retraining.power_notes(lines, len(shares))
    return rows, replace(found, notes=(*found.notes, *notes))


def _with_changed(lines: NetworkLines, before: Side, after: Side) -> NetworkLines:
    """Name the predictions that differ though the weights are the same."""
    changed = network_lines.changed_predictions(before, after)
    if not changed:
        return replace(lines, notes=(*lines.notes, "Every prediction is as it was."))
    head = f"Predictions that differ with the same weights: {len(changed)}"
    return replace(lines, notes=(*lines.notes, head, *(f"  {text}" for text in changed)))
