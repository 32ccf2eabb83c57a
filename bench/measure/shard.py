"""A shard of a run: some images, some views of them, some methods, into records."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from steadymap.bench.core.errors import one_line
from steadymap.bench.measure.explain import Adaptive, explain, same_size
from steadymap.bench.measure.nulls import (
    Reference,
    comparable,
    make_panel,
    predictions,
    references,
    show,
)
from steadymap.bench.measure.numerics import numerics
from steadymap.bench.measure.outcome import (
    Outcome,
    ScoredView,
    failed,
    records_of,
    stack_maps,
    without_failed,
)
from steadymap.bench.measure.probes import CleanBatch, probe, reads
from steadymap.bench.measure.scores import (
    Compared,
    deltas,
    in_place,
    input_scores,
    recognised,
    score,
)
from steadymap.bench.measure.view import Explained, Failure, ShownImages, View, attacked, look
from steadymap.bench.measure.worker import METRICS_PART, Worker
from steadymap.bench.methods.method import BoundMethod
from steadymap.bench.perturbations.apply import attempt
from steadymap.bench.perturbations.cell import CLEAN_CELL, Cell
from steadymap.bench.perturbations.registry import FAMILY_SHELF
from steadymap.bench.plan.blocks import block_size
from steadymap.bench.plan.setup import Setup, recognising, wanted
from steadymap.bench.plan.shards import NUMERIC, Shard
from steadymap.bench.records.schema import INPUT, NULLS, RECOGNISED, STEPS, Record
from steadymap.metrics import PROBES, Maps, Metric, Scores, Status, TensorMaps
from steadymap.metrics.maps import Array
from steadymap.models import ModelError

T = TypeVar("T")


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
    scored = [ScoredView(CLEAN_CELL, predictions(view), {}, refused=view.refused)]
    scored += [
        _held_against(setup, clean, reference)
        for reference in numerics(worker, shown, view.batch.targets, advance)
    ]
    return _outcome(worker, shard, list(records_of(setup, shard, scored)))


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
    taking = BatchScorer(setup, worker, evidence, keep_maps=keep_maps)
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
) -> Iterator[ShownImages]:
    """Yield the images as one cell after the other makes them, the clean one first.

    For an attack they are still clean: it needs the classifier, which others use meanwhile.
    """
    device = setup.classifier.module.mean.device
    stream = torch.cuda.Stream(device) if device.type == "cuda" else None
    clean = _moved(images, device, stream)
    yield ShownImages(CLEAN_CELL, images, clean, ids, setup.plan.seed)
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
        yield ShownImages(cell, shown, on_device, ids, setup.plan.seed, origin, failed)


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


class BatchScorer:
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
        self.scored: list[ScoredView] = []
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
        self.scored.append(
            ScoredView(view.cell, predictions(view), rows, view.failed, view.refused)
        )
        if self.keep_maps:
            self.images.append(without_failed(view.images, view.failed))

    def take_probes(self, advance: Callable[[int], None]) -> None:
        """Score the clean maps by the metrics that need the network, too."""
        if self.clean_view is None:
            raise TypeError("the clean view comes first")

        def explain_beside(
            method: BoundMethod, view: View
        ) -> tuple[Explained | Failure, Explained | Failure]:
            return self._explain(method, view)[:2]

        subject = CleanBatch(self.worker, self.clean_view, self.clean, explain_beside, advance)
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
                None if maps is None else without_failed(maps, {**view.failed, **view.refused})
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
        outcome = _outcome(worker, shard, list(records_of(self.setup, shard, self.scored)))
        if not self.keep_maps:
            return outcome
        mask = self.evidence.get("mask")
        return replace(
            outcome,
            images=torch.stack(self.images, dim=1),
            masks=None if mask is None else torch.as_tensor(mask).cpu(),
            attributions={spec: stack_maps(maps) for spec, maps in self.attributions.items()},
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


def _held_against(
    setup: Setup, clean: Mapping[BoundMethod, Explained | Failure], reference: Reference
) -> ScoredView:
    """Score clean maps against those of a reference, by every metric that compares two maps."""
    rows: dict[str, dict[str, Scores]] = {}
    for method, found in reference.found.items():
        other = comparable(clean[method], found)
        rows[method.spec] = {
            name: score(metric, clean[method], other, {})
            for name, metric in setup.methods[method].items()
            if metric.against == "map"
        }
    return ScoredView(reference.cell, reference.predictions, rows, refused=reference.refused)
