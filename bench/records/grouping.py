"""Images that belong together, of one subject or one video: what is resampled is the whole group.

Means are over images, whatever their groups: a group of three counts three times. But images of one
group say less than as many of different ones, so that errors are reckoned over groups.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# By image id the name of its group; an image that is not named is a group of its own.
Groups = Mapping[str, str]
NONE: Groups = {}


def groups_of(manifest: Mapping[str, Any]) -> Groups:
    """Return the groups of a run's images; nothing where the data has none."""
    found: Groups = manifest["data"].get("groups", NONE)
    return found


def places_of(images: Sequence[str], groups: Groups) -> NDArray[np.intp]:
    """Return the place of each image's group, (N,), numbered as they first occur."""
    known: dict[tuple[str, bool], int] = {}
    keys = [(groups.get(image, image), image in groups) for image in images]
    return np.array([known.setdefault(key, len(known)) for key in keys], dtype=np.intp)


def sums(values: Floats, places: NDArray[np.intp]) -> Floats:
    """Add up values (..., N) within the groups of `places_of`: (..., G)."""
    if not len(places):
        return values
    order = np.argsort(places, kind="stable")
    starts = np.flatnonzero(np.diff(places[order], prepend=-1))
    total: Floats = np.add.reduceat(values[..., order], starts, axis=-1)
    return total


def by_group(values: Floats, images: Sequence[str], groups: Groups) -> Floats:
    """Return one number a group, whose mean is that over images and whose spread is its error.

    Where groups are as large that is the mean of each group. Otherwise it is a pseudo-value, by how
    much the mean over images changes once the group is left out:

        p_g = mean + (G - 1) (sum of group g - its size x mean) / (images left without g)

    less what their own mean is off by. The variance of the mean of the p_g, taken as G independent
    numbers, is then that of the jackknife by group (CR3), which errs less than others where groups
    are few and of different sizes. Source: MacKinnon, Nielsen and Webb 2023. Where each image is a
    group of its own, the values come back as they are.

    Args:
        values: (N,), by image; NaN where there is none.
        images: N ids.
        groups: by image.

    Returns:
        (G,), groups in the order in which they first occur; NaN where no image has a value.
    """
    if not groups:
        return values
    places = places_of(images, groups)
    known = np.isfinite(values)
    total, count = sums(np.where(known, values, 0.0), places), sums(known.astype(float), places)
    there = count > 0
    found: Floats = np.full(len(count), np.nan)
    found[there] = total[there] / count[there]
    if len(set(count[there].tolist())) > 1:
        whole, left = count.sum(), count.sum() - count[there]
        mean = total.sum() / whole
        away = (there.sum() - 1) * (total[there] - count[there] * mean) / left
        found[there] = mean + away - away.mean()
    return found
