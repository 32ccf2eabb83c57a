"""What a manifest must hold, and of which kind, for those who read it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from steadymap.bench.core.errors import first_error

# The key of a manifest: when the run was measured, UTC, ISO 8601. Those from before 0.2.0 lack it.
MEASURED_AT = "measured_at"


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
    units: dict[str, str] = {}
    model: _Network
    data: _Images
    versions: dict[str, str]
    machine: _Machine
    statuses: dict[str, int]
    metrics: dict[str, str] = {}
    plugins: dict[str, str] = {}
    orders: dict[str, str | None] = {}
    unsigned: list[str] = []
    checks: dict[str, str] = {}
    own_metrics: dict[str, dict[str, Any]] = {}
    passes: _Passes | None = None
    passes_by_method: dict[str, _Cost] = {}
    peak_memory_bytes: dict[str, int] = {}
    wall_seconds: float = 0.0
    measured_at: str = ""
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
        return first_error(error)
    return ""


# Units of our families, for manifests from before units stood in them; a test holds them to
# the registry.
_UNITS_BEFORE = {
    "salt_and_pepper": "as a share of the pixels",
    "brightness": "as a share of the light",
    "contrast": "as a share of the distance",
    "saturation": "as a share of the distance",
    "hue": "as a share of the circle",
    "gaussian_blur": "as a share of the shorter side",
    "pixelate": "as a share of the side",
    "translation": "as a share of the side",
    "jpeg": "as a share of the quality",
    "rotation": "in degrees",
    "zoom": "as a share of the size",
}
_IN_IMAGE_UNITS = (
    "bias", "compensated_bias", "gaussian_noise", "uniform_noise", "shot_noise", "speckle_noise",
    "red_bias", "green_bias", "blue_bias", "adversarial", "random_sign",
)  # fmt: skip


def unit_of(manifest: Mapping[str, Any], family: str) -> str | None:
    """Return what the severities of a family are counted in; None where nobody says.

    Args:
        manifest: of the run; one from before 0.2.0 holds no units.
        family: of perturbations.
    """
    if "units" in manifest:
        return str(manifest["units"][family]) if family in manifest["units"] else None
    if family in _IN_IMAGE_UNITS:
        return "in image units"
    return "in whole levels" if family.startswith("imagenet_c_") else _UNITS_BEFORE.get(family)
