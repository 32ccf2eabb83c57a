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
from torch import Tensor

from steadymap.bench.core.errors import one_line
from steadymap.bench.core.randomness import generator
from steadymap.bench.measure.explain import same_size
from steadymap.bench.measure.nulls import predictions
from steadymap.bench.measure.view import Explained, Failure, ShownImages, View, logits_of, look
from steadymap.bench.measure.worker import Worker
from steadymap.bench.methods.method import BoundMethod
from steadymap.bench.network.memory import is_out_of_memory
from steadymap.bench.network.passes import Read
from steadymap.bench.perturbations.cell import CLEAN_CELL
from steadymap.bench.perturbations.corruptions import gaussian_blur
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

# For each method what was made for it, or why nothing was.
Made = dict[BoundMethod, Evidence | Failure]
Scored = dict[str, dict[str, Scores]]


@dataclass(frozen=True)
class CleanBatch:
    """Clean images with their maps.

    Attributes:
        worker: who does it.
        view: the clean one, with the layer's activations where `reads` asks for them.
        clean: by method, the maps.
        explain: explains another view of the same images; returns the clean maps to compare with,
            and the view's, of paths at the same nodes.
        advance: called with the number of maps just made.
    """

    worker: Worker
    view: View
    clean: Mapping[BoundMethod, Explained | Failure]
    explain: Callable[[BoundMethod, View], tuple[Explained | Failure, Explained | Failure]]
    advance: Callable[[int], None]

    def maps(self) -> dict[BoundMethod, Array]:
        """Return signed maps (B, h, w) of the methods that have any, on the host."""
        return {
            method: _host(found.maps)
            for method, found in self.clean.items()
            if isinstance(found, Explained)
        }

    def logits(self, images: Tensor) -> Tensor:
        """(B, K): the network's logits of images (B, 3, H, W); NaN where it raises on one."""
        return logits_of(self.worker, self.view.classifier, images)

    def picked(self, values: Tensor) -> Array:
        """(B,): the targets' values of (B, K), in double precision."""
        return _double(values.gather(1, self.view.batch.targets[:, None])[:, 0])

    def probability(self, logits: Tensor) -> Array:
        """(B,): the targets' probabilities."""
        return self.picked(logits.double().softmax(dim=1))


def reads(kinds: Collection[str], view_of: Worker) -> tuple[Read, ...]:
    """Return what the clean pass must bring for the probes, beyond what methods read."""
    layered = "neighbours" in kinds and view_of.classifier.cam_layer is not None
    return ("activations",) if layered else ()


def probe(subject: CleanBatch, metrics: Mapping[BoundMethod, Mapping[str, Metric]]) -> Scored:
    """Score the clean maps by every metric that needs the network: by method and metric."""
    worker, view = subject.worker, subject.view
    kinds = [kind for kind in PROBES if kind in wanted(metrics)]
    if not kinds:
        return {}
    with worker.clock(view.cell, PROBES_PART, len(view.images)):
        made = {kind: _made(kind, subject) for kind in kinds}
        return {
            method.spec: {
                name: _score(metric, subject.clean[method], made[metric.against][method])
                for name, metric in by_name.items()
                if metric.against in PROBES
            }
            for method, by_name in metrics.items()
        }


def _made(kind: str, subject: CleanBatch) -> Made:
    """Make evidence of a kind for all methods; where memory does not hold it, say so."""
    try:
        return PROBERS[kind](subject)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        reason = one_line(error)
    return dict.fromkeys(subject.clean, Failure(Status.ERROR, reason, len(subject.view.images)))


def _score(metric: Metric, clean: Explained | Failure, made: Evidence | Failure) -> Scores:
    if isinstance(clean, Failure):
        return clean.scores()
    if isinstance(made, Failure):
        return made.scores("neighbour: " if metric.against == "neighbours" else "")
    return evaluate(metric, clean.maps, made)


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


def neighbour(image: Tensor, image_id: str, seed: int, draw: int) -> Tensor:
    """Return an image (3, H, W) with uniform noise on every value, not clamped."""
    noise = generator(seed, image_id, "neighbour", draw).uniform(-RADIUS, RADIUS, image.shape)
    return image + torch.from_numpy(noise).to(image)


def _neighbours(subject: CleanBatch) -> Made:
    """Explain every neighbour with every method; of its maps distances alone are kept."""
    view = subject.view
    facts: dict[str, list[Array]] = {}
    moved: dict[BoundMethod, list[tuple[Array, Array]]] = {method: [] for method in subject.clean}
    failures: dict[BoundMethod, Failure] = {}
    for draw in range(NEIGHBOURS):
        near = _look_beside(subject, draw)
        for name, values in _facts(view, near).items():
            facts.setdefault(name, []).append(values)
        for method in subject.clean:
            reference, found = subject.explain(method, near)
            found = same_size(reference, found)
            subject.advance(len(view.images))
            if isinstance(reference, Failure):
                failures.setdefault(method, reference)
                continue
            if isinstance(found, Failure):
                failures.setdefault(method, found)
                continue
            pair = _finite(_host(reference.maps)), _finite(_host(found.maps))
            pair[1][list(near.refused)] = np.nan
            moved[method].append((change(*pair), relative_change(*pair)))
    columns = {name: np.stack(values, axis=1) for name, values in facts.items()}
    kept = columns.pop("kept").astype(bool)
    layer = columns.pop("layer_relative", None)
    made: Made = {}
    for method, pairs in moved.items():
        if method in failures:
            made[method] = failures[method]
            continue
        changes, relative = (np.stack(values, axis=1) for values in zip(*pairs, strict=True))
        made[method] = Neighbours(
            map_change=changes, map_relative=relative, kept=kept, layer_relative=layer, **columns
        )
    return made


def _look_beside(subject: CleanBatch, draw: int) -> View:
    view, batch = subject.view, subject.view.batch
    images = torch.stack(
        [
            neighbour(image, image_id, batch.seed, draw)
            for image, image_id in zip(view.images, batch.image_ids, strict=True)
        ]
    )
    shown = ShownImages(CLEAN_CELL, images, images.to(batch.images), batch.image_ids, batch.seed)
    also: tuple[Read, ...] = () if view.seen.activations is None else ("activations",)
    return look(subject.worker, shown, batch.targets, also, view.refused)


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
    drawn = generator(seed, image_id, "infidelity", draw).standard_normal(size)
    return NOISE_SPREAD * drawn


def _responses(subject: CleanBatch) -> Made:
    """Take noise off the images, the same for all methods."""
    view, batch = subject.view, subject.view.batch
    height, width = view.images.shape[2:]
    maps = {m: enlarge(_finite(x), (height, width)) for m, x in subject.maps().items()}
    clean = subject.picked(view.logits)
    found: list[Array] = []
    expected: dict[BoundMethod, list[Array]] = {method: [] for method in maps}
    for draw in range(NOISE_DRAWS):
        noise = np.stack(
            [
                grey_noise((height, width), image_id, batch.seed, draw)
                for image_id in batch.image_ids
            ]
        )
        without = view.images - torch.from_numpy(noise)[:, None].to(view.images)
        found.append(clean - subject.picked(subject.logits(without.to(batch.images))))
        for method, signed in maps.items():
            expected[method].append((signed * noise).sum(axis=(1, 2)))
    lost = np.stack(found, axis=1)
    return _filled(subject, {m: Responses(np.stack(x, axis=1), lost) for m, x in expected.items()})


# --- pixels that change hands ---------------------------------------------------------------------


def mean_colour(images: Tensor) -> Tensor:
    """Return images (B, 3, H, W) that have each image's mean colour everywhere."""
    return images.mean(dim=(2, 3), keepdim=True).expand_as(images)


def blurred(images: Tensor) -> Tensor:
    """Return images (B, 3, H, W) on the CPU without detail."""
    unused = np.random.default_rng(0)
    return torch.stack([gaussian_blur(image, BLUR_SHARE, unused) for image in images])


def _deletion(subject: CleanBatch) -> Made:
    images = subject.view.batch.images
    gone = mean_colour(images)
    return _curves(subject, (images, gone), (subject.view.logits, subject.logits(gone)))


def _insertion(subject: CleanBatch) -> Made:
    images = subject.view.batch.images
    hidden = blurred(subject.view.images).to(images)
    return _curves(subject, (hidden, images), (subject.logits(hidden), subject.view.logits))


def _curves(
    subject: CleanBatch, images: tuple[Tensor, Tensor], ends: tuple[Tensor, Tensor]
) -> Made:
    """Follow the target's probability while pixels go over to the second image of each pair.

    Args:
        subject: whose maps say which pixels go first.
        images: (B, 3, H, W) each, before and after.
        ends: (B, K) each, their logits.
    """
    batch = subject.view.batch
    height, width = images[0].shape[2:]
    ties = np.stack(
        [
            generator(batch.seed, image_id, "ties").permutation(height * width)
            for image_id in batch.image_ids
        ]
    )
    first, last = (subject.probability(logits) for logits in ends)
    made: dict[BoundMethod, Evidence] = {}
    for method, signed in subject.maps().items():
        ranks = places(enlarge(_finite(signed), (height, width)), ties)
        between = [
            subject.probability(subject.logits(_mixed(images, ranks, step)))
            for step in range(1, STEPS)
        ]
        made[method] = Curve(np.stack([first, *between, last], axis=1))
    return _filled(subject, made)


def _mixed(images: tuple[Tensor, Tensor], ranks: NDArray[np.int64], step: int) -> Tensor:
    before, after = images
    gone = torch.from_numpy(taken(ranks, step)).to(before.device)
    return torch.where(gone[:, None], after, before)


PROBERS: dict[str, Callable[[CleanBatch], Made]] = {
    "neighbours": _neighbours,
    "noise": _responses,
    "deletion": _deletion,
    "insertion": _insertion,
}


def _filled(subject: CleanBatch, made: Mapping[BoundMethod, Evidence]) -> Made:
    """Add why the other methods have none: their clean maps are missing."""
    lacking = {m: found for m, found in subject.clean.items() if isinstance(found, Failure)}
    return {**made, **lacking}


def _host(maps: Maps | TensorMaps) -> Array:
    return (maps.on_host if isinstance(maps, TensorMaps) else maps).signed


def _double(values: Tensor) -> Array:
    found: Array = values.detach().double().cpu().numpy()
    return found


def _finite(values: Array) -> Array:
    """Return rows with all their values, or none: what is computed of infinities says nothing."""
    flat = values.reshape(len(values), -1)
    known = np.isfinite(flat).all(axis=1).reshape(-1, *[1] * (values.ndim - 1))
    return np.where(known, values, np.nan)
