"""An image cut into square cells, and in which order a map has them go."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from steadymap.metrics.faithfulness import enlarge, places
from steadymap.metrics.maps import Array

# The highest values first, or the largest magnitudes.
Order = Literal["signed", "magnitude"]
Ranks = NDArray[np.int64]

# In place of an order, where a map has none.
NO_ORDER = -1


@dataclass(frozen=True)
class Grid:
    """Square cells that cover an image; the last of a row or column take in what is left over.

    Attributes:
        size: height and width of the image.
        side: of a cell, in pixels.
    """

    size: tuple[int, int]
    side: int

    @classmethod
    def of(cls, size: tuple[int, int], share: float) -> Grid:
        """Cut an image of (H, W) into cells of about so large a share of its shorter side."""
        return cls(size, max(1, round(share * min(size))))

    @cached_property
    def cells(self) -> Ranks:
        """(H, W), the number of each pixel's cell, row by row."""
        down, across = (
            np.minimum(np.arange(length) // self.side, max(1, length // self.side) - 1)
            for length in self.size
        )
        numbers: Ranks = down[:, None] * (across[-1] + 1) + across
        return numbers

    @property
    def count(self) -> int:
        """How many cells there are."""
        return int(self.cells.max()) + 1

    def means(self, maps: Array) -> Array:
        """Return the means (B, cells) of maps (B, h, w), brought to the image's size first."""
        whole = enlarge(maps, self.size).reshape(len(maps), -1)
        places_of = self.cells.ravel()
        sizes = np.bincount(places_of, minlength=self.count)
        sums = [np.bincount(places_of, row, self.count) for row in whole]
        return np.stack(sums) / sizes

    def ranks(self, maps: Array, order: Order, ties: Ranks) -> Ranks:
        """Rank the cells of maps (B, h, w), 0 for the one that goes first: (B, cells).

        Args:
            maps: signed; a row that is not finite has no order.
            order: whether the highest values go first, or the largest magnitudes.
            ties: (B, cells), a permutation of each image's own, for cells that are equal.
        """
        finite = np.asarray(np.isfinite(maps).all(axis=(1, 2)))
        known = np.where(finite[:, None, None], maps, 0.0)
        means = self.means(np.abs(known) if order == "magnitude" else known)
        ranks: Ranks = places(means[:, None], ties)[:, 0]
        ranks[~finite] = NO_ORDER
        return ranks
