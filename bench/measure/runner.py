"""Images through perturbations and methods into records: who does which part, and when."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from queue import SimpleQueue

import joblib
import pandas as pd
import pyarrow as pa
from torch import Tensor

from steadymap.bench.data.image_set import ImageSet, from_tensor
from steadymap.bench.measure.nulls import randomised_twins
from steadymap.bench.measure.outcome import Outcome
from steadymap.bench.measure.shard import measure_shard
from steadymap.bench.measure.watch import Watch, WatcherError, to_nobody
from steadymap.bench.measure.worker import Worker
from steadymap.bench.network.torch_settings import float32, threads_each
from steadymap.bench.perturbations.attack import differentiable_twice
from steadymap.bench.plan import identity, sharding
from steadymap.bench.plan.plan import Plan
from steadymap.bench.plan.setup import Setup, prepare
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
    source = Source(identity.run_id(plan, classifier, image_set), classifier.name, image_set.name)
    outcomes = measure(setup, advance or to_nobody)
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
    return in_threads(setup, sharding.whole(setup), Watch(advance), keep_maps=keep_maps)


def in_threads(
    setup: Setup, shards: Sequence[Shard], watch: Watch, *, keep_maps: bool
) -> Iterator[Outcome]:
    """Yield the outcome of one shard after another, in their order, by threads of this process.

    Each takes whole shards and its share of torch's threads; a few are worked on ahead.

    Args:
        setup: of the run.
        shards: what to compute.
        watch: who is told of maps just made, and what ends the run early.
        keep_maps: whether outcomes have the maps themselves.
    """
    jobs = min(setup.plan.jobs, max(1, len(shards)))
    # What gives these shards up is theirs alone.
    watch = replace(watch, give_up=threading.Event())
    workers: SimpleQueue[Worker] = SimpleQueue()
    for worker in crew(setup):
        workers.put(worker)
    team = _Team(setup, workers, watch, keep_maps)
    with surroundings(setup, jobs):
        outcomes = _in_order(team.outcome_of, team.waiting(shards), jobs)
        try:
            for outcome in outcomes:
                if isinstance(outcome, BaseException):
                    raise outcome
                yield outcome
        finally:
            watch.give_up.set()
            for _ in outcomes:  # those in hand, which stop at their next map
                pass


@dataclass(frozen=True)
class _Team:
    """The workers of a run, of which each thread takes one for a shard.

    Attributes:
        setup: of the run.
        workers: those that have nothing in hand.
        watch: who is told of maps just made, and what ends the run early.
        keep_maps: whether outcomes have the maps themselves.
    """

    setup: Setup
    workers: SimpleQueue[Worker]
    watch: Watch
    keep_maps: bool

    def waiting(self, shards: Iterable[Shard]) -> Iterator[Shard]:
        """Yield shards until the run ends."""
        for shard in shards:
            if self.watch.ends:
                return
            yield shard

    def outcome_of(self, shard: Shard) -> Outcome | BaseException:
        """Return the outcome of a shard, or what was raised in its place.

        Whatever ends a thread of a pool would leave the pool waiting for ever.
        """
        worker = self.workers.get()
        try:
            return measure_shard(self.setup, worker, shard, self.watch, keep_maps=self.keep_maps)
        except WatcherError as error:
            return error.raised
        except BaseException as error:  # noqa: BLE001 - as above; `in_threads` raises it
            return error
        finally:
            self.workers.put(worker)


def _in_order(
    work: Callable[[Shard], Outcome | BaseException], shards: Iterator[Shard], jobs: int
) -> Iterator[Outcome | BaseException]:
    """Work on shards in so many threads; return what comes of them, in their order."""
    if jobs == 1:
        return map(work, shards)
    pool = joblib.Parallel(
        jobs, backend="threading", return_as="generator", batch_size=1, pre_dispatch=jobs + 1
    )
    outcomes: Iterator[Outcome | BaseException] = pool(
        joblib.delayed(work)(shard) for shard in shards
    )
    return outcomes


@contextmanager
def surroundings(setup: Setup, jobs: int) -> Iterator[None]:
    """Set threads, precision and softplus as a run wants them, as long as the context lasts."""
    with (
        threads_each(jobs),
        float32(setup.classifier.module.mean.device, exact=setup.plan.precision == "ieee"),
        differentiable_twice(enabled=bool(setup.attacks())),
    ):
        yield


def crew(setup: Setup) -> Iterator[Worker]:
    """Yield the workers of a run, each with networks of its own that share the weights."""
    plan, methods = setup.plan, tuple(setup.methods)
    references = setup.references
    if references is not None:
        references = references.to(setup.classifier.module.mean.device)

    def worker(own: Classifier, twins: tuple[Worker, ...]) -> Worker:
        return Worker(own, methods, plan.engine, setup.at_once, twins=twins, references=references)

    twins = randomised_twins(setup.classifier, plan.nulls, plan.seed)
    for place, own in enumerate(setup.classifiers()):
        own_twins = [setup.another(twin) if place else twin for twin in twins]
        yield worker(own, tuple(worker(twin, ()) for twin in own_twins))
