"""Forward and backward passes: shared between methods, cut to what memory holds, and counted."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal

import torch

from steadymap.models import Classifier
from steadymap.models.layers import outputs_of

Read = Literal["gradient", "layer", "activations"]


class LogitsError(ValueError):
    """A network that has returned something other than logits (B, K)."""


@dataclass(frozen=True)
class Pass:
    """One forward and one backward pass of a batch: what several methods read.

    Attributes:
        images: (B, 3, H, W), what went in.
        targets: (B,), the classes explained.
        logits: (B, K).
        gradient: (B, 3, H, W), of the target's logit; None unless asked for.
        activations: (B, C, h, w), output of the classifier's layer for Grad-CAM, as planes; None
            unless asked for.
        activation_gradient: (B, C, h, w), of the target's logit, likewise; None unless asked for.
    """

    images: torch.Tensor
    targets: torch.Tensor
    logits: torch.Tensor
    gradient: torch.Tensor | None = None
    activations: torch.Tensor | None = None
    activation_gradient: torch.Tensor | None = None

    def part(self, chosen: slice | list[int]) -> Pass:
        """Return some of the images with all that belongs to them."""
        known = {name: part[chosen] for name, part in vars(self).items() if part is not None}
        return replace(self, **known)

    def need_gradient(self) -> torch.Tensor:
        """Return the gradient.

        Raises:
            ValueError: the logits do not depend on the image.
        """
        if self.gradient is None:
            raise ValueError("the target's logit does not depend on the image")
        return self.gradient

    def need_layer(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return activations and their gradient.

        Raises:
            ValueError: the logits do not depend on the layer.
        """
        if self.activations is None or self.activation_gradient is None:
            raise ValueError("the target's logit does not depend on the layer for Grad-CAM")
        return self.activations, self.activation_gradient


def shared_pass(
    classifier: Classifier,
    images: torch.Tensor,
    targets: torch.Tensor | None,
    reads: Iterable[Read],
    at_once: int,
) -> Pass:
    """Run a batch forward, and backward for what is read.

    Args:
        classifier: what is explained.
        images: (B, 3, H, W), on the classifier's device.
        targets: (B,), the classes explained; None takes those predicted.
        reads: what the methods need, `gradient` or `layer` (Grad-CAM's, with its gradient); or that
            layer's `activations` alone, for which nothing goes backward.
        at_once: images that go through the network together.

    Raises:
        LogitsError: the network has returned something else.
    """
    needed = frozenset(reads)
    parts = [
        _one_pass(classifier, few, None if targets is None else chosen, needed)
        for few, chosen in zip(
            images.split(at_once),
            (images if targets is None else targets).split(at_once),
            strict=True,
        )
    ]
    return parts[0] if len(parts) == 1 else _joined(parts)


def _one_pass(
    classifier: Classifier,
    images: torch.Tensor,
    targets: torch.Tensor | None,
    reads: frozenset[Read],
) -> Pass:
    # Channels last at the entrance keeps the first convolution from copying.
    points = images.detach().clone(memory_format=torch.channels_last)
    back = bool(reads - {"activations"})
    points.requires_grad_(back)
    layered = bool(reads & {"layer", "activations"})
    layer = classifier.need_cam() if layered else None
    outputs = outputs_of(classifier.module.network, layer)
    with torch.set_grad_enabled(back), outputs as seen:
        logits = classifier(points)
    _check_logits(logits, (len(points), len(classifier.class_names)))
    chosen = logits.detach().argmax(dim=1) if targets is None else targets
    # A layer may compute in half precision; maps do not.
    activations = classifier.cam_planes(seen[-1].detach()).to(images.dtype) if seen else None
    sources = ([points] if "gradient" in reads else []) + (seen[-1:] if "layer" in reads else [])
    if not sources:
        return Pass(images, chosen, logits.detach(), activations=activations)
    picked = logits.gather(1, chosen[:, None]).sum()
    slopes = list(torch.autograd.grad(picked, sources, allow_unused=True))
    slope = slopes[-1] if seen and "layer" in reads else None
    return Pass(
        images,
        chosen,
        logits.detach(),
        slopes[0] if "gradient" in reads else None,
        activations,
        None if slope is None else classifier.cam_planes(slope).to(images.dtype),
    )


def _check_logits(logits: object, shape: tuple[int, int]) -> None:
    if not isinstance(logits, torch.Tensor):
        raise LogitsError(f"the network returned {type(logits).__name__}, expected a tensor")
    if logits.shape != shape:
        raise LogitsError(
            f"the network returned logits of shape {tuple(logits.shape)}, expected {shape}"
        )


def _joined(parts: list[Pass]) -> Pass:
    def join(values: list[torch.Tensor | None]) -> torch.Tensor | None:
        known = [value for value in values if value is not None]
        return torch.cat(known) if len(known) == len(values) else None

    return Pass(
        torch.cat([part.images for part in parts]),
        torch.cat([part.targets for part in parts]),
        torch.cat([part.logits for part in parts]),
        join([part.gradient for part in parts]),
        join([part.activations for part in parts]),
        join([part.activation_gradient for part in parts]),
    )


# No float32: moving an image by it and back rounds the image, as a perturbation does.
THIRD = 1 / 3


def rounded(images: torch.Tensor) -> torch.Tensor:
    """Return images moved and moved back: other by rounding alone."""
    return (images + THIRD) - THIRD


# --- how many there were --------------------------------------------------------------------------


@dataclass
class Counts:
    """Images that went through the network.

    Attributes:
        forward: how many times an image went forward.
        backward: how many of these came back.
    """

    forward: int = 0
    backward: int = 0


_aside = threading.local()


@contextmanager
def aside() -> Iterator[None]:
    """Leave out of all counts what this thread sends through networks inside."""
    _aside.now = True
    try:
        yield
    finally:
        _aside.now = False


@contextmanager
def count_passes(classifier: Classifier) -> Iterator[Counts]:
    """Count what passes through the network, or through one that shares it by `shifted`.

    A network run by other threads at the same time would be counted, too.
    """
    counts = Counts()

    def note(_module: torch.nn.Module, _inputs: object, logits: torch.Tensor) -> None:
        if getattr(_aside, "now", False):
            return
        counts.forward += len(logits)
        if logits.requires_grad:
            logits.register_hook(_adds(counts))

    hook = classifier.module.network.register_forward_hook(note)
    try:
        yield counts
    finally:
        hook.remove()


def _adds(counts: Counts) -> Callable[[torch.Tensor], None]:
    def add(gradient: torch.Tensor) -> None:
        counts.backward += len(gradient)

    return add
