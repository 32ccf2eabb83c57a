"""Small networks and images for the tests."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from steadymap.bench.commands.app import main
from steadymap.bench.data.image_set import ImageSet, from_tensor
from steadymap.bench.methods.batch import Batch
from steadymap.metrics import Evidence
from steadymap.metrics.faithfulness import Curve, Responses
from steadymap.metrics.neighbours import Neighbours

Array = NDArray[np.float64]

# Of the repository.
ROOT = Path(__file__).resolve().parents[1]

SIDE = 16
CLASSES = ("a", "b", "c")
COUNT = 5


def random_images(count: int, side: int = SIDE, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, 3, side, side, generator=generator)


def seeded(build: Callable[[], nn.Module], seed: int = 3) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()


def conv_network(side: int = SIDE) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 8, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(8 * (side // 2) ** 2, len(CLASSES)),
    )


def linear_network(side: int = SIDE) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * side * side, len(CLASSES)))


def batch_of(images: Tensor, seed: int = 0) -> Batch:
    count = len(images)
    ids = tuple(f"id-{index}" for index in range(count))
    targets = torch.arange(count) % len(CLASSES)
    references = random_images(4, images.shape[-1], seed=9).to(images)
    return Batch(images, targets, ids, seed, references=references)


def global_numpy_state() -> NDArray[np.uint32]:
    """Return the words of NumPy's global generator, which nothing of ours may move."""
    state = np.random.get_state(legacy=False)["state"]  # noqa: NPY002 - it is the one to watch
    return np.array(state["key"])


def hook_counts(network: nn.Module) -> list[int]:
    return [
        len(part._forward_hooks) + len(part._forward_pre_hooks) + len(part._backward_hooks)  # noqa: SLF001 - no public view
        for part in network.modules()
    ]


def image_set(count: int = COUNT) -> ImageSet:
    masks = np.zeros((count, SIDE, SIDE))
    masks[:, 4:12, 3:9] = 1.0
    return from_tensor(random_images(count), [i % 3 for i in range(count)], CLASSES, masks)


def probe_evidence(kind: str, count: int, numbers: Callable[[tuple[int, int]], Array]) -> Evidence:
    """What a metric of the clean image is against, of numbers (rows, columns) that are not 0."""
    shape = (count, 6)
    kept = np.ones(shape, dtype=bool)
    kept[:, 1] = False
    sizes = [np.abs(numbers(shape)) for _ in range(6)]
    makers: dict[str, Callable[[], Evidence]] = {
        "neighbours": lambda: Neighbours(
            sizes[0], sizes[1], sizes[2], sizes[3], sizes[4], sizes[5], kept
        ),
        "noise": lambda: Responses(numbers(shape), numbers(shape)),
        "deletion": lambda: Curve(np.abs(numbers(shape))),
        "insertion": lambda: Curve(np.abs(numbers(shape))),
    }
    return makers[kind]()


def pick(records: pd.DataFrame, **values: object) -> pd.DataFrame:
    for column, value in values.items():
        records = records[records[column] == value]
    return records


@dataclass(frozen=True)
class Done:
    """What a command ended with, and what it printed."""

    code: int
    out: str
    err: str


def call(patch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Run a command of the command line in this process; return its exit code."""
    patch.setattr(sys, "argv", ["steadymap", *arguments])
    with pytest.raises(SystemExit) as left:
        main()
    return left.value.code if isinstance(left.value.code, int) else 0


def make_records(rows: list[dict[str, object]]) -> pd.DataFrame:
    """Return records, whose columns are as usual where nothing is said."""
    base = {
        "image_id": "i0",
        "method": "gradient",
        "family": "bias",
        "severity": 0.1,
        "draw": 0,
        "metric": "ssim",
        "value": 0.5,
        "status": "ok",
        "kept": True,
        "label": 0,
        "detail": "",
    }
    return pd.DataFrame([base | row for row in rows])
