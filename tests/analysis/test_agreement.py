"""How far orders agree: on orders that are written out."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from known_scores import scored
from support import frame

from steadymap.bench.analysis.agreement import (
    COLUMNS,
    FAMILIES_AGREE,
    HEADLINES,
    IMAGES_AGREE,
    METRICS_AGREE,
    agreement_row,
    disagreement,
    winner_sentence,
)
from steadymap.bench.analysis.findings import Findings


def row_of(scores: list[list[float]]) -> dict[str, object]:
    return agreement_row("ssim", IMAGES_AGREE, np.array(scores))


def test_orders_that_are_the_same_agree_wholly_and_opposite_ones_not_at_all() -> None:
    same = row_of([[1, 2, 3], [10, 20, 30], [0, 0.1, 5]])
    assert [same[name] for name in ("raters", "methods")] == [3, 3]
    assert [same[name] for name in COLUMNS[4:]] == pytest.approx([1, 1, 1])
    opposite = row_of([[1, 2, 3, 4], [4, 3, 2, 1]])
    assert opposite["kendall_w"] == pytest.approx(0)
    assert opposite["mean_correlation"] == pytest.approx(-1)
    assert float(str(opposite["alpha"])) < 0


def test_kendall_s_w_is_corrected_for_ties() -> None:
    # Sums of ranks 2.5, 4.5, 5: S = 3.5; 12 S / (4 (27 - 3) - 2 (8 - 2)).
    tied = row_of([[1, 1, 2], [1, 3, 2]])
    assert tied["kendall_w"] == pytest.approx(12 * 3.5 / (4 * 24 - 2 * 6))


def test_one_order_or_one_method_agrees_with_nothing() -> None:
    for scores in ([[1.0, 2.0, 3.0]], [[1.0], [2.0]], [[1.0, np.nan], [1.0, 2.0]]):
        assert "kendall_w" not in row_of(scores)
    assert "kendall_w" not in row_of([[1.0, 1.0], [2.0, 2.0]]), "nobody tells them apart"


def test_findings_say_how_far_metrics_families_and_images_agree() -> None:
    rng = np.random.default_rng(0)
    rows = []
    # By SSIM the first is the best, by rank correlation the second; families agree.
    for name, order in (("ssim", (0.9, 0.7, 0.5)), ("spearman", (0.7, 0.9, 0.5))):
        for family in ("bias", "noise"):
            for method, mean in zip("abc", order, strict=True):
                values = mean + 0.01 * rng.standard_normal(12)
                fixed = {"family": family, "method": method}
                rows += scored(values, [0.1] * 12, [0.0] * 12, name=name, **fixed)
    findings = Findings.of(frame(rows))
    table = findings.agreement.set_index(["metric", "among"])
    assert table.loc[(HEADLINES, METRICS_AGREE), "mean_correlation"] == pytest.approx(0.5)
    for metric in ("ssim", "spearman"):
        assert table.loc[(metric, FAMILIES_AGREE), "kendall_w"] == pytest.approx(1)
        assert table.loc[(metric, FAMILIES_AGREE), "raters"] == 2
        assert table.loc[(metric, IMAGES_AGREE), "raters"] == 12
    said = disagreement(findings.agreement, findings.ranks, ["ssim", "spearman"])
    assert said == ("the best by spearman is b, by ssim a",)
    assert winner_sentence(said).startswith("there is no single winner: the best by spearman")


def test_there_may_be_a_winner_where_orders_agree() -> None:
    agreement = pd.DataFrame(
        [
            [HEADLINES, METRICS_AGREE, 2, 3, 0.9, 0.8, 0.8],
            ["ssim", FAMILIES_AGREE, 4, 3, 0.8, 0.7, 0.7],
        ],
        columns=COLUMNS,
    )
    ranks = pd.DataFrame(
        [
            ["ssim", "a", 1, 1],
            ["ssim", "b", 2, 1],
            ["spearman", "b", 1, 1],
            ["spearman", "a", 2, 1],
        ],
        columns=["metric", "method", "rank", "low"],
    )
    assert disagreement(agreement, ranks, ["ssim", "spearman"]) == ()
    assert winner_sentence(()) == ""
    apart = agreement.assign(mean_correlation=[0.4, 0.3])
    said = disagreement(apart, ranks, ["ssim", "spearman"])
    assert [text.split()[0] for text in said] == ["metrics", "perturbations"]
