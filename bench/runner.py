"""Images through perturbations and methods into records."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from torch import Tensor

from steadymap.bench.config import ConfigError, Plan
from steadymap.bench.images import DataError, ImageSet, Picture, from_tensor
from steadymap.bench.manifest import run_id
from steadymap.bench.methods import Batch, BoundMethod, Engine
from steadymap.bench.perturbations import PERTURBATIONS, Cell, perturb
from steadymap.bench.records import CLEAN, INPUT, Record, Source, to_frame, to_table
from steadymap.metrics import METRICS, Maps, Metric, Scores, Status, evaluate
from steadymap.metrics.maps import Array
from steadymap.models import Classifier

CLEAN_CELL = Cell(CLEAN, 0.0, 0)

# About the perturbed image itself, once a cell.
INPUT_METRICS: dict[str, str] = {
    "input_change": "root mean square of perturbed minus clean image, in image units",
    "saturated_share": "share of the perturbed image's values at or beyond black or white",
}

NO_LOGITS = (math.nan, Status.NONFINITE, "the network's logits are not finite")

# How much of an exception's message goes into a record.
MESSAGE_LENGTH = 300


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
    """

    records: list[Record]
    images: Tensor | None = None
    masks: Tensor | None = None
    attributions: dict[str, Tensor | None] = field(default_factory=dict)
    deltas: dict[str, Tensor] = field(default_factory=dict)


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
    """

    classifier: Classifier
    images: ImageSet
    plan: Plan
    methods: dict[BoundMethod, dict[str, Metric]]

    def map_count(self) -> int:
        """Return how many maps the run makes: what `advance` adds up to."""
        return len(self.images) * len(self.methods) * (len(self.plan.cells()) + 1)

    def metrics(self) -> dict[str, str]:
        """Return the metrics of the run, each with its line."""
        return {
            name: metric.summary
            for metrics in self.methods.values()
            for name, metric in metrics.items()
        }


def prepare(classifier: Classifier, images: ImageSet, plan: Plan) -> Setup:
    """Check, before anything is computed, that classifier, images and plan belong together.

    Raises:
        ConfigError: a metric that nothing in the plan can give, or a network that is not float32.
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
    setup = Setup(
        classifier,
        images,
        plan,
        {method: _metrics_of(method, images, plan.metric) for method in plan.bound_methods()},
    )
    _refuse_idle_metrics(setup)
    return setup


def measure(
    setup: Setup, advance: Callable[[int], None], *, keep_maps: bool = False
) -> Iterator[Outcome]:
    """Yield the outcome of one batch of images after another.

    A method that raises costs its own cells, which say so; the run goes on. `advance` is called
    with the number of maps just made.
    """
    for start in range(0, len(setup.images), setup.plan.batch_size):
        indices = range(start, min(start + setup.plan.batch_size, len(setup.images)))
        yield _measure_batch(setup, indices, advance, keep_maps=keep_maps)


@dataclass(frozen=True)
class _Failure:
    """Why a batch of that many images has no maps."""

    status: Status
    detail: str
    size: int

    def scores(self, prefix: str = "") -> Scores:
        return Scores(
            np.full(self.size, np.nan),
            (self.status,) * self.size,
            (prefix + self.detail,) * self.size,
        )


@dataclass(frozen=True)
class _Explained:
    """What a method made of a view: attributions (B, C, h, w) on the CPU, and their maps."""

    attributions: Tensor
    maps: Maps


@dataclass(frozen=True)
class _View:
    """A batch as one cell shows it.

    Attributes:
        cell: the perturbation.
        images: (B, 3, H, W) on the CPU.
        batch: the same for the methods.
        classifier: the one to explain; the shifted one in a compensated family.
        logits: (B, K).
    """

    cell: Cell
    images: Tensor
    batch: Batch
    classifier: Classifier
    logits: Tensor


def _metrics_of(
    method: BoundMethod, images: ImageSet, wanted: Sequence[str] | None
) -> dict[str, Metric]:
    possible = {"map"}
    if method.method.complete:
        possible.add("delta")
    if images.has_masks:
        possible.add("mask")
    return {name: METRICS[name] for name in wanted or METRICS if METRICS[name].against in possible}


def _refuse_idle_metrics(setup: Setup) -> None:
    reasons = {
        "delta": "no method of this run is complete (integrated_gradients is)",
        "mask": "this data has no masks (hands has)",
    }
    for name in setup.plan.metric or ():
        if not any(name in metrics for metrics in setup.methods.values()):
            reason = reasons[METRICS[name].against]
            raise ConfigError(f"metric: {name} cannot be had here: {reason}")


def _measure_batch(
    setup: Setup, indices: range, advance: Callable[[int], None], *, keep_maps: bool
) -> Outcome:
    frames = [setup.images.read(index) for index in indices]
    masks = [frame.mask for frame in frames if frame.mask is not None]
    evidence = {"mask": np.stack(masks)} if setup.images.has_masks else {}
    deltas: dict[str, list[Array]] = {}
    clean = _clean_view(setup, indices, torch.stack([frame.image for frame in frames]))
    clean_maps: dict[BoundMethod, _Explained | _Failure] = {}
    views, scores = [], []
    kept: dict[str, list[_Explained | _Failure]] = {method.spec: [] for method in setup.methods}
    for cell in (CLEAN_CELL, *setup.plan.cells()):
        view = clean if cell is CLEAN_CELL else _perturbed_view(setup, cell, clean)
        rows = {} if cell is CLEAN_CELL else {INPUT: _input_scores(setup, clean, view)}
        for method, metrics in setup.methods.items():
            found = _explain(method, view, setup.plan.engine)
            reference = clean_maps.setdefault(method, found)
            current = _same_size(reference, found)
            if any(metric.against == "delta" for metric in metrics.values()):
                evidence["delta"] = _deltas(method, view)
                deltas.setdefault(method.spec, []).append(evidence["delta"])
            rows[method.spec] = {
                name: _score(metric, reference, current, evidence)
                for name, metric in metrics.items()
                if metric.against != "map" or cell is not CLEAN_CELL
            }
            if keep_maps:
                kept[method.spec].append(current)
            advance(len(indices))
        views.append(view)
        scores.append(rows)
    records = list(_records(setup, indices, views, scores))
    if not keep_maps:
        return Outcome(records)
    return Outcome(
        records,
        torch.stack([view.images for view in views], dim=1),
        torch.from_numpy(evidence["mask"]) if "mask" in evidence else None,
        {spec: _stack(maps) for spec, maps in kept.items()},
        {spec: torch.from_numpy(np.stack(rows, axis=1)) for spec, rows in deltas.items()},
    )


def _stack(cells: list[_Explained | _Failure]) -> Tensor | None:
    """(B, cells, C, h, w), NaN where a map is missing; None where all are."""
    known = [cell.attributions for cell in cells if isinstance(cell, _Explained)]
    if not known:
        return None
    missing = torch.full_like(known[0], torch.nan)
    return torch.stack(
        [cell.attributions if isinstance(cell, _Explained) else missing for cell in cells], dim=1
    )


def _clean_view(setup: Setup, indices: range, images: Tensor) -> _View:
    """Let the classifier choose the targets: what it predicts on the clean images."""
    on_device = images.to(setup.classifier.module.mean.device)
    with torch.no_grad():
        logits = setup.classifier(on_device)
    ids = tuple(setup.images.pictures[index].image_id for index in indices)
    batch = Batch(on_device, logits.argmax(dim=1), ids, setup.plan.seed)
    return _View(CLEAN_CELL, images, batch, setup.classifier, logits)


def _perturbed_view(setup: Setup, cell: Cell, clean: _View) -> _View:
    images = torch.stack(
        [
            perturb(image, cell, image_id, setup.plan.seed)
            for image, image_id in zip(clean.images, clean.batch.image_ids, strict=True)
        ]
    )
    classifier = setup.classifier
    if PERTURBATIONS[cell.family].compensated:
        classifier = classifier.shifted(cell.severity)
    batch = replace(clean.batch, images=images.to(clean.batch.images.device))
    with torch.no_grad():
        logits = classifier(batch.images)
    return _View(cell, images, batch, classifier, logits)


def _explain(method: BoundMethod, view: _View, engine: Engine) -> _Explained | _Failure:
    reason = method.method.inapplicable(view.classifier)
    if reason is not None:
        return _Failure(Status.SKIPPED, reason, len(view.images))
    try:
        attributions = method.explain(view.classifier, view.batch, engine).detach().cpu().float()
    except Exception as error:  # noqa: BLE001 - a method may raise anything; its records say what
        text = " ".join(str(error).split())[:MESSAGE_LENGTH]
        return _Failure(Status.ERROR, f"{type(error).__name__}: {text}", len(view.images))
    if attributions.ndim != 4 or len(attributions) != len(view.images):  # noqa: PLR2004 - (B, C, h, w)
        shape = tuple(attributions.shape)
        reason = f"returned shape {shape}, expected ({len(view.images)}, channels, height, width)"
        return _Failure(Status.ERROR, reason, len(view.images))
    return _Explained(attributions, Maps.from_attributions(attributions.numpy()))


def _same_size(
    clean: _Explained | _Failure, current: _Explained | _Failure
) -> _Explained | _Failure:
    """Return `current`, or why it cannot be compared with the clean maps."""
    if isinstance(clean, _Failure) or isinstance(current, _Failure):
        return current
    sizes = [tuple(part.attributions.shape[1:]) for part in (clean, current)]
    if sizes[0] == sizes[1]:
        return current
    reason = f"returned maps of {sizes[1]} where the clean image's are {sizes[0]}"
    return _Failure(Status.ERROR, reason, len(current.maps))


def _deltas(method: BoundMethod, view: _View) -> Array:
    """(B,), in logits: what complete attributions must add up to."""
    baseline = method.baseline(view.batch)
    if baseline is None:
        raise TypeError(f"{method.spec} is not complete: it has no baseline")
    with torch.no_grad():
        difference = view.logits.double() - view.classifier(baseline).double()
    deltas: Array = difference.gather(1, view.batch.targets[:, None])[:, 0].cpu().numpy()
    return deltas


def _score(
    metric: Metric,
    clean: _Explained | _Failure,
    current: _Explained | _Failure,
    evidence: dict[str, Array],
) -> Scores:
    if isinstance(current, _Failure):
        return current.scores()
    if metric.against != "map":
        return evaluate(metric, current.maps, evidence[metric.against])
    if isinstance(clean, _Failure):
        return clean.scores("clean image: ")
    return evaluate(metric, clean.maps, current.maps)


def _input_scores(setup: Setup, clean: _View, view: _View) -> dict[str, Scores]:
    low, high = setup.classifier.bounds
    change = (view.images - clean.images).double().square().mean(dim=(1, 2, 3)).sqrt()
    outside = (view.images <= low) | (view.images >= high)
    values = {"input_change": change, "saturated_share": outside.double().mean(dim=(1, 2, 3))}
    return {
        name: Scores(value.numpy(), (Status.OK,) * len(value), ("",) * len(value))
        for name, value in values.items()
    }


def _records(
    setup: Setup,
    indices: range,
    views: list[_View],
    scores: list[dict[str, dict[str, Scores]]],
) -> Iterator[Record]:
    predictions = [_predictions(view) for view in views]
    for position, index in enumerate(indices):
        picture = setup.images.pictures[index]
        label = _label(picture, setup)
        target = predictions[0][position]
        for view, rows, predicted in zip(views, scores, predictions, strict=True):
            lost = target is None or predicted[position] is None
            for method, by_metric in rows.items():
                for metric, score in by_metric.items():
                    value, status, detail = (
                        NO_LOGITS if lost and method != INPUT else score.at(position)
                    )
                    yield Record(
                        image_id=picture.image_id,
                        label=label,
                        target=target,
                        pred_clean=target,
                        pred_perturbed=predicted[position],
                        kept=not lost and predicted[position] == target,
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


def _predictions(view: _View) -> list[int | None]:
    """Return the predicted class of each image; None where a logit is not finite."""
    finite = torch.isfinite(view.logits).all(dim=1).tolist()
    best = view.logits.argmax(dim=1).tolist()
    return [label if valid else None for label, valid in zip(best, finite, strict=True)]
