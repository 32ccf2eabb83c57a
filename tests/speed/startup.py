"""How long commands that read take to start: python tests/speed/startup.py

Each is held against a process that only imports what it cannot do without, so that the figures mean
the same on any machine. Rounds go through all in turn, each command right behind its own
reference; byte code is cached, and everything is run once before the clock starts. Exits with 1
where a command takes more than its share.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PRINTING = "import typer, rich"
TABLES = "import pandas, scipy.stats"
# By command: the imports that it is held against, and how many times as long it may take.
SHARES: dict[str, tuple[str, float]] = {
    "--help": (PRINTING, 3.0),
    "list methods": (TABLES, 2.5),
    "compare run run": (TABLES, 2.5),
    "gate run --baseline kept --root base": (TABLES, 2.5),
}
RUN = (
    "run quick --limit 4 --no-controls --no-report --output run",
    "baseline save run kept --root base",
)


def clocked(command: list[str], folder: Path) -> tuple[float, float]:
    """Run a command in a process of its own; return its seconds by the clock, and of the CPU."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    before, started = os.times(), time.perf_counter()
    subprocess.run(command, cwd=folder, env=environment, capture_output=True, check=True)  # noqa: S603 - our own
    seconds, after = time.perf_counter() - started, os.times()
    user, system = (
        getattr(after, name) - getattr(before, name)
        for name in ("children_user", "children_system")
    )
    return seconds, user + system


def main() -> int:
    """Print a row a command; return 1 where one takes more than its share."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    ours = [sys.executable, "-m", "steadymap"]
    commands = {text: [*ours, *text.split()] for text in SHARES}
    references = {code: [sys.executable, "-c", code] for code, _ in SHARES.values()}
    with tempfile.TemporaryDirectory() as home:
        folder = Path(home)
        for text in RUN:
            clocked([*ours, *text.split()], folder)
        for command in (*references.values(), *commands.values()):
            clocked(command, folder)
        taken: dict[str, list[tuple[float, ...]]] = {text: [] for text in commands}
        for _ in range(rounds):
            for text, command in commands.items():
                reference = clocked(references[SHARES[text][0]], folder)
                taken[text].append((*clocked(command, folder), *reference))
    late = False
    row = "{:<38} {:>8} {:>8} {:>8} {:>8} {:>8}"
    print(row.format("medians", "seconds", "of them", "times", "at most", "CPU's"))  # noqa: T201 - the result
    for text, rows in taken.items():
        seconds, cpu, their_seconds, their_cpu = map(statistics.median, zip(*rows, strict=True))
        most = SHARES[text][1]
        late |= seconds > most * their_seconds
        figures = (seconds, their_seconds, seconds / their_seconds, most, cpu / their_cpu)
        print(row.format(text, *(f"{figure:.2f}" for figure in figures)))  # noqa: T201 - as above
    return int(late)


if __name__ == "__main__":
    sys.exit(main())
