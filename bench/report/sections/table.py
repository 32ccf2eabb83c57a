"""The sections of the page, in their order."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from steadymap.bench.report.finished_run import FinishedRun
from steadymap.bench.report.grid import Drawing
from steadymap.bench.report.sections import (
    admission,
    answer,
    completeness,
    cost,
    curves,
    faults,
    gallery,
    lead,
    leaderboard,
    trust,
    words,
)


def _no_drawings(_run: FinishedRun) -> list[Drawing]:
    return []


@dataclass(frozen=True)
class Section:
    """A section of the page.

    Attributes:
        context: returns what its partial prints, in words and numbers that are ready to print.
        drawings: returns its figures.
    """

    context: Callable[[FinishedRun], Mapping[str, Any]]
    drawings: Callable[[FinishedRun], list[Drawing]] = _no_drawings


# By the name of a module of this folder, and of its partial, `templates/sections/NAME.html`.
SECTIONS: dict[str, Section] = {
    "lead": Section(lead.context),
    "answer": Section(answer.context),
    "leaderboard": Section(leaderboard.context, leaderboard.drawings),
    "words": Section(words.context),
    "admission": Section(admission.context),
    "curves": Section(curves.context, curves.drawings),
    "gallery": Section(gallery.context),
    "completeness": Section(completeness.context, completeness.drawings),
    "faults": Section(faults.context, faults.drawings),
    "cost": Section(cost.context, cost.drawings),
    "trust": Section(trust.context),
}
