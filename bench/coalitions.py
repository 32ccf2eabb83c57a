"""Methods that ask a network without looking inside: copies of an image in which parts are absent.

A coalition says which parts of an image are there; a baseline stands in for the others. Parts are
superpixels of the clean image, so that both maps of a pair have the same; coalitions belong to
seed and image. Every pixel of a map has the value of its part, as in captum: a map adds up to its
values times the pixels of each. Networks are run forward alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import comb
from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from steadymap.bench.attributions import BASELINES, BaselineName, Batch
from steadymap.bench.passes import shared_pass
from steadymap.bench.randomness import generator
from steadymap.bench.smoothing import Samples
from steadymap.bench.superpixels import segment_count, superpixels
from steadymap.models import Classifier

# LIME's kernel: the standard deviation of the cosine distance, as its authors' code for images has.
KERNEL_WIDTH = 0.25

Segments = Annotated[int, Field(ge=2, le=1000)]
Ridge = Annotated[float, Field(ge=0, allow_inf_nan=False)]

Size = tuple[int, int]
Floats = NDArray[np.float64]

# Takes places of images (n,) and numbers of coalitions (n,); says which parts are there, (n, N).
Present = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Parts:
    """Images cut into parts.

    Attributes:
        labels: (B, H, W), the part of each pixel, from 0 on.
        count: N, how many parts an image has.
        baselines: (B, 3, H, W), what stands in for an absent part.
    """

    labels: Tensor
    count: int
    baselines: Tensor

    def paint(self, values: Tensor) -> Tensor:
        """Give each pixel the value of its part: (B, N) to (B, 1, H, W), in the images' type."""
        painted = values.gather(1, self.labels.flatten(1)).view_as(self.labels)
        return painted[:, None].to(self.baselines.dtype)

    def sums(self, pixels: Tensor) -> Tensor:
        """Add up the pixels (B, H, W) of each part: (B, N)."""
        total = pixels.new_zeros(len(pixels), self.count)
        return total.scatter_add_(1, self.labels.flatten(1), pixels.flatten(1))


def superpixel_parts(batch: Batch, segments: int, baseline: BaselineName) -> Parts:
    """Cut images into superpixels, those of the clean images that they were made from."""
    clean = batch.images if batch.clean is None else batch.clean
    labels = superpixels(clean, segments)
    return Parts(labels, segment_count(segments, size_of(batch)), BASELINES[baseline](batch))


def size_of(batch: Batch) -> Size:
    """Return height and width."""
    return batch.images.shape[2], batch.images.shape[3]


def ask(classifier: Classifier, batch: Batch, parts: Parts, present: Present, count: int) -> Tensor:
    """Return the targets' logits of `count` coalitions of each image: (B, count), float64.

    All copies of all images are one queue, cut into pieces of as many as go through the network
    together; no more of them are in memory.
    """
    total = count * len(batch.images)
    found = []
    for start in range(0, total, batch.at_once):
        stop = min(start + batch.at_once, total)
        numbers = torch.arange(start, stop, device=batch.images.device)
        places = numbers // count
        there = present(places, numbers % count).gather(1, parts.labels[places].flatten(1))
        there = there.view(len(numbers), 1, *size_of(batch))
        copies = torch.where(there, batch.images[places], parts.baselines[places])
        targets = batch.targets[places]
        seen = shared_pass(classifier, copies, targets, (), batch.at_once)
        found.append(seen.logits.gather(1, targets[:, None])[:, 0])
    return torch.cat(found).view(-1, count).double()


def count_of(parameters: Mapping[str, object], size: Size) -> int:
    """Return how many superpixels an image of (H, W) pixels has."""
    return segment_count(int(str(parameters["segments"])), size)


def _samples(parameters: Mapping[str, object]) -> int:
    return int(str(parameters["samples"]))


def sums_on_linear(
    weights: Tensor, batch: Batch, *, segments: int, baseline: BaselineName
) -> Tensor:
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
) -> Tensor:
    """Shapley values of superpixels, from permutations: (B, 1, H, W).

    Superpixels come one after the other, in `samples` orders; each has the mean of what the logit
    rises when it comes. Every second order is the one before it backwards: no bias, less spread.
    The values add up to the logit at the image minus the logit at the baseline. Source: Castro et
    al. 2009; Strumbelj and Kononenko 2010; Mitchell et al. 2022 (backwards).
    """
    parts = superpixel_parts(batch, segments, baseline)
    last, device = parts.count - 1, batch.images.device
    ranks = _drawn(batch, lambda rng: _ranks(rng, samples, parts.count), "shapley_sampling")
    # The image and the baseline, then what is between them in each order.
    order = torch.arange(samples, device=device).repeat_interleave(last)
    order = torch.cat([order.new_zeros(2), order])
    latest = torch.arange(last, device=device).repeat(samples)
    latest = torch.cat([torch.tensor([last, -1], device=device), latest])

    def present(places: Tensor, numbers: Tensor) -> Tensor:
        return ranks[places, order[numbers]] <= latest[numbers][:, None]

    logits = ask(classifier, batch, parts, present, len(order))
    ends = logits[:, None, :2].expand(-1, samples, -1)
    between = logits[:, 2:].view(-1, samples, last)
    rises = torch.cat([ends[..., 1:], between, ends[..., :1]], dim=2).diff(dim=2)
    return parts.paint(rises.gather(2, ranks).mean(dim=1))


def shapley_sampling_passes(parameters: Mapping[str, object], size: Size) -> int:
    """Return how many times one image goes forward: the steps of each order, and both ends."""
    return _samples(parameters) * (count_of(parameters, size) - 1) + 2


def _ranks(rng: np.random.Generator, samples: int, count: int) -> NDArray[np.int64]:
    """Draw orders, each with itself backwards: (samples, count), when each part comes."""
    drawn = rng.random(((samples + 1) // 2, count)).argsort(axis=1)
    return np.stack([drawn, count - 1 - drawn], axis=1).reshape(-1, count)[:samples]


def _drawn(
    batch: Batch, draw: Callable[[np.random.Generator], NDArray[np.generic]], name: str
) -> Tensor:
    """Draw for each image by itself, the same for both images of a pair: (B, ...)."""
    made = [draw(generator(batch.seed, image_id, name)) for image_id in batch.image_ids]
    return torch.from_numpy(np.stack(made)).to(batch.images.device)


# --- linear stand-ins -----------------------------------------------------------------------------


def lime(  # noqa: PLR0913 - what its paper leaves open
    classifier: Classifier,
    batch: Batch,
    *,
    segments: Segments = 50,
    baseline: BaselineName = "black",
    samples: Samples = 256,
    ridge: Ridge = 1.0,
) -> Tensor:
    """Weights of a ridge regression of the logit on which superpixels are there: (B, 1, H, W).

    Each superpixel is there in every second coalition, at random; the first of `samples` has them
    all. Coalitions count by their cosine distance from that, as in the authors' code for images;
    `ridge` is the penalty, 0 for none (and where that leaves values open, the solution of least
    norm). Source: Ribeiro et al. 2016, equation 1 and algorithm 1.
    """
    parts = superpixel_parts(batch, segments, baseline)
    there = _drawn(batch, lambda rng: lime_coalitions(rng, samples, parts.count), "lime")
    logits = ask(classifier, batch, parts, lambda *at: there[at], samples)
    found = [
        _regression(rows, values, lime_kernel(rows), ridge)
        for rows, values in zip(there.cpu().numpy(), logits.cpu().numpy(), strict=True)
    ]
    return parts.paint(torch.from_numpy(np.stack(found)).to(logits))


def lime_passes(parameters: Mapping[str, object], _size: Size) -> int:
    """Return how many times one image goes forward: once a coalition."""
    return _samples(parameters)


def lime_on_linear(  # noqa: PLR0913 - as of `lime`
    weights: Tensor,
    batch: Batch,
    *,
    segments: int,
    baseline: BaselineName,
    samples: int,
    ridge: float,
) -> Tensor | None:
    """Return the map on a linear network, as `sums_on_linear`; None where that is left open.

    So it is with a penalty, and where coalitions are too few for the coefficients.
    """
    count = segment_count(segments, size_of(batch))
    there = _drawn(batch, lambda rng: lime_coalitions(rng, samples, count), "lime").double()
    free = torch.linalg.matrix_rank(there - there.mean(dim=1, keepdim=True))
    if ridge or bool((free < count).any()):
        return None
    return sums_on_linear(weights, batch, segments=segments, baseline=baseline)


def lime_coalitions(rng: np.random.Generator, samples: int, count: int) -> NDArray[np.bool_]:
    """Draw coalitions (samples, count), the first with every part."""
    there = rng.random((samples, count)) < 0.5  # noqa: PLR2004 - one half
    there[0] = True
    return there


def lime_kernel(there: NDArray[np.bool_]) -> Floats:
    """Return how much each coalition (samples, count) counts; that without parts is 1 away."""
    distance = 1 - np.sqrt(there.mean(axis=1))
    weights: Floats = np.sqrt(np.exp(-((distance / KERNEL_WIDTH) ** 2)))
    return weights


def _regression(there: NDArray[np.bool_], values: Floats, weights: Floats, ridge: float) -> Floats:
    """Return coefficients (N,) of a weighted ridge regression whose intercept is free."""
    rows = there - np.average(there, axis=0, weights=weights)
    rises = values - np.average(values, weights=weights)
    return _least_squares(rows, rises, weights, ridge)


def _least_squares(rows: Floats, values: Floats, weights: Floats, ridge: float = 0.0) -> Floats:
    """Minimise the weighted squares of rows @ x - values, plus ridge times x squared."""
    root = np.sqrt(weights)
    count = rows.shape[1]
    above = np.concatenate([root[:, None] * rows, np.sqrt(ridge) * np.eye(count)])
    found: Floats = np.linalg.lstsq(above, np.concatenate([root * values, np.zeros(count)]))[0]
    return found


def kernel_shap(
    classifier: Classifier,
    batch: Batch,
    *,
    segments: Segments = 50,
    baseline: BaselineName = "black",
    samples: Samples = 256,
) -> Tensor:
    """Shapley values of superpixels, by weighted least squares: (B, 1, H, W).

    Coalitions have sizes drawn by the Shapley kernel, each followed by its complement; `samples` of
    them, or every one there is where that is no more, and then the values are exact. They add up to
    the logit at the image minus the logit at the baseline; where few coalitions leave them open,
    those nearest to equal. Source: Lundberg and Lee 2017, theorem 2; Covert and Lee 2021
    (complements).
    """
    parts = superpixel_parts(batch, segments, baseline)
    drawn = _drawn(batch, lambda rng: kernel_coalitions(rng, samples, parts.count), "kernel_shap")
    ends = torch.tensor([True, False], device=drawn.device)[:, None].expand(2, parts.count)
    there = torch.cat([ends.expand(len(drawn), -1, -1), drawn], dim=1)
    logits = ask(classifier, batch, parts, lambda *at: there[at], there.shape[1])
    weights = _kernel_weights(samples, parts.count, drawn.sum(dim=2).cpu().numpy())
    found = [
        _shares(rows, values, kernel)
        for rows, values, kernel in zip(
            drawn.cpu().numpy(), logits.cpu().numpy(), weights, strict=True
        )
    ]
    return parts.paint(torch.from_numpy(np.stack(found)).to(logits))


def kernel_shap_passes(parameters: Mapping[str, object], size: Size) -> int:
    """Return how many times one image goes forward: once a coalition, and at both ends."""
    return min(_samples(parameters), _every(count_of(parameters, size))) + 2


def kernel_shap_on_linear(
    weights: Tensor, batch: Batch, *, segments: int, baseline: BaselineName, samples: int
) -> Tensor | None:
    """Return the map on a linear network, as `sums_on_linear`; None where that is left open.

    So it is where coalitions are too few for the values.
    """
    count = segment_count(segments, size_of(batch))
    drawn = _drawn(batch, lambda rng: kernel_coalitions(rng, samples, count), "kernel_shap")
    there = drawn.double()
    free = torch.linalg.matrix_rank(there - there.mean(dim=2, keepdim=True))
    if bool((free < count - 1).any()):
        return None
    return sums_on_linear(weights, batch, segments=segments, baseline=baseline)


def exhaustive(parameters: Mapping[str, object]) -> bool:
    """Return whether KernelSHAP asks for every coalition there is, and nothing is drawn."""
    return _every(int(str(parameters["segments"]))) <= _samples(parameters)


def _every(count: int) -> int:
    """Return how many coalitions there are between none and all of the parts."""
    return 2**count - 2


def kernel_coalitions(rng: np.random.Generator, samples: int, count: int) -> NDArray[np.bool_]:
    """Return coalitions (n, count), of neither none nor all of the parts.

    All of them where there are no more than `samples`; otherwise drawn, with complements.
    """
    if _every(count) <= samples:
        numbers = np.arange(1, _every(count) + 1)
        there: NDArray[np.bool_] = (numbers[:, None] >> np.arange(count)) % 2 == 1
        return there
    sizes = np.arange(1, count)
    chances = 1 / (sizes * (count - sizes))
    half = (samples + 1) // 2
    chosen = rng.choice(sizes, size=half, p=chances / chances.sum())
    # So many of a random order.
    ranks = rng.random((half, count)).argsort(axis=1)
    there = ranks < chosen[:, None]
    return np.stack([there, ~there], axis=1).reshape(-1, count)[:samples]


def _kernel_weights(samples: int, count: int, sizes: NDArray[np.int64]) -> Floats:
    """Return the weight of coalitions by their sizes (B, n): the kernel's, or 1 where it drew."""
    if _every(count) > samples:
        return np.ones(sizes.shape)
    by_size = [1 / (comb(count, size) * size * (count - size)) for size in range(1, count)]
    return np.array([0.0, *by_size])[sizes]


def _shares(there: NDArray[np.bool_], logits: Floats, weights: Floats) -> Floats:
    """Return values (N,) that add up to the difference of the ends.

    Args:
        there: coalitions, (n, N).
        logits: at the image, at the baseline, and of the coalitions, (2 + n,).
        weights: of the coalitions, (n,).
    """
    count = there.shape[1]
    share = (logits[0] - logits[1]) / count
    # What is beside equal shares adds up to 0: rows less their means see nothing else.
    rows = there - there.mean(axis=1, keepdims=True)
    left = logits[2:] - logits[1] - share * there.sum(axis=1)
    return share + _least_squares(rows, left, weights)
