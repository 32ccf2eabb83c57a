"""The files of the witnesses, as a report reads them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from safetensors.numpy import load_file

from steadymap.bench.core.errors import ConfigError, message_of
from steadymap.bench.records import read, seal, vocabulary

FOLDER = "witnesses"
CHOICE = "witnesses.csv"
PREDICTIONS = "predictions.csv"
PICTURES = "pictures.safetensors"
SCALES = "scales.csv"
STEPS = "steps.csv"

CHANNELS = 3


@dataclass(frozen=True)
class Gallery:
    """Pictures and maps of the witnesses.

    Attributes:
        kinds: what each image stands for, by its id.
        rows: one row a picture: image_id, family, severity, draw, prediction (index of the class),
            confidence; the clean one of an image has family `clean`.
        scales: one row an image and method: image_id, method, signed, most; see `Scale`.
        images: (rows, 3, H, W), in 8 bits.
        maps: by method, places on the scale (rows, h, w), in 8 bits.
        known: by method, (rows,), whether there is a map.
    """

    kinds: Mapping[str, str]
    rows: pd.DataFrame
    scales: pd.DataFrame
    images: NDArray[np.uint8]
    maps: Mapping[str, NDArray[np.uint8]]
    known: Mapping[str, NDArray[np.bool_]]


def read_gallery(folder: Path, manifest: Mapping[str, Any]) -> Gallery | None:
    """Read the witnesses of a run; None where none were kept.

    Args:
        folder: of the run.
        manifest: of the run, which has the hashes of its files.

    Raises:
        ConfigError: a file of theirs is gone or damaged.
    """
    home = folder / FOLDER
    names = (CHOICE, PREDICTIONS, SCALES, PICTURES)
    kept = [seal.trusted(folder, manifest, f"{FOLDER}/{name}") for name in names]
    if not any(kept):
        return None
    kinds = read.read_csv(home / CHOICE, (vocabulary.IMAGE_ID, "kind"))
    rows = read.read_csv(
        home / PREDICTIONS,
        (
            vocabulary.IMAGE_ID,
            vocabulary.FAMILY,
            vocabulary.SEVERITY,
            vocabulary.DRAW,
            "prediction",
        ),
    )
    scales = read.read_csv(
        home / SCALES, (vocabulary.IMAGE_ID, vocabulary.METHOD, "signed", "most")
    )
    try:
        tensors = load_file(home / PICTURES)
    except Exception as error:  # broken files raise anything; each means the same here
        raise ConfigError(f"{home / PICTURES} is damaged: {message_of(error)}") from error
    if not _belong_together(kinds, rows, scales, tensors):
        raise ConfigError(f"{home} is damaged: its files do not belong together; run it again")

    def named(prefix: str) -> dict[str, NDArray[Any]]:
        return {
            name.removeprefix(prefix): value
            for name, value in tensors.items()
            if name.startswith(prefix)
        }

    return Gallery(
        dict(zip(kinds[vocabulary.IMAGE_ID], kinds["kind"], strict=True)),
        rows,
        scales,
        tensors["images"],
        named("map "),
        named("known "),
    )


def _belong_together(
    kinds: pd.DataFrame,
    rows: pd.DataFrame,
    scales: pd.DataFrame,
    tensors: Mapping[str, NDArray[Any]],
) -> bool:
    """Whether the files of a gallery are about the same pictures, and of the types they have."""
    clean = rows[rows[vocabulary.FAMILY] == vocabulary.CLEAN][vocabulary.IMAGE_ID]
    is_integer = pd.api.types.is_integer_dtype(rows["prediction"].dtype)
    if (
        set(kinds[vocabulary.IMAGE_ID]) - set(clean)
        or not is_integer
        or (rows["prediction"] < 0).any()
    ):
        return False
    # A picture that could not be made has none, so it may be missing.
    if "confidence" not in rows or not pd.api.types.is_numeric_dtype(rows["confidence"].dtype):
        return False
    expected = {"images": ("uint8", 4), "map": ("uint8", 3), "known": ("bool", 1)}
    for name, tensor in tensors.items():
        kind = (str(tensor.dtype), tensor.ndim)
        if kind != expected.get(name.partition(" ")[0]) or len(tensor) != len(rows):
            return False
        if tensor.size == 0:
            return False
    methods = {name.removeprefix("map ") for name in tensors if name.startswith("map ")}
    known = {name.removeprefix("known ") for name in tensors if name.startswith("known ")}
    pairs = {(image, method) for image in kinds[vocabulary.IMAGE_ID] for method in methods}
    scaled = set(zip(scales[vocabulary.IMAGE_ID], scales[vocabulary.METHOD], strict=True))
    return (
        "images" in tensors
        and tensors["images"].shape[1] == CHANNELS
        and methods == known
        and pairs <= scaled
    )


def read_steps(folder: Path, manifest: Mapping[str, Any]) -> pd.DataFrame:
    """Read the completeness errors by number of steps, as `read_gallery`; empty without any."""
    path = seal.trusted(folder, manifest, f"{FOLDER}/{STEPS}")
    if path is None:
        return pd.DataFrame()
    return read.read_csv(
        path, (vocabulary.METHOD, "steps", vocabulary.IMAGE_ID, "completeness_error")
    )
