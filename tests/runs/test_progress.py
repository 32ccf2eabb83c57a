"""How far a run is, in lines, and what is said before a long one."""

from __future__ import annotations

import pytest
from support import image_set, small_plan, tiny

from steadymap.bench.core.names import duration
from steadymap.bench.measure.estimate import rough_seconds
from steadymap.bench.plan.setup import prepare
from steadymap.bench.runs import progress


def test_a_line_has_the_share_and_the_time_left() -> None:
    lines = progress.Lines(2000, started=100.0)
    assert lines.line(110.0) == "maps: 0 of 2,000"
    lines.advance(300)
    lines.advance(200)
    # A quarter took 40 s.
    assert lines.line(140.0) == "maps: 500 of 2,000 (25.0%), about 2 min left"


def test_lines_come_while_nothing_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "SILENCE", 0.0)
    lines = progress.Lines(7)
    said: list[str] = []

    def say(text: str) -> None:
        said.append(text)
        lines.over.set()

    monkeypatch.setattr("steadymap.bench.core.console.say", say)
    with lines.printed():
        lines.over.wait()
        lines.advance(7)
    assert said == ["maps: 0 of 7", "maps: 7 of 7"]


def test_what_takes_long_is_said_before_it_starts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    setup = prepare(tiny(), image_set(), small_plan("gradient"))
    assert rough_seconds(setup) > 0
    for seconds, words in ((59.0, []), (600.0, ["10 min"]), (7200.0, ["2.0 h", "--limit 20"])):
        monkeypatch.setattr(progress, "rough_seconds", lambda _setup, all_of=seconds: all_of)
        progress.foretell(setup, setup.map_count())
        said = capsys.readouterr().err
        assert all(word in said for word in words)
        assert bool(said) == bool(words)
    # Half of it is there already.
    progress.foretell(setup, setup.map_count() // 2)
    assert "1.0 h" in capsys.readouterr().err
    progress.foretell(setup, 0)
    assert not capsys.readouterr().err


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 s"),
        (89, "89 s"),
        (90, "2 min"),
        (3599, "60 min"),
        (5400, "1.5 h"),
        (181440, "2.1 days"),
    ],
)
def test_times_are_written_as_people_say_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text
