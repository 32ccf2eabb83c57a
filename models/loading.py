"""From a model's name on the command line to a classifier."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from steadymap.models.classifier import Classifier, make_classifier
from steadymap.models.errors import ModelError, did_you_mean, one_line
from steadymap.models.lite import open_lite
from steadymap.models.pretrained import open_hub, open_timm, open_torchvision
from steadymap.models.registry import HANDS, LITE, MODEL_FORMS, MODELS
from steadymap.models.weights import fit_weights, read_weights

# What stands before the colon of a form, and who takes the rest.
OPENERS: dict[str, Callable[[str, Path | None], Classifier]] = {
    "torchvision": open_torchvision,
    "timm": open_timm,
    "hf": open_hub,
}


def load_classifier(
    spec: str, weights: Path | None = None, device: str | torch.device = "cpu"
) -> Classifier:
    """Load a classifier by name.

    Args:
        spec: a key of `MODELS`, or one of `MODEL_FORMS`.
        weights: a file of weights; left out, those that the model brings.
        device: where the network shall live.

    Raises:
        ModelError: an unknown name, weights that are missing or do not fit, or a network that
            breaks the classifier's contract.
    """
    if spec in MODELS:
        classifier = _own(spec, weights)
    elif spec == LITE:
        classifier = open_lite(weights)
    elif (kind := spec.partition(":")[0]) in OPENERS and ":" in spec:
        classifier = OPENERS[kind](spec.partition(":")[2], weights)
        if (folder := Path(spec.partition(":")[2]).expanduser()).is_dir():
            # Its own name, not where it lies on this machine, is what records say.
            spec = f"{kind}:{folder.resolve().name}"
    elif ":" in spec:
        classifier = _factory(spec, weights)
    else:
        known = f"known: {', '.join([*MODELS, *MODEL_FORMS])}"
        hint = did_you_mean(spec, [*MODELS, LITE], known)
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


def _factory(spec: str, weights: Path | None) -> Classifier:
    module_name, _, attribute = spec.partition(":")
    # A console script does not look in the current folder, where a user's own module is. The
    # folder stays on the path: the network may import its siblings later.
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # a user's code may raise anything; the line says where
        reason = one_line(error)
        raise ModelError(f"model: cannot import {module_name!r} for {spec!r}: {reason}") from error
    factory = getattr(module, attribute, None)
    if not callable(factory):
        raise ModelError(f"model: {module_name} has no function {attribute!r}")
    try:
        classifier = factory()
    except Exception as error:  # as above
        raise ModelError(f"model: {spec} failed: {one_line(error)}") from error
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
        classifier.cam,
    )
