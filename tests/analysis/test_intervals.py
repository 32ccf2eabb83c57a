"""Intervals by simulation: of 95% intervals at 100 images, 95% hold the truth."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from steadymap.bench.analysis.intervals import Interval, intervals, ratio_intervals

IMAGES = 100
DATA_SETS = 2000


def share_that_holds(found: list[Interval], truth: float) -> float:
    assert {one.kind for one in found} == {"bca"}
    return float(np.mean([one.low <= truth <= one.high for one in found]))


@pytest.mark.slow
@pytest.mark.parametrize(("a", "b"), [(2.0, 2.0), (6.0, 2.0), (1.0, 4.0)])
def test_the_interval_of_a_mean_covers_it(a: float, b: float) -> None:
    """Scores as they are: within [0, 1], symmetric, or leaning to either side."""
    rng = np.random.default_rng(17)
    data: list[NDArray[np.float64]] = list(rng.beta(a, b, (DATA_SETS, IMAGES)))
    # Not a range for want of a value: 2000 draws of a 95% chance lie within 1.5% of it (3 sigma),
    # and the bootstrap's own error at 100 images is half a percent.
    assert share_that_holds(intervals(data), a / (a + b)) == pytest.approx(0.95, abs=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("shared", [0.0, 0.8])
def test_the_interval_of_a_calibrated_score_covers_it(shared: float) -> None:
    """Instability and two nulls of the same images, independent or correlated."""
    rng = np.random.default_rng(18)
    means = (0.3, 0.8, 0.7)
    image = rng.uniform(-0.15, 0.15, (DATA_SETS, IMAGES))
    samples = np.stack(
        [mean + shared * image + rng.uniform(-0.2, 0.2, image.shape) for mean in means], axis=1
    )
    # A null that is missing on some images, as Grad-CAM's are.
    samples[:, 1, : IMAGES // 5] = np.nan
    found = ratio_intervals(list(samples))
    assert share_that_holds(found, 1 - 0.3 / 0.7) == pytest.approx(0.95, abs=0.02)
