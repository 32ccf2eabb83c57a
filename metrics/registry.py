"""Every metric, and the one place where a value or a status comes out of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal

import numpy as np

from steadymap.metrics import similarity, single
from steadymap.metrics.maps import Array, Flags, Maps, is_constant


class Status(StrEnum):
    """What became of one value; only `OK` enters a mean."""

    OK = "ok"
    DEGENERATE = "degenerate"
    NONFINITE = "nonfinite"
    SMALL_DELTA = "small_delta"
    SKIPPED = "skipped"
    ERROR = "error"


@dataclass(frozen=True)
class Metric:
    """A pure function of batched maps, with what it reads and how to read it.

    Attributes:
        compute: takes the maps and `against`, returns (B,).
        reads: what it must find varying: signed maps, or magnitudes in [0, 1].
        against: the map of the perturbed image; or, for a metric of one map, the logit difference
            that it should add up to (`delta`) or the object's mask.
        better: whether a steadier, truer map scores higher or lower.
        identity: the value of a map compared with itself; None for a metric of one map.
        symmetric: whether swapping the two maps leaves the value.
        summary: one line for `steadymap list`.
        source: paper, equation or library.
        min_side: the smallest height and width of a map that it is defined on, in pixels.
        min_delta: the smallest |delta| that it is defined on, in logits.
    """

    compute: Callable[[Maps, Maps], Array] | Callable[[Maps, Array], Array]
    reads: Literal["signed", "magnitude"]
    against: Literal["map", "delta", "mask"]
    better: Literal["higher", "lower"]
    identity: float | None
    symmetric: bool
    summary: str
    source: str
    min_side: int = 1
    min_delta: float = 0.0


METRICS: dict[str, Metric] = {
    "ssim": Metric(
        similarity.ssim,
        "magnitude",
        "map",
        "higher",
        1.0,
        symmetric=True,
        summary="structural similarity of magnitudes (sigma 1.5, data range 1)",
        source="Wang et al. 2004",
        min_side=similarity.SSIM_WINDOW,
    ),
    "spearman": Metric(
        similarity.spearman,
        "signed",
        "map",
        "higher",
        1.0,
        symmetric=True,
        summary="rank correlation of signed maps",
        source="Spearman 1904",
    ),
    "spearman_magnitude": Metric(
        similarity.spearman_magnitude,
        "magnitude",
        "map",
        "higher",
        1.0,
        symmetric=True,
        summary="rank correlation of magnitudes",
        source="Spearman 1904",
    ),
    "kendall": Metric(
        similarity.kendall,
        "signed",
        "map",
        "higher",
        1.0,
        symmetric=True,
        summary="tau-b of signed maps",
        source="Kendall 1945",
    ),
    "top_k_intersection": Metric(
        similarity.top_k_intersection,
        "magnitude",
        "map",
        "higher",
        1.0,
        symmetric=True,
        summary="share of the strongest 5% of pixels in common",
        source="Ghorbani et al. 2019",
    ),
    "relative_l2": Metric(
        similarity.relative_l2,
        "signed",
        "map",
        "lower",
        0.0,
        symmetric=False,
        summary="distance of signed maps over the norm of the clean one",
        source="Euclid",
    ),
    "completeness_error": Metric(
        single.completeness_error,
        "signed",
        "delta",
        "lower",
        None,
        symmetric=False,
        summary="|sum of attributions - (logit at image - logit at baseline)|, in logits",
        source="Sundararajan et al. 2017, proposition 1",
    ),
    "completeness_error_relative": Metric(
        single.completeness_error_relative,
        "signed",
        "delta",
        "lower",
        None,
        symmetric=False,
        summary="completeness error over |logit at image - logit at baseline|",
        source="Sundararajan et al. 2017, proposition 1",
        min_delta=single.SMALL_DELTA,
    ),
    "mask_mass": Metric(
        single.mask_mass,
        "magnitude",
        "mask",
        "higher",
        None,
        symmetric=False,
        summary="share of the magnitude inside the object's mask",
        source="Arras, Osman and Samek 2022 (relevance mass accuracy)",
    ),
}


@dataclass(frozen=True)
class Scores:
    """Values of one metric on a batch.

    Attributes:
        values: (B,), NaN wherever the status is not `ok`.
        statuses: B statuses.
        details: B reasons, empty where the status is `ok`.
    """

    values: Array
    statuses: tuple[Status, ...]
    details: tuple[str, ...]

    def at(self, index: int) -> tuple[float, Status, str]:
        """Return value, status and detail of one map."""
        return float(self.values[index]), self.statuses[index], self.details[index]


def evaluate(metric: Metric, maps: Maps, against: Maps | Array) -> Scores:
    """Apply a metric to a batch: a number where it is defined, a status where it is not.

    Args:
        metric: an entry of `METRICS`, or one of the same kind.
        maps: the maps of the clean images, or those to judge one by one.
        against: what the metric is against: maps of the perturbed images, deltas (B,) in logits,
            or masks (B, H, W) in [0, 1].

    Raises:
        ValueError: the two do not belong together (kind, batch size or map size).
    """
    other = _read(metric, against) if isinstance(against, Maps) else against
    if isinstance(against, Maps) != (metric.against == "map") or len(other) != len(maps):
        raise ValueError(
            f"expected {len(maps)} of {metric.against}, got {len(other)} of "
            f"{type(against).__name__}"
        )
    own = _read(metric, maps)
    if metric.against == "map" and own.shape != other.shape:
        raise ValueError(f"maps of different size: {own.shape[1:]} and {other.shape[1:]}")
    reasons = _reasons(metric, own, other)
    valid = np.array([reason is None for reason in reasons], dtype=bool)
    values = np.full(len(maps), np.nan)
    if valid.any():
        rest = against.select(valid) if isinstance(against, Maps) else against[valid]
        compute: Callable[[Maps, Any], Array] = metric.compute
        values[valid] = compute(maps.select(valid), rest)
    for index in np.flatnonzero(valid & ~np.isfinite(values)):
        reasons[index] = (Status.NONFINITE, "the metric overflowed")
        values[index] = np.nan
    return Scores(
        values,
        tuple(reason[0] if reason else Status.OK for reason in reasons),
        tuple(reason[1] if reason else "" for reason in reasons),
    )


def _read(metric: Metric, maps: Maps) -> Array:
    return maps.signed if metric.reads == "signed" else maps.magnitude


def _reasons(metric: Metric, own: Array, other: Array) -> list[tuple[Status, str] | None]:
    """For each map, why the metric is undefined on it; None where it is defined."""
    height, width = own.shape[1:]
    if min(height, width) < metric.min_side:
        side = metric.min_side
        reason = f"a map of {height} x {width} is smaller than the window of {side} x {side}"
        return [(Status.SKIPPED, reason)] * len(own)
    finite = _finite(own) & _finite(other)
    constant = np.zeros(len(own), dtype=bool)
    constant[finite] = is_constant(own[finite])
    if metric.against != "delta":
        constant[finite] |= is_constant(other[finite])
    small = np.zeros(len(own), dtype=bool)
    if metric.against == "delta":
        small = np.abs(other) < metric.min_delta
    reasons: list[tuple[Status, str] | None] = []
    for index in range(len(own)):
        if not finite[index]:
            reasons.append((Status.NONFINITE, "a map or what it is held against is not finite"))
        elif constant[index]:
            reasons.append((Status.DEGENERATE, "a map or mask is constant"))
        elif small[index]:
            reasons.append((Status.SMALL_DELTA, f"|delta| is below {metric.min_delta} logits"))
        else:
            reasons.append(None)
    return reasons


def _finite(array: Array) -> Flags:
    flat = np.isfinite(array).reshape(len(array), -1)
    return np.array([bool(row.all()) for row in flat])
