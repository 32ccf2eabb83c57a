"""Scores against severity, and where methods break."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from finished import METHODS
from support import frame, image_set, linear_network, pick, small_plan, tiny

from steadymap.bench.analysis.calibration import calibrate
from steadymap.bench.analysis.cells import is_unrelated
from steadymap.bench.analysis.curves import breaking_points, severity_curves
from steadymap.bench.analysis.findings import Findings
from steadymap.bench.measure.runner import run
from steadymap.bench.records.vocabulary import MATCHED_IMAGE, PERFECT
from steadymap.bench.report.finished_run import FinishedRun


def test_a_curve_of_what_is_warped_is_held_against_its_perfect_score() -> None:
    # At the last, unrelated maps score as high as maps that moved exactly with the image.
    levels = ((10.0, 0.6, 0.7), (20.0, 0.4, 0.6), (90.0, 0.1, 0.22))
    rows: list[dict[str, object]] = [
        {"image_id": image, "family": "rotation", "severity": level, "metric": name, "value": value}
        for image in ("i0", "i1")
        for level, own, best in levels
        for name, value in (("ssim", own), ("ssim" + PERFECT, best), ("ssim" + MATCHED_IMAGE, 0.2))
    ]
    records = frame(rows)
    curves = severity_curves(records, calibrate(records))
    assert curves["metric"].tolist() == ["ssim", "ssim"]
    assert curves["severity"].tolist() == [10, 20]
    assert curves["score"].tolist() == pytest.approx([(0.6 - 0.2) / 0.5, (0.4 - 0.2) / 0.4])


def test_curves_are_means_over_images_at_each_severity(
    finished_run: FinishedRun, finished_records: pd.DataFrame
) -> None:
    calibrated = finished_run.findings.calibrated
    curves = finished_run.curves
    chosen = curves[(curves["metric"] == "ssim") & (curves["family"] == "bias")]
    assert set(chosen["method"]) == set(METHODS)
    for row in chosen.to_dict("records"):
        values = finished_records[
            (finished_records["method"] == row["method"])
            & (finished_records["metric"] == "ssim")
            & (finished_records["family"] == "bias")
            & (finished_records["severity"] == row["severity"])
            & finished_records["kept"]
        ]["value"]
        overall = calibrated[
            (calibrated["method"] == row["method"])
            & (calibrated["metric"] == "ssim")
            & (calibrated["family"] == "overall")
        ].iloc[0]
        assert row["score"] == pytest.approx(1 - (1 - values.mean()) / (1 - overall["null"]))
        assert row["low"] <= row["score"] <= row["high"]
    raw = severity_curves(finished_records, calibrated.iloc[:0])
    assert not raw["calibrated"].any()
    assert breaking_points(raw).empty


def test_the_curves_of_a_metric_have_one_scale_whatever_was_skipped() -> None:
    """A method that has no value must not turn the others' label, nor be drawn on another scale."""
    plan = small_plan(
        "gradient_x_input",
        "guided_backprop",
        family=("gaussian_noise",),
        nulls=1,
        metric=("ssim",),
        admission=False,
    )
    records = run(tiny(linear_network), image_set(), plan)
    assert set(pick(records, method="guided_backprop")["status"]) == {"skipped"}
    findings = Findings.of(records)
    curves = severity_curves(records, findings.calibrated)
    assert set(curves["method"]) == {"gradient_x_input"}
    assert curves["calibrated"].all()
    # What is drawn is what the table has.
    (score,) = pick(findings.calibrated, method="gradient_x_input", family="gaussian_noise")[
        "calibrated"
    ]
    assert curves["score"].tolist() == pytest.approx([score])
    # Without null maps all are raw, and that of the skipped one is empty.
    raw = Findings.of(records[~records["metric"].astype(str).map(is_unrelated)])
    curves = severity_curves(records, raw.calibrated)
    assert not curves["calibrated"].any()
    assert set(curves["method"]) == {"gradient_x_input", "guided_backprop"}


def curve(points: dict[float, float]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "method": "m",
            "family": "bias",
            "metric": "ssim",
            "severity": list(points),
            "score": list(points.values()),
            "calibrated": True,
        }
    )


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        ({0.1: 0.75, 0.2: 0.25}, {1: 0.15}),
        ({0.2: 0.0}, {1: 0.1}),
        ({-0.2: 0.5, 0.1: 0.9}, {-1: -0.2, 1: np.nan}),
        # The first crossing counts, whatever comes after, and the order of the rows does not.
        ({0.3: 0.9, 0.2: 0.4, 0.1: 0.6}, {1: 0.15}),
        ({0.1: 0.4, 0.2: 0.8, 0.3: 0.2}, {1: 0.1 * 5 / 6}),
    ],
)
def test_a_method_breaks_where_its_curve_crosses_the_threshold(
    points: dict[float, float], expected: dict[int, float]
) -> None:
    rows = breaking_points(curve(points))
    assert dict(zip(rows["sign"], rows["severity"], strict=True)) == pytest.approx(
        expected, nan_ok=True
    )
