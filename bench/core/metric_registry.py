"""Metrics by name: ours, those of plug-ins, and those that a manifest describes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from functools import cache
from typing import Any

import numpy as np
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from steadymap.bench.core.errors import PluginError
from steadymap.bench.core.plugins import YOUR_OWN, Shelf, check_fields, check_function, summary_of
from steadymap.metrics import METRICS, Maps, Metric, TensorMaps
from steadymap.metrics.maps import Array


def _as_metric(found: object) -> Metric:
    """Make an entry of a `Metric`, or of a function of the clean and the perturbed maps.

    Of a function nothing is known but that it compares two maps: higher is taken for better, it is
    not calibrated, because nobody says what a perfect score is, and no map is recognised by it.
    """
    if isinstance(found, Metric):
        check_fields(found)
        if found.identity is not None and not np.isfinite(found.identity):
            raise TypeError(f"identity: must be a finite number or None, got {found.identity}")
        metric = found
    else:
        check_function(found, "clean, perturbed")
        metric = Metric(
            found,  # type: ignore[arg-type] # seen to be a function of two
            "signed",
            "map",
            "higher",
            None,
            symmetric=False,
            summary=summary_of(found),
            source=YOUR_OWN,
        )
    on_tensors = metric.on_tensors and _on_copies(metric.on_tensors)
    return replace(metric, compute=_on_copies(metric.compute), on_tensors=on_tensors)


def _on_copies(compute: Callable[..., Any]) -> Callable[..., Any]:
    """Give a function maps of its own: what it writes into them changes no other metric."""

    def on_copies(*given: Maps | TensorMaps | Array | Tensor) -> object:
        return compute(*map(_copy, given))

    return on_copies


def _copy(given: Maps | TensorMaps | Array | Tensor) -> Maps | TensorMaps | Array | Tensor:
    if isinstance(given, Maps):
        return Maps(given.signed.copy())
    if isinstance(given, TensorMaps):
        return TensorMaps(given.signed.clone())
    return given.clone() if isinstance(given, Tensor) else given.copy()


# All but what computes.
DESCRIBED = tuple(
    field.name for field in fields(Metric) if field.name not in ("compute", "on_tensors")
)

# What records hold beside metrics of maps: of the input, and of paths.
METRIC_SHELF = Shelf("metric", METRICS, _as_metric, ("input_change", "saturated_share", "steps"))


def describe(metrics: Mapping[str, Metric]) -> dict[str, dict[str, object]]:
    """Return what must be known of metrics to read their values, for a manifest."""
    return {
        name: {key: getattr(metric, key) for key in DESCRIBED} for name, metric in metrics.items()
    }


def known_metrics(*manifests: Mapping[str, Any]) -> dict[str, Metric]:
    """Return the metrics whose values can be read: ours, and those that manifests describe.

    Nothing is loaded for a name in a manifest: a metric that is described there can be read, not
    computed. Without a manifest, those that have been loaded already are known, too.

    Raises:
        PluginError: a description that is none.
    """
    found = {} if manifests else METRIC_SHELF.loaded()
    for manifest in manifests:
        own = manifest.get("own_metrics") or {}
        if not isinstance(own, Mapping):
            raise PluginError("own_metrics: the manifest does not describe metrics")
        for name, described in own.items():
            try:
                given = {**described, "compute": _elsewhere}
                found[name] = _described().validate_python(given)
            except (ValidationError, TypeError) as error:
                raise PluginError(f"metric {name!r}: the manifest does not describe it") from error
    return METRICS | {name: metric for name, metric in found.items() if name not in METRICS}


@cache
def _described() -> TypeAdapter[Metric]:
    return TypeAdapter(Metric)


def _elsewhere(_maps: Maps, _other: Maps) -> Array:
    raise TypeError("a metric that a manifest describes can be read, not computed")
