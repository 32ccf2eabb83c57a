"""Metrics by name: ours, those of plug-ins, and those that a manifest describes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import TypeAdapter, ValidationError

from steadymap.bench.core import errors, plugins
from steadymap.metrics import METRICS, Evidence, Maps, Metric
from steadymap.metrics.maps import Array

if TYPE_CHECKING:
    from torch import Tensor

    from steadymap.metrics import TensorMaps

    # What a metric's function is given.
    Argument = Maps | TensorMaps | Evidence | Array | Tensor


# What tables and sentences have wherever a run has it.
HEADLINES = tuple(name for name, metric in METRICS.items() if metric.headline)

# How our metrics are shown and judged; a plug-in's is called by its name, and has a margin where a
# gate is given one.
OURS_ALONE = ("label", "headline", "margin", "relative_margin", "recognition_margin")


def _as_metric(plugin: object) -> Metric:
    """Make an entry of a `Metric`, or of a function of the clean and the perturbed maps.

    Of a function nothing is known but that it compares two maps: higher is taken for better, it is
    not calibrated, because nobody says what a perfect score is, and no map is recognised by it.
    """
    if isinstance(plugin, Metric):
        plugins.check_fields(plugin)
        if plugin.identity is not None and not np.isfinite(plugin.identity):
            raise TypeError(f"identity: must be a finite number or None, got {plugin.identity}")
        metric = plugin
    else:
        plugins.check_function(plugin, "clean, perturbed")
        metric = Metric(
            plugin,  # type: ignore[arg-type] # seen to be a function of two
            "signed",
            "map",
            "higher",
            None,
            symmetric=False,
            summary=plugins.summary_of(plugin),
            source=plugins.YOUR_OWN,
        )
    on_tensors = metric.on_tensors and _on_copies(metric.on_tensors)
    return replace(metric, compute=_on_copies(metric.compute), on_tensors=on_tensors)


def _on_copies(compute: Callable[..., Any]) -> Callable[..., Any]:
    """Give a function maps of its own: what it writes into them changes no other metric."""

    def on_copies(*arguments: Argument) -> object:
        return compute(*map(_copy, arguments))

    return on_copies


def _copy(argument: Argument) -> Argument:
    # Tensors alone have a `clone`; torch need not be loaded to see.
    return argument.clone() if hasattr(argument, "clone") else argument.copy()


# All but what computes, and what is of our metrics alone.
DESCRIBED = tuple(
    field.name
    for field in fields(Metric)
    if field.name not in ("compute", "on_tensors", "pairwise", *OURS_ALONE)
)

# What records hold beside metrics of maps: of the input, and of paths.
METRIC_SHELF = plugins.Shelf(
    "metric", METRICS, _as_metric, ("input_change", "saturated_share", "clean_probability", "steps")
)


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
    plugin_metrics = {} if manifests else METRIC_SHELF.loaded()
    for manifest in manifests:
        own = manifest.get("own_metrics") or {}
        if not isinstance(own, Mapping):
            raise errors.PluginError("own_metrics: the manifest does not describe metrics")
        for name, described in own.items():
            try:
                values = {**described, "compute": _elsewhere}
                plugin_metrics[name] = _described().validate_python(values)
            except (ValidationError, TypeError) as error:
                raise errors.PluginError(
                    f"metric {name!r}: the manifest does not describe it"
                ) from error
    return METRICS | {
        name: metric for name, metric in plugin_metrics.items() if name not in METRICS
    }


@cache
def _described() -> TypeAdapter[Metric]:
    return TypeAdapter(Metric)


def _elsewhere(_maps: Maps, _other: Maps) -> Array:
    raise TypeError("a metric that a manifest describes can be read, not computed")
