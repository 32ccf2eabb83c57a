"""Whose fault it is that a map moved: the method's, or the network's changed function."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from steadymap.bench.analysis import instability, intervals
from steadymap.bench.records.grouping import NONE, Groups, by_group
from steadymap.bench.records.vocabulary import (
    COMPENSATED,
    FAMILY,
    IMAGE_ID,
    METHOD,
    METRIC,
    SEVERITY,
    SHIFTED,
    STATUS,
)
from steadymap.metrics import Metric, Status

BIAS = "bias"

# Where nobody measured what rounding does: scores of maps in float32 are equal but for this.
ROUNDING = 1e-6

# As a share of all that moves, less than this is nothing.
NOTHING = 1e-3

# What may be said of the halves.
SPLIT = "split"
IDENTITY = "identity: the method moves with the network's function alone"
STILL = "no share: the maps moved no more than rounding moves them"
NEGATIVE = "no share: the effects work against each other, and a half is negative"
INTERACTING = "no share: the effects are larger together, or smaller, than either half"
UNMEASURED = "no share: the network was not shifted alone"

HALVES = ("own", "network", "interaction")

COLUMNS = [
    METHOD,
    METRIC,
    SEVERITY,
    "images",
    "total",
    COMPENSATED,
    SHIFTED,
    *(name + end for name in HALVES for end in ("", "_low", "_high")),
    "network_share",
    "low",
    "high",
    "interval",
    "verdict",
]


def whose_fault(
    records: pd.DataFrame,
    metrics: Mapping[str, Metric] | None = None,
    groups: Groups = NONE,
) -> pd.DataFrame:
    """Split the instability under a bias between the method and the network.

    Two things change under a bias: the image that the method sees, and the network's function of
    the picture. Each is changed alone, too. With d the distance of a score from a perfect one
    (1 - SSIM, say), averaged over the severities that all families have, then over images that have
    a value under all:

        total            = d under `bias`: both change
        compensated_bias = d where the image moved, and the network takes the shift off
        shifted_network  = d where the image stayed, and the network adds the shift
        own              = (compensated_bias + total - shifted_network) / 2
        network          = (shifted_network + total - compensated_bias) / 2
        interaction      = total - compensated_bias - shifted_network
        share            = network / total

    The halves are Shapley's: what each change adds, averaged over which of them comes first; they
    sum to the total. Source: Shapley 1953. They are a share of something only where both add to it:
    where one is negative, or the interaction larger than either, there is no share, and `verdict`
    says so. Of a method that does not move where the function of the picture stays (gradient, say)
    that is an identity, no finding: `verdict` says that, too.

    Args:
        records: of a run with a bias and a compensated one at some severity in common, at best with
            a shifted network at the same ones.
        metrics: as for `calibrate`.
        groups: of images.

    Returns:
        One row a method and metric, in the order of the records, over all severities (`severity`
        missing), and one a severity, with 95% intervals from resampling images, or groups of them;
        empty where the families have no severity in common. Without a shifted network there are no
        halves.
    """
    rows: list[dict[str, object]] = []
    floors = instability.Instability.of(records, metrics)
    for severity, chosen, cells in _experiments(records):
        unstable = instability.Instability.of(_together(chosen, cells), metrics)
        present, images = set(unstable.pairs()), np.array(unstable.images(), dtype=object)
        for method, metric in (pair for pair in floors.pairs() if pair in present):
            sample = np.stack([unstable.at(method, metric, family) for family in cells])
            known = np.isfinite(sample).all(axis=0)
            names = images[known].tolist()
            units = np.stack([by_group(row, names, groups) for row in sample[:, known]])
            floor = floors.floor(method, metric)
            row = {METHOD: method, METRIC: metric, SEVERITY: severity, "images": len(names)}
            rows.append(row | _split(units, ROUNDING if np.isnan(floor) else floor))
    return pd.DataFrame(rows, columns=COLUMNS)


def _experiments(
    records: pd.DataFrame,
) -> list[tuple[float | None, pd.DataFrame, tuple[str, ...]]]:
    """Return severities, None for all together, their records, and the families that are there.

    Together are the severities of all three families, or else those of the first two.
    """
    cells = (BIAS, COMPENSATED, SHIFTED)
    chosen = records[records[FAMILY].isin(cells)]
    levels = [set(chosen[chosen[FAMILY] == family][SEVERITY]) for family in cells]
    two, three = sorted(levels[0] & levels[1]), sorted(set.intersection(*levels))
    if not two:
        return []
    families = cells if three else cells[:2]
    whole = chosen[chosen[SEVERITY].isin(three or two)]
    return [
        (None, whole, families),
        *(
            (level, chosen[chosen[SEVERITY] == level], cells if level in three else cells[:2])
            for level in two
        ),
    ]


def _together(records: pd.DataFrame, families: tuple[str, ...]) -> pd.DataFrame:
    """Keep the values of an image at a severity that has them under all families."""
    valid = records[(records[STATUS] == Status.OK.value) & records[FAMILY].isin(families)]
    key = [IMAGE_ID, METHOD, METRIC, SEVERITY]
    count = valid.groupby(key, observed=True)[FAMILY].transform("nunique")
    chosen: pd.DataFrame = valid[count == len(families)]
    return chosen


def _split(sample: NDArray[np.float64], floor: float) -> dict[str, object]:
    """Return the columns of one row.

    Args:
        sample: instability (cells, images or groups): under bias, compensated and, if measured,
            shifted.
        floor: what rounding makes.
    """
    means = sample.mean(axis=1)
    found: dict[str, object] = {"total": means[0], COMPENSATED: means[1]}
    # A shift that is put on and taken off is rounded, which a cell of nothing else may amplify.
    identity = means[1] <= max(floor, NOTHING * means[0])
    still = means[0] <= floor
    if len(sample) == 2:  # noqa: PLR2004 - without the third cell
        if still or identity:
            return found | {"verdict": STILL if still else IDENTITY}
        return found | {"verdict": UNMEASURED}
    total, compensated, shifted = sample
    own = (compensated + total - shifted) / 2
    parts = (own, total - own, total - compensated - shifted)
    found[SHIFTED] = means[2]
    for name, part in zip(HALVES, intervals.intervals(parts), strict=True):
        found |= {name: part.mean, f"{name}_low": part.low, f"{name}_high": part.high}
    halves = [float(part.mean()) for part in parts[:2]]
    verdict = SPLIT
    if still:
        verdict = STILL
    elif identity:
        verdict = IDENTITY
    elif min(halves) < 0:
        verdict = NEGATIVE
    elif abs(parts[2].mean()) > max(halves):
        verdict = INTERACTING
    if verdict in (SPLIT, IDENTITY):
        (share,) = intervals.ratio_intervals([np.stack([own, total])])
        ends = {"low": share.low, "high": share.high, "interval": share.kind}
        found |= {"network_share": share.mean, **ends}
    return found | {"verdict": verdict}
