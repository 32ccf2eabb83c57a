"""The embedded experiment: what its numbers must say, whatever the machine."""

from __future__ import annotations

import pytest

from steadymap.bench.analysis.calibration import UNINFORMATIVE
from steadymap.bench.analysis.findings import Findings
from steadymap.bench.analysis.whose_fault import IDENTITY
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
        "shifted_network": (-0.3, 0.3),
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
        rows = calibrated[calibrated["metric"] == metric].set_index("method")
        real, control = rows[~rows["control"]], rows[rows["control"]]
        drawing = real.index.str.contains("baseline=random")
        assert len(real) == 6
        assert drawing.sum() == 1
        # A number above 0 for every method that draws nothing: closer to itself than unrelated
        # maps are. Below them all is the one that draws a baseline anew for each view.
        assert (real["low"][~drawing] > 0).all()
        assert real["calibrated"][drawing].item() < real["calibrated"][~drawing].min()
        # Constant has no row at all, being undefined. Of the others none has a number above 0: they
        # read no network, so that a randomised one's map is as close as their own.
        assert set(control.index) == {"random", "edge", "centre_blob"}
        assert control.loc["centre_blob", "verdict"] == UNINFORMATIVE
        assert control["calibrated"].isna()["centre_blob"]
        for spec in ("random", "edge"):
            assert control.loc[spec, "calibrated"] == pytest.approx(0, abs=1e-6)
        # By raw scores the one that stays where it is would have won.
        assert list(control.index[control["score"] > real["score"].max()]) == ["centre_blob"]
        methods, controls = findings.methods(metric)
        assert len(methods) == 6
        assert len(controls) == 4
        # Edges are the image, and known by it; what is drawn, or the same for all, is not.
        assert control.loc["edge", "recognised"] == 1
        assert control.loc["centre_blob", "recognised"] == 0
        assert control.loc["random", "recognised"] < real["recognised"].min()
        assert (real["recognised"] > real["chance"]).all()
    admission = findings.admission.set_index("method")
    for spec in ("constant", "random", "edge", "centre_blob"):
        assert admission.loc[spec, "verdict"] == "control"
        assert not admission.loc[spec, "ranked"]


def test_no_control_outranks_a_method(findings: Findings) -> None:
    no_control_outranks_a_method(findings)


def test_under_a_compensated_bias_the_network_is_not_to_blame(findings: Findings) -> None:
    faults = findings.faults[findings.faults["severity"].isna()]
    faults = faults[faults["metric"] == "spearman"].set_index("method")
    # Closed forms: these two do not move at all while the function stays.
    for spec in ("gradient", "grad_cam:relu=true"):
        assert faults.loc[spec, "verdict"] == IDENTITY
        assert faults.loc[spec, "network_share"] == pytest.approx(1.0, abs=1e-3)
    moved = faults.loc["gradient_x_input"]
    assert 0 < float(str(moved["own"])) < float(str(moved["total"]))


@pytest.mark.slow
def test_no_control_outranks_a_method_in_full() -> None:
    no_control_outranks_a_method(findings_of({}))
