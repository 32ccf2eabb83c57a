"""Who is admitted, and why not: rules on records of which the truth is known."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from scipy import stats
from support import frame

from steadymap.bench.analysis.admission import LEVEL, Facts, admissions
from steadymap.bench.analysis.evidence import evidence_kept
from steadymap.bench.analysis.intervals import above_zero, images_needed, mean_of, ratio_of_means
from steadymap.bench.records.vocabulary import base_metric

Floats = NDArray[np.float64]
KINDS = ("other_image", "same_class", "random_network")
COUNT = 40


def spread(mean: float, seed: int = 0, count: int = COUNT) -> Floats:
    """Return normal numbers whose mean and standard deviation (1) are exact."""
    values = np.random.default_rng(seed).normal(size=count)
    moved: Floats = (values - values.mean()) / values.std(ddof=1) + mean
    return moved


def clean(method: str, metric: str, values: Floats, **same: object) -> list[dict[str, object]]:
    about = {"method": method, "metric": metric, "family": "clean", "severity": 0.0} | same
    return [
        about
        | {
            "image_id": f"i{place}",
            "value": value,
            "status": "ok" if np.isfinite(value) else "skipped",
        }
        for place, value in enumerate(values)
    ]


def with_margins(method: str, *means: float, begin: str = "margin.") -> list[dict[str, object]]:
    return [
        row
        for place, (kind, mean) in enumerate(zip(KINDS, means, strict=False))
        for row in clean(method, begin + kind, spread(mean, place))
    ]


def moving(method: str, **means: float) -> list[dict[str, object]]:
    """Return records of Spearman's correlation, so that the map moves by so much."""
    return [
        row
        for family, mean in means.items()
        for row in clean(method, "spearman", 1 - spread(0.0, 9) / 10 - mean, family=family)
    ]


def judged(*rows: list[dict[str, object]], facts: Facts | None = None) -> Any:
    found = admissions(frame([row for part in rows for row in part]), facts)
    return found.set_index("method")


GRADIENT = with_margins("gradient", 3.0, 3.0, 3.0)


def test_all_nulls_must_be_beaten() -> None:
    found = judged(
        GRADIENT,
        with_margins("sound", 2.0, 2.0, 2.0),
        with_margins("of_the_class", 2.0, 0.3, 2.0),
        with_margins("of_the_network", 2.0, 2.0, 0.3),
    )
    assert found["verdict"].tolist() == ["admitted", "admitted", "refused", "refused"]
    assert found.loc["of_the_class", "reason"] == (
        f"its map of another image of the class does as well (p = {above_zero(spread(0.3, 1)):.2g})"
    )
    assert found.loc["of_the_network", "reason"].startswith(
        "its map from a network that knows nothing does as well"
    )
    assert found.loc["of_the_class", "p"] == found.loc["of_the_class", "same_class_p"]
    assert found.loc["of_the_network", "p"] == found.loc["of_the_network", "random_network_p"]
    assert found["ranked"].tolist() == [True, True, False, False]


def test_the_level_is_one_in_a_hundred_and_half_of_it_where_two_orders_are_tried() -> None:
    """At 40 images and a standard deviation of 1 the one-sided p of a mean is Student's."""
    between = (LEVEL + LEVEL / 2) / 2
    mean = float(stats.t.isf(between, COUNT - 1)) / math.sqrt(COUNT)
    values = np.concatenate([[-1.0, 1.0] * (COUNT // 2)])  # without skewness
    values = values / values.std(ddof=1) + mean
    assert above_zero(values) == pytest.approx(between)
    same = [row for kind in KINDS for row in clean("m", f"margin.{kind}", values)]
    both = [row for kind in KINDS for row in clean("m", f"margin_magnitude.{kind}", values - 1)]
    assert judged(GRADIENT, same).loc["m", "verdict"] == "admitted"
    assert judged(GRADIENT, same, both).loc["m", "verdict"] == "refused"


def test_of_two_orders_the_one_that_shows_more_is_taken() -> None:
    found = judged(
        GRADIENT,
        with_margins("m", 0.1, 0.1, 0.1),
        with_margins("m", 2.0, 2.0, 2.5, begin="margin_magnitude."),
    )
    assert found.loc["m", "verdict"] == "admitted"
    assert found.loc["m", "order"] == "magnitude"
    assert found.loc["m", "smallest"] == pytest.approx(2.0)


def test_three_answers() -> None:
    """Refused is who is shown to know little; who was not shown to know is undecided."""
    found = judged(
        GRADIENT,
        with_margins("little", 0.3, 2.0, 2.0),  # up to 0.62, a third of the gradient's is 1
        with_margins("none", -2.0, 2.0, 2.0),
        with_margins("wide", 2.0, 2.0, 2.0),
    )
    assert found["verdict"].tolist() == ["admitted", "refused", "refused", "admitted"]
    wide = [
        row for kind in KINDS for row in clean("wide", f"margin.{kind}", 2 + 8 * spread(0.0, 3))
    ]
    found = judged(GRADIENT, wide)
    assert found.loc["wide", "verdict"] == "undecided"
    # (z(.99) + z(.8))^2 (8 / 2)^2 + z(.99)^2 / 2 = 10.036 x 16 + 2.71
    assert found.loc["wide", "images_needed"] == 164
    assert found.loc["wide", "reason"].startswith("its map of another image may do as well")
    assert found.loc["wide", "reason"].endswith("164 images would do")


def test_without_a_yardstick_nobody_is_refused_by_margins() -> None:
    found = judged(with_margins("m", 0.0, 0.0, 0.0))
    assert found.loc["m", "verdict"] == "undecided"
    beside = with_margins("m", 3.0, 3.0, 3.0, begin="gradient_margin.")
    found = judged(with_margins("m", 0.0, 0.0, 0.0), beside)
    assert found.loc["m", "verdict"] == "refused"


def test_a_null_that_too_few_images_have_is_left_out() -> None:
    few = np.where(np.arange(COUNT) < 5, 0.0, np.nan)
    rows = [
        *clean("m", "margin.other_image", spread(2.0)),
        *clean("m", "margin.random_network", spread(2.0, 1)),
    ]
    found = judged(GRADIENT, rows, clean("m", "margin.same_class", few))
    assert found.loc["m", "verdict"] == "admitted"
    assert np.isnan(found.loc["m", "same_class"])
    found = judged(GRADIENT, rows[:COUNT])
    assert found.loc["m", "verdict"] == "undecided"
    assert "is not there" in found.loc["m", "reason"]


def test_who_is_below_half_of_the_gradient_is_admitted_and_not_ranked() -> None:
    found = judged(
        GRADIENT,
        with_margins("first", 4.0, 5.0, 5.0),
        with_margins("below", 2.0, 2.0, 2.0),
        with_margins("half", 1.4, 1.4, 1.4),
    )
    assert found["verdict"].tolist() == ["admitted"] * 4
    assert found["below_gradient"].tolist() == [False, False, True, True]
    assert found["ranked"].tolist() == [True, True, True, False]
    assert found["faithful"].tolist() == pytest.approx([0.75, 1.0, 0.5, 0.35])
    assert found.loc["half", "reason"] == "its margin is below half of plain gradient's"


def test_the_interval_of_faithful_is_that_of_a_ratio_of_means() -> None:
    """With one null and a best that stays, resampling agrees with Fieller's interval."""
    rng = np.random.default_rng(4)
    best = 10 + rng.normal(size=200)
    other = 4 + rng.normal(size=200)
    rows = [
        row
        for method, values in (("best", best), ("other", other))
        for kind in ("other_image", "random_network")
        for row in clean(method, f"margin.{kind}", values)
    ]
    found = judged(rows).loc["other"]
    ratio = ratio_of_means(other, best)
    assert found["faithful"] == pytest.approx(ratio.value)
    assert found["faithful_low"] == pytest.approx(ratio.low, abs=0.003)
    assert found["faithful_high"] == pytest.approx(ratio.high, abs=0.003)


def test_controls_are_never_ranked() -> None:
    found = judged(with_margins("edge", 5.0, 5.0, 5.0), GRADIENT)
    assert found.index.tolist() == ["gradient", "edge"]
    assert found["verdict"].tolist() == ["admitted", "control"]
    assert found["ranked"].tolist() == [True, False]


def test_a_map_must_react_to_image_and_network_beyond_its_own_dice() -> None:
    sound = with_margins("m", 2.0, 2.0, 2.0)
    moves = moving("m", other_image=1.0, random_network=1.0)
    assert judged(GRADIENT, sound, moves).loc["m", "verdict"] == "admitted"
    still = moving("m", other_image=1.0, random_network=0.0)
    found = judged(GRADIENT, sound, still)
    assert found.loc["m", "verdict"] == "refused"
    assert found.loc["m", "reason"] == "its map stays where the network is another"
    dice = moving("m", other_seed=1.0)
    found = judged(GRADIENT, sound, moves, dice)
    assert found.loc["m", "verdict"] == "refused"
    assert found.loc["m", "reacts_image"] == pytest.approx(1.0)
    found = judged(GRADIENT, sound, moves, moving("m", float64=0.99))
    assert found.loc["m", "verdict"] == "refused"


def test_a_map_without_an_order_is_refused() -> None:
    constant = clean("m", "spearman", np.full(COUNT, np.nan), family="other_image")
    found = judged(GRADIENT, with_margins("m", 2.0, 2.0, 2.0), constant)
    assert found.loc["m", "verdict"] == "refused"


def test_class_specific() -> None:
    facts = Facts(classes=3)
    for mean, answer in ((2.0, "yes"), (0.1, "no"), (0.0, "no")):
        rows = clean("m", "margin.other_class", spread(mean))
        found = judged(GRADIENT, with_margins("m", 2.0, 2.0, 2.0), rows, facts=facts)
        assert found.loc["m", "class_specific"] == answer
        assert found.loc["m", "verdict"] == "admitted"
    wide = clean("m", "margin.other_class", 10 * spread(0.1))
    assert judged(GRADIENT, with_margins("m", 2.0, 2.0, 2.0), wide).loc["m", "class_specific"] == (
        "undecided"
    )
    assert judged(GRADIENT).loc["gradient", "class_specific"] == "not judged"


def test_of_two_classes_a_map_without_a_sign_is_not_judged() -> None:
    rows = [with_margins("m", 2.0, 2.0, 2.0), clean("m", "margin.other_class", np.zeros(COUNT))]
    for facts, answer in (
        (Facts(2, unsigned=frozenset({"m"})), "not judged"),
        (Facts(2, by_magnitude=frozenset({"m"})), "not judged"),
        (Facts(2), "no"),
        (Facts(1), "not judged"),
        (Facts(3, unsigned=frozenset({"m"})), "no"),
    ):
        found = judged(GRADIENT, *rows, facts=facts)
        assert found.loc["m", "class_specific"] == answer
        assert found.loc["m", "verdict"] == "admitted"


def test_a_check_that_fails_refuses_and_one_that_is_skipped_is_told() -> None:
    sound = with_margins("m", 2.0, 2.0, 2.0)
    found = judged(GRADIENT, sound, facts=Facts(checks={"m": "failed: repeat"}))
    assert found.loc["m", "verdict"] == "refused"
    assert found.loc["m", "reason"] == "`steadymap check` failed: repeat"
    found = judged(GRADIENT, sound, facts=Facts(checks={"m": "skipped"}))
    assert found.loc["m", ["verdict", "reason"]].tolist() == ["admitted", "no check applies to it"]


def test_facts_are_read_off_a_manifest() -> None:
    manifest = {
        "model": {"class_names": ["a", "b"]},
        "orders": {"gradient": "magnitude", "lime": "signed", "own": None},
        "unsigned": ["var_grad"],
        "data": {"groups": {"i0": "g"}},
    }
    assert Facts.of(manifest) == Facts(
        2, frozenset({"var_grad"}), frozenset({"gradient"}), {}, {"i0": "g"}
    )


def test_margins_are_names_of_their_own() -> None:
    assert base_metric("margin.other_image") == "margin.other_image"
    assert base_metric("gradient_margin.same_class") == "gradient_margin.same_class"
    assert base_metric("spearman.other_image") == "spearman"


# --- numbers --------------------------------------------------------------------------------------


def test_above_zero_is_students_t_where_nothing_leans() -> None:
    values = np.array([-1.0, 0.0, 1.0, 2.0, 3.0])
    assert above_zero(values) == pytest.approx(
        stats.ttest_1samp(values, 0.0, alternative="greater").pvalue
    )
    # A tail on the low side makes Student's too bold; the correction counts.
    tail = np.array([-9.0, 1.0, 2.0, 2.0, 3.0, 3.0, 3.0, 4.0])
    assert above_zero(tail) > stats.ttest_1samp(tail, 0.0, alternative="greater").pvalue
    assert above_zero(-tail) == pytest.approx(
        stats.ttest_1samp(-tail, 0.0, alternative="greater").pvalue
    )
    assert (above_zero(np.zeros(9)), above_zero(np.ones(9))) == (1.0, 0.0)
    # However far above 0, a tail on the low side does not turn it back.
    far = 1 - 1e-3 * np.random.default_rng(0).exponential(size=40)
    assert above_zero(far) < 1e-12


@given(
    arrays(np.float64, st.integers(5, 30), elements=st.floats(-1, 1, width=16), unique=True),
    st.floats(0, 100),
)
def test_a_larger_mean_is_never_less_sure(values: np.ndarray, further: float) -> None:
    assert above_zero(values + further) <= above_zero(values) + 1e-9


def test_the_clearest_of_means_is_clear_whatever_leans() -> None:
    """Johnson's correction, without its cubic term, said p = 1 here."""
    values = 1 + np.array([0.01, 0.0, 0.01, 0.02, 0.0, 0.01, -0.05, 0.0])
    assert above_zero(values) < 1e-9


@pytest.mark.parametrize(
    ("draw", "most"),
    [
        (lambda rng: rng.normal(size=30), 0.012),
        (lambda rng: 1 - rng.exponential(size=30), 0.02),
        (lambda rng: rng.standard_t(3, size=30), 0.012),
        (lambda rng: rng.exponential(size=30) - 1, 0.012),
    ],
    ids=["normal", "low_tail", "long_tails", "high_tail"],
)
def test_the_level_holds_at_thirty_images(draw: object, most: float) -> None:
    """Simulated: the rate of errors at the level of 1%, of means that are 0."""
    rng = np.random.default_rng(8)
    errors = sum(above_zero(draw(rng)) <= LEVEL for _ in range(10000))  # type: ignore[operator]
    assert errors / 10000 <= most


def test_so_many_images_would_do() -> None:
    rng = np.random.default_rng(3)
    needed = images_needed(rng.normal(0.6, 1, 100000), LEVEL)
    assert needed is not None
    found = sum(above_zero(rng.normal(0.6, 1, needed)) <= LEVEL for _ in range(4000)) / 4000
    assert found == pytest.approx(0.8, abs=0.03)
    assert images_needed(np.array([-1.0, 0.5]), LEVEL) is None


def test_a_mean_and_its_interval() -> None:
    values = np.array([1.0, 2.0, 4.0, np.nan])
    known = values[:3]
    low, high = stats.t.interval(0.95, 2, known.mean(), stats.sem(known))
    found = mean_of(values)
    assert [found.count, found.mean, found.low, found.high] == pytest.approx([3, 7 / 3, low, high])
    assert mean_of(values[:1]).p == 1.0


def test_fiellers_interval_is_the_ratios_that_the_data_do_not_refuse() -> None:
    """By its definition: mean(upper - r lower) is 0 at just the two ends, by a test of 5%."""
    rng = np.random.default_rng(5)
    lower = rng.gamma(4, 1, 30)
    upper = 0.7 * lower + rng.normal(size=30)
    found = ratio_of_means(upper, lower)
    assert found.value == pytest.approx(upper.mean() / lower.mean())
    for end in (found.low, found.high):
        assert stats.ttest_1samp(upper - end * lower, 0.0).pvalue == pytest.approx(0.05)
    assert found.low < found.value < found.high
    none = ratio_of_means(upper, lower - lower.mean() + 0.01)
    assert math.isnan(none.value)
    assert math.isnan(none.low)


def test_evidence_kept_is_a_ratio_of_means_and_none_of_nothing() -> None:
    margins = spread(5.0)
    kept = {"family": "bias", "severity": 0.1}
    rows = [
        *clean("m", "margin.other_image", margins),
        *clean("m", "evidence_kept", 0.8 * margins, **kept),
        *clean("m", "evidence_kept", np.full(COUNT, np.nan), family="rotation", severity=5.0),
        *clean("weak", "margin.other_image", spread(0.1)),
        *clean("weak", "evidence_kept", margins, **kept),
    ]
    whole = evidence_kept(frame(rows))
    # What an image has of all families is its mean over them.
    together = whole[whole["family"] == "overall"].set_index("method")
    assert together.loc["m", "kept"] == pytest.approx(0.8)
    found: Any = whole[whole["family"] == "bias"].set_index("method")
    assert set(whole["family"]) == {"bias", "overall"}
    assert found.index.tolist() == ["m", "weak"]
    assert found.loc["m", ["kept", "low", "high"]].tolist() == pytest.approx([0.8, 0.8, 0.8])
    assert np.isnan(found.loc["weak", "kept"])
    assert found.loc["weak", "reason"] == "the clean map's own margin may be 0"
    assert found.loc["m", "images"] == COUNT
    assert evidence_kept(frame(rows[:COUNT])).empty
