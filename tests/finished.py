"""A finished run, as tests of reports read it; and the same with names that would break out."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from support import call

from steadymap.bench.analysis.findings import Findings
from steadymap.bench.records.vocabulary import NULLS
from steadymap.bench.report.finished_run import FinishedRun

METHODS = ("gradient", "gradient_x_input", "integrated_gradients:baseline=black,steps=4")
COMMAND = ["run", "--limit", "6", "--steps", "4", "--nulls", "1"]
COMMAND += [word for method in METHODS for word in ("--method", method)]
COMMAND += ["--family", "bias", "--family", "compensated_bias", "--severity", "-0.2,0.1,0.3"]


def run_into(folder: Path) -> Path:
    """Run the command in a folder; return the folder of the run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert call(patch, *COMMAND, "--output", "run") == 0
    return folder / "run"


def calibrated_by_hand(records: pd.DataFrame, method: str, metric: str) -> float:
    """Calibrate a score as the definition says, slowly."""
    chosen = records[
        (records["method"] == method) & (records["metric"] == metric) & (records["status"] == "ok")
    ]

    def distance(family: str) -> pd.Series:
        rows = chosen[chosen["family"] == family]
        return 1 - rows.groupby("image_id", observed=True)["value"].mean()

    families = [distance(name) for name in ("bias", "compensated_bias")]
    moved = pd.concat(families, axis=1).mean(axis=1).mean()
    return float(1 - moved / min(distance(family).mean() for family in NULLS))


HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</script><script>alert(2)</script>",
    "{{ 7 * 7 }} $x$ & 'quoted'",
)


def spoilt(records: pd.DataFrame) -> pd.DataFrame:
    """Return records with names that would break out."""
    attacked = records.astype({"detail": str, "method": str, "status": str})
    attacked.loc[attacked.index[:5], ["status", "detail"]] = ("error", HOSTILE[2])
    attacked["method"] = attacked["method"].replace({"gradient": HOSTILE[1]})
    return attacked


def hostile(run: FinishedRun, records: pd.DataFrame) -> FinishedRun:
    """Return a run with names that would break out, wherever a user gives names."""
    manifest = json.loads(json.dumps(run.manifest))
    manifest["model"] |= {"name": HOSTILE[0], "class_names": list(HOSTILE[:3])}
    manifest["data"] |= {
        "name": HOSTILE[1],
        "pictures": dict.fromkeys(manifest["data"]["pictures"], HOSTILE[2]),
        "excluded": [{"name": HOSTILE[1], "reason": HOSTILE[3]}],
    }
    manifest["run_id"] = HOSTILE[3] + HOSTILE[0]
    return replace(run, manifest=manifest, findings=Findings.of(spoilt(records)))
