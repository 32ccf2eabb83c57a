"""What scores are worth: held against unrelated maps, other seeds and rounding."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from steadymap.bench.analysis import cells, estimates
from steadymap.bench.analysis.instability import Instability
from steadymap.bench.analysis.jackknife import interval_of
from steadymap.bench.core.metric_registry import known_metrics
from steadymap.bench.records.grouping import NONE, Groups
from steadymap.bench.records.vocabulary import (
    DIAGNOSIS,
    DRAW,
    FAMILY,
    METHOD,
    METRIC,
    OF_STOCHASTIC,
    OTHER_SEED,
    OVERALL,
    is_control,
)
from steadymap.metrics import Metric

# Where unrelated maps are this close to a perfect score, the score says nothing.
LEAST_ROOM = 0.05

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
    "coverage",
    "vanished",
    "score",
    "null",
    "perfect",
    "null_of",
    "null_images",
    *cells.KINDS,
    "calibrated",
    "low",
    "high",
    "interval",
    "verdict",
    "without_vanished",
    "all_pairs",
    "kept_pairs",
    "changed_pairs",
    "floor",
    "other_seed",
    "recognised",
    "chance",
    "reciprocal_rank",
    "chance_reciprocal_rank",
]


def calibrate(
    records: pd.DataFrame,
    metrics: Mapping[str, Metric] | None = None,
    families: Sequence[str] | None = None,
    groups: Groups = NONE,
) -> pd.DataFrame:
    """Calibrate every score of a metric that compares two maps, over pairs whose prediction held.

    The null is of unrelated clean maps against the same perturbed ones: of the block's other
    images, of those of the same predicted class, and of the method's own in networks with
    randomised weights. Of the three means the closest to a perfect score counts:

        calibrated = (score - null) / (perfect score - null)

    It is 1 for maps that did not move and 0 for maps no closer than unrelated ones. Where an image
    is shifted, turned or enlarged the perfect score is that of the clean map warped there and back,
    image by image: maps that move exactly as the image does then have 1. A map that vanished,
    though the clean one did not, has the null's score. `overall` is of the means over families,
    each counting the same, without those that are there for a diagnosis.

    Args:
        records: of a run with `nulls` of 1 or more.
        metrics: those whose values can be read; left out, ours and those that are loaded.
        families: which to give a row each, whether they have values or not; left out, those of the
            records that have some.
        groups: of images.

    Returns:
        One row a method, family and metric. `score`, `null` and `perfect` are raw, and so are
        `other_image`, `same_class` and `random_network`, which are missing where that null is, or
        is defined on less than a fifth of the images. `coverage` is the share of the kept pairs
        that count, `vanished` that of those whose map vanished. `verdict` is `ok`, or
        `uninformative` (unrelated maps score within 0.05 of a perfect score: no number),
        `unresolvable` (the maps moved no more than rounding moves them, `floor`), `uncalibrated`
        (there is no null: no number). The interval is that of `interval_of`. The same score is
        given `without_vanished` maps, of `all_pairs`, `kept_pairs` (again) and `changed_pairs`.
        `other_seed` is the calibrated score of clean maps under two seeds. `recognised` is the
        share of maps that are closer to their clean self than to every other clean map of the
        block, `reciprocal_rank` the mean of 1 / the own map's place among them, and beside them
        what they would be by chance.
    """
    metrics = known_metrics() if metrics is None else metrics
    # The second seed that every method gets is no score of those that draw nothing.
    declared = (records[FAMILY] != OTHER_SEED) | (records[DRAW] == OF_STOCHASTIC)
    unstable = Instability.of(records[declared], metrics)
    families = unstable.families() if families is None else families
    tables = {
        name: _Table(name, metrics[name], cells.Cells.of(records, name, metrics[name], groups))
        for _, name in unstable.pairs()
    }
    rows = [
        tables[metric].row(unstable, method, family)
        for method, metric in unstable.pairs()
        for family in (*families, OVERALL)
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


class _Table:
    """One metric's pairs, averaged within images, from which rows are made."""

    def __init__(self, name: str, metric: Metric, table: cells.Cells) -> None:
        self.name, self.metric, self.cells = name, metric, table
        kept = self.cells.kept
        self.kept = estimates.Averages.of(self.cells, kept)
        self.every = estimates.Averages.of(self.cells, np.ones(len(kept), dtype=bool))
        self.changed = estimates.Averages.of(self.cells, ~kept)
        self.recognition = _recognition(self.cells)
        entering = self.cells.entering.astype(np.float64)
        self.coverage = self.cells.within(entering, kept & self.cells.measured)

    def row(self, unstable: Instability, method: str, family: str) -> dict[str, object]:
        """Return one row of the table."""
        at = self.cells.methods.index(method)
        places = _places(self.cells.families, family)
        estimate = estimates.estimate(self.kept, at, places)
        floor = unstable.floor(method, self.name)
        verdict = _verdict(estimate, floor)
        numbered = verdict in (OK, UNRESOLVABLE)

        def over(table: cells.Floats) -> float:
            """Average within families, then over them; NaN where nothing is known."""
            return _mean(_mean(row) for row in table[at, places])

        def whole(averages: estimates.Averages) -> float:
            found = estimates.estimate(averages, at, places)
            usable = _verdict(found, np.nan) == OK
            return float(found.calibrated.whole) if usable else np.nan

        redrawn = unstable.at(method, self.name, OTHER_SEED)
        row: dict[str, object] = {
            METHOD: method,
            FAMILY: family,
            METRIC: self.name,
            "control": is_control(method),
            "images": estimate.images,
            "coverage": over(self.coverage),
            "vanished": over(self.kept.vanished),
            **_raw(estimate, self.metric),
            "null_of": estimate.null_of,
            "null_images": estimate.null_images,
            "verdict": verdict,
            "all_pairs": whole(self.every),
            "changed_pairs": whole(self.changed),
            "floor": floor,
            **{name: over(table) for name, table in self.recognition.items()},
        }
        if numbered:
            interval = interval_of(estimate.calibrated)
            if verdict == UNRESOLVABLE:
                # Between a map that did not move and one that rounding moved nothing is to tell.
                interval = replace(interval, low=np.nan, high=np.nan, kind="none")
            row |= {
                "calibrated": interval.mean,
                "low": interval.low,
                "high": interval.high,
                "interval": interval.kind,
                "kept_pairs": interval.mean,
                "without_vanished": estimate.without_vanished,
                "other_seed": 1 - _mean(redrawn) / estimate.room,
            }
        return row


def _places(families: Sequence[str], family: str) -> list[int]:
    """Return the places of the families that a row is of."""
    if family == OVERALL:
        return [place for place, name in enumerate(families) if name not in DIAGNOSIS]
    return [place for place, name in enumerate(families) if name == family]


def _mean(values: Iterable[float]) -> float:
    """Average what is known; NaN where nothing is."""
    known = [value for value in values if np.isfinite(value)]
    return float(np.mean(known)) if known else np.nan


def _verdict(estimate: estimates.Estimate, floor: float) -> str:
    """Say what may be said."""
    if np.isnan(estimate.room) or np.isnan(estimate.distance):
        return UNCALIBRATED
    if estimate.room < LEAST_ROOM:
        return UNINFORMATIVE
    return UNRESOLVABLE if estimate.distance <= floor else OK


def _raw(estimate: estimates.Estimate, metric: Metric) -> dict[str, object]:
    """Return what is on the metric's own scale."""
    # Where a larger value is better, all others lie below the perfect score.
    sign = -1.0 if metric.better == "higher" else 1.0
    perfect = (metric.identity or 0.0) + sign * (0.0 if not estimate.images else estimate.cost)
    return {
        "score": perfect + sign * estimate.distance,
        "null": perfect + sign * estimate.room,
        "perfect": perfect,
        **{
            kind: perfect + sign * mean
            for kind, mean in zip(cells.KINDS, estimate.nulls, strict=True)
        },
    }


def _recognition(table: cells.Cells) -> dict[str, cells.Floats]:
    """Return whether maps are recognised, averaged within images, and what chance would make of it.

    A constant map is as close to all: ties count against it.
    """
    among = table.candidates
    last = float(np.nanmax(among)) if np.isfinite(among).any() else np.nan
    rank = np.where(table.vanished, last, table.rank)
    # A metric that does not recognise has no places at all.
    known = np.isfinite(table.rank) | (table.vanished & np.isfinite(last))
    first = np.where(known, (table.rank == 1).astype(float), np.nan)
    # Of r equally likely places the mean of 1 / place is the harmonic number of r over r.
    harmonic = {size: np.mean(1 / np.arange(1, size + 1)) for size in _sizes(among)}
    by_chance = [harmonic[size] if np.isfinite(size) else np.nan for size in among]
    chosen = table.kept & table.entering
    return {
        "recognised": table.within(first, chosen),
        "chance": table.within(1 / among, chosen),
        "reciprocal_rank": table.within(1 / rank, chosen),
        "chance_reciprocal_rank": table.within(np.array(by_chance, dtype=np.float64), chosen),
    }


def _sizes(among: cells.Floats) -> list[float]:
    return [float(size) for size in np.unique(among[np.isfinite(among)])]


def missing_nulls(calibrated: pd.DataFrame, metric: str) -> list[str]:
    """Return the kinds of unrelated maps that some ranked method's score could not be held against.

    Args:
        calibrated: as `calibrate` returns it.
        metric: which metric.
    """
    rows = calibrated[
        (calibrated[METRIC] == metric)
        & (calibrated[FAMILY] == OVERALL)
        & ~calibrated["control"]
        & calibrated["calibrated"].notna()
    ]
    return [kind for kind in cells.KINDS if rows[kind].isna().any()]


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
        family: one of `KINDS`.
    """
    rows = calibrated[
        (calibrated[METRIC] == metric)
        & (calibrated[FAMILY] == OVERALL)
        & ~calibrated["control"]
        & calibrated["calibrated"].notna()
    ]
    perfect = rows["perfect"]
    scores = 1 - (rows[family] - perfect).abs() / (rows["null"] - perfect).abs()
    return _mean(scores)
