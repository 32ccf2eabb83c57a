"""Speed of each method, each metric and a whole sweep: `tox run -e bench`.

Compare two commits on one machine with --benchmark-save and --benchmark-compare. Whole processes
against other tools are timed by `contest.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from peers import JOBS, make_work
from support import probe_evidence

from steadymap.bench import Plan, from_tensor, run
from steadymap.bench.methods.batch import Batch, draws_of
from steadymap.bench.methods.binding import bind_method
from steadymap.bench.methods.registry import DEFAULT_METHODS, METHODS
from steadymap.bench.network.passes import count_passes
from steadymap.metrics import METRICS, PROBES, Maps, evaluate
from steadymap.models import load_classifier

Benchmark = Callable[..., Any]

SIDE = 64
IMAGES = 16
STEPS = 16
SPECS = dict.fromkeys(bind_method(spec, STEPS).spec for spec in (*METHODS, *DEFAULT_METHODS))


def images(count: int = IMAGES) -> torch.Tensor:
    return torch.rand(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))


@pytest.mark.benchmark(group="methods: 16 images")
@pytest.mark.parametrize("engine", ["own", "captum"])
@pytest.mark.parametrize("spec", SPECS)
def speed_of_a_method(benchmark: Benchmark, spec: str, engine: str) -> None:
    classifier, method = load_classifier("compact"), bind_method(spec)
    batch = Batch(images(), torch.zeros(IMAGES, dtype=torch.int64), draws_of(0, ("",) * IMAGES))
    with count_passes(classifier) as counts:
        method.explain(classifier, batch, "captum" if engine == "captum" else "own")
    benchmark.extra_info |= {"forward": counts.forward, "backward": counts.backward}  # type: ignore[attr-defined]
    benchmark(method.explain, classifier, batch, engine)


@pytest.mark.benchmark(group="metrics: 16 pairs of maps, the clean ones known")
@pytest.mark.parametrize("side", [64, 150])
@pytest.mark.parametrize("name", METRICS)
def speed_of_a_metric(benchmark: Benchmark, name: str, side: int) -> None:
    rng = np.random.default_rng(0)
    metric, clean = METRICS[name], Maps(rng.normal(size=(IMAGES, side, side)))
    moved = clean.signed + rng.normal(size=clean.signed.shape)
    others: dict[str, Any] = {kind: probe_evidence(kind, IMAGES, rng.random) for kind in PROBES}
    others |= {"delta": rng.uniform(1, 2, IMAGES), "mask": rng.random(clean.signed.shape)}

    def compare() -> None:
        # New maps each time, as in a run: nothing is known of them yet.
        if metric.against == "map":
            evaluate(metric, clean, Maps(moved))
        else:
            evaluate(metric, Maps(moved), others[metric.against])

    benchmark(compare)


@pytest.mark.benchmark(group="sweep: 16 images, 6 biases, every metric")
@pytest.mark.parametrize("workers", [1, 2])
def speed_of_a_sweep(benchmark: Benchmark, workers: int) -> None:
    classifier, shown = load_classifier("compact"), from_tensor(images())
    plan = Plan(
        controls=False,
        nulls=0,
        method=("gradient", "gradient_x_input", "grad_cam"),
        family=("bias",),
        severity=(-0.3, -0.2, -0.1, 0.1, 0.2, 0.3),
        jobs=workers,
        batch_size=8,
    )
    benchmark.pedantic(run, (classifier, shown, plan), rounds=5, warmup_rounds=1)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("job", "name"), [(job, name) for job, all_ in JOBS.items() for name in all_]
)
def speed_of_a_peer(benchmark: Benchmark, job: str, name: str) -> None:
    work = make_work("compact", 4, workers=1)
    benchmark.group = f"peers: {job}, 4 images, one process, heap as Python has it"  # type: ignore[attr-defined]
    benchmark.pedantic(JOBS[job][name].run, (work,), rounds=5, warmup_rounds=1)  # type: ignore[attr-defined]
