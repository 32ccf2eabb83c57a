"""One cell of a run: a family at a severity and a draw."""

from __future__ import annotations

from dataclasses import dataclass

from steadymap.bench.records.vocabulary import CLEAN


@dataclass(frozen=True)
class Cell:
    """One perturbation of every image: a family at a severity, and which of its draws."""

    family: str
    severity: float
    draw: int


CLEAN_CELL = Cell(CLEAN, 0.0, 0)
