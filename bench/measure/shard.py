"""A shard of a run: some images, some views of them, some methods, into records."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch

from steadymap.bench.core.errors import one_line
from steadymap.bench.data.image_set import Frame
from steadymap.bench.measure import deletion
from steadymap.bench.measure.explain import explain, explain_as_needed, same_size
from steadymap.bench.measure.nulls import (
    Panel,
    Reference,
    comparable,
    make_panel,
    predictions,
    redrawn,
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
    Beside,
    Compared,
    deltas,
    in_place,
    input_scores,
    matched,
    score,
    skipped,
)
from steadymap.bench.measure.view import (
    Explained,
    Failure,
    ShownImages,
    View,
    attacked,
    explained,
    look,
)
from steadymap.bench.measure.watch import Watch
from steadymap.bench.measure.worker import METRICS_PART, Worker, ahead, moved
from steadymap.bench.methods.method import BoundMethod
from steadymap.bench.perturbations import apply, registry
from steadymap.bench.perturbations.cell import CLEAN_CELL, Cell
from steadymap.bench.plan import admitting, blocks, shards
from steadymap.bench.plan.setup import Setup, calibrated, wanted
from steadymap.bench.records import schema, vocabulary
from steadymap.metrics import METRICS, PROBES, Metric, Scores, Status
from steadymap.metrics.maps import Array
from steadymap.models import ModelError


def measure_shard(
    setup: Setup, worker: Worker, shard: shards.Shard, watch: Watch, *, keep_maps: bool
) -> Outcome:
    """Return the outcome of a shard.

    A method that raises costs its own cells; where nothing at all can be computed, an image that
    is gone, say, all records of the shard say why.

    Args:
        setup: of the run.
        worker: who does it.
        shard: what to do.
        watch: who is told of maps just made.
        keep_maps: whether the outcome has the maps themselves.

    Raises:
        ModelError: something has changed the network.
    """
    worker.begin(tuple(m for m in setup.methods if m.spec in shard.methods))
    chosen = replace(setup, methods={m: setup.methods[m] for m in worker.methods})
    try:
        if shard.views == (shards.NUMERIC,):
            return _numerics(chosen, worker, shard, watch)
        frames = [chosen.images.read(index) for index in shard.indices]
        images = torch.stack([frame.image for frame in frames])
        scorer = BatchScorer(chosen, worker, _masks(chosen, frames), keep_maps=keep_maps)
        for view in _views(chosen, worker, shard, images):
            scorer.begin(view)
            for method in chosen.methods:
                scorer.score(method, view)
                watch.tell(len(view.images))
                if view.cell != CLEAN_CELL and chosen.couples(method):
                    scorer.score_coupled(method, view)
                    watch.tell(len(view.images))
            if view.cell == CLEAN_CELL:
                if CLEAN_CELL in shard.views:
                    scorer.take_probes(view, watch)
                scorer.take_references(view, watch)
        return scorer.outcome(shard)
    except ModelError:  # the network itself has changed: nothing after it could be trusted
        raise
    except Exception as error:  # noqa: BLE001 - whatever it is, the records say so and the run goes on
        return failed(chosen, shard, one_line(error))


def _outcome(worker: Worker, shard: shards.Shard, records: list[schema.Record]) -> Outcome:
    """Return the records of the shard in hand, with what is known of how it went."""
    return Outcome(
        shard,
        records,
        timings=worker.all_timings(),
        at_once=worker.least_at_once(),
        halved=worker.all_halved(),
    )


def _numerics(setup: Setup, worker: Worker, shard: shards.Shard, watch: Watch) -> Outcome:
    """Return how far the maps of a few images differ when they are computed in several ways."""
    shown = show(worker, setup.images, shard.indices, setup.plan.seed)
    view = look(worker, shown, None)
    if view.refused:
        # Others stand in for what the network refuses, as in every view.
        filled = view.batch.images
        shown = replace(shown, images=filled.cpu(), on_device=filled)
    clean = {}
    for method in setup.methods:
        clean[method] = explain(worker, method, view)
        watch.tell(len(shard.indices))
    scored = [ScoredView(CLEAN_CELL, predictions(view), {}, refused=view.refused)]
    ways = numerics(worker, shown, view.batch.targets, watch)
    again = redrawn(worker, view, shards.AGAIN_BY_ALL, worker.methods, watch)
    scored += [_held_against(setup, clean, reference) for reference in (*ways, again)]
    return _outcome(worker, shard, list(records_of(setup, shard, scored)))


# --- views ----------------------------------------------------------------------------------------


def _masks(setup: Setup, frames: Sequence[Frame]) -> Array | torch.Tensor | None:
    """Return the masks (B, H, W) of images, where metrics are computed; None without any."""
    if not setup.images.masks:
        return None
    masks = np.stack([frame.mask for frame in frames if frame.mask is not None])
    mean = setup.classifier.module.mean
    # Once a batch, not once a metric.
    return torch.from_numpy(masks).to(mean.device) if mean.is_cuda else masks


def _views(
    setup: Setup, worker: Worker, shard: shards.Shard, images: torch.Tensor
) -> Iterator[View]:
    """Yield the views of a shard's images (B, 3, H, W), the clean one first.

    The class that is predicted there is the one explained in all of them.

    Raises:
        ModelError: after the last view; something has changed the network.
    """
    ids = tuple(setup.images.pictures[index].image_id for index in shard.indices)
    on_gpu = worker.classifier.module.mean.is_cuda
    shown = ahead(_shown(setup, images, ids, shard.cells), in_thread=on_gpu)
    kinds = wanted(setup.methods) if CLEAN_CELL in shard.views else set()
    clean = look(worker, next(shown), None, reads(kinds, worker))
    yield clean
    targets = clean.batch.targets
    for perturbed in shown:
        yield look(worker, attacked(worker, perturbed, targets), targets, refused=clean.refused)
    worker.check(clean.batch.images)


def _shown(
    setup: Setup, images: torch.Tensor, ids: tuple[str, ...], cells: Sequence[Cell]
) -> Iterator[ShownImages]:
    """Yield the images as one cell after the other makes them, the clean one first.

    For an attack they are still clean: it needs the classifier, which others use meanwhile.
    """
    device = setup.classifier.module.mean.device
    stream = torch.cuda.Stream(device) if device.type == "cuda" else None
    clean = moved(images, device, stream)
    yield ShownImages(CLEAN_CELL, images, clean, ids, setup.plan.seed)
    for cell in cells:
        family = registry.FAMILY_SHELF.find(cell.family)
        perturbed, failed = images, {}
        if family.attack is None:
            attempts = [
                apply.attempt(image, cell, image_id, setup.plan.seed)
                for image, image_id in zip(images, ids, strict=True)
            ]
            failed = {place: why for place, why in enumerate(attempts) if isinstance(why, str)}
            perturbed = torch.stack(
                [
                    image if isinstance(attempted, str) else attempted
                    for attempted, image in zip(attempts, images, strict=True)
                ]
            )
        on_device = moved(perturbed, device, stream)
        yield ShownImages(cell, perturbed, on_device, ids, setup.plan.seed, cell, failed)


# --- scores ---------------------------------------------------------------------------------------


class BatchScorer:
    """Scores the maps of one batch, view by view as they come, the clean one first.

    Of a perturbed view nothing stays but its scores, unless maps are kept: memory does not grow
    with the number of cells.
    """

    def __init__(
        self, setup: Setup, worker: Worker, masks: Array | torch.Tensor | None, *, keep_maps: bool
    ) -> None:
        self.setup = setup
        self.worker = worker
        self.masks = masks
        self.keep_maps = keep_maps
        self.clean_view: View | None = None
        self.clean: dict[BoundMethod, Explained | Failure] = {}
        # What clean maps are held against, for whoever judges by it: see `take_references`.
        self.panel: Panel | None = None
        self.twins: dict[BoundMethod, list[Explained | Failure]] = {m: [] for m in setup.methods}
        self.deletion: deletion.Deletion | None = None
        self.scored: list[ScoredView] = []
        self.images: list[torch.Tensor] = []
        self.attributions: dict[str, list[torch.Tensor | None]] = {
            m.spec: [] for m in setup.methods
        }
        self.deltas: dict[str, list[Array]] = {}

    def begin(self, view: View) -> None:
        """Take the next view, whose maps are scored from now on."""
        scores: dict[str, dict[str, Scores]] = {}
        if self.clean_view is None:
            self.clean_view = view
        else:
            scores[vocabulary.INPUT] = input_scores(self.clean_view, view)
        self.scored.append(
            ScoredView(view.cell, predictions(view), scores, view.failed, view.refused)
        )
        if self.keep_maps:
            self.images.append(without_failed(view.images, view.failed))

    def score(self, method: BoundMethod, view: View) -> None:
        """Explain the view in hand with a method, and score the maps."""
        metrics = self.setup.methods[method]
        is_clean = view is self.clean_view
        explanation, steps = self._explain(method, view)
        reference = self.clean.setdefault(method, explanation)
        current = same_size(reference, explanation)
        evidence = {} if self.masks is None else {"mask": self.masks}
        if any(metric.against == "delta" for metric in metrics.values()):
            evidence["delta"] = delta = deltas(self.worker, method, view)
            if self.keep_maps:
                self.deltas.setdefault(method.spec, []).append(delta)
        compared = Compared(reference, current, tuple(self.twins[method]), evidence)
        scores: dict[str, Scores] = {}
        with self.worker.clock(view.cell, METRICS_PART, len(view.images)):
            placed = _placed(compared, view)
            for name, metric in metrics.items():
                if metric.against in PROBES or (metric.against == "map" and is_clean):
                    continue
                pair = compared if metric.against == "delta" else placed
                scores[name] = score(metric, pair.clean, pair.current, pair.evidence)
            scores |= _perfect(metrics, placed)
            if self.panel is not None and not is_clean:
                beside = self._beside(self.panel)
                for name in calibrated(metrics, self.setup.plan):
                    found = matched(metrics[name], placed, beside)
                    scores |= {name + behind: values for behind, values in found.items()}
        family = view.cell.family
        if self.deletion and view.cell == admitting.kept_cell(self.setup.plan, family):
            scores |= deletion.kept_scores(self.deletion, method, view, current)
        if steps is not None:
            scores[vocabulary.STEPS] = steps
        self.scored[-1].scores[method.spec] = scores
        if self.keep_maps:
            maps = current.attributions.cpu() if isinstance(current, Explained) else None
            self.attributions[method.spec].append(
                None if maps is None else without_failed(maps, {**view.failed, **view.refused})
            )

    def score_coupled(self, method: BoundMethod, view: View) -> None:
        """Explain the view in hand once more, with the clean view's random numbers, and score it.

        That method and noise are the same for both maps of a pair flatters the method, and never
        happens to who runs it twice: a score beside the score.
        """
        clean = self.clean[method]
        coupled, _ = self._explain(method, view.drawing(CLEAN_CELL))
        with self.worker.clock(view.cell, METRICS_PART, len(view.images)):
            pair = _placed(Compared(clean, same_size(clean, coupled), (), {}), view)
            self.scored[-1].scores[method.spec] |= {
                name + vocabulary.COUPLED: score(metric, pair.clean, pair.current, {})
                for name, metric in self.setup.methods[method].items()
                if metric.against == "map"
            }

    def take_probes(self, view: View, watch: Watch) -> None:
        """Score the clean maps by the metrics that need the network, too."""
        subject = CleanBatch(self.worker, view, self.clean, watch)
        for spec, scores in probe(subject, self.setup.methods).items():
            self.scored[0].scores[spec].update(scores)

    def take_references(self, view: View, watch: Watch) -> None:
        """Hold the clean maps against others, and keep those that perturbed maps are held against.

        These are, beside the clean maps themselves, the maps of randomised networks (`twins`).
        `panel` says who stands beside whom.
        """
        if not self.setup.plan.nulls or not self.setup.methods:
            return
        self.panel = make_panel(view, blocks.BLOCK)
        held: dict[Cell, Mapping[BoundMethod, Explained | Failure]] = {}
        for reference in references(self.worker, view, self.clean, self.panel, watch):
            held[reference.cell] = reference.maps
            with self.worker.clock(reference.cell, METRICS_PART, len(reference.predictions)):
                self.scored.append(_held_against(self.setup, self.clean, reference))
            for method, explanation in reference.maps.items():
                other = _without(comparable(self.clean[method], explanation), reference.refused)
                if reference.cell.family == vocabulary.RANDOM_NETWORK:
                    self.twins[method].append(other)
        plan = self.setup.plan
        if admitting.wanted(plan):
            self.deletion = deletion.deletion_of(plan, self.worker, view)
            margins = deletion.clean_scores(self.deletion, plan, self.clean, held)
            for spec, scores in margins.items():
                self.scored[0].scores[spec].update(scores)

    def _beside(self, panel: Panel) -> Beside:
        """Return who stands beside whom in the view in hand."""
        view = self.scored[-1]
        lost = {place for place, label in enumerate(view.predictions) if label is None}
        others = panel.others(lost | set(view.failed))
        return Beside(panel.blocks, others, panel.of_same_class(others))

    def _explain(
        self, method: BoundMethod, view: View
    ) -> tuple[Explained | Failure, Scores | None]:
        """Return the maps of a view, and with steps=auto how many steps they took."""
        if not method.adaptive:
            return explain(self.worker, method, view), None
        maps, points = explain_as_needed(self.worker, method, view)
        if isinstance(maps, Failure):
            return maps, maps.scores()
        size = len(points)
        return maps, Scores(points, (Status.OK,) * size, ("",) * size)

    def outcome(self, shard: shards.Shard) -> Outcome:
        """Return what the batch came to."""
        outcome = _outcome(self.worker, shard, list(records_of(self.setup, shard, self.scored)))
        if not self.keep_maps:
            return outcome
        return replace(
            outcome,
            images=torch.stack(self.images, dim=1),
            masks=None if self.masks is None else torch.as_tensor(self.masks).cpu(),
            attributions={spec: stack_maps(maps) for spec, maps in self.attributions.items()},
            deltas={
                spec: torch.from_numpy(np.stack(rows, axis=1)) for spec, rows in self.deltas.items()
            },
        )


def _placed(compared: Compared, view: View) -> Compared:
    """Put the maps of a view in place, where its family moves things."""
    family = registry.FAMILY_SHELF.known(view.cell.family)
    if family is None or family.warp is None:
        return compared
    height, width = view.images.shape[2:]
    return in_place(compared, family.warp(view.cell.severity, (height, width)))


def _perfect(metrics: Mapping[str, Metric], placed: Compared) -> dict[str, Scores]:
    """Return the scores of maps that moved exactly as the image did; of nothing that stays put."""
    best = placed.equivariant
    if best is None:
        return {}
    return {
        name + vocabulary.PERFECT: score(metric, placed.clean, best, {})
        for name, metric in metrics.items()
        if metric.against == "map" and metric.identity is not None
    }


def _without(maps: Explained | Failure, refused: Mapping[int, str]) -> Explained | Failure:
    """Return maps, none of images that a network has no logits of."""
    if isinstance(maps, Failure) or not refused:
        return maps
    return explained(without_failed(maps.attributions, refused), len(maps.attributions))


def _held_against(
    setup: Setup, clean: Mapping[BoundMethod, Explained | Failure], reference: Reference
) -> ScoredView:
    """Return the scores of clean maps against a reference's: by all metrics of two maps.

    Against maps that they must differ from, by one alone, whatever the plan has: how far they do
    says `REACTS_BY`.
    """
    by_method: dict[str, dict[str, Scores]] = {}
    for method, explanation in reference.maps.items():
        other = comparable(clean[method], explanation)
        metrics: Mapping[str, Metric] = setup.methods[method]
        if reference.cell.family in vocabulary.MUST_DIFFER:
            metrics = {vocabulary.REACTS_BY: METRICS[vocabulary.REACTS_BY]}
        by_method[method.spec] = {
            name: skipped(score(metric, clean[method], other, {}), reference.skipped)
            for name, metric in metrics.items()
            if metric.against == "map"
        }
    return ScoredView(reference.cell, reference.predictions, by_method, refused=reference.refused)
