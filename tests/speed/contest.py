"""Time contenders in turns, each in a process of its own, and write what came out.

python tests/speed/contest.py all --network rps --output contest.json
python tests/speed/contest.py one ig ours --network rps     # a single run, as `all` starts it

Whether a process retains its heap is a matter of the whole process: hence one each. Every process
warms up on one image before the clock starts. Rounds go through all contenders in turn, so that a
slow minute of the machine slows them all.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from peers import JOBS, Work, make_work
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from steadymap.bench.core.machine import fingerprint, machine, retain_heap

IMAGES = {("ig", "rps"): 1, ("ig", "compact"): 16, ("cheap", "rps"): 16, ("cheap", "compact"): 32}
CEILING_REPEATS = 5


def one(job: str, name: str, network: str, threads: int) -> dict[str, Any]:
    """Run a contender once in this process."""
    contender = JOBS[job][name]
    if contender.keep_heap:
        retain_heap()
    torch.set_num_threads(threads)
    # As the command line would choose: see `steadymap.bench.commands.run`.
    workers = threads if network == "compact" else 1
    work = make_work(network, IMAGES[job, network], workers)
    contender.run(replace(work, batch=work.batch.part(slice(1))))
    started, used = time.perf_counter(), time.process_time()
    contender.run(work)
    found = {
        "seconds": time.perf_counter() - started,
        "cpu_seconds": time.process_time() - used,
    }
    if job == "ig" and name == "ours":
        found |= ceiling(work)
    return found


def ceiling(work: Work) -> dict[str, float]:
    """Return the speed of the network's convolutions alone, and the work of a point, in GFLOP.

    Each convolution runs forward and backward to its input on tensors of its own size, as many
    images at once as a path takes, nothing else between: no activation, pooling, linear layer.
    """
    inputs: list[tuple[nn.Conv2d, Tensor]] = []
    hooks = [
        part.register_forward_pre_hook(lambda module, given: inputs.append((module, given[0])))
        for part in work.classifier.module.modules()
        if isinstance(part, nn.Conv2d)
    ]
    shown = work.batch.images[:1].expand(work.batch.at_once, -1, -1, -1)
    points = shown.clone(memory_format=torch.channels_last).requires_grad_()
    with FlopCounterMode(display=False) as counter:
        work.classifier(points)[:, 0].sum().backward()
    for hook in hooks:
        hook.remove()
    by_operation = counter.get_flop_counts()["Global"]
    convolved = sum(n for name, n in by_operation.items() if "convolution" in str(name))
    seconds = 0.0
    for convolution, given in inputs:
        leaf = given.detach().requires_grad_()
        gradient = torch.ones_like(convolution(leaf))
        seconds += _least(lambda c=convolution, x=leaf, g=gradient: torch.autograd.grad(c(x), x, g))  # type: ignore[misc]
    return {
        "ceiling_gflops": convolved / seconds / 1e9,
        "point_gflop": counter.get_total_flops() / len(points) / 1e9,
    }


def _least(work: Callable[[], object]) -> float:
    work()
    found = []
    for _ in range(CEILING_REPEATS):
        started = time.perf_counter()
        work()
        found.append(time.perf_counter() - started)
    return min(found)


def everything(jobs: list[str], network: str, rounds: int, threads: int) -> dict[str, Any]:
    """Run all contenders of each job in turns."""
    facts = machine(torch.device("cpu")) | {"threads": threads}
    found: dict[str, Any] = {
        "network": network,
        "rounds": rounds,
        "machine": facts | {"torch": torch.__version__, "fingerprint": fingerprint(facts)},
        "jobs": {},
    }
    for job in jobs:
        contenders = JOBS[job]
        runs: dict[str, list[dict[str, Any]]] = {name: [] for name in contenders}
        for _ in range(rounds):
            for name in contenders:
                runs[name].append(_in_a_process(job, name, network, threads))
                print(f"{job}, {name}: {runs[name][-1]['seconds']:.2f} s", file=sys.stderr)  # noqa: T201 - progress
        found["jobs"][job] = {"images": IMAGES[job, network], "runs": runs} | summary(runs)
    return found


def summary(runs: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Return medians, and how many times longer each takes than ours: the median of the rounds."""
    ours = [run["seconds"] for run in runs["ours"]]
    return {
        "median_seconds": {
            name: statistics.median(run["seconds"] for run in made) for name, made in runs.items()
        },
        "ratio": {
            name: statistics.median(
                run["seconds"] / own for run, own in zip(made, ours, strict=True)
            )
            for name, made in runs.items()
        },
    }


def _in_a_process(job: str, name: str, network: str, threads: int) -> dict[str, Any]:
    command = [sys.executable, __file__, "one", job, name, "--network", network]
    done = subprocess.run(  # noqa: S603 - this very script
        [*command, "--threads", str(threads)],
        capture_output=True,
        text=True,
        check=True,
        # The same for all: see `steadymap.bench.start`.
        env=os.environ | {"GOMP_SPINCOUNT": "10000", "OMP_NUM_THREADS": str(threads)},
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def main() -> None:
    """Run one contender, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["one", "all"])
    parser.add_argument("job", nargs="?", choices=list(JOBS))
    parser.add_argument("contender", nargs="?")
    parser.add_argument("--network", choices=["rps", "compact"], default="compact")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    if given.what == "one":
        found = one(given.job, given.contender, given.network, given.threads)
    else:
        jobs = [given.job] if given.job else list(JOBS)
        found = everything(jobs, given.network, given.rounds, given.threads)
    text = json.dumps(found, indent=2)
    if given.output:
        given.output.write_text(text + "\n", encoding="utf-8")
    else:
        print(text)  # noqa: T201 - the result


if __name__ == "__main__":
    main()
