"""Metrics that compare the map of the clean image with the map of the perturbed one.

Each takes two batches of finite maps, none of them constant, and returns (B,). What is derived from
the clean maps (ranks, local moments) is derived once, however many perturbed ones they meet.
All but Kendall's take maps with more axes in front, too, (C, 1, h, w) beside (1, B, h, w), and
return (C, B): see `steadymap.metrics.matched`.
"""

from __future__ import annotations

import numpy as np

from steadymap.metrics.maps import SSIM_REACH, Array, Maps, top_count, window_mean

SSIM_WINDOW = 2 * SSIM_REACH + 1
# Wang et al. 2004: K1 = 0.01, K2 = 0.03, for a data range of 1.
SSIM_C1 = 0.01**2
SSIM_C2 = 0.03**2


def ssim(clean: Maps, perturbed: Maps) -> Array:
    """Mean structural similarity of magnitudes, in [-1, 1], 1 for equal maps.

    Gaussian window of sigma 1.5 (11 x 11), population covariance, data range 1, borders of half a
    window left out. Source: Wang, Bovik, Sheikh and Simoncelli 2004, equation 13.
    """
    first, second = clean.window_mean, perturbed.window_mean
    covariance = window_mean(clean.magnitude * perturbed.magnitude) - first * second
    luminance = (2 * first * second + SSIM_C1) / (first**2 + second**2 + SSIM_C1)
    contrast = (2 * covariance + SSIM_C2) / (
        clean.window_variance + perturbed.window_variance + SSIM_C2
    )
    similarity: Array = (luminance * contrast).mean(axis=(-2, -1))
    return similarity


def spearman(clean: Maps, perturbed: Maps) -> Array:
    """Spearman's rank correlation of signed maps, ties averaged, in [-1, 1]; 1 for equal order."""
    correlation: Array = (clean.ranks * perturbed.ranks).sum(axis=-1)
    return correlation


def spearman_magnitude(clean: Maps, perturbed: Maps) -> Array:
    """Spearman's rank correlation of magnitudes, ties averaged, in [-1, 1]; 1 for equal order."""
    correlation: Array = (clean.magnitude_ranks * perturbed.magnitude_ranks).sum(axis=-1)
    return correlation


def kendall(clean: Maps, perturbed: Maps) -> Array:
    """Kendall's tau-b of signed maps, in [-1, 1], 1 for equal order. Source: Kendall 1945."""
    # SciPy takes most of a second, which whoever looks up a metric need not wait for.
    from scipy.stats import kendalltau  # noqa: PLC0415

    return np.array(
        [
            kendalltau(first, second, method="asymptotic").statistic
            for first, second in zip(
                clean.signed.reshape(len(clean), -1),
                perturbed.signed.reshape(len(perturbed), -1),
                strict=True,
            )
        ]
    )


def top_k_intersection(clean: Maps, perturbed: Maps) -> Array:
    """Share of the 5% of pixels of largest magnitude that both maps have in common, in [0, 1].

    Pixels that tie at the threshold share the places left, so the order of equal values decides
    nothing; unrelated maps share 5% on average. Source: Ghorbani, Abid and Zou 2019, section 2.
    """
    height, width = clean.signed.shape[-2:]
    count = top_count(height * width)
    shared: Array = np.minimum(clean.strongest, perturbed.strongest).sum(axis=-1) / count
    return shared


def relative_l2(clean: Maps, perturbed: Maps) -> Array:
    """Euclidean distance of the signed maps over the norm of the clean one; 0 for equal maps."""
    difference = np.sqrt(((perturbed.signed - clean.signed) ** 2).sum(axis=(-2, -1)))
    distance: Array = difference / np.sqrt((clean.signed**2).sum(axis=(-2, -1)))
    return distance


def cosine(clean: Maps, perturbed: Maps) -> Array:
    """Cosine of the angle between signed maps, in [-1, 1]; 1 where they differ in scale alone."""
    similarity: Array = (clean.unit * perturbed.unit).sum(axis=-1)
    return similarity


def pearson(clean: Maps, perturbed: Maps) -> Array:
    """Pearson's correlation of signed maps, in [-1, 1]; 1 for maps that differ in scale and level.

    Source: Pearson 1895.
    """
    correlation: Array = (clean.centred_unit * perturbed.centred_unit).sum(axis=-1)
    return correlation


def centre_shift(clean: Maps, perturbed: Maps) -> Array:
    """Distance between the centres of mass of magnitudes, as a share of the diagonal, in [0, 1).

    Source: Ghorbani, Abid and Zou 2019, section 2.
    """
    height, width = clean.signed.shape[-2:]
    apart = clean.centre - perturbed.centre
    shift: Array = np.hypot(apart[..., 0], apart[..., 1]) / np.hypot(height, width)
    return shift
