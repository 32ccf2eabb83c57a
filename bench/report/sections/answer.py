"""The section on what the run found, in sentences."""

from __future__ import annotations

from typing import Any

from steadymap.bench.report.answer import answer
from steadymap.bench.report.finished_run import FinishedRun


def context(run: FinishedRun) -> dict[str, Any]:
    """Return the sentences of the answer."""
    return {"sentences": answer(run.findings)}
