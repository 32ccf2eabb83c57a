"""What is sealed is seen to be whole, whatever became of it; scores have ranges."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import small_run
from support import frame

from steadymap.bench import ConfigError, read_run
from steadymap.bench.core.files import sha256_of, write_whole
from steadymap.bench.core.metric_registry import describe
from steadymap.bench.gate.baseline_runs import write_side
from steadymap.bench.gate.side import Side, image_scores, read_side
from steadymap.bench.records.read import see_scores
from steadymap.bench.records.scan import scan_run
from steadymap.bench.records.schema import SCHEMA
from steadymap.bench.records.seal import FILES, SEAL, is_whole, sealed, trusted
from steadymap.metrics import METRICS, Maps, evaluate
from steadymap.metrics.registry import ROUNDING


def test_a_seal_is_of_what_is_said_and_not_of_how() -> None:
    content = sealed({"a": [1, (2.5, None)], "b": {"c": "\u00e9", 3: float("nan")}})
    assert is_whole(json.loads(json.dumps(content, indent=7)))
    assert is_whole(dict(reversed(content.items())))
    assert sealed(content) == content or content["b"]["3"] != content["b"]["3"]
    for key in content:
        assert not is_whole({name: value for name, value in content.items() if name != key})
        assert not is_whole(content | {key: "other"})
    assert not is_whole(content | {"more": 1})


def test_a_file_is_what_was_written_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "timings.csv"
    digest = write_whole(path, b"words")
    assert digest == sha256_of(path)
    manifest = {FILES: {"timings.csv": digest}}
    assert trusted(tmp_path, manifest, "timings.csv") == path
    # What the run does not say it wrote is not its own; of an old run anything is.
    assert trusted(tmp_path, {FILES: {}}, "timings.csv") is None
    assert trusted(tmp_path, {}, "timings.csv") == path
    assert trusted(tmp_path, {}, "other.csv") is None
    path.write_bytes(b"wordt")
    with pytest.raises(ConfigError, match=r"timings\.csv is damaged: it is not what was written"):
        trusted(tmp_path, manifest, "timings.csv")
    path.unlink()
    with pytest.raises(ConfigError, match=r"timings\.csv cannot be read: No such file"):
        trusted(tmp_path, manifest, "timings.csv")


@pytest.mark.parametrize("harm", ["short", "other"])
def test_what_is_on_the_disk_is_what_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, harm: str
) -> None:
    """As where a quota or a network's disk loses what it took."""

    def loses(handle: int) -> None:
        if harm == "short":
            os.ftruncate(handle, 3)
        else:
            os.pwrite(handle, b"X", 2)

    path = tmp_path / "table"
    write_whole(path, b"before")
    monkeypatch.setattr(os, "fsync", loses)
    with pytest.raises(ConfigError, match="what is there is not what was written"):
        write_whole(path, lambda file: file.write(b"afterwards"))
    assert path.read_bytes() == b"before"
    assert [one.name for one in tmp_path.iterdir()] == ["table"]


def test_the_hash_is_of_what_any_writer_writes(tmp_path: Path) -> None:
    table = pa.table({"a": np.arange(100_000)})
    digest = write_whole(tmp_path / "t", lambda file: pq.write_table(table, file))
    assert digest == sha256_of(tmp_path / "t")
    text = io.StringIO()
    pd.DataFrame({"a": [1]}).to_csv(text)
    assert write_whole(tmp_path / "t", text.getvalue().encode()) == sha256_of(tmp_path / "t")


def write(folder: Path, records: pd.DataFrame, **manifest: object) -> Path:
    """Write a run that carries its checksums."""
    folder.mkdir()
    table = pa.Table.from_pandas(records, preserve_index=False).cast(SCHEMA)
    # What is not a number is not missing.
    place = SCHEMA.get_field_index("value")
    values = pa.array(records["value"].to_numpy())
    pq.write_table(
        table.set_column(place, SCHEMA.field("value"), values), folder / "records.parquet"
    )
    hashes = {"records.parquet": sha256_of(folder / "records.parquet")}
    content = sealed(small_run.manifest() | manifest | {FILES: hashes})
    (folder / "manifest.json").write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize("read", [read_run, scan_run, read_side])
def test_readers_refuse_what_is_not_what_was_written(
    tmp_path: Path, read: Callable[[Path], object], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write(tmp_path / "run", small_run.records())
    read(folder)
    assert "checksums" not in capsys.readouterr().err
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"seed": 1}))
    with pytest.raises(ConfigError, match=r"manifest\.json is damaged: it is not what was written"):
        read(folder)
    # A flipped letter of a key does not make an old manifest of it.
    for key in (FILES, SEAL):
        lacking = {name: value for name, value in manifest.items() if name != key}
        (folder / "manifest.json").write_text(json.dumps(lacking))
        with pytest.raises(ConfigError, match=r"manifest\.json is damaged: "):
            read(folder)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    whole = (folder / "records.parquet").read_bytes()
    for place in (0, 3, 40, len(whole) // 2, len(whole) - 20, len(whole) - 6):
        content = bytearray(whole)
        content[place] ^= 16
        (folder / "records.parquet").write_bytes(content)
        with pytest.raises(ConfigError, match=r"records\.parquet is damaged: it is not what"):
            read(folder)


def test_a_run_from_before_there_were_checksums_is_read_and_it_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write(tmp_path / "run", small_run.records())
    (folder / "manifest.json").write_text(json.dumps(small_run.manifest()))
    read_run(folder)
    assert "run carries no checksums: damage to its files would not be seen" in (
        capsys.readouterr().err
    )


ODD = (-np.inf, np.inf, np.nan, -1e308, 1.5, -1.5)


@pytest.mark.parametrize("value", ODD)
def test_a_score_beyond_its_metric_s_range_is_a_damaged_file(tmp_path: Path, value: float) -> None:
    records = small_run.records()
    records.loc[3, "value"] = value
    folder = write(tmp_path / "run", records)
    for read in (read_run, scan_run):
        with pytest.raises(ConfigError) as caught:
            read(folder)
        said = str(caught.value)
        assert "records.parquet is damaged: " in said
        assert f"ssim is {value:g} somewhere, and its values are numbers from -1 to 1" in said
    # What does not count may be anything.
    records.loc[3, "status"] = "error"
    read_run(write(tmp_path / "other", records))


def test_ranges_are_those_of_the_metrics_their_recognition_and_the_input() -> None:
    own = {"mine": replace(METRICS["ssim"], range=(None, 3.0))}

    def seen(metric: str, value: float) -> bool:
        try:
            see_scores(frame([{"metric": metric, "value": value}]), METRICS | own)
        except ValueError:
            return True
        return False

    for name, metric in METRICS.items():
        for end, side in zip(metric.range, (-1, 1), strict=True):
            if end is not None:
                assert not seen(name, end), name
                assert not seen(name, end + side * ROUNDING / 2), name
                assert seen(name, end + side * 0.01), name
        assert metric.identity is None or not seen(name, metric.identity)
    for name in ("ssim.recognised", "saturated_share"):
        assert not seen(name, 1.0)
        assert seen(name, 1.1)
    for name in (
        "spearman.other_image",
        "spearman.same_class.partner",
        "spearman.random_network.0",
    ):
        assert not seen(name, -1.0)
        assert seen(name, -1.1)
    assert not seen("ssim.rank", 8.0)
    assert seen("ssim.rank", 0.0)
    assert seen("input_change", -0.1)
    assert not seen("mine", -1e308)
    assert seen("mine", 3.1)
    assert not seen("nobody_knows", 1e308)
    assert seen("nobody_knows", np.inf)


def test_a_plugin_s_range_is_in_the_manifest(tmp_path: Path) -> None:
    records = small_run.records().assign(metric="own", value=0.5)
    described = describe({"own": replace(METRICS["spearman"], range=(0.0, 1.0))})
    read_run(write(tmp_path / "run", records, own_metrics=described))
    records.loc[0, "value"] = -0.5
    folder = write(tmp_path / "other", records, own_metrics=described)
    with pytest.raises(ConfigError, match=r"own is -0\.5 somewhere, .* from 0 to 1"):
        read_run(folder)


def test_a_value_beyond_its_range_is_an_error_where_it_is_made() -> None:
    rng = np.random.default_rng(0)
    maps, others = (Maps(rng.random((3, 12, 12))) for _ in range(2))
    metric = replace(METRICS["ssim"], compute=lambda _first, _second: np.array([0.5, 1.2, -2.0]))
    found = evaluate(metric, maps, others)
    assert [status.value for status in found.statuses] == ["ok", "error", "error"]
    assert found.details[1] == "the metric returned 1.2, which is beyond its range (-1.0, 1.0)"
    assert np.isnan(found.values[1:]).all()


@pytest.mark.parametrize("value", [np.inf, -1e308, 1.5])
def test_a_baseline_s_scores_are_within_their_ranges(tmp_path: Path, value: float) -> None:
    scores = image_scores(small_run.records())
    scores.loc[0, "value"] = value
    write_side(Side("run", scores, small_run.manifest(), {}), tmp_path / "base")
    with pytest.raises(ConfigError, match=r"scores\.csv is damaged: ssim is .*; save the baseline"):
        read_side(tmp_path / "base")
