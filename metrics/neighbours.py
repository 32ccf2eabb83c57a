"""Metrics of a map's neighbourhood: how far it moves where the clean image moves a little.

Below, x is the clean image, x' one of its neighbours, e and e' their signed maps, h the logits, L
what a layer puts out; norms are Euclidean. The largest of n neighbours is a lower bound of the
largest of all: more neighbours can only raise it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from steadymap.metrics.evidence import Evidence
from steadymap.metrics.maps import Array, Flags, Maps

# How many neighbours an image has, and how far each of their values may be from its own, in image
# units, drawn uniformly: the defaults of captum.
NEIGHBOURS = 10
RADIUS = 0.02

# Agarwal et al. 2022: what the image, logits or layer moved by counts as no less than this. The
# paper is silent on values that are 0 themselves, whose change has no percentage; Quantus takes
# 1e-6 for them. Here they count as no less than this share of the largest of their map, so that
# neither the map's unit nor the rounding of a 0 decides.
EPS_MIN = 1e-6


@dataclass(frozen=True)
class Neighbours(Evidence):
    """How far n neighbours of each of B images are from it, each (B, n).

    Attributes:
        map_change: ||e' - e||.
        map_relative: ||(e - e') / e||, see `relative_change`.
        image_change: ||x' - x||, above 0.
        image_relative: ||(x - x') / x||.
        logit_change: ||h(x) - h(x')||.
        layer_relative: ||(L - L') / L||; None where the network has no such layer.
        kept: whether the neighbour has the image's prediction.
    """

    map_change: Array
    map_relative: Array
    image_change: Array
    image_relative: Array
    logit_change: Array
    layer_relative: Array | None
    kept: Flags


def change(values: Array, others: Array) -> Array:
    """||values - others|| of each of B rows (B, ...): (B,)."""
    apart = (values - others).reshape(len(values), -1)
    distance: Array = np.sqrt((apart**2).sum(axis=1))
    return distance


def relative_change(values: Array, others: Array) -> Array:
    """||(values - others) / values|| of each of B rows (B, ...): (B,).

    A value counts, by its magnitude, as no less than 1e-6 of the largest of its row; in a row of
    zeros, as 1e-6.
    """
    sizes = np.abs(values).reshape(len(values), -1)
    largest = sizes.max(axis=1, keepdims=True)
    least = EPS_MIN * np.where(largest == 0, 1.0, largest)
    shares = (values - others).reshape(len(values), -1) / np.maximum(sizes, least)
    norm: Array = np.sqrt((shares**2).sum(axis=1))
    return norm


def max_sensitivity(maps: Maps, neighbours: Neighbours) -> Array:
    """Largest change of the map, over its norm: max ||e' - e|| / ||e||, at least 0.

    The map is summed over channels, as for every metric here. captum's `sensitivity_max` takes the
    same ratio of the attributions themselves, channel by channel: of maps of one channel the two
    agree; of others neither bounds the other, since the change may cancel in the sum, and the map
    may, too. Source: Yeh et al. 2019, definition 2, over the norm as in captum.
    """
    norm = np.sqrt((maps.signed**2).sum(axis=(1, 2)))
    largest: Array = neighbours.map_change.max(axis=1) / norm
    return largest


def local_lipschitz(_maps: Maps, neighbours: Neighbours) -> Array:
    """Largest change of the map by the image's: max ||e' - e|| / ||x' - x||, at least 0.

    A lower bound of the Lipschitz constant around the image; in units of the map. Source:
    Alvarez-Melis and Jaakkola 2018, equation 2.
    """
    largest: Array = (neighbours.map_change / neighbours.image_change).max(axis=1)
    return largest


def relative_input_stability(_maps: Maps, neighbours: Neighbours) -> Array:
    """Largest relative change of the map by the image's, at least 0.

    max ||(e - e') / e|| / max(||(x - x') / x||, 1e-6) over neighbours of the same prediction.
    Source: Agarwal et al. 2022, relative input stability.
    """
    return _largest(neighbours, neighbours.image_relative)


def relative_output_stability(_maps: Maps, neighbours: Neighbours) -> Array:
    """Largest relative change of the map by that of the logits, at least 0.

    max ||(e - e') / e|| / max(||h(x) - h(x')||, 1e-6) over neighbours of the same prediction.
    Source: Agarwal et al. 2022, relative output stability.
    """
    return _largest(neighbours, neighbours.logit_change)


def relative_representation_stability(_maps: Maps, neighbours: Neighbours) -> Array:
    """Largest relative change of the map by that of a layer's output, at least 0.

    max ||(e - e') / e|| / max(||(L - L') / L||, 1e-6) over neighbours of the same prediction.
    Source: Agarwal et al. 2022, relative representation stability.

    Raises:
        ValueError: the network has no such layer.
    """
    if neighbours.layer_relative is None:
        raise ValueError("the neighbours have no representation")
    return _largest(neighbours, neighbours.layer_relative)


def _largest(neighbours: Neighbours, moved: Array) -> Array:
    """Return the largest relative change over what has moved, of neighbours that count."""
    ratios = neighbours.map_relative / np.maximum(moved, EPS_MIN)
    largest: Array = np.where(neighbours.kept, ratios, -np.inf).max(axis=1)
    return largest


def without_prediction(neighbours: Neighbours) -> list[str]:
    """Say of each image why none of its neighbours counts; "" where one does."""
    reason = "no neighbour keeps the prediction"
    return ["" if kept.any() else reason for kept in neighbours.kept]


def without_layer(neighbours: Neighbours) -> list[str]:
    """Say of each image why it has no representation, or no neighbour that counts; or ""."""
    if neighbours.layer_relative is None:
        return ["the network has no convolution with a spatial output"] * len(neighbours)
    return without_prediction(neighbours)
