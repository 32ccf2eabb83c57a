"""Images through perturbations and methods into records."""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import pairwise
from queue import SimpleQueue
from typing import TypeVar

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from torch import Tensor

from steadymap.bench.adversarial import differentiable_twice, smoothed
from steadymap.bench.alignment import Compared, in_place
from steadymap.bench.config import ConfigError, Plan
from steadymap.bench.guards import foreign, is_ours
from steadymap.bench.images import DataError, ImageSet, Picture, from_tensor
from steadymap.bench.manifest import run_id
from steadymap.bench.methods import BoundMethod
from steadymap.bench.passes import images_at_once
from steadymap.bench.perturbations import FAMILY_SHELF, Cell, attempt, draw_of
from steadymap.bench.plugins import MESSAGE_LENGTH, METRIC_SHELF, one_line
from steadymap.bench.probes import Subject, probe, reads, wanted
from steadymap.bench.records import (
    INPUT,
    NULLS,
    RECOGNISED,
    Record,
    Source,
    to_frame,
    to_table,
)
from steadymap.bench.references import (
    CLEAN_CELL,
    NUMERIC_IMAGES,
    Panel,
    Reference,
    comparable,
    data_references,
    make_panel,
    most_in_batch,
    numerics,
    panel_members,
    predictions,
    randomised_twins,
    references,
    show,
    views_beside,
)
from steadymap.bench.views import (
    METRICS_PART,
    Adaptive,
    Explained,
    Failure,
    Shown,
    Timing,
    View,
    Worker,
    attacked,
    deltas,
    explain,
    input_scores,
    look,
    recognised,
    same_size,
    score,
)
from steadymap.metrics import PROBES, Maps, Metric, Scores, Status, TensorMaps
from steadymap.metrics.maps import Array
from steadymap.metrics.neighbours import NEIGHBOURS
from steadymap.models import Classifier

# About the perturbed image itself, once a cell.
INPUT_METRICS: dict[str, str] = {
    "input_change": "root mean square of perturbed minus clean image, in image units",
    "saturated_share": "share of the perturbed image's values at or beyond black or white",
}

# Of a method with steps=auto: points of the path at which a map took gradients.
STEPS = "steps"

NO_LOGITS = (math.nan, Status.NONFINITE, "the network's logits are not finite")

T = TypeVar("T")


@dataclass(frozen=True)
class Outcome:
    """What a batch of images came to.

    Attributes:
        records: image by image; within an image in the order of the plan, the clean one first.
        images: (B, cells, 3, H, W), the clean cell first; None unless maps are kept.
        masks: (B, H, W); None unless maps are kept and the data has masks.
        attributions: by method, (B, cells, C, h, w), NaN where a map is missing, None where all
            are; empty unless maps are kept.
        deltas: by complete method, (B, cells), what its attributions must add up to, in logits.
        timings: where the time went.
        at_once: how many images went through the network together, at the end.
        halved: how many times that was halved because memory ran out.
    """

    records: list[Record]
    images: Tensor | None = None
    masks: Tensor | None = None
    attributions: dict[str, Tensor | None] = field(default_factory=dict)
    deltas: dict[str, Tensor] = field(default_factory=dict)
    timings: tuple[Timing, ...] = ()
    at_once: int = 0
    halved: int = 0


def run(
    classifier: Classifier,
    images: ImageSet | Tensor,
    plan: Plan | None = None,
    advance: Callable[[int], None] | None = None,
) -> pd.DataFrame:
    """Measure how steady a classifier's saliency maps are on your images.

    Args:
        classifier: see `steadymap.models.make_classifier`.
        images: an image set, or a tensor (N, 3, H, W), float32 in [0, 1], at the input size.
        plan: methods, families, severities and metrics; left out, all of them.
        advance: called with the number of maps just made, for a progress bar.

    Returns:
        One row a value, with the columns of `steadymap.bench.records.SCHEMA`.

    Raises:
        ConfigError: a metric that nothing in the plan can give.
        DataError: images of another type, size or range.
    """
    plan = plan or Plan()
    image_set = from_tensor(images) if isinstance(images, Tensor) else images
    setup = prepare(classifier, image_set, plan)
    source = Source(run_id(plan, classifier, image_set), classifier.name, image_set.name)
    outcomes = measure(setup, advance or (lambda _count: None))
    return to_frame(pa.concat_tables([to_table(outcome.records, source) for outcome in outcomes]))


@dataclass(frozen=True)
class Setup:
    """A run that is ready to start; made by `prepare`.

    Attributes:
        classifier: what is explained.
        images: the images.
        plan: what to do with them.
        methods: the methods of the plan, each with the metrics that it can have here.
        at_once: how many images each worker sends through the network together.
        references: (R, 3, H, W), images of the data set, on the CPU; None where no method takes
            any.
    """

    classifier: Classifier
    images: ImageSet
    plan: Plan
    methods: dict[BoundMethod, dict[str, Metric]]
    at_once: int
    references: Tensor | None = None

    def classifiers(self) -> list[Classifier]:
        """Return one for each worker; the first is the run's own.

        Raises:
            ModelError: there are several workers, and the network cannot be copied.
        """
        others = [self.another(self.classifier) for _ in range(1, self.plan.workers)]
        found = [self.classifier, *others]
        # Networks are traced now: none may run meanwhile.
        for classifier in found if self.attacks() else ():
            smoothed(classifier)
        return found

    def another(self, classifier: Classifier) -> Classifier:
        """Return a classifier for one more worker.

        With weights of its own where they are given to something that is not ours, which may write
        into them; the others share them.
        """
        attacks = [FAMILY_SHELF.find(cell.family).attack for cell in self.attacks()]
        apart = any(foreign(method.method) for method in self.methods) or not all(
            is_ours(attack) for attack in attacks if attack is not None
        )
        return classifier.copy() if apart else classifier.replica()

    def attacks(self) -> tuple[Cell, ...]:
        """Return the perturbations that need the classifier, those of severity 0 left out."""
        return tuple(
            cell
            for cell in self.plan.cells()
            if FAMILY_SHELF.find(cell.family).attack is not None and cell.severity
        )

    def view_count(self) -> int:
        """Return how many times the run looks at an image, with every method."""
        near = NEIGHBOURS if "neighbours" in wanted(self.methods) else 0
        own = len(self.images) * (len(self.plan.cells()) + 1 + near)
        device = self.classifier.module.mean.device
        return own + views_beside(len(self.images), self.plan.nulls, device)

    def redraws(self) -> dict[BoundMethod, int]:
        """Return how many maps each stochastic method makes under other seeds."""
        count = len(self.images) * self.plan.nulls
        return {method: count for method in self.methods if method.can("stochastic")}

    def map_count(self) -> int:
        """Return how many maps the run makes: what `advance` adds up to."""
        return len(self.methods) * self.view_count() + sum(self.redraws().values())

    def metrics(self) -> dict[str, str]:
        """Return the metrics of the run, each with its line."""
        return {
            name: metric.summary
            for metrics in self.methods.values()
            for name, metric in metrics.items()
        }

    def passes(self) -> dict[str, dict[str, object]]:
        """Return, by method, how often an image goes forward and backward for one map.

        `each` is missing where a method takes as many as it needs; `shared` says whether that is
        the pass which the methods have in common; `forward_only` is how often it goes forward and
        does not come back.
        """
        own = self.plan.engine == "own"
        return {
            method.spec: {
                "each": None if method.adaptive else method.passes,
                "shared": own and method.method.share is not None,
                "forward_only": method.forward_only(self.classifier.input_size),
            }
            for method in self.methods
        }


def prepare(
    classifier: Classifier, images: ImageSet, plan: Plan, references: Tensor | None = None
) -> Setup:
    """Check, before anything is computed, that classifier, images and plan belong together.

    Args:
        classifier: what is explained.
        images: the images.
        plan: what to do with them.
        references: (R, 3, H, W), images of the data set for methods that take any; left out, some
            of `images`.

    Raises:
        ConfigError: a metric that nothing in the plan can give, a family that cannot be had of
            these images or this network, a network that is not float32, or a method that takes
            images of the data set where there is but one.
        DataError: images of another size than the classifier's input.
    """
    dtype = classifier.module.mean.dtype
    if dtype != torch.float32:
        raise ConfigError(f"model: {classifier.name} is {dtype}; a run needs network.float()")
    size = tuple(images.read(0).image.shape[1:])
    if size != classifier.input_size:
        height, width = classifier.input_size
        raise DataError(
            f"images: {classifier.name} takes {height} x {width} pixels, "
            f"these have {size[0]} x {size[1]}"
        )
    methods = plan.bound_methods()
    comparing = [method.spec for method in methods if method.needs_references]
    if comparing and references is None:
        if len(images) == 1:
            raise ConfigError(
                f"method: {comparing[0]} compares with other images of the data set, and there is "
                "but one"
            )
        references = data_references(images, plan.seed)
    setup = Setup(
        classifier,
        images,
        plan,
        {method: _metrics_of(method, images, plan.metrics()) for method in methods},
        images_at_once(classifier, plan.workers),
        references if comparing else None,
    )
    _refuse_idle_metrics(setup)
    for method in setup.methods:
        try:
            method.method.inapplicable(classifier)
        except Exception as error:  # a plug-in may raise anything; the line says what
            reason = one_line(error)
            raise ConfigError(f"method {method.spec}: does it apply? {reason}") from error
    _refuse_small_images(setup)
    _refuse_attacks(setup)
    return setup


def measure(
    setup: Setup, advance: Callable[[int], None], *, keep_maps: bool = False
) -> Iterator[Outcome]:
    """Yield the outcome of one batch of images after another, in their order.

    A method that raises costs its own cells, which say so; the run goes on. `advance` is called
    with the number of maps just made, by whichever worker made them.

    With several workers, each takes whole batches and its share of the threads.

    Raises:
        ModelError: several workers, and a network that cannot be copied.
    """
    plan, count = setup.plan, len(setup.images)
    workers: SimpleQueue[Worker] = SimpleQueue()
    for worker in _crew(setup):
        workers.put(worker)

    def each(
        parts: Sequence[Sequence[int]],
        work: Callable[[Worker, Sequence[int], Callable[[int], None]], T],
    ) -> Iterator[T]:
        def with_one(indices: Sequence[int], go_on: Callable[[int], None]) -> T:
            worker = workers.get()
            try:
                worker.begin()
                return work(worker, indices, go_on)
            finally:
                workers.put(worker)

        if plan.workers == 1:
            for indices in parts:
                yield with_one(indices, advance)
        else:
            yield from _in_order(parts, plan.workers, with_one, advance)

    device = setup.classifier.module.mean.device
    most = most_in_batch(setup.classifier, len(setup.methods), plan.workers * plan.nulls)
    size = min(plan.batch_size, most or plan.batch_size)
    members = panel_members(setup.images, plan.seed) if plan.nulls else []
    with (
        threads_each(plan.workers),
        float32(device, exact=plan.precision == "ieee"),
        differentiable_twice(wanted=bool(setup.attacks())),
    ):
        cuts = [members[cut.start : cut.stop] for cut in batches(len(members), size, plan.workers)]
        parts = []
        for part, outcome in each(cuts, lambda *given: _panel_part(setup, *given)):
            parts.append(part)
            yield outcome
        panel = Panel.of(parts)
        yield from each(
            batches(count, size, plan.workers),
            lambda *given: _measure_batch(setup, panel, given, keep_maps=keep_maps),
        )
        yield from each(
            [members[:NUMERIC_IMAGES]] if members else [],
            lambda *given: _numerics(setup, *given),
        )


def _crew(setup: Setup) -> Iterator[Worker]:
    """Yield the workers of a run, each with networks of its own that share the weights."""
    plan, methods = setup.plan, tuple(setup.methods)
    references = setup.references
    if references is not None:
        references = references.to(setup.classifier.module.mean.device)

    def worker(own: Classifier, twins: tuple[Worker, ...]) -> Worker:
        # Some methods trace their network, once, during which no other thread may run one.
        for method in methods:
            method.method.inapplicable(own)
        return Worker(own, methods, plan.engine, setup.at_once, twins=twins, references=references)

    twins = randomised_twins(setup.classifier, plan.nulls, plan.seed)
    for place, own in enumerate(setup.classifiers()):
        theirs = [setup.another(twin) if place else twin for twin in twins]
        yield worker(own, tuple(worker(twin, ()) for twin in theirs))


def batches(count: int, size: int, workers: int) -> list[range]:
    """Cut `count` images into batches of at most `size`, as even as can be for the workers."""
    if not count:
        return []
    rounds = max(1, math.ceil(count / (size * workers)))
    parts = min(count, rounds * workers)
    edges = [round(part * count / parts) for part in range(parts + 1)]
    return [range(low, high) for low, high in pairwise(edges)]


class _StoppedError(Exception):
    """The run has ended; a worker drops what it has in hand."""


def _in_order(
    parts: Iterable[Sequence[int]],
    workers: int,
    work: Callable[[Sequence[int], Callable[[int], None]], T],
    advance: Callable[[int], None],
) -> Iterator[T]:
    """Work on parts in threads, a few ahead, and yield in their order."""
    stop = threading.Event()

    def go_on(count: int) -> None:
        if stop.is_set():
            raise _StoppedError
        advance(count)

    coming: deque[Future[T]] = deque()
    pool = ThreadPoolExecutor(workers)
    try:
        for part in parts:
            coming.append(pool.submit(work, part, go_on))
            if len(coming) > workers:
                yield coming.popleft().result()
        while coming:
            yield coming.popleft().result()
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)


@contextmanager
def threads_each(workers: int) -> Iterator[None]:
    """Share torch's threads among the workers, as long as the context lasts."""
    before = torch.get_num_threads()
    each = max(1, before // workers)
    if each == before:
        yield
        return
    torch.set_num_threads(each)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def float32(device: torch.device, *, exact: bool) -> Iterator[None]:
    """Compute in float32 proper on a GPU, or in TF32, as long as the context lasts.

    Convolutions are in TF32 there unless told otherwise, and its rounding is as large as the effect
    of a small perturbation.
    """
    if device.type != "cuda":
        yield
        return
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.allow_tf32, matmul.allow_tf32
    cudnn.allow_tf32 = matmul.allow_tf32 = not exact
    try:
        yield
    finally:
        cudnn.allow_tf32, matmul.allow_tf32 = before


def _metrics_of(method: BoundMethod, images: ImageSet, named: Sequence[str]) -> dict[str, Metric]:
    possible = {"map", *PROBES}
    if method.can("complete"):
        possible.add("delta")
    if images.has_masks:
        possible.add("mask")
    found = {name: METRIC_SHELF.find(name) for name in named}
    return {name: metric for name, metric in found.items() if metric.against in possible}


def recognising(metrics: Mapping[str, Metric]) -> list[str]:
    """Return the metrics by which a map can be recognised.

    They compare two maps, quickly, and in the same unit whatever the maps: a distance over the norm
    of one of them, which is not symmetric, would favour the largest.
    """
    return [
        name
        for name, metric in metrics.items()
        if metric.against == "map" and metric.symmetric and not metric.slow
    ]


def _refuse_idle_metrics(setup: Setup) -> None:
    reasons = {
        "delta": "no method of this run is complete (integrated_gradients is)",
        "mask": "this data has no masks (hands has)",
    }
    for name in setup.plan.metric or ():
        if not any(name in metrics for metrics in setup.methods.values()):
            reason = reasons[METRIC_SHELF.find(name).against]
            raise ConfigError(f"metric: {name} cannot be had here: {reason}")


def _refuse_small_images(setup: Setup) -> None:
    height, width = setup.classifier.input_size
    for name in setup.plan.family:
        side = FAMILY_SHELF.find(name).min_side
        if min(height, width) < side:
            raise ConfigError(
                f"family: {name} takes images of at least {side} x {side} pixels, "
                f"{setup.classifier.name} takes {height} x {width}"
            )


def _refuse_attacks(setup: Setup) -> None:
    """Try each attack on one image: a network may have no second derivative."""
    classifier = setup.classifier
    tried = {cell.family: cell for cell in setup.attacks()}
    for name, cell in tried.items():
        attack = FAMILY_SHELF.find(name).attack
        if attack is None:
            continue
        image = setup.images.read(0).image[None].to(classifier.module.mean.device)
        draw = draw_of(cell, setup.images.pictures[0].image_id, setup.plan.seed)
        try:
            with differentiable_twice(wanted=True):
                target = classifier(image).detach().argmax(dim=1)
                attack(classifier, image, target, cell.severity, draw)
        except Exception as error:  # a network may raise anything; the line says what
            reason = " ".join(str(error).split())[:MESSAGE_LENGTH]
            raise ConfigError(
                f"family: {name} cannot attack {classifier.name}: {reason}"
            ) from error


def _panel_part(
    setup: Setup, worker: Worker, indices: Sequence[int], advance: Callable[[int], None]
) -> tuple[Panel, Outcome]:
    shown = show(worker, setup.images, indices, setup.plan.seed)
    return make_panel(worker, shown, advance), _outcome(worker, [])


def _outcome(worker: Worker, records: list[Record]) -> Outcome:
    """Return what the batch in hand came to, with what is known of how it went."""
    return Outcome(
        records,
        timings=worker.all_timings(),
        at_once=worker.least_at_once(),
        halved=worker.all_halved(),
    )


def _numerics(
    setup: Setup, worker: Worker, indices: Sequence[int], advance: Callable[[int], None]
) -> Outcome:
    """Compute the maps of a few images in several ways, and score how far these differ."""
    shown = show(worker, setup.images, indices, setup.plan.seed)
    view = look(worker, shown, None)
    if view.refused:
        # Others stand in for what the network refuses, as in every view.
        there = view.batch.images
        shown = replace(shown, images=there.cpu(), on_device=there)
    clean = {}
    for method in setup.methods:
        clean[method] = explain(worker, method, view)
        advance(len(indices))
    scored = [_Scored(CLEAN_CELL, predictions(view), {}, refused=view.refused)]
    scored += [
        _held_against(setup, clean, reference)
        for reference in numerics(worker, shown, view.batch.targets, advance)
    ]
    return _outcome(worker, list(_records(setup, indices, scored)))


def _measure_batch(
    setup: Setup,
    panel: Panel,
    given: tuple[Worker, Sequence[int], Callable[[int], None]],
    *,
    keep_maps: bool,
) -> Outcome:
    worker, indices, advance = given
    frames = [setup.images.read(index) for index in indices]
    masks = [frame.mask for frame in frames if frame.mask is not None]
    evidence: dict[str, Array | Tensor] = {}
    if setup.images.has_masks:
        inside = np.stack(masks)
        on_gpu = worker.classifier.module.mean.is_cuda
        # Once a batch, not once a metric.
        evidence["mask"] = (
            torch.from_numpy(inside).to(worker.classifier.module.mean.device) if on_gpu else inside
        )
    taking = _Taking(setup, worker, evidence, keep_maps=keep_maps)
    images = torch.stack([frame.image for frame in frames])
    kinds = wanted(setup.methods)
    ids = tuple(setup.images.pictures[index].image_id for index in indices)
    for shown in ahead(_shown(setup, images, ids), in_thread=worker.classifier.module.mean.is_cuda):
        # The first view is the clean one: what it predicts is the class explained in all of them.
        targets = taking.clean_view.batch.targets if taking.clean_view else None
        refused = taking.clean_view.refused if taking.clean_view else {}
        is_clean = shown.cell is CLEAN_CELL
        moved = shown if targets is None else attacked(worker, shown, targets)
        view = look(worker, moved, targets, reads(kinds, worker) if is_clean else (), refused)
        taking.take(view, advance)
        if is_clean and kinds:
            taking.take_probes(advance)
        if is_clean and setup.plan.nulls:
            taking.take_references(references(worker, view, panel, advance))
    if taking.clean_view is not None:
        worker.check(taking.clean_view.batch.images)
    return taking.outcome(indices)


def _shown(setup: Setup, images: Tensor, ids: tuple[str, ...]) -> Iterator[Shown]:
    """Yield the images as one cell after the other makes them, the clean one first.

    For an attack they are still clean: it needs the classifier, which others use meanwhile.
    """
    device = setup.classifier.module.mean.device
    stream = torch.cuda.Stream(device) if device.type == "cuda" else None
    clean = _moved(images, device, stream)
    yield Shown(CLEAN_CELL, images, clean, ids, setup.plan.seed)
    for cell in setup.plan.cells():
        family = FAMILY_SHELF.find(cell.family)
        shown, failed = images, {}
        if family.attack is None:
            made = [
                attempt(image, cell, image_id, setup.plan.seed)
                for image, image_id in zip(images, ids, strict=True)
            ]
            failed = {place: one for place, one in enumerate(made) if isinstance(one, str)}
            shown = torch.stack(
                [
                    clean if isinstance(one, str) else one
                    for one, clean in zip(made, images, strict=True)
                ]
            )
        # Where things move, what was cut into parts has moved, too.
        origin = clean if family.warp is None else None
        on_device = _moved(shown, device, stream)
        yield Shown(cell, shown, on_device, ids, setup.plan.seed, origin, failed)


def _moved(images: Tensor, device: torch.device, stream: torch.cuda.Stream | None) -> Tensor:
    """Copy images to a device; on a GPU beside the work that is queued there already."""
    if stream is None:
        return images.to(device)
    with torch.cuda.stream(stream):
        moved = images.pin_memory().to(device, non_blocking=True)
    # Work that is queued from now on waits for the copy.
    consumer = torch.cuda.default_stream(device)
    consumer.wait_stream(stream)
    moved.record_stream(consumer)
    return moved


def ahead(items: Iterator[T], *, in_thread: bool) -> Iterator[T]:
    """Yield items; with `in_thread`, the next one is made while the caller works on this one."""
    if not in_thread:
        yield from items
        return
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = pool.submit(next, items, None)
            yield item


@dataclass(frozen=True)
class _Scored:
    """What remains of a view once its maps are scored.

    Attributes:
        cell: the perturbation.
        predictions: B classes; None where a logit is not finite.
        scores: by method and metric.
        failed: as in `Shown`.
        refused: as in `View`.
    """

    cell: Cell
    predictions: list[int | None]
    scores: dict[str, dict[str, Scores]]
    failed: Mapping[int, str] = field(default_factory=dict)
    refused: Mapping[int, str] = field(default_factory=dict)

    def broken(self, position: int, clean: _Scored, method: str) -> str:
        """Return why an image has no value here; empty where it may have one.

        What a network refuses is still an image, of which the change is known.
        """
        if position in clean.refused:
            return f"clean image: {clean.refused[position]}"
        if position in self.failed:
            return self.failed[position]
        return self.refused.get(position, "") if method != INPUT else ""


class _Taking:
    """Takes the views of one batch as they come, the clean one first, and scores their maps.

    Of a perturbed view nothing stays but its scores, unless maps are kept: memory does not grow
    with the number of cells.
    """

    def __init__(
        self,
        setup: Setup,
        worker: Worker,
        evidence: dict[str, Array | Tensor],
        *,
        keep_maps: bool,
    ) -> None:
        self.setup = setup
        self.worker = worker
        self.evidence = evidence
        self.keep_maps = keep_maps
        self.clean_view: View | None = None
        self.clean: dict[BoundMethod, Explained | Failure] = {}
        self.nulls: dict[BoundMethod, list[Maps | TensorMaps]] = {m: [] for m in setup.methods}
        self.adaptive = {
            method: Adaptive(worker, method) for method in setup.methods if method.adaptive
        }
        self.scored: list[_Scored] = []
        self.images: list[Tensor] = []
        self.attributions: dict[str, list[Tensor | None]] = {m.spec: [] for m in setup.methods}
        self.deltas: dict[str, list[Array]] = {}

    def take(self, view: View, advance: Callable[[int], None]) -> None:
        """Explain a view with every method and score the maps."""
        rows: dict[str, dict[str, Scores]] = {}
        if self.clean_view is None:
            self.clean_view = view
        else:
            rows[INPUT] = input_scores(self.clean_view, view)
        for method in self.setup.methods:
            rows[method.spec] = self._score(method, view)
            advance(len(view.images))
        self.scored.append(_Scored(view.cell, predictions(view), rows, view.failed, view.refused))
        if self.keep_maps:
            self.images.append(_without(view.images, view.failed))

    def take_probes(self, advance: Callable[[int], None]) -> None:
        """Score the clean maps by the metrics that need the network, too."""
        if self.clean_view is None:
            raise TypeError("the clean view comes first")

        def explain_beside(
            method: BoundMethod, view: View
        ) -> tuple[Explained | Failure, Explained | Failure]:
            return self._explain(method, view)[:2]

        subject = Subject(self.worker, self.clean_view, self.clean, explain_beside, advance)
        for spec, scores in probe(subject, self.setup.methods).items():
            self.scored[0].scores[spec].update(scores)

    def take_references(self, beside: Iterable[Reference]) -> None:
        """Hold the clean maps against others, and keep the unrelated ones for recognition."""
        for reference in beside:
            with self.worker.clock(reference.cell, METRICS_PART, len(reference.predictions)):
                self.scored.append(_held_against(self.setup, self.clean, reference))
            if reference.cell.family in NULLS:
                for method, found in reference.found.items():
                    made = comparable(self.clean[method], found)
                    if isinstance(made, Explained):
                        self.nulls[method].append(made.maps)

    def _score(self, method: BoundMethod, view: View) -> dict[str, Scores]:
        reference, found, steps = self._explain(method, view)
        current = same_size(reference, found)
        metrics = self.setup.methods[method]
        if any(metric.against == "delta" for metric in metrics.values()):
            self.evidence["delta"] = delta = deltas(self.worker, method, view)
            if self.keep_maps:
                self.deltas.setdefault(method.spec, []).append(delta)
        compared = Compared(reference, current, tuple(self.nulls[method]), self.evidence)
        with self.worker.clock(view.cell, METRICS_PART, len(view.images)):
            placed = _placed(compared, view)
            scores = {
                name: _score(metric, compared if metric.against == "delta" else placed)
                for name, metric in metrics.items()
                if metric.against not in PROBES
                if metric.against != "map" or view is not self.clean_view
            }
            if self.setup.plan.nulls and view is not self.clean_view:
                scores |= self._recognised(method, scores, placed)
        if self.keep_maps:
            maps = current.attributions.cpu() if isinstance(current, Explained) else None
            self.attributions[method.spec].append(
                None if maps is None else _without(maps, {**view.failed, **view.refused})
            )
        return scores if steps is None else scores | {STEPS: steps}

    def _recognised(
        self, method: BoundMethod, scores: Mapping[str, Scores], placed: Compared
    ) -> dict[str, Scores]:
        """Say of each map whether it is closer to its clean self than to every unrelated map."""
        metrics = self.setup.methods[method]
        return {
            name + RECOGNISED: recognised(metrics[name], scores[name], placed.nulls, placed.current)
            for name in recognising(metrics)
        }

    def _explain(
        self, method: BoundMethod, view: View
    ) -> tuple[Explained | Failure, Explained | Failure, Scores | None]:
        """Return the clean maps, the view's, and with steps=auto how many steps they took."""
        if method not in self.adaptive:
            found = explain(self.worker, method, view)
            return self.clean.setdefault(method, found), found, None
        reference, found, points = self.adaptive[method].explain(view)
        self.clean.setdefault(method, found)
        if isinstance(found, Failure):
            return reference, found, found.scores()
        size = len(points)
        return reference, found, Scores(points, (Status.OK,) * size, ("",) * size)

    def outcome(self, indices: Sequence[int]) -> Outcome:
        """Return what the batch came to."""
        worker = self.worker
        outcome = _outcome(worker, list(_records(self.setup, indices, self.scored)))
        if not self.keep_maps:
            return outcome
        mask = self.evidence.get("mask")
        return replace(
            outcome,
            images=torch.stack(self.images, dim=1),
            masks=None if mask is None else torch.as_tensor(mask).cpu(),
            attributions={spec: _stack(maps) for spec, maps in self.attributions.items()},
            deltas={
                spec: torch.from_numpy(np.stack(rows, axis=1)) for spec, rows in self.deltas.items()
            },
        )


def _placed(compared: Compared, view: View) -> Compared:
    """Put the maps of a view in place, where its family moves things."""
    family = FAMILY_SHELF.known(view.cell.family)
    if family is None or family.warp is None:
        return compared
    height, width = view.images.shape[2:]
    return in_place(compared, family.warp(view.cell.severity, (height, width)))


def _score(metric: Metric, compared: Compared) -> Scores:
    return score(metric, compared.clean, compared.current, compared.evidence)


def _without(images: Tensor, failed: Mapping[int, str]) -> Tensor:
    """Return images or maps (B, ...), NaN where the family failed."""
    if not failed:
        return images
    left = images.clone()
    left[list(failed)] = torch.nan
    return left


def _held_against(
    setup: Setup, clean: Mapping[BoundMethod, Explained | Failure], reference: Reference
) -> _Scored:
    """Score clean maps against those of a reference, by every metric that compares two maps."""
    rows: dict[str, dict[str, Scores]] = {}
    for method, found in reference.found.items():
        other = comparable(clean[method], found)
        rows[method.spec] = {
            name: score(metric, clean[method], other, {})
            for name, metric in setup.methods[method].items()
            if metric.against == "map"
        }
    return _Scored(reference.cell, reference.predictions, rows, refused=reference.refused)


def _stack(cells: list[Tensor | None]) -> Tensor | None:
    """(B, cells, C, h, w), NaN where a map is missing; None where all are."""
    known = [maps for maps in cells if maps is not None]
    if not known:
        return None
    missing = torch.full_like(known[0], torch.nan)
    return torch.stack([missing if maps is None else maps for maps in cells], dim=1)


def _records(setup: Setup, indices: Sequence[int], scored: list[_Scored]) -> Iterator[Record]:
    for position, index in enumerate(indices):
        picture = setup.images.pictures[index]
        label = _label(picture, setup)
        target = scored[0].predictions[position]
        for view in scored:
            predicted = None if position in view.failed else view.predictions[position]
            lost = target is None or predicted is None
            for method, by_metric in view.scores.items():
                for metric, scores in by_metric.items():
                    value, status, detail = (
                        NO_LOGITS if lost and method != INPUT else scores.at(position)
                    )
                    if broken := view.broken(position, scored[0], method):
                        value, status, detail = math.nan, Status.ERROR, broken
                    yield Record(
                        image_id=picture.image_id,
                        label=label,
                        target=target,
                        pred_clean=target,
                        pred_perturbed=predicted,
                        kept=not lost and predicted == target,
                        method=method,
                        family=view.cell.family,
                        severity=view.cell.severity,
                        draw=view.cell.draw,
                        metric=metric,
                        value=value,
                        status=status,
                        detail=detail,
                    )


def _label(picture: Picture, setup: Setup) -> int | None:
    """Return the picture's class as the classifier counts; None where it knows no such name.

    Nor does a name that stands for two classes say which (ImageNet has "crane" twice).
    """
    if picture.label is None:
        return None
    name, known = setup.images.class_names[picture.label], setup.classifier.class_names
    return known.index(name) if known.count(name) == 1 else None
