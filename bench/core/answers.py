"""What a network answers to a few fixed images, kept to tell whether it is still the same one.

Weights and sources do not say all of it: a file read at import, a value of the environment. Floats
differ between machines, so that answers are compared and never become part of a name.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

# Machines round differently, and an image moved by its own rounding shows how far that reaches.
# Over ten networks and five ways to compute the same (float64, alone, one thread, without oneDNN,
# another memory format) answers differed by at most 3.5 times as much as that.
TIMES_ROUNDING = 16
# Of float32: answers that rounding leaves as they are, to the bit, may differ elsewhere.
LEAST_ROUNDING = 2.0**-23


@dataclass(frozen=True)
class Answers:
    """A network's logits and input gradients of fixed images, a few numbers an image.

    Attributes:
        logits: of each image; empty where there are none, or not finite ones.
        gradients: of each image, likewise.
        logits_rounding: how far the images' rounding moves logits, at most, by their size.
        gradients_rounding: likewise.
    """

    logits: tuple[tuple[float, ...], ...]
    gradients: tuple[tuple[float, ...], ...]
    logits_rounding: float
    gradients_rounding: float


def unlike(one: Answers, other: Answers) -> str:
    """Return in what answers differ by more than rounding explains; empty where in nothing.

    Logits count on any image. A gradient jumps where rounding carries a ReLU or a maximum across:
    gradients count where they differ on all images.
    """
    logits = max(distances(one.logits, other.logits), default=0.0)
    gradients = min(distances(one.gradients, other.gradients), default=0.0)
    kinds = {
        "logits": (logits, max(one.logits_rounding, other.logits_rounding)),
        "input gradients": (gradients, max(one.gradients_rounding, other.gradients_rounding)),
    }
    return " and ".join(
        f"{name} differ by {by:.0e} of their size, rounding explains {most:.0e}"
        for name, (by, rounding) in kinds.items()
        if by > (most := TIMES_ROUNDING * max(rounding, LEAST_ROUNDING))
    )


def distances(one: Sequence[tuple[float, ...]], other: Sequence[tuple[float, ...]]) -> list[float]:
    """Return how far answers are apart, relative to the larger: of each image that has any.

    Infinite where one side alone has an answer.
    """
    pairs = [(a, b) for a, b in zip(one, other, strict=True) if any(a) or any(b)]
    return [
        math.dist(a, b) / max(math.hypot(*a), math.hypot(*b)) if a and b else math.inf
        for a, b in pairs
    ]
