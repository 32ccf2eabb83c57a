"""From a picture's file to 8-bit RGB, and what to say of data that cannot be used."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps
from PIL.TiffImagePlugin import BITSPERSAMPLE, PHOTOMETRIC_INTERPRETATION, TiffImageFile

from steadymap.bench.core.errors import DataError

# Where Pillow begins to warn of a bomb: with another limit of ours it would depend on what is done
# with warnings whether a picture between the two is taken.
MAX_PIXELS = 89_478_485

# What the content of a file may be, whatever its name says. Pillow knows some forty types more, one
# of which starts Ghostscript.
TYPES = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")

# How files of pictures begin, by type: ours, and others, which can be named so. Of several that fit
# the first counts.
BEGINNINGS = {
    "PNG": rb"\x89PNG\r\n\x1a\n",
    "JPEG": rb"\xff\xd8\xff",
    "WEBP": rb"RIFF.{4}WEBP",
    "BMP": rb"BM.{4}\0{4}",
    "GIF": rb"GIF8[79]a",
    "raw data of a camera": rb"II\*\0.{4}CR|II(?:U\0|RO|RS)|FUJIFILMCCD-RAW|.{4}ftypcrx",
    "TIFF": rb"II[*+]\0|MM\0[*+]",
    "PPM": rb"P[1-6]\s[\d\s#]",
    "AVIF": rb".{4}ftypavi[fs]",
    "HEIF": rb".{4}ftyp(?:hei[cfmsx]|hev[cmsx]|mif1|msf1)",
    "JPEG XL": rb"\xff\x0a|\0{3}\x0cJXL ",
    "JPEG 2000": rb"\xff\x4f\xff\x51|\0{3}\x0cjP  ",
    "Photoshop's": rb"8BPS",
}
NEW_SUBFILE_TYPE = 254


def decode(path: Path) -> NDArray[np.uint8]:
    """Decode a file in full to 8-bit RGB (H, W, 3).

    Its content decides what it is, not its suffix. EXIF orientation is applied; of an animation, or
    of pages, the first is taken; transparent pixels are laid on white; grey and palette become RGB;
    16-bit grey is scaled to 8 bits.

    Raises:
        DataError: an empty file, a picture of a type that is not read, of over 89 megapixels
            (refused before any is decoded), a TIFF whose first picture is a small copy of another,
            or values whose range is unknown: floats, 32-bit integers, 12-bit TIFF.
        OSError: a broken file (Pillow raises other kinds, too).
    """
    if not path.stat().st_size:
        raise DataError("the file is empty")
    with path.open("rb") as file:
        start = file.read(32)
    kind = next((kind for kind, how in BEGINNINGS.items() if re.match(how, start, re.DOTALL)), None)
    if kind is not None and kind not in TYPES:
        raise DataError(f"its content is {kind}, which is not read; save it as PNG or JPEG")
    try:
        with Image.open(path, formats=TYPES) as opened:
            return pixels_of(opened)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        # Pillow's own limit came first: it does not say how wide and how high.
        raise DataError(_too_large("it has")) from error


def pixels_of(opened: Image.Image) -> NDArray[np.uint8]:
    """Return an opened picture as 8-bit RGB (H, W, 3), as `decode` does.

    Raises:
        DataError: as `decode`.
    """
    width, height = opened.size
    if width * height > MAX_PIXELS:
        raise DataError(_too_large(f"{width} x {height} pixels are"))
    subfile = opened.tag_v2.get(NEW_SUBFILE_TYPE) if isinstance(opened, TiffImageFile) else None
    if isinstance(subfile, int) and subfile & 1:
        raise DataError("its first picture is a small copy of another in it; save that as PNG")
    image = ImageOps.exif_transpose(opened)
    # Pillow reads 16-bit PNG as I;16 or I, and scales 16-bit PGM to the full range of I.
    sixteen = image.mode.startswith("I;16") or opened.format in {"PNG", "PPM"}
    if image.mode == "F" or (image.mode == "I" and not sixteen):
        raise DataError(f"mode {image.mode}: the range of its values is unknown")
    if image.mode.startswith("I"):
        image = Image.fromarray(_eight_bits(opened, image))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return np.asarray(image.convert("RGB"))


def reason_of(error: Exception, path: Path, name: str) -> str:
    """Return what an exception says of a file, on one line, the file called by its name.

    Where the file lies on this machine is not said, however the message spells it.
    """
    text = str(error)
    for spelling in (repr(str(path))[1:-1], str(path)):
        text = text.replace(spelling, name)
    text = " ".join(text.split())
    return text.encode(errors="backslashreplace").decode() or type(error).__name__


def path_of(text: str) -> Path:
    """Return the path that a spec names, `~` resolved.

    Raises:
        DataError: text that no file can be called.
    """
    if "\0" in text:
        raise DataError(f"data: {text!r} has a NUL in it; no file is called so")
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise DataError(f"data: {text}: there is no such user's home; give the path") from error


def _too_large(clause: str) -> str:
    return f"{clause} over {MAX_PIXELS // 10**6} megapixels; make a smaller copy"


def _eight_bits(opened: Image.Image, image: Image.Image) -> NDArray[np.uint8]:
    """Scale 16-bit grey (H, W) to 8 bits; what a PNG calls transparent becomes white."""
    if isinstance(opened, TiffImageFile):
        bits = opened.tag_v2.get(BITSPERSAMPLE, (16,))
        if bits != (16,):
            raise DataError(f"{bits[0]} bits a value: the range of its values is unknown")
        # Pillow turns 8-bit values over, but not these.
        if opened.tag_v2.get(PHOTOMETRIC_INTERPRETATION) == 0:
            raise DataError("16-bit grey whose 0 is white; save it with 0 as black")
    values = np.asarray(image, dtype=np.float64)
    grey = np.rint(values / 257).astype(np.uint8)
    transparent = image.info.get("transparency")
    if transparent is not None:
        grey[values == transparent] = 255
    return grey
