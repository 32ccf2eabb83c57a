"""Families of perturbations: an image and a severity in, a perturbed image out.

Severities are in image units ([0, 1] from black to white), a share (of the pixels, of the light, of
a side, of the circle of hues), degrees, or whole levels, as each family says. At severity 0 every
family returns the image itself. Nothing is clamped: the classifier sees values beyond [0, 1] where
a family makes them, as in the study; those that go through 8 bits make none.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import numpy as np
from torch import Tensor

from steadymap.bench.core.names import IN_DEGREES
from steadymap.bench.core.plugins import YOUR_OWN, Shelf, check_fields, check_function, summary_of
from steadymap.bench.perturbations import attack as adversarial
from steadymap.bench.perturbations import corruptions, imagenet_c, noise
from steadymap.bench.perturbations import warp as geometry
from steadymap.bench.perturbations.noise import (
    bias,
    gaussian_noise,
    needs_classifier,
    salt_and_pepper,
    uniform_noise,
)
from steadymap.bench.perturbations.warp import Warp
from steadymap.bench.records.schema import CLEAN, INPUT, OVERALL, REFERENCES
from steadymap.models import Classifier

Perturb = Callable[[Tensor, float, np.random.Generator], Tensor]
Attack = Callable[[Classifier, Tensor, Tensor, float, np.random.Generator], Tensor]


@dataclass(frozen=True)
class Perturbation:
    """A family.

    Attributes:
        apply: takes one image (3, H, W) in [0, 1] on the CPU, a severity and the generator of this
            draw; returns the perturbed image and leaves the given one alone.
        severities: the five levels that a run uses unless told otherwise; with both signs where
            `bounds` allows a negative severity. Empty where a plan has to give them.
        bounds: the smallest and largest severity that makes sense.
        summary: one line for `steadymap list`.
        source: where the family comes from.
        stochastic: whether draws differ.
        compensated: whether the classifier gets the inverse shift inside, so that it computes on
            the perturbed image what it computed on the clean one; only for additive families whose
            severity is the shift.
        unit: what severities are counted in.
        whole: whether severities are whole numbers.
        min_side: the smallest height and width of an image that it takes, in pixels.
        missing: says why the family cannot be had here, and what to do; None where it can.
        warp: where things go, from severity and size (H, W) of the image; maps of such a family are
            compared after the way back. None where all stays in place.
        attack: takes the classifier, an image (1, 3, H, W) where that is, its predicted class (1,),
            severity and generator, and stands in `apply`'s place; None where the classifier is not
            needed.
        passes: how many times an attack sends the image forward and backward through the network;
            none at severity 0.
    """

    apply: Perturb
    severities: tuple[float, ...]
    bounds: tuple[float, float]
    summary: str
    source: str
    stochastic: bool = False
    compensated: bool = False
    unit: str = "in image units"
    whole: bool = False
    min_side: int = 1
    missing: Callable[[], str | None] | None = None
    warp: Callable[[float, tuple[int, int]], Warp] | None = None
    attack: Attack | None = None
    passes: int = 0

    @property
    def limits(self) -> str:
        """The bounds with their unit."""
        low, high = self.bounds
        return f"{low:g} to {high:g} {self.unit}"


MAGNITUDES = (0.05, 0.1, 0.2, 0.3, 0.5)
BOTH_SIGNS = (*(-size for size in reversed(MAGNITUDES)), *MAGNITUDES)

PERTURBATIONS: dict[str, Perturbation] = {
    "bias": Perturbation(
        bias,
        BOTH_SIGNS,
        (-1.0, 1.0),
        "a constant on every channel; either sign",
        "the study; Kindermans et al. 2019",
    ),
    "compensated_bias": Perturbation(
        bias,
        BOTH_SIGNS,
        (-1.0, 1.0),
        "the same, and the classifier takes it off again: what still changes is the method",
        "Kindermans et al. 2019, section 2",
        compensated=True,
    ),
    "gaussian_noise": Perturbation(
        gaussian_noise,
        MAGNITUDES,
        (0.0, 1.0),
        "normal noise; severity is its standard deviation",
        "Hendrycks and Dietterich 2019",
        stochastic=True,
    ),
    "uniform_noise": Perturbation(
        uniform_noise,
        MAGNITUDES,
        (0.0, 1.0),
        "uniform noise between minus and plus the severity",
        "Alvarez-Melis and Jaakkola 2018",
        stochastic=True,
    ),
    "salt_and_pepper": Perturbation(
        salt_and_pepper,
        MAGNITUDES,
        (0.0, 1.0),
        "that share of the pixels turned black or white",
        "Hendrycks and Dietterich 2019 (impulse noise)",
        stochastic=True,
        unit="as a share of the pixels",
    ),
    "shot_noise": Perturbation(
        noise.shot_noise,
        (0.005, 0.01, 0.02, 0.05, 0.1),
        (0.0, 1.0),
        "Poisson noise of light; severity is its variance at white",
        "Hendrycks and Dietterich 2019",
        stochastic=True,
    ),
    "speckle_noise": Perturbation(
        noise.speckle_noise,
        MAGNITUDES,
        (0.0, 1.0),
        "normal noise in proportion to the light; severity is its standard deviation at white",
        "Hendrycks and Dietterich 2019",
        stochastic=True,
    ),
    "brightness": Perturbation(
        corruptions.brightness,
        BOTH_SIGNS,
        (-1.0, 1.0),
        "light times 1 + severity; black stays black",
        "torchvision",
        unit="as a share of the light",
    ),
    "contrast": Perturbation(
        corruptions.contrast,
        BOTH_SIGNS,
        (-1.0, 1.0),
        "distance from the mean grey times 1 + severity",
        "torchvision; Hendrycks and Dietterich 2019",
        unit="as a share of the distance",
    ),
    "saturation": Perturbation(
        corruptions.saturation,
        BOTH_SIGNS,
        (-1.0, 1.0),
        "distance from each pixel's grey times 1 + severity",
        "torchvision; Hendrycks and Dietterich 2019",
        unit="as a share of the distance",
    ),
    "hue": Perturbation(
        corruptions.hue,
        (-0.4, -0.3, -0.2, -0.1, -0.05, 0.05, 0.1, 0.2, 0.3, 0.4),
        (-0.5, 0.5),
        "hue turned by that share of the circle",
        "torchvision",
        unit="as a share of the circle",
    ),
    "red_bias": Perturbation(
        corruptions.red_bias, BOTH_SIGNS, (-1.0, 1.0), "a constant on red", "the study, by channel"
    ),
    "green_bias": Perturbation(
        corruptions.green_bias,
        BOTH_SIGNS,
        (-1.0, 1.0),
        "a constant on green",
        "the study, by channel",
    ),
    "blue_bias": Perturbation(
        corruptions.blue_bias,
        BOTH_SIGNS,
        (-1.0, 1.0),
        "a constant on blue",
        "the study, by channel",
    ),
    "gaussian_blur": Perturbation(
        corruptions.gaussian_blur,
        (0.005, 0.01, 0.02, 0.03, 0.05),
        (0.0, 0.5),
        "blur; severity is its standard deviation as a share of the shorter side",
        "Hendrycks and Dietterich 2019",
        unit="as a share of the shorter side",
    ),
    "pixelate": Perturbation(
        corruptions.pixelate,
        (0.3, 0.5, 0.7, 0.8, 0.9),
        (0.0, 0.99),
        "sides shrunk by that share and enlarged again",
        "Hendrycks and Dietterich 2019",
        unit="as a share of the side",
    ),
    "jpeg": Perturbation(
        corruptions.jpeg,
        (0.5, 0.75, 0.85, 0.9, 0.95),
        (0.0, 0.99),
        "JPEG with quality 100 (1 - severity)",
        "Hendrycks and Dietterich 2019",
        unit="as a share of the quality",
    ),
    "translation": Perturbation(
        geometry.warping(geometry.shifted),
        (-0.2, -0.15, -0.1, -0.05, -0.02, 0.02, 0.05, 0.1, 0.15, 0.2),
        (-1.0, 1.0),
        "moved down and to the right by that share of each side, in whole pixels",
        "Azulay and Weiss 2019",
        unit="as a share of the side",
        warp=geometry.shifted,
    ),
    "rotation": Perturbation(
        geometry.warping(geometry.turned),
        (-30.0, -20.0, -10.0, -5.0, -2.0, 2.0, 5.0, 10.0, 20.0, 30.0),
        (-180.0, 180.0),
        "turned about the centre, counter-clockwise where positive",
        "Engstrom et al. 2019",
        unit=IN_DEGREES,
        warp=geometry.turned,
    ),
    "zoom": Perturbation(
        geometry.warping(geometry.enlarged),
        (-0.3, -0.2, -0.1, -0.05, -0.02, 0.02, 0.05, 0.1, 0.2, 0.3),
        (-0.9, 4.0),
        "enlarged 1 + severity times about the centre",
        "Azulay and Weiss 2019",
        unit="as a share of the size",
        warp=geometry.enlarged,
    ),
    "adversarial": Perturbation(
        needs_classifier,
        (0.002, 0.005, 0.01, 0.02, 0.05),
        (0.0, 1.0),
        "the worst of small changes: the prediction stays, the gradient map goes far; severity is "
        "the most that a value moves",
        "Ghorbani et al. 2019; Dombrowski et al. 2019",
        stochastic=True,
        attack=adversarial.away_from_gradient,
        passes=adversarial.PASSES,
    ),
    "random_sign": Perturbation(
        noise.random_sign,
        (0.002, 0.005, 0.01, 0.02, 0.05),
        (0.0, 1.0),
        "the typical change of that size: minus or plus the severity at every value",
        "Ghorbani et al. 2019",
        stochastic=True,
    ),
    **{
        f"imagenet_c_{name}": Perturbation(
            imagenet_c.corruption(name),
            imagenet_c.LEVELS,
            (0.0, imagenet_c.LEVELS[-1]),
            f"{summary}; ImageNet-C's own levels",
            "Hendrycks and Dietterich 2019",
            stochastic=draws,
            unit="in whole levels",
            whole=True,
            min_side=imagenet_c.LEAST_SIDE,
            missing=imagenet_c.missing,
        )
        for name, (summary, draws) in imagenet_c.CORRUPTIONS.items()
    },
}

# What a plan runs unless told otherwise: the study's shift, what is the method's own in it, noise.
DEFAULT_FAMILIES = (
    "bias",
    "compensated_bias",
    "gaussian_noise",
    "uniform_noise",
    "salt_and_pepper",
)


def _as_family(found: object) -> Perturbation:
    """Make an entry of a `Perturbation`, or of a function that perturbs.

    A function declares no severities, and may draw.
    """
    if isinstance(found, Perturbation):
        check_fields(found)
        check_function(found.apply, "image, severity, rng")
        return found
    check_function(found, "image, severity, rng")
    anything = (-np.inf, np.inf)
    return Perturbation(
        cast("Perturb", found), (), anything, summary_of(found), YOUR_OWN, stochastic=True
    )


FAMILY_SHELF = Shelf("family", PERTURBATIONS, _as_family, (CLEAN, INPUT, OVERALL, *REFERENCES))
