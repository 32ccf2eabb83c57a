"""Folders of classes: content decides what a picture is, and what is left out is named."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from PIL import Image
from support import Command, noise, write_noise

from steadymap.bench.core.errors import DataError
from steadymap.bench.data import decode as decoding
from steadymap.bench.data import labelled
from steadymap.bench.data.opening import open_images
from steadymap.models import Framing

SMALL = Framing((8, 8))
Form = Literal["NFC", "NFD"]
FORMS: tuple[Form, ...] = ("NFC", "NFD")
NAMES = ("été", "äpfel", "猫")


def written(path: Path, kind: str, seed: int) -> None:
    """Write a picture of noise as a type, whatever the file is called."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise(seed)).save(path, kind)


def two_classes(root: Path) -> None:
    for seed in range(4):
        write_noise(root / "ab"[seed % 2] / f"{seed}.png", seed)


def left_out(root: Path) -> dict[str, str]:
    return dict(open_images(f"folder:{root}", SMALL, "all").excluded)


@pytest.mark.parametrize(
    "name", ["x.jfif", "x.jpe", "x", "x.JPG", "x.jpg.part", "x.txt", "x.bak", "x.dat"]
)
@pytest.mark.parametrize("kind", ["jpeg", "png", "webp", "gif", "tiff", "bmp", "ppm"])
def test_a_picture_is_one_whatever_it_is_called(name: str, kind: str, tmp_path: Path) -> None:
    two_classes(tmp_path)
    written(tmp_path / "a" / name, kind, 9)
    found = open_images(f"folder:{tmp_path}", SMALL, "all")
    assert f"a/{name}" in {picture.name for picture in found.pictures}
    assert not found.excluded


@pytest.mark.parametrize("kind", ["AVIF", "JPEG2000"])
def test_a_class_of_pictures_that_are_not_read_is_missed_aloud(kind: str, tmp_path: Path) -> None:
    two_classes(tmp_path)
    for seed in range(4):
        written(tmp_path / "c" / f"{seed}.pic", kind, seed)
    found = open_images(f"folder:{tmp_path}", SMALL, "all")
    assert found.class_names == ("a", "b", "c")
    assert {picture.label for picture in found.pictures} == {0, 1}
    first, *others = found.excluded
    assert first == ("c", "the whole class is left out: of its 4 pictures here none can be used")
    assert sorted(name for name, _ in others) == [f"c/{seed}.pic" for seed in range(4)]
    said = "JPEG 2000" if kind == "JPEG2000" else kind
    assert {reason for _, reason in others} == {
        f"its content is {said}, which is not read; save it as PNG or JPEG"
    }


OTHERS = {
    "AVIF": b"\0\0\0\x1cftypavif",
    "HEIF": b"\0\0\0\x18ftypheic",
    "JPEG XL": b"\xff\x0a\xfa\x1f",
    "Photoshop's": b"8BPS\0\x01",
    "raw data of a camera": b"II*\0\x10\0\0\0CR\x02\0",
}


@pytest.mark.parametrize("kind", OTHERS)
@pytest.mark.parametrize("name", ["x.png", "x"])
def test_other_kinds_of_pictures_are_named_by_their_kind(
    kind: str, name: str, tmp_path: Path
) -> None:
    two_classes(tmp_path)
    (tmp_path / "a" / name).write_bytes(OTHERS[kind] + bytes(60))
    assert left_out(tmp_path) == {
        f"a/{name}": f"its content is {kind}, which is not read; save it as PNG or JPEG"
    }


def test_a_small_copy_in_front_of_a_picture_is_not_taken_for_it(tmp_path: Path) -> None:
    """A camera's raw file is a TIFF whose first picture is a thumbnail."""
    for subfile, path in ((0, tmp_path / "whole.tif"), (1, tmp_path / "small.tif")):
        Image.fromarray(noise(1)).save(path, tiffinfo={decoding.NEW_SUBFILE_TYPE: subfile})
    np.testing.assert_array_equal(decoding.decode(tmp_path / "whole.tif"), noise(1))
    with pytest.raises(DataError, match="its first picture is a small copy of another"):
        decoding.decode(tmp_path / "small.tif")


def test_what_is_no_picture_is_counted_in_one_line_and_litter_is_not(tmp_path: Path) -> None:
    two_classes(tmp_path)
    for name in ("1.txt", "2.txt", "notes", "1.xml", "BMW.txt", "P5.md"):
        (tmp_path / "a" / name).write_text(f"{name.partition('.')[0]} was here, said P5 in II")
    for name in ("Thumbs.db", "desktop.ini", ".DS_Store", "._1.png", ".hidden.png"):
        (tmp_path / "b" / name).write_bytes(b"\x89PNG\r\n\x1a\n")
    for name in ("__MACOSX", ".cache"):
        write_noise(tmp_path / name / "x.png", 7)
    assert left_out(tmp_path) == {
        "a/1.txt, a/1.xml, a/2.txt and 3 more": "no pictures by name or content "
        "(.txt 3, .xml 1, .md 1, without a suffix 1)"
    }


def test_pictures_and_folders_that_are_of_no_class_are_named(tmp_path: Path) -> None:
    two_classes(tmp_path)
    write_noise(tmp_path / "stray.png", 7)
    write_noise(tmp_path / "a" / "inner" / "x.png", 8)
    write_noise(tmp_path / "copies" / "a" / "x.png", 9)
    (tmp_path / "bare").mkdir()
    (tmp_path / "readme.txt").write_text("read me")
    assert left_out(tmp_path) == {
        "stray.png": "beside the folders of the classes, so of no class",
        "a/inner": "a folder within that of a class is not looked into",
        "copies": "a folder without pictures in it is no class",
        "bare": "a folder without pictures in it is no class",
    }


def test_where_one_class_is_left_the_line_says_what_was_left_out(tmp_path: Path) -> None:
    write_noise(tmp_path / "a" / "x.png", 1)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "x.txt").write_text("text")
    with pytest.raises(DataError, match=r"one class \(a\); .*; left out: b: a folder without pic"):
        open_images(f"folder:{tmp_path}", SMALL)


# --- names ----------------------------------------------------------------------------------------


def spelled(root: Path, form: Form) -> None:
    for place, name in enumerate(NAMES):
        for number in range(20):
            picture = unicodedata.normalize(form, f"{name}/{name} {number}.png")
            write_noise(root / picture, 100 * place + number)


@pytest.mark.parametrize("split", ["train", "validation", "test", "all"])
def test_accents_may_be_spelled_in_two_ways(split: str, tmp_path: Path) -> None:
    """As macOS and as others do: the same names, labels, splits, order and hashes."""
    found = []
    for form in FORMS:
        spelled(tmp_path / form, form)
        found.append(open_images(f"folder:{tmp_path / form}", SMALL, split))
    assert found[0].pictures == found[1].pictures
    assert found[0].class_names == found[1].class_names
    assert found[0].data_hash() == found[1].data_hash()
    assert found[0].references(5).ids == found[1].references(5).ids
    assert found[1].read(0).image.shape == (3, 8, 8)


def test_two_files_that_differ_in_their_spelling_alone_are_both_there(tmp_path: Path) -> None:
    """Linux has both; the classes of their folders are one."""
    for seed, form in enumerate(FORMS):
        write_noise(tmp_path / unicodedata.normalize(form, "été") / "x.png", seed)
        write_noise(tmp_path / "b" / unicodedata.normalize(form, "é.png"), 10 + seed)
    found = open_images(f"folder:{tmp_path}", SMALL, "all")
    assert found.class_names == ("b", unicodedata.normalize("NFC", "été"))
    assert len(found) == 4
    assert sorted(picture.label or 0 for picture in found.pictures) == [0, 0, 1, 1]
    assert not found.excluded


def test_a_table_finds_files_and_classes_however_they_are_spelled(tmp_path: Path) -> None:
    rows = []
    for seed, (cell, disk) in enumerate((x, y) for x in FORMS for y in FORMS):
        name = f"é{seed}.png"
        write_noise(tmp_path / unicodedata.normalize(disk, name), seed)
        label = unicodedata.normalize(cell, "été") if seed else "b"
        rows.append(f"{unicodedata.normalize(cell, name)},{label}")
    (tmp_path / "t.csv").write_text("\n".join(("path,label", *rows)), encoding="utf-8")
    found = open_images(f"csv:{tmp_path / 't.csv'}", SMALL, "all")
    assert found.class_names == ("b", unicodedata.normalize("NFC", "été"))
    assert len(found) == 4
    assert not found.excluded


def test_a_table_names_the_class_that_has_no_row_left(tmp_path: Path) -> None:
    for seed in range(2):
        write_noise(tmp_path / f"{seed}.png", seed)
    rows = ("path,label", "0.png,a", "1.png,b", "2.png,c", "3.png,c", "4.png,a")
    (tmp_path / "t.csv").write_text("\n".join(rows))
    first, *others = open_images(f"csv:{tmp_path / 't.csv'}", SMALL, "all").excluded
    assert first == ("c", "the whole class is left out: none of its rows can be used")
    assert len(others) == 3


def test_classes_are_known_by_name_however_it_is_spelled() -> None:
    known = tuple(unicodedata.normalize("NFD", name) for name in (*NAMES, "crane", "crane"))
    composed = tuple(unicodedata.normalize("NFC", name) for name in NAMES)
    assert [labelled.places_by_name(known)[name] for name in composed] == [0, 1, 2]
    assert labelled.unknown_classes((*composed, "crane", "Cat"), known) == ["crane", "Cat"]


def test_a_run_names_the_classes_that_the_classifier_does_not_know(
    tmp_path: Path, steadymap: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("Rock", "paper", "lizard")):
        write_noise(tmp_path / "data" / name / "x.png", seed)
    done = steadymap(
        "run", "--data", "folder:data", "--split", "all", "--method", "gradient",
        "--family", "bias", "--severity", "0.1", "--nulls", "0", "--no-controls", "--no-report",
        "--output", "out",
    )  # fmt: skip
    assert done.code == 0
    assert "compact has no one class called Rock, lizard: pictures of these" in " ".join(
        done.err.split()
    )
