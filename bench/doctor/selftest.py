"""A run so small that it takes a second, of which every number is known beforehand."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import load_file, save_file

from steadymap.bench.core import names
from steadymap.bench.data.opening import open_images
from steadymap.bench.measure.runner import run
from steadymap.bench.network.loading import load_model
from steadymap.bench.plan.plan import Plan
from steadymap.bench.records import schema, vocabulary
from steadymap.metrics import Status
from steadymap.models import Classifier

IMAGES = 3
STEPS = 64
COMPLETENESS = "completeness_error_relative"
PLAN = Plan(
    method=("gradient", f"integrated_gradients:steps={STEPS}", "grad_cam"),
    family=("compensated_bias",),
    severity=(0.2,),
    metric=("ssim", COMPLETENESS),
    controls=False,
    nulls=0,
)
CELLS = 1
# SSIM of every method, completeness of the one that has it, of the clean image, too, and what is
# recorded of the input.
RECORDS = IMAGES * (len(PLAN.method) * CELLS + (CELLS + 1) + len(vocabulary.INPUT_METRICS) * CELLS)

# A unit that rounding switches moved an SSIM by 0.0004; a method that moves loses tenths.
MOST_LOST = 0.01
LEAST_MOVED = 0.1
# 0.016 were measured; what is no integral is off by tenths.
MOST_INCOMPLETE = 0.05

READINGS = 10_000


@dataclass(frozen=True)
class Trial:
    """What was run.

    Attributes:
        classifier: the embedded network.
        first: its records.
        second: those of the same run again.
    """

    classifier: Classifier
    first: pd.DataFrame
    second: pd.DataFrame


@dataclass(frozen=True)
class Outcome:
    """What a check came to: whether it holds, and the value that says so."""

    holds: bool
    value: str


def make_trial() -> Trial:
    """Run the plan on the first embedded hands, twice."""
    classifier = load_model("compact")
    images = open_images("hands", classifier.framing, "test", IMAGES)
    return Trial(classifier, run(classifier, images, PLAN), run(classifier, images, PLAN))


def _records(trial: Trial) -> Outcome:
    ill = trial.first[trial.first[vocabulary.STATUS] != Status.OK.value]
    value = f"{len(trial.first)} of {RECORDS}, {len(trial.first) - len(ill)} ok"
    if len(ill):
        first = ill.iloc[0]
        columns = (vocabulary.METHOD, vocabulary.METRIC, vocabulary.STATUS, vocabulary.DETAIL)
        method, metric, status, detail = (first[column] for column in columns)
        value += f"; {method}, {metric}: {status}: {detail}"
    return Outcome(len(trial.first) == RECORDS and ill.empty, value)


def _predictions(trial: Trial) -> Outcome:
    images = trial.first.drop_duplicates(vocabulary.IMAGE_ID)
    right = int(
        (images[vocabulary.LABEL] == images[vocabulary.PRED_CLEAN]).fillna(value=False).sum()
    )
    return Outcome(right == IMAGES, f"{right} of {IMAGES} hands have their right name")


def _stays(method: str) -> Callable[[Trial], Outcome]:
    def check(trial: Trial) -> Outcome:
        lost = _lost(trial, method)
        worst = max(lost) if len(lost) == IMAGES else math.nan
        return Outcome(worst <= MOST_LOST, f"1 - SSIM is at most {worst:.1e}; 0 is exact")

    return check


def _moves(trial: Trial) -> Outcome:
    lost = _lost(trial, "integrated_gradients")
    mean = sum(lost) / IMAGES if len(lost) == IMAGES else math.nan
    return Outcome(mean >= LEAST_MOVED, f"1 - SSIM is {mean:.2f} in the mean; it must move")


def _lost(trial: Trial, method: str) -> list[float]:
    """Return how far each image's SSIM is from 1."""
    chosen = trial.first[vocabulary.METHOD].astype(str).str.partition(":")[0] == method
    values = trial.first[chosen & (trial.first[vocabulary.METRIC] == "ssim")][vocabulary.VALUE]
    return [1 - float(value) for value in values if math.isfinite(value)]


def _complete(trial: Trial) -> Outcome:
    values = trial.first[trial.first[vocabulary.METRIC] == COMPLETENESS][vocabulary.VALUE]
    known = len(values) == IMAGES * (CELLS + 1) and bool(values.notna().all())
    worst = float(values.max()) if known else math.nan
    return Outcome(
        worst <= MOST_INCOMPLETE, f"off by {names.percent(worst)} at most, with {STEPS} steps"
    )


def _repeats(trial: Trial) -> Outcome:
    same = trial.first.equals(trial.second)
    return Outcome(same, "bit for bit the same" if same else "two runs differ")


def _parquet(trial: Trial) -> Outcome:
    table = pa.Table.from_pandas(trial.first, preserve_index=False).cast(schema.SCHEMA)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "records.parquet"
        pq.write_table(table, path)
        size = path.stat().st_size
        same = schema.to_frame(pq.read_table(path).cast(schema.SCHEMA)).equals(
            schema.to_frame(table)
        )
    return Outcome(same, f"{size} bytes, read as written" if same else "read otherwise")


def _safetensors(trial: Trial) -> Outcome:
    weights = {
        name: tensor.contiguous()
        for name, tensor in trial.classifier.module.network.state_dict().items()
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.safetensors"
        save_file(weights, path)
        read = load_file(path)
        size = path.stat().st_size
    same = read.keys() == weights.keys() and all(
        torch.equal(read[name], tensor) for name, tensor in weights.items()
    )
    return Outcome(same, f"{size} bytes, read as written" if same else "read otherwise")


def _clock(_trial: Trial) -> Outcome:
    readings = [time.perf_counter() for _ in range(READINGS)]
    back = sum(later < earlier for earlier, later in pairwise(readings))
    took = readings[-1] - readings[0]
    return Outcome(
        not back and took > 0, f"{READINGS} readings, {back} go back, {took / READINGS:.1e} s each"
    )


CHECKS: dict[str, Callable[[Trial], Outcome]] = {
    "records": _records,
    "the embedded network": _predictions,
    "gradient stays": _stays("gradient"),
    "grad_cam stays": _stays("grad_cam"),
    "integrated_gradients moves": _moves,
    "completeness": _complete,
    "again": _repeats,
    "parquet": _parquet,
    "safetensors": _safetensors,
    "clock": _clock,
}
