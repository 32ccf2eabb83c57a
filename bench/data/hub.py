"""Data sets of the Hugging Face hub."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steadymap.bench.core.errors import DataError, one_line
from steadymap.bench.data import decode, labelled
from steadymap.models.pretrained import reach


def open_hub(rest: str) -> labelled.Labelled:
    """Open a data set of the Hugging Face hub, or one that `save_to_disk` left in a folder.

    The picture is the column of the type Image; the label the one of the type ClassLabel, or one
    called label.

    Raises:
        DataError: datasets is missing, a set out of reach, or no such columns.
    """
    try:
        datasets = importlib.import_module("datasets")
    except ImportError as error:
        raise DataError("data: hf: needs datasets: pip install 'steadymap[hf]'") from error
    folder = decode.path_of(rest)
    name = f"hf:{folder.resolve().name if folder.is_dir() else rest}"
    try:
        if folder.is_dir():
            loaded = datasets.load_from_disk(str(folder))
        else:
            _reach_hub(datasets, rest)
            loaded = datasets.load_dataset(rest)
    except Exception as error:  # the library raises many kinds; each means the same here
        raise DataError(
            f"data: {name} is not on this machine and cannot be downloaded ({one_line(error)}); "
            "load it once with a network, or give the folder of one saved by save_to_disk"
        ) from error
    tables = loaded if isinstance(loaded, Mapping) else {"train": loaded}
    parts: dict[str, Any] = {}
    excluded = []
    for key, table in tables.items():
        part = labelled.PARTS.get(key)
        if part is None or part in parts:
            excluded.append((f"part {key}", "none of train, validation and test, or a second one"))
        else:
            parts[part] = table
    if not parts:
        raise DataError(f"data: {name} has no part called train or test, but {', '.join(tables)}")
    features = next(iter(parts.values())).features
    image = labelled.column(name, features, "Image", ("image", "img"))
    label = labelled.column(name, features, "ClassLabel", ("label", "labels"))
    columns = {part: table[label] for part, table in parts.items()}
    classes = getattr(features[label], "names", None)
    if classes is None:
        columns = {
            p: [labelled.normalised(str(x)) for x in values] for p, values in columns.items()
        }
        classes = sorted({value for values in columns.values() for value in values})
        places = {value: place for place, value in enumerate(classes)}
        labels = {p: [places[value] for value in values] for p, values in columns.items()}
    else:
        labels = {
            p: [-1 if value is None else int(value) for value in values]
            for p, values in columns.items()
        }

    def read(part: str, index: int) -> NDArray[np.uint8]:
        return decode.pixels_of(parts[part][index][image])

    joined = labelled.in_parts(name, tuple(classes), labels, read)
    return replace(joined, excluded=(*excluded, *joined.excluded))


def _reach_hub(datasets: Any, repository: str) -> None:  # noqa: ANN401 - an extra is not typed
    """Refuse to wait for a hub that is out of reach: its client tries again for a minute.

    Raises:
        ConnectionError: the set is not in the cache, and the hub does not answer.
    """
    cache = Path(datasets.config.HF_DATASETS_CACHE)
    if (cache / repository.replace("/", "___")).is_dir():
        return
    if datasets.config.HF_HUB_OFFLINE:
        raise ConnectionError("HF_HUB_OFFLINE is set")
    reach(datasets.config.HF_ENDPOINT, labelled.PATIENCE)
