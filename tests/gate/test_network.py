"""The lines of the network itself: on predictions whose answer is known."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import product

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from recipe import predictions, side_of
from scipy.stats import binomtest
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.proportion import proportion_confint

from steadymap.bench.gate.comparison import FAIL, IMPROVED, PASS
from steadymap.bench.gate.judging import judge
from steadymap.bench.gate.margins import Margins
from steadymap.bench.gate.network_lines import (
    ACCURACY,
    AGREEMENT,
    NOT_COUNTED,
    NetworkLines,
    agreement_of_twins,
    fall_p_value,
    network_lines,
    smallest_fall,
)
from steadymap.bench.gate.question import ask
from steadymap.bench.gate.side import Side

STEADY = {("gradient", "bias", "ssim"): np.linspace(0.3, 0.7, 40)}


def lines(before: pd.DataFrame, after: pd.DataFrame) -> NetworkLines:
    return network_lines(side_of(STEADY, said=before), side_of(STEADY, said=after), Margins())


def results(found: NetworkLines) -> dict[str, str]:
    return {case.name: case.result for case in found.cases}


@given(st.lists(st.integers(-3, 3), max_size=9))
def test_the_p_value_of_a_fall_is_that_of_all_signs(lost: list[int]) -> None:
    counts = np.array(lost, dtype=np.int64)
    sums = [sum(np.array(signs) * counts) for signs in product((1, -1), repeat=len(lost))]
    expected = np.mean([total >= counts.sum() for total in sums])
    assert fall_p_value(counts) == pytest.approx(expected)


@given(st.integers(0, 12), st.integers(0, 12))
def test_with_one_prediction_an_image_it_is_mcnemars(fell: int, rose: int) -> None:
    counts = np.array([1] * fell + [-1] * rose + [0] * 5, dtype=np.int64)
    two_sided = mcnemar([[5, fell], [rose, 0]], exact=True).pvalue
    found = fall_p_value(counts)
    if fell > rose:
        assert found == pytest.approx(two_sided / 2)
    expected = binomtest(fell, fell + rose, alternative="greater").pvalue if fell + rose else 1.0
    assert found == pytest.approx(expected)


def test_a_ruined_network_fails_however_steady_its_maps_are() -> None:
    """The case of the issue: from 100% to 45%, 35 of 40 pictures in one class."""
    labels = [place % 3 for place in range(40)]
    constant = [0] * 35 + labels[35:]
    steadier = {key: values + 0.3 for key, values in STEADY.items()}
    before = side_of(STEADY, said=predictions(labels, labels))
    after = side_of(steadier, said=predictions(labels, constant))
    right = np.mean([label == said for label, said in zip(labels, constant, strict=True)])
    assert 0.4 < right < 0.5
    found = judge(ask(before, after), after, Margins())
    assert results(found.network) == {ACCURACY: FAIL, "network / bias / share kept": PASS}
    assert found.rows["verdict"].tolist() == [NOT_COUNTED]
    assert "what improved in its maps is not counted" in found.network.notes[-1]
    # Without its predictions nobody would know.
    found = judge(ask(before, after), after, Margins(), network=False)
    assert found.rows["verdict"].tolist() == [IMPROVED]
    assert found.network == NetworkLines()
    assert found.question.endswith("Maps alone are judged (--no-network).")


@pytest.mark.parametrize(("wrong", "result"), [(5, PASS), (6, FAIL)])
def test_accuracy_fails_where_its_fall_is_beyond_chance(wrong: int, result: str) -> None:
    """Two lines: p = 2 * 2^-5 = 0.0625 after Holm, and half of that."""
    labels = [0] * 60
    found = lines(
        predictions(labels, labels), predictions(labels, [1] * wrong + [0] * (60 - wrong))
    )
    assert results(found)[ACCURACY] == result
    assert smallest_fall(60, 2) == pytest.approx(6 / 60)


def test_a_fall_of_two_points_is_none() -> None:
    """Twenty of 1000 images: p is 1e-6, and yet nobody need be told."""
    labels = [0] * 1000
    for wrong, result in ((20, PASS), (21, FAIL)):
        found = lines(
            predictions(labels, labels), predictions(labels, [1] * wrong + [0] * (1000 - wrong))
        )
        assert results(found)[ACCURACY] == result, wrong


@pytest.mark.parametrize(("images", "count", "fall"), [(60, 1, 5 / 60), (60, 3, 6 / 60)])
def test_the_fall_that_is_found_is_the_least_that_fails(
    images: int, count: int, fall: float
) -> None:
    """The issue reckons 8 points of 60 images, which is one line's."""
    assert smallest_fall(images, count) == pytest.approx(fall)
    needed = round(fall * images)
    assert count * 0.5**needed < 0.05 <= count * 0.5 ** (needed - 1)
    assert smallest_fall(4, 1) is None


def test_each_family_has_a_line_and_pairs_of_an_image_count_together() -> None:
    labels = [0] * 40
    kept = {"bias": [4] * 40, "gaussian_noise": [4] * 40, "compensated_bias": [4] * 40}
    # Four images lose all their pairs: 16 of 160 are gone, and yet four images are four images.
    few = kept | {"bias": [0] * 4 + [4] * 36, "compensated_bias": [0] * 40}
    found = lines(predictions(labels, labels, kept), predictions(labels, labels, few))
    assert results(found) == {
        ACCURACY: PASS, "network / bias / share kept": PASS,
        "network / gaussian_noise / share kept": PASS,
    }  # fmt: skip
    many = kept | {"gaussian_noise": [2] * 16 + [4] * 24}
    found = lines(predictions(labels, labels, kept), predictions(labels, labels, many))
    assert results(found)["network / gaussian_noise / share kept"] == FAIL
    assert results(found)["network / bias / share kept"] == PASS


def test_images_with_other_pairs_are_not_paired() -> None:
    labels = [0] * 40
    fewer = predictions(labels, labels, {"bias": [2] * 40}, pairs=2)
    found = lines(predictions(labels, labels), fewer)
    assert list(results(found)) == [ACCURACY]


@pytest.mark.parametrize(("alike", "result"), [(48, FAIL), (49, PASS), (60, PASS)])
def test_without_labels_predictions_must_agree(alike: int, result: str) -> None:
    nobody = [None] * 60
    found = lines(
        predictions(nobody, [0] * 60), predictions(nobody, [0] * alike + [1] * (60 - alike))
    )
    assert results(found)[AGREEMENT] == result
    high = proportion_confint(alike, 60, 0.05, method="beta")[1]
    assert (high < 0.9) == (result == FAIL)
    assert ACCURACY not in results(found)


def test_the_least_agreement_is_a_key_of_its_own() -> None:
    nobody = [None] * 60
    before, after = (
        side_of(STEADY, said=predictions(nobody, said)) for said in ([0] * 60, [0] * 48 + [1] * 12)
    )
    for least, result in ((0.9, FAIL), (0.8, PASS)):
        found = network_lines(before, after, Margins(agreement=least))
        assert results(found)[AGREEMENT] == result


def test_labelled_and_unlabelled_images_have_a_line_each() -> None:
    labels = [0] * 30 + [None] * 30
    found = lines(predictions(labels, [0] * 60), predictions(labels, [0] * 30 + [1] * 30))
    assert results(found)[ACCURACY] == PASS
    assert results(found)[AGREEMENT] == FAIL


def test_a_missing_prediction_is_wrong() -> None:
    labels = [0] * 40
    found = lines(predictions(labels, labels), predictions(labels, [None] * 10 + [0] * 30))
    assert results(found)[ACCURACY] == FAIL


def test_no_line_of_the_network_is_ever_inconclusive() -> None:
    labels = [0, 1]
    found = lines(predictions(labels, labels), predictions(labels, [1, 0]))
    assert set(results(found).values()) == {PASS}
    assert "too few images to find any fall" in found.cases[0].message


def named(side: Side, pictures: dict[str, str]) -> Side:
    return replace(side, manifest={**side.manifest, "data": {"pictures": pictures}})


def test_with_the_same_weights_each_prediction_that_differs_is_named() -> None:
    labels = [0, 1, 2]
    before = side_of(STEADY, said=predictions(labels, labels))
    after = named(side_of(STEADY, said=predictions(labels, [0, 2, None])), {"i001": "a.png"})
    notes = judge(ask(before, after), after, Margins()).network.notes
    assert "Predictions that differ with the same weights: 2" in notes
    assert "  a.png: b -> c" in notes
    assert "  i002: c -> no prediction" in notes
    notes = judge(ask(before, before), before, Margins()).network.notes
    assert "Every prediction is as it was." in notes


def test_confidence_is_said_and_not_judged() -> None:
    labels = [0] * 40
    unsure = predictions(labels, labels).assign(probability=0.4)
    found = lines(predictions(labels, labels), unsure)
    assert found.notes[0] == "Mean confidence in the predicted class: 0.900 -> 0.400 (not judged)."
    assert not found.fell
    unknown = predictions(labels, labels).assign(probability=math.nan)
    assert "0.900 -> unknown" in lines(predictions(labels, labels), unknown).notes[0]


def test_a_baseline_without_predictions_is_judged_on_maps_alone_and_says_so() -> None:
    after = side_of(STEADY, said=predictions([0], [0]))
    found = judge(ask(side_of(STEADY), after), after, Margins())
    assert found.network == NetworkLines()
    assert "Maps alone are judged: run holds no predictions" in found.question
    assert "steadymap baseline save RUN run" in found.question
    assert "\n" not in found.question


def test_a_twin_must_say_what_the_network_says_of_labelled_images_too() -> None:
    labels = [1] * 60
    before = side_of(STEADY, said=predictions(labels, labels))
    # Clopper and Pearson: 48 of 60 reach up to 0.892, 49 to 0.906.
    for kept, result in ((48, FAIL), (49, PASS), (60, PASS)):
        after = side_of(STEADY, said=predictions(labels, [1] * kept + [0] * (60 - kept)))
        (case,) = agreement_of_twins(before, after, Margins())
        assert case.result == result
        assert case.message.startswith(f"{kept} of 60 images are predicted as before")
    assert agreement_of_twins(before, side_of(STEADY), Margins()) == ()
