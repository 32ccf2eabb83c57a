"""How long maps take: each method on each device, with what it takes to believe the figures."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, TypeVar

import torch

from steadymap.bench.core.errors import one_line
from steadymap.bench.core.machine import fingerprint, machine
from steadymap.bench.data.image_set import ImageSet
from steadymap.bench.measure.agreement import Agreement
from steadymap.bench.measure.cold_start import ColdStart, ColdTask, cold_start
from steadymap.bench.measure.course import Course, unfit
from steadymap.bench.methods.batch import DATA_REFERENCES, Batch, draws_of
from steadymap.bench.methods.binding import bind_method
from steadymap.bench.methods.method import BoundMethod, foreign
from steadymap.bench.network import memory, torch_settings
from steadymap.bench.network.guard import Guard, LeftChangedError, left_as_it_was
from steadymap.bench.network.passes import count_passes
from steadymap.bench.perturbations import apply, cell
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
    fresh: ColdStart | None = None


def time_device(
    course: Course, images: ImageSet, device: str, say: Callable[[str], None]
) -> list[Timed]:
    """Return how long every method takes on a device, in turns: a slow minute slows them all.

    Where there is no such device each row says so. A method that raises, or leaves the network
    changed, is timed no further, and its row says so; what it changed is put back.
    """
    missing = _missing(torch.device(device))
    if missing:
        return [Timed(spec, device, missing, course.batch) for spec in course.methods]
    classifier = course.load(device)
    applied: list[BoundMethod] = []
    rows: list[Timed] = []
    for spec in course.methods:
        method = bind_method(spec)
        reason = unfit(method, classifier)
        if reason is None:
            applied.append(method)
        else:
            rows.append(Timed(method.spec, device, reason, course.batch))
    timer = _Timer(course, classifier, images)
    with torch_settings.float32(classifier.module.mean.device, exact=course.exact):
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
        self.at_once = memory.images_at_once(classifier)
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

    def unseen(self, count: int) -> torch.Tensor:
        """Return images (count, 3, H, W) on the host."""
        self.draw += 1
        chosen = [
            apply.perturb(
                self.pictures[place % len(self.pictures)],
                cell.Cell("gaussian_noise", NOISE, self.draw),
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
            if memory.is_out_of_memory(error):
                raise
            self.faults[method] = one_line(error)
        return None

    def _clocked(self, method: BoundMethod, count: int) -> tuple[float, float | None]:
        images = self.unseen(count)
        targets = torch.zeros(count, dtype=torch.int64, device=self.device)
        draws = draws_of(self.course.seed, [f"{place}" for place in range(count)])
        on_gpu = self.device.type == "cuda"
        events = [torch.cuda.Event(enable_timing=True) for _ in range(2)] if on_gpu else []
        if on_gpu:
            torch.cuda.synchronize(self.device)
        started = time.perf_counter()
        shown = images.to(self.device)
        references = self.references.to(self.device)
        batch = Batch(shown, targets, draws, self.at_once, references=references)
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
        """Return the times of warm runs of every method, in turns; faulty ones are left out."""
        for method, count in batches.items():
            self._within_memory(method, count, partial(self._clocked, method, count))
        times: dict[BoundMethod, list[tuple[float, float | None]]] = {m: [] for m in batches}
        for _ in range(self.course.repeats):
            for method, count in batches.items():
                run = self._within_memory(method, count, partial(self._clocked, method, count))
                times[method] += [] if run is None else [run]
        return {
            method: (
                Stopwatch.of([seconds for seconds, _ in runs]),
                _stopwatch([inside for _, inside in runs if inside is not None]),
            )
            for method, runs in times.items()
            if method not in self.faults
        }

    def _within_memory(self, method: BoundMethod, count: int, work: Callable[[], T]) -> T | None:
        try:
            return self._tried(method, work)
        except Exception as error:
            if not memory.is_out_of_memory(error):
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
                if not memory.is_out_of_memory(error):
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

    def fresh(self, method: BoundMethod, images: ImageSet) -> ColdStart | None:
        """Return how the first batch of a new process went; None where it goes wrong.

        None, too, where that was not asked for.
        """
        if not self.course.fresh:
            return None
        count = self.course.batch
        pixels = torch.stack([images.read(place % len(images)).image for place in range(count)])
        task = ColdTask(method.spec, str(self.device), torch.get_num_threads(), self.at_once)
        try:
            return cold_start(self.course, pixels.numpy(), task)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - as above; or the process was ended
            self.faults[method] = f"in a process of its own: {one_line(error)}"
        return None


def _stopwatch(seconds: list[float]) -> Stopwatch | None:
    return Stopwatch.of(seconds) if seconds else None


def report(course: Course, rows: Sequence[Timed], parity: Sequence[Agreement]) -> dict[str, Any]:
    """Return everything that was measured, ready for JSON."""
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
        "agreement": [asdict(agreement) for agreement in parity],
    }
