"""Pictures with labels, by name: of torchvision's data sets, of the hub, of a table, of foolbox."""

from __future__ import annotations

import csv
import hashlib
import importlib.metadata
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steadymap.bench.core.errors import DataError, one_line
from steadymap.bench.data.decode import decode, path_of, reason_of
from steadymap.models import imagenet_names

# Seconds to wait for a server that says nothing.
PATIENCE = 10.0


def normalised(text: str) -> str:
    """Return text in Unicode's form NFC: systems spell accents in two ways."""
    return unicodedata.normalize("NFC", text)


@cache
def places_by_name(class_names: tuple[str, ...]) -> dict[str, int]:
    """Return the index of each class by its name in form NFC; of two of one name, of neither."""
    names = [normalised(name) for name in class_names]
    counts = Counter(names)
    return {name: place for place, name in enumerate(names) if counts[name] == 1}


def unknown_classes(names: tuple[str, ...], known: tuple[str, ...]) -> list[str]:
    """Return those names of classes that are not the name of one class of a classifier."""
    return [name for name in names if normalised(name) not in places_by_name(known)]


def name_hash(name: str) -> int:
    """Return 64 bits that depend on a name alone, however its accents are spelled."""
    return int.from_bytes(hashlib.sha256(normalised(name).encode()).digest()[:8])


def split_point(name: str) -> float:
    """Where a file stands in [0, 1): its stem alone decides, so a converted copy stays put."""
    return name_hash(Path(name).stem) / 2**64


@dataclass(frozen=True)
class Labelled:
    """Pictures that are read by name.

    Attributes:
        name: what records call the data set.
        class_names: what the labels mean; empty where the pictures have none.
        labels: index into `class_names`, by picture; 0 for all where there are none.
        read: gives a picture's pixels, 8-bit RGB (H, W, 3).
        where: what messages call the place.
        point: where a picture stands in [0, 1), which the splits cut up.
        excluded: (name, reason) of what cannot be used.
        groups: by picture, the subject or video that it is of; empty where there are none.
    """

    name: str
    class_names: tuple[str, ...]
    labels: Mapping[str, int]
    read: Callable[[str], NDArray[np.uint8]]
    where: str
    point: Callable[[str], float] = split_point
    excluded: tuple[tuple[str, str], ...] = ()
    groups: Mapping[str, str] = field(default_factory=dict)


def file_reader(files: Mapping[str, Path]) -> Callable[[str], NDArray[np.uint8]]:
    """Return what decodes files by name, and calls them by name where it cannot."""

    def read(name: str) -> NDArray[np.uint8]:
        try:
            return decode(files[name])
        except Exception as error:
            raise DataError(reason_of(error, files[name], name)) from error

    return read


# --- parts ----------------------------------------------------------------------------------------

# What libraries call their parts, and which of ours each is.
PARTS = {
    "train": "train",
    "trainval": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "test": "test",
}


def intervals(parts: Sequence[str]) -> dict[str, tuple[float, float]]:
    """Return the share of [0, 1) that each of a data set's own parts takes.

    The splits cut [0, 1) at 0.7 and 0.9, so that a data set's own test part is the test split and
    nothing else is. Without one its validation part is, as is usual for ImageNet. A training part
    alone besides the test part is cut into train and validation, 70 to 20, by name. One part alone
    is cut up whole.

    Args:
        parts: some of train, validation and test.
    """
    if len(parts) == 1:
        return {parts[0]: (0.0, 1.0)}
    if "test" not in parts:
        return {"train": (0.0, 0.9), "validation": (0.9, 1.0)}
    if "train" not in parts:
        return {"validation": (0.0, 0.9), "test": (0.9, 1.0)}
    if "validation" not in parts:
        return {"train": (0.0, 0.9), "test": (0.9, 1.0)}
    return {"train": (0.0, 0.7), "validation": (0.7, 0.9), "test": (0.9, 1.0)}


def in_parts(
    name: str,
    class_names: tuple[str, ...],
    labels: Mapping[str, Sequence[int]],
    read: Callable[[str, int], NDArray[np.uint8]],
) -> Labelled:
    """Join a data set's parts; its pictures are called by part and number, `test-000012`."""
    places = {
        f"{part}-{index:06d}": (part, index)
        for part, numbers in labels.items()
        for index in range(len(numbers))
    }
    shares = intervals(list(labels))

    def point(picture: str) -> float:
        low, high = shares[places[picture][0]]
        return low + (high - low) * split_point(picture)

    known = {
        picture: labels[part][index]
        for picture, (part, index) in places.items()
        if 0 <= labels[part][index] < len(class_names)
    }
    unknown = tuple((picture, "it has no label") for picture in places if picture not in known)
    return Labelled(
        name,
        tuple(map(normalised, class_names)),
        known,
        lambda picture: read(*places[picture]),
        name,
        point,
        unknown,
    )


def column(name: str, features: Mapping[str, object], kind: str, usual: Sequence[str]) -> str:
    """Return the one column of a type, or else one of a usual name."""
    fitting = [column for column, feature in features.items() if type(feature).__name__ == kind]
    if len(fitting) != 1 or kind == "ClassLabel":
        fitting = [column for column in usual if column in (fitting or features)] or fitting
    if not fitting or (len(fitting) > 1 and fitting[0] not in usual):
        columns = ", ".join(f"{column}: {type(kind).__name__}" for column, kind in features.items())
        raise DataError(f"data: {name} has not one column of the type {kind}, but {columns}")
    return fitting[0]


# --- a table --------------------------------------------------------------------------------------

GROUP = "group"


def open_csv(rest: str) -> Labelled:
    """Open a table with the columns path and label; other columns but group are left alone.

    A column group names the subject or video that a picture is of: the same name, the same group.

    Paths are relative to the table's folder. A row that cannot be used is excluded by its line.
    Whatever stands in a cell is text, and nothing else.

    Raises:
        DataError: no such file, no such columns, no usable row, fewer than two classes, or a row
            without its group.
    """
    path = path_of(rest)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            header = list(reader.fieldnames or ())
            rows = [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"data: cannot read {path}: {one_line(error)}") from error
    for column in ("path", "label"):
        if header.count(column) != 1:
            raise DataError(
                f"data: {path.name} must have one column {column!r}; it has {', '.join(header)}"
            )
    if header.count(GROUP) > 1:
        raise DataError(
            f"data: {path.name} must have no more than one column {GROUP!r}; it has "
            f"{', '.join(header)}"
        )
    files: dict[str, Path] = {}
    classes: dict[str, str] = {}
    groups: dict[str, str] = {}
    lines: dict[str, int] = {}
    lost: dict[str, None] = {}
    excluded: list[tuple[str, str]] = []
    for line, row in rows:
        reason = _unusable(row, path.parent, classes, lines)
        if reason:
            excluded.append((f"{path.name} line {line}", reason))
            lost.setdefault(normalised(row["label"] or ""))
            continue
        name = normalised(row["path"])
        files[name] = _on_disk(path.parent, row["path"]) or path.parent
        classes[name], lines[name] = normalised(row["label"]), line
        if GROUP in header:
            groups[name] = normalised(row[GROUP])
            if not row[GROUP].strip():
                raise DataError(
                    f"data: {path.name} line {line}: the group is empty; name one in every row (a "
                    "picture that belongs to no other has a name of its own), or take the column "
                    f"{GROUP!r} out"
                )
    class_names = tuple(sorted(set(classes.values())))
    if len(class_names) <= 1:
        first = f"; the first of the others: {': '.join(excluded[0])}" if excluded else ""
        raise DataError(
            f"data: {path.name} has {len(classes)} usable rows of {len(class_names)} classes; a "
            f"classifier needs two or more{first}"
        )
    reason = "the whole class is left out: none of its rows can be used"
    known = set(class_names)
    whole = [(label, reason) for label in lost if label.strip() and label not in known]
    places = {label: place for place, label in enumerate(class_names)}
    labels = {name: places[label] for name, label in classes.items()}
    return Labelled(
        f"csv:{path.name}",
        class_names,
        labels,
        file_reader(files),
        str(path),
        excluded=(*whole, *excluded),
        groups=groups,
    )


def _unusable(
    row: Mapping[str | None, Any],
    folder: Path,
    classes: Mapping[str, str],
    lines: Mapping[str, int],
) -> str | None:
    """Say why a row cannot be used, or return None."""
    name, label = row["path"], row["label"]
    if None in row or None in row.values():
        return "it has not as many cells as the header"
    if not name.strip():
        return "the path is empty"
    if not label.strip():
        return "the label is empty"
    known = normalised(name)
    if known in lines:
        same = classes[known] == normalised(label)
        return f"{name!r} stands in line {lines[known]}" + ("" if same else " with another label")
    if _on_disk(folder, name) is None:
        return f"there is no file {name!r}"
    return None


def _on_disk(folder: Path, name: str) -> Path | None:
    """Return the file of a name, also where the disk spells its accents in another way."""
    forms = (name, normalised(name), unicodedata.normalize("NFD", name))
    return next(
        (folder / form for form in forms if os.path.isfile(folder / form)),  # noqa: PTH113 - pathlib raises where a name is too long
        None,
    )


# --- foolbox --------------------------------------------------------------------------------------

FOOLBOX_FILE = re.compile(r"imagenet_\d+_(\d+)\.jpg")


def open_foolbox() -> Labelled:
    """Open the photographs of ImageNet that foolbox carries, without importing it.

    The files' names end in the class's number. The classes are those that occur.

    Raises:
        DataError: foolbox is missing, or has no such files.
    """
    try:
        listed = importlib.metadata.files("foolbox") or []
    except importlib.metadata.PackageNotFoundError as error:
        raise DataError("data: foolbox is missing: pip install 'steadymap[photos]'") from error
    numbers = {
        file.name: (int(match[1]), Path(str(file.locate())))
        for file in listed
        if (match := FOOLBOX_FILE.fullmatch(file.name))
    }
    if not numbers:
        raise DataError(
            f"data: foolbox {importlib.metadata.version('foolbox')} carries no photographs of "
            "ImageNet; 3.3.4 does"
        )
    known = imagenet_names()
    present = sorted({number for number, _ in numbers.values()})
    return Labelled(
        "foolbox",
        tuple(known[number] for number in present),
        {name: present.index(number) for name, (number, _) in numbers.items()},
        file_reader({name: path for name, (_, path) in numbers.items()}),
        "foolbox's photographs",
    )
