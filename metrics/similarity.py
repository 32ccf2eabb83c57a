"""Metrics that compare the map of the clean image with the map of the perturbed one.

Each takes two batches (B, h, w) of finite maps, none of them constant, and returns (B,).
"""

from __future__ import annotations

import numpy as np
from scipy.stats import kendalltau, rankdata
from skimage.metrics import structural_similarity

from steadymap.metrics.maps import Array

SSIM_SIGMA = 1.5
# skimage's Gaussian window reaches 3.5 sigma to each side.
SSIM_WINDOW = 2 * int(3.5 * SSIM_SIGMA + 0.5) + 1
TOP_SHARE = 0.05


def ssim(clean: Array, perturbed: Array) -> Array:
    """Mean structural similarity of magnitudes, in [-1, 1], 1 for equal maps.

    Gaussian window of sigma 1.5 (11 x 11), population covariance, data range 1, borders of half a
    window left out. Source: Wang, Bovik, Sheikh and Simoncelli 2004, equation 13.
    """
    return np.array(
        [
            structural_similarity(
                first,
                second,
                data_range=1.0,
                gaussian_weights=True,
                sigma=SSIM_SIGMA,
                use_sample_covariance=False,
            )
            for first, second in zip(clean, perturbed, strict=True)
        ]
    )


def spearman(clean: Array, perturbed: Array) -> Array:
    """Spearman's rank correlation, ties averaged, in [-1, 1], 1 for equal order."""
    first, second = _centred_ranks(clean), _centred_ranks(perturbed)
    products = (first * second).sum(axis=1)
    correlation: Array = products / np.sqrt((first**2).sum(axis=1) * (second**2).sum(axis=1))
    return correlation


def _centred_ranks(maps: Array) -> Array:
    ranks: Array = rankdata(maps.reshape(len(maps), -1), axis=1)
    centred: Array = ranks - ranks.mean(axis=1, keepdims=True)
    return centred


def kendall(clean: Array, perturbed: Array) -> Array:
    """Kendall's tau-b, in [-1, 1], 1 for equal order; ties counted as Kendall 1945 does."""
    return np.array(
        [
            kendalltau(first, second, method="asymptotic").statistic
            for first, second in zip(
                clean.reshape(len(clean), -1), perturbed.reshape(len(perturbed), -1), strict=True
            )
        ]
    )


def top_k_intersection(clean: Array, perturbed: Array) -> Array:
    """Share of the strongest 5% of pixels that both maps have in common, in [0, 1].

    Pixels that tie at the threshold share the places left, so the order of equal values decides
    nothing; unrelated maps share 5% on average. Source: Ghorbani, Abid and Zou 2019, section 2.
    """
    size = clean[0].size
    count = max(1, round(TOP_SHARE * size))
    first, second = _membership(clean, count), _membership(perturbed, count)
    shared: Array = np.minimum(first, second).sum(axis=1) / count
    return shared


def _membership(maps: Array, count: int) -> Array:
    """(B, h*w): how much of each pixel belongs to the `count` largest, in [0, 1]."""
    flat = maps.reshape(len(maps), -1)
    threshold = np.partition(flat, -count, axis=1)[:, -count][:, None]
    above, tied = flat > threshold, flat == threshold
    places = count - above.sum(axis=1, keepdims=True)
    membership: Array = above + tied * (places / tied.sum(axis=1, keepdims=True))
    return membership


def relative_l2(clean: Array, perturbed: Array) -> Array:
    """Euclidean distance of the signed maps over the norm of the clean one; 0 for equal maps."""
    difference = np.sqrt(((perturbed - clean) ** 2).sum(axis=(1, 2)))
    distance: Array = difference / np.sqrt((clean**2).sum(axis=(1, 2)))
    return distance
