"""Maps computed in other ways, which tell what is mere rounding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch

from steadymap.bench.core.errors import MESSAGE_LENGTH, message_of
from steadymap.bench.measure.nulls import Reference, all_methods, explained_by_all
from steadymap.bench.measure.view import Explained, Failure, ShownImages, explained, look
from steadymap.bench.measure.watch import Watch
from steadymap.bench.measure.worker import Worker
from steadymap.bench.methods.method import BoundMethod
from steadymap.bench.network.memory import LIKE_A_CPU
from steadymap.bench.network.passes import rounded
from steadymap.bench.perturbations.cell import Cell
from steadymap.bench.records.vocabulary import BATCH_OF_ONE, FLOAT64, ON_CPU, ROUNDED
from steadymap.metrics import Status

# --- the same, computed in another way ------------------------------------------------------------


def numerics(
    worker: Worker, shown: ShownImages, targets: torch.Tensor, watch: Watch
) -> Iterator[Reference]:
    """Yield maps of the same images: one by one, rounded, in double precision, and off the GPU.

    All draw the random numbers of the clean view: what is left is rounding.
    """
    classifier, device = worker.classifier, worker.classifier.module.mean.device
    single = [
        all_methods(worker, _part(shown, place, BATCH_OF_ONE), targets[place : place + 1], watch)
        for place in range(len(shown.images))
    ]
    yield _joined(single)
    yield all_methods(
        worker,
        # What a method reads off the image, superpixels say, it reads off the rounded one: where
        # these flip, rounding moves its maps.
        replace(shown, cell=Cell(ROUNDED, 0.0, 0), on_device=rounded(shown.on_device)),
        targets,
        watch,
    )
    ways = [(FLOAT64, device, torch.float64)]
    if device.type != "cpu":
        ways.append((ON_CPU, torch.device("cpu"), torch.float32))
    # Twice as large in float64, and a CPU may have less memory than the GPU.
    at_once = max(1, min(worker.at_once // 2, LIKE_A_CPU))
    for family, place, dtype in ways:
        moved = replace(shown, cell=Cell(family, 0.0, 0), on_device=shown.images.to(place, dtype))
        try:
            other = replace(
                worker,
                classifier=classifier.to(place, dtype),
                at_once=at_once,
                halved=0,
                timings=[],
                twins=(),
            )
            view = look(other, moved, targets.to(place))
            reason = view.lost.detail if view.lost else ""
        except Exception as error:  # noqa: BLE001 - a network may know one type or device alone
            reason = message_of(error)
        if reason:
            watch.tell(len(worker.methods) * len(shown.images))
            yield _not_in_this_way(worker.methods, moved, targets.tolist(), reason)
            continue
        reference = explained_by_all(other, view, watch)
        worker.timings += other.timings
        worker.halved += other.halved
        yield replace(reference, maps={m: _back(x, device) for m, x in reference.maps.items()})


def _not_in_this_way(
    methods: Sequence[BoundMethod], shown: ShownImages, labels: list[int | None], reason: str
) -> Reference:
    """Return why maps cannot be computed in a way; the floor is that of the others."""
    size = len(shown.images)
    detail = f"the network does not run so: {reason}"[:MESSAGE_LENGTH]
    failure = Failure(Status.SKIPPED, detail, size)
    return Reference(shown.cell, labels, dict.fromkeys(methods, failure))


def _part(shown: ShownImages, place: int, family: str) -> ShownImages:
    chosen = slice(place, place + 1)
    return ShownImages(
        Cell(family, 0.0, 0),
        shown.images[chosen],
        shown.on_device[chosen],
        shown.image_ids[chosen],
        shown.seed,
    )


def _joined(parts: list[Reference]) -> Reference:
    """Return the maps of images that were explained one by one, together."""
    maps: dict[BoundMethod, Explained | Failure] = {}
    for method in parts[0].maps:
        pieces = [part.maps[method] for part in parts]
        failed = [piece for piece in pieces if isinstance(piece, Failure)]
        rows = [piece.attributions for piece in pieces if isinstance(piece, Explained)]
        maps[method] = (
            replace(failed[0], size=len(parts))
            if failed
            else explained(torch.cat(rows), len(parts))
        )
    return Reference(parts[0].cell, [part.predictions[0] for part in parts], maps)


def _back(maps: Explained | Failure, device: torch.device) -> Explained | Failure:
    """Bring maps to where those are that they are compared with."""
    if isinstance(maps, Failure) or maps.attributions.device == device:
        return maps
    return explained(maps.attributions.to(device), len(maps.attributions))
