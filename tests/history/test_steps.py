"""Steps are found where they are, and seldom where none is."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from histories import flat
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from steadymap.bench.core.randomness import generator
from steadymap.bench.history.lines import Line
from steadymap.bench.history.steps import (
    LEAST_RUNS,
    LINES,
    NEAR,
    PENALTIES,
    line_steps,
    noise_of,
    penalty,
    steps_of,
)

Floats = NDArray[np.float64]


def line(values: Any, floor: float = 0.0005, metric: str = "ssim") -> Line:
    given_values = np.asarray(values, dtype=np.float64)
    none = np.full(len(given_values), np.nan)
    return Line(
        "gradient", metric, "calibrated", "overall", given_values, none, none, floor, "higher"
    )


def places(values: Any, count: int = 1, floor: float = 0.0005) -> list[int]:
    return [step.run for step in line_steps(line(values, floor), count)]


# --- without noise, as runs of one network on one machine are -------------------------------------


def test_scores_that_never_change_have_no_step() -> None:
    assert places([0.7] * 40) == []
    assert places([0.0] * 40, floor=0.0) == []


@pytest.mark.parametrize("count", [1, 40])
def test_without_noise_a_step_shows_at_the_newest_run(count: int) -> None:
    assert places([0.8] * 10 + [0.75], count) == [10]
    assert places([0.8] * 5 + [0.7], count) == [5]
    assert places([0.8] * 10 + [0.75] * 10 + [0.8] * 10, count) == [10, 20]


def test_what_numerics_explain_is_no_step() -> None:
    assert places([0.8] * 10 + [0.8005] * 10) == []
    assert places([0.8] * 10 + [0.8006] * 3) == []
    assert places([0.8] * 10 + [0.803] * 3) == [10]


def test_below_the_least_number_of_runs_nothing_is_judged() -> None:
    values = [0.8] * (LEAST_RUNS - 2) + [0.2]
    assert len(values) == LEAST_RUNS - 1
    assert places(values) == []
    assert places([0.8, *values]) == [LEAST_RUNS - 1]


def test_runs_without_a_value_are_passed_over() -> None:
    values = np.array([0.8] * 10 + [0.6] * 10)
    values[[3, 9, 10, 15]] = np.nan
    (step,) = line_steps(line(values), 1)
    assert (step.run, step.earliest, step.latest) == (11, 11, 11)
    assert (step.before, step.after) == pytest.approx((0.8, 0.6))


def test_better_is_what_the_metric_says() -> None:
    (up,) = line_steps(line([0.2] * 8 + [0.6] * 8), 1)
    (down,) = line_steps(line([0.6] * 8 + [0.2] * 8), 1)
    assert (up.is_better, down.is_better) == (True, False)
    assert up.size == pytest.approx(0.4 / 0.0005)


# --- with noise -----------------------------------------------------------------------------------


def test_the_noise_is_that_of_normal_noise() -> None:
    squared = [noise_of(values) ** 2 for values in flat("noise", 1000, 600)]
    assert np.mean(squared) == pytest.approx(1, rel=0.01)
    assert noise_of(7 * flat("noise", 1, 600)[0]) == pytest.approx(7 * np.sqrt(squared[0]), rel=0.1)


def test_steps_hardly_touch_the_noise() -> None:
    values = flat("robust", 1, 60)[0]
    stepped = values + 100 * (np.arange(60) >= 20) - 70 * (np.arange(60) >= 41)
    assert noise_of(stepped) == pytest.approx(noise_of(values), rel=0.1)


def by_hand(values: Floats, cost: float) -> tuple[float, list[int]]:
    """Return the least squared error plus penalties over all cuts, and those cuts: O(n^3)."""
    best: list[tuple[float, list[int]]] = [(-cost, [])]
    for end in range(1, len(values) + 1):
        options = [
            (
                best[start][0]
                + cost
                + float(((values[start:end] - values[start:end].mean()) ** 2).sum()),
                [*best[start][1], start] if start else [],
            )
            for start in range(end)
        ]
        best.append(min(options))
    return best[-1]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(6, 25), st.sampled_from([1.0, 4.0, 9.0]))
def test_cuts_are_the_best_there_are(key: int, runs: int, height: float) -> None:
    values = flat(f"{key}", 1, runs)[0]
    values[runs // 2 :] += height
    spread = max(noise_of(values), 1e-9)
    least, cuts = by_hand((values - values.mean()) / spread, penalty(runs, 3))
    found = places(values, 3, floor=1e-9)
    if found != cuts:  # two that are as good
        ends = [0, *found, runs]
        parts = [values[low:high] / spread for low, high in itertools.pairwise(ends)]
        mine = sum(float(((part - part.mean()) ** 2).sum()) for part in parts)
        assert mine + len(found) * penalty(runs, 3) == pytest.approx(least)


def test_penalties_are_those_of_the_table_and_between_them() -> None:
    for runs, row in PENALTIES.items():
        assert [penalty(runs, count) for count in LINES] == pytest.approx(row)
    assert PENALTIES[25][1] < penalty(25, 40) < PENALTIES[25][2]
    assert PENALTIES[41][1] < penalty(30, 10) < PENALTIES[25][1]
    assert penalty(6, 1000) > PENALTIES[6][2]


def test_flat_histories_seldom_alarm() -> None:
    alarms = [
        any(line_steps(line(values, 1e-9), 12) for values in flat(f"small {key}", 12, 30))
        for key in range(200)
    ]
    assert sum(alarms) <= 10, "5% of 200"


def test_a_step_of_three_sd_is_put_on_the_right_run() -> None:
    hits = []
    for key in range(300):
        draws = generator("three", key)
        values, at = draws.standard_normal(200), int(draws.integers(10, 191))
        values[at:] += 3
        found = line_steps(line(values, 1e-9), 40)
        hits.append(any(abs(step.run - at) <= NEAR for step in found))
    assert np.mean(hits) >= 0.95


def test_the_true_place_is_where_the_step_may_be() -> None:
    inside = []
    for key in range(200):
        draws = generator("where", key)
        values = draws.standard_normal(60)
        values[30:] += 3
        found = line_steps(line(values, 1e-9), 1)
        inside.append(any(step.earliest <= 30 <= step.latest for step in found))
    assert np.mean(inside) >= 0.95


# --- lines together -------------------------------------------------------------------------------


def test_lines_that_step_together_are_one_step_at_the_clearest_place() -> None:
    noise = flat("together", 2, 40) * 0.01
    one, two = 0.5 + noise
    one[20:] += 0.3
    two[21:] -= 0.1
    later = np.full(40, 0.9)
    later[30:] = 0.8
    steps = steps_of([line(one), line(two, metric="spearman"), line(later, metric="kendall")])
    assert [(step.run, [found.line.metric for found in step.lines]) for step in steps] == [
        (20, ["ssim", "spearman"]),
        (30, ["kendall"]),
    ]


def test_what_maps_cost_is_not_judged() -> None:
    cost = Line(
        "gradient", "time_ratio", "cost", "overall", np.array([1.0] * 9 + [2.0] * 9),
        np.full(18, np.nan), np.full(18, np.nan), 1e-6, "lower",
    )  # fmt: skip
    assert steps_of([cost]) == []
