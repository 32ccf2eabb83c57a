"""Maps of a view: a method is called, and what it returns is checked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch

from steadymap.bench.measure.view import Explained, Failure, View, explained, failure_of, unfit_for
from steadymap.bench.measure.worker import T, Worker
from steadymap.bench.methods.batch import Batch
from steadymap.bench.methods.method import BoundMethod, Engine, foreign
from steadymap.bench.methods.paths import NestedPath, points_at
from steadymap.bench.network import guard, passes
from steadymap.metrics import Status
from steadymap.metrics.maps import Array
from steadymap.models import Classifier


def explain(worker: Worker, method: BoundMethod, view: View) -> Explained | Failure:
    """Return a method's maps of a view, or why there are none."""
    size = len(view.images)
    if view.lost is not None:
        return view.lost
    reason = unfit_for(method, view.classifier, worker.engine)
    if reason is not None:
        return replace(reason, size=size)
    shares = method.share is not None and worker.engine == "own"
    if shares and view.failure is not None:
        return view.failure

    def compute(at_once: int) -> Explained | Failure:
        with _guarded(worker, method, view) as lent:
            if shares:
                # Whole, unless memory has run out since.
                undivided = at_once == view.batch.at_once > 1
                attributions = _read_by_parts(method, lent.seen, size if undivided else at_once)
            else:
                batch = replace(lent.batch, at_once=at_once)
                attributions = _by_parts(method, lent.classifier, batch, worker.engine)
        return explained(attributions, size)

    with worker.clock(view.cell, method.spec, size):
        try:
            return worker.within_memory(compute)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - a method may raise anything; its records say what
            return failure_of(error, size)


@contextmanager
def _guarded(worker: Worker, method: BoundMethod, view: View) -> Iterator[View]:
    """Lend a method what it works with: to one that is not ours copies, which only it can change.

    Yields:
        The view, or a copy.

    Raises:
        LeftChangedError: it has left the network changed, or a setting of torch's.
    """
    if not foreign(method.method):
        yield view
        return
    with guard.left_as_it_was(worker.guard(keep=True), view.batch.images):
        shared = view.classifier is worker.classifier
        yield replace(
            view,
            # With a shift, the module around the network is the view's, and serves all methods.
            classifier=view.classifier if shared else view.classifier.shifted(0.0),
            batch=_copied(view.batch),
            seen=_copied(view.seen),
        )


def _copied(original: T) -> T:
    """Return a batch or a pass with tensors of its own."""
    tensors = {name: x.clone() for name, x in vars(original).items() if isinstance(x, torch.Tensor)}
    return replace(original, **tensors)  # type: ignore[type-var] # a dataclass


def _own(method: BoundMethod, attributions: torch.Tensor) -> torch.Tensor:
    """Return what a method has made; of one that is not ours a copy, which it cannot change."""
    copied = foreign(method.method) and isinstance(attributions, torch.Tensor)
    return attributions.detach().clone() if copied else attributions


def _by_parts(
    method: BoundMethod, classifier: Classifier, batch: Batch, engine: Engine
) -> torch.Tensor:
    """Return attributions, of no more images at a time than fit."""
    if len(batch.images) <= batch.at_once:
        return _own(method, method.explain(classifier, batch, engine))
    cuts = (slice(at, at + batch.at_once) for at in range(0, len(batch.images), batch.at_once))
    return torch.cat(
        [_own(method, method.explain(classifier, batch.part(cut), engine)) for cut in cuts]
    )


def _read_by_parts(method: BoundMethod, seen: passes.Pass, at_once: int) -> torch.Tensor:
    """Return attributions read off a pass, of no more images at a time than fit."""
    size = len(seen.images)
    if size <= at_once:
        return _own(method, method.read(seen))
    cuts = (slice(at, at + at_once) for at in range(0, size, at_once))
    return torch.cat([_own(method, method.read(seen.part(cut))) for cut in cuts])


def same_size(clean: Explained | Failure, current: Explained | Failure) -> Explained | Failure:
    """Return `current`, or why it cannot be compared with the clean maps."""
    if isinstance(clean, Failure) or isinstance(current, Failure):
        return current
    sizes = [tuple(part.attributions.shape[1:]) for part in (clean, current)]
    if sizes[0] == sizes[1]:
        return current
    reason = f"returned maps of {sizes[1]} where the clean image's are {sizes[0]}"
    return Failure(Status.ERROR, reason, len(current.maps))


# --- as many steps as an image needs --------------------------------------------------------------


class Adaptive:
    """A method with `steps=auto` on all views of a batch, the clean one first.

    The clean and the perturbed map of a pair use the same nodes: those that the more demanding of
    the two needs. The clean path is doubled further where a perturbed one asks for it.
    """

    def __init__(self, worker: Worker, method: BoundMethod) -> None:
        self.worker = worker
        self.method = method
        self.clean: NestedPath | Failure | None = None

    def explain(self, view: View) -> tuple[Explained | Failure, Explained | Failure, Array]:
        """Return the clean maps and the view's, at the same nodes, and the points taken (B,)."""
        size = len(view.images)
        with self.worker.clock(view.cell, self.method.spec, size):
            path = self._path(view)
            if self.clean is None:
                self.clean = path
            clean = self.clean
            if isinstance(path, Failure):
                return path, path, np.full(size, np.nan)
            if isinstance(clean, Failure):
                levels = path.settled
                reference: Explained | Failure = clean
            else:
                levels = np.maximum(clean.settled, path.settled).tolist()
                reference = self._at(clean, levels, view)
            current = self._at(path, levels, view)
        points = np.array([points_at(level) for level in levels], dtype=np.float64)
        return reference, current, points

    def _path(self, view: View) -> NestedPath | Failure:
        if view.lost is not None:
            return view.lost

        def compute(at_once: int) -> NestedPath:
            with _guarded(self.worker, self.method, view) as lent:
                batch = replace(lent.batch, at_once=at_once)
                return self.method.nested(lent.classifier, batch)

        try:
            return self.worker.within_memory(compute)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - as in `explain`
            return failure_of(error, len(view.images))

    def _at(self, path: NestedPath, levels: list[int], view: View) -> Explained | Failure:
        size = len(view.images)

        def compute(at_once: int) -> Explained | Failure:
            with _guarded(self.worker, self.method, view):
                return explained(_own(self.method, path.at(levels, at_once)), size)

        try:
            return self.worker.within_memory(compute)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - as in `explain`
            return failure_of(error, size)
