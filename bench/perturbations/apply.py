"""A cell of a run, applied to images."""

from __future__ import annotations

import numpy as np
import torch

from steadymap.bench.core import errors, randomness
from steadymap.bench.perturbations.cell import Cell
from steadymap.bench.perturbations.registry import FAMILY_SHELF


def perturb(image: torch.Tensor, cell: Cell, image_id: str, seed: int) -> torch.Tensor:
    """Apply a cell to one image (3, H, W) on the CPU; the draw is the image's own."""
    rng = draw_of(cell, image_id, seed)
    return FAMILY_SHELF.find(cell.family).apply(image, cell.severity, rng)


def draw_of(cell: Cell, image_id: str, seed: int) -> np.random.Generator:
    """Return the generator of an image's own draw of a cell."""
    return randomness.generator(seed, image_id, cell.family, cell.severity, cell.draw)


def attempt(image: torch.Tensor, cell: Cell, image_id: str, seed: int) -> torch.Tensor | str:
    """Apply a cell as `perturb` does; where the family fails, return why.

    The family works on a copy: one that writes into the image it is given harms no other.
    """
    own = image.clone()
    try:
        perturbed: object = perturb(own, cell, image_id, seed)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a family may raise anything; its records say what
        return f"the family raised {errors.one_line(error)}"
    if not isinstance(perturbed, torch.Tensor):
        return f"the family returned {type(perturbed).__name__}, expected a tensor"
    if (
        perturbed.shape != image.shape
        or perturbed.dtype != image.dtype
        or perturbed.device != image.device
    ):
        kinds = [
            f"{tensor.dtype} {tuple(tensor.shape)} on {tensor.device}"
            for tensor in (perturbed, image)
        ]
        return f"the family returned {kinds[0]}, expected {kinds[1]}"
    # Values that are not finite are told from each other by their bits alone.
    if not torch.equal(own.view(torch.int32), image.view(torch.int32)):
        return "the family changed the image that it was given"
    return perturbed.detach()
