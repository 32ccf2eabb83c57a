"""A new training against several of its recipe: on values whose answer is known."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recipe import predictions, side_of
from scipy.stats import t as student

from steadymap.bench.core.errors import ConfigError
from steadymap.bench.gate.comparison import COLUMNS, FAIL, IMPROVED, MISSING, PASS, WORSE
from steadymap.bench.gate.judging import Judged, judge
from steadymap.bench.gate.margins import Margins
from steadymap.bench.gate.network_bounds import Shares, network_bounds
from steadymap.bench.gate.network_lines import ACCURACY, AGREEMENT
from steadymap.bench.gate.question import ask, one_seed_text
from steadymap.bench.gate.retraining import (
    EXPECTED,
    NOT_JUDGED,
    Bound,
    bounds_of,
    judged,
    lines_of,
    power_notes,
)
from steadymap.bench.gate.side import Side

RNG = np.random.default_rng(3)
MEANS = (0.50, 0.54, 0.47, 0.52, 0.49)
IMAGES = RNG.normal(0, 0.1, 12)
IMAGES -= IMAGES.mean()
KEY = ("gradient", "bias", "ssim")
LABELS = [0] * 12


def trained(mean: float, weights: str = "new", key: tuple[str, str, str] = KEY) -> Side:
    return side_of({key: mean + IMAGES}, weights, predictions(LABELS, LABELS))


def recipe(*means: float, key: tuple[str, str, str] = KEY) -> Side:
    networks = tuple(trained(mean, f"w{place}", key) for place, mean in enumerate(means))
    return replace(networks[0], networks=networks)


def gate(before: Side, after: Side, *, network: bool = False) -> Judged:
    return judge(ask(before, after), after, Margins(), network=network)


def one(before: Side, after: Side) -> dict[str, object]:
    rows = gate(before, after).rows
    (row,) = rows[rows["family"] == "overall"].to_dict("records")
    return {str(key): value for key, value in row.items()}


# --- the bound ------------------------------------------------------------------------------------


def test_the_bound_is_that_of_one_more_network() -> None:
    """Mean - margin - t(S - 1) s sqrt(1 + 1/S): just above it passes, just below it fails."""
    spread = np.std(MEANS, ddof=1)
    bound = float(np.mean(MEANS) - 0.05 - student.ppf(0.95, 4) * spread * math.sqrt(1.2))
    for step, result, verdict in ((1e-6, PASS, EXPECTED), (-1e-6, FAIL, WORSE)):
        row = one(recipe(*MEANS), trained(bound + step))
        assert (row["gate"], row["verdict"]) == (result, verdict)
        assert row["p_value"] == pytest.approx(0.05, abs=1e-4)
        assert row["high"] == pytest.approx(-0.05, abs=1e-5), "a gain over the worst, at the margin"
    assert f"beyond {bound:.3g}, the bound of one more network (5 had 0.47 to 0.54)" in str(
        row["reason"]
    )
    assert f"bias {bound - 1e-6:.3g}" in str(row["reason"])


def test_as_many_lines_as_the_gate_has_share_its_level() -> None:
    lines = lines_of(recipe(*MEANS).networks, trained(0.3), Margins())
    alone, among = (judged(lines, Margins(), others=n).iloc[0]["p_value"] for n in (0, 9))
    assert among == pytest.approx(10 * alone)


@pytest.mark.parametrize("freedom", [4, 9, 24])
def test_the_loss_that_is_said_to_be_found_is_found_in_80_percent(freedom: int) -> None:
    """Spreads are drawn about the true one; the loss is what the true one gives."""
    rng = np.random.default_rng(freedom)
    draws, networks, level = 200_000, 5, 0.05 / 12
    loss = Bound(0.0, 0.1, freedom, networks, 0.05).found(level)
    spread = 0.1 * np.sqrt(rng.chisquare(freedom, draws) / freedom)
    far = rng.normal(0, 0.1 * math.sqrt(1.2), draws) - loss
    reach = student.ppf(1 - level, freedom) * spread * math.sqrt(1.2)
    assert np.mean(far < -0.05 - reach) == pytest.approx(0.8, abs=0.004)


def test_five_seeds_and_twelve_pooled_lines_find_about_four_spreads() -> None:
    """As the issue reckons beforehand: 4 of pooled lines, 3.3 of one alone, 8.6 of thirty alone."""
    for lines, freedom, expected in ((12, 48, 4.0), (1, 4, 3.3), (30, 4, 8.6)):
        found = Bound(0.0, 1.0, freedom, 5, 0.0).found(0.05 / lines)
        assert found == pytest.approx(expected, abs=0.25), lines


def contrasts(spread: float) -> np.ndarray:
    """Four lines of five networks that do not hang together at all."""
    rows = np.linalg.qr(np.column_stack([np.ones(5), np.eye(5)[:, :4]]))[0].T[1:]
    return rows * spread * 2  # of length one over four degrees of freedom


def test_lines_that_spread_alike_share_their_spread_by_how_they_hang_together() -> None:
    margins = np.zeros(4)
    for values, freedom in ((contrasts(0.1), 16.0), (np.tile(contrasts(0.1)[0], (4, 1)), 4.0)):
        bounds = bounds_of(values, margins)
        assert [bound.freedom for bound in bounds] == pytest.approx([freedom] * 4)
        assert [bound.spread for bound in bounds] == pytest.approx([0.1] * 4)
        assert {bound.pooled for bound in bounds} == {4}


def test_lines_that_spread_otherwise_keep_their_own() -> None:
    values = contrasts(0.1) * np.array([[1], [1], [1], [12]])
    bounds = bounds_of(values, np.zeros(4))
    assert [bound.spread for bound in bounds] == pytest.approx([0.1, 0.1, 0.1, 1.2])
    assert {(bound.freedom, bound.pooled) for bound in bounds} == {(4.0, 1)}


def test_networks_that_do_not_differ_have_the_margin_alone() -> None:
    before = recipe(*[0.5] * 5)
    for value, result in ((0.4500001, PASS), (0.4499, FAIL)):
        row = one(before, trained(value))
        assert row["gate"] == result
        assert row["detectable"] == pytest.approx(0.05)


def test_a_better_network_is_improved_and_a_common_one_as_expected() -> None:
    assert one(recipe(*MEANS), trained(0.9))["verdict"] == IMPROVED
    assert one(recipe(*MEANS), trained(0.53))["verdict"] == EXPECTED


ERRORS = ("integrated_gradients", "bias", "completeness_error")


@settings(deadline=None, max_examples=25)
@given(st.floats(0.01, 100), st.floats(0.3, 8))
def test_errors_are_compared_by_their_ratios(scale: float, factor: float) -> None:
    """Their margin is a share: in other logits the answer is the same."""
    errors = [0.4, 0.5, 0.35, 0.6, 0.45]

    def verdict(unit: float) -> tuple[object, object]:
        networks = [trained_error(unit * value, f"w{n}") for n, value in enumerate(errors)]
        before = replace(networks[0], networks=tuple(networks))
        row = one(before, trained_error(unit * 0.45 * factor, "new"))
        return row["gate"], row["verdict"]

    assert verdict(1.0) == verdict(scale)


def trained_error(value: float, weights: str) -> Side:
    return side_of({ERRORS: [value] * 3}, weights, predictions([0] * 3, [0] * 3))


def test_an_error_of_nothing_is_no_failure_and_a_tenfold_one_is() -> None:
    networks = [trained_error(value, f"w{value}") for value in (0.4, 0.5, 0.35, 0.6, 0.45)]
    before = replace(networks[0], networks=tuple(networks))
    assert one(before, trained_error(0.0, "new"))["gate"] == PASS
    assert one(before, trained_error(4.5, "new"))["gate"] == FAIL


# --- lines ----------------------------------------------------------------------------------------


def test_a_line_is_the_mean_over_families_which_are_shown_and_not_judged() -> None:
    def network(bias: float, noise: float, weights: str) -> Side:
        scores = {
            KEY: [bias] * 4,
            ("gradient", "gaussian_noise", "ssim"): [noise] * 4,
            ("gradient", "compensated_bias", "ssim"): [1.0] * 4,
        }
        return side_of(scores, weights, predictions([0] * 4, [0] * 4))

    networks = [network(mean, mean + 0.2, f"w{mean}") for mean in MEANS]
    # One family lost what the other gained.
    mean = float(np.mean(MEANS))
    after = network(mean - 0.4, mean + 0.6, "new")
    rows = gate(replace(networks[0], networks=tuple(networks)), after).rows.set_index("family")
    assert rows.loc["overall", "before"] == pytest.approx(np.mean(MEANS) + 0.1)
    assert rows.loc["overall", "gain"] == pytest.approx(0.0)
    assert rows.loc["overall", "gate"] == PASS
    assert rows.loc["bias", "gain"] == pytest.approx(-0.4)
    assert set(rows.loc[["bias", "gaussian_noise"], "verdict"]) == {NOT_JUDGED}
    assert set(rows.loc[["bias", "gaussian_noise"], "gate"]) == {""}
    assert "compensated_bias" not in rows.index


def test_a_line_that_has_no_value_any_more_fails() -> None:
    row = one(recipe(*MEANS), trained(0.5, key=("other", "bias", "ssim")))
    assert (row["gate"], row["verdict"], row["reason"]) == (
        FAIL,
        MISSING,
        "had values, and has none",
    )


def test_coverage_fails_below_that_of_every_network() -> None:
    """12 images: the networks have 12 or 11 values; of 11 - 12 * 0.05 = 10.4 none is below."""

    def network(mean: float, gone: int, weights: str) -> Side:
        values = np.append(np.full(gone, np.nan), mean + np.zeros(12 - gone))
        return side_of({KEY: values}, weights, predictions(LABELS, LABELS))

    networks = [network(mean, int(n == 2), f"w{n}") for n, mean in enumerate(MEANS)]
    before = replace(networks[0], networks=tuple(networks))
    for gone, result in ((1, PASS), (2, FAIL)):
        row = one(before, network(0.5, gone, "new"))
        assert row["gate"] == result
    assert "coverage is 8.3% below that of every network" in str(row["reason"])


def test_the_loss_that_is_found_is_said_by_metric() -> None:
    (note,) = power_notes(lines_of(recipe(*MEANS).networks, trained(0.5), Margins()))
    found = float(str(one(recipe(*MEANS), trained(0.5))["detectable"]))
    assert note == (
        f"ssim: a loss of {found:.2g} is found in 80% (margin 0.05; spread between networks 0.027, "
        "of each line alone)"
    )


# --- the network's shares -------------------------------------------------------------------------


def shares(after: float, *before: float, images: int = 60) -> Shares:
    return Shares(ACCURACY, np.array(before), after, images)


def result(line: Shares, others: int = 0) -> str:
    side = trained(0.5)
    (case,) = network_bounds([line], (side, side), others).cases
    return case.result


def test_shares_spread_at_least_as_chance_has_it() -> None:
    bound = shares(1.0, *[1.0] * 5).bound()
    share = 301 / 302
    assert bound.spread == pytest.approx(math.sqrt(share * (1 - share) / 60))
    apart = shares(1.0, 0.5, 0.9, 0.7, 0.8, 0.6).bound()
    assert apart.spread == pytest.approx(np.std([0.5, 0.9, 0.7, 0.8, 0.6], ddof=1))


def test_one_image_less_is_chance_and_half_of_them_is_not() -> None:
    assert result(shares(59 / 60, *[1.0] * 5)) == PASS
    assert result(shares(27 / 60, *[1.0] * 5), others=30) == FAIL
    assert result(shares(0.98, *[0.5] * 5)) == PASS


def test_a_ruined_training_fails_its_recipe() -> None:
    """Its maps are steadier than any: none of that is counted."""
    labels = [place % 3 for place in range(60)]

    def network(mean: float, said: list[int], weights: str) -> Side:
        return side_of({KEY: [mean] * 60}, weights, predictions(labels, said))

    networks = [network(mean, labels, f"w{mean}") for mean in MEANS]
    before = replace(networks[0], networks=tuple(networks))
    found = gate(before, network(0.95, [0] * 60, "new"), network=True)
    results = {case.name: case.result for case in found.network.cases}
    assert results == {ACCURACY: FAIL, "network / bias / share kept": PASS}
    assert IMPROVED not in set(found.rows["verdict"])
    assert found.network.fell
    fine = gate(before, network(0.5, [1, *labels[1:]], "new"), network=True)
    assert not fine.network.fell


def test_without_labels_a_training_agrees_as_its_recipe_does() -> None:
    nobody = [None] * 60

    def network(wrong: range, weights: str) -> Side:
        said = [1 if place in wrong else 0 for place in range(60)]
        return side_of({KEY: [0.5] * 60}, weights, predictions(nobody, said))

    networks = [network(range(n, n + 2), f"w{n}") for n in range(5)]
    before = replace(networks[0], networks=tuple(networks))
    for wrong, expected in ((range(20, 23), PASS), (range(20, 55), FAIL)):
        found = gate(before, network(wrong, "new"), network=True)
        (agreement,) = [case for case in found.network.cases if case.name == AGREEMENT]
        assert agreement.result == expected


# --- the question ---------------------------------------------------------------------------------


def test_the_weights_ask_the_question() -> None:
    several = recipe(*MEANS)
    same = ask(several, trained(0.5, "w3"))
    assert same.before is several.networks[3]
    assert same.networks == ()
    assert same.text.startswith("Question: the same weights as run, of one of its 5 networks.")
    new = ask(several, trained(0.5))
    assert new.networks == several.networks
    assert new.text.startswith("Question: a new training. Is this network as good as one more of")
    single = trained(0.5, "w0")
    assert ask(single, trained(0.4, "w0")).text.startswith("Question: the same weights as run. Are")


def test_new_weights_against_one_network_are_refused_unless_allowed() -> None:
    single = trained(0.5, "w0")
    with pytest.raises(ConfigError, match="--allow-one-seed") as refused:
        ask(single, trained(0.5))
    assert "baseline save RUN RUN RUN RUN RUN run" in str(refused.value)
    asked = ask(single, trained(0.5), allow_one_seed=True)
    assert (asked.before, asked.networks) == (single, ())
    assert one_seed_text() in asked.text


def test_the_rows_are_those_of_a_comparison() -> None:
    rows = gate(recipe(*MEANS), trained(0.5)).rows
    assert list(rows.columns) == COLUMNS
    assert isinstance(rows, pd.DataFrame)
