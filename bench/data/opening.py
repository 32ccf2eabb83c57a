"""From a data spec to pictures that are decoded, named, split and framed for a classifier."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from steadymap.bench.core.errors import DataError, message_of, one_line
from steadymap.bench.core.names import nearest
from steadymap.bench.data import archive, hands, hub, image_set, labelled, torchvision_sets
from steadymap.bench.data.decode import decode, path_of, reason_of
from steadymap.bench.data.forms import DATA_FORMS, SPLITS
from steadymap.models import Framing

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
HANDS_COUNT = 1000
MOST_HANDS = 1_000_000

# What stands before the colon of a form that comes to a folder.
FOLDERS = ("folder", "archive", "kaggle")

# What stands before the colon of a form whose pictures come one by one with their labels.
LABELLED: dict[str, Callable[[str], labelled.Labelled]] = {
    "csv": labelled.open_csv,
    "torchvision": torchvision_sets.open_torchvision,
    "hf": hub.open_hub,
}


def open_images(
    spec: str,
    framing: Framing,
    split: str = "test",
    limit: int | None = None,
    known: Mapping[str, str] | None = None,
) -> image_set.ImageSet:
    """Open a data set, decoding every picture of the run once.

    A split depends on a file's name without its suffix, so that adding, removing, reordering or
    converting files moves no other. `limit` takes from each class in turn, in an order that again
    depends on the names alone; a larger limit keeps what a smaller one took. A file that cannot be
    decoded, or brought to the input size, is excluded, with the reason, and not replaced by
    another. One that can no longer be read later, or has other pixels by then, is an error: records
    are of the pictures whose ids they carry.

    Args:
        spec: see `DATA_FORMS`.
        framing: how pictures are brought to the classifier's input size.
        split: train (70%), validation (20%), test (10%) or all.
        limit: how many pictures at most; None takes all.
        known: by name, ids of pictures that have been decoded before, and are not decoded for it.

    Raises:
        DataError: an unknown spec or split, a missing folder, no pictures, fewer than two classes.
    """
    kind, _, rest = spec.partition(":")
    if split not in SPLITS:
        raise DataError(f"split: unknown name {split!r}; {nearest(split, SPLITS)}")
    if limit is not None and limit < 1:
        raise DataError(f"limit: must be at least 1, got {limit}")
    if kind == "hands":
        return _open_hands(rest, framing, split, limit, known or {})
    return _open_labelled(_source_of(spec), framing, split, limit, known or {})


def _source_of(spec: str) -> labelled.Labelled:
    """Return the pictures and labels that a spec names, all but the embedded hands."""
    kind, _, rest = spec.partition(":")
    if spec == "foolbox":
        return labelled.open_foolbox()
    if kind not in (*FOLDERS, *LABELLED):
        forms = [form.partition("[")[0] for form in DATA_FORMS]
        raise DataError(f"data: unknown spec {spec!r}; {nearest(kind, forms)}")
    if not rest:
        example = next(form for form in DATA_FORMS if form.startswith(kind))
        raise DataError(f"data: {kind}: needs a name behind the colon, e.g. {example}")
    if kind in LABELLED:
        return LABELLED[kind](rest)
    if kind == "kaggle":
        root = _download_kaggle(rest)
        return _open_folder(spec, root, str(root))
    # Its own name, not where it lies on this machine, is what records say.
    path = path_of(rest)
    name = f"{kind}:{_text(path.resolve().name)}"
    return _open_folder(name, archive.unpack(path) if kind == "archive" else path, str(path))


def open_image(text: str, framing: Framing) -> image_set.ImageSet:
    """Open one picture: a file, or `hands:NUMBER` for an embedded hand.

    Raises:
        DataError: no such file, no picture, or no such hand.
    """
    kind, _, number = text.partition(":")
    if kind == "hands":
        if not number.isdecimal() or int(number) >= MOST_HANDS:
            raise DataError(
                f"image: hands:NUMBER takes a whole number below {MOST_HANDS}, got {text!r}"
            )
        pixels, name = hands.hand(int(number))[0], f"hand-{int(number):06d}"
    else:
        path = path_of(text)
        if not os.path.isfile(path):  # noqa: PTH113 - pathlib raises where a name is too long
            raise DataError(f"image: there is no file {text}")
        name = _text(path.name)
        try:
            pixels = decode(path)
        except Exception as error:
            reason = reason_of(error, path, name)
            raise DataError(f"image: {name} cannot be decoded: {reason}") from error
    framed = image_set.image_tensor(pixels, framing)
    picture = image_set.Picture(name, image_set.pixel_hash(pixels), None)
    return image_set.ImageSet(name, (), (picture,), lambda _index: image_set.Frame(framed, None))


def _open_hands(
    count_text: str, framing: Framing, split: str, limit: int | None, known: Mapping[str, str]
) -> image_set.ImageSet:
    count = int(count_text) if count_text.isdecimal() else None if count_text else HANDS_COUNT
    if count is None or not 1 <= count <= MOST_HANDS:
        raise DataError(
            f"data: hands:COUNT takes a whole number from 1 to {MOST_HANDS}, got {count_text!r}"
        )
    names = {f"hand-{index:06d}": index for index in range(count)}
    labels = {name: index % len(hands.HAND_CLASSES) for name, index in names.items()}
    chosen = _choose(labels, split, limit)
    if not chosen:
        raise DataError(f"data: hands:{count} has no picture in its {split} split; ask for more")
    pictures = tuple(
        image_set.Picture(
            name, known.get(name) or image_set.pixel_hash(hands.hand(names[name])[0]), labels[name]
        )
        for name in chosen
    )

    def read(index: int) -> image_set.Frame:
        pixels, mask, _ = hands.hand(names[pictures[index].name])
        framed = image_set.frame_image(Image.fromarray(mask.astype(np.uint8) * 255), framing)
        return image_set.Frame(image_set.image_tensor(pixels, framing), framed / 255.0)

    name = "hands" if count == HANDS_COUNT else f"hands:{count}"
    return image_set.ImageSet(name, hands.HAND_CLASSES, pictures, read, masks=image_set.OWN)


def _open_folder(name: str, root: Path, where: str) -> labelled.Labelled:
    """Return the pictures of a folder of classes; `where` is what messages call it."""
    files = _class_files(root, where)
    class_names = tuple(sorted({file.partition("/")[0] for file in files}))
    places = {class_name: place for place, class_name in enumerate(class_names)}
    labels = {file: places[file.partition("/")[0]] for file in files}
    return labelled.Labelled(name, class_names, labels, labelled.file_reader(files), where)


def _open_labelled(
    source: labelled.Labelled,
    framing: Framing,
    split: str,
    limit: int | None,
    known: Mapping[str, str],
) -> image_set.ImageSet:
    pictures, excluded = [], []
    for name in _choose(source.labels, split, limit, source.point):
        if name in known:
            pictures.append(image_set.Picture(name, known[name], source.labels[name]))
            continue
        try:
            pixels = source.read(name)
            image_set.resized_size((pixels.shape[1], pixels.shape[0]), framing)
        except Exception as error:  # noqa: BLE001 - decoders raise anything; it is written down
            excluded.append((name, message_of(error)))
        else:
            pictures.append(
                image_set.Picture(name, image_set.pixel_hash(pixels), source.labels[name])
            )
    kept, twice = image_set.without_duplicates(tuple(pictures))
    if not kept:
        failed = (*excluded, *source.excluded)
        first = f"; the first that failed: {failed[0][0]} ({failed[0][1]})" if failed else ""
        raise DataError(f"data: no images in the {split} split of {source.where}{first}")

    def read(index: int) -> image_set.Frame:
        picture = kept[index]
        try:
            pixels = source.read(picture.name)
        except Exception as error:
            reason = message_of(error)
            raise DataError(f"data: {picture.name} can no longer be read: {reason}") from error
        if image_set.pixel_hash(pixels) != picture.image_id:
            raise DataError(
                f"data: {picture.name} has changed since the data set was opened; run again, with "
                "nothing writing there"
            )
        return image_set.Frame(image_set.image_tensor(pixels, framing), None)

    left_out = (*source.excluded, *excluded, *twice)
    return image_set.ImageSet(source.name, source.class_names, kept, read, excluded=left_out)


def _class_files(root: Path, where: str) -> dict[str, Path]:
    """Return the pictures by their name below `root`: those that lie directly in its subfolders.

    A subfolder without pictures of its own is no class. Kaggle's archive of the photographs has a
    second copy of all three classes below such a folder. `where` is what messages call the root.
    """
    if not os.path.isdir(root):  # noqa: PTH112 - pathlib raises where a name is too long
        raise DataError(f"data: no such folder: {where}")
    try:
        files = {
            _text(f"{folder.name}/{path.name}"): path
            for folder in sorted(root.iterdir())
            if folder.is_dir() and not folder.name.startswith(".")
            for path in sorted(folder.iterdir())
            if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()
        }
    except OSError as error:
        raise DataError(f"data: {where} cannot be listed: {error}") from error
    classes = {path.parent.name for path in files.values()}
    if not classes:
        raise DataError(
            f"data: no images under {where}: expected one subfolder a class, with pictures in it "
            f"({', '.join(SUFFIXES)})"
        )
    if len(classes) == 1:
        raise DataError(
            f"data: {where} has one class ({classes.pop()}); a classifier needs two or more"
        )
    return files


def _text(name: str) -> str:
    """Return a file's name; one that is no UTF-8 could not be written into the manifest."""
    return os.fsencode(name).decode(errors="backslashreplace")


def _download_kaggle(handle: str) -> Path:
    """Download a data set by kagglehub, which unpacks it by itself, and look at what it made.

    Promised: no link in the folder leads out of it, and it has no more files and bytes than an
    archive may have. Not promised, unlike of `archive:`, is that nothing was written elsewhere or
    filled the disk meanwhile: that is kagglehub's to see to.
    """
    try:
        kagglehub = importlib.import_module("kagglehub")
    except ImportError as error:
        raise DataError("data: kaggle: needs kagglehub: pip install 'steadymap[kaggle]'") from error
    try:
        root = Path(kagglehub.dataset_download(handle))
    except Exception as error:  # the hub's client raises many kinds; each means the same here
        raise DataError(
            f"data: kaggle:{handle} could not be downloaded ({one_line(error)}); "
            "download it by hand and use folder:PATH or archive:FILE"
        ) from error
    archive.check_folder(root, f"kaggle:{handle}")
    return root


def _choose(
    labels: Mapping[str, int],
    split: str,
    limit: int | None,
    point: Callable[[str], float] = labelled.split_point,
) -> list[str]:
    """Take the names of a split, one from each class in turn, in an order of their own."""
    low, high = SPLITS[split]
    queues: dict[int, list[str]] = {}
    for name in sorted(labels, key=lambda name: (labelled.name_hash(name), name)):
        if low <= point(name) < high:
            queues.setdefault(labels[name], []).append(name)
    turns = [(turn, label) for label, queue in queues.items() for turn in range(len(queue))]
    return [queues[label][turn] for turn, label in sorted(turns)][:limit]
