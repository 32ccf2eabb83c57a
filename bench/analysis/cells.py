"""One metric's pairs of maps, each with what it is held against: read from records, by image."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from steadymap.bench.records.grouping import NONE, Groups, places_of
from steadymap.bench.records.vocabulary import (
    CLEAN,
    DETAIL,
    DRAW,
    FAMILY,
    IMAGE_ID,
    INPUT,
    KEPT,
    MATCHED_CLASS,
    MATCHED_IMAGE,
    MATCHED_NETWORK,
    METHOD,
    METRIC,
    PARTNER,
    PERFECT,
    RANK,
    REFERENCES,
    SEVERITY,
    STATUS,
    VALUE,
    base_metric,
)
from steadymap.metrics import Metric, Status
from steadymap.metrics.scoring import PERTURBED_CONSTANT

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

# Unrelated maps that a perturbed map is held against, by the names of their columns.
OTHERS = {"other_image": MATCHED_IMAGE, "same_class": MATCHED_CLASS}
RANDOM = "random_network"
KINDS = (*OTHERS, RANDOM)

# What the detail of a rank says: among how many maps.
OUT_OF = "of "


def is_unrelated(name: str) -> bool:
    """Return whether a metric's name is that of scores of unrelated maps."""
    behind = name.removeprefix(base_metric(name)).removesuffix(PARTNER)
    return behind in OTHERS.values() or behind.startswith(MATCHED_NETWORK)


def networks_in(names: Iterable[str]) -> int:
    """Return how many randomised networks' maps scores were held against, by names of metrics."""
    return len({name.partition(MATCHED_NETWORK)[2] for name in names if MATCHED_NETWORK in name})


@dataclass(frozen=True)
class Cells:
    """Pairs of a clean and a perturbed map by one metric, in no order that means anything.

    Distances are |score - perfect score| of maps, in the metric's own unit; NaN where undefined.

    Attributes:
        methods: names, in the order of the records.
        families: of perturbations, likewise.
        images: ids, likewise.
        groups: (images,), the place of each image's group, see `places_of`.
        method: (P,), the place of each pair's method in `methods`.
        family: (P,), likewise.
        image: (P,), likewise.
        kept: (P,), whether the prediction held.
        measured: (P,), whether there is a record of the two maps of the pair.
        distance: (P,), of them.
        vanished: (P,), whether the perturbed map is constant and the clean one is not.
        cost: (P,), how far a map that moved exactly as the image did is from a perfect score: 0
            but where images are warped.
        unrelated: by `OTHERS`, (P,), of the perturbed map and unrelated clean ones.
        partners: by `OTHERS`, (P,), of this clean map and the perturbed ones it is unrelated to.
        networks: (K, P), of the perturbed map and each randomised network's.
        rank: (P,), the place of the own clean map among those of the block, 1 the closest.
        candidates: (P,), among how many.
    """

    methods: list[str]
    families: list[str]
    images: list[str]
    groups: NDArray[np.intp]
    method: NDArray[np.intp]
    family: NDArray[np.intp]
    image: NDArray[np.intp]
    kept: Flags
    measured: Flags
    distance: Floats
    vanished: Flags
    cost: Floats
    unrelated: Mapping[str, Floats]
    partners: Mapping[str, Floats]
    networks: Floats
    rank: Floats
    candidates: Floats

    @property
    def entering(self) -> Flags:
        """(P,), whether a pair counts: it has a score, or its perturbed map vanished."""
        return np.isfinite(self.cost) & (np.isfinite(self.distance) | self.vanished)

    @classmethod
    def of(cls, records: pd.DataFrame, name: str, metric: Metric, groups: Groups = NONE) -> Cells:
        """Take them from records.

        Args:
            records: of a run, or of this metric.
            name: of the metric.
            metric: what it is; it compares two maps, and has a perfect score.
            groups: of images.
        """
        about = [text for text in map(str, records[METRIC].unique()) if base_metric(text) == name]
        chosen = records[
            records[METRIC].isin(about)
            & ~records[FAMILY].isin((CLEAN, *REFERENCES))
            & (records[METHOD] != INPUT)
        ]
        places, names = zip(
            *(pd.factorize(chosen[column]) for column in (METHOD, FAMILY, IMAGE_ID)), strict=True
        )
        levels = [pd.factorize(chosen[column])[0] for column in (SEVERITY, DRAW)]
        key = np.zeros(len(chosen), dtype=np.int64)
        for part in (*places, *levels):
            key = key * (part.max(initial=0) + 1) + part
        pairs, first, pair = np.unique(key, return_index=True, return_inverse=True)
        codes, unique = pd.factorize(chosen[METRIC])
        code = {str(text).removeprefix(name): place for place, text in enumerate(unique)}
        known = (chosen[STATUS] == Status.OK.value).to_numpy()
        values = chosen[VALUE].to_numpy(dtype=np.float64)

        def behind_it(behind: str) -> Flags:
            rows: Flags = codes == code.get(behind, len(code))
            return rows

        def column(behind: str) -> Floats:
            rows = known & behind_it(behind)
            filled = np.full(len(pairs), np.nan)
            filled[pair[rows]] = values[rows]
            return filled

        def distance(behind: str) -> Floats:
            away: Floats = np.abs(column(behind) - (metric.identity or 0.0))
            return away

        vanished = np.zeros(len(pairs), dtype=bool)
        candidates = np.full(len(pairs), np.nan)
        if DETAIL in chosen:
            # Where there is one image that has a value of everything nothing has details.
            degenerate = (chosen[STATUS] == Status.DEGENERATE.value).to_numpy()
            said = (chosen[DETAIL] == PERTURBED_CONSTANT).to_numpy()
            vanished[pair[behind_it("") & degenerate & said]] = True
            ranked = known & behind_it(RANK)
            for place, text in zip(pair[ranked], chosen[DETAIL][ranked].astype(str), strict=True):
                if text.startswith(OUT_OF):
                    candidates[place] = float(text.removeprefix(OUT_OF))
        families, images = places[1][first], [str(text) for text in names[2]]
        # Any record of a perfect score says that the images of a family are warped.
        warped = np.isin(families, places[1][behind_it(PERFECT)])
        networks = sorted(
            (text for text in code if text.startswith(MATCHED_NETWORK)),
            key=lambda text: int(text.removeprefix(MATCHED_NETWORK)),
        )
        return cls(
            [str(text) for text in names[0]],
            [str(text) for text in names[1]],
            images,
            places_of(images, groups),
            places[0][first],
            families,
            places[2][first],
            chosen[KEPT].to_numpy(dtype=bool)[first],
            np.isin(np.arange(len(pairs)), pair[behind_it("")]),
            distance(""),
            vanished,
            np.where(warped, distance(PERFECT), 0.0),
            {kind: distance(behind) for kind, behind in OTHERS.items()},
            {kind: distance(behind + PARTNER) for kind, behind in OTHERS.items()},
            np.reshape([distance(text) for text in networks], (len(networks), len(pairs))),
            column(RANK),
            candidates,
        )

    def within(self, values: Floats, chosen: Flags) -> Floats:
        """Average what is known of chosen pairs within an image: (methods, families, images).

        NaN where nothing is known.
        """
        shape = (len(self.methods), len(self.families), len(self.images))
        group = np.ravel_multi_index((self.method, self.family, self.image), shape)
        known = chosen & np.isfinite(values)
        size = int(np.prod(shape))
        count = np.bincount(group[known], minlength=size)
        total = np.bincount(group[known], weights=values[known], minlength=size)
        mean: Floats = np.divide(total, count, out=np.full(size, np.nan), where=count > 0)
        return mean.reshape(shape)
