"""Small networks of which something is known exactly, in double precision."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch

from steadymap.bench.core.randomness import generator
from steadymap.models import Classifier, Normalization, make_classifier

SIDE = 12
CLASSES = 4
CHANNELS = 6


def images(count: int, seed: int = 0) -> torch.Tensor:
    """Return images (count, 3, 12, 12), float64, uniform in [0, 1]."""
    drawn = generator("images", seed).random((count, 3, SIDE, SIDE))
    return torch.from_numpy(drawn)


def linear(seed: int = 0) -> Classifier:
    """Return f(x) = W x + b, without a convolution."""
    return _built(
        lambda: torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * SIDE**2, CLASSES)), seed
    )


def linear_weights(classifier: Classifier, targets: torch.Tensor) -> torch.Tensor:
    """Return the weights (B, 3, 12, 12) of each target of a `linear` network."""
    layer = classifier.module.network.get_submodule("1")
    if not isinstance(layer, torch.nn.Linear):
        raise TypeError("not a network of `linear`")
    return layer.weight[targets].reshape(-1, 3, SIDE, SIDE)


def convolutional(seed: int = 0) -> Classifier:
    """Return two convolutions with ReLU behind each, and a linear layer; with biases."""
    return _built(lambda: _convolutions(torch.nn.ReLU), seed)


def smooth(seed: int = 0) -> Classifier:
    """Return the same with tanh: quadrature converges on it as fast as it can."""
    return _built(lambda: _convolutions(torch.nn.Tanh), seed)


def _convolutions(activation: Callable[[], torch.nn.Module]) -> torch.nn.Sequential:
    # No padding: what it adds is black, not the normalisation's mean, and could not be folded.
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, CHANNELS, 3),
        activation(),
        torch.nn.Conv2d(CHANNELS, CHANNELS, 3),
        activation(),
        torch.nn.Flatten(),
        torch.nn.Linear(CHANNELS * (SIDE - 4) ** 2, CLASSES),
    )


def without_bias(classifier: Classifier) -> Classifier:
    """Return the network with all biases 0: with ReLU, f(a x) = a f(x) for a > 0."""

    def drop(layers: list[torch.nn.Conv2d | torch.nn.Linear]) -> None:
        for layer in layers:
            _bias(layer).zero_()

    return _changed(classifier, drop)


def deaf_to_blue(classifier: Classifier) -> Classifier:
    """Return a network that does not look at the last channel."""

    def deafen(layers: list[torch.nn.Conv2d | torch.nn.Linear]) -> None:
        layers[0].weight[:, 2] = 0

    return _changed(classifier, deafen)


def scaled(classifier: Classifier, factor: float, shift: float) -> Classifier:
    """Return the network g = factor * f + shift."""

    def scale(layers: list[torch.nn.Conv2d | torch.nn.Linear]) -> None:
        layers[-1].weight.mul_(factor)
        _bias(layers[-1]).mul_(factor).add_(shift)

    return _changed(classifier, scale)


def reparametrised(classifier: Classifier) -> Classifier:
    """Return a network with the same function: hidden channels in another order and scale."""

    def change(layers: list[torch.nn.Conv2d | torch.nn.Linear]) -> None:
        for place, (first, second) in enumerate(pairwise(layers)):
            rng = generator("reparametrised", place)
            count = first.weight.shape[0]
            order = torch.from_numpy(rng.permutation(count))
            # ReLU lets positive factors through.
            scale = torch.from_numpy(rng.uniform(0.5, 2.0, count))
            shape = [-1] + [1] * (first.weight.ndim - 1)
            first.weight.copy_((first.weight * scale.view(shape))[order])
            _bias(first).copy_((_bias(first) * scale)[order])
            # Behind the flattening each channel has a run of inputs.
            inputs = second.weight.reshape(second.weight.shape[0], count, -1)
            moved = (inputs / scale[None, :, None])[:, order]
            second.weight.copy_(moved.reshape(second.weight.shape))

    return _changed(classifier, change)


def normalising(classifier: Classifier) -> tuple[Classifier, Classifier]:
    """Return one function twice: the normalisation apart, and folded into the first layer."""
    mean, std = (0.4, 0.5, 0.3), (0.2, 0.5, 0.3)
    network = _copy(classifier).module.network
    apart = make_classifier(network, (SIDE, SIDE), normalization=Normalization(mean, std))

    def fold(layers: list[torch.nn.Conv2d | torch.nn.Linear]) -> None:
        weight = layers[0].weight / torch.tensor(std, dtype=torch.float64).view(1, 3, 1, 1)
        offset = (weight * torch.tensor(mean, dtype=torch.float64).view(1, 3, 1, 1)).sum((1, 2, 3))
        layers[0].weight.copy_(weight)
        _bias(layers[0]).sub_(offset)

    return apart, _changed(classifier, fold)


def between(classifier: Classifier, start: torch.Tensor, end: torch.Tensor) -> Classifier:
    """Return the network g(z) = f(start + z * (end - start)), for one line in image space.

    Black is sent to `start` and white to `end`: a path between the two is any path.

    Args:
        classifier: f.
        start: (1, 3, 12, 12).
        end: (1, 3, 12, 12).
    """
    network = torch.nn.Sequential(_Line(start, end - start), _copy(classifier).module.network)
    return make_classifier(network, (SIDE, SIDE))


class _Line(torch.nn.Module):
    """z to start + z * way."""

    def __init__(self, start: torch.Tensor, way: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("start", start)
        self.register_buffer("way", way)

    def forward(self, places: torch.Tensor) -> torch.Tensor:
        """Map places (B, 3, H, W) to images."""
        return self.get_buffer("start") + places * self.get_buffer("way")


def _built(build: Callable[[], torch.nn.Module], seed: int) -> Classifier:
    """Fill a network by our own generator; torch's global one is put back."""
    with torch.random.fork_rng(devices=[]):
        network = build().double()
    rng = generator("known", seed)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            drawn = torch.from_numpy(rng.standard_normal(tuple(parameter.shape)))
            # As large as keeps signals from growing or fading; biases wide enough to matter.
            size = 0.2 if name.endswith("bias") else (2 / parameter[0].numel()) ** 0.5
            parameter.copy_(size * drawn)
    return make_classifier(network, (SIDE, SIDE))


def _copy(classifier: Classifier) -> Classifier:
    return classifier.to(torch.device("cpu"), torch.float64)


def _changed(
    classifier: Classifier, change: Callable[[list[torch.nn.Conv2d | torch.nn.Linear]], None]
) -> Classifier:
    """Return a copy whose layers with weights, in their order, have been changed."""
    network = _copy(classifier).module.network
    layers = [
        part for part in network.modules() if isinstance(part, torch.nn.Conv2d | torch.nn.Linear)
    ]
    with torch.no_grad():
        change(layers)
    return make_classifier(network, (SIDE, SIDE))


def _bias(layer: torch.nn.Conv2d | torch.nn.Linear) -> torch.Tensor:
    if layer.bias is None:
        raise TypeError("these networks have biases everywhere")
    return layer.bias
