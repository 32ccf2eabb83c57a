"""How far metrics, families and images agree in the order of methods."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from krippendorff import alpha
from numpy.typing import NDArray
from scipy.stats import rankdata

from steadymap.bench.records.vocabulary import DIAGNOSIS, FAMILY, METHOD, METRIC, OVERALL

METRICS_AGREE = "metrics"
FAMILIES_AGREE = "families"
IMAGES_AGREE = "images"

# In the column of the metric, where the raters are the headline metrics themselves.
HEADLINES = "headlines"

COLUMNS = [METRIC, "among", "raters", "methods", "kendall_w", "mean_correlation", "alpha"]

# Two orders that agree less than halfway, on average, are two orders.
LOW_CORRELATION = 0.5

# One order agrees with itself, and one method has none.
LEAST = 2


def agreement_row(metric: str, among: str, scores: NDArray[np.float64]) -> dict[str, object]:
    """Say how far raters agree in the order of methods.

    `kendall_w` is Kendall's coefficient of concordance, corrected for ties (Kendall, Smith 1939):
    1 where all orders are the same, 0 where they have nothing in common; `mean_correlation` is the
    mean rank correlation of two raters, (m W - 1) / (m - 1); `alpha` is Krippendorff's, of ordinal
    data: 1 for the same ranks, 0 for what chance makes. Missing with fewer than two raters or
    methods, or where no rater tells methods apart.

    Args:
        metric: of which the scores are; `HEADLINES` where the raters are metrics.
        among: what the raters are.
        scores: (raters, methods); a rater that lacks a method is left out.
    """
    ranks = rankdata(scores[np.isfinite(scores).all(axis=1)], axis=1)
    raters, methods = ranks.shape
    row: dict[str, object] = {METRIC: metric, "among": among, "raters": raters, "methods": methods}
    if min(raters, methods) < LEAST or (ranks == ranks[:, :1]).all():
        return row
    counts = [np.unique(one, return_counts=True)[1] for one in ranks]
    ties = sum(float((count**3 - count).sum()) for count in counts)
    spread = float(((ranks.sum(axis=0) - raters * (methods + 1) / 2) ** 2).sum())
    concordance = 12 * spread / (raters**2 * (methods**3 - methods) - raters * ties)
    return row | {
        "kendall_w": concordance,
        "mean_correlation": (raters * concordance - 1) / (raters - 1),
        "alpha": float(alpha(reliability_data=ranks, level_of_measurement="ordinal")),
    }


def among_families(calibrated: pd.DataFrame, metric: str, methods: Sequence[str]) -> pd.DataFrame:
    """Return calibrated scores: one row a family of real perturbations, one column a method."""
    rows = calibrated[
        (calibrated[METRIC] == metric)
        & calibrated[METHOD].isin(methods)
        & ~calibrated[FAMILY].isin((OVERALL, *DIAGNOSIS))
    ]
    return _table(rows, FAMILY, methods)


def among_metrics(
    calibrated: pd.DataFrame, metrics: Sequence[str], methods: Sequence[str]
) -> pd.DataFrame:
    """Return calibrated scores over all families: one row a metric, one column a method."""
    rows = calibrated[
        calibrated[METRIC].isin(metrics)
        & calibrated[METHOD].isin(methods)
        & (calibrated[FAMILY] == OVERALL)
    ]
    return _table(rows, METRIC, methods)


def _table(rows: pd.DataFrame, raters: str, methods: Sequence[str]) -> pd.DataFrame:
    named = rows.astype({METHOD: str, raters: str})
    return named.pivot_table(
        values="calibrated", index=raters, columns=METHOD, dropna=False, sort=False
    ).reindex(columns=list(methods))


def disagreement(
    agreement: pd.DataFrame, ranks: pd.DataFrame, metrics: Sequence[str]
) -> tuple[str, ...]:
    """Return, in words, why there is no single winner; nothing where there may be one.

    There is none where metrics, or the families by some metric, agree less than halfway in the
    order of methods, or where the best by two metrics are surely not the best by the other.

    Args:
        agreement: of a run.
        ranks: see `rank_methods`.
        metrics: the headlines.
    """
    said = []
    for row in agreement[agreement["mean_correlation"] < LOW_CORRELATION].to_dict("records"):
        if row["among"] == METRICS_AGREE:
            said.append(f"metrics disagree in the order of methods (W = {row['kendall_w']:.2f})")
        elif row["among"] == FAMILIES_AGREE and row[METRIC] in metrics:
            said.append(
                f"perturbations disagree in it by {row[METRIC]} (W = {row['kendall_w']:.2f})"
            )
    best = {}
    for metric in metrics:
        rows = ranks[ranks[METRIC] == metric].sort_values("rank", kind="stable")
        if len(rows):
            best[metric] = (str(rows.iloc[0][METHOD]), rows.set_index(METHOD)["low"].to_dict())
    for one, (first, low) in best.items():
        for other, (second, other_low) in best.items():
            lost = low.get(second, 1.0) > 1 and other_low.get(first, 1.0) > 1
            if one < other and first != second and lost:
                said.append(f"the best by {one} is {first}, by {other} {second}")
    return tuple(said)


def winner_sentence(reasons: Sequence[str]) -> str:
    """Return one sentence, or nothing: see `disagreement`."""
    return f"there is no single winner: {'; '.join(reasons)}" if reasons else ""
