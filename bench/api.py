"""What Python users call: `run`, and one side of a comparison measured on the spot."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict

import pandas as pd
from torch import Tensor

from steadymap.bench.core.metric_registry import known_metrics
from steadymap.bench.data.image_set import ImageSet, from_tensor
from steadymap.bench.gate.predictions import predictions_of
from steadymap.bench.gate.side import KEPT_METRICS, Side, all_scores
from steadymap.bench.measure import estimate, runner
from steadymap.bench.plan.experiment import Experiment
from steadymap.bench.plan.plan import Plan
from steadymap.bench.plan.setup import prepare
from steadymap.bench.records.scan import as_scan
from steadymap.bench.records.vocabulary import STATUS
from steadymap.bench.report.markdown import fragment
from steadymap.bench.runs.manifest import make_manifest
from steadymap.bench.runs.result import Result, completed
from steadymap.models import Classifier


class Records(pd.DataFrame):  # type: ignore[misc, unused-ignore] # pandas may come without types
    """The records of a run; what is cut out of them is an ordinary DataFrame."""

    def _repr_html_(self) -> str:
        """Return the answer and the leaderboard, as notebooks show it."""
        return fragment(pd.DataFrame(self))


def run(
    classifier: Classifier,
    images: ImageSet | Tensor,
    plan: Plan | None = None,
    advance: Callable[[int], None] | None = None,
) -> Records:
    """Measure how steady a classifier's saliency maps are on your images.

    Args:
        classifier: see `steadymap.models.make_classifier`.
        images: an image set, or a tensor (N, 3, H, W), float32 in [0, 1], at the input size.
        plan: methods, families, severities and metrics; left out, all of them.
        advance: called with the number of maps just made, for a progress bar.

    Returns:
        One row a value, with the columns of `steadymap.bench.records.schema.SCHEMA`: a pandas
        DataFrame, which a notebook shows as the answer and the leaderboard.

    Raises:
        ConfigError: a metric that nothing in the plan can give.
        DataError: images of another type, size or range.
    """
    return Records(runner.run(classifier, images, plan, advance))


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
    records = runner.run(classifier, image_set, chosen)
    kept = dict.fromkeys((*KEPT_METRICS, *(chosen.metric or ())))
    settings = {name: getattr(chosen, name) for name in Plan.model_fields}
    experiment = Experiment.model_validate(
        settings | {"model": classifier.name, "data": image_set.name}
    )
    statuses = {str(key): int(size) for key, size in records[STATUS].value_counts().items()}
    manifest = completed(
        make_manifest(experiment, classifier, image_set), Result(0.0, statuses, complete=True)
    )
    manifest |= {"metrics": setup.metrics(), "passes": asdict(estimate.count(setup))}
    # As one comes back from its file: tuples are lists there.
    scan = as_scan(records)
    scores = all_scores(scan, list(kept), known_metrics())
    return Side(classifier.name, scores, json.loads(json.dumps(manifest)), {}, predictions_of(scan))
