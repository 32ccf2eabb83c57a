"""Shifts of brightness and kinds of noise."""

from __future__ import annotations

import numpy as np
import torch

from steadymap.bench.perturbations.attack import random_signs


def random_sign(image: torch.Tensor, severity: float, rng: np.random.Generator) -> torch.Tensor:
    """Add or take off the severity at every value, as a coin says."""
    return image + severity * random_signs(image, rng)


def shot_noise(image: torch.Tensor, severity: float, rng: np.random.Generator) -> torch.Tensor:
    """Count photons: Poisson with a variance of the severity at white, less in the dark."""
    if severity == 0:
        return image.clone()
    light = image.double().clamp(min=0) / severity
    counts = rng.poisson(light.numpy())
    return torch.from_numpy(counts * severity).to(image.dtype)


def speckle_noise(image: torch.Tensor, severity: float, rng: np.random.Generator) -> torch.Tensor:
    """Multiply by 1 + normal noise whose standard deviation is the severity."""
    noise = rng.standard_normal(tuple(image.shape), dtype=np.float32)
    return image + image * (severity * torch.from_numpy(noise))


def bias(image: torch.Tensor, severity: float, _rng: np.random.Generator) -> torch.Tensor:
    """Add the severity to every value of every channel."""
    return image + severity


def unchanged(image: torch.Tensor, _severity: float, _rng: np.random.Generator) -> torch.Tensor:
    """Leave the image as it is: another takes on the severity."""
    return image.clone()


def gaussian_noise(image: torch.Tensor, severity: float, rng: np.random.Generator) -> torch.Tensor:
    """Add normal noise whose standard deviation is the severity."""
    noise = rng.standard_normal(tuple(image.shape), dtype=np.float32)
    return image + severity * torch.from_numpy(noise)


def uniform_noise(image: torch.Tensor, severity: float, rng: np.random.Generator) -> torch.Tensor:
    """Add noise that is uniform between minus and plus the severity."""
    noise = 2 * rng.random(tuple(image.shape), dtype=np.float32) - 1
    return image + severity * torch.from_numpy(noise)


def salt_and_pepper(image: torch.Tensor, severity: float, rng: np.random.Generator) -> torch.Tensor:
    """Turn that share of the pixels black or white, all channels together."""
    size = tuple(image.shape[1:])
    hit = torch.from_numpy(rng.random(size) < severity)
    colour = torch.from_numpy(rng.integers(0, 2, size)).to(image.dtype)
    return torch.where(hit, colour, image)


def needs_classifier(
    _image: torch.Tensor, _severity: float, _rng: np.random.Generator
) -> torch.Tensor:
    """Stand in `apply`'s place where there is an attack.

    Raises:
        TypeError: always.
    """
    raise TypeError("this family attacks a classifier: call its `attack`")
