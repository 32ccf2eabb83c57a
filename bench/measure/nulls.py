"""What clean maps are held against, beside their perturbed selves.

A score says little alone: the maps of two images may be much alike. So each perturbed map is held
against clean maps that it must not resemble: those of the other images of its block, and its own
from networks with randomised weights (`Panel` says which; `steadymap.bench.measure.scores` scores
them). And each clean map is held against the next image's, a randomised network's and its own for
another class, which it must not be; against itself under another seed; and, for a few images,
against itself computed in another way. Sources: Adebayo et al. 2018 (randomised weights); Sixt,
Granz and Landgraf 2020 (another class).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray

from steadymap.bench.core.randomness import generator
from steadymap.bench.data.image_set import ImageSet
from steadymap.bench.measure.explain import explain
from steadymap.bench.measure.view import Explained, Failure, ShownImages, View, look
from steadymap.bench.measure.watch import Watch
from steadymap.bench.measure.worker import Worker
from steadymap.bench.methods.method import BoundMethod
from steadymap.bench.network import passes
from steadymap.bench.perturbations.cell import CLEAN_CELL, Cell
from steadymap.bench.plan.blocks import cut
from steadymap.bench.plan.shards import AGAIN
from steadymap.bench.records.vocabulary import (
    OTHER_CLASS,
    OTHER_IMAGE,
    OTHER_SEED,
    RANDOM_NETWORK,
)
from steadymap.metrics import Status
from steadymap.metrics.maps import Flags
from steadymap.models import Classifier


@dataclass(frozen=True)
class Reference:
    """Maps of a batch's images, made in another way or of other things.

    Attributes:
        cell: the family of reference, and which draw of it.
        predictions: B classes, of what was explained; None where a logit is not finite.
        maps: by method, the maps, of those methods that have any.
        refused: as in `View`.
        skipped: by place in the batch, why there is nothing to hold a map against.
    """

    cell: Cell
    predictions: list[int | None]
    maps: dict[BoundMethod, Explained | Failure]
    refused: Mapping[int, str] = field(default_factory=dict)
    skipped: Mapping[int, str] = field(default_factory=dict)


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
    """Which images of a batch are held against which: all of a block against each other.

    A block is a few images that follow each other in the set. So all images serve, a batch needs
    nothing but itself, and images that are added at the end change the last batch alone.

    Attributes:
        ids: B image ids.
        blocks: the places of the images of each; those that the network has no logits of are left
            out.
        classes: B predicted classes; None of those left out.
    """

    ids: tuple[str, ...]
    blocks: tuple[NDArray[np.int64], ...]
    classes: tuple[int | None, ...]

    def others(self, lost: Collection[int]) -> Flags:
        """(B, B): whether a clean map may be held against the perturbed one of another image.

        Args:
            lost: the places of images that have no perturbed map.
        """
        count = len(self.classes)
        beside = np.zeros((count, count), dtype=bool)
        for block in self.blocks:
            beside[np.ix_(block, [place for place in block if place not in lost])] = True
        np.fill_diagonal(beside, val=False)
        return beside

    def of_same_class(self, others: Flags) -> Flags:
        """(B, B): the same of those whose clean images are predicted to be of one class."""
        classes = np.array([-1 if label is None else label for label in self.classes])
        alike: Flags = others & (classes[:, None] == classes)
        return alike

    def next_of(self) -> list[int]:
        """Return the place of the image that follows each in its block, the first after the last.

        In the order of their ids, so that the order of the set says nothing; its own where an image
        is alone.
        """
        following = list(range(len(self.ids)))
        for block in self.blocks:
            ordered = sorted(block.tolist(), key=self.ids.__getitem__)
            for place, after in zip(ordered, [*ordered[1:], ordered[0]], strict=True):
                following[place] = after
        return following


def make_panel(view: View, size: int) -> Panel:
    """Return which images of a batch are held against which.

    Args:
        view: the clean one.
        size: how many images that follow each other make a block.
    """
    classes = tuple(predictions(view))
    blocks = (
        np.array([place for place in block if classes[place] is not None], dtype=np.int64)
        for block in cut(len(classes), size)
    )
    return Panel(view.image_ids, tuple(block for block in blocks if len(block)), classes)


# --- all of a batch -------------------------------------------------------------------------------

ALONE = "no other image of its block can be explained"


def references(
    worker: Worker,
    view: View,
    clean: Mapping[BoundMethod, Explained | Failure],
    panel: Panel,
    watch: Watch,
) -> Iterator[Reference]:
    """Yield what the clean maps of a batch are held against.

    Args:
        worker: who does it; its twins are the randomised networks.
        view: the clean one.
        clean: its maps.
        panel: which images are held against which.
        watch: who is told of maps just made.
    """
    places = panel.next_of()
    yield Reference(
        Cell(OTHER_IMAGE, 0.0, 0),
        [panel.classes[place] for place in places],
        {method: _gathered(maps, places) for method, maps in clean.items()},
        skipped={place: ALONE for place, other in enumerate(places) if place == other},
    )
    for draw, twin in enumerate(worker.twins):
        cell = Cell(RANDOM_NETWORK, 0.0, draw)
        yield all_methods(twin, reshown(view, cell), view.batch.targets, watch)
    yield all_methods(worker, reshown(view, Cell(OTHER_CLASS, 0.0, 0)), runner_up(view), watch)
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


def runner_up(view: View) -> torch.Tensor:
    """(B,): of each image the class that comes second: the largest logit beside the target's."""
    others = view.logits.scatter(1, view.batch.targets[:, None], -torch.inf)
    return others.argmax(dim=1)


def other_seed(seed: int, draw: int) -> int:
    """Return a seed that is not the run's."""
    return int(generator(seed, OTHER_SEED, draw).integers(2**62))


def _gathered(maps: Explained | Failure, places: list[int]) -> Explained | Failure:
    if isinstance(maps, Failure):
        return maps
    return Explained(maps.attributions[places], maps.maps.take(places))


def reshown(view: View, cell: Cell) -> ShownImages:
    """Return the images of a view once more, for another cell."""
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
