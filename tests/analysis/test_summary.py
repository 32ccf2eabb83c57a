from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from scipy.stats import bootstrap
from support import frame

from steadymap.bench.analysis.intervals import intervals
from steadymap.bench.analysis.summary import full_summary, summarise
from steadymap.bench.core.names import short_names
from steadymap.bench.core.randomness import generator


def test_draws_and_severities_are_averaged_within_an_image_first() -> None:
    records = frame(
        [
            {"image_id": "a", "severity": 0.1, "value": 0.0},
            {"image_id": "a", "severity": 0.2, "value": 0.0},
            {"image_id": "a", "severity": 0.2, "draw": 1, "value": 0.3},
            {"image_id": "b", "value": 0.9},
        ]
    )
    (row,) = summarise(records).to_dict("records")
    assert row["mean"] == pytest.approx((0.1 + 0.9) / 2)
    assert (row["images"], row["coverage"]) == (2, 1.0)


def test_only_ok_enters_a_mean_and_coverage_says_so() -> None:
    records = frame(
        [
            {"image_id": "a", "value": 0.2},
            {"image_id": "a", "value": math.nan, "status": "degenerate"},
            {"image_id": "b", "value": math.nan, "status": "nonfinite"},
            {"image_id": "c", "value": 0.4},
        ]
    )
    (row,) = summarise(records).to_dict("records")
    assert row["mean"] == pytest.approx(0.3)
    assert (row["images"], row["coverage"]) == (2, 0.5)


def test_a_group_without_a_value_stays_in_the_summary() -> None:
    records = frame([{"value": math.nan, "status": "error"}])
    (row,) = summarise(records).to_dict("records")
    assert math.isnan(row["mean"])
    assert (row["images"], row["coverage"], row["interval"]) == (0, 0.0, "none")


def test_pairs_whose_prediction_changed_can_be_left_out() -> None:
    records = frame(
        [{"image_id": "a", "value": 0.2}, {"image_id": "b", "value": 0.9, "kept": False}]
    )
    summary = full_summary(records).query("family == 'bias'").set_index("subset")["mean"]
    assert summary["all"] == pytest.approx(0.55)
    assert summary["kept"] == pytest.approx(0.2)


def test_overall_is_the_mean_of_an_image_s_families() -> None:
    records = frame(
        [
            {"image_id": "a", "family": "bias", "severity": level, "value": value}
            for level, value in ((0.1, 0.0), (0.2, 0.2), (0.3, 0.4))
        ]
        + [
            {"image_id": "a", "family": "noise", "value": 0.6},
            {"image_id": "b", "family": "bias", "value": 1.0},
            {"image_id": "b", "family": "noise", "value": math.nan, "status": "degenerate"},
            {"image_id": "a", "family": "clean", "value": 7.0},
            {"image_id": "a", "family": "other_image", "value": 7.0},
        ]
    )
    (row,) = (
        full_summary(records).query("family == 'overall' and subset == 'all'").to_dict("records")
    )
    assert row["mean"] == pytest.approx(((0.2 + 0.6) / 2 + 1.0) / 2)
    assert (row["images"], row["coverage"]) == (2, pytest.approx(5 / 6))
    assert set(full_summary(records).query("subset == 'kept'")["family"]) == {
        "bias",
        "noise",
        "overall",
    }


def test_one_row_a_severity_when_asked_for() -> None:
    records = frame([{"severity": level, "value": level} for level in (0.1, 0.3)])
    summary = summarise(records, ("method", "severity", "metric"))
    assert dict(zip(summary["severity"], summary["mean"], strict=True)) == {0.1: 0.1, 0.3: 0.3}


def test_intervals_are_scipy_s_bca() -> None:
    rng = np.random.default_rng(0)
    rows = [rng.normal(size=count) ** 2 for count in (40, 7, 40, 2000, 40)]
    for values, found in zip(rows, intervals(rows), strict=True):
        expected = bootstrap(
            (values,),
            np.mean,
            n_resamples=2000,
            method="BCa",
            rng=generator("interval", len(values)),
        ).confidence_interval
        assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)
        assert found.kind == "bca"
        assert found.low < found.mean < found.high


def test_the_interval_of_a_row_hangs_on_its_own_values_alone() -> None:
    rng = np.random.default_rng(0)
    rows = [rng.normal(size=40) for _ in range(70)]
    (alone,) = intervals(rows[50:51])
    together = intervals(rows)[50]
    assert (together.low, together.high) == pytest.approx((alone.low, alone.high), abs=1e-12)


@pytest.mark.parametrize(
    ("values", "mean", "kind"),
    [
        ([0.3, 0.3, 0.3], 0.3, "point"),
        ([1.0, 1.0 - 1e-16, 1.0], 1.0, "point"),
        ([0.3], 0.3, "none"),
        ([], math.nan, "none"),
    ],
)
def test_where_resampling_says_nothing_that_is_said(
    values: list[float], mean: float, kind: str
) -> None:
    neighbours = np.random.default_rng(0).normal(size=(2, len(values)))
    _, found, _ = intervals([neighbours[0], np.array(values), neighbours[1]])
    assert found.kind == kind
    assert found.mean == pytest.approx(mean, nan_ok=True)
    ends = (mean, mean) if kind == "point" else (math.nan, math.nan)
    assert (found.low, found.high) == pytest.approx(ends, nan_ok=True)


def test_a_summary_is_the_same_each_time() -> None:
    rng = np.random.default_rng(1)
    records = frame([{"image_id": f"i{n}", "value": float(rng.random())} for n in range(40)])
    pd.testing.assert_frame_equal(summarise(records), summarise(records))


def test_short_names_keep_what_differs() -> None:
    specs = [
        "gradient",
        "ig:baseline=black,steps=32",
        "ig:baseline=white,steps=32",
        "cam:relu=true",
    ]
    assert list(short_names(specs).values()) == ["gradient", "ig black", "ig white", "cam"]
