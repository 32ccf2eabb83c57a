"""How long the first batch of a method takes, each in a process of its own."""

from __future__ import annotations

import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from steadymap.bench.core.machine import peak_memory, retain_heap
from steadymap.bench.measure.course import Course
from steadymap.bench.methods.batch import DATA_REFERENCES, Batch, draws_of
from steadymap.bench.methods.binding import bind_method
from steadymap.bench.network.torch_settings import float32


@dataclass(frozen=True)
class ColdStart:
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
class ColdTask:
    """What a process of its own does.

    Attributes:
        spec: of the method.
        device: cpu, cuda, ...
        threads: CPU threads.
        at_once: how many images go through the network together.
    """

    spec: str
    device: str
    threads: int
    at_once: int


def cold_start(course: Course, pixels: NDArray[np.float32], task: ColdTask) -> ColdStart:
    """Return how the first batch of a new process went.

    Args:
        course: what is timed.
        pixels: (B, 3, H, W).
        task: what the process does.

    Raises:
        Exception: whatever the process raised, or that it ended.
    """
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(first_batch, course, pixels, task).result()


def first_batch(course: Course, pixels: NDArray[np.float32], task: ColdTask) -> ColdStart:
    """Return how the first batch of this process went.

    Args:
        course: what is timed.
        pixels: (B, 3, H, W).
        task: what this process does.
    """
    if course.keep_heap:
        retain_heap()
    torch.set_num_threads(task.threads)
    classifier = course.load(task.device)
    place = classifier.module.mean.device
    method = bind_method(task.spec)
    images = torch.from_numpy(np.array(pixels))
    targets = torch.zeros(len(images), dtype=torch.int64, device=place)
    draws = draws_of(course.seed, [str(index) for index in range(len(images))])
    before = peak_memory(place)
    with float32(place, exact=course.exact):
        started = time.perf_counter()
        shown = images.to(place)
        references = shown[:DATA_REFERENCES]
        batch = Batch(shown, targets, draws, task.at_once, references=references)
        method.explain(classifier, batch).cpu()
        seconds = time.perf_counter() - started
    return ColdStart(seconds, peak_memory(place), before)
