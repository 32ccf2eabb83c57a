"""Views of a batch of images, clean or perturbed, and the maps that methods make of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from steadymap.bench.attributions import Batch, Start
from steadymap.bench.methods import BoundMethod, Engine
from steadymap.bench.passes import Pass, Read, is_out_of_memory, shared_pass
from steadymap.bench.paths import NestedPath, points_at
from steadymap.bench.perturbations import FAMILY_SHELF, Cell, draw_of
from steadymap.bench.plugins import one_line
from steadymap.metrics import Maps, Metric, Scores, Status, TensorMaps, evaluate
from steadymap.metrics.maps import Array
from steadymap.models import Classifier

# Names of parts of the work, beside the methods' specs.
SHARED = "shared pass"
BASELINE_PART = "baseline logits"
METRICS_PART = "metrics"
ATTACK_PART = "attack"

T = TypeVar("T")


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

    attributions: Tensor
    maps: Maps | TensorMaps


@dataclass(frozen=True)
class Shown:
    """Images as one cell makes them.

    Attributes:
        cell: the perturbation.
        images: (B, 3, H, W) on the CPU.
        on_device: the same where the classifier is.
        image_ids: B ids.
        seed: the run's seed.
        clean: (B, 3, H, W) where the classifier is, what the images were made from; None where
            they are clean.
        failed: by place in the batch, why the family made no image; the clean one is in its place.
    """

    cell: Cell
    images: Tensor
    on_device: Tensor
    image_ids: tuple[str, ...]
    seed: int
    clean: Tensor | None = None
    failed: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class View:
    """A batch as one cell shows it.

    Attributes:
        cell: the perturbation.
        images: (B, 3, H, W) on the CPU.
        batch: the same for the methods.
        classifier: the one to explain; the shifted one in a compensated family.
        seen: the pass that methods share, with the logits (B, K).
        failure: why the pass has no more than its logits; None where it has.
        failed: as in `Shown`.
    """

    cell: Cell
    images: Tensor
    batch: Batch
    classifier: Classifier
    seen: Pass
    failure: Failure | None
    failed: Mapping[int, str] = field(default_factory=dict)

    @property
    def logits(self) -> Tensor:
        """(B, K)."""
        return self.seen.logits


@dataclass(frozen=True)
class Timing:
    """Seconds by the clock that a part of the work on one view of one batch took.

    Attributes:
        cell: the perturbation.
        part: `attack`, `shared pass`, `baseline logits`, `metrics`, or the spec of a method: what
            it took beyond that pass.
        images: how many images the view has.
        seconds: by the clock, on a GPU up to the end of its work.
    """

    cell: Cell
    part: str
    images: int
    seconds: float


@dataclass
class Worker:
    """What one thread of a run works with; no other may touch it.

    Attributes:
        classifier: of its own, because Grad-CAM and captum hang hooks on it.
        methods: those of the shard in hand.
        engine: own or captum.
        at_once: how many images go through the network together; less where memory ran out.
        halved: how many times memory ran out on the batch in hand.
        timings: of the batch in hand.
        baseline_logits: of the batch in hand, by start, shift, and, where the start depends on the
            image given, cell.
        twins: the same with randomised weights.
        references: (R, 3, H, W), images of the data set; None where no method takes any.
    """

    classifier: Classifier
    methods: tuple[BoundMethod, ...]
    engine: Engine
    at_once: int
    halved: int = 0
    timings: list[Timing] = field(default_factory=list)
    baseline_logits: dict[tuple[Start, float, Cell | None], Tensor] = field(default_factory=dict)
    twins: tuple[Worker, ...] = ()
    references: Tensor | None = None

    def begin(self, methods: tuple[BoundMethod, ...]) -> None:
        """Forget the shard before, and take the methods of the next."""
        self.methods = methods
        self.halved = 0
        self.timings.clear()
        self.baseline_logits.clear()
        for twin in self.twins:
            twin.begin(methods)

    def all_timings(self) -> tuple[Timing, ...]:
        """Return where the time of the batch in hand went, with what the twins did."""
        return tuple(timing for one in (self, *self.twins) for timing in one.timings)

    def all_halved(self) -> int:
        """Return how many times memory ran out on the batch in hand, the twins' included."""
        return self.halved + sum(twin.halved for twin in self.twins)

    def least_at_once(self) -> int:
        """Return the fewest images that went through a network together."""
        return min(one.at_once for one in (self, *self.twins))

    def within_memory(self, compute: Callable[[int], T]) -> T:
        """Call with how many images to take at once; half as many each time memory runs out."""
        while True:
            try:
                return compute(self.at_once)
            except Exception as error:
                if not is_out_of_memory(error) or self.at_once == 1:
                    raise
            # Out of the handler, where nothing holds on to what the failed try had allocated.
            self.at_once //= 2
            self.halved += 1
            if self.classifier.module.mean.is_cuda:
                torch.cuda.empty_cache()

    @contextmanager
    def clock(self, cell: Cell, part: str, images: int) -> Iterator[None]:
        """Take the time of a part of the work; what is timed inside of it is not listed apart."""
        self._wait()
        before = len(self.timings)
        started = time.perf_counter()
        yield
        self._wait()
        del self.timings[before:]
        self.timings.append(Timing(cell, part, images, time.perf_counter() - started))

    def _wait(self) -> None:
        if self.classifier.module.mean.is_cuda:
            torch.cuda.synchronize(self.classifier.module.mean.device)


def look(worker: Worker, shown: Shown, targets: Tensor | None, also: Collection[Read] = ()) -> View:
    """Show images to the classifier: one pass gives the logits and what methods share.

    Args:
        worker: who does it.
        shown: the images.
        targets: (B,), the classes explained; None takes those predicted.
        also: what the pass must bring beyond what the methods read; at most `activations`.
    """
    classifier = worker.classifier
    family = FAMILY_SHELF.known(shown.cell.family)
    if family is not None and family.compensated:
        classifier = classifier.shifted(shown.cell.severity)
    reads = {
        method.method.share.reads
        for method in worker.methods
        if method.method.share and worker.engine == "own"
        if method.unfit(classifier, worker.engine) is None
    } | set(also)
    failure = None
    with worker.clock(shown.cell, SHARED, len(shown.images)):
        try:
            seen = worker.within_memory(
                lambda at_once: shared_pass(classifier, shown.on_device, targets, reads, at_once)
            )
        except Exception as error:  # noqa: BLE001 - a network may raise anything in its backward
            failure = _error(error, len(shown.images))
            seen = worker.within_memory(
                lambda at_once: shared_pass(classifier, shown.on_device, targets, also, at_once)
            )
    references = worker.references
    batch = Batch(
        shown.on_device,
        seen.targets,
        shown.image_ids,
        shown.seed,
        worker.at_once,
        clean=shown.clean,
        # Elsewhere, or in another type, only where the images are, too: see `numerics`.
        references=None if references is None else references.to(shown.on_device),
    )
    return View(shown.cell, shown.images, batch, classifier, seen, failure, shown.failed)


def attacked(worker: Worker, shown: Shown, targets: Tensor) -> Shown:
    """Turn clean images into what the attack of their cell makes of them, one after the other.

    Others are given back as they are. Images go alone, so that what else is in the batch changes
    nothing.

    Args:
        worker: whose classifier is attacked.
        shown: the images.
        targets: (B,), the classes predicted for the clean images.
    """
    family = FAMILY_SHELF.known(shown.cell.family)
    if family is None or family.attack is None:
        return shown
    with worker.clock(shown.cell, ATTACK_PART, len(shown.images)):
        found = torch.cat(
            [
                family.attack(
                    worker.classifier,
                    shown.on_device[place : place + 1],
                    targets[place : place + 1],
                    shown.cell.severity,
                    draw_of(shown.cell, image_id, shown.seed),
                )
                for place, image_id in enumerate(shown.image_ids)
            ]
        )
    return replace(shown, images=found.cpu(), on_device=found)


def explain(worker: Worker, method: BoundMethod, view: View) -> Explained | Failure:
    """Return a method's maps of a view, or why there are none."""
    size = len(view.images)
    reason = method.unfit(view.classifier, worker.engine)
    if reason is not None:
        return Failure(Status.SKIPPED, reason, size)
    shares = method.method.share is not None and worker.engine == "own"
    if shares and view.failure is not None:
        return view.failure
    with worker.clock(view.cell, method.spec, size):
        try:
            if shares:
                attributions = method.read(view.seen)
            else:
                attributions = worker.within_memory(
                    lambda at_once: _by_parts(
                        method, view.classifier, replace(view.batch, at_once=at_once), worker.engine
                    )
                )
            return explained(attributions, size)
        except Exception as error:  # noqa: BLE001 - a method may raise anything; its records say what
            return _error(error, size)


def _by_parts(method: BoundMethod, classifier: Classifier, batch: Batch, engine: Engine) -> Tensor:
    """Explain no more images at a time than fit."""
    if len(batch.images) <= batch.at_once:
        return method.explain(classifier, batch, engine)
    starts = range(0, len(batch.images), batch.at_once)
    return torch.cat(
        [
            method.explain(classifier, batch.part(slice(start, start + batch.at_once)), engine)
            for start in starts
        ]
    )


def explained(attributions: object, size: int) -> Explained | Failure:
    """Return attributions of that many images with their maps, or what is wrong with them."""
    if not isinstance(attributions, Tensor):
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


def _error(error: Exception, size: int) -> Failure:
    return Failure(Status.ERROR, one_line(error), size)


def same_size(clean: Explained | Failure, current: Explained | Failure) -> Explained | Failure:
    """Return `current`, or why it cannot be compared with the clean maps."""
    if isinstance(clean, Failure) or isinstance(current, Failure):
        return current
    sizes = [tuple(part.attributions.shape[1:]) for part in (clean, current)]
    if sizes[0] == sizes[1]:
        return current
    reason = f"returned maps of {sizes[1]} where the clean image's are {sizes[0]}"
    return Failure(Status.ERROR, reason, len(current.maps))


def score(
    metric: Metric,
    clean: Explained | Failure,
    current: Explained | Failure,
    evidence: Mapping[str, Array | Tensor],
) -> Scores:
    """Score the maps of a view, against the clean ones or the evidence that the metric reads."""
    if isinstance(current, Failure):
        return current.scores()
    if metric.against != "map":
        return evaluate(metric, current.maps, evidence[metric.against])
    if isinstance(clean, Failure):
        return clean.scores("clean image: ")
    return evaluate(metric, clean.maps, current.maps)


def deltas(worker: Worker, method: BoundMethod, view: View) -> Array:
    """(B,), in logits: what complete attributions must add up to.

    The logits at a baseline are computed once a batch: no perturbation changes them, unless the
    baseline is made of the image; but the shift of a compensated family does.
    """
    start = method.start
    if start is None:
        raise TypeError(f"{method.spec} is not complete: it has no baseline")
    key = (start, view.classifier.module.shift, view.cell if start.of_image else None)
    if key not in worker.baseline_logits:
        with worker.clock(view.cell, BASELINE_PART, len(view.images)):
            total = torch.zeros_like(view.logits, dtype=torch.float64)
            for images in start.images(view.batch):
                total += _logits(worker, view.classifier, images)
        worker.baseline_logits[key] = total / start.draws
    difference = view.logits.double() - worker.baseline_logits[key].double()
    found: Array = difference.gather(1, view.batch.targets[:, None])[:, 0].cpu().numpy()
    return found


def _logits(worker: Worker, classifier: Classifier, images: Tensor) -> Tensor:
    seen = worker.within_memory(lambda at_once: shared_pass(classifier, images, None, (), at_once))
    return seen.logits.double()


# --- as many steps as an image needs --------------------------------------------------------------


class Adaptive:
    """A method with `steps=auto` on all views of a batch, the clean one first.

    The clean and the perturbed map of a pair use the same nodes: those that the more demanding of
    the two needs. The clean path is doubled further where a perturbed one asks for it.
    """

    def __init__(self, worker: Worker, method: BoundMethod) -> None:
        self.worker = worker
        self.method = method
        self.clean: NestedPath | Failure | None = None

    def explain(self, view: View) -> tuple[Explained | Failure, Explained | Failure, Array]:
        """Return the clean maps and the view's, at the same nodes, and the points taken (B,)."""
        size = len(view.images)
        with self.worker.clock(view.cell, self.method.spec, size):
            path = self._path(view)
            if self.clean is None:
                self.clean = path
            clean = self.clean
            if isinstance(path, Failure):
                return path, path, np.full(size, np.nan)
            if isinstance(clean, Failure):
                levels = path.settled
                reference: Explained | Failure = clean
            else:
                levels = np.maximum(clean.settled, path.settled).tolist()
                reference = self._at(clean, levels, size)
            found = self._at(path, levels, size)
        points = np.array([points_at(level) for level in levels], dtype=np.float64)
        return reference, found, points

    def _path(self, view: View) -> NestedPath | Failure:
        try:
            return self.worker.within_memory(
                lambda at_once: self.method.nested(
                    view.classifier, replace(view.batch, at_once=at_once)
                )
            )
        except Exception as error:  # noqa: BLE001 - as in `explain`
            return _error(error, len(view.images))

    def _at(self, path: NestedPath, levels: list[int], size: int) -> Explained | Failure:
        try:
            maps = self.worker.within_memory(lambda at_once: path.at(levels, at_once))
        except Exception as error:  # noqa: BLE001 - as in `explain`
            return _error(error, size)
        return explained(maps, size)


def input_scores(clean: View, view: View) -> dict[str, Scores]:
    """Score the perturbed image itself: its change, and its share of values beyond the bounds."""
    low, high = view.classifier.bounds
    change = (view.images - clean.images).double().square().mean(dim=(1, 2, 3)).sqrt()
    outside = (view.images <= low) | (view.images >= high)
    values = {"input_change": change, "saturated_share": outside.double().mean(dim=(1, 2, 3))}
    return {
        name: Scores(value.numpy(), (Status.OK,) * len(value), ("",) * len(value))
        for name, value in values.items()
    }
