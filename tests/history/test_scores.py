"""An entry says of a run what its records say."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from finished import calibrated_by_hand
from support import finished_run, seal_again

from steadymap.bench.core.errors import ConfigError
from steadymap.bench.gate.side import read_side
from steadymap.bench.history.entry import Entry, Notes, entry_of
from steadymap.bench.records.read import read_run

RUN = (
    "run", "--limit", "9", "--method", "gradient", "--method", "integrated_gradients", "--steps",
    "4", "--family", "bias", "--family", "gaussian_noise", "--family", "compensated_bias",
    "--severity", "0.3", "--nulls", "1", "--controls", "--no-report",
)  # fmt: skip
GRADIENT = "gradient"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished_run(tmp_path_factory.mktemp("scores"), *RUN[1:])


@pytest.fixture(scope="module")
def entry(run: Path) -> Entry:
    return entry_of(run)


@contextmanager
def manifest_with(run: Path, **changes: object) -> Iterator[None]:
    """Have a run's manifest say something else for a while."""
    path = run / "manifest.json"
    before = path.read_bytes()
    path.write_text(json.dumps(json.loads(before) | changes))
    seal_again(run)
    try:
        yield
    finally:
        path.write_bytes(before)


def row(entry: Entry, **key: str) -> dict[str, Any]:
    rows = entry.scores
    for name, value in key.items():
        rows = rows[rows[name] == value]
    (found,) = rows.to_dict("records")
    return {str(name): value for name, value in found.items()}


def test_calibrated_scores_are_those_of_the_definition(run: Path, entry: Entry) -> None:
    records, _ = read_run(run)
    found = row(entry, method=GRADIENT, metric="ssim", family="bias", kind="calibrated")
    assert found["value"] == pytest.approx(calibrated_by_hand(records, GRADIENT, "ssim"))
    assert found["low"] < found["value"] < found["high"]
    held = records[(records["family"] == "bias") & records["kept"]]
    assert found["images"] == held["image_id"].nunique() < 9


def test_raw_scores_are_those_of_a_baseline(run: Path, entry: Entry) -> None:
    scores = read_side(run).scores
    for metric in ("ssim", "ssim.recognised"):
        chosen = scores[(scores["metric"] == metric) & (scores["method"] == GRADIENT)]
        by_family = chosen.groupby("family")["value"].mean()
        kind = row(entry, method=GRADIENT, metric=metric, family="gaussian_noise", kind="raw")
        if metric == "ssim":
            assert kind["value"] == pytest.approx(by_family["gaussian_noise"], abs=1e-6)
        else:  # over pairs whose prediction held, as calibrated scores are
            assert 0 < kind["value"] <= 1


def test_the_network_s_own_scores_are_counted_by_hand(run: Path, entry: Entry) -> None:
    records, _ = read_run(run)
    images = records.drop_duplicates("image_id")
    right = (images["label"] == images["pred_clean"]).mean()
    found = row(entry, method="network", metric="accuracy")
    assert (found["value"], found["images"], found["family"]) == (right, 9, "clean")
    assert found["low"] < right <= found["high"]
    chosen = records.astype({"family": str, "image_id": str})
    shares = {
        family: chosen[chosen["family"] == family].groupby("image_id")["kept"].first().mean()
        for family in ("bias", "gaussian_noise")
    }
    for family, share in shares.items():
        assert row(entry, metric="prediction_kept", family=family)["value"] == share
    overall = row(entry, metric="prediction_kept", family="overall")["value"]
    assert overall == pytest.approx(np.mean(list(shares.values())))


def test_costs_are_those_of_the_run(run: Path, entry: Entry) -> None:
    spec = "integrated_gradients:baseline=black,steps=4"
    assert row(entry, method=spec, metric="passes")["value"] == 4
    ratio = row(entry, method=spec, metric="time_ratio")["value"]
    assert ratio == pytest.approx(read_side(run).ratios[spec])


def test_controls_and_unrelated_maps_are_left_out(entry: Entry) -> None:
    assert set(entry.scores["method"]) == {
        GRADIENT, "integrated_gradients:baseline=black,steps=4", "network",
    }  # fmt: skip
    assert set(entry.scores["family"]) == {
        "bias", "gaussian_noise", "compensated_bias", "overall", "clean",
    }  # fmt: skip
    assert not entry.scores.duplicated(["method", "family", "metric", "kind"]).any()


def test_an_entry_says_when_with_what_and_on_what(run: Path, entry: Entry) -> None:
    manifest = json.loads((run / "manifest.json").read_text())
    assert entry.measured_at == manifest["measured_at"]
    assert entry.facts["commit"] == (manifest["git"] or {}).get("commit", "")
    assert entry.manifest["model"] == manifest["model"]
    assert entry.manifest["machine"] == manifest["machine"]
    assert entry.manifest["versions"] == manifest["versions"]
    assert entry.manifest["data"]["sha256"] == manifest["data"]["sha256"]
    assert entry.manifest["data"]["pictures"] == 9


def test_what_a_user_says_is_kept_and_changes_no_identity(run: Path, entry: Entry) -> None:
    told = entry_of(run, Notes("abc", "v2", "2026-03-01T12:00+02:00", renewed=True))
    assert told.id == entry.id
    assert (told.facts["commit"], told.facts["label"]) == ("abc", "v2")
    assert told.facts["renewed"] is True
    assert told.measured_at == "2026-03-01T10:00:00+00:00"
    assert entry_of(run, Notes(at="2026-03-01T12:00")).measured_at == "2026-03-01T12:00:00+00:00"
    pd.testing.assert_frame_equal(told.scores, entry.scores)


def test_another_date_is_another_run(run: Path, entry: Entry) -> None:
    with manifest_with(run, measured_at="2026-01-01T00:00:00+00:00"):
        assert entry_of(run).id != entry.id
    assert entry_of(run).id == entry.id


def test_without_a_date_it_is_asked_for(run: Path) -> None:
    with manifest_with(run, measured_at=""):
        with pytest.raises(ConfigError, match="say it with --at"):
            entry_of(run)
        assert entry_of(run, Notes(at="2026-01-02")).measured_at == "2026-01-02T00:00:00+00:00"


@pytest.mark.parametrize(
    ("notes", "said"),
    [
        (Notes(at="yesterday"), "'yesterday' is no date in ISO 8601; an example: 2026"),
        (Notes(label="two\nlines"), "--label must be one line of at most 100 signs"),
        (Notes(commit="x" * 101), "--commit must be one line of at most 100 signs"),
    ],
)
def test_a_user_s_mistake_is_one_line(run: Path, notes: Notes, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        entry_of(run, notes)
