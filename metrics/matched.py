"""Scores of every clean map with every perturbed map of a block: what a score is worth.

A score compares the map of a perturbed image with that of the clean one; what it is worth says the
same metric of the same perturbed map and the clean maps of other images. All pairs of a block are
scored once, and what is said of a perturbed map or of a clean one is read off that table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from steadymap.metrics.maps import Array, Flags, Maps
from steadymap.metrics.registry import Metric, Status, within
from steadymap.metrics.scoring import Scores, evaluate, too_small

if TYPE_CHECKING:
    from steadymap.metrics.tensors import TensorMaps

Places = NDArray[np.int64]
Reason = tuple[Status, str] | None

# Values of a map that are held at once for all pairs of a call: so many stay in a CPU's cache; a
# GPU wants few calls.
HELD_ON_CPU = 2**15
HELD_ON_GPU = 2**24

NO_PAIR = "no unrelated map is defined"


@dataclass(frozen=True)
class Table:
    """Scores of each clean map of a batch with each perturbed one of its block.

    Attributes:
        values: (B, B), rows for clean maps, columns for perturbed ones; NaN where the metric is
            undefined on a pair, or where the two are of different blocks.
        clean: B reasons why the metric says nothing of a clean map, whatever it is held against.
        perturbed: B reasons, likewise.
    """

    values: Array
    clean: tuple[Reason, ...]
    perturbed: tuple[Reason, ...]

    def beside_perturbed(self, chosen: Flags, none: str) -> Scores:
        """Return, for each perturbed map, the mean over clean maps that have nothing to do with it.

        Pairs on which the metric is undefined are left out.

        Args:
            chosen: (B, B), as the values: which pairs count.
            none: why there are no such pairs, where there are none.
        """
        return _means(self.values.T, chosen.T, self.perturbed, none)

    def beside_clean(self, chosen: Flags, none: str) -> Scores:
        """Return, for each clean map, the mean over perturbed maps; otherwise as above."""
        return _means(self.values, chosen, self.clean, none)

    def ranks(self, metric: Metric, others: Flags, none: str) -> Scores:
        """Return the place of each perturbed map's own clean map among those of its block.

        1 is the closest to the perturbed map. One that is as close as its own counts as closer. The
        detail of a place says among how many maps it is: `of 8`.

        Args:
            metric: what closeness is measured by.
            others: (B, B), as the values: which clean maps are those of other images.
            none: why there are none, where there are none.
        """
        sign = 1.0 if metric.better == "higher" else -1.0
        own = np.diag(self.values)
        # Comparisons with NaN are false: a pair that is undefined is no closer.
        closer = others & (sign * self.values >= sign * own)
        beside = self.beside_perturbed(others, none)
        reasons = [
            perturbed
            or clean
            or ((Status.SKIPPED, "its own clean map is not defined") if lost else None)
            or (None if status is Status.OK else (status, detail))
            for perturbed, clean, lost, status, detail in zip(
                self.perturbed,
                self.clean,
                np.isnan(own),
                beside.statuses,
                beside.details,
                strict=True,
            )
        ]
        found = _scores(1.0 + closer.sum(axis=0), reasons)
        among = 1 + (others & np.isfinite(self.values)).sum(axis=0)
        details = [
            f"of {size}" if status is Status.OK else detail
            for size, status, detail in zip(among, found.statuses, found.details, strict=True)
        ]
        return Scores(found.values, found.statuses, tuple(details))


def tabulate(
    metric: Metric, clean: Maps | TensorMaps, perturbed: Maps | TensorMaps, blocks: Sequence[Places]
) -> Table:
    """Return the scores of all pairs within blocks.

    Args:
        metric: of two maps.
        clean: B maps.
        perturbed: B maps of the same images, in the same order.
        blocks: the places of the images of each.
    """
    of_clean, of_perturbed = (
        _lacking(metric, clean, "clean"),
        _lacking(metric, perturbed, "perturbed"),
    )
    values = np.full((len(clean), len(clean)), np.nan)
    for block in blocks:
        rows = np.array([place for place in block if of_clean[place] is None], dtype=np.int64)
        columns = np.array(
            [place for place in block if of_perturbed[place] is None], dtype=np.int64
        )
        if len(rows) and len(columns):
            found = _pairs(metric, _Some(clean, rows), _Some(perturbed, columns))
            values[np.ix_(rows, columns)] = np.where(within(found, metric.range), found, np.nan)
    return Table(values, tuple(of_clean), tuple(of_perturbed))


@dataclass(frozen=True)
class _Some:
    """Some maps of a batch: those at these places."""

    maps: Maps | TensorMaps
    places: Places


@dataclass(frozen=True)
class _Spread:
    """Some maps of a batch, each of which meets each of another: all there is has an axis more.

    What is derived from maps is derived once, of the whole batch, and shown here.

    Attributes:
        maps: the batch.
        chosen: which of its maps.
        axis: where the axis is: 1 for those that make rows, 0 for those that make columns.
    """

    maps: Maps | TensorMaps
    chosen: slice | Places
    axis: int

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - arrays or tensors, as the maps have them
        part = getattr(self.maps, name)[self.chosen]
        return part[:, None] if self.axis else part[None]


def _pairs(metric: Metric, clean: _Some, perturbed: _Some) -> Array:
    """(rows, columns): the scores of all pairs; NaN where the metric says nothing."""
    if not metric.pairwise or not (isinstance(clean.maps, Maps) or metric.on_tensors):
        return _one_by_one(metric, clean, perturbed)
    try:
        return _at_once(metric, clean, perturbed)
    except Exception:  # noqa: BLE001 - it raises on one pair, or memory runs out: each has its own try
        return _one_by_one(metric, clean, perturbed)


def _at_once(metric: Metric, clean: _Some, perturbed: _Some) -> Array:
    """(rows, columns): the scores of all pairs, as many rows at a time as are well held.

    Raises:
        ValueError: the metric returned something else; what it raises itself is passed on.
    """
    on_host = isinstance(clean.maps, Maps)
    compute: Any = metric.compute if on_host else metric.on_tensors
    height, width = clean.maps.signed.shape[1:]
    held = HELD_ON_CPU if on_host else HELD_ON_GPU
    step = max(1, held // (height * width * len(perturbed.places)))
    others = _Spread(perturbed.maps, _as_slice(perturbed.places), 0)
    found = []
    # Derived of the whole batch: of maps that are left out, too.
    with np.errstate(all="ignore"):
        for at in range(0, len(clean.places), step):
            own = _Spread(clean.maps, _as_slice(clean.places[at : at + step]), 1)
            part = compute(own, others)
            found.append(part if on_host else part.cpu().numpy())
    values: Array = np.concatenate(found)
    if values.shape != (len(clean.places), len(perturbed.places)):
        raise ValueError(f"{values.shape} scores of all pairs")
    return values


def _one_by_one(metric: Metric, clean: _Some, perturbed: _Some) -> Array:
    """(rows, columns): the same by a metric that takes pairs alone."""
    columns = perturbed.places.tolist()
    others = perturbed.maps.take(columns)
    rows = [clean.maps.take([row] * len(columns)) for row in clean.places.tolist()]
    return np.stack([evaluate(metric, own, others).values for own in rows])


def _as_slice(places: Places) -> slice | Places:
    """Return places that follow each other as a slice, which copies nothing."""
    first, last = int(places[0]), int(places[-1])
    return slice(first, last + 1) if last - first + 1 == len(places) else places


def _lacking(metric: Metric, maps: Maps | TensorMaps, of: str) -> list[Reason]:
    """Return, for each map, why the metric says nothing of it."""
    if reason := too_small(metric, maps):
        return [(Status.SKIPPED, reason)] * len(maps)
    checks = maps.signed_checks if metric.reads == "signed" else maps.magnitude_checks
    not_finite = (Status.NONFINITE, f"the map of the {of} image is not finite")
    constant = (Status.DEGENERATE, f"the map of the {of} image is constant")
    return [
        (constant if flat else None) if finite else not_finite
        for finite, flat in zip(checks.finite, checks.constant, strict=True)
    ]


def _means(values: Array, chosen: Flags, lacking: Sequence[Reason], none: str) -> Scores:
    """Return row by row the mean of the values chosen, or why there is none."""
    known: Flags = chosen & np.isfinite(values)
    counts = known.sum(axis=1)
    sums = np.where(known, values, 0.0).sum(axis=1)
    means = np.divide(sums, counts, out=np.full(len(sums), np.nan), where=counts > 0)
    reasons = [
        reason or (None if count else (Status.SKIPPED, NO_PAIR if any_chosen else none))
        for reason, count, any_chosen in zip(lacking, counts, chosen.sum(axis=1), strict=True)
    ]
    return _scores(means, reasons)


def _scores(values: Array, reasons: Sequence[Reason]) -> Scores:
    valid = np.array([reason is None for reason in reasons], dtype=bool)
    return Scores(
        np.where(valid, values, np.nan),
        tuple(reason[0] if reason else Status.OK for reason in reasons),
        tuple(reason[1] if reason else "" for reason in reasons),
    )
