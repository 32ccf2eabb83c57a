"""A gate that looks as the images come, and stops when it has decided: when, and how sure it asks.

Whoever tests again and again finds something in the end. So the error that a test may make is spent
over the looks: next to nothing at the first, most of it at the last, which asks hardly more than if
it were the only one. Sources: Lan and DeMets 1983, with the spending function that is like O'Brien
and Fleming's; the boundaries by the recursion of Armitage, McPherson and Rowe 1969. They are
those of a normal statistic; a test by t asks for the p-value that the boundary has (Jennison and
Turnbull 2000, section 3.3).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy.optimize import brentq
from scipy.stats import norm

from steadymap.bench.gate.mean_test import FAIL_LEVEL, PASS_LEVEL

# When it is looked, as shares of the images: after 16, 24, 40, 48 and all of 60.
SHARES = (16 / 60, 24 / 60, 40 / 60, 48 / 60)

# Of the recursion: how far below 0, in standard deviations, and in how many steps.
LOWEST = -9.0
STEPS = 400
# No boundary lies beyond: the normal distribution has 1e-23 there.
HIGHEST = 10.0


def looks(count: int, starts: Sequence[int]) -> tuple[int, ...]:
    """Return after how many of `count` images it is looked: after whole blocks, and after all.

    Args:
        count: of all images.
        starts: where their blocks begin. Images are held against others of their block alone, so
            that whole blocks have the scores that they have among all.
    """
    whole = [start for start in starts if start]
    nearest = {
        min(whole, key=lambda start: abs(start - share * count)) for share in SHARES if whole
    }
    return (*sorted(nearest), count)


@dataclass(frozen=True)
class Look:
    """One of several looks at the same images, as they become more.

    Attributes:
        place: which, from 0 on.
        counts: how many images each look has, rising.
    """

    place: int
    counts: tuple[int, ...]

    @property
    def is_last(self) -> bool:
        """Whether all images are there."""
        return self.place == len(self.counts) - 1

    def fail_level(self, comparisons: int) -> float:
        """Return below which p-value a comparison fails at this look; adjusted after Bonferroni."""
        return self._nominal(FAIL_LEVEL / comparisons)

    @property
    def pass_level(self) -> float:
        """Return the level of the bound at this look; all comparisons must pass, so of each."""
        return self._nominal(PASS_LEVEL)

    def _nominal(self, level: float) -> float:
        times = tuple(count / self.counts[-1] for count in self.counts)
        return float(norm.sf(boundaries(times, level)[self.place]))


def spent(time: float, level: float) -> float:
    """Return the error that may have been made by a time from 0 to 1, as O'Brien and Fleming's."""
    return float(2 * norm.sf(norm.isf(level / 2) / math.sqrt(time)))


@cache
def boundaries(times: tuple[float, ...], level: float) -> tuple[float, ...]:
    """Return above which z a one-sided test stops at each look.

    Between two looks the sum of what is seen moves as a Brownian motion does: its density among the
    tests that have not stopped is carried from look to look on a grid.

    Args:
        times: shares of the images, rising to 1.
        level: of the whole test.
    """
    found: list[float] = []
    sums, weights = np.zeros(1), np.ones(1)
    before, used = 0.0, 0.0
    for time in times:
        step, root = math.sqrt(time - before), math.sqrt(time)
        wanted = spent(time, level) - used

        def excess(z: float) -> float:
            beyond = norm.sf((z * root - sums) / step)  # noqa: B023 - called within this turn alone
            return float(weights @ beyond) - wanted  # noqa: B023 - as above

        found.append(float(brentq(excess, -HIGHEST, HIGHEST, xtol=1e-10)))
        nodes, sizes = np.polynomial.legendre.leggauss(STEPS)
        low, high = LOWEST * root, found[-1] * root
        grid = low + (nodes + 1) * (high - low) / 2
        density = norm.pdf((grid[:, None] - sums) / step) @ weights / step
        sums, weights = grid, density * sizes * (high - low) / 2
        before, used = time, spent(time, level)
    return tuple(found)
