"""The sentences are made of the numbers, and claim no more."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
from finished import METHODS, calibrated_by_hand
from pages import parsed

from steadymap.bench import read_run
from steadymap.bench.analysis.cells import is_unrelated
from steadymap.bench.analysis.findings import Findings
from steadymap.bench.analysis.leaderboard import board_metrics
from steadymap.bench.records.vocabulary import CLEAN, REFERENCES, is_control
from steadymap.bench.report.answer import _listed, answer
from steadymap.bench.report.finished_run import FinishedRun
from steadymap.bench.report.page import render
from steadymap.bench.report.sections.leaderboard import board_grid


def test_the_answer_is_made_of_the_numbers(
    finished_run: FinishedRun, finished_records: pd.DataFrame
) -> None:
    held, moved, uncertain = answer(finished_run.findings)
    scores = {method: calibrated_by_hand(finished_records, method, "ssim") for method in METHODS}
    best, worst = max(scores, key=scores.__getitem__), min(scores, key=scores.__getitem__)
    assert f"{best.partition(':')[0]} held best (calibrated SSIM {scores[best]:.2f}" in held
    assert f"{worst.partition(':')[0]} least ({scores[worst]:.2f}" in held
    assert held.startswith("On 6 images")
    pairs = finished_records[~finished_records["family"].isin((*REFERENCES, CLEAN))]
    pairs = pairs.drop_duplicates(["image_id", "family", "severity"])
    assert f"of {len(pairs)} perturbed images" in moved
    # That all of it is the network's with gradient is so by definition, and no finding.
    assert "with gradient_x_input" in moved
    assert "with gradient." not in moved
    assert "fewer than 30 images" in uncertain


def test_an_answer_without_calibration_says_so(finished_folder: Path) -> None:
    records, _ = read_run(finished_folder)
    raw = Findings.of(records[~records["metric"].astype(str).map(is_unrelated)])
    held, _, uncertain = answer(raw)
    means = raw.summary[
        (raw.summary["metric"] == "ssim")
        & (raw.summary["family"] == "overall")
        & (raw.summary["subset"] == "all")
        & ~raw.summary["method"].map(is_control)
    ]
    best = means.sort_values("mean").iloc[-1]
    assert f"{str(best['method']).partition(':')[0]} held best (raw, uncalibrated SSIM" in held
    assert f"{best['mean']:.2f} [" in held
    assert "scores are raw" in uncertain


def test_what_is_uncertain_of_many_is_said_once(finished_run: FinishedRun) -> None:
    findings = finished_run.findings
    text = answer(findings)[2]
    assert "draws" not in text, "none of them draws anything"
    places = [part for part in text.split("; ") if "not settled" in part]
    assert len(places) == len(board_metrics(findings)) == 2
    # A method that draws, and one of which that is not known.
    dice = pd.DataFrame(
        {"method": METHODS, "family": "overall", "metric": "ssim", "seed_share": [0.75, 0.49, None]}
    )
    text = answer(replace(findings, dice=dice))[2]
    assert text.count("draws") == 1
    assert "; 75.0% of what moves with gradient by SSIM is its own draws" in text
    assert _listed(["a"]) == "a"
    assert _listed(list("abcd")) == "a, b, c and d"
    assert _listed(list("abcde")) == "5 methods"


def test_no_single_winner_is_told_in_the_names_of_the_page(finished_run: FinishedRun) -> None:
    findings = finished_run.findings
    places = {
        ("ssim", METHODS[2]): 1, ("ssim", METHODS[0]): 2, ("ssim", METHODS[1]): 3,
        ("spearman", METHODS[0]): 1, ("spearman", METHODS[2]): 2, ("spearman", METHODS[1]): 3,
    }  # fmt: skip
    keys = zip(findings.ranks["metric"], findings.ranks["method"], strict=True)
    place = [places.get(key, 1) for key in keys]
    ranks = findings.ranks.assign(rank=place, low=place, high=place)
    agreement = pd.DataFrame(
        [
            {"metric": "headlines", "among": "metrics", "kendall_w": 0.5, "mean_correlation": 0.0},
            {"metric": "spearman", "among": "families", "kendall_w": 0.6, "mean_correlation": 0.2},
            {"metric": "ssim", "among": "families", "kendall_w": 0.9, "mean_correlation": 0.8},
        ]
    )
    page = parsed(render([replace(
        finished_run, findings=replace(findings, ranks=ranks, agreement=agreement)
    )]))  # fmt: skip
    (said,) = (text for text in page.texts if "there is no single winner" in text)
    _, _, reasons = said.partition("there is no single winner: ")
    assert reasons.split("; ")[:3] == [
        "metrics disagree in the order of methods (W = 0.50)",
        "perturbations disagree in it by rank correlation (W = 0.60)",
        "the best by SSIM is integrated_gradients, by rank correlation gradient.",
    ]


def test_an_answer_claims_no_more_than_is_known(finished_records: pd.DataFrame) -> None:
    """Ties by any metric that it names, methods without a number, and one image."""
    wide = pd.concat(
        [
            finished_records.assign(image_id=finished_records["image_id"].astype(str) + f"-{copy}")
            for copy in range(6)
        ]
    )
    findings = Findings.of(wide)
    ranks = findings.ranks.assign(low=1, high=1)
    settled = replace(findings, ranks=ranks)
    assert "are not settled" not in answer(settled)[2]
    tied = ranks.assign(high=ranks["high"].mask(ranks["metric"] == "spearman", 2))
    assert "by rank correlation are not settled" in answer(replace(findings, ranks=tied))[2]
    last = finished_records["image_id"].iloc[-1]
    alone = Findings.of(finished_records[finished_records["image_id"] == last])
    said = " ".join(answer(alone))
    assert "nan" not in said
    assert "without a number by SSIM" in said or "held best" in said


def test_an_answer_about_another_metric_says_nothing_of_steadiness(
    finished_run: FinishedRun, finished_records: pd.DataFrame
) -> None:
    findings = Findings.of(finished_records[finished_records["metric"] == "completeness_error"])
    held, _, uncertain = answer(findings)
    assert "held" not in held
    assert "has the best completeness error" in held
    assert "unrelated maps" not in uncertain
    grid = board_grid(findings, finished_run.costs_by_method())
    assert grid.columns.count("completeness error") == 1
