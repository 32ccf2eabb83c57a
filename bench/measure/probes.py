"""What the network says around the clean image: the evidence of metrics that need it.

A plan makes it only where it names such a metric. Everything drawn belongs to seed and image, so
that all methods are judged by the same neighbours, noise and order of ties.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from steadymap.bench.core import errors, randomness
from steadymap.bench.measure.explain import explain, same_size
from steadymap.bench.measure.nulls import predictions
from steadymap.bench.measure.view import Explained, Failure, ShownImages, View, logits_of, look
from steadymap.bench.measure.watch import Watch
from steadymap.bench.measure.worker import Worker
from steadymap.bench.methods.method import BoundMethod
from steadymap.bench.network import memory, passes
from steadymap.bench.perturbations import cell, corruptions
from steadymap.bench.plan.setup import wanted
from steadymap.metrics import PROBES, Evidence, Maps, Metric, Scores, Status, TensorMaps, evaluate
from steadymap.metrics.faithfulness import (
    BLUR_SHARE,
    NOISE_DRAWS,
    NOISE_SPREAD,
    STEPS,
    Curve,
    Responses,
    enlarge,
    places,
    taken,
)
from steadymap.metrics.maps import Array
from steadymap.metrics.neighbours import NEIGHBOURS, RADIUS, Neighbours, change, relative_change

# The name of this part of the work.
PROBES_PART = "probes"

# For each method what its maps are held against, or why there is nothing.
EvidenceOf = dict[BoundMethod, Evidence | Failure]


@dataclass(frozen=True)
class CleanBatch:
    """Clean images with their maps.

    Attributes:
        worker: who does it.
        view: the clean one, with the layer's activations where `reads` asks for them.
        maps: by method.
        watch: who is told of maps just made.
    """

    worker: Worker
    view: View
    maps: Mapping[BoundMethod, Explained | Failure]
    watch: Watch

    def signed(self) -> dict[BoundMethod, Array]:
        """Return signed maps (B, h, w) of the methods that have any, on the host."""
        return {
            method: _host(explanation.maps)
            for method, explanation in self.maps.items()
            if isinstance(explanation, Explained)
        }

    def logits(self, images: torch.Tensor) -> torch.Tensor:
        """(B, K): the network's logits of images (B, 3, H, W); NaN where it raises on one."""
        return logits_of(self.worker, self.view.classifier, images)

    def picked(self, values: torch.Tensor) -> Array:
        """(B,): the targets' values of (B, K), in double precision."""
        return _double(values.gather(1, self.view.batch.targets[:, None])[:, 0])

    def probability(self, logits: torch.Tensor) -> Array:
        """(B,): the targets' probabilities."""
        return self.picked(logits.double().softmax(dim=1))


def reads(kinds: Collection[str], worker: Worker) -> tuple[passes.Read, ...]:
    """Return what the clean pass must bring for the probes, beyond what methods read."""
    layered = "neighbours" in kinds and worker.classifier.cam_layer is not None
    return ("activations",) if layered else ()


def probe(
    clean: CleanBatch, metrics: Mapping[BoundMethod, Mapping[str, Metric]]
) -> dict[str, dict[str, Scores]]:
    """Return, by method and metric, the clean maps' scores by all metrics that need the network."""
    worker, view = clean.worker, clean.view
    kinds = [kind for kind in PROBES if kind in wanted(metrics)]
    if not kinds:
        return {}
    with worker.clock(view.cell, PROBES_PART, len(view.images)):
        evidence = {kind: _evidence(kind, clean) for kind in kinds}
        return {
            method.spec: {
                name: _score(metric, clean.maps[method], evidence[metric.against][method])
                for name, metric in by_name.items()
                if metric.against in PROBES
            }
            for method, by_name in metrics.items()
        }


def _evidence(kind: str, clean: CleanBatch) -> EvidenceOf:
    """Return evidence of a kind for all methods, or that memory does not hold it."""
    try:
        return PROBERS[kind](clean)
    except Exception as error:
        if not memory.is_out_of_memory(error):
            raise
        reason = errors.one_line(error)
    return dict.fromkeys(clean.maps, Failure(Status.ERROR, reason, len(clean.view.images)))


def _score(metric: Metric, maps: Explained | Failure, evidence: Evidence | Failure) -> Scores:
    if isinstance(maps, Failure):
        return maps.scores()
    if isinstance(evidence, Failure):
        return evidence.scores("neighbour: " if metric.against == "neighbours" else "")
    return evaluate(metric, maps.maps, evidence)


def probe_passes(kinds: Collection[str], images: int, applied: int) -> int:
    """Return how many times images go forward for the probes, beside the neighbours' views.

    Args:
        kinds: which of `PROBES` a run needs.
        images: how many there are.
        applied: how many methods apply to the network.
    """
    noise = NOISE_DRAWS * ("noise" in kinds)
    curves = sum(kind in kinds for kind in ("deletion", "insertion"))
    return images * (noise + curves * (1 + (STEPS - 1) * applied))


# --- neighbours -----------------------------------------------------------------------------------


def neighbour(image: torch.Tensor, image_id: str, seed: int, draw: int) -> torch.Tensor:
    """Return an image (3, H, W) with uniform noise on every value, not clamped."""
    noise = randomness.generator(seed, image_id, "neighbour", draw).uniform(
        -RADIUS, RADIUS, image.shape
    )
    return image + torch.from_numpy(noise).to(image)


def _neighbours(clean: CleanBatch) -> EvidenceOf:
    """Return how far the maps of neighbours, explained with every method, are from the clean ones.

    Of a neighbour's maps distances alone are kept.
    """
    view = clean.view
    facts: dict[str, list[Array]] = {}
    moved: dict[BoundMethod, list[tuple[Array, Array]]] = {method: [] for method in clean.maps}
    failures: dict[BoundMethod, Failure] = {}
    for draw in range(NEIGHBOURS):
        near = _look_beside(clean, draw)
        for name, values in _facts(view, near).items():
            facts.setdefault(name, []).append(values)
        for method in clean.maps:
            reference = clean.maps[method]
            current = same_size(reference, explain(clean.worker, method, near))
            clean.watch.tell(len(view.images))
            if isinstance(reference, Failure):
                failures.setdefault(method, reference)
                continue
            if isinstance(current, Failure):
                failures.setdefault(method, current)
                continue
            pair = _finite(_host(reference.maps)), _finite(_host(current.maps))
            pair[1][list(near.refused)] = np.nan
            moved[method].append((change(*pair), relative_change(*pair)))
    columns = {name: np.stack(values, axis=1) for name, values in facts.items()}
    kept = columns.pop("kept").astype(bool)
    layer = columns.pop("layer_relative", None)
    evidence: EvidenceOf = {}
    for method, pairs in moved.items():
        if method in failures:
            evidence[method] = failures[method]
            continue
        changes, relative = (np.stack(values, axis=1) for values in zip(*pairs, strict=True))
        evidence[method] = Neighbours(
            map_change=changes, map_relative=relative, kept=kept, layer_relative=layer, **columns
        )
    return evidence


def _look_beside(clean: CleanBatch, draw: int) -> View:
    view, batch = clean.view, clean.view.batch
    images = torch.stack(
        [
            neighbour(image, image_id, view.seed, draw)
            for image, image_id in zip(view.images, view.image_ids, strict=True)
        ]
    )
    shown = ShownImages(
        cell.CLEAN_CELL,
        images,
        images.to(batch.images),
        view.image_ids,
        view.seed,
        # An image nearby is another view of it.
        cell.Cell("neighbour", 0.0, draw),
    )
    also: tuple[passes.Read, ...] = () if view.seen.activations is None else ("activations",)
    return look(clean.worker, shown, batch.targets, also, view.refused)


def _facts(clean: View, near: View) -> dict[str, Array]:
    """Return what is known of neighbours without a map: (B,) each."""
    images = _double(clean.images), _double(near.images)
    logits = _finite(_double(clean.logits)), _finite(_double(near.logits))
    same = [
        first is not None and first == second
        for first, second in zip(predictions(clean), predictions(near), strict=True)
    ]
    facts = {
        "image_change": change(*images),
        "image_relative": relative_change(*images),
        "logit_change": change(*logits),
        "kept": np.array(same, dtype=np.float64),
    }
    if clean.seen.activations is not None and near.seen.activations is not None:
        layer = _double(clean.seen.activations), _double(near.seen.activations)
        facts["layer_relative"] = relative_change(*map(_finite, layer))
    return facts


# --- noise ----------------------------------------------------------------------------------------


def grey_noise(size: tuple[int, int], image_id: str, seed: int, draw: int) -> Array:
    """(H, W): normal noise, the same for all channels.

    What a map summed over channels says of it is then what the attributions themselves say.
    """
    drawn = randomness.generator(seed, image_id, "infidelity", draw).standard_normal(size)
    return NOISE_SPREAD * drawn


def _responses(clean: CleanBatch) -> EvidenceOf:
    """Return what noise taken off the images, the same for all methods, costs the target."""
    view, batch = clean.view, clean.view.batch
    height, width = view.images.shape[2:]
    maps = {m: enlarge(_finite(x), (height, width)) for m, x in clean.signed().items()}
    before = clean.picked(view.logits)
    losses: list[Array] = []
    expected: dict[BoundMethod, list[Array]] = {method: [] for method in maps}
    for draw in range(NOISE_DRAWS):
        noise = np.stack(
            [grey_noise((height, width), image_id, view.seed, draw) for image_id in view.image_ids]
        )
        without = view.images - torch.from_numpy(noise)[:, None].to(view.images)
        losses.append(before - clean.picked(clean.logits(without.to(batch.images))))
        for method, signed in maps.items():
            expected[method].append((signed * noise).sum(axis=(1, 2)))
    lost = np.stack(losses, axis=1)
    return _filled(clean, {m: Responses(np.stack(x, axis=1), lost) for m, x in expected.items()})


# --- pixels that change hands ---------------------------------------------------------------------


def mean_colour(images: torch.Tensor) -> torch.Tensor:
    """Return images (B, 3, H, W) that have each image's mean colour everywhere."""
    return images.mean(dim=(2, 3), keepdim=True).expand_as(images)


def blurred(images: torch.Tensor) -> torch.Tensor:
    """Return images (B, 3, H, W) on the CPU without detail."""
    unused = np.random.default_rng(0)
    return torch.stack([corruptions.gaussian_blur(image, BLUR_SHARE, unused) for image in images])


def _deletion(clean: CleanBatch) -> EvidenceOf:
    images = clean.view.batch.images
    plain = mean_colour(images)
    return _curves(clean, images, plain, clean.view.logits, clean.logits(plain))


def _insertion(clean: CleanBatch) -> EvidenceOf:
    images = clean.view.batch.images
    hidden = blurred(clean.view.images).to(images)
    return _curves(clean, hidden, images, clean.logits(hidden), clean.view.logits)


def _curves(
    clean: CleanBatch,
    before: torch.Tensor,
    after: torch.Tensor,
    logits_before: torch.Tensor,
    logits_after: torch.Tensor,
) -> EvidenceOf:
    """Return the target's probability while pixels go over from one image to another, by method.

    Args:
        clean: whose maps say which pixels go first.
        before: (B, 3, H, W), the images with none of them gone.
        after: (B, 3, H, W), with all of them gone.
        logits_before: (B, K).
        logits_after: (B, K).
    """
    view = clean.view
    height, width = before.shape[2:]
    ties = np.stack(
        [
            randomness.generator(view.seed, image_id, "ties").permutation(height * width)
            for image_id in view.image_ids
        ]
    )
    first, last = clean.probability(logits_before), clean.probability(logits_after)
    curves: dict[BoundMethod, Evidence] = {}
    for method, signed in clean.signed().items():
        ranks = places(enlarge(_finite(signed), (height, width)), ties)
        between = [
            clean.probability(clean.logits(_mixed(before, after, ranks, step)))
            for step in range(1, STEPS)
        ]
        curves[method] = Curve(np.stack([first, *between, last], axis=1))
    return _filled(clean, curves)


def _mixed(
    before: torch.Tensor, after: torch.Tensor, ranks: NDArray[np.int64], step: int
) -> torch.Tensor:
    """Return images (B, 3, H, W) of which the first pixels have gone over, after so many steps."""
    replaced = torch.from_numpy(taken(ranks, step)).to(before.device)
    return torch.where(replaced[:, None], after, before)


PROBERS: dict[str, Callable[[CleanBatch], EvidenceOf]] = {
    "neighbours": _neighbours,
    "noise": _responses,
    "deletion": _deletion,
    "insertion": _insertion,
}


def _filled(clean: CleanBatch, evidence: Mapping[BoundMethod, Evidence]) -> EvidenceOf:
    """Return evidence with why the other methods have none: their clean maps are missing."""
    lacking = {m: maps for m, maps in clean.maps.items() if isinstance(maps, Failure)}
    return {**evidence, **lacking}


def _host(maps: Maps | TensorMaps) -> Array:
    return (maps.on_host if isinstance(maps, TensorMaps) else maps).signed


def _double(values: torch.Tensor) -> Array:
    array: Array = values.detach().double().cpu().numpy()
    return array


def _finite(values: Array) -> Array:
    """Return rows with all their values, or none: what is computed of infinities says nothing."""
    flat = values.reshape(len(values), -1)
    known = np.isfinite(flat).all(axis=1).reshape(-1, *[1] * (values.ndim - 1))
    return np.where(known, values, np.nan)
