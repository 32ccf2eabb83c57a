"""Records that are scanned metric by metric: what is found is what the whole table says."""

from __future__ import annotations

import json
import tracemalloc
import weakref
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_run import manifest
from support import call, image_set, tiny
from torch import Tensor

from steadymap.bench.analysis.admission import admissions
from steadymap.bench.analysis.calibration import calibrate
from steadymap.bench.analysis.curves import severity_curves
from steadymap.bench.analysis.evidence import evidence_kept
from steadymap.bench.analysis.findings import Findings
from steadymap.bench.analysis.intervals import intervals
from steadymap.bench.analysis.ranks import rank_methods
from steadymap.bench.analysis.summary import full_summary
from steadymap.bench.analysis.whose_fault import whose_fault
from steadymap.bench.commands import finish
from steadymap.bench.core.errors import ConfigError
from steadymap.bench.core.metric_registry import describe
from steadymap.bench.gallery.keep import choose_witnesses
from steadymap.bench.gate.side import KEPT_METRICS, KEY, evidence_scores, image_scores, read_side
from steadymap.bench.measure.runner import run
from steadymap.bench.methods import registry as methods_module
from steadymap.bench.methods.batch import Batch
from steadymap.bench.methods.method import Method
from steadymap.bench.perturbations.registry import PERTURBATIONS
from steadymap.bench.plan.plan import Plan
from steadymap.bench.records import read as reading
from steadymap.bench.records import scan as scanning
from steadymap.bench.records.read import RECORDS, read_run
from steadymap.bench.records.scan import COLUMNS, PAIR, Scan, as_scan, scan_run
from steadymap.bench.records.schema import SCHEMA, perturbed_images
from steadymap.bench.records.vocabulary import (
    EVIDENCE_KEPT,
    MARGIN_NAMES,
    MUST_DIFFER,
    NULLS,
    base_metric,
)
from steadymap.bench.report.finished_run import FinishedRun, curves_of
from steadymap.bench.report.page import render
from steadymap.bench.report.rank_diagrams import rank_diagrams, write_diagrams
from steadymap.metrics import METRICS
from steadymap.models import Classifier

# A metric of which nobody says what a perfect score is, as of a plain function.
PLAIN = replace(METRICS["spearman"], identity=None, symmetric=False)
KNOWN = METRICS | {"plain": PLAIN}
SEVERITIES = {
    "picky": (0.1,),
    "bias": (-0.2, 0.2),
    "compensated_bias": (-0.2, 0.2),
    "gaussian_noise": (0.1,),
}
# Rows of a batch: they are joined again and again.
FEW = 311
ROUNDING = 1e-12
TIED = 1e-3


def write(folder: Path, records: pd.DataFrame, metadata: dict[str, str] | None = None) -> Path:
    """Write a run in small groups of rows, each with dictionaries of its own."""
    folder.mkdir(exist_ok=True)
    schema = SCHEMA.with_metadata(metadata)
    with pq.ParquetWriter(folder / RECORDS, schema) as writer:
        for start in range(0, max(len(records), 1), 300):
            part = records.iloc[start : start + 300]
            plain = part.astype(dict.fromkeys(part.select_dtypes("category"), str))
            table = pa.Table.from_pandas(plain, preserve_index=False).cast(SCHEMA)
            # What is not a number is not missing.
            place, values = SCHEMA.get_field_index("value"), pa.array(plain["value"].to_numpy())
            writer.write_table(table.set_column(place, SCHEMA.field("value"), values))
    own = {"own_metrics": describe({"plain": PLAIN})}
    (folder / "manifest.json").write_text(json.dumps(manifest() | own))
    return folder


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with an image that a family fails on, a method that fails, and gaps everywhere."""
    images = image_set(9)
    third = images.read(2).image

    def picky(image: Tensor, severity: float, _rng: np.random.Generator) -> Tensor:
        if image.equal(third):
            raise RuntimeError("not this one")
        return image + severity

    def broken(_classifier: Classifier, _batch: Batch) -> Tensor:
        raise RuntimeError("never works")

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PERTURBATIONS, "picky", replace(PERTURBATIONS["bias"], apply=picky))
        patch.setitem(methods_module.METHODS, "broken", Method(broken, "", ""))
        patch.setitem(METRICS, "plain", PLAIN)
        plan = Plan(
            method=("gradient", "gradient_x_input", "integrated_gradients:steps=3", "broken"),
            family=tuple(SEVERITIES),
            severity=SEVERITIES,
            metric=("ssim", "plain", "spearman", "relative_l2", "completeness_error"),
            draws=2,
            nulls=2,
        )
        records = pd.DataFrame(run(tiny(), images, plan))
    rng = np.random.default_rng(0)
    # An image without a value by one metric, and a family without one by another.
    first = records["image_id"] == records["image_id"].iloc[0]
    lost = first & (records["metric"] == "ssim")
    lost |= (records["metric"] == "spearman") & (records["family"] == "picky")
    lost |= rng.random(len(records)) < 0.2
    lost &= records["status"] == "ok"
    records.loc[lost, ["value", "status"]] = (np.nan, "degenerate")
    key = records[PAIR].astype(str).agg(" ".join, axis=1)
    turned = {name: bool(rng.random() < 0.4) for name in key.unique()}
    records["label"] = records["image_id"].astype("category").cat.codes.astype("Int32")
    records["kept"] = ~key.map(turned).astype(bool) | (records["severity"] == 0)
    return write(tmp_path_factory.mktemp("scanned") / "run", records)


@pytest.fixture(scope="module")
def records(home: Path) -> pd.DataFrame:
    return read_run(home)[0]


@pytest.fixture(params=["a file", "a frame"])
def scan(request: pytest.FixtureRequest, home: Path, monkeypatch: pytest.MonkeyPatch) -> Scan:
    monkeypatch.setattr(scanning, "ROWS_AT_ONCE", FEW)
    return scan_run(home)[0] if request.param == "a file" else as_scan(read_run(home)[0])


def same(found: pd.DataFrame, expected: pd.DataFrame, rounding: float = 0.0) -> None:
    assert len(expected)
    pd.testing.assert_frame_equal(
        found.reset_index(drop=True), expected.reset_index(drop=True), rtol=0, atol=rounding
    )


def by_name(pairs: pd.DataFrame) -> pd.DataFrame:
    """Return pairs with the first name first: which it is in the records hangs on what is lost."""
    turned = pairs["method"] > pairs["other"]
    names = {"method": "other", "other": "method"}
    around = pairs.rename(columns=names | {"low": "high", "high": "low"})[list(pairs)]
    ends = ["difference", "low", "high"]
    around[ends] = -around[ends]
    return pairs.mask(turned, around).sort_values(["metric", "method", "other"])


# --- what is counted ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("table", "columns"),
    [
        ("counts", ["method", "family", "metric", "kept", "status"]),
        ("reasons", ["status", "detail"]),
    ],
)
def test_records_are_counted_in_their_order(
    scan: Scan, records: pd.DataFrame, table: str, columns: list[str]
) -> None:
    # What a value that is there says of itself is no reason.
    told = records.assign(detail=records["detail"].where(records["status"] != "ok", ""))
    expected = Counter(told[columns].itertuples(index=False, name=None))
    rows = list(getattr(scan, table).itertuples(index=False, name=None))
    assert [(row[:-1], row[-1]) for row in rows] == list(expected.items())


@pytest.mark.parametrize("column", ["label", "pred_clean"])
def test_images_have_their_labels_and_predictions(
    scan: Scan, records: pd.DataFrame, column: str
) -> None:
    expected = dict(zip(records["image_id"], records[column], strict=True))
    found = zip(scan.images["image_id"], scan.images[column], strict=True)
    assert list(found) == list(expected.items())


def test_a_label_that_some_records_lack_is_found(home: Path, tmp_path: Path) -> None:
    records, _ = read_run(home)
    records["label"] = records["label"].mask(records.index < len(records) - 1)
    images = scan_run(write(tmp_path / "run", records))[0].images
    found = images.dropna(subset="label")
    assert (
        found[["image_id", "label"]].values.tolist()
        == records[["image_id", "label"]].iloc[-1:].values.tolist()
    )


def test_pairs_are_the_perturbed_images(scan: Scan, records: pd.DataFrame) -> None:
    same(scan.pairs, perturbed_images(records)[[*PAIR, "kept"]])
    made = scan.pairs["family"].astype(str).value_counts().to_dict()
    # Bias has one draw; the family that fails on one image, too.
    assert made == {"picky": 8, "bias": 18, "compensated_bias": 18, "gaussian_noise": 18}
    assert 0 < scan.pairs["kept"].mean() < 1


def test_metrics_part_the_records(scan: Scan, records: pd.DataFrame) -> None:
    metrics = scan.metrics()
    assert {name for name in metrics if not name.startswith(MARGIN_NAMES)} == {
        "ssim", "plain", "spearman", "relative_l2", "completeness_error", "input_change",
        "saturated_share", "clean_probability",
    }  # fmt: skip
    assert {name for name in metrics if name.startswith(MARGIN_NAMES)} == {
        "deletion_logit", "evidence_kept", "margin.other_image", "margin.same_class",
        "margin.random_network", "margin.other_class", "margin_magnitude.other_image",
        "margin_magnitude.same_class", "margin_magnitude.random_network",
        "margin_magnitude.other_class",
    }  # fmt: skip
    for name in metrics:
        names = [other for other in records["metric"].unique() if base_metric(other) == name]
        same(scan.of(name), records[records["metric"].isin(names)][COLUMNS])
    assert sum(len(scan.of(name)) for name in metrics) == len(records)
    assert scan.of("nothing").empty
    assert list(scan.of("nothing")) == COLUMNS


def test_what_maps_react_by_is_no_metric_of_a_run_that_has_others(records: pd.DataFrame) -> None:
    told = (records["metric"] != "spearman") | records["family"].isin(MUST_DIFFER)
    told &= ~records["metric"].str.startswith("spearman.")
    scan = as_scan(records[told])
    assert "spearman" not in scan.metrics()
    assert set(scan.of("spearman")["family"]) == set(MUST_DIFFER)


def test_a_metric_called_like_a_recognition_is_had_once(records: pd.DataFrame) -> None:
    names = {"ssim": "a", "ssim.recognised": "a.recognised", "plain": "a.recognised.recognised"}
    chosen = records[records["metric"].isin(names)]
    scan = as_scan(chosen.assign(metric=chosen["metric"].astype(str).map(names)))
    assert sum(len(scan.of(name)) for name in scan.metrics()) == len(chosen)


# --- what is derived ------------------------------------------------------------------------------


def test_findings_are_those_of_the_whole_table(
    home: Path, records: pd.DataFrame, tmp_path: Path
) -> None:
    """But for rounding: where values are missing, families may be averaged in another order."""
    found = Findings.of(scan_run(home)[0], KNOWN)
    calibrated = calibrate(records, KNOWN)
    margins = records["metric"].astype(str).str.startswith(MARGIN_NAMES)
    # A resample may have the mean itself but for rounding, which moves an end by a part of a step.
    same(found.summary, full_summary(records[~margins]), TIED)
    same(found.calibrated, calibrated, ROUNDING)
    admission = admissions(as_scan(records), None)
    same(found.admission, admission, ROUNDING)
    same(found.evidence, evidence_kept(records), ROUNDING)
    admitted = set(admission["method"][admission["ranked"]])
    ranks, _ = rank_methods(records, calibrated, KNOWN, admitted)
    same(found.ranks, ranks, ROUNDING)
    assert len(admitted) == 1
    assert found.pairs.empty
    # Without margins all are ranked.
    unjudged = Findings.of(scan_run(write(tmp_path / "run", records[~margins]))[0], KNOWN)
    everyone, compared = rank_methods(records, calibrated, KNOWN)
    same(unjudged.ranks, everyone, ROUNDING)
    same(by_name(unjudged.pairs), by_name(compared), ROUNDING)
    same(found.faults, whose_fault(records, KNOWN), ROUNDING)
    assert set(found.calibrated["metric"]) == {"ssim", "spearman", "relative_l2"}
    lost = found.calibrated[
        (found.calibrated["metric"] == "spearman") & (found.calibrated["family"] == "picky")
    ]
    assert len(lost), "a family without values of a metric has its rows all the same"
    assert set(lost["images"]) == {0}


def test_a_file_and_a_frame_are_the_same(home: Path, records: pd.DataFrame) -> None:
    one, other = Findings.of(scan_run(home)[0], KNOWN), Findings.of(records, KNOWN)
    for name in ("summary", "calibrated", "ranks", "admission", "evidence", "faults"):
        same(getattr(one, name), getattr(other, name))


def test_findings_without_nulls_are_raw(records: pd.DataFrame, tmp_path: Path) -> None:
    raw = records[~records["family"].isin(NULLS) & records["metric"].isin(["ssim", "plain"])]
    found = Findings.of(scan_run(write(tmp_path / "run", raw))[0], KNOWN)
    assert found.calibrated.empty
    assert found.ranks.empty
    same(found.summary, full_summary(raw), ROUNDING)


def test_curves_and_witnesses_are_those_of_the_whole_table(
    home: Path, records: pd.DataFrame
) -> None:
    scan = scan_run(home)[0]
    found = Findings.of(scan, KNOWN)
    curves = curves_of(found)
    expected = severity_curves(records, found.calibrated, KNOWN)
    assert set(curves["metric"]) == set(expected["metric"])
    for name in dict.fromkeys(expected["metric"]):
        same(curves[curves["metric"] == name], expected[expected["metric"] == name], ROUNDING)
    assert len(choose_witnesses(scan, KNOWN)) == 3
    assert choose_witnesses(scan, KNOWN) == choose_witnesses(records, KNOWN)


@pytest.mark.parametrize(
    "metrics", [None, KEPT_METRICS, ("spearman.recognised",), ("relative_l2", "plain")]
)
def test_scores_by_image_are_those_of_the_whole_table(
    home: Path, records: pd.DataFrame, metrics: tuple[str, ...] | None
) -> None:
    expected = image_scores(records, metrics, KNOWN)
    if metrics is None or EVIDENCE_KEPT in metrics:
        known = evidence_scores(as_scan(records))
        assert len(known)
        expected = pd.concat([expected, known]).sort_values(KEY)
    same(read_side(home, metrics).scores, expected)
    assert not expected.duplicated(KEY).any()


def test_a_run_without_values_has_nothing_to_compare(tmp_path: Path, records: pd.DataFrame) -> None:
    for few in (records.iloc[:0], records.assign(value=np.nan, status="degenerate")):
        with pytest.raises(ConfigError, match="the run has no scores to compare"):
            read_side(write(tmp_path / "run", few))
    with pytest.raises(ConfigError, match="the run has no scores to compare"):
        read_side(write(tmp_path / "run", records), ("infidelity",))


def test_an_interval_hangs_on_its_own_values_alone() -> None:
    """Or what is found of a metric would hang on which others there are."""
    rng = np.random.default_rng(0)
    rows = [rng.normal(size=count) for count in (5, 12, 12, 40, 40, 40)]
    assert [intervals([row])[0] for row in rows] == intervals(rows)


# --- how much is in memory ------------------------------------------------------------------------


def test_the_summary_of_a_run_holds_one_metric_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a whole run, with its witnesses and its page: everything that reads the records."""
    held: list[weakref.ref[pd.DataFrame]] = []
    read: list[str] = []
    sizes: list[int] = []
    of, as_schema = Scan.of, reading.as_records

    def watched(scan: Scan, metric: str) -> pd.DataFrame:
        assert not [one for one in held if one() is not None], f"others are held beside {metric}"
        found = of(scan, metric)
        assert set(map(base_metric, found["metric"].unique())) == {metric}
        held.append(weakref.ref(found))
        read.append(metric)
        return found

    def few(table: pa.Table) -> pa.Table:
        sizes.append(len(table))
        return as_schema(table)

    def whole(_folder: Path) -> None:
        raise AssertionError("the whole table is read")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(scanning, "ROWS_AT_ONCE", FEW)
    monkeypatch.setattr(Scan, "of", watched)
    monkeypatch.setattr(scanning, "as_records", few)
    monkeypatch.setattr(reading, "as_records", whole)
    ours = ["run", "--limit", "3", "--steps", "4", "--nulls", "1", "--family", "bias"]
    ours += ["--method", "gradient", "--method", "integrated_gradients", "--no-controls"]
    assert call(monkeypatch, *ours, "--output", "run") == 0
    assert {"ssim", "spearman", "completeness_error", "input_change"} <= set(read)
    assert max(sizes) <= FEW
    assert sum(sizes) == pq.read_metadata(tmp_path / "run" / RECORDS).num_rows, "looked at once"
    page = (tmp_path / "run" / "report.html").read_bytes()
    assert call(monkeypatch, "report", "run") == 0
    assert (tmp_path / "run" / "report.html").read_bytes() == page
    assert call(monkeypatch, "baseline", "save", "run", "mine") == 0
    assert call(monkeypatch, "gate", "run", "--baseline", "mine") == 0


def opened(folder: Path) -> int:
    """Open a run; return how many bytes that takes at most, of Python's and of Arrow's."""
    usual = pa.default_memory_pool()
    pool = pa.proxy_memory_pool(usual)
    pa.set_memory_pool(pool)
    tracemalloc.start()
    try:
        scan_run(folder)
        return tracemalloc.get_traced_memory()[1] + int(pool.max_memory())
    finally:
        tracemalloc.stop()
        pa.set_memory_pool(usual)


def test_memory_does_not_grow_with_the_number_of_records(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same records so many times: only their number is another."""
    monkeypatch.setattr(scanning, "ROWS_AT_ONCE", 1 << 11)
    table = pq.read_table(home / RECORDS).unify_dictionaries()
    sizes = {}
    for copies in (4, 4, 24):
        folder = tmp_path / str(copies)
        folder.mkdir(exist_ok=True)
        with pq.ParquetWriter(folder / RECORDS, table.schema) as writer:
            for _ in range(copies):
                writer.write_table(table)
        (folder / "manifest.json").write_text(json.dumps(manifest()))
        sizes[copies] = opened(folder)
    assert 24 * len(table) * 28 > sizes[4], "all of it would be seen"
    assert sizes[24] < 1.25 * sizes[4]


# --- damaged files --------------------------------------------------------------------------------

Change = Callable[[Path], object]


def changed(change: Callable[[pa.Table], pa.Table]) -> Change:
    def write_again(path: Path) -> None:
        table = change(pq.read_table(path))
        pq.write_table(table, path, row_group_size=200)

    return write_again


def missing(name: str) -> Callable[[pa.Table], pa.Table]:
    """Take the last value of a column away."""

    def change(table: pa.Table) -> pa.Table:
        place = table.schema.get_field_index(name)
        values = [*table[name].to_pylist()[:-1], None]
        column = pa.array(values, table.schema.field(name).type)
        return table.set_column(place, table.schema.field(name), column)

    return change


def as_text(table: pa.Table) -> pa.Table:
    place = table.schema.get_field_index("value")
    return table.set_column(place, "value", pa.array(["much"] * len(table)))


DAMAGES: dict[str, Change] = {
    "gone": lambda path: path.unlink(),
    "no manifest": lambda path: path.with_name("manifest.json").unlink(),
    "a damaged manifest": lambda path: path.with_name("manifest.json").write_text("{"),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-100]),
    "empty": lambda path: path.write_bytes(b""),
    "another thing": lambda path: path.write_bytes(b"PAR1" + bytes(100) + b"PAR1"),
    "a column less": changed(lambda table: table.drop_columns(["family"])),
    "a column more": changed(lambda table: table.append_column("more", [[1] * len(table)])),
    "a last value gone": changed(missing("value")),
    "a last status gone": changed(missing("status")),
    "text for numbers": changed(as_text),
    "of another run": changed(lambda table: table.replace_schema_metadata({"run_id": "other"})),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_told_as_when_it_is_read_whole(
    home: Path, tmp_path: Path, damage: str
) -> None:
    folder = write(tmp_path / "run", read_run(home)[0])
    DAMAGES[damage](folder / RECORDS)
    with pytest.raises(ConfigError) as expected:
        read_run(folder)
    with pytest.raises(ConfigError) as found:
        scan_run(folder)
    assert str(found.value) == str(expected.value)
    assert len(str(found.value).splitlines()) == 1


def test_a_file_that_is_damaged_later_is_told_too(home: Path, tmp_path: Path) -> None:
    folder = write(tmp_path / "run", read_run(home)[0])
    scan, _ = scan_run(folder)
    (folder / RECORDS).write_bytes(b"PAR1")
    with pytest.raises(ConfigError, match=r"records\.parquet is damaged: ") as caught:
        Findings.of(scan, KNOWN)
    assert len(str(caught.value).splitlines()) == 1


def test_columns_of_plain_text_are_read(home: Path, tmp_path: Path, records: pd.DataFrame) -> None:
    """As another writer would write them, without dictionaries."""
    folder = write(tmp_path / "run", records)
    table = pq.read_table(folder / RECORDS)
    fields = [
        pa.field(one.name, pa.string()) if pa.types.is_dictionary(one.type) else one
        for one in table.schema
    ]
    pq.write_table(table.cast(pa.schema(fields)), folder / RECORDS, row_group_size=200)
    scan = scan_run(folder)[0]
    for name in scan.metrics():
        same(scan.of(name), scan_run(home)[0].of(name))


def test_a_run_that_is_summarised_from_its_folder_is_that_of_its_records(
    records: pd.DataFrame, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write(tmp_path / "run", records)
    finish.print_findings(folder)
    printed = capsys.readouterr().out
    assert "SSIM" in printed
    expected = Findings.of(records, KNOWN)
    other = tmp_path / "other"
    other.mkdir()
    expected.write(other)
    write_diagrams(rank_diagrams(expected), other)
    for path in other.iterdir():
        assert (folder / path.name).read_bytes() == path.read_bytes()
    assert len(list(other.iterdir())) >= 5
    page = render([FinishedRun.of(folder)])
    assert render([FinishedRun.of(folder, expected)]) == page
