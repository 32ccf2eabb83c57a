"""Scores against severity, and the severity at which a method breaks."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from steadymap.bench.analysis import calibration, summary
from steadymap.bench.core.metric_registry import known_metrics
from steadymap.bench.records.grouping import NONE, Groups
from steadymap.bench.records.vocabulary import (
    CLEAN,
    FAMILY,
    KEPT,
    METHOD,
    METRIC,
    OVERALL,
    PERFECT,
    REFERENCES,
    SEVERITY,
    STATUS,
    VALUE,
    is_control,
)
from steadymap.metrics import Metric, Status

# Halfway from a map that did not move to unrelated ones.
THRESHOLD = 0.5

COLUMNS = [METHOD, FAMILY, METRIC, SEVERITY, "images", "score", "low", "high", "calibrated"]
BREAKING = [METHOD, FAMILY, METRIC, "sign", SEVERITY]


def severity_curves(
    records: pd.DataFrame,
    calibrated: pd.DataFrame,
    metrics: Mapping[str, Metric] | None = None,
    groups: Groups = NONE,
) -> pd.DataFrame:
    """Average scores over images at each severity; controls are left out.

    Where any method has calibrated scores of a metric all its curves are calibrated, by the null of
    all families together, taken as known: the interval is that of the score alone. So the curves of
    a metric have one scale, whatever methods were skipped. They are then, like those scores, of
    pairs whose prediction held; maps that vanished are left out of a curve.

    Args:
        records: of a run.
        calibrated: as `calibrate` returns it for them.
        metrics: as for `calibrate`.
        groups: of images.

    Returns:
        One row a method, family, metric and severity, with the 95% interval of the mean;
        `calibrated` says whether the row is. Where the metric is calibrated, methods without a
        calibrated number (`uninformative`, `uncalibrated`, or not one value) have no rows, nor has
        a severity at which the perfect score itself is as low as that of unrelated maps.
    """
    known = known_metrics() if metrics is None else metrics
    kept = ~records[FAMILY].isin((*REFERENCES, CLEAN)) & records[METRIC].isin(known)
    methods = [spec for spec in records[METHOD].unique() if not is_control(str(spec))]
    chosen = records[kept & records[METHOD].isin(methods)]
    keys = [METHOD, FAMILY, METRIC, SEVERITY]
    overall = calibrated[calibrated[FAMILY] == OVERALL]
    worths = {(row[METHOD], row[METRIC]): row for row in overall.to_dict("records")}
    scaled = {metric for _, metric in worths}
    chosen = chosen[chosen[KEPT] | ~chosen[METRIC].isin(scaled)]
    table = summary.summarise(chosen, tuple(keys), groups=groups)
    warped = records[METRIC].isin([name + PERFECT for name in known])
    defined = records[warped & records[KEPT] & (records[STATUS] == Status.OK.value)]
    best = defined.groupby(keys, observed=True)[VALUE].mean().to_dict()
    rows: list[dict[str, object]] = []
    for row in table.astype({METHOD: str, FAMILY: str, METRIC: str}).to_dict("records"):
        ends = [row["mean"], row["low"], row["high"]]
        worth = worths.get((row[METHOD], row[METRIC]))
        if row[METRIC] in scaled:
            if worth is None or worth["verdict"] not in (calibration.OK, calibration.UNRESOLVABLE):
                continue
            alone = known[row[METRIC]].identity or 0.0
            level = (row[METHOD], row[FAMILY], row[METRIC] + PERFECT, row[SEVERITY])
            # Where the image was warped, maps that moved with it are not quite what they were.
            cost = abs(best.get(level, alone) - alone)
            room = abs(worth["null"] - alone) - cost
            if room < calibration.LEAST_ROOM:
                continue
            ends = [1 - (abs(value - alone) - cost) / room for value in ends]
        # A distance's larger value is a smaller score.
        low, high = np.sort(ends[1:])
        rows.append(
            {key: row[key] for key in (METHOD, FAMILY, METRIC, SEVERITY, "images")}
            | {"score": ends[0], "low": low, "high": high, "calibrated": row[METRIC] in scaled}
        )
    return pd.DataFrame(rows, columns=COLUMNS)


def breaking_points(curves: pd.DataFrame, threshold: float = THRESHOLD) -> pd.DataFrame:
    """Find the smallest severity, of either sign, at which a calibrated curve is at the threshold.

    Between measured severities, and from severity 0, where every score is 1, the curve is taken to
    be straight.

    Returns:
        One row a method, family, metric and sign of the severity; `severity` is missing where the
        curve stays above the threshold.
    """
    rows = []
    keys = [METHOD, FAMILY, METRIC]
    for key, group in curves[curves["calibrated"].astype(bool)].groupby(keys, sort=False):
        for sign in (-1, 1):
            side = group[np.sign(group[SEVERITY]) == sign]
            if len(side):
                crossing = _crossing(np.abs(side[SEVERITY]), side["score"], threshold)
                rows.append((*key, sign, sign * crossing))
    return pd.DataFrame(rows, columns=BREAKING)


def _crossing(sizes: pd.Series, scores: pd.Series, threshold: float) -> float:
    """Return the first size at which the score is no more than the threshold; NaN if none."""
    order = np.argsort(sizes.to_numpy())
    x = np.concatenate([[0.0], sizes.to_numpy()[order]])
    y = np.concatenate([[1.0], scores.to_numpy()[order]])
    known = np.isfinite(y)
    x, y = x[known], y[known]
    below = np.flatnonzero(y <= threshold)
    if not len(below) or threshold >= 1:
        return np.nan
    at = int(below[0])
    share = (y[at - 1] - threshold) / (y[at - 1] - y[at])
    return float(x[at - 1] + share * (x[at] - x[at - 1]))
