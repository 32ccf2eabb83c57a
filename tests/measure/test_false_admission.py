"""How often a map that knows nothing is admitted: simulated, with what deleting does to a network.

Areas under the logits of real images are taken in the orders of many maps of noise. Maps that know
nothing are drawn from these by the thousand, with partners shared as in a run.
"""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from steadymap.bench.analysis.admission import LEVEL
from steadymap.bench.analysis.intervals import above_zero
from steadymap.bench.data.opening import open_images
from steadymap.bench.measure.deletion import Deletion, deletion_of
from steadymap.bench.measure.nulls import show
from steadymap.bench.measure.runner import crew
from steadymap.bench.measure.view import look
from steadymap.bench.plan.plan import Plan
from steadymap.bench.plan.setup import prepare
from steadymap.models.loading import load_classifier

IMAGES = 60
NETWORKS = 3
Floats = NDArray[np.float64]


def of_hands() -> Deletion:
    classifier = load_classifier("compact")
    images = open_images("hands", classifier.framing, split="test", limit=IMAGES)
    plan = Plan(method=("gradient",), controls=False, nulls=0)
    worker = next(iter(crew(prepare(classifier, images, plan))))
    view = look(worker, show(worker, images, range(IMAGES), 0), None)
    return deletion_of(Plan(nulls=NETWORKS), worker, view)


def areas_of_noise(deletion: Deletion, side: int, maps: int) -> Floats:
    """(images, maps), areas in the orders of maps of noise of so many pixels a side."""
    rng = np.random.default_rng(0)
    orders = [
        deletion.grid.ranks(
            np.repeat(rng.normal(size=(1, side, side)), IMAGES, axis=0), "signed", deletion.ties
        )
        for _ in range(maps)
    ]
    return np.stack(deletion.areas(orders), axis=1)


def rate(deletion: Deletion, areas: Floats, count: int, repeats: int) -> float:
    """Return how often all margins of a method that knows nothing are above 0."""
    rng = np.random.default_rng(1)
    places = np.arange(IMAGES)
    others = deletion.others
    alone = np.array(others.same_class[0]) == places
    admitted = 0
    for _ in range(repeats):
        # One map an image, and one an image and network.
        own = rng.integers(areas.shape[1], size=IMAGES)
        twins = rng.integers(areas.shape[1], size=(NETWORKS, IMAGES))
        mine = areas[places, own]

        def margin(
            draws: tuple[tuple[int, ...], ...],
            mine: Floats = mine,
            own: NDArray[np.int64] = own,
        ) -> Floats:
            others: Floats = np.mean([areas[places, own[list(draw)]] for draw in draws], axis=0)
            return others - mine

        margins = (
            margin(others.any_image),
            np.where(alone, np.nan, margin(others.same_class)),
            np.mean([areas[places, twin] for twin in twins], axis=0) - mine,
        )
        admitted += all(above_zero(x[:count][np.isfinite(x[:count])]) <= LEVEL for x in margins)
    return admitted / repeats


@pytest.mark.slow
@pytest.mark.parametrize("side", [16, 4, 2])
def test_what_knows_nothing_is_admitted_once_in_a_hundred_at_most(side: int) -> None:
    deletion = of_hands()
    areas = areas_of_noise(deletion, side, 240)
    for count in (24, IMAGES):
        assert rate(deletion, areas, count, 3000) <= LEVEL


def test_partners_that_are_shared_do_not_lift_the_level_of_a_margin() -> None:
    """The same without a network: areas of an image and a map, each with an effect of its own."""
    rng = np.random.default_rng(2)
    image, noise = rng.gamma(2, 1, (IMAGES, 1)), rng.gamma(2, 1, (1, 400))
    areas = image * rng.gamma(2, 1, (IMAGES, 400)) + noise
    errors = 0
    for _ in range(4000):
        own = rng.integers(400, size=IMAGES)
        places = np.arange(IMAGES)
        partner = own[places // 8 * 8 + (places + 1) % 8 % np.where(places < 56, 8, 4)]
        errors += above_zero(areas[places, partner] - areas[places, own]) <= LEVEL
    assert errors / 4000 <= 0.015
