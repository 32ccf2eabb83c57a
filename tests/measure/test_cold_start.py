"""The first batch of a process of its own."""

from __future__ import annotations

import torch
from support import random_images

from steadymap.bench.core.machine import peak_memory
from steadymap.bench.measure.cold_start import ColdTask, first_batch
from steadymap.bench.measure.course import Course


def test_the_first_batch_of_a_process_is_the_method_s() -> None:
    course = Course("compact", None, (), batch=2, repeats=3, fresh=True, keep_heap=False)
    pixels = random_images(2, 64).numpy()
    start = first_batch(course, pixels, ColdTask("gradient", "cpu", threads=1, at_once=32))
    assert start.seconds > 0
    assert set(start.peak) == set(start.before) == set(peak_memory(torch.device("cpu")))
    assert all(start.peak[kind] >= start.before[kind] for kind in start.peak)
