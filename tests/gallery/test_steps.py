"""Completeness against the number of steps."""

from __future__ import annotations

import pandas as pd
import pytest
from finished import METHODS

from steadymap.bench.records.vocabulary import CLEAN
from steadymap.bench.report.finished_run import FinishedRun


def test_completeness_falls_with_steps_as_measured(
    finished_run: FinishedRun, finished_records: pd.DataFrame
) -> None:
    steps = finished_run.steps
    assert steps["steps"].unique().tolist() == [4, 8, 16, 32, 64]
    assert steps["image_id"].nunique() == 6
    # At the run's own number of steps: the errors of the finished_records.
    known = finished_records[
        (finished_records["method"] == METHODS[2])
        & (finished_records["metric"] == "completeness_error")
        & (finished_records["family"] == CLEAN)
    ].set_index("image_id")["value"]
    tried = steps[steps["steps"] == 4].set_index("image_id")["completeness_error"]
    assert tried.to_dict() == pytest.approx(known.to_dict(), rel=1e-3, abs=1e-4)
