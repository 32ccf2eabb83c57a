"""What a metric reads: signed maps, or magnitudes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

CLIP_PERCENTILE = 99.0

# A spread this small beside the largest value is a constant plus float32 rounding (2^-23 = 1.2e-7
# a step), on which ranks and windows say nothing.
CONSTANT_SPREAD = 1e-6

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Maps:
    """A batch of saliency maps at the method's own resolution.

    Attributes:
        signed: (B, h, w), attributions summed over channels, unscaled.
    """

    signed: Array

    @classmethod
    def from_attributions(cls, attributions: NDArray[np.floating]) -> Maps:
        """Sum attributions (B, C, h, w) over their channels, in double precision.

        Raises:
            ValueError: another number of dimensions.
        """
        if attributions.ndim != 4:  # noqa: PLR2004 - (B, C, h, w)
            raise ValueError(
                f"attributions: expected (batch, channels, height, width), "
                f"got shape {attributions.shape}"
            )
        return cls(attributions.astype(np.float64).sum(axis=1))

    def __len__(self) -> int:
        """Return the number of maps."""
        return len(self.signed)

    @cached_property
    def magnitude(self) -> Array:
        """(B, h, w) in [0, 1]: absolute values, clipped at each map's own 99th percentile."""
        return magnitude(self.signed)


def magnitude(signed: Array) -> Array:
    """Turn signed maps (B, h, w) into magnitudes (B, h, w) in [0, 1].

    Each is the absolute value, clipped at its own 99th percentile (NumPy's linear rule) and divided
    by it. Where that percentile is 0, fewer than one pixel in a hundred says anything and the
    magnitude is 0 throughout: a constant, which metrics report as degenerate. Maps that are not
    finite give NaN.
    """
    absolute = np.abs(signed)
    absolute[~np.isfinite(absolute).all(axis=(1, 2))] = np.nan
    top = np.percentile(absolute, CLIP_PERCENTILE, axis=(1, 2), keepdims=True)
    scaled = np.zeros_like(absolute)
    np.divide(np.minimum(absolute, top), top, out=scaled, where=top != 0)
    return scaled


def is_constant(maps: Array) -> Flags:
    """(B,): whether a map's spread is at most 1e-6 of its largest absolute value."""
    spread: Array = maps.max(axis=(1, 2)) - maps.min(axis=(1, 2))
    constant: Flags = spread <= CONSTANT_SPREAD * np.abs(maps).max(axis=(1, 2))
    return constant
