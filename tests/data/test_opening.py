"""Data specs, decoding policies, splits and ids."""

from __future__ import annotations

import os
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support import noise, random_images, write_noise
from torchvision.transforms import v2

from steadymap.bench.core.errors import DataError
from steadymap.bench.data import image_set, labelled
from steadymap.bench.data.decode import decode
from steadymap.bench.data.hands import HAND_CLASSES, SIDE, hand
from steadymap.bench.data.image_set import from_tensor
from steadymap.bench.data.opening import open_images
from steadymap.models import Framing

SMALL = Framing((8, 8))


def write_classes(root: Path, counts: dict[str, int], suffix: str = ".png") -> None:
    for label, (name, count) in enumerate(counts.items()):
        for index in range(count):
            write_noise(root / name / f"{name}{index:03d}{suffix}", 1000 * label + index)


def names(root: Path, split: str, limit: int | None = None) -> list[str]:
    found = open_images(f"folder:{root}", SMALL, split, limit)
    return [picture.name for picture in found.pictures]


# --- hands -------------------------------------------------------------------------------------


def test_a_hand_is_the_same_whenever_it_is_drawn() -> None:
    pixels, mask, label = hand(5)
    hand(6)
    again = hand(5)
    np.testing.assert_array_equal(pixels, again[0])
    np.testing.assert_array_equal(mask, again[1])
    assert label == again[2] == 2


def test_hands_stay_what_the_shipped_weights_and_baselines_know() -> None:
    found = open_images("hands", SMALL, "test", 3)
    assert [(picture.name, picture.image_id) for picture in found.pictures] == [
        ("hand-000162", "f36d920c39fae288"),
        ("hand-000835", "c178171810841651"),
        ("hand-000821", "457be697df13062f"),
    ]


def test_hands_look_like_hands() -> None:
    for index in range(30):
        pixels, mask, label = hand(index)
        assert pixels.shape == (SIDE, SIDE, 3)
        assert pixels.dtype == np.uint8
        assert mask.shape == (SIDE, SIDE)
        assert label == index % 3
        border = np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]])
        assert border.any(), "the wrist enters from a side"
        inside, outside = pixels[mask].mean(axis=0), pixels[~mask].mean(axis=0)
        assert outside[1] > 1.5 * max(outside[0], outside[2]), "the cloth is green"
        assert inside[0] > inside[2], "skin is red before it is blue"


def test_hands_have_masks_at_the_size_of_the_images() -> None:
    found = open_images("hands:60", Framing((50, 50)), "test")
    frame = found.read(0)
    assert frame.mask is not None
    assert frame.mask.shape == (50, 50)
    full = hand(int(found.pictures[0].name.removeprefix("hand-")))[1]
    assert abs(frame.mask.mean() - full.mean()) < 0.005
    assert found.class_names == HAND_CLASSES


def test_more_hands_move_no_hand_to_another_split() -> None:
    few = {p.name for p in open_images("hands:100", SMALL, "test").pictures}
    many = {p.name for p in open_images("hands:200", SMALL, "test").pictures}
    assert few == {name for name in many if name < "hand-000100"}


# --- folders -----------------------------------------------------------------------------------


def test_splits_follow_the_name_alone(tmp_path: Path) -> None:
    write_classes(tmp_path, {"cat": 60, "dog": 60})
    splits = {split: set(names(tmp_path, split)) for split in ("train", "validation", "test")}
    assert sum(len(part) for part in splits.values()) == 120
    assert set.union(*splits.values()) == set(names(tmp_path, "all"))
    for path in sorted((tmp_path / "cat").iterdir())[::2]:
        path.unlink()
    for split, before in splits.items():
        left = {name for name in before if (tmp_path / name).exists()}
        assert set(names(tmp_path, split)) == left


def test_splits_are_70_20_10() -> None:
    for split, share in (("train", 0.7), ("validation", 0.2), ("test", 0.1)):
        size = len(open_images("hands:400", SMALL, split))
        assert abs(size - 400 * share) < 3 * np.sqrt(400 * share * (1 - share))


def test_a_converted_copy_stays_in_its_split(tmp_path: Path) -> None:
    for kind in ("png", "bmp"):
        write_classes(tmp_path / kind, {"cat": 30, "dog": 30}, f".{kind}")
    for split in ("train", "validation", "test"):
        first, second = (names(tmp_path / kind, split) for kind in ("png", "bmp"))
        assert {Path(name).stem for name in first} == {Path(name).stem for name in second}


def test_a_limit_takes_turns_and_grows_by_adding(tmp_path: Path) -> None:
    write_classes(tmp_path, {"cat": 20, "dog": 20, "eel": 2})
    six, all_of_them = names(tmp_path, "all", 6), names(tmp_path, "all")
    assert [name.partition("/")[0] for name in six] == ["cat", "dog", "eel"] * 2
    assert all_of_them[:6] == six
    assert len(all_of_them) == 42


def test_kaggle_s_second_copy_is_no_class(tmp_path: Path) -> None:
    write_classes(tmp_path, {"paper": 4, "rock": 4, "scissors": 4})
    write_classes(tmp_path / "rps-cv-images", {"paper": 4, "rock": 4, "scissors": 4})
    (tmp_path / "README_rpc-cv-images.txt").write_text("read me")
    found = open_images(f"folder:{tmp_path}", SMALL, "all")
    assert found.class_names == ("paper", "rock", "scissors")
    assert len(found) == 12


def test_an_id_is_the_hash_of_the_pixels(tmp_path: Path) -> None:
    write_classes(tmp_path / "one", {"cat": 3, "dog": 3})
    write_classes(tmp_path / "two", {"cat": 3, "dog": 3}, ".bmp")
    one = open_images(f"folder:{tmp_path / 'one'}", SMALL, "all")
    two = open_images(f"folder:{tmp_path / 'two'}", Framing((5, 5)), "all")
    assert {p.image_id for p in one.pictures} == {p.image_id for p in two.pictures}
    assert one.data_hash() == two.data_hash()
    Image.fromarray(noise(77)).save(tmp_path / "two" / "cat" / "cat000.bmp")
    assert open_images(f"folder:{tmp_path / 'two'}", SMALL, "all").data_hash() != one.data_hash()


def test_a_broken_file_is_named_and_not_replaced(tmp_path: Path) -> None:
    write_classes(tmp_path, {"cat": 6, "dog": 6})
    chosen = names(tmp_path, "all", 6)
    whole = (tmp_path / chosen[2]).read_bytes()
    (tmp_path / chosen[2]).write_bytes(whole[: len(whole) // 2])
    (tmp_path / chosen[4]).write_text("not a picture")
    found = open_images(f"folder:{tmp_path}", SMALL, "all", 6)
    assert [p.name for p in found.pictures] == [chosen[0], chosen[1], chosen[3], chosen[5]]
    assert [name for name, _ in found.excluded] == [chosen[2], chosen[4]]
    assert all(reason for _, reason in found.excluded)
    assert not any(str(tmp_path) in reason for _, reason in found.excluded)


@pytest.mark.parametrize("split", ["train", "validation", "test", "all"])
def test_references_are_of_the_whole_set_and_no_more_are_decoded(
    split: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_classes(tmp_path, {"cat": 60, "dog": 60})
    every = names(tmp_path, "all")
    # A broken one is passed over; a copy does not count twice.
    (tmp_path / every[2]).write_text("not a picture")
    (tmp_path / every[4]).write_bytes((tmp_path / every[1]).read_bytes())
    found = open_images(f"folder:{tmp_path}", SMALL, split, 3)
    decoded: list[str] = []

    def counted(path: Path) -> np.ndarray:
        decoded.append(f"{path.parent.name}/{path.name}")
        return decode(path)

    monkeypatch.setattr(labelled, "decode", counted)
    references = found.references(5)
    taken = [every[place] for place in (0, 1, 3, 5, 6)]
    assert decoded == every[:7]
    pixels = [image_set.image_tensor(decode(tmp_path / name), SMALL) for name in taken]
    assert torch.equal(references.images, torch.stack(pixels))
    assert list(references.ids) == [image_set.pixel_hash(decode(tmp_path / name)) for name in taken]
    # Of a set that has no more, all.
    assert len(found.references(1000).ids) == 118


def test_a_duplicate_is_excluded_by_name(tmp_path: Path) -> None:
    write_classes(tmp_path, {"cat": 2, "dog": 2})
    (tmp_path / "dog" / "twin.png").write_bytes((tmp_path / "dog" / "dog000.png").read_bytes())
    found = open_images(f"folder:{tmp_path}", SMALL, "all")
    assert len(found) == 4
    ((name, reason),) = found.excluded
    assert {name, reason.removeprefix("duplicate of ")} == {"dog/twin.png", "dog/dog000.png"}


@pytest.mark.parametrize(
    "case",
    [
        ("handz", "test", None, r"unknown spec 'handz'; did you mean hands"),
        ("hands:many", "test", None, "takes a whole number from 1 to 1000000, got 'many'"),
        ("hands:0", "test", None, "takes a whole number from 1 to 1000000, got '0'"),
        ("hands:1", "test", None, "hands:1 has no picture in its test split"),
        ("hands", "tset", None, "unknown name 'tset'; did you mean test"),
        ("hands", "test", 0, "limit: must be at least 1, got 0"),
        ("folder:", "test", None, "folder: needs a name behind the colon"),
        ("folder:missing", "test", None, "no such folder: missing"),
        ("folder:empty", "test", None, "no images under empty"),
        ("folder:single", "test", None, r"single has one class \(cat\)"),
        ("folder:broken", "all", None, "no images in the all split of broken; the first that f"),
    ],
)
def test_data_that_cannot_be_used_says_why(
    case: tuple[str, str, int | None, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, split, limit, message = case
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    write_classes(Path("single"), {"cat": 2})
    for name in ("a", "b"):
        (Path("broken") / name).mkdir(parents=True)
        (Path("broken") / name / "x.png").write_text("nothing")
    with pytest.raises(DataError, match=message):
        open_images(spec, SMALL, split, limit)


def test_a_flat_folder_is_a_set_without_labels(tmp_path: Path) -> None:
    # None of these is in the test split.
    files = [f"p{index}.png" for index in (0, 2, 3, 4, 5)]
    for index, name in enumerate(files):
        write_noise(tmp_path / name, index)
    (tmp_path / "notes.txt").write_text("mine")
    found = open_images(f"folder:{tmp_path}", SMALL, "all")
    assert sorted(picture.name for picture in found.pictures) == files
    assert {picture.label for picture in found.pictures} == {None}
    assert found.class_names == ()
    assert not found.excluded
    with pytest.raises(DataError, match=r"test split of .*; --split all takes all 5 pictures"):
        open_images(f"folder:{tmp_path}", SMALL, "test")


def test_kaggle_data_goes_through_its_client(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_classes(tmp_path, {"cat": 2, "dog": 2})
    hub = types.ModuleType("kagglehub")
    monkeypatch.setitem(sys.modules, "kagglehub", hub)
    monkeypatch.setattr(hub, "dataset_download", lambda _handle: str(tmp_path), raising=False)
    assert len(open_images("kaggle:owner/name", SMALL, "all")) == 4

    def offline(_handle: str) -> str:
        raise ConnectionError("no route")

    monkeypatch.setattr(hub, "dataset_download", offline, raising=False)
    with pytest.raises(
        DataError, match=r"could not be downloaded.*no route.*use folder:PATH or archive:FILE"
    ):
        open_images("kaggle:owner/name", SMALL, "all")
    monkeypatch.setitem(sys.modules, "kagglehub", None)
    with pytest.raises(DataError, match=r"pip install 'steadymap\[kaggle\]'"):
        open_images("kaggle:owner/name", SMALL, "all")


# --- decoding ----------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".webp", ".tif", ".ppm", ".PNG"])
def test_lossless_types_decode_to_their_pixels(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x{suffix}"
    Image.fromarray(noise(1)).save(path, lossless=True)
    np.testing.assert_array_equal(decode(path), noise(1))


def test_a_name_that_is_no_utf_8_can_be_written_down(tmp_path: Path) -> None:
    write_classes(tmp_path, {"cat": 2, "dog": 2})
    Image.fromarray(noise(99)).save(os.fsencode(tmp_path / "cat") + b"/caf\xe9.png")
    assert "cat/caf\\xe9.png" in names(tmp_path, "all")


# --- framing -----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(40, 60), (61, 33), (50, 50)])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_short_side_and_crop_are_torchvision_s(
    tmp_path: Path, size: tuple[int, int], interpolation: str
) -> None:
    for index, folder in enumerate(("a", "b")):
        write_noise(tmp_path / folder / "x.png", index, *size)
    framing = Framing((24, 24), 28, "bicubic" if interpolation == "bicubic" else "bilinear")
    found = open_images(f"folder:{tmp_path}", framing, "all")
    preset = v2.Compose(
        [
            v2.Resize(28, interpolation=v2.InterpolationMode(interpolation)),
            v2.CenterCrop(24),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
        ]
    )
    for index, picture in enumerate(found.pictures):
        expected = preset(Image.open(tmp_path / picture.name))
        # The division by 255 may differ in the last bit; a pixel one level off would be 0.004.
        torch.testing.assert_close(found.read(index).image, expected, rtol=0, atol=1e-6)


def test_squashing_is_pillow_s_bilinear(tmp_path: Path) -> None:
    write_classes(tmp_path, {"cat": 1, "dog": 1})
    found = open_images(f"folder:{tmp_path}", Framing((8, 6)), "all")
    image = Image.open(tmp_path / found.pictures[0].name)
    expected = np.asarray(image.resize((6, 8), Image.Resampling.BILINEAR), dtype=np.float32) / 255
    np.testing.assert_array_equal(found.read(0).image.numpy(), expected.transpose(2, 0, 1))


# --- tensors -----------------------------------------------------------------------------------


def test_tensors_of_one_s_own() -> None:
    images = random_images(4)
    found = from_tensor(images, [0, 1, 1, 0], ("cat", "dog"))
    assert torch.equal(found.images(range(4)), images)
    assert [p.label for p in found.pictures] == [0, 1, 1, 0]
    images.zero_()
    assert float(found.images([0]).max()) > 0, "a set keeps a copy"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x.double(), "expected float32"),
        (lambda x: x[:, :1], r"expected float32 \(N, 3, H, W\), got torch.float32 \(4, 1"),
        (lambda x: x[0], "expected float32"),
        (lambda x: x[:0], "there are none"),
        (lambda x: x * 255, r"must lie in \[0, 1\].*normalisation belongs inside"),
        (lambda x: x * torch.nan, r"must lie in \[0, 1\]"),
        (lambda x: torch.cat([x, x[:1]]), "image-4 is a duplicate of image-0"),
    ],
)
def test_tensors_that_are_not_images(change: types.FunctionType, message: str) -> None:
    with pytest.raises(DataError, match=message):
        from_tensor(change(random_images(4)))


def test_labels_and_masks_must_belong_to_the_images() -> None:
    with pytest.raises(DataError, match="expected 4 indices below 2"):
        from_tensor(random_images(4), [0, 1, 2, 0], ("cat", "dog"))
    with pytest.raises(DataError, match="masks: expected"):
        from_tensor(random_images(4), masks=np.ones((4, 3, 3)))
