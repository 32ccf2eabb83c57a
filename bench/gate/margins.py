"""How much worse is still as good: the margins of a gate, from YAML and flags."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from steadymap.bench.core import errors, names, safe_yaml
from steadymap.bench.records.vocabulary import EVIDENCE_KEPT, RECOGNISED
from steadymap.metrics import METRICS


def read_margins(
    path: Path | None, texts: Sequence[str] = (), metrics: Sequence[str] = ()
) -> Margins:
    """Return the documented margins, with those of a file and of flags over them.

    Args:
        path: YAML with any of `absolute`, `relative` (metrics with their margins), `coverage` and
            `agreement`.
        texts: METRIC=MARGIN, in the metric's own unit.
        metrics: those that may have a margin beside ours; a plug-in's has none unless given.

    Raises:
        ConfigError: an unknown key or metric, or a margin that is no number of 0 or more.
    """
    absolute, relative = dict(MARGINS), dict(RELATIVE_MARGINS)
    coverage: float = Margins().coverage
    agreement: float = Margins().agreement
    known = list(dict.fromkeys((*MARGINS, *RELATIVE_MARGINS, *INFORMATIVE, *metrics)))
    content = {} if path is None else safe_yaml.read_config(path)
    for key, value in content.items():
        if key == "coverage":
            coverage = _number("coverage", value)
        elif key == "agreement":
            agreement = _number("agreement", value)
            if agreement > 1:
                raise errors.ConfigError(
                    f"margin: agreement: a share of images, 1 at most, got {value}"
                )
        elif key in ("absolute", "relative") and isinstance(value, dict):
            for metric, margin in value.items():
                _set((absolute, relative), key, _known(str(metric), known), margin)
        else:
            raise errors.ConfigError(
                f"margins: {path} has {key!r}; known: absolute, relative (each with metrics and "
                "their margins), coverage and agreement"
            )
    for text in texts:
        metric, equals, margin = text.rpartition("=")
        if not equals:
            raise errors.ConfigError(f"margin: expected METRIC=NUMBER, got {text!r}")
        _set((absolute, relative), "absolute", _known(metric, known), margin)
    return Margins(absolute, relative, coverage, agreement)


def _set(
    margins: tuple[dict[str, float], dict[str, float]], kind: str, metric: str, value: object
) -> None:
    """Set a margin of one kind, and take that of the other kind away."""
    absolute, relative = margins
    chosen, other = (absolute, relative) if kind == "absolute" else (relative, absolute)
    chosen[metric] = _number(metric, value)
    other.pop(metric, None)


def _known(metric: str, known: Sequence[str]) -> str:
    if metric not in known:
        raise errors.ConfigError(
            f"margin: unknown metric {metric!r}; {names.nearest(metric, known)}"
        )
    return metric


def _number(name: str, value: object) -> float:
    try:
        number = float(str(value))
    except ValueError as error:
        raise errors.ConfigError(f"margin: {name}: expected a number, got {value!r}") from error
    if not 0 <= number < float("inf"):
        raise errors.ConfigError(f"margin: {name}: must be 0 or more, got {value}")
    return number


# A tenth of what clean maps know.
EVIDENCE_MARGIN = 0.1

# Of our metrics, which say why; those of recognition are absolute, too.
MARGINS: dict[str, float] = (
    {name: metric.margin for name, metric in METRICS.items() if metric.margin is not None}
    | {
        name + RECOGNISED: metric.recognition_margin
        for name, metric in METRICS.items()
        if metric.recognises
    }
    | {EVIDENCE_KEPT: EVIDENCE_MARGIN}
)
RELATIVE_MARGINS: dict[str, float] = {
    name: metric.relative_margin
    for name, metric in METRICS.items()
    if metric.relative_margin is not None
}
# Informative only, unless a margin is given.
INFORMATIVE = tuple(name for name in METRICS if name not in MARGINS | RELATIVE_MARGINS)
COVERAGE_MARGIN = 0.05
# The share of images without a label on which two networks must say the same.
LEAST_AGREEMENT = 0.9

# How many times as long a method may take, in shared passes of its own run.
TIME_FACTOR = 2.0


@dataclass(frozen=True)
class Margins:
    """How much worse is still as good.

    Attributes:
        absolute: by metric, in its own unit.
        relative: by metric, as a share of the baseline's mean.
        coverage: how far the share of defined pairs may fall.
        agreement: the share of images without a label whose predictions must be the baseline's.
    """

    absolute: Mapping[str, float] = field(default_factory=lambda: dict(MARGINS))
    relative: Mapping[str, float] = field(default_factory=lambda: dict(RELATIVE_MARGINS))
    coverage: float = COVERAGE_MARGIN
    agreement: float = LEAST_AGREEMENT

    def of(self, metric: str, before: float) -> float:
        """Return a metric's margin, in its own unit; NaN where it has none."""
        if metric in self.absolute:
            return self.absolute[metric]
        return self.relative.get(metric, np.nan) * abs(before)
