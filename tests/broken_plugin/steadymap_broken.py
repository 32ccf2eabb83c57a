"""Plug-ins that cannot be had, and some that fail when they are used."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from torch import Tensor

from steadymap.bench import METHODS, PERTURBATIONS, Batch
from steadymap.metrics import METRICS, Maps
from steadymap.models import Classifier

NUMBER = 3


class Shape:
    pass


def other_arguments(classifier: Classifier) -> None:
    raise AssertionError(classifier)


def raises(classifier: Classifier, batch: Batch) -> Tensor:
    raise RuntimeError(f"not of {len(batch.images)} images by {classifier.name}")


def returns_none(classifier: Classifier, batch: Batch) -> None:
    del classifier, batch


def family_raises(image: Tensor, severity: float, rng: np.random.Generator) -> Tensor:
    raise RuntimeError(f"no {severity} of {image.ndim} and {type(rng).__name__}")


def metric_raises(clean: Maps, perturbed: Maps) -> None:
    raise RuntimeError(f"{len(clean)} and {len(perturbed)}")


def no_classifier() -> None:
    pass


PROMISES_NONSENSE = replace(
    METHODS["gradient"],
    capabilities=lambda parameters: parameters["none"],  # type: ignore[arg-type, return-value] # wrong
)
NO_BOUNDS = replace(PERTURBATIONS["bias"], bounds=None)  # type: ignore[arg-type] # wrong
UPSIDE = replace(METRICS["spearman"], better="up")  # type: ignore[arg-type] # wrong
