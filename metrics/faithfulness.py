"""Metrics of what a map says of the network: does the network answer as the map has it?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from steadymap.metrics.evidence import Evidence
from steadymap.metrics.maps import Array, Flags, Maps

# Of infidelity: how many draws of noise, and its standard deviation, in image units.
NOISE_DRAWS = 50
NOISE_SPREAD = 0.02

# Of deletion and insertion: in how many equal steps pixels change hands; and the blurred image's
# Gaussian, whose standard deviation is this share of the shorter side.
STEPS = 20
BLUR_SHARE = 1 / 8


@dataclass(frozen=True)
class Responses(Evidence):
    """What n draws of noise do to B images, each (B, n).

    Attributes:
        expected: sum over pixels of noise times map: what the map expects the target's logit to
            lose when the noise is taken off the image.
        found: what it loses, in logits.
    """

    expected: Array
    found: Array


@dataclass(frozen=True)
class Curve(Evidence):
    """Probabilities of the target while pixels change hands, the highest signed value first.

    Attributes:
        probabilities: (B, k + 1), after 0, 1/k, ..., 1 of the pixels.
    """

    probabilities: Array


def infidelity(_maps: Maps, responses: Responses) -> Array:
    """Mean squared gap between what a map expects of noise and what the network does, logits^2.

    mean((beta I.e - (f(x) - f(x - I)))^2) over draws of noise I, with the beta that makes it
    smallest: the unit of a map does not count, nor does its sign. Where no noise meets the map,
    beta has nothing to scale, and the map expects nothing. Source: Yeh et al. 2019, definition 1,
    scaled as in captum's `infidelity(normalize=True)`.
    """
    largest = np.abs(responses.expected).max(axis=1, keepdims=True)
    unit = np.divide(
        responses.expected, largest, out=np.zeros_like(responses.expected), where=largest > 0
    )
    square = (unit**2).sum(axis=1, keepdims=True)
    product = (unit * responses.found).sum(axis=1, keepdims=True)
    beta = np.divide(product, square, out=np.zeros_like(square), where=square > 0)
    gap: Array = ((beta * unit - responses.found) ** 2).mean(axis=1)
    return gap


def area(_maps: Maps, curve: Curve) -> Array:
    """Area under the curve of the target's probability, by the trapezoid rule, in [0, 1].

    Source: Petsiuk, Das and Saenko 2018, section 4.1.
    """
    probabilities = curve.probabilities
    below: Array = np.trapezoid(probabilities, axis=1) / (probabilities.shape[1] - 1)
    return below


def enlarge(maps: Array, size: tuple[int, int]) -> Array:
    """Bring maps (B, h, w) to the image's size, bilinearly: (B, *size).

    Pixels are squares with their value at the centre; beyond the outermost centres a map stays as
    it is there, as in `torch.nn.functional.interpolate`.
    """
    rows, columns = (_between(new, old) for new, old in zip(size, maps.shape[1:], strict=True))
    enlarged: Array = rows @ maps @ columns.T
    return enlarged


def _between(new: int, old: int) -> Array:
    """(new, old), what each old pixel gives to each new one; rows sum to 1."""
    places = np.clip((np.arange(new) + 0.5) * (old / new) - 0.5, 0, old - 1)
    shares: Array = np.clip(1 - np.abs(places[:, None] - np.arange(old)), 0, None)
    return shares


def places(maps: Array, ties: NDArray[np.int64]) -> NDArray[np.int64]:
    """Rank the pixels of maps (B, H, W), 0 for the highest signed value: (B, H, W).

    So what speaks for the class comes first, and what speaks against it last, however strongly. As
    Petsiuk et al. 2018 do, by importance, most first. Pixels that tie are ranked by `ties`
    (B, H * W), a permutation of each image's own, and not by where they lie.
    """
    flat = maps.reshape(len(maps), -1)
    order = np.lexsort((ties, -flat), axis=1)
    ranks = np.empty_like(order)
    np.put_along_axis(ranks, order, np.arange(flat.shape[1])[None], axis=1)
    return ranks.reshape(maps.shape)


def taken(ranks: NDArray[np.int64], step: int) -> Flags:
    """(B, H, W), which pixels have changed hands after a step of `STEPS`."""
    changed: Flags = ranks < round(step * ranks[0].size / STEPS)
    return changed
