"""Which layer Grad-CAM reads in a network, and how its output becomes planes (B, C, h, w).

Convolutional networks are read at their last feature map, as Grad-CAM's authors do (Selvaraju et
al. 2017: the last convolution behind its ReLU, `relu5_3` of VGG-16, which is before the pooling);
residual ones behind the last addition and its ReLU, the choice of pytorch-grad-cam (`layer4`).
The table knows networks by name; any other is run once to find the same place.
Vision transformers are read where pytorch-grad-cam reads them: at the first norm of the last block,
since the class token alone reaches the logits from there on and the patches behind it get no
gradient. Swin's logits average all tokens, so that its last norm can be read.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

import torch
from torch.overrides import TorchFunctionMode

# What torch calls the functions that stand behind a layer as its activation.
ACTIVATIONS = frozenset(
    f"{name}{in_place}"
    for name in ("relu", "relu6", "silu", "gelu", "elu", "leaky_relu", "hardswish", "mish")
    for in_place in ("", "_")
)

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
        activated: read behind the activation that a function, which is no module, applies to it.
        lowest: its smallest value on a few random images; None where nobody has looked.
    """

    path: str
    layout: Layout = "channels_first"
    prefix_tokens: int = 0
    activated: bool = False
    lowest: float | None = field(default=None, compare=False)

    def __str__(self) -> str:
        """Return what records and messages call it."""
        return f"{self.path}, activated" if self.activated else self.path

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
    "densenet": CamLayer("features", activated=True),  # the last norm, behind its ReLU: 7 x 7
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


class _End(NamedTuple):
    """The end of a module's run.

    Attributes:
        path: of the module.
        grid: (h, w) of its output where that is a plane of more than one pixel, or None.
        channels: of the output of a convolution; 0 of any other.
        linear: whether it is a linear layer.
        tokens: whether it treats places as tokens.
    """

    path: str
    grid: tuple[int, ...] | None
    channels: int
    linear: bool
    tokens: bool


def last_plane(network: torch.nn.Module, size: tuple[int, int]) -> CamLayer | None:
    """Return the last feature map of a convolutional network, behind its activation.

    It is the last module to put out planes as large as those of the last convolution that has more
    than one pixel: a norm, an activation or a block behind it, and no pooling. A convolution that
    puts out the classes' scores, to be averaged, is no feature map. Where a function and no module
    activates what the module puts out, it is read behind the function. None where there is no such
    convolution, or where tokens are made behind it: what a transformer cuts the image up with says
    little.

    Args:
        network: in eval mode; takes images (B, 3, H, W).
        size: height and width of its input.
    """
    ends: list[_End] = []
    hooks = [
        part.register_forward_hook(
            lambda part, inputs, output, path=path: ends.append(_end(path, part, inputs, output))
        )
        for path, part in network.named_modules()
        if path and not isinstance(part, torch.jit.ScriptModule)  # which takes no hooks
    ]
    try:
        classes = _run_on_zeros(network, size).shape[1]
    finally:
        for hook in hooks:
            hook.remove()
    convolutions = [place for place, end in enumerate(ends) if end.channels and end.grid]
    if len(convolutions) > 1:
        behind = ends[convolutions[-1] :]
        if behind[0].channels == classes and not any(end.linear for end in behind):
            del ends[convolutions.pop() :]
    if not convolutions:
        return None
    first, runs = convolutions[-1], Counter(end.path for end in ends)
    # A module that runs more than once has no output of its own.
    chosen = max(
        place
        for place, end in enumerate(ends)
        if place == first
        or (place > first and end.grid == ends[first].grid and runs[end.path] == 1)
    )
    if any(end.tokens for end in ends[chosen:]):
        return None
    layer = CamLayer(ends[chosen].path)
    activated = replace(layer, activated=True)
    with outputs_of(network, activated) as seen:
        _run_on_zeros(network, size)
    return activated if seen else layer


def _end(path: str, part: torch.nn.Module, inputs: tuple[object, ...], output: object) -> _End:
    given = inputs[0] if inputs else None
    linear = isinstance(part, torch.nn.Linear)
    tokens = isinstance(part, torch.nn.MultiheadAttention) or (
        linear and isinstance(given, torch.Tensor) and given.ndim > 2  # noqa: PLR2004 - (B, features)
    )
    grid = None
    if isinstance(output, torch.Tensor) and output.ndim == DIMENSIONS["channels_first"]:
        grid = tuple(output.shape[2:]) if min(output.shape[2:]) > 1 else None
    channels = part.out_channels if isinstance(part, torch.nn.Conv2d) else 0
    return _End(path, grid, channels, linear, tokens)


def _run_on_zeros(network: torch.nn.Module, size: tuple[int, int]) -> torch.Tensor:
    like = next(network.parameters(), torch.zeros(()))
    with torch.random.fork_rng(), torch.no_grad():
        logits: torch.Tensor = network(like.new_zeros(1, 3, *size))
    return logits


@contextmanager
def outputs_of(network: torch.nn.Module, layer: CamLayer | None) -> Iterator[list[torch.Tensor]]:
    """Collect what a layer puts out, in this thread, as long as the context lasts.

    Yields:
        a list that grows by one tensor each time that the layer runs; that of no layer stays empty.
    """
    seen: list[torch.Tensor] = []
    if layer is None:
        yield seen
        return

    def keep(output: torch.Tensor) -> torch.Tensor:
        seen.append(output)
        # What works in place behind it must not change what was seen.
        return output.clone()

    activation = _Activation(keep)

    def hand_on(_module: torch.nn.Module, _inputs: object, output: torch.Tensor) -> torch.Tensor:
        if not layer.activated:
            return keep(output)
        activation.watched = output
        return output

    hook = network.get_submodule(layer.path).register_forward_hook(hand_on)
    try:
        if layer.activated:
            with activation:
                yield seen
        else:
            yield seen
    finally:
        hook.remove()


class _Activation(TorchFunctionMode):
    """Hands over what an activation makes of one tensor.

    Attributes:
        watched: the tensor; None as long as there is none.
    """

    def __init__(self, keep: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.keep = keep
        self.watched: torch.Tensor | None = None

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 - whatever the function returns
        named = kwargs or {}
        output = func(*args, **named)
        given = args[0] if args else named.get("input")
        if given is None or given is not self.watched or func.__name__ not in ACTIVATIONS:
            return output
        return self.keep(output)


def _counted(layer: CamLayer, network: torch.nn.Module) -> CamLayer:
    """Replace numbers that count from the end by the children's names."""
    path: list[str] = []
    for part in layer.path.split("."):
        inside = network.get_submodule(".".join(path))
        children = [name for name, _ in inside.named_children()]
        path.append(children[int(part)] if part.startswith("-") else part)
    return replace(layer, path=".".join(path))
