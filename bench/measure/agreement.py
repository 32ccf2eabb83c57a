"""How far the maps of two devices are apart, on the same images."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from scipy.stats import spearmanr

from steadymap.bench.core.errors import one_line
from steadymap.bench.data.image_set import ImageSet
from steadymap.bench.measure.course import Course, unfit
from steadymap.bench.methods.batch import DATA_REFERENCES, Batch, draws_of, places_of_others
from steadymap.bench.methods.binding import bind_method
from steadymap.bench.methods.method import BoundMethod, foreign
from steadymap.bench.network import guard, memory, torch_settings
from steadymap.models import Classifier


@dataclass(frozen=True)
class Agreement:
    """How far a device's maps are from the CPU's on the same images.

    Attributes:
        method: its spec.
        device: the other device.
        relative_l2: the largest distance over the CPU map's norm.
        rank: the smallest Spearman correlation of maps summed over channels.
        missing: why there are neither; empty where there are.
    """

    method: str
    device: str
    relative_l2: float
    rank: float
    missing: str = ""


def agreement(course: Course, images: ImageSet, device: str) -> list[Agreement]:
    """Return, method by method, how far a device's maps are from the CPU's, for the same targets.

    Where a method goes wrong, its entry says so.
    """
    count = min(course.batch, len(images))
    shown = torch.stack([images.read(place).image for place in range(count)])
    ids = tuple(picture.image_id for picture in images.pictures[:count])
    classifiers = [course.load("cpu"), course.load(device)]
    with torch.no_grad():
        targets = classifiers[0](shown).argmax(dim=1)
    others = images.references(DATA_REFERENCES + 1)
    batch = Batch(
        shown,
        targets,
        draws_of(course.seed, ids),
        references=others.images,
        reference_places=places_of_others(ids, others.ids),
    )
    guards: dict[Classifier, guard.Guard] = {}
    agreements = []
    for method in map(bind_method, course.methods):
        if unfit(method, classifiers[0]) is not None:
            continue
        if foreign(method.method) and not guards:
            guards = {classifier: guard.Guard(classifier, keep=True) for classifier in classifiers}
        try:
            maps = [
                _maps(method, classifier, batch, course.exact, guards) for classifier in classifiers
            ]
            agreements.append(Agreement(method.spec, device, *difference(*maps)))
        except (Exception, SystemExit) as error:  # noqa: BLE001 - a plug-in may raise anything; its entry says what
            reason = str(error) if isinstance(error, guard.LeftChangedError) else one_line(error)
            agreements.append(Agreement(method.spec, device, math.inf, math.nan, reason))
    return agreements


def _maps(
    method: BoundMethod,
    classifier: Classifier,
    batch: Batch,
    exact: bool,
    guards: Mapping[Classifier, guard.Guard],
) -> torch.Tensor:
    """Return maps of a batch on the CPU, in double precision; what is not ours gets copies."""
    place = classifier.module.mean.device
    moved = replace(
        batch,
        images=batch.images.to(place, copy=True),
        targets=batch.targets.to(place, copy=True),
        references=batch.need_references().to(place, copy=True),
        at_once=memory.images_at_once(classifier),
    )
    with torch_settings.float32(place, exact=exact):
        if not foreign(method.method):
            return method.explain(classifier, moved).cpu().double()
        with guard.left_as_it_was(guards[classifier], batch.images.to(place)):
            return method.explain(classifier, moved).cpu().double()


def difference(first: torch.Tensor, second: torch.Tensor) -> tuple[float, float]:
    """Return the largest relative L2 and the smallest rank correlation over a batch.

    Two maps of zeros are equal; anything that is not finite is as far apart as can be. Where no map
    has ranks, because all are constant, the correlation is NaN.
    """
    gaps = (first - second).flatten(1).norm(dim=1).tolist()
    norms = first.flatten(1).norm(dim=1).tolist()
    shares = [
        0.0 if gap == 0 else gap / norm if norm else math.inf
        for gap, norm in zip(gaps, norms, strict=True)
    ]
    ranks = [
        float(spearmanr(own.sum(dim=0).flatten(), other.sum(dim=0).flatten()).statistic)
        for own, other in zip(first, second, strict=True)
        if bool(other.isfinite().all()) and float(own.std()) > 0 and float(other.std()) > 0
    ]
    worst = max(share if math.isfinite(share) else math.inf for share in shares)
    return worst, min(ranks, default=math.nan)
