"""Print what the speed suite measured as Markdown: python tests/speed/table.py results/performance

Reads the JSON files that `contest.py`, `scaling.py`, `quantus_peer.py` and `steadymap time` wrote.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any


def markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield a table, names to the left and figures to the right."""
    yield "| " + " | ".join(columns) + " |"
    yield "|---" + "|---:" * (len(columns) - 1) + "|"
    for row in rows:
        yield "| " + " | ".join(row) + " |"
    yield ""


def machine(found: dict[str, Any]) -> str:
    """Return the machine in a line."""
    facts = found["machine"]
    return (
        f"{facts['processor']}, {facts['cores']} cores, {facts['threads']} threads, "
        f"torch {facts['torch']}, fingerprint {facts['fingerprint']}"
    )


def contest(found: dict[str, Any]) -> Iterator[str]:
    """Yield a contest: medians and ratios of each job."""
    for job, result in found["jobs"].items():
        yield f"### {found['network']}, {job}, {result['images']} images, {found['rounds']} rounds"
        yield ""
        yield machine(found)
        yield ""
        rows = []
        for name, runs in result["runs"].items():
            seconds = sorted(run["seconds"] for run in runs)
            rows.append(
                [
                    name,
                    f"{result['median_seconds'][name]:.2f}",
                    f"{seconds[0]:.2f} to {seconds[-1]:.2f}",
                    f"{result['ratio'][name]:.2f}",
                ]
            )
        yield from markdown(("contender", "median s", "range s", "times ours"), rows)
        if job == "ig":
            yield from _share_of_ceiling(result)


def _share_of_ceiling(result: dict[str, Any]) -> Iterator[str]:
    points = 150 * result["images"]
    speeds = [
        (points * run["point_gflop"] / run["seconds"], run["ceiling_gflops"])
        for run in result["runs"]["ours"]
    ]
    yield "Of the convolutions alone, in the same processes: " + ", ".join(
        f"{speed:.0f} of {most:.0f} GFLOP/s ({speed / most:.0%})" for speed, most in speeds
    )
    yield ""


def scaling(found: dict[str, Any]) -> Iterator[str]:
    """Yield the curves, with what the planner had expected."""
    yield "### Scaling"
    yield ""
    yield machine(found)
    yield ""
    for name, points in found["curves"].items():
        rows = [
            [
                f"{name} {point[name]}" + (f", side {point['side']}" if name == "workers" else ""),
                f"{point['images']}",
                f"{point['seconds']:.2f}",
                f"{point['expected_seconds']:.2f} ({_off(point):+.0%})",
                f"{point['peak_bytes'] / 2**20:.0f}",
                f"{point['expected_bytes'] / 2**20:.0f}",
            ]
            for point in points
        ]
        columns = ("", "images", "s", "expected s", "peak MiB", "expected MiB")
        yield from markdown(columns, rows)


def steps(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Yield what `steps=auto` took, beside fixed rules."""
    cells = [
        [
            f"{row['baseline']}, bias {row['bias']:g}, {row['rule']}",
            f"{row['mean_points']:.1f}",
            f"{row['most_points']}",
            f"{row['error_percent'][0]:.2f}",
            f"{row['error_percent'][1]:.2f}",
        ]
        for row in rows
    ]
    yield from markdown(("", "mean", "most", "median error %", "95th percentile %"), cells)


def _off(point: dict[str, Any]) -> float:
    """How far the estimate was from the run, as a share of it."""
    return float(point["expected_seconds"] / point["seconds"] - 1)


def main() -> None:
    """Print every file of a folder."""
    folder = Path(sys.argv[1])
    for path in sorted(folder.glob("contest-*.json")):
        print("\n".join(contest(json.loads(path.read_text(encoding="utf-8")))))  # noqa: T201 - the result
    for path in sorted(folder.glob("steps*.json")):
        print("\n".join(steps(json.loads(path.read_text(encoding="utf-8")))))  # noqa: T201 - the result
    for path in sorted(folder.glob("scaling*.json")):
        print("\n".join(scaling(json.loads(path.read_text(encoding="utf-8")))))  # noqa: T201 - the result


if __name__ == "__main__":
    main()
