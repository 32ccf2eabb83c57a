"""Views of a batch of images, clean or perturbed, and the maps that methods make of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from steadymap.bench.core.plugins import one_line
from steadymap.bench.methods.gradient import Batch, Start
from steadymap.bench.methods.paths import NestedPath, points_at
from steadymap.bench.methods.registry import BoundMethod, Engine
from steadymap.bench.network.guard import Guard, LeftChangedError, foreign, is_ours, left_as_it_was
from steadymap.bench.network.passes import LogitsError, Pass, Read, is_out_of_memory, shared_pass
from steadymap.bench.perturbations.registry import FAMILY_SHELF, Attack, Cell, draw_of
from steadymap.metrics import Maps, Metric, Scores, Status, TensorMaps, evaluate, recognise
from steadymap.metrics.maps import Array, Flags
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
        refused: by place in the batch, why the network has no logits of an image; another is in its
            place in `batch`. Where that is all of them, the logits are NaN.
    """

    cell: Cell
    images: Tensor
    batch: Batch
    classifier: Classifier
    seen: Pass
    failure: Failure | None
    failed: Mapping[int, str] = field(default_factory=dict)
    refused: Mapping[int, str] = field(default_factory=dict)

    @property
    def lost(self) -> Failure | None:
        """Why nothing of the batch can be explained; None where something can."""
        if len(self.refused) < len(self.images):
            return None
        return Failure(Status.ERROR, self.refused[0], len(self.images))

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
    _guards: dict[bool, Guard] = field(default_factory=dict, init=False, repr=False)

    def guard(self, *, keep: bool) -> Guard:
        """Return what watches the network, as it is when this is first called.

        With `keep` all its values are held on the CPU, to be put back.
        """
        if keep not in self._guards:
            self._guards[keep] = Guard(self.classifier, keep=keep)
        return self._guards[keep]

    def check(self, images: Tensor) -> None:
        """See that nothing has changed the networks since the first batch began.

        Args:
            images: (B, 3, H, W), which they can be tried on.

        Raises:
            ModelError: something has.
        """
        for one in (self, *self.twins):
            one.guard(keep=False).check(images)

    def begin(self, methods: tuple[BoundMethod, ...]) -> None:
        """Forget the shard before, and take the methods of the next."""
        self.methods = methods
        self.halved = 0
        self.timings.clear()
        self.baseline_logits.clear()
        self.guard(keep=False)
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


def look(
    worker: Worker,
    shown: Shown,
    targets: Tensor | None,
    also: Collection[Read] = (),
    refused: Mapping[int, str] | None = None,
) -> View:
    """Show images to the classifier: one pass gives the logits and what methods share.

    Args:
        worker: who does it.
        shown: the images.
        targets: (B,), the classes explained; None takes those predicted.
        also: what the pass must bring beyond what the methods read; at most `activations`.
        refused: images of which it is known that the network has no logits.
    """
    classifier = worker.classifier
    family = FAMILY_SHELF.known(shown.cell.family)
    if family is not None and family.compensated:
        classifier = classifier.shifted(shown.cell.severity)
    reads = {
        method.method.share.reads
        for method in worker.methods
        if method.method.share and worker.engine == "own"
        if _unfit(method, classifier, worker.engine) is None
    } | set(also)
    with worker.clock(shown.cell, SHARED, len(shown.images)):
        first = _FirstPass(worker, classifier, targets, (reads, also))
        seen, failure, refused = first.of(shown.on_device, refused or {})
    references = worker.references
    batch = Batch(
        seen.images,
        seen.targets,
        shown.image_ids,
        shown.seed,
        worker.at_once,
        clean=None if shown.clean is None else _standing_in(shown.clean, refused),
        # Elsewhere, or in another type, only where the images are, too: see `numerics`.
        references=None if references is None else references.to(shown.on_device),
    )
    return View(shown.cell, shown.images, batch, classifier, seen, failure, shown.failed, refused)


@dataclass(frozen=True)
class _FirstPass:
    """The pass that shows images to a network, which may raise on some of them.

    Attributes:
        worker: who does it.
        classifier: the network.
        targets: as in `look`.
        reads: what is wanted of the pass, and what is enough where its backward half fails.
    """

    worker: Worker
    classifier: Classifier
    targets: Tensor | None
    reads: tuple[Collection[Read], Collection[Read]]

    def of(
        self, images: Tensor, refused: Mapping[int, str]
    ) -> tuple[Pass, Failure | None, Mapping[int, str]]:
        """Return the pass, why it has logits alone, and why it has none of some images.

        What one image does is told of that image, whatever else is in the batch.

        Args:
            images: (B, 3, H, W).
            refused: by place, why the network has no logits; as far as that is known.
        """
        size = len(images)
        if len(refused) == size:
            return self._nothing(images, refused)
        found = self._forward_at_least(_standing_in(images, refused))
        if not isinstance(found, str):
            return *found, refused
        more = {**refused, **self._refused_alone(images, refused)}
        if len(more) == len(refused):
            # Alone the network takes each.
            return self._nothing(images, dict.fromkeys(range(size), found) | more)
        if len(more) == size:
            return self._nothing(images, more)
        return self.of(images, more)

    def _forward_at_least(self, images: Tensor) -> tuple[Pass, Failure | None] | str:
        failure = None
        for reads in self.reads:
            try:
                return self._pass(images, reads), failure
            except (Exception, SystemExit) as error:  # noqa: BLE001 - a network may raise anything
                failure = failure or _error(error, len(images))
                reason = _of_network(error)
        return reason

    def _pass(self, images: Tensor, reads: Collection[Read]) -> Pass:
        return self.worker.within_memory(
            lambda at_once: shared_pass(self.classifier, images, self.targets, reads, at_once)
        )

    def _refused_alone(self, images: Tensor, known: Mapping[int, str]) -> dict[int, str]:
        found = {}
        for place in range(len(images)):
            if place in known:
                continue
            try:
                shared_pass(self.classifier, images[place : place + 1], None, (), 1)
            except (Exception, SystemExit) as error:  # noqa: BLE001 - as above
                found[place] = _of_network(error)
        return found

    def _nothing(
        self, images: Tensor, refused: Mapping[int, str]
    ) -> tuple[Pass, Failure, Mapping[int, str]]:
        size = len(images)
        logits = images.new_full((size, len(self.classifier.class_names)), torch.nan)
        targets = self.targets
        if targets is None:
            targets = torch.zeros(size, dtype=torch.int64, device=images.device)
        return (
            Pass(images, targets, logits),
            Failure(Status.ERROR, refused[0], size),
            dict(sorted(refused.items())),
        )


def _standing_in(images: Tensor, refused: Mapping[int, str]) -> Tensor:
    """Put the first image that the network takes in the place of those that it does not."""
    if not refused or len(refused) == len(images):
        return images
    filled = images.clone()
    filled[list(refused)] = images[min(set(range(len(images))) - set(refused))]
    return filled


def _of_network(error: BaseException) -> str:
    if isinstance(error, LogitsError):
        return str(error)
    return f"the network raised {_reason(error)}"


def logits_of(worker: Worker, classifier: Classifier, images: Tensor) -> Tensor:
    """(B, K): the logits of images (B, 3, H, W); NaN where the network raises on one."""
    first = _FirstPass(worker, classifier, None, ((), ()))
    seen, _, refused = first.of(images, {})
    if not refused:
        return seen.logits
    logits = seen.logits.clone()
    logits[list(refused)] = torch.nan
    return logits


def attacked(worker: Worker, shown: Shown, targets: Tensor) -> Shown:
    """Turn clean images into what the attack of their cell makes of them, one after the other.

    Others are given back as they are. Images go alone, so that what else is in the batch changes
    nothing; where the attack fails on one, `failed` says why, and the clean one is in its place.

    Args:
        worker: whose classifier is attacked.
        shown: the images.
        targets: (B,), the classes predicted for the clean images.
    """
    family = FAMILY_SHELF.known(shown.cell.family)
    if family is None or family.attack is None:
        return shown
    with worker.clock(shown.cell, ATTACK_PART, len(shown.images)):
        made = [
            _attack(worker, family.attack, shown, targets, place)
            for place in range(len(shown.images))
        ]
        failed = {place: one for place, one in enumerate(made) if isinstance(one, str)}
        found = torch.cat(
            [
                shown.on_device[place : place + 1] if isinstance(one, str) else one
                for place, one in enumerate(made)
            ]
        )
    return replace(shown, images=found.cpu(), on_device=found, failed={**shown.failed, **failed})


def _attack(
    worker: Worker, attack: Attack, shown: Shown, targets: Tensor, place: int
) -> Tensor | str:
    """Return one image (1, 3, H, W) after the attack, or why there is none."""
    chosen = slice(place, place + 1)
    image = shown.on_device[chosen]
    classifier, severity = worker.classifier, shown.cell.severity
    draw = draw_of(shown.cell, shown.image_ids[place], shown.seed)
    try:
        # One of our own writes into nothing.
        if is_ours(attack):
            found: object = attack(classifier, image, targets[chosen], severity, draw)
        else:
            with left_as_it_was(worker.guard(keep=True), image):
                found = attack(classifier, image.clone(), targets[chosen].clone(), severity, draw)
    except LeftChangedError as error:
        return f"the attack {error}"
    except (Exception, SystemExit) as error:  # noqa: BLE001 - an attack may raise anything
        return f"the attack raised {_reason(error)}"
    if not isinstance(found, Tensor):
        return f"the attack returned {type(found).__name__}, expected a tensor"
    if (found.shape, found.dtype, found.device) != (image.shape, image.dtype, image.device):
        kinds = [f"{one.dtype} {tuple(one.shape)} on {one.device}" for one in (found, image)]
        return f"the attack returned {kinds[0]}, expected {kinds[1]}"
    return found.detach().clone()


def explain(worker: Worker, method: BoundMethod, view: View) -> Explained | Failure:
    """Return a method's maps of a view, or why there are none."""
    size = len(view.images)
    if view.lost is not None:
        return view.lost
    reason = _unfit(method, view.classifier, worker.engine)
    if reason is not None:
        return replace(reason, size=size)
    shares = method.method.share is not None and worker.engine == "own"
    if shares and view.failure is not None:
        return view.failure

    def compute(at_once: int) -> Explained | Failure:
        with _watched(worker, method, view) as given:
            if shares:
                # Whole, unless memory has run out since.
                whole = at_once == view.batch.at_once > 1
                made = _read_by_parts(method, given.seen, size if whole else at_once)
            else:
                batch = replace(given.batch, at_once=at_once)
                made = _by_parts(method, given.classifier, batch, worker.engine)
        return explained(made, size)

    with worker.clock(view.cell, method.spec, size):
        try:
            return worker.within_memory(compute)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - a method may raise anything; its records say what
            return _error(error, size)


def _unfit(method: BoundMethod, classifier: Classifier, engine: Engine) -> Failure | None:
    """Say why a classifier cannot be explained with a method, or return None."""
    try:
        reason = method.unfit(classifier, engine)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - as in `explain`
        return Failure(Status.ERROR, f"does it apply? {one_line(error)}", 0)
    return None if reason is None else Failure(Status.SKIPPED, reason, 0)


@contextmanager
def _watched(worker: Worker, method: BoundMethod, view: View) -> Iterator[View]:
    """Give what a method works with: to one that is not ours copies, and nothing that it changes.

    Raises:
        LeftChangedError: it has left the network changed, or a setting of torch's.
    """
    if not foreign(method.method):
        yield view
        return
    with left_as_it_was(worker.guard(keep=True), view.batch.images):
        shared = view.classifier is worker.classifier
        yield replace(
            view,
            # With a shift, the module around the network is the view's, and serves all methods.
            classifier=view.classifier if shared else view.classifier.shifted(0.0),
            batch=_copied(view.batch),
            seen=_copied(view.seen),
        )


def _copied(given: T) -> T:
    """Return a batch or a pass with tensors of its own."""
    return replace(  # type: ignore[type-var] # a dataclass
        given,
        **{name: one.clone() for name, one in vars(given).items() if isinstance(one, Tensor)},
    )


def _own(method: BoundMethod, made: Tensor) -> Tensor:
    """Return what a method has made; of one that is not ours a copy, which it cannot change."""
    copied = foreign(method.method) and isinstance(made, Tensor)
    return made.detach().clone() if copied else made


def _by_parts(method: BoundMethod, classifier: Classifier, batch: Batch, engine: Engine) -> Tensor:
    """Explain no more images at a time than fit."""
    if len(batch.images) <= batch.at_once:
        return _own(method, method.explain(classifier, batch, engine))
    cuts = (slice(at, at + batch.at_once) for at in range(0, len(batch.images), batch.at_once))
    return torch.cat(
        [_own(method, method.explain(classifier, batch.part(cut), engine)) for cut in cuts]
    )


def _read_by_parts(method: BoundMethod, seen: Pass, at_once: int) -> Tensor:
    """Read a pass off, no more images at a time than fit."""
    size = len(seen.images)
    if size <= at_once:
        return _own(method, method.read(seen))
    cuts = (slice(at, at + at_once) for at in range(0, size, at_once))
    return torch.cat([_own(method, method.read(seen.part(cut))) for cut in cuts])


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


def _error(error: BaseException, size: int) -> Failure:
    reason = str(error) if isinstance(error, LeftChangedError) else _reason(error)
    return Failure(Status.ERROR, reason, size)


def _reason(error: BaseException) -> str:
    """Return an exception in one line; batches have been halved before memory is said to be out."""
    said = one_line(error)
    return f"{said} (with one image at a time)" if is_out_of_memory(error) else said


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
        return _evaluate(metric, current.maps, evidence[metric.against])
    if isinstance(clean, Failure):
        return clean.scores("clean image: ")
    return _evaluate(metric, clean.maps, current.maps)


def _evaluate(
    metric: Metric, maps: Maps | TensorMaps, against: Maps | TensorMaps | Array | Tensor
) -> Scores:
    """Apply a metric; to half as many maps at a time where memory runs out."""
    try:
        return evaluate(metric, maps, against)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        failure = _error(error, len(maps))
    if len(maps) == 1:
        return failure.scores()
    first = np.arange(len(maps)) < len(maps) // 2
    parts = [
        _evaluate(metric, maps.select(chosen), _select(against, chosen))
        for chosen in (first, ~first)
    ]
    return Scores(
        np.concatenate([part.values for part in parts]),
        sum((part.statuses for part in parts), ()),
        sum((part.details for part in parts), ()),
    )


def _select(
    against: Maps | TensorMaps | Array | Tensor, chosen: Flags
) -> Maps | TensorMaps | Array | Tensor:
    if isinstance(against, Maps | TensorMaps):
        return against.select(chosen)
    return against[torch.from_numpy(chosen)] if isinstance(against, Tensor) else against[chosen]


def recognised(
    metric: Metric,
    own: Scores,
    nulls: Sequence[Maps | TensorMaps],
    current: Explained | Failure,
) -> Scores:
    """Say of each map whether it is closer to its clean self than to every unrelated map."""
    if isinstance(current, Failure):
        return current.scores()
    try:
        return recognise(metric, own, nulls, current.maps)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        return _error(error, len(current.maps)).scores()


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
                total += logits_of(worker, view.classifier, images).double()
        worker.baseline_logits[key] = total / start.draws
    difference = view.logits.double() - worker.baseline_logits[key].double()
    found: Array = difference.gather(1, view.batch.targets[:, None])[:, 0].cpu().numpy()
    return found


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
                reference = self._at(clean, levels, view)
            found = self._at(path, levels, view)
        points = np.array([points_at(level) for level in levels], dtype=np.float64)
        return reference, found, points

    def _path(self, view: View) -> NestedPath | Failure:
        if view.lost is not None:
            return view.lost

        def compute(at_once: int) -> NestedPath:
            with _watched(self.worker, self.method, view) as given:
                batch = replace(given.batch, at_once=at_once)
                return self.method.nested(given.classifier, batch)

        try:
            return self.worker.within_memory(compute)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - as in `explain`
            return _error(error, len(view.images))

    def _at(self, path: NestedPath, levels: list[int], view: View) -> Explained | Failure:
        size = len(view.images)

        def compute(at_once: int) -> Explained | Failure:
            with _watched(self.worker, self.method, view):
                return explained(_own(self.method, path.at(levels, at_once)), size)

        try:
            return self.worker.within_memory(compute)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - as in `explain`
            return _error(error, size)


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
