"""The worst case: a small change that keeps the prediction and moves the gradient map far.

Sources: Ghorbani, Abid and Zou 2019, section 3 (the attack); Dombrowski et al. 2019 (softplus in
ReLU's place, whose second derivative is zero).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from steadymap.bench.network import graph, passes
from steadymap.models import Classifier

# Steps of the ascent, and how many of them lead as far as the bound.
STEPS = 10
STEPS_TO_BOUND = 2
# Of the softplus: large is close to ReLU, small is curved over more of its inputs.
SHARPNESS = 100.0


def away_from_gradient(
    classifier: Classifier,
    image: torch.Tensor,
    target: torch.Tensor,
    severity: float,
    rng: np.random.Generator,
) -> torch.Tensor:
    """Move the gradient map as far from the clean image's as it goes, and keep the prediction.

    Projected sign ascent on 1 - cosine of the two maps, summed over channels and signed: as the
    `cosine` metric has it, and without the kinks of an absolute value. It begins at a random corner
    of the bound, because at the clean image the cosine is flat, and climbs on the network with
    softplus in ReLU's place; a network that cannot be traced is used as it is. Of all points on the
    way, the first included, that is returned whose map by the network itself is farthest off with
    the target still predicted; the clean image where none keeps it.

    The image goes through the network itself `STEPS` + 2 times, forward and backward: as it is,
    from where the ascent starts, and after each step. What goes through the one with softplus is
    not counted.

    Args:
        classifier: what is explained.
        image: (1, 3, H, W), on the classifier's device.
        target: (1,), the class predicted for it.
        severity: the bound: no value moves by more; in image units.
        rng: of this draw.

    Returns:
        (1, 3, H, W), beside the image. Nothing is clamped.
    """
    if severity == 0:
        return image.clone()
    reference = _gradient_map(classifier, image, target)[0]
    point = image + severity * random_signs(image[0], rng).to(image.device)[None]
    best, farthest = image.clone(), 0.0
    smooth = smoothed(classifier)
    for step in range(STEPS + 1):
        if step:
            slope = ascent(smooth, point, target, reference)
            point = point + severity / STEPS_TO_BOUND * slope.sign()
            point = image + (point - image).clamp(-severity, severity)
        gradient_map, kept = _gradient_map(classifier, point, target)
        distance = float(1 - _cosine(gradient_map, reference))
        if kept and distance > farthest:
            best, farthest = point, distance
    return best


def random_signs(image: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Return minus or plus 1 for each value of an image (3, H, W)."""
    return torch.from_numpy(rng.integers(0, 2, tuple(image.shape))).to(image.dtype) * 2 - 1


def _gradient_map(
    classifier: Classifier, image: torch.Tensor, target: torch.Tensor
) -> tuple[torch.Tensor, bool]:
    """Return the gradient summed over channels (1, H, W), and whether the target is predicted."""
    seen = passes.shared_pass(classifier, image, target, ("gradient",), 1)
    kept = bool(seen.logits.argmax(dim=1) == target)
    return seen.need_gradient().sum(dim=1), kept


def _cosine(gradient_map: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.cosine_similarity(gradient_map.flatten(), reference.flatten(), dim=0)


def ascent(
    smooth: Classifier, image: torch.Tensor, target: torch.Tensor, reference: torch.Tensor
) -> torch.Tensor:
    """Return the gradient of 1 - cosine of a softplus network's map to another (1, H, W).

    Zero where that map does not depend on the image, as with a network that cannot be traced.
    """
    point = image.detach().clone().requires_grad_()
    logit = smooth(point).gather(1, target[:, None]).sum()
    (slope,) = torch.autograd.grad(logit, point, create_graph=True)
    if not slope.requires_grad:
        return torch.zeros_like(image)
    distance = 1 - _cosine(slope.sum(dim=1), reference)
    # Zeros where the gradient does not reach the image.
    (gradient,) = torch.autograd.grad(distance, point, materialize_grads=True)
    return gradient


def smoothed(classifier: Classifier) -> Classifier:
    """Return the classifier with softplus in ReLU's place; itself where it cannot be traced."""
    try:
        return graph.rewritten(classifier, lambda: torch.nn.Softplus(beta=SHARPNESS), watched=False)
    except graph.UntraceableError:
        return classifier


@contextmanager
def differentiable_twice(*, enabled: bool) -> Iterator[None]:
    """Compute attention in the way that has a second derivative, as long as the context lasts.

    In all threads of the process, and for whoever else runs a network there.
    """
    with sdpa_kernel(SDPBackend.MATH) if enabled else nullcontext():
        yield
