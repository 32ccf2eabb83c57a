"""`steadymap export`: runs and histories for the tools that keep experiments."""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from steadymap.bench.core import console, errors
from steadymap.bench.history.entry import Entry, Notes, entry_of
from steadymap.bench.history.store import read_history
from steadymap.bench.records.vocabulary import FAMILY, METHOD, METRIC, VALUE

EXPERIMENT = "steadymap"
INSTALL = "python -m pip install mlflow-skinny sqlalchemy alembic"
# Of the tag by which a run is found again.
IDENTITY = "steadymap.id"
# What MLflow takes in one call, and in the name and the value of a parameter.
MOST_METRICS, MOST_PARAMS = 1000, 100
MOST_VALUE = 6000
# MLflow takes letters, digits and these in the name of a metric.
FORBIDDEN = re.compile(r"[^\w\-. :/]")
FINISHED = "FINISHED"
# What of a run's folder goes along: tables, the manifest, the page.
ARTEFACTS = ("*.csv", "manifest.json", "report.html")

export_app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Write runs and histories for other tools.",
)


@export_app.callback()
def _several() -> None:
    """Keep the name of the tool in the command: more may follow."""


@export_app.command("mlflow")
def export_mlflow_command(
    run: Annotated[Path | None, typer.Argument(help="Folder of a finished run.")] = None,
    history: Annotated[
        Path | None, typer.Option(help="Folder of a history: each of its runs is exported.")
    ] = None,
    tracking_uri: Annotated[
        str | None,
        typer.Option(help="E.g. sqlite:///mlflow.db; left out: MLflow's own setting."),
    ] = None,
    experiment: Annotated[str, typer.Option(help="Of MLflow; made if it is new.")] = EXPERIMENT,
    at: Annotated[str, typer.Option(help="When the run was measured, if it does not say.")] = "",
) -> None:
    """Write a run, or the runs of a history, to MLflow; the same run twice is one run there."""
    if (run is None) == (history is None):
        raise errors.ConfigError("export: give the folder of a run, or --history FOLDER")
    if at and run is None:
        raise errors.ConfigError("export: --at is of one run; a history has its own dates")
    entries = [entry_of(run, Notes(at=at))] if run else read_history(history or Path())
    mlflow = _mlflow()
    try:
        client = mlflow.MlflowClient(tracking_uri=tracking_uri)
        known = client.get_experiment_by_name(experiment)
        home = known.experiment_id if known else client.create_experiment(experiment)
        for entry in entries:
            number, is_new = export_entry(client, home, entry, run)
            told = "exported to" if is_new else "is already in"
            console.line(
                console.console_of(),
                f"{entry.facts['run_id']} of {entry.measured_at} {told} {experiment}: {number}",
            )
    except mlflow.exceptions.MlflowException as error:
        raise errors.ConfigError(f"mlflow: {errors.message_of(error)}") from error


def _mlflow() -> Any:  # noqa: ANN401 - a module without types of its own
    """Load MLflow, which is to tell nobody that it is used.

    Raises:
        ConfigError: it is not installed.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    try:
        importlib.import_module("sqlalchemy")
        return importlib.import_module("mlflow")
    except ImportError as error:
        raise errors.ConfigError(
            f"export: MLflow is not installed here ({errors.message_of(error)}); "
            f"install it with: {INSTALL}"
        ) from error


def export_entry(
    client: Any,  # noqa: ANN401 - MLflow's, which is loaded when it is needed
    home: str,
    entry: Entry,
    folder: Path | None,
) -> tuple[str, bool]:
    """Write one run to MLflow, and return its id there and whether it was not there yet.

    A run is found again by what it measured and when. One whose export was interrupted is
    completed: what is written is marked as finished last.

    Args:
        client: of MLflow.
        home: the id of the experiment.
        entry: the run.
        folder: its folder, for the tables and the page; None where only the history has it.
    """
    filter_string = f"tags.`{IDENTITY}` = '{entry.id}'"
    found = client.search_runs([home], filter_string)
    if found and found[0].info.status == FINISHED:
        return str(found[0].info.run_id), False
    when = round(datetime.fromisoformat(entry.measured_at).timestamp() * 1000)
    made = found[0] if found else client.create_run(home, when, tags_of(entry), entry.name)
    number = str(made.info.run_id)
    kinds = importlib.import_module("mlflow.entities")
    params = [kinds.Param(key, value) for key, value in params_of(entry.manifest).items()]
    metrics = [kinds.Metric(key, value, when, 0) for key, value in metrics_of(entry).items()]
    for part in _parts(params, MOST_PARAMS):
        client.log_batch(number, params=part)
    for part in _parts(metrics, MOST_METRICS):
        client.log_batch(number, metrics=part)
    for pattern in ARTEFACTS if folder else ():
        for path in sorted((folder or Path()).glob(pattern)):
            client.log_artifact(number, str(path))
    client.set_terminated(number, FINISHED, when)
    return number, True


def _parts(items: list[Any], size: int) -> Iterator[list[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def params_of(manifest: Mapping[str, Any]) -> dict[str, str]:
    """Return the keys of the plan that are set, as text of the length that MLflow takes."""
    settings = manifest["configuration"]
    return {
        key: (", ".join(map(str, value)) if isinstance(value, list) else str(value))[:MOST_VALUE]
        for key, value in settings.items()
        if value is not None
    }


def metrics_of(entry: Entry) -> dict[str, float]:
    """Return the scores of a run by names that MLflow takes; those that are undefined are left out.

    Names are `KIND/METRIC/METHOD/FAMILY`, and `coverage/...` beside each score of a map that has
    one; what MLflow does not take in a name becomes `_`.

    Raises:
        ConfigError: two scores have the same name then.
    """
    scores: dict[str, float] = {}
    for row in entry.scores.to_dict("records"):
        place = f"{row[METRIC]}/{row[METHOD]}/{row[FAMILY]}"
        for kind, value in ((row["kind"], row[VALUE]), ("coverage", row["coverage"])):
            name = FORBIDDEN.sub("_", f"{kind}/{place}")
            if not np.isfinite(value):
                continue
            if name in scores and kind != "coverage":
                raise errors.ConfigError(
                    f"export: two scores of {entry.facts['run_id']} would both be {name!r} in "
                    "MLflow; rename one of the methods"
                )
            scores[name] = float(value)
    return scores


def tags_of(entry: Entry) -> dict[str, str]:
    """Return what tells a run from others: hashes of weights and data, commit, rules."""
    manifest, facts = entry.manifest, entry.facts
    commit = str(facts["commit"])
    tags = {
        IDENTITY: entry.id,
        "steadymap.run_id": str(facts["run_id"]),
        "steadymap.weights_sha256": str(manifest["model"].get("weights_sha256", "")),
        "steadymap.data_sha256": str(manifest["data"].get("sha256", "")),
        "steadymap.rules": str(facts["rules"]),
        "steadymap.version": manifest["versions"].get("steadymap", ""),
        "steadymap.label": str(facts["label"]),
        # The name that MLflow shows a commit under.
        "mlflow.source.git.commit": commit,
    }
    return {key: value for key, value in tags.items() if value}
