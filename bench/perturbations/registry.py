"""Families of perturbations: an image and a severity in, a perturbed image out.

Severities are in image units ([0, 1] from black to white), a share (of the pixels, of the light, of
a side, of the circle of hues), degrees, or whole levels, as each family says. At severity 0 every
family returns the image itself. Nothing is clamped: the classifier sees values beyond [0, 1] where
a family makes them, as in the study; those that go through 8 bits make none.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal, cast

from steadymap.bench.core import names, on_demand, plugins
from steadymap.bench.records.vocabulary import CLEAN, INPUT, OVERALL, REFERENCES

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from steadymap.bench.perturbations.warp import Warp
    from steadymap.models import Classifier

    Perturb = Callable[[Tensor, float, np.random.Generator], Tensor]
    Attack = Callable[[Classifier, Tensor, Tensor, float, np.random.Generator], Tensor]
    Placing = Callable[[float, tuple[int, int]], Warp]
else:
    # What pydantic sees of a plug-in's functions: that they can be called. Their types are torch's.
    Perturb = Attack = Placing = Callable[..., object]


@dataclass(frozen=True)
class Perturbation:
    """A family.

    Attributes:
        apply: takes one image (3, H, W) in [0, 1] on the CPU, a severity and the generator of this
            draw; returns the perturbed image and leaves the given one alone.
        severities: the levels that a run uses unless told otherwise: five, with both signs where
            `bounds` allows a negative severity; one of each sign where a family is for diagnosis
            alone. Empty where a plan has to give them.
        bounds: the smallest and largest severity that makes sense.
        summary: one line for `steadymap list`.
        source: where the family comes from.
        stochastic: whether draws differ.
        network_shift: how the classifier is moved inside, in severities: with 1 it takes the shift
            off again, f(x - severity), so that it computes on an image moved by the severity what
            it computed on the clean one; with -1 it adds it, f(x + severity), so that it computes
            on the clean image what it would on the moved one; with 0 it stays.
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
    network_shift: Literal[-1, 0, 1] = 0
    unit: str = "in image units"
    whole: bool = False
    min_side: int = 1
    missing: Callable[[], str | None] | None = None
    warp: Placing | None = None
    attack: Attack | None = None
    passes: int = 0

    def shift(self, severity: float) -> float:
        """Return the shift that the classifier takes off images."""
        return self.network_shift * severity

    @property
    def limits(self) -> str:
        """The bounds with their unit."""
        low, high = self.bounds
        return f"{low:g} to {high:g} {self.unit}"


MAGNITUDES = (0.05, 0.1, 0.2, 0.3, 0.5)
BOTH_SIGNS = (*(-size for size in reversed(MAGNITUDES)), *MAGNITUDES)

# ImageNet-C's corruptions: what each does, and whether its draws differ.
IMAGENET_C: dict[str, tuple[str, bool]] = {
    "gaussian_noise": ("normal noise", True),
    "shot_noise": ("Poisson noise of light", True),
    "impulse_noise": ("values turned to 0 or 1, each channel by itself", True),
    "defocus_blur": ("a lens out of focus", False),
    "glass_blur": ("pixels shuffled as behind frosted glass", True),
    "motion_blur": ("blurred along a line of any slant up to 45 degrees", True),
    "zoom_blur": ("blurred towards the centre", False),
    "snow": ("flakes blown across", True),
    "frost": ("a photograph of frost laid over", True),
    "fog": ("a cloud laid over", True),
    "brightness": ("lighter, in HSV", False),
    "contrast": ("nearer to each channel's mean", False),
    "elastic_transform": ("small regions stretched", True),
    "pixelate": ("fewer, larger pixels", False),
    "jpeg_compression": ("JPEG", False),
    "speckle_noise": ("normal noise in proportion to the light", True),
    "gaussian_blur": ("blur", False),
    "spatter": ("drops of water, from level 4 of mud", True),
    "saturate": ("greyer at levels 1 and 2, more colourful from 3", False),
}
LEVELS = (1.0, 2.0, 3.0, 4.0, 5.0)
# Of either side, in pixels: what the package takes.
LEAST_SIDE = 32


def _ours(place: str) -> on_demand.OnDemand:
    """Return a function of a module beside this one, which loads torch when it is called."""
    return on_demand.OnDemand(f"steadymap.bench.perturbations.{place}")


PERTURBATIONS: dict[str, Perturbation] = {
    "bias": Perturbation(
        _ours("noise:bias"),
        BOTH_SIGNS,
        (-1.0, 1.0),
        "a constant on every channel; either sign",
        "the study; Kindermans et al. 2019",
    ),
    "compensated_bias": Perturbation(
        _ours("noise:bias"),
        BOTH_SIGNS,
        (-1.0, 1.0),
        "the same, and the classifier takes it off again: what still changes is the method",
        "Kindermans et al. 2019, section 2",
        network_shift=1,
    ),
    "shifted_network": Perturbation(
        _ours("noise:unchanged"),
        (-0.2, 0.2),
        (-1.0, 1.0),
        "the image stays, and the classifier adds a constant inside: what changes is the network",
        "the fourth cell beside bias, compensated bias and neither",
        network_shift=-1,
    ),
    "gaussian_noise": Perturbation(
        _ours("noise:gaussian_noise"),
        MAGNITUDES,
        (0.0, 1.0),
        "normal noise; severity is its standard deviation",
        "Hendrycks and Dietterich 2019",
        stochastic=True,
    ),
    "uniform_noise": Perturbation(
        _ours("noise:uniform_noise"),
        MAGNITUDES,
        (0.0, 1.0),
        "uniform noise between minus and plus the severity",
        "Alvarez-Melis and Jaakkola 2018",
        stochastic=True,
    ),
    "salt_and_pepper": Perturbation(
        _ours("noise:salt_and_pepper"),
        MAGNITUDES,
        (0.0, 1.0),
        "that share of the pixels turned black or white",
        "Hendrycks and Dietterich 2019 (impulse noise)",
        stochastic=True,
        unit="as a share of the pixels",
    ),
    "shot_noise": Perturbation(
        _ours("noise:shot_noise"),
        (0.005, 0.01, 0.02, 0.05, 0.1),
        (0.0, 1.0),
        "Poisson noise of light; severity is its variance at white",
        "Hendrycks and Dietterich 2019",
        stochastic=True,
    ),
    "speckle_noise": Perturbation(
        _ours("noise:speckle_noise"),
        MAGNITUDES,
        (0.0, 1.0),
        "normal noise in proportion to the light; severity is its standard deviation at white",
        "Hendrycks and Dietterich 2019",
        stochastic=True,
    ),
    "brightness": Perturbation(
        _ours("corruptions:brightness"),
        BOTH_SIGNS,
        (-1.0, 1.0),
        "light times 1 + severity; black stays black",
        "torchvision",
        unit="as a share of the light",
    ),
    "contrast": Perturbation(
        _ours("corruptions:contrast"),
        BOTH_SIGNS,
        (-1.0, 1.0),
        "distance from the mean grey times 1 + severity",
        "torchvision; Hendrycks and Dietterich 2019",
        unit="as a share of the distance",
    ),
    "saturation": Perturbation(
        _ours("corruptions:saturation"),
        BOTH_SIGNS,
        (-1.0, 1.0),
        "distance from each pixel's grey times 1 + severity",
        "torchvision; Hendrycks and Dietterich 2019",
        unit="as a share of the distance",
    ),
    "hue": Perturbation(
        _ours("corruptions:hue"),
        (-0.4, -0.3, -0.2, -0.1, -0.05, 0.05, 0.1, 0.2, 0.3, 0.4),
        (-0.5, 0.5),
        "hue turned by that share of the circle",
        "torchvision",
        unit="as a share of the circle",
    ),
    "red_bias": Perturbation(
        _ours("corruptions:red_bias"),
        BOTH_SIGNS,
        (-1.0, 1.0),
        "a constant on red",
        "the study, by channel",
    ),
    "green_bias": Perturbation(
        _ours("corruptions:green_bias"),
        BOTH_SIGNS,
        (-1.0, 1.0),
        "a constant on green",
        "the study, by channel",
    ),
    "blue_bias": Perturbation(
        _ours("corruptions:blue_bias"),
        BOTH_SIGNS,
        (-1.0, 1.0),
        "a constant on blue",
        "the study, by channel",
    ),
    "gaussian_blur": Perturbation(
        _ours("corruptions:gaussian_blur"),
        (0.005, 0.01, 0.02, 0.03, 0.05),
        (0.0, 0.5),
        "blur; severity is its standard deviation as a share of the shorter side",
        "Hendrycks and Dietterich 2019",
        unit="as a share of the shorter side",
    ),
    "pixelate": Perturbation(
        _ours("corruptions:pixelate"),
        (0.3, 0.5, 0.7, 0.8, 0.9),
        (0.0, 0.99),
        "sides shrunk by that share and enlarged again",
        "Hendrycks and Dietterich 2019",
        unit="as a share of the side",
    ),
    "jpeg": Perturbation(
        _ours("corruptions:jpeg"),
        (0.5, 0.75, 0.85, 0.9, 0.95),
        (0.0, 0.99),
        "JPEG with quality 100 (1 - severity)",
        "Hendrycks and Dietterich 2019",
        unit="as a share of the quality",
    ),
    "translation": Perturbation(
        _ours("warp:translation"),
        (-0.2, -0.15, -0.1, -0.05, -0.02, 0.02, 0.05, 0.1, 0.15, 0.2),
        (-1.0, 1.0),
        "moved down and to the right by that share of each side, in whole pixels",
        "Azulay and Weiss 2019",
        unit="as a share of the side",
        warp=_ours("warp:shifted"),
    ),
    "rotation": Perturbation(
        _ours("warp:rotation"),
        (-30.0, -20.0, -10.0, -5.0, -2.0, 2.0, 5.0, 10.0, 20.0, 30.0),
        (-180.0, 180.0),
        "turned about the centre, counter-clockwise where positive",
        "Engstrom et al. 2019",
        unit=names.IN_DEGREES,
        warp=_ours("warp:turned"),
    ),
    "zoom": Perturbation(
        _ours("warp:zoom"),
        (-0.3, -0.2, -0.1, -0.05, -0.02, 0.02, 0.05, 0.1, 0.2, 0.3),
        (-0.9, 4.0),
        "enlarged 1 + severity times about the centre",
        "Azulay and Weiss 2019",
        unit="as a share of the size",
        warp=_ours("warp:enlarged"),
    ),
    "adversarial": Perturbation(
        _ours("noise:needs_classifier"),
        (0.002, 0.005, 0.01, 0.02, 0.05),
        (0.0, 1.0),
        "the worst of small changes: the prediction stays, the gradient map goes far; severity is "
        "the most that a value moves",
        "Ghorbani et al. 2019; Dombrowski et al. 2019",
        stochastic=True,
        attack=_ours("attack:away_from_gradient"),
        # Two beside the steps of the ascent; a test counts.
        passes=12,
    ),
    "random_sign": Perturbation(
        _ours("noise:random_sign"),
        (0.002, 0.005, 0.01, 0.02, 0.05),
        (0.0, 1.0),
        "the typical change of that size: minus or plus the severity at every value",
        "Ghorbani et al. 2019",
        stochastic=True,
    ),
    **{
        f"imagenet_c_{name}": Perturbation(
            partial(_ours("imagenet_c:corruption"), name),
            LEVELS,
            (0.0, LEVELS[-1]),
            f"{summary}; ImageNet-C's own levels",
            "Hendrycks and Dietterich 2019",
            stochastic=draws,
            unit="in whole levels",
            whole=True,
            min_side=LEAST_SIDE,
            missing=_ours("imagenet_c:missing"),
        )
        for name, (summary, draws) in IMAGENET_C.items()
    },
}

# What a plan runs unless told otherwise: the study's shift, what is the method's own in it and what
# the network's, noise.
DEFAULT_FAMILIES = (
    "bias",
    "compensated_bias",
    "shifted_network",
    "gaussian_noise",
    "uniform_noise",
    "salt_and_pepper",
)


def _as_family(plugin: object) -> Perturbation:
    """Make an entry of a `Perturbation`, or of a function that perturbs.

    A function declares no severities, and may draw.
    """
    if isinstance(plugin, Perturbation):
        plugins.check_fields(plugin)
        plugins.check_function(plugin.apply, "image, severity, rng")
        return plugin
    plugins.check_function(plugin, "image, severity, rng")
    anything = (-math.inf, math.inf)
    return Perturbation(
        cast("Perturb", plugin),
        (),
        anything,
        plugins.summary_of(plugin),
        plugins.YOUR_OWN,
        stochastic=True,
    )


FAMILY_SHELF = plugins.Shelf(
    "family", PERTURBATIONS, _as_family, (CLEAN, INPUT, OVERALL, *REFERENCES)
)
