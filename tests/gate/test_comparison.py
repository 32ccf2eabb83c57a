"""Comparisons and gates: on scores whose answer is known."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from statsmodels.stats.multitest import multipletests
from support import frame

from steadymap.bench.analysis.intervals import above_zero
from steadymap.bench.core.errors import ConfigError, NoBaselineError
from steadymap.bench.gate import mean_test
from steadymap.bench.gate.baseline_runs import baseline_names, open_baseline, write_side
from steadymap.bench.gate.comparison import (
    EQUIVALENT,
    FAIL,
    IMPROVED,
    INCONCLUSIVE,
    MISSING,
    NEW,
    PASS,
    UNDECIDED,
    UNDEFINED,
    WORSE,
    better,
    compare,
    timing_cases,
)
from steadymap.bench.gate.differences import differences
from steadymap.bench.gate.formats import (
    SUMMARY_BYTES,
    as_bencher,
    as_benchmark,
    as_json,
    as_junit,
    as_markdown,
)
from steadymap.bench.gate.margins import (
    INFORMATIVE,
    MARGINS,
    RELATIVE_MARGINS,
    Margins,
    read_margins,
)
from steadymap.bench.gate.side import KEPT_METRICS, KEY, Side, all_scores, image_scores, read_side
from steadymap.bench.gate.verdict import Verdict
from steadymap.bench.records.scan import as_scan
from steadymap.bench.records.vocabulary import EVIDENCE_KEPT, RECOGNISED
from steadymap.metrics import METRICS

MANIFEST: dict[str, Any] = {
    "schema_version": 1,
    "rules": 2,
    "run_id": "d-m-00000000",
    "statuses": {"ok": 4},
    "seed": 0,
    "configuration": {"draws": 1, "nulls": 3, "engine": "own", "precision": "ieee"},
    "severities": {"bias": [0.1, 0.2]},
    "metrics": {"ssim": "structural"},
    "methods": ["gradient", "integrated_gradients:baseline=black,steps=32"],
    "model": {
        "name": "m",
        "class_names": ["a", "b"],
        "weights_sha256": "a" * 64,
        "cam_layer": "3",
        "input_size": [8, 8],
    },
    "data": {"name": "d", "split": "test", "sha256": "d" * 64, "pictures": {}, "excluded": []},
    "machine": {"device": "cpu", "processor": "x", "cores": 2},
    "versions": {"torch": "2.11"},
    "git": {"commit": "c" * 40},
    "passes": {"forward": 10, "backward": 8, "at_least": False},
}


def side(
    values: Mapping[str, NDArray[np.float64] | list[float]],
    metric: str = "ssim",
    pairs: int = 2,
    **changes: object,
) -> Side:
    """A run with one family: values of each method's images, NaN where there is none."""
    rows = [
        {
            "method": method,
            "family": "bias",
            "metric": metric,
            "image_id": f"i{place:02d}",
            "value": value,
            "valid": 0 if math.isnan(value) else pairs,
            "pairs": pairs,
        }
        for method, column in values.items()
        for place, value in enumerate(column)
    ]
    return Side("run", pd.DataFrame(rows), MANIFEST | changes, {})


def one(before: Side, after: Side, margins: Margins | None = None) -> dict[str, Any]:
    (row,) = compare(before, after, margins).to_dict("records")
    return {str(key): value for key, value in row.items()}


RNG = np.random.default_rng(5)
BASE = 0.6 + 0.1 * RNG.standard_normal(60)
NOISE = 0.04 * RNG.standard_normal(60)


# --- the numbers ----------------------------------------------------------------------------------


def test_identical_runs_have_not_changed_at_all() -> None:
    row = one(side({"gradient": BASE}), side({"gradient": BASE}))
    assert (row["gain"], row["low"], row["high"]) == (0, 0, 0)
    assert row["p_value"] == 1
    assert (row["verdict"], row["gate"]) == (EQUIVALENT, PASS)
    # All images alike: the chance of that many is the level at this loss.
    loss = row["detectable"]
    assert ((loss + row["margin"]) / (2 * loss)) ** 60 == pytest.approx(0.045)


def test_the_numbers_are_those_of_the_test_adjusted_after_holm() -> None:
    """`tests/gate/test_mean_test.py` holds the test itself to what is known of it."""
    methods = {"a": -0.02, "b": 0.0, "c": -0.2}
    before = side(dict.fromkeys(methods, BASE))
    after = side({name: BASE + NOISE + change for name, change in methods.items()})
    rows = compare(before, after).set_index("method")
    changed, lost = [], []
    for name, change in methods.items():
        gain = np.array([float(f"{x:.15g}") for x in NOISE + change])
        row = rows.loc[name]
        assert row["gain"] == pytest.approx(gain.mean())
        for end, sign in ((row["low"], 1), (row["high"], -1)):
            assert above_zero(sign * (gain - end)) == pytest.approx(0.9 * 0.025)
        # Three comparisons: the strictest step of the adjustment is a third of the level.
        assert row["detectable"] == pytest.approx(
            0.05 + gain.std(ddof=1) * mean_test.reach(60, 0.045 / 3)
        )
        changed.append(2 * min(above_zero(gain), above_zero(-gain)))
        lost.append(above_zero(-0.05 - gain))
    assert rows["p_value"].to_numpy() == pytest.approx(multipletests(changed, method="holm")[1])
    adjusted = multipletests(lost, method="holm")[1]
    assert (rows["gate"] == FAIL).tolist() == (adjusted < 0.045).tolist() == [False, False, True]


def test_images_are_paired_by_id_whatever_their_order() -> None:
    before, after = side({"gradient": BASE}), side({"gradient": BASE + NOISE})
    mixed = replace(after, scores=after.scores.sample(frac=1, random_state=1))
    pd.testing.assert_frame_equal(compare(before, mixed), compare(before, after), check_exact=True)


def test_only_images_with_both_values_are_compared() -> None:
    first, second = BASE.copy(), BASE - 0.3
    first[:10], second[-10:] = np.nan, np.nan
    row = one(side({"gradient": first}), side({"gradient": second}))
    assert row["images"] == 40
    assert row["before"] == pytest.approx(BASE[10:50].mean())
    assert row["gain"] == pytest.approx(-0.3)
    assert (row["coverage_before"], row["coverage_after"]) == (50 / 60, 50 / 60)


@pytest.mark.parametrize(
    ("metric", "change", "verdict"),
    [
        ("ssim", -0.2, WORSE),
        ("ssim", 0.2, IMPROVED),
        ("completeness_error", 0.5, WORSE),
        ("completeness_error", -0.5, IMPROVED),
        ("ssim" + RECOGNISED, -0.3, WORSE),
        ("ssim", -0.01, EQUIVALENT),
        ("ssim", 0.0, EQUIVALENT),
    ],
)
def test_a_verdict_knows_which_way_is_better(metric: str, change: float, verdict: str) -> None:
    before, after = side({"a": BASE}, metric), side({"a": BASE + NOISE + change}, metric)
    row = one(before, after)
    assert row["verdict"] == verdict
    assert (row["gate"] == FAIL) == (verdict == WORSE)
    assert (row["gain"] > 0) == (verdict == IMPROVED) or verdict == EQUIVALENT


def test_what_cannot_be_told_is_inconclusive_or_undecided() -> None:
    """Inconclusive, if a loss of twice the margin would have been found; else undecided."""
    twenty = slice(0, 20)
    for spread, gate in ((0.3, INCONCLUSIVE), (3, UNDECIDED)):
        noise = spread * (NOISE[twenty] - NOISE[twenty].mean())
        row = one(side({"a": BASE[twenty]}), side({"a": BASE[twenty] + noise - 0.04}))
        assert row["gate"] == gate
        assert row["reason"] == (
            "a loss of more than 0.05 cannot be ruled out by fewer than 28 images"
        )
        assert (row["detectable"] <= 2 * row["margin"]) == (gate == INCONCLUSIVE)
        if gate == INCONCLUSIVE:
            assert math.isnan(row["needed"])
        else:
            reach = noise.std(ddof=1) * mean_test.reach(int(row["needed"]), 0.045)
            assert reach == pytest.approx(0.05, rel=0.05)
            assert reach <= 0.05
    few = slice(0, 4)
    row = one(side({"a": BASE[few]}), side({"a": BASE[few] + 5 * NOISE[few]}))
    assert (row["gate"], row["detectable"], row["needed"]) == (UNDECIDED, math.inf, 28)
    assert math.isnan(row["low"]), "four images are not tested"


def test_two_images_that_lose_one_recognition_of_six_prove_nothing() -> None:
    """The bug: where all gains agreed, p was 0, even after Holm."""
    lost = -np.ones(2) / 6
    flat = np.full(2, 5 / 6)
    before, after = (
        side({"a": flat}, "ssim.recognised"),
        side({"a": flat + lost}, "ssim.recognised"),
    )
    assert one(before, after)["gate"] == UNDECIDED
    # Nor do ten; forty do: their chance is (1/6 + 0.1) / (2/6), that is 0.8, to the power of n.
    for count, gate in ((10, UNDECIDED), (40, FAIL)):
        flat = np.full(count, 5 / 6)
        before = side({"a": flat}, "ssim.recognised")
        row = one(before, side({"a": flat - 1 / 6}, "ssim.recognised"))
        assert row["gate"] == gate, count


def test_where_all_images_change_alike_enough_of_them_leave_no_doubt() -> None:
    flat = np.full(60, 0.5)
    for change, verdict, gate in ((-0.25, WORSE, FAIL), (0.25, IMPROVED, PASS)):
        row = one(side({"a": flat}), side({"a": flat + change}))
        assert row["p_value"] == pytest.approx(2 * 0.5**60)
        assert (row["verdict"], row["gate"]) == (verdict, gate)


def test_what_fewer_than_28_images_agree_on_does_not_pass() -> None:
    """Of 27 images all are without a loss that hits one in eight in 2.7% of samples, of 28 2.4%."""
    for count, verdict, gate in ((27, INCONCLUSIVE, INCONCLUSIVE), (28, EQUIVALENT, PASS)):
        before = side({"a": BASE[:count]})
        for noise in (0.0, 1e-4):
            row = one(before, side({"a": BASE[:count] + noise * NOISE[:count]}))
            assert (row["verdict"], row["gate"]) == (verdict, gate), (count, noise)


def test_a_method_that_is_as_it_was_passes_whatever_the_number_of_images() -> None:
    """All its scores the same in every digit, of two kinds: what was computed is the same."""

    def kinds(values: Mapping[str, NDArray[np.float64]]) -> Side:
        tables = [side({"a": column}, metric).scores for metric, column in values.items()]
        return replace(side({}), scores=pd.concat(tables))

    few = BASE[:3]
    base = {"ssim": few, "spearman": few, "ssim.recognised": few}
    assert set(compare(kinds(base), kinds(base))["gate"]) == {PASS}
    moved = few.copy()
    moved[1] += 1e-6
    for metric in base:
        rows = compare(kinds(base), kinds(base | {metric: moved}))
        assert set(rows["gate"]) == {UNDECIDED}, metric
    shares = {"ssim": few, "ssim.recognised": few}
    assert set(compare(kinds(shares), kinds(shares))["gate"]) == {UNDECIDED}, "of one kind"
    lacking = {"ssim": few, "spearman": np.array([few[0], few[1], np.nan])}
    rows = compare(kinds(lacking), kinds(base))
    assert set(rows.loc[rows["metric"] == "ssim", "gate"]) == {UNDECIDED}, "a value came"


def test_a_value_that_is_gone_fails_and_a_new_one_does_not() -> None:
    nothing = np.full(60, np.nan)
    row = one(side({"a": BASE}), side({"a": nothing}))
    assert (row["verdict"], row["gate"]) == (MISSING, FAIL)
    assert row["before"] == pytest.approx(BASE.mean())
    row = one(side({"a": nothing}), side({"a": BASE}))
    assert (row["verdict"], row["gate"]) == (NEW, "")
    row = one(side({"a": nothing}), side({"a": nothing}))
    assert (row["verdict"], row["gate"]) == (UNDEFINED, "")
    rows = compare(side({"a": BASE, "b": BASE}), side({"a": BASE})).set_index("method")
    assert rows.loc["b", "gate"] == FAIL


def test_coverage_that_falls_beyond_its_margin_fails() -> None:
    for lost, gate in ((3, PASS), (4, FAIL)):
        after = BASE.copy()
        after[:lost] = np.nan
        row = one(side({"a": BASE}), side({"a": after}))
        assert row["gate"] == gate, lost
    assert "coverage fell by 6.7%" in row["reason"]


def test_the_gate_looks_beyond_the_margin() -> None:
    margin = MARGINS["ssim"]
    for loss, gate in ((0.5 * margin, PASS), (2 * margin, FAIL), (margin, INCONCLUSIVE)):
        noise = NOISE - NOISE.mean()
        assert one(side({"a": BASE}), side({"a": BASE + noise - loss}))["gate"] == gate


def test_one_loss_among_many_comparisons_must_be_clearer() -> None:
    margin = MARGINS["ssim"]
    noise = NOISE - NOISE.mean()
    loss = margin + 2.2 * noise.std(ddof=1) / math.sqrt(60)
    before, after = {"a": BASE}, {"a": BASE + noise - loss}
    assert one(side(before), side(after))["gate"] == FAIL
    others = {f"m{place}": BASE for place in range(40)}
    moved = dict.fromkeys(others, BASE + noise)
    rows = compare(side(before | others), side(after | moved)).set_index("method")
    assert rows.loc["a", "gate"] == INCONCLUSIVE


def test_margins_are_absolute_or_a_share_of_the_baseline() -> None:
    assert Margins().of("ssim", 0.3) == 0.05
    assert Margins().of("completeness_error", -0.8) == pytest.approx(0.2)
    assert math.isnan(Margins({}, {}).of("ssim", 0.3))
    row = one(side({"a": BASE}), side({"a": BASE - 0.3}), Margins({}, {}))
    assert (row["verdict"], row["gate"]) == (WORSE, ""), "without a margin there is no gate"


def test_every_metric_has_a_margin_and_a_better_side() -> None:
    recognising = [name for name, metric in METRICS.items() if metric.recognises]
    names = {*METRICS, *(name + RECOGNISED for name in recognising), EVIDENCE_KEPT}
    kinds = [*MARGINS, *RELATIVE_MARGINS, *INFORMATIVE]
    assert sorted(kinds) == sorted(names)
    assert all(math.isnan(Margins().of(name, 1.0)) for name in INFORMATIVE), "no gate"
    assert set(KEPT_METRICS) <= names
    assert {name: better(name) for name in METRICS} == {n: m.better for n, m in METRICS.items()}
    assert better("relative_l2") == "lower"
    assert better("ssim" + RECOGNISED) == "higher"


# --- what may be compared -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"schema_version": 0}, "schema version: 1 and 0"),
        ({"seed": 1}, "seed: 0 and 1"),
        ({"data": {"sha256": "e" * 64}}, "data: dddddddddddd and eeeeeeeeeeee"),
        ({"severities": {"bias": [0.1]}}, "severities of bias: [0.1, 0.2] and [0.1]"),
        ({"metrics": {"ssim": "other"}}, "metric ssim: structural and other"),
        ({"configuration": {"draws": 2, "nulls": 3}}, "draws: 1 and 2"),
        (
            {"methods": ["gradient", "integrated_gradients:baseline=black,steps=4"]},
            "steps: integrated_gradients:baseline=black,steps=32 and",
        ),
    ],
)
def test_what_forbids_a_comparison_is_named(change: dict[str, Any], text: str) -> None:
    found = differences(MANIFEST, MANIFEST | change)
    assert len(found.forbidding) == 1
    assert text in found.forbidding[0]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"versions": {"torch": "2.12"}}, "version of torch: 2.11 and 2.12"),
        ({"model": MANIFEST["model"] | {"weights_sha256": "b" * 64}}, "weights: aaaaaaaaaaaa and"),
        ({"model": MANIFEST["model"] | {"cam_layer": "0"}}, "layer for Grad-CAM: 3 and 0"),
        ({"machine": MANIFEST["machine"] | {"device": "cuda"}}, "device: cpu and cuda"),
        ({"git": None}, "commit: cccccccccccc and none"),
    ],
)
def test_what_may_explain_a_difference_is_said(change: dict[str, Any], text: str) -> None:
    found = differences(MANIFEST, MANIFEST | change)
    assert not found.forbidding
    assert len(found.explaining) == 1
    assert text in found.explaining[0]


def test_a_method_more_or_less_forbids_nothing() -> None:
    found = differences(MANIFEST, MANIFEST | {"methods": ["gradient", "grad_cam:relu=true"]})
    assert found.forbidding == found.explaining == ()


def test_passes_are_compared_exactly_and_times_as_ratios_on_one_machine() -> None:
    spec = "integrated_gradients:baseline=black,steps=32"
    before = replace(side({"a": BASE}), ratios={spec: 30.0})
    for ratio, forward, results in (
        (31.0, 10, [PASS, PASS]),
        (59.0, 10, [PASS, PASS]),
        (61.0, 11, [FAIL, FAIL]),
    ):
        passes = {"forward": forward, "backward": 8, "at_least": False}
        after = replace(side({"a": BASE}, passes=passes), ratios={spec: ratio})
        assert [case.result for case in timing_cases(before, after)] == results
    elsewhere = replace(
        side({"a": BASE}, machine={"device": "cpu", "processor": "y"}), ratios={spec: 99.0}
    )
    assert [case.name for case in timing_cases(before, elsewhere)] == ["passes through the network"]
    others = replace(side({"a": BASE}, methods=["gradient"]), ratios={})
    assert timing_cases(before, others) == []


def test_passes_of_other_plans_are_not_compared_and_fewer_are_no_failure() -> None:
    before = side({"a": BASE})
    more = before.manifest["severities"] | {"gaussian_noise": [0.1]}
    passes = {"forward": 99, "backward": 99, "at_least": False}
    assert timing_cases(before, side({"a": BASE}, severities=more, passes=passes)) == []
    fewer = {"forward": 9, "backward": 8, "at_least": False}
    (case,) = timing_cases(before, side({"a": BASE}, passes=fewer))
    assert case.result == PASS


@pytest.mark.parametrize(
    ("before", "after", "refused"),
    [
        ((4, 8), (8, 4), False),
        ((4, 8), (8,), False),
        ((8,), (4, 8), False),
        ((4,), (8,), True),
        ((4, 8), (16,), True),
    ],
)
def test_steps_are_refused_where_none_is_in_both(
    before: tuple[int, ...], after: tuple[int, ...], *, refused: bool
) -> None:
    first, second = (
        MANIFEST | {"methods": [f"integrated_gradients:baseline=black,steps={n}" for n in steps]}
        for steps in (before, after)
    )
    assert bool(differences(first, second).forbidding) == refused


def test_one_image_is_judged_in_nothing_but_being_as_it_was() -> None:
    for change in (0.0, -0.5):
        row = one(side({"a": BASE[:1]}), side({"a": BASE[:1] + change}))
        assert (row["gain"], row["gate"]) == (pytest.approx(change), UNDECIDED)


# --- baselines ------------------------------------------------------------------------------------


def saved(folder: Path) -> Path:
    write_side(side({"b": BASE, "a": BASE + NOISE}), folder / "mine")
    return folder / "mine"


def test_a_baseline_comes_back_as_it_was(tmp_path: Path) -> None:
    scores = image_scores(records_of(BASE))
    original = replace(side({}), scores=scores, ratios={"gradient": 3.0})
    write_side(original, tmp_path / "mine")
    again = open_baseline("mine", tmp_path)
    pd.testing.assert_frame_equal(again.scores, scores, check_dtype=False)
    assert again.ratios == {"gradient": 3.0}
    row = one(again, original)
    assert (row["gain"], row["low"], row["high"]) == (0, 0, 0)
    assert not differences(again.manifest, original.manifest).explaining
    assert baseline_names(tmp_path) == ["mine"]
    first = (tmp_path / "mine" / "scores.csv").read_bytes()
    write_side(original, tmp_path / "mine")
    assert (tmp_path / "mine" / "scores.csv").read_bytes() == first
    lines = first.decode().splitlines()
    assert lines[0] == "method,family,metric,image_id,value,valid,pairs"
    assert lines[1:] == sorted(lines[1:])


def records_of(values: NDArray[np.float64]) -> pd.DataFrame:
    base = {"method": "gradient", "family": "bias", "metric": "ssim", "status": "ok"}
    rows = [
        base | {"image_id": f"i{place:02d}", "value": value + step}
        for place, value in enumerate(values)
        for step in (-0.01, 0.01)
    ]
    extra = [
        base | {"image_id": "i00", "value": math.nan, "status": "degenerate"},
        base | {"image_id": "i00", "value": 9.0, "family": "other_image"},
        base | {"image_id": "i00", "value": 9.0, "method": "edge"},
        base | {"image_id": "i00", "value": 9.0, "method": "input", "metric": "input_change"},
    ]
    return pd.DataFrame([*rows, *extra])


def test_scores_are_means_within_an_image_without_controls_and_references() -> None:
    scores = image_scores(records_of(BASE))
    assert len(scores) == 60
    assert scores["value"].to_numpy() == pytest.approx(BASE, rel=1e-5)
    assert scores.loc[[0], ["valid", "pairs"]].to_numpy().tolist() == [[2, 3]]
    assert set(scores["method"]) == {"gradient"}


def test_evidence_is_kept_as_a_share_and_never_in_logits() -> None:
    """Of a margin of 4 logits a map keeps 1 and 3; where the margin may be 0 there is no share."""
    rows: list[dict[str, object]] = []
    for method, margins in (("gradient", (3.0, 5.0)), ("grad_cam", (-4.0, 4.0))):
        for place in range(40):
            about = {"method": method, "image_id": f"i{place:02d}"}
            rows += [
                about | {"metric": "ssim", "value": 0.5},
                about | {"metric": "evidence_kept", "value": 1.0 + 2 * (place % 2)},
                about
                | {"metric": "margin.other_image", "family": "clean", "severity": 0.0}
                | {"value": margins[place // 2 % 2]},
            ]
    records = frame(rows)
    scores = all_scores(as_scan(records), KEPT_METRICS, METRICS)
    assert set(scores["metric"]) == {"ssim", "evidence_kept"}
    assert not scores.duplicated(KEY).any()
    kept = scores[scores["metric"] == "evidence_kept"]
    assert set(kept["method"]) == {"gradient"}
    assert kept["value"].tolist() == [0.25, 0.75] * 20
    assert set(kept["family"]) == {"bias"}
    everything = all_scores(as_scan(records), None, METRICS)
    pd.testing.assert_frame_equal(everything, scores)
    assert set(all_scores(as_scan(records), ["ssim"], METRICS)["metric"]) == {"ssim"}
    assert set(image_scores(records, KEPT_METRICS)["metric"]) == {"ssim"}


def test_whether_a_map_is_recognised_is_whether_its_own_comes_first() -> None:
    records = records_of(BASE)
    places = records.assign(metric="ssim.rank", value=np.where(records.index % 2, 1.0, 3.0))
    unrelated = records.assign(metric="ssim.other_image", value=0.9)
    scores = image_scores(pd.concat([records, places, unrelated]))
    assert set(scores["metric"]) == {"ssim", "ssim" + RECOGNISED}
    assert set(scores.loc[scores["metric"] != "ssim", "value"]) == {0.5}
    alone = image_scores(pd.concat([records, places]), metrics=["ssim" + RECOGNISED])
    assert set(alone["metric"]) == {"ssim" + RECOGNISED}
    assert len(alone) == 60


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("cut", "is not what was saved (cut or edited): save the baseline again"),
        ("edit", "has been edited since it was saved"),
        ("schema", "has schema version 0, this steadymap writes 1"),
        ("json", "is no manifest of a baseline"),
        ("run", "holds neither a finished run"),
    ],
)
def test_a_damaged_baseline_is_refused_in_one_line(
    damage: str, message: str, tmp_path: Path
) -> None:
    folder = saved(tmp_path)
    manifest = json.loads((folder / "manifest.json").read_text())
    if damage == "cut":
        text = (folder / "scores.csv").read_text()
        (folder / "scores.csv").write_text(text[: len(text) // 2])
    elif damage == "edit":
        manifest["seed"] = 7
    elif damage == "schema":
        manifest["schema_version"] = 0
    elif damage == "run":
        (folder / "scores.csv").unlink()
    text = "{" if damage == "json" else json.dumps(manifest)
    (folder / "manifest.json").write_text(text)
    with pytest.raises(ConfigError) as caught:
        open_baseline("mine", tmp_path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_baseline_that_is_not_there_has_an_error_of_its_own(tmp_path: Path) -> None:
    saved(tmp_path)
    with pytest.raises(NoBaselineError, match=r"no 'other' .* \(known: mine\)"):
        open_baseline("other", tmp_path)
    for name in ("../mine", "", "a/b", "."):
        with pytest.raises(ConfigError, match="is no name"):
            open_baseline(name, tmp_path)
    with pytest.raises(ConfigError, match="holds neither"):
        read_side(tmp_path)


# --- margins from outside -------------------------------------------------------------------------


def test_margins_come_from_yaml_and_flags(tmp_path: Path) -> None:
    path = tmp_path / "m.yaml"
    path.write_text("absolute: {completeness_error: 0.3}\nrelative: {ssim: 0.1}\ncoverage: 0.2\n")
    found = read_margins(path, ["spearman=0.02"])
    assert found.of("completeness_error", 9.0) == 0.3
    assert found.of("ssim", 0.5) == pytest.approx(0.05)
    assert found.of("spearman", 0.5) == 0.02
    assert found.coverage == 0.2
    assert read_margins(None) == Margins()


@pytest.mark.parametrize(
    ("yaml", "flag", "message"),
    [
        ("absolut: {ssim: 1}", "", "has 'absolut'"),
        ("absolute: {sim: 1}", "", "unknown metric 'sim'; did you mean ssim?"),
        ("absolute: {ssim: -1}", "", "ssim: must be 0 or more, got -1"),
        ("coverage: much", "", "coverage: expected a number, got 'much'"),
        ("", "ssim", "expected METRIC=NUMBER, got 'ssim'"),
        ("", "ssim=x", "ssim: expected a number, got 'x'"),
    ],
)
def test_a_bad_margin_names_what_is_wrong(
    yaml: str, flag: str, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "m.yaml"
    path.write_text(yaml)
    with pytest.raises(ConfigError) as caught:
        read_margins(path if yaml else None, [flag] if flag else [])
    assert message in str(caught.value)


# --- what other tools read ------------------------------------------------------------------------


def verdict_of(loss: float, count: int = 1) -> Verdict:
    before = {f"<m{place}>|x": BASE for place in range(count)}
    after = dict.fromkeys(before, BASE + NOISE - loss)
    rows = compare(side(before), side(after))
    found = differences(MANIFEST, MANIFEST | {"git": {"commit": "<b>*x*"}})
    return Verdict("before", "after", rows, found)


def test_junit_has_a_case_a_comparison_with_its_numbers() -> None:
    suite = ET.fromstring(as_junit(verdict_of(0.2))).find("testsuite")  # noqa: S314 - our own
    assert suite is not None
    assert (suite.get("tests"), suite.get("failures")) == ("1", "1")
    failure = suite.find("testcase/failure")
    assert failure is not None
    message = failure.get("message")
    assert message is not None
    assert "worse by more than 0.05" in message
    assert f"{BASE.mean():.4g} -> {(BASE + NOISE - 0.2).mean():.4g}" in message
    passed = ET.fromstring(as_junit(verdict_of(0.0))).find("testsuite")  # noqa: S314 - our own
    assert passed is not None
    assert passed.get("failures") == "0"


def test_markdown_is_safe_and_within_its_limit() -> None:
    text = as_markdown(verdict_of(0.2))
    assert text.startswith("### steadymap: failed")
    assert "&lt;m0&gt;\\|x" in text
    assert "<m0>" not in text
    assert "<b>" not in text
    failing = verdict_of(0.2)
    rows = pd.concat([failing.rows] * 9000, ignore_index=True)
    many = as_markdown(replace(failing, rows=rows))
    assert len(many.encode()) < 2**20
    assert len(many.encode()) > SUMMARY_BYTES / 2
    assert "more are in the JUnit file" in many
    assert as_markdown(verdict_of(0.0)).startswith("### steadymap: passed")


def test_json_for_other_tools_has_the_values_after() -> None:
    rows = compare(side({"a": BASE}), side({"a": BASE - 0.2}))
    (bigger,) = json.loads(as_benchmark(rows, "higher"))
    assert bigger["name"] == "a / bias / ssim"
    assert bigger["value"] == pytest.approx((BASE - 0.2).mean())
    assert json.loads(as_benchmark(rows, "lower")) == []
    assert json.loads(as_bencher(rows)) == {
        "a / bias": {"ssim": {"value": pytest.approx((BASE - 0.2).mean())}}
    }
    errors = compare(
        side({"a": BASE}, "completeness_error"), side({"a": BASE}, "completeness_error")
    )
    assert len(json.loads(as_benchmark(errors, "lower"))) == 1
    gone = compare(side({"a": BASE}), side({"a": np.full(60, np.nan)}))
    verdict = Verdict("before", "after", gone, differences(MANIFEST, MANIFEST))
    content = json.loads(as_json(verdict))
    assert content["comparisons"][0]["after"] is None
    assert content["cases"][0]["result"] == FAIL
    assert json.loads(as_bencher(gone)) == {}
