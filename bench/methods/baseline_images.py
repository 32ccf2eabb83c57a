"""The images of each baseline: from a batch, (B, 3, H, W)."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch

from steadymap.bench.methods.baselines import NOISY_BASELINE
from steadymap.bench.methods.batch import Batch

# Fong and Vedaldi 2017 blur images of 224 pixels by 10.
BLURRED_BASELINE = 10 / 224


def black(batch: Batch) -> torch.Tensor:
    """Return 0 everywhere."""
    return torch.zeros_like(batch.images)


def white(batch: Batch) -> torch.Tensor:
    """Return 1 everywhere."""
    return torch.ones_like(batch.images)


def random(batch: Batch) -> torch.Tensor:
    """Uniform noise in [0, 1], one draw an image."""
    return _uniform_noise(batch, "baseline")


def uniform(batch: Batch) -> torch.Tensor:
    """Uniform noise in [0, 1], another draw than `random`."""
    return _uniform_noise(batch, "uniform baseline")


def _uniform_noise(batch: Batch, purpose: str) -> torch.Tensor:
    shape = tuple(batch.images.shape[1:])
    draws = [torch.from_numpy(rng.random(shape)) for rng in batch.generators(purpose)]
    return torch.stack(draws).to(batch.images)


def gaussian(batch: Batch) -> torch.Tensor:
    """Add normal noise to the image, and clamp nothing."""
    shape = tuple(batch.images.shape[1:])
    generators = batch.generators("gaussian baseline")
    draws = [torch.from_numpy(rng.standard_normal(shape)) for rng in generators]
    return batch.images + NOISY_BASELINE * torch.stack(draws).to(batch.images)


def blur(batch: Batch) -> torch.Tensor:
    """Blur by a Gaussian in proportion to the shorter side; what is outside repeats the edge."""
    height, width = batch.images.shape[2:]
    sigma = BLURRED_BASELINE * min(height, width)
    down, across = (_blurring(side, sigma).to(batch.images) for side in (height, width))
    return down @ batch.images @ across.T


@cache
def _blurring(side: int, sigma: float) -> torch.Tensor:
    """Return what blurs a column when it is multiplied by it: (side, side), float64."""
    # Loaded here: it takes half a second, which would be on the clock of every method's first map.
    from scipy.ndimage import gaussian_filter1d  # noqa: PLC0415

    matrix = gaussian_filter1d(np.eye(side), sigma, axis=0, mode="nearest")
    return torch.from_numpy(matrix)


def mean(batch: Batch) -> torch.Tensor:
    """Return each image's mean colour."""
    return batch.images.mean(dim=(2, 3), keepdim=True).expand_as(batch.images)


def max_distance(batch: Batch) -> torch.Tensor:
    """Choose black or white, value by value: whichever is farther; from the middle, white."""
    return (batch.images <= 0.5).to(batch.images)  # noqa: PLR2004 - the middle of [0, 1]


def average(batch: Batch) -> torch.Tensor:
    """Return, for each image, the mean of other images of the data set."""
    references = batch.need_references()
    return torch.stack([references[others].mean(dim=0) for others in batch.others()])
