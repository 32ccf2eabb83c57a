"""What one thread of a run works with."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

import torch

from steadymap.bench.data.image_set import References
from steadymap.bench.methods import baselines, method
from steadymap.bench.network.guard import Guard
from steadymap.bench.network.memory import is_out_of_memory
from steadymap.bench.perturbations.cell import Cell
from steadymap.models import Classifier

BASELINE_PART = "baseline logits"
METRICS_PART = "metrics"
ATTACK_PART = "attack"

T = TypeVar("T")


@dataclass(frozen=True)
class Timing:
    """Seconds by the clock that a part of the work on one view of one batch took.

    Attributes:
        cell: the perturbation.
        part: `attack`, `shared pass`, `baseline logits`, `metrics`, or the spec of a method: what
            it took beyond that pass.
        images: how many images the view has.
        seconds: by the clock, on a GPU up to the end of its work.
    """

    cell: Cell
    part: str
    images: int
    seconds: float


@dataclass
class Worker:
    """What one thread of a run works with; no other may touch it.

    Attributes:
        classifier: of its own, because Grad-CAM and captum hang hooks on it.
        methods: those of the shard in hand.
        engine: own or captum.
        at_once: how many images go through the network together; less where memory ran out.
        halved: how many times memory ran out on the batch in hand.
        timings: of the batch in hand.
        baseline_logits: of the batch in hand, by start, shift, and, where every view has a start
            of its own, cell.
        twins: the same with randomised weights.
        references: images of the data set; None where no method takes any.
    """

    classifier: Classifier
    methods: tuple[method.BoundMethod, ...]
    engine: method.Engine
    at_once: int
    halved: int = 0
    timings: list[Timing] = field(default_factory=list)
    baseline_logits: dict[tuple[baselines.Start, float, Cell | None], torch.Tensor] = field(
        default_factory=dict
    )
    twins: tuple[Worker, ...] = ()
    references: References | None = None
    _guards: dict[bool, Guard] = field(default_factory=dict, init=False, repr=False)

    def guard(self, *, keep: bool) -> Guard:
        """Return what watches the network, as it is when this is first called.

        With `keep` all its values are held on the CPU, to be put back.
        """
        if keep not in self._guards:
            self._guards[keep] = Guard(self.classifier, keep=keep)
        return self._guards[keep]

    def check(self, images: torch.Tensor) -> None:
        """See that nothing has changed the networks since the first batch began.

        Args:
            images: (B, 3, H, W), which they can be tried on.

        Raises:
            ModelError: something has.
        """
        for worker in (self, *self.twins):
            worker.guard(keep=False).check(images)

    def begin(self, methods: tuple[method.BoundMethod, ...]) -> None:
        """Forget the shard before, and take the methods of the next."""
        self.methods = methods
        self.halved = 0
        self.timings.clear()
        self.baseline_logits.clear()
        self.guard(keep=False)
        for twin in self.twins:
            twin.begin(methods)

    def all_timings(self) -> tuple[Timing, ...]:
        """Return where the time of the batch in hand went, with what the twins did."""
        return tuple(timing for worker in (self, *self.twins) for timing in worker.timings)

    def all_halved(self) -> int:
        """Return how many times memory ran out on the batch in hand, the twins' included."""
        return self.halved + sum(twin.halved for twin in self.twins)

    def least_at_once(self) -> int:
        """Return the fewest images that went through a network together."""
        return min(worker.at_once for worker in (self, *self.twins))

    def within_memory(self, compute: Callable[[int], T]) -> T:
        """Call with how many images to take at once; half as many each time memory runs out."""
        while True:
            try:
                return compute(self.at_once)
            except Exception as error:
                if not is_out_of_memory(error) or self.at_once == 1:
                    raise
            # Out of the handler, where nothing holds on to what the failed try had allocated.
            self.at_once //= 2
            self.halved += 1
            if self.classifier.module.mean.is_cuda:
                torch.cuda.empty_cache()

    @contextmanager
    def clock(self, cell: Cell, part: str, images: int) -> Iterator[None]:
        """Take the time of a part of the work; what is timed inside of it is not listed apart."""
        self._wait()
        before = len(self.timings)
        started = time.perf_counter()
        yield
        self._wait()
        del self.timings[before:]
        self.timings.append(Timing(cell, part, images, time.perf_counter() - started))

    def _wait(self) -> None:
        if self.classifier.module.mean.is_cuda:
            torch.cuda.synchronize(self.classifier.module.mean.device)


# --- what comes next while this is worked on ------------------------------------------------------


def moved(
    images: torch.Tensor, device: torch.device, stream: torch.cuda.Stream | None
) -> torch.Tensor:
    """Copy images to a device; on a GPU beside the work that is queued there already."""
    if stream is None:
        return images.to(device)
    with torch.cuda.stream(stream):
        moved = images.pin_memory().to(device, non_blocking=True)
    # Work that is queued from now on waits for the copy.
    consumer = torch.cuda.default_stream(device)
    consumer.wait_stream(stream)
    moved.record_stream(consumer)
    return moved


def ahead(items: Iterator[T], *, in_thread: bool) -> Iterator[T]:
    """Yield items; with `in_thread`, the next one is made while the caller works on this one."""
    if not in_thread:
        yield from items
        return
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = pool.submit(next, items, None)
            yield item
