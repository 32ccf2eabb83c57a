"""The witnesses of a run: which, and what the network said of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from finished import METHODS

from steadymap.bench import read_run
from steadymap.bench.gallery.keep import KINDS, choose_witnesses
from steadymap.bench.records.vocabulary import CLEAN, REFERENCES
from steadymap.bench.report.finished_run import FinishedRun


def test_witnesses_are_the_steadiest_the_median_and_the_least_steady(finished_folder: Path) -> None:
    records, _ = read_run(finished_folder)
    chosen = records[
        (records["metric"] == "ssim")
        & ~records["family"].isin((*REFERENCES, CLEAN))
        & records["method"].isin(METHODS)
    ].astype({"image_id": str, "method": str, "family": str})
    each = chosen.groupby(["image_id", "method", "family"])["value"].mean()
    order = each.groupby("image_id").mean().sort_values(ascending=False).index
    expected = dict(zip((order[0], order[2], order[-1]), KINDS, strict=True))
    assert choose_witnesses(records) == expected
    kept = pd.read_csv(finished_folder / "witnesses" / "witnesses.csv")
    assert dict(zip(kept["image_id"], kept["kind"], strict=True)) == expected


def test_one_image_is_every_witness_at_once(finished_folder: Path) -> None:
    records, _ = read_run(finished_folder)
    first = records["image_id"].iloc[-1]
    assert choose_witnesses(records[records["image_id"] == first]) == {first: "steadiest"}


def test_the_gallery_shows_what_the_network_said_and_what_changed(
    finished_run: FinishedRun, finished_records: pd.DataFrame
) -> None:
    gallery = finished_run.gallery
    assert gallery is not None
    rows = gallery.rows[gallery.rows["family"] != CLEAN]
    assert len(rows) == 3 * 9, "three families at three severities"
    for row in rows.to_dict("records"):
        of_view = finished_records[
            (finished_records["image_id"] == row["image_id"])
            & (finished_records["family"] == row["family"])
            & (finished_records["severity"] == row["severity"])
        ]
        assert set(of_view["pred_perturbed"]) == {row["prediction"]}
    assert all(maps.dtype == np.uint8 for maps in gallery.maps.values())
    assert all(known.all() for known in gallery.known.values())
