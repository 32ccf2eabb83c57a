"""What clean maps are held against, beside their perturbed selves.

A score says little alone: the maps of two images may be much alike. So each map of a clean image
is compared with maps that it must not resemble (another image's, and its own from a network with
randomised weights), with itself under another seed where a method draws, and, for a few images,
with itself computed in another way. Source: Adebayo et al. 2018 (randomised weights).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch

from steadymap.bench.core.randomness import generator
from steadymap.bench.data.image_set import ImageSet
from steadymap.bench.measure.explain import explain
from steadymap.bench.measure.view import Explained, Failure, ShownImages, View, explained, look
from steadymap.bench.measure.watch import Watch
from steadymap.bench.measure.worker import Worker
from steadymap.bench.methods.method import BoundMethod
from steadymap.bench.network import passes
from steadymap.bench.perturbations.cell import CLEAN_CELL, Cell
from steadymap.bench.plan.blocks import cut
from steadymap.bench.plan.shards import AGAIN
from steadymap.bench.records.vocabulary import OTHER_IMAGE, OTHER_SEED, RANDOM_NETWORK
from steadymap.metrics import Status
from steadymap.models import Classifier


@dataclass(frozen=True)
class Reference:
    """Maps of a batch's images, made in another way or of other things.

    Attributes:
        cell: the family of reference, and which draw of it.
        predictions: B classes, of what was explained; None where a logit is not finite.
        maps: by method, the maps, of those methods that have any.
        refused: as in `View`.
    """

    cell: Cell
    predictions: list[int | None]
    maps: dict[BoundMethod, Explained | Failure]
    refused: Mapping[int, str] = field(default_factory=dict)


def predictions(view: View) -> list[int | None]:
    """Return the predicted class of each image; None where a logit is missing or not finite."""
    finite = torch.isfinite(view.logits).all(dim=1).tolist()
    best = view.logits.argmax(dim=1).tolist()
    return [
        label if valid and place not in view.refused else None
        for place, (label, valid) in enumerate(zip(best, finite, strict=True))
    ]


def randomised_twins(classifier: Classifier, count: int, seed: int) -> list[Classifier]:
    """Return networks of the same architecture that know nothing.

    Raises:
        ModelError: the network cannot be copied or randomised.
    """
    with passes.aside():
        return [
            classifier.randomised(int(generator(seed, RANDOM_NETWORK, draw).integers(2**62)))
            for draw in range(count)
        ]


def show(worker: Worker, images: ImageSet, indices: Sequence[int], seed: int) -> ShownImages:
    """Return clean images for a worker."""
    stacked = images.images(indices)
    ids = tuple(images.pictures[index].image_id for index in indices)
    mean = worker.classifier.module.mean
    return ShownImages(CLEAN_CELL, stacked, stacked.to(mean.device, mean.dtype), ids, seed)


@dataclass(frozen=True)
class Panel:
    """Clean maps of a batch, that each of its images is held against others of its block.

    A block is a few images that follow each other in the set. So all images serve, a batch needs
    nothing but itself, and images that are added at the end change the last batch alone.

    Attributes:
        ids: P image ids.
        blocks: the same, block by block.
        predictions: P classes.
        attributions: by method, (P, 1, h, w), summed over channels; or why there are none.
    """

    ids: tuple[str, ...]
    blocks: tuple[tuple[str, ...], ...]
    predictions: tuple[int | None, ...]
    attributions: Mapping[BoundMethod, torch.Tensor | Failure]

    def partners(self, image_id: str, count: int, seed: int) -> list[int]:
        """Return the places of images that one image is held against; never its own."""
        block = next((block for block in self.blocks if image_id in block), self.ids)
        others = sorted(other for other in block if other != image_id)
        chosen = generator(seed, image_id, "partners").permutation(len(others))[:count]
        return [self.ids.index(others[int(place)]) for place in chosen]


def make_panel(view: View, clean: Mapping[BoundMethod, Explained | Failure], size: int) -> Panel:
    """Return the clean maps of a batch; those of refused images are left out.

    Args:
        view: the clean one.
        clean: its maps.
        size: how many images that follow each other are held against each other.
    """
    ids, labels = view.image_ids, predictions(view)
    places = [place for place in range(len(ids)) if place not in view.refused]
    kept = {ids[place] for place in places}
    return Panel(
        tuple(ids[place] for place in places),
        tuple(
            tuple(ids[place] for place in block if ids[place] in kept)
            for block in cut(len(ids), size)
        ),
        tuple(labels[place] for place in places),
        {
            method: maps
            if isinstance(maps, Failure)
            else maps.attributions.sum(dim=1, keepdim=True)[places]
            for method, maps in clean.items()
        },
    )


# --- all of a batch -------------------------------------------------------------------------------


def references(worker: Worker, view: View, panel: Panel, watch: Watch) -> Iterator[Reference]:
    """Yield what the clean maps of a batch are held against.

    Args:
        worker: who does it; it has as many twins as there are null maps of either kind.
        view: the clean one.
        panel: the clean maps of the batch.
        watch: who is told of maps just made.
    """
    count = len(worker.twins)
    seed, ids = view.seed, view.image_ids
    partners = [panel.partners(image_id, count, seed) for image_id in ids]
    # A set of few images has fewer partners than were asked for.
    for draw in range(min(map(len, partners))):
        places = [row[draw] for row in partners]
        yield Reference(
            Cell(OTHER_IMAGE, 0.0, draw),
            [panel.predictions[place] for place in places],
            {method: _gathered(maps, places) for method, maps in panel.attributions.items()},
        )
    for draw, twin in enumerate(worker.twins):
        cell = Cell(RANDOM_NETWORK, 0.0, draw)
        yield all_methods(twin, _reshown(view, cell), view.batch.targets, watch)
    drawing = [method for method in worker.methods if method.can("stochastic")]
    if drawing:
        yield redrawn(worker, view, AGAIN, drawing, watch)


def redrawn(
    worker: Worker, view: View, cell: Cell, methods: Sequence[BoundMethod], watch: Watch
) -> Reference:
    """Return the maps that methods make of the clean view with another seed.

    Args:
        worker: who does it.
        view: the clean one.
        cell: `AGAIN` or `AGAIN_BY_ALL`, which have a seed each.
        methods: which.
        watch: who is told of maps just made.
    """
    other = replace(view.drawing(CLEAN_CELL, other_seed(view.seed, cell.draw)), cell=cell)
    maps = {}
    for method in methods:
        maps[method] = explain(worker, method, other)
        watch.tell(len(view.image_ids))
    return Reference(cell, predictions(view), maps, view.refused)


def other_seed(seed: int, draw: int) -> int:
    """Return a seed that is not the run's."""
    return int(generator(seed, OTHER_SEED, draw).integers(2**62))


def _gathered(maps: torch.Tensor | Failure, places: list[int]) -> Explained | Failure:
    if isinstance(maps, Failure):
        return replace(maps, size=len(places))
    return explained(maps[places], len(places))


def _reshown(view: View, cell: Cell) -> ShownImages:
    return ShownImages(cell, view.images, view.batch.images, view.image_ids, view.seed)


def all_methods(
    worker: Worker, shown: ShownImages, targets: torch.Tensor | None, watch: Watch
) -> Reference:
    """Return the maps that all methods make of images."""
    return explained_by_all(worker, look(worker, shown, targets), watch)


def explained_by_all(worker: Worker, view: View, watch: Watch) -> Reference:
    """Return the maps that all methods make of a view."""
    maps = {}
    for method in worker.methods:
        maps[method] = explain(worker, method, view)
        watch.tell(len(view.images))
    return Reference(view.cell, predictions(view), maps, view.refused)


def comparable(clean: Explained | Failure, other: Explained | Failure) -> Explained | Failure:
    """Return `other`, or why its maps cannot be compared with the clean ones."""
    if isinstance(clean, Failure) or isinstance(other, Failure):
        return other
    sizes = [tuple(part.attributions.shape[2:]) for part in (clean, other)]
    if sizes[0] == sizes[1]:
        return other
    reason = f"maps of {sizes[1]} where the clean image's are {sizes[0]}"
    return Failure(Status.ERROR, reason, len(other.maps))
