"""ImageNet-C's corruptions, each at its five levels, through the package `imagecorruptions`.

from steadymap.bench.core.errors import message_of

They are what others report numbers on: 8 bits in, 8 bits out, with the constants of the paper.
Source: Hendrycks and Dietterich 2019, "Benchmarking Neural Network Robustness to Common Corruptions
and Perturbations".
"""

from __future__ import annotations

import importlib
import threading
from types import ModuleType

import numpy as np
import torch
from numpy.typing import NDArray

from steadymap.bench.core.errors import message_of

# These draw from a generator of their own, which they take a seed for.
SEEDED = ("impulse_noise", "glass_blur")
MOST_SEED = 2**32

_lock = threading.Lock()


def missing() -> str | None:
    """Return why the package cannot be used, and what to do; None where it can."""
    try:
        _package()
    except ImportError as error:
        return f"needs pip install 'steadymap[corruptions]' ({message_of(error)})"
    return None


def corruption(
    name: str, image: torch.Tensor, severity: float, rng: np.random.Generator
) -> torch.Tensor:
    """Corrupt an image (3, H, W) by the corruption of that name; its severity is a level."""
    return corrupt(image, name, int(severity), rng)


def corrupt(image: torch.Tensor, name: str, level: int, rng: np.random.Generator) -> torch.Tensor:
    """Corrupt an image (3, H, W) at one of the five levels; 0 is the image itself.

    The package draws from NumPy's global generator. It is seeded from `rng`, by one thread at a
    time, and put back as it was.
    """
    if level == 0:
        return image.clone()
    pixels = (image.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    while True:
        try:
            corrupted = _seeded(pixels, name, level, int(rng.integers(MOST_SEED)))
        except FloatingPointError:
            # Spatter divides by the largest drop. On a small image there may be none: again.
            continue
        return torch.from_numpy(np.array(corrupted)).permute(2, 0, 1).to(torch.float32) / 255


def _seeded(pixels: NDArray[np.uint8], name: str, level: int, seed: int) -> NDArray[np.uint8]:
    package = _package()
    own = {"seed": seed} if name in SEEDED else {}
    with _lock, np.errstate(invalid="raise"):
        # NumPy's global generator is what the package draws from.
        before = np.random.get_state()  # noqa: NPY002
        np.random.seed(seed)  # noqa: NPY002
        try:
            corrupted: NDArray[np.uint8] = package.corrupt(
                pixels, severity=level, corruption_name=name, **own
            )
        finally:
            np.random.set_state(before)  # noqa: NPY002
    return corrupted


def _package() -> ModuleType:
    """Import the package when it is first asked for: that takes seconds."""
    return importlib.import_module("imagecorruptions")
