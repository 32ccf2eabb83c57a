"""Networks of torchvision, timm and the Hugging Face hub, with their own preprocessing."""

from __future__ import annotations

import importlib
import math
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import torch

from steadymap.models.classifier import (
    Classifier,
    Framing,
    Normalization,
    make_classifier,
)
from steadymap.models.errors import ModelError, did_you_mean, one_line
from steadymap.models.layers import CamLayer, hub_layer, timm_layer, torchvision_layer
from steadymap.models.randomising import settle_norms
from steadymap.models.weights import Weights, fit_weights, read_weights

RANDOM = "random"
RANDOM_SEED = 0

# Auxiliary heads help training alone, and their own initialisation takes a minute.
TORCHVISION_ARGUMENTS: dict[str, dict[str, object]] = {
    "googlenet": {"aux_logits": False, "init_weights": False},
    "inception_v3": {"aux_logits": False, "init_weights": False},
}

# The filters that a Framing knows, by Pillow's numbers.
FILTERS: dict[int, Literal["bilinear", "bicubic"]] = {2: "bilinear", 3: "bicubic"}

# Seconds to wait for the hub before it counts as out of reach.
HUB_PATIENCE = 5.0
TIMM_FILE = "model.safetensors"


def open_torchvision(spec: str, weights: Path | None) -> Classifier:
    """Load `NAME@WEIGHTS`, `NAME@random`, or `NAME` with a file of weights.

    Raises:
        ModelError: an unknown name, no weights or two, or weights that are out of reach.
    """
    import torchvision  # noqa: PLC0415 - four seconds, which only its own networks are worth

    name, _, label = spec.partition("@")
    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        raise ModelError(
            f"model: torchvision has no classifier {name!r}; "
            f"{did_you_mean(name, known, 'see torchvision.models.list_models()')}"
        )
    if (weights is None) == (label == ""):
        raise ModelError(
            f"model: torchvision:{spec} needs weights, once: "
            f"torchvision:{name}@DEFAULT, @random, or --weights FILE"
        )
    choices = torchvision.models.get_model_weights(name)
    if label not in ("", RANDOM, *choices.__members__):
        options = ", ".join([*choices.__members__, RANDOM])
        raise ModelError(f"model: {name} has no weights {label!r}; known: {options}")
    choice = choices[label] if label in choices.__members__ else choices.DEFAULT
    preset = choice.transforms()
    side = preset.crop_size[0]
    framing = Framing((side, side), preset.resize_size[0], preset.interpolation.value)
    normalization = Normalization(tuple(preset.mean), tuple(preset.std))
    names: tuple[str, ...] | None
    if label in choices.__members__:
        network, names = _torchvision_trained(name, choice), tuple(choice.meta["categories"])
    else:
        network, names = _torchvision_fresh(name, side, weights)
    return make_classifier(network, framing, names, normalization, torchvision_layer(name, network))


def _torchvision_trained(name: str, choice: Any) -> torch.nn.Module:  # noqa: ANN401 - torchvision is not typed
    import torchvision  # noqa: PLC0415 - as above

    try:
        # Read as tensors alone first: torchvision itself would run what code a file held.
        choice.get_state_dict(check_hash=True, weights_only=True, map_location="cpu")
        network: torch.nn.Module = torchvision.models.get_model(name, weights=choice)
    except OSError as error:
        raise ModelError(
            f"model: the weights of {name}@{choice.name} are not on this machine and cannot be "
            f"downloaded ({error}); put {Path(choice.url).name} into "
            f"torch's hub cache (TORCH_HOME), or give a file with --weights"
        ) from error
    except Exception as error:  # broken files raise anything; each means the same here
        raise ModelError(
            f"model: {Path(choice.url).name} in torch's hub cache (TORCH_HOME) is refused: it is "
            "broken or holds other objects than tensors; remove it"
        ) from error
    return network


def _torchvision_fresh(
    name: str, side: int, weights: Path | None
) -> tuple[torch.nn.Module, tuple[str, ...] | None]:
    """Build a network for images of `side` pixels, with a file of weights or random ones."""
    import torchvision  # noqa: PLC0415 - as above

    arguments = TORCHVISION_ARGUMENTS.get(name, {})
    if weights is not None and arguments:
        raise ModelError(
            f"model: no file says whether a {name} was trained with torchvision's transform_input; "
            f"use torchvision:{name}@DEFAULT, or a factory of your own"
        )
    if name.startswith("vit_"):
        arguments = {"image_size": side}
    loaded = None if weights is None else read_weights(weights)
    with torch.random.fork_rng():
        torch.manual_seed(RANDOM_SEED)
        network: torch.nn.Module = torchvision.models.get_model(
            name, weights=None, **arguments, **_classes(loaded)
        )
        if loaded is None:
            _complete(network, (side, side))
    if loaded is None or weights is None:
        return network, None
    fit_weights(network, loaded, weights.name)
    return network, loaded.class_names


def imagenet_names() -> tuple[str, ...]:
    """Return ImageNet's 1000 class names as torchvision writes them, in the order of logits."""
    import torchvision  # noqa: PLC0415 - as above

    return tuple(torchvision.models.ResNet18_Weights.DEFAULT.meta["categories"])


def open_timm(spec: str, weights: Path | None) -> Classifier:
    """Load `NAME`, with timm's own weights or with a file, or `NAME@random`.

    Raises:
        ModelError: timm is missing, an unknown name, weights that are out of reach, or a
            preprocessing that a `Framing` cannot say.
    """
    timm = load_extra("timm", "timm", f"timm:{spec}")
    name, _, label = spec.partition("@")
    if label not in ("", RANDOM) or (label and weights is not None):
        raise ModelError(
            f"model: timm:{spec}: write timm:{name} for timm's own weights, timm:{name}@random, or "
            f"timm:{name} with --weights FILE"
        )
    if not timm.is_model(name):
        known = timm.list_models()
        hint = did_you_mean(name, known, "see timm.list_models()")
        raise ModelError(f"model: timm has no network {name!r}; {hint}")
    loaded = None if weights is None else read_weights(weights)
    names = None
    with torch.random.fork_rng():
        torch.manual_seed(RANDOM_SEED)
        if label or loaded is not None:
            network: torch.nn.Module = timm.create_model(name, **_classes(loaded))
        else:
            network = _timm_trained(timm, name)
            names = _timm_names(timm, network)
        framing, normalization = timm_preset(name, timm.data.resolve_model_data_config(network))
        if label:
            _complete(network, framing.size)
    if loaded is not None and weights is not None:
        fit_weights(network, loaded, weights.name)
        names = loaded.class_names
    network.eval()
    layer = timm_layer(network, framing.size)
    return _with_layer(make_classifier(network, framing, names, normalization, layer), layer)


def _timm_trained(timm: ModuleType, name: str) -> torch.nn.Module:
    config = timm.get_pretrained_cfg(name)
    if config is None or not (config.hf_hub_id or config.url):
        raise ModelError(
            f"model: timm has no weights for {name}; use timm:{name}@random or --weights FILE"
        )
    try:
        # The file by its path: timm would ask the hub again, at length where it is out of reach.
        overlay = (
            {"file": str(_hub_file(config.hf_hub_id, config.hf_hub_filename or TIMM_FILE))}
            if config.hf_hub_id
            else None
        )
        network: torch.nn.Module = timm.create_model(
            name, pretrained=True, pretrained_cfg_overlay=overlay
        )
    except Exception as error:  # timm and its clients raise many kinds; the line says what
        raise ModelError(
            f"model: the weights of timm:{name} are not on this machine and cannot be "
            f"downloaded ({one_line(error)}); load them once with a network, or use "
            f"timm:{name}@random or --weights FILE"
        ) from error
    return network


def timm_preset(name: str, config: Mapping[str, Any]) -> tuple[Framing, Normalization]:
    """Return the framing and the normalisation of timm's data configuration.

    Raises:
        ModelError: a `Framing` cannot say it.
    """
    channels, height, width = config["input_size"]
    scale, mode, filter_name = config["crop_pct"], config["crop_mode"], config["interpolation"]
    uncropped = mode == "squash" and scale == 1
    if channels != 3 or not (mode == "center" or uncropped) or filter_name not in FILTERS.values():  # noqa: PLR2004 - RGB
        raise ModelError(
            f"model: timm:{name} wants {channels} channels, {mode} crops of {scale:g} and "
            f"{filter_name} resampling, which a Framing cannot say; use a factory of your own"
        )
    short = None if uncropped else math.floor(min(height, width) / scale)
    return Framing((height, width), short, filter_name), Normalization(
        tuple(config["mean"]), tuple(config["std"])
    )


def _timm_names(timm: ModuleType, network: torch.nn.Module) -> tuple[str, ...] | None:
    subset = timm.data.infer_imagenet_subset(network)
    if subset == "imagenet-1k":
        return imagenet_names()
    if subset is None:
        return None
    info = timm.data.ImageNetInfo(subset)
    return tuple(info.index_to_description(index) for index in range(info.num_classes()))


class HubNetwork(torch.nn.Module):
    """A classifier of transformers that returns its logits alone."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map normalised images (B, 3, H, W) to logits (B, K)."""
        logits: torch.Tensor = self.model(pixel_values=images).logits
        return logits


def open_hub(spec: str, weights: Path | None) -> Classifier:
    """Load `ID` of the Hugging Face hub, or a folder that holds a saved classifier.

    What is in the cache is taken as it is, without a look at the hub.

    Raises:
        ModelError: transformers is missing, a classifier that is out of reach, or a preprocessing
            that a `Framing` cannot say.
    """
    transformers = load_extra("transformers", "hf", f"hf:{spec}")
    if not spec or weights is not None:
        raise ModelError("model: hf: takes an ID, e.g. hf:microsoft/resnet-18, and no --weights")
    folder = _hub_folder(spec)
    with torch.random.fork_rng():
        try:
            model = transformers.AutoModelForImageClassification.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False, use_safetensors=True
            )
            processor = transformers.AutoImageProcessor.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            )
        except Exception as error:  # transformers raises many kinds; the line says what
            raise ModelError(
                f"model: hf:{spec} holds no image classifier with its processor ({one_line(error)})"
            ) from error
    framing, normalization = hub_preset(spec, processor.to_dict())
    labels = model.config.id2label
    names = tuple(str(labels[index]) for index in range(len(labels)))
    network = HubNetwork(model).eval()
    layer = hub_layer(model.config.model_type, network, framing.size)
    return _with_layer(make_classifier(network, framing, names, normalization, layer), layer)


def _hub_folder(spec: str) -> Path:
    """Return where a classifier of the hub lies on this machine, fetched if it does not yet."""
    folder = Path(spec).expanduser()
    if folder.is_dir():
        return folder
    hub = importlib.import_module("huggingface_hub")
    try:
        _hub_file(spec, "config.json")
        # With everything there the hub is not asked; a run then needs no network.
        return Path(_hub_snapshot(hub, spec))
    except Exception as error:
        raise ModelError(
            f"model: hf:{spec} is not on this machine and cannot be downloaded "
            f"({one_line(error)}); load it once with a network, or give hf:FOLDER of a saved one"
        ) from error


def _hub_snapshot(hub: ModuleType, spec: str) -> str:
    folder = Path(hub.try_to_load_from_cache(spec, "config.json")).parent
    if any(folder.glob("*.safetensors")) and any(folder.glob("*processor_config.json")):
        return str(folder)
    fetched: str = hub.snapshot_download(spec, allow_patterns=["*.json", "*.safetensors"])
    return fetched


def reach(endpoint: str, patience: float) -> None:
    """See that a server answers, whatever it says.

    Raises:
        ConnectionError: it has not within `patience` seconds.
    """
    try:
        with urllib.request.urlopen(endpoint, timeout=patience):  # noqa: S310 - the hub's own address, or the user's
            pass
    except urllib.error.HTTPError:
        pass  # it answers
    except OSError as error:
        raise ConnectionError(f"{endpoint} is out of reach: {error}") from error


def _hub_file(repository: str, name: str) -> Path:
    """Return a file of the hub: from the cache as it is, or else downloaded.

    Raises:
        ConnectionError: the hub is out of reach; its client would try again for a minute.
    """
    hub = importlib.import_module("huggingface_hub")
    cached = hub.try_to_load_from_cache(repository, name)
    if isinstance(cached, str):
        return Path(cached)
    if hub.constants.HF_HUB_OFFLINE:
        raise ConnectionError("HF_HUB_OFFLINE is set")
    reach(hub.constants.ENDPOINT, HUB_PATIENCE)
    return Path(hub.hf_hub_download(repository, name, etag_timeout=HUB_PATIENCE))


def hub_preset(spec: str, config: Mapping[str, Any]) -> tuple[Framing, Normalization]:
    """Return the framing and the normalisation of an image processor's settings.

    Raises:
        ModelError: a `Framing` cannot say it.
    """
    size, crop = config.get("size") or {}, config.get("crop_size") or {}
    odd = [key for key in ("rescale_offset", "include_top", "do_pad") if config.get(key)]
    odd += [key for key in ("do_resize", "do_rescale") if config.get(key) is False]
    if config.get("resample") not in FILTERS:
        odd.append(f"resample={config.get('resample')}")
    short: int | None = None
    if "shortest_edge" in size:
        edge = int(size["shortest_edge"])
        # Of ConvNeXt and its kin: below 384 pixels the centre is cut out, above all is squashed.
        share = config.get("crop_pct")
        if share is None or edge < 384:  # noqa: PLR2004 - transformers' own number
            short = edge if share is None else int(edge / share)
        sides = (edge, edge)
    elif {"height", "width"} <= set(size):
        sides = (int(size["height"]), int(size["width"]))
    else:
        odd.append(f"size={dict(size)}")
        sides = (0, 0)
    if config.get("do_center_crop") and crop:
        cut = (int(crop["height"]), int(crop["width"]))
        if short is None and cut != sides:
            odd.append("a crop after squashing")
        sides = cut
    if odd:
        raise ModelError(
            f"model: the processor of hf:{spec} has {', '.join(odd)}, which a Framing cannot say; "
            "use a factory of your own"
        )
    plain = Normalization()
    normalization = (
        Normalization(tuple(config["image_mean"]), tuple(config["image_std"]))
        if config.get("do_normalize")
        else plain
    )
    return Framing(sides, short, FILTERS[config["resample"]]), normalization


def _with_layer(classifier: Classifier, layer: CamLayer | None) -> Classifier:
    """Leave Grad-CAM without a layer where none is known: a patch embedding says little."""
    return classifier if layer is not None else replace(classifier, cam=None)


def _complete(network: torch.nn.Module, size: tuple[int, int]) -> None:
    """Make of fresh weights a network that answers: some libraries start at a constant.

    torchvision's vision transformers begin with a head of zeros; their maps would all be zero.
    """
    for part in network.modules():
        if isinstance(part, torch.nn.Linear) and not part.weight.any():
            part.reset_parameters()
    settle_norms(network, size)


def _classes(loaded: Weights | None) -> dict[str, int]:
    """Return the number of classes where a file of weights says it."""
    return {"num_classes": len(loaded.class_names)} if loaded and loaded.class_names else {}


def load_extra(package: str, extra: str, spec: str) -> ModuleType:
    """Import a package that comes with an extra.

    Raises:
        ModelError: it is missing, with the command that installs it.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ModelError(
            f"model: {spec} needs {package}: pip install 'steadymap[{extra}]'"
        ) from error
