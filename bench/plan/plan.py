"""What a run does: every key of the YAML configuration, each also a flag of `steadymap run`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import is_dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from steadymap.bench.core.errors import ConfigError
from steadymap.bench.core.metric_registry import METRIC_SHELF
from steadymap.bench.core.names import nearest
from steadymap.bench.core.plugins import Shelf
from steadymap.bench.methods.binding import METHOD_SHELF, bind_method
from steadymap.bench.methods.integrated_gradients import Steps
from steadymap.bench.methods.method import BoundMethod, Engine
from steadymap.bench.methods.registry import CONTROLS, DEFAULT_METHODS
from steadymap.bench.perturbations.cell import Cell
from steadymap.bench.perturbations.registry import DEFAULT_FAMILIES, FAMILY_SHELF
from steadymap.metrics import METRICS

# Beyond these a number is a slip, and would ask for more memory than there is.
MOST_DRAWS = 1000
MOST_THREADS = 1024
# Of a value that is wrong, in a message.
MOST_SHOWN = 200
# Each makes a map of every image and method, which is kept while its block is in hand.
MOST_NULLS = 60
# Larger cells than that leave no order worth the name: four by four of them.
MOST_CELL_SHARE = 0.25


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
        nulls: how many randomised networks' maps each map is held against, beside those of the
            other images of its block; 0 leaves out both, and scores uncalibrated.
        admission: whether it is measured if a map knows more about its image than the method's
            maps of other images and of randomised networks do; takes `nulls`.
        cell_share: for that, how large a cell of pixels is that is deleted as a whole, as a share
            of the image's shorter side.
        coupled: whether stochastic methods explain perturbed images once more with the clean
            image's draws: a score of its own beside the headline, which has draws of its own for
            every view.
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
    coupled: bool = False
    admission: bool = True
    cell_share: Annotated[float, Field(gt=0, le=MOST_CELL_SHARE)] = 1 / 16
    steps: Steps | None = None
    seed: Annotated[int, Field(ge=0)] = 0
    batch_size: Annotated[int, Field(ge=1)] | None = None
    jobs: Annotated[int, Field(ge=1, le=MOST_THREADS)] = 1
    engine: Engine = "own"
    precision: Literal["ieee", "tf32"] = "ieee"

    if not TYPE_CHECKING:  # or a type checker would not see the fields

        def __init__(self, **settings: object) -> None:
            """Check the settings.

            Raises:
                ConfigError: one line for the first thing wrong.
            """
            try:
                super().__init__(**settings)
            except ValidationError as error:
                raise ConfigError(first_line(error, type(self))) from None

    @field_validator("severity", mode="before")
    @classmethod
    def _one_is_a_list_of_one(cls, value: Any) -> Any:  # noqa: ANN401 - whatever the file says
        if isinstance(value, dict):
            return {key: _listed(levels) for key, levels in value.items()}
        return _listed(value)

    @field_validator("method", "family", "metric", mode="before")
    @classmethod
    def _objects_have_names(cls, value: Any, info: ValidationInfo) -> Any:  # noqa: ANN401 - as above
        """Take functions and classes, from Python, in the place of their names."""
        listed = value if isinstance(value, list | tuple) or value is None else [value]
        shelves: dict[str, Shelf[Any]] = {
            "method": METHOD_SHELF,
            "family": FAMILY_SHELF,
            "metric": METRIC_SHELF,
        }
        shelf = shelves[str(info.field_name)]
        return listed and tuple(_name_on(shelf, entry) for entry in listed)

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
        cheap = (name for name, metric in METRICS.items() if not metric.costly)
        return self.metric or tuple(cheap)

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
                check_known("family in severity", name, FAMILY_SHELF.names())
        chosen = {}
        for name in dict.fromkeys(self.family):
            family = FAMILY_SHELF.find(name)
            requested = (
                self.severity.get(name) if isinstance(self.severity, dict) else self.severity
            )
            if family.missing and (reason := family.missing()):
                raise ConfigError(f"family: {name} {reason}")
            levels = family.severities if requested is None else tuple(dict.fromkeys(requested))
            if requested is None and not levels:
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


def _name_on(shelf: Shelf[Any], entry: object) -> object:
    """Return the name of an object; what a file may hold stays as it is."""
    is_object = callable(entry) or is_dataclass(entry)
    return shelf.lend(entry) if is_object else entry


def _listed(value: Any) -> Any:  # noqa: ANN401 - as above
    return [value] if isinstance(value, str | int | float) else value


def _some(key: str, value: tuple[Any, ...]) -> tuple[Any, ...]:
    if not value:
        raise ConfigError(f"{key}: the list is empty; leave the key out for the default")
    return value


def check_known(key: str, name: str, known: Sequence[str]) -> None:
    """See that a name is one of those known.

    Raises:
        ConfigError: it is none; names the nearest one.
    """
    if name not in known:
        raise ConfigError(f"unknown {key} {name!r}; {nearest(name, known)}")


def first_line(error: ValidationError, settings: type[BaseModel]) -> str:
    """Return the first thing wrong with settings: the key, the rule and the value.

    Args:
        error: pydantic's.
        settings: what they were to be.
    """
    first = error.errors()[0]
    if isinstance(cause := first.get("ctx", {}).get("error"), ValueError):
        return str(cause)
    key = str(first["loc"][0])
    if first["type"] == "extra_forbidden":
        return f"unknown key {key!r}; {nearest(key, settings.model_fields)}"
    return f"{key}: {first['msg']}, got {repr(first['input'])[:MOST_SHOWN]}"
