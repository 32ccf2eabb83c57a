"""What a metric reads: signed maps, or magnitudes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

CLIP_PERCENTILE = 99.0

# A spread this small beside the largest value is a constant plus float32 rounding (2^-23 = 1.2e-7
# a step), on which ranks and windows say nothing.
CONSTANT_SPREAD = 1e-6

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Maps:
    """A batch of saliency maps at the method's own resolution.

    Attributes:
        signed: (B, h, w), attributions summed over channels, unscaled.
    """

    signed: Array

    @classmethod
    def from_attributions(cls, attributions: NDArray[np.floating]) -> Maps:
        """Sum attributions (B, C, h, w) over their channels, in double precision.

        Raises:
            ValueError: another number of dimensions.
        """
        if attributions.ndim != 4:  # noqa: PLR2004 - (B, C, h, w)
            raise ValueError(
                f"attributions: expected (batch, channels, height, width), "
                f"got shape {attributions.shape}"
            )
        return cls(attributions.astype(np.float64).sum(axis=1))

    def __len__(self) -> int:
        """Return the number of maps."""
        return len(self.signed)

    @cached_property
    def magnitude(self) -> Array:
        """(B, h, w) in [0, 1]: absolute values, clipped at each map's own 99th percentile."""
        return magnitude(self.signed)

    @cached_property
    def signed_checks(self) -> Checks:
        """Which signed maps are finite, which constant."""
        return check(self.signed)

    @cached_property
    def magnitude_checks(self) -> Checks:
        """Which magnitudes are finite, which constant."""
        return check(self.magnitude)

    @cached_property
    def ranks(self) -> Array:
        """(B, h * w): `unit_ranks` of the signed maps."""
        return unit_ranks(self.signed)

    @cached_property
    def magnitude_ranks(self) -> Array:
        """(B, h * w): `unit_ranks` of the magnitudes."""
        return unit_ranks(self.magnitude)

    @cached_property
    def unit(self) -> Array:
        """(B, h * w): signed maps of norm 1."""
        return unit(self.signed)

    @cached_property
    def centred_unit(self) -> Array:
        """(B, h * w): signed maps less their mean, of norm 1."""
        return unit(self.signed - self.signed.mean(axis=(1, 2), keepdims=True))

    @cached_property
    def centre(self) -> Array:
        """(B, 2): row and column of the magnitudes' centres of mass, in pixels."""
        rows, columns = (np.arange(size) for size in self.magnitude.shape[1:])
        down = (self.magnitude.sum(axis=2) * rows).sum(axis=1)
        across = (self.magnitude.sum(axis=1) * columns).sum(axis=1)
        totals = self.magnitude.sum(axis=(1, 2))[:, None]
        centres: Array = np.stack([down, across], axis=1) / totals
        return centres

    @cached_property
    def window_mean(self) -> Array:
        """(B, h - 10, w - 10): means of the magnitude in SSIM's windows."""
        return window_mean(self.magnitude)

    @cached_property
    def window_variance(self) -> Array:
        """(B, h - 10, w - 10): variances of the magnitude in SSIM's windows."""
        variance: Array = window_mean(self.magnitude**2) - self.window_mean**2
        return variance

    @cached_property
    def strongest(self) -> Array:
        """(B, h * w): how much of each pixel belongs to the strongest 5%, in [0, 1]."""
        return membership(self.magnitude, top_count(self.magnitude[0].size))

    def copy(self) -> Maps:
        """Return the maps once more, without what has been derived from them."""
        return Maps(self.signed.copy())

    def select(self, chosen: Flags) -> Maps:
        """Return some of the maps; all of them keep what has been derived from them."""
        return self if chosen.all() else Maps(self.signed[chosen])

    def take(self, places: Sequence[int]) -> Maps:
        """Return the maps at these places, in this order."""
        return Maps(self.signed[list(places)])


def magnitude(signed: Array) -> Array:
    """Turn signed maps (B, h, w) into magnitudes (B, h, w) in [0, 1].

    Each is the absolute value, clipped at its own 99th percentile (NumPy's linear rule) and divided
    by it. Where that percentile is 0, fewer than one pixel in a hundred says anything and the
    magnitude is 0 throughout: a constant, which metrics report as degenerate. Maps that are not
    finite give NaN.
    """
    absolute = np.abs(signed)
    absolute[~np.isfinite(absolute).all(axis=(1, 2))] = np.nan
    size = absolute[0].size
    low, share = clip_place(size)
    # Faster than np.percentile by far: the value that follows is the smallest of the few above.
    parted = np.partition(absolute.reshape(-1, size), low, axis=1)
    lower, upper = parted[:, low], parted[:, min(low + 1, size - 1) :].min(axis=1)
    top = (lower + (upper - lower) * share)[:, None, None]
    scaled = np.zeros_like(absolute)
    np.divide(np.minimum(absolute, top), top, out=scaled, where=top != 0)
    return scaled


def unit(maps: Array) -> Array:
    """Divide each map (B, h, w), none of them 0, by its norm: (B, h * w)."""
    flat = maps.reshape(len(maps), -1)
    scaled: Array = flat / np.sqrt((flat**2).sum(axis=1, keepdims=True))
    return scaled


def clip_place(size: int) -> tuple[int, float]:
    """Return the place of the 99th percentile among `size` sorted values: whole part and rest."""
    place = CLIP_PERCENTILE / 100 * (size - 1)
    return int(place), place - int(place)


def average_ranks(maps: Array) -> Array:
    """Rank the values of each map (B, h, w) from 1 to h * w, ties averaged: (B, h * w)."""
    flat = maps.reshape(len(maps), -1)
    count, size = flat.shape
    order = np.argsort(flat, axis=1)
    ordered = np.take_along_axis(flat, order, axis=1)
    first = np.ones((count, size), dtype=bool)
    np.not_equal(ordered[:, 1:], ordered[:, :-1], out=first[:, 1:])
    middle = np.broadcast_to(np.arange(1.0, size + 1), (count, size))
    if not first.all():
        # Runs of equal values over the whole batch; each map starts a run of its own.
        starts = np.flatnonzero(first)
        lengths = np.diff(starts, append=count * size)
        middle = np.repeat(starts + (lengths + 1) / 2, lengths).reshape(count, size)
        middle -= np.arange(count)[:, None] * size
    ranks = np.empty((count, size))
    np.put_along_axis(ranks, order, middle, axis=1)
    return ranks


def unit_ranks(maps: Array) -> Array:
    """Rank each map, centre the ranks and scale them to norm 1; 0 where all values are equal.

    The product of two such rows is Spearman's correlation.
    """
    ranks = average_ranks(maps)
    ranks -= (ranks.shape[1] + 1) / 2
    norms = np.sqrt((ranks**2).sum(axis=1, keepdims=True))
    unit: Array = np.divide(ranks, norms, out=np.zeros_like(ranks), where=norms != 0)
    return unit


TOP_SHARE = 0.05


def top_count(size: int) -> int:
    """Return how many of `size` pixels are the strongest 5%; at least one."""
    return max(1, round(TOP_SHARE * size))


def membership(maps: Array, count: int) -> Array:
    """(B, h * w): how much of each pixel belongs to the `count` largest, in [0, 1].

    Those that tie at the threshold share the places left.
    """
    flat = maps.reshape(len(maps), -1)
    threshold = np.partition(flat, -count, axis=1)[:, -count][:, None]
    above, tied = flat > threshold, flat == threshold
    places = count - above.sum(axis=1, keepdims=True)
    share: Array = above + tied * (places / tied.sum(axis=1, keepdims=True))
    return share


SSIM_SIGMA = 1.5
# Wang et al. 2004 and scikit-image: the Gaussian window reaches 3.5 sigma to each side.
SSIM_REACH = int(3.5 * SSIM_SIGMA + 0.5)


@lru_cache
def window_matrix(size: int) -> Array:
    """(size - 10, size): each row weights a line of pixels by the window around its centre."""
    offsets = np.arange(-SSIM_REACH, SSIM_REACH + 1)
    weights = np.exp(-0.5 * (offsets / SSIM_SIGMA) ** 2)
    rows = size - 2 * SSIM_REACH
    matrix = np.zeros((rows, size))
    for row in range(rows):
        matrix[row, row : row + len(weights)] = weights / weights.sum()
    return matrix


def window_mean(maps: Array) -> Array:
    """Average maps (..., h, w) in Gaussian windows that lie inside: (..., h - 10, w - 10)."""
    rows, columns = window_matrix(maps.shape[-2]), window_matrix(maps.shape[-1])
    means: Array = rows @ maps @ columns.T
    return means


@dataclass(frozen=True)
class Checks:
    """What decides, for each of B maps, whether a metric is defined on it.

    Attributes:
        finite: (B,), whether all its values are finite.
        constant: (B,), whether it is finite and its spread at most 1e-6 of its largest absolute
            value.
    """

    finite: Flags
    constant: Flags


def check(values: Array) -> Checks:
    """Check maps or masks (B, h, w), or deltas (B,)."""
    flat = values.reshape(len(values), -1)
    finite: Flags = np.logical_and.reduce(np.isfinite(flat), axis=1)
    constant = np.zeros(len(flat), dtype=bool)
    known = flat[finite]
    highest, lowest = known.max(axis=1), known.min(axis=1)
    constant[finite] = highest - lowest <= CONSTANT_SPREAD * np.maximum(highest, -lowest)
    return Checks(finite, constant)
