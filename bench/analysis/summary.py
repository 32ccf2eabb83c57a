"""Records to means over images with their intervals; and the tables that people read."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from steadymap.bench.analysis.cells import is_unrelated
from steadymap.bench.analysis.intervals import intervals
from steadymap.bench.records.grouping import NONE, Groups, by_group
from steadymap.bench.records.vocabulary import (
    CLEAN,
    DIAGNOSIS,
    FAMILY,
    IMAGE_ID,
    KEPT,
    METHOD,
    METRIC,
    OVERALL,
    REFERENCES,
    STATUS,
    VALUE,
)
from steadymap.metrics import Status


def summarise(
    records: pd.DataFrame,
    by: Sequence[str] = (METHOD, FAMILY, METRIC),
    *,
    kept_only: bool = False,
    groups: Groups = NONE,
) -> pd.DataFrame:
    """Average records over images.

    Draws and severities are averaged within an image first: the image is the unit, and images, or
    whole groups of them, are what is resampled. Only values of status `ok` enter; `coverage` is
    their share.

    Args:
        records: as `run` returns them.
        by: columns that make a group; with "severity" among them, one row a severity.
        kept_only: leave out the pairs whose prediction changed.
        groups: of images.

    Returns:
        One row a group, in the records' order: `by`, images, mean, low, high, interval, coverage.
    """
    chosen = records[records[KEPT]] if kept_only else records
    valid = chosen[chosen[STATUS] == Status.OK.value]
    sizes = chosen.groupby(list(by), observed=True, sort=False).size()
    known = valid.groupby(list(by), observed=True, sort=False).size()
    coverage = (known.reindex(sizes.index, fill_value=0) / sizes).tolist()
    means = valid.groupby([*by, IMAGE_ID], observed=True, sort=False)[VALUE].mean()
    # By image, whatever order the columns' dictionaries are in: resampling draws by place.
    of_images = means.reset_index().sort_values(
        IMAGE_ID, key=lambda ids: ids.astype(str), kind="stable"
    )
    # All groups at once, then cut: thousands of small ones take seconds one by one.
    places = of_images.groupby(list(by), observed=True, sort=False).indices
    values = of_images[VALUE].to_numpy(dtype=np.float64)
    images = of_images[IMAGE_ID].to_numpy(dtype=object)
    keys = list(sizes.index)
    chosen_places = [places.get(key, np.zeros(0, dtype=int)) for key in keys]
    units = [by_group(values[place], images[place].tolist(), groups) for place in chosen_places]
    rows = [
        {
            **dict(zip(by, key, strict=True)),
            "images": len(place),
            "mean": interval.mean,
            "low": interval.low,
            "high": interval.high,
            "interval": interval.kind,
            "coverage": share,
        }
        for key, place, share, interval in zip(
            keys, chosen_places, coverage, intervals(units), strict=True
        )
    ]
    columns = [*by, "images", "mean", "low", "high", "interval", "coverage"]
    return pd.DataFrame(rows, columns=columns)


def full_summary(records: pd.DataFrame, groups: Groups = NONE) -> pd.DataFrame:
    """Summarise all pairs and, apart from them, those whose prediction held (column `subset`).

    Family `overall` is the mean over the families of perturbations, each counting the same, without
    those that are there for a diagnosis. Scores of unrelated maps, by which others are calibrated,
    are left out.
    """
    records = records[~records[METRIC].isin(list(filter(is_unrelated, records[METRIC].unique())))]
    perturbed = records[~records[FAMILY].isin((CLEAN, *REFERENCES))]
    parts = [
        summarise(records, groups=groups).assign(subset="all"),
        _overall(perturbed, groups).assign(subset="all"),
        summarise(perturbed, kept_only=True, groups=groups).assign(subset=KEPT),
        _overall(perturbed[perturbed[KEPT]], groups).assign(subset=KEPT),
    ]
    both = pd.concat([part for part in parts if len(part)], ignore_index=True)
    return both[["subset", *(name for name in both if name != "subset")]]


def _overall(perturbed: pd.DataFrame, groups: Groups) -> pd.DataFrame:
    """Average an image's families, then images; coverage is that of all pairs."""
    perturbed = perturbed[~perturbed[FAMILY].isin(DIAGNOSIS)]
    valid = perturbed[perturbed[STATUS] == Status.OK.value]
    keys = [METHOD, METRIC, IMAGE_ID, FAMILY]
    by_family = valid.groupby(keys, observed=True, sort=False)[VALUE].mean().reset_index()
    by_family = by_family.assign(**{FAMILY: OVERALL, STATUS: Status.OK.value})
    summary = summarise(by_family, groups=groups)
    pairs = perturbed.groupby([METHOD, METRIC], observed=True)[STATUS]
    coverage = pairs.agg(lambda status: float((status == Status.OK.value).mean()))
    index = pd.MultiIndex.from_frame(summary[[METHOD, METRIC]])
    return summary.assign(coverage=coverage.reindex(index).to_numpy())
