"""Bootstrap intervals of means and of ratios over images."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import DegenerateDataWarning, bootstrap

from steadymap.bench.core.randomness import generator

CONFIDENCE = 0.95
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


def intervals(rows: Sequence[NDArray[np.float64]]) -> list[Interval]:
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


def ratio_intervals(samples: Sequence[NDArray[np.float64]]) -> list[Interval]:
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


def _stays(sample: NDArray[np.float64], value: float) -> bool:
    """Return whether leaving out any one image leaves the ratio as it is."""
    count = sample.shape[1]
    return count > 1 and all(
        bool(np.isclose(_one_minus_ratio(*np.delete(sample, place, axis=1)), value, rtol=1e-12))
        for place in range(count)
    )


def _one_minus_ratio(
    first: NDArray[np.float64], *others: NDArray[np.float64], axis: int = -1
) -> NDArray[np.float64]:
    means = [_known_mean(other, axis) for other in others]
    with np.errstate(invalid="ignore", divide="ignore"):  # nothing moves in it: NaN
        ratio: NDArray[np.float64] = 1 - first.mean(axis=axis) / np.minimum.reduce(means)
    return ratio


def _known_mean(values: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    known = np.isfinite(values)
    total: NDArray[np.float64] = np.where(known, values, 0.0).sum(axis=axis)
    with np.errstate(invalid="ignore"):  # no value is known: NaN
        mean: NDArray[np.float64] = total / known.sum(axis=axis)
    return mean


def _without_interval(values: NDArray[np.float64]) -> Interval:
    mean = float(values.mean()) if len(values) else np.nan
    return Interval(mean, np.nan, np.nan, "none")


def _bca(
    values: tuple[NDArray[np.float64], ...], statistic: Callable[..., NDArray[np.float64]]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return both ends for values, each (rows, images); NaN where resampling says nothing.

    Several values are of the same images, and resampled together.
    """
    with warnings.catch_warnings(), np.errstate(invalid="ignore", divide="ignore"):
        # Where resampling says nothing SciPy warns and returns NaN; the caller decides.
        warnings.simplefilter("ignore", DegenerateDataWarning)
        interval = bootstrap(
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
