"""Facts of a machine, one by one: what is broken is a line, and nothing in it is personal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from typing import Literal

from steadymap.bench.core.errors import one_line
from steadymap.bench.doctor.privacy import hide, private_words

Result = Literal["ok", "missing", "warning", "failed"]
RESULTS: tuple[Result, ...] = ("ok", "missing", "warning", "failed")

LENGTH = 400


@dataclass(frozen=True)
class Fact:
    """What was found of one thing.

    Attributes:
        name: the thing.
        value: what it is, for people.
        result: ok; missing, which something optional may be; warning, which costs speed, space or
            something optional; or failed, with which nothing here can be relied on.
        advice: what to do about it; empty where nothing is.
        number: the value in bytes, seconds or pieces, where it is one.
    """

    name: str
    value: str
    result: Result = "ok"
    advice: str = ""
    number: float | None = None


@dataclass(frozen=True)
class Probe:
    """Something to look at.

    Attributes:
        name: what the line is called if looking fails.
        find: yields what was found; may raise anything.
        needed: whether nothing works without it.
        advice: what to do if looking fails.
    """

    name: str
    find: Callable[[], Iterable[Fact]]
    needed: bool = False
    advice: str = "put this line into an issue"


def look(probe: Probe) -> list[Fact]:
    """Return what a probe found, without anything personal; that it fails is one more fact.

    What broken packages print meanwhile goes to stderr: stdout is for the facts.
    """
    facts: list[Fact] = []
    try:
        with redirect_stdout(sys.stderr):
            facts.extend(probe.find())
    except KeyboardInterrupt:
        raise
    # What is broken may raise anything, a panic of Rust among it; the line says what.
    except BaseException as error:  # noqa: BLE001 - as above
        result: Result = "failed" if probe.needed else "warning"
        # Whole: half a password would not be known for one.
        facts.append(Fact(probe.name, one_line(error, length=None), result, probe.advice))
    hidden = private_words()
    return [
        replace(fact, value=hide(fact.value, hidden)[:LENGTH], advice=hide(fact.advice, hidden))
        for fact in facts
    ]
