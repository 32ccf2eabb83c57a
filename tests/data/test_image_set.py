"""Data at the edges: one pixel, many classes, odd names, closed folders, other habits."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from support import CLASSES, linear_network, python, random_images, seeded, small_plan, write_noise
from torch import nn

from steadymap.bench import Plan, from_tensor, run
from steadymap.bench.data import labelled
from steadymap.bench.data import opening as images_module
from steadymap.bench.data.opening import open_images
from steadymap.bench.records.read import read_run
from steadymap.models import MODELS, Framing, make_classifier, write_weights

SMALL = Framing((8, 8))
MANY = 10_000
QUICK = small_plan("gradient", metric=("ssim", "spearman"))


# --- small inputs ---------------------------------------------------------------------------------


@pytest.mark.parametrize("side", [1, 2, 10])
def test_a_network_of_few_pixels_runs_through(side: int) -> None:
    """All methods and families that run unasked; what has no value says why."""

    def build() -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * side * side, len(CLASSES))
        )

    classifier = make_classifier(seeded(build), (side, side), CLASSES)
    images = from_tensor(random_images(3, side), [0, 1, 2], CLASSES)
    records = run(classifier, images, Plan(nulls=2, draws=1, steps=4))
    assert not (records["status"] == "error").any()
    ssim = records.query("metric == 'ssim' and detail.str.startswith('a map of')")
    assert set(ssim["status"]) == {"skipped"}
    assert set(ssim["detail"]) == {
        f"a map of {side} x {side} is smaller than the window of 11 x 11"
    }
    assert ssim["value"].isna().all()
    assert not records.query("metric == 'ssim'")["status"].eq("ok").any()
    ranks = records.query("metric == 'spearman' and method == 'gradient'")
    assert set(ranks["status"]) == ({"degenerate"} if side == 1 else {"ok"})


def test_at_the_size_of_its_window_ssim_has_a_value() -> None:
    classifier = make_classifier(seeded(lambda: linear_network(11)), (11, 11), CLASSES)
    records = run(classifier, random_images(2, 11), QUICK)
    assert set(records.query("metric == 'ssim'")["status"]) == {"ok"}


# --- many classes ---------------------------------------------------------------------------------


def test_ten_thousand_logits_run() -> None:
    names = tuple(f"class {number}" for number in range(MANY))
    network = seeded(lambda: nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, MANY)))
    classifier = make_classifier(network, (16, 16), names)
    images = from_tensor(random_images(3), [0, 1, MANY - 1], names)
    records = run(classifier, images, QUICK)
    assert set(records["status"]) == {"ok"}
    logits = network(random_images(3)).argmax(dim=1)
    first = records.drop_duplicates("image_id")
    assert sorted(first["label"]) == [0, 1, MANY - 1]
    # The network's own normalisation is the identity here: what it predicts is what runs.
    assert sorted(first["target"]) == sorted(logits.tolist())


@pytest.mark.parametrize("form", ["folder", "csv"])
def test_ten_thousand_classes_open(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In steps that grow with the number of classes, not with its square."""
    write_noise(tmp_path / "one.png", 1)
    rows = ["path,label"]
    for number in range(MANY):
        folder = tmp_path / "data" / f"{number:05}"
        folder.mkdir(parents=True)
        os.link(tmp_path / "one.png", folder / f"{number:05}.png")
        rows.append(f"data/{number:05}/{number:05}.png,{number:05}")
    (tmp_path / "t.csv").write_text("\n".join(rows))
    spec = f"folder:{tmp_path / 'data'}" if form == "folder" else f"csv:{tmp_path / 't.csv'}"
    sought = Counting.of(monkeypatch)
    found = open_images(spec, SMALL, "all", limit=5)
    assert len(found.class_names) == MANY
    pictures = [name for name, _ in found.excluded if name.endswith(".png")]
    assert len(found) + len(pictures) == 5
    for picture in found.pictures:
        assert picture.label == int(picture.name.split("/")[-1][:5])
    assert sought.indexed == 0, "tuple.index would look through all classes for each picture"


class Counting(tuple[str, ...]):
    """A tuple that says how often it was searched."""

    __slots__ = ()
    indexed = 0

    def index(self, *given: object) -> int:
        Counting.indexed += 1
        return super().index(*given)  # type: ignore[arg-type]

    @staticmethod
    def of(monkeypatch: pytest.MonkeyPatch) -> type[Counting]:
        Counting.indexed = 0
        for module in (images_module, labelled):
            monkeypatch.setattr(module, "tuple", Counting, raising=False)
        return Counting


# --- names ----------------------------------------------------------------------------------------

ODD = [
    "a b", "été", "猫", "two\nlines", "-dash", "quote'\"", "100%", "a,b", "<b>&", "🐈", "x" * 200,
]  # fmt: skip


def test_odd_names_come_through_a_whole_run(tmp_path: Path) -> None:
    """Data, weights and output lie in odd places; classes and pictures are called oddly."""
    place = tmp_path / "an odd\nplace, été 猫"
    for number, name in enumerate(ODD):
        for twin in range(2):
            write_noise(place / "my data" / name / f"{name[:100]} {twin}.png", 2 * number + twin)
    network = seeded(lambda: MODELS["compact"].build(len(ODD)))
    write_weights(place / "my weights.safetensors", network, tuple(ODD))
    done = command(
        "run", "--weights", "my weights.safetensors", "--data", "folder:my data", "--split", "all",
        "--method", "gradient", "--family", "bias", "--severity", "0.1", "--no-controls",
        "--nulls", "0", "--output", "my run 猫/été\nhere",
        cwd=place,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    records, manifest = read_run(place / "my run 猫" / "été\nhere")
    assert records["image_id"].nunique() == 2 * len(ODD)
    assert set(records["label"]) == set(range(len(ODD)))
    assert set(manifest["data"]["pictures"].values()) == {
        f"{name}/{name[:100]} {twin}.png" for name in ODD for twin in range(2)
    }


def command(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    # As a person's shell would, `locale` and all.
    code = """
        import locale, sys
        locale.setlocale(locale.LC_ALL, '')
        from steadymap.bench.start import main
        print(f'{1.5:n}', file=sys.stderr)
        main()
    """
    return python(code, *arguments, cwd=cwd, **environment)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse the name")
def test_a_class_whose_name_is_no_utf_8_can_be_written_down(tmp_path: Path) -> None:
    for seed, name in enumerate((b"cat", b"caf\xe9")):
        write_noise(Path(os.fsdecode(os.fsencode(tmp_path) + b"/d\xe9/" + name)) / "x.png", seed)
    found = open_images("folder:" + os.fsdecode(os.fsencode(tmp_path) + b"/d\xe9"), SMALL, "all")
    assert found.name == "folder:d\\xe9"
    assert found.class_names == ("caf\\xe9", "cat")
    labels = {picture.name: picture.label for picture in found.pictures}
    assert labels == {"caf\\xe9/x.png": 0, "cat/x.png": 1}
    assert len(found.data_hash()) == 64


# --- places ---------------------------------------------------------------------------------------


def state(root: Path) -> dict[str, tuple[int, int]]:
    found = {str(path): path.lstat() for path in (root, *root.rglob("*"))}
    return {name: (stat.st_mtime_ns, stat.st_size) for name, stat in found.items()}


def test_a_folder_that_may_not_be_written_is_data_all_the_same(tmp_path: Path) -> None:
    """Nothing is written beside the pictures: for root, whom no mode stops, the folder tells."""
    for number in range(4):
        write_noise(tmp_path / "data" / "ab"[number % 2] / f"{number}.png", number)
    folders = [tmp_path / "data", tmp_path / "data" / "a", tmp_path / "data" / "b"]
    for folder in folders:
        folder.chmod(0o555)
    before = state(tmp_path / "data")
    try:
        classifier = make_classifier(seeded(lambda: linear_network(8)), (8, 8), CLASSES)
        records = run(classifier, open_images(f"folder:{folders[0]}", SMALL, "all"), QUICK)
    finally:
        for folder in folders:
            folder.chmod(0o755)
    assert records["image_id"].nunique() == 4
    assert state(tmp_path / "data") == before


# --- habits of writing ----------------------------------------------------------------------------

RUN = (
    "run", "--limit", "3", "--method", "gradient", "--method", "integrated_gradients:steps=4",
    "--family", "bias", "--family", "gaussian_noise", "--severity", "0.05,0.1", "--nulls", "2",
    "--no-admission", "--no-report", "--output", "here",
)  # fmt: skip
OUTPUTS = ("records.parquet", "summary.csv", "calibrated.csv", "ranks.csv")


def tables(printed: str) -> list[str]:
    """Return what a run printed but for the last line, which says how long it took."""
    return printed.splitlines()[:-1]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Return a run of the C locale in UTC, and what it printed."""
    folder = tmp_path_factory.mktemp("plain")
    done = command(*RUN, cwd=folder, LC_ALL="C.UTF-8", TZ="UTC")
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("1.5\n")
    return folder / "here", done.stdout


def same(one: Path, other: Path) -> None:
    first, second = read_run(one)[0], read_run(other)[0]
    pd.testing.assert_frame_equal(first, second, check_exact=True)
    for name in OUTPUTS[1:]:
        assert (one / name).read_bytes() == (other / name).read_bytes()


def test_a_locale_with_a_decimal_comma_changes_nothing(
    plain: tuple[Path, str], tmp_path: Path
) -> None:
    maker = shutil.which("localedef")
    if maker is None:
        pytest.skip("localedef is missing: no locale with a decimal comma can be made")
    made = subprocess.run(  # noqa: S603 - found above
        [maker, "-i", "de_DE", "-f", "UTF-8", str(tmp_path / "de_DE.UTF-8")],
        capture_output=True, check=False,
    )  # fmt: skip
    if made.returncode:
        pytest.skip(f"localedef cannot make de_DE: {made.stderr.decode().strip()}")
    done = command(*RUN, cwd=tmp_path, LOCPATH=str(tmp_path), LC_ALL="de_DE.UTF-8")
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("1,5\n"), "the locale is in force"
    same(plain[0], tmp_path / "here")
    assert tables(done.stdout) == tables(plain[1])


def test_the_time_zone_changes_nothing(plain: tuple[Path, str], tmp_path: Path) -> None:
    done = command(*RUN, cwd=tmp_path, LC_ALL="C.UTF-8", TZ="Pacific/Kiritimati")
    assert done.returncode == 0, done.stderr
    same(plain[0], tmp_path / "here")
    assert tables(done.stdout) == tables(plain[1])
