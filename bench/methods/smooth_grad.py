"""Gradients averaged over noisy copies of an image: SmoothGrad and what is made of its moments."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import torch
from pydantic import Field

from steadymap.bench.methods.batch import Batch
from steadymap.bench.network.passes import shared_pass
from steadymap.models import Classifier

MOST_SAMPLES = 10_000

Samples = Annotated[int, Field(ge=1, le=MOST_SAMPLES)]
# A variance of one sample says nothing.
SeveralSamples = Annotated[int, Field(ge=2, le=MOST_SAMPLES)]
Spread = Annotated[float, Field(ge=0, le=1)]


def smooth_grad(
    classifier: Classifier, batch: Batch, *, samples: Samples = 16, noise: Spread = 0.15
) -> torch.Tensor:
    """Mean gradient of the target's logit over noisy copies, signed: (B, 3, H, W).

    The noise is normal, of standard deviation `noise` in image units; every view of an image
    has noise of its own. Source: Smilkov et al. 2017.
    """
    total = torch.zeros_like(batch.images)
    for places, gradients in _gradients(classifier, batch, samples, noise):
        total.index_add_(0, places, gradients)
    return total / samples


def smooth_grad_squared(
    classifier: Classifier, batch: Batch, *, samples: Samples = 16, noise: Spread = 0.15
) -> torch.Tensor:
    """Mean squared gradient over noisy copies, not negative: (B, 3, H, W).

    Source: Hooker et al. 2019.
    """
    total = torch.zeros_like(batch.images)
    for places, gradients in _gradients(classifier, batch, samples, noise):
        total.index_add_(0, places, gradients.square())
    return total / samples


def var_grad(
    classifier: Classifier, batch: Batch, *, samples: SeveralSamples = 16, noise: Spread = 0.15
) -> torch.Tensor:
    """Variance of the gradient over noisy copies, not negative: (B, 3, H, W).

    Of the samples themselves, over their number. Source: Adebayo et al. 2018.
    """
    # Around each image's first, and in double precision: a difference of moments loses digits.
    first: dict[int, torch.Tensor] = {}
    mean = torch.zeros_like(batch.images, dtype=torch.float64)
    mean_square = torch.zeros_like(mean)
    for places, gradients in _gradients(classifier, batch, samples, noise):
        for place, gradient in zip(places.tolist(), gradients, strict=True):
            first.setdefault(place, gradient.double())
        apart = gradients.double() - torch.stack([first[place] for place in places.tolist()])
        mean.index_add_(0, places, apart / samples)
        mean_square.index_add_(0, places, apart.square() / samples)
    return (mean_square - mean.square()).clamp(min=0).to(batch.images.dtype)


def var_grad_on_linear(weights: torch.Tensor, _batch: Batch) -> torch.Tensor:
    """Return the map on a linear network, whose gradient is the same everywhere."""
    return torch.zeros_like(weights)


def _gradients(
    classifier: Classifier, batch: Batch, samples: int, noise: float
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield places of images (n,) and gradients at noisy copies of them (n, 3, H, W).

    As many at once as go through the network together, whatever image they belong to.
    """
    shape = tuple(batch.images.shape[1:])
    draws = batch.generators("smoothing")
    queue = list(range(len(draws))) * samples
    for start in range(0, len(queue), batch.at_once):
        chosen = queue[start : start + batch.at_once]
        drawn = [torch.from_numpy(draws[place].standard_normal(shape)) for place in chosen]
        places = torch.tensor(chosen, device=batch.images.device)
        copies = batch.images[places] + noise * torch.stack(drawn).to(batch.images)
        targets = batch.targets[places]
        seen = shared_pass(classifier, copies, targets, ["gradient"], batch.at_once)
        yield places, seen.need_gradient()
