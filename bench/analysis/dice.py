"""What another seed does to maps: a method's own dice, and who throws them without saying so."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from steadymap.bench.analysis.instability import Instability
from steadymap.bench.analysis.intervals import mean_of_known
from steadymap.bench.core.metric_registry import known_metrics
from steadymap.bench.records.vocabulary import (
    DIAGNOSIS,
    DRAW,
    FAMILY,
    METHOD,
    METRIC,
    OF_EVERY_METHOD,
    OF_STOCHASTIC,
    OTHER_SEED,
    OVERALL,
)
from steadymap.metrics import Metric

SHARES = [METHOD, FAMILY, METRIC, "images", "other_seed", "fresh", "seed_share"]
MOVES = [METHOD, METRIC, "declared", "moved"]


def seed_share(records: pd.DataFrame, metrics: Mapping[str, Metric] | None = None) -> pd.DataFrame:
    """Say how much of what stochastic methods move under a perturbation is their own dice.

        seed_share = (1 - other_seed) / (1 - fresh)

    Both are means over the images that have both: of the score of an image's clean maps under two
    seeds, and of its clean map against its perturbed one, which has draws of its own. 1 is a method
    that would have moved as far had the image stayed, 0 one whose draws change nothing. Raw scores,
    as distances from the perfect one; where an image is warped, without what warping costs. It can
    be a little beyond 1: a mean of maps may be noisier on clean images.

    Args:
        records: of a run with `nulls` of 1 or more.
        metrics: those whose values can be read; left out, ours and those that are loaded.

    Returns:
        One row a method that is declared stochastic, family and metric of two maps; `overall` for
        the mean over the families but those of diagnosis, each counting the same. `other_seed` and
        `fresh` are the distances. `seed_share` is missing where the maps moved no further than
        rounding moves them.
    """
    chosen = records[(records[FAMILY] != OTHER_SEED) | (records[DRAW] == OF_STOCHASTIC)]
    unstable = Instability.of(chosen, known_metrics() if metrics is None else metrics)
    real = [name for name in unstable.families() if name not in DIAGNOSIS]
    rows: list[tuple[object, ...]] = []
    for method, metric in unstable.pairs():
        redrawn = unstable.at(method, metric, OTHER_SEED)
        if not np.isfinite(redrawn).any():
            continue
        by_family = {name: unstable.at(method, metric, name) for name in unstable.families()}
        if real:
            by_family[OVERALL] = mean_of_known(np.stack([by_family[name] for name in real]), axis=0)
        floor = unstable.floor(method, metric)
        for family, moved in by_family.items():
            both = np.isfinite(redrawn) & np.isfinite(moved)
            means = [float(x[both].mean()) if both.any() else np.nan for x in (redrawn, moved)]
            share = means[0] / means[1] if _beyond(means[1], floor) else np.nan
            rows.append((method, family, metric, int(both.sum()), *means, share))
    return pd.DataFrame(rows, columns=SHARES)


def _beyond(distance: float, floor: float) -> bool:
    """Return whether maps moved further than rounding moves them; where that is unknown, at all."""
    return distance > (0.0 if np.isnan(floor) else floor)


def seed_moves(records: pd.DataFrame, metrics: Mapping[str, Metric] | None = None) -> pd.DataFrame:
    """Say which methods another seed moves, on the few images on which each is given one.

    Args:
        records: of a run with `nulls` of 1 or more; those of a single metric will do.
        metrics: those whose values can be read; left out, ours and those that are loaded.

    Returns:
        One row a method and metric that has values there: whether it is `declared` stochastic, and
        whether another seed `moved` its maps further than rounding does, the mean over the images.
    """
    redrawn = records[records[FAMILY] == OTHER_SEED]
    declared = set(redrawn[redrawn[DRAW] == OF_STOCHASTIC][METHOD].astype(str))
    chosen = records[(records[FAMILY] != OTHER_SEED) | (records[DRAW] == OF_EVERY_METHOD)]
    unstable = Instability.of(chosen, known_metrics() if metrics is None else metrics)
    rows: list[tuple[object, ...]] = []
    for method, metric in unstable.pairs():
        distances = unstable.at(method, metric, OTHER_SEED)
        known = distances[np.isfinite(distances)]
        if len(known):
            moved = _beyond(float(known.mean()), unstable.floor(method, metric))
            rows.append((method, metric, method in declared, moved))
    return pd.DataFrame(rows, columns=MOVES)


def wrong_declarations(moves: pd.DataFrame) -> dict[str, str]:
    """Return, by method, a sentence on what it declares and does not do.

    A method is moved that is moved by any metric: one may not see what another sees.

    Args:
        moves: as `seed_moves` returns it.
    """
    found = {}
    for method, rows in moves.groupby(METHOD, observed=True, sort=False):
        declared, moved = bool(rows["declared"].iloc[0]), bool(rows["moved"].any())
        if moved and not declared:
            found[str(method)] = (
                f"{method} is declared deterministic, and another seed moves its map"
            )
        if declared and not moved:
            found[str(method)] = (
                f"{method} is declared stochastic, and another seed does not move its map"
            )
    return found
