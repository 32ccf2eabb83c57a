"""Is the mean gain below minus the margin? One test; its inverse, a lower bound; and its power.

The test is Student's t, or Hall's t corrected for skewness where that is the more careful
(`steadymap.bench.analysis.intervals.cautious_t`). `fail` asks it, and `pass` asks the bound that it
gives when it is turned around. It was chosen by simulation (`tests/gate/test_mean_test.py`): of
tied, symmetric and skewed gains whose mean is exactly minus the margin, `fail` errs in at most 5%
of gates from 5 images on, and `pass` in at most 2.5% of comparisons from 28 on. Student's t alone,
the bootstraps and sign flips do not.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from steadymap.bench.analysis.intervals import (
    CONFIDENCE,
    POWER,
    Floats,
    cautious_t,
    leaning,
)
from steadymap.bench.core.randomness import generator
from steadymap.metrics.maps import CONSTANT_SPREAD

# How often `fail` may err, over all comparisons, and `pass`, in each: one side of a 95% interval.
FAIL_ERROR = 1 - CONFIDENCE
PASS_ERROR = FAIL_ERROR / 2

# The levels that are asked, so that neither errs more: shares of a few pairs come in steps, and of
# these the test is a tenth too bold (of 58 images 2.62% in place of 2.5%, binomial probabilities).
STEPS = 0.9
FAIL_LEVEL = STEPS * FAIL_ERROR
PASS_LEVEL = STEPS * PASS_ERROR

# Below, nothing is tested: of three images that agree in all but rounding t is sure of anything.
LEAST_TO_FAIL = 5

# The rarest loss that a gate answers for hits one image in eight. Of fewer images than these all
# may be without it in more than 2.5% of samples, and no test of what was seen can know: the
# smallest n with (7/8)^n <= 0.025.
RAREST = 1 / 8
LEAST_TO_PASS = math.ceil(math.log(PASS_ERROR) / math.log(1 - RAREST))

# Values drawn to find a power: 1 MiB.
DRAWN = 2**17


def is_flat(gains: Floats) -> NDArray[np.bool_]:
    """Return whether gains (..., images) are all the same, rounding aside: (...)."""
    flat: NDArray[np.bool_] = np.ptp(gains, axis=-1) <= CONSTANT_SPREAD * np.abs(gains).max(axis=-1)
    return flat


def p_below(gains: Floats, value: float | Floats) -> Floats:
    """Return the one-sided p of a mean gain of `value` or more; small where it is below.

    Args:
        gains: (..., images), at least two.
        value: 0 or less, (...).

    Gains that all agree have no spread, and are no proof: two images that each lose one recognition
    of six agree by chance. Had the images that were not drawn gained what these lost, a share of
    (|x| + |value|) / 2|x| of them could be like these, x each, without the mean being below
    `value`; that none but these was drawn has that share to the power of n as its probability. For
    a value of 0 this is the sign test.
    """
    flat = is_flat(gains)
    place = np.broadcast_to(np.asarray(value, dtype=np.float64), flat.shape)
    mean = gains.mean(axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):  # of flat gains, which are put right
        tested = student.sf(cautious_t(place[..., None] - gains), gains.shape[-1] - 1)
        alike = np.minimum((np.abs(mean) - place) / (2 * np.abs(mean)), 1.0)
    p: Floats = np.where(flat, np.where(mean < place, alike ** gains.shape[-1], 1.0), tested)
    return p


def p_changed(gains: Floats) -> Floats:
    """Return the two-sided p of no change, of gains (..., images): twice that of the likelier side.

    1 where no image has changed.
    """
    twice: Floats = np.minimum(1.0, 2 * np.minimum(p_below(gains, 0.0), p_below(-gains, 0.0)))
    return twice


def lower_bound(gains: Floats, level: float = PASS_LEVEL) -> Floats:
    """Return what the mean of gains (..., images) is not below, wrong at this level: (...).

    The inverse of the test: the value for which the p of a mean above it is the level. Where gains
    all agree it is their mean. Source of the inverse: Hall 1992, On the removal of skewness by
    transformation.
    """
    count = gains.shape[-1]
    quantile = float(student.isf(level, count - 1))
    with np.errstate(invalid="ignore", divide="ignore"):  # of flat gains, which are put right
        steps = np.maximum(quantile, _hall_inverse(leaning(gains), quantile))
        bound = gains.mean(axis=-1) - steps * gains.std(axis=-1, ddof=1) / math.sqrt(count)
    low: Floats = np.where(is_flat(gains), gains.mean(axis=-1), bound)
    return low


def _hall_inverse(lean: Floats, quantile: float) -> Floats:
    """Return the t whose Hall's t is a quantile: of t + l/6 + l t^2/3 + l^2 t^3/27, l the lean."""
    moved = lean * (quantile - lean / 6)
    # (1 + moved)^(1/3) - 1, exact also where next to nothing leans.
    root = np.where(
        moved > -1,
        np.expm1(np.log1p(np.maximum(moved, -1)) / 3),
        np.cbrt(1 + moved) - 1,
    )
    inverse: Floats = np.where(lean == 0, quantile, 3 * root / lean)
    return inverse


def interval(gains: Floats, level: float = PASS_LEVEL) -> tuple[float, float]:
    """Return both bounds of the mean of gains (images,), each of a level; NaN below 5 images."""
    if len(gains) < LEAST_TO_FAIL:
        return math.nan, math.nan
    return float(lower_bound(gains, level)), -float(lower_bound(-gains, level))


# --- power ----------------------------------------------------------------------------------------


def detectable(gains: Floats, margin: float, level: float) -> float:
    """Return the loss that so many images would have shown, at a level, with a power of 80%.

    Args:
        gains: (images,), whose spread is taken for that of a loss.
        margin: beyond which a loss is one; NaN where there is none.
        level: of the test, after its adjustment: the strictest step of Holm's.

    Returns:
        A loss of the mean, in the metric's own unit; infinite where no loss would be found, NaN
        without a margin.
    """
    if math.isnan(margin):
        return math.nan
    count = len(gains)
    if count < LEAST_TO_FAIL:
        return math.inf
    if is_flat(gains):
        share = 2 * level ** (1 / count) - 1
        return margin / share if share > 0 else math.inf
    return margin + float(gains.std(ddof=1)) * reach(count, level)


@cache
def reach(count: int, level: float) -> float:
    """Return how far beyond the margin a mean must be to fail in 80% of samples, in units of SD.

    Of normal gains, drawn, so that it is the power of this very test and not of Student's.
    """
    drawn = generator("reach", count).standard_normal((max(DRAWN // count, 1), count))
    return float(np.quantile(-lower_bound(drawn, level), POWER))


def images_needed(gains: Floats, margin: float, level: float) -> float:
    """Return of how many images the gate would find a loss of twice the margin, with 80% power.

    Args:
        gains: (images,), which do not show it.
        margin: 0 or more.
        level: as in `detectable`.

    Returns:
        A whole number; infinite where the margin is 0, and any loss is twice of it.
    """
    if len(gains) < LEAST_TO_FAIL or is_flat(gains):
        # Where all agree, p is 0.75^n at a loss of twice the margin.
        return max(LEAST_TO_PASS, math.ceil(math.log(level) / math.log(0.75)))
    if margin == 0:
        return math.inf
    ratio = float(gains.std(ddof=1)) / margin
    # As many as Student's t needs, or a few more.
    count = LEAST_TO_FAIL
    while ratio * _reach_of_t(count, level) > 1:
        count += max(1, count // 50)
    while ratio * reach(count, level) > 1:
        count += max(1, count // 50)
    return count


def _reach_of_t(count: int, level: float) -> float:
    """Return about how far Student's t reaches, in units of SD."""
    quantiles = student.isf([level, 1 - POWER], count - 1)
    return float(np.sum(quantiles)) / math.sqrt(count)
