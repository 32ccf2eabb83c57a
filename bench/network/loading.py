"""Classifiers by name: ours, those of plug-ins, and factories of a user."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from steadymap.bench.core import errors, plugins
from steadymap.bench.network.model_shelf import MODEL_SHELF
from steadymap.models import MODELS, Classifier, ModelError, load_classifier


def load_model(
    spec: str, weights: Path | None = None, device: str | torch.device = "cpu"
) -> Classifier:
    """Load a classifier by name, as `load_classifier` does, or the plug-in of that name.

    Raises:
        ModelError: as `load_classifier`, or a plug-in that cannot be loaded.
    """
    if spec in MODELS or ":" in spec or spec not in plugins.offers("model"):
        return load_classifier(spec, weights, device)
    try:
        MODEL_SHELF.find(spec)
    except errors.PluginError as error:
        raise ModelError(str(error)) from error
    place = plugins.offers("model")[spec][0].value
    return replace(load_classifier(place, weights, device), name=spec)
