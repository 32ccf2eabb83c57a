"""Scores of maps by a metric: the one place where a value or a status comes out of it.

Maps and what they are held against are NumPy's or torch's; torch is loaded where they are torch's.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from steadymap.metrics.evidence import Evidence
from steadymap.metrics.maps import Array, Checks, Flags, Maps, check
from steadymap.metrics.registry import PROBES, Metric, Status, within

if TYPE_CHECKING:
    from torch import Tensor
    from typing_extensions import TypeIs

    from steadymap.metrics.tensors import TensorMaps

    # Maps of perturbed images; or deltas or masks; or what the network says around the clean image.
    Against = Maps | TensorMaps | Array | Tensor | Evidence

# Why a metric of two maps is undefined where the first, of the clean image, is as it should be: the
# other says nothing any more.
PERTURBED_CONSTANT = "the map that it is held against is constant"

# How much of an exception's message is kept.
MESSAGE_LENGTH = 300

# Why a metric of two maps is undefined where the first, of the clean image, is as it should be: the
# other says nothing any more.
PERTURBED_CONSTANT = "the map that it is held against is constant"


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

    Where the metric raises, returns no number for each map, or one beyond its range, the status is
    `error`.

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
    _check_fit(metric, maps, against)
    if not isinstance(maps, Maps) and metric.on_tensors is None:
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
    for index in np.flatnonzero(~np.isnan(values) & ~within(values, metric.range)):
        reason = f"the metric returned {values[index]:g}, which is beyond its range {metric.range}"
        reasons[index] = (Status.ERROR, reason)
        values[index] = np.nan
    return Scores(
        values,
        tuple(reason[0] if reason else Status.OK for reason in reasons),
        tuple(reason[1] if reason else "" for reason in reasons),
    )


def too_small(metric: Metric, maps: Maps | TensorMaps) -> str:
    """Return why a metric is undefined on maps of that size; nothing where it is defined."""
    height, width = maps.signed.shape[1:]
    if min(height, width) >= metric.min_side:
        return ""
    side = metric.min_side
    return f"a map of {height} x {width} is smaller than the window of {side} x {side}"


def _is_tensor(values: object) -> TypeIs[Tensor]:
    """Whether values are a tensor; where torch has not been loaded, nothing is."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(values, torch.Tensor)


def _check_fit(metric: Metric, maps: Maps | TensorMaps, against: Against) -> None:
    """See that maps and what they are held against belong together.

    Raises:
        ValueError: they differ in kind, number or size.
    """
    if metric.against == "map":
        fits = isinstance(against, type(maps))
    elif metric.probes:
        fits = isinstance(against, PROBES[metric.against])
    else:
        fits = isinstance(against, np.ndarray) or _is_tensor(against)
    if not fits or len(against) != len(maps):
        raise ValueError(
            f"expected {len(maps)} of {metric.against}, got {len(against)} of "
            f"{type(against).__name__}"
        )
    if isinstance(against, Evidence | np.ndarray) or _is_tensor(against):
        return
    if maps.signed.shape != against.signed.shape:
        sizes = tuple(maps.signed.shape[1:]), tuple(against.signed.shape[1:])
        raise ValueError(f"maps of different size: {sizes[0]} and {sizes[1]}")


def _beside(maps: Maps | TensorMaps, against: Against) -> Against:
    """Bring what maps are held against to where they are, in double precision."""
    if isinstance(against, Evidence):
        return against
    if isinstance(against, np.ndarray) or _is_tensor(against):
        if not isinstance(maps, Maps):
            from steadymap.metrics import tensors  # noqa: PLC0415 - torch is there

            return tensors.on_device(against, maps.signed.device)
        return against.double().cpu().numpy() if _is_tensor(against) else against
    if isinstance(maps, Maps) and not isinstance(against, Maps):
        return against.on_host
    return against


def _select(against: Against, chosen: Flags) -> Against:
    if isinstance(against, np.ndarray):
        return against[chosen]
    if _is_tensor(against):
        from steadymap.metrics import tensors  # noqa: PLC0415 - torch is there

        return tensors.select(against, chosen)
    return against.select(chosen)


def _compute(metric: Metric, maps: Maps | TensorMaps, against: Against) -> Array:
    """Return the values (B,), on the host.

    Raises:
        ValueError: the metric returned something else.
    """
    if metric.on_tensors is not None and not isinstance(maps, Maps):
        values: Array = metric.on_tensors(maps, against).cpu().numpy()
    else:
        compute: Callable[[Any, Any], Array] = metric.compute
        values = np.asarray(compute(maps, against), dtype=np.float64)
    if values.shape != (len(maps),):
        raise ValueError(f"returned shape {values.shape} for {len(maps)} maps, expected (maps,)")
    return values


def _one_by_one(
    metric: Metric,
    pair: tuple[Maps | TensorMaps, Against],
    values: Array,
    reasons: list[tuple[Status, str] | None],
) -> None:
    """Compute each value by itself, so that a map on which the metric fails costs no other."""
    maps, against = pair
    for index in [place for place, reason in enumerate(reasons) if reason is None]:
        only = np.arange(len(maps)) == index
        try:
            values[index] = _compute(metric, maps.select(only), _select(against, only))[0]
        except (Exception, SystemExit) as error:  # noqa: BLE001 - as above; the records say what
            text = " ".join(str(error).split())[:MESSAGE_LENGTH]
            reasons[index] = (Status.ERROR, f"the metric raised {type(error).__name__}: {text}")


def _checks(metric: Metric, values: Against) -> Checks:
    if isinstance(values, Evidence):
        # Numbers that agree are an answer, too.
        return Checks(values.finite, np.zeros(len(values), dtype=bool))
    if isinstance(values, np.ndarray):
        return check(values)
    if _is_tensor(values):
        from steadymap.metrics import tensors  # noqa: PLC0415 - torch is there

        return tensors.check(values)
    return values.signed_checks if metric.reads == "signed" else values.magnitude_checks


def _small(metric: Metric, against: Against) -> Flags:
    deltas = against.cpu().numpy() if _is_tensor(against) else against
    if metric.against == "delta" and isinstance(deltas, np.ndarray):
        small: Flags = np.abs(deltas) < metric.min_delta
        return small
    return np.zeros(len(against), dtype=bool)


def _reasons(
    metric: Metric, maps: Maps | TensorMaps, against: Against
) -> list[tuple[Status, str] | None]:
    """For each map, why the metric is undefined on it; None where it is defined."""
    if reason := too_small(metric, maps):
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
            # Told apart: a map that vanished, and one that never said anything.
            vanished = metric.against == "map" and not own.constant[index]
            why = PERTURBED_CONSTANT if vanished else "a map or mask is constant"
            reasons.append((Status.DEGENERATE, why))
        elif small[index]:
            reasons.append((Status.SMALL_DELTA, f"|delta| is below {metric.min_delta} logits"))
        elif lacking[index]:
            reasons.append((Status.SKIPPED, lacking[index]))
        else:
            reasons.append(None)
    return reasons
