"""Calibrated scores and their verdicts: on records whose answer is known."""

from __future__ import annotations

import math
import re
import sys

import numpy as np
import pandas as pd
import pytest
from known_scores import Row, only, scored
from support import frame

from steadymap.bench.analysis.calibration import (
    OK,
    UNCALIBRATED,
    UNINFORMATIVE,
    UNRESOLVABLE,
    calibrate,
    missing_nulls,
    null_score,
    order,
)
from steadymap.bench.analysis.findings import Findings
from steadymap.bench.methods.registry import METHODS
from steadymap.bench.records.vocabulary import (
    CONTROLS,
    MATCHED_CLASS,
    MATCHED_IMAGE,
    MATCHED_NETWORK,
    OTHER_SEED,
    OVERALL,
    PERFECT,
    RANK,
    is_control,
)
from steadymap.bench.report.answer import answer
from steadymap.bench.report.terminal import footnotes, tables
from steadymap.metrics import METRICS, Maps, evaluate
from steadymap.metrics.scoring import PERTURBED_CONSTANT

# --- calibrated scores ----------------------------------------------------------------------------


def test_a_calibrated_score_is_what_is_left_of_the_way_to_a_perfect_one() -> None:
    rows = scored([0.6, 0.8], [0.1, 0.3], [0.4, 0.4])
    row = only(calibrate(frame(rows)), family="bias")
    assert row["null_of"] == "random_network"
    assert (row["score"], row["null"]) == (pytest.approx(0.7), pytest.approx(0.4))
    assert row["calibrated"] == pytest.approx((0.7 - 0.4) / (1 - 0.4))
    assert row["verdict"] == OK
    assert (row["other_image"], row["random_network"]) == (pytest.approx(0.2), pytest.approx(0.4))


def warped(values: list[float], perfect: list[float], null: float) -> list[Row]:
    """Rows of one method: a score and the perfect score of each image under what moves things."""
    columns = {"ssim": values, "ssim" + PERFECT: perfect}
    columns["ssim" + MATCHED_IMAGE] = [null] * len(values)
    return [
        {"image_id": f"i{place}", "family": "rotation", "value": value, "metric": metric}
        for metric, column in columns.items()
        for place, value in enumerate(column)
    ]


def test_where_things_are_warped_a_score_is_calibrated_by_its_images_own_perfect_score() -> None:
    rows = warped([0.5, 0.6], [0.7, 0.9], 0.3) + scored([0.6, 0.8], [0.2, 0.4], [0.1, 0.1])
    table = calibrate(frame(rows))
    row = only(table, family="rotation")
    assert row["score"] == pytest.approx(0.55)
    assert row["null"] == pytest.approx(0.3)
    assert row["perfect"] == pytest.approx(0.8)
    assert row["calibrated"] == pytest.approx((0.55 - 0.3) / (0.8 - 0.3))
    still = only(table, family="bias")
    assert still["perfect"] == 1
    assert still["calibrated"] == pytest.approx((0.7 - 0.3) / (1 - 0.3))
    both = only(table, family=OVERALL)
    assert both["perfect"] == pytest.approx(0.9)
    assert both["calibrated"] == pytest.approx((0.625 - 0.3) / (0.9 - 0.3))
    assert set(table["metric"]) == {"ssim"}
    assert table["family"].tolist() == ["rotation", "bias", OVERALL], "as the records have them"


def test_what_is_derived_metric_by_metric_knows_the_perfect_scores_of_warped_maps() -> None:
    rows = scored([0.6, 0.8], [0.2, 0.4], [0.1, 0.1]) + warped([0.5, 0.6], [0.7, 0.9], 0.2)
    findings = Findings.of(frame(rows))
    pd.testing.assert_frame_equal(findings.calibrated, calibrate(frame(rows)))
    assert set(findings.summary["family"]) == {"bias", "rotation", OVERALL}
    assert set(findings.summary["metric"]) == {"ssim", "ssim" + PERFECT}, "and no null's"


def test_an_equivariant_method_is_calibrated_at_1_and_a_better_one_above() -> None:
    for value, expected in ((0.7, 1.0), (0.75, 1.1), (0.2, 0.0)):
        row = only(calibrate(frame(warped([value] * 2, [0.7] * 2, 0.2))), family="rotation")
        assert row["calibrated"] == pytest.approx(expected)


def test_a_warped_score_without_a_perfect_one_is_no_number() -> None:
    rows = warped([0.5, 0.6], [0.7, math.nan], 0.2)
    rows = [
        row | {"status": "ok" if row["value"] == row["value"] else "degenerate"} for row in rows
    ]
    row = only(calibrate(frame(rows)), family="rotation")
    assert (row["images"], row["coverage"]) == (1, 0.5)
    assert row["calibrated"] == pytest.approx((0.5 - 0.2) / (0.7 - 0.2))


def test_a_warp_that_leaves_no_room_above_unrelated_maps_says_nothing() -> None:
    rows = warped([0.6] * 2, [0.64] * 2, 0.6)
    assert only(calibrate(frame(rows)), family="rotation")["verdict"] == UNINFORMATIVE


def test_a_metric_that_is_better_when_low_is_calibrated_the_same_way() -> None:
    rows = scored([0.2, 0.4], [1.2, 1.0], [0.9, 1.1], name="relative_l2")
    row = only(calibrate(frame(rows)), family="bias")
    assert (row["score"], row["null"]) == (pytest.approx(0.3), pytest.approx(1.0))
    assert row["calibrated"] == pytest.approx(0.7)
    assert row["null_of"] == "random_network", "the lower of the two means"


def test_no_better_than_unrelated_is_0_and_worse_is_below() -> None:
    for value, expected in ((0.4, 0.0), (1.0, 1.0), (0.1, -0.5)):
        rows = scored([value] * 3, [0.4] * 3, [0.2] * 3)
        assert only(calibrate(frame(rows)), family="bias")["calibrated"] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("other", "randomised", "verdict"),
    [
        (0.951, 0.0, UNINFORMATIVE),
        (0.0, 0.951, UNINFORMATIVE),
        (1.0, 1.0, UNINFORMATIVE),
        (0.949, 0.0, OK),
        (math.nan, 0.3, OK),
        (math.nan, math.nan, UNCALIBRATED),
    ],
)
def test_where_unrelated_maps_score_as_high_there_is_no_number(
    other: float, randomised: float, verdict: str
) -> None:
    rows = scored([0.99, 0.97], [other] * 2, [randomised] * 2)
    rows = [row for row in rows if not math.isnan(float(str(row["value"])))]
    row = only(calibrate(frame(rows)), family="bias")
    assert row["verdict"] == verdict
    assert math.isnan(float(str(row["calibrated"]))) == (verdict != OK)


def test_what_moves_less_than_rounding_is_unresolvable() -> None:
    rows = scored([0.9990, 0.9990], [0.1] * 2, [0.1] * 2)
    ways = {"batch_of_one": 0.9999, "float64": 0.9985}
    rows += [{"family": family, "value": value} for family, value in ways.items()]
    row = only(calibrate(frame(rows)), family="bias")
    assert row["floor"] == pytest.approx(0.0015), "the larger of the ways"
    assert row["verdict"] == UNRESOLVABLE
    more = only(calibrate(frame([*rows, {"value": 0.99}])), family="bias")
    assert more["verdict"] == OK


def test_draws_of_a_null_are_averaged_within_an_image_first() -> None:
    rows = scored([0.7, 0.7], [], [])
    name = "ssim" + MATCHED_IMAGE
    rows += [{"image_id": "i0", "draw": draw, "value": 0.7} for draw in (1, 2)]
    rows += [
        {"image_id": "i0", "metric": name, "draw": draw, "value": value}
        for draw, value in enumerate((0.0, 0.2, 0.4))
    ]
    rows.append({"image_id": "i1", "metric": name, "value": 0.6})
    assert only(calibrate(frame(rows)), family="bias")["null"] == pytest.approx((0.2 + 0.6) / 2)


def test_a_null_is_of_the_very_pairs_that_have_a_score() -> None:
    rows = scored([0.5, 0.5, math.nan], [0.1, 0.1, 0.9], [0.0] * 3)
    rows[2]["status"] = "degenerate"
    assert only(calibrate(frame(rows)), family="bias")["null"] == pytest.approx(0.1)


def test_the_closest_of_three_nulls_counts_and_one_that_is_missing_is_left_out() -> None:
    rows = scored([0.8] * 4, [0.1] * 4, [0.2] * 4)
    of_class = [
        {"image_id": f"i{place}", "metric": "ssim" + MATCHED_CLASS, "value": 0.4}
        for place in range(4)
    ]
    row = only(calibrate(frame(rows)), family="bias")
    assert (row["null_of"], row["null"]) == ("random_network", pytest.approx(0.2))
    assert math.isnan(float(str(row["same_class"])))
    assert missing_nulls(calibrate(frame(rows)), "ssim") == ["same_class"]
    row = only(calibrate(frame([*rows, *of_class])), family="bias")
    assert (row["null_of"], row["same_class"]) == ("same_class", pytest.approx(0.4))
    assert row["calibrated"] == pytest.approx((0.8 - 0.4) / (1 - 0.4))
    assert missing_nulls(calibrate(frame([*rows, *of_class])), "ssim") == []


def test_the_networks_null_is_the_mean_over_networks() -> None:
    rows = scored([0.8] * 3, [0.1] * 3, [0.2] * 3)
    rows += [
        {"image_id": f"i{place}", "metric": f"ssim{MATCHED_NETWORK}1", "value": 0.6}
        for place in range(3)
    ]
    assert only(calibrate(frame(rows)), family="bias")["random_network"] == pytest.approx(0.4)


def test_where_images_agree_there_is_a_point() -> None:
    row = only(calibrate(frame(scored([0.5] * 4, [0.2] * 4, [0.0] * 4))), family="bias")
    assert (row["interval"], row["low"], row["high"]) == ("point", row["calibrated"], row["high"])
    alone = only(calibrate(frame(scored([0.5], [0.2], [0.0]))), family="bias")
    assert alone["interval"] == "none"
    assert math.isnan(float(str(alone["low"])))


def test_overall_is_the_mean_over_families_each_counting_the_same() -> None:
    rows = scored([0.9, 0.7], [0.2, 0.2], [0.0, 0.0])
    noise = scored([0.5], [0.2], [0.0], family="gaussian_noise")
    diagnosis = scored([0.1, 0.1], [0.0, 0.0], [0.0, 0.0], family="compensated_bias")
    table = calibrate(frame([*rows, *noise, *diagnosis]))
    row = only(table, family="overall")
    assert row["score"] == pytest.approx(((0.9 + 0.7) / 2 + 0.5) / 2)
    assert row["calibrated"] == pytest.approx((0.65 - 0.2) / 0.8)
    assert only(table, family="compensated_bias")["score"] == pytest.approx(0.1)


def test_only_pairs_whose_prediction_held_make_the_score() -> None:
    rows = scored([0.9, 0.7], [0.2, 0.2], [0.0, 0.0])
    rows += scored([0.3, 0.1], [0.2, 0.2], [0.0, 0.0], severity=0.3, kept=False)
    row = only(calibrate(frame(rows)), family="bias")
    assert row["calibrated"] == row["kept_pairs"] == pytest.approx((0.8 - 0.2) / 0.8)
    assert row["changed_pairs"] == pytest.approx((0.2 - 0.2) / 0.8)
    assert row["all_pairs"] == pytest.approx((0.5 - 0.2) / 0.8)


def test_a_map_that_vanished_counts_as_an_unrelated_one() -> None:
    rows = scored([0.9, 0.7, 0.8, 0.8], [0.2] * 4, [0.0] * 4)
    gone = {"value": math.nan, "status": "degenerate", "detail": PERTURBED_CONSTANT}
    lost = {"value": math.nan, "status": "degenerate", "detail": "a map or mask is constant"}
    # Of the second image nothing is left, of the third half; the fourth's clean map is constant.
    rows[1] |= gone
    rows += [{"image_id": "i2", "severity": 0.3} | gone]
    rows[3] |= lost
    row = only(calibrate(frame(rows)), family="bias")
    whole = (0.7 / 0.8, 0.0, 0.5 * 0.6 / 0.8)
    assert row["images"] == 3
    assert row["calibrated"] == pytest.approx(np.mean(whole))
    assert row["without_vanished"] == pytest.approx((0.7 + 0.6) / 2 / 0.8)
    assert row["vanished"] == pytest.approx((0 + 1 + 0.5) / 3)
    assert row["coverage"] == pytest.approx(3 / 4)
    assert row["score"] == pytest.approx(0.2 + 0.8 * np.mean(whole))


def test_scores_tell_a_map_that_vanished_from_one_that_never_was() -> None:
    still, flat = np.arange(16.0).reshape(1, 4, 4), np.ones((1, 4, 4))
    vanished = evaluate(METRICS["spearman"], Maps(still), Maps(flat))
    assert (vanished.statuses[0], vanished.details[0]) == ("degenerate", PERTURBED_CONSTANT)
    for clean, perturbed in ((flat, still), (flat, flat)):
        never = evaluate(METRICS["spearman"], Maps(clean), Maps(perturbed))
        assert (never.statuses[0], never.details[0]) == ("degenerate", "a map or mask is constant")


def test_another_seed_is_given_on_the_calibrated_scale() -> None:
    rows = scored([0.9, 0.9], [0.2, 0.2], [0.0, 0.0])
    rows += [{"image_id": f"i{n}", "family": OTHER_SEED, "value": 0.3 + n / 5} for n in (0, 1)]
    row = only(calibrate(frame(rows)), family="bias")
    assert row["other_seed"] == pytest.approx((0.4 - 0.2) / (1 - 0.2))


def ranked(image: int, place: float, among: int = 4, **fixed: object) -> Row:
    row: Row = {"image_id": f"i{image}", "metric": "ssim" + RANK, "value": place}
    return row | {"detail": f"of {among}"} | fixed


def test_recognition_stands_beside_its_chance() -> None:
    rows = scored([0.9] * 2, [0.2] * 2, [0.0] * 2)
    rows += scored([0.9], [0.2], [0.0], severity=0.2)
    rows += [ranked(0, 1), ranked(0, 4, severity=0.2), ranked(1, 2, 3)]
    row = only(calibrate(frame(rows)), family="bias")
    assert row["recognised"] == pytest.approx((0.5 + 0) / 2)
    assert row["reciprocal_rank"] == pytest.approx(((1 + 1 / 4) / 2 + 1 / 2) / 2)
    assert row["chance"] == pytest.approx((1 / 4 + 1 / 3) / 2)
    harmonic = ((1 + 1 / 2 + 1 / 3 + 1 / 4) / 4 + (1 + 1 / 2 + 1 / 3) / 3) / 2
    assert row["chance_reciprocal_rank"] == pytest.approx(harmonic)


def test_a_map_that_vanished_is_not_recognised() -> None:
    rows = scored([0.9, math.nan], [0.2] * 2, [0.0] * 2)
    rows[1] |= {"status": "degenerate", "detail": PERTURBED_CONSTANT}
    row = only(calibrate(frame([*rows, ranked(0, 1)])), family="bias")
    assert row["recognised"] == pytest.approx(1 / 2)
    assert row["reciprocal_rank"] == pytest.approx((1 + 1 / 4) / 2), "ties count against it"


def test_a_null_on_few_images_is_none() -> None:
    rows = scored([0.5] * 60, [0.1] * 60, [0.3] * 60)
    for count, null in ((12, "random_network"), (11, "other_image")):
        few = [
            row
            for row in rows
            if MATCHED_NETWORK not in str(row.get("metric"))
            or int(str(row["image_id"])[1:]) < count
        ]
        row = only(calibrate(frame(few)), family="bias")
        assert (row["verdict"], row["null_of"]) == (OK, null)
        assert row["null_images"] == (12 if count == 12 else 60)


def test_a_run_of_metrics_that_are_not_calibrated_has_tables_and_notes() -> None:
    rows = scored([0.2, 0.3], [1.0, 1.1], [0.9, 1.0], name="relative_l2")
    rows += [
        {"image_id": f"i{n}", "metric": "completeness_error", "value": 0.1 * n} for n in (1, 2)
    ]
    findings = Findings.of(frame(rows))
    assert [title.partition(":")[0] for title, _ in tables(findings)] == ["completeness_error"]
    assert "nothing to calibrate" in " ".join(footnotes(findings))
    alone = Findings.of(frame(scored([0.5] * 6, [], [0.2])))
    assert tables(alone)
    assert "less than a fifth of the images" in " ".join(footnotes(alone))


@pytest.mark.parametrize(
    ("redrawn", "share"),
    [(0.6, "100%"), (0.7, "100%"), (0.76, "80.0%"), (0.85, "50.0%"), (0.86, None), (1.0, None)],
)
def test_its_own_draws_are_remarked_on_from_half_of_what_moves_on(
    redrawn: float, share: str | None
) -> None:
    """The score under perturbation is 0.7: what another seed moves, as a share of 0.3."""
    spec = "integrated_gradients:baseline=random,steps=4"
    rows = scored([0.75, 0.65] * 20, [0.1] * 40, [0.1] * 40, method=spec)
    rows += [
        {"method": spec, "image_id": f"i{n}", "family": OTHER_SEED, "value": redrawn}
        for n in range(40)
    ]
    uncertain = answer(Findings.of(frame(rows)))[2]
    said = re.findall(r"(\S+) of what moves with (.+) by SSIM is its own draws", uncertain)
    assert said == ([] if share is None else [(share, "integrated_gradients")])


def test_a_method_without_a_number_comes_last() -> None:
    rows = scored([0.3] * 2, [0.2] * 2, [0.1] * 2, method="gradient")
    rows += scored([0.1] * 2, [0.2] * 2, [0.1] * 2, method="grad_cam:relu=true")
    rows += scored([1.0] * 2, [1.0] * 2, [0.1] * 2, method="centre_blob")
    specs = ["centre_blob", "constant", "grad_cam:relu=true", "gradient"]
    calibrated = calibrate(frame(rows))
    assert order(calibrated, "ssim", specs)[:2] == ["gradient", "grad_cam:relu=true"]
    assert null_score(calibrated, "ssim", "other_image") == pytest.approx(0.0)
    assert null_score(calibrated, "ssim", "random_network") == pytest.approx((0.1 - 0.2) / 0.8)
    assert is_control("centre_blob")
    assert is_control("random:seed=1")
    assert not is_control("gradient")
    # A name from a file of records loads no code.
    assert not is_control("antigravity.fly")
    assert "antigravity" not in sys.modules


def test_the_controls_that_readers_know_are_those_of_the_registry() -> None:
    assert [name for name, method in METHODS.items() if method.control] == list(CONTROLS)


def test_records_without_nulls_are_not_calibrated() -> None:
    findings = Findings.of(frame([{"image_id": f"i{n}", "value": n / 3} for n in range(3)]))
    assert findings.calibrated.empty
    assert findings.ranks.empty
    assert not findings.calibrates("ssim")
