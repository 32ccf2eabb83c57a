"""Calibrated scores, whole and with something left out: one estimand, whatever it is used for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from steadymap.bench.analysis.cells import KINDS, OTHERS, Cells, Flags, Floats
from steadymap.bench.analysis.intervals import mean_of_known
from steadymap.bench.analysis.jackknife import Replicates, left_out, without_partner

# What a score is, in one sentence.
ESTIMAND = (
    "score = (mean score - null) / (perfect score - null) over pairs whose prediction held: "
    "severities and draws averaged within an image, then images, then families of perturbations, "
    "each counting the same; a map that vanished counts as an unrelated one"
)

# A null that is defined on a smaller share of the images is none.
LEAST_SHARE = 0.2


@dataclass(frozen=True)
class Averages:
    """Distances from a perfect score, averaged within images: (methods, families, images).

    All are less the cost of being warped, and NaN where nothing is known.

    Attributes:
        distance: of the pairs that have a score.
        vanished: the share of pairs whose perturbed map vanished, of those that enter.
        cost: of being warped.
        unrelated: by `OTHERS`, of unrelated maps against the same perturbed maps.
        partners: by `OTHERS`, the same seen from the other side.
        networks: (K, ...), of each randomised network's maps against them.
        groups: (images,), the place of each image's group, see `places_of`.
    """

    distance: Floats
    vanished: Floats
    cost: Floats
    unrelated: Mapping[str, Floats]
    partners: Mapping[str, Floats]
    networks: Floats
    groups: NDArray[np.intp]

    @classmethod
    def of(cls, cells: Cells, chosen: Flags) -> Averages:
        """Average chosen pairs."""
        enter = cells.entering & chosen
        # Where an image is a partner it is no matter whether its own prediction held.
        everywhere = np.ones(len(chosen), dtype=bool)
        shape = (len(cells.methods), len(cells.families), len(cells.images))
        networks = [cells.within(row - cells.cost, enter) for row in cells.networks]
        return cls(
            cells.within(cells.distance - cells.cost, enter),
            cells.within(cells.vanished.astype(float), enter),
            cells.within(cells.cost, enter),
            {
                kind: cells.within(values - cells.cost, enter)
                for kind, values in cells.unrelated.items()
            },
            {kind: cells.within(values, everywhere) for kind, values in cells.partners.items()},
            np.reshape(networks, (len(networks), *shape)),
            cells.groups,
        )


@dataclass(frozen=True)
class Estimate:
    """What maps of one method, of one family or of several, are worth by one metric.

    Attributes:
        images: how many there are.
        distance: mean distance from a perfect score, less the cost of being warped; a map that
            vanished is as far as the null.
        cost: of being warped.
        nulls: (kinds,), by `KINDS`, mean distance of unrelated maps; NaN where it is left out.
        null_images: on how many images the null that counts is defined.
        without_vanished: the calibrated score of the maps that did not vanish.
        calibrated: whole, and with something left out.
        by_image: (N,), what is left of each image's distance as a share of the null's, its families
            counting the same; NaN where it has none.
    """

    images: int
    distance: float
    cost: float
    nulls: Floats
    null_images: int
    without_vanished: float
    calibrated: Replicates
    by_image: Floats

    @property
    def room(self) -> float:
        """How far the null is from a perfect score; NaN where there is none."""
        return _room(self.nulls)

    @property
    def null_of(self) -> str:
        """Which unrelated maps are closest; "" where there are none."""
        return KINDS[int(np.nanargmin(self.nulls))] if np.isfinite(self.nulls).any() else ""


def estimate(averages: Averages, method: int, families: Sequence[int]) -> Estimate:
    """Return what a method's maps are worth over families, each counting the same.

    Args:
        averages: of pairs.
        method: its place.
        families: their places; those of which the method has no pair are left out.
    """
    shares = averages.vanished[method, list(families)]
    known = [family for family, row in zip(families, shares, strict=True) if np.isfinite(row).any()]
    shares = averages.vanished[method, known]
    images = int(np.isfinite(shares).any(axis=0).sum())
    count = averages.networks.shape[0]
    deletions = count if count > 1 else 0
    groups, size = averages.groups, shares.shape[-1]
    parts = int(groups.max(initial=-1)) + 1
    if not known:
        rest = np.full(parts, np.nan), np.full(deletions, np.nan)
        nothing = Replicates(np.array(np.nan), *rest)
        gone = np.full(size, np.nan)
        return Estimate(0, np.nan, np.nan, np.full(len(KINDS), np.nan), 0, np.nan, nothing, gone)
    distances = averages.distance[method, known]
    # Of an image none of whose pairs has a score, nothing but what vanished is left.
    moved = np.where(np.isfinite(shares), (1 - shares) * np.nan_to_num(distances), np.nan)
    nulls, defined = _nulls(averages, method, known, images)

    def whole(rows: Floats) -> Floats:
        """Add the networks' replicates, in which nothing of these rows is left out."""
        return np.concatenate([rows, np.repeat(rows[..., :1], deletions, axis=-1)], axis=-1)

    gone, far = whole(left_out(shares, groups)), whole(left_out(moved, groups))
    calibrated, distance = _calibrated(far, gone, nulls)
    without, _ = _calibrated(whole(left_out(distances, groups)), np.zeros(gone.shape), nulls)
    means = mean_of_known(nulls, axis=1)[:, 0]
    best = int(np.nanargmin(means)) if np.isfinite(means).any() else 0
    return Estimate(
        images,
        float(distance[0]),
        float(mean_of_known(left_out(averages.cost[method, known], groups), axis=0)[0]),
        means,
        int(defined[best]),
        float(without[0]),
        Replicates(
            np.array(calibrated[0]),
            calibrated[1 : 1 + parts],
            calibrated[1 + parts :],
        ),
        mean_of_known(moved / _room(means) + shares, axis=0)
        if _room(means) > 0
        else np.full(size, np.nan),
    )


def _room(nulls: Floats) -> float:
    known = nulls[np.isfinite(nulls)]
    return float(known.min()) if len(known) else np.nan


def _nulls(
    averages: Averages, method: int, families: Sequence[int], images: int
) -> tuple[Floats, Floats]:
    """Return replicates of each kind of null, (kinds, families, 1 + G + K), and its images."""
    networks, groups = averages.networks[:, method, families], averages.groups
    count = len(networks)
    rows, defined = [], []
    for kind in OTHERS:
        values = averages.unrelated[kind][method, families]
        row = without_partner(values, averages.partners[kind][method, families], groups)
        rows.append(np.concatenate([row, *[row[..., :1]] * (count if count > 1 else 0)], axis=-1))
        defined.append(np.isfinite(values).any(axis=0).sum())
    if count:
        of_all = mean_of_known(networks, axis=0)
        rest = [
            left_out(mean_of_known(np.delete(networks, place, axis=0), axis=0), groups)[..., :1]
            for place in range(count if count > 1 else 0)
        ]
        rows.append(np.concatenate([left_out(of_all, groups), *rest], axis=-1))
        defined.append(np.isfinite(of_all).any(axis=0).sum())
    else:
        rows.append(np.full(rows[0].shape, np.nan))
        defined.append(0)
    table, found = np.stack(rows), np.array(defined, dtype=np.float64)
    table[found < LEAST_SHARE * images] = np.nan
    return table, found


def _calibrated(moved: Floats, gone: Floats, nulls: Floats) -> tuple[Floats, Floats]:
    """Return calibrated scores and mean distances, each (R,).

    The null is the closest kind over the families together. A family without that null has that of
    the others.

    Args:
        moved: (families, R), distance times the share of pairs that did not vanish.
        gone: (families, R), the share that vanished.
        nulls: (kinds, families, R).
    """
    means = mean_of_known(nulls, axis=1)
    filled = np.where(np.isfinite(nulls), nulls, means[:, None])
    distances = mean_of_known(moved + gone * np.nan_to_num(filled), axis=1)
    # Where nothing is known of a kind it is not the closest.
    best = np.argmin(np.where(np.isfinite(means), means, np.inf), axis=0)[None]
    distance = np.take_along_axis(distances, best, axis=0)[0]
    room = np.take_along_axis(mean_of_known(filled, axis=1), best, axis=0)[0]
    with np.errstate(invalid="ignore", divide="ignore"):  # no null, or one that is perfect
        calibrated: Floats = 1 - distance / room
    return np.where(np.isfinite(calibrated), calibrated, np.nan), distance
