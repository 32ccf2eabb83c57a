"""Views of a batch of images, clean or perturbed, and the maps that methods make of them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from steadymap.bench.core import errors, origin
from steadymap.bench.measure.worker import ATTACK_PART, Worker
from steadymap.bench.methods.batch import Batch, draws_of, places_of_others
from steadymap.bench.methods.method import BoundMethod, Engine
from steadymap.bench.network import graph, guard, memory, passes
from steadymap.bench.perturbations import apply, registry
from steadymap.bench.perturbations.cell import CLEAN_CELL, Cell
from steadymap.bench.records.vocabulary import SHARED
from steadymap.metrics import Maps, Scores, Status, TensorMaps
from steadymap.models import Classifier


@dataclass(frozen=True)
class Failure:
    """Why a batch of that many images has no maps."""

    status: Status
    detail: str
    size: int

    def scores(self, prefix: str = "") -> Scores:
        """Return what every metric says of them."""
        return Scores(
            np.full(self.size, np.nan),
            (self.status,) * self.size,
            (prefix + self.detail,) * self.size,
        )


@dataclass(frozen=True)
class Explained:
    """What a method made of a view: attributions (B, C, h, w), float32, and their maps.

    Both are where the classifier is: on a GPU they stay there, and metrics are computed there.
    """

    attributions: torch.Tensor
    maps: Maps | TensorMaps


@dataclass(frozen=True)
class ShownImages:
    """Images as one cell makes them.

    Attributes:
        cell: the perturbation.
        images: (B, 3, H, W) on the CPU.
        on_device: the same where the classifier is.
        image_ids: B ids.
        seed: the run's seed.
        drawn: the view of the images whose random numbers methods draw: what is computed in another
            way draws those of the clean images.
        failed: by place in the batch, why the family made no image; the clean one is in its place.
    """

    cell: Cell
    images: torch.Tensor
    on_device: torch.Tensor
    image_ids: tuple[str, ...]
    seed: int
    drawn: Cell = CLEAN_CELL
    failed: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class View:
    """A batch as one cell shows it.

    Attributes:
        cell: the perturbation.
        images: (B, 3, H, W) on the CPU.
        batch: the same for the methods.
        classifier: the one to explain; the shifted one where a family shifts it.
        seen: the pass that methods share, with the logits (B, K).
        failure: why the pass has no more than its logits; None where it has.
        image_ids: B ids; no method is told of them.
        seed: the run's seed, likewise.
        failed: as in `ShownImages`.
        refused: by place in the batch, why the network has no logits of an image; another is in its
            place in `batch`. Where that is all of them, the logits are NaN.
    """

    cell: Cell
    images: torch.Tensor
    batch: Batch
    classifier: Classifier
    seen: passes.Pass
    failure: Failure | None
    image_ids: tuple[str, ...]
    seed: int
    failed: Mapping[int, str] = field(default_factory=dict)
    refused: Mapping[int, str] = field(default_factory=dict)

    @property
    def lost(self) -> Failure | None:
        """Why nothing of the batch can be explained; None where something can."""
        if len(self.refused) < len(self.images):
            return None
        return Failure(Status.ERROR, self.refused[0], len(self.images))

    @property
    def logits(self) -> torch.Tensor:
        """(B, K)."""
        return self.seen.logits

    def drawing(self, cell: Cell, seed: int | None = None) -> View:
        """Return the same, whose methods draw the random numbers of another view of its images.

        Args:
            cell: of that view.
            seed: in place of the run's.
        """
        draws = _draws(self.seed if seed is None else seed, self.image_ids, cell)
        return replace(self, batch=replace(self.batch, draws=draws))


def _draws(seed: int, image_ids: tuple[str, ...], cell: Cell) -> tuple[str, ...]:
    return draws_of(seed, image_ids, (cell.family, cell.severity, cell.draw))


def look(
    worker: Worker,
    shown: ShownImages,
    targets: torch.Tensor | None,
    also: Collection[passes.Read] = (),
    refused: Mapping[int, str] | None = None,
) -> View:
    """Return what the classifier sees in images: one pass gives the logits and what methods share.

    Args:
        worker: who does it.
        shown: the images.
        targets: (B,), the classes explained; None takes those predicted.
        also: what the pass must bring beyond what the methods read; at most `activations`.
        refused: images of which it is known that the network has no logits.
    """
    classifier = worker.classifier
    family = registry.FAMILY_SHELF.known(shown.cell.family)
    if family is not None and family.network_shift:
        classifier = classifier.shifted(family.shift(shown.cell.severity))
    reads = {
        method.share.reads
        for method in worker.methods
        if method.share and worker.engine == "own"
        if unfit_for(method, classifier, worker.engine) is None
    } | set(also)
    with worker.clock(shown.cell, SHARED, len(shown.images)):
        first = _FirstPass(worker, classifier, targets, reads, also)
        seen, failure, refused = first.of(shown.on_device, refused or {})
    references = worker.references
    batch = Batch(
        seen.images,
        seen.targets,
        _draws(shown.seed, shown.image_ids, shown.drawn),
        worker.at_once,
        # Elsewhere, or in another type, only where the images are, too: see `numerics`.
        references=None if references is None else references.images.to(shown.on_device),
        reference_places=()
        if references is None
        else places_of_others(shown.image_ids, references.ids),
    )
    return View(
        shown.cell,
        shown.images,
        batch,
        classifier,
        seen,
        failure,
        shown.image_ids,
        shown.seed,
        shown.failed,
        refused,
    )


@dataclass(frozen=True)
class _FirstPass:
    """The pass that shows images to a network, which may raise on some of them.

    Attributes:
        worker: who does it.
        classifier: the network.
        targets: as in `look`.
        reads: what is wanted of the pass.
        least: what is enough of it where its backward half fails.
    """

    worker: Worker
    classifier: Classifier
    targets: torch.Tensor | None
    reads: Collection[passes.Read]
    least: Collection[passes.Read]

    def of(
        self, images: torch.Tensor, refused: Mapping[int, str]
    ) -> tuple[passes.Pass, Failure | None, Mapping[int, str]]:
        """Return the pass, why it has logits alone, and why it has none of some images.

        What one image does is told of that image, whatever else is in the batch.

        Args:
            images: (B, 3, H, W).
            refused: by place, why the network has no logits; as far as that is known.
        """
        size = len(images)
        if len(refused) == size:
            return self._nothing(images, refused)
        seen = self._forward_at_least(_standing_in(images, refused))
        if not isinstance(seen, str):
            return *seen, refused
        all_refused = {**refused, **self._refused_alone(images, refused)}
        if len(all_refused) == len(refused):
            # Alone the network takes each.
            return self._nothing(images, dict.fromkeys(range(size), seen) | all_refused)
        if len(all_refused) == size:
            return self._nothing(images, all_refused)
        return self.of(images, all_refused)

    def _forward_at_least(self, images: torch.Tensor) -> tuple[passes.Pass, Failure | None] | str:
        failure = None
        for reads in (self.reads, self.least):
            try:
                return self._pass(images, reads), failure
            except (Exception, SystemExit) as error:  # noqa: BLE001 - a network may raise anything
                failure = failure or failure_of(error, len(images))
                reason = _of_network(error)
        return reason

    def _pass(self, images: torch.Tensor, reads: Collection[passes.Read]) -> passes.Pass:
        return self.worker.within_memory(
            lambda at_once: passes.shared_pass(
                self.classifier, images, self.targets, reads, at_once
            )
        )

    def _refused_alone(self, images: torch.Tensor, known: Mapping[int, str]) -> dict[int, str]:
        refused = {}
        for place in range(len(images)):
            if place in known:
                continue
            try:
                passes.shared_pass(self.classifier, images[place : place + 1], None, (), 1)
            except (Exception, SystemExit) as error:  # noqa: BLE001 - as above
                refused[place] = _of_network(error)
        return refused

    def _nothing(
        self, images: torch.Tensor, refused: Mapping[int, str]
    ) -> tuple[passes.Pass, Failure, Mapping[int, str]]:
        size = len(images)
        logits = images.new_full((size, len(self.classifier.class_names)), torch.nan)
        targets = self.targets
        if targets is None:
            targets = torch.zeros(size, dtype=torch.int64, device=images.device)
        return (
            passes.Pass(images, targets, logits),
            Failure(Status.ERROR, refused[0], size),
            dict(sorted(refused.items())),
        )


def _standing_in(images: torch.Tensor, refused: Mapping[int, str]) -> torch.Tensor:
    """Return images with the first that the network takes in the place of those it does not."""
    if not refused or len(refused) == len(images):
        return images
    filled = images.clone()
    filled[list(refused)] = images[min(set(range(len(images))) - set(refused))]
    return filled


def _of_network(error: BaseException) -> str:
    if isinstance(error, passes.LogitsError):
        return str(error)
    return f"the network raised {_reason(error)}"


def logits_of(worker: Worker, classifier: Classifier, images: torch.Tensor) -> torch.Tensor:
    """(B, K): the logits of images (B, 3, H, W); NaN where the network raises on one."""
    first = _FirstPass(worker, classifier, None, (), ())
    seen, _, refused = first.of(images, {})
    if not refused:
        return seen.logits
    logits = seen.logits.clone()
    logits[list(refused)] = torch.nan
    return logits


def attacked(worker: Worker, shown: ShownImages, targets: torch.Tensor) -> ShownImages:
    """Return what the attack of their cell makes of clean images, one after the other.

    Without an attack they are given back as they are. Images go alone, so that what else is in the
    batch changes nothing; where the attack fails on one, `failed` says why, and the clean one is in
    its place.

    Args:
        worker: whose classifier is attacked.
        shown: the images.
        targets: (B,), the classes predicted for the clean images.
    """
    family = registry.FAMILY_SHELF.known(shown.cell.family)
    if family is None or family.attack is None:
        return shown
    with worker.clock(shown.cell, ATTACK_PART, len(shown.images)):
        attempts = [
            _attack(worker, family.attack, shown, targets, place)
            for place in range(len(shown.images))
        ]
        failed = {place: why for place, why in enumerate(attempts) if isinstance(why, str)}
        images = torch.cat(
            [
                shown.on_device[place : place + 1] if isinstance(image, str) else image
                for place, image in enumerate(attempts)
            ]
        )
    return replace(shown, images=images.cpu(), on_device=images, failed={**shown.failed, **failed})


def _attack(
    worker: Worker, attack: registry.Attack, shown: ShownImages, targets: torch.Tensor, place: int
) -> torch.Tensor | str:
    """Return one image (1, 3, H, W) after the attack, or why there is none."""
    chosen = slice(place, place + 1)
    image = shown.on_device[chosen]
    classifier, severity = worker.classifier, shown.cell.severity
    draw = apply.draw_of(shown.cell, shown.image_ids[place], shown.seed)
    try:
        # One of our own writes into nothing.
        if origin.is_ours(attack):
            moved: object = attack(classifier, image, targets[chosen], severity, draw)
        else:
            with guard.left_as_it_was(worker.guard(keep=True), image):
                moved = attack(classifier, image.clone(), targets[chosen].clone(), severity, draw)
    except guard.LeftChangedError as error:
        return f"the attack {error}"
    except (Exception, SystemExit) as error:  # noqa: BLE001 - an attack may raise anything
        return f"the attack raised {_reason(error)}"
    if not isinstance(moved, torch.Tensor):
        return f"the attack returned {type(moved).__name__}, expected a tensor"
    if (moved.shape, moved.dtype, moved.device) != (image.shape, image.dtype, image.device):
        kinds = [f"{x.dtype} {tuple(x.shape)} on {x.device}" for x in (moved, image)]
        return f"the attack returned {kinds[0]}, expected {kinds[1]}"
    return moved.detach().clone()


def unfit_for(method: BoundMethod, classifier: Classifier, engine: Engine) -> Failure | None:
    """Return why a classifier cannot be explained with a method; None where it can."""
    try:
        reason = method.unfit(classifier, engine)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - as in `explain`
        return Failure(Status.ERROR, f"does it apply? {errors.one_line(error)}", 0)
    return None if reason is None else Failure(Status.SKIPPED, reason, 0)


def explained(attributions: object, size: int) -> Explained | Failure:
    """Return attributions of that many images with their maps, or what is wrong with them."""
    if not isinstance(attributions, torch.Tensor):
        reason = f"returned {type(attributions).__name__}, expected a tensor"
        return Failure(Status.ERROR, reason, size)
    if attributions.ndim != 4 or len(attributions) != size:  # noqa: PLR2004 - (B, C, h, w)
        shape = tuple(attributions.shape)
        reason = f"returned shape {shape}, expected ({size}, channels, height, width)"
        return Failure(Status.ERROR, reason, size)
    attributions = attributions.detach().float()
    maps = (
        TensorMaps.from_attributions(attributions)
        if attributions.is_cuda
        else Maps.from_attributions(attributions.cpu().numpy())
    )
    return Explained(attributions, maps)


def failure_of(error: BaseException, size: int) -> Failure:
    """Return why a batch of so many images has no maps: what was raised."""
    if isinstance(error, graph.UntraceableError):
        return Failure(Status.SKIPPED, str(error), size)
    reason = str(error) if isinstance(error, guard.LeftChangedError) else _reason(error)
    return Failure(Status.ERROR, reason, size)


def _reason(error: BaseException) -> str:
    """Return an exception in one line; batches have been halved before memory is said to be out."""
    text = errors.one_line(error)
    return f"{text} (with one image at a time)" if memory.is_out_of_memory(error) else text
