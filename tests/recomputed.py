"""What a run records, computed once more, in plain torch, captum, SciPy and scikit-image.

Nothing of the project is imported: `results/README.md` and the papers say what the numbers are.
All is in double precision but for the images themselves, which are float32.
"""

from __future__ import annotations

import copy
import io
import itertools
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from captum.attr import DeepLift, GuidedBackprop, IntegratedGradients, Occlusion
from nets import SIDE, Plain, Residual, Smooth
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage, stats
from skimage.color import hsv2rgb, rgb2hsv
from skimage.metrics import structural_similarity
from torch import Tensor, nn
from torch.nn import functional

Array = NDArray[np.float64]
Picture = NDArray[np.float32]  # (32, 32, 3)
Network = Plain | Residual | Smooth
Scored = tuple[str, float, str]  # metric, value, status

# --- images ---------------------------------------------------------------------------------------


def pixels(picture: Picture) -> NDArray[np.uint8]:
    return np.round(picture.clip(0, 1) * np.float32(255)).astype(np.uint8)


def grey(picture: Picture) -> Picture:
    """Rec. 601 luma."""
    luma: Picture = picture @ np.array([0.2989, 0.587, 0.114], dtype=np.float32)
    return luma


def away_from(picture: Picture, other: Picture | np.float32, share: float) -> Picture:
    moved: Picture = picture + np.float32(share) * (picture - other)
    return moved


def on_channel(picture: Picture, severity: float, channel: int) -> Picture:
    moved: Picture = picture + np.float32(severity) * np.eye(3, dtype=np.float32)[channel]
    return moved


def hue(picture: Picture, severity: float) -> Picture:
    turned = rgb2hsv(picture.astype(np.float64))
    turned[..., 0] = (turned[..., 0] + severity) % 1
    back: Picture = hsv2rgb(turned).astype(np.float32)
    return back


def blurred(picture: Picture, severity: float) -> Picture:
    sigma = severity * min(picture.shape[:2])
    smooth: Picture = ndimage.gaussian_filter(picture, (sigma, sigma, 0))
    return smooth


def pixelated(picture: Picture, severity: float) -> Picture:
    height, width = picture.shape[:2]
    small = [max(1, round(side * (1 - severity))) for side in (width, height)]
    shrunk = Image.fromarray(pixels(picture)).resize((small[0], small[1]), Image.Resampling.BOX)
    enlarged = shrunk.resize((width, height), Image.Resampling.NEAREST)
    return np.asarray(enlarged, dtype=np.float32) / np.float32(255)


def compressed(picture: Picture, severity: float) -> Picture:
    file = io.BytesIO()
    Image.fromarray(pixels(picture)).save(file, "JPEG", quality=max(1, round(100 * (1 - severity))))
    return np.asarray(Image.open(file), dtype=np.float32) / np.float32(255)


@dataclass(frozen=True)
class Motion:
    """Where the things of a map come from: perturbed place = matrix @ clean place + shift.

    Places are rows and columns from the image's centre, in image pixels.
    """

    matrix: Array
    shift: Array

    @property
    def back(self) -> Motion:
        inverse: Array = np.linalg.inv(self.matrix).astype(np.float64)
        return Motion(inverse, -inverse @ self.shift)

    def applied(self, values: Array, side: int) -> Array:
        """Move a map (h, w) as it moves an image of `side` pixels."""
        rows, columns = self.back.sources(values.shape, side)
        moved: Array = ndimage.map_coordinates(values, [rows, columns], order=1, mode="reflect")
        return moved

    def sources(self, shape: tuple[int, ...], side: int) -> Array:
        """(2, h, w): the place in cells where this motion takes each cell of a map."""
        cell = np.array([side / shape[0], side / shape[1]])[:, None, None]
        middle = (np.array(shape)[:, None, None] - 1) / 2
        places = (np.indices(shape) - middle) * cell
        there = np.einsum("ij,jhw->ihw", self.matrix, places) + self.shift[:, None, None]
        sources: Array = np.round(there / cell + middle, 9)
        return sources


def moving(picture: Picture, motion: Motion) -> Picture:
    planes = [
        motion.applied(plane, len(picture)) for plane in picture.transpose(2, 0, 1).astype(float)
    ]
    return np.stack(planes, axis=-1).astype(np.float32)


def translation(severity: float, side: int) -> Motion:
    return Motion(np.eye(2), np.full(2, float(round(severity * side))))


def rotation(severity: float, _side: int) -> Motion:
    """Counter-clockwise as seen, with rows that count downwards."""
    cos, sin = math.cos(math.radians(severity)), math.sin(math.radians(severity))
    return Motion(np.array([[cos, -sin], [sin, cos]]), np.zeros(2))


def zoom(severity: float, _side: int) -> Motion:
    return Motion(np.eye(2) * (1 + severity), np.zeros(2))


MOTIONS: Mapping[str, Callable[[float, int], Motion]] = {
    "translation": translation,
    "rotation": rotation,
    "zoom": zoom,
}
FAMILIES: Mapping[str, Callable[[Picture, float], Picture]] = {
    "bias": lambda x, s: x + np.float32(s),
    "compensated_bias": lambda x, s: x + np.float32(s),
    "shifted_network": lambda x, _: x,
    "red_bias": lambda x, s: on_channel(x, s, 0),
    "green_bias": lambda x, s: on_channel(x, s, 1),
    "blue_bias": lambda x, s: on_channel(x, s, 2),
    "brightness": lambda x, s: x * np.float32(1 + s),
    "contrast": lambda x, s: away_from(x, grey(x).mean(), s),
    "saturation": lambda x, s: away_from(x, grey(x)[..., None], s),
    "hue": hue,
    "gaussian_blur": blurred,
    "pixelate": pixelated,
    "jpeg": compressed,
}


def perturbed(picture: Picture, family: str, severity: float) -> Picture:
    if family == "clean":
        return picture
    if family in MOTIONS:
        return moving(picture, MOTIONS[family](severity, len(picture)))
    return FAMILIES[family](picture, severity)


# --- the network ----------------------------------------------------------------------------------


class Seen(NamedTuple):
    """What is explained: images (N, 3, 32, 32), their classes, and the shift that is taken off."""

    images: Tensor
    targets: Tensor
    shift: float


class Whole(nn.Module):
    """A network behind its normalisation and, in a compensated family, behind the shift back."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float64).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float64).view(3, 1, 1))
        self.shift = 0.0

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network((images - self.shift - self.mean) / self.std)
        return logits


class Apart(nn.Module):
    """captum's rules of a ReLU and of the pooling behind it need tensors of their own."""

    def forward(self, values: Tensor) -> Tensor:
        return values * 1


def in_modules(network: Network) -> nn.Module:
    """The same function with each ReLU a module of its own, as captum wants it."""
    if not isinstance(network, Plain):
        return network
    return nn.Sequential(
        network.a, nn.ReLU(), Apart(), nn.MaxPool2d(2),
        network.b, nn.ReLU(), Apart(), nn.MaxPool2d(2),
        nn.Flatten(), network.head,
    )  # fmt: skip


class Sloped(nn.Module):
    """An activation that is a straight line through (x0, f(x0)) and (x, f(x)): its slope is frozen.

    With x0 = 0 that is LRP's share, as f(0) = 0; with the baseline's x0, DeepLIFT's rescale rule.
    """

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.start: Tensor | None = None
        self.learns = False

    def forward(self, values: Tensor) -> Tensor:
        if self.learns:
            self.start = values.detach()
        start = torch.zeros_like(values) if self.start is None else self.start
        rise, way = self.inner(values) - self.inner(start), values - start
        slope = torch.where(way == 0, 0.0, rise / torch.where(way == 0, 1.0, way)).detach()
        output: Tensor = self.inner(start).detach() + slope * way
        return output


def sloped(network: nn.Module) -> nn.Module:
    changed = copy.deepcopy(network)
    for part in list(changed.modules()):
        for name, child in part.named_children():
            if isinstance(child, nn.ReLU | nn.SiLU | nn.GELU):
                setattr(part, name, Sloped(child))
    return changed


class Explainer:
    """Attributions (N, C, h, w) of one network by every method.

    Args:
        network: in eval mode.
        steps: of integrated gradients.
    """

    def __init__(self, network: Network, steps: int) -> None:
        self.kind, self.steps = type(network), steps
        network = copy.deepcopy(network).double().requires_grad_(requires_grad=False)
        self.inner = in_modules(network)
        self.whole = Whole(self.inner, network.mean, network.std)
        self.lines = Whole(sloped(self.inner), network.mean, network.std)

    def logits(self, images: Tensor, shift: float) -> Tensor:
        self.whole.shift = shift
        logits: Tensor = self.whole(images)
        return logits

    def from_kinks(self, seen: Seen) -> Array:
        """(N,): how near an image is to where a ReLU or a pooling turns, relative to its layer.

        Where rounding says on which side it is, two computations may have different gradients.
        """
        nearest = torch.full((len(seen.images),), torch.inf, dtype=torch.float64)

        def look(part: nn.Module, inputs: tuple[Tensor, ...], _output: Tensor) -> None:
            gaps = inputs[0].abs()
            if isinstance(part, nn.MaxPool2d):
                best = inputs[0].unfold(2, 2, 2).unfold(3, 2, 2).flatten(4).topk(2).values
                gaps = torch.where(best[..., 0] > 0, best[..., 0] - best[..., 1], torch.inf)
            scale = inputs[0].abs().flatten(1).amax(dim=1)
            torch.minimum(nearest, gaps.flatten(1).amin(dim=1) / scale, out=nearest)

        turning = [
            part for part in self.whole.modules() if isinstance(part, nn.ReLU | nn.MaxPool2d)
        ]
        hooks = [part.register_forward_hook(look) for part in turning]
        self.logits(seen.images, seen.shift)
        for hook in hooks:
            hook.remove()
        return nearest.numpy()

    def from_kinks_by_method(self, methods: list[str], seen: Seen) -> dict[str, Array]:
        """Say the same for each method: a path has images of its own."""
        here = self.from_kinks(seen)
        nearest = dict.fromkeys([*methods, "input"], here)
        nodes = (np.polynomial.legendre.leggauss(self.steps)[0] + 1) / 2
        for spec in methods:
            if METHODS[spec][0].startswith("ig_"):
                starts = baseline_of(seen.images, METHODS[spec][1])
                points = [starts + node * (seen.images - starts) for node in nodes]
                each = [self.from_kinks(seen._replace(images=point)) for point in points]
                nearest[spec] = np.minimum.reduce([here, *each])
        return nearest

    def delta(self, seen: Seen, baseline: str) -> Array:
        """(N,): the target's logit less that of the baseline."""
        starts = baseline_of(seen.images, baseline)
        both = self.logits(seen.images, seen.shift) - self.logits(starts, seen.shift)
        difference: Array = both.gather(1, seen.targets[:, None])[:, 0].numpy()
        return difference

    def attributions(self, method: str, seen: Seen) -> Tensor:
        self.whole.shift = self.lines.shift = seen.shift
        found: Tensor = getattr(self, method)(seen)
        return found.detach()

    def gradient(self, seen: Seen) -> Tensor:
        return slope_of(self.whole, seen)

    def gradient_x_input(self, seen: Seen) -> Tensor:
        return slope_of(self.whole, seen) * seen.images

    def ig_black(self, seen: Seen) -> Tensor:
        return self._ig(seen, "black")

    def ig_white(self, seen: Seen) -> Tensor:
        return self._ig(seen, "white")

    def _ig(self, seen: Seen, baseline: str) -> Tensor:
        """At the nodes of Gauss and Legendre."""
        starts = baseline_of(seen.images, baseline)
        maps: Tensor = IntegratedGradients(self.whole).attribute(
            seen.images, starts, target=seen.targets, n_steps=self.steps
        )
        return maps

    def occlusion(self, seen: Seen) -> Tensor:
        """A black window of an eighth of the side, moved by half of itself."""
        maps: Tensor = Occlusion(self.whole).attribute(
            seen.images,
            sliding_window_shapes=(3, 4, 4),
            strides=(3, 2, 2),
            target=seen.targets,
            perturbations_per_eval=75,
        )
        return maps[:, :1]

    def guided_backprop(self, seen: Seen) -> Tensor:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            maps: Tensor = GuidedBackprop(self.whole).attribute(seen.images, target=seen.targets)
        return maps

    def deep_lift_black(self, seen: Seen) -> Tensor:
        return self._deep_lift(seen, "black")

    def deep_lift_blur(self, seen: Seen) -> Tensor:
        return self._deep_lift(seen, "blur")

    def _deep_lift(self, seen: Seen, baseline: str) -> Tensor:
        starts = baseline_of(seen.images, baseline)
        if self.kind is Smooth:  # captum has no SiLU and no GELU
            return self._along_lines(seen, starts) * (seen.images - starts)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            maps: Tensor = DeepLift(self.whole).attribute(seen.images, starts, target=seen.targets)
        return maps

    def lrp(self, seen: Seen) -> Tensor:
        """The gradient with every activation's slope out over in, times the normalised image."""
        return self._along_lines(seen, None) * (seen.images - seen.shift - self.whole.mean)

    def _along_lines(self, seen: Seen, starts: Tensor | None) -> Tensor:
        parts = [part for part in self.lines.modules() if isinstance(part, Sloped)]
        for part in parts:
            part.start, part.learns = None, starts is not None
        if starts is not None:
            self.lines(starts)
        for part in parts:
            part.learns = False
        return slope_of(self.lines, seen)

    def _feature_map(self, seen: Seen) -> tuple[Tensor, Tensor]:
        """Activations and gradient of the last feature map, behind its activation."""
        values = (seen.images - seen.shift - self.whole.mean) / self.whole.std
        if self.kind is Plain:
            parts = list(self.inner.children())
            below, above = parts[:6], parts[7:]  # in front of the pooling behind the last ReLU
            maps, rest = nn.Sequential(*below)(values), nn.Sequential(*above)
        elif isinstance(self.inner, Residual):
            maps, rest = self.inner.blocks(self.inner.stem(values)), self.inner.head
        else:
            assert isinstance(self.inner, Smooth)
            maps = self.inner.features(values)
            rest = nn.Sequential(nn.Flatten(), self.inner.head)
        leaves = maps.detach().requires_grad_()
        picked = rest(leaves).gather(1, seen.targets[:, None]).sum()
        return leaves.detach(), torch.autograd.grad(picked, leaves)[0]

    def grad_cam(self, seen: Seen) -> Tensor:
        """Selvaraju et al. 2017, equations 1 and 2."""
        maps, slopes = self._feature_map(seen)
        weights = slopes.mean(dim=(2, 3), keepdim=True)
        return functional.relu((weights * maps).sum(dim=1, keepdim=True))

    def grad_cam_signed(self, seen: Seen) -> Tensor:
        maps, slopes = self._feature_map(seen)
        return (slopes.mean(dim=(2, 3), keepdim=True) * maps).sum(dim=1, keepdim=True)

    def hires_cam(self, seen: Seen) -> Tensor:
        maps, slopes = self._feature_map(seen)
        return functional.relu((slopes * maps).sum(dim=1, keepdim=True))

    def layer_cam(self, seen: Seen) -> Tensor:
        maps, slopes = self._feature_map(seen)
        return functional.relu((functional.relu(slopes) * maps).sum(dim=1, keepdim=True))

    def grad_cam_plus_plus(self, seen: Seen) -> Tensor:
        """Chattopadhyay et al. 2018, equations 10 and 19; its factor exp(S) scales the map."""
        maps, slopes = self._feature_map(seen)
        second, third = slopes**2, slopes**3
        below = 2 * second + maps.sum(dim=(2, 3), keepdim=True) * third
        alphas = torch.where(below == 0, 0.0, second / torch.where(below == 0, 1.0, below))
        weights = (alphas * functional.relu(slopes)).sum(dim=(2, 3), keepdim=True)
        return functional.relu((weights * maps).sum(dim=1, keepdim=True))

    def edge(self, seen: Seen) -> Tensor:
        greys = seen.images.mean(dim=1).numpy()
        slopes = [[ndimage.sobel(one, axis, mode="nearest") for axis in (0, 1)] for one in greys]
        return torch.from_numpy(np.hypot(*np.moveaxis(np.array(slopes), 1, 0)))[:, None]

    def constant(self, seen: Seen) -> Tensor:
        return torch.ones_like(seen.images[:, :1])


def baseline_of(images: Tensor, name: str) -> Tensor:
    """Black, white, or the image blurred by 10 pixels of 224, the edge repeated outside."""
    if name != "blur":
        return torch.full_like(images, {"black": 0.0, "white": 1.0}[name])
    sigma = 10 / 224 * images.shape[-1]
    return torch.from_numpy(
        ndimage.gaussian_filter(images.numpy(), (0, 0, sigma, sigma), mode="nearest")
    )


def slope_of(module: nn.Module, seen: Seen) -> Tensor:
    leaves = seen.images.detach().requires_grad_()
    picked = module(leaves).gather(1, seen.targets[:, None]).sum()
    return torch.autograd.grad(picked, leaves)[0]


# --- maps and metrics -----------------------------------------------------------------------------

LEAST_SPREAD = 1e-6
SSIM_SIDE = 11
LEAST_DELTA = 0.01


def magnitude(signed: Array) -> Array:
    absolute = np.abs(signed)
    top = np.percentile(absolute, 99)
    return np.minimum(absolute, top) / top if top > 0 else np.zeros_like(absolute)


def is_constant(values: Array) -> bool:
    return bool(np.ptp(values) <= LEAST_SPREAD * np.abs(values).max())


def strongest(values: Array) -> Array:
    """How much of each pixel belongs to the strongest 5%: those that tie share the places left."""
    count = max(1, round(0.05 * values.size))
    threshold = np.sort(values.ravel())[-count]
    above, tied = values > threshold, values == threshold
    share: Array = above + tied * (count - above.sum()) / tied.sum()
    return share


def ssim(first: Array, second: Array) -> float:
    return float(
        structural_similarity(
            first,
            second,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            data_range=1,
        )
    )


def centre_shift(first: Array, second: Array) -> float:
    centres = [np.array(ndimage.center_of_mass(one)) for one in (first, second)]
    return float(np.linalg.norm(centres[0] - centres[1]) / np.linalg.norm(first.shape))


def cosine(first: Array, second: Array) -> float:
    return float((first * second).sum() / np.linalg.norm(first) / np.linalg.norm(second))


SIGNED: Mapping[str, Callable[[Array, Array], float]] = {
    "spearman": lambda a, b: float(stats.spearmanr(a.ravel(), b.ravel()).statistic),
    "kendall": lambda a, b: float(stats.kendalltau(a.ravel(), b.ravel()).statistic),
    "relative_l2": lambda a, b: float(np.linalg.norm(b - a) / np.linalg.norm(a)),
    "cosine": cosine,
    "pearson": lambda a, b: float(stats.pearsonr(a.ravel(), b.ravel()).statistic),
}
MAGNITUDES: Mapping[str, Callable[[Array, Array], float]] = {
    "ssim": ssim,
    "spearman_magnitude": lambda a, b: float(stats.spearmanr(a.ravel(), b.ravel()).statistic),
    "top_k_intersection": lambda a, b: float(
        np.minimum(strongest(a), strongest(b)).sum() / strongest(a).sum()
    ),
    "centre_shift": centre_shift,
}


def compared(clean: Array, other: Array) -> Iterator[Scored]:
    """Yield metric, value and status of two maps (h, w)."""
    for maps, metrics in (
        ((clean, other), SIGNED),
        ((magnitude(clean), magnitude(other)), MAGNITUDES),
    ):
        constant = any(map(is_constant, maps))
        for name, metric in metrics.items():
            if name == "ssim" and min(clean.shape) < SSIM_SIDE:
                yield name, math.nan, "skipped"
            elif constant:
                yield name, math.nan, "degenerate"
            else:
                yield name, metric(*maps), "ok"


def completeness(attributions: Array, delta: float) -> Iterator[Scored]:
    """Yield metric, value and status of attributions that should add up to a difference."""
    error, small = abs(attributions.sum() - delta), abs(delta) < LEAST_DELTA
    constant = is_constant(attributions.sum(axis=0))
    for name, value in (
        ("completeness_error", error),
        ("completeness_error_relative", error / abs(delta)),
    ):
        if constant:
            yield name, math.nan, "degenerate"
        elif small and name.endswith("relative"):
            yield name, math.nan, "small_delta"
        else:
            yield name, float(value), "ok"


def in_common(motion: Motion, shape: tuple[int, int], side: int) -> tuple[slice, slice]:
    """The largest part of a clean map that the moved one shows in full, about the middle of it.

    Where a tall one and a wide one are equally large, what they have in common.
    """
    places = motion.sources(shape, side)
    last = np.array(shape)[:, None, None] - 1
    seen: NDArray[np.bool_] = np.logical_and.reduce((places >= 0) & (places <= last), axis=0)
    rows, columns = (np.flatnonzero(seen.any(axis=axis)) for axis in (1, 0))
    top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    areas = {
        (down, across): (bottom - top - 2 * down) * (right - left - 2 * across)
        for down in range((bottom - top + 1) // 2)
        for across in range((right - left + 1) // 2)
        if seen[top + down : bottom - down, left + across : right - across].all()
    }
    best = [margins for margins, area in areas.items() if area == max(areas.values())]
    down, across = (max(margins) for margins in zip(*best, strict=True))
    return slice(top + down, bottom - down), slice(left + across, right - across)


# --- a run ----------------------------------------------------------------------------------------

# By what records call a method: what it is here, and the baseline that it is complete from.
METHODS: Mapping[str, tuple[str, str]] = {
    "gradient": ("gradient", ""),
    "gradient_x_input": ("gradient_x_input", ""),
    "integrated_gradients:baseline=black,steps=6": ("ig_black", "black"),
    "integrated_gradients:baseline=white,steps=6": ("ig_white", "white"),
    "grad_cam:relu=true": ("grad_cam", ""),
    "grad_cam:relu=false": ("grad_cam_signed", ""),
    "grad_cam_plus_plus": ("grad_cam_plus_plus", ""),
    "hires_cam:relu=true": ("hires_cam", ""),
    "layer_cam": ("layer_cam", ""),
    "guided_backprop": ("guided_backprop", ""),
    "deep_lift:baseline=black": ("deep_lift_black", "black"),
    "deep_lift:baseline=blur": ("deep_lift_blur", "blur"),
    "lrp": ("lrp", ""),
    "occlusion:window=0.125,baseline=black": ("occlusion", ""),
    "edge": ("edge", ""),
    "constant": ("constant", ""),
}
STEPS = 6
# Their formulas are for ReLU, or for activations of at least 0: a smooth network has neither.
RELU_ALONE = ("guided_backprop", "grad_cam_plus_plus", "layer_cam")

Row = dict[str, Any]


def records(
    network: Network,
    pictures: list[Picture],
    cells: list[tuple[str, float]],
    methods: list[str],
    *,
    beside: bool = False,
) -> Iterator[Row]:
    """Yield the records of a run over pictures and perturbations: image by its place in the list.

    `kink` is the least of `from_kinks` of the images that a value depends on.

    Args:
        network: in eval mode.
        pictures: one block of them.
        cells: families and severities.
        methods: specs.
        beside: whether to yield what the clean maps of other pictures score, too.
    """
    explainer = Explainer(network, STEPS)
    clean = seen_as(pictures, "clean", 0.0)
    logits = explainer.logits(clean.images, 0.0).detach()
    clean = clean._replace(targets=logits.argmax(dim=1))
    sure = logits.double().softmax(dim=1).max(dim=1).values.numpy()
    before = {spec: explainer.attributions(METHODS[spec][0], clean).numpy() for spec in methods}
    kinks = explainer.from_kinks_by_method(methods, clean)
    for family, severity in [("clean", 0.0), *cells]:
        shown = [perturbed(picture, family, severity) for picture in pictures]
        view = seen_as(shown, family, severity)._replace(targets=clean.targets)
        predicted = explainer.logits(view.images, view.shift).argmax(dim=1)
        nearest = explainer.from_kinks_by_method(methods, view)
        rows = list(of_maps(explainer, before, view, family, severity))
        if family == "clean":  # nothing to compare
            rows = [row for row in rows if row["metric"].startswith("completeness")]
        else:
            rows += of_input(clean, view, sure)
            rows += of_others(explainer, before, view, family, severity) if beside else []
        for row in rows:
            image, method = row["image"], row["method"]
            seen = [kinks[method][image], nearest[method][image]]
            if beside:
                seen = [*kinks[method], *nearest[method]]
            yield row | {
                "family": family,
                "severity": severity,
                "target": int(clean.targets[image]),
                "pred_perturbed": int(predicted[image]),
                "kink": min(seen),
            }


def seen_as(pictures: list[Picture], family: str, severity: float) -> Seen:
    images = torch.from_numpy(np.stack(pictures).transpose(0, 3, 1, 2)).double()
    shift = {"compensated_bias": severity, "shifted_network": -severity}.get(family, 0.0)
    return Seen(images, torch.zeros(len(pictures), dtype=torch.long), shift)


def of_input(clean: Seen, view: Seen, sure: Array) -> Iterator[Row]:
    pairs = zip(clean.images.numpy(), view.images.numpy(), strict=True)
    for image, (before, after) in enumerate(pairs):
        change = math.sqrt(((after - before) ** 2).mean())
        saturated = ((after <= 0) | (after >= 1)).mean()
        for metric, value in (
            ("input_change", change),
            ("saturated_share", saturated),
            ("clean_probability", sure[image]),
        ):
            yield row_of(image, "input", (metric, value, "ok"))


def row_of(image: int, method: str, scored: Scored) -> Row:
    names = dict(zip(("metric", "value", "status"), scored, strict=True))
    return {"image": image, "method": method} | names


def of_maps(
    explainer: Explainer, clean: Mapping[str, Array], view: Seen, family: str, severity: float
) -> Iterator[Row]:
    for spec, before in clean.items():
        method, baseline = METHODS[spec]
        after = explainer.attributions(method, view).numpy()
        deltas = explainer.delta(view, baseline) if baseline else np.zeros(len(after))
        for image, (first, second) in enumerate(zip(before, after, strict=True)):
            found = list(of_pair(first.sum(axis=0), second.sum(axis=0), family, severity))
            if explainer.kind is Smooth and method in RELU_ALONE:
                found = [(name, math.nan, "skipped") for name, _, _ in found if "." not in name]
            elif baseline:
                found += completeness(second, float(deltas[image]))
            yield from (row_of(image, spec, scored) for scored in found)


# Metrics that compare two maps quickly and in the same unit whatever the maps.
RECOGNISING = [name for name in (*SIGNED, *MAGNITUDES) if name not in ("kendall", "relative_l2")]


def of_others(
    explainer: Explainer, clean: Mapping[str, Array], view: Seen, family: str, severity: float
) -> Iterator[Row]:
    """Yield what is said of perturbed maps and clean ones of other images, each pair by itself."""
    classes = view.targets.tolist()
    everyone = range(len(classes))
    for spec, before in clean.items():
        after = explainer.attributions(METHODS[spec][0], view).numpy().sum(axis=1)
        cut = [
            [in_place(own, other, family, severity) for other in after]
            for own in before.sum(axis=1)
        ]
        pairs = {(j, i): dict(said(*cut[j][i])) for j in everyone for i in everyone}
        clean_alone = [dict(said(cut[j][0][0], cut[j][0][0])) for j in everyone]
        moved_alone = [dict(said(cut[0][i][1], cut[0][i][1])) for i in everyone]
        for image, name in itertools.product(everyone, RECOGNISING):
            others = [other for other in everyone if other != image]
            alike = [other for other in others if classes[other] == classes[image]]
            for behind, chosen in (("other_image", others), ("same_class", alike)):
                towards = [pairs[other, image][name] for other in chosen]
                status = moved_alone[image][name][1]
                yield row_of(image, spec, mean_of(f"{name}.{behind}", towards, status))
                away = [pairs[image, other][name] for other in chosen]
                status = clean_alone[image][name][1]
                yield row_of(image, spec, mean_of(f"{name}.{behind}.partner", away, status))
            own, status = pairs[image, image][name]
            sign = -1 if name == "centre_shift" else 1
            values = [pairs[other, image][name] for other in others]
            known = [value for value, other_status in values if other_status == "ok"]
            if status == "ok" and not known:
                status = "skipped"
            rank = 1.0 + sum(sign * value >= sign * own for value in known)
            yield row_of(
                image, spec, (f"{name}.rank", rank if status == "ok" else math.nan, status)
            )


def said(clean: Array, other: Array) -> Iterator[tuple[str, tuple[float, str]]]:
    for name, value, status in compared(clean, other):
        yield name, (value, status)


def mean_of(name: str, pairs: list[tuple[float, str]], alone: str) -> Scored:
    """The mean over the pairs that are defined; `alone` is the status of what they share."""
    known = [value for value, status in pairs if status == "ok"]
    if alone != "ok":
        return name, math.nan, alone
    return (name, float(np.mean(known)), "ok") if known else (name, math.nan, "skipped")


def in_place(clean: Array, other: Array, family: str, severity: float) -> tuple[Array, Array]:
    """What is compared of two maps: of moved things the part that both images show."""
    if family not in MOTIONS:
        return clean, other
    motion = MOTIONS[family](severity, SIDE)
    window = in_common(motion, (clean.shape[0], clean.shape[1]), SIDE)
    return clean[window], motion.back.applied(other, SIDE)[window]


def of_pair(clean: Array, other: Array, family: str, severity: float) -> Iterator[Scored]:
    """Yield what is said of two maps; of moved things in the part that both images show."""
    own, moved = in_place(clean, other, family, severity)
    yield from compared(own, moved)
    if family in MOTIONS:
        motion = MOTIONS[family](severity, SIDE)
        moved = motion.applied(clean, SIDE)
        for name, value, status in compared(*in_place(clean, moved, family, severity)):
            yield f"{name}.perfect", value, status
