"""Images through perturbations and methods into records: who does which part, and when."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from queue import SimpleQueue

import joblib
import pandas as pd
import pyarrow as pa
from torch import Tensor

from steadymap.bench.data.image_set import ImageSet, from_tensor
from steadymap.bench.measure.nulls import randomised_twins
from steadymap.bench.measure.outcome import Outcome
from steadymap.bench.measure.shard import measure_shard
from steadymap.bench.measure.worker import Worker
from steadymap.bench.network.torch_settings import float32, threads_each
from steadymap.bench.perturbations.attack import differentiable_twice
from steadymap.bench.plan.identity import run_id
from steadymap.bench.plan.plan import Plan
from steadymap.bench.plan.setup import Setup, prepare
from steadymap.bench.plan.sharding import whole
from steadymap.bench.plan.shards import Shard
from steadymap.bench.records.schema import Source, to_frame, to_part, with_source
from steadymap.models import Classifier


def run(
    classifier: Classifier,
    images: ImageSet | Tensor,
    plan: Plan | None = None,
    advance: Callable[[int], None] | None = None,
) -> pd.DataFrame:
    """Measure how steady a classifier's saliency maps are on your images.

    Args:
        classifier: see `steadymap.models.make_classifier`.
        images: an image set, or a tensor (N, 3, H, W), float32 in [0, 1], at the input size.
        plan: methods, families, severities and metrics; left out, all of them.
        advance: called with the number of maps just made, for a progress bar.

    Returns:
        One row a value, with the columns of `steadymap.bench.records.schema.SCHEMA`.

    Raises:
        ConfigError: a metric that nothing in the plan can give.
        DataError: images of another type, size or range.
    """
    plan = plan or Plan()
    image_set = from_tensor(images) if isinstance(images, Tensor) else images
    setup = prepare(classifier, image_set, plan)
    source = Source(run_id(plan, classifier, image_set), classifier.name, image_set.name)
    outcomes = measure(setup, advance or (lambda _count: None))
    return to_frame(
        pa.concat_tables([with_source(to_part(outcome.records), source) for outcome in outcomes])
    )


def measure(
    setup: Setup, advance: Callable[[int], None], *, keep_maps: bool = False
) -> Iterator[Outcome]:
    """Yield the outcome of one shard after another, in their order.

    A method that raises costs its own cells, which say so; the run goes on. `advance` is called
    with the number of maps just made, by whichever worker made them.

    Raises:
        ModelError: several jobs, and a network that cannot be copied.
    """
    yield from in_threads(setup, whole(setup), advance, threading.Event(), keep_maps=keep_maps)


def in_threads(
    setup: Setup,
    shards: Sequence[Shard],
    advance: Callable[[int], None],
    enough: threading.Event,
    *,
    keep_maps: bool,
) -> Iterator[Outcome]:
    """Yield the outcome of one shard after another, in their order, by threads of this process.

    Each takes whole shards and its share of torch's threads.

    Args:
        setup: of the run.
        shards: what to compute.
        advance: called with the number of maps just made.
        enough: once it is set no shard is begun; those in hand are finished.
        keep_maps: whether outcomes have the maps themselves.
    """
    jobs = min(setup.plan.jobs, max(1, len(shards)))
    workers: SimpleQueue[Worker] = SimpleQueue()
    for worker in crew(setup):
        workers.put(worker)

    def one(shard: Shard, go_on: Callable[[int], None]) -> Outcome:
        worker = workers.get()
        try:
            return measure_shard(setup, worker, shard, go_on, keep_maps=keep_maps)
        finally:
            workers.put(worker)

    with surroundings(setup, jobs):
        yield from _in_order(shards, jobs, one, (advance, enough))


# What joblib runs: a function, its arguments, and none by name.
Task = tuple[Callable[[Shard], Outcome | BaseException], tuple[Shard], dict[str, object]]


class _GivenUpError(BaseException):
    """Nobody waits for the outcome; a worker drops what it has in hand."""


def _in_order(
    shards: Iterable[Shard],
    jobs: int,
    work: Callable[[Shard, Callable[[int], None]], Outcome],
    given: tuple[Callable[[int], None], threading.Event],
) -> Iterator[Outcome]:
    """Work on shards in threads, a few ahead, and yield in their order."""
    advance, enough = given
    given_up = threading.Event()
    go_on = _advancing(advance, given_up)

    def one(shard: Shard) -> Outcome | BaseException:
        # Returned, not raised: whatever ends a thread of a pool would leave it waiting for ever.
        try:
            return work(shard, go_on)
        except _CallerError as error:
            return error.error
        except BaseException as error:  # noqa: BLE001 - as above; it is raised below
            return error

    def coming() -> Iterator[Task]:
        for shard in shards:
            if enough.is_set() or given_up.is_set():
                return
            yield joblib.delayed(one)(shard)

    outcomes = _pool(jobs, coming())
    try:
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome
            yield outcome
    finally:
        given_up.set()
        for _ in outcomes:  # those in hand, which stop at their next map
            pass


def _advancing(advance: Callable[[int], None], given_up: threading.Event) -> Callable[[int], None]:
    """Return what a worker calls when it has made maps: it stops where nobody waits for them."""

    def go_on(count: int) -> None:
        if given_up.is_set():
            raise _GivenUpError
        try:
            advance(count)
        except Exception as error:
            raise _CallerError(error) from error

    return go_on


def _pool(jobs: int, tasks: Iterator[Task]) -> Iterator[Outcome | BaseException]:
    """Return what tasks return, in their order."""
    if jobs == 1:
        return (function(*given) for function, given, _ in tasks)
    pool = joblib.Parallel(
        jobs, backend="threading", return_as="generator", batch_size=1, pre_dispatch=jobs + 1
    )
    found: Iterator[Outcome | BaseException] = pool(tasks)
    return found


class _CallerError(BaseException):
    """What whoever watches the progress has raised: no fault of a method."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


@contextmanager
def surroundings(setup: Setup, jobs: int) -> Iterator[None]:
    """Set threads, precision and softplus as a run wants them, as long as the context lasts."""
    with (
        threads_each(jobs),
        float32(setup.classifier.module.mean.device, exact=setup.plan.precision == "ieee"),
        differentiable_twice(wanted=bool(setup.attacks())),
    ):
        yield


def crew(setup: Setup) -> Iterator[Worker]:
    """Yield the workers of a run, each with networks of its own that share the weights."""
    plan, methods = setup.plan, tuple(setup.methods)
    references = setup.references
    if references is not None:
        references = references.to(setup.classifier.module.mean.device)

    def worker(own: Classifier, twins: tuple[Worker, ...]) -> Worker:
        # Some methods trace their network, once, during which no other thread may run one.
        for method in methods:
            method.method.inapplicable(own)
        return Worker(own, methods, plan.engine, setup.at_once, twins=twins, references=references)

    twins = randomised_twins(setup.classifier, plan.nulls, plan.seed)
    for place, own in enumerate(setup.classifiers()):
        theirs = [setup.another(twin) if place else twin for twin in twins]
        yield worker(own, tuple(worker(twin, ()) for twin in theirs))
