"""Means and ratios over images: their bootstrap intervals, and whether a mean is above 0.

The unit is the image. Partners within a block are shared, which the tests of a mean reckon without:
simulations on maps of known worth hold them to their level.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from steadymap.bench.core.randomness import generator

Floats = NDArray[np.float64]

CONFIDENCE = 0.95
POWER = 0.8
RESAMPLES = 2000
ROUGH_BELOW = 30

# Values held by the resampling: 32 MiB.
RESAMPLED_AT_ONCE = 2**22


@dataclass(frozen=True)
class Interval:
    """A mean over images with its interval.

    Attributes:
        mean: NaN where no image has a value.
        low: lower end of the 95% interval, NaN below two images.
        high: upper end.
        kind: `bca`; `point` where images agree and resampling says nothing; `none` below two.
    """

    mean: float
    low: float
    high: float
    kind: str


def intervals(rows: Sequence[Floats]) -> list[Interval]:
    """Return, for each row of values (images,), their mean with its interval.

    Bias-corrected and accelerated bootstrap, through SciPy. Rows of equal length are resampled
    together, by the same draws of images: the interval of a row hangs on its own values alone.
    Source: Efron 1987.
    """
    estimates = [_without_interval(values) for values in rows]
    for count in sorted({len(values) for values in rows} - {0, 1}):
        places = [place for place, values in enumerate(rows) if len(values) == count]
        at_once = max(1, RESAMPLED_AT_ONCE // (RESAMPLES * count))
        for low in range(0, len(places), at_once):
            few = places[low : low + at_once]
            # A row alone is laid out otherwise, and so rounded otherwise than among others.
            together = few * 2 if len(few) == 1 < at_once else few
            ends = _bca((np.stack([rows[place] for place in together]),), np.mean)
            for place, low_end, high_end in zip(together, *ends, strict=True):
                mean = estimates[place].mean
                estimates[place] = (
                    Interval(mean, mean, mean, "point")
                    if np.isnan(low_end) or np.isnan(high_end)
                    else Interval(mean, float(low_end), float(high_end), "bca")
                )
    return estimates


def ratio_intervals(samples: Sequence[Floats]) -> list[Interval]:
    """Return, for each sample, 1 - mean(first row) / smallest mean of the other rows.

    Args:
        samples: each (rows, images), the first row known throughout; in the others NaN is what is
            not known. Images are resampled, all rows together.

    Bias-corrected and accelerated bootstrap, through SciPy, as in `intervals`.
    """
    ratios: list[Interval] = []
    for sample in samples:
        value = float(_one_minus_ratio(*sample))
        low = high = np.nan
        if sample.shape[1] > 1:
            low, high = (float(end[0]) for end in _bca(tuple(sample[:, None]), _one_minus_ratio))
        if np.isfinite([low, high]).all():
            ratios.append(Interval(value, low, high, "bca"))
        elif _stays(sample, value):
            ratios.append(Interval(value, value, value, "point"))
        else:
            ratios.append(Interval(value, np.nan, np.nan, "none"))
    return ratios


def _stays(sample: Floats, value: float) -> bool:
    """Return whether leaving out any one image leaves the ratio as it is."""
    count = sample.shape[1]
    return count > 1 and all(
        bool(np.isclose(_one_minus_ratio(*np.delete(sample, place, axis=1)), value, rtol=1e-12))
        for place in range(count)
    )


def _one_minus_ratio(first: Floats, *others: Floats, axis: int = -1) -> Floats:
    means = [mean_of_known(other, axis) for other in others]
    with np.errstate(invalid="ignore", divide="ignore"):  # nothing moves in it: NaN
        ratio: Floats = 1 - first.mean(axis=axis) / np.minimum.reduce(means)
    return ratio


def mean_of_known(rows: Floats, axis: int) -> Floats:
    """Average over an axis what is known; NaN where nothing is."""
    known = np.isfinite(rows)
    count = known.sum(axis=axis)
    total = np.where(known, rows, 0.0).sum(axis=axis)
    mean: Floats = np.divide(total, count, out=np.full(count.shape, np.nan), where=count > 0)
    return mean


def _without_interval(values: Floats) -> Interval:
    mean = float(values.mean()) if len(values) else np.nan
    return Interval(mean, np.nan, np.nan, "none")


def _bca(values: tuple[Floats, ...], statistic: Callable[..., Floats]) -> tuple[Floats, Floats]:
    """Return both ends for values, each (rows, images); NaN where resampling says nothing.

    Several values are of the same images, and resampled together.
    """
    with warnings.catch_warnings(), np.errstate(invalid="ignore", divide="ignore"):
        # Where resampling says nothing SciPy warns and returns NaN; the caller decides.
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        interval = stats.bootstrap(
            values,
            statistic,
            axis=1,
            paired=len(values) > 1,
            confidence_level=CONFIDENCE,
            n_resamples=RESAMPLES,
            # Of resamples, and of the jackknife's rows, which are as many as images.
            batch=max(1, RESAMPLED_AT_ONCE // values[0].size),
            method="BCa",
            rng=generator("interval", values[0].shape[1]),
        ).confidence_interval
    return np.asarray(interval.low), np.asarray(interval.high)


# --- is a mean above 0? ---------------------------------------------------------------------------


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

    Student's t and Hall's t corrected for skewness, whichever is smaller. Student's alone is too
    bold where a long tail is on the low side (at n = 20, level 1% and minus an exponential variable
    it errs in 4.8% of samples, Wilcoxon's signed ranks in 7.2%; this in 2.1%, at n = 60 in 1.3%),
    and Hall's where tails are long on either side. Hall's grows with the mean, which Johnson's of
    1978, its first two terms, does not: there the clearest of means would show nothing. Values that
    are all equal say nothing of chance: 1 unless they are above 0. Source: Hall 1992, On the
    removal of skewness by transformation, equation 3.
    """
    if float(values.std(ddof=1)) == 0.0:
        return 0.0 if values.mean() > 0 else 1.0
    return float(stats.t.sf(cautious_t(values), len(values) - 1))


def cautious_t(values: Floats) -> Floats:
    """Return Student's t of values (..., images), or Hall's where that is smaller: (...).

    Of values that are not all equal; for what it is good see `above_zero`.
    """
    mean, spread = values.mean(axis=-1), values.std(axis=-1, ddof=1)
    root = math.sqrt(values.shape[-1])
    plain = root * mean / spread
    lean = leaning(values)
    corrected = plain + lean / 6 + lean * plain**2 / 3 + lean**2 * plain**3 / 27
    least: Floats = np.minimum(plain, corrected)
    return least


def leaning(values: Floats) -> Floats:
    """Return the skewness of values (..., images) over the square root of their number: (...)."""
    mean, spread = values.mean(axis=-1), values.std(axis=-1, ddof=1)
    third = ((values - mean[..., None]) ** 3).mean(axis=-1)
    lean: Floats = third / spread**3 / math.sqrt(values.shape[-1])
    return lean


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
