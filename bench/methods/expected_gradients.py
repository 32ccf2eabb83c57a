"""Gradients along paths from several places: draws of a baseline, or images of the data set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from steadymap.bench.methods import integrated_gradients, method, paths, smooth_grad
from steadymap.bench.methods.baselines import Start
from steadymap.bench.methods.batch import Batch
from steadymap.bench.network.passes import shared_pass
from steadymap.models import Classifier

MOST_BASELINES = 1000

DrawnBaseline = Literal["random", "uniform", "gaussian"]
Baselines = Annotated[int, Field(ge=1, le=MOST_BASELINES)]
PathSteps = Annotated[int, Field(ge=1, le=integrated_gradients.MOST_STEPS)]


def integrated_gradients_averaged(
    classifier: Classifier,
    batch: Batch,
    *,
    baseline: DrawnBaseline = "uniform",
    baselines: Baselines = 8,
    steps: PathSteps = 16,
) -> torch.Tensor:
    """Mean of integrated gradients over several draws of a baseline, signed: (B, 3, H, W).

    The first draw is that of `integrated_gradients`. Complete: maps add up to the logit minus the
    mean logit of the draws. Source: Sturmfels et al. 2020.
    """
    nodes, shares = paths.gauss_legendre(steps, batch.images)
    total = torch.zeros_like(batch.images)
    for start in Start(baseline, baselines).images(batch):
        path = paths.Line(start, batch.images, batch.targets, batch.at_once)
        total += paths.path_sum(classifier, path, nodes, shares) * (batch.images - start)
    return total / baselines


def averaged_points(parameters: method.Parameters) -> int:
    """Return how many points of all paths one map of `integrated_gradients_averaged` takes."""
    return int(str(parameters["baselines"])) * integrated_gradients.points_of(parameters)


def expected_gradients(
    classifier: Classifier, batch: Batch, *, samples: smooth_grad.Samples = 32
) -> torch.Tensor:
    """Mean of gradient times way, at random places between references and image: (B, 3, H, W).

    Each sample draws another image of the data set and a place between the two. Every view of
    an image has draws of its own. Complete in expectation alone. Source: Erion et al. 2021,
    equation 3.

    Raises:
        ValueError: the batch has no images of the data set.
    """
    return _expected(classifier, batch, samples, 0.0)


def gradient_shap(
    classifier: Classifier,
    batch: Batch,
    *,
    samples: smooth_grad.Samples = 32,
    noise: smooth_grad.Spread = 0.09,
) -> torch.Tensor:
    """Expected gradients with normal noise added to the image, as captum does: (B, 3, H, W).

    The noise has standard deviation `noise`, in image units; without any these are
    `expected_gradients`. Source: Lundberg and Lee 2017.

    Raises:
        ValueError: the batch has no images of the data set.
    """
    return _expected(classifier, batch, samples, noise)


@dataclass(frozen=True)
class _Sample:
    """Which reference, how far from it to the image, and noise (3, H, W) or ()."""

    reference: int
    place: float
    noise: NDArray[np.float64]


def _draw(rng: np.random.Generator, others: list[int], shape: tuple[int, ...]) -> _Sample:
    reference = others[rng.integers(len(others))]
    return _Sample(reference, rng.random(), np.asarray(rng.normal(size=shape)))


def _expected(classifier: Classifier, batch: Batch, samples: int, noise: float) -> torch.Tensor:
    """Take as many points at once as go through the network together, whosever they are."""
    references, others = batch.need_references(), batch.others()
    draws = batch.generators("expected gradients")
    queue = list(range(len(draws))) * samples
    shape = tuple(batch.images.shape[1:])
    total = torch.zeros_like(batch.images)
    for first in range(0, len(queue), batch.at_once):
        chosen = queue[first : first + batch.at_once]
        # One sample after the other: what an image draws must not depend on the others.
        drawn = [_draw(draws[line], others[line], shape if noise else ()) for line in chosen]
        starts = references[[sample.reference for sample in drawn]]
        ends = batch.images[chosen]
        if noise:
            noises = torch.from_numpy(np.stack([sample.noise for sample in drawn]))
            ends = ends + noise * noises.to(ends)
        places = ends.new_tensor([sample.place for sample in drawn])
        points = torch.lerp(starts, ends, places.view(-1, 1, 1, 1))
        targets = batch.targets[chosen]
        seen = shared_pass(classifier, points, targets, ["gradient"], batch.at_once)
        lines = torch.tensor(chosen, device=total.device)
        total.index_add_(0, lines, seen.need_gradient() * (ends - starts))
    return total / samples
