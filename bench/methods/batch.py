"""The images that a method is given."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from torch import Tensor

from steadymap.bench.network.memory import MOST_AT_ONCE

# Images of the data set that each image is compared with.
DATA_REFERENCES = 16


@dataclass(frozen=True)
class Batch:
    """What a method explains.

    Attributes:
        images: (B, 3, H, W), float32, on the classifier's device.
        targets: (B,), the classes explained.
        image_ids: B ids; a stochastic method draws by id, so that the clean and the perturbed image
            of a pair get the same random numbers.
        seed: the run's seed.
        at_once: how many images, or points of paths, go through the network together; changes
            speed and memory alone.
        clean: (B, 3, H, W), the clean images that these were made from, so that what a method
            reads off an image itself is the same for both of a pair; None where these are clean.
        references: (R, 3, H, W), images of the data set, the same for every batch of a run; None
            where nobody has given any. See `others`.
        reference_ids: R ids; left out where no reference is among the images.
    """

    images: Tensor
    targets: Tensor
    image_ids: tuple[str, ...]
    seed: int
    at_once: int = MOST_AT_ONCE["cpu"]
    clean: Tensor | None = field(default=None, kw_only=True)
    references: Tensor | None = field(default=None, kw_only=True)
    reference_ids: tuple[str, ...] = field(default=(), kw_only=True)

    def part(self, chosen: slice) -> Batch:
        """Return some of the images with all that belongs to them."""
        return replace(
            self,
            images=self.images[chosen],
            targets=self.targets[chosen],
            image_ids=self.image_ids[chosen],
            clean=None if self.clean is None else self.clean[chosen],
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

        The first 16 that are not the image itself.

        Raises:
            ValueError: there are none, or an image has none but itself.
        """
        ids = self.reference_ids or ("",) * len(self.need_references())
        places = [
            [place for place, other in enumerate(ids) if other != image_id][:DATA_REFERENCES]
            for image_id in self.image_ids
        ]
        if not all(places):
            raise ValueError("an image has no other image of the data set to be compared with")
        return places
