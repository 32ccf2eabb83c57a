"""What a manifest must hold, and of which kind, for those who read it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError


class _Shape(BaseModel):
    """Keys that are read; others may stand beside them."""

    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False)


class _Network(_Shape):
    name: str
    class_names: list[str]


class _Excluded(_Shape):
    name: str
    reason: str


class _Images(_Shape):
    name: str
    split: str
    pictures: dict[str, str]
    excluded: list[_Excluded]


class _Machine(_Shape):
    processor: str
    device_name: str | None = None


class _Passes(_Shape):
    forward: int
    backward: int


class _Cost(_Shape):
    each: float | None = None
    shared: bool = False
    forward_only: float = 0


class _Baseline(_Shape):
    metrics: list[str]
    scores_sha256: str
    time_ratios: dict[str, float]


class _Manifest(_Shape):
    run_id: str
    configuration: dict[str, Any]
    methods: list[str]
    severities: dict[str, list[float]]
    model: _Network
    data: _Images
    versions: dict[str, str]
    machine: _Machine
    statuses: dict[str, int]
    metrics: dict[str, str] = {}
    plugins: dict[str, str] = {}
    own_metrics: dict[str, dict[str, Any]] = {}
    passes: _Passes | None = None
    passes_by_method: dict[str, _Cost] = {}
    peak_memory_bytes: dict[str, int] = {}
    wall_seconds: float = 0.0
    git: dict[str, Any] | None = None
    baseline: _Baseline | None = None


# What every manifest has; the schema's version is looked at before all else.
NEEDED = (
    "schema_version",
    *(name for name, field in _Manifest.model_fields.items() if field.is_required()),
)


def misshapen(manifest: Mapping[str, Any]) -> str:
    """Return what is wrong with a manifest, in one line; nothing where nothing is."""
    try:
        _Manifest.model_validate(manifest)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        return " ".join(f"{key}: {first['msg']}".split())
    return ""
