"""Records of which the truth is known: images, partners and networks with effects of their own."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from steadymap.bench.records.vocabulary import MATCHED_NETWORK, PARTNER

Floats = NDArray[np.float64]

BLOCK = 8


@dataclass(frozen=True)
class World:
    """A world from which runs are drawn.

    Attributes:
        distances: by method, the expected distance of a perturbed map from its clean self.
        unrelated: the expected distance of maps of two images of different classes.
        random: the expected distance of maps of randomised networks.
        same_class: how much closer than other images' are those of the same class.
        spread: of an image's distance, as the standard deviation of its logarithm.
        partner: standard deviation of what a clean map brings to its distance from others, and of
            what a perturbed one does.
        network: that of what a randomised network brings.
        pair: that of what is left.
        networks: how many.
        families: how many, alike but for draws.
        classes: how many.
        shared: the share of an image's distance, on the logarithm, that all methods have in common.
        groups: of images, how many; 0 where each is its own.
        alike: the correlation of what images of one group bring.
    """

    distances: tuple[float, ...] = (0.4,)
    unrelated: float = 0.9
    random: float = 0.97
    same_class: float = 0.05
    spread: float = 0.5
    partner: float = 0.08
    network: float = 0.03
    pair: float = 0.1
    networks: int = 3
    families: int = 2
    classes: int = 3
    shared: float = 0.5
    groups: int = 0
    alike: float = 0.0

    def group_of(self, images: int) -> dict[str, str]:
        """Return the group of each image; those of one are far from each other."""
        return {f"i{i:03d}": f"g{i % self.groups}" for i in range(images)} if self.groups else {}

    def brought(self, images: int, rng: np.random.Generator) -> Floats:
        """Draw what images bring, each of variance 1."""
        own = rng.standard_normal(images)
        if not self.groups:
            return own
        common = rng.standard_normal(self.groups)[np.arange(images) % self.groups]
        both: Floats = np.sqrt(self.alike) * common + np.sqrt(1 - self.alike) * own
        return both

    def truth(self) -> Floats:
        """Return the calibrated score of each method."""
        null = min(self.unrelated - self.same_class, self.random)
        return 1 - np.array(self.distances) / null

    def without_nulls_of_their_own(self) -> World:
        """Return the same with nulls that do not vary."""
        return replace(self, partner=0.0, network=0.0, pair=0.0)


def method_name(place: int) -> str:
    return f"method_{place}"


def run_of(world: World, images: int, rng: np.random.Generator) -> pd.DataFrame:
    """Draw the records of a run: one severity and draw, by one metric of which 1 is perfect."""
    block = np.arange(images) // BLOCK
    starts = images // BLOCK * BLOCK
    if 2 * (images - starts) < BLOCK and starts:
        block[starts:] = block[starts - 1]
    label = rng.integers(world.classes, size=images)
    together = block[:, None] == block
    np.fill_diagonal(together, val=False)
    same = together & (label[:, None] == label)
    common = world.brought(images, rng)
    parts: list[pd.DataFrame] = []
    shape = (world.families, images)
    for place, distance in enumerate(world.distances):
        own = world.brought(images, rng)
        mixed = np.sqrt(world.shared) * common + np.sqrt(1 - world.shared) * own
        noise = rng.standard_normal(shape)
        size = world.spread * (0.8 * mixed + 0.6 * noise)
        columns = {"": distance * np.exp(size - world.spread**2 / 2)}
        # Rows are perturbed maps, columns clean ones.
        clean = world.partner * (0.6 * own + 0.8 * world.brought(images, rng))
        perturbed = world.partner * (0.6 * own + 0.8 * world.brought(images, rng))
        table = (
            world.unrelated
            + clean
            + perturbed[:, None]
            + world.pair * rng.standard_normal((world.families, images, images))
            - world.same_class * same
        )
        for kind, mask in ((".other_image", together), (".same_class", same)):
            columns[kind] = _mean(np.where(mask, table, np.nan), axis=2)
            columns[kind + PARTNER] = _mean(np.where(mask, table, np.nan), axis=1)
        effects = world.network * rng.standard_normal(world.networks)
        for network, effect in enumerate(effects):
            noise = world.pair * rng.standard_normal(shape)
            columns[f"{MATCHED_NETWORK}{network}"] = world.random + effect + perturbed + noise
        parts += [_records(method_name(place), suffix, rows) for suffix, rows in columns.items()]
    return pd.concat(parts, ignore_index=True)


def _mean(table: Floats, axis: int) -> Floats:
    known = np.isfinite(table)
    count = known.sum(axis=axis)
    total = np.where(known, table, 0.0).sum(axis=axis)
    mean: Floats = np.divide(total, count, out=np.full(count.shape, np.nan), where=count > 0)
    return mean


def _records(method: str, suffix: str, distances: Floats) -> pd.DataFrame:
    family, image = np.divmod(np.arange(distances.size), distances.shape[1])
    known = np.isfinite(distances.ravel())
    return pd.DataFrame(
        {
            "image_id": np.char.add("i", np.char.zfill(image.astype(str), 3)),
            "method": method,
            "family": np.char.add("family_", family.astype(str)),
            "severity": 0.1,
            "draw": 0,
            "metric": f"spearman{suffix}",
            "value": 1 - distances.ravel(),
            "status": np.where(known, "ok", "skipped"),
            "kept": True,
            "label": 0,
            "pred_clean": 0,
            "detail": "",
        }
    )
