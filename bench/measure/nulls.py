"""What clean maps are held against, beside their perturbed selves.

A score says little alone: the maps of two images may be much alike. So each map of a clean image
is compared with maps that it must not resemble (another image's, and its own from a network with
randomised weights), with itself under another seed where a method draws, and, for a few images,
with itself computed in another way. Source: Adebayo et al. 2018 (randomised weights).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from steadymap.bench.core.plugins import MESSAGE_LENGTH
from steadymap.bench.core.randomness import generator
from steadymap.bench.data.open import ImageSet
from steadymap.bench.measure.view import (
    Explained,
    Failure,
    Shown,
    View,
    Worker,
    explain,
    explained,
    look,
)
from steadymap.bench.methods.registry import BoundMethod
from steadymap.bench.network.passes import LIKE_A_CPU, free_memory
from steadymap.bench.perturbations.registry import Cell
from steadymap.bench.plan.blocks import cut
from steadymap.bench.records.schema import (
    BATCH_OF_ONE,
    CLEAN,
    FLOAT64,
    ON_CPU,
    OTHER_IMAGE,
    OTHER_SEED,
    RANDOM_NETWORK,
    ROUNDED,
)
from steadymap.metrics import Status
from steadymap.models import Classifier

CLEAN_CELL = Cell(CLEAN, 0.0, 0)

# What a shard is asked for beside perturbations: all that clean maps are held against; and, of a
# few images, their maps computed in other ways.
BESIDE = Cell("references", 0.0, 0)
NUMERIC = Cell("numerics", 0.0, 0)

NUMERIC_IMAGES = 8

# Images of the data set for methods that compare with it.
DATA_REFERENCES = 16

# No float32: moving an image by it and back rounds the image, as a perturbation does.
THIRD = 1 / 3

# The share of the free memory that null maps may take; and in how many forms a map is kept: signed,
# magnitude, the ranks of either, local means and variances, the strongest pixels.
MEMORY_SHARE = 0.25
FORMS = 7


@dataclass(frozen=True)
class Reference:
    """Maps of a batch's images, made in another way or of other things.

    Attributes:
        cell: the family of reference, and which draw of it.
        predictions: B classes, of what was explained; None where a logit is not finite.
        found: the methods that have such maps.
        refused: as in `View`.
    """

    cell: Cell
    predictions: list[int | None]
    found: dict[BoundMethod, Explained | Failure]
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
        ModelError: the network cannot be copied.
    """
    return [
        classifier.randomised(int(generator(seed, RANDOM_NETWORK, draw).integers(2**62)))
        for draw in range(count)
    ]


def show(worker: Worker, images: ImageSet, indices: Sequence[int], seed: int) -> Shown:
    """Return clean images for a worker."""
    stacked = images.images(indices)
    ids = tuple(images.pictures[index].image_id for index in indices)
    like = worker.classifier.module.mean
    return Shown(CLEAN_CELL, stacked, stacked.to(like.device, like.dtype), ids, seed)


# --- other images ---------------------------------------------------------------------------------


def data_references(images: ImageSet) -> Tensor:
    """Read the images of the data set that some methods compare with: (R, 3, H, W), on the CPU.

    The first ones, which more images leave as they are; in the order of their ids.
    """
    first = range(min(DATA_REFERENCES, len(images)))
    return images.images(sorted(first, key=lambda index: images.pictures[index].image_id))


@dataclass(frozen=True)
class Panel:
    """Clean maps of a batch, that each of its images is held against others of its block.

    A block is a few images that follow each other in the set. So all images serve, a batch needs
    nothing but itself, and images that are added at the end change the last batch alone.

    Attributes:
        ids: P image ids.
        blocks: the same, block by block.
        predictions: P classes.
        found: by method, attributions (P, C, h, w), or why there are none.
    """

    ids: tuple[str, ...]
    blocks: tuple[tuple[str, ...], ...]
    predictions: tuple[int | None, ...]
    found: Mapping[BoundMethod, Tensor | Failure]

    def partners(self, image_id: str, count: int, seed: int) -> list[int]:
        """Return the places of images that one image is held against; never its own."""
        block = next((block for block in self.blocks if image_id in block), self.ids)
        others = sorted(one for one in block if one != image_id)
        chosen = generator(seed, image_id, "partners").permutation(len(others))[:count]
        return [self.ids.index(others[int(place)]) for place in chosen]


def make_panel(view: View, found: Mapping[BoundMethod, Explained | Failure], size: int) -> Panel:
    """Keep the clean maps of a batch, summed over channels; those of refused images are left out.

    Args:
        view: the clean one.
        found: its maps.
        size: how many images that follow each other are held against each other.
    """
    ids, labels = view.batch.image_ids, predictions(view)
    taken = [place for place in range(len(ids)) if place not in view.refused]
    kept = {ids[place] for place in taken}
    return Panel(
        tuple(ids[place] for place in taken),
        tuple(
            tuple(ids[place] for place in block if ids[place] in kept)
            for block in cut(len(ids), size)
        ),
        tuple(labels[place] for place in taken),
        {
            method: made
            if isinstance(made, Failure)
            else made.attributions.sum(dim=1, keepdim=True)[taken]
            for method, made in found.items()
        },
    )


# --- all of a batch -------------------------------------------------------------------------------


def references(
    worker: Worker, view: View, panel: Panel, advance: Callable[[int], None]
) -> Iterator[Reference]:
    """Yield what the clean maps of a batch are held against.

    Args:
        worker: who does it; it has as many twins as there are null maps of either kind.
        view: the clean one.
        panel: the clean maps of the batch.
        advance: called with the number of maps just made.
    """
    count = len(worker.twins)
    seed, ids = view.batch.seed, view.batch.image_ids
    partners = [panel.partners(image_id, count, seed) for image_id in ids]
    # A set of few images has fewer partners than were asked for.
    for draw in range(min(map(len, partners))):
        places = [row[draw] for row in partners]
        yield Reference(
            Cell(OTHER_IMAGE, 0.0, draw),
            [panel.predictions[place] for place in places],
            {method: _gathered(maps, places) for method, maps in panel.found.items()},
        )
    for draw, twin in enumerate(worker.twins):
        cell = Cell(RANDOM_NETWORK, 0.0, draw)
        yield _all_methods(twin, _reshown(view, cell), view.batch.targets, advance)
    drawing = [method for method in worker.methods if method.can("stochastic")]
    for draw in range(count if drawing else 0):
        other = replace(
            view,
            cell=Cell(OTHER_SEED, 0.0, draw),
            batch=replace(view.batch, seed=other_seed(seed, draw)),
        )
        found = {}
        for method in drawing:
            found[method] = explain(worker, method, other)
            advance(len(ids))
        yield Reference(other.cell, predictions(view), found)


def other_seed(seed: int, draw: int) -> int:
    """Return a seed that is not the run's."""
    return int(generator(seed, OTHER_SEED, draw).integers(2**62))


def _gathered(maps: Tensor | Failure, places: list[int]) -> Explained | Failure:
    if isinstance(maps, Failure):
        return replace(maps, size=len(places))
    return explained(maps[places], len(places))


def _reshown(view: View, cell: Cell) -> Shown:
    batch = view.batch
    return Shown(cell, view.images, batch.images, batch.image_ids, batch.seed, batch.clean)


def _all_methods(
    worker: Worker, shown: Shown, targets: Tensor | None, advance: Callable[[int], None]
) -> Reference:
    return _explained_by_all(worker, look(worker, shown, targets), advance)


def _explained_by_all(worker: Worker, view: View, advance: Callable[[int], None]) -> Reference:
    found = {}
    for method in worker.methods:
        found[method] = explain(worker, method, view)
        advance(len(view.images))
    return Reference(view.cell, predictions(view), found, view.refused)


# --- the same, computed in another way ------------------------------------------------------------


def numerics(
    worker: Worker, shown: Shown, targets: Tensor, advance: Callable[[int], None]
) -> Iterator[Reference]:
    """Yield maps of the same images: one by one, rounded, in double precision, and off the GPU."""
    classifier, device = worker.classifier, worker.classifier.module.mean.device
    single = [
        _all_methods(worker, _part(shown, place, BATCH_OF_ONE), targets[place : place + 1], advance)
        for place in range(len(shown.images))
    ]
    yield _joined(single)
    there_and_back = (shown.on_device + THIRD) - THIRD
    yield _all_methods(
        worker,
        # Rounded images are perturbed ones: what is read off the image itself stays.
        replace(
            shown,
            cell=Cell(ROUNDED, 0.0, 0),
            on_device=there_and_back,
            clean=shown.on_device if shown.clean is None else shown.clean,
        ),
        targets,
        advance,
    )
    ways = [(FLOAT64, device, torch.float64)]
    if device.type != "cpu":
        ways.append((ON_CPU, torch.device("cpu"), torch.float32))
    # Twice as large in float64, and a CPU may have less memory than the GPU.
    at_once = max(1, min(worker.at_once // 2, LIKE_A_CPU))
    for family, place, dtype in ways:
        moved = replace(shown, cell=Cell(family, 0.0, 0), on_device=shown.images.to(place, dtype))
        try:
            other = replace(
                worker,
                classifier=classifier.to(place, dtype),
                at_once=at_once,
                halved=0,
                timings=[],
                twins=(),
            )
            view = look(other, moved, targets.to(place))
            reason = view.lost.detail if view.lost else ""
        except Exception as error:  # noqa: BLE001 - a network may know one type or device alone
            reason = " ".join(str(error).split())
        if reason:
            advance(len(worker.methods) * len(shown.images))
            yield _not_in_this_way(worker.methods, moved, targets.tolist(), reason)
            continue
        reference = _explained_by_all(other, view, advance)
        worker.timings += other.timings
        worker.halved += other.halved
        yield replace(reference, found={m: _back(x, device) for m, x in reference.found.items()})


def _not_in_this_way(
    methods: Sequence[BoundMethod], shown: Shown, labels: list[int | None], reason: str
) -> Reference:
    """Say that maps cannot be computed in a way; the floor is that of the others."""
    size = len(shown.images)
    said = f"the network does not run so: {reason}"[:MESSAGE_LENGTH]
    failure = Failure(Status.SKIPPED, said, size)
    return Reference(shown.cell, labels, dict.fromkeys(methods, failure))


def _part(shown: Shown, place: int, family: str) -> Shown:
    chosen = slice(place, place + 1)
    return Shown(
        Cell(family, 0.0, 0),
        shown.images[chosen],
        shown.on_device[chosen],
        shown.image_ids[chosen],
        shown.seed,
        None if shown.clean is None else shown.clean[chosen],
    )


def _joined(parts: list[Reference]) -> Reference:
    """Put images that were explained one by one together."""
    found: dict[BoundMethod, Explained | Failure] = {}
    for method in parts[0].found:
        pieces = [part.found[method] for part in parts]
        failed = [piece for piece in pieces if isinstance(piece, Failure)]
        maps = [piece.attributions for piece in pieces if isinstance(piece, Explained)]
        found[method] = (
            replace(failed[0], size=len(parts))
            if failed
            else explained(torch.cat(maps), len(parts))
        )
    return Reference(parts[0].cell, [part.predictions[0] for part in parts], found)


def _back(found: Explained | Failure, device: torch.device) -> Explained | Failure:
    """Bring maps to where those are that they are compared with."""
    if isinstance(found, Failure) or found.attributions.device == device:
        return found
    return explained(found.attributions.to(device), len(found.attributions))


def comparable(clean: Explained | Failure, other: Explained | Failure) -> Explained | Failure:
    """Return `other`, or why its maps cannot be compared with the clean ones."""
    if isinstance(clean, Failure) or isinstance(other, Failure):
        return other
    sizes = [tuple(part.attributions.shape[2:]) for part in (clean, other)]
    if sizes[0] == sizes[1]:
        return other
    reason = f"maps of {sizes[1]} where the clean image's are {sizes[0]}"
    return Failure(Status.ERROR, reason, len(other.maps))


# --- how much that is -----------------------------------------------------------------------------


def views_beside(blocks: Sequence[Sequence[int]], nulls: int, device: torch.device) -> int:
    """Return how many times a run looks at an image to make reference maps with every method."""
    if not nulls:
        return 0
    few = min(len(blocks[0]), NUMERIC_IMAGES)
    ways = 4 if device.type == "cpu" else 5  # in a batch, alone, rounded, in float64, on the CPU
    return sum(map(len, blocks)) * nulls + few * ways


def most_methods(classifier: Classifier, images: int, nulls: int) -> int | None:
    """Return of how many methods memory holds the null maps; None where nobody says.

    Args:
        classifier: its input is as large as a map can be.
        images: how many maps there are of each method and null.
        nulls: of either kind, of all workers.
    """
    free = free_memory(classifier.module.mean.device)
    if free is None or not nulls:
        return None
    height, width = classifier.input_size
    one_method = 2 * nulls * images * FORMS * 8 * height * width
    return max(1, int(MEMORY_SHARE * free / one_method))
