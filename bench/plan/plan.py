"""What a run does: every key of the YAML configuration, each also a flag of `steadymap run`."""

from __future__ import annotations

import importlib.resources
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from steadymap.bench.core.names import nearest
from steadymap.bench.core.plugins import METRIC_SHELF
from steadymap.bench.core.safe_yaml import MOST_CHARACTERS, parse_yaml
from steadymap.bench.data.masks import MASKS
from steadymap.bench.methods.gradient import Steps
from steadymap.bench.methods.registry import (
    CONTROLS,
    DEFAULT_METHODS,
    BoundMethod,
    Engine,
    bind_method,
)
from steadymap.bench.perturbations.registry import DEFAULT_FAMILIES, FAMILY_SHELF, Cell
from steadymap.metrics import METRICS

EXPERIMENTS = importlib.resources.files("steadymap.bench.experiments")

# Beyond these a number is a slip, and would ask for more memory than there is.
MOST_DRAWS = 1000
MOST_THREADS = 1024
# Of a value that is wrong, in a message.
MOST_SHOWN = 200
# Each image is held against as many others, and they make blocks of twice as many.
MOST_NULLS = 60


class ConfigError(ValueError):
    """A configuration that cannot be run, with the key, the rule and the value."""


class Plan(BaseModel):
    """Which maps to make and how to score them.

    Attributes:
        method: methods with their parameters, e.g. `integrated_gradients:baseline=white,steps=32`.
        family: families of perturbations, plug-ins among them, or `package.module:name` for one of
            your own; left out, bias, compensated bias and three of noise.
        severity: one list for all families, or lists by family; left out, each family's own five.
            Lists of families that do not run are ignored.
        metric: metrics, plug-ins among them, or `package.module:name` for one of your own; left
            out, all of ours that the methods and the data allow, but those that cost passes of
            their own.
        draws: draws of each stochastic family at each severity.
        controls: whether the controls run, too.
        nulls: how many unrelated maps of either kind (another image's, a randomised network's) each
            map is held against; 0 leaves scores uncalibrated.
        steps: number of steps of path methods whose spec does not set it.
        seed: of everything random.
        batch_size: images that are looked at together, but never less than those whose maps are
            held against each other; changes the speed, and the last digits. Left out, 8, and 64 on
            a GPU.
        jobs: batches worked on at a time, each by its share of the threads; changes the speed
            alone.
        precision: ieee for float32 proper on a GPU, tf32 for its faster, coarser products.
        engine: own, or captum for every method that captum has; changes the last digits.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    method: tuple[str, ...] = DEFAULT_METHODS
    family: tuple[str, ...] = DEFAULT_FAMILIES
    severity: dict[str, tuple[float, ...]] | tuple[float, ...] | None = None
    metric: tuple[str, ...] | None = None
    draws: Annotated[int, Field(ge=1, le=MOST_DRAWS)] = 1
    controls: bool = True
    nulls: Annotated[int, Field(ge=0, le=MOST_NULLS)] = 3
    steps: Steps | None = None
    seed: Annotated[int, Field(ge=0)] = 0
    batch_size: Annotated[int, Field(ge=1)] | None = None
    jobs: Annotated[int, Field(ge=1, le=MOST_THREADS)] = 1
    engine: Engine = "own"
    precision: Literal["ieee", "tf32"] = "ieee"

    @field_validator("method", "family", "metric", "severity", mode="before")
    @classmethod
    def _one_is_a_list_of_one(cls, value: Any) -> Any:  # noqa: ANN401 - whatever the file says
        if isinstance(value, dict):
            return {key: _listed(levels) for key, levels in value.items()}
        return _listed(value)

    @field_validator("method")
    @classmethod
    def _methods_are_known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for spec in _some("method", value):
            bind_method(spec)
        return value

    @field_validator("family")
    @classmethod
    def _families_are_known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in _some("family", value):
            FAMILY_SHELF.find(name)
        return value

    @field_validator("metric")
    @classmethod
    def _metrics_are_known(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for name in _some("metric", value or ()) if value is not None else ():
            METRIC_SHELF.find(name)
        return value

    @model_validator(mode="after")
    def _captum_takes_a_number_of_steps(self) -> Plan:
        for method in self.bound_methods() if self.engine == "captum" else ():
            if method.adaptive:
                raise ValueError(f"engine: captum has no steps=auto, which {method.spec} asks for")
        return self

    def metrics(self) -> tuple[str, ...]:
        """Return the metrics named; without any, all but those that cost passes of their own."""
        return self.metric or tuple(name for name, one in METRICS.items() if not one.costly)

    def bound_methods(self) -> tuple[BoundMethod, ...]:
        """Return the methods with every parameter set, in the order given, each once.

        The controls come last, unless they have been asked for by name.
        """
        controls = CONTROLS if self.controls else ()
        bound = [bind_method(spec, self.steps) for spec in (*self.method, *controls)]
        return tuple({method.spec: method for method in bound}.values())

    def severities(self) -> dict[str, tuple[float, ...]]:
        """Return the severities of each family of the plan.

        Raises:
            ConfigError: a family that nobody knows or that cannot be had here, or a severity out of
                its bounds.
        """
        for name in self.severity if isinstance(self.severity, dict) else ():
            # One that does not run is not loaded for it.
            if name not in self.family and ":" not in name:
                _known("family in severity", name, FAMILY_SHELF.names())
        chosen = {}
        for name in dict.fromkeys(self.family):
            family = FAMILY_SHELF.find(name)
            given = self.severity.get(name) if isinstance(self.severity, dict) else self.severity
            if family.missing and (reason := family.missing()):
                raise ConfigError(f"family: {name} {reason}")
            levels = family.severities if given is None else tuple(dict.fromkeys(given))
            if given is None and not levels:
                raise ConfigError(
                    f"severity: {name} declares none; give --severity {name}=0.1,0.2, "
                    f"or severity: {{{name!r}: [0.1, 0.2]}} in the file"
                )
            low, high = family.bounds
            for level in _some(f"severity of {name}", levels):
                if not low <= level <= high or (family.whole and level != int(level)):
                    raise ConfigError(f"severity: {name} takes {family.limits}, got {level:g}")
            chosen[name] = levels
        return chosen

    def cells(self) -> tuple[Cell, ...]:
        """Return the perturbations of each image, in the order of the records."""
        return tuple(
            Cell(name, level, draw)
            for name, levels in self.severities().items()
            for level in levels
            for draw in range(self.draws if FAMILY_SHELF.find(name).stochastic else 1)
        )


class Experiment(Plan):
    """A plan, the model and the images it is for, and where the result goes.

    Attributes:
        model: see `steadymap list`.
        weights: a file of weights; left out, those that the model brings.
        data: see `steadymap list`.
        split: train, validation, test or all.
        mask: how the object is found in pictures that come without masks: see `steadymap list`.
        limit: how many images at most, taken from each class in turn; left out, the whole split.
        device: cpu, cuda, cuda:1, ...
        threads: CPU threads; left out, torch's own choice.
        save_maps: keep images, perturbed images and raw attributions.
        shard: `K/N` computes every N-th block of images alone, from the K-th on, for one of N
            machines whose runs `steadymap merge` joins.
        allow_failed: the share of values that may be errors before a run ends with exit code 3.
        parallel_config: a file that says who computes: see docs/scale-out.md.
        output: folder of the run; left out, runs/NAME-HASH.
    """

    model: str = "compact"
    weights: Path | None = None
    data: str = "hands"
    split: str = "test"
    mask: str | None = None
    limit: Annotated[int, Field(ge=1)] | None = None
    device: str = "cpu"
    threads: Annotated[int, Field(ge=1, le=MOST_THREADS)] | None = None
    save_maps: bool = False
    shard: str | None = None
    allow_failed: Annotated[float, Field(ge=0, le=1)] = 0.0
    parallel_config: Path | None = None
    output: Path | None = None

    @field_validator("mask")
    @classmethod
    def _mask_is_known(cls, value: str | None) -> str | None:
        if value is not None:
            _known("mask", value, list(MASKS))
        return value

    @field_validator("shard")
    @classmethod
    def _shard_is_one_of_some(cls, value: str | None) -> str | None:
        if value is not None:
            first, _, last = value.partition("/")
            whole = first.isdecimal() and last.isdecimal()
            if not whole or not 1 <= int(first) <= int(last):
                raise ConfigError(f"shard: expected K/N, K from 1 to N, e.g. 1/4, got {value!r}")
        return value

    def is_mine(self, place: int) -> bool:
        """Return whether this machine computes the block of images at a place."""
        if self.shard is None:
            return True
        first, _, count = self.shard.partition("/")
        return place % int(count) == int(first) - 1


def _listed(value: Any) -> Any:  # noqa: ANN401 - as above
    return [value] if isinstance(value, str | int | float) else value


def _some(key: str, value: tuple[Any, ...]) -> tuple[Any, ...]:
    if not value:
        raise ConfigError(f"{key}: the list is empty; leave the key out for the default")
    return value


def _known(key: str, name: str, known: Sequence[str]) -> None:
    if name not in known:
        raise ConfigError(f"unknown {key} {name!r}; {nearest(name, known)}")


def make_experiment(layers: list[Mapping[str, Any]]) -> Experiment:
    """Merge layers of settings, later ones over earlier ones, and check the result.

    Severities by family are merged family by family; families that do not run need none.

    Raises:
        ConfigError: one line for the first thing wrong.
    """
    merged: dict[str, Any] = {}
    for layer in layers:
        base, given = merged.get("severity"), layer.get("severity")
        merged |= layer
        if isinstance(base, dict) and isinstance(given, dict):
            merged["severity"] = base | given
    for key in merged:
        if key not in Experiment.model_fields:
            raise ConfigError(f"unknown key {key!r}; {nearest(key, Experiment.model_fields)}")
    try:
        experiment = Experiment.model_validate(merged)
    except ValidationError as error:
        raise ConfigError(first_line(error)) from error
    experiment.severities()
    return experiment


def first_line(error: ValidationError) -> str:
    """Return the first thing wrong with settings: the key, the rule and the value."""
    first = error.errors()[0]
    if isinstance(cause := first.get("ctx", {}).get("error"), ValueError):
        return str(cause)
    key = str(first["loc"][0])
    return f"{key}: {first['msg']}, got {repr(first['input'])[:MOST_SHOWN]}"


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
        raise ConfigError(f"unknown experiment {name!r}; {nearest(name, experiment_names())}")
    return _mapping(EXPERIMENTS.joinpath(f"{name}.yaml").read_text(encoding="utf-8"), name)


@dataclass(frozen=True)
class About:
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


def about_experiment(name: str) -> About:
    """Return what an experiment says of itself, in its first three lines."""
    text = EXPERIMENTS.joinpath(f"{name}.yaml").read_text(encoding="utf-8")
    lines = [line.removeprefix("#").strip() for line in text.split("\n")[:3]]
    return About(*lines)


def read_config(path: Path) -> dict[str, Any]:
    """Read the settings of a YAML file.

    Raises:
        ConfigError: no such file, not YAML, or not keys with values.
    """
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(MOST_CHARACTERS + 1)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"config: cannot read {path}: {error}") from error
    return _mapping(text, path.name)


def _mapping(text: str, name: str) -> dict[str, Any]:
    try:
        content = parse_yaml(text)
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"config: {name} is not YAML: {reason}") from error
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise ConfigError(f"config: {name} must hold keys with values, e.g. 'limit: 60'")
    return content
