"""Networks to explain, and the contract that they fulfil."""

import importlib
from typing import TYPE_CHECKING

from steadymap.models.errors import ModelError

if TYPE_CHECKING:
    from steadymap.models.classifier import (
        Classifier,
        Framing,
        Normalization,
        PixelNetwork,
        make_classifier,
    )
    from steadymap.models.layers import CamLayer
    from steadymap.models.loading import load_classifier
    from steadymap.models.pretrained import imagenet_names
    from steadymap.models.registry import MODEL_FORMS, MODELS, Model
    from steadymap.models.weights import Weights, fit_weights, read_weights, write_weights

# Loaded when first asked for: whoever reads the results of a run needs no torch.
_HOMES = {
    "MODELS": "registry",
    "MODEL_FORMS": "registry",
    "CamLayer": "layers",
    "Classifier": "classifier",
    "Framing": "classifier",
    "Model": "registry",
    "Normalization": "classifier",
    "PixelNetwork": "classifier",
    "Weights": "weights",
    "fit_weights": "weights",
    "imagenet_names": "pretrained",
    "load_classifier": "loading",
    "make_classifier": "classifier",
    "read_weights": "weights",
    "write_weights": "weights",
}

__all__ = [
    "MODELS",
    "MODEL_FORMS",
    "CamLayer",
    "Classifier",
    "Framing",
    "Model",
    "ModelError",
    "Normalization",
    "PixelNetwork",
    "Weights",
    "fit_weights",
    "imagenet_names",
    "load_classifier",
    "make_classifier",
    "read_weights",
    "write_weights",
]


def __getattr__(name: str) -> object:
    """Load what is asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    """Return what there is, loaded or not."""
    return __all__
