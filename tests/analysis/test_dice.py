"""Another seed: how much of what moves is the method's own dice, and who does not declare them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest
from support import frame

from steadymap.bench.analysis.dice import seed_moves, seed_share, wrong_declarations
from steadymap.bench.records.vocabulary import (
    FLOAT64,
    OF_EVERY_METHOD,
    OF_STOCHASTIC,
    OTHER_SEED,
    ROUNDED,
)

Row = dict[str, object]


def rows(values: Sequence[float], **where: object) -> list[Row]:
    """Records of images i0, i1, ... that have these values."""
    return [where | {"image_id": f"i{n}", "value": value} for n, value in enumerate(values)]


def again(values: Sequence[float], draw: int = OF_STOCHASTIC, **where: object) -> list[Row]:
    return rows(values, family=OTHER_SEED, severity=0.0, draw=draw, **where)


def share_of(records: pd.DataFrame, family: str) -> float:
    found = seed_share(records)
    return float(found.loc[found["family"] == family, "seed_share"].item())


def test_the_share_is_a_ratio_of_means_and_families_count_the_same() -> None:
    records = frame(
        again([0.8, 0.6])
        + rows([0.5, 0.1], family="bias")
        + rows([0.3, 0.1], family="bias", severity=0.3)
        + rows([0.9, 0.7], family="gaussian_noise")
        # Nobody's pictures are changed so.
        + rows([-0.9, -0.9], family="compensated_bias")
    )
    # By hand: .3 / mean(.6, .9), not the mean of .2 / .6 and .4 / .9.
    assert share_of(records, "bias") == pytest.approx(0.3 / 0.75)
    assert share_of(records, "gaussian_noise") == pytest.approx(0.3 / 0.2)
    assert share_of(records, "overall") == pytest.approx(0.3 / ((0.75 + 0.2) / 2))
    assert share_of(records, "compensated_bias") == pytest.approx(0.3 / 1.9)


def test_of_a_sum_of_independent_parts_the_share_is_the_part_of_the_dice() -> None:
    """Squared distances add up: with dice of variance 3 and an image that moves it by 1."""
    rng = np.random.default_rng(0)
    images, pixels = 40, 400
    clean = rng.standard_normal((images, pixels))
    thrown = [rng.standard_normal((images, pixels)) * 3**0.5 for _ in range(3)]
    moved = rng.standard_normal((images, pixels)) * 2**0.5

    def apart(first: np.ndarray, second: np.ndarray) -> list[float]:
        distances: list[float] = ((first - second) ** 2).mean(axis=1).tolist()
        return distances

    seeds = apart(clean + thrown[0], clean + thrown[1])
    fresh = apart(clean + thrown[0], clean + moved + thrown[2])
    records = frame(
        again(seeds, metric="relative_l2") + rows(fresh, family="bias", metric="relative_l2")
    )
    assert share_of(records, "bias") == pytest.approx(6 / 8, abs=0.02)


def test_where_maps_move_no_more_than_rounding_there_is_no_share() -> None:
    still = rows([0.999, 0.999], family="bias") + again([0.999, 0.999])
    floor = rows([0.99, 0.99], family=ROUNDED, severity=0.0)
    assert np.isnan(share_of(frame(still + floor), "bias"))
    assert share_of(frame(still), "bias") == pytest.approx(1)
    assert np.isnan(share_of(frame(rows([1.0], family="bias") + again([1.0])), "bias"))


def test_images_that_have_only_one_of_the_two_are_left_out() -> None:
    records = frame(again([0.5]) + rows([0.5, -1.0], family="bias"))
    found = seed_share(records)
    assert found["seed_share"].tolist() == pytest.approx([1, 1])
    assert found["images"].tolist() == [1, 1]


def test_methods_that_are_not_declared_have_no_share() -> None:
    records = frame(
        again([0.5, 0.5], OF_EVERY_METHOD, method="gradient") + rows([0.2, 0.2], family="bias")
    )
    assert seed_share(records).empty


@pytest.mark.parametrize(
    ("declared", "seeds", "floor", "sentence"),
    [
        (False, [1.0, 1.0], [1.0, 0.999], ""),
        (True, [0.5, 0.9], [1.0, 0.999], ""),
        # As far as rounding goes it has not been moved.
        (False, [0.99, 0.98], [0.98, 0.98], ""),
        (
            False, [1.0, 0.9], [0.999, 0.999],
            "own.method is declared deterministic, and another seed moves its map",
        ),
        (
            True, [1.0, 1.0], [1.0, 1.0],
            "own.method is declared stochastic, and another seed does not move its map",
        ),
    ],
)  # fmt: skip
def test_a_wrong_declaration_is_named(
    *, declared: bool, seeds: list[float], floor: list[float], sentence: str
) -> None:
    spec = "own.method"
    records = again(seeds, OF_EVERY_METHOD, method=spec)
    records += again([0.2, 0.3], method=spec) if declared else []
    records += rows(floor, family=FLOAT64, severity=0.0, method=spec)
    found = wrong_declarations(seed_moves(frame(records)))
    assert found == ({spec: sentence} if sentence else {})


def test_one_metric_that_sees_it_is_enough() -> None:
    records = again([1.0, 1.0], OF_EVERY_METHOD, metric="ssim")
    records += again([0.7, 0.8], OF_EVERY_METHOD, metric="spearman")
    assert list(wrong_declarations(seed_moves(frame(records)))) == ["gradient"]
