"""From a model's name on the command line to a classifier."""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from steadymap.models.classifier import (
    Classifier,
    Framing,
    ModelError,
    Normalization,
    make_classifier,
)
from steadymap.models.networks import COMPACT_SIDE, HANDS, RPS_SIDE, compact, rps
from steadymap.models.weights import fit_weights, read_weights

HERE = Path(__file__).parent
TORCHVISION = "torchvision:"
RANDOM_SEED = 0
IMAGENET = Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclass(frozen=True)
class Model:
    """A network of the project.

    Attributes:
        build: makes the network for a number of classes, freshly initialised.
        side: height and width of its input, in pixels.
        shipped: weights that come with the package, for the embedded hands; or None.
        summary: one line for `steadymap list`.
        source: where the architecture comes from.
    """

    build: Callable[[int], nn.Module]
    side: int
    shipped: Path | None
    summary: str
    source: str


MODELS: dict[str, Model] = {
    "compact": Model(
        compact,
        COMPACT_SIDE,
        HERE / "compact-hands.safetensors",
        "the study's plan scaled down, 64 px, 0.22 M parameters, trained on the embedded hands",
        "after the study's network",
    ),
    "rps": Model(
        rps,
        RPS_SIDE,
        None,
        "the study's network, 150 px, 86.6 M parameters; bring weights (steadymap train)",
        "the study of rock-paper-scissors photographs",
    ),
}

MODEL_FORMS: dict[str, str] = {
    "torchvision:NAME@WEIGHTS": "a torchvision classifier, e.g. torchvision:resnet18@DEFAULT; "
    "@random for seeded random weights, or give --weights",
    "package.module:factory": "your own: a function that returns a steadymap.models.Classifier",
}


def load_classifier(
    spec: str, weights: Path | None = None, device: str | torch.device = "cpu"
) -> Classifier:
    """Load a classifier by name.

    Args:
        spec: a key of `MODELS`, `torchvision:NAME[@WEIGHTS]` or `package.module:factory`.
        weights: a file of weights; left out, those that the model brings.
        device: where the network shall live.

    Raises:
        ModelError: an unknown name, weights that are missing or do not fit, or a network that
            breaks the classifier's contract.
    """
    if spec in MODELS:
        classifier = _own(spec, weights)
    elif spec.startswith(TORCHVISION):
        classifier = _torchvision(spec.removeprefix(TORCHVISION), weights)
    elif ":" in spec:
        classifier = _factory(spec, weights)
    else:
        near = difflib.get_close_matches(spec, MODELS, n=1)
        hint = (
            f"did you mean {near[0]}?" if near else f"known: {', '.join([*MODELS, *MODEL_FORMS])}"
        )
        raise ModelError(f"model: unknown name {spec!r}; {hint}")
    classifier.module.to(device)
    return replace(classifier, name=spec)


def _own(name: str, weights: Path | None) -> Classifier:
    model = MODELS[name]
    path = weights or model.shipped
    if path is None:
        raise ModelError(
            f"model: {name} ships no weights; give --weights FILE "
            f"(steadymap train --model {name} --data ... makes them)"
        )
    loaded = read_weights(path)
    class_names = loaded.class_names or HANDS
    network = model.build(len(class_names))
    fit_weights(network, loaded, path.name)
    return make_classifier(network, (model.side, model.side), class_names)


def _torchvision(spec: str, weights: Path | None) -> Classifier:
    import torchvision  # noqa: PLC0415 - four seconds, which only its own networks are worth

    name, _, label = spec.partition("@")
    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}?" if near else "see torchvision.models.list_models()"
        raise ModelError(f"model: torchvision has no classifier {name!r}; {hint}")
    if (weights is None) == (label == ""):
        raise ModelError(
            f"model: {TORCHVISION}{spec} needs weights, once: "
            f"{TORCHVISION}{name}@DEFAULT, @random, or --weights FILE"
        )
    framing, normalization, names = Framing((224, 224), 256), IMAGENET, None
    if label in ("", "random"):
        with torch.random.fork_rng():
            torch.manual_seed(RANDOM_SEED)
            network = torchvision.models.get_model(name, weights=None)
        if weights is not None:
            fit_weights(network, read_weights(weights), weights.name)
        return make_classifier(network, framing, names, normalization)
    choices = torchvision.models.get_model_weights(name)
    if label not in choices.__members__:
        options = ", ".join([*choices.__members__, "random"])
        raise ModelError(f"model: {name} has no weights {label!r}; known: {options}")
    choice = choices[label]
    preset = choice.transforms()
    framing = Framing(
        (preset.crop_size[0], preset.crop_size[0]),
        preset.resize_size[0],
        preset.interpolation.value,
    )
    normalization = Normalization(tuple(preset.mean), tuple(preset.std))
    try:
        network = torchvision.models.get_model(name, weights=choice)
    except OSError as error:
        raise ModelError(
            f"model: the weights of {name}@{label} are not on this machine and cannot be "
            f"downloaded ({error}); put {Path(choice.url).name} into "
            f"torch's hub cache (TORCH_HOME), or give a file with --weights"
        ) from error
    return make_classifier(network, framing, tuple(choice.meta["categories"]), normalization)


def _factory(spec: str, weights: Path | None) -> Classifier:
    module_name, _, attribute = spec.partition(":")
    # A console script does not look in the current folder, where a user's own module is. The
    # folder stays on the path: the network may import its siblings later.
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # a user's code may raise anything; the line says where
        reason = f"{type(error).__name__}: {error}"
        raise ModelError(f"model: cannot import {module_name!r} for {spec!r}: {reason}") from error
    factory = getattr(module, attribute, None)
    if not callable(factory):
        raise ModelError(f"model: {module_name} has no function {attribute!r}")
    try:
        classifier = factory()
    except Exception as error:  # as above
        raise ModelError(f"model: {spec} failed: {type(error).__name__}: {error}") from error
    if not isinstance(classifier, Classifier):
        raise ModelError(
            f"model: {spec} returned {type(classifier).__name__}, not a Classifier; "
            "return steadymap.models.make_classifier(network, (height, width), class_names)"
        )
    if weights is None:
        return classifier
    network = classifier.module.network
    fit_weights(network, read_weights(weights), weights.name)
    # Checked again: a contract that held without these weights may not hold with them.
    return make_classifier(
        network,
        classifier.framing,
        classifier.class_names,
        classifier.module.normalization,
        classifier.cam_layer,
    )
