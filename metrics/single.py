"""Metrics of one map, against what the classifier or the data say."""

from __future__ import annotations

import numpy as np

from steadymap.metrics.maps import Array, Maps

# Below a hundredth of a logit there is nothing to explain, and float32 sums are half noise.
SMALL_DELTA = 0.01


def completeness_error(maps: Maps, deltas: Array) -> Array:
    """Absolute completeness error, in logits: |sum of attributions - delta|, at least 0.

    Args:
        maps: raw, B of them.
        deltas: (B,), the target's logit at the image minus its logit at the baseline.

    Source: Sundararajan, Taly and Yan 2017, proposition 1.
    """
    error: Array = np.abs(maps.signed.sum(axis=(1, 2)) - deltas)
    return error


def completeness_error_relative(maps: Maps, deltas: Array) -> Array:
    """Completeness error over |delta|; undefined where |delta| is below 0.01 logits."""
    error: Array = completeness_error(maps, deltas) / np.abs(deltas)
    return error


def mask_mass(maps: Maps, masks: Array) -> Array:
    """Share of a map's magnitude inside a mask, in [0, 1].

    Args:
        maps: B of them, none constant.
        masks: (B, H, W) in [0, 1], H and W at least h and w; averaged down to the map's resolution.
    """
    coarse = area_average(masks, maps.signed.shape[1:])
    magnitude = maps.magnitude
    share: Array = (magnitude * coarse).sum(axis=(1, 2)) / magnitude.sum(axis=(1, 2))
    return share


def area_average(maps: Array, size: tuple[int, int]) -> Array:
    """Shrink maps (B, H, W) to (B, *size): each new pixel is the mean over the area it covers."""
    rows, columns = coverage(size[0], maps.shape[1]), coverage(size[1], maps.shape[2])
    averaged: Array = rows @ maps @ columns.T
    return averaged


def coverage(new: int, old: int) -> Array:
    """(new, old), how much of each old pixel lies in each new one; rows sum to 1."""
    edges = np.arange(new + 1) * (old / new)
    cells = np.arange(old)
    overlap = np.minimum(edges[1:, None], cells + 1) - np.maximum(edges[:-1, None], cells)
    share: Array = np.clip(overlap, 0, None) / (old / new)
    return share
