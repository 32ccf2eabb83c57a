"""Is the mean of paired differences above 0, how far does it reach, and how many would show it?

The unit is the image. Partners within a block are shared, which these reckon without: simulations
on maps of known worth hold them to their level.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

CONFIDENCE = 0.95
POWER = 0.8

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Mean:
    """A mean over images.

    Attributes:
        count: how many images have a value.
        mean: NaN without any.
        low: lower end of the 95% interval, by Student's t; NaN below two images.
        high: upper end.
        p: of the mean being 0 or less, see `above_zero`.
    """

    count: int
    mean: float
    low: float
    high: float
    p: float


def mean_of(values: Floats) -> Mean:
    """Return the mean of values (images,), those that are NaN left out."""
    known = values[np.isfinite(values)]
    count = len(known)
    mean = float(known.mean()) if count else math.nan
    if count < 2:  # noqa: PLR2004 - one image has no spread
        return Mean(count, mean, math.nan, math.nan, 1.0)
    error = float(known.std(ddof=1)) / math.sqrt(count)
    reach = float(stats.t.isf((1 - CONFIDENCE) / 2, count - 1)) * error
    return Mean(count, mean, mean - reach, mean + reach, above_zero(known))


def above_zero(values: Floats) -> float:
    """Return the one-sided p that values (images,) have a mean of 0 or less.

    Student's t and Hall's transformation of it against skewness, whichever p is larger. Student's
    alone is too bold where a long tail is on the low side (at n = 20, level 1% and minus an
    exponential variable it errs in 4.7% of samples, Wilcoxon's signed ranks in 7.2%; this in 1.8%),
    and Hall's where tails are long on either side. Values that are all equal say nothing of chance:
    1 unless they are above 0. Source: Hall 1992, the cubic and monotone transformation.
    """
    count, mean = len(values), float(values.mean())
    spread = float(values.std(ddof=1))
    if spread == 0.0:
        return 0.0 if mean > 0 else 1.0
    ratio = mean / spread
    lean = float(((values - mean) ** 3).mean()) / float(values.std()) ** 3
    # Monotone in the ratio: however far above 0 a mean is, skewness does not turn it back.
    straight = ratio + lean * ratio**2 / 3 + lean**2 * ratio**3 / 27 + lean / (6 * count)
    return float(stats.t.sf(math.sqrt(count) * min(ratio, straight), count - 1))


def images_needed(values: Floats, level: float) -> int | None:
    """Return of how many images a mean above 0 would show, at a level, four times in five.

    By the normal approximation with Guenther's correction for an estimated spread; None where the
    mean is not above 0. Source: Guenther 1981.
    """
    known = values[np.isfinite(values)]
    if len(known) < 2 or known.mean() <= 0:  # noqa: PLR2004 - one image has no spread
        return None
    ratio = float(known.std(ddof=1) / known.mean())
    quantile = float(stats.norm.isf(level))
    needed = ((quantile + float(stats.norm.ppf(POWER))) * ratio) ** 2 + quantile**2 / 2
    return max(2, math.ceil(needed))


@dataclass(frozen=True)
class Ratio:
    """A ratio of two means over the same images, with its 95% interval.

    Attributes:
        value: NaN where the interval of the lower mean reaches 0.
        low: lower end; NaN likewise.
        high: upper end.
        count: how many images have both.
    """

    value: float
    low: float
    high: float
    count: int


def ratio_of_means(upper: Floats, lower: Floats) -> Ratio:
    """Return mean(upper) / mean(lower), both (images,), by Fieller's theorem.

    It has an interval of two ends just where that of the lower mean does not reach 0, which is
    where there is something to take a share of. Source: Fieller 1954.
    """
    known = np.isfinite(upper) & np.isfinite(lower)
    above, below = upper[known], lower[known]
    count = len(above)
    nothing = Ratio(math.nan, math.nan, math.nan, count)
    if count < 2:  # noqa: PLR2004 - as above
        return nothing
    quantile = float(stats.t.isf((1 - CONFIDENCE) / 2, count - 1))
    spread = np.cov(above, below) / count * quantile**2
    a, b = float(above.mean()), float(below.mean())
    reach = b * b - float(spread[1, 1])
    if b <= 0 or reach <= 0:
        return nothing
    middle = (a * b - float(spread[0, 1])) / reach
    inside = middle**2 - (a * a - float(spread[0, 0])) / reach
    width = math.sqrt(max(0.0, inside))  # rounding alone takes it below 0
    return Ratio(a / b, middle - width, middle + width, count)
