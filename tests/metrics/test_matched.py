"""Scores of all pairs of a block: each is what the metric says of it alone, and so are means."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from steadymap.metrics import METRICS, Maps, Status, TensorMaps, evaluate, tabulate
from steadymap.metrics.maps import Array
from steadymap.metrics.matched import NO_PAIR, Table
from steadymap.metrics.registry import Metric

OF_TWO = [name for name, metric in METRICS.items() if metric.against == "map"]
COUNT, SIDE = 7, 13
BLOCKS = [np.arange(4), np.arange(4, COUNT)]
INSIDE = np.zeros((COUNT, COUNT), dtype=bool)
for members in BLOCKS:
    INSIDE[np.ix_(members, members)] = True
OTHERS = INSIDE & ~np.eye(COUNT, dtype=bool)
NOBODY = "no other image"


def drawn(seed: int, side: int = SIDE) -> Array:
    return np.random.default_rng(seed).normal(size=(COUNT, side, side))


def by_hand(metric: Metric, clean: Array, perturbed: Array) -> Array:
    """Each pair of a block by itself, as `evaluate` scores it."""
    table = np.full((COUNT, COUNT), np.nan)
    for row, column in zip(*np.nonzero(INSIDE), strict=True):
        pair = Maps(clean[row : row + 1]), Maps(perturbed[column : column + 1])
        table[row, column] = evaluate(metric, *pair).values[0]
    return table


@pytest.mark.parametrize("kind", [Maps, TensorMaps])
@pytest.mark.parametrize("name", OF_TWO)
def test_the_table_has_the_score_of_each_pair(name: str, kind: type[Maps | TensorMaps]) -> None:
    clean, perturbed = drawn(0), drawn(1)
    perturbed[2] = clean[2] + 0.3 * perturbed[2]
    wrapped = [
        kind(torch.from_numpy(maps) if kind is TensorMaps else maps)  # type: ignore[arg-type]
        for maps in (clean, perturbed)
    ]
    table = tabulate(METRICS[name], wrapped[0], wrapped[1], BLOCKS)
    np.testing.assert_allclose(
        table.values, by_hand(METRICS[name], clean, perturbed), rtol=1e-9, atol=1e-12
    )


@pytest.mark.parametrize("name", OF_TWO)
def test_whoever_takes_all_pairs_at_once_and_one_by_one_says_the_same(name: str) -> None:
    maps = Maps(drawn(0)), Maps(drawn(1))
    alone = replace(METRICS[name], pairwise=False)
    tables = [tabulate(metric, *maps, BLOCKS).values for metric in (METRICS[name], alone)]
    np.testing.assert_allclose(tables[0], tables[1], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("rows", [1, 3])
def test_as_many_rows_at_a_time_as_are_held_change_nothing(
    rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    maps = Maps(drawn(0)), Maps(drawn(1))
    whole = tabulate(METRICS["ssim"], *maps, [np.arange(COUNT)]).values
    monkeypatch.setattr("steadymap.metrics.matched.HELD_ON_CPU", rows * COUNT * SIDE**2)
    parts = tabulate(METRICS["ssim"], *maps, [np.arange(COUNT)]).values
    np.testing.assert_array_equal(parts, whole)


def test_its_own_pair_is_scored_to_the_last_bit_as_alone() -> None:
    """Or a map that two images share would be a tie by chance."""
    maps = Maps(drawn(0)), Maps(drawn(1))
    for name in OF_TWO:
        table = tabulate(METRICS[name], *maps, BLOCKS).values
        np.testing.assert_array_equal(np.diag(table), evaluate(METRICS[name], *maps).values, name)


def test_what_is_undefined_on_a_map_leaves_its_row_or_column_empty_and_no_other() -> None:
    clean, perturbed = drawn(0), drawn(1)
    clean[1], perturbed[0], perturbed[5, 0, 0] = 0.0, 1.0, np.nan
    for name in OF_TWO:
        table = tabulate(METRICS[name], Maps(clean), Maps(perturbed), BLOCKS)
        empty = np.isnan(table.values)
        expected = ~INSIDE
        expected[1], expected[:, 0], expected[:, 5] = True, True, True
        np.testing.assert_array_equal(empty, expected, name)
        np.testing.assert_allclose(
            table.values, by_hand(METRICS[name], clean, perturbed), rtol=1e-9, atol=1e-12
        )
        assert [reason and reason[0] for reason in table.clean] == [
            Status.DEGENERATE if place == 1 else None for place in range(COUNT)
        ]
        assert {place: reason[0] for place, reason in enumerate(table.perturbed) if reason} == {
            0: Status.DEGENERATE,
            5: Status.NONFINITE,
        }


def test_a_map_smaller_than_the_window_is_skipped() -> None:
    table = tabulate(METRICS["ssim"], Maps(drawn(0, 8)), Maps(drawn(1, 8)), BLOCKS)
    assert np.isnan(table.values).all()
    assert {reason and reason[0] for reason in table.clean + table.perturbed} == {Status.SKIPPED}


def test_a_metric_that_raises_on_a_pair_costs_that_pair_alone() -> None:
    def picky(clean: Maps, perturbed: Maps) -> Array:
        if (clean.signed[:, 0, 0] == 99).any():
            raise RuntimeError("not this one")
        product: Array = (clean.signed * perturbed.signed).sum(axis=(1, 2))
        return product

    metric = replace(METRICS["relative_l2"], compute=picky, range=(None, None))
    clean = drawn(0)
    clean[3, 0, 0] = 99
    for pairwise in (False, True):
        table = tabulate(replace(metric, pairwise=pairwise), Maps(clean), Maps(drawn(1)), BLOCKS)
        expected = ~INSIDE
        expected[3] = True
        np.testing.assert_array_equal(np.isnan(table.values), expected)


def test_a_value_beyond_the_range_is_none() -> None:
    metric = replace(METRICS["spearman"], range=(0.0, 1.0))
    maps = Maps(drawn(0)), Maps(drawn(1))
    free = tabulate(METRICS["spearman"], *maps, BLOCKS).values
    held = tabulate(metric, *maps, BLOCKS).values
    np.testing.assert_array_equal(np.isnan(held), ~(free >= 0))


# --- what is read off it --------------------------------------------------------------------------

# Three images; the second perturbed map is constant, and so is the third clean one.
CONSTANT = (Status.DEGENERATE, "constant")
TABLE = Table(
    np.array([[0.9, np.nan, 0.4], [0.2, np.nan, 0.6], [np.nan, np.nan, np.nan]]),
    (None, None, CONSTANT),
    (None, CONSTANT, None),
)
EACH = ~np.eye(3, dtype=bool)


def said(scores: object) -> list[tuple[float, str]]:
    return [(scores.at(place)[0], str(scores.at(place)[1])) for place in range(3)]  # type: ignore[attr-defined]


def test_means_are_over_the_pairs_that_are_defined() -> None:
    beside = TABLE.beside_perturbed(EACH, NOBODY)
    np.testing.assert_allclose(beside.values, [0.2, np.nan, 0.5])
    assert beside.statuses == ("ok", "degenerate", "ok")
    partner = TABLE.beside_clean(EACH, NOBODY)
    np.testing.assert_allclose(partner.values, [0.4, 0.4, np.nan])
    assert partner.statuses == ("ok", "ok", "degenerate")
    assert TABLE.beside_clean(np.zeros((3, 3), dtype=bool), NOBODY).details[:2] == (NOBODY, NOBODY)
    last_alone = EACH & (np.arange(3) == 2)[:, None]
    assert TABLE.beside_perturbed(last_alone, NOBODY).at(0)[1:] == (Status.SKIPPED, NO_PAIR)


@pytest.mark.parametrize(
    ("metric", "ranks"), [("spearman", [1, np.nan, np.nan]), ("centre_shift", [2, np.nan, np.nan])]
)
def test_the_rank_is_the_place_of_its_own(metric: str, ranks: list[float]) -> None:
    found = TABLE.ranks(METRICS[metric], EACH, NOBODY)
    np.testing.assert_array_equal(found.values, ranks)
    assert found.statuses == ("ok", "degenerate", "degenerate")


def ranks_of(values: NDArray[np.float64], metric: str = "spearman") -> Array:
    count = len(values)
    table = Table(values, (None,) * count, (None,) * count)
    return table.ranks(METRICS[metric], ~np.eye(count, dtype=bool), NOBODY).values


def test_ties_count_against_a_map() -> None:
    values = np.array([[0.5, 0.1, 0.7], [0.5, 0.1, 0.2], [0.1, 0.1, 0.7]])
    np.testing.assert_array_equal(ranks_of(values), [2, 3, 2])
    np.testing.assert_array_equal(ranks_of(-values, "centre_shift"), [2, 3, 2])


def test_one_map_for_all_images_is_last_everywhere() -> None:
    same = np.repeat(drawn(0)[:1], COUNT, axis=0)
    for name in ("ssim", "spearman", "cosine", "centre_shift"):
        table = tabulate(METRICS[name], Maps(same), Maps(same), BLOCKS)
        found = table.ranks(METRICS[name], OTHERS, NOBODY)
        np.testing.assert_array_equal(found.values, [4, 4, 4, 4, 3, 3, 3])


def test_an_image_alone_has_no_rank() -> None:
    maps = Maps(drawn(0)), Maps(drawn(1))
    table = tabulate(METRICS["spearman"], *maps, [np.array([place]) for place in range(COUNT)])
    nobody = np.zeros((COUNT, COUNT), dtype=bool)
    assert set(table.ranks(METRICS["spearman"], nobody, NOBODY).details) == {NOBODY}


def test_ranks_of_maps_that_know_nothing_are_even() -> None:
    """E[1/rank] among b is the mean of 1/k over k = 1..b, the chance that is subtracted."""
    rng = np.random.default_rng(0)
    found = [ranks_of(rng.normal(size=(8, 8))) for _ in range(2000)]
    counts = np.bincount(np.concatenate(found).astype(int), minlength=9)[1:]
    assert np.abs(counts / 16000 - 1 / 8).max() < 4 * np.sqrt(7 / 64 / 16000)
