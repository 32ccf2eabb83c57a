"""How completeness changes with the number of steps, on a few images."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
import torch

from steadymap.bench.core.names import without_steps
from steadymap.bench.data.image_set import ImageSet
from steadymap.bench.measure.view import Explained, explained
from steadymap.bench.methods.batch import Batch, draws_of, places_of_others
from steadymap.bench.methods.method import BoundMethod
from steadymap.bench.network.memory import is_small
from steadymap.bench.plan.setup import Setup
from steadymap.bench.records.vocabulary import IMAGE_ID, METHOD
from steadymap.models import Classifier

# Completeness against the number of steps: of so many images, at so many steps. Of a large network
# fewer, or the page would take as long as a run.
STEPS_IMAGES = 8
STEPS_IMAGES_OF_LARGE = 2
STEPS_TRIED = (4, 8, 16, 32, 64)


def subset_of(images: ImageSet, places: list[int]) -> ImageSet:
    """Return the pictures at these places of a set, in this order."""
    return replace(
        images,
        pictures=tuple(images.pictures[place] for place in places),
        read=lambda index: images.read(places[index]),
    )


def completeness_by_steps(setup: Setup) -> pd.DataFrame:
    """Measure the completeness error of path methods at several numbers of steps.

    Returns:
        One row a method (without its steps), number of steps and image: `method`, `steps`,
        `image_id`, `completeness_error`, of the first clean images of the run; empty without such
        methods.
    """
    classifier = setup.classifier
    large = not is_small(classifier)
    count = min(STEPS_IMAGES_OF_LARGE if large else STEPS_IMAGES, len(setup.images))
    images = subset_of(setup.images, list(range(count)))
    batch_images = images.images(range(len(images))).to(classifier.module.mean.device)
    ids = tuple(picture.image_id for picture in images.pictures)
    with torch.no_grad():
        targets = classifier(batch_images).argmax(dim=1)
    references = setup.references
    batch = Batch(
        batch_images,
        targets,
        draws_of(setup.plan.seed, ids),
        setup.at_once,
        references=None if references is None else references.images.to(batch_images),
        reference_places=() if references is None else places_of_others(ids, references.ids),
    )
    rows: list[tuple[object, ...]] = []
    for name, bound in path_methods(setup).items():
        delta = _logit_difference(classifier, batch, bound)
        for steps in STEPS_TRIED:
            tried = replace(
                bound, parameters=tuple((dict(bound.parameters) | {"steps": steps}).items())
            )
            try:
                maps = explained(tried.explain(classifier, batch, setup.plan.engine), len(ids))
            except Exception:  # noqa: BLE001 - a method may raise anything; the run's records say what
                break
            if not isinstance(maps, Explained):
                break
            error = (maps.attributions.flatten(1).double().sum(dim=1) - delta).abs().tolist()
            rows += [(name, steps, *pair) for pair in zip(ids, error, strict=True)]
    return pd.DataFrame(rows, columns=[METHOD, "steps", IMAGE_ID, "completeness_error"])


def path_methods(setup: Setup) -> dict[str, BoundMethod]:
    """Return the methods of a run that are complete from one baseline and take steps.

    By their spec without these.
    """
    return {
        without_steps(bound.spec): bound
        for bound in setup.methods
        if bound.baseline_name is not None and "steps" in dict(bound.parameters)
    }


@torch.no_grad()
def _logit_difference(classifier: Classifier, batch: Batch, bound: BoundMethod) -> torch.Tensor:
    """Return what attributions must add up to (B,), in logits."""
    if bound.start is None:
        raise TypeError(f"{bound.spec} has no baseline")
    (baseline,) = bound.start.images(batch)
    ends = [classifier(points).double() for points in (batch.images, baseline)]
    both = [logits.gather(1, batch.targets[:, None])[:, 0] for logits in ends]
    return both[0] - both[1]
