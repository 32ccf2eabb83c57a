"""Methods that ask a network without looking inside: copies of an image in which parts are absent.

A coalition says which parts of an image are there; a baseline stands in for the others. Parts are
superpixels of the image that is given, and coalitions are drawn anew for every view of it. Every
pixel of a map has the value of its part, as in captum: where values add up to something, those of
the parts do, not the map's. Networks are run forward alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from steadymap.bench.methods.baselines import BASELINES, BaselineName
from steadymap.bench.methods.batch import Batch
from steadymap.bench.methods.smooth_grad import Samples
from steadymap.bench.methods.superpixels import segment_count, superpixels
from steadymap.bench.network.passes import shared_pass
from steadymap.models import Classifier

Segments = Annotated[int, Field(ge=2, le=1000)]

Size = tuple[int, int]

# Takes places of images (n,) and numbers of coalitions (n,); says which parts are there, (n, N).
Present = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Parts:
    """Images cut into parts.

    Attributes:
        labels: (B, H, W), the part of each pixel, from 0 on.
        count: N, how many parts an image has.
        baselines: (B, 3, H, W), what stands in for an absent part.
    """

    labels: torch.Tensor
    count: int
    baselines: torch.Tensor

    def paint(self, values: torch.Tensor) -> torch.Tensor:
        """Give each pixel the value of its part: (B, N) to (B, 1, H, W), in the images' type."""
        painted = values.gather(1, self.labels.flatten(1)).view_as(self.labels)
        return painted[:, None].to(self.baselines.dtype)

    def sums(self, pixels: torch.Tensor) -> torch.Tensor:
        """Add up the pixels (B, H, W) of each part: (B, N)."""
        total = pixels.new_zeros(len(pixels), self.count)
        return total.scatter_add_(1, self.labels.flatten(1), pixels.flatten(1))


def superpixel_parts(batch: Batch, segments: int, baseline: BaselineName) -> Parts:
    """Cut images into superpixels, each by what is to be seen in it alone."""
    labels = superpixels(batch.images, segments)
    return Parts(labels, segment_count(segments, size_of(batch)), BASELINES[baseline].make(batch))


def size_of(batch: Batch) -> Size:
    """Return height and width."""
    return batch.images.shape[2], batch.images.shape[3]


def ask(
    classifier: Classifier, batch: Batch, parts: Parts, present: Present, count: int
) -> torch.Tensor:
    """Return the targets' logits of `count` coalitions of each image: (B, count), float64.

    All copies of all images are one queue, cut into pieces of as many as go through the network
    together; no more of them are in memory.
    """
    total = count * len(batch.images)
    logits = []
    for start in range(0, total, batch.at_once):
        stop = min(start + batch.at_once, total)
        numbers = torch.arange(start, stop, device=batch.images.device)
        places = numbers // count
        mask = present(places, numbers % count).gather(1, parts.labels[places].flatten(1))
        mask = mask.view(len(numbers), 1, *size_of(batch))
        copies = torch.where(mask, batch.images[places], parts.baselines[places])
        targets = batch.targets[places]
        seen = shared_pass(classifier, copies, targets, (), batch.at_once)
        logits.append(seen.logits.gather(1, targets[:, None])[:, 0])
    return torch.cat(logits).view(-1, count).double()


def count_of(parameters: Mapping[str, object], size: Size) -> int:
    """Return how many superpixels an image of (H, W) pixels has."""
    return segment_count(int(str(parameters["segments"])), size)


def samples_of(parameters: Mapping[str, object]) -> int:
    """Return the parameter `samples`."""
    return int(str(parameters["samples"]))


def sums_on_linear(
    weights: torch.Tensor, batch: Batch, *, segments: int, baseline: BaselineName
) -> torch.Tensor:
    """Return the map on a linear network: the sum of w (x - baseline) over each superpixel."""
    parts = superpixel_parts(batch, segments, baseline)
    return parts.paint(parts.sums((weights * (batch.images - parts.baselines)).sum(dim=1)))


def shapley_sampling(
    classifier: Classifier,
    batch: Batch,
    *,
    segments: Segments = 50,
    baseline: BaselineName = "black",
    samples: Samples = 6,
) -> torch.Tensor:
    """Shapley values of superpixels, from permutations: (B, 1, H, W).

    Superpixels come one after the other, in `samples` orders; each has the mean of what the logit
    rises when it comes. Every second order is the one before it backwards: no bias, less spread.
    The values add up to the logit at the image minus the logit at the baseline. Source: Castro et
    al. 2009; Strumbelj and Kononenko 2010; Mitchell et al. 2022 (backwards).
    """
    parts = superpixel_parts(batch, segments, baseline)
    last, device = parts.count - 1, batch.images.device
    ranks = drawn_by_image(batch, lambda rng: _ranks(rng, samples, parts.count), "shapley_sampling")
    # The image and the baseline, then what is between them in each order.
    order = torch.arange(samples, device=device).repeat_interleave(last)
    order = torch.cat([order.new_zeros(2), order])
    latest = torch.arange(last, device=device).repeat(samples)
    latest = torch.cat([torch.tensor([last, -1], device=device), latest])

    def present(places: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        return ranks[places, order[numbers]] <= latest[numbers][:, None]

    logits = ask(classifier, batch, parts, present, len(order))
    ends = logits[:, None, :2].expand(-1, samples, -1)
    between = logits[:, 2:].view(len(logits), samples, last)  # none of a single superpixel
    rises = torch.cat([ends[..., 1:], between, ends[..., :1]], dim=2).diff(dim=2)
    return parts.paint(rises.gather(2, ranks).mean(dim=1))


def shapley_sampling_passes(parameters: Mapping[str, object], size: Size) -> int:
    """Return how many times one image goes forward: the steps of each order, and both ends."""
    return samples_of(parameters) * (count_of(parameters, size) - 1) + 2


def _ranks(rng: np.random.Generator, samples: int, count: int) -> NDArray[np.int64]:
    """Draw orders, each with itself backwards: (samples, count), when each part comes."""
    drawn = rng.random(((samples + 1) // 2, count)).argsort(axis=1)
    return np.stack([drawn, count - 1 - drawn], axis=1).reshape(-1, count)[:samples]


def drawn_by_image(
    batch: Batch, draw: Callable[[np.random.Generator], NDArray[np.generic]], name: str
) -> torch.Tensor:
    """Draw for each image by itself: (B, ...)."""
    draws = [draw(rng) for rng in batch.generators(name)]
    return torch.from_numpy(np.stack(draws)).to(batch.images.device)
