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


def interval(values: NDArray[np.float64], rng: np.random.Generator) -> Interval:
    """Return the mean of values (images,) with its bias-corrected, accelerated interval.

    Source: Efron 1987, through SciPy.
    """
    if len(values) == 0:
        return Interval(np.nan, np.nan, np.nan, "none")
    mean = float(values.mean())
    if len(values) == 1:
        return Interval(mean, np.nan, np.nan, "none")
    with warnings.catch_warnings(), np.errstate(invalid="ignore", divide="ignore"):
        # Where resampling says nothing SciPy warns and returns NaN; that is decided below.
        warnings.simplefilter("ignore", DegenerateDataWarning)
        found = bootstrap(
            (values,),
            np.mean,
            confidence_level=CONFIDENCE,
            n_resamples=RESAMPLES,
            method="BCa",
            rng=rng,
        ).confidence_interval
    if np.isnan(found.low) or np.isnan(found.high):
        return Interval(mean, mean, mean, "point")
    return Interval(mean, float(found.low), float(found.high), "bca")


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
    rows = []
    for key, group in chosen.groupby(list(by), observed=True, sort=False):
        valid = group[group["status"] == Status.OK.value]
        per_image = valid.groupby("image_id", observed=True, sort=False)["value"].mean()
        found = interval(
            per_image.to_numpy(dtype=np.float64), generator("interval", *map(str, key))
        )
        rows.append(
            {
                **dict(zip(by, key, strict=True)),
                "images": len(per_image),
                "mean": found.mean,
                "low": found.low,
                "high": found.high,
                "interval": found.kind,
                "coverage": len(valid) / len(group),
            }
        )
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
