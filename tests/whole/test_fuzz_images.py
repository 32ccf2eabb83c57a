"""Whatever a file holds, it becomes pixels or is left out with one line."""

from __future__ import annotations

import io
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from steadymap.bench.core.errors import DataError
from steadymap.bench.data.labelled import file_reader

# Files of the ordinary suite, and of the slow one.
FEW, MANY = 200, 8000


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def seeds() -> dict[str, bytes]:
    """Return a small valid file of each type, and of what types can hold besides plain colours."""
    pixels = np.random.default_rng(1).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    colour = Image.fromarray(pixels)
    alpha = Image.fromarray(np.dstack([pixels, pixels[..., 0]]))
    deep = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
    exif = Image.Exif()
    exif[0x0112] = 6
    more = {"save_all": True, "append_images": [colour.rotate(180)]}
    return {
        "png": saved(colour, "png", exif=exif),
        "png alpha": saved(alpha, "png"),
        "png palette": saved(colour.quantize(8), "png", transparency=1),
        "png 16 bits": saved(deep, "png"),
        "png frames": saved(colour, "png", **more),
        "jpeg": saved(colour, "jpeg", exif=exif),
        "jpeg progressive": saved(colour, "jpeg", progressive=True),
        "jpeg cmyk": saved(colour.convert("CMYK"), "jpeg"),
        "gif": saved(colour, "gif"),
        "gif frames": saved(colour, "gif", **more),
        "bmp": saved(colour, "bmp"),
        "bmp palette": saved(colour.quantize(8), "bmp"),
        "webp": saved(colour, "webp"),
        "webp lossless": saved(alpha, "webp", lossless=True, exif=exif),
        "tiff": saved(colour, "tiff"),
        "tiff lzw": saved(colour, "tiff", compression="tiff_lzw"),
        "tiff 16 bits": saved(deep, "tiff"),
        "ppm": saved(colour, "ppm"),
        "pgm 16 bits": saved(deep, "ppm"),
    }


SEEDS = seeds()
PLACES = st.floats(0, 1, exclude_max=True)

Change = Callable[[bytes], bytes]


def flip(place: float, mask: int) -> Change:
    def change(content: bytes) -> bytes:
        if not content:
            return content
        at = int(place * len(content))
        return content[:at] + bytes([content[at] ^ mask]) + content[at + 1 :]

    return change


def number(place: float, value: bytes) -> Change:
    """Write over some bytes: lengths, offsets, sizes."""

    def change(content: bytes) -> bytes:
        at = int(place * len(content))
        return content[:at] + value + content[at + len(value) :]

    return change


def cut(place: float) -> Change:
    return lambda content: content[: int(place * len(content))]


def splice(other: bytes, places: tuple[float, float, float]) -> Change:
    """Put a piece of another file behind the beginning of this one, then the rest."""

    def change(content: bytes) -> bytes:
        at = int(places[0] * len(content))
        low, high = sorted(int(place * len(other)) for place in places[1:])
        return content[:at] + other[low:high] + content[at:]

    return change


CHANGES = st.one_of(
    st.builds(flip, PLACES, st.integers(1, 255)),
    # Headers, where it hurts, are short.
    st.builds(flip, st.floats(0, 0.15), st.integers(1, 255)),
    st.builds(
        number,
        PLACES,
        st.sampled_from([b"\0\0\0\0", b"\xff" * 4, b"\x7f\xff\xff\xff", b"\0\0\x10\0"]),
    ),
    st.builds(cut, PLACES),
    st.builds(splice, st.sampled_from(sorted(SEEDS.values())), st.tuples(PLACES, PLACES, PLACES)),
)


def changed(content: bytes, changes: list[Change]) -> bytes:
    for change in changes:
        content = change(content)
    return content


FILES = st.one_of(
    st.builds(
        changed, st.sampled_from(sorted(SEEDS.values())), st.lists(CHANGES, min_size=1, max_size=4)
    ),
    st.binary(max_size=300),
    # What only begins like a picture.
    st.builds(
        lambda content, rest: content[:12] + rest,
        st.sampled_from(sorted(SEEDS.values())),
        st.binary(max_size=200),
    ),
)


def outcome(content: bytes, path: Path) -> str:
    """Read a file as a data set does; what is neither pixels nor one line fails the test."""
    path.write_bytes(content)
    try:
        # What Pillow only warns of is for people to see.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pixels = file_reader({"odd/x.png": path})("odd/x.png")
    except DataError as error:
        assert str(error)  # noqa: PT017 - most are refused, some are not
        assert "\n" not in str(error)  # noqa: PT017 - as above
        assert str(path) not in str(error)  # noqa: PT017 - as above
        str(error).encode()
        return f"refused: {type(error.__cause__).__name__}"
    assert pixels.dtype == np.uint8
    assert pixels.ndim == 3
    assert pixels.shape[2] == 3
    assert pixels.size
    return "pixels"


def fuzz(path: Path, examples: int) -> Counter[str]:
    counts: Counter[str] = Counter()

    @given(content=FILES)
    @settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    def one(content: bytes) -> None:
        counts[outcome(content, path)] += 1

    one()
    return counts


def told(counts: Counter[str]) -> str:
    return f"{counts.total()} files; " + ", ".join(
        f"{n} {what}" for what, n in counts.most_common()
    )


def test_every_seed_is_a_picture(tmp_path: Path) -> None:
    assert {
        kind: outcome(content, tmp_path / "x") for kind, content in SEEDS.items()
    } == dict.fromkeys(SEEDS, "pixels")


def test_a_few_hundred_files_become_pixels_or_one_line(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    counts = fuzz(tmp_path / "x.png", FEW)
    record_property("measured", told(counts))
    assert counts.total() >= FEW
    assert counts["pixels"]
    assert counts["refused: UnidentifiedImageError"]


@pytest.mark.slow
def test_thousands_of_files_become_pixels_or_one_line(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    counts = fuzz(tmp_path / "x.png", MANY)
    record_property("measured", told(counts))
    assert counts.total() >= 4000
