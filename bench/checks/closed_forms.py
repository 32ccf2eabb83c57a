"""Checks against closed forms: maps that are known, on networks that are simple enough."""

from __future__ import annotations

import inspect
from dataclasses import replace

import torch

from steadymap.bench.checks import networks as known
from steadymap.bench.checks.subject import (
    IMAGES,
    PASSED,
    TOLERANCE,
    Finding,
    Subject,
    batch_of,
    inapplicable,
)
from steadymap.bench.core.on_demand import loaded
from steadymap.bench.methods import baselines, binding
from steadymap.bench.methods.batch import Batch
from steadymap.bench.methods.method import BoundMethod

STEPS_ENOUGH = 64
STEPS_FEW = 2


def linear(subject: Subject) -> Finding:
    """On a linear network the map is known: w for the gradient, w (x - baseline) if complete."""
    method = subject.method
    batch, network = batch_of(known.images(IMAGES)), known.linear()
    weights = known.linear_weights(network, batch.targets)
    if method.start is not None:
        starts = torch.stack(list(method.start.images(batch)))
        expected: torch.Tensor | None = weights * (batch.images - starts.mean(dim=0))
    else:
        expected = _closed_form(method, weights, batch)
    if expected is None:
        return inapplicable("no closed form is declared")
    return subject.agree(subject.explain(network, batch), expected)


def _closed_form(method: BoundMethod, weights: torch.Tensor, batch: Batch) -> torch.Tensor | None:
    """Return what `on_linear` says, of the parameters that it asks for."""
    form = method.method.on_linear
    if form is None:
        return None
    parameters = inspect.signature(loaded(form)).parameters.values()
    names = {parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY}
    return form(weights, batch, **{key: v for key, v in method.parameters if key in names})


def dummy_channel(subject: Subject) -> Finding:
    """A colour that the network does not look at gets nothing."""
    if subject.method.control:
        return inapplicable("a control ignores the network")
    network = known.deaf_to_blue(known.convolutional())
    maps = subject.explain(network, batch_of(known.images(IMAGES)))
    if maps.shape[1] != 3:  # noqa: PLR2004 - red, green, blue
        return inapplicable("maps have no colours")
    most = float(maps[:, 2].abs().max())
    return Finding("failed", f"{most:.3g} on that colour") if most else PASSED


def homogeneous(subject: Subject) -> Finding:
    """On a ReLU network without biases, integrating from black is gradient times image."""
    if not subject.method.can("complete"):
        return inapplicable("not complete")
    if subject.method.baseline_name != "black":
        return inapplicable("it does not start from black")
    network, batch = known.without_bias(known.convolutional()), batch_of(known.images(IMAGES))
    expected = binding.bind_method("gradient_x_input").explain(network, batch, "own")
    return subject.agree(subject.explain(network, batch), expected)


def antisymmetric(subject: Subject) -> Finding:
    """From image to baseline instead of from baseline to image: the same, with the other sign."""
    if not subject.method.can("complete"):
        return inapplicable("not complete")
    if subject.parameter("baseline") is None:
        return inapplicable("there is no baseline to choose")
    start, end = known.images(2, seed=1).split(1)
    network = known.between(known.convolutional(), start, end)
    forward = batch_of(torch.ones_like(end))
    back = replace(forward, images=torch.zeros_like(end))
    maps = subject.having("baseline", "white").explain(network, back)
    return subject.agree(maps, -subject.having("baseline", "black").explain(network, forward))


def at_baseline(subject: Subject) -> Finding:
    """Pixels that are as in the baseline get nothing."""
    name = subject.parameter("baseline")
    if not subject.method.can("needs_baseline") or not isinstance(name, str):
        return inapplicable("nothing is promised about pixels of the baseline")
    if baselines.BASELINES[name].of_image:
        return inapplicable("with other pixels the image has another baseline")
    batch = batch_of(known.images(IMAGES))
    patch = (slice(None), slice(None), slice(3, 7), slice(2, 9))
    mixed = batch.images.clone()
    mixed[patch] = baselines.BASELINES[name].make(batch)[patch]
    maps = subject.explain(known.convolutional(), replace(batch, images=mixed))
    most = float(maps[patch].abs().max())
    return Finding("failed", f"{most:.3g} on such a pixel") if most else PASSED


def completeness(subject: Subject) -> Finding:
    """On a smooth network attributions add up to the logit difference, the better with steps."""
    start = subject.method.start
    if start is None:
        return inapplicable("not complete")
    network, batch = known.smooth(), batch_of(known.images(IMAGES))
    before = torch.stack([network(images) for images in start.images(batch)]).mean(dim=0)
    delta = (network(batch.images) - before).gather(1, batch.targets[:, None])[:, 0]

    def error(variant: Subject) -> torch.Tensor:
        return (variant.explain(network, batch).sum(dim=(1, 2, 3)) - delta).abs()

    if not isinstance(subject.parameter("steps"), int):
        return subject.agree(subject.explain(network, batch).sum(dim=(1, 2, 3)), delta)
    few, enough = (error(subject.having("steps", steps)) for steps in (STEPS_FEW, STEPS_ENOUGH))
    if not bool((enough <= TOLERANCE * delta.abs()).all()):
        worst = float((enough / delta.abs()).max())
        return Finding("failed", f"{STEPS_ENOUGH} steps miss by {worst:.3g} of the difference")
    return PASSED if bool((enough <= few).all()) else Finding("failed", "steps do not help")
