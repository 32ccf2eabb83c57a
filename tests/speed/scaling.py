"""Time and memory against images, severities, steps, resolution and workers; and the estimates.

python tests/speed/scaling.py all --output scaling.json
python tests/speed/scaling.py one '{"images": 50}'      # a single point, as `all` starts it

Each point is a process of its own, because peak memory is one figure a process.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from steadymap.bench import Plan, from_tensor
from steadymap.bench.core.machine import fingerprint, machine, peak_memory, retain_heap
from steadymap.bench.measure.estimate import estimate
from steadymap.bench.measure.runner import measure
from steadymap.bench.plan.setup import prepare
from steadymap.models import make_classifier, networks

BASE: dict[str, Any] = {
    "images": 20,
    "severities": 2,
    "steps": 16,
    "side": 64,
    "jobs": 2,
    "threads": 2,
}
# One thing varies at a time; the first of each is the one the others are held against.
CURVES: dict[str, list[dict[str, Any]]] = {
    "images": [{"images": count} for count in (50, 100, 200, 500)],
    "severities": [{"severities": count} for count in (2, 4, 8)],
    "steps": [{"steps": count} for count in (8, 16, 32, 64)],
    "side": [{"side": side, "images": 8} for side in (64, 150, 224)],
    "jobs": [
        {"jobs": workers, "side": side, "images": 16} for side in (64, 150) for workers in (1, 2)
    ],
}
LEVELS = (-0.3, 0.3, -0.2, 0.2, -0.1, 0.1, -0.05, 0.05)


def network(side: int) -> nn.Module:
    """Return the compact network for images of another size."""
    return networks.HandNetwork((8, 8, 16, 16, 32, 32), (96, 48), side, 3)


def one(settings: dict[str, Any], *, only_estimate: bool) -> dict[str, Any]:
    """Run one point, or estimate it: never both, the estimate's passes have a peak of their own."""
    given = BASE | settings
    retain_heap()
    torch.set_num_threads(given["threads"])
    torch.manual_seed(0)
    side = given["side"]
    classifier = make_classifier(network(side), (side, side))
    images = from_tensor(torch.rand(given["images"], 3, side, side))
    plan = Plan(
        controls=False,
        nulls=0,
        method=("gradient", "grad_cam", "integrated_gradients"),
        family=("bias",),
        severity=LEVELS[: given["severities"]],
        metric=("ssim", "spearman", "completeness_error"),
        steps=given["steps"],
        jobs=given["workers"],
    )
    setup = prepare(classifier, images, plan)
    if only_estimate:
        expected = estimate(setup)
        return {"expected_seconds": expected.seconds, "expected_bytes": expected.memory}
    started = time.perf_counter()
    values = sum(len(outcome.records) for outcome in measure(setup, lambda _count: None))
    return given | {
        "seconds": time.perf_counter() - started,
        "peak_bytes": peak_memory(torch.device("cpu"))["resident"],
        "values": values,
    }


def everything() -> dict[str, Any]:
    """Run every point of every curve."""
    facts = machine(torch.device("cpu"))
    found: dict[str, Any] = {
        "machine": facts | {"torch": torch.__version__, "fingerprint": fingerprint(facts)},
        "curves": {},
    }
    for name, points in CURVES.items():
        found["curves"][name] = [_in_a_process(point) for point in points]
    return found


def _in_a_process(settings: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for what in ("one", "estimate"):
        done = subprocess.run(  # noqa: S603 - this very script
            [sys.executable, __file__, what, json.dumps(settings)],
            capture_output=True,
            text=True,
            check=True,
            env=os.environ | {"GOMP_SPINCOUNT": "10000"},
        )
        found |= json.loads(done.stdout)
    print(settings, f"{found['seconds']:.2f} s", file=sys.stderr)  # noqa: T201 - progress
    return found


def main() -> None:
    """Run one point, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["one", "estimate", "all"])
    parser.add_argument("settings", nargs="?", default="{}")
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    if given.what == "all":
        found = everything()
    else:
        found = one(json.loads(given.settings), only_estimate=given.what == "estimate")
    text = json.dumps(found, indent=2)
    if given.output:
        given.output.write_text(text + "\n", encoding="utf-8")
    else:
        print(text)  # noqa: T201 - the result


if __name__ == "__main__":
    main()
