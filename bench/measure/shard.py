"""A shard of a run: some images, some views of them, some methods, into records."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from steadymap.bench.core.plugins import one_line
from steadymap.bench.data.open import Picture
from steadymap.bench.measure.nulls import (
    BESIDE,
    CLEAN_CELL,
    NUMERIC,
    NUMERIC_IMAGES,
    Reference,
    comparable,
    make_panel,
    most_methods,
    numerics,
    predictions,
    references,
    show,
)
from steadymap.bench.measure.probes import Subject, probe, reads, wanted
from steadymap.bench.measure.scores import Compared, in_place
from steadymap.bench.measure.view import (
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
from steadymap.bench.methods.registry import BoundMethod
from steadymap.bench.perturbations.registry import FAMILY_SHELF, Cell, attempt
from steadymap.bench.plan.blocks import block_size
from steadymap.bench.plan.setup import Setup, recognising
from steadymap.bench.records.schema import (
    BATCH_OF_ONE,
    INPUT,
    NULLS,
    OTHER_IMAGE,
    OTHER_SEED,
    RANDOM_NETWORK,
    RECOGNISED,
    REFERENCES,
    Record,
)
from steadymap.metrics import PROBES, Maps, Metric, Scores, Status, TensorMaps
from steadymap.metrics.maps import Array
from steadymap.metrics.neighbours import NEIGHBOURS
from steadymap.models import ModelError

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
class Shard:
    """A piece of a run that is computed and written as a whole.

    Attributes:
        indices: places of its images in the set: a block of it.
        methods: specs of the methods; `input` stands for what is recorded of the perturbed image
            itself.
        views: the clean view, `BESIDE` for what clean maps are held against, perturbations; or
            `NUMERIC` alone. What is not among them and needed is computed and not recorded.
    """

    indices: tuple[int, ...]
    methods: tuple[str, ...]
    views: tuple[Cell, ...]

    @property
    def cells(self) -> tuple[Cell, ...]:
        """The perturbations among its views."""
        return tuple(v for v in self.views if v not in (CLEAN_CELL, BESIDE, NUMERIC))


@dataclass(frozen=True)
class Outcome:
    """What a shard came to.

    Attributes:
        shard: which.
        records: image by image; within an image in the order of the plan, the clean one first.
        images: (B, cells, 3, H, W), the clean cell first; None unless maps are kept.
        masks: (B, H, W); None unless maps are kept and the data has masks.
        attributions: by method, (B, cells, C, h, w), NaN where a map is missing, None where all
            are; empty unless maps are kept.
        deltas: by complete method, (B, cells), what its attributions must add up to, in logits.
        timings: where the time went.
        at_once: how many images went through the network together, at the end.
        halved: how many times that was halved because memory ran out.
        failed: why nothing could be computed; None where something was.
        machine: that computed it, where that is another process.
    """

    shard: Shard
    records: list[Record]
    images: Tensor | None = None
    masks: Tensor | None = None
    attributions: dict[str, Tensor | None] = field(default_factory=dict)
    deltas: dict[str, Tensor] = field(default_factory=dict)
    timings: tuple[Timing, ...] = ()
    at_once: int = 0
    halved: int = 0
    failed: str | None = None
    machine: Mapping[str, Any] | None = None


def whole(setup: Setup) -> list[Shard]:
    """Cut a run into its shards, in the order of the records."""
    specs = tuple(method.spec for method in setup.methods)
    beside = (BESIDE,) if setup.plan.nulls else ()
    views = (CLEAN_CELL, *beside, *setup.plan.cells())
    found = [Shard(tuple(block), (INPUT, *specs), views) for block in setup.blocks()]
    few = numeric_images(setup)
    return within_memory(setup, [*found, Shard(few, specs, (NUMERIC,))] if few else found)


def within_memory(setup: Setup, shards: Sequence[Shard]) -> list[Shard]:
    """Cut shards into such of fewer methods where memory does not hold the null maps of all."""
    found = []
    for shard in shards:
        nulls = setup.plan.jobs * setup.plan.nulls
        most = most_methods(setup.classifier, len(shard.indices), nulls) or len(shard.methods)
        parts = range(0, len(shard.methods), most)
        found += [replace(shard, methods=shard.methods[low : low + most]) for low in parts]
    return found


def numeric_images(setup: Setup) -> tuple[int, ...]:
    """Return the places of the few images whose maps are computed in several ways."""
    return tuple(setup.blocks()[0])[:NUMERIC_IMAGES] if setup.plan.nulls else ()


def map_count(setup: Setup, shard: Shard) -> int:
    """Return how many maps a shard makes: what `advance` adds up to."""
    chosen = [method for method in setup.methods if method.spec in shard.methods]
    count = len(shard.indices)
    if shard.views == (NUMERIC,):
        ways = 4 if setup.classifier.module.mean.device.type == "cpu" else 5
        return len(chosen) * count * ways
    near = NEIGHBOURS if CLEAN_CELL in shard.views and "neighbours" in wanted(setup.methods) else 0
    drawing = sum(method.can("stochastic") for method in chosen)
    views = 1 + len(shard.cells) + near + setup.plan.nulls
    return count * (len(chosen) * views + drawing * setup.plan.nulls)


def measure_shard(
    setup: Setup, worker: Worker, shard: Shard, advance: Callable[[int], None], *, keep_maps: bool
) -> Outcome:
    """Compute a shard.

    A method that raises costs its own cells; where nothing at all can be computed, an image that
    is gone, say, all records of the shard say why.

    Args:
        setup: of the run.
        worker: who does it.
        shard: what to do.
        advance: called with the number of maps just made.
        keep_maps: whether the outcome has the maps themselves.
    """
    worker.begin(tuple(m for m in setup.methods if m.spec in shard.methods))
    chosen = replace(setup, methods={m: setup.methods[m] for m in worker.methods})
    try:
        if shard.views == (NUMERIC,):
            return _numerics(chosen, worker, shard, advance)
        return _measure(chosen, worker, (shard, advance), keep_maps=keep_maps)
    except ModelError:  # the network itself has changed: nothing after it could be trusted
        raise
    except Exception as error:  # noqa: BLE001 - whatever it is, the records say so and the run goes on
        return failed(chosen, shard, one_line(error))


def _outcome(worker: Worker, shard: Shard, records: list[Record]) -> Outcome:
    """Return what the shard in hand came to, with what is known of how it went."""
    return Outcome(
        shard,
        records,
        timings=worker.all_timings(),
        at_once=worker.least_at_once(),
        halved=worker.all_halved(),
    )


def _numerics(
    setup: Setup, worker: Worker, shard: Shard, advance: Callable[[int], None]
) -> Outcome:
    """Compute the maps of a few images in several ways, and score how far these differ."""
    shown = show(worker, setup.images, shard.indices, setup.plan.seed)
    view = look(worker, shown, None)
    if view.refused:
        # Others stand in for what the network refuses, as in every view.
        there = view.batch.images
        shown = replace(shown, images=there.cpu(), on_device=there)
    clean = {}
    for method in setup.methods:
        clean[method] = explain(worker, method, view)
        advance(len(shard.indices))
    scored = [_Scored(CLEAN_CELL, predictions(view), {}, refused=view.refused)]
    scored += [
        _held_against(setup, clean, reference)
        for reference in numerics(worker, shown, view.batch.targets, advance)
    ]
    return _outcome(worker, shard, list(_records(setup, shard, scored)))


def _measure(
    setup: Setup,
    worker: Worker,
    given: tuple[Shard, Callable[[int], None]],
    *,
    keep_maps: bool,
) -> Outcome:
    shard, advance = given
    frames = [setup.images.read(index) for index in shard.indices]
    masks = [frame.mask for frame in frames if frame.mask is not None]
    evidence: dict[str, Array | Tensor] = {}
    if setup.images.masks:
        inside = np.stack(masks)
        on_gpu = worker.classifier.module.mean.is_cuda
        # Once a batch, not once a metric.
        evidence["mask"] = (
            torch.from_numpy(inside).to(worker.classifier.module.mean.device) if on_gpu else inside
        )
    taking = _Taking(setup, worker, evidence, keep_maps=keep_maps)
    images = torch.stack([frame.image for frame in frames])
    kinds = wanted(setup.methods) if CLEAN_CELL in shard.views else set()
    ids = {index: setup.images.pictures[index].image_id for index in shard.indices}
    clean_shown = _shown(setup, images, tuple(ids.values()), shard.cells)
    for shown in ahead(clean_shown, in_thread=worker.classifier.module.mean.is_cuda):
        # The first view is the clean one: what it predicts is the class explained in all of them.
        targets = taking.clean_view.batch.targets if taking.clean_view else None
        refused = taking.clean_view.refused if taking.clean_view else {}
        is_clean = shown.cell is CLEAN_CELL
        moved = shown if targets is None else attacked(worker, shown, targets)
        view = look(worker, moved, targets, reads(kinds, worker) if is_clean else (), refused)
        taking.take(view, advance)
        if is_clean and kinds:
            taking.take_probes(advance)
        if is_clean and setup.plan.nulls and setup.methods:
            panel = make_panel(view, taking.clean, block_size(setup.plan.nulls))
            taking.take_references(references(worker, view, panel, advance))
    if taking.clean_view is not None:
        worker.check(taking.clean_view.batch.images)
    return taking.outcome(shard)


def _shown(
    setup: Setup, images: Tensor, ids: tuple[str, ...], cells: Sequence[Cell]
) -> Iterator[Shown]:
    """Yield the images as one cell after the other makes them, the clean one first.

    For an attack they are still clean: it needs the classifier, which others use meanwhile.
    """
    device = setup.classifier.module.mean.device
    stream = torch.cuda.Stream(device) if device.type == "cuda" else None
    clean = _moved(images, device, stream)
    yield Shown(CLEAN_CELL, images, clean, ids, setup.plan.seed)
    for cell in cells:
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

    def outcome(self, shard: Shard) -> Outcome:
        """Return what the batch came to."""
        worker = self.worker
        outcome = _outcome(worker, shard, list(_records(self.setup, shard, self.scored)))
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


def _records(setup: Setup, shard: Shard, scored: list[_Scored]) -> Iterator[Record]:
    recorded = [view for view in scored if recorded_as(view.cell) in shard.views]
    for position, index in enumerate(shard.indices):
        picture = setup.images.pictures[index]
        label = _label(picture, setup)
        target = scored[0].predictions[position]
        for view in recorded:
            predicted = None if position in view.failed else view.predictions[position]
            lost = target is None or predicted is None
            for method, by_metric in view.scores.items():
                if method == INPUT and INPUT not in shard.methods:
                    continue
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


def recorded_as(cell: Cell) -> Cell:
    """Return the view of a shard that the records of a cell belong to."""
    if cell.family not in REFERENCES:
        return cell
    return BESIDE if cell.family in (*NULLS, OTHER_SEED) else NUMERIC


def failed(setup: Setup, shard: Shard, reason: str) -> Outcome:
    """Return the records of a shard of which nothing could be computed.

    Args:
        setup: of the run, or of the shard's methods.
        shard: which.
        reason: what all its records say.
    """
    methods = {m: x for m, x in setup.methods.items() if m.spec in shard.methods}
    size = len(shard.indices)
    nothing = Failure(Status.ERROR, reason, size).scores()
    calibrated = setup.plan.nulls > 0

    def of(metrics: Mapping[str, Metric], view: Cell) -> dict[str, Scores]:
        if view == CLEAN_CELL:
            names = [name for name, one in metrics.items() if one.against != "map"]
        elif view.family in REFERENCES:
            names = [name for name, one in metrics.items() if one.against == "map"]
        else:
            names = [name for name, one in metrics.items() if one.against not in PROBES]
            names += [name + RECOGNISED for name in recognising(metrics) if calibrated]
        return dict.fromkeys(names, nothing)

    scored = [_Scored(CLEAN_CELL, [None] * size, {})] if CLEAN_CELL not in shard.views else []
    for view in _families_of(setup, shard):
        rows = {method.spec: of(metrics, view) for method, metrics in methods.items()}
        if view in shard.cells and INPUT in shard.methods:
            rows = {INPUT: dict.fromkeys(INPUT_METRICS, nothing)} | rows
        scored.append(_Scored(view, [None] * size, rows, dict.fromkeys(range(size), reason)))
    return Outcome(shard, list(_records(setup, shard, scored)), failed=reason)


def _families_of(setup: Setup, shard: Shard) -> Iterator[Cell]:
    """Yield the cells that a shard has records of, as far as they are known beforehand."""
    for view in shard.views:
        if view == BESIDE:
            for family in (OTHER_IMAGE, RANDOM_NETWORK):
                yield from (Cell(family, 0.0, draw) for draw in range(setup.plan.nulls))
        elif view == NUMERIC:
            yield Cell(BATCH_OF_ONE, 0.0, 0)
        else:
            yield view
