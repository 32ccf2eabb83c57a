"""Controls: maps that must not win, because they ignore the network or the image."""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage

from steadymap.bench.methods.batch import Batch
from steadymap.models import Classifier

# The blob's standard deviation, as a share of the image's sides.
BLOB_SPREAD = 0.25


def constant(_classifier: Classifier, batch: Batch) -> torch.Tensor:
    """The same number everywhere: (B, 1, H, W). Ranks and windows say nothing of it."""
    return torch.ones_like(batch.images[:, :1])


def random(_classifier: Classifier, batch: Batch) -> torch.Tensor:
    """Normal noise, another for every view of an image: (B, 1, H, W)."""
    shape = tuple(batch.images.shape[2:])
    draws = [rng.standard_normal((1, *shape)) for rng in batch.generators("control")]
    return torch.from_numpy(np.stack(draws)).to(batch.images)


def edge(_classifier: Classifier, batch: Batch) -> torch.Tensor:
    """Sobel's magnitude of the image's grey values: (B, 1, H, W), at least 0.

    Source: Adebayo et al. 2018, section 5.1, who compare saliency maps with an edge detector.
    """
    grey = batch.images.double().mean(dim=1).cpu().numpy()
    # One by one: SciPy's filter smooths along every other axis, and would mix the images.
    slopes = [
        [ndimage.sobel(image, axis=axis, mode="nearest") for axis in (0, 1)] for image in grey
    ]
    magnitudes = np.stack([np.hypot(*both) for both in slopes])
    return torch.from_numpy(magnitudes)[:, None].to(batch.images)


def centre_blob(_classifier: Classifier, batch: Batch) -> torch.Tensor:
    """A Gaussian blob in the middle, the same for every image: (B, 1, H, W), in (0, 1]."""
    lines = []
    for side in batch.images.shape[2:]:
        places = (np.arange(side) + 0.5) / side - 0.5
        lines.append(np.exp(-0.5 * (places / BLOB_SPREAD) ** 2))
    blob = torch.from_numpy(np.outer(*lines)).to(batch.images)
    return blob.expand(len(batch.images), 1, -1, -1).clone()
