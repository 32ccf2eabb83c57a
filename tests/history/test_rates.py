"""How often steps are found where none is, and where one is: simulated, and printed."""

from __future__ import annotations

import math

import numpy as np
import pytest
from histories import flat
from numpy.typing import NDArray
from scipy import stats

from steadymap.bench.core.randomness import generator
from steadymap.bench.history.lines import Line
from steadymap.bench.history.steps import LINES, NEAR, NOISE_SHARE, PENALTIES, line_steps

pytestmark = pytest.mark.slow

Floats = NDArray[np.float64]
# Of a history, and lines of a run of six methods by two metrics with recognition, say.
RUNS = 200
MANY = 40


def line(values: Floats) -> Line:
    return Line("m", "ssim", "calibrated", "overall", values, values, values, 1e-9, "higher")


def alarms(noise: Floats) -> bool:
    return any(line_steps(line(values), len(noise)) for values in noise)


def alike(share: float, lines: Floats) -> Floats:
    """Return lines that have a share of their variance in common."""
    common = lines.mean(0) * math.sqrt(len(lines))
    mixed: Floats = np.sqrt(share) * common + np.sqrt(1 - share) * lines
    return mixed


@pytest.mark.parametrize(
    ("runs", "lines", "histories"),
    [
        (6, 40, 2000),
        (10, 12, 2000),
        (20, 40, 1500),
        (60, 40, 1000),
        (RUNS, 1, 2000),
        (RUNS, 12, 1000),
        (RUNS, MANY, 1000),
    ],
)
def test_a_flat_history_alarms_in_at_most_5_percent(runs: int, lines: int, histories: int) -> None:
    rate = np.mean([alarms(flat(f"{lines} {key}", lines, runs)) for key in range(histories)])
    assert rate <= 0.05


def test_flat_histories_that_are_not_normal_and_independent_are_printed() -> None:
    together = [alarms(alike(0.5, flat(f"alike {key}", MANY, RUNS))) for key in range(300)]
    [alarms(generator("heavy", key).standard_t(5, (MANY, RUNS))) for key in range(300)]
    assert np.mean(together) <= 0.05


@pytest.mark.parametrize("size", [1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 6.0])
def test_a_step_is_put_on_the_right_commit(size: float) -> None:
    near = exact = 0
    for key in range(2000):
        draws = generator("step", size, key)
        values, at = draws.standard_normal(RUNS), int(draws.integers(10, RUNS - 9))
        values[at:] += size
        found = [step.run for step in line_steps(line(values), MANY)]
        near += any(abs(run - at) <= NEAR for run in found)
        exact += at in found
    if size >= 3:
        assert near / 2000 >= 0.95


@pytest.mark.parametrize("after", [1, 2, 3, 4, 5, 6, 8, 10])
def test_how_soon_a_step_of_3_sd_shows_is_printed(after: int) -> None:
    hits = 0
    for key in range(1000):
        values = generator("soon", after, key).standard_normal(RUNS)
        values[RUNS - after :] += 3
        found = [step.run for step in line_steps(line(values), MANY)]
        hits += any(abs(run - (RUNS - after)) <= NEAR for run in found)
    if after >= 6:
        assert hits / 1000 >= 0.95


def least_penalties(values: Floats) -> Floats:
    """Return by line the least penalty at which neither one cut nor two are worth it.

    Args:
        values: (lines, runs).
    """
    runs = values.shape[1]
    differences = np.sort(np.abs(np.diff(values, axis=1)), axis=1)
    kept = math.ceil(NOISE_SHARE * (runs - 1))
    share = kept / (runs - 1)
    end = stats.norm.ppf((1 + share) / 2)
    shrunk = stats.chi2.cdf(end**2, 3) / share
    spread = np.sqrt((differences[:, :kept] ** 2).mean(1) / (2 * shrunk))
    scaled = (values - values.mean(1, keepdims=True)) / spread[:, None]
    sums = np.concatenate([np.zeros((len(scaled), 1)), np.cumsum(scaled, 1)], 1)
    cuts = np.arange(1, runs)
    one = (sums[:, 1:-1] ** 2 * (1 / cuts + 1 / (runs - cuts))).max(1)
    two = np.zeros(len(scaled))
    for first in range(1, runs - 1):
        second = np.arange(first + 1, runs)
        start, stop = sums[:, [first]], sums[:, second]
        gain = start**2 / first + (stop - start) ** 2 / (second - first)
        np.maximum(two, (gain + stop**2 / (runs - second)).max(1), out=two)
    return np.asarray(np.maximum(one, two / 2))


@pytest.mark.parametrize(("runs", "lines"), [(6, 400_000), (13, 400_000), (41, 100_000)])
def test_penalties_are_what_flat_lines_exceed_in_3_percent(runs: int, lines: int) -> None:
    parts = [least_penalties(flat(f"penalty {part}", lines // 20, runs)) for part in range(20)]
    least = np.concatenate(parts)
    for count, given in zip(LINES, PENALTIES[runs], strict=True):
        found = float(np.quantile(least, 0.97 ** (1 / count)))
        assert given == pytest.approx(found, rel=0.04 if count < 100 else 0.1)
