"""Superpixels: an image cut into parts of about one colour, as many as are asked for."""

from __future__ import annotations

import importlib
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray

# How much being near counts against being of one colour, in units of Lab; and the blur before, in
# pixels. At scikit-image's own 10 and 0 SLIC finds little more than half of the segments that it
# is asked for on photographs, and one on noise.
COMPACTNESS = 20.0
BLUR = 1.0

# Images whose segments are kept, for every method asks again; at 224 x 224 pixels a megabyte each.
KEPT = 128


def segment_count(segments: int, size: tuple[int, int]) -> int:
    """Return how many parts an image of (H, W) pixels has: no more than it has pixels."""
    return min(segments, size[0] * size[1])


def superpixels(images: torch.Tensor, segments: int) -> torch.Tensor:
    """Return the part of each pixel: (B, H, W), int64, 0 up to the number of parts.

    SLIC (Achanta et al. 2012), in single precision, and mended to give as many parts as are asked
    for: a method then looks as often at every image, and a plan knows how often. Where SLIC finds
    more, it is asked for fewer; then the largest part is halved until there are enough.

    Args:
        images: (B, 3, H, W), of any range; finite.
        segments: parts of an image; one a pixel where it has fewer pixels.

    Raises:
        ValueError: values that are not finite.
    """
    size = (images.shape[2], images.shape[3])
    pixels = images.detach().to("cpu", torch.float32).contiguous().numpy()
    labels = [_labels(image.tobytes(), size, segments) for image in pixels]
    return torch.from_numpy(np.stack(labels).astype(np.int64)).to(images.device)


@lru_cache(maxsize=KEPT)
def _labels(pixels: bytes, size: tuple[int, int], segments: int) -> NDArray[np.int32]:
    """(H, W), of one image (3, H, W) in single precision."""
    image = np.frombuffer(pixels, np.float32).reshape(3, *size)
    if not np.isfinite(image).all():
        raise ValueError("superpixels need an image whose values are finite")
    count = segment_count(segments, size)
    colours = np.moveaxis(image, 0, -1).astype(np.float64)
    requested, labels = count, _slic(colours, count)
    while (obtained := int(labels.max()) + 1) > count:
        requested = requested * count // obtained
        labels = _slic(colours, requested)
    for new in range(obtained, count):
        _halve_largest(labels, new)
    labels.flags.writeable = False
    return labels


def _slic(colours: NDArray[np.float64], requested: int) -> NDArray[np.int32]:
    # Imported when first asked for: most runs do without.
    labels = importlib.import_module("skimage.segmentation").slic(
        colours, n_segments=requested, compactness=COMPACTNESS, sigma=BLUR, start_label=0
    )
    return np.unique(labels, return_inverse=True)[1].reshape(labels.shape).astype(np.int32)


def _halve_largest(labels: NDArray[np.int32], new: int) -> None:
    """Give half of the largest part, cut across its longer side, a new label."""
    rows, columns = np.nonzero(labels == np.bincount(labels.ravel()).argmax())
    along = rows if np.ptp(rows) >= np.ptp(columns) else columns
    half = np.argsort(along, kind="stable")[len(along) // 2 :]
    labels[rows[half], columns[half]] = new
