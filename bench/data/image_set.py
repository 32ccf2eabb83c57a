"""A set of images: decoded on demand, identified by its pixels, framed for a network."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from steadymap.bench.core.errors import DataError
from steadymap.bench.data.decode import MAX_PIXELS
from steadymap.models import Framing

# Of masks: they come with the pictures.
OWN = "own"


@dataclass(frozen=True)
class Picture:
    """One picture of a set.

    Attributes:
        name: file name below the data's root, or the hand's name.
        image_id: 16 hex digits of the SHA-256 of its decoded pixels, before any resizing.
        label: index into the set's `class_names`; None where nothing is known.
        group: the subject or video that it is of; None where nobody says.
    """

    name: str
    image_id: str
    label: int | None
    group: str | None = None


@dataclass(frozen=True)
class Frame:
    """One picture as a classifier takes it.

    Attributes:
        image: (3, H, W), float32 in [0, 1].
        mask: (H, W) in [0, 1], 1 inside the object; None where the data has no masks.
    """

    image: torch.Tensor
    mask: NDArray[np.float64] | None


@dataclass(frozen=True)
class References:
    """Images of a data set that methods compare with, whichever of it a run looks at.

    Attributes:
        images: (R, 3, H, W), float32 in [0, 1].
        ids: R image ids, no two alike.
    """

    images: torch.Tensor
    ids: tuple[str, ...]

    def to(self, device: torch.device) -> References:
        """Return the same on a device."""
        return References(self.images.to(device), self.ids)


@dataclass(frozen=True)
class ImageSet:
    """Pictures of known content, read one by one as they are needed.

    Attributes:
        name: what records call the data set.
        class_names: the data's own classes, in the order of their labels.
        pictures: what there is, in the order of the run.
        read: gives picture number i, framed.
        references: gives as many images of the data set as it is asked for, or all; which, hangs on
            nothing but the whole data set: no limit, split or order changes them.
        masks: where the frames' masks are from: `own`, a key of `MASKS`, or "" without masks.
        excluded: (name, reason) of what was left out.
    """

    name: str
    class_names: tuple[str, ...]
    pictures: tuple[Picture, ...]
    read: Callable[[int], Frame]
    references: Callable[[int], References]
    masks: str = ""
    excluded: tuple[tuple[str, str], ...] = ()

    def __len__(self) -> int:
        """Return the number of pictures."""
        return len(self.pictures)

    def images(self, indices: Sequence[int]) -> torch.Tensor:
        """Return pictures (B, 3, H, W), float32 in [0, 1]."""
        return torch.stack([self.read(index).image for index in indices])

    def groups(self) -> dict[str, str]:
        """Return by image id its group; nothing where no two pictures are of one."""
        named = {x.image_id: x.group for x in self.pictures if x.group is not None}
        return named if len(set(named.values())) < len(named) else {}

    def data_hash(self) -> str:
        """SHA-256 over the pictures' ids and class names, whatever their order."""
        lines = sorted(
            f"{picture.image_id} {'' if picture.label is None else self.class_names[picture.label]}"
            for picture in self.pictures
        )
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def from_tensor(
    images: torch.Tensor,
    labels: Sequence[int] | None = None,
    class_names: tuple[str, ...] = (),
    masks: NDArray[np.float64] | None = None,
) -> ImageSet:
    """Make an image set of your own tensors.

    Args:
        images: (N, 3, H, W), float32 in [0, 1], at the classifier's input size.
        labels: N indices into `class_names`.
        class_names: what the labels mean; needed with `labels`.
        masks: (N, H, W) in [0, 1].

    Raises:
        DataError: another shape or type, values outside [0, 1], or two equal images.
    """
    if images.ndim != 4 or images.shape[1] != 3 or images.dtype != torch.float32:  # noqa: PLR2004 - (N, 3, H, W)
        raise DataError(
            f"images: expected float32 (N, 3, H, W), got {images.dtype} {tuple(images.shape)}"
        )
    if len(images) == 0:
        raise DataError("images: there are none")
    if not (images.min() >= 0 and images.max() <= 1):
        raise DataError(
            f"images: values must lie in [0, 1], these reach from {images.min():.3g} to "
            f"{images.max():.3g}; normalisation belongs inside the classifier"
        )
    indices = None if labels is None else [int(label) for label in labels]
    if indices is not None and (
        len(indices) != len(images) or not set(indices) <= set(range(len(class_names)))
    ):
        raise DataError(
            f"labels: expected {len(images)} indices below {len(class_names)} (class_names)"
        )
    inside = None if masks is None else np.asarray(masks, dtype=np.float64)
    if inside is not None and inside.shape != (len(images), *images.shape[2:]):
        raise DataError(f"masks: expected (N, H, W) as the images, got {inside.shape}")
    if inside is not None and not (inside.min() >= 0 and inside.max() <= 1):
        raise DataError(f"masks: must lie in [0, 1], reach {inside.min():g} to {inside.max():g}")
    stored = images.detach().cpu().clone()
    pictures = tuple(
        Picture(
            f"image-{index}",
            pixel_hash(image.numpy()),
            None if indices is None else indices[index],
        )
        for index, image in enumerate(stored)
    )
    kept, excluded = without_duplicates(pictures)
    if excluded:
        raise DataError(f"images: {excluded[0][0]} is a {excluded[0][1]}; give each image once")

    def read(index: int) -> Frame:
        return Frame(stored[index], None if inside is None else inside[index])

    def references(count: int) -> References:
        order = sorted(range(len(kept)), key=lambda index: kept[index].image_id)
        return first_references(((kept[index].image_id, stored[index]) for index in order), count)

    own = "" if inside is None else OWN
    return ImageSet("tensor", class_names, kept, read, references, masks=own)


def first_references(candidates: Iterable[tuple[str, torch.Tensor]], count: int) -> References:
    """Return the first so many images (3, H, W) of different ids; no more are asked for."""
    found: dict[str, torch.Tensor] = {}
    for image_id, image in candidates:
        found.setdefault(image_id, image)
        if len(found) == count:
            break
    return References(torch.stack(list(found.values())), tuple(found))


def pixel_hash(pixels: NDArray[np.generic]) -> str:
    """Return 16 hex digits of the SHA-256 of an array's shape, type and values."""
    digest = hashlib.sha256(f"{pixels.shape} {pixels.dtype}\n".encode())
    digest.update(np.ascontiguousarray(pixels).tobytes())
    return digest.hexdigest()[:16]


def without_duplicates(
    pictures: tuple[Picture, ...],
) -> tuple[tuple[Picture, ...], list[tuple[str, str]]]:
    """Keep the first of equal pictures: an id must name one row of the records, not two."""
    first: dict[str, Picture] = {}
    excluded = []
    for picture in pictures:
        kept = first.setdefault(picture.image_id, picture)
        if kept is not picture:
            excluded.append((picture.name, f"duplicate of {kept.name}"))
    return tuple(first.values()), excluded


def image_tensor(pixels: NDArray[np.uint8], framing: Framing) -> torch.Tensor:
    """Return 8-bit RGB (H, W, 3), framed, as an image (3, h, w), float32 in [0, 1]."""
    framed = frame_image(Image.fromarray(pixels), framing)
    return torch.from_numpy(framed.transpose(2, 0, 1).copy()).float() / 255


def frame_image(image: Image.Image, framing: Framing) -> NDArray[np.uint8]:
    """Resize and crop to the classifier's input size."""
    height, width = framing.size
    resample = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
    resized = image.resize(resized_size(image.size, framing), resample[framing.interpolation])
    left = round((resized.width - width) / 2)
    top = round((resized.height - height) / 2)
    return np.asarray(resized.crop((left, top, left + width, top + height)))


def resized_size(size: tuple[int, int], framing: Framing) -> tuple[int, int]:
    """Return width and height before the crop.

    Raises:
        DataError: a strip so narrow that all of it, enlarged, would fill the memory.
    """
    height, width = framing.size
    if framing.short_side is None:
        return width, height
    # As torchvision's Resize does: the longer side is rounded down.
    scale, short = framing.short_side, min(size)
    wide, high = int(scale * size[0] / short), int(scale * size[1] / short)
    if wide * high > MAX_PIXELS:
        raise DataError(
            f"{size[0]} x {size[1]} pixels become {wide} x {high} where the short side is {scale}; "
            "crop it"
        )
    return wide, high
