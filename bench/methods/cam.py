"""Grad-CAM and its relatives."""

from __future__ import annotations

import torch

from steadymap.bench.methods.batch import Batch
from steadymap.bench.methods.gradient import captum_attr, own_copy, own_pass
from steadymap.bench.network.passes import Pass
from steadymap.models import Classifier


def grad_cam(classifier: Classifier, batch: Batch, *, relu: bool = True) -> torch.Tensor:
    """Gradient-weighted activations of the last convolution: (B, 1, h, w), at its resolution.

    With `relu=false` negative evidence is kept. Source: Selvaraju et al. 2017, equations 1 and 2.
    """
    return read_grad_cam(own_pass(classifier, batch, "layer"), relu=relu)


def read_grad_cam(seen: Pass, *, relu: bool = True) -> torch.Tensor:
    """Read Grad-CAM off a pass: (B, 1, h, w)."""
    activations, gradient_there = seen.need_layer()
    weights = gradient_there.mean(dim=(2, 3), keepdim=True)
    maps = (weights * activations).sum(dim=1, keepdim=True)
    return maps.relu() if relu else maps


def hires_cam(classifier: Classifier, batch: Batch, *, relu: bool = True) -> torch.Tensor:
    """Gradient times activation at each place of the last convolution: (B, 1, h, w).

    Unlike Grad-CAM it does not average the gradient over places first. Source: Draelos and Carin
    2020, equation 3.
    """
    return read_hires_cam(own_pass(classifier, batch, "layer"), relu=relu)


def read_hires_cam(seen: Pass, *, relu: bool = True) -> torch.Tensor:
    """Read HiResCAM off a pass: (B, 1, h, w)."""
    activations, gradient_there = seen.need_layer()
    maps = (gradient_there * activations).sum(dim=1, keepdim=True)
    return maps.relu() if relu else maps


def layer_cam(classifier: Classifier, batch: Batch) -> torch.Tensor:
    """Positive gradient times activation at each place of the last convolution: (B, 1, h, w).

    Source: Jiang et al. 2021, equations 5 to 7.
    """
    return read_layer_cam(own_pass(classifier, batch, "layer"))


def read_layer_cam(seen: Pass) -> torch.Tensor:
    """Read LayerCAM off a pass: (B, 1, h, w)."""
    activations, gradient_there = seen.need_layer()
    return (gradient_there.relu() * activations).sum(dim=1, keepdim=True).relu()


def grad_cam_plus_plus(classifier: Classifier, batch: Batch) -> torch.Tensor:
    """Activations of the last convolution, weighted by weighted positive gradients: (B, 1, h, w).

    Source: Chattopadhyay et al. 2018, equations 5, 10 and 19, for the logit's exponential. Places
    whose weight is 0 over 0, where the gradient is 0, have none.
    """
    return read_grad_cam_plus_plus(own_pass(classifier, batch, "layer"))


def read_grad_cam_plus_plus(seen: Pass) -> torch.Tensor:
    """Read Grad-CAM++ off a pass: (B, 1, h, w)."""
    activations, slope = seen.need_layer()
    # Divided by the square of the gradient, above and below: 1 / (2 + sum(activations) gradient).
    below = 2 + activations.sum(dim=(2, 3), keepdim=True) * slope
    shares = torch.where((slope != 0) & (below != 0), 1 / below, 0)
    weights = (shares * slope.relu()).sum(dim=(2, 3), keepdim=True)
    return (weights * activations).sum(dim=1, keepdim=True).relu()


def lacks_layer(classifier: Classifier) -> str | None:
    """Say why a network has no Grad-CAM; None where it has."""
    return None if classifier.cam_layer else "the network has no convolution with a spatial output"


def captum_lacks_grid(classifier: Classifier) -> str | None:
    """Say why captum has no Grad-CAM of a network; None where it has."""
    planes = classifier.cam_layout == "channels_first"
    return None if planes else f"captum's Grad-CAM reads planes, not {classifier.cam_layout}"


def captum_grad_cam(classifier: Classifier, batch: Batch, *, relu: bool = True) -> torch.Tensor:
    """Compute the same with captum: the oracle of `grad_cam`."""
    maps: torch.Tensor = (
        captum_attr()
        .LayerGradCam(classifier.module, classifier.cam_module)
        .attribute(own_copy(batch.images), target=batch.targets, relu_attributions=relu)
    )
    return maps.detach()
