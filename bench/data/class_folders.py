"""Folders of classes: which files in them are pictures, and what else lies there."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from steadymap.bench.core.errors import DataError
from steadymap.bench.data.decode import BEGINNINGS, TYPES
from steadymap.bench.data.labelled import normalised

# What files of pictures are called. Whether one can be used its content decides, and one that
# cannot is named: so these have more kinds than are read.
SUFFIXES = (
    ".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".dib", ".gif", ".tif",
    ".tiff", ".ppm", ".pgm", ".pbm", ".pnm",
    ".avif", ".avifs", ".heic", ".heif", ".jxl", ".jp2", ".j2k", ".jpx", ".svg", ".ico", ".psd",
    ".tga", ".exr", ".hdr", ".dds", ".arw", ".cr2", ".cr3", ".dng", ".nef", ".orf", ".raf", ".rw2",
)  # fmt: skip
BEGINNING = re.compile(b"|".join(BEGINNINGS.values()), re.DOTALL)
LONGEST_BEGINNING = 32

# What systems leave in folders, beside what is hidden.
LITTER = ("thumbs.db", "desktop.ini", "__macosx")

# Of files or folders, in a line.
MOST_NAMED = 3

Notes = list[tuple[str, str]]


def class_files(root: Path, where: str) -> tuple[dict[str, Path], Notes]:
    """Return the pictures that lie directly in a folder's subfolders, by their name below it.

    Where no subfolder has any, those that lie in the folder itself: of no class. A picture is what
    is called like one, or begins like one whatever it is called. A subfolder without pictures of
    its own is no class: Kaggle's archive of the photographs has a second copy of all three classes
    below such a folder. Names are in Unicode's form NFC, however the disk
    spells them; of two that differ in that alone, the other stays as it is.

    Args:
        root: the folder.
        where: what messages call it.

    Returns:
        The pictures, and (name, reason) of all else that is not hidden.

    Raises:
        DataError: a folder that is missing or cannot be listed, or has fewer than two classes.
    """
    if not os.path.isdir(root):  # noqa: PTH112 - pathlib raises where a name is too long
        raise DataError(f"data: no such folder: {where}")
    found: list[Path] = []
    notes: Notes = []
    others: list[Path] = []
    try:
        entries = _visible(root)
        for folder in (path for path in entries if path.is_dir()):
            pictures, beside = _sorted_out(folder, others)
            found += pictures
            notes += beside
            if not pictures:
                notes.append((text_of(folder.name), "a folder without pictures in it is no class"))
        loose = [path for path in entries if path.is_file() and _is_picture(path)]
    except OSError as error:
        raise DataError(f"data: {where} cannot be listed: {error}") from error
    flat = bool(loose) and not found
    if loose and not flat:
        notes.append((_some(root, loose), "beside the folders of the classes, so of no class"))
    if others:
        kinds = Counter(path.suffix.lower() or "without a suffix" for path in others)
        listed = ", ".join(f"{kind} {count}" for kind, count in kinds.most_common())
        notes.append((_some(root, others), f"no pictures by name or content ({listed})"))
    if flat:
        return {name.rpartition("/")[2]: path for name, path in _by_name(loose).items()}, notes
    files = _by_name(found)
    classes = {class_of(name) for name in files}
    first = f"; left out: {': '.join(notes[0])}" if notes else ""
    if not classes:
        raise DataError(
            f"data: no images under {where}: expected pictures ({', '.join(TYPES)}), in one "
            f"subfolder a class where they have classes{first}"
        )
    if len(classes) == 1:
        raise DataError(
            f"data: {where} has one class ({classes.pop()}); a classifier needs two or more{first}"
        )
    return files, notes


def class_of(name: str) -> str:
    """Return the class of a picture by its name below the folder."""
    return normalised(name.partition("/")[0])


def text_of(name: str) -> str:
    """Return a file's name in form NFC; one that is no UTF-8 could not be written down."""
    return normalised(_spelled(name))


def _spelled(name: str) -> str:
    return os.fsencode(name).decode(errors="backslashreplace")


def _visible(folder: Path) -> list[Path]:
    return [
        path
        for path in sorted(folder.iterdir())
        if not path.name.startswith(".") and path.name.lower() not in LITTER
    ]


def _sorted_out(folder: Path, others: list[Path]) -> tuple[list[Path], Notes]:
    """Return a folder's pictures, and what looks like one and is none; the rest goes to others."""
    pictures: list[Path] = []
    notes: Notes = []
    inner: list[Path] = []
    for path in _visible(folder):
        if path.is_file():
            (pictures if _is_picture(path) else others).append(path)
        elif path.is_dir():
            inner.append(path)
        else:
            notes.append((text_of(f"{folder.name}/{path.name}"), "no file, or a link to none"))
    if inner and pictures:
        notes.append(
            (_some(folder.parent, inner), "a folder within that of a class is not looked into")
        )
    return pictures, notes


def _is_picture(path: Path) -> bool:
    if path.suffix.lower() in SUFFIXES:
        return True
    try:
        with path.open("rb") as file:
            return BEGINNING.match(file.read(LONGEST_BEGINNING)) is not None
    except OSError:
        # Nobody can tell: it is named where it is to be decoded.
        return True


def _by_name(paths: Sequence[Path]) -> dict[str, Path]:
    spelled = {_spelled(f"{path.parent.name}/{path.name}"): path for path in paths}
    files: dict[str, Path] = {}
    # Those in form NFC first: the name is theirs.
    for name in sorted(spelled, key=lambda name: (normalised(name) != name, name)):
        own = normalised(name)
        files[name if own in files else own] = spelled[name]
    return files


def _some(root: Path, paths: Sequence[Path]) -> str:
    """Name a few of several paths below a folder."""
    names = ", ".join(text_of(path.relative_to(root).as_posix()) for path in paths[:MOST_NAMED])
    rest = len(paths) - MOST_NAMED
    return names + (f" and {rest:,} more" if rest > 0 else "")
