"""How far maps moved, image by image: distances from a perfect score, not calibrated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from steadymap.bench.analysis.intervals import mean_of_known
from steadymap.bench.core.metric_registry import known_metrics
from steadymap.bench.records.vocabulary import (
    CLEAN,
    DIAGNOSIS,
    DRAW,
    FAMILY,
    IMAGE_ID,
    METHOD,
    METRIC,
    NUMERICS,
    OVERALL,
    PERFECT,
    REFERENCES,
    SEVERITY,
    STATUS,
    VALUE,
    base_metric,
)
from steadymap.metrics import Metric, Status


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
    def of(cls, records: pd.DataFrame, metrics: Mapping[str, Metric] | None = None) -> Self:
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

    def images(self) -> list[str]:
        """Return the ids of the images (N,), in the order of the values."""
        return [str(image) for image in self.by_image.columns]

    def at(self, method: str, metric: str, family: str) -> NDArray[np.float64]:
        """Return the images' values (N,), NaN where there is none.

        `overall` is the mean of an image's families, each counting the same, without those that are
        there for a diagnosis.
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
            real = [name for name in self.families() if name not in DIAGNOSIS]
            each = [self._read(rows, method, metric, name) for name in real]
            return mean_of_known(np.reshape(each, (len(each), self.by_image.shape[1])), axis=0)
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
    chosen = chosen.reset_index(drop=True)
    moved = chosen[moving.to_numpy()].drop(columns="cost").astype(text)
    moved = moved.reset_index(names="place").merge(costs[[*keys, "cost"]].astype(text), on=keys)
    moved = moved.assign(distance=moved["distance"] - moved["cost"]).set_index("place")
    # In the order of the records: families are named in it.
    return pd.concat([chosen[~moving.to_numpy()].astype(text), moved]).sort_index()
