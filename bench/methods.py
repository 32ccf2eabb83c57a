"""Saliency methods: a classifier and a batch of images in, signed attributions out."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal, get_type_hints

import numpy as np
import torch
from captum.attr import InputXGradient, IntegratedGradients, LayerGradCam, Saliency
from pydantic import Field, TypeAdapter, ValidationError
from torch import Tensor

from steadymap.bench.names import nearest
from steadymap.bench.randomness import generator
from steadymap.models import Classifier

# Points of a path that go through the network in one pass. With more of them the activations of
# the embedded network fall out of the cache, and each point takes longer.
PATH_CHUNK = 32

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
    """

    images: Tensor
    targets: Tensor
    image_ids: tuple[str, ...]
    seed: int


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


def gradient(classifier: Classifier, batch: Batch) -> Tensor:
    """Gradient of the target's logit, signed: (B, 3, H, W). Source: Simonyan et al. 2013."""
    maps: Tensor = Saliency(classifier.module).attribute(
        _own_copy(batch.images), target=batch.targets, abs=False
    )
    return maps.detach()


def gradient_x_input(classifier: Classifier, batch: Batch) -> Tensor:
    """Gradient times image: (B, 3, H, W). Source: Shrikumar et al. 2016."""
    maps: Tensor = InputXGradient(classifier.module).attribute(
        _own_copy(batch.images), target=batch.targets
    )
    return maps.detach()


def integrated_gradients(
    classifier: Classifier,
    batch: Batch,
    *,
    baseline: BaselineName = "black",
    steps: Annotated[int, Field(ge=1, le=MOST_STEPS)] = 50,
) -> Tensor:
    """Gradients averaged on the straight path from a baseline, times the way: (B, 3, H, W).

    Gauss-Legendre quadrature with `steps` points. Source: Sundararajan et al. 2017, equation 1.

    The same sum as captum's, without its copies: whole paths of a few images, or parts of one
    path, go through the network in chunks of the same size whatever the batch.
    """
    places, weights = np.polynomial.legendre.leggauss(steps)
    nodes = torch.from_numpy((1 + places) / 2).to(batch.images)
    shares = torch.from_numpy(weights / 2).to(batch.images)
    starts = BASELINES[baseline](batch)
    way = batch.images - starts
    total = torch.zeros_like(batch.images)
    group = max(1, PATH_CHUNK // steps)
    for first in range(0, len(way), group):
        few = slice(first, first + group)
        for low in range(0, steps, PATH_CHUNK):
            part = slice(low, low + PATH_CHUNK)
            total[few] += _path_sum(
                classifier, (starts[few], way[few], batch.targets[few]), (nodes[part], shares[part])
            )
    return total * way


def _path_sum(
    classifier: Classifier,
    path: tuple[Tensor, Tensor, Tensor],
    rule: tuple[Tensor, Tensor],
) -> Tensor:
    """Sum weighted gradients along straight paths.

    Args:
        classifier: whose target logits are differentiated.
        path: starts and ways (B, 3, H, W), and targets (B,).
        rule: n places in [0, 1] and their weights.

    Returns:
        (B, 3, H, W).
    """
    starts, way, targets = path
    nodes, shares = rule
    points = starts[:, None] + nodes.view(1, -1, 1, 1, 1) * way[:, None]
    # Channels last at the entrance keeps the first convolution from copying.
    points = points.flatten(0, 1).contiguous(memory_format=torch.channels_last).requires_grad_()
    wanted = targets.repeat_interleave(len(nodes))
    picked = classifier(points).gather(1, wanted[:, None]).sum()
    (gradients,) = torch.autograd.grad(picked, points)
    by_path = gradients.unflatten(0, (len(starts), len(nodes)))
    total: Tensor = (by_path * shares.view(1, -1, 1, 1, 1)).sum(dim=1)
    return total


def captum_integrated_gradients(
    classifier: Classifier,
    batch: Batch,
    *,
    baseline: BaselineName = "black",
    steps: Annotated[int, Field(ge=1, le=MOST_STEPS)] = 50,
) -> Tensor:
    """Compute the same with captum: the oracle of `integrated_gradients`, and `--engine captum`."""
    maps: Tensor = IntegratedGradients(classifier.module).attribute(
        _own_copy(batch.images),
        baselines=BASELINES[baseline](batch),
        target=batch.targets,
        n_steps=steps,
        method="gausslegendre",
        internal_batch_size=max(PATH_CHUNK, len(batch.images)),
    )
    return maps.detach()


def grad_cam(classifier: Classifier, batch: Batch, *, relu: bool = True) -> Tensor:
    """Gradient-weighted activations of the last convolution: (B, 1, h, w), at its resolution.

    With `relu=false` negative evidence is kept. Source: Selvaraju et al. 2017, equations 1 and 2.
    """
    maps: Tensor = LayerGradCam(classifier.module, classifier.cam_module).attribute(
        _own_copy(batch.images), target=batch.targets, relu_attributions=relu
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
    """

    explain: Callable[..., Tensor]
    summary: str
    source: str
    complete: bool = False
    inapplicable: Callable[[Classifier], str | None] = lambda _classifier: None
    captum: Callable[..., Tensor] | None = None


METHODS: dict[str, Method] = {
    "gradient": Method(
        gradient,
        "vanilla gradient of the target's logit",
        "Simonyan et al. 2013",
    ),
    "gradient_x_input": Method(
        gradient_x_input,
        "gradient times image",
        "Shrikumar et al. 2016",
    ),
    "integrated_gradients": Method(
        integrated_gradients,
        "gradients averaged from a baseline to the image, times the way",
        "Sundararajan et al. 2017",
        complete=True,
        captum=captum_integrated_gradients,
    ),
    "grad_cam": Method(
        grad_cam,
        "gradient-weighted activations of the last convolution",
        "Selvaraju et al. 2017",
        inapplicable=_lacks_cam_layer,
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

    def baseline(self, batch: Batch) -> Tensor | None:
        """Return the baseline images (B, 3, H, W) of a complete method, None of any other."""
        if not self.method.complete:
            return None
        return BASELINES[str(dict(self.parameters)["baseline"])](batch)


def bind_method(spec: str, steps: int | None = None) -> BoundMethod:
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
