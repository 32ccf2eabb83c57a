"""Baselines: the images at which paths start, and what stands in for parts of an image."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal

import numpy as np
import torch
from scipy.ndimage import gaussian_filter1d
from torch import Tensor

from steadymap.bench.core.randomness import generator
from steadymap.bench.methods.batch import Batch

# Half of an image's range: twice as strong as what most pictures differ by from their mean, so that
# little of the picture is left in the baseline.
NOISY_BASELINE = 0.5
# Fong and Vedaldi 2017 blur images of 224 pixels by 10.
BLURRED_BASELINE = 10 / 224


# --- baselines ------------------------------------------------------------------------------------


def _black(batch: Batch) -> Tensor:
    return torch.zeros_like(batch.images)


def _white(batch: Batch) -> Tensor:
    return torch.ones_like(batch.images)


def _random(batch: Batch) -> Tensor:
    """Uniform noise in [0, 1], one draw an image."""
    return _uniform_noise(batch, "baseline")


def _uniform(batch: Batch) -> Tensor:
    return _uniform_noise(batch, "uniform baseline")


def _uniform_noise(batch: Batch, purpose: str) -> Tensor:
    shape = tuple(batch.images.shape[1:])
    draws = [generator(batch.seed, image_id, purpose).random(shape) for image_id in batch.image_ids]
    return torch.stack([torch.from_numpy(draw) for draw in draws]).to(batch.images)


def _gaussian(batch: Batch) -> Tensor:
    """Add normal noise to the image, and clamp nothing."""
    shape = tuple(batch.images.shape[1:])
    draws = [
        generator(batch.seed, image_id, "gaussian baseline").standard_normal(shape)
        for image_id in batch.image_ids
    ]
    noise = torch.stack([torch.from_numpy(draw) for draw in draws]).to(batch.images)
    return batch.images + NOISY_BASELINE * noise


def _blur(batch: Batch) -> Tensor:
    """Blur by a Gaussian in proportion to the shorter side; what is outside repeats the edge."""
    height, width = batch.images.shape[2:]
    sigma = BLURRED_BASELINE * min(height, width)
    down, across = (_blurring(side, sigma).to(batch.images) for side in (height, width))
    return down @ batch.images @ across.T


@cache
def _blurring(side: int, sigma: float) -> Tensor:
    """Return what blurs a column when it is multiplied by it: (side, side), float64."""
    matrix = gaussian_filter1d(np.eye(side), sigma, axis=0, mode="nearest")
    return torch.from_numpy(matrix)


def _mean(batch: Batch) -> Tensor:
    return batch.images.mean(dim=(2, 3), keepdim=True).expand_as(batch.images)


def _max_distance(batch: Batch) -> Tensor:
    """Choose black or white, value by value: whichever is farther; from the middle, white."""
    return (batch.images <= 0.5).to(batch.images)  # noqa: PLR2004 - the middle of [0, 1]


def _average(batch: Batch) -> Tensor:
    return batch.need_references().mean(dim=0, keepdim=True).expand_as(batch.images)


@dataclass(frozen=True)
class Baseline:
    """A reference image of path methods.

    Attributes:
        make: from a batch, (B, 3, H, W).
        summary: one line for `steadymap list`.
        source: the paper.
        of_image: it depends on the image given, so that its logits change with a perturbation.
        moves_along: an image moved by a constant has its baseline moved by the same: a path between
            the two does not notice a bias.
        drawn: another seed gives another.
        of_data: it depends on images of the data set.
    """

    make: Callable[[Batch], Tensor]
    summary: str
    source: str
    of_image: bool = False
    moves_along: bool = False
    drawn: bool = False
    of_data: bool = False


BASELINES: dict[str, Baseline] = {
    "black": Baseline(_black, "every value 0", "Sundararajan et al. 2017"),
    "white": Baseline(_white, "every value 1", "Sturmfels et al. 2020, for constant colours"),
    "random": Baseline(
        _random,
        "uniform noise in [0, 1]; the same distribution as uniform",
        "Sundararajan et al. 2017",
        drawn=True,
    ),
    "uniform": Baseline(
        _uniform,
        "uniform noise in [0, 1]; the same distribution as random, another draw",
        "Sturmfels et al. 2020",
        drawn=True,
    ),
    "gaussian": Baseline(
        _gaussian,
        f"the image plus normal noise of standard deviation {NOISY_BASELINE}",
        "Sturmfels et al. 2020",
        of_image=True,
        moves_along=True,
        drawn=True,
    ),
    "blur": Baseline(
        _blur,
        "the image blurred by a Gaussian, 10 pixels wide where its shorter side has 224",
        "Fong and Vedaldi 2017; Sturmfels et al. 2020",
        of_image=True,
        moves_along=True,
    ),
    "mean": Baseline(_mean, "the image's own mean colour", "", of_image=True, moves_along=True),
    "max_distance": Baseline(
        _max_distance,
        "black or white, value by value: whichever is farther from the image",
        "Sturmfels et al. 2020",
        of_image=True,
    ),
    "average": Baseline(
        _average, "the mean of images of the data set", "Lundberg and Lee 2017", of_data=True
    ),
}
BaselineName = Literal[
    "black",
    "white",
    "random",
    "uniform",
    "gaussian",
    "blur",
    "mean",
    "max_distance",
    "average",
]


@dataclass(frozen=True)
class Start:
    """Where a complete method starts from: its maps add up to the logit minus the mean logit there.

    Attributes:
        baseline: a key of `BASELINES`; None for images of the data set themselves.
        draws: how many draws of the baseline, or images of the data set.
    """

    baseline: BaselineName | None
    draws: int = 1

    @property
    def of_image(self) -> bool:
        """Whether it depends on the image given."""
        return self.baseline is not None and BASELINES[self.baseline].of_image

    def images(self, batch: Batch) -> Iterator[Tensor]:
        """Yield one (B, 3, H, W) after the other.

        Where there are fewer images of the data set than asked for, they take turns.
        """
        for draw in range(self.draws):
            if self.baseline is None:
                references = batch.need_references()
                yield references[draw % len(references)].expand_as(batch.images)
            else:
                yield BASELINES[self.baseline].make(
                    replace(batch, seed=draw_seed(batch.seed, draw))
                )


def draw_seed(seed: int, draw: int) -> int:
    """Return the seed of a draw; the first has the run's own."""
    return seed if not draw else int(generator(seed, "draw of a baseline", draw).integers(2**62))
