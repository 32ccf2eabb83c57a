"""Saliency methods: a classifier and a batch of images in, signed attributions out."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Annotated, Literal, cast, get_type_hints

import torch
from pydantic import Field, TypeAdapter, ValidationError
from torch import Tensor

from steadymap.bench.names import nearest
from steadymap.bench.passes import MOST_AT_ONCE, Pass, Read, shared_pass
from steadymap.bench.paths import NestedPath, Path, gauss_legendre, path_sum, points_at
from steadymap.bench.randomness import generator
from steadymap.models import Classifier

# Gauss-Legendre nodes take the eigenvalues of a matrix of this side.
MOST_STEPS = 1000


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
    """

    images: Tensor
    targets: Tensor
    image_ids: tuple[str, ...]
    seed: int
    at_once: int = MOST_AT_ONCE["cpu"]

    def part(self, chosen: slice) -> Batch:
        """Return some of the images with all that belongs to them."""
        return replace(
            self,
            images=self.images[chosen],
            targets=self.targets[chosen],
            image_ids=self.image_ids[chosen],
        )


def _black(batch: Batch) -> Tensor:
    return torch.zeros_like(batch.images)


def _white(batch: Batch) -> Tensor:
    return torch.ones_like(batch.images)


def _random(batch: Batch) -> Tensor:
    """Uniform noise in [0, 1], one draw an image."""
    shape = tuple(batch.images.shape[1:])
    draws = [
        generator(batch.seed, image_id, "baseline").random(shape) for image_id in batch.image_ids
    ]
    return torch.stack([torch.from_numpy(draw) for draw in draws]).to(batch.images)


BASELINES: dict[str, Callable[[Batch], Tensor]] = {
    "black": _black,
    "white": _white,
    "random": _random,
}
Engine = Literal["own", "captum"]
BaselineName = Literal["black", "white", "random"]
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
        _captum()
        .Saliency(classifier.module)
        .attribute(_own_copy(batch.images), target=batch.targets, abs=False)
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
        _captum()
        .InputXGradient(classifier.module)
        .attribute(_own_copy(batch.images), target=batch.targets)
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


def captum_grad_cam(classifier: Classifier, batch: Batch, *, relu: bool = True) -> Tensor:
    """Compute the same with captum: the oracle of `grad_cam`."""
    maps: Tensor = (
        _captum()
        .LayerGradCam(classifier.module, classifier.cam_module)
        .attribute(_own_copy(batch.images), target=batch.targets, relu_attributions=relu)
    )
    return maps.detach()


def _captum() -> ModuleType:
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

    The same sum as captum's, without its copies: see `steadymap.bench.paths.path_sum`.
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
    return Path(BASELINES[baseline](batch), batch.images, batch.targets, batch.at_once)


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
        _captum()
        .IntegratedGradients(classifier.module)
        .attribute(
            _own_copy(batch.images),
            baselines=BASELINES[baseline](batch),
            target=batch.targets,
            n_steps=steps,
            method="gausslegendre",
            internal_batch_size=max(batch.at_once, len(batch.images)),
        )
    )
    return maps.detach()


def _own_copy(images: Tensor) -> Tensor:
    """Return a copy that asks for a gradient; with frozen weights nothing else does.

    captum would switch requires_grad on in the caller's tensor, and leave it on where the network
    raises.
    """
    return images.detach().clone().requires_grad_()


def _lacks_cam_layer(classifier: Classifier) -> str | None:
    return None if classifier.cam_layer else "the network has no convolution with a spatial output"


def _steps(parameters: Mapping[str, object]) -> int:
    """Return how many points of a path one map takes; with `auto`, the least there can be."""
    steps = parameters["steps"]
    return steps if isinstance(steps, int) else points_at(1)


@dataclass(frozen=True)
class Share:
    """How a method takes part in the one pass that a run makes of each view.

    Attributes:
        reads: what of the pass it needs.
        read: takes the pass, and the method's keyword-only parameters; returns what `explain`
            would.
    """

    reads: Read
    read: Callable[..., Tensor]


@dataclass(frozen=True)
class Method:
    """A saliency method.

    Attributes:
        explain: takes the classifier and a batch, and keyword-only parameters; returns signed
            attributions (B, C, h, w) at the method's own resolution, detached.
        summary: one line for `steadymap list`.
        source: the paper.
        complete: whether the attributions are meant to add up to the logit at the image minus the
            logit at the baseline; such a method has a parameter `baseline`.
        inapplicable: says why a classifier cannot be explained with it, or None.
        captum: the same through captum, with the same parameters, where `explain` is our own.
        share: where one forward and one backward pass of the image itself, which other methods
            may use too, is all it takes.
        passes: from the parameters, how many times one image goes forward and backward for one
            map; once, where `share` is given.
        nested: where `steps` may be `auto`, the path that can be doubled further; called as
            `explain` is, without `steps`.
    """

    explain: Callable[..., Tensor]
    summary: str
    source: str
    complete: bool = False
    inapplicable: Callable[[Classifier], str | None] = lambda _classifier: None
    captum: Callable[..., Tensor] | None = None
    share: Share | None = None
    passes: Callable[[Mapping[str, object]], int] = lambda _parameters: 1
    nested: Callable[..., NestedPath] | None = None


METHODS: dict[str, Method] = {
    "gradient": Method(
        gradient,
        "vanilla gradient of the target's logit",
        "Simonyan et al. 2013",
        captum=captum_gradient,
        share=Share("gradient", read_gradient),
    ),
    "gradient_x_input": Method(
        gradient_x_input,
        "gradient times image",
        "Shrikumar et al. 2016",
        captum=captum_gradient_x_input,
        share=Share("gradient", read_gradient_x_input),
    ),
    "integrated_gradients": Method(
        integrated_gradients,
        "gradients averaged from a baseline to the image, times the way",
        "Sundararajan et al. 2017",
        complete=True,
        captum=captum_integrated_gradients,
        passes=_steps,
        nested=nested_path,
    ),
    "grad_cam": Method(
        grad_cam,
        "gradient-weighted activations of the last convolution",
        "Selvaraju et al. 2017",
        inapplicable=_lacks_cam_layer,
        captum=captum_grad_cam,
        share=Share("layer", read_grad_cam),
    ),
}

DEFAULT_METHODS = (
    "gradient",
    "gradient_x_input",
    "integrated_gradients:baseline=black",
    "integrated_gradients:baseline=white",
    "integrated_gradients:baseline=random",
    "grad_cam",
)


@dataclass(frozen=True)
class BoundMethod:
    """A method with its parameters set.

    Attributes:
        spec: its name with every parameter, e.g. `integrated_gradients:baseline=white,steps=32`.
        method: the entry of `METHODS`.
        parameters: values by name.
    """

    spec: str
    method: Method
    parameters: tuple[tuple[str, object], ...]

    def explain(self, classifier: Classifier, batch: Batch, engine: Engine = "own") -> Tensor:
        """Return signed attributions (B, C, h, w)."""
        function = self.method.captum if engine == "captum" else None
        return (function or self.method.explain)(classifier, batch, **dict(self.parameters))

    def read(self, seen: Pass) -> Tensor:
        """Return signed attributions (B, C, h, w) read off a pass.

        Raises:
            TypeError: the method takes more than that.
        """
        if self.method.share is None:
            raise TypeError(f"{self.spec} cannot be read off one pass")
        return self.method.share.read(seen, **dict(self.parameters))

    @property
    def passes(self) -> int:
        """How many times one image goes forward and backward for one map."""
        return self.method.passes(dict(self.parameters))

    @property
    def adaptive(self) -> bool:
        """Whether the method takes as many steps as each image needs."""
        return self.method.nested is not None and dict(self.parameters).get("steps") == "auto"

    def nested(self, classifier: Classifier, batch: Batch) -> NestedPath:
        """Return paths that are settled and can be doubled further.

        Raises:
            TypeError: the method has none.
        """
        if self.method.nested is None:
            raise TypeError(f"{self.spec} has no nested path")
        parameters = {name: value for name, value in self.parameters if name != "steps"}
        return self.method.nested(classifier, batch, **parameters)

    @property
    def baseline_name(self) -> BaselineName | None:
        """The key of `BASELINES` of a complete method; None of any other."""
        if not self.method.complete:
            return None
        return cast("BaselineName", dict(self.parameters)["baseline"])


def bind_method(spec: str, steps: Steps | None = None) -> BoundMethod:
    """Parse `name:key=value,key=value`.

    Args:
        spec: a key of `METHODS`, with parameters where they differ from the defaults.
        steps: the number of steps for a method that has them and whose spec does not set them.

    Raises:
        ValueError: an unknown name or parameter, with the nearest known one, or a bad value.
    """
    name, _, text = spec.partition(":")
    if name not in METHODS:
        raise ValueError(f"unknown method {name!r}; {nearest(name, METHODS)}")
    method = METHODS[name]
    signature = inspect.signature(method.explain).parameters.values()
    defaults = {p.name: p.default for p in signature if p.kind is p.KEYWORD_ONLY}
    given = dict(_split_parameter(name, part) for part in text.split(",") if part)
    if steps is not None and "steps" in defaults:
        given.setdefault("steps", str(steps))
    types = get_type_hints(method.explain, include_extras=True)
    values = defaults.copy()
    for key, value in given.items():
        if key not in defaults:
            known = nearest(key, defaults) if defaults else "it has none"
            raise ValueError(f"method {name}: unknown parameter {key!r}; {known}")
        try:
            values[key] = TypeAdapter(types[key]).validate_strings(value)
        except ValidationError as error:
            reason = error.errors()[0]["msg"]
            raise ValueError(f"method {name}: {key}={value}: {reason}") from error
    settings = ",".join(f"{key}={str(value).lower()}" for key, value in values.items())
    return BoundMethod(f"{name}:{settings}" if settings else name, method, tuple(values.items()))


def _split_parameter(name: str, part: str) -> tuple[str, str]:
    key, equals, value = part.partition("=")
    if not equals:
        raise ValueError(f"method {name}: expected key=value, got {part!r}")
    return key.strip(), value.strip()
