"""Small networks, images, plans and processes for the tests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from steadymap.bench.commands.app import main
from steadymap.bench.core.files import sha256_of
from steadymap.bench.core.on_demand import OnDemand
from steadymap.bench.data.image_set import ImageSet, from_tensor
from steadymap.bench.measure.outcome import Outcome
from steadymap.bench.measure.runner import measure
from steadymap.bench.methods.batch import Batch, draws_of
from steadymap.bench.network.passes import count_passes
from steadymap.bench.plan.plan import Plan
from steadymap.bench.plan.setup import Setup
from steadymap.bench.records.seal import FILES, sealed
from steadymap.metrics import Evidence
from steadymap.metrics.faithfulness import Curve, Responses
from steadymap.metrics.neighbours import Neighbours
from steadymap.models import Classifier, make_classifier

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


class Around(nn.Module):
    """A network within a forward of its own, which may do with it what it likes.

    Args:
        forward: takes the network inside and the images, returns logits or whatever it is to show.
        inner: the network; that of convolutions unless told otherwise.
    """

    def __init__(
        self, forward: Callable[[nn.Module, Tensor], object], inner: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.inner = inner or conv_network()
        self.outer = forward

    def forward(self, images: Tensor) -> Tensor:
        return self.outer(self.inner, images)  # type: ignore[return-value] # or what is to be shown


def tiny(build: Callable[[], nn.Module] = conv_network) -> Classifier:
    """Make a classifier of 16 x 16 pixels and three classes, its weights seeded."""
    return make_classifier(seeded(build), (SIDE, SIDE), CLASSES)


def cramped(room: float, *, every: bool = False) -> Classifier:
    """Make a classifier that has room for so many images at once.

    Args:
        room: how many.
        every: whether those that need no gradient count, too.
    """
    limits = [float("inf")]  # until it has been looked at

    def forward(inner: nn.Module, images: Tensor) -> object:
        if (every or images.requires_grad) and len(images) > limits[-1]:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate a lot")
        return inner(images)

    classifier = tiny(lambda: Around(forward))
    limits.append(room)
    return classifier


def small_plan(*methods: str, **changes: object) -> Plan:
    """Plan methods under one bias; without controls and null maps, unless told otherwise."""
    usual = {"method": methods, "family": ("bias",), "severity": (0.1,)}
    return Plan.model_validate(usual | {"controls": False, "nulls": 0} | changes)


def measured(setup: Setup) -> tuple[tuple[int, int], int, list[Outcome]]:
    """Carry a run out; return its passes (forward, backward), how many maps, and the outcomes."""
    maps: list[int] = []
    with count_passes(setup.classifier) as counts:  # copies of the network bring the counter along
        outcomes = list(measure(setup, maps.append))
    return (counts.forward, counts.backward), sum(maps), outcomes


def batch_of(images: Tensor, seed: int = 0) -> Batch:
    count = len(images)
    ids = tuple(f"id-{index}" for index in range(count))
    targets = torch.arange(count) % len(CLASSES)
    references = random_images(4, images.shape[-1], seed=9).to(images)
    return Batch(images, targets, draws_of(seed, ids), references=references)


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


def on_demand(entry: object) -> dict[str, OnDemand]:
    """What an entry of a registry names, to be loaded at the first call, by field."""
    if not is_dataclass(entry):
        return {}
    named = {}
    for field in fields(entry):
        value = getattr(entry, field.name)
        while isinstance(value, partial):
            value = value.func
        if isinstance(value, OnDemand):
            named[field.name] = value
        else:
            named |= {f"{field.name}.{key}": one for key, one in on_demand(value).items()}
    return named


def pick(records: pd.DataFrame, **values: object) -> pd.DataFrame:
    for column, value in values.items():
        records = records[records[column] == value]
    return records


def frame(rows: list[dict[str, object]]) -> pd.DataFrame:
    """Return records of which rows say what is not as usual."""
    usual = {
        "image_id": "i0", "method": "gradient", "family": "bias", "severity": 0.1, "draw": 0,
        "metric": "ssim", "value": 0.5, "status": "ok", "kept": True, "label": 0,
        "pred_clean": 0, "detail": "",
    }  # fmt: skip
    return pd.DataFrame([usual | row for row in rows])


def plain(records: pd.DataFrame, *dropped: str) -> pd.DataFrame:
    """Return records with texts for categories, numbered from 0, without some columns."""
    words = records.select_dtypes("category").columns
    texts = records.astype(dict.fromkeys(words, str)).drop(columns=list(dropped))
    return texts.reset_index(drop=True)


def same_records(found: pd.DataFrame, expected: pd.DataFrame, tolerance: float = 1e-4) -> None:
    """See that all is equal but the run's name, and values but for rounding."""
    names = ("run_id", "value")
    pd.testing.assert_frame_equal(plain(found, *names), plain(expected, *names))
    np.testing.assert_allclose(found["value"], expected["value"], rtol=0, atol=tolerance)


def noise(seed: int, height: int = 12, width: int = 10) -> NDArray[np.uint8]:
    """Return pixels (height, width, 3) of 8 bits."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def write_noise(path: Path, seed: int, height: int = 12, width: int = 10) -> None:
    """Write a picture of noise, and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise(seed, height, width)).save(path)


@dataclass(frozen=True)
class Done:
    """What a command ended with, and what it printed."""

    code: int
    out: str
    err: str


Command = Callable[..., Done]

# The console script of this environment.
SCRIPT = str(Path(sys.executable).parent / "steadymap")


def call(patch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Run a command of the command line in this process; return its exit code."""
    patch.setattr(sys, "argv", ["steadymap", *arguments])
    with pytest.raises(SystemExit) as left:
        main()
    return left.value.code if isinstance(left.value.code, int) else 0


def finished_run(folder: Path, *arguments: str) -> Path:
    """Carry out a run of the command line in a folder; return the run's own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert call(patch, "run", *arguments, "--output", "run") == 0
    return folder / "run"


def seal_again(folder: Path) -> None:
    """Seal a run whose files have been changed, as whoever changes one could."""
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    hashes = {name: sha256_of(folder / name) for name in manifest[FILES]}
    path.write_text(json.dumps(sealed(manifest | {FILES: hashes})))


def python(
    code: str, *arguments: str, cwd: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run code in a process of its own."""
    return started([sys.executable, "-c", textwrap.dedent(code), *arguments], cwd, environment)


def console(
    *arguments: str, cwd: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run the console script in a process of its own."""
    return started([SCRIPT, *arguments], cwd, environment)


def started(
    command: list[str], cwd: Path | None, environment: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603 - our own code and scripts
        command,
        cwd=cwd,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )
