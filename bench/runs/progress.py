"""How far a run is, for whoever waits: a bar, or a line now and then; and how long it will take."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from steadymap.bench.core import console
from steadymap.bench.core.names import duration, percent
from steadymap.bench.measure.estimate import rough_seconds
from steadymap.bench.plan.setup import Setup

# Seconds between two lines where nobody sees a bar.
SILENCE = 10.0
# From so many seconds on it is said beforehand, and from so many how to have less.
WORTH_SAYING = 60.0
LONG = 3600.0


def foretell(setup: Setup, maps: int) -> None:
    """Say about how long a run will take, where that is long.

    Args:
        setup: of the run.
        maps: how many are still to be made.
    """
    if not maps:
        return
    seconds = rough_seconds(setup) * maps / setup.map_count()
    if seconds < WORTH_SAYING:
        return
    console.say(f"the passes alone will take about {duration(seconds)}; --dry-run says more")
    if seconds >= LONG:
        console.say(
            "shorter: fewer images (--limit 20), steps (--steps 16), methods (--method), families "
            "(--family) or randomised networks (--nulls 1); what is made is kept, and the same "
            "command goes on"
        )


@contextmanager
def progress_bar(total: int, *, shown: bool = True) -> Iterator[Callable[[int], None]]:
    """Show how many maps of so many are made, where that is wanted.

    On a terminal a bar; elsewhere a line every ten seconds.

    Yields:
        What takes the number of maps just made.
    """
    target = console.console_of(stderr=True)
    if shown and not target.is_terminal:
        lines = Lines(total)
        with lines.printed():
            yield lines.advance
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=target, disable=not shown) as progress:
        yield partial(progress.advance, progress.add_task("maps", total=total))


@dataclass
class Lines:
    """Progress as lines.

    Attributes:
        total: maps of the run.
        made: how many there are.
        started: by a clock that never goes back.
        over: set once the run is.
    """

    total: int
    made: int = 0
    started: float = field(default_factory=time.monotonic)
    over: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def advance(self, maps: int) -> None:
        """Count maps just made, by whichever thread."""
        with self.lock:
            self.made += maps

    def line(self, now: float) -> str:
        """Return how far the run is, at a time."""
        text = f"maps: {self.made:,} of {self.total:,}"
        if not self.made:
            return text
        left = (now - self.started) / self.made * (self.total - self.made)
        return f"{text} ({percent(self.made / self.total)}), about {duration(left)} left"

    @contextmanager
    def printed(self) -> Iterator[None]:
        """Print a line every ten seconds, as long as this is entered, and one at the end."""
        watcher = threading.Thread(target=self._print, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            self.over.set()
            watcher.join()
            if self.made:
                console.say(f"maps: {self.made:,} of {self.total:,}")

    def _print(self) -> None:
        while not self.over.wait(SILENCE):
            console.say(self.line(time.monotonic()))
