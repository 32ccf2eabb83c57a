"""From a classifier and images straight to one side of a comparison."""

from __future__ import annotations

import json
from dataclasses import asdict

from torch import Tensor

from steadymap.bench.data.open import ImageSet, from_tensor
from steadymap.bench.gate.baseline_runs import KEPT_METRICS, Side, image_scores
from steadymap.bench.measure.estimate import count
from steadymap.bench.measure.runner import run
from steadymap.bench.plan.plan import Experiment, Plan
from steadymap.bench.plan.setup import prepare
from steadymap.bench.runs.manifest import Result, completed, make_manifest
from steadymap.models import Classifier


def measure_side(
    classifier: Classifier, images: ImageSet | Tensor, plan: Plan | None = None
) -> Side:
    """Run a plan, and keep what a baseline keeps.

    Args:
        classifier: see `steadymap.models.make_classifier`.
        images: an image set, or a tensor (N, 3, H, W), float32 in [0, 1].
        plan: methods, families and severities; left out, all of them.

    Raises:
        ConfigError, DataError, ModelError: as `run`.
    """
    chosen = plan or Plan()
    image_set = from_tensor(images) if isinstance(images, Tensor) else images
    setup = prepare(classifier, image_set, chosen)
    records = run(classifier, image_set, chosen)
    kept = dict.fromkeys((*KEPT_METRICS, *(chosen.metric or ())))
    settings = {name: getattr(chosen, name) for name in Plan.model_fields}
    experiment = Experiment.model_validate(
        settings | {"model": classifier.name, "data": image_set.name}
    )
    statuses = {str(key): int(size) for key, size in records["status"].value_counts().items()}
    manifest = completed(
        make_manifest(experiment, classifier, image_set), Result(0.0, statuses, complete=True)
    )
    manifest |= {"metrics": setup.metrics(), "passes": asdict(count(setup))}
    # As one comes back from its file: tuples are lists there.
    return Side(
        classifier.name, image_scores(records, list(kept)), json.loads(json.dumps(manifest)), {}
    )
