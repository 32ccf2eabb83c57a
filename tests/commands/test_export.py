"""`steadymap export mlflow`: a real MLflow, its store in a local SQLite file."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from support import Command, finished_run

from steadymap.bench.commands import export
from steadymap.bench.core.errors import ConfigError
from steadymap.bench.history.entry import Entry, entry_of
from steadymap.bench.history.store import add, read_history

# MLflow and SQLAlchemy warn of each other, and leave connections to the collector.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A file that MLflow makes once: its tables take it seconds."""
    pytest.importorskip("sqlalchemy", reason="the extra `mlflow` is not installed")
    pytest.importorskip("mlflow", reason="the extra `mlflow` is not installed")
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}"


@pytest.fixture
def client(store: str) -> Any:
    import mlflow  # noqa: PLC0415 - an extra

    return mlflow.MlflowClient(tracking_uri=store)


@pytest.fixture(scope="module")
def entry(finished_folder: Path) -> Entry:
    return entry_of(finished_folder)


def runs_of(client: Any, name: str = "steadymap") -> list[Any]:
    return list(client.search_runs([client.get_experiment_by_name(name).experiment_id]))


def test_a_run_is_exported_once_with_its_plan_scores_and_files(
    steadymap: Command, store: str, client: Any, finished_folder: Path
) -> None:
    command = ("export", "mlflow", str(finished_folder), "--tracking-uri", store)
    done = steadymap(*command)
    assert done.code == 0, done.err
    (run,) = runs_of(client)
    assert run.info.status == "FINISHED"
    assert run.info.run_id in done.out
    # The plan, key by key.
    assert (run.data.params["limit"], run.data.params["model"]) == ("6", "compact")
    assert run.data.params["family"] == "bias, compensated_bias, shifted_network"
    # Scores, as the run's own table has them.
    table = pd.read_csv(finished_folder / "calibrated.csv")
    row = table[
        (table["method"] == "gradient") & (table["metric"] == "ssim") & (table["family"] == "bias")
    ].iloc[0]
    assert run.data.metrics["calibrated/ssim/gradient/bias"] == pytest.approx(
        row["calibrated"], abs=1e-5
    )
    assert run.data.metrics["coverage/ssim/gradient/bias"] == row["coverage"]
    name = "calibrated/ssim/integrated_gradients:baseline_black_steps_4/bias"
    assert name in run.data.metrics
    # Who it was.
    manifest = entry_of(finished_folder).manifest
    assert run.data.tags["steadymap.weights_sha256"] == manifest["model"]["weights_sha256"]
    assert run.data.tags["steadymap.data_sha256"] == manifest["data"]["sha256"]
    assert run.data.tags["steadymap.rules"] == "2"
    files = {file.path for file in client.list_artifacts(run.info.run_id)}
    assert {"summary.csv", "calibrated.csv", "manifest.json", "report.html"} <= files
    # The same again is the same run.
    again = steadymap(*command)
    assert "is already in steadymap" in again.out
    assert [other.info.run_id for other in runs_of(client)] == [run.info.run_id]


def test_an_export_that_was_interrupted_is_completed(
    client: Any,
    entry: Entry,
    finished_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)  # where files of runs go
    home = client.create_experiment("broken off")
    half = client.create_run(home, 0, export.tags_of(entry))
    number, is_new = export.export_entry(client, home, entry, finished_folder)
    assert (number, is_new) == (half.info.run_id, True)
    whole = client.get_run(number)
    assert whole.info.status == "FINISHED"
    assert whole.data.metrics == pytest.approx(export.metrics_of(entry))
    assert export.export_entry(client, home, entry, finished_folder) == (number, False)


def test_each_run_of_a_history_is_exported_and_none_twice(
    steadymap: Command, store: str, client: Any, finished_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "kept"
    first = entry_of(finished_folder)
    other = {"id": "0" * len(first.id), "measured_at": "2026-03-02T00:00:00+00:00"}
    second = replace(first, facts={**first.facts, **other})
    assert add(folder, first)
    assert add(folder, second)
    command = ("--tracking-uri", store, "--experiment", "over time")
    steadymap("export", "mlflow", "--history", str(folder), *command)
    # When each was measured is when it is there, in milliseconds.
    exported = {run.data.tags["steadymap.id"]: run for run in runs_of(client, "over time")}
    assert set(exported) == {entry.id for entry in read_history(folder)}
    assert len(exported) == 2
    assert exported[second.id].info.start_time == 1772409600000
    # One that is exported from its folder is the one of the history.
    again = steadymap("export", "mlflow", str(finished_folder), *command)
    assert "is already in over time" in again.out
    assert len(runs_of(client, "over time")) == len(exported)


def test_without_mlflow_it_says_what_to_install(
    steadymap: Command, finished_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    monkeypatch.setitem(sys.modules, "sqlalchemy", None)
    done = steadymap("export", "mlflow", str(finished_folder))
    assert (done.code, done.out) == (2, "")
    assert "MLflow is not installed here" in done.err
    assert export.INSTALL in done.err


@pytest.mark.parametrize(
    "arguments", [(), ("run", "--history", "kept"), ("--history", "kept", "--at", "2026-03-01")]
)
def test_what_does_not_go_together_is_refused(
    steadymap: Command, arguments: tuple[str, ...]
) -> None:
    done = steadymap("export", "mlflow", *arguments)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("steadymap: export: ")


def test_a_run_without_null_maps_has_raw_scores_alone(tmp_path: Path) -> None:
    words = "--limit 3 --method gradient --family bias --severity 0.1 --nulls 0"
    folder = finished_run(tmp_path, *words.split(), "--no-controls", "--no-report")
    names = export.metrics_of(entry_of(folder))
    assert "raw/ssim/gradient/bias" in names
    assert not [name for name in names if name.startswith("calibrated/")]


def test_two_scores_never_share_a_name(entry: Entry) -> None:
    named = export.metrics_of(entry)
    defined = entry.scores["value"].notna()
    assert len([name for name in named if not name.startswith("coverage/")]) == defined.sum()
    first = entry.scores.iloc[[0]].assign(method="a:b=1", value=0.5)
    twins = pd.concat([first, first.assign(method="a:b,1")])
    with pytest.raises(ConfigError, match="two scores of"):
        export.metrics_of(replace(entry, scores=twins))
