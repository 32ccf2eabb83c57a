"""`steadymap list`: everything that can be named, with its source."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from steadymap.bench.checks.registry import CHECKS
from steadymap.bench.core import errors, metric_registry, names, plugins
from steadymap.bench.core.console import console_of
from steadymap.bench.data import forms, masks
from steadymap.bench.methods import baselines, binding, registry
from steadymap.bench.network.model_shelf import MODEL_SHELF
from steadymap.bench.perturbations.registry import FAMILY_SHELF, PERTURBATIONS, Perturbation
from steadymap.bench.plan.packaged_experiments import (
    DEFAULT_EXPERIMENT,
    about_experiment,
    experiment_names,
)
from steadymap.bench.records.vocabulary import INPUT_METRICS
from steadymap.metrics import METRICS, Metric
from steadymap.models import MODEL_FORMS, MODELS


def list_command(
    what: Annotated[
        str | None,
        typer.Argument(
            help="experiments, models, data, families, methods, baselines, metrics, checks; or all."
        ),
    ] = None,
) -> None:
    """Show what there is, with a line on each and its source."""
    if what is not None and what not in SECTIONS:
        raise errors.ConfigError(f"unknown list {what!r}; {names.nearest(what, SECTIONS)}")
    console = console_of()
    for title, section in SECTIONS.items():
        if what in (None, title):
            table = Table(title=title, title_justify="left", title_style="bold", box=None)
            last = "needs" if title == "experiments" else "source"
            table.add_column("name", no_wrap=True)
            for column in ("what it is", last):
                table.add_column(column, overflow="fold")
            for row in section():
                table.add_row(*(escape(text) for text in row))
            console.print(table)
            console.print()


Row = tuple[str, str, str]


def _family_row(name: str, family: Perturbation, source: str) -> Row:
    span = f" ({family.limits})" if family.severities else "; give its severities"
    return name, family.summary + span, source


def _metric_row(name: str, metric: Metric, source: str) -> Row:
    costly = "; costly: runs where it is named" if metric.costly else ""
    return name, f"{metric.summary}; {metric.better} is better{costly}", source


def _experiments() -> list[Row]:
    return [
        (name + " (default)" * (name == DEFAULT_EXPERIMENT), about.summary, about.limits)
        for name, about in ((name, about_experiment(name)) for name in experiment_names())
    ]


def _models() -> list[Row]:
    rows = [(name, model.summary, model.source) for name, model in MODELS.items()]
    rows += [
        (name, plugins.summary_of(plugin.entry), plugin.source)
        for name, plugin in MODEL_SHELF.installed().items()
    ]
    return [*rows, *((form, text, "") for form, text in MODEL_FORMS.items())]


def _families() -> list[Row]:
    rows = [_family_row(name, family, family.source) for name, family in PERTURBATIONS.items()]
    plugged = FAMILY_SHELF.installed().items()
    return [*rows, *(_family_row(name, plugin.entry, plugin.source) for name, plugin in plugged)]


def _methods() -> list[Row]:
    rows = [(name, method.summary, method.source) for name, method in registry.METHODS.items()]
    plugged = binding.METHOD_SHELF.installed().items()
    return [*rows, *((name, plugin.entry.summary, plugin.source) for name, plugin in plugged)]


def _metrics() -> list[Row]:
    rows = [_metric_row(name, metric, metric.source) for name, metric in METRICS.items()]
    plugged = metric_registry.METRIC_SHELF.installed().items()
    rows += [_metric_row(name, plugin.entry, plugin.source) for name, plugin in plugged]
    return [
        *rows,
        *((name, f"{text}; always recorded", "") for name, text in INPUT_METRICS.items()),
    ]


# Each is looked up when it is shown: plug-ins are loaded for it.
SECTIONS: dict[str, Callable[[], list[Row]]] = {
    "experiments": _experiments,
    "models": _models,
    "data": lambda: [(form, text, "") for form, text in forms.DATA_FORMS.items()],
    "masks": lambda: [(name, mask.summary, mask.source) for name, mask in masks.MASKS.items()],
    "families": _families,
    "methods": _methods,
    "baselines": lambda: [
        (name, baseline.summary, baseline.source) for name, baseline in baselines.BASELINES.items()
    ],
    "metrics": _metrics,
    "checks": lambda: [(name, check.summary, check.source) for name, check in CHECKS.items()],
}
