"""What is timed and compared."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from steadymap.bench.core.errors import one_line
from steadymap.bench.methods.method import BoundMethod
from steadymap.bench.network.loading import load_model
from steadymap.models import Classifier


@dataclass(frozen=True)
class Course:
    """What is timed.

    Attributes:
        model: see `steadymap list models`.
        weights: a file of weights; None for those that the model brings.
        methods: specs.
        batch: images of a batch.
        repeats: warm runs of each method.
        fresh: whether to start processes for the cold start and memory.
        keep_heap: whether these retain their heap, as the command line's own does.
        exact: float32 proper on a GPU; otherwise TF32.
        seed: of the random baseline.
    """

    model: str
    weights: Path | None
    methods: tuple[str, ...]
    batch: int
    repeats: int
    fresh: bool
    keep_heap: bool
    exact: bool = True
    seed: int = 0

    def load(self, device: str) -> Classifier:
        """Return the classifier, on a device."""
        return load_model(self.model, self.weights, torch.device(device))


def unfit(method: BoundMethod, classifier: Classifier) -> str | None:
    """Return why a classifier cannot be explained with a method; None where it can."""
    try:
        return method.unfit(classifier)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a plug-in may raise anything; its row says what
        return f"does it apply? {one_line(error)}"
