"""From a picture's file to 8-bit RGB, and what to say of data that cannot be used."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

MAX_PIXELS = 100_000_000


class DataError(ValueError):
    """Data that cannot be used, with what to do about it."""


def decode(path: Path) -> NDArray[np.uint8]:
    """Decode a file in full to 8-bit RGB (H, W, 3).

    EXIF orientation is applied; of an animation the first frame is taken; transparent pixels are
    laid on white; grey and palette become RGB; 16-bit grey is scaled to 8 bits.

    Raises:
        DataError: floats or 32-bit integers, whose range is unknown, or over 100 megapixels.
        OSError: a broken file (Pillow raises other kinds, too).
    """
    with Image.open(path) as opened:
        return pixels_of(opened)


def pixels_of(opened: Image.Image) -> NDArray[np.uint8]:
    """Return an opened picture as 8-bit RGB (H, W, 3), as `decode` does.

    Raises:
        DataError: as `decode`.
    """
    width, height = opened.size
    if width * height > MAX_PIXELS:
        raise DataError(f"{width} x {height} pixels are over {MAX_PIXELS // 10**6} megapixels")
    image = ImageOps.exif_transpose(opened)
    # Pillow reads 16-bit PNG as I;16 or I, and scales 16-bit PGM to the full range of I.
    sixteen = image.mode.startswith("I;16") or opened.format in {"PNG", "PPM"}
    if image.mode == "F" or (image.mode == "I" and not sixteen):
        raise DataError(f"mode {image.mode}: the range of its values is unknown")
    if image.mode.startswith("I"):
        grey = np.rint(np.asarray(image, dtype=np.float64) / 257).astype(np.uint8)
        image = Image.fromarray(grey)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return np.asarray(image.convert("RGB"))
