"""The embedded experiment: what its numbers must say, whatever the machine."""

from __future__ import annotations

import pandas as pd
import pytest

from steadymap.bench.analysis.calibration import UNINFORMATIVE
from steadymap.bench.analysis.findings import Findings
from steadymap.bench.data.opening import open_images
from steadymap.bench.measure.runner import run
from steadymap.bench.plan.experiment import make_experiment
from steadymap.bench.plan.packaged_experiments import read_experiment
from steadymap.models import load_classifier

# Fewer of everything, of each kind there is.
SMALL = {
    "limit": 12,
    "steps": 8,
    "severity": {
        "bias": (-0.3, 0.3),
        "compensated_bias": (-0.3, 0.3),
        "gaussian_noise": (0.1,),
        "uniform_noise": (0.1,),
        "salt_and_pepper": (0.1,),
    },
}


def findings_of(settings: dict[str, object]) -> Findings:
    experiment = make_experiment([read_experiment("hands"), settings])
    classifier = load_classifier(experiment.model)
    images = open_images(experiment.data, classifier.framing, experiment.split, experiment.limit)
    return Findings.of(run(classifier, images, experiment))


@pytest.fixture(scope="module")
def findings() -> Findings:
    return findings_of(SMALL)


def no_control_outranks_a_method(findings: Findings) -> None:
    calibrated = findings.calibrated[findings.calibrated["family"] == "overall"]
    for metric in ("ssim", "spearman"):
        rows = calibrated[calibrated["metric"] == metric]
        real, control = rows[~rows["control"]], rows[rows["control"]]
        assert len(real) == 6
        # A number above 0 for every method: closer to itself than unrelated maps are.
        assert (real["low"] > 0).all()
        # None for a control, however steady: constant has no row at all, being undefined.
        assert set(control["method"]) == {"random", "edge", "centre_blob"}
        assert set(control["verdict"]) == {UNINFORMATIVE}
        assert control["calibrated"].isna().all()
        # By raw scores, two of them would have won.
        assert (control["score"] > real["score"].max()).sum() >= 2
        methods, controls = findings.methods(metric)
        assert len(methods) == 6
        assert len(controls) == 4
        recognised = pd.to_numeric(control["recognised"])
        assert (recognised == 0).all()
        assert (real["recognised"] > real["chance"]).all()


def test_no_control_outranks_a_method(findings: Findings) -> None:
    no_control_outranks_a_method(findings)


def test_under_a_compensated_bias_the_network_is_not_to_blame(findings: Findings) -> None:
    faults = findings.faults[findings.faults["severity"].isna()]
    faults = faults[faults["metric"] == "spearman"].set_index("method")
    # Closed forms: these two do not move at all while the function stays.
    for spec in ("gradient", "grad_cam:relu=true"):
        assert faults.loc[spec, "network_share"] == pytest.approx(1.0, abs=1e-3)
    moved = faults.loc["gradient_x_input"]
    assert 0 < float(str(moved["own"])) < float(str(moved["total"]))


@pytest.mark.slow
def test_no_control_outranks_a_method_in_full() -> None:
    no_control_outranks_a_method(findings_of({}))
