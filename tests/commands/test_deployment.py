"""`steadymap gate --against` and `--variant`: two networks on the same images, on the spot."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from support import ROOT, Command, Done

from steadymap.bench.commands.deployment import named, two_networks
from steadymap.bench.core.errors import ConfigError
from steadymap.bench.gate.comparison import FAIL, PASS

# As small as a run can be that says something.
SMALL = (
    "--limit", "8", "--family", "bias", "--severity", "0.1", "--metric", "ssim", "--nulls", "0",
)  # fmt: skip
OWN = f"""
import sys
sys.path.insert(0, {str(ROOT / "tests")!r})
import torch
from torch import nn
from nets import CLASSES, SIDE, build
from steadymap.models import make_classifier

def residual():
    return make_classifier(build("residual"), (SIDE, SIDE), CLASSES)

class Ranged(nn.Module):  # hands its linear layer values of the same range whatever the batch
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, stride=2)
        self.head = nn.Linear(4 * 15 * 15 + 2, 3)
    def forward(self, images):
        values = self.conv(images).flatten(1).clamp(0, 1)
        ends = torch.tensor([0.0, 1.0]).expand(len(values), 2)
        return self.head(torch.cat([values, ends], dim=1))

def ranged():
    torch.manual_seed(1)
    return Ranged().eval()

def plain():
    return make_classifier(ranged(), (SIDE, SIDE), CLASSES)

def kernels():
    network = torch.ao.quantization.quantize_dynamic(ranged(), {{nn.Linear}}, torch.qint8)
    return make_classifier(network, (SIDE, SIDE), CLASSES)
"""
OLD = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore:torch.quantize_per_tensor"
)


@pytest.fixture
def own(tmp_path: Path) -> str:
    """Write networks of a user's own where the command runs; return the name of their module.

    A name for each test: a module is imported once.
    """
    name = f"own_{abs(hash(tmp_path))}"
    (tmp_path / f"{name}.py").write_text(OWN)
    return name


def results(tmp_path: Path) -> dict[str, str]:
    """Return what each case of the newest gate came to, by its name."""
    (path,) = tmp_path.glob("runs/*/gate/comparison.json")
    content = json.loads(path.read_text())
    return {case["name"]: case["result"] for case in content["cases"]}


def test_two_bits_a_weight_fail_and_the_runs_are_kept(steadymap: Command, tmp_path: Path) -> None:
    command = ("gate", "--variant", "rounded=2", "--method", "gradient", *SMALL)
    done = steadymap(*command)
    assert done.code == 1
    first = done.out.splitlines()[0]
    assert first == (
        "Question: two networks, same images. Is compact as rounded=2 worse than compact?"
    )
    assert "FAIL network / agreement: 3 of 8 images are predicted as before" in done.out
    assert results(tmp_path)["network / agreement"] == FAIL
    # Weights differ on purpose; it is said, and no seed is asked for.
    assert "differs: variant: none and rounded=2" in done.err
    assert {path.name for path in tmp_path.glob("runs/*/gate/*")} >= {"junit.xml", "bencher.json"}
    # The same again computes nothing.
    again = steadymap(*command)
    assert again.out == done.out
    assert again.err.count("units are there already") == 2


def test_batch_norms_folded_pass_as_equivalent(
    steadymap: Command, tmp_path: Path, own: str
) -> None:
    methods = ("--method", "gradient", "--method", "grad_cam")
    # As many as it takes to pass.
    enough = (*SMALL, "--limit", "28")
    done = steadymap("gate", "--model", f"{own}:residual", "--variant", "folded", *methods, *enough)
    assert set(results(tmp_path).values()) == {PASS}, done
    (path,) = tmp_path.glob("runs/*/gate/comparison.json")
    rows = json.loads(path.read_text())["comparisons"]
    assert {row["method"] for row in rows} == {"gradient", "grad_cam:relu=true"}
    assert {row["verdict"] for row in rows} == {"equivalent"}
    assert all(abs(row["gain"]) < 1e-5 for row in rows)


@OLD
def test_what_has_no_backward_is_skipped_and_the_rest_runs(
    steadymap: Command, tmp_path: Path, own: str
) -> None:
    if not torch.backends.quantized.supported_engines:
        pytest.skip("torch has no engine for quantised layers here")
    methods = ("gradient", "occlusion", "lime:samples=16", "kernel_shap:samples=16")
    flags = [part for method in methods for part in ("--method", method)]
    both = ("--model", f"{own}:kernels", "--against", f"{own}:plain")
    done = steadymap("gate", *both, *flags, *SMALL)
    assert (
        f"skipped: gradient does not apply to {own}:kernels: the network's logits have no gradient"
        in done.err
    )
    (path,) = tmp_path.glob("runs/*/gate/comparison.json")
    rows = json.loads(path.read_text())["comparisons"]
    named_methods = {row["method"].partition(":")[0] for row in rows if row["images"] == 8}
    assert named_methods == {"occlusion", "lime", "kernel_shap"}
    assert "missing" not in {row["verdict"] for row in rows}


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (
            ("--against", "compact", "--model", "compact"),
            "against: compact is the network that is to be deployed",
        ),
        (("--against", "compact", "--baseline", "mine"), "leave out --baseline"),
        (("runs/mine", "--variant", "folded"), "leave out the folder of a run"),
        (("--variant", "fold"), "variant: unknown name 'fold'; did you mean folded?"),
        (("--model", "compact"), "model: --model goes with --against or --variant"),
        (
            ("--against-weights", "w.pt", "--baseline", "mine"),
            "against-weights: --against-weights goes with",
        ),
        ((), "--baseline NAME; to compare two networks on the spot give --against or --variant"),
    ],
)
def test_what_does_not_go_together_is_refused(
    steadymap: Command, tmp_path: Path, arguments: tuple[str, ...], reason: str
) -> None:
    done: Done = steadymap("gate", *arguments)
    assert (done.code, done.out) == (2, "")
    assert reason in done.err
    assert not (tmp_path / "runs").exists()


def test_the_reference_has_weights_of_its_own(tmp_path: Path) -> None:
    flags = {"model": "compact", "weights": tmp_path / "new.pt"}
    two = two_networks(None, flags, "compact", tmp_path / "old.pt")
    assert two.question == (
        "Question: two networks, same images. Is compact with new.pt worse than compact with "
        "old.pt?"
    )
    assert not two.is_a_twin
    # The reference of a variant is the network itself, with the same weights.
    twin = two_networks(None, flags | {"variant": "folded"}, None, None)
    assert twin.is_a_twin
    assert named(twin.reference) == "compact with new.pt"
    # Beside that the plan is the same, and controls, which nobody compares, do not run.
    differing = {
        key
        for key, value in twin.deployed.model_dump().items()
        if value != twin.reference.model_dump()[key]
    }
    assert differing == {"variant"}
    assert not twin.deployed.controls


def test_a_plan_of_a_file_takes_flags_and_is_held_to_its_keys(tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").write_text("method: gradient\nlimit: 9\noutput: elsewhere\n")
    two = two_networks(tmp_path / "plan.yaml", {"limit": 4, "variant": "folded"}, None, None)
    assert (two.deployed.method, two.deployed.limit) == (("gradient",), 4)
    # Two runs in one folder would refuse each other.
    assert two.deployed.output is two.reference.output is None
    (tmp_path / "plan.yaml").write_text("metod: gradient\n")
    with pytest.raises(ConfigError, match="did you mean method"):
        two_networks(tmp_path / "plan.yaml", {}, "compact", None)
