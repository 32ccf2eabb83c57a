"""What networks there are, by name; nothing is built, nor torch loaded, before one is asked for."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

HERE = Path(__file__).parent
NETWORKS = "steadymap.models.networks"

# Classes of the embedded data, and height and width of what the networks take, in pixels.
HANDS = ("paper", "rock", "scissors")
RPS_SIDE = 150
COMPACT_SIDE = 64
# A network whose weights are in a package.
LITE = "efficientnet_lite0"


@dataclass(frozen=True)
class Model:
    """A network of the project.

    Attributes:
        build: makes the network for a number of classes, freshly initialised.
        side: height and width of its input, in pixels.
        shipped: weights that come with the package, for the embedded hands; or None.
        summary: one line for `steadymap list`.
        source: where the architecture comes from.
    """

    build: Callable[[int], nn.Module]
    side: int
    shipped: Path | None
    summary: str
    source: str


def _ours(name: str) -> Callable[[int], nn.Module]:
    """Return what builds a network of `networks`, which is loaded, and torch, at the first call."""

    def build(classes: int) -> nn.Module:
        network: nn.Module = getattr(importlib.import_module(NETWORKS), name)(classes)
        return network

    return build


MODELS: dict[str, Model] = {
    "compact": Model(
        _ours("compact"),
        COMPACT_SIDE,
        HERE / "compact-hands.safetensors",
        "the study's plan scaled down, 64 px, 0.22 M parameters, trained on the embedded hands",
        "after the study's network",
    ),
    "rps": Model(
        _ours("rps"),
        RPS_SIDE,
        None,
        "the study's network, 150 px, 86.6 M parameters; bring weights (steadymap train)",
        "the study of rock-paper-scissors photographs",
    ),
}

MODEL_FORMS: dict[str, str] = {
    LITE: "EfficientNet-Lite0 with ImageNet's weights, nothing to download "
    "(pip install 'steadymap[photos]')",
    "torchvision:NAME@WEIGHTS": "a torchvision classifier, e.g. torchvision:resnet18@DEFAULT; "
    "@random for seeded random weights, or give --weights",
    "timm:NAME[@random]": "a network of timm with its own weights, random ones, or --weights "
    "(pip install 'steadymap[timm]')",
    "hf:ID": "an image classifier of the Hugging Face hub, or a saved one's folder "
    "(pip install 'steadymap[hf]')",
    "package.module:factory": "your own: a function that returns a steadymap.models.Classifier",
}
