"""A side that was measured in memory is the one that a run's folder gives."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from support import finished_run

from steadymap.bench.core.metric_registry import known_metrics
from steadymap.bench.gate.side import KEPT_METRICS, all_scores, read_side
from steadymap.bench.records.read import read_run
from steadymap.bench.records.scan import as_scan


def test_scores_in_memory_are_those_of_the_folder(tmp_path: Path) -> None:
    """What maps still know among them: a share, not logits."""
    run = finished_run(
        tmp_path, "--limit", "8", "--method", "gradient_x_input", "--family", "bias",
        "--severity", "0.1", "--nulls", "1", "--no-controls", "--no-report",
    )  # fmt: skip
    kept = read_side(run, KEPT_METRICS).scores
    assert set(kept["metric"]) >= {"ssim", "ssim.recognised", "evidence_kept"}
    scores = all_scores(as_scan(read_run(run)[0]), KEPT_METRICS, known_metrics())
    pd.testing.assert_frame_equal(scores, kept)
