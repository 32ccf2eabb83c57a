"""Maps of a shifted, turned or enlarged image beside the clean ones: the same things in place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from steadymap.bench.measure.view import Explained, Failure, View, failure_of, logits_of
from steadymap.bench.measure.worker import BASELINE_PART, Worker
from steadymap.bench.methods.method import BoundMethod
from steadymap.bench.network.memory import is_out_of_memory
from steadymap.bench.perturbations.warp import (
    Warp,
    in_common,
    maps_back,
    maps_inside,
    maps_there_and_back,
    masks_inside,
)
from steadymap.metrics import Maps, Metric, Scores, Status, TensorMaps, evaluate, recognise
from steadymap.metrics.maps import Array, Flags


@dataclass(frozen=True)
class Compared:
    """What metrics are given of one method and view.

    Attributes:
        clean: the method's maps of the clean images.
        current: those of the view.
        nulls: batches of unrelated maps, as large as the clean ones.
        evidence: what metrics of one map are held against.
        equivariant: where things move, the clean maps as they would come back had they moved
            exactly as the image did; None where nothing moves, or there are none.
    """

    clean: Explained | Failure
    current: Explained | Failure
    nulls: tuple[Maps | TensorMaps, ...]
    evidence: Mapping[str, Array | torch.Tensor]
    equivariant: Explained | None = None


def in_place(compared: Compared, warp: Warp) -> Compared:
    """Return the view's maps warped back, and all cut to what both images have in common.

    Attributions stay as they are: what is held against a sum of them is held against all of it.
    """
    current = compared.current
    if isinstance(current, Failure):
        return compared
    height, width = current.maps.signed.shape[1:]
    window = in_common(warp, (height, width))
    if window is None:
        reason = f"a map of {height} x {width} has nothing in common with the clean one"
        return replace(compared, current=Failure(Status.SKIPPED, reason, len(current.maps)))
    clean, evidence = compared.clean, dict(compared.evidence)
    equivariant = None
    if isinstance(clean, Explained):
        equivariant = replace(clean, maps=maps_there_and_back(clean.maps, warp, window))
        clean = replace(clean, maps=maps_inside(clean.maps, window))
    if "mask" in evidence:
        evidence["mask"] = masks_inside(evidence["mask"], (height, width), window)
    return Compared(
        clean,
        replace(current, maps=maps_back(current.maps, warp, window)),
        tuple(maps_inside(maps, window) for maps in compared.nulls),
        evidence,
        equivariant,
    )


def score(
    metric: Metric,
    clean: Explained | Failure,
    current: Explained | Failure,
    evidence: Mapping[str, Array | torch.Tensor],
    chosen: Flags | None = None,
) -> Scores:
    """Return what a metric says of a view's maps; of half as many at a time where memory runs out.

    Args:
        metric: what is computed.
        clean: the maps of the clean images, which a metric of two maps compares with.
        current: the view's maps.
        evidence: what metrics of one map are held against.
        chosen: (B,), which of the maps; left out, all of them.
    """
    if isinstance(current, Failure):
        return current.scores()
    against: Maps | TensorMaps | Array | torch.Tensor
    if metric.against != "map":
        maps, against = current.maps, evidence[metric.against]
    elif isinstance(clean, Failure):
        return clean.scores("clean image: ")
    else:
        maps, against = clean.maps, current.maps
    if chosen is None:
        chosen = np.ones(len(maps), dtype=bool)
    else:
        maps, against = maps.select(chosen), _select(against, chosen)
    try:
        return evaluate(metric, maps, against)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        failure = failure_of(error, len(maps))
    # Out of the handler, where nothing holds on to what the failed try had allocated.
    if len(maps) == 1:
        return failure.scores()
    first = chosen & (np.cumsum(chosen) <= len(maps) // 2)
    halves = [score(metric, clean, current, evidence, half) for half in (first, chosen & ~first)]
    return Scores(
        np.concatenate([half.values for half in halves]),
        sum((half.statuses for half in halves), ()),
        sum((half.details for half in halves), ()),
    )


def _select(
    against: Maps | TensorMaps | Array | torch.Tensor, chosen: Flags
) -> Maps | TensorMaps | Array | torch.Tensor:
    if isinstance(against, Maps | TensorMaps):
        return against.select(chosen)
    return (
        against[torch.from_numpy(chosen)] if isinstance(against, torch.Tensor) else against[chosen]
    )


def recognised(
    metric: Metric,
    own: Scores,
    nulls: Sequence[Maps | TensorMaps],
    current: Explained | Failure,
) -> Scores:
    """Return whether each map is closer to its clean self than to every unrelated map."""
    if isinstance(current, Failure):
        return current.scores()
    try:
        return recognise(metric, own, nulls, current.maps)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        return failure_of(error, len(current.maps)).scores()


def deltas(worker: Worker, method: BoundMethod, view: View) -> Array:
    """(B,), in logits: what complete attributions must add up to.

    The logits at a baseline are computed once a batch: no perturbation changes them, unless the
    baseline is made of the image or drawn; but the shift of a compensated family does.
    """
    start = method.start
    if start is None:
        raise TypeError(f"{method.spec} is not complete: it has no baseline")
    key = (start, view.classifier.module.shift, view.cell if start.of_view else None)
    if key not in worker.baseline_logits:
        with worker.clock(view.cell, BASELINE_PART, len(view.images)):
            total = torch.zeros_like(view.logits, dtype=torch.float64)
            for images in start.images(view.batch):
                total += logits_of(worker, view.classifier, images).double()
        worker.baseline_logits[key] = total / start.draws
    difference = view.logits.double() - worker.baseline_logits[key].double()
    of_targets: Array = difference.gather(1, view.batch.targets[:, None])[:, 0].cpu().numpy()
    return of_targets


def input_scores(clean: View, view: View) -> dict[str, Scores]:
    """Return the scores of the image itself: its change, its share of values beyond the bounds."""
    low, high = view.classifier.bounds
    change = (view.images - clean.images).double().square().mean(dim=(1, 2, 3)).sqrt()
    outside = (view.images <= low) | (view.images >= high)
    values = {"input_change": change, "saturated_share": outside.double().mean(dim=(1, 2, 3))}
    return {
        name: Scores(value.numpy(), (Status.OK,) * len(value), ("",) * len(value))
        for name, value in values.items()
    }
