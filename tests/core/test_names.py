"""Names from data never become paths outside, and two of them never one file."""

from __future__ import annotations

import math
import re
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from support import ROOT, image_set, tiny

from steadymap.bench import ConfigError, Plan
from steadymap.bench.analysis.findings import Findings
from steadymap.bench.core.files import make_folder, refuse_links, write_file
from steadymap.bench.core.names import (
    clipped,
    file_name,
    label,
    percent,
    picture_name,
    printable,
    safe_markdown,
)
from steadymap.bench.gallery.show import default_output
from steadymap.bench.gate.baseline_runs import baseline_folder
from steadymap.bench.methods.binding import bind_method
from steadymap.bench.methods.registry import DEFAULT_METHODS, METHODS
from steadymap.bench.perturbations.cell import Cell
from steadymap.bench.perturbations.registry import PERTURBATIONS
from steadymap.bench.plan.identity import run_id
from steadymap.bench.records.scan import Scan
from steadymap.bench.runs import folder as store
from steadymap.bench.runs.ledger import Ledger
from steadymap.metrics import METRICS

DEVICES = ("CON", "con", "NUL", "nul.txt", "Aux", "prn", "COM1", "lpt9.x", "com0", "CONIN$")
ODD = (
    "..", ".", "", "/", "\\", "../../etc/passwd", "/etc/passwd", "C:\\x", "c:x", "a/b", "a\\b",
    "a\x00b", "a\nb", "a\r", "~", "~/x", "-rf", "$HOME", "%TEMP%", "a.", "a ", " a", ".hidden",
    "\u2025", "\uff0f", "\u202etxt", "\U0001f600", "e\u0301", "\u00e9", "K", "\u212a", "\ud800",
    "x" * 300, "\U0001f600" * 100, "a:b", "a-b", "a,b", "a:b,c", "a:b=c,d=e", "A:b", 'a*?|<>"',
    *DEVICES,
)  # fmt: skip
NAMES = st.one_of(
    st.sampled_from(ODD),
    st.text(max_size=300),
    st.text(st.sampled_from("abAB01:,=._-/\\ "), max_size=8),
)


def component(text: str) -> bool:
    """Whether a name with an ending is one component of a path on every system."""
    name = f"{text}.csv"
    return (
        re.fullmatch("[A-Za-z0-9_=][A-Za-z0-9._=-]*", name) is not None
        and PurePosixPath(name).name == name == PureWindowsPath(name).name
        and not PureWindowsPath(name).is_reserved()
        and len(name.encode()) <= 200
    )


@given(st.lists(NAMES, min_size=1, max_size=2))
def test_a_name_is_one_component(names: list[str]) -> None:
    assert component(file_name(*names))


@given(st.lists(NAMES, min_size=1, max_size=1), st.lists(NAMES, min_size=1, max_size=1))
@example(["a:b"], ["a-b"])
@example(["a:b,c"], ["a,b:c"])
@example(["a"], ["A"])
@example(["x" * 200], ["x" * 201])
def test_two_names_are_two_files(one: list[str], two: list[str]) -> None:
    """Also where capitals and small letters are the same."""
    assume(one != two)
    assert file_name(*one).casefold() != file_name(*two).casefold()


@given(st.lists(NAMES, min_size=2, max_size=2), st.lists(NAMES, min_size=2, max_size=2))
@example(["a-b", "c"], ["a", "b-c"])
@example(["a:b", "c"], ["a", "b:c"])
@example(["", "a-b"], ["a", "b"])
def test_two_pairs_of_names_are_two_files(one: list[str], two: list[str]) -> None:
    assume(one != two)
    assert file_name(*one).casefold() != file_name(*two).casefold()


def test_what_a_hash_makes_is_no_plain_name() -> None:
    made = file_name("a/b")
    assert made == "a-b--15d9d1b25a2c75a0"
    assert file_name(made) != made


def test_names_of_ours_stay_readable() -> None:
    for name in (*METHODS, *METRICS, *PERTURBATIONS):
        assert file_name(name) == name
    spec = "integrated_gradients:baseline=black,steps=4"
    assert file_name(spec) == "integrated_gradients-baseline=black-steps=4"
    for spec in DEFAULT_METHODS:
        assert "--" not in file_name(bind_method(spec).spec)
    assert file_name("ssim", "bias") == "ssim-bias"


@given(NAMES, NAMES)
@example("hands:162", "bias")
@example("../x/..", "bias")
def test_a_picture_goes_where_it_was_asked_for(image: str, family: str) -> None:
    path = default_output(image, Cell(family, -0.25, 0))
    assert path.parent == Path()
    assert component(path.stem)
    assert path.suffix == ".png"


@given(NAMES, NAMES)
def test_two_pictures_are_two_names(one: str, two: str) -> None:
    assume(one != two)
    assert picture_name(one) != picture_name(two)


@given(NAMES, st.sampled_from(["folder:", "hf:", "torchvision:", ""]))
def test_a_run_is_one_component(name: str, kind: str) -> None:
    classifier = tiny()
    object.__setattr__(classifier, "name", kind + name)
    images = image_set(1)
    object.__setattr__(images, "name", kind + name)
    plan = Plan(method=("gradient",), family=("bias",), controls=False)
    made = run_id(plan, classifier, images)
    assert PurePosixPath(made).name == made == PureWindowsPath(made).name
    assert re.fullmatch(r"[\w-]*-[0-9a-f]{8}", made)
    assert len(made.encode("utf-8", "surrogatepass")) <= 255


@given(NAMES)
def test_a_baselines_folder_is_below_its_root(name: str) -> None:
    root = Path("results/baselines")
    try:
        folder = baseline_folder(name, root)
    except ConfigError:
        return
    assert folder.parent == root
    assert folder.name == name
    assert component(name)


def test_a_baseline_has_no_name_of_a_device() -> None:
    for name in (*DEVICES, "x" * 121, "a."):
        with pytest.raises(ConfigError, match="is no name"):
            baseline_folder(name)


@given(st.text())
def test_what_is_printed_is_one_line(text: str) -> None:
    for made in (printable(text), safe_markdown(text), label(text)):
        assert made == "" or len(made.splitlines()) == 1
        assert made.isprintable()
    assert len(label(text)) <= 60
    assert "<" not in safe_markdown(text)


# --- links ----------------------------------------------------------------------------------------


def findings() -> Findings:
    empty = pd.DataFrame()
    table = pd.DataFrame({"method": ["gradient"], "value": [1.0]})
    scan = Scan(empty, empty, empty, empty, lambda _names: empty)
    return Findings(scan, table, empty, empty, empty, empty, empty, empty, empty, empty, {}, {})


@pytest.mark.parametrize("planted", ["summary.csv", "deep/er/summary.csv", "witnesses"])
def test_a_link_out_of_the_folder_is_not_written_through(tmp_path: Path, planted: str) -> None:
    run, outside = tmp_path / "run", tmp_path / "outside"
    outside.mkdir()
    (outside / "kept.csv").write_text("kept")
    link = run / planted
    link.parent.mkdir(parents=True)
    for target in (outside / "kept.csv", outside, outside / "new.csv", "../" * 9 + "x"):
        link.symlink_to(target)
        for write in (findings().write, refuse_links):
            with pytest.raises(ConfigError, match="is a link that leads out of") as caught:
                write(run)
            assert str(link) in str(caught.value)
        link.unlink()
    assert [path.read_text() for path in outside.iterdir()] == ["kept"]
    findings().write(run)
    assert (run / "summary.csv").is_file()


def test_links_within_a_folder_and_to_it_are_fine(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "a").write_text("a")
    (run / "b").symlink_to("a")
    (run / "loop").symlink_to("loop")
    (tmp_path / "link").symlink_to(run)
    refuse_links(run)
    refuse_links(tmp_path / "link")


def ledger(name: str) -> Ledger:
    return Ledger(name, "m", "d", {}, {}, (), {}, 0, {}, (), {})


def test_a_run_does_not_start_in_a_folder_with_a_way_out(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "manifest.json").write_text('{"run_id": "mine"}')
    (run / "maps").symlink_to(tmp_path)
    with pytest.raises(ConfigError, match="maps is a link that leads out of"):
        store.claim_folder(run, ledger("mine"))


def test_a_folder_that_cannot_be_is_one_line(tmp_path: Path) -> None:
    for name in ("a\x00b", "x" * 300, "\ud800"):
        with pytest.raises(ConfigError, match="cannot make the folder") as caught:
            make_folder(tmp_path / name)
        assert str(caught.value).isprintable()
        with pytest.raises(ConfigError, match="cannot write"):
            write_file(tmp_path / name, "text")


@given(st.lists(st.text(max_size=20), max_size=6, unique=True))
def test_names_that_are_cut_stay_apart(names: list[str]) -> None:
    found = clipped(names, 8)
    assert all(len(one) <= 8 for one in found)
    for name, one in zip(names, found, strict=True):
        if len(name) <= 8 and found.count(name) == 1:
            assert one == name
    long = ["x" * 9 + str(place) for place in range(4)]
    assert len(set(clipped(long, 8))) == 4
    assert clipped(["gradient", "x" * 9], 8) == ["gradient", "xxxxxxx…"]


# --- shares ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (2 / 3, "66.7%"),
        (1 / 3, "33.3%"),
        (0.5, "50.0%"),
        (0.0, "0%"),
        (-0.0, "0%"),
        (1.0, "100%"),
        (0.9997, "99.9%"),
        (1 - 1e-12, "99.9%"),
        (0.0001, "0.1%"),
        (1e-12, "0.1%"),
        (0.9994, "99.9%"),
        (0.0014, "0.1%"),
        # Of a difference: the network's share of what moves may lie beyond both.
        (-0.0001, "-0.1%"),
        (-0.123, "-12.3%"),
        (1.0001, "100.1%"),
        (math.nan, "nan%"),
    ],
)
def test_a_share_is_rounded_and_all_and_nothing_are_exact(share: float, text: str) -> None:
    assert percent(share) == text


def test_a_share_is_never_off_by_more_than_a_tenth_of_a_percent() -> None:
    for share in np.random.default_rng(0).random(2000):
        written = float(percent(share).removesuffix("%"))
        assert abs(written - 100 * share) <= 0.05 + 1e-9 or written in {0.1, 99.9}


def test_no_other_place_writes_a_share() -> None:
    """Rounding by hand makes all of what is almost all."""
    for folder in ("bench", "metrics", "models"):
        for path in (ROOT / folder).rglob("*.py"):
            for line in path.read_text(encoding="utf-8").splitlines():
                own = path.name == "names.py" and "abs(share)" in line
                assert own or not re.search(r":[.,\d]*%\}", line), f"{path}: {line}"
