"""Whatever a file holds, its reader gives a result or one line that says what is wrong."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
import resource
import types
from collections import Counter
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from safetensors.torch import save
from small_run import METHODS, manifest, records

from steadymap.bench import ConfigError, DataError
from steadymap.bench.analysis.findings import Findings
from steadymap.bench.core import plugins
from steadymap.bench.core.errors import PluginError
from steadymap.bench.core.files import write_json
from steadymap.bench.core.metric_registry import known_metrics
from steadymap.bench.core.safe_csv import write_csv
from steadymap.bench.core.safe_yaml import read_config
from steadymap.bench.gate.baseline_runs import write_side
from steadymap.bench.gate.predictions import predictions_of
from steadymap.bench.gate.side import Side, image_scores, read_side
from steadymap.bench.plan.experiment import make_experiment
from steadymap.bench.records.read import read_run
from steadymap.bench.records.scan import as_scan, scan_run
from steadymap.bench.records.schema import SCHEMA
from steadymap.bench.records.seal import seal_of
from steadymap.bench.report.finished_run import FinishedRun
from steadymap.bench.report.gallery_files import read_gallery, read_steps
from steadymap.bench.report.sections import gallery
from steadymap.bench.report.sections.completeness import steps_drawing
from steadymap.models import ModelError, read_weights

# Anything else is no answer, and fails a test.
ANSWERS = (ConfigError, DataError, ModelError, PluginError)

# Examples of each reader: in the ordinary suite, and in all.
FEW = 40
MANY = {
    "settings": 1800,
    "run": 1600,
    "scan": 1600,
    "baseline": 1700,
    "witnesses": 1700,
    "weights": 1700,
}
# No reader takes as much as this for a file of a few kilobytes.
MOST_BYTES = 512 * 2**20

# --- valid files ----------------------------------------------------------------------------------

SETTINGS = """\
# One of everything.
method: [gradient, "integrated_gradients:baseline=white,steps=8", smooth_grad]
family: [bias, gaussian_noise]
severity: {bias: [-0.1, 0.3], gaussian_noise: &levels [0.1]}
metric: [ssim, spearman]
draws: 2
controls: false
nulls: 3
steps: 16
seed: 0
batch_size: 16
jobs: 1
engine: own
precision: ieee
model: compact
weights: null
data: hands
split: test
limit: 10
device: cpu
threads: 2
save_maps: false
output: runs/here
"""


def write_run(folder: Path) -> None:
    folder.mkdir(parents=True)
    table = pa.Table.from_pandas(records(), preserve_index=False).cast(SCHEMA)
    pq.write_table(table, folder / "records.parquet")
    write_json(folder / "manifest.json", manifest())


def write_baseline(folder: Path) -> None:
    said = predictions_of(as_scan(records()))
    side = Side("run", image_scores(records()), manifest(), {METHODS[1]: 2.5}, said)
    write_side(side, folder)


def write_witnesses(folder: Path) -> None:
    from safetensors.numpy import save_file  # noqa: PLC0415 - beside torch's of the same name

    home = folder / "witnesses"
    home.mkdir(parents=True)
    write_csv(pd.DataFrame({"image_id": ["i0"], "kind": ["typical"]}), home / "witnesses.csv")
    rows = pd.DataFrame(
        {"image_id": "i0", "family": ["clean", "bias"], "severity": [0.0, 0.3], "draw": 0,
         "prediction": [0, 1], "confidence": [0.9, 0.8]}
    )  # fmt: skip
    write_csv(rows, home / "predictions.csv")
    scales = pd.DataFrame(
        {"image_id": "i0", "method": METHODS, "signed": [True, False], "most": [0.5, 1.0]}
    )
    write_csv(scales, home / "scales.csv")
    steps = {"method": "integrated_gradients", "steps": [4, 8], "image_id": "i0",
             "completeness_error": [0.5, 0.1]}  # fmt: skip
    write_csv(pd.DataFrame(steps), home / "steps.csv")
    tensors: dict[str, Any] = {"images": np.zeros((2, 3, 4, 4), np.uint8)}
    for method in METHODS:
        tensors[f"map {method}"] = np.zeros((2, 4, 4), np.uint8)
        tensors[f"known {method}"] = np.ones(2, np.bool_)
    save_file(tensors, home / "pictures.safetensors")


def write_weights_files(folder: Path) -> None:
    folder.mkdir(parents=True)
    tensors = {"a.weight": torch.ones(2, 3), "a.bias": torch.zeros(3)}
    (folder / "w.safetensors").write_bytes(save(tensors, {"class_names": '["a", "b"]'}))
    torch.save({"state_dict": tensors}, folder / "w.pt")
    torch.save(tensors, folder / "old.pth", _use_new_zipfile_serialization=False)


def write_settings(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "run.yaml").write_text(SETTINGS)


# --- readers --------------------------------------------------------------------------------------


def settings_of(folder: Path) -> None:
    make_experiment([read_config(folder / "run.yaml")]).cells()


def run_of(folder: Path) -> None:
    known_metrics(read_run(folder)[1])


def scan_of(folder: Path) -> None:
    """Read a run metric by metric, as its summary is made: no more and no less is refused."""
    try:
        expected, _ = read_run(folder)
    except ANSWERS:
        with pytest.raises(ANSWERS):
            scan_run(folder)
        raise
    scan, manifest = scan_run(folder)
    assert sum(len(scan.of(name)) for name in scan.metrics()) == len(expected)
    known_metrics(manifest)


def baseline_of(folder: Path) -> None:
    known_metrics(read_side(folder).manifest)


@cache
def shown() -> FinishedRun:
    """Return a run's report without what is read of its witnesses."""
    findings = Findings.of(records(), known_metrics(manifest()))
    nothing = pd.DataFrame()
    return FinishedRun(findings, manifest(), nothing, nothing, nothing, None, nothing, {})


def witnesses_of(folder: Path) -> None:
    """Read the witnesses, and bring them to a page."""
    page = dataclasses.replace(
        shown(), gallery=read_gallery(folder, {}), steps=read_steps(folder, {})
    )
    assert len(gallery.context(page)["witnesses"]) <= 1
    if len(page.steps):
        steps_drawing(page)


def weights_of(folder: Path) -> None:
    for path in sorted(folder.iterdir()):
        read_weights(path)


READERS: dict[str, tuple[Callable[[Path], None], Callable[[Path], None]]] = {
    "settings": (write_settings, settings_of),
    "run": (write_run, run_of),
    "scan": (write_run, scan_of),
    "baseline": (write_baseline, baseline_of),
    "witnesses": (write_witnesses, witnesses_of),
    "weights": (write_weights_files, weights_of),
}

# --- mutations ------------------------------------------------------------------------------------

ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**63, -(2**63), 10**400, 0.5, -0.0, float("nan"),
    float("inf"), 1e308, "", "a", "gradient", "ssim", "\x00", "\ud800", "..", "/", "a\nb", "=1+1",
    "a" * 5000, "\U0001f600", [], [[]], {}, {"a": 1}, {"": {}}, [None], [1, "a"], [float("nan")],
)  # fmt: skip
YAML_PARTS = (
    b"&a [*a]", b"*levels", b"<<: ", b"!!python/object/apply:os.getcwd []", b"!!int x", b"? ",
    b"!!timestamp x", b"2001-99-99", b"{", b"[", b"'", b'"\\ud800"', b"- ", b": ", b"\t", b"0x",
    b"1e999", b".nan", b".inf", b"~", b"|\n", b"---\n", b"!!set {a}", b"!!binary x", b"%TAG ! x\n",
    b"seed: 1\n", b"package.module:name", b"gradient:steps=0", b"null", b"[1, [2]]", b"\xff",
)  # fmt: skip

Mutation = Callable[[bytes], bytes]


@st.composite
def byte_mutations(draw: st.DrawFn) -> Mutation:
    """Flips, cuts, doubled and foreign pieces, or other bytes altogether."""
    kind = draw(st.sampled_from(("flip", "cut", "drop", "double", "insert", "random", "swap")))
    at, length = draw(st.floats(0, 1)), draw(st.integers(1, 40))
    bit = draw(st.integers(0, 7))
    piece = draw(st.one_of(st.sampled_from(YAML_PARTS), st.binary(max_size=60)))
    more = draw(st.lists(st.tuples(st.floats(0, 1), st.integers(1, 255)), max_size=6))

    def mutate(content: bytes) -> bytes:
        place = int(at * len(content))
        changed = bytearray(content)
        if kind == "flip" and content:
            for share, value in [(at, 1 << bit), *more]:
                changed[min(int(share * len(content)), len(content) - 1)] ^= value
        elif kind == "cut":
            del changed[place:]
        elif kind == "drop":
            del changed[place : place + length]
        elif kind == "double":
            changed[place:place] = changed[place : place + length] * 3
        elif kind == "insert":
            changed[place:place] = piece
        elif kind == "swap":
            changed[place : place + len(piece)] = piece
        elif kind == "random":
            return piece
        return bytes(changed)

    return mutate


@st.composite
def json_mutations(draw: st.DrawFn) -> Mutation:
    """Another value, no value or another key, somewhere in what JSON holds."""
    where, value = draw(st.integers(0, 10**6)), draw(st.sampled_from(ODD))
    kind = draw(st.sampled_from(("value", "value", "drop", "key")))

    def mutate(content: bytes) -> bytes:
        text = json.loads(content)
        places = list(_places(text))
        holder, key = places[where % len(places)]
        if kind == "value":
            holder[key] = value
        elif kind == "drop":
            del holder[key]
        elif isinstance(holder, dict):
            holder[str(value)] = holder.pop(key)
        return json.dumps(text).encode()

    return mutate


@st.composite
def yaml_mutations(draw: st.DrawFn) -> Mutation:
    """Another value, no value or another key, somewhere in what YAML holds."""
    inner = draw(json_mutations())

    def mutate(content: bytes) -> bytes:
        text = inner(json.dumps(yaml.safe_load(content)).encode())
        return yaml.safe_dump(json.loads(text)).encode()

    return mutate


def _places(value: Any) -> Any:
    if isinstance(value, dict | list):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from _places(value[key])


@st.composite
def cell_mutations(draw: st.DrawFn) -> Mutation:
    """Another value in a cell of a CSV, or a column less, more or otherwise called."""
    row, column = draw(st.integers(0, 50)), draw(st.integers(0, 8))
    value = draw(st.sampled_from([str(one).encode("utf-8", "replace") for one in ODD]))

    def mutate(content: bytes) -> bytes:
        lines = [line.split(b",") for line in content.split(b"\n")]
        line = lines[row % len(lines)]
        line[column % len(line)] = value
        return b"\n".join(b",".join(line) for line in lines)

    return mutate


@st.composite
def table_mutations(draw: st.DrawFn) -> Mutation:
    """Another type or other values in a column of Parquet, a column less or more."""
    column = draw(st.integers(0, len(SCHEMA) - 1))
    kind = draw(st.sampled_from(("drop", "null", "text", "number", "nested", "more", "bytes")))

    def mutate(content: bytes) -> bytes:
        table = pq.read_table(pa.BufferReader(content))
        rows = len(table)
        other = {
            "null": pa.nulls(rows),
            "text": pa.array(["x"] * rows),
            "number": pa.array([2**40] * rows),
            "nested": pa.array([[1, 2]] * rows),
            "bytes": pa.array([b"\xff\xfe"] * rows),
        }
        if kind == "drop":
            table = table.drop_columns([table.column_names[column]])
        elif kind == "more":
            table = table.append_column("more", pa.array(["x"] * rows))
        else:
            table = table.set_column(column, table.column_names[column], other[kind])
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink)
        return bytes(sink.getvalue())

    return mutate


@st.composite
def header_mutations(draw: st.DrawFn) -> Mutation:
    """Another value in the header of safetensors, its length put right."""
    inner = draw(json_mutations())

    def mutate(content: bytes) -> bytes:
        length = int.from_bytes(content[:8], "little")
        text = inner(content[8 : 8 + length])
        return len(text).to_bytes(8, "little") + text + content[8 + length :]

    return mutate


def mutations_of(path: Path) -> st.SearchStrategy[Mutation]:
    special = {
        ".json": json_mutations(),
        ".yaml": yaml_mutations(),
        ".csv": cell_mutations(),
        ".parquet": table_mutations(),
        ".safetensors": header_mutations(),
    }
    if path.suffix not in special:
        return byte_mutations()
    return st.one_of(byte_mutations(), special[path.suffix])


@cache
def valid(write: Callable[[Path], None], folder: Path) -> Mapping[Path, bytes]:
    """Write the files of a reader; return what is in them."""
    write(folder)
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def seal_again(folder: Path) -> None:
    """Seal a baseline that has been changed as whoever changes one could."""
    try:
        content = json.loads((folder / "manifest.json").read_text())
        for name in ("scores", "predictions"):
            digest = hashlib.sha256((folder / f"{name}.csv").read_bytes()).hexdigest()
            content["baseline"][f"{name}_sha256"] = digest
        content["baseline"].pop("manifest_sha256", None)
        content["baseline"]["manifest_sha256"] = seal_of(content)
        (folder / "manifest.json").write_text(json.dumps(content))
    except (ValueError, KeyError, TypeError, AttributeError):
        return


def answered(error: Exception) -> str:
    """See that an error is one line; return its kind."""
    message = str(error)
    assert message
    assert len(message.splitlines()) == 1, message
    assert len(message) < 2000, message
    return type(error).__name__


@dataclasses.dataclass
class Outcomes:
    """How many inputs ended how."""

    counts: Counter[str] = dataclasses.field(default_factory=Counter)

    def take(self, read: Callable[[Path], None], folder: Path) -> None:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        try:
            read(folder)
            kind = "result"
        except ANSWERS as error:
            kind = answered(error)
        self.counts[kind] += 1
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        assert grown * 1024 < MOST_BYTES, f"it took {grown / 1024:.0f} MiB"


def fuzz(name: str, examples: int, folder: Path) -> Counter[str]:
    write, read = READERS[name]
    files = valid(write, folder)
    read(folder)  # or the tests would show nothing
    found = Outcomes()
    chosen = st.sampled_from(list(files)).flatmap(
        lambda path: st.tuples(st.just(path), st.lists(mutations_of(path), min_size=1, max_size=2))
    )

    @settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(chosen, st.booleans())
    def one(mutated: tuple[Path, list[Mutation]], sealed: bool) -> None:
        path, mutations = mutated
        content = files[path]
        for mutate in mutations:
            try:
                content = mutate(content)
            except Exception:  # noqa: BLE001 - a first mutation may leave nothing for a second
                break
        try:
            path.write_bytes(content)
            if name == "baseline" and sealed:
                seal_again(folder)
            found.take(read, folder)
        finally:
            for each, whole in files.items():
                each.write_bytes(whole)

    one()
    return found.counts


@pytest.fixture(autouse=True)
def no_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names that mutate into modules are not for importing: settings may name what to run."""

    def refuse(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    inside = types.SimpleNamespace(import_module=refuse, metadata=importlib.metadata)
    monkeypatch.setattr(plugins, "importlib", inside)


def counted(name: str, counts: Counter[str], record: Callable[[str, object], None]) -> None:
    texts = ", ".join(f"{count} {kind}" for kind, count in counts.most_common())
    record("measured", f"{name}: {sum(counts.values())} inputs: {texts}")


@pytest.mark.parametrize("name", READERS)
def test_a_mutated_file_is_a_result_or_one_line(
    name: str, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    counted(name, fuzz(name, FEW, tmp_path / "files"), record_property)


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_many_mutated_files_are_results_or_one_line(
    name: str, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    counts = fuzz(name, MANY[name], tmp_path / "files")
    counted(name, counts, record_property)
    assert sum(counts.values()) >= MANY[name]
    # Both ends are met often, or the mutations would show little.
    assert counts["result"] > MANY[name] / 100
    assert counts.total() - counts["result"] > MANY[name] / 5
