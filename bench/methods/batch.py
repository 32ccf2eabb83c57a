"""The images that a method is given."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from torch import Tensor

from steadymap.bench.network.memory import MOST_AT_ONCE


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
            where nobody has given any.
    """

    images: Tensor
    targets: Tensor
    image_ids: tuple[str, ...]
    seed: int
    at_once: int = MOST_AT_ONCE["cpu"]
    clean: Tensor | None = field(default=None, kw_only=True)
    references: Tensor | None = field(default=None, kw_only=True)

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
