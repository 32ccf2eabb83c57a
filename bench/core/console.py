"""How the command line speaks: results on stdout, all else on stderr, and its exit codes."""

from __future__ import annotations

import os
from pathlib import Path

from rich.console import Console

from steadymap.bench.core.names import printable

EXIT_FINE = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_CELLS_FAILED = 3
EXIT_NO_BASELINE = 4
EXIT_UNDECIDED = 5
EXIT_INTERRUPTED = 130

# Where runs go, unless told otherwise.
RUNS = Path("runs")

# A table is as wide as it needs where nobody watches, so that a log keeps it whole.
LOG_WIDTH = 128


def console_of(*, stderr: bool = False) -> Console:
    """Return a console for stdout, or for stderr."""
    console = Console(stderr=stderr)
    if console.is_terminal or os.environ.get("COLUMNS", "").isdecimal():
        return console
    return Console(stderr=stderr, width=LOG_WIDTH)


def say(text: str) -> None:
    """Print a line on stderr."""
    line(console_of(stderr=True), text)


def line(console: Console, text: str) -> None:
    """Print one line as it is: names in it are no markup, and a path is not broken in two.

    Nor are they commands for a terminal: controls become blanks.
    """
    plain = "\n".join(map(printable, text.split("\n")))
    console.print(plain, markup=False, emoji=False, highlight=False, soft_wrap=True)
