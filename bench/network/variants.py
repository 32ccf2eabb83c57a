"""Deployed twins of a network: the same network as it is shipped, smaller or faster.

Each takes a classifier and leaves it alone; what it returns is held to the classifier's contract
again. None is exact but `folded` and `compiled`, which compute the same up to rounding.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import nn
from torch.nn.utils import prune
from torch.nn.utils.fusion import fuse_conv_bn_eval

from steadymap.bench.core.errors import ConfigError, one_line
from steadymap.bench.core.names import nearest
from steadymap.models import Classifier, ModelError, make_classifier

# Layers whose weights are rounded and pruned. Of their subclasses nobody knows who reads what.
WEIGHTED = (nn.Conv2d, nn.Linear)
INT8 = 8
# Of a signed number: below these there is no value beside 0.
LEAST_BITS, MOST_BITS = 2, 16


@dataclass(frozen=True)
class Variant:
    """A way to change a network for deployment.

    Attributes:
        make: from the classifier, the number in its spec and images (N, 3, H, W) to calibrate by,
            makes the twin.
        summary: one line for the help.
        number: what the number in its spec is; empty where it takes none.
        least: the smallest number.
        most: the largest.
    """

    make: Callable[[Classifier, float, torch.Tensor], Classifier]
    summary: str
    number: str = ""
    least: float = 0.0
    most: float = 0.0

    def form(self, name: str) -> str:
        """Return how its spec is written, e.g. `pruned=SHARE`."""
        return f"{name}={self.number.upper()}" if self.number else name


def parse_variant(spec: str) -> tuple[Variant, float]:
    """Return the variant that a spec names, and the number in it (0 where it takes none).

    Args:
        spec: `NAME`, or `NAME=NUMBER`.

    Raises:
        ConfigError: an unknown name, or a number that is missing, out of place or out of bounds.
    """
    name, equals, text = spec.partition("=")
    if name not in VARIANTS:
        raise ConfigError(f"variant: unknown name {name!r}; {nearest(name, VARIANTS)}")
    variant = VARIANTS[name]
    if not variant.number:
        if equals:
            raise ConfigError(f"variant: {name} takes no number, got {spec!r}")
        return variant, 0.0
    try:
        number = float(text)
    except ValueError as error:
        raise ConfigError(f"variant: expected {variant.form(name)}, got {spec!r}") from error
    whole = variant.number == "bits"
    if not variant.least <= number <= variant.most or (whole and not number.is_integer()):
        raise ConfigError(
            f"variant: {variant.form(name)} takes {'whole ' * whole}numbers from "
            f"{variant.least:g} to {variant.most:g}, got {text}"
        )
    return variant, number


def as_deployed(classifier: Classifier, spec: str, images: torch.Tensor) -> Classifier:
    """Return a classifier as it is deployed; the one given is left alone.

    Args:
        classifier: what is deployed.
        spec: see `VARIANTS`.
        images: (N, 3, H, W) in [0, 1], by which ranges of activations are set.

    Raises:
        ConfigError: a spec that is none.
        ModelError: the network cannot be changed so, or breaks the contract once it is.
    """
    variant, number = parse_variant(spec)
    try:
        made = variant.make(classifier, number, images)
    except ModelError as error:
        raise ModelError(f"variant: {spec} of {classifier.name}: {error}") from error
    except Exception as error:  # a compiler or a tracer may raise anything; the line says what
        raise ModelError(f"variant: {spec} of {classifier.name}: {one_line(error)}") from error
    return replace(made, name=classifier.name, bounds=classifier.bounds)


def _around(classifier: Classifier, network: nn.Module, below: str = "") -> Classifier:
    """Return a classifier like another, around a network in the place of its own.

    Args:
        classifier: like which.
        network: the other.
        below: where the layers of the given network are in it, ending with a dot.
    """
    cam = classifier.cam
    return make_classifier(
        network,
        classifier.framing,
        classifier.class_names,
        classifier.module.normalization,
        None if cam is None else replace(cam, path=below + cam.path),
    )


def _copied(classifier: Classifier) -> nn.Module:
    return classifier.copy().module.network


def _weighted(network: nn.Module) -> Iterator[tuple[str, nn.Conv2d | nn.Linear]]:
    """Yield the layers whose weights are changed, with their paths."""
    layers = [
        (path, part)
        for path, part in network.named_modules()
        if type(part) in WEIGHTED and isinstance(part, WEIGHTED)
    ]
    if not layers:
        raise ModelError("it has no convolution and no linear layer of torch's own")
    yield from layers


# --- the same function ----------------------------------------------------------------------------


def _folded(classifier: Classifier, _number: float, _images: torch.Tensor) -> Classifier:
    """Fold each batch norm into the convolution before it, where nothing else reads between them.

    The convolution's weights take over the norm's scale and shift, and the norm's place becomes the
    identity, so that layers keep their names.
    """
    network = _copied(classifier)
    graph = torch.fx.Tracer().trace(network)
    calls = Counter(str(node.target) for node in graph.nodes if node.op == "call_module")
    folded = 0
    for node in list(graph.nodes):
        source = node.all_input_nodes[0] if node.op == "call_module" else None
        if source is None or source.op != "call_module" or len(source.users) > 1:
            continue
        paths = str(source.target), str(node.target)
        conv, norm = map(network.get_submodule, paths)
        if (
            type(conv) is nn.Conv2d
            and type(norm) is nn.BatchNorm2d
            and norm.track_running_stats
            # One that is called twice has two inputs, or none of its own.
            and calls[paths[0]] == calls[paths[1]] == 1
        ):
            network.set_submodule(paths[0], fuse_conv_bn_eval(conv, norm))
            network.set_submodule(paths[1], nn.Identity())
            folded += 1
    if not folded:
        raise ModelError("it has no batch norm right behind a convolution: nothing to fold")
    return _around(classifier, network)


def _compiled(classifier: Classifier, _number: float, images: torch.Tensor) -> Classifier:
    """Hand the network to torch.compile; hooks do not reach its layers, which nobody can read."""
    network: nn.Module = torch.compile(_copied(classifier), dynamic=True)  # type: ignore[assignment] # of a module it is one
    made = replace(classifier, module=classifier.module.around(network), cam=None)
    with torch.no_grad():
        made(images[:1])  # where it cannot be compiled, that is said now
    return made


# --- fewer bits -----------------------------------------------------------------------------------


class _Cast(nn.Module):
    """A network that computes in the type of its weights, between images and logits of another."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) to logits (B, K), of the type of the images."""
        dtype = next(self.network.parameters()).dtype
        logits: torch.Tensor = self.network(images.to(dtype)).to(images.dtype)
        return logits


def _bfloat16(classifier: Classifier, _number: float, _images: torch.Tensor) -> Classifier:
    """Compute with weights and activations in bfloat16; images and logits stay float32."""
    made = _around(classifier, _Cast(_copied(classifier).bfloat16()), "network.")
    # Images come as ever: of the type of the weights is what is between them and the logits.
    made.module.mean, made.module.std = made.module.mean.float(), made.module.std.float()
    return made


def _round_weights(layer: nn.Conv2d | nn.Linear, bits: int) -> None:
    """Round a layer's weights to so many bits, symmetrically, with one scale an output channel.

    Source: Nagel et al. 2021, A White Paper on Neural Network Quantization, equations 6 and 7.
    """
    weight = layer.weight.detach()
    top = 2 ** (bits - 1) - 1
    scale = weight.flatten(1).abs().amax(dim=1) / top
    # A channel of zeros stays one.
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    zero = torch.zeros(len(weight), dtype=torch.int32, device=weight.device)
    rounded = torch.fake_quantize_per_channel_affine(weight, scale, zero, 0, -top, top)
    layer.weight.data.copy_(rounded)


def _rounded(classifier: Classifier, number: float, _images: torch.Tensor) -> Classifier:
    """Round the weights of convolutions and linear layers to so many bits."""
    network = _copied(classifier)
    for _, layer in _weighted(network):
        _round_weights(layer, int(number))
    return _around(classifier, network)


class _Quantised(nn.Module):
    """A layer whose input is rounded to 256 values between two ends.

    Slopes pass through the rounding as if it were not there, and are 0 beyond the ends
    (Nagel et al. 2021, section 2.3): what a kernel of whole numbers computes has no slope at all.
    """

    scale: torch.Tensor
    zero: torch.Tensor

    def __init__(self, layer: nn.Module, low: torch.Tensor, high: torch.Tensor) -> None:
        super().__init__()
        self.layer = layer
        # 0 is a value of its own: padding puts it in.
        low, high = low.clamp(max=0), high.clamp(min=0)
        scale = (high - low) / (2**INT8 - 1)
        scale = torch.where(scale > 0, scale, torch.ones_like(scale))
        self.register_buffer("scale", scale)
        self.register_buffer("zero", (-low / scale).round().to(torch.int32))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """What the layer makes of its rounded input."""
        rounded = torch.fake_quantize_per_tensor_affine(
            values, self.scale, self.zero, 0, 2**INT8 - 1
        )
        output: torch.Tensor = self.layer(rounded)
        return output


def _int8_fake(classifier: Classifier, _number: float, images: torch.Tensor) -> Classifier:
    """Round weights and inputs of convolutions and linear layers to 8 bits, computing in float32.

    As int8 kernels with static ranges do: the ends of each layer's input are those of the images.
    """
    network = _copied(classifier)
    layers = dict(_weighted(network))
    ends: dict[str, list[torch.Tensor]] = {path: [] for path in layers}

    def noting(path: str) -> Callable[[nn.Module, tuple[torch.Tensor, ...]], None]:
        def note(_layer: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            ends[path] += [inputs[0].detach().amin(), inputs[0].detach().amax()]

        return note

    hooks = [layer.register_forward_pre_hook(noting(path)) for path, layer in layers.items()]
    try:
        with torch.no_grad():
            classifier.module.around(network)(images)
    finally:
        for hook in hooks:
            hook.remove()
    for path, layer in layers.items():
        _round_weights(layer, INT8)
        if ends[path]:
            seen = torch.stack(ends[path])
            network.set_submodule(path, _Quantised(layer, seen.min(), seen.max()))
    return _around(classifier, network)


# --- fewer weights --------------------------------------------------------------------------------


def _pruned(classifier: Classifier, number: float, _images: torch.Tensor) -> Classifier:
    """Set that share of the weights of all convolutions and linear layers to 0, the smallest."""
    # Where weights lie channels last, torch's pruning cannot view them in a row.
    network = _copied(classifier).to(memory_format=torch.contiguous_format)
    layers = [(layer, "weight") for _, layer in _weighted(network)]
    prune.global_unstructured(layers, prune.L1Unstructured, amount=number)
    for layer, name in layers:
        prune.remove(layer, name)
    return _around(classifier, network)


VARIANTS: dict[str, Variant] = {
    "folded": Variant(_folded, "batch norms folded into the convolutions before them"),
    "compiled": Variant(_compiled, "run by torch.compile"),
    "bfloat16": Variant(_bfloat16, "weights and activations in bfloat16"),
    "int8-fake": Variant(_int8_fake, "weights and layers' inputs rounded to 8 bits, in float32"),
    "rounded": Variant(_rounded, "weights rounded to so many bits", "bits", LEAST_BITS, MOST_BITS),
    "pruned": Variant(
        _pruned, "the smallest weights set to 0, a share of them from 0 to 1", "share", 0.0, 1.0
    ),
}
