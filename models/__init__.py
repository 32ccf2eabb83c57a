"""Networks to explain, and the contract that they fulfil."""

from steadymap.models.classifier import (
    Classifier,
    Framing,
    ModelError,
    Normalization,
    PixelNetwork,
    make_classifier,
)
from steadymap.models.layers import CamLayer
from steadymap.models.loading import MODEL_FORMS, MODELS, Model, load_classifier
from steadymap.models.pretrained import imagenet_names
from steadymap.models.weights import Weights, fit_weights, read_weights, write_weights

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
