"""How long maps take: each method on each device, with what it takes to believe the figures."""

from __future__ import annotations

import math
import multiprocessing
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr
from torch import Tensor

from steadymap.bench.core.errors import one_line
from steadymap.bench.core.machine import fingerprint, machine, peak_memory, retain_heap
from steadymap.bench.data.image_set import ImageSet
from steadymap.bench.methods.batch import Batch
from steadymap.bench.methods.binding import bind_method
from steadymap.bench.methods.method import BoundMethod, foreign
from steadymap.bench.network.guard import Guard, LeftChangedError, left_as_it_was
from steadymap.bench.network.loading import load_model
from steadymap.bench.network.memory import images_at_once, is_out_of_memory
from steadymap.bench.network.passes import count_passes
from steadymap.bench.network.torch_settings import float32
from steadymap.bench.perturbations.apply import perturb
from steadymap.bench.perturbations.cell import Cell
from steadymap.bench.plan.setup import DATA_REFERENCES
from steadymap.models import Classifier

T = TypeVar("T")

# A spread of the middle half beyond this share of the median makes a timing unstable.
STEADY_SPREAD = 0.1

# Batches that are tried in search of a device's best.
BATCHES = {"cpu": (1, 4, 16, 64), "cuda": (1, 4, 16, 64, 256)}
SEARCH_REPEATS = 2

# Inputs are photographs with noise too weak to matter, new ones each time: nothing can be cached.
NOISE = 0.01


@dataclass(frozen=True)
class Stopwatch:
    """Seconds by the clock of warm runs on inputs that were not seen before.

    Attributes:
        median: of the runs.
        low: their first quartile.
        high: their third quartile.
        least: the fastest.
        runs: how many.
    """

    median: float
    low: float
    high: float
    least: float
    runs: int

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Stopwatch:
        """Summarise runs.

        Raises:
            ValueError: fewer than two.
        """
        low, median, high = statistics.quantiles(seconds, n=4, method="inclusive")
        return cls(median, low, high, min(seconds), len(seconds))

    @property
    def spread(self) -> float:
        """The middle half's width as a share of the median."""
        return (self.high - self.low) / self.median

    @property
    def steady(self) -> bool:
        """Whether the spread is at most a tenth."""
        return self.spread <= STEADY_SPREAD


@dataclass(frozen=True)
class Fresh:
    """The first batch of a method in a process of its own.

    Attributes:
        seconds: by the clock, from images in host memory to maps in host memory.
        peak: the most memory held until then, in bytes; see `peak_memory`.
        before: the same before the method ran: libraries, weights, one image.
    """

    seconds: float
    peak: dict[str, int]
    before: dict[str, int]


@dataclass(frozen=True)
class Timed:
    """A method on a device.

    Attributes:
        method: its spec.
        device: cpu, cuda, ...
        missing: why there is nothing more; empty where there is.
        batch: images of a batch, the same on every device.
        warm: from images in host memory to maps in host memory, a batch.
        device_only: on a GPU, between events on the device: no copies; None on a CPU.
        best_batch: the batch at which an image is fastest, of those tried.
        best: the same as `warm`, at that batch.
        forward: how many times an image goes forward for one map.
        backward: how many of these come back.
        fresh: the cold start; None where it was not asked for.
    """

    method: str
    device: str
    missing: str
    batch: int
    warm: Stopwatch | None = None
    device_only: Stopwatch | None = None
    best_batch: int | None = None
    best: Stopwatch | None = None
    forward: float | None = None
    backward: float | None = None
    fresh: Fresh | None = None


@dataclass(frozen=True)
class Agreement:
    """How far a device's maps are from the CPU's on the same images.

    Attributes:
        method: its spec.
        device: the other device.
        relative_l2: the largest distance over the CPU map's norm.
        rank: the smallest Spearman correlation of maps summed over channels.
        missing: why there are neither; empty where there are.
    """

    method: str
    device: str
    relative_l2: float
    rank: float
    missing: str = ""


@dataclass(frozen=True)
class Course:
    """What is timed.

    Attributes:
        model: see `steadymap list models`.
        weights: a file of weights; None for those that the model brings.
        methods: specs.
        batch: images of a batch.
        repeats: warm runs of each method.
        fresh: whether to start processes for the cold start and memory.
        keep_heap: whether these retain their heap, as the command line's own does.
        exact: float32 proper on a GPU; otherwise TF32.
        seed: of the random baseline.
    """

    model: str
    weights: Path | None
    methods: tuple[str, ...]
    batch: int
    repeats: int
    fresh: bool
    keep_heap: bool
    exact: bool = True
    seed: int = 0

    def load(self, device: str) -> Classifier:
        """Load the classifier onto a device."""
        return load_model(self.model, self.weights, torch.device(device))


def time_device(
    course: Course, images: ImageSet, device: str, say: Callable[[str], None]
) -> list[Timed]:
    """Time every method on a device, in turns, so that a slow minute slows them all.

    Where there is no such device each row says so. A method that raises, or leaves the network
    changed, is timed no further, and its row says so; what it changed is put back.
    """
    reason = _missing(torch.device(device))
    if reason:
        return [Timed(spec, device, reason, course.batch) for spec in course.methods]
    classifier = course.load(device)
    applied: list[BoundMethod] = []
    rows: list[Timed] = []
    for spec in course.methods:
        method = bind_method(spec)
        unfit = _unfit(method, classifier)
        if unfit is None:
            applied.append(method)
        else:
            rows.append(Timed(method.spec, device, unfit, course.batch))
    timer = _Timer(course, classifier, images)
    with float32(classifier.module.mean.device, exact=course.exact):
        say(f"{device}: {course.repeats} runs of {len(applied)} methods, in turns")
        warm = timer.in_turns(dict.fromkeys(applied, course.batch))
        say(f"{device}: in search of the best batch")
        tried = {method: timer.best_batch(method) for method in warm}
        best = {method: count for method, count in tried.items() if count is not None}
        at_best = timer.in_turns(best)
        for method in at_best:
            say(f"{device}: {method.spec}: passes" + (", cold start" if course.fresh else ""))
            passes = timer.passes(method)
            fresh = None if passes is None else timer.fresh(method, images)
            if passes is None or method in timer.faults:
                continue
            rows.append(
                Timed(
                    method.spec,
                    device,
                    "",
                    course.batch,
                    *warm[method],
                    best[method],
                    at_best[method][0],
                    *passes,
                    fresh,
                )
            )
    rows += [Timed(m.spec, device, fault, course.batch) for m, fault in timer.faults.items()]
    return rows


def _unfit(method: BoundMethod, classifier: Classifier) -> str | None:
    """Say why a classifier cannot be explained with a method, or return None."""
    try:
        return method.method.inapplicable(classifier)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a plug-in may raise anything; its row says what
        return f"does it apply? {one_line(error)}"


def _missing(device: torch.device) -> str:
    """Return why there is no such device; empty where there is one."""
    if device.type != "cuda":
        return ""
    if not torch.cuda.is_available():
        return "torch sees no CUDA device here"
    count = torch.cuda.device_count()
    return "" if (device.index or 0) < count else f"there are {count} CUDA devices"


class _Timer:
    """Runs methods on inputs that nobody has seen.

    Attributes:
        faults: by method, what it did wrong; it is run no more.
    """

    def __init__(self, course: Course, classifier: Classifier, images: ImageSet) -> None:
        self.course = course
        self.classifier = classifier
        self.device = classifier.module.mean.device
        self.at_once = images_at_once(classifier)
        self.pictures = [images.read(index).image for index in range(min(len(images), 64))]
        self.references = torch.stack(self.pictures[:DATA_REFERENCES])
        self.draw = 0
        self.faults: dict[BoundMethod, str] = {}
        self._guard: Guard | None = None

    def guard(self) -> Guard:
        """Return what watches the network, once there is a method that is not ours."""
        if self._guard is None:
            self._guard = Guard(self.classifier, keep=True)
        return self._guard

    def unseen(self, count: int) -> Tensor:
        """Return images (count, 3, H, W) on the host."""
        self.draw += 1
        chosen = [
            perturb(
                self.pictures[place % len(self.pictures)],
                Cell("gaussian_noise", NOISE, self.draw),
                f"{place}",
                self.course.seed,
            )
            for place in range(count)
        ]
        return torch.stack(chosen)

    def once(self, method: BoundMethod, count: int) -> tuple[float, float | None] | None:
        """Return seconds end to end, and on a GPU between events; None where it goes wrong.

        What watches a method that is not ours does so before and after the clock runs. Memory that
        runs out is the caller's affair.
        """
        return self._tried(method, lambda: self._clocked(method, count))

    def _tried(self, method: BoundMethod, work: Callable[[], T]) -> T | None:
        if method in self.faults:
            return None
        try:
            if not foreign(method.method):
                return work()
            with left_as_it_was(self.guard(), self.pictures[0][None].to(self.device)):
                return work()
        except LeftChangedError as error:
            self.faults[method] = str(error)
        except (Exception, SystemExit) as error:
            if is_out_of_memory(error):
                raise
            self.faults[method] = one_line(error)
        return None

    def _clocked(self, method: BoundMethod, count: int) -> tuple[float, float | None]:
        images = self.unseen(count)
        targets = torch.zeros(count, dtype=torch.int64, device=self.device)
        ids = tuple(f"{place}" for place in range(count))
        on_gpu = self.device.type == "cuda"
        events = [torch.cuda.Event(enable_timing=True) for _ in range(2)] if on_gpu else []
        if on_gpu:
            torch.cuda.synchronize(self.device)
        started = time.perf_counter()
        shown = images.to(self.device)
        references = self.references.to(self.device)
        batch = Batch(shown, targets, ids, self.course.seed, self.at_once, references=references)
        for event in events[:1]:
            event.record(torch.cuda.current_stream(self.device))
        maps = method.explain(self.classifier, batch)
        for event in events[1:]:
            event.record(torch.cuda.current_stream(self.device))
        maps.cpu()
        seconds = time.perf_counter() - started
        inside = events[0].elapsed_time(events[1]) / 1000 if on_gpu else None
        return seconds, inside

    def in_turns(
        self, batches: dict[BoundMethod, int]
    ) -> dict[BoundMethod, tuple[Stopwatch, Stopwatch | None]]:
        """Warm every method up at its batch, then run them in turns; faulty ones are left out."""
        for method, count in batches.items():
            self._within_memory(method, count, partial(self._clocked, method, count))
        found: dict[BoundMethod, list[tuple[float, float | None]]] = {m: [] for m in batches}
        for _ in range(self.course.repeats):
            for method, count in batches.items():
                run = self._within_memory(method, count, partial(self._clocked, method, count))
                found[method] += [] if run is None else [run]
        return {
            method: (
                Stopwatch.of([seconds for seconds, _ in runs]),
                _stopwatch([inside for _, inside in runs if inside is not None]),
            )
            for method, runs in found.items()
            if method not in self.faults
        }

    def _within_memory(self, method: BoundMethod, count: int, work: Callable[[], T]) -> T | None:
        try:
            return self._tried(method, work)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            self.faults[method] = f"{one_line(error)} (batch of {count})"
        return None

    def best_batch(self, method: BoundMethod) -> int | None:
        """Return the batch at which an image takes the least time, of those tried.

        Where memory does not hold a batch, no larger one is tried. None where the method goes
        wrong.
        """
        rates: dict[int, float] = {}
        for count in BATCHES[self.device.type]:
            try:
                runs = [self.once(method, count) for _ in range(1 + SEARCH_REPEATS)]
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                if not rates:
                    self.faults[method] = f"{one_line(error)} (batch of {count})"
                break
            # The first is there to warm up.
            rates[count] = min((run[0] for run in runs[1:] if run), default=math.inf) / count
        return None if method in self.faults else min(rates, key=rates.__getitem__)

    def passes(self, method: BoundMethod) -> tuple[float, float] | None:
        """Return how many times an image goes forward, and back; None where it goes wrong."""
        batch = self.course.batch

        def counted() -> tuple[float, float]:
            with count_passes(self.classifier) as counts:
                self._clocked(method, batch)
            return counts.forward / batch, counts.backward / batch

        return self._within_memory(method, batch, counted)

    def fresh(self, method: BoundMethod, images: ImageSet) -> Fresh | None:
        """Time the first batch of a process of its own, if that was asked for."""
        if not self.course.fresh:
            return None
        count = self.course.batch
        pixels = torch.stack([images.read(place % len(images)).image for place in range(count)])
        where = Where(method.spec, str(self.device), torch.get_num_threads(), self.at_once)
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            begun = pool.submit(first_batch, self.course, pixels.numpy(), where)
            try:
                return begun.result()
            except (Exception, SystemExit) as error:  # noqa: BLE001 - as above; or the process was ended
                self.faults[method] = f"in a process of its own: {one_line(error)}"
        return None


def _stopwatch(seconds: list[float]) -> Stopwatch | None:
    return Stopwatch.of(seconds) if seconds else None


@dataclass(frozen=True)
class Where:
    """Method, device, CPU threads and images at once of a process of its own."""

    spec: str
    device: str
    threads: int
    at_once: int


def first_batch(course: Course, pixels: NDArray[np.float32], where: Where) -> Fresh:
    """Explain the first batch of a process: what `Fresh` says.

    Args:
        course: what is timed.
        pixels: (B, 3, H, W).
        where: what runs where.
    """
    if course.keep_heap:
        retain_heap()
    torch.set_num_threads(where.threads)
    classifier = course.load(where.device)
    place = classifier.module.mean.device
    method = bind_method(where.spec)
    images = torch.from_numpy(np.array(pixels))
    targets = torch.zeros(len(images), dtype=torch.int64, device=place)
    ids = tuple(str(index) for index in range(len(images)))
    before = peak_memory(place)
    with float32(place, exact=course.exact):
        started = time.perf_counter()
        shown = images.to(place)
        references = shown[:DATA_REFERENCES]
        batch = Batch(shown, targets, ids, course.seed, where.at_once, references=references)
        method.explain(classifier, batch).cpu()
        seconds = time.perf_counter() - started
    return Fresh(seconds, peak_memory(place), before)


def agreement(course: Course, images: ImageSet, device: str) -> list[Agreement]:
    """Compare a device's maps with the CPU's, method by method, on the same images and targets.

    Where a method goes wrong, its entry says so.
    """
    count = min(course.batch, len(images))
    shown = torch.stack([images.read(place).image for place in range(count)])
    ids = tuple(picture.image_id for picture in images.pictures[:count])
    classifiers = [course.load("cpu"), course.load(device)]
    with torch.no_grad():
        targets = classifiers[0](shown).argmax(dim=1)
    batch = Batch(shown, targets, ids, course.seed, references=shown[:DATA_REFERENCES])
    guards: dict[Classifier, Guard] = {}
    found = []
    for method in map(bind_method, course.methods):
        if _unfit(method, classifiers[0]) is not None:
            continue
        if foreign(method.method) and not guards:
            guards = {classifier: Guard(classifier, keep=True) for classifier in classifiers}
        try:
            maps = [
                _maps(method, classifier, batch, course.exact, guards) for classifier in classifiers
            ]
            found.append(Agreement(method.spec, device, *difference(*maps)))
        except (Exception, SystemExit) as error:  # noqa: BLE001 - a plug-in may raise anything; its entry says what
            reason = str(error) if isinstance(error, LeftChangedError) else one_line(error)
            found.append(Agreement(method.spec, device, math.inf, math.nan, reason))
    return found


def _maps(
    method: BoundMethod,
    classifier: Classifier,
    batch: Batch,
    exact: bool,
    guards: Mapping[Classifier, Guard],
) -> Tensor:
    """Return maps of a batch on the CPU, in double precision; what is not ours gets copies."""
    place = classifier.module.mean.device
    moved = replace(
        batch,
        images=batch.images.to(place, copy=True),
        targets=batch.targets.to(place, copy=True),
        references=batch.need_references().to(place, copy=True),
        at_once=images_at_once(classifier),
    )
    with float32(place, exact=exact):
        if not foreign(method.method):
            return method.explain(classifier, moved).cpu().double()
        with left_as_it_was(guards[classifier], batch.images.to(place)):
            return method.explain(classifier, moved).cpu().double()


def difference(first: Tensor, second: Tensor) -> tuple[float, float]:
    """Return the largest relative L2 and the smallest rank correlation over a batch.

    Two maps of zeros are equal; anything that is not finite is as far apart as can be. Where no map
    has ranks, because all are constant, the correlation is NaN.
    """
    gaps = (first - second).flatten(1).norm(dim=1).tolist()
    norms = first.flatten(1).norm(dim=1).tolist()
    shares = [
        0.0 if gap == 0 else gap / norm if norm else math.inf
        for gap, norm in zip(gaps, norms, strict=True)
    ]
    ranks = [
        float(spearmanr(one.sum(dim=0).flatten(), other.sum(dim=0).flatten()).statistic)
        for one, other in zip(first, second, strict=True)
        if bool(other.isfinite().all()) and float(one.std()) > 0 and float(other.std()) > 0
    ]
    worst = max(share if math.isfinite(share) else math.inf for share in shares)
    return worst, min(ranks, default=math.nan)


# --- what people and programs read ----------------------------------------------------------------


def report(course: Course, rows: Sequence[Timed], parity: Sequence[Agreement]) -> dict[str, Any]:
    """Return everything, ready for JSON."""
    devices = dict.fromkeys(row.device for row in rows if not row.missing)
    machines = {name: machine(torch.device(name)) for name in devices}
    return {
        "timing_version": 1,
        "course": asdict(replace(course, weights=None)),
        "machines": {
            name: facts | {"torch": torch.__version__, "fingerprint": fingerprint(facts)}
            for name, facts in machines.items()
        },
        "rows": [asdict(row) for row in rows],
        "agreement": [asdict(one) for one in parity],
    }
