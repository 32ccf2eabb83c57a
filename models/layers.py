"""Which layer Grad-CAM reads in a known network, and how its output becomes planes (B, C, h, w).

Convolutional networks are read at their last feature map, as Grad-CAM's authors do (Selvaraju et
al. 2017: the last convolution behind its ReLU, `relu5_3` of VGG-16, which is before the pooling);
residual ones behind the last addition and its ReLU, the choice of pytorch-grad-cam (`layer4`).
Vision transformers are read where pytorch-grad-cam reads them: at the first norm of the last block,
since the class token alone reaches the logits from there on and the patches behind it get no
gradient. Swin's logits average all tokens, so that its last norm can be read.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import torch

Layout = Literal["channels_first", "channels_last", "tokens"]
DIMENSIONS: dict[Layout, int] = {"channels_first": 4, "channels_last": 4, "tokens": 3}


@dataclass(frozen=True)
class CamLayer:
    """The layer that Grad-CAM reads.

    Attributes:
        path: dotted name below the network; a number below 0 counts a layer's children from the
            end.
        layout: what it puts out: `channels_first` (B, C, h, w), `channels_last` (B, h, w, C), or
            `tokens` (B, N, C), row by row.
        prefix_tokens: tokens in front that are no patches, such as the class token.
    """

    path: str
    layout: Layout = "channels_first"
    prefix_tokens: int = 0

    def planes(self, output: torch.Tensor, aspect: float) -> torch.Tensor:
        """Return the layer's output as planes (B, C, h, w).

        Args:
            output: of the layer, or a gradient of its shape.
            aspect: height over width of the network's input.

        Raises:
            ValueError: not of the layout's shape.
        """
        if output.ndim != DIMENSIONS[self.layout]:
            raise ValueError(f"{self.path} puts out {tuple(output.shape)}, not {self.layout}")
        if self.layout == "channels_first":
            return output
        if self.layout == "channels_last":
            return output.permute(0, 3, 1, 2)
        patches = output[:, self.prefix_tokens :].transpose(1, 2)
        count = patches.shape[2]
        rows = round(math.sqrt(count * aspect))
        if rows < 1 or count % rows:
            raise ValueError(f"{self.path}: {count} tokens are no grid of {rows} rows")
        return patches.reshape(*patches.shape[:2], rows, count // rows)


# By the beginning of torchvision's name; the longest that fits counts. Heights and widths are those
# of an input of the usual size.
TORCHVISION_LAYERS: dict[str, CamLayer] = {
    "alexnet": CamLayer("features.-2"),  # the last ReLU, before the pooling: 13 x 13
    "convnext": CamLayer("features.-1"),  # the last stage: 7 x 7
    "densenet": CamLayer("features.-1"),  # the last norm; its ReLU has no module: 7 x 7
    "efficientnet": CamLayer("features.-1"),  # the last convolution, norm and SiLU: 7 x 7
    "googlenet": CamLayer("inception5b"),  # 7 x 7
    "inception": CamLayer("Mixed_7c"),  # 8 x 8
    "maxvit": CamLayer("blocks.-1"),  # the last stage, windows put together again: 7 x 7
    "mnasnet": CamLayer("layers.-1"),  # the last ReLU: 7 x 7
    "mobilenet": CamLayer("features.-1"),  # the last convolution and its activation: 7 x 7
    "regnet": CamLayer("trunk_output"),  # the last stage: 7 x 7
    "resnet": CamLayer("layer4"),  # the last stage: 7 x 7
    "resnext": CamLayer("layer4"),
    "shufflenet": CamLayer("conv5"),  # the last convolution, norm and ReLU: 7 x 7
    "squeezenet": CamLayer("features.-1"),  # the last fire module, before the class scores: 13 x 13
    "swin": CamLayer("norm", "channels_last"),  # 7 x 7, 8 x 8 for the second version
    "vgg": CamLayer("features.-2"),  # the last ReLU, before the pooling: 14 x 14
    "vit": CamLayer("encoder.layers.-1.ln_1", "tokens", 1),  # a token for each patch
    "wide_resnet": CamLayer("layer4"),
}


# By timm's class. Its `num_prefix_tokens` says how many tokens are no patches.
TIMM_LAYERS: dict[str, CamLayer] = {
    "Beit": CamLayer("blocks.-1.norm1", "tokens", 1),
    "Eva": CamLayer("blocks.-1.norm1", "tokens", 1),
    "SwinTransformer": CamLayer("norm", "channels_last"),
    "SwinTransformerV2": CamLayer("norm", "channels_last"),
    "VGG": CamLayer("features.-2"),
    "VisionTransformer": CamLayer("blocks.-1.norm1", "tokens", 1),
    "VisionTransformerDistilled": CamLayer("blocks.-1.norm1", "tokens", 2),
}

# By transformers' model type: the last module of that name, whatever is above it.
HUB_LAYERS: dict[str, CamLayer] = {
    "beit": CamLayer("layernorm_before", "tokens", 1),
    "deit": CamLayer("layernorm_before", "tokens", 2),
    "dinov2": CamLayer("norm1", "tokens", 1),
    "swin": CamLayer("layernorm", "tokens"),
    "swinv2": CamLayer("layernorm", "tokens"),
    "vit": CamLayer("layernorm_before", "tokens", 1),
}


def torchvision_layer(name: str, network: torch.nn.Module) -> CamLayer | None:
    """Return the layer for Grad-CAM in one of torchvision's classifiers; None if nobody knows."""
    fitting = [family for family in TORCHVISION_LAYERS if name.startswith(family)]
    return _counted(TORCHVISION_LAYERS[max(fitting, key=len)], network) if fitting else None


def timm_layer(network: torch.nn.Module, size: tuple[int, int]) -> CamLayer | None:
    """Return the layer for Grad-CAM in one of timm's networks; None if nobody knows."""
    known = TIMM_LAYERS.get(type(network).__name__)
    if known is None:
        return last_plane(network, size)
    prefix = getattr(network, "num_prefix_tokens", known.prefix_tokens)
    return replace(_counted(known, network), prefix_tokens=prefix)


def hub_layer(kind: str, network: torch.nn.Module, size: tuple[int, int]) -> CamLayer | None:
    """Return the layer for Grad-CAM in a network of transformers; None if nobody knows."""
    known = HUB_LAYERS.get(kind)
    if known is None:
        return last_plane(network, size)
    paths = [path for path, _ in network.named_modules() if path.split(".")[-1] == known.path]
    return replace(known, path=paths[-1]) if paths else None


def last_plane(network: torch.nn.Module, size: tuple[int, int]) -> CamLayer | None:
    """Return the last module to put out a plane above 1 x 1, shaped as the image is.

    None where tokens are made behind it: what a transformer cuts the image up with says little.

    Args:
        network: in eval mode; takes images (B, 3, H, W).
        size: height and width of its input.
    """
    height, width = size
    paths: list[str] = []

    def note(path: str, output: object) -> None:
        if not isinstance(output, torch.Tensor):
            return
        if output.ndim == DIMENSIONS["tokens"] and output.shape[1] > 1:
            paths.clear()
        if output.ndim == DIMENSIONS["channels_first"]:
            rows, columns = output.shape[2:]
            if min(rows, columns) > 1 and abs(rows - columns * height / width) <= 1:
                paths.append(path)

    hooks = [
        part.register_forward_hook(lambda _m, _i, output, path=path: note(path, output))
        for path, part in network.named_modules()
        if path
    ]
    like = next(network.parameters(), torch.zeros(()))
    try:
        with torch.random.fork_rng(), torch.no_grad():
            network(like.new_zeros(1, 3, height, width))
    finally:
        for hook in hooks:
            hook.remove()
    return CamLayer(paths[-1]) if paths else None


def _counted(layer: CamLayer, network: torch.nn.Module) -> CamLayer:
    """Replace numbers that count from the end by the children's names."""
    path: list[str] = []
    for part in layer.path.split("."):
        inside = network.get_submodule(".".join(path))
        children = [name for name, _ in inside.named_children()]
        path.append(children[int(part)] if part.startswith("-") else part)
    return replace(layer, path=".".join(path))
