"""Records to means over images with their intervals; and the tables that people read."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import DegenerateDataWarning, bootstrap

from steadymap.bench.randomness import generator
from steadymap.bench.records import CLEAN
from steadymap.metrics import Status

CONFIDENCE = 0.95
RESAMPLES = 2000
ROUGH_BELOW = 30

# Values held by the resampling: 32 MiB.
RESAMPLED_AT_ONCE = 2**22


@dataclass(frozen=True)
class Interval:
    """A mean over images with its interval.

    Attributes:
        mean: NaN where no image has a value.
        low: lower end of the 95% interval, NaN below two images.
        high: upper end.
        kind: `bca`; `point` where images agree and resampling says nothing; `none` below two.
    """

    mean: float
    low: float
    high: float
    kind: str


def intervals(rows: Sequence[NDArray[np.float64]]) -> list[Interval]:
    """Return, for each row of values (images,), their mean with its interval.

    Bias-corrected and accelerated bootstrap, through SciPy. Rows of equal length are resampled
    together, by the same draws of images: the interval of a row hangs on its own values alone.
    Source: Efron 1987.
    """
    found = [_without_interval(values) for values in rows]
    for count in sorted({len(values) for values in rows} - {0, 1}):
        places = [place for place, values in enumerate(rows) if len(values) == count]
        at_once = max(1, RESAMPLED_AT_ONCE // (RESAMPLES * count))
        for low in range(0, len(places), at_once):
            few = places[low : low + at_once]
            ends = _bca(np.stack([rows[place] for place in few]))
            for place, low_end, high_end in zip(few, *ends, strict=True):
                mean = found[place].mean
                found[place] = (
                    Interval(mean, mean, mean, "point")
                    if np.isnan(low_end) or np.isnan(high_end)
                    else Interval(mean, float(low_end), float(high_end), "bca")
                )
    return found


def _without_interval(values: NDArray[np.float64]) -> Interval:
    mean = float(values.mean()) if len(values) else np.nan
    return Interval(mean, np.nan, np.nan, "none")


def _bca(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return both ends for values (rows, images); NaN where resampling says nothing."""
    with warnings.catch_warnings(), np.errstate(invalid="ignore", divide="ignore"):
        # Where resampling says nothing SciPy warns and returns NaN; the caller decides.
        warnings.simplefilter("ignore", DegenerateDataWarning)
        found = bootstrap(
            (values,),
            np.mean,
            axis=1,
            confidence_level=CONFIDENCE,
            n_resamples=RESAMPLES,
            method="BCa",
            rng=generator("interval", values.shape[1]),
        ).confidence_interval
    return np.asarray(found.low), np.asarray(found.high)


def summarise(
    records: pd.DataFrame,
    by: Sequence[str] = ("method", "family", "metric"),
    *,
    kept_only: bool = False,
) -> pd.DataFrame:
    """Average records over images.

    Draws and severities are averaged within an image first: the image is the unit, and images are
    what is resampled. Only values of status `ok` enter; `coverage` is their share.

    Args:
        records: as `run` returns them.
        by: columns that make a group; with "severity" among them, one row a severity.
        kept_only: leave out the pairs whose prediction changed.

    Returns:
        One row a group, in the records' order: `by`, images, mean, low, high, interval, coverage.
    """
    chosen = records[records["kept"]] if kept_only else records
    groups = chosen.groupby(list(by), observed=True, sort=False)
    keys, per_image, coverage = [], [], []
    for key, group in groups:
        valid = group[group["status"] == Status.OK.value]
        means = valid.groupby("image_id", observed=True, sort=False)["value"].mean()
        keys.append(key)
        per_image.append(means.to_numpy(dtype=np.float64))
        coverage.append(len(valid) / len(group))
    rows = [
        {
            **dict(zip(by, key, strict=True)),
            "images": len(values),
            "mean": found.mean,
            "low": found.low,
            "high": found.high,
            "interval": found.kind,
            "coverage": share,
        }
        for key, values, share, found in zip(
            keys, per_image, coverage, intervals(per_image), strict=True
        )
    ]
    columns = [*by, "images", "mean", "low", "high", "interval", "coverage"]
    return pd.DataFrame(rows, columns=columns)


def full_summary(records: pd.DataFrame) -> pd.DataFrame:
    """Summarise all pairs and, apart from them, those whose prediction held (column `subset`)."""
    everything = summarise(records)
    kept = summarise(records[records["family"] != CLEAN], kept_only=True)
    both = pd.concat(
        [everything.assign(subset="all"), kept.assign(subset="kept")], ignore_index=True
    )
    return both[["subset", *everything.columns]]
