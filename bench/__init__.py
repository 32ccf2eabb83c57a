"""The benchmark: images, perturbations, methods, runner, records, summary.

from steadymap.bench import Plan, run
from steadymap.models import make_classifier

classifier = make_classifier(network, (224, 224), class_names)
records = run(classifier, images, Plan(family=("bias",)))
"""

import importlib
from importlib.metadata import version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from steadymap.bench.analysis.summary import full_summary, summarise
    from steadymap.bench.api import run
    from steadymap.bench.core.errors import ConfigError, DataError
    from steadymap.bench.core.randomness import generator
    from steadymap.bench.data.image_set import ImageSet, from_tensor
    from steadymap.bench.data.opening import open_images
    from steadymap.bench.methods.batch import Batch, draws_of
    from steadymap.bench.methods.method import Method
    from steadymap.bench.methods.registry import METHODS
    from steadymap.bench.perturbations.registry import PERTURBATIONS, Perturbation
    from steadymap.bench.plan.experiment import Experiment
    from steadymap.bench.plan.plan import Plan
    from steadymap.bench.records.read import read_run

__version__ = version("steadymap")

# Loaded when first asked for: the command line must set things up before torch is loaded.
_HOMES = {
    "METHODS": "methods.registry",
    "PERTURBATIONS": "perturbations.registry",
    "Batch": "methods.batch",
    "ConfigError": "core.errors",
    "DataError": "core.errors",
    "Experiment": "plan.experiment",
    "ImageSet": "data.image_set",
    "Method": "methods.method",
    "Perturbation": "perturbations.registry",
    "Plan": "plan.plan",
    "draws_of": "methods.batch",
    "from_tensor": "data.image_set",
    "full_summary": "analysis.summary",
    "generator": "core.randomness",
    "open_images": "data.opening",
    "read_run": "records.read",
    "run": "api",
    "summarise": "analysis.summary",
}

__all__ = [
    "METHODS",
    "PERTURBATIONS",
    "Batch",
    "ConfigError",
    "DataError",
    "Experiment",
    "ImageSet",
    "Method",
    "Perturbation",
    "Plan",
    "__version__",
    "draws_of",
    "from_tensor",
    "full_summary",
    "generator",
    "open_images",
    "read_run",
    "run",
    "summarise",
]


def __getattr__(name: str) -> object:
    """Load what is asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    """Return what there is, loaded or not."""
    return __all__
