"""A method, a family, a metric and a model for steadymap."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from steadymap.bench import Batch, Perturbation
from steadymap.metrics import Maps, Metric
from steadymap.models import Classifier, make_classifier


def gradient_power(classifier: Classifier, batch: Batch, *, power: float = 2.0) -> Tensor:
    """Size of the gradient, raised to a power: (B, 3, H, W), detached."""
    images = batch.images.detach().requires_grad_()
    logits = classifier(images).gather(1, batch.targets[:, None])
    (gradient,) = torch.autograd.grad(logits.sum(), images)
    return gradient.abs() ** power


def vignette(image: Tensor, severity: float, rng: np.random.Generator) -> Tensor:
    """Darken the image (3, H, W) towards its edges: by the severity in the corners."""
    height, width = image.shape[1:]
    down = torch.linspace(-1, 1, height)[:, None]
    across = torch.linspace(-1, 1, width)[None, :]
    return image * (1 - severity * (down**2 + across**2) / 2)


def sign_agreement(clean: Maps, perturbed: Maps) -> NDArray[np.float64]:
    """Share of pixels whose sign stays: (B,), in [0, 1]."""
    same = np.sign(clean.signed) == np.sign(perturbed.signed)
    share: NDArray[np.float64] = same.mean(axis=(1, 2))
    return share


# The functions are enough. To say more of them:

VIGNETTE = Perturbation(
    vignette,
    severities=(0.1, 0.2, 0.4, 0.6, 0.8),
    bounds=(0.0, 1.0),
    summary="darker towards the edges; severity is the share of light lost in the corners",
    source="steadymap-example",
)

SIGN_AGREEMENT = Metric(
    sign_agreement,
    reads="signed",
    against="map",
    better="higher",
    identity=1.0,
    symmetric=True,
    summary="share of pixels whose sign stays",
    source="steadymap-example",
)


def tiny() -> Classifier:
    """Return a network of one convolution, 16 x 16 pixels, three classes."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(1024, 3)
        )
    return make_classifier(network, (16, 16), ("rock", "paper", "scissors"))
