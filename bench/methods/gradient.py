"""Attributions: a classifier and a batch of images in, signed maps out."""

from __future__ import annotations

import importlib
from types import ModuleType

from torch import Tensor

from steadymap.bench.methods.batch import Batch
from steadymap.bench.network.passes import Pass, Read, shared_pass
from steadymap.models import Classifier


def gradient(classifier: Classifier, batch: Batch) -> Tensor:
    """Gradient of the target's logit, signed: (B, 3, H, W). Source: Simonyan et al. 2013."""
    return read_gradient(own_pass(classifier, batch, "gradient"))


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
    return read_gradient_x_input(own_pass(classifier, batch, "gradient"))


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


def captum_attr() -> ModuleType:
    """Import captum when it is first asked for: that takes a second, which the own engine saves."""
    return importlib.import_module("captum.attr")


def own_pass(classifier: Classifier, batch: Batch, read: Read) -> Pass:
    """Run the pass that a run would share, for one method."""
    return shared_pass(classifier, batch.images, batch.targets, [read], batch.at_once)


def own_copy(images: Tensor) -> Tensor:
    """Return a copy that asks for a gradient; with frozen weights nothing else does.

    captum would switch requires_grad on in the caller's tensor, and leave it on where the network
    raises.
    """
    return images.detach().clone().requires_grad_()
