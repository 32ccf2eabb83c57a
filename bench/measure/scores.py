"""Maps of a shifted, turned or enlarged image beside the clean ones: the same things in place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from steadymap.bench.measure.view import Explained, Failure
from steadymap.bench.perturbations.warp import Warp, in_common, maps_back, maps_inside, masks_inside
from steadymap.metrics import Maps, Status, TensorMaps
from steadymap.metrics.maps import Array


@dataclass(frozen=True)
class Compared:
    """What metrics are given of one method and view.

    Attributes:
        clean: the method's maps of the clean images.
        current: those of the view.
        nulls: batches of unrelated maps, as large as the clean ones.
        evidence: what metrics of one map are held against.
    """

    clean: Explained | Failure
    current: Explained | Failure
    nulls: tuple[Maps | TensorMaps, ...]
    evidence: Mapping[str, Array | Tensor]


def in_place(compared: Compared, warp: Warp) -> Compared:
    """Warp the view's maps back, and cut everything to what clean and warped image have in common.

    Attributions stay as they are: what is held against a sum of them is held against all of it.
    """
    current = compared.current
    if isinstance(current, Failure):
        return compared
    height, width = current.maps.signed.shape[1:]
    window = in_common(warp, (height, width))
    if window is None:
        reason = f"a map of {height} x {width} has nothing in common with the clean one"
        return replace(compared, current=Failure(Status.SKIPPED, reason, len(current.maps)))
    clean, evidence = compared.clean, dict(compared.evidence)
    if isinstance(clean, Explained):
        clean = replace(clean, maps=maps_inside(clean.maps, window))
    if "mask" in evidence:
        evidence["mask"] = masks_inside(evidence["mask"], (height, width), window)
    return Compared(
        clean,
        replace(current, maps=maps_back(current.maps, warp, window)),
        tuple(maps_inside(maps, window) for maps in compared.nulls),
        evidence,
    )
