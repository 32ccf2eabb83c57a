"""What a classifier promises, what is refused, and what there is by name."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from support import (
    SIDE,
    batch_of,
    conv_network,
    image_set,
    linear_network,
    random_images,
    seeded,
)
from torch import Tensor, nn

from steadymap.bench.measure.runner import run
from steadymap.bench.methods.binding import bind_method
from steadymap.bench.plan.plan import Plan
from steadymap.bench.records.vocabulary import MATCHED_CLASS
from steadymap.models import (
    MODELS,
    Framing,
    ModelError,
    Normalization,
    load_classifier,
    make_classifier,
    write_weights,
)

STUDY = [
    nn.Conv2d(3, 32, kernel_size=3, padding=1),
    nn.ReLU(),
    nn.Conv2d(32, 64, kernel_size=3, stride=1, padding=1),
    nn.ReLU(),
    nn.MaxPool2d(2, 2),
    nn.Conv2d(64, 128, kernel_size=3, stride=1, padding=1),
    nn.ReLU(),
    nn.Conv2d(128, 128, kernel_size=3, stride=1, padding=1),
    nn.ReLU(),
    nn.MaxPool2d(2, 2),
    nn.Conv2d(128, 256, kernel_size=3, stride=1, padding=1),
    nn.ReLU(),
    nn.Conv2d(256, 256, kernel_size=3, stride=1, padding=1),
    nn.ReLU(),
    nn.MaxPool2d(2, 2),
    nn.Flatten(),
    nn.Linear(82944, 1024),
    nn.ReLU(),
    nn.Linear(1024, 512),
    nn.ReLU(),
    nn.Linear(512, 3),
]


class Stubborn(nn.Module):
    """Stays in train mode, whatever it is told."""

    def forward(self, images: Tensor) -> Tensor:
        return images.mean(dim=(2, 3))

    def train(self, mode: bool = True) -> Stubborn:  # noqa: ARG002 - it does not listen
        self.training = True
        return self


class Returns(nn.Module):
    """Returns what a function makes of the images."""

    def __init__(self, forward: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.forward = forward


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (Stubborn(), "Stubborn: Stubborn stays in train mode"),
        (nn.Sequential(nn.ReLU(), Stubborn()), "Sequential: 1 stays in train mode"),
        (Returns(lambda x: x), r"must return logits .* it returns \(2, 3, 16, 16\)"),
        (Returns(lambda x: x.mean()), r"it returns \(\)"),
        (Returns(lambda x: [x.mean(dim=(2, 3))]), "it returns list"),
        (Returns(lambda x: x.mean(dim=(2, 3)) / 0), "not finite"),
        (Returns(lambda x: x.mean(dim=(2, 3)) + torch.rand(2, 3)), "not deterministic"),
        (
            Returns(lambda x: nn.functional.dropout(x.mean(dim=(2, 3)))),
            "not deterministic: .* functional dropout",
        ),
        (
            Returns(lambda x: (x - x.mean(dim=0, keepdim=True)).mean(dim=(2, 3))),
            "depends on the rest of the batch",
        ),
        (Returns(lambda x: x.mean(dim=(1, 2, 3))[:, None]), "returns one logit"),
        (linear_network(SIDE + 1), "fails on images of 16 x 16 pixels: .*mat1 and mat2"),
    ],
)
def test_a_network_that_cannot_be_explained_is_refused(network: nn.Module, message: str) -> None:
    state = torch.random.get_rng_state()
    with pytest.raises(ModelError, match=message):
        make_classifier(network, (SIDE, SIDE))
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_classifier_is_frozen_and_in_eval_mode() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.LazyLinear(3))
    network(random_images(2))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    classifier = make_classifier(network.train(), (SIDE, SIDE))
    classifier(random_images(2))
    assert not any(part.training for part in classifier.module.modules())
    assert not any(part.requires_grad for part in classifier.module.parameters())
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name])


def test_class_names_must_match_the_logits() -> None:
    with pytest.raises(ModelError, match="3 logits but 2 class names"):
        make_classifier(conv_network(), (SIDE, SIDE), ("a", "b"))
    assert make_classifier(conv_network(), (SIDE, SIDE)).class_names == ("0", "1", "2")


def test_normalisation_is_inside() -> None:
    network = seeded(conv_network)
    normalization = Normalization((0.1, 0.2, 0.3), (0.5, 0.6, 0.7))
    classifier = make_classifier(network, (SIDE, SIDE), normalization=normalization)
    images = random_images(3)
    mean = torch.tensor(normalization.mean).view(1, 3, 1, 1)
    std = torch.tensor(normalization.std).view(1, 3, 1, 1)
    torch.testing.assert_close(classifier(images), network((images - mean) / std))


def test_a_shifted_classifier_takes_the_shift_off_again() -> None:
    normalization = Normalization((0.1, 0.2, 0.3), (0.5, 0.6, 0.7))
    network = seeded(conv_network).double()
    classifier = make_classifier(network, (SIDE, SIDE), normalization=normalization)
    images = random_images(3).double()
    shifted = classifier.shifted(0.3)
    torch.testing.assert_close(shifted(images + 0.3), classifier(images), rtol=0, atol=1e-12)
    torch.testing.assert_close(
        shifted.shifted(-0.1)(images + 0.2), classifier(images), rtol=0, atol=1e-12
    )
    assert shifted.weights_hash() == classifier.weights_hash()


class Backwards(nn.Module):
    """Registers its convolutions in the opposite order of their run; the last is 1 x 1 wide."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(4, 3, 1)
        self.second = nn.Conv2d(4, 4, 3)
        self.first = nn.Conv2d(3, 4, 3)

    def forward(self, images: Tensor) -> Tensor:
        deep = self.second(self.first(images))
        logits: Tensor = self.head(deep.mean(dim=(2, 3), keepdim=True)).flatten(1)
        return logits


def test_the_layer_for_grad_cam_is_the_last_convolution_that_ran_with_a_plane() -> None:
    assert make_classifier(Backwards(), (SIDE, SIDE)).cam_layer == "second"
    named = make_classifier(Backwards(), (SIDE, SIDE), cam_layer="first")
    assert named.cam_module is named.module.network.get_submodule("first")
    with pytest.raises(ModelError, match="no layer is called 'third'"):
        make_classifier(Backwards(), (SIDE, SIDE), cam_layer="third")
    with pytest.raises(ModelError, match="layer 'head' has no output of shape"):
        make_classifier(Backwards(), (SIDE, SIDE), cam_layer="head")
    assert make_classifier(linear_network(), (SIDE, SIDE)).cam_layer is None


@pytest.mark.parametrize("size", [16, (16,), (16, 0), (16.0, 16)])
def test_a_size_that_is_none_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(ModelError, match="input_size must be \\(height, width\\) in pixels"):
        make_classifier(conv_network(), size)


def test_rps_is_the_study_s_network_and_loads_its_checkpoints() -> None:
    with torch.device("meta"):
        own = MODELS["rps"].build(3)
        study = nn.Module()
        study.network = nn.Sequential(*(type(part)(*_arguments(part)) for part in STUDY))
    assert {name: value.shape for name, value in own.state_dict().items()} == {
        name: value.shape for name, value in study.state_dict().items()
    }
    assert [str(part) for part in own.get_submodule("network").children()] == [
        str(part) for part in STUDY
    ]


def _arguments(part: nn.Module) -> tuple[object, ...]:
    if isinstance(part, nn.Conv2d):
        return part.in_channels, part.out_channels, part.kernel_size, part.stride, part.padding
    if isinstance(part, nn.Linear):
        return part.in_features, part.out_features
    return (2, 2) if isinstance(part, nn.MaxPool2d) else ()


def test_compact_is_small_and_brings_its_weights_and_card() -> None:
    classifier = load_classifier("compact")
    assert classifier.name == "compact"
    assert classifier.class_names == ("paper", "rock", "scissors")
    assert max(classifier.input_size) <= 64
    assert sum(part.numel() for part in classifier.module.network.parameters()) <= 600_000
    shipped = MODELS["compact"].shipped
    assert shipped is not None
    card = json.loads(shipped.with_suffix(".json").read_text())
    assert card["accuracy"]["validation"] >= 0.96
    assert {"recipe", "splits", "data"} <= set(card)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("compakt", "unknown name 'compakt'; did you mean compact"),
        ("rps", "rps ships no weights; give --weights FILE"),
        ("torchvision:resnet19@DEFAULT", "no classifier 'resnet19'; did you mean resnet1"),
        ("torchvision:resnet18", "needs weights, once"),
        ("torchvision:resnet18@V7", "has no weights 'V7'; known: IMAGENET1K_V1, DEFAULT, random"),
        ("nowhere.at_all:make", "cannot import 'nowhere.at_all'"),
        (":make", "cannot import '' for ':make'"),
        (".own:make", "cannot import '.own'"),
        ("json:make", "json has no function 'make'"),
        ("json:loads", "json:loads failed: TypeError"),
        ("string:Template.nothing", "has no function"),
        ("collections:OrderedDict", "returned OrderedDict, not a Classifier"),
    ],
)
def test_a_model_that_cannot_be_had_says_why(spec: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        load_classifier(spec)


def test_torchvision_brings_its_own_resize_and_normalisation(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    classifier = load_classifier("torchvision:squeezenet1_1@random")
    assert classifier.framing == Framing((224, 224), 256)
    assert classifier.module.normalization.mean == (0.485, 0.456, 0.406)
    again = load_classifier("torchvision:squeezenet1_1@random")
    assert classifier.weights_hash() == again.weights_hash()


def test_torchvision_weights_offline_give_a_clear_message(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    # No proxy is there: whatever the network, nothing can be downloaded.
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    with pytest.raises(ModelError, match=r"put squeezenet1_1-.*pth into torch's hub cache"):
        load_classifier("torchvision:squeezenet1_1@DEFAULT")


def test_a_factory_of_the_user_s_in_the_current_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "own_networks_for_test.py").write_text(
        "from torch import nn\n"
        "def network():\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(192, 2))\n"
    )
    (tmp_path / "own_models_for_test.py").write_text(
        "from steadymap.models import make_classifier\n"
        "def make():\n"
        "    from own_networks_for_test import network\n"
        "    return make_classifier(network(), (8, 8), ('cat', 'dog'))\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    classifier = load_classifier("own_models_for_test:make")
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, 2))
    state = {name: value * torch.nan for name, value in network.state_dict().items()}
    network.load_state_dict(state)
    write_weights(tmp_path / "nan.safetensors", network, ("cat", "dog"))
    with pytest.raises(ModelError, match="not finite"):
        load_classifier("own_models_for_test:make", tmp_path / "nan.safetensors")
    assert (classifier.name, classifier.class_names) == ("own_models_for_test:make", ("cat", "dog"))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device here")
def test_a_classifier_moves_to_the_gpu_whole() -> None:
    classifier = load_classifier("compact", device="cuda")
    images = random_images(2, 64)
    expected = load_classifier("compact")(images)
    torch.testing.assert_close(classifier(images.cuda()).cpu(), expected, rtol=1e-3, atol=1e-3)


# --- what networks may be, and what they hold -----------------------------------------------------


class Flat(nn.Module):
    """A convolution, and a `view` that knows one order of memory alone."""

    def __init__(self, *, view: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.head = nn.Linear(4 * (SIDE - 2) ** 2, 3)
        self.view = view

    def forward(self, images: Tensor) -> Tensor:
        values = self.conv(images).relu()
        flat = values.view(values.size(0), -1) if self.view else values.flatten(1)
        logits: Tensor = self.head(flat)
        return logits


def test_a_view_that_wants_contiguous_memory_is_what_flatten_is() -> None:
    view, flat = (
        make_classifier(seeded(partial(Flat, view=view)), (SIDE, SIDE)) for view in (True, False)
    )
    assert (view.module.channels_last, flat.module.channels_last) == (False, True)
    images = random_images(3)
    moved = images.contiguous(memory_format=torch.channels_last)
    copies = view, view.shifted(0.0), view.replica(), view.to(torch.device("cpu"), torch.float64)
    for classifier in copies:
        for shown in (images, moved):
            found = classifier(shown.to(classifier.module.mean.dtype)).float()
            torch.testing.assert_close(found, flat(images), rtol=1e-4, atol=1e-6)
    other = view.randomised(0)
    assert torch.isfinite(other(images)).all()
    for spec in ("gradient", "guided_backprop", "integrated_gradients:steps=4", "lrp"):
        maps = [bind_method(spec).explain(c, batch_of(images)) for c in (view, flat)]
        torch.testing.assert_close(maps[0], maps[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "write", [lambda x: x.sub_(0.5), lambda x: x.clamp_(0, 1), nn.ReLU(inplace=True)]
)
def test_a_forward_that_writes_into_its_input_is_called_that(
    write: Callable[[Tensor], Tensor],
) -> None:
    class Writing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = linear_network()

        def forward(self, images: Tensor) -> Tensor:
            logits: Tensor = self.inner(write(images))
            return logits

    with pytest.raises(ModelError, match=r"Writing changes its input in place.*x = x - m"):
        make_classifier(Writing(), (SIDE, SIDE))
    # What the normalisation hands over is the network's own.
    half = Normalization((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    classifier = make_classifier(Writing(), (SIDE, SIDE), normalization=half)
    images = random_images(2)
    classifier(images)
    assert torch.equal(images, random_images(2))


class Holding(nn.Module):
    """Holds its weights in some way of its own."""

    def __init__(self, hold: Callable[[nn.Module], object]) -> None:
        super().__init__()
        self.held = hold(linear_network())

    def forward(self, images: Tensor) -> Tensor:
        held: Any = self.held
        while isinstance(held, list | tuple | dict | nn.ModuleList):
            held = held["net"] if isinstance(held, dict) else held[0]
        logits: Tensor = held(images)
        return logits


def closing(network: nn.Module) -> Callable[[Tensor], object]:
    def call(images: Tensor) -> object:
        return network(images)

    return call


HOLDS: dict[str, Callable[[nn.Module], object]] = {
    "list": lambda network: [network],
    "dict of tuples": lambda network: {"net": (network,)},
    "closure": closing,
    "partial": lambda network: partial(closing(network)),
}


@pytest.mark.parametrize("hold", HOLDS)
def test_modules_that_are_none_of_the_network_s_are_refused(hold: str) -> None:
    with pytest.raises(ModelError, match=r"Linear runs in its forward.*ModuleList or ModuleDict"):
        make_classifier(Holding(HOLDS[hold]), (SIDE, SIDE))
    kept = make_classifier(Holding(lambda network: nn.ModuleList([network])), (SIDE, SIDE))
    # One that is held and does not run hurts nobody.
    vars(kept.module.network)["teacher"] = [linear_network()]
    assert make_classifier(kept.module.network, (SIDE, SIDE)).weights_hash() == kept.weights_hash()


def test_a_network_whose_weights_are_no_parameters_cannot_be_randomised() -> None:
    weights = torch.rand(3, 3 * SIDE**2)

    class Buffered(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("weight", weights.clone())

        def forward(self, images: Tensor) -> Tensor:
            return images.flatten(1) @ self.get_buffer("weight").T

    class Closed(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.flatten(1) @ weights.T

    for network in (Buffered(), Closed()):
        classifier = make_classifier(network, (SIDE, SIDE))
        with pytest.raises(ModelError, match=r"logits stay the same.*ModuleList.*--nulls 0"):
            run(classifier, image_set(), Plan(method=("gradient",), family=("bias",)))
        assert len(run(classifier, image_set(), Plan(method=("gradient",), nulls=0))) > 0


def test_tensors_that_are_no_buffers_are_hashed_and_moved() -> None:
    class Plain(nn.Module):
        def __init__(self, weight: float) -> None:
            super().__init__()
            self.weight = torch.full((3, 3 * SIDE**2), weight)
            self.scale = nn.Parameter(torch.rand(3))

        def forward(self, images: Tensor) -> Tensor:
            return images.flatten(1) @ self.weight.T * self.scale

    one, other = (make_classifier(seeded(partial(Plain, w)), (SIDE, SIDE)) for w in (1.0, 2.0))
    assert one.weights_hash() != other.weights_hash()
    assert one.weights_hash() == one.replica().weights_hash()
    moved = one.to(torch.device("cpu"), torch.float64)
    assert moved(random_images(1).double()).dtype == torch.float64
    assert one.module.network.weight.dtype == torch.float32


# --- networks of other kinds ----------------------------------------------------------------------


def exported(network: nn.Module) -> nn.Module:
    batch = {"input": {0: torch.export.Dim("batch", min=1, max=4096)}}
    program = torch.export.export(network.eval(), (random_images(2),), dynamic_shapes=batch)
    return program.module()


def quantised(network: nn.Module, kind: torch.dtype = torch.float16) -> nn.Module:
    made: nn.Module = torch.ao.quantization.quantize_dynamic(network.eval(), {nn.Linear}, kind)
    return made


KINDS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "traced": lambda network: torch.jit.trace(network.eval(), random_images(2)),
    "scripted": lambda network: torch.jit.script(network.eval()),
    "frozen": lambda network: torch.jit.freeze(torch.jit.script(network.eval())),
    "exported": exported,
    "quantised": lambda _network: quantised(seeded(Ranged), torch.qint8),
}


class Ranged(nn.Module):
    """Hands its linear layer values of the same range whatever the batch: 0 to 1."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.head = nn.Linear(4 * (SIDE - 2) ** 2 + 2, 3)

    def forward(self, images: Tensor) -> Tensor:
        values = self.conv(images).flatten(1).clamp(0, 1)
        ends = torch.tensor([0.0, 1.0]).expand(len(values), 2)
        logits: Tensor = self.head(torch.cat([values, ends], dim=1))
        return logits


FORWARD = ("occlusion", "lime:samples=16", "kernel_shap:samples=16", "feature_ablation")
BACKWARD = ("gradient", "integrated_gradients:steps=4", "smooth_grad:samples=2")
REWRITTEN = ("guided_backprop", "lrp")
LAYERED = ("grad_cam",)


# torch says of quantisation and of TorchScript that others will take their place.
OLD = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore:torch.quantize_per_tensor"
)


@OLD
@pytest.mark.parametrize("kind", KINDS)
def test_networks_of_other_kinds_are_explained_as_far_as_they_can_be(kind: str) -> None:
    classifier = make_classifier(KINDS[kind](seeded(conv_network)), (SIDE, SIDE))
    assert len(classifier.weights_hash()) == 64
    assert classifier.differentiable == (kind != "quantised")
    plan = Plan(
        method=(*FORWARD, *BACKWARD, *REWRITTEN, *LAYERED),
        family=("bias", "compensated_bias"),
        severity=(0.1,),
        metric=("relative_l2",),
        controls=False,
        nulls=0 if kind in ("frozen", "quantised") else 1,
        admission=False,
    )
    records = run(classifier, image_set(2), plan)
    of_methods = records[(records["method"] != "input") & (records["family"] != "float64")]
    # Of two images one may have no other of its class.
    of_methods = of_methods[~of_methods["metric"].astype(str).str.contains(MATCHED_CLASS)]
    for spec, rows in of_methods.groupby("method"):
        name = str(spec).partition(":")[0]
        runs = {
            part.partition(":")[0]
            for part in (FORWARD if kind == "quantised" else FORWARD + BACKWARD)
        }
        assert set(rows["status"]) == ({"ok"} if name in runs else {"skipped"}), spec
        assert all(rows["detail"].ne("") | rows["status"].eq("ok"))
    if plan.nulls == 0:
        with pytest.raises(ModelError, match="use --nulls 0"):
            run(classifier, image_set(2), plan.model_copy(update={"nulls": 1}))


@OLD
def test_two_quantised_networks_have_two_names() -> None:
    names = {
        make_classifier(quantised(seeded(linear_network, seed)), (SIDE, SIDE)).weights_hash()
        for seed in (0, 1)
    }
    assert len(names) == 2
    with pytest.raises(ModelError, match=r"rest of the batch.*quantised by the range"):
        make_classifier(quantised(seeded(conv_network), torch.qint8), (SIDE, SIDE))


def test_what_is_no_module_is_refused_in_one_line() -> None:
    program = torch.export.export(conv_network().eval(), (random_images(2),))
    with pytest.raises(ModelError, match=r"not ExportedProgram; use its .module\(\)"):
        make_classifier(program, (SIDE, SIDE))  # type: ignore[arg-type] # that is the test
    with pytest.raises(ModelError, match=r"Guard failed.*; export it with dynamic_shapes"):
        make_classifier(program.module(), (SIDE, SIDE))
