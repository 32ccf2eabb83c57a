"""The experiments that come with the package: their names, summaries and settings."""

from __future__ import annotations

import importlib.resources
from dataclasses import dataclass
from typing import Any

from steadymap.bench.core import errors, names, safe_yaml

EXPERIMENTS = importlib.resources.files("steadymap.bench.experiments")
DEFAULT_EXPERIMENT = "hands"


def experiment_names() -> tuple[str, ...]:
    """Return the names of the experiments that come with the package."""
    return tuple(
        sorted(
            file.name.removesuffix(".yaml")
            for file in EXPERIMENTS.iterdir()
            if file.name.endswith(".yaml")
        )
    )


def read_experiment(name: str) -> dict[str, Any]:
    """Read the settings of an experiment that comes with the package.

    Raises:
        ConfigError: no such experiment; names the nearest one.
    """
    if name not in experiment_names():
        raise errors.ConfigError(
            f"unknown experiment {name!r}; {names.nearest(name, experiment_names())}"
        )
    return safe_yaml.parse_mapping(
        EXPERIMENTS.joinpath(f"{name}.yaml").read_text(encoding="utf-8"), name
    )


@dataclass(frozen=True)
class ExperimentSummary:
    """What the comment lines at the head of an experiment say.

    Attributes:
        summary: one line on what it does.
        needs: what must be there beside the package.
        takes: how long it takes.
    """

    summary: str
    needs: str
    takes: str

    @property
    def limits(self) -> str:
        """What it needs and how long it takes."""
        return f"{self.needs} {self.takes}"


def about_experiment(name: str) -> ExperimentSummary:
    """Return what an experiment says of itself, in its first three lines."""
    text = EXPERIMENTS.joinpath(f"{name}.yaml").read_text(encoding="utf-8")
    lines = [line.removeprefix("#").strip() for line in text.split("\n")[:3]]
    return ExperimentSummary(*lines)
