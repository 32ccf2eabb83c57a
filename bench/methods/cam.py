"""Grad-CAM and its relatives.

All read the last feature map behind its activation (`models/layers.py` says which that is); with
`layer=NAME` they read what the module of that name in the user's network puts out, as it is.
"""

from __future__ import annotations

import torch

from steadymap.bench.methods.batch import Batch
from steadymap.bench.methods.gradient import captum_attr, own_copy, own_pass
from steadymap.bench.network.passes import Pass
from steadymap.models import Classifier


def grad_cam(
    classifier: Classifier, batch: Batch, *, relu: bool = True, layer: str | None = None
) -> torch.Tensor:
    """Gradient-weighted activations of the last feature map: (B, 1, h, w), at its resolution.

    With `relu=false` negative evidence is kept. Source: Selvaraju et al. 2017, equations 1 and 2.
    """
    return read_grad_cam(own_pass(classifier.reading(layer), batch, "layer"), relu=relu)


def read_grad_cam(seen: Pass, *, relu: bool = True) -> torch.Tensor:
    """Read Grad-CAM off a pass: (B, 1, h, w)."""
    activations, gradient_there = seen.need_layer()
    weights = gradient_there.mean(dim=(2, 3), keepdim=True)
    maps = (weights * activations).sum(dim=1, keepdim=True)
    return maps.relu() if relu else maps


def hires_cam(
    classifier: Classifier, batch: Batch, *, relu: bool = True, layer: str | None = None
) -> torch.Tensor:
    """Gradient times activation at each place of the last feature map: (B, 1, h, w).

    Unlike Grad-CAM it does not average the gradient over places first. Source: Draelos and Carin
    2020, equation 3.
    """
    return read_hires_cam(own_pass(classifier.reading(layer), batch, "layer"), relu=relu)


def read_hires_cam(seen: Pass, *, relu: bool = True) -> torch.Tensor:
    """Read HiResCAM off a pass: (B, 1, h, w)."""
    activations, gradient_there = seen.need_layer()
    maps = (gradient_there * activations).sum(dim=1, keepdim=True)
    return maps.relu() if relu else maps


def layer_cam(classifier: Classifier, batch: Batch, *, layer: str | None = None) -> torch.Tensor:
    """Positive gradient times activation at each place of the last feature map: (B, 1, h, w).

    Activations must not be negative: of those below 0, positive gradients would keep what speaks
    against the class. Source: Jiang et al. 2021, equations 5 to 7.
    """
    return read_layer_cam(own_pass(classifier.reading(layer), batch, "layer"))


def read_layer_cam(seen: Pass) -> torch.Tensor:
    """Read LayerCAM off a pass: (B, 1, h, w)."""
    activations, gradient_there = seen.need_layer()
    return (gradient_there.relu() * activations).sum(dim=1, keepdim=True).relu()


def grad_cam_plus_plus(
    classifier: Classifier, batch: Batch, *, layer: str | None = None
) -> torch.Tensor:
    """Activations of the last feature map, weighted by weighted positive gradients: (B, 1, h, w).

    Source: Chattopadhyay et al. 2018, equations 5, 10 and 19, for the score exp(S) of a logit S.
    The weights of places, alpha, do not depend on exp(S); the factor exp(S) that each gradient then
    has is left out: it scales a whole map, and overflows float32 from a logit of 89 on. Activations
    must not be negative: alpha is then in [0, 1/2], and 0 over 0, where the gradient is 0, is 0.
    """
    return read_grad_cam_plus_plus(own_pass(classifier.reading(layer), batch, "layer"))


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
    if classifier.cam is not None:
        return None
    return "the network has no convolution with a spatial output before tokens are made"


def lacks_activation(classifier: Classifier) -> str | None:
    """Say why a formula for activations of at least 0 fits no such network; None where it fits."""
    lowest = None if classifier.cam is None else classifier.cam.lowest
    if lowest is None or lowest >= 0:
        return lacks_layer(classifier)
    return (
        f"its formula is for activations of at least 0, and {classifier.cam} puts out "
        f"{lowest:.2g}; layer=NAME reads another layer"
    )


def captum_lacks_grid(classifier: Classifier) -> str | None:
    """Say why captum has no Grad-CAM of a network; None where it has."""
    layer = classifier.need_cam()
    if layer.activated:
        return f"captum's Grad-CAM reads modules, and a function activates {layer.path}"
    planes = layer.layout == "channels_first"
    return None if planes else f"captum's Grad-CAM reads planes, not {layer.layout}"


def captum_grad_cam(
    classifier: Classifier, batch: Batch, *, relu: bool = True, layer: str | None = None
) -> torch.Tensor:
    """Compute the same with captum: the oracle of `grad_cam`."""
    maps: torch.Tensor = (
        captum_attr()
        .LayerGradCam(classifier.module, classifier.reading(layer).cam_module)
        .attribute(own_copy(batch.images), target=batch.targets, relu_attributions=relu)
    )
    return maps.detach()
