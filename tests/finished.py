"""A finished run, as tests of reports read it; and the same with names that would break out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from support import call

from steadymap.bench.analysis.findings import Findings
from steadymap.bench.records.vocabulary import MATCHED_CLASS, MATCHED_IMAGE, MATCHED_NETWORK
from steadymap.bench.report.finished_run import FinishedRun

METHODS = ("gradient", "gradient_x_input", "integrated_gradients:baseline=black,steps=4")
# Too few images for any to be admitted: who is ranked is all the same to most readers.
COMMAND = ["run", "--limit", "6", "--steps", "4", "--nulls", "1", "--no-admission"]
COMMAND += [word for method in METHODS for word in ("--method", method)]
COMMAND += ["--family", "bias", "--family", "compensated_bias", "--family", "shifted_network"]
COMMAND += ["--severity", "-0.2,0.1,0.3"]


# Of as many images as it takes to admit some methods, and not others.
JUDGED = ["run", "--limit", "24", "--steps", "4", "--nulls", "1", "--no-report"]
JUDGED += [word for method in (*METHODS, "grad_cam") for word in ("--method", method)]
JUDGED += ["--family", "bias", "--family", "gaussian_noise", "--severity", "0.2"]


def run_into(folder: Path, command: Sequence[str] = COMMAND) -> Path:
    """Run a command in a folder; return the folder of the run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert call(patch, *command, "--output", "run") == 0
    return folder / "run"


def calibrated_by_hand(records: pd.DataFrame, method: str, metric: str) -> float:
    """Calibrate a score as the definition says, slowly."""
    chosen = records[(records["method"] == method) & records["kept"]].astype({"metric": str})
    chosen = chosen[(chosen["family"] == "bias") & (chosen["status"] == "ok")]
    names = (metric, *(metric + behind for behind in (MATCHED_IMAGE, MATCHED_CLASS)))
    networks = [name for name in chosen["metric"].unique() if MATCHED_NETWORK in name]
    by_pair = chosen.pivot_table(
        values="value", index=["image_id", "severity"], columns="metric", observed=True
    ).dropna(subset=[metric])
    by_pair["networks"] = by_pair[[n for n in networks if n.startswith(metric + ".")]].mean(axis=1)
    distances = (1 - by_pair[[*names, "networks"]]).groupby("image_id", observed=True).mean()
    moved, *nulls = distances.mean()
    return float(1 - moved / min(nulls))


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
