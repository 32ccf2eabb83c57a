"""The jackknife over images that are cases and partners, and over randomised networks.

Where images come in groups (`bench/records/grouping.py`) a whole group is deleted at once.

A score's null holds the maps of an image against those of others, so that an image is in two
places: as the case, and as the partner of others. It is deleted from both. Randomised networks are
a sample, too, of few: they are deleted one by one, as a second way of sampling. Sources: Efron and
Stein 1981 (the variance is not underestimated); Cameron, Gelbach and Miller 2011 (two ways).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from steadymap.bench.analysis.intervals import CONFIDENCE, RESAMPLES, Interval
from steadymap.bench.core.randomness import generator
from steadymap.bench.records.grouping import sums

Floats = NDArray[np.float64]

# Values that differ by less, as a share of their size, differ by rounding.
ROUNDING = 1e-9

# Below so many images resampling them says little of how a mean is distributed.
LEAST_IMAGES = 10


@dataclass(frozen=True)
class Replicates:
    """A number, and what it is once something is left out; or several numbers at once.

    Attributes:
        whole: (...), of everything.
        images: (..., G), without each image, or each group of them.
        networks: (..., K), without each randomised network; K is 0 where there is one or none.
    """

    whole: Floats
    images: Floats
    networks: Floats

    def errors(self) -> tuple[Floats, Floats]:
        """Return variance and Satterthwaite's degrees of freedom, (...)."""
        total, weight = np.zeros(self.images.shape[:-1]), np.zeros(self.images.shape[:-1])
        for left in (self.images, self.networks):
            count = left.shape[-1]
            if count > 1:
                away = left - left.mean(axis=-1, keepdims=True)
                part = (count - 1) / count * (away**2).sum(axis=-1)
                total, weight = total + part, weight + part**2 / (count - 1)
        freedom = np.divide(total**2, weight, out=np.ones(total.shape), where=weight > 0)
        return total, freedom

    def differences(self) -> Replicates:
        """Return, of M numbers, each less each: (M, M), with what is left out in the last place."""
        return Replicates(
            self.whole[:, None] - self.whole,
            self.images[:, None] - self.images,
            self.networks[:, None] - self.networks,
        )

    def covariance(self) -> Floats:
        """Return, of M numbers, how they vary together: (M, M)."""
        total = np.zeros((len(self.whole),) * 2)
        for left in (self.images, self.networks):
            count = left.shape[-1]
            if count > 1:
                away = left - left.mean(axis=-1, keepdims=True)
                total += (count - 1) / count * away @ away.T
        return total


def interval_of(estimate: Replicates) -> Interval:
    """Return one number with its 95% interval.

    By Student's t, with Satterthwaite's degrees of freedom for the two ways; from `LEAST_IMAGES` on
    the images' part is that of a studentised bootstrap of their influences, since distances are
    skewed. Where a number and all its replicates are below 1, on the logarithm of 1 - number: it is
    a ratio of means, whose error grows with its size. `point` where nothing that is left out
    changes it, `none` below two images. Sources: Efron 1981, Hall 1988.
    """
    value, count = float(estimate.whole), estimate.images.shape[-1]
    every = np.concatenate([[value], estimate.images, estimate.networks])
    if count < 2 or not np.isfinite(every).all():  # noqa: PLR2004 - one varies with no other
        return Interval(value, np.nan, np.nan, "none")
    if np.ptp(every) <= ROUNDING * max(1.0, abs(value)):
        return Interval(value, value, value, "point")
    ratio = bool((every < 1).all())
    scaled = np.log(1 - every) if ratio else every
    ends = scaled[0] - _errors(Replicates(*np.split(scaled, [1, 1 + count])))
    low, high = np.sort(1 - np.exp(ends) if ratio else ends)
    return Interval(value, float(low), float(high), "jackknife")


def _errors(estimate: Replicates) -> Floats:
    """Return the least and the largest error of one number, (2,), of 95%."""
    tail = (1 - CONFIDENCE) / 2
    levels = np.array([tail, 1 - tail])
    count = estimate.images.shape[-1]
    total, freedom = estimate.errors()
    by_t: Floats = np.sqrt(total) * student.ppf(levels, freedom)
    if count < LEAST_IMAGES:
        return by_t
    influence = (count - 1) * (estimate.images.mean() - estimate.images)
    drawn = _resamplings(count)
    mean = drawn @ influence / count
    spread = drawn @ influence**2 / count - mean**2
    # Where one image alone matters, resamples without it vary by nothing but rounding.
    known = spread > ROUNDING * (influence**2).mean()
    if not known.any():
        return by_t
    variance = spread / (count - 1)
    skewed = np.quantile(mean[known] / np.sqrt(variance[known]), levels)
    size = np.sqrt((influence**2).sum() / (count * (count - 1)))
    both: Floats = by_t + size * (skewed - student.ppf(levels, count - 1))
    return both


@cache
def _resamplings(images: int) -> Floats:
    """Return how often each image, or group, is drawn, (R, images)."""
    rng = generator("interval", images)
    return rng.multinomial(images, [1 / images] * images, size=RESAMPLES).astype(np.float64)


def left_out(values: Floats, places: NDArray[np.intp]) -> Floats:
    """Average over the last axis what is known, then without each group: (..., 1 + G).

    Without a group of which nothing is known the mean is what it was; NaN where nothing is left.

    Args:
        values: (..., N).
        places: (N,), of their groups, as `places_of` numbers them.
    """
    known = np.isfinite(values)
    filled = np.where(known, values, 0.0)
    there = known.astype(np.float64)
    total, count = filled.sum(axis=-1, keepdims=True), there.sum(axis=-1, keepdims=True)
    totals = np.concatenate([total, total - sums(filled, places)], axis=-1)
    counts = np.concatenate([count, count - sums(there, places)], axis=-1)
    mean: Floats = np.divide(totals, counts, out=np.full(totals.shape, np.nan), where=counts > 0)
    return mean


def without_partner(values: Floats, partners: Floats, places: NDArray[np.intp]) -> Floats:
    """Likewise, of values against others, where a group is left out as partners, too.

    The mean over images of the mean over partners is linear in both parts of an image. As partner
    it moves the mean by (its own mean as partner - that of all) / images left. What stays of a
    block once an image is gone is taken at the mean of all, so that nobody need know the blocks. So
    it is with each image of a group; the few pairs within a group count in both parts.

    Args:
        values: (..., N), of each image against its partners.
        partners: (..., N), of each image as the partner of those; NaN where that is not known.
        places: (N,), of their groups.
    """
    means = left_out(values, places)
    known, there = np.isfinite(partners), np.isfinite(values).astype(np.float64)
    count = there.sum(axis=-1, keepdims=True) - sums(there, places)
    centre = left_out(partners, places)[..., :1]
    apart = np.where(known, partners - np.where(np.isfinite(centre), centre, 0.0), 0.0)
    moved = sums(apart, places)
    means[..., 1:] -= np.divide(moved, count, out=np.zeros(moved.shape), where=count > 0)
    return means
