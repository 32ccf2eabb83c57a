"""Experiments: a plan with a model and data, merged from YAML and flags."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError, field_validator

from steadymap.bench.core import errors, names
from steadymap.bench.data.masks import MASKS
from steadymap.bench.network.variants import parse_variant
from steadymap.bench.plan.plan import MOST_THREADS, Plan, check_known, first_line


class Experiment(Plan):
    """A plan, the model and the images it is for, and where the result goes.

    Attributes:
        model: see `steadymap list`.
        weights: a file of weights; left out, those that the model brings.
        variant: how the network is deployed, e.g. `pruned=0.3`; left out, as it is.
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
    variant: str | None = None
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

    @field_validator("variant")
    @classmethod
    def _variant_is_known(cls, value: str | None) -> str | None:
        if value is not None:
            parse_variant(value)
        return value

    @field_validator("mask")
    @classmethod
    def _mask_is_known(cls, value: str | None) -> str | None:
        if value is not None:
            check_known("mask", value, list(MASKS))
        return value

    @field_validator("shard")
    @classmethod
    def _shard_is_one_of_some(cls, value: str | None) -> str | None:
        if value is not None:
            first, _, last = value.partition("/")
            are_numbers = first.isdecimal() and last.isdecimal()
            if not are_numbers or not 1 <= int(first) <= int(last):
                raise errors.ConfigError(
                    f"shard: expected K/N, K from 1 to N, e.g. 1/4, got {value!r}"
                )
        return value

    def is_mine(self, place: int) -> bool:
        """Return whether this machine computes the block of images at a place."""
        if self.shard is None:
            return True
        first, _, count = self.shard.partition("/")
        return place % int(count) == int(first) - 1


def make_experiment(layers: list[Mapping[str, Any]]) -> Experiment:
    """Return an experiment made of layers of settings, later ones over earlier ones.

    Severities by family are merged family by family; families that do not run need none.

    Raises:
        ConfigError: one line for the first thing wrong.
    """
    merged: dict[str, Any] = {}
    for layer in layers:
        lower, upper = merged.get("severity"), layer.get("severity")
        merged |= layer
        if isinstance(lower, dict) and isinstance(upper, dict):
            merged["severity"] = lower | upper
    for key in merged:
        if key not in Experiment.model_fields:
            raise errors.ConfigError(
                f"unknown key {key!r}; {names.nearest(key, Experiment.model_fields)}"
            )
    try:
        experiment = Experiment.model_validate(merged)
    except ValidationError as error:
        raise errors.ConfigError(first_line(error, Experiment)) from error
    experiment.severities()
    return experiment
