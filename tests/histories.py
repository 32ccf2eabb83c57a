"""Simulated histories, of which it is known where the steps are and who did them.

`python tests/histories.py` makes the committed example again: results/history-example.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from small_run import manifest

from steadymap.bench.core.randomness import generator
from steadymap.bench.history import page, store
from steadymap.bench.history.entry import SCHEMA_VERSION, Entry
from steadymap.bench.history.scores import ACCURACY, CALIBRATED, COLUMNS, NETWORK, RAW
from steadymap.bench.history.timeline import timeline

EXAMPLE = Path(__file__).resolve().parents[1] / "results" / "history-example"
# An even commit-to-commit noise, the interval's half width, and where methods are.
NOISE = 0.004
HALF = 0.03
LEVELS = {"grad_cam": 0.72, "integrated_gradients:baseline=black,steps=4": 0.41, "gradient": 0.24}
FIRST = datetime(2026, 1, 5, 9, tzinfo=UTC)


@dataclass(frozen=True)
class Planted:
    """A step that is known.

    Attributes:
        run: the first run that has it.
        cause: what changed with it, of `histories.CHANGED`.
        methods: by method, by how much its scores moved.
    """

    run: int
    cause: str
    methods: Mapping[str, float]


@dataclass(frozen=True)
class Simulation:
    """A history to be made.

    Attributes:
        key: of its noise.
        runs: how many.
        planted: its steps.
        harmless: by run, what changed there without moving anything.
        noise: from run to run, standard deviation.
    """

    key: str
    runs: int
    planted: Sequence[Planted] = ()
    harmless: Mapping[int, str] = field(default_factory=dict)
    noise: float = NOISE

    def entries(self) -> list[Entry]:
        """Return its entries; a commit changes with every run."""
        about = manifest() | {"methods": list(LEVELS)}
        about.pop("passes_by_method")
        levels = dict(LEVELS)
        made = []
        for run in range(self.runs):
            about["git"] = {"commit": _hash(f"{self.key} commit {run}")[:40], "changed": False}
            for cause in [self.harmless.get(run), *_causes(self.planted, run)]:
                if cause is not None:
                    CHANGED[cause](about, run)
            for step in self.planted:
                if step.run == run:
                    levels |= {name: levels[name] + by for name, by in step.methods.items()}
            made.append(entry(about, run, self._scores(levels, run)))
        return made

    def _scores(self, levels: Mapping[str, float], run: int) -> pd.DataFrame:
        draws = generator("history", self.key, run)
        rows = [
            row(method, metric, level + self.noise * float(draws.standard_normal()))
            for method, level in levels.items()
            for metric in ("ssim", "spearman")
        ]
        accuracy = (NETWORK, "clean", ACCURACY, RAW, 60, 59 / 60, 0.911, 0.999, 1.0)
        return pd.DataFrame([*rows, accuracy], columns=COLUMNS)


def row(method: str, metric: str, value: float) -> tuple[object, ...]:
    """Return a calibrated score of all families, with an interval."""
    return (method, "overall", metric, CALIBRATED, 60, value, value - HALF, value + HALF, 1.0)


def entry(about: Mapping[str, Any], run: int, scores: pd.DataFrame, **facts: object) -> Entry:
    """Return an entry of a run, measured so many half days after the first."""
    own: dict[str, Any] = {
        "schema": SCHEMA_VERSION,
        "id": _hash(f"{run} {about['git']['commit']}")[:24],
        "run_id": about["run_id"],
        "measured_at": (FIRST + timedelta(hours=12 * run)).isoformat(timespec="seconds"),
        "commit": about["git"]["commit"],
        "label": "",
        "renewed": False,
        "rules": about["rules"],
        "manifest": copy.deepcopy({key: value for key, value in about.items() if key != "files"}),
    }
    own["manifest"]["data"] |= {"pictures": 2, "excluded": 1}
    return Entry(own | facts, scores.sort_values(COLUMNS[:4], ignore_index=True))


def _causes(planted: Sequence[Planted], run: int) -> list[str]:
    return [step.cause for step in planted if step.run == run]


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _weights(about: dict[str, Any], run: int) -> None:
    about["model"] = about["model"] | {"weights_sha256": _hash(f"weights {run}")}


def _library(about: dict[str, Any], run: int) -> None:
    about["versions"] = about["versions"] | {"torch": f"2.{run}"}


def _machine(about: dict[str, Any], run: int) -> None:
    about["machine"] = about["machine"] | {"processor": f"processor {run}"}


def _settings(about: dict[str, Any], run: int) -> None:
    about["configuration"] = about["configuration"] | {"precision": f"precision {run}"}


def _data(about: dict[str, Any], run: int) -> None:
    about["data"] = about["data"] | {"excluded": [{"name": f"{run}", "reason": "r"}] * (run + 2)}


def _code(_about: dict[str, Any], _run: int) -> None:
    """The commit changes with every run anyway."""


# What a cause changes in a manifest.
CHANGED = {
    "weights": _weights,
    "library": _library,
    "machine": _machine,
    "settings": _settings,
    "code": _code,
}

OF_EXAMPLE = Simulation(
    "example",
    60,
    (
        Planted(22, "library", {"integrated_gradients:baseline=black,steps=4": -0.03}),
        Planted(
            43,
            "weights",
            {"grad_cam": 0.04, "integrated_gradients:baseline=black,steps=4": 0.02},
        ),
    ),
    {10: "machine", 31: "machine", 52: "library"},
)


def example() -> str:
    """Return the drawing of the committed example, SVG."""
    (era,) = timeline(OF_EXAMPLE.entries())
    return page.as_picture(era, "ssim")


def written(folder: Path, entries: Sequence[Entry]) -> Path:
    """Write a history into a folder; return it."""
    for one in entries:
        assert store.add(folder, one)
    return folder


def flat(key: str, lines: int, runs: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return lines of normal noise alone: (lines, runs)."""
    return generator("flat", key).standard_normal((lines, runs))


if __name__ == "__main__":
    EXAMPLE.mkdir(exist_ok=True)
    (EXAMPLE / "ssim.svg").write_text(example(), encoding="utf-8")
