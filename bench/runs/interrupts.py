"""What SIGINT and SIGTERM do to a run."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import active_children
from types import FrameType

from steadymap.bench.core.console import EXIT_INTERRUPTED


@contextmanager
def interruptible(say: Callable[[str], None]) -> Iterator[threading.Event]:
    """Let SIGINT and SIGTERM finish the shards in hand; a second one stops at once.

    Yields:
        What is set by the first signal.
    """
    enough = threading.Event()

    def stop(_number: int, _frame: FrameType | None) -> None:
        if enough.is_set():
            for child in active_children():
                child.kill()
            # Not an exception: a thread in the middle of a pass would be waited for.
            os._exit(EXIT_INTERRUPTED)
        enough.set()
        say("stopping: the shards in hand are finished; once more stops at once")

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield enough
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def summarising() -> Iterator[None]:
    """Let SIGTERM stop as SIGINT does: nothing is in hand that would have to be finished."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
