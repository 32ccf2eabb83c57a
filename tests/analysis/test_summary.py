from __future__ import annotations

import io
import math
import re

import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from scipy.stats import bootstrap
from support import frame

from steadymap.bench.analysis.findings import Findings
from steadymap.bench.analysis.intervals import intervals
from steadymap.bench.analysis.summary import full_summary, summarise
from steadymap.bench.core.names import short_names
from steadymap.bench.core.randomness import generator
from steadymap.bench.report.terminal import MOST_ACROSS, footnotes, tables


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


def rendered(records: pd.DataFrame) -> str:
    console = Console(width=140, record=True, file=io.StringIO())
    for title, table in tables(Findings.of(records)):
        console.print(title)
        console.print(table)
    return console.export_text()


def test_the_table_shows_the_numbers_of_the_records() -> None:
    rows = [
        {"image_id": f"i{n}", "metric": metric, "value": value, "kept": n != 0}
        for n in range(4)
        for metric, value in (("ssim", 0.25 + n / 4), ("completeness_error", 2.0))
    ]
    rows += [
        {"image_id": f"i{n}", "family": "clean", "metric": "completeness_error", "value": 1.0}
        for n in range(4)
    ]
    rows.append({"image_id": "i3", "severity": 0.2, "value": math.nan, "status": "degenerate"})
    text = rendered(frame(rows))
    assert "0.62" in text or "0.63" in text
    header = next(line for line in text.splitlines() if "clean" in line)
    assert header.split() == ["method", "bias", "clean", "coverage"]
    assert re.search(r"gradient +2\.00 +1\.00 +100%", text)
    assert "80.0%" in text
    assert "prediction kept" in text


def test_the_footnotes_warn_of_few_images_and_lost_values() -> None:
    records = frame([{}, {"image_id": "b", "value": math.nan, "status": "degenerate"}])
    notes = " ".join(footnotes(Findings.of(records)))
    assert "2 images" in notes
    assert "below 30 images the intervals are rough" in notes
    assert "1 degenerate of 2 values (controls not counted)" in notes
    enough = frame([{"image_id": f"i{n}"} for n in range(30)])
    assert "rough" not in " ".join(footnotes(Findings.of(enough)))


def test_many_families_are_shown_a_few_at_a_time_each_once() -> None:
    names = [f"family_{place}" for place in range(2 * MOST_ACROSS + 1)]
    records = frame(
        [
            {"image_id": f"i{image}", "family": name, "metric": "completeness_error"}
            for name in names
            for image in range(2)
        ]
    )
    shown = [table for _, table in tables(Findings.of(records))]
    across = [[str(column.header) for column in table.columns] for table in shown]
    assert [len(headers) for headers in across] == [1 + MOST_ACROSS, 1 + MOST_ACROSS, 3]
    assert [headers[-1] for headers in across][-1] == "coverage"
    families = [text for headers in across for text in headers if text.startswith("family")]
    assert families == [name.replace("_", "\n") for name in names]
