"""Memory against the number of images, of whole processes: python tests/speed/streaming.py."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

COUNTS = (100, 1000, 10_000)
SCRIPT = str(Path(sys.executable).parent / "steadymap")
SMALL = [
    "--split", "all", "--method", "gradient", "--family", "bias", "--severity", "0.1",
    "--metric", "ssim", "--nulls", "0", "--no-controls", "--no-report", "--jobs", "1",
]  # fmt: skip


def peak_of(command: list[str], folder: Path) -> tuple[int, float]:
    """Run a command; give the most memory that it has held, in bytes, and its seconds."""
    started = time.perf_counter()
    with (
        (folder / "log").open("w") as log,
        subprocess.Popen(command, cwd=folder, stdout=log, stderr=log) as running,  # noqa: S603 - our own script
    ):
        _, status, usage = os.wait4(running.pid, 0)
        running.returncode = os.waitstatus_to_exitcode(status)
    if running.returncode:
        raise SystemExit((folder / "log").read_text())
    return usage.ru_maxrss * 1024, time.perf_counter() - started


def main() -> None:
    """Print a table."""
    counts = tuple(map(int, sys.argv[1:])) or COUNTS
    rows = [
        "| images | records | while measuring, MiB | with the summary, MiB | seconds |",
        "|---:|---:|---:|---:|---:|",
    ]
    for count in counts:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            data = ["--data", f"hands:{count}", "--limit", str(count)]
            run = [SCRIPT, "run", *data, *SMALL, "--output", "here"]
            peak, seconds = peak_of(run, folder)
            manifest = json.loads((folder / "here" / "manifest.json").read_text())
            held = manifest["peak_memory_bytes"]["resident"]
            records = sum(manifest["statuses"].values())
        sizes = f"{held / 2**20:.0f} | {peak / 2**20:.0f}"
        rows.append(f"| {count:,} | {records:,} | {sizes} | {seconds:.0f} |")
        print(rows[-1], file=sys.stderr, flush=True)  # noqa: T201 - progress
    print("\n".join(rows))  # noqa: T201 - the result


if __name__ == "__main__":
    main()
