"""What scores are worth: held against unrelated maps, other seeds and rounding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from steadymap.bench.analysis.intervals import ratio_intervals
from steadymap.bench.core.metric_registry import known_metrics
from steadymap.bench.records.vocabulary import (
    CLEAN,
    DRAW,
    FAMILY,
    IMAGE_ID,
    METHOD,
    METRIC,
    NULLS,
    NUMERICS,
    OTHER_IMAGE,
    OTHER_SEED,
    OVERALL,
    PERFECT,
    RECOGNISED,
    REFERENCES,
    SEVERITY,
    STATUS,
    VALUE,
    base_metric,
    is_control,
)
from steadymap.metrics import Metric, Status

# Where unrelated maps are this close to a perfect score, the score says nothing.
LEAST_ROOM = 0.05

# A null that is defined on a smaller share of the images is none.
LEAST_SHARE = 0.2

# Verdicts on a calibrated score.
OK = "ok"
UNINFORMATIVE = "uninformative"
UNRESOLVABLE = "unresolvable"
UNCALIBRATED = "uncalibrated"

COLUMNS = [
    METHOD,
    FAMILY,
    METRIC,
    "control",
    "images",
    "score",
    "null",
    "perfect",
    "null_of",
    "null_images",
    *NULLS,
    "calibrated",
    "low",
    "high",
    "interval",
    "verdict",
    "floor",
    "other_seed",
    "recognised",
    "chance",
]


@dataclass(frozen=True)
class Instability:
    """How far scores of maps are from a perfect one: 0 is a map that did not move.

    Attributes:
        by_image: index (method, metric, family), a column an image; the mean over the draws and
            severities on which the metric is defined, NaN where there are none.
        cost: likewise, how far the perfect score itself is from that of a map which is left alone:
            0 but where an image and its maps are warped, which interpolates them.
    """

    by_image: pd.DataFrame
    cost: pd.DataFrame

    @classmethod
    def of(cls, records: pd.DataFrame, metrics: Mapping[str, Metric] | None = None) -> Instability:
        """Take it from the records of every metric that compares two maps.

        One of which nobody knows what a perfect score is has no distance from it, and is left out.

        Args:
            records: of a run.
            metrics: those whose values can be read; left out, ours and those that are loaded.
        """
        perfect = {
            name: metric.identity
            for name, metric in (known_metrics() if metrics is None else metrics).items()
            if metric.against == "map" and metric.identity is not None
        }
        valid = records[STATUS] == Status.OK.value
        chosen = records[records[METRIC].isin(perfect) & valid]
        chosen = chosen.assign(
            distance=(chosen[VALUE] - chosen[METRIC].map(perfect).astype(float)).abs(), cost=0.0
        )
        warped = records[METRIC].isin([name + PERFECT for name in perfect])
        if warped.any():
            chosen = _with_costs(chosen, records[warped], perfect)
        tables = [
            chosen.pivot_table(
                values=values,
                index=[METHOD, METRIC, FAMILY],
                columns=IMAGE_ID,
                observed=True,
                sort=False,
            )
            for values in ("distance", "cost")
        ]
        return cls(tables[0], tables[1])

    def families(self) -> list[str]:
        """Return the families of perturbations, in the order of the records."""
        names = self.by_image.index.get_level_values(FAMILY).unique()
        return [name for name in names if name not in (*REFERENCES, CLEAN)]

    def at(self, method: str, metric: str, family: str) -> NDArray[np.float64]:
        """Return the images' values (N,), NaN where there is none.

        `overall` is the mean of an image's families, each counting the same.
        """
        return self._read(self._rows, method, metric, family)

    def cost_at(self, method: str, metric: str, family: str) -> NDArray[np.float64]:
        """Return, likewise, how far their perfect scores are from those of maps left alone."""
        return self._read(self._costs, method, metric, family)

    def _read(
        self,
        rows: Mapping[tuple[str, str, str], NDArray[np.float64]],
        method: str,
        metric: str,
        family: str,
    ) -> NDArray[np.float64]:
        if family == OVERALL:
            each = [self._read(rows, method, metric, name) for name in self.families()]
            return _mean_of_known(np.reshape(each, (len(each), self.by_image.shape[1])))
        values = rows.get((method, metric, family))
        return np.full(self.by_image.shape[1], np.nan) if values is None else values

    @cached_property
    def _rows(self) -> dict[tuple[str, str, str], NDArray[np.float64]]:
        return dict(zip(self._keys(), self.by_image.to_numpy(dtype=np.float64), strict=True))

    @cached_property
    def _costs(self) -> dict[tuple[str, str, str], NDArray[np.float64]]:
        return dict(zip(self._keys(), self.cost.to_numpy(dtype=np.float64), strict=True))

    def pairs(self) -> list[tuple[str, str]]:
        """Return what there is of methods and metrics, in the order of the records."""
        return list(dict.fromkeys((method, metric) for method, metric, _ in self._keys()))

    def _keys(self) -> list[tuple[str, str, str]]:
        index = self.by_image.index.to_frame(index=False).astype(str)
        return list(zip(index[METHOD], index[METRIC], index[FAMILY], strict=True))

    def floor(self, method: str, metric: str) -> float:
        """Return what computing in another way changes: the larger of the ways' means; or NaN."""
        rows = np.stack([self.at(method, metric, family) for family in NUMERICS])
        known = [float(np.nanmean(row)) for row in rows if np.isfinite(row).any()]
        return max(known, default=np.nan)


def _with_costs(
    chosen: pd.DataFrame, warped: pd.DataFrame, perfect: Mapping[str, float]
) -> pd.DataFrame:
    """Take off distances what warping costs; leave out those of which that is not known.

    Args:
        chosen: records with `distance` and `cost`.
        warped: records of perfect scores.
        perfect: by metric, the value of a map compared with itself.
    """
    known = warped[warped[STATUS] == Status.OK.value]
    metric = known[METRIC].astype(str).map(base_metric)
    keys = [METHOD, METRIC, FAMILY, SEVERITY, DRAW, IMAGE_ID]
    text = dict.fromkeys((METHOD, METRIC, FAMILY, IMAGE_ID), str)
    costs = known.assign(**{METRIC: metric}, cost=(known[VALUE] - metric.map(perfect)).abs())
    moving = chosen[FAMILY].isin(warped[FAMILY].unique())
    moved = chosen[moving].drop(columns="cost").astype(text)
    moved = moved.merge(costs[[*keys, "cost"]].astype(text), on=keys)
    moved = moved.assign(distance=moved["distance"] - moved["cost"])
    return pd.concat([chosen[~moving].astype(text), moved])


def _mean_of_known(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Average over rows, for each column over those that are known; NaN where none is."""
    known = np.isfinite(rows)
    count = known.sum(axis=0)
    total = np.where(known, rows, 0.0).sum(axis=0)
    mean: NDArray[np.float64] = np.divide(
        total, count, out=np.full(rows.shape[1], np.nan), where=count > 0
    )
    return mean


def calibrate(
    records: pd.DataFrame,
    metrics: Mapping[str, Metric] | None = None,
    families: Sequence[str] | None = None,
) -> pd.DataFrame:
    """Calibrate every score of a metric that compares two maps.

    With the null the better of two means, that of the score of an image's clean map against other
    images' and that against its own map in networks with randomised weights:

        calibrated = (score - null) / (perfect score - null)

    It is 1 for maps that did not move and 0 for maps no closer than unrelated ones. Where an image
    is shifted, turned or enlarged the perfect score is that of the clean map warped there and back,
    image by image: maps that move exactly as the image does then have 1. Images are
    resampled with their scores and nulls together, so that the interval carries the null's own
    uncertainty, and which of the two it is.

    Args:
        records: of a run with `nulls` of 1 or more.
        metrics: those whose values can be read; left out, ours and those that are loaded.
        families: which to give a row each, whether they have values or not; left out, those of the
            records that have some.

    Returns:
        One row a method, family and metric, with `overall` for the mean over the families. `score`,
        `null` and `perfect` are raw. `verdict` is `ok`, or `uninformative` (unrelated maps score
        within 0.05 of a perfect score: no number), `unresolvable` (the maps moved no more than
        rounding moves them, `floor`), `uncalibrated` (a null is missing, or defined on less than a
        fifth of the images: no number). `other_seed` is the
        calibrated score of clean maps under two seeds. `recognised` is the share of maps closer to
        their clean self than to every unrelated one, `chance` what it would be of maps that had
        forgotten their image. `null_images` is how many images the scarcer null rests on.
    """
    metrics = known_metrics() if metrics is None else metrics
    unstable = Instability.of(records, metrics)
    chances = _chances(records)
    rates = _rates(records)
    families = unstable.families() if families is None else families
    rows: list[dict[str, object]] = []
    samples: list[NDArray[np.float64]] = []
    for method, metric in unstable.pairs():
        nulls = [unstable.at(method, metric, family) for family in NULLS]
        for family in (*families, OVERALL):
            scores = unstable.at(method, metric, family)
            used = np.isfinite(scores)
            cost = unstable.cost_at(method, metric, family)
            # Both the scores and the nulls are as far from the perfect score as it allows.
            sample = np.stack([scores, *(null - cost for null in nulls)])[:, used]
            worth = _worth(sample, cost[used], unstable.floor(method, metric))
            redrawn = unstable.at(method, metric, OTHER_SEED)
            key = (method, metric, family)
            rows.append(
                {
                    METHOD: method,
                    FAMILY: family,
                    METRIC: metric,
                    "control": is_control(method),
                    **_raw(worth, metrics[metric]),
                    "other_seed": worth.calibrated(redrawn[np.isfinite(redrawn)]),
                    "recognised": rates.get(key, np.nan),
                    "chance": chances.get((method, metric), np.nan),
                }
            )
            samples.append(sample)
    numbered = [place for place, row in enumerate(rows) if row["verdict"] in (OK, UNRESOLVABLE)]
    ratios = ratio_intervals([samples[place] for place in numbered])
    for place, interval in zip(numbered, ratios, strict=True):
        rows[place] |= {
            "calibrated": interval.mean,
            "low": interval.low,
            "high": interval.high,
            "interval": interval.kind,
        }
    return pd.DataFrame(rows, columns=COLUMNS)


@dataclass(frozen=True)
class _Worth:
    """What some images' scores of one metric are worth.

    Attributes:
        images: how many.
        mean: their mean instability.
        nulls: mean instability of either null, from the perfect score; NaN where it is missing.
        null_images: on how many of the images the scarcer of the two is defined.
        cost: how far their perfect score is, on average, from that of a map left alone.
        floor: the instability that computing in another way makes.
    """

    images: int
    mean: float
    cost: float
    nulls: tuple[float, float]
    null_images: int
    floor: float

    @property
    def room(self) -> float:
        """How far unrelated maps are from a perfect score; NaN where a null is missing."""
        return float(np.min(self.nulls))

    @property
    def verdict(self) -> str:
        """What may be said."""
        if np.isnan(self.room) or self.null_images < LEAST_SHARE * self.images:
            return UNCALIBRATED
        if self.room < LEAST_ROOM:
            return UNINFORMATIVE
        return UNRESOLVABLE if self.mean <= self.floor else OK

    def calibrated(self, values: NDArray[np.float64]) -> float:
        """Return the calibrated mean of instabilities; NaN where there is no number."""
        if self.verdict not in (OK, UNRESOLVABLE) or not len(values):
            return np.nan
        return float(1 - values.mean() / self.room)


def _worth(sample: NDArray[np.float64], cost: NDArray[np.float64], floor: float) -> _Worth:
    """Judge a sample: instability and both nulls of some images, (3, images), and their costs."""
    scores, nulls = sample[0], sample[1:]
    mean = float(scores.mean()) if len(scores) else np.nan
    means = [float(np.nanmean(row)) if np.isfinite(row).any() else np.nan for row in nulls]
    scarcer = int(np.isfinite(nulls).sum(axis=1).min())
    dear = float(cost.mean()) if len(cost) else 0.0
    return _Worth(len(scores), mean, dear, (means[0], means[1]), scarcer, floor)


def _raw(worth: _Worth, metric: Metric) -> dict[str, object]:
    """Return the columns of one row that need no resampling, on the metric's own scale."""
    # Where a larger value is better, all others lie below the perfect score.
    sign = -1.0 if metric.better == "higher" else 1.0
    perfect = (metric.identity or 0.0) + sign * worth.cost
    return {
        "images": worth.images,
        "score": perfect + sign * worth.mean,
        "null": perfect + sign * worth.room,
        "perfect": perfect,
        "null_images": worth.null_images,
        "null_of": "" if np.isnan(worth.room) else NULLS[int(np.argmin(worth.nulls))],
        **{name: perfect + sign * mean for name, mean in zip(NULLS, worth.nulls, strict=True)},
        "verdict": worth.verdict,
        "floor": worth.floor,
    }


def _chances(records: pd.DataFrame) -> dict[tuple[str, str], float]:
    """Return, by method and metric, how often a map that forgot its image would be recognised.

    As likely to be closest to its own clean map as to any other image's, it is in 1 of 1 + the
    number of other images' maps on which the metric is defined. The maps of randomised networks can
    only lower that.
    """
    nulls = records[records[FAMILY].isin(NULLS) & (records[STATUS] == Status.OK.value)]
    of_images = (nulls[FAMILY] == OTHER_IMAGE).rename("count")
    keys = [nulls[key] for key in (METHOD, METRIC, IMAGE_ID)]
    counts = of_images.groupby(keys, observed=True).sum()
    chances = (1 / (1 + counts)).groupby(level=[METHOD, METRIC], observed=True).mean()
    table = chances.rename("chance").reset_index().astype({METHOD: str, METRIC: str})
    return {(row[METHOD], row[METRIC]): row["chance"] for row in table.to_dict("records")}


def _rates(records: pd.DataFrame) -> dict[tuple[str, str, str], float]:
    """Return recognition rates by method, metric and family, `overall` among them."""
    names = [name for name in records[METRIC].unique() if str(name).endswith(RECOGNISED)]
    chosen = records[records[METRIC].isin(names) & (records[STATUS] == Status.OK.value)]
    keys = [METHOD, METRIC, FAMILY]
    groups = chosen.groupby([*keys, IMAGE_ID], observed=True, sort=False)
    # Text once there is one row a group: of each record it would fill the memory.
    text = dict.fromkeys([*keys, IMAGE_ID], str)
    by_image = groups[VALUE].mean().reset_index().astype(text)
    overall = by_image.groupby([METHOD, METRIC, IMAGE_ID], sort=False)[VALUE].mean()
    with_overall = pd.concat([by_image, overall.reset_index().assign(**{FAMILY: OVERALL})])
    means = with_overall.groupby(keys, sort=False)[VALUE].mean().reset_index()
    return {
        (row[METHOD], row[METRIC].removesuffix(RECOGNISED), row[FAMILY]): row[VALUE]
        for row in means.to_dict("records")
    }


def order(calibrated: pd.DataFrame, metric: str, specs: Sequence[str]) -> list[str]:
    """Sort methods by their calibrated score of a metric overall, the steadiest first.

    A method without a number comes behind all that have one: what cannot be told from an unrelated
    map has shown nothing.
    """
    rows = calibrated[(calibrated[METRIC] == metric) & (calibrated[FAMILY] == OVERALL)]
    score = dict(zip(rows[METHOD], rows["calibrated"], strict=True))
    return sorted(specs, key=lambda spec: -np.nan_to_num(score.get(spec, np.nan), nan=-np.inf))


def null_score(calibrated: pd.DataFrame, metric: str, family: str) -> float:
    """Return the calibrated score of a null itself, at most 0: the mean over the methods.

    Args:
        calibrated: as `calibrate` returns it.
        metric: which metric.
        family: one of `NULLS`.
    """
    rows = calibrated[
        (calibrated[METRIC] == metric)
        & (calibrated[FAMILY] == OVERALL)
        & ~calibrated["control"]
        & calibrated["calibrated"].notna()
    ]
    perfect = rows["perfect"]
    scores = 1 - (rows[family] - perfect).abs() / (rows["null"] - perfect).abs()
    return float(scores.mean()) if len(rows) else np.nan
