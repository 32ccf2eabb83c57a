"""Maps of a shifted, turned or enlarged image beside the clean ones: the same things in place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

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
from steadymap.bench.records.vocabulary import (
    CLEAN_PROBABILITY,
    MATCHED_CLASS,
    MATCHED_IMAGE,
    MATCHED_NETWORK,
    PARTNER,
    RANK,
)
from steadymap.metrics import Maps, Metric, Scores, Status, TensorMaps, evaluate, tabulate
from steadymap.metrics.maps import Array, Flags

NO_OTHER = "no map of another image of the block"
NO_OTHER_OF_CLASS = "no other image of the block is predicted to be of the same class"


@dataclass(frozen=True)
class Compared:
    """What metrics are given of one method and view.

    Attributes:
        clean: the method's maps of the clean images.
        current: those of the view.
        twins: those of the clean images, by each randomised network.
        evidence: what metrics of one map are held against.
        equivariant: where things move, the clean maps as they would come back had they moved
            exactly as the image did; None where nothing moves, or there are none.
    """

    clean: Explained | Failure
    current: Explained | Failure
    twins: tuple[Explained | Failure, ...]
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
    clean, *twins = (
        replace(maps, maps=maps_inside(maps.maps, window)) if isinstance(maps, Explained) else maps
        for maps in (clean, *compared.twins)
    )
    if "mask" in evidence:
        evidence["mask"] = masks_inside(evidence["mask"], (height, width), window)
    return Compared(
        clean,
        replace(current, maps=maps_back(current.maps, warp, window)),
        tuple(twins),
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


@dataclass(frozen=True)
class Beside:
    """Which images of a batch are held against which, in one view of it.

    Attributes:
        blocks: the places of the images of each.
        others: (B, B): whether a clean map may be held against the perturbed one of another image.
        same_class: (B, B): the same of images that are predicted to be of one class.
    """

    blocks: tuple[NDArray[np.int64], ...]
    others: Flags
    same_class: Flags


def matched(metric: Metric, placed: Compared, beside: Beside) -> dict[str, Scores]:
    """Return what the metric says of a view's maps and clean ones that are not theirs.

    Args:
        metric: of two maps.
        placed: the maps, in place.
        beside: which are held against which.

    Returns:
        By what is behind the metric's name: of each map the mean over the clean maps of other
        images (`other_image`), over those of its class, and, `partner`, of each clean map the mean
        over the perturbed maps of other images; the score with each randomised network's map; and,
        of metrics that recognise, the place of its own clean map among those of the block.
    """
    clean, current = placed.clean, placed.current
    names = matched_names(metric, len(placed.twins))
    if isinstance(current, Failure):
        return dict.fromkeys(names, current.scores())
    if isinstance(clean, Failure):
        return dict.fromkeys(names, clean.scores("clean image: "))
    try:
        table = tabulate(metric, clean.maps, current.maps, beside.blocks)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        return dict.fromkeys(names, failure_of(error, len(current.maps)).scores())
    found = {}
    for name, chosen, none in (
        (MATCHED_IMAGE, beside.others, NO_OTHER),
        (MATCHED_CLASS, beside.same_class, NO_OTHER_OF_CLASS),
    ):
        found[name] = table.beside_perturbed(chosen, none)
        found[name + PARTNER] = table.beside_clean(chosen, none)
    for draw, twin in enumerate(placed.twins):
        found[f"{MATCHED_NETWORK}{draw}"] = (
            twin.scores("randomised network: ")
            if isinstance(twin, Failure)
            else score(metric, twin, current, {})
        )
    if metric.recognises:
        found[RANK] = table.ranks(metric, beside.others, NO_OTHER)
    return found


def matched_names(metric: Metric, twins: int) -> list[str]:
    """Return what is behind a metric's name in the records of unrelated maps, in their order."""
    names = [MATCHED_IMAGE, MATCHED_IMAGE + PARTNER, MATCHED_CLASS, MATCHED_CLASS + PARTNER]
    names += [f"{MATCHED_NETWORK}{draw}" for draw in range(twins)]
    return names + ([RANK] if metric.recognises else [])


def skipped(scores: Scores, reasons: Mapping[int, str]) -> Scores:
    """Return scores without those at some places, each with its reason."""
    if not reasons:
        return scores
    values = scores.values.copy()
    values[list(reasons)] = np.nan
    places = range(len(values))
    return Scores(
        values,
        tuple(Status.SKIPPED if at in reasons else scores.statuses[at] for at in places),
        tuple(reasons.get(at, scores.details[at]) for at in places),
    )


def deltas(worker: Worker, method: BoundMethod, view: View) -> Array:
    """(B,), in logits: what complete attributions must add up to.

    The logits at a baseline are computed once a batch: no perturbation changes them, unless the
    baseline is made of the image or drawn; but the shift of a network does.
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
    """Return the scores of the image itself.

    They are its change, its share of values beyond the bounds, and the softmax probability of the
    target on the clean image, which is missing where a logit is not finite.
    """
    low, high = view.classifier.bounds
    change = (view.images - clean.images).double().square().mean(dim=(1, 2, 3)).sqrt()
    outside = (view.images <= low) | (view.images >= high)
    values = {"input_change": change, "saturated_share": outside.double().mean(dim=(1, 2, 3))}
    of_image = {
        name: Scores(value.numpy(), (Status.OK,) * len(value), ("",) * len(value))
        for name, value in values.items()
    }
    return of_image | {CLEAN_PROBABILITY: _probabilities(clean)}


def _probabilities(clean: View) -> Scores:
    """Return the softmax probability of each image's target, float64."""
    logits = clean.logits.double().cpu()
    targets = clean.batch.targets.cpu()[:, None]
    values = logits.softmax(dim=1).gather(1, targets)[:, 0].numpy()
    finite = logits.isfinite().all(dim=1).tolist()
    return Scores(
        np.where(finite, values, np.nan),
        tuple(Status.OK if known else Status.NONFINITE for known in finite),
        tuple("" if known else "the network's logits are not finite" for known in finite),
    )
