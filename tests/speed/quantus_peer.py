"""Speed beside Quantus 0.6.0 on three robustness metrics of the vanilla gradient.

Quantus runs metric by metric, and every metric perturbs, explains and checks its own copies. One
pass over the draws can serve all three. This script measures what that is worth, on the compact
network and drawn hands, and checks that both compute the same numbers from the same noise.

Both live in one environment: `pip install . quantus==0.6.0`. Then

    python tests/speed/quantus_peer.py check      # equal numbers from equal noise, or exit code 1
    python tests/speed/quantus_peer.py compare    # medians of interleaved runs, each a process
    python tests/speed/quantus_peer.py ours       # one run
    python tests/speed/quantus_peer.py quantus    # one run; --explain quantus for its own explainer

Each writes JSON to stdout. Timed is what lies between images in memory and the three lists of
values, after one full run to warm up; imports, weights and images are not.

What Quantus 0.6.0 defines, per image, over draws x' = x + U[-r, r] of an image x, with maps a and
a' of the clean image's class (its package folder is the root of the paths):

    MaxSensitivity (metrics/robustness/max_sensitivity.py, evaluate_batch; functions/norm_func.py,
    fro_norm): nanmax |a' - a| / |a|, Euclidean norms, maps as they are (normalise=False).

    LocalLipschitzEstimate (metrics/robustness/local_lipschitz_estimate.py, evaluate_batch;
    functions/similarity_func.py, lipschitz_constant and distance_euclidean):
    nanmax |b' - b| / (|x' - x| + 1e-10), where b = a / max|a| (normalise=True). The maximum is one
    over the whole batch (functions/normalise_func.py, normalise_by_max, called without axes by
    metrics/base.py, explain_batch), so that an image's value depends on the rest of its batch.

    RelativeInputStability (metrics/robustness/relative_input_stability.py,
    relative_input_stability_objective): max |(a - a') / a| / |(x - x') / x|, the inner quotients
    pixel by pixel. Zeros of a and x, and a zero denominator, are replaced by eps_min = 1e-6. A
    draw that changes the predicted class counts as NaN (return_nan_when_prediction_changes=True,
    the default of this metric alone), and max, unlike nanmax, hands that NaN to the image.

None takes absolute values. The draws differ by default: LocalLipschitzEstimate takes normal noise
and RelativeInputStability uniform noise in [0.02, 0.2]; here all three get U[-r, r].
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from steadymap.bench.data.opening import open_images
from steadymap.bench.perturbations.apply import perturb
from steadymap.bench.perturbations.cell import Cell
from steadymap.models import load_classifier

SEED = 0
RELATIVE_TOLERANCE = 1e-5
LIPSCHITZ_EPS = 1e-10  # functions/similarity_func.py, lipschitz_constant
STABILITY_EPS = 1e-6  # metrics/robustness/relative_input_stability.py, eps_min
METRICS = {
    "max_sensitivity": "MaxSensitivity",
    "local_lipschitz": "LocalLipschitzEstimate",
    "relative_input_stability": "RelativeInputStability",
}
EXPLAINERS = ("plain", "quantus")

Values = dict[str, NDArray[np.float64]]


@dataclass(frozen=True)
class Task:
    """What is measured: one batch, its classes, and how it is perturbed and explained."""

    module: torch.nn.Module
    images: Tensor
    image_ids: tuple[str, ...]
    targets: Tensor
    draws: int
    radius: float
    summed: bool


@dataclass(frozen=True)
class Result:
    """One run: seconds by step, in total and of CPU, and values by metric; NaN is None."""

    seconds: dict[str, float]
    values: dict[str, list[float | None]]


def make_task(options: argparse.Namespace) -> Task:
    classifier = load_classifier("compact")
    pool = open_images("hands", classifier.framing, "test", options.images)
    if len(pool) != options.images:
        raise SystemExit(f"--images: there are {len(pool)} hands to test on")
    images = pool.images(range(len(pool)))
    return Task(
        classifier.module,
        images,
        tuple(picture.image_id for picture in pool.pictures),
        classifier(images).argmax(dim=1),
        options.draws,
        options.radius,
        options.summed,
    )


def gradient_pass(task: Task, images: Tensor) -> tuple[Tensor, Tensor]:
    """Maps and predicted classes of a batch; both sides explain with this, so neither gains."""
    points = images.detach().requires_grad_()
    logits: Tensor = task.module(points)
    picked = logits.gather(1, task.targets[:, None]).sum()
    (maps,) = torch.autograd.grad(picked, points)
    return maps.sum(dim=1, keepdim=True) if task.summed else maps, logits.argmax(dim=1)


def draw(task: Task, number: int) -> Tensor:
    cell = Cell("uniform_noise", task.radius, number)
    pairs = zip(task.images, task.image_ids, strict=True)
    return torch.stack([perturb(image, cell, image_id, SEED) for image, image_id in pairs])


def norms(batch: Tensor) -> Tensor:
    lengths: Tensor = torch.linalg.vector_norm(batch.flatten(1), dim=1)
    return lengths


def guarded(batch: Tensor) -> Tensor:
    # In double, as Quantus' bool times float makes it: quotients by tiny gradients are large, and
    # their squares would overflow in single.
    return batch.double() + (batch == 0) * STABILITY_EPS


def ours(task: Task, perturbed: Iterable[Tensor]) -> Values:
    """All three metrics from one pass over the draws."""
    images = task.images
    clean, classes = gradient_pass(task, images)
    # A batch of maps that are zero throughout would divide by zero below; Quantus refuses it
    # (helpers/asserts.py, assert_attributions).
    length, unit = norms(clean), clean / clean.abs().max()
    safe_clean, safe_images = guarded(clean), guarded(images)
    rows: dict[str, list[Tensor]] = {name: [] for name in METRICS}
    for moved in perturbed:
        maps, now = gradient_pass(task, moved)
        change, step = clean - maps, images - moved
        rows["max_sensitivity"].append(norms(change) / length)
        away = norms(unit - maps / maps.abs().max())
        rows["local_lipschitz"].append(away / (norms(step) + LIPSCHITZ_EPS))
        below = norms(step / safe_images)
        below += (below == 0) * STABILITY_EPS
        stability = norms(change / safe_clean) / below
        rows["relative_input_stability"].append(stability.masked_fill(now != classes, math.nan))
    scores = {name: torch.stack(row).double().numpy() for name, row in rows.items()}
    return {
        name: np.max(score, axis=0)
        if name == "relative_input_stability"
        else np.nanmax(score, axis=0)
        for name, score in scores.items()
    }


def run_ours(task: Task) -> Result:
    def once() -> tuple[dict[str, float], Values]:
        start, cpu = time.perf_counter(), time.process_time()
        values = ours(task, (draw(task, number) for number in range(task.draws)))
        total = time.perf_counter() - start
        return {"total": total, "cpu": time.process_time() - cpu}, values

    return warm(once)


def warm(once: Callable[[], tuple[dict[str, float], Values]]) -> Result:
    """Run twice and keep the second."""
    once()
    seconds, values = once()
    return Result(
        seconds,
        {
            name: [None if math.isnan(value) else float(value) for value in row]
            for name, row in values.items()
        },
    )


class Peer:
    """Quantus on a task, called as its documentation shows."""

    def __init__(self, task: Task, explain: str) -> None:
        # Not an import statement: Quantus is installed for this script alone, and has no stubs.
        self.quantus: Any = importlib.import_module("quantus")
        self.noise: Callable[..., Any] = importlib.import_module(
            "quantus.functions.perturb_func"
        ).batch_uniform_noise
        self.task = task
        self.images = task.images.numpy()
        self.targets = task.targets.numpy()
        self.explain = self.plain if explain == "plain" else self.quantus.explain
        self.explain_settings: dict[str, object] = {}
        if explain == "quantus":
            # Its explainer sums over the channels unless told not to.
            self.explain_settings = {"method": "Gradient"}
            if not task.summed:
                self.explain_settings["reduce_axes"] = ()

    def plain(
        self, model: object, inputs: NDArray[np.float32], targets: object, **_settings: object
    ) -> NDArray[np.float32]:
        del model, targets  # Quantus hands over the task's own, whole batch by whole batch
        array: NDArray[np.float32] = gradient_pass(self.task, torch.from_numpy(inputs))[0].numpy()
        return array

    def clean_maps(self) -> NDArray[np.float32]:
        maps: NDArray[np.float32] = self.explain(
            model=self.task.module,
            inputs=self.images,
            targets=self.targets,
            **self.explain_settings,
        )
        return maps

    def evaluate(
        self, name: str, maps: NDArray[np.float32], noise: Callable[..., Any]
    ) -> NDArray[np.float64]:
        metric = getattr(self.quantus, METRICS[name])(
            nr_samples=self.task.draws,
            perturb_func=noise,
            # Without its default upper bound RelativeInputStability, too, draws from [-r, r].
            perturb_func_kwargs={"lower_bound": self.task.radius, "upper_bound": None},
            disable_warnings=True,
            display_progressbar=False,
        )
        values = metric(
            model=self.task.module,
            x_batch=self.images,
            y_batch=self.targets,
            a_batch=maps,
            explain_func=self.explain,
            explain_func_kwargs=self.explain_settings.copy(),
            device="cpu",
            batch_size=len(self.images),
        )
        return np.asarray(values, dtype=np.float64)


def run_quantus(task: Task, explain: str) -> Result:
    peer = Peer(task, explain)
    np.random.seed(SEED)  # noqa: NPY002 - Quantus draws from the global state

    def once() -> tuple[dict[str, float], Values]:
        # The clean maps are made once for all three, which its documentation allows and which
        # is the fastest for Quantus.
        cpu, marks = time.process_time(), [time.perf_counter()]
        maps = peer.clean_maps()
        marks.append(time.perf_counter())
        values = {}
        for name in METRICS:
            values[name] = peer.evaluate(name, maps, peer.noise)
            marks.append(time.perf_counter())
        steps = ("clean_maps", *METRICS)
        seconds = {
            name: after - before
            for name, before, after in zip(steps, marks[:-1], marks[1:], strict=True)
        }
        total = marks[-1] - marks[0]
        return seconds | {"total": total, "cpu": time.process_time() - cpu}, values

    return warm(once)


def replayed(task: Task, perturbed: list[Tensor]) -> Callable[..., NDArray[np.float32]]:
    """Return a perturb_func for Quantus that hands out stored images, one draw a call."""
    stored = iter(perturbed)

    def noise(arr: NDArray[np.float32], **_settings: object) -> NDArray[np.float32]:
        assert arr.shape == (len(task.images), task.images[0].numel())
        flat: NDArray[np.float32] = next(stored).flatten(1).numpy()
        return flat

    return noise


def difference(own: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Largest relative difference; infinite where only one of the two is NaN."""
    if not np.array_equal(np.isnan(own), np.isnan(other)):
        return math.inf
    known = ~np.isnan(other)
    return float(np.max(np.abs(own - other)[known] / np.abs(other)[known], initial=0.0))


def check(task: Task) -> dict[str, object]:
    """Compare the numbers of both on the same perturbed images."""
    perturbed = [draw(task, number) for number in range(task.draws)]
    own = ours(task, perturbed)
    report: dict[str, object] = {
        "nan_images": {name: int(np.isnan(row).sum()) for name, row in own.items()}
    }
    good = True
    for explain in EXPLAINERS:
        peer = Peer(task, explain)
        maps = peer.clean_maps()
        found = {
            name: difference(own[name], peer.evaluate(name, maps, replayed(task, perturbed)))
            for name in METRICS
        }
        good = good and max(found.values()) <= RELATIVE_TOLERANCE
        report[f"relative_difference_explain_{explain}"] = found
    return report | {"tolerance": RELATIVE_TOLERANCE, "good": good}


def as_array(row: list[float | None]) -> NDArray[np.float64]:
    return np.array([math.nan if value is None else value for value in row])


def in_a_process(side: tuple[str, ...], options: argparse.Namespace) -> Result:
    command = [sys.executable, __file__, *side]
    for name in ("images", "draws", "radius", "threads"):
        command += [f"--{name}", str(getattr(options, name))]
    command += ["--summed"] if options.summed else []
    # OpenMP's threads wait for each other by spinning; beside any other busy process that makes
    # a pass of either side many times slower.
    environment = {"GOMP_SPINCOUNT": "10000"} | os.environ
    environment["OMP_NUM_THREADS"] = str(options.threads)
    done = subprocess.run(  # noqa: S603 - this very script, with numbers that argparse has read
        command, env=environment, check=True, stdout=subprocess.PIPE, text=True
    )
    return Result(**json.loads(done.stdout))


def compare(options: argparse.Namespace) -> dict[str, object]:
    """Take medians of runs that alternate, so that a busy moment hits every side."""
    sides = {
        "ours": ("ours",),
        **{f"quantus_{explain}": ("quantus", "--explain", explain) for explain in EXPLAINERS},
    }
    runs: dict[str, list[Result]] = {name: [] for name in sides}
    for _ in range(options.runs):
        for name, side in sides.items():
            runs[name].append(in_a_process(side, options))
    seconds = {name: [run.seconds for run in results] for name, results in runs.items()}
    medians = {
        name: {step: statistics.median(run[step] for run in each) for step in each[0]}
        for name, each in seconds.items()
    }
    peers = [name for name in sides if name != "ours"]
    return {
        "single_totals": {name: [run["total"] for run in each] for name, each in seconds.items()},
        "median_seconds": medians,
        # The CPU's seconds tell whether a busy machine made the ratio.
        **{
            f"ratio_{step}": {name: medians[name][step] / medians["ours"][step] for name in peers}
            for step in ("total", "cpu")
        },
        "agreement": {name: agreement(runs["ours"][0], runs[name][0]) for name in peers},
    }


def agreement(own: Result, other: Result) -> dict[str, dict[str, float]]:
    """Compare values of different noise: close, not equal. `check` is the one that must be equal.

    Images that have a value on both sides enter: a median image's relative difference, and the
    ratio of the medians over images.
    """
    report = {}
    for name in METRICS:
        mine, theirs = as_array(own.values[name]), as_array(other.values[name])
        both = ~np.isnan(mine) & ~np.isnan(theirs)
        mine_known, theirs_known = mine[both], theirs[both]
        report[name] = {
            "nan_ours": int(np.isnan(mine).sum()),
            "nan_quantus": int(np.isnan(theirs).sum()),
            "median_relative_difference": float(
                np.median(np.abs(mine_known - theirs_known) / theirs_known)
            ),
            "ratio_of_medians": float(np.median(mine_known) / np.median(theirs_known)),
        }
    return report


def parse() -> argparse.Namespace:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--images", type=int, default=16)
    common.add_argument("--draws", type=int, default=10)
    # 0.2 is the radius of MaxSensitivity in Quantus.
    common.add_argument("--radius", type=float, default=0.2)
    common.add_argument("--threads", type=int, default=2)
    common.add_argument("--summed", action="store_true", help="maps summed over the channels")
    parser = argparse.ArgumentParser(description="three robustness metrics beside Quantus 0.6.0")
    modes = parser.add_subparsers(dest="mode", required=True)
    for mode in ("ours", "check"):
        modes.add_parser(mode, parents=[common])
    modes.add_parser("quantus", parents=[common]).add_argument(
        "--explain", choices=EXPLAINERS, default="plain"
    )
    modes.add_parser("compare", parents=[common]).add_argument("--runs", type=int, default=5)
    return parser.parse_args()


def main() -> int:
    options = parse()
    torch.set_num_threads(options.threads)
    report: dict[str, Any]
    if options.mode == "compare":
        report = compare(options)
    elif options.mode == "check":
        report = check(make_task(options))
    elif options.mode == "ours":
        report = asdict(run_ours(make_task(options)))
    else:
        report = asdict(run_quantus(make_task(options), options.explain))
    sys.stdout.write(json.dumps(report, indent=1) + "\n")
    return 0 if report.get("good", True) else 1


if __name__ == "__main__":
    sys.exit(main())
