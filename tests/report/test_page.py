"""The report: its numbers are those of the records, and nothing in it breaks or loads."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from pages import Page, parsed
from PIL import Image
from support import Command, console, finished_run, random_images, small_plan, tiny

from steadymap.bench import from_tensor, read_run, run
from steadymap.bench.analysis.curves import breaking_points, severity_curves
from steadymap.bench.analysis.findings import Findings
from steadymap.bench.data.open import open_images
from steadymap.bench.gallery.keep import KINDS, choose_witnesses
from steadymap.bench.plan.experiment import make_experiment
from steadymap.bench.plan.identity import run_id
from steadymap.bench.records.vocabulary import CLEAN, NULLS, REFERENCES, is_control
from steadymap.bench.report.answer import _listed, answer
from steadymap.bench.report.figures import as_png, as_svg, new_figure, pareto
from steadymap.bench.report.finished_run import FinishedRun
from steadymap.bench.report.page import render
from steadymap.bench.report.pictures import map_levels, map_picture, photo_levels, scale_of
from steadymap.bench.report.sections.leaderboard import board_grid
from steadymap.bench.report.sections.trust import configuration
from steadymap.models import load_classifier

METHODS = ("gradient", "gradient_x_input", "integrated_gradients:baseline=black,steps=4")
RUN = ["--limit", "6", "--steps", "4", "--nulls", "1"]
RUN += [word for method in METHODS for word in ("--method", method)]
RUN += ["--family", "bias", "--family", "compensated_bias", "--severity", "-0.2,0.1,0.3"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run."""
    return finished_run(tmp_path_factory.mktemp("home"), *RUN)


@pytest.fixture(scope="module")
def shown(home: Path) -> FinishedRun:
    return FinishedRun.of(home)


@pytest.fixture(scope="module")
def records(home: Path) -> pd.DataFrame:
    return read_run(home)[0]


def board_of(page: Page) -> tuple[list[str], dict[str, list[str]]]:
    caption = next(name for name in page.tables if name.startswith("All families together"))
    head, *rows = page.tables[caption]
    return head, {row[0]: row[1:] for row in rows}


# --- numbers --------------------------------------------------------------------------------------


def by_hand(records: pd.DataFrame, method: str, metric: str) -> float:
    """Calibrate a score as the definition says, slowly."""
    chosen = records[
        (records["method"] == method) & (records["metric"] == metric) & (records["status"] == "ok")
    ]

    def distance(family: str) -> pd.Series:
        rows = chosen[chosen["family"] == family]
        return 1 - rows.groupby("image_id", observed=True)["value"].mean()

    families = [distance(name) for name in ("bias", "compensated_bias")]
    moved = pd.concat(families, axis=1).mean(axis=1).mean()
    return float(1 - moved / min(distance(family).mean() for family in NULLS))


def test_the_leaderboard_has_the_numbers_of_the_records(home: Path) -> None:
    records, manifest = read_run(home)
    head, board = board_of(parsed((home / "report.html").read_text()))
    assert head[:4] == ["method", "SSIM", "rank", "recognised"]
    names = {"gradient": METHODS[0], "gradient_x_input": METHODS[1]}
    names["integrated_gradients"] = METHODS[2]
    for name, method in names.items():
        for metric, column in (("ssim", "SSIM"), ("spearman", "rank correlation")):
            place = head.index(column)
            shown = board[name][place - 1].split()[0]
            assert shown == f"{by_hand(records, method, metric):.2f}"
            told = records[
                (records["method"] == method)
                & (records["metric"] == f"{metric}.recognised")
                & ~records["family"].isin((*REFERENCES, CLEAN))
            ]
            share = float(board[name][place + 1].rstrip("%")) / 100
            assert share == pytest.approx(told["value"].mean(), abs=0.001)
        passes = board[name][head.index("passes") - 1].split()[0]
        assert int(passes) == manifest["passes_by_method"][method]["each"]
    errors = records[
        (records["method"] == METHODS[2])
        & (records["metric"] == "completeness_error")
        & ~records["family"].isin((*REFERENCES, CLEAN))
    ]
    shown = board["integrated_gradients"][head.index("completeness error") - 1].split()[0]
    assert shown == f"{errors['value'].mean():.2f}"
    assert board["control: edge"][0] == "uninformative"
    assert {name for name in board if name.startswith("control: ")} >= {
        "control: another image's map",
        "control: randomised network's map",
    }


def test_every_other_table_has_the_numbers_of_what_was_found(
    home: Path, shown: FinishedRun, records: pd.DataFrame
) -> None:
    page = parsed((home / "report.html").read_text())
    statuses = next(rows for name, rows in page.tables.items() if name.startswith("All values"))
    counts = {(row[0], row[1]): int(row[2].replace(",", "")) for row in statuses[1:]}
    assert sum(counts.values()) == len(records)
    assert counts["ok", ""] == (records["status"] == "ok").sum()
    flipped = {row[0]: row[1] for row in page.tables["Predictions that changed"][1:]}
    pairs = records[records["family"] == "bias"].drop_duplicates(["image_id", "severity"])
    assert flipped["bias"] == f"{(~pairs['kept']).sum()} of {len(pairs)}"
    faults = next(rows for name, rows in page.tables.items() if name.startswith("Instability"))
    found = shown.findings.faults
    row = found[
        found["severity"].isna()
        & (found["metric"] == "ssim")
        & (found["method"] == "gradient_x_input")
    ].iloc[0]
    line = next(line for line in faults if line[0] == "gradient_x_input")
    assert line[1:4] == [f"{row[part]:.3f}" for part in ("total", "own", "network")]
    family = next(rows for name, rows in page.tables.items() if name.startswith("ssim:"))
    place = family[0].index("bias")
    calibrated = shown.findings.calibrated
    for method, name in ((METHODS[0], "gradient"), (METHODS[2], "integrated_gradients")):
        row = calibrated[
            (calibrated["method"] == method)
            & (calibrated["metric"] == "ssim")
            & (calibrated["family"] == "bias")
        ].iloc[0]
        text = f"{row['calibrated']:.2f} [{row['low']:.2f}, {row['high']:.2f}]"
        assert next(line for line in family if line[0] == name)[place] == text


def test_passes_that_do_not_come_back_are_called_so(shown: FinishedRun) -> None:
    costs = shown.costs[:3].assign(
        passes=[0, 1, 4], forward_only=[51, 0, 2], shared=[False, True, False]
    )
    grid = board_grid(replace(shown, costs=costs))
    place = grid.columns.index("passes")
    cells = {row[0].text: (row[place].text, row[place].small) for row in grid.rows}
    expected = [("51", "forward only"), ("1", "shared"), ("6", "2 forward only")]
    for spec, cell in zip(costs["method"], expected, strict=True):
        assert cells[shown.names()[spec]] == cell


def test_the_answer_is_made_of_the_numbers(shown: FinishedRun, records: pd.DataFrame) -> None:
    held, moved, uncertain = answer(shown.findings)
    scores = {method: by_hand(records, method, "ssim") for method in METHODS}
    best, worst = max(scores, key=scores.__getitem__), min(scores, key=scores.__getitem__)
    assert f"{best.partition(':')[0]} held best (calibrated SSIM {scores[best]:.2f}" in held
    assert f"{worst.partition(':')[0]} least ({scores[worst]:.2f}" in held
    assert held.startswith("On 6 images")
    pairs = records[~records["family"].isin((*REFERENCES, CLEAN))]
    pairs = pairs.drop_duplicates(["image_id", "family", "severity"])
    assert f"of {len(pairs)} perturbed images" in moved
    assert "100% [100%, 100%] with gradient" in moved
    assert "fewer than 30 images" in uncertain


def test_an_answer_without_calibration_says_so(home: Path) -> None:
    records, _ = read_run(home)
    raw = Findings.of(records[~records["family"].isin(NULLS)])
    held, _, uncertain = answer(raw)
    means = raw.summary[
        (raw.summary["metric"] == "ssim")
        & (raw.summary["family"] == "overall")
        & (raw.summary["subset"] == "all")
        & ~raw.summary["method"].map(is_control)
    ]
    best = means.sort_values("mean").iloc[-1]
    assert f"{str(best['method']).partition(':')[0]} held best (raw, uncalibrated SSIM" in held
    assert f"{best['mean']:.2f} [" in held
    assert "scores are raw" in uncertain


def test_curves_are_means_over_images_at_each_severity(
    shown: FinishedRun, records: pd.DataFrame
) -> None:
    calibrated = shown.findings.calibrated
    curves = shown.curves
    chosen = curves[(curves["metric"] == "ssim") & (curves["family"] == "bias")]
    assert set(chosen["method"]) == set(METHODS)
    for row in chosen.to_dict("records"):
        values = records[
            (records["method"] == row["method"])
            & (records["metric"] == "ssim")
            & (records["family"] == "bias")
            & (records["severity"] == row["severity"])
        ]["value"]
        worth = calibrated[
            (calibrated["method"] == row["method"])
            & (calibrated["metric"] == "ssim")
            & (calibrated["family"] == "overall")
        ].iloc[0]
        assert row["score"] == pytest.approx(1 - (1 - values.mean()) / (1 - worth["null"]))
        assert row["low"] <= row["score"] <= row["high"]
    raw = severity_curves(records, calibrated.iloc[:0])
    assert not raw["calibrated"].any()
    assert breaking_points(raw).empty


def curve(points: dict[float, float]) -> pd.DataFrame:
    same = {"method": "m", "family": "bias", "metric": "ssim", "calibrated": True}
    return pd.DataFrame({"severity": list(points), "score": list(points.values())} | same)


@pytest.mark.parametrize(
    ("points", "found"),
    [
        ({0.1: 0.75, 0.2: 0.25}, {1: 0.15}),
        ({0.2: 0.0}, {1: 0.1}),
        ({-0.2: 0.5, 0.1: 0.9}, {-1: -0.2, 1: np.nan}),
        # The first crossing counts, whatever comes after, and the order of the rows does not.
        ({0.3: 0.9, 0.2: 0.4, 0.1: 0.6}, {1: 0.15}),
        ({0.1: 0.4, 0.2: 0.8, 0.3: 0.2}, {1: 0.1 * 5 / 6}),
    ],
)
def test_a_method_breaks_where_its_curve_crosses_the_threshold(
    points: dict[float, float], found: dict[int, float]
) -> None:
    rows = breaking_points(curve(points))
    assert dict(zip(rows["sign"], rows["severity"], strict=True)) == pytest.approx(
        found, nan_ok=True
    )


def test_the_front_has_those_that_none_beats_in_both() -> None:
    points = [("a", 1.0, 0.3), ("b", 2.0, 0.2), ("c", 3.0, 0.9), ("d", 1.0, 0.1), ("e", 9.0, 0.9)]
    assert [name for name, _, _ in pareto(points)] == ["a", "c"]


# --- pictures -------------------------------------------------------------------------------------


def test_witnesses_are_the_steadiest_the_median_and_the_least_steady(home: Path) -> None:
    records, _ = read_run(home)
    chosen = records[
        (records["metric"] == "ssim")
        & ~records["family"].isin((*REFERENCES, CLEAN))
        & records["method"].isin(METHODS)
    ].astype({"image_id": str, "method": str, "family": str})
    each = chosen.groupby(["image_id", "method", "family"])["value"].mean()
    order = each.groupby("image_id").mean().sort_values(ascending=False).index
    expected = dict(zip((order[0], order[2], order[-1]), KINDS, strict=True))
    assert choose_witnesses(records) == expected
    kept = pd.read_csv(home / "witnesses" / "witnesses.csv")
    assert dict(zip(kept["image_id"], kept["kind"], strict=True)) == expected


def test_one_image_is_every_witness_at_once(home: Path) -> None:
    records, _ = read_run(home)
    first = records["image_id"].iloc[-1]
    assert choose_witnesses(records[records["image_id"] == first]) == {first: "steadiest"}


def test_the_gallery_shows_what_the_network_said_and_what_changed(
    shown: FinishedRun, records: pd.DataFrame
) -> None:
    gallery = shown.gallery
    assert gallery is not None
    rows = gallery.rows[gallery.rows["family"] != CLEAN]
    assert len(rows) == 3 * 6
    for row in rows.to_dict("records"):
        found = records[
            (records["image_id"] == row["image_id"])
            & (records["family"] == row["family"])
            & (records["severity"] == row["severity"])
        ]
        assert set(found["pred_perturbed"]) == {row["prediction"]}
    assert all(maps.dtype == np.uint8 for maps in gallery.maps.values())
    assert all(known.all() for known in gallery.known.values())


def test_maps_of_a_row_share_the_scale_of_the_clean_one() -> None:
    clean = np.linspace(-1, 1, 10000, dtype=np.float32).reshape(100, 100)
    scale = scale_of(clean, [0.5 * clean])
    assert scale.signed
    assert scale.most == pytest.approx(0.99, abs=1e-3)
    levels = map_levels(0.5 * clean, scale)
    # Half as strong: halfway from the middle to the ends.
    assert (levels.min(), levels.max()) == (63, 192)
    assert levels[50, 0] == pytest.approx(127.5, abs=1)
    plain = scale_of(np.abs(clean), [])
    assert not plain.signed
    assert map_levels(np.zeros((2, 2), np.float32), plain).max() == 0
    flat = scale_of(np.zeros((2, 2), np.float32), [np.zeros((2, 2), np.float32)])
    assert flat.most == 0
    assert map_levels(np.zeros((2, 2), np.float32), flat).max() == 0


def test_a_picture_of_a_map_has_the_colours_of_its_sign(tmp_path: Path) -> None:
    levels = np.array([[0, 128, 255]], np.uint8)
    (tmp_path / "map.png").write_bytes(map_picture(levels, signed=True))
    with Image.open(tmp_path / "map.png") as picture:
        against, none, towards = np.asarray(picture.convert("RGB"))[0].astype(int)
    assert against[2] > against[0] + 50
    assert none.min() > 240
    assert towards[0] > towards[2] + 50
    image = np.array([-0.5, 0.5, 1.5], np.float32).reshape(3, 1, 1)
    assert photo_levels(image).ravel().tolist() == [0, 128, 255]


def test_completeness_falls_with_steps_as_measured(
    shown: FinishedRun, records: pd.DataFrame
) -> None:
    steps = shown.steps
    assert steps["steps"].unique().tolist() == [4, 8, 16, 32, 64]
    assert steps["image_id"].nunique() == 6
    # At the run's own number of steps: the errors of the records.
    known = records[
        (records["method"] == METHODS[2])
        & (records["metric"] == "completeness_error")
        & (records["family"] == CLEAN)
    ].set_index("image_id")["value"]
    tried = steps[steps["steps"] == 4].set_index("image_id")["completeness_error"]
    assert tried.to_dict() == pytest.approx(known.to_dict(), rel=1e-3, abs=1e-4)


# --- the page as a page ---------------------------------------------------------------------------


def test_the_same_records_give_the_same_bytes(
    home: Path, tmp_path: Path, steadymap: Command
) -> None:
    assert steadymap("report", str(home), "--output", "again.html").code == 0
    assert (tmp_path / "again.html").read_bytes() == (home / "report.html").read_bytes()


def test_the_page_needs_nothing_but_itself(home: Path) -> None:
    text = (home / "report.html").read_text()
    page = parsed(text)
    for tag, attributes in page.tags:
        for name in ("src", "href", "xlink:href", "action", "data"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:image/png;base64,", "#")), (tag, value)
        assert not any(name.startswith("on") for name in attributes)
        if tag == "img":
            assert "alt" in attributes
        if tag == "svg":
            assert attributes["role"] == "img"
            assert attributes["aria-label"]
    assert "default-src 'none'" in text
    assert str(home.parent) not in text
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    inputs = [identifier for identifier in ids if str(identifier).startswith("run0-")]
    assert len(inputs) == len(set(inputs)) == 6


def test_mathematics_in_a_name_is_no_mathematics(shown: FinishedRun, records: pd.DataFrame) -> None:
    """A name like $\\frac$ must not be typeset: it would fail."""
    named = records.astype({"method": str})
    named["method"] = named["method"].replace({"gradient": r"$\frac$"})
    findings = Findings.of(named)
    changed = replace(shown, findings=findings, curves=severity_curves(named, findings.calibrated))
    assert r"$\frac$" in render([changed])


# --- other forms ----------------------------------------------------------------------------------


def test_markdown_has_the_table_and_two_figures(
    home: Path, tmp_path: Path, steadymap: Command
) -> None:
    options = ["--format", "md", "--output", "out/report.md", "--figures", "figures"]
    assert steadymap("report", str(home), *options).code == 0
    text = (tmp_path / "out" / "report.md").read_text()
    figures = re.findall(r"\]\(([^)]+)\)", text)
    assert len(figures) == 2
    assert all((tmp_path / "out" / name).is_file() for name in figures)
    _, board = board_of(parsed((home / "report.html").read_text()))
    for name, cells in board.items():
        line = next(line for line in text.splitlines() if line.startswith(f"| {_escaped(name)} |"))
        assert cells[0].split()[0] in line
    names = {path.stem for path in (tmp_path / "figures").iterdir()}
    assert names >= {"ssim-bias", "fault-ssim", "cost", "completeness-steps", "ranks-ssim"}
    assert all((tmp_path / "figures" / f"{name}.png").is_file() for name in names)


def _escaped(name: str) -> str:
    return name.replace("_", r"\_")


def test_two_runs_share_a_page(home: Path, tmp_path: Path, steadymap: Command) -> None:
    assert steadymap("report", str(home), str(home)).code == 0
    page = parsed((tmp_path / "report.html").read_text())
    assert [a["id"] for tag, a in page.tags if tag == "article"] == ["run0", "run1"]
    assert steadymap("report", str(home), str(home), "--format", "md").code == 2


def test_a_folder_without_a_run_has_no_report(steadymap: Command) -> None:
    done = steadymap("report", ".")
    assert done.code == 2
    assert "holds no finished run" in done.err


def test_the_configuration_on_the_page_repeats_the_run(home: Path) -> None:
    _, manifest = read_run(home)
    experiment = make_experiment([yaml.safe_load(configuration(manifest))])
    classifier = load_classifier("compact")
    images = open_images("hands", classifier.framing, experiment.split, experiment.limit)
    assert run_id(experiment, classifier, images) == manifest["run_id"]


def test_one_picture_is_shown_before_and_after(tmp_path: Path, steadymap: Command) -> None:
    options = ["--steps", "2", "--severity", "0.2"]
    assert steadymap("show", "hands:162", *options).code == 0
    with Image.open(tmp_path / "hands-162-bias-0.2.png") as picture:
        wide, high = picture.size
    # Seven columns, two rows.
    assert wide == pytest.approx(200 * (7 * 1.5 + 0.9), abs=2)
    assert high == pytest.approx(200 * (2 * 1.5 + 0.4), abs=2)
    (tmp_path / "no.png").write_text("no picture")
    for bad, words in (
        ("gone.png", "there is no file"),
        ("no.png", "cannot be decoded"),
        ("hands:x", "whole number"),
    ):
        done = steadymap("show", bad, *options)
        assert done.code == 2
        assert words in done.err
    assert steadymap("show", "hands:1", "--output", "a.jpg").code == 2


def test_a_notebook_shows_the_answer_and_the_leaderboard() -> None:
    plan = small_plan("gradient", severity=(0.2,), nulls=1)
    records = run(tiny(), from_tensor(random_images(4)), plan)
    html = records._repr_html_()
    assert "On 4 images gradient held best" in html
    assert "<table>" in html
    # What is cut out of it is an ordinary table.
    assert type(records[records["metric"] == "ssim"]) is pd.DataFrame


def test_a_figure_is_the_same_bytes_every_time() -> None:
    def drawn() -> Any:
        figure = new_figure()
        figure.subplots().plot([0, 1], [1, 0])
        return figure

    assert as_svg(drawn()) == as_svg(drawn())
    assert as_png(drawn()) == as_png(drawn())
    assert "Date" not in as_svg(drawn())


@pytest.mark.parametrize(
    ("name", "harm"),
    [
        ("witnesses.csv", "gone"),
        ("predictions.csv", "cut"),
        ("scales.csv", "gone"),
        ("pictures.safetensors", "cut"),
        ("pictures.safetensors", "gone"),
        ("steps.csv", "empty"),
    ],
)
def test_damaged_witnesses_are_named(
    home: Path, tmp_path: Path, steadymap: Command, name: str, harm: str
) -> None:
    shutil.copytree(home, tmp_path / "run")
    path = tmp_path / "run" / "witnesses" / name
    if harm == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[: 0 if harm == "empty" else path.stat().st_size // 2])
    done = steadymap("report", str(tmp_path / "run"))
    assert done.code == 2
    assert "is damaged" in done.err


def test_a_page_is_the_same_in_every_process(home: Path, tmp_path: Path) -> None:
    """The order of sets of names changes with the process."""
    pages = []
    for seed in ("1", "2"):
        path = tmp_path / f"{seed}.html"
        done = console("report", str(home), "--output", str(path), PYTHONHASHSEED=seed)
        assert done.returncode == 0, done.stderr
        pages.append(path.read_bytes())
    assert pages[0] == pages[1]


def test_what_is_uncertain_of_many_is_said_once(shown: FinishedRun) -> None:
    findings = shown.findings
    seeds = findings.calibrated["low"] - 1
    text = answer(replace(findings, calibrated=findings.calibrated.assign(other_seed=seeds)))[2]
    assert text.count("another seed moves") == 1
    assert " most, calibrated SSIM between seeds: " in text
    assert _listed(["a"]) == "a"
    assert _listed(list("abcd")) == "a, b, c and d"
    assert _listed(list("abcde")) == "5 methods"


def test_an_answer_claims_no_more_than_is_known(records: pd.DataFrame) -> None:
    """Ties by any metric that it names, methods without a number, and one image."""
    wide = pd.concat(
        [records.assign(image_id=records["image_id"].astype(str) + f"-{copy}") for copy in range(6)]
    )
    findings = Findings.of(wide)
    ranks = findings.ranks.assign(low=1, high=1)
    settled = replace(findings, ranks=ranks)
    assert "are not settled" not in answer(settled)[2]
    tied = ranks.assign(high=ranks["high"].mask(ranks["metric"] == "spearman", 2))
    assert "by rank correlation are not settled" in answer(replace(findings, ranks=tied))[2]
    last = records["image_id"].iloc[-1]
    alone = Findings.of(records[records["image_id"] == last])
    said = " ".join(answer(alone))
    assert "nan" not in said
    assert "without a number by SSIM" in said or "held best" in said


def test_an_answer_about_another_metric_says_nothing_of_steadiness(
    shown: FinishedRun, records: pd.DataFrame
) -> None:
    findings = Findings.of(records[records["metric"] == "completeness_error"])
    held, _, uncertain = answer(findings)
    assert "held" not in held
    assert "has the best completeness error" in held
    assert "unrelated maps" not in uncertain
    grid = board_grid(replace(shown, findings=findings))
    assert grid.columns.count("completeness error") == 1


# --- in a browser ---------------------------------------------------------------------------------


@pytest.fixture
def opened(browser: Any, home: Path) -> Any:
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    browser.get((home / "report.html").as_uri())
    return browser


def found(browser: Any, selector: str) -> list[Any]:
    return list(browser.find_elements("css selector", selector))


def test_a_browser_sorts_slides_and_lays_over(opened: Any) -> None:
    def names() -> list[str]:
        return [cell.text for cell in found(opened, "table.board tbody:not(.below) th:first-child")]

    before = names()
    button = found(opened, "table.board th button")[0]
    button.click()
    assert names() == sorted(before, reverse=True)
    button.click()
    assert names() == sorted(before)
    assert button.find_element("xpath", "..").get_attribute("aria-sort") == "ascending"
    below = [row.text for row in found(opened, "table.board tbody.below th:first-child")]
    assert all(text.startswith("control: ") for text in below)

    row = found(opened, ".family")[0]
    slider = row.find_element("css selector", "input")
    frames = json.loads(row.find_element("css selector", "script").get_property("textContent"))
    picture = row.find_element("css selector", ".picture")
    over = row.find_element("css selector", ".map .over")
    first = picture.get_property("src"), over.get_property("src")
    slider.send_keys("\ue012")  # the left arrow: the keyboard is enough
    assert slider.get_attribute("aria-valuetext") == frames[-2]["severity"]
    assert row.find_element("css selector", "output").text == frames[-2]["severity"]
    second = picture.get_property("src"), over.get_property("src")
    assert first[0] != second[0]
    assert first[1] != second[1]
    slider.send_keys("\ue010" * 1)  # End
    assert (picture.get_property("src"), over.get_property("src")) == first

    under = row.find_element("css selector", ".map .under")
    assert under.value_of_css_property("visibility") == "hidden"
    found(opened, ".switch input")[0].click()
    assert under.value_of_css_property("visibility") == "visible"
    assert under.get_property("src") == picture.get_property("src")
    assert not [entry for entry in opened.get_log("browser") if entry["level"] == "SEVERE"]


@pytest.mark.parametrize("width", [360, 1280])
def test_a_page_is_no_wider_than_its_window(opened: Any, width: int) -> None:
    opened.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 800},
    )
    assert opened.execute_script("return document.documentElement.scrollWidth") <= width
