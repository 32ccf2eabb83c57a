"""What a shard came to: its records."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from steadymap.bench.data import labelled
from steadymap.bench.data.image_set import Picture
from steadymap.bench.measure.scores import matched_names
from steadymap.bench.measure.view import Failure
from steadymap.bench.measure.worker import Timing
from steadymap.bench.methods.method import BoundMethod
from steadymap.bench.perturbations.cell import CLEAN_CELL, Cell
from steadymap.bench.plan.admitting import kept_cell, names_of, wanted
from steadymap.bench.plan.setup import Setup, calibrated
from steadymap.bench.plan.shards import NULL_VIEWS, NUMERIC, Shard, recorded_as
from steadymap.bench.records import schema, vocabulary
from steadymap.metrics import PROBES, Scores, Status

NO_LOGITS = (math.nan, Status.NONFINITE, "the network's logits are not finite")


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
    records: list[schema.Record]
    images: torch.Tensor | None = None
    masks: torch.Tensor | None = None
    attributions: dict[str, torch.Tensor | None] = field(default_factory=dict)
    deltas: dict[str, torch.Tensor] = field(default_factory=dict)
    timings: tuple[Timing, ...] = ()
    at_once: int = 0
    halved: int = 0
    failed: str | None = None
    machine: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class ScoredView:
    """What remains of a view once its maps are scored.

    Attributes:
        cell: the perturbation.
        predictions: B classes; None where a logit is not finite.
        scores: by method and metric.
        failed: as in `ShownImages`.
        refused: as in `View`.
    """

    cell: Cell
    predictions: list[int | None]
    scores: dict[str, dict[str, Scores]]
    failed: Mapping[int, str] = field(default_factory=dict)
    refused: Mapping[int, str] = field(default_factory=dict)

    def broken(self, position: int, clean: ScoredView, method: str) -> str:
        """Return why an image has no value here; empty where it may have one.

        What a network refuses is still an image, of which the change is known.
        """
        if position in clean.refused:
            return f"clean image: {clean.refused[position]}"
        if position in self.failed:
            return self.failed[position]
        return self.refused.get(position, "") if method != vocabulary.INPUT else ""


def without_failed(images: torch.Tensor, failed: Mapping[int, str]) -> torch.Tensor:
    """Return images or maps (B, ...), NaN where the family failed."""
    if not failed:
        return images
    blanked = images.clone()
    blanked[list(failed)] = torch.nan
    return blanked


def stack_maps(cells: list[torch.Tensor | None]) -> torch.Tensor | None:
    """(B, cells, C, h, w), NaN where a map is missing; None where all are."""
    known = [maps for maps in cells if maps is not None]
    if not known:
        return None
    missing = torch.full_like(known[0], torch.nan)
    return torch.stack([missing if maps is None else maps for maps in cells], dim=1)


def records_of(setup: Setup, shard: Shard, scored: list[ScoredView]) -> Iterator[schema.Record]:
    """Yield the records of a shard, image by image; of each the views in their order."""
    recorded = [view for view in scored if recorded_as(view.cell) in shard.views]
    for position, index in enumerate(shard.indices):
        picture = setup.images.pictures[index]
        label = _label(picture, setup)
        target = scored[0].predictions[position]
        for view in recorded:
            predicted = None if position in view.failed else view.predictions[position]
            lost = target is None or predicted is None
            for method, by_metric in view.scores.items():
                if method == vocabulary.INPUT and vocabulary.INPUT not in shard.methods:
                    continue
                for metric, scores in by_metric.items():
                    value, status, detail = (
                        NO_LOGITS if lost and method != vocabulary.INPUT else scores.at(position)
                    )
                    if broken := view.broken(position, scored[0], method):
                        value, status, detail = math.nan, Status.ERROR, broken
                    yield schema.Record(
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
    name = labelled.normalised(setup.images.class_names[picture.label])
    return labelled.places_by_name(setup.classifier.class_names).get(name)


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
    nulls = setup.plan.nulls

    def of(method: BoundMethod, view: Cell) -> dict[str, Scores]:
        metrics = methods[method]
        coupled = [
            name + vocabulary.COUPLED
            for name, metric in metrics.items()
            if metric.against == "map" and setup.couples(method)
        ]
        if view == CLEAN_CELL:
            names = [name for name, metric in metrics.items() if metric.against != "map"]
            names += names_of(method, setup)
        elif view.family in vocabulary.MUST_DIFFER:
            names = [vocabulary.REACTS_BY]
        elif view.family in vocabulary.REFERENCES:
            names = [name for name, metric in metrics.items() if metric.against == "map"]
        else:
            names = [name for name, metric in metrics.items() if metric.against not in PROBES]
            names += [
                name + behind
                for name in (calibrated(metrics, setup.plan) if nulls else ())
                for behind in matched_names(metrics[name], nulls)
            ]
            names += coupled
            if wanted(setup.plan) and view == kept_cell(setup.plan, view.family):
                names += [] if method.control else [vocabulary.EVIDENCE_KEPT]
        return dict.fromkeys(names, nothing)

    scored = [ScoredView(CLEAN_CELL, [None] * size, {})] if CLEAN_CELL not in shard.views else []
    for view in _families_of(setup, shard):
        rows = {method.spec: of(method, view) for method in methods}
        if view in shard.cells and vocabulary.INPUT in shard.methods:
            rows = {vocabulary.INPUT: dict.fromkeys(vocabulary.INPUT_METRICS, nothing)} | rows
        scored.append(ScoredView(view, [None] * size, rows, dict.fromkeys(range(size), reason)))
    return Outcome(shard, list(records_of(setup, shard, scored)), failed=reason)


def _families_of(setup: Setup, shard: Shard) -> Iterator[Cell]:
    """Yield the cells that a shard has records of, as far as they are known beforehand."""
    for view in shard.views:
        if view == NULL_VIEWS:
            yield Cell(vocabulary.OTHER_IMAGE, 0.0, 0)
            for draw in range(setup.plan.nulls):
                yield Cell(vocabulary.RANDOM_NETWORK, 0.0, draw)
            yield Cell(vocabulary.OTHER_CLASS, 0.0, 0)
        elif view == NUMERIC:
            yield Cell(vocabulary.BATCH_OF_ONE, 0.0, 0)
        else:
            yield view
