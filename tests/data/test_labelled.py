"""Data of torchvision, of the hub, of a table and of foolbox."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import pickle
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support import noise, write_noise
from torchvision import datasets as torchvision_datasets

from steadymap.bench.core.errors import DataError
from steadymap.bench.data import labelled
from steadymap.bench.data.forms import DATA_FORMS, SPLITS
from steadymap.bench.data.image_set import ImageSet
from steadymap.bench.data.labelled import intervals
from steadymap.bench.data.opening import open_images
from steadymap.bench.data.torchvision_sets import TORCHVISION_SETS
from steadymap.models import Framing

SMALL = Framing((32, 32))
HAS_DATASETS = importlib.util.find_spec("datasets") is not None
PARTS = [
    ("train",),
    ("test",),
    ("train", "test"),
    ("train", "validation"),
    ("validation", "test"),
    ("train", "validation", "test"),
]


def names(found: ImageSet) -> set[str]:
    return {picture.name for picture in found.pictures}


@pytest.mark.parametrize("parts", PARTS)
def test_parts_fill_the_line_once(parts: tuple[str, ...]) -> None:
    shares = sorted(intervals(parts).values())
    assert set(intervals(parts)) == set(parts)
    assert [low for low, _ in shares] == [0.0, *(high for _, high in shares[:-1])]
    assert shares[-1][1] == 1.0
    if len(parts) > 1 and "test" in parts:
        assert intervals(parts)["test"] == SPLITS["test"]


def test_every_form_of_data_is_listed() -> None:
    assert [form.partition("[")[0].partition(":")[0] for form in DATA_FORMS] == [
        "hands", "folder", "archive", "csv", "kaggle", "torchvision", "hf", "foolbox",
    ]  # fmt: skip


# --- torchvision ----------------------------------------------------------------------------------


def write_cifar(root: Path) -> np.ndarray:
    """Write a CIFAR-10 of 60 and 20 pictures in its own format; return their pixels."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (80, 3, 32, 32), dtype=np.uint8)
    files = {f"data_batch_{number}": slice(12 * number - 12, 12 * number) for number in range(1, 6)}
    for name, part in (files | {"test_batch": slice(60, 80)}).items():
        numbers = range(80)[part]
        content = {"data": pixels[part].reshape(-1, 3072), "labels": [n % 10 for n in numbers]}
        (folder / name).write_bytes(pickle.dumps(content))
    classes = {"label_names": [f"class {number}" for number in range(10)]}
    (folder / "batches.meta").write_bytes(pickle.dumps(classes))
    return pixels


@pytest.fixture
def cifar(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> np.ndarray:
    # The checksums of the real one.
    monkeypatch.setattr(torchvision_datasets.cifar, "check_integrity", lambda *_: True)
    return write_cifar(tmp_path)


def test_cifar_s_own_test_set_is_the_test_split(cifar: np.ndarray, tmp_path: Path) -> None:
    spec = f"torchvision:CIFAR10:{tmp_path}"
    splits = {split: open_images(spec, SMALL, split) for split in SPLITS}
    assert len(splits["test"]) == 20
    assert len(splits["train"]) + len(splits["validation"]) == 60
    assert names(splits["train"]).isdisjoint(names(splits["validation"]))
    assert len(splits["train"]) > 1.5 * len(splits["validation"]) > 0
    assert names(splits["all"]) == set.union(*(names(splits[s]) for s in SPLITS if s != "all"))
    test = splits["test"]
    assert test.name == "torchvision:CIFAR10", "not where it lies on this machine"
    assert test.class_names[3] == "class 3"
    for place, picture in enumerate(test.pictures):
        number = 60 + int(picture.name.removeprefix("test-"))
        assert picture.label == number % 10
        np.testing.assert_array_equal(test.read(place).image.numpy() * 255, cifar[number])


def test_torchvision_s_data_lie_in_torch_s_cache(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "datasets").mkdir()
    monkeypatch.setattr(torchvision_datasets.cifar, "check_integrity", lambda *_: True)
    write_cifar(tmp_path / "datasets")
    assert len(open_images("torchvision:CIFAR10", SMALL, "test", 7)) == 7


def test_torchvision_s_data_offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # Nothing listens there: whatever the network, nothing can be downloaded.
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with pytest.raises(DataError) as caught:
        open_images(f"torchvision:CIFAR10:{tmp_path}", SMALL)
    text = str(caught.value)
    assert text.startswith(f"data: torchvision:CIFAR10 is not in {tmp_path} and cannot be downl")
    assert text.endswith("put it there, or give torchvision:CIFAR10:ROOT")
    assert "\n" not in text
    with pytest.raises(DataError, match=r"unknown data set .CIFAR11.; did you mean CIFAR10"):
        open_images("torchvision:CIFAR11", SMALL)


def test_torchvision_knows_every_set_by_that_name() -> None:
    for name, parts in TORCHVISION_SETS.items():
        assert callable(getattr(torchvision_datasets, name))
        assert tuple(parts) in PARTS


# --- a table --------------------------------------------------------------------------------------


def write_table(folder: Path, *rows: str, header: str = "path,label") -> str:
    for number in range(4):
        write_noise(folder / "p" / f"{number}.png", number, 8, 8)
    (folder / "t.csv").write_text("\n".join((header, *rows)) + "\n", encoding="utf-8")
    return f"csv:{folder / 't.csv'}"


def test_a_table_names_every_row_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "broken.png").write_text("no picture")
    spec = write_table(
        tmp_path,
        "p/0.png,cat",
        "p/missing.png,cat",
        "p/1.png,",
        ",dog",
        "p/1.png",
        "p/1.png,dog,more",
        "p/0.png,cat",
        "p/0.png,dog",
        "p/2.png,dog",
        "p/broken.png,dog",
        "../" + "x" * 300 + ".png,dog",
    )
    found = open_images(spec, SMALL, "all")
    assert found.name == "csv:t.csv"
    assert {(picture.name, picture.label) for picture in found.pictures} == {
        ("p/0.png", 0),
        ("p/2.png", 1),
    }
    reasons = dict(found.excluded)
    assert {name: reason.split(": ")[0] for name, reason in reasons.items()} | {
        "t.csv line 12": ""
    } == {
        "t.csv line 3": "there is no file 'p/missing.png'",
        "t.csv line 4": "the label is empty",
        "t.csv line 5": "the path is empty",
        "t.csv line 6": "it has not as many cells as the header",
        "t.csv line 7": "it has not as many cells as the header",
        "t.csv line 8": "'p/0.png' stands in line 2",
        "t.csv line 9": "'p/0.png' stands in line 2 with another label",
        "t.csv line 12": "",
        "p/broken.png": "cannot identify image file 'p/broken.png'",
    }
    assert reasons["t.csv line 12"].startswith("there is no file '../xxx")


def test_cells_are_text_and_nothing_else(tmp_path: Path) -> None:
    odd = ["=1+1", "<b>bold</b>", "[red]x[/red]", "@SUM(A1)"]
    rows = [f'p/{number}.png,"{label}",ignored' for number, label in enumerate(odd)]
    spec = write_table(tmp_path, *rows, header="\ufeffpath,label,note")
    found = open_images(spec, SMALL, "all")
    assert found.class_names == tuple(sorted(odd))
    assert {found.class_names[picture.label or 0] for picture in found.pictures} == set(odd)


def test_a_table_may_say_which_pictures_belong_together(tmp_path: Path) -> None:
    rows = ("p/0.png,cat,anna", "p/1.png,dog,anna", "p/2.png,dog,ren\u00e9", "p/9.png,dog,")
    spec = write_table(tmp_path, *rows, header="path,label,group")
    found = open_images(spec, SMALL, "all")
    named = {picture.name: picture.group for picture in found.pictures}
    assert named == {"p/0.png": "anna", "p/1.png": "anna", "p/2.png": "ren\u00e9"}
    assert found.groups() == {picture.image_id: picture.group for picture in found.pictures}
    # A row that cannot be used needs no group.
    assert dict(found.excluded)["t.csv line 5"] == "there is no file 'p/9.png'"
    # What belongs together does not change what is measured.
    plain = write_table(tmp_path, *(row.rpartition(",")[0] for row in rows))
    assert open_images(plain, SMALL, "all").data_hash() == found.data_hash()
    assert open_images(plain, SMALL, "all").groups() == {}


def test_groups_of_one_picture_each_are_none(tmp_path: Path) -> None:
    rows = ("p/0.png,cat,a", "p/1.png,dog,b", "p/2.png,dog,a")
    spec = write_table(tmp_path, *rows, header="path,label,group")
    assert set(open_images(spec, SMALL, "all").groups().values()) == {"a", "b"}
    # Of each class one: no two of these are of one group.
    few = open_images(write_table(tmp_path, *rows[:2], header="path,label,group"), SMALL, "all")
    assert [picture.group for picture in few.pictures] != [None, None]
    assert few.groups() == {}


@pytest.mark.parametrize(
    ("header", "rows", "message"),
    [
        (
            "path,label,group",
            ("p/0.png,a,x", "p/1.png,b, "),
            "t.csv line 3: the group is empty; name one in every row .* or take the column 'group'",
        ),
        ("path,label,group,group", ("p/0.png,a,x,x",), "no more than one column 'group'; it has"),
        ("path,class", ("p/0.png,a",), "t.csv must have one column 'label'; it has path, class"),
        ("path,label,label", ("p/0.png,a,b",), "must have one column 'label'"),
        ("path,label", (), "has 0 usable rows of 0 classes; a classifier needs two or more$"),
        ("path,label", ("p/9.png,a",), "the first of the others: t.csv line 2: there is no file"),
        ("path,label", ("p/0.png,a", "p/1.png,a"), "has 2 usable rows of 1 classes"),
        ("path,label", ('"p/0.png,a',), "cannot read .*t.csv: Error: unexpected end of data"),
    ],
)
def test_a_table_that_is_none(
    header: str, rows: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=message):
        open_images(write_table(tmp_path, *rows, header=header), SMALL, "all")


def test_a_table_that_is_not_there_or_no_text(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot read .*none\.csv: FileNotFoundError"):
        open_images(f"csv:{tmp_path / 'none.csv'}", SMALL)
    (tmp_path / "x.csv").write_bytes(b"path,label\n\xff,a\n")
    with pytest.raises(DataError, match=r"cannot read .*x\.csv: UnicodeDecodeError"):
        open_images(f"csv:{tmp_path / 'x.csv'}", SMALL)
    with pytest.raises(DataError, match=r"csv: needs a name behind the colon, e\.g\. csv:PATH"):
        open_images("csv:", SMALL)


# --- the hub --------------------------------------------------------------------------------------


def test_the_hub_s_data_without_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r"needs datasets: pip install 'steadymap\[hf\]'$"):
        open_images("hf:a/b", SMALL)


@pytest.mark.skipif(not HAS_DATASETS, reason="datasets is not installed (extra hf)")
@pytest.mark.filterwarnings("ignore")
def test_a_saved_data_set_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets  # noqa: PLC0415 - an extra

    features = datasets.Features(
        {
            "picture": datasets.Image(),
            "kind": datasets.ClassLabel(names=["cat", "dog"]),
            "label": datasets.Value("string"),
        }
    )

    def table(start: int, count: int) -> object:
        numbers = range(start, start + count)
        return datasets.Dataset.from_dict(
            {
                "picture": [Image.fromarray(noise(number, 8, 8)) for number in numbers],
                "kind": [None if n == start else n % 2 for n in numbers],
                "label": ["x"] * count,
            },
            features=features,
        )

    parts = {"train": table(0, 20), "val": table(20, 6), "extra": table(30, 3)}
    datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "own-set"))
    spec = f"hf:{tmp_path / 'own-set'}"
    # Without a test part of its own the validation part is what is tested.
    test = open_images(spec, SMALL, "test")
    assert test.name == "hf:own-set"
    assert test.class_names == ("cat", "dog")
    assert names(test) == {f"validation-{index:06d}" for index in range(1, 6)}
    assert dict(test.excluded)["validation-000000"] == "it has no label"
    for picture in test.pictures:
        assert picture.label == (20 + int(picture.name[-6:])) % 2
    assert len(open_images(spec, SMALL, "all")) == 24

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path))
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(datasets, "load_dataset", lambda _name: pytest.fail("it would wait"))
    with pytest.raises(DataError, match=r"hf:a/b is not on this machine and .*9 is out of reach"):
        open_images("hf:a/b", SMALL)


def test_columns_are_found_by_type_then_by_name() -> None:
    image, label, text = (type(kind, (), {})() for kind in ("Image", "ClassLabel", "Value"))
    columns = {"x": image, "fine": label, "label": label, "t": text}
    assert labelled.column("s", columns, "Image", ("image",)) == "x"
    assert labelled.column("s", columns, "ClassLabel", ("label",)) == "label"
    assert labelled.column("s", {"a": label, "label": text}, "ClassLabel", ("label",)) == "a"
    assert labelled.column("s", {"label": text}, "ClassLabel", ("label",)) == "label"
    for given in ({"t": text}, {"a": label, "b": label}):
        with pytest.raises(DataError, match="s has not one column of the type ClassLabel, but"):
            labelled.column("s", given, "ClassLabel", ("label",))


# --- foolbox --------------------------------------------------------------------------------------


def test_foolbox_s_photographs_without_foolbox(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "files", missing)
    with pytest.raises(DataError, match=r"foolbox is missing: pip install 'steadymap\[photos\]'$"):
        open_images("foolbox", SMALL)
    monkeypatch.setattr(importlib.metadata, "files", lambda _: [])
    monkeypatch.setattr(importlib.metadata, "version", lambda _: "9.9")
    with pytest.raises(DataError, match=r"foolbox 9\.9 carries no photographs of ImageNet"):
        open_images("foolbox", SMALL)


def test_foolbox_s_labels_stand_in_the_files_names(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    files: list[types.SimpleNamespace] = []
    for name in ("imagenet_00_1.jpg", "imagenet_01_0.jpg", "imagenet_02_1.jpg", "mnist_00_7.png"):
        write_noise(tmp_path / name, len(files), 8, 8)
        files.append(types.SimpleNamespace(name=name, locate=lambda name=name: tmp_path / name))
    monkeypatch.setattr(importlib.metadata, "files", lambda _: files)
    found = open_images("foolbox", SMALL, "all")
    assert found.class_names == ("tench", "goldfish")
    assert {picture.name: picture.label for picture in found.pictures} == {
        "imagenet_00_1.jpg": 1,
        "imagenet_01_0.jpg": 0,
        "imagenet_02_1.jpg": 1,
    }
    assert "foolbox" not in sys.modules, "it is never imported"
