"""The study: its rules on cases whose answer is known, and its text from the committed scores."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.stats import spearmanr
from support import ROOT

from steadymap.bench.analysis.intervals import Interval
from steadymap.bench.records.schema import SCHEMA

RESULTS = ROOT / "results"


@pytest.fixture(scope="module")
def scripts() -> Iterator[tuple[ModuleType, ModuleType, ModuleType]]:
    sys.path.insert(0, str(RESULTS / "study"))
    import claims  # noqa: PLC0415 - a script, found by the line above
    import collect  # noqa: PLC0415 - as above
    import remake  # noqa: PLC0415 - as above

    yield claims, collect, remake
    sys.path.remove(str(RESULTS / "study"))


@pytest.fixture(scope="module")
def claims(scripts: tuple[ModuleType, ...]) -> ModuleType:
    return scripts[0]


@pytest.mark.parametrize(
    ("own", "others", "expected"),
    [
        ([True, True], [True] * 4 + [False], "holds"),
        ([True, True], [True] * 3 + [False] * 2, "holds in part"),
        ([True, False], [True] * 5, "holds in part"),
        ([False, False], [True] + [False] * 4, "does not hold"),
        ([False, False], [True] * 2 + [False] * 3, "holds in part"),
        ([True, False], [False] * 5, "holds in part"),
    ],
)
def test_a_verdict_is_as_the_rules_say(
    claims: ModuleType, own: list[bool], others: list[bool], expected: str
) -> None:
    assert claims.verdict(own, others) == expected


def test_orders_that_agree_have_a_concordance_of_1_and_opposite_ones_of_0(
    claims: ModuleType,
) -> None:
    order = {"a": 0.1, "b": 0.5, "c": 0.9}
    opposite = {"a": 0.9, "b": 0.5, "c": 0.1}
    assert claims.concordance([order, order, order]) == pytest.approx(1)
    assert claims.concordance([order, opposite]) == pytest.approx(0)
    # Two of three judges agree: sums of ranks 5, 6, 7; S = 2; 12 * 2 / (9 * 24).
    assert claims.concordance([order, order, opposite]) == pytest.approx(24 / 216)
    assert claims.agreement(order, opposite) == -1


@given(arrays.arrays(np.float64, (2, 9), elements=st.integers(-4, 4).map(float)))
def test_rank_correlation_is_scipy_s(claims: ModuleType, both: np.ndarray[Any, Any]) -> None:
    if np.ptp(both[0]) == 0 or np.ptp(both[1]) == 0:
        assert np.isnan(claims.rank_correlation(*both))
    else:
        assert claims.rank_correlation(*both) == pytest.approx(spearmanr(*both).statistic)


def scores(rows: list[dict[str, Any]]) -> pd.DataFrame:
    base = {
        "run_id": "r", "model": "m", "dataset": "d", "label": 0, "target": 0, "pred_clean": 0,
        "pred_perturbed": 0, "kept": True, "severity": 0.0, "draw": 0, "status": "ok", "detail": "",
    }  # fmt: skip
    table = pd.DataFrame([base | row for row in rows])
    return table[list(SCHEMA.names)]


def maps(image: int, family: str, severity: float, more: dict[str, float]) -> list[dict[str, Any]]:
    place = {"image_id": f"i{image:02d}", "method": "grad_cam", "family": family}
    return [place | {"severity": severity, "metric": name, "value": v} for name, v in more.items()]


def drifting(claims: ModuleType) -> Any:
    """Ten images, null SSIM 0.2: four keep, three lose the hand, two of them move, one vanishes."""
    after = [(1.0, 0.8)] * 4 + [(0.5, 0.7)] * 2 + [(0.2, 0.35)] + [(0.1, 0.1)] * 2
    rows = []
    for image in range(10):
        rows += maps(image, "clean", 0.0, {"mask_mass": 0.8})
        for family in ("other_image", "random_network"):
            rows += maps(image, family, 0.0, {"ssim": 0.2 if family == "other_image" else 0.1})
        if image < len(after):
            ssim, mass = after[image]
            rows += maps(image, "bias", 0.3, {"ssim": ssim, "mask_mass": mass})
    ids = [f"i{image:02d}" for image in range(10)]
    images = pd.DataFrame({"hand": [0.25] * 10}, index=ids)
    return claims.Network("rps", {}, scores(rows), images, pd.DataFrame(), pd.DataFrame())


def test_maps_that_keep_lose_move_and_vanish_are_counted(claims: ModuleType) -> None:
    found = claims.drift(drifting(claims), 0.3)
    assert found.images == 10
    # Calibrated 1, 0.375, 0, -0.125 by the null of 0.2.
    assert (found.keeps.mean, found.loses.mean) == (0.4, 0.3)
    assert (found.moves.mean, found.empty.mean) == (0.2, 0.1)
    assert found.before.mean == pytest.approx(0.8)
    assert found.even.mean == pytest.approx(0.25)


def test_the_steps_needed_are_those_from_which_on_the_error_stays_small(claims: ModuleType) -> None:
    errors = {4: [0.2, 0.4], 8: [0.04, 0.02], 16: [0.08, 0.06], 32: [0.03, 0.01], 64: [0.02, 0.02]}
    steps = pd.DataFrame(
        [
            {"image_id": f"i{n}", "method": "integrated_gradients:baseline=black", "steps": k,
             "relative": value}
            for k, values in errors.items() for n, value in enumerate(values)
        ]
    )  # fmt: skip
    network = claims.Network("n", {}, pd.DataFrame(), pd.DataFrame(), pd.DataFrame(), steps)
    assert claims.steps_needed(network, "black", 0.05) == 32
    assert claims.steps_needed(network, "black", 0.01) is None
    assert claims.steps_needed(network, "black", 0.5) == 4
    # Of eight doublings, both of 8 to 16 and one of 32 to 64 made it worse.
    assert claims.more_is_worse(network, "black").mean == pytest.approx(3 / 8)


def test_a_negative_share_is_of_one_method(claims: ModuleType) -> None:
    """Not of all whose names begin so."""
    rows = [
        {"image_id": f"i{n}", "method": method, "negative": value}
        for n in range(3)
        for method, value in (("gradient", 0.5), ("gradient_x_input", 0.25))
    ]
    empty = pd.DataFrame()
    network = claims.Network("n", {}, empty, empty, pd.DataFrame(rows), empty)
    assert claims.negative_share(network, "gradient").mean == 0.5


@pytest.mark.parametrize(
    ("high", "word"),
    [(0.04, "holds"), (0.06, "holds in part"), (0.24, "holds in part"), (0.3, "does not hold")],
)
def test_signs_are_judged_by_their_interval(claims: ModuleType, high: float, word: str) -> None:
    assert claims.by_size(Interval(0.01, 0.0, high, "bca")) == word


def test_a_calibrated_gap_is_the_difference_of_calibrated_scores(claims: ModuleType) -> None:
    rows = []
    generator = np.random.default_rng(0)
    for image in range(40):
        for method, level, null in (("a", 0.9, 0.2), ("b", 0.6, 0.4)):
            for family in ("bias", "other_image", "random_network"):
                value = level if family == "bias" else null - 0.1 * (family == "random_network")
                value += 0.05 * generator.standard_normal()
                rows.append(
                    {"image_id": f"i{image:02d}", "method": method, "family": family,
                     "metric": "ssim", "value": value}
                )  # fmt: skip
    frame = scores(rows)
    network = claims.Network("n", {}, frame, pd.DataFrame(), pd.DataFrame(), pd.DataFrame())
    gap = claims.calibrated_gap(network, "ssim", "a", "b")
    by = network.calibrated.set_index(["method", "family"])["calibrated"]
    assert gap.mean == pytest.approx(by["a", "bias"] - by["b", "bias"])
    assert gap.low > 0.4
    assert claims.calibrated_gap(network, "ssim", "b", "a").mean == pytest.approx(-gap.mean)


def test_values_are_kept_to_four_digits(scripts: tuple[ModuleType, ...]) -> None:
    _, collect, _ = scripts
    values = [0.123456, 12345.6, -0.000123456, 0.0, np.nan]
    rows = [{"image_id": "i", "method": "m", "family": "bias", "metric": "ssim", "value": v}
            for v in values]  # fmt: skip
    rows.append(rows[0] | {"metric": "ssim.recognised"})
    slim = collect.slim(scores(rows))
    np.testing.assert_allclose(slim["value"], [0.1235, 12350, -0.0001235, 0, np.nan], rtol=1e-12)


NUMBER = re.compile(r"[+-]?\d+(?:\.\d+)?")


def test_text_and_figures_are_what_the_committed_scores_make(
    scripts: tuple[ModuleType, ...], tmp_path: Path
) -> None:
    """Words are equal, and numbers but for the last digit, which another library may move."""
    scripts[2].remake(tmp_path)
    made = (tmp_path / "study.md").read_text(encoding="utf-8")
    kept = (RESULTS / "study.md").read_text(encoding="utf-8")
    assert NUMBER.sub("0", made) == NUMBER.sub("0", kept)
    for one, two in zip(NUMBER.findall(made), NUMBER.findall(kept), strict=True):
        digits = len(two.partition(".")[2])
        assert abs(float(one) - float(two)) < 1.5 * 10**-digits, (one, two)
    figures = {path.name for path in (RESULTS / "study").glob("*.svg")}
    assert {path.name for path in (tmp_path / "study").iterdir()} == figures
    linked = set(re.findall(r"\(study/([^)]*\.(?:svg|png|md))\)", kept))
    assert figures - linked == set()
    assert all((RESULTS / "study" / name).is_file() for name in linked)
