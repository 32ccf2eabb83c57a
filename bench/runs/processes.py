"""Shards computed in other processes, on this machine or on others."""

from __future__ import annotations

import signal
import sys
import threading
import time
import uuid
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal

import joblib
import torch
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from steadymap.bench.core import errors, safe_yaml
from steadymap.bench.core.machine import machine
from steadymap.bench.data import image_set, masks, opening
from steadymap.bench.measure.outcome import Outcome, failed
from steadymap.bench.measure.runner import crew, surroundings
from steadymap.bench.measure.shard import measure_shard
from steadymap.bench.measure.watch import Watch
from steadymap.bench.measure.worker import Worker
from steadymap.bench.network.loading import load_model
from steadymap.bench.plan import plan, sharding
from steadymap.bench.plan.experiment import Experiment
from steadymap.bench.plan.setup import Setup, deployed, prepare
from steadymap.bench.plan.shards import Shard
from steadymap.bench.runs.draw_up import draw_up
from steadymap.bench.runs.ledger import Ledger, not_the_same

# How often a shard is tried whose worker died.
TRIES = 3
POLL_SECONDS = 0.2
# How long to wait for the workers of a scheduler.
PATIENCE_SECONDS = 30

Backend = Literal["threading", "loky", "dask", "submitit"]


class Parallel(BaseModel):
    """Who computes: the keys of a `--parallel-config` file.

    Attributes:
        backend: threading for threads of this process, loky for processes, dask for the workers of
            a scheduler, submitit for jobs of SLURM.
        jobs: how many shards at a time; left out, one a core, or one a worker of the scheduler.
        threads: of torch, each; left out, the cores shared among the jobs, and 1 elsewhere.
        tries: how often a shard is tried whose worker died, before its values are errors.
        address: of the scheduler of dask; left out, a cluster of processes is started here.
        patience: how many seconds to wait for the scheduler and its workers.
        resources: that a worker of dask must offer, e.g. `{GPU: 1}`.
        folder: of submitit, for its files: on a disk that all machines see.
        cluster: of submitit: slurm, or local for processes of this machine.
        parameters: of submitit, e.g. `{slurm_partition: gpu, gpus_per_node: 1, timeout_min: 60}`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    backend: Backend = "threading"
    jobs: Annotated[int, Field(ge=1, le=plan.MOST_THREADS)] | None = None
    threads: Annotated[int, Field(ge=1, le=plan.MOST_THREADS)] | None = None
    tries: Annotated[int, Field(ge=1, le=100)] = TRIES
    address: str | None = None
    patience: Annotated[float, Field(gt=0)] = PATIENCE_SECONDS
    resources: Mapping[str, float] = Field(default_factory=dict)
    folder: Path = Path("submitit")
    cluster: Literal["slurm", "local"] = "slurm"
    parameters: Mapping[str, str | int | float | bool] = Field(default_factory=dict)


def read_parallel(path: Path) -> Parallel:
    """Read a file that says who computes.

    Raises:
        ConfigError: one line for the first thing wrong.
    """
    try:
        content = safe_yaml.parse_yaml(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise errors.ConfigError(
            f"parallel_config: cannot read {path}: {errors.one_line(error)}"
        ) from error
    try:
        return Parallel.model_validate({} if content is None else content)
    except ValidationError as error:
        raise errors.ConfigError(
            f"parallel_config: {errors.first_error(error, 'the file')}"
        ) from error


@dataclass(frozen=True)
class Blueprint:
    """All that another process needs to compute shards of a run.

    Attributes:
        experiment: the run; its paths are absolute.
        pictures: the images, which are not decoded to be known, but when they are read.
        ledger: what the run consists of; this process must come to the same.
        home: the folder where the run was started: a user's own modules are found there.
        threads: of torch.
    """

    experiment: Experiment
    pictures: tuple[image_set.Picture, ...]
    ledger: Ledger
    home: str
    threads: int


# What this process computes shards of, the last blueprint's: opened once, not once a shard.
_OPENED: dict[str, tuple[Setup, Worker]] = {}
# A worker of dask may have several threads, and a network takes one.
_ONE_AT_A_TIME = threading.Lock()


def compute(blueprint: Blueprint, key: str, shard: Shard) -> Outcome:
    """Return the outcome of a shard, computed in this process.

    Args:
        blueprint: of the run.
        key: stands for it.
        shard: what to compute.
    """
    if threading.current_thread() is threading.main_thread():
        # Ctrl-C reaches all processes of a terminal; the one that the user started decides.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    with _ONE_AT_A_TIME:
        torch.set_num_threads(blueprint.threads)
        if key not in _OPENED:
            _OPENED.clear()
            _OPENED[key] = _open(blueprint)
        setup, worker = _OPENED[key]
        keep_maps = blueprint.experiment.save_maps
        with surroundings(setup, 1):
            outcome = measure_shard(setup, worker, shard, Watch(), keep_maps=keep_maps)
        return replace(outcome, machine=machine(setup.classifier.module.mean.device))


def _open(blueprint: Blueprint) -> tuple[Setup, Worker]:
    if blueprint.home not in sys.path:
        sys.path.insert(0, blueprint.home)
    experiment = blueprint.experiment
    device = torch.device(experiment.device)
    classifier = load_model(experiment.model, experiment.weights, device)
    known = {picture.name: picture.image_id for picture in blueprint.pictures}
    images = opening.open_images(
        experiment.data, classifier.framing, experiment.split, experiment.limit, known
    )
    if images.pictures != blueprint.pictures:
        raise errors.DataError(f"data: {experiment.data} holds other pictures here")
    if experiment.mask:
        images = masks.with_masks(images, experiment.mask)
    classifier = deployed(classifier, images, experiment.variant)
    setup = prepare(classifier, images, experiment.model_copy(update={"jobs": 1}))
    expected = blueprint.ledger
    own = draw_up(setup, expected.run_id, experiment.split, maps=experiment.save_maps)
    if reasons := not_the_same(expected, own):
        raise errors.ConfigError(
            f"parallel_config: a worker differs in {', '.join(reasons)}; give it the same model, "
            "data, packages and modules, and start it anew"
        )
    return setup, next(iter(crew(setup)))


# --- who computes ---------------------------------------------------------------------------------

Work = Callable[[Shard], Outcome]
# Yields outcomes as they come; ends with `WorkerDiedError` where a process died.
Engine = Callable[[Work, Iterable[Shard]], Iterator[Outcome]]


# Makes the outcome of a shard that was given up: which, after how many tries, and why.
GivenUp = Callable[[Shard, int, str], Outcome]


class WorkerDiedError(Exception):
    """A process that was computing ended, killed for its memory, say."""


@contextmanager
def _processes(how: Parallel, _given_up: GivenUp) -> Iterator[Engine]:
    """Processes of this machine, by joblib."""
    with joblib.parallel_config("loky", n_jobs=_jobs(how)):
        yield partial(_by_joblib, "n_jobs")


@contextmanager
def _dask(how: Parallel, _given_up: GivenUp) -> Iterator[Engine]:
    """Workers of dask, by joblib: those of a scheduler, or processes started here."""
    if find_spec("distributed") is None:
        raise errors.ConfigError("parallel_config: dask is missing: pip install 'steadymap[dask]'")
    import distributed  # noqa: PLC0415 - an extra

    with ExitStack() as stack:
        if how.address is None:
            with _deaf_to_interrupts():
                cluster = distributed.LocalCluster(
                    n_workers=_jobs(how),
                    threads_per_worker=1,
                    dashboard_address=None,
                    resources=dict(how.resources) or None,
                )
            stack.enter_context(cluster)
            client = stack.enter_context(distributed.Client(cluster))
        else:
            try:
                client = distributed.Client(how.address, timeout=how.patience)
                stack.enter_context(client)
                client.wait_for_workers(1, timeout=how.patience)
            except (OSError, ValueError, TimeoutError) as error:
                raise errors.ConfigError(
                    f"parallel_config: {how.address} has no scheduler with workers: "
                    f"{errors.one_line(error)}"
                ) from error
        _check_resources(how, client.scheduler_info(n_workers=-1)["workers"])
        options = {"resources": dict(how.resources)} if how.resources else {}
        stack.enter_context(joblib.parallel_config("dask", client=client, **options))
        # joblib would take all workers that there are.
        yield partial(_by_joblib, how.jobs or "n_jobs")


@contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """Let processes that start now not hear of Ctrl-C: who has started them decides."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _check_resources(how: Parallel, workers: Mapping[str, Mapping[str, Any]]) -> None:
    """See that some worker offers what is asked for: or the shards would wait for ever."""
    offers = [worker.get("resources") or {} for worker in workers.values()]
    for name, amount in how.resources.items():
        most = max((offer.get(name, 0) for offer in offers), default=0)
        if most < amount:
            raise errors.ConfigError(
                f"parallel_config: resources: {name}: {amount:g} is asked for, and no worker "
                f"offers more than {most:g}; start workers with --resources {name}={amount:g}"
            )


def _by_joblib(in_hand: int | str, work: Work, shards: Iterable[Shard]) -> Iterator[Outcome]:
    """Compute shards by joblib, so many at a time."""
    pool = joblib.Parallel(return_as="generator_unordered", batch_size=1, pre_dispatch=in_hand)
    try:
        yield from pool(joblib.delayed(work)(shard) for shard in shards)
    except Exception as error:
        # Of joblib and of dask, which need not be there.
        if type(error).__name__ in ("TerminatedWorkerError", "BrokenProcessPool", "KilledWorker"):
            raise WorkerDiedError(errors.one_line(error)) from error
        if type(error).__name__ in ("CommClosedError", "CancelledError", "FutureCancelledError"):
            raise errors.ConfigError(
                f"parallel_config: the scheduler was lost ({errors.one_line(error)}); what was "
                "written is whole, and the same command goes on"
            ) from error
        raise


@contextmanager
def _submitit(how: Parallel, given_up: GivenUp) -> Iterator[Engine]:
    """Jobs of SLURM, one a shard, by submitit."""
    if find_spec("submitit") is None:
        raise errors.ConfigError(
            "parallel_config: submitit is missing: pip install 'steadymap[slurm]'"
        )
    import submitit  # noqa: PLC0415 - an extra

    try:
        executor = submitit.AutoExecutor(folder=how.folder, cluster=how.cluster)
        executor.update_parameters(**how.parameters)
    except (RuntimeError, NameError, TypeError) as error:
        raise errors.ConfigError(f"parallel_config: submitit: {errors.one_line(error)}") from error

    yield partial(_by_submitit, executor, how, given_up)


def _by_submitit(
    executor: Any,  # noqa: ANN401 - of an extra
    how: Parallel,
    given_up: GivenUp,
    work: Work,
    shards: Iterable[Shard],
) -> Iterator[Outcome]:
    from submitit.core.utils import FailedJobError, UncompletedJobError  # noqa: PLC0415 - an extra

    coming, tries = iter(shards), Counter[Shard]()
    going: list[tuple[Any, Shard]] = []
    try:
        while True:
            for shard in islice(coming, max(0, _jobs(how) - len(going))):
                going.append((executor.submit(work, shard), shard))  # noqa: PERF401 - one by one: known if the next fails
            if not going:
                return
            for job, shard in [(job, shard) for job, shard in going if job.done()]:
                going.remove((job, shard))
                error = job.exception()
                if isinstance(error, FailedJobError):
                    raise error  # it has raised, and would again
                if not isinstance(error, UncompletedJobError):
                    yield job.result()
                    continue
                tries[shard] += 1
                if tries[shard] < how.tries:
                    going.append((executor.submit(work, shard), shard))
                else:
                    yield given_up(shard, how.tries, errors.one_line(error))
            time.sleep(POLL_SECONDS)
    except FailedJobError as error:
        reason = str(error).strip().splitlines()[-1]
        raise errors.ConfigError(f"parallel_config: submitit: {reason}") from error
    finally:
        for job, _ in going:
            job.cancel()


ENGINES: dict[Backend, Callable[[Parallel, GivenUp], AbstractContextManager[Engine]]] = {
    "loky": _processes,
    "dask": _dask,
    "submitit": _submitit,
}


def _jobs(how: Parallel) -> int:
    return how.jobs or joblib.cpu_count()


def threads_of(how: Parallel) -> int:
    """Return how many threads torch has in each process."""
    if how.threads is not None:
        return how.threads
    return max(1, torch.get_num_threads() // _jobs(how)) if how.backend == "loky" else 1


def in_processes(
    setup: Setup,
    shards: Sequence[Shard],
    blueprint: Blueprint,
    how: Parallel,
    watch: Watch,
) -> Iterator[Outcome]:
    """Yield the outcomes of shards as they come, computed by other processes.

    Where a process dies nobody knows which of the shards in hand has killed it: each of them is
    then tried alone, as often as `how` says, and after that its values are errors.

    Args:
        setup: of the run.
        shards: what to compute.
        blueprint: of the run.
        how: by whom.
        watch: who is told of the maps of each shard; and what ends the run early.

    Raises:
        ConfigError: who should compute cannot be had.
    """
    work = partial(compute, blueprint, uuid.uuid4().hex)
    waiting = deque(shards)
    with ENGINES[how.backend](how, partial(_given_up, setup)) as engine:
        while waiting and not watch.stop.is_set():
            begun: list[Shard] = []
            try:
                for outcome in engine(work, _until(watch.stop, waiting, begun)):
                    begun.remove(outcome.shard)
                    watch.advance(sharding.map_count(setup, outcome.shard))
                    yield outcome
            except WorkerDiedError:
                for shard in begun:
                    if not watch.stop.is_set():
                        outcome = _alone(setup, shard, partial(engine, work), how.tries)
                        watch.advance(sharding.map_count(setup, shard))
                        yield outcome


def _until(stop: threading.Event, waiting: deque[Shard], begun: list[Shard]) -> Iterator[Shard]:
    """Yield what waits as what was begun, until the run is stopped."""
    while waiting and not stop.is_set():
        begun.append(waiting.popleft())
        yield begun[-1]


def _alone(
    setup: Setup,
    shard: Shard,
    engine: Callable[[Iterable[Shard]], Iterator[Outcome]],
    tries: int,
) -> Outcome:
    reason = ""
    for _ in range(tries):
        try:
            return next(engine([shard]))
        except WorkerDiedError as error:
            reason = str(error)
    return _given_up(setup, shard, tries, reason)


def _given_up(setup: Setup, shard: Shard, tries: int, reason: str) -> Outcome:
    return failed(setup, shard, f"its worker died {tries} times: {reason}")
