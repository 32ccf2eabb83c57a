"""The jackknife: what it leaves out, and whether its intervals hold."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from synthetic import World, run_of

from steadymap.bench.analysis import estimates
from steadymap.bench.analysis.cells import Cells
from steadymap.bench.analysis.jackknife import (
    Replicates,
    interval_of,
    left_out,
    without_partner,
)
from steadymap.metrics import METRICS

NONE = np.zeros(0)


def test_a_mean_without_each_value_is_that_of_the_others() -> None:
    values = np.random.default_rng(0).random((3, 7))
    values[1, 4] = np.nan
    found = left_out(values, np.arange(7))
    for row, means in zip(values, found, strict=True):
        assert means[0] == pytest.approx(np.nanmean(row))
        for place in range(7):
            assert means[1 + place] == pytest.approx(np.nanmean(np.delete(row, place)))


def test_the_last_value_leaves_nothing() -> None:
    assert np.isnan(left_out(np.array([np.nan, 0.5]), np.arange(2))).tolist() == [
        False,
        False,
        True,
    ]


def test_an_image_is_left_out_as_case_and_as_partner() -> None:
    """Of effects that add up, the mean over pairs varies as the sum of an image's two does."""
    count = 9
    clean, perturbed = np.random.default_rng(1).random((2, count))
    table = np.where(np.eye(count) == 1, np.nan, perturbed[:, None] + clean)
    values, partners = np.nanmean(table, axis=1), np.nanmean(table, axis=0)
    found = without_partner(values, partners, np.arange(count))
    both = Replicates(np.array(found[0]), found[1:], NONE).errors()[0]
    # An image's partners lack itself, and so what it brings is smaller by a part.
    expected = (clean + perturbed).var(ddof=1) / count * ((count - 2) / (count - 1)) ** 2
    assert both == pytest.approx(expected)


def test_networks_are_a_second_sample_with_few_degrees_of_freedom() -> None:
    images, networks = np.array([0.1, 0.2, 0.4, 0.1]), np.array([0.3, 0.5, 0.4])
    variance, freedom = Replicates(np.array(0.2), images, networks).errors()
    parts = 3 / 4 * ((images - 0.2) ** 2).sum(), 2 / 3 * ((networks - 0.4) ** 2).sum()
    assert variance == pytest.approx(sum(parts))
    assert freedom == pytest.approx(sum(parts) ** 2 / (parts[0] ** 2 / 3 + parts[1] ** 2 / 2))


def test_errors_of_several_numbers_vary_together() -> None:
    rng = np.random.default_rng(2)
    several = Replicates(rng.random(3), rng.random((3, 8)), rng.random((3, 2)))
    covariance = several.covariance()
    assert covariance.diagonal() == pytest.approx(several.errors()[0])
    gap = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    assert several.differences().errors()[0][0, 1] == pytest.approx(gap)


@pytest.mark.parametrize(
    ("images", "kind"),
    [([0.5, 0.5], "point"), ([0.5], "none"), ([0.4, 0.6], "jackknife"), ([0.4, np.nan], "none")],
)
def test_an_interval_says_what_it_rests_on(images: list[float], kind: str) -> None:
    found = interval_of(Replicates(np.array(0.5), np.array(images), NONE))
    assert (found.mean, found.kind) == (0.5, kind)
    assert np.isnan(found.low) == (kind == "none")
    assert (found.low == found.high) == (kind == "point")


def test_an_interval_of_few_images_is_student_s_on_the_logarithm_of_what_is_lost() -> None:
    lost = np.array([0.5, 0.45, 0.52, 0.53])
    found = interval_of(Replicates(np.array(0.5), 1 - lost, NONE))
    error = np.sqrt(3 / 4 * ((np.log(lost) - np.log(lost).mean()) ** 2).sum())
    # 3.182 is Student's t of three degrees of freedom.
    ends = [1 - 0.5 * np.exp(sign * 3.182446 * error) for sign in (1, -1)]
    assert [found.low, found.high] == pytest.approx(ends)


def test_a_score_above_1_has_an_interval_too() -> None:
    found = interval_of(Replicates(np.array(1.1), np.array([1.0, 1.2, 1.1]), NONE))
    assert found.low == pytest.approx(2.2 - found.high)
    assert found.high > 1.1


def test_one_image_that_matters_alone_makes_no_wide_interval() -> None:
    """Resamples without that image do not vary; of what rounding leaves no interval is made.

    Of ten images one brings d. A resample that has it k times has a mean of (k - 1) d / 10 and a
    variance of d^2 k (10 - k) / 100 / 9, and k is 1, 2 or 3 in 95 of 100 that have it at all.
    """
    left = np.zeros(10)
    left[4] = -1e-5
    found = interval_of(Replicates(np.array(0.0), left, NONE))
    influence = 9e-5
    by_t = influence / 10 * 2.262157
    skewed = [(k - 1) / np.sqrt(k * (10 - k) / 9) for k in (1, 3)]
    low, high = (
        sign * by_t + influence / 10 * (t - sign * 2.262157)
        for sign, t in zip((-1, 1), skewed, strict=True)
    )
    # Ends are errors on the logarithm of what is lost, 1 - score, which are the same to 1e-8.
    assert sorted((-found.low, -found.high)) == pytest.approx(sorted((low, high)), abs=1e-8)


def coverage(world: World, images: int, runs: int, seed: int) -> float:
    """Return how often the interval of a method's calibrated score holds the truth."""
    rng = np.random.default_rng(seed)
    held = 0
    for _ in range(runs):
        cells = Cells.of(run_of(world, images, rng), "spearman", METRICS["spearman"])
        averages = estimates.Averages.of(cells, cells.kept)
        found = estimates.estimate(averages, 0, range(len(cells.families)))
        interval = interval_of(found.calibrated)
        held += bool(interval.low <= world.truth()[0] <= interval.high)
    return held / runs


# What a score varies by: its images; little, of which most is lost; their nulls, as partners;
# networks; which of two nulls is the closer.
USUAL = World()
WORLDS = {
    "images": USUAL,
    "near 0": replace(USUAL, distances=(0.8,)),
    "partners": replace(USUAL, distances=(0.8,), partner=0.2, spread=0.2),
    "networks": replace(USUAL, random=0.7, network=0.05, distances=(0.5,)),
    "ties": replace(USUAL, random=0.85, distances=(0.7,)),
    "skewed": replace(USUAL, distances=(0.05,), spread=1.0),
}


@pytest.mark.slow
@pytest.mark.parametrize("images", [20, 30, 60, 96])
@pytest.mark.parametrize("name", list(WORLDS))
def test_intervals_of_calibrated_scores_hold(name: str, images: int) -> None:
    # Of 1000 draws of a 95% chance the standard error is 0.7%. Where partners are all that varies
    # the jackknife errs to the safe side (Efron and Stein 1981).
    found = coverage(WORLDS[name], images, runs=1000, seed=7)
    assert found == pytest.approx(0.965 if name == "partners" else 0.95, abs=0.025)


def test_intervals_hold_in_a_few_runs() -> None:
    found = coverage(replace(WORLDS["partners"], families=1), 30, runs=60, seed=8)
    assert found == 57 / 60


def test_an_interval_that_forgets_partners_does_not_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    def forgetful(
        values: NDArray[np.float64], _partners: NDArray[np.float64], places: NDArray[np.intp]
    ) -> NDArray[np.float64]:
        return left_out(values, places)

    monkeypatch.setattr(estimates, "without_partner", forgetful)
    found = coverage(replace(WORLDS["partners"], families=1), 30, runs=60, seed=8)
    assert found < 0.9
