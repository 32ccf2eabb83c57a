"""How far a map moves when what must matter changes: the image, the network, the class.

The distance is 1 - Spearman of signed maps: 0 where nothing moves, 1 where two maps have nothing to
do with each other, 2 where one is the other with its sign turned. Source: Adebayo et al. 2018
(network); Sixt et al. 2020 (class); Quantus' random logit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from steadymap.bench.analysis.intervals import Floats, Mean, above_zero, mean_of
from steadymap.bench.records import grouping, vocabulary
from steadymap.metrics import Status

# What changes, by the family of records.
CHANGES = {
    vocabulary.OTHER_IMAGE: "image",
    vocabulary.RANDOM_NETWORK: "network",
    vocabulary.OTHER_CLASS: "class",
}
# A map that moves by no more than that, beyond its own dice, does not react.
NO_REACTION = 0.05


@dataclass(frozen=True)
class Reaction:
    """How far the maps of a method move.

    Attributes:
        moved: by what changes (image, network, class), 1 - Spearman, (images,), or one number a
            group of them.
        beyond: the same for image and network less what its own dice and rounding move.
    """

    moved: Mapping[str, Floats]
    beyond: Mapping[str, Floats]

    def means(self) -> dict[str, Mean]:
        """Return the means over images."""
        return {what: mean_of(values) for what, values in self.moved.items()}

    def verdict(self, level: float) -> tuple[Literal["admitted", "refused", "undecided"], str]:
        """Return whether it reacts to image and network, and in words why it is not said.

        `admitted` where each is above 0 at the level, or where nobody has looked; `refused` where
        the interval of one leaves next to nothing, or no map has an order; `undecided` otherwise.
        """
        for what, values in self.beyond.items():
            known = values[np.isfinite(values)]
            if not len(known):
                return "refused", f"its maps have no order to be held against another {what}'s"
        for what, values in self.beyond.items():
            known = values[np.isfinite(values)]
            if len(known) > 1 and above_zero(known) <= level:
                continue
            mean = mean_of(values)
            if mean.high <= NO_REACTION:
                return "refused", f"its map stays where the {what} is another"
            return "undecided", f"too few images to say whether it reacts to the {what}"
        return "admitted", ""


def react(records: pd.DataFrame, groups: grouping.Groups = grouping.NONE) -> dict[str, Reaction]:
    """Return by method how far its maps move.

    Args:
        records: of clean maps against others, Spearman's alone.
        groups: of images.
    """
    distance = (1 - records[vocabulary.VALUE]).where(records[vocabulary.STATUS] == Status.OK.value)
    rows = records.assign(distance=distance)
    texts = (vocabulary.METHOD, vocabulary.FAMILY, vocabulary.IMAGE_ID)
    rows = rows.assign(**{name: rows[name].astype(str) for name in texts})
    return {
        str(method): _reaction(of_method, groups)
        for method, of_method in rows.groupby(vocabulary.METHOD, sort=False)
    }


def _reaction(rows: pd.DataFrame, groups: grouping.Groups) -> Reaction:
    # Draws are averaged within an image first; a network on which the map vanished is left out.
    means = rows.groupby([vocabulary.FAMILY, vocabulary.IMAGE_ID], observed=True, sort=False)[
        "distance"
    ].mean()
    by_family = {family: means.loc[family] for family in rows[vocabulary.FAMILY].unique()}
    rounding = [x for name, x in by_family.items() if name in vocabulary.NUMERICS]
    floor = max((float(x.mean()) for x in rounding if x.notna().any()), default=0.0)
    dice = by_family.get(vocabulary.OTHER_SEED)
    moved, beyond = {}, {}
    for family, what in CHANGES.items():
        if family not in by_family:
            continue
        values = by_family[family]
        images = [str(image) for image in values.index]
        moved[what] = grouping.by_group(values.to_numpy(float), images, groups)
        if family == vocabulary.OTHER_CLASS:
            continue
        less = (values - _own(dice, values, floor)).to_numpy(float)
        beyond[what] = grouping.by_group(less, images, groups)
    return Reaction(moved, beyond)


def _own(dice: pd.Series | None, values: pd.Series, floor: float) -> pd.Series:
    """Return by image how far a map moves when nothing changes but its own dice, or by rounding."""
    if dice is None or not dice.notna().any():
        return pd.Series(floor, values.index)
    # Few images have been drawn again where a method is not declared stochastic.
    return dice.reindex(values.index).fillna(float(dice.mean())).clip(lower=floor)
