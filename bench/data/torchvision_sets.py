"""torchvision's data sets."""

from __future__ import annotations

import importlib
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from steadymap.bench.core import errors, names
from steadymap.bench.data import decode, labelled

Arguments = Mapping[str, object]


BY_FLAG: dict[str, Arguments] = {"train": {"train": True}, "test": {"train": False}}
BY_SPLIT: dict[str, Arguments] = {"train": {"split": "train"}, "test": {"split": "test"}}
IN_THREE: dict[str, Arguments] = {
    "train": {"split": "train"},
    "validation": {"split": "val"},
    "test": {"split": "test"},
}
UNDIVIDED: dict[str, Arguments] = {"train": {}}

# Classification sets that torchvision can fetch, with the arguments of their parts.
TORCHVISION_SETS: dict[str, dict[str, Arguments]] = {
    "CIFAR10": BY_FLAG,
    "CIFAR100": BY_FLAG,
    "DTD": IN_THREE,
    "EuroSAT": UNDIVIDED,
    "FGVCAircraft": IN_THREE,
    "FashionMNIST": BY_FLAG,
    "Flowers102": IN_THREE,
    "Food101": BY_SPLIT,
    "GTSRB": BY_SPLIT,
    "Imagenette": {"train": {"split": "train"}, "validation": {"split": "val"}},
    "KMNIST": BY_FLAG,
    "MNIST": BY_FLAG,
    "OxfordIIITPet": {"train": {"split": "trainval"}, "test": {"split": "test"}},
    "STL10": BY_SPLIT,
    "SVHN": BY_SPLIT,
}


def open_torchvision(rest: str) -> labelled.Labelled:
    """Open `NAME` or `NAME:ROOT`; downloaded into torch's cache, or ROOT, where it is missing.

    Raises:
        DataError: an unknown name, or a set that is not there and cannot be downloaded.
    """
    name, _, root_text = rest.partition(":")
    if name not in TORCHVISION_SETS:
        raise errors.DataError(
            f"data: torchvision: unknown data set {name!r}; {names.nearest(name, TORCHVISION_SETS)}"
        )
    root = decode.path_of(root_text) if root_text else Path(torch.hub.get_dir()).parent / "datasets"
    datasets = importlib.import_module("torchvision.datasets")
    parts = {
        part: _torchvision_part(getattr(datasets, name), root, arguments)
        for part, arguments in TORCHVISION_SETS[name].items()
    }
    labels = {part: _labels(pictures) for part, pictures in parts.items()}
    classes = getattr(next(iter(parts.values())), "classes", None)
    if classes is None:
        classes = range(1 + max(label for part in labels.values() for label in part))

    def read(part: str, index: int) -> NDArray[np.uint8]:
        return decode.pixels_of(parts[part][index][0])

    return labelled.in_parts(f"torchvision:{name}", tuple(map(_class_name, classes)), labels, read)


def _torchvision_part(make: Callable[..., Any], root: Path, arguments: Arguments) -> Any:  # noqa: ANN401 - torchvision is not typed
    try:
        return make(root, **arguments)
    except (RuntimeError, OSError, TypeError):
        pass  # not there, or not whole: fetched below
    name = make.__name__
    try:
        with _patience():
            return make(root, **arguments, download=True)
    except Exception as error:  # a server, a disk and an archive fail in many ways
        raise errors.DataError(
            f"data: torchvision:{name} is not in {root} and cannot be downloaded "
            f"({errors.one_line(error)}); put it there, or give torchvision:{name}:ROOT"
        ) from error


def _labels(pictures: Any) -> list[int]:  # noqa: ANN401 - as above
    """Return the labels of a part, without decoding its pictures where it has a list of them."""
    for attribute in ("targets", "labels"):
        known = getattr(pictures, attribute, None)
        if known is not None:
            return [int(label) for label in known]
    return [int(label) for _, label in (pictures[index] for index in range(len(pictures)))]


def _class_name(name: object) -> str:
    """Return a class's name; Imagenette has several for each."""
    return str(name[0]) if isinstance(name, tuple) else str(name)


@contextmanager
def _patience() -> Iterator[None]:
    """Let no server keep silent for longer than `PATIENCE`, as long as the context lasts."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(labelled.PATIENCE)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
