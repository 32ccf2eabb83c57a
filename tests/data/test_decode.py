"""What pictures can be, one case after the other: their pixels, or one line that says why not."""

from __future__ import annotations

import io
import os
import re
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile
from support import noise, python

from steadymap.bench.core.errors import DataError
from steadymap.bench.data import decode as decoding
from steadymap.bench.data.class_folders import BEGINNING, LONGEST_BEGINNING, SUFFIXES
from steadymap.bench.data.decode import MAX_PIXELS, decode
from steadymap.bench.data.image_set import Frame, ImageSet
from steadymap.bench.data.opening import open_image, open_images
from steadymap.models import Framing

SMALL = Framing((8, 8))
NOISE = noise(5, 9, 7)


def chunk(kind: bytes, content: bytes) -> bytes:
    length, checksum = len(content), zlib.crc32(kind + content)
    return struct.pack(">I", length) + kind + content + struct.pack(">I", checksum)


def png(
    size: tuple[int, int], depth_and_colour: tuple[int, int], rows: bytes, *more: bytes
) -> bytes:
    """Write a PNG as the standard has it, so that no writer's habits are tested."""
    header = struct.pack(">IIBBBBB", *size, *depth_and_colour, 0, 0, 0)
    data = chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + b"".join(more) + data


def saved(pixels: Image.Image | np.ndarray, kind: str, **options: object) -> bytes:
    image = Image.fromarray(pixels) if isinstance(pixels, np.ndarray) else pixels
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def write_good(root: Path) -> None:
    for name, pixels in (("cat", NOISE), ("dog", 255 - NOISE)):
        (root / name).mkdir(exist_ok=True)
        (root / name / "good.png").write_bytes(saved(pixels, "png"))


def classes(root: Path, files: dict[str, bytes], framing: Framing = SMALL) -> ImageSet:
    """Open a folder of two good pictures and others, which lie in the class `odd`."""
    write_good(root)
    (root / "odd").mkdir()
    for name, content in files.items():
        (root / "odd" / name).write_bytes(content)
    return open_images(f"folder:{root}", framing, "all")


# --- pixels ---------------------------------------------------------------------------------------

RED, GREEN, BLUE, WHITE, BLACK = (
    [255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255], [0, 0, 0],
)  # fmt: skip
# Two by three, all corners different: no turn looks like another.
CORNERS = np.array([[RED, GREEN, BLUE], [WHITE, BLACK, [9, 8, 7]]], dtype=np.uint8)


def mode(name: str, *values: object) -> Image.Image:
    """Return a row of pixels."""
    image = Image.new(name, (len(values), 1))
    for place, value in enumerate(values):
        image.putpixel((place, 0), value)  # type: ignore[arg-type]
    return image


def palette(transparency: int | bytes | None) -> bytes:
    image = mode("P", 0, 1)
    image.putpalette([255, 0, 0, 0, 0, 255])
    given = {} if transparency is None else {"transparency": transparency}
    return saved(image, "png", **given)


def frames(kind: str, **options: object) -> bytes:
    first, *rest = (Image.new("RGB", (2, 1), colour) for colour in ("red", "blue", "lime"))
    return saved(first, kind, save_all=True, append_images=rest, **options)


CASES: dict[str, tuple[bytes, list[list[int]]]] = {
    "RGB": (saved(CORNERS[:1], "png"), [RED, GREEN, BLUE]),
    "RGB, alpha": (
        saved(mode("RGBA", (255, 0, 0, 255), (255, 0, 0, 0), (0, 0, 0, 51)), "png"),
        [RED, WHITE, [204, 204, 204]],
    ),
    "RGB, one colour transparent": (
        png((2, 1), (8, 2), b"\0\xff\0\0\0\0\xff", chunk(b"tRNS", b"\0\xff\0\0\0\0")),
        [WHITE, BLUE],
    ),
    "RGB, 16 bits: the upper 8": (
        png((2, 1), (16, 2), b"\0" + struct.pack(">6H", 65535, 0, 255, 256, 0x80FF, 0)),
        [[255, 0, 0], [1, 128, 0]],
    ),
    "grey": (saved(mode("L", 0, 7, 255), "png"), [BLACK, [7, 7, 7], WHITE]),
    "grey, alpha": (saved(mode("LA", (0, 255), (0, 0)), "png"), [BLACK, WHITE]),
    "grey, 16 bits: rounded": (
        png((6, 1), (16, 0), b"\0" + struct.pack(">6H", 0, 128, 129, 257, 32768, 65535)),
        [BLACK, BLACK, [1, 1, 1], [1, 1, 1], [128, 128, 128], WHITE],
    ),
    "grey, 16 bits, one transparent": (
        png((2, 1), (16, 0), b"\0" + struct.pack(">2H", 1000, 1001), chunk(b"tRNS", b"\x03\xe8")),
        [WHITE, [4, 4, 4]],
    ),
    "grey, 16 bits, TIFF": (
        saved(np.array([[0, 257, 65535]], dtype=np.uint16), "tiff"),
        [BLACK, [1, 1, 1], WHITE],
    ),
    "grey, 2 bits": (
        png((4, 1), (2, 0), b"\0\x1b"), [BLACK, [85] * 3, [170] * 3, WHITE],
    ),
    "black and white": (saved(mode("1", 0, 255), "png"), [BLACK, WHITE]),
    "palette": (palette(None), [RED, BLUE]),
    "palette, one transparent": (palette(0), [WHITE, BLUE]),
    "palette, alpha": (palette(b"\xff\x33"), [RED, [204, 204, 255]]),
    "CMYK": (
        saved(mode("CMYK", (255, 0, 0, 0), (0, 0, 0, 255), (0, 255, 255, 99)), "tiff"),
        [[0, 255, 255], BLACK, [156, 0, 0]],
    ),
    "GIF, three frames": (frames("gif"), [RED, RED]),
    "PNG, three frames": (frames("png"), [RED, RED]),
    "WebP, three frames": (frames("webp", lossless=True), [RED, RED]),
    "TIFF, three pages": (frames("tiff"), [RED, RED]),
    "PGM, 16 bits": (b"P5 2 1 65535\n\0\0\xff\xff", [BLACK, WHITE]),
    "PPM, up to 3": (b"P3 2 1 3\n3 0 0 1 2 3\n", [RED, [85, 170, 255]]),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_each_kind_of_picture_becomes_these_pixels(name: str, tmp_path: Path) -> None:
    content, expected = CASES[name]
    # The content decides what it is.
    (tmp_path / "x.jpg").write_bytes(content)
    pixels = decode(tmp_path / "x.jpg")
    assert pixels.dtype == np.uint8
    assert pixels.tolist() == [expected]


# What a viewer does with the stored picture, by the number that EXIF gives it.
TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda stored: stored,
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.transpose(1, 0, 2),
    6: lambda stored: stored.transpose(1, 0, 2)[:, ::-1],
    7: lambda stored: stored.transpose(1, 0, 2)[::-1, ::-1],
    8: lambda stored: stored.transpose(1, 0, 2)[::-1],
    9: lambda stored: stored,
}


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("kind", ["png", "webp", "tiff"])
def test_a_camera_s_orientation_is_applied(kind: str, orientation: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "webp" else {}
    (tmp_path / "x.png").write_bytes(saved(CORNERS, kind, exif=exif, **options))
    np.testing.assert_array_equal(decode(tmp_path / "x.png"), TURNS[orientation](CORNERS))


def test_a_jpeg_called_png_is_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(saved(NOISE, "jpeg", quality=90))
    (tmp_path / "x.jpg").write_bytes(saved(NOISE, "jpeg", quality=90))
    np.testing.assert_array_equal(decode(tmp_path / "x.png"), decode(tmp_path / "x.jpg"))


# --- refusals -------------------------------------------------------------------------------------


def tiff(bits: int, photometric: int, values: bytes) -> bytes:
    """Write a grey TIFF of one row and 2 pixels."""
    entries = [
        (256, 4, 2), (257, 4, 1), (258, 3, bits), (259, 3, 1), (262, 3, photometric), (273, 4, 8),
        (277, 3, 1), (278, 4, 1), (279, 4, len(values)),
    ]  # fmt: skip
    table = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in entries)
    head = b"II*\0" + struct.pack("<I", 8 + len(values))
    return head + values + struct.pack("<H", len(entries)) + table + bytes(4)


# A megabyte, packed.
TEXT = chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(10**6)))

REFUSED: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "the file is empty"),
    "text": (b"I am no picture, whatever I am called.\n", "cannot identify image file 'odd/x.png'"),
    "another magic number": (b"\x89PMG" + saved(NOISE, "png")[4:], "cannot identify image file"),
    "a type that no picture of ours has": (saved(NOISE, "ico"), "cannot identify image file"),
    "PostScript, which would be run": (saved(NOISE, "eps"), "cannot identify image file"),
    "floats": (saved(np.ones((2, 2), np.float32), "tiff"), "mode F: the range of its values"),
    "32 bits": (saved(np.ones((2, 2), np.int32), "tiff"), "mode I: the range of its values"),
    "12 bits": (tiff(12, 1, b"\xff\xff\xff"), "12 bits a value: the range of its"),
    "16 bits from white to black": (tiff(16, 0, bytes(4)), "16-bit grey whose 0 is white"),
    "a broken checksum": (
        saved(NOISE, "png")[:-20] + b"?" + saved(NOISE, "png")[-19:],
        "broken data stream",
    ),
    "a text that grows": (
        png((1, 1), (8, 0), b"\0\0", chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2**26)))),
        "Decompressed data too large for PngImagePlugin.MAX_TEXT_CHUNK",
    ),
    "texts that add up": (
        png((1, 1), (8, 0), b"\0\0", *[TEXT] * 70),
        "Too much memory used in text chunks",
    ),
    "a colour profile that grows": (
        png((1, 1), (8, 0), b"\0\0", chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(2**26)))),
        "Decompressed data too large for PngImagePlugin.MAX_TEXT_CHUNK",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_decoded_is_left_out_with_the_reason(name: str, tmp_path: Path) -> None:
    content, reason = REFUSED[name]
    found = classes(tmp_path, {"x.png": content})
    assert [picture.name for picture in found.pictures] == ["cat/good.png", "dog/good.png"]
    # The class comes first: it is what is missed most.
    assert [name for name, _ in found.excluded] == ["odd", "odd/x.png"]
    assert found.excluded[0][1].startswith("the whole class is left out: of its 1 pictures here")
    said = found.excluded[1][1]
    assert reason in said
    assert "\n" not in said
    with pytest.raises(DataError, match=r"^image: x\.png cannot be decoded: .") as caught:
        open_image(str(tmp_path / "odd" / "x.png"), SMALL)
    assert "\n" not in str(caught.value)


def test_the_text_s_case_is_no_case_but_for_its_text(tmp_path: Path) -> None:
    """The pictures above that are refused for what they carry are fine without."""
    (tmp_path / "x.png").write_bytes(png((1, 1), (8, 0), b"\0\0"))
    assert decode(tmp_path / "x.png").tolist() == [[BLACK]]
    (tmp_path / "x.tif").write_bytes(tiff(16, 1, b"\0\0\xff\xff"))
    assert decode(tmp_path / "x.tif").tolist() == [[BLACK, WHITE]]


def test_what_pillow_only_warns_of_is_decoded_unless_warnings_are_errors(tmp_path: Path) -> None:
    # Five entries are promised, none is there.
    exif = b"Exif\0\0II*\0\x08\0\0\0\x05\0"
    found = saved(NOISE, "jpeg", exif=exif)
    with pytest.warns(UserWarning, match="Corrupt EXIF data"):
        taken = classes(tmp_path, {"x.png": found})
    assert not taken.excluded
    left = open_images(f"folder:{tmp_path}", SMALL, "all")
    assert dict(left.excluded)["odd/x.png"].startswith("Corrupt EXIF data")


def test_a_folder_called_like_a_picture_is_none(tmp_path: Path) -> None:
    (tmp_path / "cat" / "x.png").mkdir(parents=True)
    (tmp_path / "cat" / "x.png" / "y.png").touch()
    (tmp_path / "x.png").mkdir()
    (tmp_path / "x.png" / "a.txt").touch()
    os.mkfifo(tmp_path / "cat" / "pipe.png")
    (tmp_path / "cat" / "lost.png").symlink_to("nowhere")
    (tmp_path / "cat" / "round.png").symlink_to("round.png")
    write_good(tmp_path)
    found = open_images(f"folder:{tmp_path}", SMALL, "all")
    assert [p.name for p in found.pictures] == ["cat/good.png", "dog/good.png"]
    assert dict(found.excluded) == {
        "cat/lost.png": "no file, or a link to none",
        "cat/pipe.png": "no file, or a link to none",
        "cat/round.png": "no file, or a link to none",
        "cat/x.png": "a folder within that of a class is not looked into",
        "x.png": "a folder without pictures in it is no class",
        "x.png/a.txt": "no pictures by name or content (.txt 1)",
    }


def open_after(root: Path) -> ImageSet:
    write_good(root)
    found = open_images(f"folder:{root}", SMALL, "all")
    assert not found.excluded
    return found


def test_an_unreadable_file_is_left_out_and_an_unreadable_folder_named(tmp_path: Path) -> None:
    open_after(tmp_path)
    (tmp_path / "cat" / "shut.png").write_bytes(saved(NOISE, "png"))
    (tmp_path / "cat" / "shut.png").chmod(0)
    if os.access(tmp_path / "cat" / "shut.png", os.R_OK):
        pytest.skip("this user may read everything")
    found = open_images(f"folder:{tmp_path}", SMALL, "all")
    assert dict(found.excluded) == {"cat/shut.png": "[Errno 13] Permission denied: 'cat/shut.png'"}
    (tmp_path / "dog").chmod(0)
    try:
        with pytest.raises(DataError, match=r"cannot be listed: .*Permission denied"):
            open_images(f"folder:{tmp_path}", SMALL, "all")
    finally:
        (tmp_path / "dog").chmod(0o700)


def test_a_folder_that_cannot_be_listed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def shut(_self: Path) -> None:
        raise PermissionError(13, "Permission denied", "dog")

    monkeypatch.setattr(Path, "iterdir", shut)
    with pytest.raises(DataError, match=r"data: .* cannot be listed: .*Permission denied: 'dog'"):
        open_images(f"folder:{tmp_path}", SMALL)


def test_a_name_of_two_lines_stays_one_line_and_says_no_place(tmp_path: Path) -> None:
    found = classes(tmp_path, {"a\nb.png": b"nothing"})
    left = dict(found.excluded)
    assert left["odd/a\nb.png"] == "cannot identify image file 'odd/a b.png'"
    assert set(left) == {"odd/a\nb.png", "odd"}


# --- bombs ----------------------------------------------------------------------------------------


def bomb(kind: str, width: int, height: int) -> bytes:
    """Return a small file that says it is a large picture."""
    if kind == "png":
        return png((width, height), (8, 2), bytes(10))
    whole = bytearray(saved(NOISE, kind))
    if kind == "gif":
        whole[6:10] = struct.pack("<HH", width, height)
    elif kind == "bmp":
        whole[18:26] = struct.pack("<ii", width, height)
    elif kind == "tiff":
        width_and_height = {256: width, 257: height}
        (table,) = struct.unpack_from("<I", whole, 4)
        (count,) = struct.unpack_from("<H", whole, table)
        for place in range(table + 2, table + 2 + 12 * count, 12):
            (tag,) = struct.unpack_from("<H", whole, place)
            if tag in width_and_height:
                struct.pack_into("<HII", whole, place + 2, 4, 1, width_and_height[tag])
    elif kind == "jpeg":
        place = whole.index(b"\xff\xc0")
        whole[place + 5 : place + 9] = struct.pack(">HH", height, width)
    return bytes(whole)


SIZES = {
    # Just above our limit, where Pillow warns, and far above, where it raises.
    "a little": (9460, 9460),
    "much": (13_000, 13_000),
    "400 megapixels": (20_000, 20_000),
    "a strip": (65_000, 65_000),
}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", ["png", "gif", "bmp", "tiff", "jpeg"])
@pytest.mark.parametrize("action", ["error", "ignore"])
def test_a_bomb_is_refused_before_it_is_decoded(
    kind: str, size: str, action: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is done with warnings, the line is ours, and no decoder is asked for a pixel."""
    content = bomb(kind, *SIZES[size])
    assert len(content) < 1000
    (tmp_path / "x.png").write_bytes(content)
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda _: pytest.fail("it is being decoded"))
    with warnings.catch_warnings():
        warnings.simplefilter(action)  # type: ignore[arg-type]
        with pytest.raises(DataError, match=r"over 89 megapixels; make a smaller copy$"):
            decode(tmp_path / "x.png")


def test_one_pixel_less_would_be_decoded(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(bomb("png", MAX_PIXELS // 5, 5))
    with pytest.raises(OSError, match="truncated"):
        decode(tmp_path / "x.png")
    (tmp_path / "x.png").write_bytes(bomb("png", MAX_PIXELS // 5 + 1, 5))
    with (
        pytest.raises(DataError, match=r"^17895698 x 5 pixels are over 89"),
        pytest.warns(Image.DecompressionBombWarning),
    ):
        decode(tmp_path / "x.png")


def test_our_limit_is_where_pillow_begins_to_warn() -> None:
    """Between the two it would depend on the filter of warnings whether a picture is taken."""
    assert Image.MAX_IMAGE_PIXELS == MAX_PIXELS


def test_a_bomb_takes_no_memory(tmp_path: Path) -> None:
    """A process that may not have the picture's memory refuses it all the same."""
    (tmp_path / "x.png").write_bytes(bomb("png", 20_000, 20_000))
    code = """
        import resource, sys
        from pathlib import Path
        from steadymap.bench.core.errors import DataError
        from steadymap.bench.data.decode import decode
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        try:
            decode(Path(sys.argv[1]))
        except DataError as error:
            print(error)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    """
    done = python(code, str(tmp_path / "x.png"), PYTHONWARNINGS="error::Warning:PIL")
    assert done.returncode == 0, done.stderr
    said, grown = done.stdout.splitlines()
    assert said == "it has over 89 megapixels; make a smaller copy"
    assert int(grown) < 20_000, "kilobytes, of 1.2 million that its pixels would take"


def test_a_strip_that_would_grow_beyond_memory_is_left_out(tmp_path: Path) -> None:
    """A row of 50,000 pixels is no large file; enlarged to 256 rows it would be."""
    open_after(tmp_path)
    (tmp_path / "cat" / "strip.png").write_bytes(saved(np.zeros((1, 50_000, 3), np.uint8), "png"))
    found = open_images(f"folder:{tmp_path}", Framing((224, 224), 256), "all")
    ((name, reason),) = found.excluded
    assert name == "cat/strip.png"
    assert reason == ("50000 x 1 pixels become 12800000 x 256 where the short side is 256; crop it")
    squashed = open_images(f"folder:{tmp_path}", Framing((224, 224)), "all")
    assert not squashed.excluded
    assert squashed.images([0, 1, 2]).shape == (3, 3, 224, 224)
    with pytest.raises(DataError, match=r"50000 x 1 pixels become .*; crop it"):
        open_image(str(tmp_path / "cat" / "strip.png"), Framing((224, 224), 256))


# --- cut off --------------------------------------------------------------------------------------

WRITTEN = {
    "png": saved(NOISE, "png"),
    "jpeg": saved(NOISE, "jpeg"),
    "progressive jpeg": saved(NOISE, "jpeg", progressive=True),
    "gif": saved(NOISE, "gif"),
    "bmp": saved(NOISE, "bmp"),
    "webp": saved(NOISE, "webp"),
    "lossless webp": saved(NOISE, "webp", lossless=True),
    "tiff": saved(NOISE, "tiff"),
    "lzw tiff": saved(NOISE, "tiff", compression="tiff_lzw"),
    "ppm": saved(NOISE, "ppm"),
}


@pytest.mark.parametrize("kind", WRITTEN)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_wherever_a_picture_is_cut_off_it_is_whole_or_left_out(kind: str, tmp_path: Path) -> None:
    """Half a picture is never taken for one."""
    whole = WRITTEN[kind]
    (tmp_path / "whole.png").write_bytes(whole)
    expected = decode(tmp_path / "whole.png")
    (tmp_path / "cuts").mkdir()
    cuts = {f"{length:05}.png": whole[:length] for length in range(len(whole))}
    found = classes(tmp_path / "cuts", cuts)
    left = dict(found.excluded)
    left.pop("odd", None)  # all are broken, or equal to another class's
    duplicates = [name for name, reason in left.items() if reason.startswith("duplicate of")]
    taken = [picture for picture in found.pictures if picture.name.startswith("odd/")]
    assert len(taken) + len(left) == len(whole)
    assert not any("\n" in reason or str(tmp_path) in reason for reason in left.values())
    for name in [*duplicates, *(picture.name for picture in taken)]:
        np.testing.assert_array_equal(decode(tmp_path / "cuts" / name), expected)
    assert left["odd/00000.png"] == "the file is empty"
    # What may be missing is what stands behind the pixels.
    assert len(duplicates) + len(taken) <= 20


# --- between opening and reading ------------------------------------------------------------------


def read_by_name(found: ImageSet, name: str) -> Frame:
    return found.read([picture.name for picture in found.pictures].index(name))


def test_a_picture_that_vanishes_meanwhile_is_named(tmp_path: Path) -> None:
    found = open_after(tmp_path)
    (tmp_path / "cat" / "good.png").unlink()
    with pytest.raises(
        DataError, match=r"^data: cat/good\.png can no longer be read: .*No such fi"
    ):
        read_by_name(found, "cat/good.png")
    assert read_by_name(found, "dog/good.png").image.shape == (3, 8, 8)


def test_a_picture_that_changes_meanwhile_is_named(tmp_path: Path) -> None:
    """Its record would carry the id of pixels that nobody has seen."""
    found = open_after(tmp_path)
    before = read_by_name(found, "cat/good.png").image
    one_off = NOISE.copy()
    one_off[4, 4, 1] ^= 1
    (tmp_path / "cat" / "good.png").write_bytes(saved(one_off, "png"))
    with pytest.raises(DataError, match=r"^data: cat/good\.png has changed since the data set was"):
        read_by_name(found, "cat/good.png")
    # The pixels count, not the file: a copy of another type is the same picture.
    (tmp_path / "cat" / "good.png").write_bytes(saved(NOISE, "bmp"))
    assert read_by_name(found, "cat/good.png").image.equal(before)


# --- one pixel, and small inputs ------------------------------------------------------------------


@pytest.mark.parametrize(
    "framing", [SMALL, Framing((1, 1)), Framing((8, 8), 9), Framing((8, 8), 5)]
)
def test_a_picture_of_one_pixel_is_a_plane_of_it(framing: Framing, tmp_path: Path) -> None:
    found = classes(tmp_path, {"x.png": saved(np.full((1, 1, 3), 51, np.uint8), "png")}, framing)
    assert not found.excluded
    image = read_by_name(found, "odd/x.png").image
    assert image.shape == (3, *framing.size)
    short = framing.short_side or 8
    # Where the short side is less than the input, the border is black.
    inside = image[:, 2:6, 2:6] if short < 8 else image
    assert inside.unique().tolist() == [np.float32(51) / np.float32(255)]


def test_nothing_of_pillow_s_is_changed(tmp_path: Path) -> None:
    before = Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, warnings.filters[:]
    classes(tmp_path, {"x.png": bomb("png", 20_000, 20_000), "y.png": b"nothing"})
    assert before == (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, warnings.filters)


@pytest.mark.parametrize("kind", decoding.TYPES)
def test_a_picture_is_known_by_its_name_and_by_how_it_begins(kind: str) -> None:
    begins = saved(NOISE, kind.lower())[:LONGEST_BEGINNING]
    assert re.match(decoding.BEGINNINGS[kind], begins, re.DOTALL)
    assert BEGINNING.match(begins)
    known = {suffix for suffix, type_ in Image.registered_extensions().items() if type_ == kind}
    assert known - {".fax", ".pfm"} <= set(SUFFIXES), "all that Pillow reads as this type"
