"""From a data spec to pictures that are decoded, named, split and framed for a classifier."""

from __future__ import annotations

import importlib
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from steadymap.bench.core.errors import DataError, message_of, one_line
from steadymap.bench.core.names import nearest
from steadymap.bench.data import (
    archive,
    class_folders,
    hands,
    hub,
    image_set,
    labelled,
    torchvision_sets,
)
from steadymap.bench.data.decode import decode, path_of, reason_of
from steadymap.bench.data.forms import DATA_FORMS, SPLITS
from steadymap.models import Framing

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
    name = f"{kind}:{class_folders.text_of(path.resolve().name)}"
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
        name = class_folders.text_of(path.name)
        try:
            pixels = decode(path)
        except Exception as error:
            reason = reason_of(error, path, name)
            raise DataError(f"image: {name} cannot be decoded: {reason}") from error
    framed = image_set.image_tensor(pixels, framing)
    picture = image_set.Picture(name, image_set.pixel_hash(pixels), None)
    return image_set.ImageSet(
        name,
        (),
        (picture,),
        lambda _index: image_set.Frame(framed, None),
        lambda count: image_set.first_references([(picture.image_id, framed)], count),
    )


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

    def drawn() -> Iterator[tuple[str, torch.Tensor]]:
        for name in _choose(labels, "all", None):
            pixels = hands.hand(names[name])[0]
            yield image_set.pixel_hash(pixels), image_set.image_tensor(pixels, framing)

    return image_set.ImageSet(
        "hands" if count == HANDS_COUNT else f"hands:{count}",
        hands.HAND_CLASSES,
        pictures,
        read,
        lambda most: image_set.first_references(drawn(), most),
        masks=image_set.OWN,
    )


def _open_folder(name: str, root: Path, where: str) -> labelled.Labelled:
    """Return the pictures of a folder; `where` is what messages call it."""
    files, notes = class_folders.class_files(root, where)
    class_names = tuple(sorted({class_folders.class_of(file) for file in files if "/" in file}))
    places = {class_name: place for place, class_name in enumerate(class_names)}
    labels = {file: places.get(class_folders.class_of(file), 0) for file in files}
    return labelled.Labelled(
        name, class_names, labels, labelled.file_reader(files), where, excluded=tuple(notes)
    )


def _open_labelled(
    source: labelled.Labelled,
    framing: Framing,
    split: str,
    limit: int | None,
    known: Mapping[str, str],
) -> image_set.ImageSet:
    chosen = _choose(source.labels, split, limit, source.point)
    pictures, excluded = [], []
    for name in chosen:
        try:
            image_id = known.get(name) or _image_id(source.read(name), framing)
        except Exception as error:  # noqa: BLE001 - decoders raise anything; it is written down
            excluded.append((name, message_of(error)))
        else:
            group = source.groups.get(name)
            label = source.labels[name] if source.class_names else None
            pictures.append(image_set.Picture(name, image_id, label, group))
    kept, twice = image_set.without_duplicates(tuple(pictures))
    if not kept:
        failed = (*excluded, *source.excluded)
        first = f"; the first that failed: {failed[0][0]} ({failed[0][1]})" if failed else ""
        count = len(source.labels)
        others = f"; --split all takes all {count} pictures" if split != "all" and count else ""
        raise DataError(f"data: no images in the {split} split of {source.where}{others}{first}")

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

    return image_set.ImageSet(
        source.name,
        source.class_names,
        kept,
        read,
        lambda count: image_set.first_references(_usable(source, framing), count),
        excluded=(*_lost(source, chosen, kept), *source.excluded, *excluded, *twice),
    )


def _image_id(pixels: NDArray[np.uint8], framing: Framing) -> str:
    """Return the id of a picture that can be brought to the input size."""
    image_set.resized_size((pixels.shape[1], pixels.shape[0]), framing)
    return image_set.pixel_hash(pixels)


def _usable(source: labelled.Labelled, framing: Framing) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the pictures of all splits that can be used, by their ids, one class in turn."""
    for name in _choose(source.labels, "all", None, source.point):
        try:
            pixels = source.read(name)
            image = image_set.image_tensor(pixels, framing)
        except Exception:  # noqa: BLE001, S112 - decoders raise anything; the next serves as well
            continue
        yield image_set.pixel_hash(pixels), image


def _lost(
    source: labelled.Labelled, chosen: list[str], kept: tuple[image_set.Picture, ...]
) -> list[tuple[str, str]]:
    """Name the classes of which pictures were chosen and none is left."""
    tried = Counter(source.labels[name] for name in chosen if source.class_names)
    left = {picture.label for picture in kept}
    return [
        (
            source.class_names[label],
            f"the whole class is left out: of its {count} pictures here none can be used",
        )
        for label, count in sorted(tried.items())
        if label not in left
    ]


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
