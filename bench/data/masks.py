"""Masks of the object for pictures that come without: by the colour of what is behind it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from steadymap.bench.core.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

    from steadymap.bench.data.image_set import Frame, ImageSet

# How much more green than red and blue a pixel of the screen is, of 1. A shadow on the screen has
# less of all three, but still this much more green; a white sleeve that it shines on has less.
GREEN_EXCESS = 0.05


@dataclass(frozen=True)
class Mask:
    """A way to find the object.

    Attributes:
        find: takes a clean image (3, H, W) in [0, 1], returns (H, W): 1 in the object, 0 outside.
        summary: one line for `steadymap list`.
        source: where it is from.
    """

    find: Callable[[Tensor], NDArray[np.float64]]
    summary: str
    source: str


def green_screen(image: Tensor) -> NDArray[np.float64]:
    """Call object what is not clearly green: green less than 0.05 above both red and blue.

    Args:
        image: (3, H, W), RGB in [0, 1].

    Returns:
        (H, W), 1 in the object, 0 on the screen.

    Source: colour-difference keying, Smith and Blinn 1996, "Blue screen matting".
    """
    red, green, blue = image.double().numpy()
    inside: NDArray[np.float64] = (green - np.maximum(red, blue) < GREEN_EXCESS).astype(np.float64)
    return inside


MASKS: dict[str, Mask] = {
    "green_screen": Mask(
        green_screen,
        f"all that is not greener than red and blue by {GREEN_EXCESS:g} of 1",
        "Smith and Blinn 1996",
    ),
}


def with_masks(images: ImageSet, name: str) -> ImageSet:
    """Return a set with a mask for each picture, found in the clean image at the input size.

    Args:
        images: pictures without masks.
        name: a key of `MASKS`.

    Raises:
        DataError: the pictures have masks of their own.
    """
    if images.masks:
        raise DataError(f"mask: {images.name} has masks of its own; leave {name} out to use these")
    find = MASKS[name].find

    def read(index: int) -> Frame:
        frame = images.read(index)
        return replace(frame, mask=find(frame.image))

    return replace(images, read=read, masks=name)
