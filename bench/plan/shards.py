"""Shards: which images and views are computed together, and recorded."""

from __future__ import annotations

from dataclasses import dataclass

from steadymap.bench.perturbations.cell import CLEAN_CELL, Cell
from steadymap.bench.records.vocabulary import (
    MUST_DIFFER,
    OF_EVERY_METHOD,
    OF_STOCHASTIC,
    OTHER_SEED,
    REFERENCES,
)

# What a shard is asked for beside perturbations: all that clean maps are held against; and, of a
# few images, their maps computed in other ways.
NULL_VIEWS = Cell("references", 0.0, 0)
NUMERIC = Cell("numerics", 0.0, 0)

# Another seed: of all images for the methods that are declared stochastic, which stands among what
# clean maps are held against; and of those few images for every method, whatever it declares.
AGAIN = Cell(OTHER_SEED, 0.0, OF_STOCHASTIC)
AGAIN_BY_ALL = Cell(OTHER_SEED, 0.0, OF_EVERY_METHOD)


@dataclass(frozen=True)
class Shard:
    """A piece of a run that is computed and written as a whole.

    Attributes:
        indices: places of its images in the set: a block of it.
        methods: specs of the methods; `input` stands for what is recorded of the perturbed image
            itself.
        views: the clean view, `NULL_VIEWS` for what clean maps are held against, perturbations; or
            `NUMERIC` alone. What is not among them and needed is computed and not recorded.
    """

    indices: tuple[int, ...]
    methods: tuple[str, ...]
    views: tuple[Cell, ...]

    @property
    def cells(self) -> tuple[Cell, ...]:
        """The perturbations among its views."""
        return tuple(v for v in self.views if v not in (CLEAN_CELL, NULL_VIEWS, NUMERIC))


def recorded_as(cell: Cell) -> Cell:
    """Return the view of a shard that the records of a cell belong to."""
    if cell.family not in REFERENCES:
        return cell
    return NULL_VIEWS if cell.family in MUST_DIFFER or cell == AGAIN else NUMERIC
