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
    given = image.clone()
    try:
        found: object = perturb(given, cell, image_id, seed)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a family may raise anything; its records say what
        return f"the family raised {errors.one_line(error)}"
    if not isinstance(found, torch.Tensor):
        return f"the family returned {type(found).__name__}, expected a tensor"
    if found.shape != image.shape or found.dtype != image.dtype or found.device != image.device:
        kinds = [f"{one.dtype} {tuple(one.shape)} on {one.device}" for one in (found, image)]
        return f"the family returned {kinds[0]}, expected {kinds[1]}"
    # Values that are not finite are told from each other by their bits alone.
    if not torch.equal(given.view(torch.int32), image.view(torch.int32)):
        return "the family changed the image that it was given"
    return found.detach()
