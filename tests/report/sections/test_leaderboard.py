"""The leaderboard has the numbers of the records, and what they cost."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from finished import METHODS, calibrated_by_hand
from pages import board_of, parsed

from steadymap.bench import read_run
from steadymap.bench.analysis.leaderboard import coverage
from steadymap.bench.report.finished_run import FinishedRun
from steadymap.bench.report.sections.leaderboard import board_grid


def test_the_leaderboard_has_the_numbers_of_the_records(finished_folder: Path) -> None:
    records, manifest = read_run(finished_folder)
    head, board = board_of(parsed((finished_folder / "report.html").read_text()))
    assert head[:4] == ["method", "SSIM", "rank", "recognised"]
    names = {"gradient": METHODS[0], "gradient_x_input": METHODS[1]}
    names["integrated_gradients"] = METHODS[2]
    for name, method in names.items():
        for metric, column in (("ssim", "SSIM"), ("spearman", "rank correlation")):
            place = head.index(column)
            number = board[name][place - 1].split()[0]
            assert number == f"{calibrated_by_hand(records, method, metric):.2f}"
            places = records[
                (records["method"] == method)
                & (records["metric"] == f"{metric}.rank")
                & (records["family"] == "bias")
                & records["kept"]
            ]
            first = (places["value"] == 1).groupby(places["image_id"], observed=True).mean()
            share = float(board[name][place + 1].rstrip("%")) / 100
            assert share == pytest.approx(first.mean(), abs=0.001)
        passes = board[name][head.index("passes") - 1].split()[0]
        assert int(passes) == manifest["passes_by_method"][method]["each"]
    errors = records[
        (records["method"] == METHODS[2])
        & (records["metric"] == "completeness_error")
        & (records["family"] == "bias")
    ]
    number = board["integrated_gradients"][head.index("completeness error") - 1].split()[0]
    assert number == f"{errors['value'].mean():.2f}"
    assert board["control: edge"][0] == "uninformative"
    assert {name for name in board if name.startswith("control: ")} >= {
        "control: another image's map",
        "control: randomised network's map",
    }


def test_coverage_is_that_of_the_headline(finished_run: FinishedRun) -> None:
    """Of calibrated scores the mean over the metrics; of raw ones the share that has a value."""
    findings = finished_run.findings
    calibrated = findings.calibrated
    half = (calibrated["method"] == METHODS[0]) & (calibrated["metric"] == "ssim")
    shares = calibrated["coverage"].mask(half, 0.5).mask(calibrated["family"] == "bias", 0.1)
    found = replace(findings, calibrated=calibrated.assign(coverage=shares))
    assert set(calibrated[calibrated["family"] == "overall"]["coverage"]) == {1.0}
    cells = {row[0].key: row[-1].text for row in board_grid(found).rows}
    assert cells == dict.fromkeys(finished_run.names().values(), "100%") | {"gradient": "75.0%"}
    counts = findings.scan.counts
    lost = (counts["method"] == METHODS[2]) & (counts["metric"] == "completeness_error")
    status = counts["status"].astype(str).mask(lost, "degenerate")
    scan = replace(findings.scan, counts=counts.assign(status=status))
    raw = replace(findings, calibrated=calibrated.iloc[:0], scan=scan)
    assert coverage(raw, METHODS[2], ["completeness_error"]) == 0
    assert coverage(raw, METHODS[1], ["ssim", "spearman"]) == 1


def test_passes_that_do_not_come_back_are_called_so(finished_run: FinishedRun) -> None:
    costs = finished_run.costs[:3].assign(
        passes=[0, 1, 4], forward_only=[51, 0, 2], shared=[False, True, False]
    )
    grid = board_grid(finished_run.findings, replace(finished_run, costs=costs).costs_by_method())
    place = grid.columns.index("passes")
    cells = {row[0].text: (row[place].text, row[place].small) for row in grid.rows}
    expected = [("51", "forward only"), ("1", "shared"), ("6", "2 forward only")]
    for spec, cell in zip(costs["method"], expected, strict=True):
        assert cells[finished_run.names()[spec]] == cell
