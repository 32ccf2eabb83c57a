"""Who watches a run, and what stops it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field


def to_nobody(_maps: int) -> None:
    """Tell nobody of the maps just made."""


@dataclass(frozen=True)
class Watch:
    """Who watches a run, and what stops it.

    Attributes:
        advance: called with the number of maps just made, by whichever worker made them.
        stop: once it is set no shard is begun; those in hand are finished.
        give_up: once it is set nobody waits for those in hand either.
    """

    advance: Callable[[int], None] = to_nobody
    stop: threading.Event = field(default_factory=threading.Event)
    give_up: threading.Event = field(default_factory=threading.Event)

    @property
    def ends(self) -> bool:
        """Whether no further shard is to be begun."""
        return self.stop.is_set() or self.give_up.is_set()

    def tell(self, maps: int) -> None:
        """Say that a worker has made maps; where nobody waits for them it goes no further.

        Raises:
            GivenUpError: nobody waits for the outcome.
            WatcherError: `advance` has raised.
        """
        if self.give_up.is_set():
            raise GivenUpError
        try:
            self.advance(maps)
        except Exception as error:
            raise WatcherError(error) from error


# Neither is an `Exception`, which would be taken for a fault of a method.


class GivenUpError(BaseException):
    """Nobody waits for the outcome; a worker drops what it has in hand."""


class WatcherError(BaseException):
    """What whoever watches has raised.

    Attributes:
        raised: that error.
    """

    def __init__(self, raised: Exception) -> None:
        super().__init__(str(raised))
        self.raised = raised
