"""Whose fault it is that a map moved: the method's, or the network's changed function."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from steadymap.bench.analysis import calibration, intervals
from steadymap.bench.records.vocabulary import FAMILY, IMAGE_ID, METHOD, METRIC, SEVERITY, STATUS
from steadymap.metrics import Metric, Status

BIAS = "bias"
COMPENSATED = "compensated_bias"

COLUMNS = [
    METHOD,
    METRIC,
    SEVERITY,
    "images",
    "total",
    "own",
    "network",
    "network_share",
    "low",
    "high",
    "interval",
]


def whose_fault(records: pd.DataFrame, metrics: Mapping[str, Metric] | None = None) -> pd.DataFrame:
    """Split the instability under a bias between the method and the network.

    With d the distance of a score from a perfect one (1 - SSIM, say), averaged over the severities
    that both families have, then over images that have a value under both:

        total   = d under `bias`: image moved, and the network sees it moved
        own     = d under `compensated_bias`: image moved, and the network takes the shift off, so
                  that its function of the picture is the same; what moves is the method's doing
        network = total - own: what the change of the network's function adds
        share   = network / total

    The limits: this is a difference of two experiments, not a sum of two parts. Metrics are not
    linear, and the two effects may cancel: a share below 0 says that the map moves more where the
    network's function stays than where it changes, so that the method alone accounts for all of it.
    The share has no value where the maps moved no more under the bias than rounding moves them.

    Args:
        records: of a run with both families at some severity in common, at best at all of them.
        metrics: as for `calibrate`.

    Returns:
        One row a method and metric, in the order of the records, over all severities (`severity`
        missing), and one a severity, with the share's 95% interval from resampling images; empty
        where the families have no severity in common.
    """
    both = records[records[FAMILY].isin((BIAS, COMPENSATED))]
    levels = [set(both[both[FAMILY] == family][SEVERITY]) for family in (BIAS, COMPENSATED)]
    common = sorted(set.intersection(*levels))
    floors = calibration.Instability.of(records, metrics)
    rows: list[dict[str, object]] = []
    samples: list[NDArray[np.float64]] = []
    for severity in (None, *common) if common else ():
        chosen = both[SEVERITY].isin(common) if severity is None else both[SEVERITY] == severity
        unstable = calibration.Instability.of(_in_pairs(both[chosen]), metrics)
        present = set(unstable.pairs())
        for method, metric in (pair for pair in floors.pairs() if pair in present):
            pair = np.stack([unstable.at(method, metric, family) for family in (COMPENSATED, BIAS)])
            sample = pair[:, np.isfinite(pair).all(axis=0)]
            own, total = sample.mean(axis=1).tolist()
            rows.append(
                {
                    METHOD: method,
                    METRIC: metric,
                    SEVERITY: severity,
                    "images": sample.shape[1],
                    "total": total,
                    "own": own,
                    "network": total - own,
                    "moved": not total <= floors.floor(method, metric) and total > 0,
                }
            )
            samples.append(sample)
    moved = [place for place, row in enumerate(rows) if row["moved"]]
    ratios = intervals.ratio_intervals([samples[place] for place in moved])
    for place, interval in zip(moved, ratios, strict=True):
        rows[place] |= {
            "network_share": interval.mean,
            "low": interval.low,
            "high": interval.high,
            "interval": interval.kind,
        }
    return pd.DataFrame(rows, columns=COLUMNS)


def _in_pairs(records: pd.DataFrame) -> pd.DataFrame:
    """Keep the values of an image at a severity that has them under both families."""
    valid = records[records[STATUS] == Status.OK.value]
    key = [IMAGE_ID, METHOD, METRIC, SEVERITY]
    families = valid.groupby(key, observed=True)[FAMILY].transform("nunique")
    chosen: pd.DataFrame = valid[families == len((BIAS, COMPENSATED))]
    return chosen
