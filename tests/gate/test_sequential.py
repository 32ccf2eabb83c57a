"""Looks at more and more images: published boundaries, the error over all looks, and what it saves.

`bench/gate/sequential.py` asks each look for less than all looks together may err.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from scipy import stats

from steadymap.bench.gate import mean_test, sequential
from steadymap.bench.gate.comparison import FAIL, PASS, compare
from steadymap.bench.gate.margins import Margins
from steadymap.bench.gate.sequential import Look, boundaries, looks
from steadymap.bench.gate.side import Side
from steadymap.bench.plan.blocks import BLOCK, cut

COUNTS = (16, 24, 40, 48, 60)
MARGIN = 0.05


def test_the_boundaries_are_those_of_the_published_tables() -> None:
    """Lan and DeMets' O'Brien-Fleming of five equal looks, two-sided 5%: as R's gsDesign has it."""
    five = boundaries((0.2, 0.4, 0.6, 0.8, 1.0), 0.025)
    assert five == pytest.approx((4.877, 3.357, 2.680, 2.290, 2.031), abs=0.001)
    # Of one look it is the quantile itself; of two, from the bivariate normal distribution.
    assert boundaries((1.0,), 0.025) == pytest.approx((stats.norm.isf(0.025),))
    first, last = boundaries((0.5, 1.0), 0.025)
    assert stats.norm.sf(first) == pytest.approx(
        2 * stats.norm.sf(2.2414 / math.sqrt(0.5)), rel=1e-3
    )
    both = stats.multivariate_normal([0, 0], [[1, math.sqrt(0.5)], [math.sqrt(0.5), 1]])
    assert 1 - both.cdf([first, last]) == pytest.approx(0.025, abs=1e-5)


def test_all_looks_together_err_as_often_as_they_say() -> None:
    """Of normal sums, also at the level of one of 135 comparisons' looks, whose last is spent."""
    times = tuple(count / 60 for count in COUNTS)
    steps = np.sqrt(np.diff((0.0, *times)))
    sums = (np.random.default_rng(1).standard_normal((400_000, 5)) * steps).cumsum(axis=1)
    z = sums / np.sqrt(times)
    for level in (0.045, 0.0225, 0.001):
        crossed = (z > boundaries(times, level)).any(axis=1).mean()
        assert crossed == pytest.approx(level, abs=4 * math.sqrt(level / len(z)))
    assert sequential.spent(1.0, 0.01) == pytest.approx(0.01)


@pytest.mark.parametrize(
    ("count", "expected"),
    [(60, COUNTS), (30, (8, 16, 24, 30)), (229, (64, 88, 152, 184, 229)), (8, (8,)), (3, (3,))],
)
def test_it_is_looked_after_whole_blocks_and_after_all(
    count: int, expected: tuple[int, ...]
) -> None:
    blocks = cut(count, BLOCK)
    assert looks(count, [block.start for block in blocks]) == expected
    for look in expected:
        assert cut(look, BLOCK) == [block for block in blocks if block.stop <= look]


def sides(gains: NDArray[np.float64]) -> tuple[Side, Side]:
    """Two runs, whose comparisons (rows) have these gains by image."""
    base = 0.5 + 0.1 * np.random.default_rng(2).standard_normal(gains.shape[1])
    tables = []
    for values in (np.broadcast_to(base, gains.shape), base + gains):
        rows = [
            {"method": "m", "family": f"f{place}", "metric": "ssim", "image_id": f"i{image:03d}",
             "value": value, "valid": 1, "pairs": 1}
            for place, row in enumerate(values)
            for image, value in enumerate(row)
        ]  # fmt: skip
        tables.append(pd.DataFrame(rows))
    return Side("a", tables[0], {}, {}), Side("b", tables[1], {}, {})


def test_a_comparison_fails_and_passes_by_the_look_s_own_levels() -> None:
    """Bonferroni over comparisons for fail; none for pass."""
    rng = np.random.default_rng(3)
    for place, count in enumerate(COUNTS):
        look = Look(place, COUNTS)
        gains = 0.07 * rng.standard_normal((4, count)) - np.array([[0.0], [0.04], [0.09], [0.15]])
        rows = compare(*sides(gains), Margins(), look)
        p = mean_test.p_below(gains, -MARGIN)
        assert (rows["gate"] == FAIL).tolist() == (p < look.fail_level(4)).tolist()
        low = mean_test.lower_bound(gains, look.pass_level)
        assert rows["low"].to_numpy() == pytest.approx(low)
        passing = (low >= -MARGIN) & (count >= 28)
        assert (rows["gate"] == PASS).tolist() == passing.tolist()
    assert look.is_last
    assert not Look(0, COUNTS).is_last


def course(gains: NDArray[np.float64]) -> tuple[NDArray[np.bool_], NDArray[np.int_]]:
    """Return which gates (gates, comparisons, 60) fail, and after how many images they stop."""
    gates, comparisons, _ = gains.shape
    failed, stopped = np.zeros(gates, bool), np.full(gates, COUNTS[-1])
    going = np.ones(gates, bool)
    for place, count in enumerate(COUNTS):
        look, seen = Look(place, COUNTS), gains[..., :count]
        worse = (mean_test.p_below(seen, -MARGIN) < look.fail_level(comparisons)).any(axis=1)
        low = mean_test.lower_bound(seen, look.pass_level)
        passing = ((low >= -MARGIN) & (count >= mean_test.LEAST_TO_PASS)).all(axis=1)
        failed |= going & worse
        stopped[going & (worse | passing)] = count
        going &= ~(worse | passing)
    return failed, stopped


def at_once(gains: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return which gates fail that look once, at all images."""
    level = mean_test.FAIL_LEVEL / gains.shape[1]
    failed: NDArray[np.bool_] = (mean_test.p_below(gains, -MARGIN) < level).any(axis=1)
    return failed


def drawn(gates: int, comparisons: int, losses: float | NDArray[np.float64]) -> NDArray[np.float64]:
    noise = np.random.default_rng(comparisons).standard_normal((gates, comparisons, 60))
    gains: NDArray[np.float64] = 0.07 * noise - np.reshape(losses, (1, -1, 1))
    return gains


def test_at_the_margin_it_fails_in_no_more_than_its_level_over_all_looks() -> None:
    failed, _ = course(drawn(3000, 12, np.full(12, MARGIN)))
    assert failed.mean() <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 3000)


@pytest.mark.slow
def test_it_loses_no_power_and_saves_passes(
    record_property: Callable[[str, object], None],
) -> None:
    """One of so many comparisons loses; against the gate that looks once, at all 60."""
    for comparisons, gates in ((12, 4000), (60, 1000)):
        for loss in (0.08, 0.09, 0.10, 0.12, 0.15):
            losses = np.zeros(comparisons)
            losses[0] = loss
            gains = drawn(gates, comparisons, losses)
            failed, stopped = course(gains)
            once = at_once(gains).mean()
            saved = 1 - stopped[failed].mean() / 60
            record_property(
                "measured",
                f"{comparisons} comparisons, a loss of {loss:.2f} (margin .05, SD .07): found in "
                f"{failed.mean():.1%}, {once:.1%} at once; {saved:.0%} of images saved where found",
            )
            assert failed.mean() >= once - 0.02 - 3 * math.sqrt(0.25 / gates) / 2, (
                comparisons,
                loss,
            )
            if loss >= 0.1:
                assert 0.15 <= saved <= 0.65, (comparisons, loss)
        failed, stopped = course(drawn(gates, comparisons, np.zeros(comparisons)))
        record_property(
            "measured",
            f"{comparisons} comparisons that only scatter (SD .07): {1 - stopped.mean() / 60:.0%} "
            f"of images saved, {failed.mean():.1%} fail",
        )
        failed, _ = course(drawn(gates, comparisons, np.full(comparisons, MARGIN)))
        record_property(
            "measured", f"{comparisons} comparisons, all at the margin: {failed.mean():.1%} fail"
        )
        assert failed.mean() <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / gates)
