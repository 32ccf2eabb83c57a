"""Metrics against their definitions, written out slowly, and against SciPy and scikit-image."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from scipy.ndimage import center_of_mass
from scipy.spatial import distance
from scipy.stats import kendalltau, pearsonr, rankdata, spearmanr
from skimage.metrics import structural_similarity
from support import probe_evidence

from steadymap.metrics import (
    METRICS,
    PROBES,
    Evidence,
    Maps,
    Metric,
    Scores,
    Status,
    evaluate,
    magnitude,
    similarity,
)
from steadymap.metrics.maps import Flags, average_ranks
from steadymap.metrics.single import area_average

Array = NDArray[np.float64]
SIDE = 13
PAIRS = [name for name, metric in METRICS.items() if metric.against == "map"]


def maps(count: int = 4, seed: int = 0) -> Maps:
    return Maps(np.random.default_rng(seed).normal(size=(count, SIDE, SIDE)))


def against(metric: Metric, count: int = 4, seed: int = 1) -> Maps | Array | Evidence:
    rng = np.random.default_rng(seed)
    if metric.against in PROBES:
        # Curves are probabilities.
        return probe_evidence(metric.against, count, lambda shape: rng.uniform(0.5, 1, shape))
    if metric.against == "delta":
        return rng.uniform(1, 2, count)
    if metric.against == "mask":
        return (rng.random((count, SIDE, SIDE)) < 0.4).astype(np.float64)
    return maps(count, seed)


def pick(other: Maps | Array | Evidence, index: slice | list[int]) -> Maps | Array | Evidence:
    if isinstance(other, Evidence):
        return replace(other, **{name: rows[index] for name, rows in other.arrays().items()})
    return Maps(other.signed[index]) if isinstance(other, Maps) else other[index]


def raw(other: Maps | Array | Evidence) -> list[Array | Flags]:
    if isinstance(other, Evidence):
        return [*other.arrays().values()]
    return [other.signed if isinstance(other, Maps) else other]


def with_map(first: Maps, index: int, replacement: Array) -> Maps:
    signed = first.signed.copy()
    signed[index] = replacement
    return Maps(signed)


# --- definitions -------------------------------------------------------------------------------


def slow_ssim(first: Array, second: Array) -> float:
    reach = 5
    weights = np.array(
        [
            [math.exp(-(x * x + y * y) / (2 * 1.5**2)) for x in range(-reach, reach + 1)]
            for y in range(-reach, reach + 1)
        ]
    )
    weights /= weights.sum()
    values = []
    for row in range(reach, first.shape[0] - reach):
        for column in range(reach, first.shape[1] - reach):
            window = np.s_[row - reach : row + reach + 1, column - reach : column + reach + 1]
            a, b = first[window], second[window]
            mean_a, mean_b = (weights * a).sum(), (weights * b).sum()
            var_a = (weights * (a - mean_a) ** 2).sum()
            var_b = (weights * (b - mean_b) ** 2).sum()
            cov = (weights * (a - mean_a) * (b - mean_b)).sum()
            c1, c2 = 0.01**2, 0.03**2
            values.append(
                (2 * mean_a * mean_b + c1)
                * (2 * cov + c2)
                / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))
            )
    return float(np.mean(values))


def slow_tau_b(first: Array, second: Array) -> float:
    a, b = first.ravel(), second.ravel()
    score = pairs_a = pairs_b = 0
    for i in range(len(a)):
        for j in range(i):
            sign_a, sign_b = np.sign(a[i] - a[j]), np.sign(b[i] - b[j])
            score += sign_a * sign_b
            pairs_a += sign_a != 0
            pairs_b += sign_b != 0
    return float(score / math.sqrt(pairs_a * pairs_b))


def slow_magnitude(signed: Array) -> Array:
    absolute = np.abs(signed)
    ordered = np.sort(absolute.ravel())
    place = 0.99 * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    top = ordered[low] + (place - low) * (ordered[high] - ordered[low])
    scaled: Array = np.minimum(absolute, top) / top
    return scaled


def tied(seed: int) -> Array:
    return np.random.default_rng(seed).integers(-2, 3, (2, SIDE, SIDE)).astype(np.float64)


def test_ssim_is_the_paper_s() -> None:
    first, second = maps(2, 5), maps(2, 6)
    expected = [slow_ssim(a, b) for a, b in zip(first.magnitude, second.magnitude, strict=True)]
    np.testing.assert_allclose(similarity.ssim(first, second), expected, rtol=0, atol=1e-6)


def test_ssim_is_scikit_image_s() -> None:
    first, second = maps(3, 5), maps(3, 6)
    expected = [
        structural_similarity(
            a, b, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1
        )
        for a, b in zip(first.magnitude, second.magnitude, strict=True)
    ]
    np.testing.assert_allclose(similarity.ssim(first, second), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("make", [tied, lambda seed: maps(2, seed).signed])
def test_spearman_is_scipy_s(make: type[Array]) -> None:
    first, second = make(1), make(2)
    expected = [
        spearmanr(a.ravel(), b.ravel()).statistic for a, b in zip(first, second, strict=True)
    ]
    np.testing.assert_allclose(
        similarity.spearman(Maps(first), Maps(second)), expected, rtol=0, atol=1e-9
    )


@given(arrays(np.float64, (3, 4, 5), elements=st.sampled_from([-1.0, 0.0, 0.5, 2.0, 3.0])))
def test_ranks_are_scipy_s(values: Array) -> None:
    expected = rankdata(values.reshape(3, -1), axis=1)
    np.testing.assert_array_equal(average_ranks(values), expected)


@pytest.mark.parametrize("make", [tied, lambda seed: maps(2, seed).signed])
def test_kendall_is_tau_b(make: type[Array]) -> None:
    first, second = make(1), make(2)
    expected = [slow_tau_b(a, b) for a, b in zip(first, second, strict=True)]
    np.testing.assert_allclose(
        similarity.kendall(Maps(first), Maps(second)), expected, rtol=0, atol=1e-9
    )
    expected = [
        kendalltau(a.ravel(), b.ravel()).statistic for a, b in zip(first, second, strict=True)
    ]
    np.testing.assert_allclose(
        similarity.kendall(Maps(first), Maps(second)), expected, rtol=0, atol=1e-9
    )


def test_top_k_counts_the_pixels_in_common() -> None:
    first, second = maps(3, 1), maps(3, 2)
    count = round(0.05 * SIDE * SIDE)
    raw_first, raw_second = np.abs(maps(3, 1).signed), np.abs(maps(3, 2).signed)
    expected = [
        len(set(np.argsort(a.ravel())[-count:]) & set(np.argsort(b.ravel())[-count:])) / count
        for a, b in zip(raw_first, raw_second, strict=True)
    ]
    np.testing.assert_allclose(similarity.top_k_intersection(first, second), expected)


def test_top_k_shares_the_last_places_among_ties() -> None:
    # 100 pixels, 5 places: two pixels lead, eight tie for the other three places. (The 99th
    # percentile of both maps is 2, so that no value is clipped.)
    first = np.zeros((1, 10, 10))
    first[0, 0, :2] = 2.0
    first[0, 1, :8] = 1.0
    second = np.zeros((1, 10, 10))
    second[0, 0, :2] = 2.0
    second[0, 1, :3] = 1.0
    # In common: the two leaders, and 3/8 of each of the three pixels that lead in both.
    np.testing.assert_allclose(
        similarity.top_k_intersection(Maps(first), Maps(second)), [(2 + 3 * 3 / 8) / 5]
    )


def test_relative_l2_by_hand() -> None:
    first = np.array([[[3.0, 0.0], [0.0, 4.0]]])
    second = np.array([[[3.0, 1.0], [2.0, 2.0]]])
    np.testing.assert_allclose(similarity.relative_l2(Maps(first), Maps(second)), [3 / 5])


def test_cosine_and_pearson_are_scipy_s() -> None:
    first, second = maps(5, 1), maps(5, 2)
    flat = [(a.ravel() + 0.3, b.ravel()) for a, b in zip(first.signed, second.signed, strict=True)]
    raised = Maps(first.signed + 0.3)
    np.testing.assert_allclose(
        similarity.cosine(raised, second), [1 - distance.cosine(a, b) for a, b in flat]
    )
    np.testing.assert_allclose(
        similarity.pearson(raised, second), [pearsonr(a, b).statistic for a, b in flat]
    )
    # Scale changes neither, level only the one.
    np.testing.assert_allclose(similarity.cosine(raised, Maps(2 * raised.signed)), 1)
    np.testing.assert_allclose(similarity.pearson(first, raised), 1)
    assert (similarity.cosine(first, raised) < 0.99).all()


def test_centre_shift_is_scipy_s_and_a_share_of_the_diagonal() -> None:
    first, second = maps(5, 1), maps(5, 2)
    expected = [
        math.dist(center_of_mass(a), center_of_mass(b)) / math.hypot(SIDE, SIDE)
        for a, b in zip(first.magnitude, second.magnitude, strict=True)
    ]
    np.testing.assert_allclose(similarity.centre_shift(first, second), expected, atol=1e-12)
    corners = np.zeros((2, 31, 41))
    corners[0, :4, :4] = corners[1, -4:, -4:] = 1
    found = similarity.centre_shift(Maps(corners[:1]), Maps(corners[1:]))
    np.testing.assert_allclose(found, math.hypot(27, 37) / math.hypot(31, 41))


def test_magnitude_is_clipped_at_its_own_99th_percentile() -> None:
    signed = maps(3, 9).signed
    expected = np.stack([slow_magnitude(one) for one in signed])
    np.testing.assert_allclose(magnitude(signed), expected, rtol=1e-12)
    assert magnitude(signed).max() == 1.0


@pytest.mark.parametrize("shape", [(2, 200, 300), (2, 32, 32), (2, 1, 1), (2, 1, 2)])
def test_magnitude_s_percentile_is_numpy_s(shape: tuple[int, int, int]) -> None:
    signed = np.random.default_rng(9).normal(size=shape)
    top = np.percentile(np.abs(signed), 99, axis=(1, 2), keepdims=True)
    expected = np.minimum(np.abs(signed), top) / top
    np.testing.assert_allclose(magnitude(signed), expected, rtol=1e-12)


def test_attributions_are_summed_over_channels_before_anything_else() -> None:
    attributions = np.zeros((1, 3, 2, 2), dtype=np.float32)
    attributions[0, :, 0, 0] = (2.0, -3.0, 0.5)
    np.testing.assert_array_equal(
        Maps.from_attributions(attributions).signed, [[[-0.5, 0.0], [0.0, 0.0]]]
    )


def test_completeness_by_hand() -> None:
    one = Maps(np.array([[[1.0, 2.0], [3.0, -1.0]]]))
    for name, expected in (("completeness_error", 1.5), ("completeness_error_relative", 3 / 7)):
        scores = evaluate(METRICS[name], one, np.array([3.5]))
        np.testing.assert_allclose(scores.values, [expected])


def test_completeness_of_a_negative_delta_is_positive() -> None:
    one = Maps(np.array([[[-1.0, -2.0]]]))
    for delta in (-4.0, -2.4):  # too little, and too much
        absolute = evaluate(METRICS["completeness_error"], one, np.array([delta]))
        relative = evaluate(METRICS["completeness_error_relative"], one, np.array([delta]))
        np.testing.assert_allclose(absolute.values, [abs(-3 - delta)])
        np.testing.assert_allclose(relative.values, [abs(-3 - delta) / abs(delta)])


@pytest.mark.parametrize(("delta", "status"), [(0.0099, "small_delta"), (-0.0101, "ok")])
def test_a_small_delta_leaves_the_relative_error_undefined(delta: float, status: str) -> None:
    one = Maps(np.array([[[1.0, 2.0]]]))
    relative = evaluate(METRICS["completeness_error_relative"], one, np.array([delta]))
    absolute = evaluate(METRICS["completeness_error"], one, np.array([delta]))
    assert relative.statuses == (Status(status),)
    np.testing.assert_allclose(absolute.values, [3.0 - delta])


def test_mask_mass_by_hand() -> None:
    one = Maps(np.array([[[1.0, 1.0], [2.0, 0.0]]]))
    mask = np.zeros((1, 4, 4))
    mask[0, 2:, :2] = 1.0  # the lower left quarter
    mask[0, 0, 0] = 1.0  # a quarter of the upper left one
    top = np.percentile([1.0, 1.0, 2.0, 0.0], 99)
    expected = (top + 0.25) / (top + 2)
    np.testing.assert_allclose(evaluate(METRICS["mask_mass"], one, mask).values, [expected])


@given(
    arrays(np.float64, (1, 7, 11), elements=st.floats(0, 1)), st.integers(1, 7), st.integers(1, 11)
)
def test_area_average_keeps_the_mean(mask: Array, height: int, width: int) -> None:
    coarse = area_average(mask, (height, width))
    assert coarse.shape == (1, height, width)
    np.testing.assert_allclose(coarse.mean(), mask.mean(), atol=1e-12)


# --- laws over every registered metric ---------------------------------------------------------


@pytest.mark.parametrize("name", PAIRS)
def test_a_map_equals_itself(name: str) -> None:
    metric, one = METRICS[name], maps()
    assert metric.identity is not None
    np.testing.assert_allclose(evaluate(metric, one, one).values, metric.identity, atol=1e-12)


@pytest.mark.parametrize("name", PAIRS)
def test_symmetry_is_as_declared(name: str) -> None:
    metric, first, second = METRICS[name], maps(seed=1), maps(seed=2)
    forth, back = evaluate(metric, first, second), evaluate(metric, second, first)
    assert np.allclose(forth.values, back.values, atol=1e-12) == metric.symmetric


@pytest.mark.parametrize("name", PAIRS)
def test_the_better_direction_is_as_declared(name: str) -> None:
    metric, clean = METRICS[name], maps()
    near = Maps(clean.signed + 0.05 * maps(seed=7).signed)
    steadier = evaluate(metric, clean, near).values
    unrelated = evaluate(metric, clean, maps(seed=8)).values
    assert ((steadier > unrelated) == (metric.better == "higher")).all()


def test_each_map_of_a_batch_is_scored_alone() -> None:
    for metric in METRICS.values():
        own, other = maps(), against(metric)
        together = evaluate(metric, own, other).values
        order = [2, 0, 3, 1]
        mixed = evaluate(metric, Maps(own.signed[order]), pick(other, order)).values
        alone = [
            evaluate(metric, Maps(own.signed[i : i + 1]), pick(other, slice(i, i + 1))).values[0]
            for i in range(len(own))
        ]
        np.testing.assert_array_equal(mixed, together[order])
        np.testing.assert_array_equal(alone, together)


def check_bad(metric: Metric, bad: Array, status: Status) -> None:
    """A bad map costs its own score, on either side, and nobody else's."""
    own, other = maps(), against(metric)
    good = evaluate(metric, own, other)
    spoilt: list[Scores] = [evaluate(metric, with_map(own, 1, bad), other)]
    if isinstance(other, Maps):
        spoilt.append(evaluate(metric, own, with_map(other, 1, bad)))
    for scores in spoilt:
        assert scores.statuses == (Status.OK, status, Status.OK, Status.OK)
        assert math.isnan(scores.values[1])
        assert scores.details[1]
        np.testing.assert_array_equal(scores.values[[0, 2, 3]], good.values[[0, 2, 3]])


@pytest.mark.parametrize("level", [0.0, 0.3, -7e4])
@pytest.mark.parametrize("name", METRICS)
def test_a_constant_map_is_degenerate(name: str, level: float) -> None:
    check_bad(METRICS[name], np.full((SIDE, SIDE), level), Status.DEGENERATE)


@pytest.mark.parametrize("name", METRICS)
def test_a_constant_map_with_float32_rounding_is_degenerate(name: str) -> None:
    rounding = np.random.default_rng(0).integers(0, 2, (SIDE, SIDE)) * 2.0**-23
    check_bad(METRICS[name], np.asarray(1 + rounding, np.float64), Status.DEGENERATE)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", METRICS)
def test_a_map_that_is_not_finite_has_no_score(name: str, value: float) -> None:
    bad = maps(1, 4).signed[0].copy()
    bad[3, 5] = value
    check_bad(METRICS[name], bad, Status.NONFINITE)


@pytest.mark.parametrize("name", METRICS)
def test_inputs_are_left_alone(name: str) -> None:
    metric, own, other = METRICS[name], maps(), against(METRICS[name])
    before = [values.copy() for values in (own.signed, *raw(other))]
    evaluate(metric, own, other)
    for values, as_it_was in zip((own.signed, *raw(other)), before, strict=True):
        np.testing.assert_array_equal(values, as_it_was)


@pytest.mark.parametrize("name", METRICS)
@given(data=st.data())
def test_whatever_the_maps_there_is_a_value_or_a_status(name: str, data: st.DataObject) -> None:
    metric = METRICS[name]
    anything = arrays(np.float64, (1, 11, 11), elements=st.floats(width=32))
    own = Maps(data.draw(anything))
    other: Maps | Array | Evidence
    if metric.against == "map":
        other = Maps(data.draw(anything))
    elif metric.against in PROBES:
        # Neighbours differ from their image: nothing of them is 0.
        sizes = st.floats(2.0**-60, 2.0**60, width=32)
        other = probe_evidence(
            metric.against, 1, lambda shape: data.draw(arrays(np.float64, shape, elements=sizes))
        )
    elif metric.against == "mask":
        other = data.draw(arrays(np.float64, (1, 11, 11), elements=st.floats(0, 1)))
    else:
        other = data.draw(arrays(np.float64, 1, elements=st.floats(width=32)))
    scores = evaluate(metric, own, other)
    assert (scores.statuses[0] is Status.OK) == bool(np.isfinite(scores.values[0]))
    assert (scores.statuses[0] is Status.OK) == (scores.details[0] == "")


@pytest.mark.parametrize("name", PAIRS)
def test_flags_are_derived_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = maps(seed=1), maps(seed=2)
    expected = evaluate(METRICS[name], first, second)
    monkeypatch.delattr("steadymap.metrics.maps.check")
    np.testing.assert_array_equal(evaluate(METRICS[name], first, second).values, expected.values)
    with pytest.raises(NameError):
        evaluate(METRICS[name], maps(seed=3), second)


def test_a_map_smaller_than_the_window_is_skipped_with_the_reason() -> None:
    small = Maps(np.random.default_rng(0).normal(size=(2, 7, 7)))
    scores = evaluate(METRICS["ssim"], small, small)
    assert scores.statuses == (Status.SKIPPED, Status.SKIPPED)
    assert "7 x 7" in scores.details[0]
    assert "11 x 11" in scores.details[0]


def test_a_mask_that_is_everywhere_says_nothing() -> None:
    scores = evaluate(METRICS["mask_mass"], maps(), np.ones((4, SIDE, SIDE)))
    assert set(scores.statuses) == {Status.DEGENERATE}


def test_what_does_not_belong_together_is_refused() -> None:
    with pytest.raises(ValueError, match="expected 4 of map, got 3"):
        evaluate(METRICS["ssim"], maps(), maps(3))
    with pytest.raises(ValueError, match="different size"):
        evaluate(METRICS["ssim"], maps(), Maps(np.zeros((4, 12, 13))))
    with pytest.raises(ValueError, match="expected 4 of delta"):
        evaluate(METRICS["completeness_error"], maps(), maps())
    with pytest.raises(ValueError, match="batch, channels"):
        Maps.from_attributions(np.zeros((4, SIDE, SIDE)))
