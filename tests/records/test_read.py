"""Every CSV that a run, a baseline and a gate write: no cell of theirs is a formula."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
from support import ROOT, finished_run, random_images

from steadymap.bench import from_tensor, read_run
from steadymap.bench.analysis.findings import Findings
from steadymap.bench.core.safe_csv import csv_text, parse_csv
from steadymap.bench.gallery.keep import keep_witnesses
from steadymap.bench.gate.comparison import compare
from steadymap.bench.gate.side import image_scores, read_side
from steadymap.bench.measure.watch import Watch
from steadymap.bench.plan.experiment import Experiment
from steadymap.bench.plan.setup import prepare
from steadymap.bench.records.read import TEXTS, read_csv
from steadymap.bench.records.vocabulary import MARGIN_NAMES
from steadymap.bench.report.gallery_files import read_gallery
from steadymap.bench.runs import folder as store
from steadymap.bench.runs.draw_up import draw_up
from steadymap.bench.runs.processes import Parallel
from steadymap.bench.runs.resume import Work
from steadymap.models import Classifier

FORMULA = "=cmd|' /C calc'!A0"
BEGINNINGS = ("=", "+", "-", "@", "\t", "\r")
RUN = ["--limit", "4", "--steps", "4", "--nulls", "1", "--no-controls", "--save-maps"]
RUN += ["--method", "gradient", "--method", "gradient_x_input", "--method", "grad_cam"]
RUN += ["--method", "smooth_grad:samples=2"]
RUN += ["--family", "bias", "--family", "compensated_bias", "--severity", "-0.2,0.3"]


def cells(path: Path) -> list[str]:
    with path.open(newline="", encoding="utf-8") as file:
        return [cell for row in csv.reader(file) for cell in row]


def is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def formulas(folder: Path) -> list[tuple[str, str]]:
    """Return the cells that a spreadsheet would run."""
    return [
        (path.name, cell)
        for path in sorted(folder.rglob("*.csv"))
        for cell in cells(path)
        if cell.startswith(BEGINNINGS) and not is_number(cell)
    ]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose image ids and names all begin with a formula."""
    return finished_run(tmp_path_factory.mktemp("formulas"), *RUN)


def renamed(frame: pd.DataFrame, columns: tuple[str, ...]) -> pd.DataFrame:
    return frame.assign(
        **{name: FORMULA + frame[name].astype(str) for name in columns if name in frame}
    )


def test_tables_of_a_run_hold_no_formula(home: Path, tmp_path: Path) -> None:
    records, _ = read_run(home)
    hostile = renamed(records, ("method", "image_id"))
    # Four images are too few for a rank: with margins and without them every table is there.
    Findings.of(hostile).write(tmp_path)
    assert {"admission.csv", "evidence_kept.csv"} <= {path.name for path in tmp_path.iterdir()}
    found = Findings.of(hostile[~hostile["metric"].astype(str).str.startswith(MARGIN_NAMES)])
    found.write(tmp_path)
    names = {path.name for path in tmp_path.glob("*.csv")}
    assert names == {
        "summary.csv", "calibrated.csv", "ranks.csv", "pairs.csv", "agreement.csv",
        "admission.csv", "evidence_kept.csv", "seed_share.csv", "whose_fault.csv",
    }  # fmt: skip
    assert not formulas(tmp_path)
    for name, frame in (("summary.csv", found.summary), ("ranks.csv", found.ranks)):
        read = read_csv(tmp_path / name, ("method",))
        assert read["method"].tolist() == frame["method"].astype(str).tolist()
        assert FORMULA in read["method"].iloc[0]
        assert any(cell.startswith("'=cmd") for cell in cells(tmp_path / name))
    # Numbers are what they were.
    summary = parse_csv((tmp_path / "summary.csv").read_bytes(), TEXTS)
    pd.testing.assert_series_equal(
        summary["mean"], found.summary["mean"].reset_index(drop=True), rtol=1e-5
    )


def test_a_gate_and_a_baseline_hold_no_formula(home: Path, tmp_path: Path) -> None:
    records, _ = read_run(home)
    side = read_side(home)
    hostile = renamed(image_scores(records), ("method", "image_id"))
    changed = replace(side, scores=hostile)
    text = csv_text(compare(changed, changed))
    (tmp_path / "comparison.csv").write_text(text)
    (tmp_path / "scores.csv").write_text(csv_text(hostile))
    assert not formulas(tmp_path)
    assert "'=cmd" in text


def test_what_a_run_writes_as_it_goes_holds_no_formula(
    classifier: Classifier, tmp_path: Path
) -> None:
    plain = from_tensor(random_images(3))
    pictures = tuple(replace(one, image_id=FORMULA + one.image_id) for one in plain.pictures)
    images = replace(plain, pictures=pictures)
    experiment = Experiment(
        method=("gradient",), family=("bias",), severity=(-0.2,), controls=False, nulls=1,
        save_maps=True,
    )  # fmt: skip
    setup = prepare(classifier, images, experiment)
    ledger = draw_up(setup, "r", "all", maps=True)
    store.begin(tmp_path, ledger, {}, print)
    work = Work(experiment, setup, ledger, Parallel())
    work.compute(tmp_path, work.shards(tmp_path, print), Watch())
    store.finish(tmp_path, ledger, print, lambda _: {})
    records = pq.read_table(tmp_path / "records.parquet").to_pandas()
    keep_witnesses(setup, records, tmp_path)
    written = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.csv")}
    assert written >= {
        "timings.csv", "maps/index.csv", "witnesses/witnesses.csv", "witnesses/predictions.csv",
        "witnesses/scales.csv",
    }  # fmt: skip
    assert not formulas(tmp_path)
    gallery = read_gallery(tmp_path, {})
    assert gallery is not None
    assert all(image_id.startswith(FORMULA) for image_id in gallery.kinds)
    index = read_csv(tmp_path / "maps" / "index.csv", ("row", "image_id"))
    assert index["image_id"].str.startswith(FORMULA).all()


def test_nothing_else_writes_csv() -> None:
    callers = {
        path.name
        for folder in ("bench", "models", "metrics")
        for path in (ROOT / folder).rglob("*.py")
        if ".to_csv(" in path.read_text(encoding="utf-8") or "csv.writer" in path.read_text("utf-8")
    }
    assert callers == set()
    assert {"image_id", "method", "family", "metric"} <= set(TEXTS)
