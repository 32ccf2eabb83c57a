"""The rules that the study's scores were made by, version 1, until it is measured again.

Its records hold clean maps against unrelated clean maps, where those of today hold perturbed maps
against them; its methods drew the same for every view; and no network was shifted alone. So scores
are calibrated here as they were then.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from steadymap.bench.analysis import instability
from steadymap.bench.analysis.calibration import (
    LEAST_ROOM,
    OK,
    UNCALIBRATED,
    UNINFORMATIVE,
    UNRESOLVABLE,
)
from steadymap.bench.analysis.estimates import LEAST_SHARE
from steadymap.bench.analysis.intervals import ratio_intervals
from steadymap.bench.analysis.whose_fault import BIAS
from steadymap.bench.records.vocabulary import COMPENSATED, NULLS, OVERALL
from steadymap.metrics import METRICS, Status

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Instability(instability.Instability):
    """How far maps moved, where `overall` is over all families, those of a diagnosis too."""

    def at(self, method: str, metric: str, family: str) -> Values:
        """Return the images' values (N,), NaN where there is none."""
        if family != OVERALL:
            return super().at(method, metric, family)
        rows = np.stack([self.at(method, metric, name) for name in self.families()])
        known = np.isfinite(rows)
        count = known.sum(axis=0)
        total = np.where(known, rows, 0.0).sum(axis=0)
        mean: Values = np.divide(total, count, out=np.full(count.shape, np.nan), where=count > 0)
        return mean


def calibrate(records: pd.DataFrame) -> pd.DataFrame:
    """Calibrate scores: (score - null) / (perfect score - null).

    The null is the better of two means, of an image's clean map against other images' and against
    its own in networks with randomised weights. All pairs count, whatever was predicted; a map that
    vanished is missing. Images are resampled with their scores and nulls together.

    Args:
        records: of a run by the first rules, without warped images.

    Returns:
        One row a method, family and metric, with `overall` for the mean over the families.
    """
    unstable = Instability.of(records)
    rows: list[dict[str, object]] = []
    samples: list[Values] = []
    for method, metric in unstable.pairs():
        for family in (*unstable.families(), OVERALL):
            every = np.stack([unstable.at(method, metric, name) for name in (family, *NULLS)])
            sample = every[:, np.isfinite(every[0])]
            perfect = METRICS[metric].identity or 0.0
            sign = -1.0 if METRICS[metric].better == "higher" else 1.0
            means = [_mean(row) for row in sample]
            room = float(np.min(means[1:]))
            rows.append(
                {
                    "method": method,
                    "family": family,
                    "metric": metric,
                    "images": sample.shape[1],
                    "score": perfect + sign * means[0],
                    "null": perfect + sign * room,
                    "perfect": perfect,
                    "verdict": _verdict(sample, room, unstable.floor(method, metric)),
                    **dict.fromkeys(("calibrated", "low", "high"), np.nan),
                }
            )
            samples.append(sample)
    numbered = [place for place, row in enumerate(rows) if row["verdict"] in (OK, UNRESOLVABLE)]
    ratios = ratio_intervals([samples[place] for place in numbered])
    for place, ratio in zip(numbered, ratios, strict=True):
        rows[place] |= {"calibrated": ratio.mean, "low": ratio.low, "high": ratio.high}
    return pd.DataFrame(rows)


def _mean(values: Values) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else np.nan


def _verdict(sample: Values, room: float, floor: float) -> str:
    """Say what may be said of instability and both nulls, (3, images)."""
    scarcer = int(np.isfinite(sample[1:]).sum(axis=1).min())
    if np.isnan(room) or scarcer < LEAST_SHARE * sample.shape[1]:
        return UNCALIBRATED
    if room < LEAST_ROOM:
        return UNINFORMATIVE
    return UNRESOLVABLE if _mean(sample[0]) <= floor else OK


def whose_fault(records: pd.DataFrame) -> pd.DataFrame:
    """Split the instability under a bias between the method and the network.

    `own` is what moves where the network takes the shift off, `network` the rest of `total`.

    Args:
        records: of a run by the first rules with both families.

    Returns:
        One row a method and metric, over all severities (`severity` missing).
    """
    floors = Instability.of(records)
    both = records[
        records["family"].isin((BIAS, COMPENSATED)) & (records["status"] == Status.OK.value)
    ]
    # Values of an image at a severity that has them under both families.
    key = ["image_id", "method", "metric", "severity"]
    pairs = both.groupby(key, observed=True)["family"].transform("nunique") > 1
    unstable = Instability.of(both[pairs])
    rows: list[dict[str, object]] = []
    samples: list[Values] = []
    for method, metric in unstable.pairs():
        pair = np.stack([unstable.at(method, metric, name) for name in (COMPENSATED, BIAS)])
        sample = pair[:, np.isfinite(pair).all(axis=0)]
        own, total = sample.mean(axis=1).tolist()
        moved = not total <= floors.floor(method, metric) and total > 0
        rows.append(
            {
                "method": method,
                "metric": metric,
                "severity": np.nan,
                "total": total,
                "own": own,
                COMPENSATED: own,
                **dict.fromkeys(("network_share", "low", "high"), np.nan),
            }
        )
        samples.append(sample if moved else sample[:, :0])
    moving = [place for place, sample in enumerate(samples) if sample.size]
    ratios = ratio_intervals([samples[place] for place in moving])
    for place, ratio in zip(moving, ratios, strict=True):
        rows[place] |= {"network_share": ratio.mean, "low": ratio.low, "high": ratio.high}
    return pd.DataFrame(rows)
