"""Images shifted, turned and enlarged about their centre, and their maps brought back in place.

A map of a moved image shows the same things at other places. So it is warped back before it is
compared, and both it and the clean map are cropped to what the two have in common. Places are rows
and columns in pixels from the image's centre; a map of any resolution covers the whole image. All
is bilinear, and beyond the border an image is its own mirror, the pixel at the border repeated.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from steadymap.metrics import Maps, TensorMaps
from steadymap.metrics.maps import Array
from steadymap.metrics.single import area_average, coverage

# Places are rounded to that many decimals of a cell: what rounding made of a whole number is whole.
DECIMALS = 9

Matrix = tuple[tuple[float, float], tuple[float, float]]
UNTURNED: Matrix = ((1.0, 0.0), (0.0, 1.0))


@dataclass(frozen=True)
class Warp:
    """Where things of an image go: clean place = matrix @ perturbed place + shift.

    Attributes:
        matrix: without unit.
        shift: rows and columns, in pixels.
        size: height and width of the image, in pixels.
    """

    matrix: Matrix
    shift: tuple[float, float]
    size: tuple[int, int]


@dataclass(frozen=True)
class Window:
    """A part of a map: some rows and columns of its cells, at least one of each."""

    rows: slice
    columns: slice


def shifted(severity: float, size: tuple[int, int]) -> Warp:
    """Move down and to the right by that share of each side, in whole pixels."""
    down, across = (round(severity * side) for side in size)
    return Warp(UNTURNED, (-float(down), -float(across)), size)


def turned(severity: float, size: tuple[int, int]) -> Warp:
    """Turn by that many degrees, counter-clockwise where positive."""
    angle = math.radians(severity)
    cos, sin = math.cos(angle), math.sin(angle)
    return Warp(((cos, sin), (-sin, cos)), (0.0, 0.0), size)


def enlarged(severity: float, size: tuple[int, int]) -> Warp:
    """Enlarge 1 + severity times; shrink where negative."""
    scale = 1 / (1 + severity)
    return Warp(((scale, 0.0), (0.0, scale)), (0.0, 0.0), size)


def warping(
    warp: Callable[[float, tuple[int, int]], Warp],
) -> Callable[[torch.Tensor, float, np.random.Generator], torch.Tensor]:
    """Return the perturbation that warps images so."""

    def apply(image: torch.Tensor, severity: float, _rng: np.random.Generator) -> torch.Tensor:
        height, width = image.shape[1:]
        return warped(image, warp(severity, (height, width)))

    return apply


translation = warping(shifted)
rotation = warping(turned)
zoom = warping(enlarged)


def warped(image: torch.Tensor, warp: Warp) -> torch.Tensor:
    """Warp an image (3, H, W), or maps of it (..., h, w); what is not moved keeps its values."""
    height, width = image.shape[-2:]
    places = _places((height, width), warp.size)
    (a, b), (c, d) = warp.matrix
    rows = a * places[0] + b * places[1] + warp.shift[0]
    columns = c * places[0] + d * places[1] + warp.shift[1]
    return _sample(image, *_cells(rows, columns, (height, width), warp.size))


def _origins(warp: Warp, size: tuple[int, int]) -> tuple[Array, Array]:
    """Return where each cell of a clean map (h, w) lies in the perturbed one, in its cells."""
    rows, columns = _places(size, warp.size)
    rows, columns = rows - warp.shift[0], columns - warp.shift[1]
    (a, b), (c, d) = warp.matrix
    determinant = a * d - b * c
    return _cells(
        (d * rows - b * columns) / determinant,
        (a * columns - c * rows) / determinant,
        size,
        warp.size,
    )


def _places(size: tuple[int, int], pixels: tuple[int, int]) -> tuple[Array, Array]:
    """Return row and column of the centre of each cell of a map (h, w), in pixels."""
    rows, columns = (
        ((np.arange(cells) + 0.5) / cells - 0.5) * side
        for cells, side in zip(size, pixels, strict=True)
    )
    down, across = np.meshgrid(rows, columns, indexing="ij")
    return down, across


def _cells(
    rows: Array, columns: Array, size: tuple[int, int], pixels: tuple[int, int]
) -> tuple[Array, Array]:
    """Return places in cells of a map (h, w): 0 is the centre of the first."""
    down, across = (
        ((places / side + 0.5) * cells - 0.5).round(DECIMALS)
        for places, side, cells in zip((rows, columns), pixels, size, strict=True)
    )
    return down, across


def _sample(values: torch.Tensor, rows: Array, columns: Array) -> torch.Tensor:
    """Return values (..., h, w) at places in cells, interpolated; mirrored beyond the border."""
    height, width = values.shape[-2:]
    flat = values.flatten(-2)
    total = torch.zeros((), dtype=values.dtype, device=values.device)
    for row, down in _neighbours(rows, height):
        for column, across in _neighbours(columns, width):
            share = torch.from_numpy(down * across).to(values)
            place = torch.from_numpy(row * width + column).to(values.device)
            total = total + share * flat[..., place]
    return total


def _neighbours(places: Array, count: int) -> list[tuple[NDArray[np.int64], Array]]:
    """Return the cells before and after each place, and their shares."""
    before = np.floor(places)
    after_share = places - before
    neighbours = []
    for place, share in ((before, 1 - after_share), (before + 1, after_share)):
        inside = place.astype(np.int64) % (2 * count)
        neighbours.append((np.minimum(inside, 2 * count - 1 - inside), share))
    return neighbours


# --- maps -----------------------------------------------------------------------------------------


def in_common(warp: Warp, size: tuple[int, int]) -> Window | None:
    """Return the largest part of a clean map (h, w) that the perturbed one shows in full.

    Each of its cells comes from between cells of the perturbed map, none from beyond them. Turned
    and enlarged, it lies about the centre; where a tall one and a wide one are equally large, it is
    what they have in common, so that neither is preferred. None where nothing is left.
    """
    rows, columns = _origins(warp, size)
    seen = (rows >= 0) & (rows <= size[0] - 1) & (columns >= 0) & (columns <= size[1] - 1)
    if not seen.any():
        return None
    (top, bottom), (left, right) = (
        (int(places[0]), int(places[-1]) + 1)
        for places in (np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0)))
    )
    # What is seen is convex and symmetric: a rectangle about its centre lies inside where its
    # corner does.
    inside = seen[top:bottom, left:right]
    height, width = inside.shape
    areas = (height - 2 * np.arange((height + 1) // 2))[:, None] * (
        width - 2 * np.arange((width + 1) // 2)
    )
    corners = inside & inside[::-1] & inside[:, ::-1] & inside[::-1, ::-1]
    areas = np.where(corners[: areas.shape[0], : areas.shape[1]], areas, 0)
    if not areas.any():
        return None
    down, across = (int(places.max()) for places in np.nonzero(areas == areas.max()))
    return Window(slice(top + down, bottom - down), slice(left + across, right - across))


def warped_back(maps: torch.Tensor, warp: Warp, window: Window) -> torch.Tensor:
    """Return maps (..., h, w) of the perturbed image as the clean image's, inside the window."""
    height, width = maps.shape[-2:]
    rows, columns = _origins(warp, (height, width))
    chosen = (window.rows, window.columns)
    return _sample(maps, rows[chosen], columns[chosen])


def maps_back(maps: Maps | TensorMaps, warp: Warp, window: Window) -> Maps | TensorMaps:
    """Return maps of the perturbed image as the clean image's, inside the window.

    Warping is linear: the maps are already summed over channels.
    """
    if isinstance(maps, TensorMaps):
        return TensorMaps(warped_back(maps.signed, warp, window))
    return Maps(warped_back(torch.from_numpy(maps.signed), warp, window).numpy())


def maps_there_and_back(maps: Maps | TensorMaps, warp: Warp, window: Window) -> Maps | TensorMaps:
    """Return clean maps warped as the image is and back again, inside the window.

    So a method's maps would come back that move exactly as the image does (an equivariant one):
    interpolated twice, not quite as they were. What is compared with it is the best to be had.
    """
    if isinstance(maps, TensorMaps):
        return TensorMaps(warped_back(warped(maps.signed, warp), warp, window))
    moved = warped(torch.from_numpy(maps.signed), warp)
    return Maps(warped_back(moved, warp, window).numpy())


def maps_inside(maps: Maps | TensorMaps, window: Window) -> Maps | TensorMaps:
    """Return maps cut to a window."""
    chosen = (slice(None), window.rows, window.columns)
    if isinstance(maps, TensorMaps):
        return TensorMaps(maps.signed[chosen])
    return Maps(maps.signed[chosen])


def masks_inside(
    masks: Array | torch.Tensor, size: tuple[int, int], window: Window
) -> Array | torch.Tensor:
    """Return masks (B, H, W), averaged down to the maps' resolution (h, w) and cut to a window."""
    chosen = (slice(None), window.rows, window.columns)
    if not isinstance(masks, torch.Tensor):
        return area_average(masks, size)[chosen]
    rows, columns = (
        torch.from_numpy(coverage(new, old)).to(masks)
        for new, old in zip(size, masks.shape[1:], strict=True)
    )
    return (rows @ masks @ columns.T)[chosen]
