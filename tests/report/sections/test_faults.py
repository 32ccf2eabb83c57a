"""The section on whose fault it is: its words are those of its numbers."""

from __future__ import annotations

import pytest
from support import image_set, pick, small_plan, tiny

from steadymap.bench.analysis.findings import Findings
from steadymap.bench.measure.runner import run
from steadymap.bench.report.sections.faults import fault_grid
from steadymap.bench.report.terminal import tables
from steadymap.metrics import METRICS

FAMILIES = ("bias", "compensated_bias")


@pytest.mark.parametrize(
    ("metrics", "words"),
    [
        (("ssim",), "(1 - score)"),
        (("relative_l2",), "(the score itself, 0 where nothing moves)"),
        (("centre_shift",), "(the score itself, 0 where nothing moves)"),
        (("ssim", "spearman"), "(1 - score)"),
    ],
)
def test_the_caption_says_the_distance_that_is_in_the_table(
    metrics: tuple[str, ...], words: str
) -> None:
    plan = small_plan("gradient_x_input", family=FAMILIES, metric=metrics)
    records = run(tiny(), image_set(), plan)
    findings = Findings.of(records)
    grid = fault_grid(findings)
    assert grid is not None
    assert grid.caption.startswith(f"Instability {words} under bias;")
    assert any(words in title for title, _ in tables(findings) if title.startswith("whose fault"))
    ((_, total, *_),) = grid.rows
    value = pick(records, family="bias", metric=metrics[0])["value"].mean()
    identity = METRICS[metrics[0]].identity
    assert total.key == pytest.approx(1 - value if identity == 1 else value)
