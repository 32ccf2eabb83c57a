"""The entry of the command line: what must be set before torch is loaded."""

from __future__ import annotations

import os
import sys

# OpenMP's threads wait for each other by spinning. Beside any other busy process libgomp's default
# of 300,000 turns made a pass ten times slower; 10,000 cost nothing on a quiet machine.
SPIN_COUNT = "10000"


def main() -> None:
    """Run the command line."""
    os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)
    try:
        from steadymap.bench.commands.app import main as run  # noqa: PLC0415 - what may be broken
    except ImportError as error:
        advice = "pip install --force-reinstall steadymap"
        sys.exit(f"steadymap: cannot start: {error}; {advice}")
    run()
