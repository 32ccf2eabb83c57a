"""Where Grad-CAM looks in known networks, and how tokens become a grid."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import torchvision
from support import Command, random_images, seeded
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models import DenseNet, ResNet, SwinTransformer, VisionTransformer
from torchvision.models.regnet import BlockParams
from torchvision.models.resnet import BasicBlock

from steadymap.bench.data.opening import open_images
from steadymap.bench.methods.batch import Batch, draws_of
from steadymap.bench.methods.binding import bind_method
from steadymap.bench.methods.cam import captum_grad_cam, grad_cam
from steadymap.bench.network.passes import shared_pass
from steadymap.models import CamLayer, Classifier, ModelError, load_classifier, make_classifier
from steadymap.models.layers import TORCHVISION_LAYERS, last_plane, torchvision_layer
from steadymap.models.networks import rps

NAMES = torchvision.models.list_models(module=torchvision.models)
TOKENS = CamLayer("encoder.layers.encoder_layer_1.ln_1", "tokens", 1)


def vit() -> nn.Module:
    network: nn.Module = VisionTransformer(32, 8, 2, 2, 16, 32, num_classes=3)
    head = network.get_submodule("heads.head")
    assert isinstance(head, nn.Linear)
    head.reset_parameters()  # torchvision's begins at zero
    return network


def dense() -> nn.Module:
    network: nn.Module = DenseNet(8, (2, 2, 2, 2), 16, num_classes=3)
    return network


def resnet() -> nn.Module:
    network: nn.Module = ResNet(BasicBlock, [1, 1, 1, 1], num_classes=3)
    return network


def swin() -> nn.Module:
    network: nn.Module = SwinTransformer([4, 4], 8, [1, 1], [1, 2], [4, 4], num_classes=3)
    return network


def classifier_of(build: Callable[[], nn.Module], layer: CamLayer | str) -> Classifier:
    return make_classifier(seeded(build), (32, 32), ("a", "b", "c"), cam_layer=layer)


def batch_of_three(classifier: Classifier, seed: int = 0) -> Batch:
    images = random_images(3, classifier.input_size[0], seed)
    return Batch(images, torch.tensor([0, 1, 2]), draws_of(0, "xyz"))


@pytest.fixture(scope="module")
def skeletons() -> dict[str, nn.Module]:
    """Return every classifier of torchvision, without its weights."""
    original = BlockParams.from_init_params

    def on_cpu(*arguments: object, **named: object) -> object:
        with torch.device("cpu"):  # widths are numbers, which a meta tensor does not have
            return original(*arguments, **named)

    with pytest.MonkeyPatch.context() as patch, torch.device("meta"):
        patch.setattr(BlockParams, "from_init_params", on_cpu)
        plain = {"init_weights": False}
        return {
            name: torchvision.models.get_model(
                name, weights=None, **(plain if name in {"googlenet", "inception_v3"} else {})
            )
            for name in NAMES
        }


def test_every_classifier_of_torchvision_has_a_layer(skeletons: dict[str, nn.Module]) -> None:
    for name, network in skeletons.items():
        layer = torchvision_layer(name, network)
        assert layer is not None, name
        network.get_submodule(layer.path)
    for family in TORCHVISION_LAYERS:
        assert any(name.startswith(family) for name in skeletons), family


def test_the_layer_is_the_last_of_its_kind(skeletons: dict[str, nn.Module]) -> None:
    paths = {
        name: layer.path
        for name, network in skeletons.items()
        if (layer := torchvision_layer(name, network)) is not None
    }
    # VGG: the authors' relu5_3 (VGG-16); its ReLU is in place, as AlexNet's is.
    for name, path in paths.items():
        part = skeletons[name].get_submodule(path)
        if name.startswith(("vgg", "alexnet", "mnasnet")):
            assert isinstance(part, nn.ReLU), name
        if name.startswith("densenet"):
            assert list(dict(part.named_children()))[-1] == "norm5", name
        if name.startswith(("vit", "swin")):
            assert isinstance(part, nn.LayerNorm), name
    assert paths["vgg16"] == "features.29"
    assert paths["vit_l_16"] == "encoder.layers.encoder_layer_23.ln_1"
    assert paths["resnext50_32x4d"] == paths["wide_resnet50_2"] == paths["resnet18"] == "layer4"
    assert paths["efficientnet_v2_s"] == "features.7"


@pytest.mark.parametrize(
    ("name", "channels", "grid"),
    [
        ("resnet18", 512, 7),
        ("vgg11", 512, 14),
        ("densenet121", 1024, 7),
        ("efficientnet_b0", 1280, 7),
        ("mobilenet_v3_small", 576, 7),
        ("convnext_tiny", 768, 7),
        ("vit_b_32", 768, 7),
        ("swin_t", 768, 7),
        ("squeezenet1_1", 512, 13),
        ("googlenet", 1024, 7),
    ],
)
def test_a_real_network_has_a_map_of_its_grid(name: str, channels: int, grid: int) -> None:
    classifier = load_classifier(f"torchvision:{name}@random")
    seen = shared_pass(classifier, random_images(1, 224), None, ["layer"], 1)
    activations, slope = seen.need_layer()
    assert activations.shape == slope.shape == (1, channels, grid, grid)
    assert activations.std() > 1e-3, "signals neither vanish"
    assert activations.std() < 1e4, "nor burst"
    # Behind a ReLU that is dead at a place there is no gradient; anywhere else there is.
    assert (slope != 0).any(dim=1).float().mean() > 0.9


def test_random_networks_take_images_as_large_as_their_weights_would() -> None:
    classifier = load_classifier("torchvision:inception_v3@random")
    assert classifier.input_size == (299, 299)
    assert classifier.framing.short_side == 342
    assert classifier.cam_layer == "Mixed_7c"
    assert not hasattr(classifier.module.network, "aux1")


def test_inception_with_a_file_of_weights_is_refused(tmp_path: Path) -> None:
    for name in ("inception_v3", "googlenet"):
        with pytest.raises(ModelError, match=f"no file says whether a {name} was trained with"):
            load_classifier(f"torchvision:{name}", tmp_path / "w.pt")


# --- by hand --------------------------------------------------------------------------------------


def by_hand(classifier: Classifier, batch: Batch, layer: CamLayer, side: int) -> Tensor:
    """Compute Grad-CAM image by image, place by place, off a hook of its own."""
    maps = torch.zeros(len(batch.images), 1, side, side)
    for number in range(len(batch.images)):
        kept: list[Tensor] = []

        def keep(_part: nn.Module, _inputs: object, output: Tensor, kept: list[Tensor]) -> Tensor:
            output.retain_grad()
            kept.append(output)
            return output * 1  # another tensor, for what works in place behind it

        hook = classifier.cam_module.register_forward_hook(partial(keep, kept=kept))
        image = batch.images[number : number + 1].clone().requires_grad_()
        classifier(image)[0, batch.targets[number]].backward()
        hook.remove()
        assert kept[0].grad is not None
        values, slopes = kept[0].detach()[0], kept[0].grad[0]
        for row in range(side):
            for column in range(side):
                total = 0.0
                for channel in range(channels_of(values, layer)):
                    weight = sum(
                        float(at(slopes, layer, (channel, i, j), side))
                        for i in range(side)
                        for j in range(side)
                    ) / (side * side)
                    total += weight * float(at(values, layer, (channel, row, column), side))
                maps[number, 0, row, column] = max(0.0, total)
    return maps


def channels_of(values: Tensor, layer: CamLayer) -> int:
    return values.shape[0] if layer.layout == "channels_first" else values.shape[-1]


def at(values: Tensor, layer: CamLayer, place: tuple[int, int, int], side: int) -> Tensor:
    channel, row, column = place
    if layer.layout == "channels_first":
        return values[channel, row, column]
    if layer.layout == "channels_last":
        return values[row, column, channel]
    return values[layer.prefix_tokens + row * side + column, channel]


@pytest.mark.parametrize(
    ("build", "layer", "side"),
    [
        (vit, TOKENS, 4),
        (swin, CamLayer("norm", "channels_last"), 4),
        (partial(DenseNet, 4, (1, 1), 8, num_classes=3), CamLayer("features.norm5"), 4),
    ],
    ids=["vit", "swin", "densenet"],
)
def test_the_map_is_the_definition_s(
    build: Callable[[], nn.Module], layer: CamLayer, side: int
) -> None:
    classifier = classifier_of(build, layer)
    batch = batch_of_three(classifier)
    maps = grad_cam(classifier, batch)
    largest = float(maps.abs().max())
    assert largest > 0
    expected = by_hand(classifier, batch, layer, side)
    torch.testing.assert_close(maps, expected, rtol=0, atol=1e-4 * largest)


def test_captum_agrees_where_there_is_a_plane() -> None:
    classifier = make_classifier(seeded(resnet), (64, 64), cam_layer="layer4")
    batch = batch_of_three(classifier)
    expected = captum_grad_cam(classifier, batch)
    tolerance = 1e-4 * float(expected.abs().max())
    torch.testing.assert_close(grad_cam(classifier, batch), expected, rtol=0, atol=tolerance)


def test_a_patch_changes_its_own_place_first() -> None:
    """With attention cut off each token sees its own patch alone, and so does the map's place."""
    network = seeded(vit)
    weights = dict(network.named_parameters())
    for name, weight in weights.items():
        if name.endswith("self_attention.out_proj.weight"):
            weight.data.zero_()
    # The class token must see something, or nothing has a gradient: the last block keeps looking.
    nn.init.eye_(weights["encoder.layers.encoder_layer_1.self_attention.out_proj.weight"])
    classifier = make_classifier(network, (32, 32), cam_layer=TOKENS)
    images = random_images(1, 32)
    moved = images.clone()
    moved[:, :, 8:16, 16:24] += 1.0  # row 1, column 2 of patches
    seen = [
        shared_pass(classifier, x, torch.tensor([0]), ["layer"], 1).need_layer()[0]
        for x in (images, moved)
    ]
    changed = (seen[0] != seen[1]).any(dim=1)[0]
    assert changed.nonzero().tolist() == [[1, 2]]


def test_tokens_of_a_wide_image_are_a_wide_grid() -> None:
    tokens = torch.arange(2 * 9 * 3.0).view(2, 9, 3)
    planes = CamLayer("x", "tokens", 1).planes(tokens, 0.5)
    assert planes.shape == (2, 3, 2, 4)
    assert planes[1, 2, 1, 0] == tokens[1, 1 + 4, 2]
    with pytest.raises(ValueError, match="7 tokens are no grid of 2 rows"):
        CamLayer("x", "tokens", 2).planes(tokens, 0.5)
    with pytest.raises(ValueError, match=r"puts out \(2, 9, 3\), not channels_last"):
        CamLayer("x", "channels_last").planes(tokens, 1)


def test_a_layer_of_another_layout_is_refused() -> None:
    for layer, shape in (
        (CamLayer("encoder.ln"), r"\(batch, channels, height, width\)"),
        (CamLayer("encoder.ln", "tokens"), "with a grid of patches"),  # 17 tokens, none dropped
        (CamLayer("conv_proj", "tokens"), "with a grid of patches"),
    ):
        with pytest.raises(ModelError, match=f"layer '{layer.path}' has no output of .*{shape}"):
            classifier_of(vit, layer)


def test_captum_s_grad_cam_does_not_apply_to_tokens() -> None:
    classifier, method = classifier_of(vit, TOKENS), bind_method("grad_cam")
    assert method.unfit(classifier) is None
    assert method.unfit(classifier, "captum") == "captum's Grad-CAM reads planes, not tokens"
    assert bind_method("hires_cam").unfit(classifier, "captum") is None, "captum has none"
    assert method.unfit(classifier_of(resnet, "layer2"), "captum") is None


# --- a network that nobody knows ------------------------------------------------------------------


class Tutorial(nn.Module):
    """The network of torch's own tutorial: ReLUs are functions, and one pooling serves twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 5)
        self.pool = nn.MaxPool2d(2, 2)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(16 * 5 * 5, 84)
        self.fc2 = nn.Linear(84, 3)

    def forward(self, images: Tensor) -> Tensor:
        inner = self.pool(functional.relu(self.conv1(images)))
        inner = self.activate(self.conv2(inner))
        logits: Tensor = self.fc2(functional.relu(self.fc1(self.pool(inner).flatten(1))))
        return logits

    def activate(self, inner: Tensor) -> Tensor:
        return functional.relu(inner)


class OneReLU(Tutorial):
    """One module activates everything, the hidden layer too."""

    def __init__(self) -> None:
        super().__init__()
        self.relu = nn.ReLU(inplace=True)

    def forward(self, images: Tensor) -> Tensor:
        inner = self.pool(self.relu(self.conv1(images)))
        inner = self.relu(self.conv2(inner))
        logits: Tensor = self.fc2(self.relu(self.fc1(self.pool(inner).flatten(1))))
        return logits


class InPlace(Tutorial):
    def activate(self, inner: Tensor) -> Tensor:
        return functional.relu(input=inner, inplace=True)


class OfTheTensor(Tutorial):
    def activate(self, inner: Tensor) -> Tensor:
        return inner.relu_()


@pytest.mark.parametrize("build", [Tutorial, OneReLU, InPlace, OfTheTensor])
def test_a_feature_map_is_read_behind_an_activation_that_is_no_layer(
    build: type[nn.Module],
) -> None:
    classifier = make_classifier(seeded(build), (32, 32))
    layer = CamLayer("conv2", activated=True)
    assert classifier.cam == layer
    assert classifier.need_cam().lowest == 0
    assert classifier.cam_layer == "conv2, activated"
    batch = batch_of_three(classifier)
    # In two halves, the second with the feature map as its input.
    plain: Any = classifier.module.network
    inner = plain.pool(plain.conv1(batch.images).relu())
    inner = plain.conv2(inner).relu().detach().requires_grad_()
    logits = plain.fc2(plain.fc1(plain.pool(inner).flatten(1)).relu())
    slope = torch.autograd.grad(logits.gather(1, batch.targets[:, None]).sum(), inner)[0]
    expected = (slope.mean(dim=(2, 3), keepdim=True) * inner.detach()).sum(1, keepdim=True).relu()
    maps = grad_cam(classifier, batch)
    torch.testing.assert_close(maps, expected, rtol=0, atol=1e-4 * float(expected.max()))
    before = grad_cam(classifier, batch, layer="conv2")
    assert (before - maps).abs().max() > 0.1 * maps.max(), "in front of it is another map"
    reason = bind_method("grad_cam").unfit(classifier, "captum")
    assert reason == "captum's Grad-CAM reads modules, and a function activates conv2"


def test_a_feature_map_is_read_behind_its_activation_and_before_the_pooling() -> None:
    classifier = load_classifier("compact")
    assert isinstance(classifier.cam_module, nn.ReLU)
    seen = shared_pass(classifier, random_images(2, 64), None, ["layer"], 2)
    assert seen.need_layer()[0].shape == (2, 32, 16, 16)
    assert classifier.need_cam().lowest == 0
    assert isinstance(make_classifier(seeded(rps), (150, 150)).cam_module, nn.ReLU)


@pytest.mark.parametrize(
    "name",
    [
        *("resnet18", "densenet121", "squeezenet1_1", "shufflenet_v2_x0_5", "mobilenet_v3_small"),
        *("regnet_y_400mf", "mnasnet0_5", "googlenet"),
    ],
)
def test_a_network_from_a_factory_is_read_where_it_is_by_name(name: str) -> None:
    named = load_classifier(f"torchvision:{name}@random")
    normalization = named.module.normalization
    own = make_classifier(named.module.network, (96, 96), normalization=normalization)
    images = random_images(1, 96)
    expected, seen = (shared_pass(x, images, None, ["layer"], 1) for x in (named, own))
    for mine, theirs in zip(seen.need_layer(), expected.need_layer(), strict=True):
        assert torch.equal(mine, theirs)


def test_a_network_that_makes_tokens_of_its_convolution_has_no_layer() -> None:
    for build in (vit, swin):
        assert last_plane(seeded(build).eval(), (32, 32)) is None
        classifier = make_classifier(seeded(build), (32, 32))
        assert classifier.cam_layer is None
        reason = "the network has no convolution with a spatial output before tokens are made"
        for name in ("grad_cam", "grad_cam_plus_plus", "layer_cam", "hires_cam", "guided_grad_cam"):
            assert bind_method(name).unfit(classifier) == reason
    assert last_plane(seeded(dense).eval(), (64, 64)) == CamLayer("features", activated=True)


def test_a_convolution_in_front_of_recurrent_cells_or_a_head_of_scores_is_no_patch() -> None:
    columns = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(2), nn.AdaptiveAvgPool1d(8))
    network = nn.Sequential(*columns, nn.Flatten(), nn.Linear(32, 3))
    assert last_plane(network.eval(), (16, 16)) == CamLayer("1")
    scores = nn.Sequential(*columns[:2], nn.Conv2d(4, 3, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert last_plane(scores.eval(), (16, 16)) == CamLayer("1"), "the classes' scores are no map"


def test_formulas_for_activations_of_at_least_0_do_not_apply_below() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.SiLU(), nn.Flatten(), nn.Linear(4 * 14 * 14, 3), nn.ReLU()
    )
    classifier = make_classifier(seeded(lambda: network), (16, 16))
    lowest = classifier.need_cam().lowest
    assert lowest is not None
    assert -0.28 < lowest < 0, "SiLU's own minimum is -0.278"
    for name in ("grad_cam_plus_plus", "layer_cam"):
        reason = bind_method(name).unfit(classifier)
        assert reason is not None
        assert reason.startswith("its formula is for activations of at least 0, and 1 puts out")
    for name in ("grad_cam", "hires_cam"):
        assert bind_method(name).unfit(classifier) is None


def test_grad_cam_plus_plus_weighs_no_place_by_more_than_a_half() -> None:
    """Its alphas, by equation 19, at the layer that is read; in front of the ReLU they burst."""
    classifier = load_classifier("compact")
    images = open_images("hands:60", classifier.framing, "all", 12).images(range(12))
    spans = []
    for layer in (None, "network.12"):
        seen = shared_pass(classifier.reading(layer), images, None, ["layer"], len(images))
        activations, slope = (part.double() for part in seen.need_layer())
        below = 2 * slope**2 + activations.sum(dim=(2, 3), keepdim=True) * slope**3
        alphas = (slope**2 / below)[slope > 0]
        spans.append((float(alphas.min()), float(alphas.max())))
    assert 0 < spans[0][0] < spans[0][1] <= 0.5
    assert spans[1][0] < -1
    assert spans[1][1] > 1


# --- another layer, by its name -------------------------------------------------------------------


def test_a_layer_is_read_by_its_name() -> None:
    build = partial(ResNet, BasicBlock, [1, 1, 1, 1], num_classes=3)
    classifier = make_classifier(seeded(build), (64, 64))
    named = make_classifier(classifier.module.network, (64, 64), cam_layer="layer2")
    batch = batch_of_three(classifier)
    for name in ("grad_cam", "hires_cam", "layer_cam", "grad_cam_plus_plus", "guided_grad_cam"):
        own, asked = bind_method(name), bind_method(f"{name}:layer=layer2")
        assert "layer=" not in own.spec
        assert asked.spec.endswith("layer=layer2")
        assert asked.share is None
        assert asked.unfit(classifier) is None
        maps = asked.explain(classifier, batch)
        torch.testing.assert_close(maps, own.explain(named, batch), rtol=0, atol=0)
        if asked.method.captum is not None:
            expected = asked.explain(classifier, batch, "captum")
            atol = 1e-4 * float(expected.abs().max())
            torch.testing.assert_close(maps, expected, rtol=0, atol=atol)


def test_a_layer_keeps_its_capitals() -> None:
    assert bind_method("grad_cam:layer=Mixed_7c").spec == "grad_cam:relu=true,layer=Mixed_7c"


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("network.99", "no layer is called 'network.99'"),
        ("network.16", r"layer 'network.16' has no output of shape \(batch, channels"),
    ],
)
def test_a_layer_that_cannot_be_read_is_refused_before_the_run(
    layer: str, message: str, steadymap: Command
) -> None:
    done = steadymap("run", "--method", f"grad_cam:layer={layer}", "--limit", "2", "--nulls", "0")
    assert done.code == 2
    assert re.search(rf"method grad_cam:relu=true,layer={layer}: .*{message}", done.err)


def test_randomised_networks_with_norms_have_signals_left() -> None:
    network = nn.Sequential(
        *(
            part
            for width in [3] + [8] * 30
            for part in (nn.Conv2d(width, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        ),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 3),
    )
    classifier = make_classifier(network, (16, 16))
    fresh = classifier.randomised(0)
    norms = [part for part in fresh.module.modules() if isinstance(part, nn.BatchNorm2d)]
    assert all(not norm.training and norm.momentum == 0.1 for norm in norms)
    deep = shared_pass(fresh, random_images(2, 16), None, ["gradient"], 2)
    plain = shared_pass(classifier, random_images(2, 16), None, ["gradient"], 2)
    # Without means and variances of its own each of 31 layers loses more than half of the signal.
    assert plain.need_gradient().abs().mean() < 1e-6 < deep.need_gradient().abs().mean()
    assert fresh.weights_hash() == classifier.randomised(0).weights_hash()


# --- the whole way --------------------------------------------------------------------------------

FACTORIES = """
import torch
from torch import nn
from torchvision.models import DenseNet, ResNet, VisionTransformer
from torchvision.models.resnet import BasicBlock
from steadymap.models import CamLayer, make_classifier

def finished(build, layer):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        network = build()
        for part in network.modules():
            if isinstance(part, nn.Linear) and not part.weight.any():
                part.reset_parameters()
    return make_classifier(network, (32, 32), ("paper", "rock", "scissors"), cam_layer=layer)

def vit():
    layer = CamLayer("encoder.layers.encoder_layer_1.ln_1", "tokens", 1)
    return finished(lambda: VisionTransformer(32, 8, 2, 2, 16, 32, num_classes=3), layer)

def resnet():
    return finished(lambda: ResNet(BasicBlock, [1, 1, 1, 1], num_classes=3), "layer3")

def dense():
    return finished(lambda: DenseNet(8, (2, 2), 16, num_classes=3), "features.norm5")
"""


@pytest.mark.parametrize("name", ["vit", "resnet", "dense"])
def test_a_whole_run(
    name: str, steadymap: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "zoo_for_test.py").write_text(FACTORIES)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    done = steadymap(
        "run", "--model", f"zoo_for_test:{name}", "--data", "hands:60", "--split", "all",
        "--limit", "3", "--method", "gradient", "--method", "grad_cam:relu=false", "--method",
        "integrated_gradients", "--steps", "2", "--family", "compensated_bias", "--severity", "0.2",
        "--no-controls", "--nulls", "1", "--output", "here",
    )  # fmt: skip
    assert done.code == 0, done.err
    folder = tmp_path / "here"
    assert {"records.parquet", "summary.csv", "calibrated.csv", "report.html"} <= {
        path.name for path in folder.iterdir()
    }
    manifest = json.loads((folder / "manifest.json").read_text())
    assert set(manifest["statuses"]).isdisjoint({"error", "nonfinite"})
    summary = pd.read_csv(folder / "summary.csv")
    # The network's function stays the same under a shift that it takes off again.
    row = summary.query(
        "metric == 'cosine' and subset == 'all' and family == 'compensated_bias' "
        "and method == 'grad_cam:relu=false'"
    ).iloc[0]
    assert row["images"] == 3
    assert row["mean"] == pytest.approx(1, abs=1e-4)
