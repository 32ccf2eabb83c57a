"""Who, what and where: all that is needed to repeat a run, and to refuse a false comparison."""

from __future__ import annotations

import importlib.metadata
import platform
from typing import Any

from steadymap.bench.core.machine import machine
from steadymap.bench.core.metric_registry import METRIC_SHELF, describe
from steadymap.bench.data.image_set import ImageSet
from steadymap.bench.perturbations.registry import FAMILY_SHELF
from steadymap.bench.plan.experiment import Experiment
from steadymap.bench.plan.identity import loaded_plugins, run_id
from steadymap.bench.records import rules
from steadymap.bench.records.schema import SCHEMA_VERSION
from steadymap.metrics import METRICS
from steadymap.models import Classifier

PACKAGES = (
    "steadymap",
    "torch",
    "torchvision",
    "captum",
    "numpy",
    "scipy",
    "scikit-image",
    "pandas",
    "pillow",
    "pyarrow",
)


def make_manifest(
    experiment: Experiment, classifier: Classifier, images: ImageSet
) -> dict[str, Any]:
    """Return what is known of a run before it has been made, ready for JSON."""
    return {
        "schema_version": SCHEMA_VERSION,
        rules.RULES: rules.CURRENT,
        "run_id": run_id(experiment, classifier, images),
        "complete": False,
        "configuration": experiment.model_dump(mode="json", exclude={"output"})
        # Names, not where things lie on this machine; hashes say what they were.
        | {"data": images.name, "weights": experiment.weights and experiment.weights.name},
        "methods": [method.spec for method in experiment.bound_methods()],
        # What those must know who judge whether a method is admitted.
        "orders": {method.spec: method.method.order for method in experiment.bound_methods()},
        "unsigned": [
            method.spec
            for method in experiment.bound_methods()
            if method.method.capabilities is not None and not method.can("signed")
        ],
        "severities": experiment.severities(),
        "units": {family: FAMILY_SHELF.find(family).unit for family in experiment.severities()},
        "seed": experiment.seed,
        "plugins": loaded_plugins(experiment, classifier),
        # All that is needed to read the values of metrics which another machine may not have.
        "own_metrics": describe(
            {
                name: METRIC_SHELF.find(name)
                for name in experiment.metric or ()
                if name not in METRICS
            }
        ),
        "model": {
            "name": classifier.name,
            "weights_sha256": classifier.weights_hash(),
            "input_size": list(classifier.input_size),
            "class_names": list(classifier.class_names),
            "cam_layer": classifier.cam_layer,
        },
        "data": {
            "name": images.name,
            "split": experiment.split,
            "sha256": images.data_hash(),
            "class_names": list(images.class_names),
            "pictures": {picture.image_id: picture.name for picture in images.pictures},
            "excluded": [{"name": name, "reason": reason} for name, reason in images.excluded],
        }
        | ({"groups": groups} if (groups := images.groups()) else {}),
        "versions": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in PACKAGES},
        "machine": machine(classifier.module.mean.device),
    }
