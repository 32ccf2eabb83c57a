"""The images that a method is given, and the random numbers that it may draw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NoReturn

import numpy as np
from torch import Tensor

from steadymap.bench.core import randomness
from steadymap.bench.network.memory import MOST_AT_ONCE
from steadymap.bench.records.vocabulary import CLEAN

# Images of the data set that each image is compared with.
DATA_REFERENCES = 16

# What a batch held once, and what does its work: a method is told nothing that it could know an
# image by, for then it could remember a map instead of making one.
REPLACED = {
    "seed": "batch.generators(purpose) gives a NumPy generator for each image",
    "image_ids": "batch.generators(purpose) gives a NumPy generator for each image",
    "clean": "a method explains batch.images, and reads off these whatever it reads off an image",
    "reference_ids": "batch.others() gives the references that each image is compared with",
}


@dataclass(frozen=True)
class Batch:
    """What a method explains: images, classes and random numbers, and nothing to know them by.

    Attributes:
        images: (B, 3, H, W), float32, on the classifier's device.
        targets: (B,), the classes explained.
        draws: B hashes, from which `generators` makes random numbers; see `draws_of`.
        at_once: how many images, or points of paths, go through the network together; changes
            speed and memory alone.
        references: (R, 3, H, W), images of the data set, the same for every batch of a run; None
            where nobody has given any. See `others`.
        reference_places: image by image, the places of the references that it may be compared
            with; left out where no reference is among the images.
    """

    images: Tensor
    targets: Tensor
    draws: tuple[str, ...]
    at_once: int = MOST_AT_ONCE["cpu"]
    references: Tensor | None = field(default=None, kw_only=True)
    reference_places: tuple[tuple[int, ...], ...] = field(default=(), kw_only=True)

    if not TYPE_CHECKING:  # or every name would be an attribute, to a type checker

        def __getattr__(self, name: str) -> NoReturn:
            """Say what replaced an attribute that a batch once had.

            Raises:
                AttributeError: always; Python asks here for what a batch does not have.
            """
            why = f": {REPLACED[name]}" if name in REPLACED else ""
            raise AttributeError(f"a batch has no {name}{why}")

    def generators(self, purpose: str) -> list[np.random.Generator]:
        """Return B generators, one an image, which belong to the image, the view and the purpose.

        They are made anew at every call, and equal for equal purposes: neither what else is in the
        batch, nor its order, nor a second call changes what they draw. Another view of the image
        has others, as a second run of a method has.
        """
        return [randomness.generator(draw, purpose) for draw in self.draws]

    def redrawn(self, number: int) -> Batch:
        """Return the same with random numbers of its own for each number; 0 has the batch's."""
        if not number:
            return self
        draws = tuple(randomness.key_of(draw, "drawn again", number) for draw in self.draws)
        return replace(self, draws=draws)

    def part(self, chosen: slice | Sequence[int]) -> Batch:
        """Return some of the images, in that order, with all that belongs to them."""
        if isinstance(chosen, slice):
            chosen = range(len(self.images))[chosen]
        rows = list(chosen)
        places = self.reference_places
        return replace(
            self,
            images=self.images[rows],
            targets=self.targets[rows],
            draws=tuple(self.draws[row] for row in rows),
            reference_places=tuple(places[row] for row in rows) if places else (),
        )

    def need_references(self) -> Tensor:
        """Return the images of the data set.

        Raises:
            ValueError: there are none.
        """
        if self.references is None:
            raise ValueError("images of the data set are needed: Batch(..., references=images)")
        return self.references

    def others(self) -> list[list[int]]:
        """Return, image by image, the places of the references that it is compared with.

        Raises:
            ValueError: there are none, or an image has none but itself.
        """
        every = tuple(range(len(self.need_references())))[:DATA_REFERENCES]
        places = self.reference_places or (every,) * len(self.images)
        if not all(places):
            raise ValueError("an image has no other image of the data set to be compared with")
        return [list(row) for row in places]


def draws_of(
    seed: int, image_ids: Sequence[str], view: tuple[str, float, int] = (CLEAN, 0.0, 0)
) -> tuple[str, ...]:
    """Return the hashes from which a batch draws.

    Args:
        seed: the run's.
        image_ids: B of them; an image draws the same wherever it stands.
        view: which view of the images: the family of a perturbation, its severity and its draw;
            left out, the clean one.
    """
    return tuple(randomness.key_of("draws", seed, image_id, *view) for image_id in image_ids)


def places_of_others(
    image_ids: Sequence[str], reference_ids: Sequence[str]
) -> tuple[tuple[int, ...], ...]:
    """Return, image by image, the places of the first 16 references that are not the image."""
    return tuple(
        tuple(
            [place for place, other in enumerate(reference_ids) if other != image_id][
                :DATA_REFERENCES
            ]
        )
        for image_id in image_ids
    )
