"""Groups of images: one number a group, of the mean over images and of its error."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from steadymap.bench.records.grouping import by_group, groups_of, places_of, sums

NUMBERS = st.lists(
    st.tuples(st.sampled_from("abcde"), st.floats(-100, 100) | st.just(np.nan)), min_size=1
)


def table(pairs: list[tuple[str, float]]) -> tuple[list[str], dict[str, str], np.ndarray]:
    images = [f"i{place}" for place in range(len(pairs))]
    names = dict(zip(images, (name for name, _ in pairs), strict=True))
    return images, names, np.array([value for _, value in pairs])


def test_groups_are_numbered_as_they_occur_and_an_unnamed_image_is_its_own() -> None:
    groups = {"b": "y", "d": "x", "a": "y"}
    assert places_of(["d", "a", "x", "b", "y"], groups).tolist() == [0, 1, 2, 1, 3]
    values = np.arange(10.0).reshape(2, 5)
    assert sums(values, places_of(["d", "a", "x", "b", "y"], groups)).tolist() == [
        [0, 4, 2, 4], [5, 14, 7, 9]
    ]  # fmt: skip


def test_a_manifest_may_have_no_groups() -> None:
    assert groups_of({"data": {"name": "d"}}) == {}
    assert groups_of({"data": {"groups": {"i": "g"}}}) == {"i": "g"}


def test_groups_as_large_have_their_means() -> None:
    found = by_group(np.array([1.0, 5, 2, 7]), list("abcd"), dict(zip("abcd", "xyxy", strict=True)))
    assert found.tolist() == [1.5, 6]


@given(NUMBERS)
def test_the_mean_of_groups_is_that_of_images(pairs: list[tuple[str, float]]) -> None:
    images, groups, values = table(pairs)
    found = by_group(values, images, groups)
    assert len(found) == len(set(groups.values()))
    known = np.isfinite(values)
    if known.any():
        assert np.nanmean(found) == pytest.approx(values[known].mean(), abs=1e-9)
    else:
        assert np.isnan(found).all()


@given(NUMBERS)
def test_their_spread_is_the_jackknife_s_by_group(pairs: list[tuple[str, float]]) -> None:
    images, groups, values = table(pairs)
    names = np.array([name for name, _ in pairs])
    known = np.isfinite(values)
    there = sorted(set(names[known]))
    if len(there) < 2:
        return
    left = np.array([values[known & (names != name)].mean() for name in there])
    jackknife = (len(there) - 1) / len(there) * ((left - left.mean()) ** 2).sum()
    found = by_group(values, images, groups)
    assert np.nanvar(found, ddof=1) / len(there) == pytest.approx(jackknife, abs=1e-9)


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False) | st.just(np.nan), min_size=1))
def test_images_that_are_groups_of_their_own_stay_as_they_are(values: list[float]) -> None:
    images = [f"i{place}" for place in range(len(values))]
    alone = {image: f"g{image}" for image in images}
    assert by_group(np.array(values), images, alone).tobytes() == np.array(values).tobytes()
