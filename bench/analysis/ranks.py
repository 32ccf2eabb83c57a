"""The order of methods: ranks with their intervals, and whether methods differ at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import friedmanchisquare, rankdata

from steadymap.bench.analysis import calibration, intervals
from steadymap.bench.core.randomness import generator
from steadymap.bench.records.vocabulary import FAMILY, METHOD, METRIC, NULLS, OVERALL, PERFECT
from steadymap.metrics import Metric

COLUMNS = [METRIC, METHOD, "rank", "low", "high", "mean_rank", "images", "friedman_p"]

# Friedman's test compares three or more.
LEAST_METHODS = 3
LEAST_IMAGES = 2


def rank_methods(
    records: pd.DataFrame,
    calibrated: pd.DataFrame,
    metrics: Mapping[str, Metric] | None = None,
) -> pd.DataFrame:
    """Rank the methods that have a calibrated score, 1 the steadiest, for each metric.

    Args:
        records: of the run.
        calibrated: as `calibrate` returns it for them.
        metrics: as for `calibrate`.

    Returns:
        One row a metric and method. `rank` is by the calibrated score over all families; `low` and
        `high` are its 95% percentile interval when images are resampled, the same for all methods.
        `mean_rank` is the mean of the ranks within each image that has all methods, `images` their
        number, and `friedman_p` the p-value of Friedman's test that the methods do not differ;
        both missing with fewer than three methods or two such images.
    """
    rows: list[dict[str, object]] = []
    for metric in dict.fromkeys(calibrated[METRIC]):
        methods = ranked_methods(calibrated, metric)
        if not methods:
            continue
        # Of one metric: which images are drawn hangs on how many have a value of it.
        about = records[METRIC].isin((metric, metric + PERFECT))
        unstable = calibration.Instability.of(records[about], metrics)
        samples = [_sample(unstable, method, metric) for method in methods]
        everyone = np.ones((1, samples[0].shape[1]))
        ranks = _ranks(samples, everyone)[0]
        low, high = _interval(_ranks(samples, _resamplings(samples[0].shape[1])))
        within = within_image(unstable, metric, methods)
        tested = len(methods) >= LEAST_METHODS and len(within) >= LEAST_IMAGES
        mean_ranks = rankdata(within, axis=1).mean(axis=0) if tested else [np.nan] * len(methods)
        p_value = float(friedmanchisquare(*within.to_numpy().T).pvalue) if tested else np.nan
        rows += [
            {
                METRIC: metric,
                METHOD: method,
                "rank": ranks[place],
                "low": low[place],
                "high": high[place],
                "mean_rank": mean_ranks[place],
                "images": len(within),
                "friedman_p": p_value,
            }
            for place, method in enumerate(methods)
        ]
    return pd.DataFrame(rows, columns=COLUMNS)


def ranked_methods(calibrated: pd.DataFrame, metric: str) -> list[str]:
    """Return the methods that can be ranked: those with a number, and no controls."""
    chosen = calibrated[
        (calibrated[METRIC] == metric)
        & (calibrated[FAMILY] == OVERALL)
        & calibrated["verdict"].isin((calibration.OK, calibration.UNRESOLVABLE))
        & ~calibrated["control"]
    ]
    return [str(method) for method in chosen[METHOD]]


def within_image(
    unstable: calibration.Instability, metric: str, methods: Sequence[str]
) -> pd.DataFrame:
    """Return what is left of each image's instability once divided by the method's null.

    One row an image that has a value of every method, one column a method; less is steadier.
    """
    columns = {}
    for method in methods:
        scores, *nulls = _sample(unstable, method, metric)
        columns[method] = scores / min(float(np.nanmean(null)) for null in nulls)
    return pd.DataFrame(columns).dropna()


def _sample(unstable: calibration.Instability, method: str, metric: str) -> NDArray[np.float64]:
    """Return instability and both nulls, (3, images); all NaN where an image has no score."""
    rows = np.stack([unstable.at(method, metric, family) for family in (OVERALL, *NULLS)])
    rows[:, ~np.isfinite(rows[0])] = np.nan
    return rows


def _resamplings(images: int) -> NDArray[np.float64]:
    """Return how often each image is drawn, (resamples, images)."""
    draws = generator("ranks", images).multinomial(
        images, [1 / images] * images, size=intervals.RESAMPLES
    )
    return draws.astype(np.float64)


def _ranks(
    samples: Sequence[NDArray[np.float64]], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Rank methods by their calibrated instability under weights (R, images): (R, methods)."""
    remaining = []
    for sample in samples:
        known = np.isfinite(sample)
        # A resample may miss all images that have a value, or all whose null is not 0.
        with np.errstate(invalid="ignore", divide="ignore"):
            means = weights @ np.where(known, sample, 0.0).T / (weights @ known.T)
            remaining.append(means[:, 0] / means[:, 1:].min(axis=1))
    table = np.stack(remaining, axis=1)
    ranks: NDArray[np.float64] = rankdata(table, axis=1, nan_policy="omit")
    return ranks


def _interval(ranks: NDArray[np.float64]) -> NDArray[np.float64]:
    tail = (1 - intervals.CONFIDENCE) / 2
    ends: NDArray[np.float64] = np.nanquantile(
        ranks, [tail, 1 - tail], axis=0, method="closest_observation"
    )
    return ends
