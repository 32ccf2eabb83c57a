"""Whose fault it is: four cells, their halves, and where there are none."""

from __future__ import annotations

import math

import pytest
from known_scores import Row, only
from support import frame

from steadymap.bench.analysis.whose_fault import (
    IDENTITY,
    INTERACTING,
    NEGATIVE,
    SPLIT,
    STILL,
    UNMEASURED,
    whose_fault,
)


def cells(
    bias: list[float], compensated: list[float], shifted: list[float], **fixed: object
) -> list[Row]:
    """Rows of scores of each image where both are shifted, the image alone, the network alone."""
    columns = {"bias": bias, "compensated_bias": compensated, "shifted_network": shifted}
    return [
        {"image_id": f"i{place}", "family": family, "value": value} | fixed
        for family, column in columns.items()
        for place, value in enumerate(column)
    ]


def overall(rows: list[Row]) -> Row:
    """The row of all severities together."""
    faults = whose_fault(frame(rows))
    return only(faults[faults["severity"].isna()])


def test_the_halves_are_what_each_change_adds_averaged_over_their_order() -> None:
    row = overall(cells([0.4, 0.4, 0.4], [0.9, 0.7, 0.8], [0.5, 0.7, 0.6]))
    assert (row["total"], row["compensated_bias"], row["shifted_network"]) == (
        pytest.approx(0.6), pytest.approx(0.2), pytest.approx(0.4),
    )  # fmt: skip
    assert row["own"] == pytest.approx((0.2 + (0.6 - 0.4)) / 2)
    assert row["network"] == pytest.approx((0.4 + (0.6 - 0.2)) / 2)
    assert row["interaction"] == pytest.approx(0.0, abs=1e-12)
    assert row["network_share"] == pytest.approx(0.4 / 0.6)
    assert row["verdict"] == SPLIT
    assert float(str(row["own_low"])) < 0.2 < float(str(row["own_high"]))
    assert float(str(row["low"])) < 2 / 3 < float(str(row["high"]))


def test_an_interaction_is_a_number_of_its_own_and_is_shared_equally() -> None:
    row = overall(cells([0.1, 0.1], [0.8, 0.8], [0.6, 0.6]))
    assert row["interaction"] == pytest.approx(0.9 - 0.2 - 0.4)
    assert (row["own"], row["network"]) == (pytest.approx(0.35), pytest.approx(0.55))
    assert row["verdict"] == SPLIT
    assert float(str(row["own"])) + float(str(row["network"])) == pytest.approx(0.9)


@pytest.mark.parametrize(
    ("bias", "compensated", "shifted", "verdict"),
    [
        (0.8, 0.6, 0.3, NEGATIVE),
        (0.2, 0.95, 0.95, INTERACTING),
        (0.6, 1.0, 0.6, IDENTITY),
        (1.0, 1.0, 1.0, STILL),
    ],
)
def test_where_effects_are_no_parts_of_a_whole_words_say_so(
    bias: float, compensated: float, shifted: float, verdict: str
) -> None:
    row = overall(cells([bias] * 3, [compensated] * 3, [shifted] * 3))
    assert row["verdict"] == verdict
    assert (row["network_share"] == pytest.approx(1.0)) == (verdict == IDENTITY)
    assert math.isnan(float(str(row["network_share"]))) == (verdict != IDENTITY)
    assert row["total"] == pytest.approx(1 - bias)


def test_what_did_not_move_beyond_rounding_has_no_culprit() -> None:
    rows = cells([0.9999, 0.9999], [0.99995, 0.99995], [0.99995, 0.99995])
    assert overall(rows)["verdict"] == SPLIT
    floor: Row = {"family": "float64", "value": 0.999}
    assert overall([*rows, floor])["verdict"] == STILL


def test_only_severities_and_images_that_all_families_have_are_split() -> None:
    rows = cells([0.5, 0.5], [0.9, 0.9], [0.6, 0.6])
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
    row = overall(rows)
    assert row["images"] == 2
    assert (row["total"], row["compensated_bias"]) == (pytest.approx(0.5), pytest.approx(0.1))
    assert set(whose_fault(frame(rows))["severity"].dropna()) == {0.1}


def test_each_severity_has_a_split_of_its_own() -> None:
    rows = cells([0.5, 0.5], [0.9, 0.9], [0.6, 0.6])
    rows += cells([0.2, 0.2], [0.6, 0.6], [0.6, 0.6], severity=0.3)
    faults = whose_fault(frame(rows))
    shares = {
        row["severity"]: row["network_share"]
        for row in faults[faults["severity"].notna()].to_dict("records")
    }
    assert shares == {0.1: pytest.approx(0.8), 0.3: pytest.approx(0.5)}
    assert overall(rows)["network"] == pytest.approx((0.4 + 0.65 - 0.25) / 2)


def test_without_the_network_shifted_alone_there_are_no_halves() -> None:
    rows = [row for row in cells([0.5] * 2, [0.9] * 2, []) if row]
    row = overall(rows)
    assert (row["total"], row["compensated_bias"]) == (pytest.approx(0.5), pytest.approx(0.1))
    assert (row["verdict"], math.isnan(float(str(row["own"])))) == (UNMEASURED, True)
    # At a severity that the third lacks neither; together are those of all three.
    mixed = [*cells([0.2] * 2, [0.6] * 2, [0.6] * 2, severity=0.3), *rows]
    faults = whose_fault(frame(mixed)).set_index("severity")
    assert faults["verdict"].tolist() == [SPLIT, UNMEASURED, SPLIT]
    assert overall(mixed)["total"] == pytest.approx(0.8)


def test_without_both_families_there_is_nothing_to_split() -> None:
    assert whose_fault(frame([{}])).empty
    assert whose_fault(frame([{}, {"family": "compensated_bias", "severity": 0.2}])).empty
