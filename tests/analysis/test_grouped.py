"""Groups of images are what is resampled, wherever images are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from scipy.stats import norm
from scipy.stats import t as student
from synthetic import World, run_of

from steadymap.bench.analysis import estimates
from steadymap.bench.analysis.admission import Facts
from steadymap.bench.analysis.cells import Cells
from steadymap.bench.analysis.findings import Findings
from steadymap.bench.analysis.intervals import Interval, intervals, mean_of
from steadymap.bench.analysis.jackknife import interval_of
from steadymap.bench.records.grouping import NONE, Groups, by_group
from steadymap.bench.records.read import read_run
from steadymap.bench.report.finished_run import curves_of
from steadymap.metrics import METRICS

Floats = NDArray[np.float64]

TABLES = ("summary", "calibrated", "ranks", "pairs", "admission", "evidence", "faults")
# How many images there are, and how many would do, is said of images, doubled or not.
COUNTS = ["images", "null_images", "images_needed", "reason"]


def tables(findings: Findings) -> dict[str, pd.DataFrame]:
    found = {name: getattr(findings, name) for name in TABLES}
    return found | {"curves": curves_of(findings)}


def doubled(records: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, str]]:
    """Return records in which each image is there twice, and what belongs together."""
    first = records.astype({"image_id": str})
    second = first.assign(image_id=first["image_id"] + "~")
    images = first["image_id"].unique()
    groups = {name + end: name for name in images for end in ("", "~")}
    return pd.concat([first, second], ignore_index=True), groups


@pytest.fixture(params=["finished_folder", "judged_folder"])
def records(request: pytest.FixtureRequest) -> pd.DataFrame:
    return read_run(request.getfixturevalue(request.param))[0]


def test_where_each_image_is_its_own_group_nothing_changes(records: pd.DataFrame) -> None:
    alone = {str(image): f"of {image}" for image in records["image_id"].unique()}
    found = tables(Findings.of(records, facts=Facts(groups=alone)))
    for name, table in tables(Findings.of(records, facts=Facts())).items():
        pd.testing.assert_frame_equal(found[name], table, check_exact=True)


def test_an_image_that_is_there_twice_adds_nothing(records: pd.DataFrame) -> None:
    twice, groups = doubled(records)
    found = tables(Findings.of(twice, facts=Facts(groups=groups)))
    for name, table in tables(Findings.of(records, facts=Facts())).items():
        kept = [column for column in table if column not in COUNTS]
        pd.testing.assert_frame_equal(found[name][kept], table[kept], check_exact=False, rtol=1e-7)
        if "images" in table:
            assert found[name]["images"].tolist() == (2 * table["images"]).tolist()


def test_without_groups_it_would_seem_to_add_as_much_as_another() -> None:
    values = np.random.default_rng(0).normal(size=20)
    images = [f"{name}{end}" for end in "ab" for name in range(20)]
    groups = {image: image[:-1] for image in images}
    twice = np.concatenate([values, values])
    width = {
        count: mean.high - mean.low
        for count, mean in ((40, mean_of(twice)), (20, mean_of(by_group(twice, images, groups))))
    }
    # The variance of a mean is the sum of squares over n (n - 1).
    expected = student.isf(0.025, 39) / student.isf(0.025, 19) * np.sqrt(2 * 20 * 19 / (40 * 39))
    assert width[40] / width[20] == pytest.approx(expected)
    assert expected == pytest.approx(1 / np.sqrt(2), rel=0.06)


def test_the_score_of_doubled_images_seems_surer_by_a_root_of_two_without_groups() -> None:
    records, groups = doubled(run_of(World(), 48, np.random.default_rng(1)))
    errors = []
    for known in (groups, NONE):
        cells = Cells.of(records, "spearman", METRICS["spearman"], known)
        found = estimates.estimate(estimates.Averages.of(cells, cells.kept), 0, [0, 1]).calibrated
        errors.append(replace(found, networks=np.zeros(0)).errors()[0])
    # Of n images the jackknife's variance has n - 1 in the denominator, of doubled ones 2 n - 1.
    assert errors[0] / errors[1] == pytest.approx(95 / 47, rel=1e-3)


def test_one_group_has_no_interval() -> None:
    records = run_of(World(), 24, np.random.default_rng(2))
    groups = dict.fromkeys(records["image_id"].unique(), "one")
    findings = Findings.of(records, facts=Facts(groups=groups))
    assert set(findings.calibrated["interval"]) == {"none"}
    assert set(findings.summary["interval"]) == {"none"}
    assert findings.over() == "there are no intervals: all 24 images are of one group"


# --- what it is worth -----------------------------------------------------------------------------

SIZES = {"equal": [4] * 30, "unequal": [1, 2, 3, 4, 5, 9] * 5}


def alike(sizes: list[int], rng: np.random.Generator) -> tuple[Floats, list[str], Groups]:
    """Draw values of mean 0 whose correlation within a group is a half."""
    place = np.repeat(np.arange(len(sizes)), sizes)
    own, common = rng.standard_normal(len(place)), rng.standard_normal(len(sizes))
    images = [f"i{number}" for number in range(len(place))]
    groups = {image: f"g{at}" for image, at in zip(images, place, strict=True)}
    return np.sqrt(0.5) * (own + common[place]), images, groups


def by_student(values: Floats) -> Interval:
    found = mean_of(values)
    return Interval(found.mean, found.low, found.high, "t")


def by_bootstrap(values: Floats) -> Interval:
    return intervals([values])[0]


# The bootstrap's are a little narrow where there are few, and more so where few of them are large.
HELD: dict[tuple[str, Callable[[Floats], Interval]], float] = {
    ("equal", by_student): 0.95,
    ("unequal", by_student): 0.95,
    ("equal", by_bootstrap): 0.94,
    ("unequal", by_bootstrap): 0.92,
}


@pytest.mark.slow
@pytest.mark.parametrize(("sizes", "way"), list(HELD))
def test_intervals_over_groups_hold(
    sizes: str, way: Callable[[Floats], Interval], record_property: Callable[..., None]
) -> None:
    rng = np.random.default_rng(3)
    runs, held = 1500, np.zeros(2)
    for _ in range(runs):
        values, images, groups = alike(SIZES[sizes], rng)
        found = way(by_group(values, images, groups)), way(values)
        held += [interval.low <= 0 <= interval.high for interval in found]
    grouped, alone = held / runs
    text = f"{way.__name__}, {sizes} groups: {grouped:.1%}; by image {alone:.1%}"
    record_property("measured", text)
    # Of 1500 draws of a 95% chance the standard error is 0.6%.
    assert grouped == pytest.approx(HELD[sizes, way], abs=0.015)
    count, squares = sum(SIZES[sizes]), sum(size**2 for size in SIZES[sizes])
    # What a mean varies by beyond that of as many images of different groups. Source: Kish 1965.
    effect = 1 + 0.5 * (squares / count - 1)
    assert alone == pytest.approx(1 - 2 * norm.sf(1.96 / np.sqrt(effect)), abs=0.03)


@pytest.mark.slow
@pytest.mark.parametrize("groups", [30, 12])
def test_intervals_of_calibrated_scores_over_groups_hold(
    groups: int, record_property: Callable[..., None]
) -> None:
    world = World(distances=(0.6,), partner=0.15, groups=groups, alike=0.5)
    rng = np.random.default_rng(4)
    runs, held = 800, np.zeros(2)
    for _ in range(runs):
        records = run_of(world, 4 * groups, rng)
        for place, known in enumerate((world.group_of(4 * groups), NONE)):
            cells = Cells.of(records, "spearman", METRICS["spearman"], known)
            averages = estimates.Averages.of(cells, cells.kept)
            found = interval_of(estimates.estimate(averages, 0, [0, 1]).calibrated)
            held[place] += bool(found.low <= world.truth()[0] <= found.high)
    grouped, alone = held / runs
    text = f"calibrated, {groups} groups of 4: {grouped:.1%}; by image {alone:.1%}"
    record_property("measured", text)
    assert grouped == pytest.approx(0.95, abs=0.02)
    assert alone < grouped - 0.05
