"""Classifiers by name: ours, those of plug-ins, and factories of a user."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from steadymap.bench.core.errors import PluginError
from steadymap.bench.core.plugins import Shelf, check_function, offers
from steadymap.models import MODELS, Classifier, Model, ModelError, load_classifier

# --- models ---------------------------------------------------------------------------------------


def _as_factory(found: object) -> Model | Callable[[], Classifier]:
    check_function(found, "")
    return found  # type: ignore[return-value] # seen to be a function; what it returns is seen later


MODEL_SHELF: Shelf[Model | Callable[[], Classifier]] = Shelf("model", MODELS, _as_factory)


def load_model(
    spec: str, weights: Path | None = None, device: str | torch.device = "cpu"
) -> Classifier:
    """Load a classifier by name, as `load_classifier` does, or the plug-in of that name.

    Raises:
        ModelError: as `load_classifier`, or a plug-in that cannot be loaded.
    """
    if spec in MODELS or ":" in spec or spec not in offers("model"):
        return load_classifier(spec, weights, device)
    try:
        MODEL_SHELF.find(spec)
    except PluginError as error:
        raise ModelError(str(error)) from error
    place = offers("model")[spec][0].value
    return replace(load_classifier(place, weights, device), name=spec)
