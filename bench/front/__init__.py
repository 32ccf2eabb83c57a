"""How steady are your saliency maps when the image is nudged, and did a new version harm them?

import steadymap as sm

result = sm.run(network, images)    # images (N, 3, H, W) in [0, 1]
result.calibrated                   # 1: a map that stays; 0: one that has nothing to do with it
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from steadymap.bench.core.errors import ConfigError, DataError
    from steadymap.bench.data.image_set import ImageSet, from_tensor
    from steadymap.bench.data.opening import open_images
    from steadymap.bench.methods.batch import Batch
    from steadymap.bench.methods.method import Method
    from steadymap.bench.perturbations.registry import Perturbation
    from steadymap.bench.plan.plan import Plan
    from steadymap.bench.session import Result, run
    from steadymap.bench.session import read_result as read
    from steadymap.models import (
        Classifier,
        Framing,
        ModelError,
        Normalization,
        load_classifier,
        make_classifier,
    )

# By name, the module that has it and what it is called there. Nothing is loaded before it is asked
# for: whoever imports this may want the version alone.
_HOMES = {
    "Batch": ("bench.methods.batch", "Batch"),
    "Classifier": ("models", "Classifier"),
    "ConfigError": ("bench.core.errors", "ConfigError"),
    "DataError": ("bench.core.errors", "DataError"),
    "Framing": ("models", "Framing"),
    "ImageSet": ("bench.data.image_set", "ImageSet"),
    "Method": ("bench.methods.method", "Method"),
    "ModelError": ("models", "ModelError"),
    "Normalization": ("models", "Normalization"),
    "Perturbation": ("bench.perturbations.registry", "Perturbation"),
    "Plan": ("bench.plan.plan", "Plan"),
    "Result": ("bench.session", "Result"),
    "from_tensor": ("bench.data.image_set", "from_tensor"),
    "load_classifier": ("models", "load_classifier"),
    "make_classifier": ("models", "make_classifier"),
    "open_images": ("bench.data.opening", "open_images"),
    "read": ("bench.session", "read_result"),
    "run": ("bench.session", "run"),
}

__all__ = [
    "Batch",
    "Classifier",
    "ConfigError",
    "DataError",
    "Framing",
    "ImageSet",
    "Method",
    "ModelError",
    "Normalization",
    "Perturbation",
    "Plan",
    "Result",
    "__version__",
    "from_tensor",
    "load_classifier",
    "make_classifier",
    "open_images",
    "read",
    "run",
]

__version__: str


def __getattr__(name: str) -> object:
    """Load what is asked for."""
    if name == "__version__":
        from importlib.metadata import version  # noqa: PLC0415 - takes a while

        return version("steadymap")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _HOMES[name]
    return getattr(import_module(f"{__name__}.{module}"), attribute)


def __dir__() -> list[str]:
    """Return what there is, loaded or not."""
    return __all__
