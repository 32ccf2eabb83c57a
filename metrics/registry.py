"""Every metric, and the one place where a value or a status comes out of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from types import UnionType
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from steadymap.metrics import faithfulness, neighbours, similarity, single, tensors
from steadymap.metrics.evidence import Evidence
from steadymap.metrics.faithfulness import Curve, Responses
from steadymap.metrics.maps import Array, Checks, Flags, Maps, check
from steadymap.metrics.neighbours import NEIGHBOURS, RADIUS, Neighbours
from steadymap.metrics.tensors import TensorMaps

# How much of an exception's message is kept.
MESSAGE_LENGTH = 300

# Maps of perturbed images; or deltas or masks; or what the network says around the clean image.
Against = Maps | TensorMaps | Array | Tensor | Evidence

# What metrics of the clean image alone are against: it takes the network to make.
PROBES: dict[str, type[Evidence]] = {
    "neighbours": Neighbours,
    "noise": Responses,
    "deletion": Curve,
    "insertion": Curve,
}


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
            that it should add up to (`delta`), the object's mask, or one of `PROBES`: of the clean
            image alone.
        better: whether a steadier, truer map scores higher or lower.
        identity: the value of a map compared with itself; None for a metric of one map.
        symmetric: whether swapping the two maps leaves the value.
        summary: one line for `steadymap list`.
        source: paper, equation or library.
        min_side: the smallest height and width of a map that it is defined on, in pixels.
        min_delta: the smallest |delta| that it is defined on, in logits.
        slow: whether it takes milliseconds a pair; recognition, which takes several comparisons a
            map, leaves it out.
        costly: whether it takes more of the network than the maps do; a plan has it by name alone.
        undefined: from one of `PROBES`, why the metric is undefined on each image, "" where it is
            not; such values are skipped.
        on_tensors: the same on `TensorMaps`, and deltas or masks as tensors; None sends the maps to
            the CPU.
    """

    compute: Callable[[Maps, Any], Array]
    reads: Literal["signed", "magnitude"]
    against: Literal["map", "delta", "mask", "neighbours", "noise", "deletion", "insertion"]
    better: Literal["higher", "lower"]
    identity: float | None
    symmetric: bool
    summary: str
    source: str
    min_side: int = 1
    min_delta: float = 0.0
    slow: bool = False
    costly: bool = False
    undefined: Callable[[Any], list[str]] | None = None
    on_tensors: (
        Callable[[TensorMaps, TensorMaps], Tensor] | Callable[[TensorMaps, Tensor], Tensor] | None
    ) = None


_AROUND = f"of {NEIGHBOURS} images within {RADIUS:g}"

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
        on_tensors=tensors.ssim,
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
        on_tensors=tensors.spearman,
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
        on_tensors=tensors.spearman_magnitude,
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
        slow=True,
        on_tensors=tensors.kendall,
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
        on_tensors=tensors.top_k_intersection,
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
        on_tensors=tensors.relative_l2,
    ),
    "cosine": Metric(
        similarity.cosine,
        "signed",
        "map",
        "higher",
        1.0,
        symmetric=True,
        summary="cosine of the angle between signed maps",
        source="Euclid",
        on_tensors=tensors.cosine,
    ),
    "pearson": Metric(
        similarity.pearson,
        "signed",
        "map",
        "higher",
        1.0,
        symmetric=True,
        summary="Pearson's correlation of signed maps",
        source="Pearson 1895",
        on_tensors=tensors.pearson,
    ),
    "centre_shift": Metric(
        similarity.centre_shift,
        "magnitude",
        "map",
        "lower",
        0.0,
        symmetric=True,
        summary="distance of the centres of mass of magnitudes over the diagonal",
        source="Ghorbani et al. 2019",
        on_tensors=tensors.centre_shift,
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
        on_tensors=tensors.completeness_error,
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
        on_tensors=tensors.completeness_error_relative,
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
        on_tensors=tensors.mask_mass,
    ),
    "max_sensitivity": Metric(
        neighbours.max_sensitivity,
        "signed",
        "neighbours",
        "lower",
        None,
        symmetric=False,
        summary=f"largest change of the map over its norm, {_AROUND}",
        source="Yeh et al. 2019, definition 2; captum",
        costly=True,
    ),
    "local_lipschitz": Metric(
        neighbours.local_lipschitz,
        "signed",
        "neighbours",
        "lower",
        None,
        symmetric=False,
        summary=f"largest change of the map over that of the image, a lower bound, {_AROUND}",
        source="Alvarez-Melis and Jaakkola 2018",
        costly=True,
    ),
    "relative_input_stability": Metric(
        neighbours.relative_input_stability,
        "signed",
        "neighbours",
        "lower",
        None,
        symmetric=False,
        summary=f"largest relative change of the map over that of the image, {_AROUND}",
        source="Agarwal et al. 2022",
        costly=True,
        undefined=neighbours.without_prediction,
    ),
    "relative_output_stability": Metric(
        neighbours.relative_output_stability,
        "signed",
        "neighbours",
        "lower",
        None,
        symmetric=False,
        summary=f"largest relative change of the map over that of the logits, {_AROUND}",
        source="Agarwal et al. 2022",
        costly=True,
        undefined=neighbours.without_prediction,
    ),
    "relative_representation_stability": Metric(
        neighbours.relative_representation_stability,
        "signed",
        "neighbours",
        "lower",
        None,
        symmetric=False,
        summary=f"largest relative change of the map over that of Grad-CAM's layer, {_AROUND}",
        source="Agarwal et al. 2022",
        costly=True,
        undefined=neighbours.without_layer,
    ),
    "infidelity": Metric(
        faithfulness.infidelity,
        "signed",
        "noise",
        "lower",
        None,
        symmetric=False,
        summary=(
            "mean squared gap between noise times map, scaled best, and the logit's change "
            f"({faithfulness.NOISE_DRAWS} draws, grey, of standard deviation "
            f"{faithfulness.NOISE_SPREAD:g})"
        ),
        source="Yeh et al. 2019, definition 1; captum",
        costly=True,
    ),
    "deletion": Metric(
        faithfulness.area,
        "signed",
        "deletion",
        "lower",
        None,
        symmetric=False,
        summary=(
            "area under the class's probability while the most relevant pixels turn to the "
            f"image's mean colour ({faithfulness.STEPS} steps)"
        ),
        source="Petsiuk et al. 2018",
        costly=True,
    ),
    "insertion": Metric(
        faithfulness.area,
        "signed",
        "insertion",
        "higher",
        None,
        symmetric=False,
        summary=(
            "area under the class's probability while the most relevant pixels return to the "
            f"image, blurred by {faithfulness.BLUR_SHARE:g} of a side ({faithfulness.STEPS} steps)"
        ),
        source="Petsiuk et al. 2018",
        costly=True,
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


def evaluate(metric: Metric, maps: Maps | TensorMaps, against: Against) -> Scores:
    """Apply a metric to a batch: a number where it is defined, a status where it is not.

    Where the metric raises, or returns no number for each map, the status is `error`.

    Args:
        metric: an entry of `METRICS`, or one of the same kind.
        maps: the maps of the clean images, or those to judge one by one. `TensorMaps` are scored on
            their device.
        against: what the metric is against: maps of the perturbed images, of the same type and on
            the same device; deltas (B,) in logits, or masks (B, H, W) in [0, 1], wherever they are;
            or rows of one of `PROBES`.

    Raises:
        ValueError: the two do not belong together (kind, batch size or map size).
    """
    kind = _kind(metric, maps)
    if not isinstance(against, kind) or len(against) != len(maps):
        raise ValueError(
            f"expected {len(maps)} of {metric.against}, got {len(against)} of "
            f"{type(against).__name__}"
        )
    if isinstance(against, Maps | TensorMaps) and maps.signed.shape != against.signed.shape:
        sizes = tuple(maps.signed.shape[1:]), tuple(against.signed.shape[1:])
        raise ValueError(f"maps of different size: {sizes[0]} and {sizes[1]}")
    if isinstance(maps, TensorMaps) and metric.on_tensors is None:
        maps = maps.on_host
    against = _beside(maps, against)
    reasons = _reasons(metric, maps, against)
    valid = np.array([reason is None for reason in reasons], dtype=bool)
    values = np.full(len(maps), np.nan)
    if valid.any():
        try:
            values[valid] = _compute(metric, maps.select(valid), _select(against, valid))
        except (Exception, SystemExit):  # noqa: BLE001 - a metric may raise anything; each map is told why below
            _one_by_one(metric, (maps, against), values, reasons)
            valid &= [reason is None for reason in reasons]
    for index in np.flatnonzero(valid & ~np.isfinite(values)):
        reasons[index] = (Status.NONFINITE, "the metric overflowed")
        values[index] = np.nan
    return Scores(
        values,
        tuple(reason[0] if reason else Status.OK for reason in reasons),
        tuple(reason[1] if reason else "" for reason in reasons),
    )


def recognise(
    metric: Metric,
    own: Scores,
    nulls: Sequence[Maps | TensorMaps],
    perturbed: Maps | TensorMaps,
) -> Scores:
    """Say whether each perturbed map is closer to its own clean map than to every null map.

    Args:
        metric: what closeness is measured by; it compares two maps.
        own: its scores of the clean maps against the perturbed ones.
        nulls: batches of maps that have nothing to do with these images, or with the network.
        perturbed: the maps.

    Returns:
        1 where its own is strictly closest, 0 elsewhere. Null maps on which the metric is undefined
        are left out; where none is left, the status is `skipped`.
    """
    sign = 1.0 if metric.better == "higher" else -1.0
    others = np.array([sign * evaluate(metric, null, perturbed).values for null in nulls])
    others = others.reshape(len(nulls), len(perturbed))
    known = np.isfinite(others)
    nearest = np.where(known, others, -np.inf).max(axis=0, initial=-np.inf)
    statuses, details = list(own.statuses), list(own.details)
    for index in np.flatnonzero(~known.any(axis=0)):
        if statuses[index] == Status.OK:
            statuses[index], details[index] = Status.SKIPPED, "no null map is defined"
    valid = np.array([status == Status.OK for status in statuses], dtype=bool)
    values = np.where(valid, (sign * own.values > nearest).astype(np.float64), np.nan)
    return Scores(values, tuple(statuses), tuple(details))


def _kind(metric: Metric, maps: Maps | TensorMaps) -> type | UnionType:
    """Return what a metric of such maps is held against."""
    if metric.against == "map":
        return type(maps)
    return PROBES.get(metric.against, np.ndarray | Tensor)


def _beside(maps: Maps | TensorMaps, against: Against) -> Against:
    """Bring what maps are held against to where they are, in double precision."""
    if isinstance(against, Evidence):
        return against
    if isinstance(maps, TensorMaps):
        if isinstance(against, Maps | TensorMaps):
            return against
        there = against if isinstance(against, Tensor) else torch.tensor(against)
        return there.to(maps.signed.device, torch.float64)
    if isinstance(against, TensorMaps):
        return against.on_host
    return against.double().cpu().numpy() if isinstance(against, Tensor) else against


def _select(against: Against, chosen: Flags) -> Against:
    if isinstance(against, Maps | TensorMaps | Evidence):
        return against.select(chosen)
    return tensors.select(against, chosen) if isinstance(against, Tensor) else against[chosen]


def _compute(metric: Metric, maps: Maps | TensorMaps, against: Against) -> Array:
    """Return the values (B,), on the host.

    Raises:
        ValueError: the metric returned something else.
    """
    if isinstance(maps, TensorMaps) and metric.on_tensors is not None:
        on_tensors: Callable[[TensorMaps, Any], Tensor] = metric.on_tensors
        found = on_tensors(maps, against).cpu().numpy()
    else:
        compute: Callable[[Any, Any], Array] = metric.compute
        found = np.asarray(compute(maps, against), dtype=np.float64)
    if found.shape != (len(maps),):
        raise ValueError(f"returned shape {found.shape} for {len(maps)} maps, expected (maps,)")
    return found


def _one_by_one(
    metric: Metric,
    given: tuple[Maps | TensorMaps, Against],
    values: Array,
    reasons: list[tuple[Status, str] | None],
) -> None:
    """Compute each value by itself, so that a map on which the metric fails costs no other."""
    maps, against = given
    for index in [place for place, reason in enumerate(reasons) if reason is None]:
        only = np.arange(len(maps)) == index
        try:
            values[index] = _compute(metric, maps.select(only), _select(against, only))[0]
        except (Exception, SystemExit) as error:  # noqa: BLE001 - as above; the records say what
            text = " ".join(str(error).split())[:MESSAGE_LENGTH]
            reasons[index] = (Status.ERROR, f"the metric raised {type(error).__name__}: {text}")


def _checks(metric: Metric, values: Against) -> Checks:
    if isinstance(values, Maps | TensorMaps):
        return values.signed_checks if metric.reads == "signed" else values.magnitude_checks
    if isinstance(values, Evidence):
        # Numbers that agree are an answer, too.
        return Checks(values.finite, np.zeros(len(values), dtype=bool))
    return tensors.check(values) if isinstance(values, Tensor) else check(values)


def _small(metric: Metric, against: Against) -> Flags:
    if metric.against != "delta" or isinstance(against, Maps | TensorMaps | Evidence):
        return np.zeros(len(against), dtype=bool)
    deltas = against.cpu().numpy() if isinstance(against, Tensor) else against
    small: Flags = np.abs(deltas) < metric.min_delta
    return small


def _reasons(
    metric: Metric, maps: Maps | TensorMaps, against: Against
) -> list[tuple[Status, str] | None]:
    """For each map, why the metric is undefined on it; None where it is defined."""
    height, width = maps.signed.shape[1:]
    if min(height, width) < metric.min_side:
        side = metric.min_side
        reason = f"a map of {height} x {width} is smaller than the window of {side} x {side}"
        return [(Status.SKIPPED, reason)] * len(maps)
    own, other = _checks(metric, maps), _checks(metric, against)
    finite = own.finite & other.finite
    # A delta is one number, and constant by itself.
    constant = own.constant if metric.against == "delta" else own.constant | other.constant
    small = _small(metric, against)
    lacking = metric.undefined(against) if metric.undefined else [""] * len(maps)
    reasons: list[tuple[Status, str] | None] = []
    for index in range(len(maps)):
        if not finite[index]:
            reasons.append((Status.NONFINITE, "a map or what it is held against is not finite"))
        elif constant[index]:
            reasons.append((Status.DEGENERATE, "a map or mask is constant"))
        elif small[index]:
            reasons.append((Status.SMALL_DELTA, f"|delta| is below {metric.min_delta} logits"))
        elif lacking[index]:
            reasons.append((Status.SKIPPED, lacking[index]))
        else:
            reasons.append(None)
    return reasons
