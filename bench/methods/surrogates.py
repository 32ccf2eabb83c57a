"""Linear functions that stand in for a network near an image, fitted to coalitions of its parts.

See `steadymap.bench.coalitions` for what a coalition is.
"""

from __future__ import annotations

from math import comb
from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from steadymap.bench.methods import baselines, coalitions, method, smooth_grad, superpixels
from steadymap.bench.methods.batch import Batch
from steadymap.models import Classifier

# LIME's kernel: the standard deviation of the cosine distance, as its authors' code for images has.
KERNEL_WIDTH = 0.25

Ridge = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Floats = NDArray[np.float64]


def lime(  # noqa: PLR0913 - what its paper leaves open
    classifier: Classifier,
    batch: Batch,
    *,
    segments: coalitions.Segments = 50,
    baseline: baselines.BaselineName = "black",
    samples: smooth_grad.Samples = 256,
    ridge: Ridge = 1.0,
) -> torch.Tensor:
    """Weights of a ridge regression of the logit on which superpixels are there: (B, 1, H, W).

    Each superpixel is there in every second coalition, at random; the first of `samples` has them
    all. Coalitions count by their cosine distance from that, as in the authors' code for images;
    `ridge` is the penalty, 0 for none (and where that leaves values open, the solution of least
    norm). Source: Ribeiro et al. 2016, equation 1 and algorithm 1.
    """
    parts = coalitions.superpixel_parts(batch, segments, baseline)
    members = coalitions.drawn_by_image(
        batch, lambda rng: lime_coalitions(rng, samples, parts.count), "lime"
    )
    logits = coalitions.ask(classifier, batch, parts, lambda *at: members[at], samples)
    coefficients = [
        _regression(rows, values, lime_kernel(rows), ridge)
        for rows, values in zip(members.cpu().numpy(), logits.cpu().numpy(), strict=True)
    ]
    return parts.paint(torch.from_numpy(np.stack(coefficients)).to(logits))


def lime_passes(parameters: method.Parameters, _size: coalitions.Size) -> int:
    """Return how many times one image goes forward: once a coalition."""
    return coalitions.samples_of(parameters)


def lime_on_linear(  # noqa: PLR0913 - as of `lime`
    weights: torch.Tensor,
    batch: Batch,
    *,
    segments: int,
    baseline: baselines.BaselineName,
    samples: int,
    ridge: float,
) -> torch.Tensor | None:
    """Return the map on a linear network, as `sums_on_linear`; None where that is left open.

    So it is with a penalty, and where coalitions are too few for the coefficients.
    """
    count = superpixels.segment_count(segments, coalitions.size_of(batch))
    members = coalitions.drawn_by_image(
        batch, lambda rng: lime_coalitions(rng, samples, count), "lime"
    ).double()
    free = torch.linalg.matrix_rank(members - members.mean(dim=1, keepdim=True))
    if ridge or bool((free < count).any()):
        return None
    return coalitions.sums_on_linear(weights, batch, segments=segments, baseline=baseline)


def lime_coalitions(rng: np.random.Generator, samples: int, count: int) -> NDArray[np.bool_]:
    """Draw coalitions (samples, count), the first with every part."""
    members = rng.random((samples, count)) < 0.5  # noqa: PLR2004 - one half
    members[0] = True
    return members


def lime_kernel(members: NDArray[np.bool_]) -> Floats:
    """Return how much each coalition (samples, count) counts; that without parts is 1 away."""
    distance = 1 - np.sqrt(members.mean(axis=1))
    weights: Floats = np.sqrt(np.exp(-((distance / KERNEL_WIDTH) ** 2)))
    return weights


def _regression(
    members: NDArray[np.bool_], values: Floats, weights: Floats, ridge: float
) -> Floats:
    """Return coefficients (N,) of a weighted ridge regression whose intercept is free."""
    rows = members - np.average(members, axis=0, weights=weights)
    rises = values - np.average(values, weights=weights)
    return _least_squares(rows, rises, weights, ridge)


def _least_squares(rows: Floats, values: Floats, weights: Floats, ridge: float = 0.0) -> Floats:
    """Minimise the weighted squares of rows @ x - values, plus ridge times x squared."""
    root = np.sqrt(weights)
    count = rows.shape[1]
    above = np.concatenate([root[:, None] * rows, np.sqrt(ridge) * np.eye(count)])
    solution: Floats = np.linalg.lstsq(above, np.concatenate([root * values, np.zeros(count)]))[0]
    return solution


def kernel_shap(
    classifier: Classifier,
    batch: Batch,
    *,
    segments: coalitions.Segments = 50,
    baseline: baselines.BaselineName = "black",
    samples: smooth_grad.Samples = 256,
) -> torch.Tensor:
    """Shapley values of superpixels, by weighted least squares: (B, 1, H, W).

    Coalitions have sizes drawn by the Shapley kernel, each followed by its complement; `samples` of
    them, or every one there is where that is no more, and then the values are exact. They add up to
    the logit at the image minus the logit at the baseline; where few coalitions leave them open,
    those nearest to equal. Source: Lundberg and Lee 2017, theorem 2; Covert and Lee 2021
    (complements).
    """
    parts = coalitions.superpixel_parts(batch, segments, baseline)
    drawn = coalitions.drawn_by_image(
        batch, lambda rng: kernel_coalitions(rng, samples, parts.count), "kernel_shap"
    )
    ends = torch.tensor([True, False], device=drawn.device)[:, None].expand(2, parts.count)
    members = torch.cat([ends.expand(len(drawn), -1, -1), drawn], dim=1)
    logits = coalitions.ask(classifier, batch, parts, lambda *at: members[at], members.shape[1])
    weights = _kernel_weights(samples, parts.count, drawn.sum(dim=2).cpu().numpy())
    shapley_values = [
        _shares(rows, values, kernel)
        for rows, values, kernel in zip(
            drawn.cpu().numpy(), logits.cpu().numpy(), weights, strict=True
        )
    ]
    return parts.paint(torch.from_numpy(np.stack(shapley_values)).to(logits))


def kernel_shap_passes(parameters: method.Parameters, size: coalitions.Size) -> int:
    """Return how many times one image goes forward: once a coalition, and at both ends."""
    return min(coalitions.samples_of(parameters), _every(coalitions.count_of(parameters, size))) + 2


def kernel_shap_on_linear(
    weights: torch.Tensor,
    batch: Batch,
    *,
    segments: int,
    baseline: baselines.BaselineName,
    samples: int,
) -> torch.Tensor | None:
    """Return the map on a linear network, as `sums_on_linear`; None where that is left open.

    So it is where coalitions are too few for the values.
    """
    count = superpixels.segment_count(segments, coalitions.size_of(batch))
    drawn = coalitions.drawn_by_image(
        batch, lambda rng: kernel_coalitions(rng, samples, count), "kernel_shap"
    )
    members = drawn.double()
    free = torch.linalg.matrix_rank(members - members.mean(dim=2, keepdim=True))
    if bool((free < count - 1).any()):
        return None
    return coalitions.sums_on_linear(weights, batch, segments=segments, baseline=baseline)


def kernel_shap_can(parameters: method.Parameters) -> frozenset[method.Capability]:
    """Return what KernelSHAP is capable of: where it asks for all coalitions, nothing is drawn."""
    exhaustive = _every(int(str(parameters["segments"]))) <= coalitions.samples_of(parameters)
    exact = exhaustive and not baselines.BASELINES[str(parameters["baseline"])].drawn
    return frozenset(("signed",) if exact else ("signed", "stochastic"))


def _every(count: int) -> int:
    """Return how many coalitions there are between none and all of the parts."""
    return (1 << count) - 2


def kernel_coalitions(rng: np.random.Generator, samples: int, count: int) -> NDArray[np.bool_]:
    """Return coalitions (n, count), of neither none nor all of the parts.

    All of them where there are no more than `samples`; otherwise drawn, with complements.
    """
    if _every(count) <= samples:
        numbers = np.arange(1, _every(count) + 1)
        members: NDArray[np.bool_] = (numbers[:, None] >> np.arange(count)) % 2 == 1
        return members
    sizes = np.arange(1, count)
    chances = 1 / (sizes * (count - sizes))
    half = (samples + 1) // 2
    chosen = rng.choice(sizes, size=half, p=chances / chances.sum())
    # So many of a random order.
    ranks = rng.random((half, count)).argsort(axis=1)
    members = ranks < chosen[:, None]
    return np.stack([members, ~members], axis=1).reshape(-1, count)[:samples]


def _kernel_weights(samples: int, count: int, sizes: NDArray[np.int64]) -> Floats:
    """Return the weight of coalitions by their sizes (B, n): the kernel's, or 1 where it drew."""
    if _every(count) > samples:
        return np.ones(sizes.shape)
    by_size = [1 / (comb(count, size) * size * (count - size)) for size in range(1, count)]
    return np.array([0.0, *by_size])[sizes]


def _shares(members: NDArray[np.bool_], logits: Floats, weights: Floats) -> Floats:
    """Return values (N,) that add up to the difference of the ends.

    Args:
        members: coalitions, (n, N).
        logits: at the image, at the baseline, and of the coalitions, (2 + n,).
        weights: of the coalitions, (n,).
    """
    count = members.shape[1]
    share = (logits[0] - logits[1]) / count
    # What is beside equal shares adds up to 0: rows less their means see nothing else.
    rows = members - members.mean(axis=1, keepdims=True)
    remainders = logits[2:] - logits[1] - share * members.sum(axis=1)
    values: Floats = share + _least_squares(rows, remainders, weights)
    return values
