"""The benchmark: images, perturbations, methods, runner, records, summary.

from steadymap.bench import Plan, run
from steadymap.models import make_classifier

classifier = make_classifier(network, (224, 224), class_names)
records = run(classifier, images, Plan(family=("bias",)))
"""

from importlib.metadata import version

from steadymap.bench.config import ConfigError, Experiment, Plan
from steadymap.bench.images import DataError, ImageSet, from_tensor, open_images
from steadymap.bench.methods import METHODS, Batch, Method
from steadymap.bench.perturbations import PERTURBATIONS, Perturbation
from steadymap.bench.runner import run
from steadymap.bench.store import read_run
from steadymap.bench.summary import full_summary, summarise

__version__ = version("steadymap")

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
    "from_tensor",
    "full_summary",
    "open_images",
    "read_run",
    "run",
    "summarise",
]
