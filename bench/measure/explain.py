"""Maps of a view: a method is called, and what it returns is checked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch

from steadymap.bench.core import randomness
from steadymap.bench.measure.view import Explained, Failure, View, explained, failure_of, unfit_for
from steadymap.bench.measure.worker import T, Worker
from steadymap.bench.methods.batch import Batch
from steadymap.bench.methods.method import BoundMethod, Engine, foreign
from steadymap.bench.methods.paths import points_at
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
        return explained(_put_back(method, view, attributions), size)

    with worker.clock(view.cell, method.spec, size):
        try:
            return worker.within_memory(compute)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - a method may raise anything; its records say what
            return failure_of(error, size)


@contextmanager
def _guarded(worker: Worker, method: BoundMethod, view: View) -> Iterator[View]:
    """Lend a method what it works with: to one that is not ours copies, which only it can change.

    In copies the images have an order of their own in every view, and images of the data set are
    there for who asks for them: nothing beside its pixels tells which image one is.

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
        places = _shuffled(view.batch)
        batch = view.batch.part(places)
        if not method.needs_references:
            batch = replace(batch, references=None, reference_places=())
        yield replace(
            view,
            # With a shift, the module around the network is the view's, and serves all methods.
            classifier=view.classifier if shared else view.classifier.shifted(0.0),
            batch=_copied(batch),
            seen=_copied(view.seen.part(places)),
        )


def _shuffled(batch: Batch) -> list[int]:
    """Return the places of the images in an order that their draws decide, another in each view."""
    keys = [randomness.key_of(draw, "order") for draw in batch.draws]
    return sorted(range(len(keys)), key=keys.__getitem__)


def _put_back(method: BoundMethod, view: View, attributions: torch.Tensor) -> torch.Tensor:
    """Return the maps of what `_guarded` lent in the order of the view's images.

    What is no maps of that many images comes back as it is: `explained` says what is wrong.
    """
    places = _shuffled(view.batch)
    if not foreign(method.method) or not isinstance(attributions, torch.Tensor):
        return attributions
    if attributions.ndim == 0 or len(attributions) != len(places):
        return attributions
    back = torch.empty_like(attributions)
    back[places] = attributions
    return back


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


def explain_as_needed(
    worker: Worker, method: BoundMethod, view: View
) -> tuple[Explained | Failure, Array]:
    """Return the maps of a method with `steps=auto`, and at how many points each took gradients.

    Every view takes the steps that it needs, as it would where it were the only one.

    Returns:
        The maps, or why there are none; and (B,), NaN where there are none.
    """
    size = len(view.images)
    points = np.full(size, np.nan)
    if view.lost is not None:
        return view.lost, points

    def compute(at_once: int) -> Explained | Failure:
        with _guarded(worker, method, view) as lent:
            batch = replace(lent.batch, at_once=at_once)
            path = method.nested(lent.classifier, batch)
            maps = _put_back(method, view, _own(method, path.at(path.settled)))
            levels = torch.tensor([points_at(level) for level in path.settled])
            points[:] = _put_back(method, view, levels).numpy()
        return explained(maps, size)

    with worker.clock(view.cell, method.spec, size):
        try:
            found = worker.within_memory(compute)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - as in `explain`
            found = failure_of(error, size)
    return found, np.full(size, np.nan) if isinstance(found, Failure) else points
