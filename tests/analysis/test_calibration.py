"""Calibrated scores, verdicts, ranks and faults: on records whose answer is known."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from scikit_posthocs import posthoc_nemenyi_friedman
from scipy.stats import bootstrap, friedmanchisquare
from support import frame

from steadymap.bench.analysis.calibration import (
    OK,
    UNCALIBRATED,
    UNINFORMATIVE,
    UNRESOLVABLE,
    Instability,
    calibrate,
    null_score,
    order,
)
from steadymap.bench.analysis.findings import Findings
from steadymap.bench.analysis.intervals import ratio_intervals
from steadymap.bench.analysis.ranks import rank_methods, within_image
from steadymap.bench.analysis.whose_fault import whose_fault
from steadymap.bench.core.randomness import generator
from steadymap.bench.methods.registry import METHODS
from steadymap.bench.records.vocabulary import (
    CONTROLS,
    NULLS,
    OTHER_IMAGE,
    OTHER_SEED,
    OVERALL,
    PERFECT,
    RANDOM_NETWORK,
    RECOGNISED,
    is_control,
)
from steadymap.bench.report.figures import save_diagram
from steadymap.bench.report.rank_diagrams import difference_figure
from steadymap.bench.report.terminal import footnotes, tables

Row = dict[str, object]


def scored(
    values: NDArray[np.float64] | list[float],
    other: NDArray[np.float64] | list[float],
    randomised: NDArray[np.float64] | list[float],
    **fixed: object,
) -> list[Row]:
    """Rows of one method: a score, and either null, of each image."""
    families = {"bias": values, OTHER_IMAGE: other, RANDOM_NETWORK: randomised}
    return [
        {"image_id": f"i{place}", "family": family, "value": value} | fixed
        for family, column in families.items()
        for place, value in enumerate(column)
    ]


def only(calibrated: pd.DataFrame, **where: object) -> Row:
    for column, value in where.items():
        calibrated = calibrated[calibrated[column] == value]
    (row,) = calibrated.to_dict("records")
    return {str(key): value for key, value in row.items()}


# --- calibrated scores ----------------------------------------------------------------------------


def test_a_calibrated_score_is_what_is_left_of_the_way_to_a_perfect_one() -> None:
    rows = scored([0.6, 0.8], [0.1, 0.3], [0.4, 0.4])
    row = only(calibrate(frame(rows)), family="bias")
    assert row["null_of"] == RANDOM_NETWORK
    assert (row["score"], row["null"]) == (pytest.approx(0.7), pytest.approx(0.4))
    assert row["calibrated"] == pytest.approx((0.7 - 0.4) / (1 - 0.4))
    assert row["verdict"] == OK
    assert (row[OTHER_IMAGE], row[RANDOM_NETWORK]) == (pytest.approx(0.2), pytest.approx(0.4))


def warped(values: list[float], perfect: list[float], family: str = "rotation") -> list[Row]:
    """Rows of one method: a score and the perfect score of each image under what moves things."""
    return [
        {"image_id": f"i{place}", "family": family, "value": value, "metric": metric}
        for metric, column in (("ssim", values), ("ssim" + PERFECT, perfect))
        for place, value in enumerate(column)
    ]


def test_where_things_are_warped_a_score_is_calibrated_by_its_images_own_perfect_score() -> None:
    rows = scored([0.6, 0.8], [0.2, 0.4], [0.1, 0.1]) + warped([0.5, 0.6], [0.7, 0.9])
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


def test_what_is_derived_metric_by_metric_knows_the_perfect_scores_of_warped_maps() -> None:
    rows = scored([0.6, 0.8], [0.2, 0.4], [0.1, 0.1]) + warped([0.5, 0.6], [0.7, 0.9])
    records = frame(rows)
    pd.testing.assert_frame_equal(Findings.of(records).calibrated, calibrate(records))
    raw = records[~records["family"].isin(NULLS)]
    assert set(Findings.of(raw).summary["family"]) == {"bias", "rotation", OVERALL}


def test_an_equivariant_method_is_calibrated_at_1_and_a_better_one_above() -> None:
    nulls = scored([1.0] * 2, [0.2] * 2, [0.1] * 2)
    for value, expected in ((0.7, 1.0), (0.75, 1.1), (0.2, 0.0)):
        rows = nulls + warped([value] * 2, [0.7] * 2)
        row = only(calibrate(frame(rows)), family="rotation")
        assert row["calibrated"] == pytest.approx(expected)


def test_a_warped_score_without_a_perfect_one_is_no_number() -> None:
    rows = scored([1.0] * 2, [0.2] * 2, [0.1] * 2) + warped([0.5, 0.6], [0.7, math.nan])
    row = only(calibrate(frame(rows)), family="rotation")
    assert row["images"] == 1
    assert row["calibrated"] == pytest.approx((0.5 - 0.2) / (0.7 - 0.2))


def test_a_warp_that_leaves_no_room_above_unrelated_maps_says_nothing() -> None:
    rows = scored([1.0] * 2, [0.6] * 2, [0.1] * 2) + warped([0.6] * 2, [0.64] * 2)
    assert only(calibrate(frame(rows)), family="rotation")["verdict"] == UNINFORMATIVE


def test_a_metric_that_is_better_when_low_is_calibrated_the_same_way() -> None:
    rows = scored([0.2, 0.4], [1.2, 1.0], [0.9, 1.1], metric="relative_l2")
    row = only(calibrate(frame(rows)), family="bias")
    assert (row["score"], row["null"]) == (pytest.approx(0.3), pytest.approx(1.0))
    assert row["calibrated"] == pytest.approx(0.7)
    assert row["null_of"] == RANDOM_NETWORK, "the lower of the two means"


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
        (math.nan, 0.3, UNCALIBRATED),
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
    rows = scored([0.7, 0.7], [], [0.0, 0.0])
    rows += [
        {"image_id": "i0", "family": OTHER_IMAGE, "draw": draw, "value": value}
        for draw, value in enumerate((0.0, 0.2, 0.4))
    ]
    rows.append({"image_id": "i1", "family": OTHER_IMAGE, "value": 0.6})
    assert only(calibrate(frame(rows)), family="bias")["null"] == pytest.approx((0.2 + 0.6) / 2)


def test_images_without_a_score_do_not_make_the_null() -> None:
    rows = scored([0.5, 0.5], [0.1, 0.1, 0.9], [0.0] * 3)
    assert only(calibrate(frame(rows)), family="bias")["null"] == pytest.approx(0.1)


def test_the_interval_resamples_scores_and_nulls_together() -> None:
    rng = np.random.default_rng(0)
    shared = rng.random(40) * 0.3
    sample = np.stack([0.4 + shared, shared + 0.05 * rng.random(40), 0.1 * rng.random(40)])
    row = only(calibrate(frame(scored(*sample))), family="bias")

    def statistic(
        score: NDArray[np.float64],
        other: NDArray[np.float64],
        randomised: NDArray[np.float64],
        axis: int = -1,
    ) -> NDArray[np.float64]:
        null = np.maximum(other.mean(axis=axis), randomised.mean(axis=axis))
        calibrated: NDArray[np.float64] = (score.mean(axis=axis) - null) / (1 - null)
        return calibrated

    expected = bootstrap(
        tuple(sample),
        statistic,
        paired=True,
        n_resamples=2000,
        method="BCa",
        rng=generator("interval", 40),
    ).confidence_interval
    assert (row["low"], row["high"]) == pytest.approx((expected.low, expected.high), abs=1e-9)
    # Apart they would be wider: an image with a high score has a high null.
    apart = only(calibrate(frame(scored(sample[0], sample[1][::-1], sample[2]))), family="bias")
    widths = [float(str(one["high"])) - float(str(one["low"])) for one in (row, apart)]
    assert widths[0] < 0.8 * widths[1]


def test_where_images_agree_there_is_a_point() -> None:
    row = only(calibrate(frame(scored([0.5] * 4, [0.2] * 4, [0.0] * 4))), family="bias")
    assert (row["interval"], row["low"], row["high"]) == ("point", row["calibrated"], row["high"])
    alone = only(calibrate(frame(scored([0.5], [0.2], [0.0]))), family="bias")
    assert alone["interval"] == "none"
    assert math.isnan(float(str(alone["low"])))


def test_overall_is_the_mean_of_an_image_s_families() -> None:
    rows = scored([0.9, 0.7], [0.2, 0.2], [0.0, 0.0])
    rows.append({"image_id": "i0", "family": "gaussian_noise", "value": 0.5})
    row = only(calibrate(frame(rows)), family="overall")
    assert row["score"] == pytest.approx(((0.9 + 0.5) / 2 + 0.7) / 2)


def test_another_seed_is_given_on_the_calibrated_scale() -> None:
    rows = scored([0.9, 0.9], [0.2, 0.2], [0.0, 0.0])
    rows += [{"image_id": f"i{n}", "family": OTHER_SEED, "value": 0.3 + n / 5} for n in (0, 1)]
    row = only(calibrate(frame(rows)), family="bias")
    assert row["other_seed"] == pytest.approx((0.4 - 0.2) / (1 - 0.2))


def test_recognition_stands_beside_its_chance() -> None:
    rows = scored([0.9] * 2, [0.2] * 2, [0.0] * 2)
    rows += [{"image_id": "i0", "family": OTHER_IMAGE, "draw": 1, "value": 0.1}]
    rows += [
        {"image_id": "i0", "metric": "ssim" + RECOGNISED, "severity": level, "value": value}
        for level, value in ((0.1, 1.0), (0.2, 0.0))
    ]
    rows.append({"image_id": "i1", "metric": "ssim" + RECOGNISED, "value": 1.0})
    row = only(calibrate(frame(rows)), family="bias")
    assert row["recognised"] == pytest.approx((0.5 + 1) / 2)
    assert row["chance"] == pytest.approx((1 / 3 + 1 / 2) / 2), (
        "other images that are defined, and 1"
    )


def test_an_interval_that_cannot_be_had_is_not_one_of_width_0() -> None:
    rng = np.random.default_rng(1)
    scores, other, randomised = 0.5 + 0.1 * rng.random((3, 60))
    rows = [
        row
        for row in scored(scores, other - 0.4, randomised - 0.3)
        if row["family"] != RANDOM_NETWORK or int(str(row["image_id"])[1:]) < 12
    ]
    few = only(calibrate(frame(rows)), family="bias")
    assert (few["verdict"], few["null_images"]) == (OK, 12)
    rows = [row for row in rows if row["family"] != RANDOM_NETWORK or row["image_id"] == "i3"]
    one = only(calibrate(frame(rows)), family="bias")
    assert (one["verdict"], one["null_images"]) == (UNCALIBRATED, 1)
    # Few images with a null among many without: some resamples have none of them.
    sample = np.stack([scores, np.where(np.arange(60) < 4, other, np.nan)])
    (interval,) = ratio_intervals([sample])
    assert interval.kind == "none"
    assert math.isnan(interval.low)
    assert interval.mean == pytest.approx(1 - scores.mean() / other[:4].mean())


def test_a_run_of_metrics_that_are_not_calibrated_has_tables_and_notes() -> None:
    rows = scored([0.2, 0.3], [1.0, 1.1], [0.9, 1.0], metric="relative_l2")
    rows += [
        {"image_id": f"i{n}", "metric": "completeness_error", "value": 0.1 * n} for n in (1, 2)
    ]
    findings = Findings.of(frame(rows))
    assert [title.partition(":")[0] for title, _ in tables(findings)] == ["completeness_error"]
    assert "nothing to calibrate" in " ".join(footnotes(findings))
    alone = Findings.of(frame(scored([0.5], [], [0.2])))
    assert tables(alone)
    assert "less than a fifth of the images" in " ".join(footnotes(alone))


def test_another_seed_is_remarked_on_where_it_is_beyond_the_interval() -> None:
    rng = np.random.default_rng(2)
    spec = "integrated_gradients:baseline=random,steps=4"
    rows = scored(0.7 + 0.2 * rng.random(40), [0.1] * 40, [0.1] * 40, method=spec)
    for value, remarked in ((0.5, True), (0.79, False), (0.9, False)):
        redrawn: list[Row] = [
            {"method": spec, "image_id": f"i{n}", "family": OTHER_SEED, "value": value}
            for n in range(40)
        ]
        notes = " ".join(footnotes(Findings.of(frame([*rows, *redrawn]))))
        assert ("another seed moves it more" in notes) == remarked


def test_a_method_without_a_number_comes_last() -> None:
    rows = scored([0.3] * 2, [0.2] * 2, [0.1] * 2, method="gradient")
    rows += scored([0.1] * 2, [0.2] * 2, [0.1] * 2, method="grad_cam:relu=true")
    rows += scored([1.0] * 2, [1.0] * 2, [0.1] * 2, method="centre_blob")
    specs = ["centre_blob", "constant", "grad_cam:relu=true", "gradient"]
    calibrated = calibrate(frame(rows))
    assert order(calibrated, "ssim", specs)[:2] == ["gradient", "grad_cam:relu=true"]
    assert null_score(calibrated, "ssim", OTHER_IMAGE) == pytest.approx(0.0)
    assert null_score(calibrated, "ssim", RANDOM_NETWORK) == pytest.approx((0.1 - 0.2) / 0.8)
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


# --- ranks ----------------------------------------------------------------------------------------


def field(images: int = 40) -> tuple[pd.DataFrame, dict[str, NDArray[np.float64]]]:
    """Three methods with one null each: the first clearly best, the others alike."""
    rng = np.random.default_rng(3)
    means = {"gradient": 0.8, "gradient_x_input": 0.5, "grad_cam:relu=true": 0.5}
    scores = {spec: mean + 0.1 * rng.standard_normal(images) for spec, mean in means.items()}
    rows = []
    for spec, values in scores.items():
        rows += scored(values, [0.2] * images, [0.1] * images, method=spec)
    return frame(rows), scores


def test_ranks_have_intervals_where_methods_are_alike() -> None:
    records, scores = field()
    ranks = rank_methods(records, calibrate(records)).set_index("method")
    best = ranks.loc[["gradient"], ["rank", "low", "high"]]
    assert best.to_numpy().tolist() == [[1, 1, 1]]
    others = ranks.drop(index="gradient")
    assert sorted(others["rank"]) == [2, 3]
    assert set(others["low"]) == {2}
    assert set(others["high"]) == {3}
    expected = friedmanchisquare(*(-values for values in scores.values()))
    assert ranks["friedman_p"].tolist() == pytest.approx([expected.pvalue] * 3)
    table = pd.DataFrame({spec: -values for spec, values in scores.items()})
    means = table.rank(axis=1).mean()
    assert ranks["mean_rank"].to_dict() == pytest.approx(dict(means.items()))


def test_ranks_go_by_calibrated_scores() -> None:
    # The raw score of the second is higher, and so is what unrelated maps score.
    rows = scored([0.6, 0.5, 0.55], [0.0] * 3, [0.1] * 3, method="gradient")
    rows += scored([0.9, 0.92, 0.91], [0.88] * 3, [0.1] * 3, method="gradient_x_input")
    records = frame(rows)
    ranks = rank_methods(records, calibrate(records)).set_index("method")
    assert ranks["rank"].to_dict() == {"gradient": 1, "gradient_x_input": 2}
    assert ranks["friedman_p"].isna().all(), "two methods are too few"


def test_images_that_lack_a_method_do_not_enter_friedman_s_test() -> None:
    records, _ = field(10)
    gap = (records["method"] == "gradient") & (records["image_id"] == "i4")
    gap &= records["family"] == "bias"
    records.loc[gap, "value"] = math.nan
    records.loc[gap, "status"] = "degenerate"
    ranks = rank_methods(records, calibrate(records))
    assert set(ranks["images"]) == {9}
    within = within_image(Instability.of(records), "ssim", list(ranks["method"]))
    assert len(within) == 9


def test_controls_have_no_rank() -> None:
    records, _ = field(5)
    extra = frame(scored([0.9] * 5, [0.1] * 5, [0.1] * 5, method="edge"))
    ranks = rank_methods(both := pd.concat([records, extra]), calibrate(both))
    assert "edge" not in set(ranks["method"])


def test_the_diagram_of_differences_is_drawn_where_there_are_three(tmp_path: Path) -> None:
    records, scores = field()
    calibrated = calibrate(records)
    texts = []
    for place in range(2):
        figure = difference_figure(records, calibrated, "ssim")
        assert figure is not None
        save_diagram(figure, tmp_path / f"{place}.svg")
        texts.append((tmp_path / f"{place}.svg").read_text())
    assert "<svg" in texts[0]
    assert texts[0] == texts[1]
    p_values = posthoc_nemenyi_friedman(pd.DataFrame(scores))
    assert p_values.loc["gradient", "gradient_x_input"] < 0.05
    few = records[records["method"] != "gradient"]
    assert difference_figure(few, calibrate(few), "ssim") is None


# --- whose fault ----------------------------------------------------------------------------------


def pairs(bias: list[float], compensated: list[float], **fixed: object) -> list[Row]:
    return [
        {"image_id": f"i{place}", "family": family, "value": value} | fixed
        for family, column in (("bias", bias), ("compensated_bias", compensated))
        for place, value in enumerate(column)
    ]


def overall(faults: pd.DataFrame) -> Row:
    """The row of all severities together."""
    return only(faults[faults["severity"].isna()])


def test_the_split_is_the_difference_of_two_experiments() -> None:
    row = overall(whose_fault(frame(pairs([0.5, 0.4, 0.6], [0.95, 0.9, 1.0]))))
    assert (row["total"], row["own"]) == (pytest.approx(0.5), pytest.approx(0.05))
    assert row["network"] == pytest.approx(0.45)
    assert row["network_share"] == pytest.approx(0.9)
    assert float(str(row["low"])) < 0.9 < float(str(row["high"]))


def test_a_method_that_moves_more_where_the_function_stays_has_a_share_below_0() -> None:
    row = overall(whose_fault(frame(pairs([0.8, 0.7], [0.6, 0.5]))))
    assert row["network_share"] == pytest.approx(1 - 0.45 / 0.25)


def test_only_severities_and_images_that_have_both_are_split() -> None:
    rows = pairs([0.5, 0.5], [0.9, 0.9])
    rows += [{"image_id": "i0", "severity": 0.3, "value": 0.0}]
    rows += [{"image_id": "i2", "value": 0.0}]
    rows += [
        {"image_id": "i1", "severity": 0.2, "value": 0.0},
        {
            "image_id": "i1",
            "severity": 0.2,
            "family": "compensated_bias",
            "value": math.nan,
            "status": "degenerate",
        },
    ]
    faults = whose_fault(frame(rows))
    row = overall(faults)
    assert row["images"] == 2
    assert (row["total"], row["own"]) == (pytest.approx(0.5), pytest.approx(0.1))
    assert set(faults["severity"].dropna()) == {0.1}


def test_each_severity_has_a_split_of_its_own() -> None:
    rows = pairs([0.5, 0.5], [0.9, 0.9]) + pairs([0.2, 0.2], [1.0, 1.0], severity=0.3)
    faults = whose_fault(frame(rows))
    shares = {
        row["severity"]: row["network_share"]
        for row in faults[faults["severity"].notna()].to_dict("records")
    }
    assert shares == {0.1: pytest.approx(0.8), 0.3: pytest.approx(1.0)}
    assert overall(faults)["network_share"] == pytest.approx(1 - 0.05 / 0.65)


def test_what_did_not_move_has_no_culprit() -> None:
    row = overall(whose_fault(frame(pairs([1.0, 1.0], [1.0, 1.0]))))
    assert (row["total"], row["own"]) == (0, 0)
    assert math.isnan(float(str(row["network_share"])))
    rows = pairs([0.9999, 0.9999], [1.0, 1.0])
    floor: Row = {"family": "float64", "value": 0.999}
    assert math.isnan(float(str(overall(whose_fault(frame([*rows, floor])))["network_share"])))
    assert overall(whose_fault(frame(rows)))["network_share"] == pytest.approx(1.0)


def test_without_both_families_there_is_nothing_to_split() -> None:
    assert whose_fault(frame([{}])).empty
    assert whose_fault(frame([{}, {"family": "compensated_bias", "severity": 0.2}])).empty


def test_nulls_are_two() -> None:
    assert NULLS == (OTHER_IMAGE, RANDOM_NETWORK)
