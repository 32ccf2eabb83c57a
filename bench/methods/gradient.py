"""Attributions: a classifier and a batch of images in, signed maps out."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from types import ModuleType
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field
from scipy.ndimage import gaussian_filter1d
from torch import Tensor

from steadymap.bench.core.randomness import generator
from steadymap.bench.methods.paths import NestedPath, Path, gauss_legendre, path_sum
from steadymap.bench.network.passes import MOST_AT_ONCE, Pass, Read, shared_pass
from steadymap.models import Classifier

# Gauss-Legendre nodes take the eigenvalues of a matrix of this side.
MOST_STEPS = 1000

# Half of an image's range: twice as strong as what most pictures differ by from their mean, so that
# little of the picture is left in the baseline.
NOISY_BASELINE = 0.5
# Fong and Vedaldi 2017 blur images of 224 pixels by 10.
BLURRED_BASELINE = 10 / 224


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


# --- maps -----------------------------------------------------------------------------------------

Steps = Annotated[int, Field(ge=1, le=MOST_STEPS)] | Literal["auto"]


def gradient(classifier: Classifier, batch: Batch) -> Tensor:
    """Gradient of the target's logit, signed: (B, 3, H, W). Source: Simonyan et al. 2013."""
    return read_gradient(_alone(classifier, batch, "gradient"))


def read_gradient(seen: Pass) -> Tensor:
    """Read the gradient off a pass: (B, 3, H, W)."""
    return seen.need_gradient()


def captum_gradient(classifier: Classifier, batch: Batch) -> Tensor:
    """Compute the same with captum: the oracle of `gradient`, and `--engine captum`."""
    maps: Tensor = (
        captum_attr()
        .Saliency(classifier.module)
        .attribute(own_copy(batch.images), target=batch.targets, abs=False)
    )
    return maps.detach()


def gradient_x_input(classifier: Classifier, batch: Batch) -> Tensor:
    """Gradient times image: (B, 3, H, W). Source: Shrikumar et al. 2016."""
    return read_gradient_x_input(_alone(classifier, batch, "gradient"))


def read_gradient_x_input(seen: Pass) -> Tensor:
    """Read the gradient times the image off a pass: (B, 3, H, W)."""
    return seen.need_gradient() * seen.images


def captum_gradient_x_input(classifier: Classifier, batch: Batch) -> Tensor:
    """Compute the same with captum: the oracle of `gradient_x_input`."""
    maps: Tensor = (
        captum_attr()
        .InputXGradient(classifier.module)
        .attribute(own_copy(batch.images), target=batch.targets)
    )
    return maps.detach()


def grad_cam(classifier: Classifier, batch: Batch, *, relu: bool = True) -> Tensor:
    """Gradient-weighted activations of the last convolution: (B, 1, h, w), at its resolution.

    With `relu=false` negative evidence is kept. Source: Selvaraju et al. 2017, equations 1 and 2.
    """
    return read_grad_cam(_alone(classifier, batch, "layer"), relu=relu)


def read_grad_cam(seen: Pass, *, relu: bool = True) -> Tensor:
    """Read Grad-CAM off a pass: (B, 1, h, w)."""
    activations, gradient_there = seen.need_layer()
    weights = gradient_there.mean(dim=(2, 3), keepdim=True)
    maps = (weights * activations).sum(dim=1, keepdim=True)
    return maps.relu() if relu else maps


def hires_cam(classifier: Classifier, batch: Batch, *, relu: bool = True) -> Tensor:
    """Gradient times activation at each place of the last convolution: (B, 1, h, w).

    Unlike Grad-CAM it does not average the gradient over places first. Source: Draelos and Carin
    2020, equation 3.
    """
    return read_hires_cam(_alone(classifier, batch, "layer"), relu=relu)


def read_hires_cam(seen: Pass, *, relu: bool = True) -> Tensor:
    """Read HiResCAM off a pass: (B, 1, h, w)."""
    activations, gradient_there = seen.need_layer()
    maps = (gradient_there * activations).sum(dim=1, keepdim=True)
    return maps.relu() if relu else maps


def layer_cam(classifier: Classifier, batch: Batch) -> Tensor:
    """Positive gradient times activation at each place of the last convolution: (B, 1, h, w).

    Source: Jiang et al. 2021, equations 5 to 7.
    """
    return read_layer_cam(_alone(classifier, batch, "layer"))


def read_layer_cam(seen: Pass) -> Tensor:
    """Read LayerCAM off a pass: (B, 1, h, w)."""
    activations, gradient_there = seen.need_layer()
    return (gradient_there.relu() * activations).sum(dim=1, keepdim=True).relu()


def grad_cam_plus_plus(classifier: Classifier, batch: Batch) -> Tensor:
    """Activations of the last convolution, weighted by weighted positive gradients: (B, 1, h, w).

    Source: Chattopadhyay et al. 2018, equations 5, 10 and 19, for the logit's exponential. Places
    whose weight is 0 over 0, where the gradient is 0, have none.
    """
    return read_grad_cam_plus_plus(_alone(classifier, batch, "layer"))


def read_grad_cam_plus_plus(seen: Pass) -> Tensor:
    """Read Grad-CAM++ off a pass: (B, 1, h, w)."""
    activations, slope = seen.need_layer()
    # Divided by the square of the gradient, above and below: 1 / (2 + sum(activations) gradient).
    below = 2 + activations.sum(dim=(2, 3), keepdim=True) * slope
    shares = torch.where((slope != 0) & (below != 0), 1 / below, 0)
    weights = (shares * slope.relu()).sum(dim=(2, 3), keepdim=True)
    return (weights * activations).sum(dim=1, keepdim=True).relu()


def captum_grad_cam(classifier: Classifier, batch: Batch, *, relu: bool = True) -> Tensor:
    """Compute the same with captum: the oracle of `grad_cam`."""
    maps: Tensor = (
        captum_attr()
        .LayerGradCam(classifier.module, classifier.cam_module)
        .attribute(own_copy(batch.images), target=batch.targets, relu_attributions=relu)
    )
    return maps.detach()


def captum_attr() -> ModuleType:
    """Import captum when it is first asked for: that takes a second, which the own engine saves."""
    return importlib.import_module("captum.attr")


def _alone(classifier: Classifier, batch: Batch, read: Read) -> Pass:
    """Run the pass that a run would share, for one method."""
    return shared_pass(classifier, batch.images, batch.targets, [read], batch.at_once)


def integrated_gradients(
    classifier: Classifier,
    batch: Batch,
    *,
    baseline: BaselineName = "black",
    steps: Steps = 50,
) -> Tensor:
    """Gradients averaged on the straight path from a baseline, times the way: (B, 3, H, W).

    Gauss-Legendre quadrature with `steps` points, or, with `auto`, the trapezoid rule doubled until
    map and completeness have settled. Source: Sundararajan et al. 2017, equation 1.

    The same sum as captum's, without its copies: see `steadymap.bench.methods.paths.path_sum`.
    """
    if steps == "auto":
        nested = nested_path(classifier, batch, baseline=baseline)
        return nested.at(nested.settled)
    path = _path(batch, baseline)
    nodes, shares = gauss_legendre(steps, batch.images)
    return path_sum(classifier, path, nodes, shares) * (path.ends - path.starts)


def nested_path(
    classifier: Classifier, batch: Batch, *, baseline: BaselineName = "black"
) -> NestedPath:
    """Integrate until settled, and be able to go on: what a run needs for `steps=auto`."""
    return NestedPath(classifier, _path(batch, baseline))


def _path(batch: Batch, baseline: BaselineName) -> Path:
    return Path(BASELINES[baseline].make(batch), batch.images, batch.targets, batch.at_once)


def captum_integrated_gradients(
    classifier: Classifier,
    batch: Batch,
    *,
    baseline: BaselineName = "black",
    steps: Steps = 50,
) -> Tensor:
    """Compute the same with captum: the oracle of `integrated_gradients`.

    Raises:
        ValueError: `steps=auto`, which captum does not have.
    """
    if steps == "auto":
        raise ValueError("captum has no steps=auto; give a number of steps")
    maps: Tensor = (
        captum_attr()
        .IntegratedGradients(classifier.module)
        .attribute(
            own_copy(batch.images),
            baselines=BASELINES[baseline].make(batch),
            target=batch.targets,
            n_steps=steps,
            method="gausslegendre",
            internal_batch_size=max(batch.at_once, len(batch.images)),
        )
    )
    return maps.detach()


def own_copy(images: Tensor) -> Tensor:
    """Return a copy that asks for a gradient; with frozen weights nothing else does.

    captum would switch requires_grad on in the caller's tensor, and leave it on where the network
    raises.
    """
    return images.detach().clone().requires_grad_()
