"""Who is told of maps, and what a worker is told in return."""

from __future__ import annotations

import pytest

from steadymap.bench.measure.watch import GivenUpError, Watch, WatcherError


def test_whoever_watches_is_told_of_every_map() -> None:
    told: list[int] = []
    watch = Watch(told.append)
    for maps in (3, 0, 4):
        watch.tell(maps)
    assert told == [3, 0, 4]


def test_what_is_stopped_is_finished_and_what_is_given_up_is_dropped() -> None:
    told: list[int] = []
    watch = Watch(told.append)
    before = watch.ends
    watch.stop.set()
    assert (before, watch.ends) == (False, True)
    watch.tell(1)
    watch.give_up.set()
    with pytest.raises(GivenUpError):
        watch.tell(2)
    assert told == [1]


@pytest.mark.parametrize("event", ["stop", "give_up"])
def test_either_event_ends_a_run(event: str) -> None:
    watch = Watch()
    getattr(watch, event).set()
    assert watch.ends
    assert not Watch().ends, "each has events of its own"


def test_an_error_of_whoever_watches_is_no_fault_of_a_method() -> None:
    error = ZeroDivisionError("the bar broke")

    def broken(_maps: int) -> None:
        raise error

    with pytest.raises(WatcherError) as caught:
        Watch(broken).tell(1)
    assert caught.value.raised is error
    # What methods raise is caught as one of these.
    assert not isinstance(caught.value, Exception | SystemExit)
    assert not issubclass(GivenUpError, Exception | SystemExit)
