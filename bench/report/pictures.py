"""Images and maps as small PNG pictures, and these as text for a page."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

# Where one number says how strong a map is: as for magnitudes, the clean map's 99th percentile.
PERCENTILE = 99.0

# Larger pictures are made smaller for the page.
MOST_PIXELS = 160

DIVERGING = "RdBu_r"
SEQUENTIAL = "viridis"


@dataclass(frozen=True)
class Scale:
    """What the colours of a row of maps stand for.

    Attributes:
        signed: diverging from blue (against the class) over white to red (for it), or else from
            dark (0) to bright.
        most: the value at the end of the scale, in the map's own unit; 0 where all is 0.
    """

    signed: bool
    most: float


def scale_of(clean: NDArray[np.float32], others: Iterable[NDArray[np.float32]]) -> Scale:
    """Return one scale for a clean map and those that are shown beside it.

    It ends at the 99th percentile of the clean map's magnitudes, so that a map that fades is seen
    to fade; it is signed where any of the maps has a negative value.
    """
    maps = [clean, *others]
    known = clean[np.isfinite(clean)]
    most = float(np.percentile(np.abs(known), PERCENTILE)) if known.size else 0.0
    return Scale(any(bool((values < 0).any()) for values in maps), most)


def map_levels(values: NDArray[np.float32], scale: Scale) -> NDArray[np.uint8]:
    """Return a map's places on its scale, 0 to 255; what is not finite is at 0."""
    values = np.where(np.isfinite(values), values, -np.inf if scale.signed else 0.0)
    share = np.clip(values / scale.most, -1, 1) if scale.most > 0 else np.sign(values)
    if scale.signed:
        share = (share + 1) / 2
    levels: NDArray[np.uint8] = np.rint(np.clip(share, 0, 1) * 255).astype(np.uint8)
    return levels


def map_picture(levels: NDArray[np.uint8], *, signed: bool) -> bytes:
    """Draw a map as a PNG from its places on the scale (h, w)."""
    picture = Image.fromarray(levels).convert("P")
    picture.putpalette(_palette(DIVERGING if signed else SEQUENTIAL))
    return _png(_small(picture, Image.Resampling.NEAREST))


def photo_levels(image: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return an image in image units, clipped to [0, 1], in 8 bits; what is no number is black."""
    return np.rint(np.clip(np.nan_to_num(image), 0, 1) * 255).astype(np.uint8)


def photo(values: NDArray[np.uint8]) -> bytes:
    """Draw an image (3, H, W) as a PNG."""
    return _png(_small(Image.fromarray(values.transpose(1, 2, 0)), Image.Resampling.BILINEAR))


def as_uri(png: bytes) -> str:
    """Return a picture as an address that holds it."""
    return "data:image/png;base64," + base64.b64encode(png).decode()


def _palette(name: str) -> list[int]:
    from matplotlib import colormaps  # noqa: PLC0415 - takes a second

    colours = colormaps[name](np.arange(256), bytes=True)[:, :3]
    return [int(value) for value in colours.ravel()]


def _small(picture: Image.Image, how: Image.Resampling) -> Image.Image:
    larger = max(picture.size) / MOST_PIXELS
    if larger <= 1:
        return picture
    width, height = (max(1, round(side / larger)) for side in picture.size)
    return picture.resize((width, height), how)


def _png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
