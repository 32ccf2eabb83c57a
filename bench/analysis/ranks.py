"""Ranks of methods by their calibrated scores: simultaneous sets, from pairwise differences."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
from scipy.stats import f as fisher
from scipy.stats import friedmanchisquare, norm, rankdata
from scipy.stats import t as student

from steadymap.bench.analysis import calibration, cells, estimates, intervals
from steadymap.bench.analysis.jackknife import ROUNDING, Replicates
from steadymap.bench.core.metric_registry import known_metrics
from steadymap.bench.core.randomness import generator
from steadymap.bench.records.grouping import NONE, Groups, places_of
from steadymap.bench.records.vocabulary import DIAGNOSIS, FAMILY, METHOD, METRIC, OVERALL
from steadymap.metrics import Metric

COLUMNS = [METRIC, METHOD, "rank", "low", "high", "mean_rank", "images", "friedman_p"]
PAIRS = [METRIC, METHOD, "other", "difference", "low", "high", "p_adjusted", "wilcoxon_p"]

# Friedman's test compares three or more.
LEAST_METHODS = 3
LEAST_IMAGES = 2
# Its approximation is good from so many methods, or above so many images. Source: Demsar 2006.
METHODS_FOR_FRIEDMAN = 5
IMAGES_FOR_FRIEDMAN = 15

# Draws of the largest of all differences that chance makes.
DRAWS = 10000


@dataclass(frozen=True)
class Field:
    """Methods that are ranked by one metric.

    Attributes:
        methods: M specs.
        scores: calibrated, (M,), whole and with something left out.
        within: one row an image that has a value of every method, one column a method: what is left
            of its instability once divided by the method's null; less is steadier.
        units: the same, averaged within groups of images: what tests within images rest on.
    """

    methods: list[str]
    scores: Replicates
    within: pd.DataFrame
    units: pd.DataFrame

    @classmethod
    def of(
        cls,
        records: pd.DataFrame,
        methods: Sequence[str],
        metric: str,
        metrics: Mapping[str, Metric] | None = None,
        groups: Groups = NONE,
    ) -> Field:
        """Take it from records.

        Args:
            records: of a run.
            methods: which methods, each with a calibrated score.
            metric: which metric.
            metrics: as for `calibrate`.
            groups: of images.
        """
        known = known_metrics() if metrics is None else metrics
        table = cells.Cells.of(records, metric, known[metric], groups)
        averages = estimates.Averages.of(table, table.kept)
        real = [place for place, name in enumerate(table.families) if name not in DIAGNOSIS]
        found = [
            estimates.estimate(averages, table.methods.index(method), real) for method in methods
        ]
        scores = [each.calibrated for each in found]
        rows = {method: each.by_image for method, each in zip(methods, found, strict=True)}
        within = pd.DataFrame(rows, index=table.images).dropna()
        places = places_of(within.index.tolist(), groups)
        return cls(
            list(methods),
            Replicates(
                np.array([each.whole for each in scores]),
                np.stack([each.images for each in scores]),
                np.stack([each.networks for each in scores]),
            ),
            within.reset_index(drop=True),
            within.groupby(places).mean() if groups else within.reset_index(drop=True),
        )

    def places(self) -> list[float]:
        """Return the ranks, 1 the steadiest, ties averaged."""
        ranks: list[float] = rankdata(-self.scores.whole).tolist()
        return ranks

    def friedman(self) -> float:
        """Return the p-value of Friedman's test that methods do not differ within images.

        In the form of Iman and Davenport 1980; NaN where its approximation is not good: of fewer
        than five methods on 15 images or fewer.
        """
        images, methods = self.units.shape
        if methods < LEAST_METHODS or images < LEAST_IMAGES:
            return np.nan
        if methods < METHODS_FOR_FRIEDMAN and images <= IMAGES_FOR_FRIEDMAN:
            return np.nan
        statistic = float(friedmanchisquare(*self.units.to_numpy().T).statistic)
        left = images * (methods - 1) - statistic
        if np.isnan(statistic):  # all methods are alike in every image
            return 1.0
        if left <= ROUNDING * images * methods:  # all images agree
            return 0.0
        ratio = (images - 1) * statistic / left
        return float(fisher.sf(ratio, methods - 1, (methods - 1) * (images - 1)))


def rank_methods(
    records: pd.DataFrame,
    calibrated: pd.DataFrame,
    metrics: Mapping[str, Metric] | None = None,
    admitted: Collection[str] | None = None,
    groups: Groups = NONE,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rank the methods that have a calibrated score, 1 the steadiest, for each metric.

    Args:
        records: of the run.
        calibrated: as `calibrate` returns it for them.
        metrics: as for `calibrate`.
        admitted: the methods that may be ranked; left out, all but controls.
        groups: of images.

    Returns:
        ranks: One row a metric and method. `rank` is by the calibrated score over all families;
            `low` and `high` are the rank set: with 95% confidence all true ranks together lie in
            theirs. Source: Mogstad, Romano, Shaikh and Wilhelm 2024. `mean_rank` is the mean of the
            ranks within each image that has all methods, `images` their number, and `friedman_p`
            the p-value of Friedman's test; missing where there are too few.
        pairs: One row a metric and pair of methods, see `differences`.
    """
    rows: list[dict[str, object]] = []
    pairs: list[pd.DataFrame] = []
    for metric in dict.fromkeys(calibrated[METRIC]):
        methods = ranked_methods(calibrated, metric, admitted)
        if not methods:
            continue
        field = Field.of(records, methods, metric, metrics, groups)
        compared = differences(field)
        low, high = rank_sets(field.methods, compared)
        ranks, within = field.places(), field.within
        tested = len(methods) >= LEAST_METHODS and len(field.units) >= LEAST_IMAGES
        mean_ranks = within.rank(axis=1).mean().tolist() if tested else [np.nan] * len(methods)
        friedman = field.friedman()
        rows += [
            {
                METRIC: metric,
                METHOD: method,
                "rank": ranks[place],
                "low": low[place],
                "high": high[place],
                "mean_rank": mean_ranks[place],
                "images": len(within),
                "friedman_p": friedman,
            }
            for place, method in enumerate(methods)
        ]
        if len(compared):
            pairs.append(compared.assign(**{METRIC: metric})[PAIRS])
    return (
        pd.DataFrame(rows, columns=COLUMNS),
        pd.concat(pairs, ignore_index=True) if pairs else pd.DataFrame([], columns=PAIRS),
    )


def ranked_methods(
    calibrated: pd.DataFrame, metric: str, admitted: Collection[str] | None = None
) -> list[str]:
    """Return the methods that can be ranked: those with a number, and no controls."""
    chosen = calibrated[
        (calibrated[METRIC] == metric)
        & (calibrated[FAMILY] == OVERALL)
        & calibrated["verdict"].isin((calibration.OK, calibration.UNRESOLVABLE))
        & ~calibrated["control"]
    ]
    methods = [str(method) for method in chosen[METHOD]]
    return methods if admitted is None else [name for name in methods if name in admitted]


def differences(field: Field) -> pd.DataFrame:
    """Compare every pair of methods by the very score that they are ranked by.

    Errors are those of the jackknife, paired by image and by randomised network. The largest of all
    differences that chance makes, drawn from how scores vary together, is what each must exceed
    (single-step max-t): intervals and p-values hold for all pairs together.

    Returns:
        One row a pair: `difference` is the first method's score less the other's, `low` and `high`
        its simultaneous 95% interval, `p_adjusted` belongs to it. `wilcoxon_p` is the p-value of
        Wilcoxon's signed-rank test within images, after Holm. Missing where there are too few
        images.
    """
    pairs = list(combinations(range(len(field.methods)), 2))
    if not pairs:
        return pd.DataFrame([], columns=PAIRS[1:])
    between = field.scores.differences()
    variance, freedom = between.errors()
    error = np.sqrt(variance)
    # Where nothing that is left out changes a difference, it is what it is.
    certain = error <= ROUNDING
    same = certain & (np.abs(between.whole) <= ROUNDING)
    known = np.isfinite(error) & (field.scores.images.shape[-1] >= LEAST_IMAGES)
    divisor = np.where(certain | ~known, 1.0, error)
    size = np.asarray(norm.isf(student.sf(np.abs(between.whole) / divisor, freedom)))
    largest = _largest(field.scores, known & ~certain)
    # As likely to be exceeded by a pair's own Student's t as the largest of all by its quantile.
    level = norm.sf(np.quantile(largest, intervals.CONFIDENCE))
    reach: cells.Floats = np.where(certain, 0.0, student.isf(level, freedom) * divisor)
    wilcoxon = _wilcoxon(field.units)
    rows = []
    for one, other in pairs:
        p_value = np.nan
        if known[one, other]:
            # The difference itself is one of the draws, so that no p-value is 0 for want of draws.
            p_value = float((1 + (largest >= size[one, other]).sum()) / (1 + DRAWS))
            if certain[one, other]:
                p_value = 1.0 if same[one, other] else 0.0
        width = reach[one, other] if known[one, other] else np.nan
        value = between.whole[one, other]
        row = {METHOD: field.methods[one], "other": field.methods[other], "difference": value}
        row |= {"low": value - width, "high": value + width, "p_adjusted": p_value}
        rows.append(row | {"wilcoxon_p": wilcoxon[one, other]})
    return pd.DataFrame(rows, columns=PAIRS[1:])


def rank_sets(methods: Sequence[str], compared: pd.DataFrame) -> tuple[cells.Floats, cells.Floats]:
    """Return the first and the last rank that each method may have, (M,) each.

    Before a method are at least those that are surely better; behind it, those surely worse.
    """
    better, worse = np.zeros(len(methods)), np.zeros(len(methods))
    place = {method: at for at, method in enumerate(methods)}
    for row in compared.to_dict("records"):
        one, other = place[row[METHOD]], place[row["other"]]
        if row["low"] > 0:
            worse[one] += 1
            better[other] += 1
        elif row["high"] < 0:
            better[one] += 1
            worse[other] += 1
    return 1 + better, len(methods) - worse


def _largest(scores: Replicates, chosen: cells.Flags) -> cells.Floats:
    """Draw the largest standardised difference of chosen pairs that chance makes: (draws,)."""
    covariance = scores.covariance()
    spread = covariance.diagonal()[:, None] + covariance.diagonal() - 2 * covariance
    rng = generator("ranks", len(covariance))
    drawn = np.zeros((DRAWS, len(covariance)))
    for left in (scores.images, scores.networks):
        count = left.shape[-1]
        if count >= LEAST_IMAGES:
            away = np.nan_to_num(left - left.mean(axis=-1, keepdims=True))
            drawn += np.sqrt((count - 1) / count) * rng.standard_normal((DRAWS, count)) @ away.T
    largest = np.zeros(DRAWS)
    for one, other in zip(*np.nonzero(np.triu(chosen, 1)), strict=True):
        apart = np.abs(drawn[:, one] - drawn[:, other]) / np.sqrt(spread[one, other])
        largest = np.maximum(largest, apart)
    return largest


def _wilcoxon(within: pd.DataFrame) -> cells.Floats:
    """Return p-values of Wilcoxon's signed-rank test of each pair, after Holm: (M, M)."""
    images, methods = within.shape
    if images < LEAST_IMAGES:
        return np.full((methods, methods), np.nan)
    # Loaded here: it takes a second, and not every run has methods to compare.
    from scikit_posthocs import posthoc_wilcoxon  # noqa: PLC0415

    # Where two methods are alike in an image, half of it speaks for either.
    table = posthoc_wilcoxon(list(within.to_numpy().T), zero_method="zsplit", p_adjust="holm")
    p_values: cells.Floats = table.to_numpy(dtype=np.float64)
    return p_values
