"""What is checked: a method on small images and networks, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch

from steadymap.bench.checks import networks as known
from steadymap.bench.methods.batch import Batch, draws_of
from steadymap.bench.methods.method import BoundMethod, Engine
from steadymap.bench.methods.paths import SETTLED
from steadymap.models import Classifier

# What maps may differ by, as a share of their largest value.
TOLERANCE = 1e-6
IMAGES = 4
REFERENCES = 3

Result = Literal["passed", "failed", "not applicable"]


@dataclass(frozen=True)
class Finding:
    """What came of one check of one method.

    Attributes:
        result: passed, failed or not applicable.
        reason: empty where it passed.
    """

    result: Result
    reason: str = ""


PASSED = Finding("passed")


def inapplicable(reason: str) -> Finding:
    """Return that a check does not apply, and why."""
    return Finding("not applicable", reason)


@dataclass(frozen=True)
class Subject:
    """A method under check.

    Attributes:
        method: which one.
        engine: own, or captum.
    """

    method: BoundMethod
    engine: Engine = "own"

    def explain(self, classifier: Classifier, batch: Batch) -> torch.Tensor:
        """Return attributions (B, C, h, w)."""
        return self.method.explain(classifier, batch, self.engine)

    def parameter(self, name: str) -> object:
        """Return the value of a parameter; None where the method has none of that name."""
        return dict(self.method.parameters).get(name)

    def having(self, name: str, value: object) -> Subject:
        """Return the same with another value of a parameter."""
        parameters = tuple((key, value if key == name else old) for key, old in self.parameters())
        return replace(self, method=replace(self.method, parameters=parameters))

    def parameters(self) -> tuple[tuple[str, object], ...]:
        """Return name and value of every parameter."""
        return self.method.parameters

    def agree(self, maps: torch.Tensor, expected: torch.Tensor) -> Finding:
        """Pass where maps are the same up to rounding, relative to the largest expected value.

        A method that takes as many steps as it needs promises no more than it stops at.
        """
        if maps.shape != expected.shape:
            return Finding("failed", f"shape {tuple(maps.shape)}, not {tuple(expected.shape)}")
        tolerance = SETTLED if self.method.adaptive else TOLERANCE
        distance = float((maps - expected).abs().max())
        largest = float(expected.abs().max())
        if distance <= tolerance * largest:
            return PASSED
        return Finding("failed", f"off by {distance:.3g} where the largest value is {largest:.3g}")


def batch_of(images: torch.Tensor, seed: int = 0) -> Batch:
    """Return images with targets 0, 1, 2, ... and names of their own, and other images beside."""
    count = len(images)
    ids = tuple(f"image-{place}" for place in range(count))
    targets = torch.arange(count) % known.CLASSES
    return Batch(images, targets, draws_of(seed, ids), references=known.images(REFERENCES, seed=2))
