"""What a classifier promises, what is refused, and what there is by name."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from support import SIDE, conv_network, linear_network, random_images, seeded
from torch import Tensor, nn

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
