"""A newly trained network's own shares, against bounds of one more network of its recipe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from steadymap.bench.core import names
from steadymap.bench.gate.comparison import ALPHA, FAIL, PASS, Case
from steadymap.bench.gate.margins import Margins
from steadymap.bench.gate.network_lines import (
    ACCURACY,
    AGREEMENT,
    FALL,
    NetworkLines,
    confidence,
    kept_name,
)
from steadymap.bench.gate.predictions import PAIRS, PREDICTION, by_image
from steadymap.bench.gate.retraining import Bound
from steadymap.bench.gate.side import Side
from steadymap.bench.records.vocabulary import DIAGNOSIS, FAMILY, KEPT, LABEL

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Shares:
    """One share, of each network of a baseline and of one more.

    Attributes:
        name: of the line.
        before: (S,), of the networks.
        after: of the run.
        images: of how many images they are shares.
        margin: how far a share may fall.
    """

    name: str
    before: Values
    after: float
    images: int
    margin: float = FALL

    def bound(self) -> Bound:
        """Return where one more network may lie.

        Shares of so many images vary by chance, even where those of the networks happen to be the
        same: the spread is no less than the binomial of their mean, with one image more right and
        one more wrong than were seen (Laplace's rule of succession).
        """
        networks = len(self.before)
        seen = networks * self.images
        share = (float(self.before.sum()) * self.images + 1) / (seen + 2)
        chance = float(np.sqrt(share * (1 - share) / self.images))
        spread = max(float(self.before.std(ddof=1)), chance)
        return Bound(float(self.before.mean()), spread, networks - 1, networks, self.margin)


def shares_of(networks: Sequence[Side], after: Side, margins: Margins) -> list[Shares]:
    """Return the shares that are judged.

    These are accuracy where labels are known, how often predictions held under each family that is
    no diagnosis, and where labels are unknown how many predictions agree with another network's of
    the baseline, on average over these.

    Args:
        networks: of the baseline.
        after: the run; predictions of all are known.
        margins: of which `agreement` is read: so far from 100% it may fall.
    """
    tables = [side.predictions for side in (*networks, after) if side.predictions is not None]
    paired = pd.concat([by_image(table)[PREDICTION] for table in tables], axis=1, join="inner")
    said = paired.fillna(-1).to_numpy(dtype=np.int64)
    labels = by_image(tables[-1])[LABEL].reindex(paired.index).fillna(-1).to_numpy(dtype=np.int64)
    known = labels >= 0
    found = []
    if known.any():
        right = (said == labels[:, None])[known].mean(axis=0)
        found.append(Shares(ACCURACY, right[:-1], float(right[-1]), int(known.sum())))
    held = [_held(table) for table in tables]
    for family in sorted(set.intersection(*(set(shares) for shares in held)) - set(DIAGNOSIS)):
        shares = np.array([one[family] for one in held])
        found.append(Shares(kept_name(family), shares[:-1], float(shares[-1]), len(paired)))
    if not known.all():
        unlabelled = said[~known]
        alike = (unlabelled[:, :, None] == unlabelled[:, None, :]).mean(axis=0)
        count = len(networks)
        others = (alike[:count, :count].sum(axis=1) - 1) / (count - 1)
        agreement = float(alike[count, :count].mean())
        margin = 1 - margins.agreement
        found.append(Shares(AGREEMENT, others, agreement, len(unlabelled), margin))
    return found


def _held(predictions: pd.DataFrame) -> dict[str, float]:
    sums = predictions.groupby(FAMILY)[[KEPT, PAIRS]].sum()
    sums = sums[sums[PAIRS] > 0]
    return {
        str(family): float(kept / pairs)
        for family, kept, pairs in zip(sums.index, sums[KEPT], sums[PAIRS], strict=True)
    }


def network_bounds(shares: Sequence[Shares], sides: tuple[Side, Side], others: int) -> NetworkLines:
    """Judge shares by bounds of prediction, as lines of maps are: see `retraining.judged`.

    Args:
        shares: of the networks and of one more.
        sides: the baseline and the run.
        others: how many lines the gate has beside these.
    """
    total = len(shares) + others
    cases = []
    for line in shares:
        bound = line.bound()
        least, most = line.before.min(), line.before.max()
        text = (
            f"{names.percent(line.after)}; {bound.networks} networks had "
            f"{names.percent(float(least))} to {names.percent(float(most))}"
        )
        lowest = bound.mean - bound.reach(ALPHA / total) - bound.margin
        fell = total * bound.p_value(line.after, bound.margin) < ALPHA
        text += f"; the bound of one more is {names.percent(max(lowest, 0.0))}"
        if not fell:
            text += f", and a fall of {names.percent(bound.found(ALPHA / total))} is found in 80%"
        cases.append(Case(line.name, FAIL if fell else PASS, text))
    return NetworkLines(tuple(cases), (confidence(*sides),))
