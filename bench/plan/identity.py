"""The name of a run, made of all that its records depend on."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import re
from dataclasses import asdict
from typing import Any

from steadymap.bench.core import machine, metric_registry
from steadymap.bench.core.plugins import Shelf
from steadymap.bench.data.image_set import ImageSet
from steadymap.bench.data.masks import MASKS
from steadymap.bench.methods.binding import METHOD_SHELF
from steadymap.bench.network.model_shelf import MODEL_SHELF
from steadymap.bench.perturbations.registry import FAMILY_SHELF
from steadymap.bench.plan.experiment import Experiment
from steadymap.bench.plan.plan import Plan
from steadymap.bench.records import rules
from steadymap.bench.records.schema import SCHEMA_VERSION
from steadymap.models import Classifier

# A file system has names of 255 bytes, and a letter has up to four.
MOST_NAME = 60


def run_id(plan: Plan, classifier: Classifier, images: ImageSet) -> str:
    """Return the name of a run: data set, model, and a hash of everything that matters.

    Threads and batch size are left out: they change the speed alone.
    """
    parts = [
        re.sub("^(folder|kaggle|torchvision):", "", part) for part in (images.name, classifier.name)
    ]
    if isinstance(plan, Experiment) and plan.variant:
        parts.append(plan.variant)
    name = re.sub(r"[^\w-]+", "-", "-".join(parts))[:MOST_NAME]
    text = json.dumps(_identity(plan, classifier, images), sort_keys=True)
    return f"{name}-{hashlib.sha256(text.encode()).hexdigest()[: machine.ID_LENGTH]}"


def _identity(plan: Plan, classifier: Classifier, images: ImageSet) -> dict[str, Any]:
    plugins = loaded_plugins(plan, classifier)
    masks = {"masks": images.masks} if images.masks in MASKS else {}
    variant = plan.variant if isinstance(plan, Experiment) else None
    return (
        masks
        | ({"variant": variant} if variant else {})
        | ({"plugins": plugins} if plugins else {})
        | {
            "schema": SCHEMA_VERSION,
            "rules": rules.CURRENT,
            "steadymap": importlib.metadata.version("steadymap"),
            "methods": [method.spec for method in plan.bound_methods()],
            "cells": [asdict(cell) for cell in plan.cells()],
            "metrics": sorted(plan.metrics()),
            "nulls": plan.nulls,
            "coupled": plan.coupled,
            "admission": plan.admission,
            "cell_share": plan.cell_share,
            "seed": plan.seed,
            "engine": plan.engine,
            "precision": plan.precision,
            "weights": classifier.weights_hash(),
            "framing": asdict(classifier.framing),
            "normalization": asdict(classifier.module.normalization),
            "cam_layer": classifier.cam_layer,
            "data": images.data_hash(),
            "device": classifier.module.mean.device.type,
        }
    )


def loaded_plugins(plan: Plan, classifier: Classifier) -> dict[str, str]:
    """Return the plug-ins of a run, with their distribution and its version."""
    methods = [method.spec.partition(":")[0] for method in plan.bound_methods()]
    places = [":".join(name.rsplit(".", 1)) for name in methods]
    names_by_shelf: tuple[tuple[Shelf[Any], list[str]], ...] = (
        (METHOD_SHELF, places),
        (FAMILY_SHELF, list(plan.family)),
        (metric_registry.METRIC_SHELF, list(plan.metric or ())),
        (MODEL_SHELF, [classifier.name]),
    )
    return {
        f"{shelf.kind} {name}": plugin.source
        for shelf, names in names_by_shelf
        for name in names
        if (plugin := shelf.where(name)) is not None
    }
