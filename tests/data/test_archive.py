"""Archives: what they may hold, how much may come out, and where it goes."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import lzma
import os
import shutil
import stat
import struct
import sys
import tarfile
import types
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from support import noise

from steadymap.bench.core.errors import DataError
from steadymap.bench.data import archive as archives
from steadymap.bench.data.archive import (
    CHUNK,
    Caps,
    cache_folder,
    check_folder,
    extract,
    unpack,
    unsafe,
)
from steadymap.bench.data.opening import open_images
from steadymap.models import Framing

SMALL = Framing((8, 8))
# Name and content; no content is a folder.
Entries = Sequence[tuple[str, bytes | None]]
PLAIN = tarfile.PAX_FORMAT


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "steadymap" / "archives"


def zip_of(entries: Entries, **changes: object) -> bytes:
    """Write a zip; `changes` are set on every member but the first."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as made:
        for place, (name, content) in enumerate(entries):
            info = zipfile.ZipInfo("x")
            info.filename = name + ("/" if content is None else "")
            info.compress_type = zipfile.ZIP_DEFLATED
            for key, value in changes.items() if place else ():
                setattr(info, key, value)
            made.writestr(info, content or b"")
    return buffer.getvalue()


def tar_of(entries: Entries, *, writing: str = "w", **changes: object) -> bytes:
    """Write a tar; `changes` are set on every member but the first."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=writing, format=PLAIN) as made:  # type: ignore[call-overload]
        for place, (name, content) in enumerate(entries):
            info = tarfile.TarInfo(name)
            info.type = tarfile.DIRTYPE if content is None else tarfile.REGTYPE
            info.size = len(content or b"")
            for key, value in changes.items() if place else ():
                setattr(info, key, value)
            made.addfile(info, io.BytesIO(content or b""))
    return buffer.getvalue()


KINDS: dict[str, Callable[[Entries], bytes]] = {
    "zip": zip_of,
    "tar": tar_of,
    "tar.gz": lambda entries: tar_of(entries, writing="w:gz"),
    "tar.bz2": lambda entries: tar_of(entries, writing="w:bz2"),
    "tar.xz": lambda entries: tar_of(entries, writing="w:xz"),
}


def picture(seed: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(noise(seed)).save(buffer, "png")
    return buffer.getvalue()


PETS: Entries = [
    (f"{name}/{name}{place}.png", picture(10 * label + place))
    for label, name in enumerate(("cat", "dog", "été"))
    for place in range(6)
]


def everything(folder: Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(folder)): None if path.is_dir() else path.read_bytes()
        for path in sorted(folder.rglob("*"))
    }


def refused(data: bytes, tmp_path: Path, caps: Caps = archives.CAPS) -> str:
    """Return the message; nothing may be left, neither in the cache nor beside it."""
    (tmp_path / "bad.zip").write_bytes(data)
    before = everything(tmp_path)
    with pytest.raises(DataError) as caught:
        unpack(tmp_path / "bad.zip", caps)
    left = {name for name in everything(tmp_path) if not name.startswith("cache")}
    assert left == {name for name in before if not name.startswith("cache")}
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert not list(cache_folder().iterdir())
    text = str(caught.value)
    assert text.startswith("data: bad.zip is refused: ")
    assert "\n" not in text
    return text.removeprefix("data: bad.zip is refused: ")


# --- the form -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("around", ["", "pets/", "./a b/c\nd/"])
def test_an_archive_is_the_folder_it_holds(kind: str, around: str, tmp_path: Path) -> None:
    entries = [(around + name, content) for name, content in PETS]
    (tmp_path / f"my pets.{kind}").write_bytes(KINDS[kind](entries))
    for name, content in PETS:
        path = tmp_path / "folder" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content or b"")
    packed = open_images(f"archive:{tmp_path}/my pets.{kind}", SMALL, "all")
    folder = open_images(f"folder:{tmp_path / 'folder'}", SMALL, "all")
    assert packed.name == f"archive:my pets.{kind}", "not where it lies on this machine"
    assert packed.pictures == folder.pictures
    assert packed.class_names == folder.class_names == ("cat", "dog", "été")
    np.testing.assert_array_equal(packed.images([3]), folder.images([3]))


def test_an_archive_is_unpacked_once_by_its_content(tmp_path: Path, cache: Path) -> None:
    data = zip_of(PETS)
    (tmp_path / "a.zip").write_bytes(data)
    (tmp_path / "b.zip").write_bytes(data)
    folder = unpack(tmp_path / "a.zip")
    assert folder == cache / hashlib.sha256(data).hexdigest()
    (folder / "cat" / "mark").touch()
    assert unpack(tmp_path / "b.zip") == folder
    assert (folder / "cat" / "mark").exists()
    (tmp_path / "b.zip").write_bytes(zip_of(PETS[:-1]))
    assert unpack(tmp_path / "b.zip") != folder
    assert len(list(cache.iterdir())) == 2


def test_macos_adds_a_folder_that_is_no_class(tmp_path: Path) -> None:
    entries = [(f"pets/{name}", content) for name, content in PETS]
    entries += [("__MACOSX/pets/cat/._cat0.png", b"x"), ("pets/.DS_Store", b"x")]
    (tmp_path / "x.zip").write_bytes(zip_of(entries))
    found = open_images(f"archive:{tmp_path / 'x.zip'}", SMALL, "all")
    assert len(found) == len(PETS)
    assert not found.excluded


def test_the_cache_is_where_the_standard_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("XDG_CACHE_HOME", "/else/where")
    assert cache_folder() == Path("/else/where/steadymap/archives")
    for ignored in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", ignored)
        assert cache_folder() == Path("/home/me/.cache/steadymap/archives")


def test_a_cache_that_cannot_be_written_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x.zip").write_bytes(zip_of(PETS))
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(DataError, match=r"x\.zip cannot be unpacked: .*file.*set XDG_CACHE_HOME"):
        unpack(tmp_path / "x.zip")


def test_a_full_disk_leaves_nothing(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_file: object, _name: str, folder: Path, _caps: Caps) -> None:
        (folder / "half").touch()
        raise OSError(28, "No space left on device")

    (tmp_path / "x.zip").write_bytes(zip_of(PETS))
    monkeypatch.setattr(archives, "extract", full)
    with pytest.raises(DataError, match=r"No space left on device; set XDG_CACHE_HOME to a folder"):
        unpack(tmp_path / "x.zip")
    assert not list(cache.iterdir())


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_interrupted_extraction_leaves_nothing_half(
    error: type[BaseException], tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x.zip").write_bytes(zip_of(PETS))
    whole = archives._chunks  # noqa: SLF001 - where it is interrupted

    def stop(member: archives.Member) -> object:
        if member.name == PETS[4][0]:
            assert len(everything(cache)) > 4, "some are written by now"
            raise error
        return whole(member)

    monkeypatch.setattr(archives, "_chunks", stop)
    with pytest.raises(error):
        unpack(tmp_path / "x.zip")
    assert not list(cache.iterdir())
    monkeypatch.setattr(archives, "_chunks", whole)
    assert len(list(unpack(tmp_path / "x.zip").rglob("*.png"))) == len(PETS)


def test_two_processes_may_unpack_at_once(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x.zip").write_bytes(zip_of(PETS))
    alone = archives.extract

    def slower(*given: object) -> None:
        monkeypatch.setattr(archives, "extract", alone)
        unpack(tmp_path / "x.zip")
        alone(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(archives, "extract", slower)
    folder = unpack(tmp_path / "x.zip")
    assert list(cache.iterdir()) == [folder]
    assert len(list(folder.rglob("*.png"))) == len(PETS)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("archive:", "archive: needs a name behind the colon, e.g. archive:FILE"),
        ("archive:none.zip", "there is no file none.zip"),
        ("archive:.", "there is no file ."),
        ("archive:text.zip", "text.zip is refused: it is neither a zip nor a tar"),
        ("archive:zero.zip", "zero.zip is refused: it is neither a zip nor a tar"),
        ("archive:no.zip", "no images under no.zip: expected pictures"),
        ("archive:one.zip", r"one.zip has one class \(cat\)"),
        ("archive:x\0y.zip", "has a NUL in it"),
        ("archive:" + "x" * 5000, "there is no file xxx"),
        ("folder:" + "x" * 5000, "no such folder: xxx"),
        ("folder:~nobody-is-called-so/x", "there is no such user's home"),
    ],
)
def test_an_archive_that_is_none_says_so(
    spec: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text.zip").write_text("no archive " * 100)
    Path("zero.zip").touch()
    Path("no.zip").write_bytes(zip_of([("readme", b"x")]))
    Path("one.zip").write_bytes(zip_of(PETS[:3]))
    with pytest.raises(DataError, match=message):
        open_images(spec, SMALL, "all")


# --- names ----------------------------------------------------------------------------------------

BAD_NAMES = {
    "../x.png": "leads out of the archive",
    "a/../../x.png": "leads out of the archive",
    "a/..": "leads out of the archive",
    "/etc/x.png": "is an absolute path",
    "//server/share/x.png": "is an absolute path",
    "C:/x.png": "names a drive",
    "c:x.png": "names a drive",
    "a/d:/x.png": "names a drive",
    "..\\x.png": "has a backslash in it",
    "\\\\server\\x.png": "has a backslash in it",
    "a\0b.png": "has a NUL in it",
    "con": "is a device on Windows",
    "a/NUL.png": "is a device on Windows",
    "a/Com1 .tar.gz": "is a device on Windows",
    "lpt²/x.png": "is a device on Windows",
    "a/.../x.png": "has a part of dots and spaces",
    "a/. ./x.png": "has a part of dots and spaces",
}
GOOD_NAMES = [
    "a/x.png", "./a/x.png", "a//x.png", "console/x.png", "com10/x.png", "a/x..png", "a/12:30.png",
    "a b/été\n.png", "sp./x.png", "...x/y.png", "auxiliary/con-1.png",
]  # fmt: skip


@pytest.mark.parametrize("name", BAD_NAMES)
@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
def test_a_name_that_leads_elsewhere_is_refused(kind: str, name: str, tmp_path: Path) -> None:
    # A tar's own field ends at a NUL, its later extension does not.
    if kind == "zip":
        data = zip_of([PETS[0], (name, b"x")])
    else:
        data = tar_of([PETS[0], ("x", b"x")], pax_headers={"path": name})
    message = refused(gzip.compress(data) if kind == "tar.gz" else data, tmp_path)
    assert message == f"{name!a} {BAD_NAMES[name]}"


@pytest.mark.parametrize("name", GOOD_NAMES)
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_a_name_that_only_looks_odd_is_written(kind: str, name: str, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(KINDS[kind]([(name, b"content")]))
    (tmp_path / "to").mkdir()
    with (tmp_path / "x").open("rb") as file:
        extract(file, "x", tmp_path / "to")
    found = {name: text for name, text in everything(tmp_path / "to").items() if text is not None}
    assert found == {str(PurePosixPath(name)): b"content"}


# Text in which what is forbidden turns up more often than in any text.
PIECES = st.sampled_from([
    "..", ".", "/", "\\", "C:", "\0", "con", "NUL", ".png", "a", "A", "é", "e\u0301", " ", "~",
    "%2e",
])  # fmt: skip
NAMES = st.lists(PIECES | st.text(max_size=3), min_size=1, max_size=8).map("".join)


@given(name=NAMES)
@settings(max_examples=500, derandomize=True)
def test_a_safe_name_stays_inside_on_every_system(name: str) -> None:
    if unsafe(name) is not None:
        return
    posix, windows = PurePosixPath(name), PureWindowsPath(name)
    assert not posix.is_absolute()
    assert not windows.drive
    assert not windows.root
    assert not windows.is_reserved()
    assert ".." not in (*posix.parts, *windows.parts)
    # Both read the same parts: none is hidden from the other.
    assert posix.parts == windows.parts


@pytest.mark.filterwarnings("ignore:Duplicate name")
@given(names=st.lists(NAMES, min_size=1, max_size=4), kind=st.sampled_from(["zip", "tar"]))
@settings(
    max_examples=300,
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_whatever_the_names_nothing_lies_outside(
    names: list[str], kind: str, tmp_path: Path
) -> None:
    try:
        data = KINDS[kind]([(name, b"x") for name in names])
    except (UnicodeError, ValueError):
        return  # the format cannot say such a name
    inside = tmp_path / "inside"
    shutil.rmtree(inside, ignore_errors=True)
    inside.mkdir()
    try:
        extract(io.BytesIO(data), "x", inside)
    except (DataError, OSError):
        pass
    else:
        files = [path for path in inside.rglob("*") if path.is_file()]
        assert len(files) == len(names)
        assert all(path.resolve().is_relative_to(inside) for path in files)
    assert [path.name for path in tmp_path.iterdir()] == ["inside"]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a/x.png", "a/x.png"], "'a/x.png' is there twice"),
        (["a/x.png", "a/X.PNG"], "some systems cannot tell 'a/X.PNG' from 'a/x.png'"),
        (["cat/x.png", "Cat/y.png"], "some systems cannot tell 'Cat' from 'cat'"),
        (["é/x.png", "e\u0301/y.png"], r"some systems cannot tell 'e\u0301' from '\xe9'"),
        (["a/x", "a/x."], "some systems cannot tell 'a/x.' from 'a/x'"),
        (["a", "a/x.png"], "'a' is there twice"),
        (["a/x.png", "a"], "'a' is there twice"),
        (["straße/x.png", "STRASSE/x.png"], r"some systems cannot tell 'STRASSE' from 'stra\xdfe'"),
    ],
)
@pytest.mark.parametrize("kind", ["zip", "tar"])
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_members_of_one_name_are_refused(
    kind: str, names: list[str], message: str, tmp_path: Path
) -> None:
    assert refused(KINDS[kind]([(name, b"x") for name in names]), tmp_path) == message


def test_a_folder_may_be_named_as_often_as_one_likes(tmp_path: Path) -> None:
    entries: Entries = [
        ("./", None), ("a", None), ("a/x.png", b"x"), ("a", None), ("a/y.png", b"y"),
    ]  # fmt: skip
    extract(io.BytesIO(tar_of(entries)), "x", tmp_path)
    assert everything(tmp_path) | {"cache": None} == {
        "a": None, "a/x.png": b"x", "a/y.png": b"y", "cache": None,
    }  # fmt: skip


# --- kinds ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"type": tarfile.SYMTYPE, "linkname": "/etc", "size": 0}, "is a symbolic link"),
        ({"type": tarfile.SYMTYPE, "linkname": "cat0.png", "size": 0}, "is a symbolic link"),
        ({"type": tarfile.LNKTYPE, "linkname": "/etc/passwd", "size": 0}, "is a hard link"),
        ({"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 5, "size": 0}, "is a device"),
        ({"type": tarfile.BLKTYPE, "devmajor": 8, "size": 0}, "is a device"),
        ({"type": tarfile.FIFOTYPE, "size": 0}, "is a pipe"),
        ({"type": b"Z", "size": 0}, "is no file"),
    ],
)
def test_a_tar_holds_files_and_folders_alone(
    changes: dict[str, object], what: str, tmp_path: Path
) -> None:
    data = tar_of([PETS[0], ("cat/y.png", b"x")], **changes)  # type: ignore[arg-type]
    assert refused(data, tmp_path) == f"'cat/y.png' {what}"


@pytest.mark.parametrize(
    ("mode", "what"),
    [
        (stat.S_IFLNK, "is a symbolic link"),
        (stat.S_IFCHR, "is a device"),
        (stat.S_IFBLK, "is a device"),
        (stat.S_IFIFO, "is a pipe"),
        (stat.S_IFSOCK, "is a socket"),
    ],
)
def test_a_zip_holds_files_and_folders_alone(mode: int, what: str, tmp_path: Path) -> None:
    data = zip_of([PETS[0], ("cat/y.png", b"/etc")], external_attr=(mode | 0o777) << 16)
    assert refused(data, tmp_path) == f"'cat/y.png' {what}"


def test_a_link_and_a_file_below_it_lead_nowhere(tmp_path: Path) -> None:
    """The old trick: a link out, then a file through it."""
    (tmp_path / "outside").mkdir()
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as made:
        link = tarfile.TarInfo("cat")
        link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path / "outside")
        made.addfile(link)
        made.addfile(tarfile.TarInfo("cat/x.png"), io.BytesIO())
    assert refused(buffer.getvalue(), tmp_path) == "'cat' is a symbolic link"


def test_a_sparse_file_is_refused(tmp_path: Path) -> None:
    info = tarfile.TarInfo("cat/x.png")
    info.pax_headers = {"GNU.sparse.map": "0,1", "GNU.sparse.size": str(2**60)}
    info.size = 1
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=PLAIN) as made:
        made.addfile(info, io.BytesIO(b"x"))
    assert refused(buffer.getvalue(), tmp_path) == "'cat/x.png' is a sparse file"


def test_an_encrypted_zip_is_refused(tmp_path: Path) -> None:
    data = bytearray(zip_of([PETS[0]]))
    data[6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1
    assert refused(bytes(data), tmp_path) == "'cat/cat0.png' is encrypted"


def test_modes_and_times_stay_in_the_archive(tmp_path: Path) -> None:
    data = tar_of([PETS[0], ("a/x.png", b"x")], mode=0o6777, mtime=1, uid=12345)
    extract(io.BytesIO(data), "x", tmp_path)
    found = (tmp_path / "a" / "x.png").stat()
    assert found.st_uid == os.getuid()
    assert not found.st_mode & (stat.S_ISUID | stat.S_ISGID | stat.S_IXUSR)
    assert found.st_mtime > 1


# --- caps -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_each_cap_holds_to_the_byte(kind: str, tmp_path: Path) -> None:
    parts = [np.random.default_rng(n).bytes(1000) for n in range(3)]
    entries: Entries = [("a", None), *((f"a/{n}", part) for n, part in enumerate(parts))]
    data = KINDS[kind](entries)
    # A tar's own blocks count as what comes out of it: they have to be read.
    out = 3000 if kind == "zip" else len(tar_of(entries))
    enough = Caps(members=4, member_bytes=1000, total_bytes=out, ratio=1, free_bytes=out, depth=2)
    (tmp_path / "fine").mkdir()
    extract(io.BytesIO(data), "x", tmp_path / "fine", enough)
    assert len(list((tmp_path / "fine" / "a").iterdir())) == 3
    shutil.rmtree(tmp_path / "fine")

    def message(**less: int) -> str:
        return refused(data, tmp_path, types.SimpleNamespace(**{**vars(enough), **less}))  # type: ignore[arg-type]

    assert message(members=3) == "it has over 3 files and folders"
    assert message(member_bytes=999) == "'a/0' is over 999 bytes"
    assert message(total_bytes=2999) == "over 2999 bytes come out of it"
    assert message(depth=1) == "'a/0' lies over 1 folders deep"


@pytest.mark.parametrize(
    "made",
    [
        lambda zeros: zip_of([("a/x.png", zeros)]),
        lambda zeros: gzip.compress(tar_of([("a/x.png", zeros)])),
        lambda zeros: bz2.compress(tar_of([("a/x.png", zeros)])),
        lambda zeros: lzma.compress(tar_of([("a/x.png", zeros)])),
        # Behind the end, where nobody looks but for the checksum.
        lambda zeros: gzip.compress(tar_of([("a/x.png", b"x")]) + zeros),
    ],
    ids=["zip", "gz", "bz2", "xz", "behind"],
)
def test_a_bomb_is_stopped_by_its_ratio(made: Callable[[bytes], bytes], tmp_path: Path) -> None:
    data = made(bytes(4 * CHUNK))
    assert len(data) < 40_000
    caps = Caps(ratio=10, free_bytes=CHUNK)
    assert refused(data, tmp_path, caps) == f"over {CHUNK} bytes come out of it"


def test_many_small_members_add_up(tmp_path: Path) -> None:
    data = zip_of([(f"a/{n}", bytes(1000)) for n in range(100)])
    message = refused(data, tmp_path, Caps(ratio=1, free_bytes=50_000))
    assert message == "over 50000 bytes come out of it"


@pytest.mark.parametrize("claim", [1, 2**31])
def test_what_a_zip_says_of_sizes_is_not_trusted(claim: int, tmp_path: Path) -> None:
    data = bytearray(zip_of([("a/x.png", bytes(10_000))]))
    central = data.index(b"PK\x01\x02")
    data[central + 24 : central + 28] = struct.pack("<I", claim)
    data[22:26] = struct.pack("<I", claim)
    message = refused(bytes(data), tmp_path, Caps(member_bytes=5000))
    # Too little is caught by the checksum, too much where the bytes come.
    expected = "it is broken (BadZipFile: Bad CRC-32" if claim == 1 else "'a/x.png' is over 5000 by"
    assert message.startswith(expected)


def test_a_tar_cannot_fill_the_memory_with_what_it_says_of_a_member(tmp_path: Path) -> None:
    info = tarfile.TarInfo("a/x.png")
    info.pax_headers = {"comment": "x" * (2 * CHUNK)}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", format=PLAIN) as made:
        made.addfile(info)
    assert refused(buffer.getvalue(), tmp_path).startswith(f"it tells {2 * CHUNK}"[:10])


# --- broken ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_an_archive_that_is_cut_off_is_refused_wherever_it_is_cut(
    kind: str, tmp_path: Path
) -> None:
    data = KINDS[kind]([("a/x", b"1" * 600), ("b/y", b"2" * 512)])
    end = len(data)
    if kind == "tar":
        # Two empty blocks, and what fills a record: one of them is an end.
        end = -(-len(data.rstrip(b"\0")) // 512) * 512 + 512
    for length in {*range(0, end, 61), *range(max(0, end - 70), end)}:
        target = tmp_path / "to"
        target.mkdir()
        with pytest.raises(DataError, match="x is refused: it is "):
            extract(io.BytesIO(data[:length]), "x", target)
        shutil.rmtree(target)


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
@settings(
    max_examples=60,
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_whatever_is_changed_in_an_archive_it_is_unpacked_or_refused(
    kind: str, data: st.DataObject, tmp_path: Path
) -> None:
    whole = bytearray(KINDS[kind](PETS[:2]))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    target = tmp_path / "to"
    target.mkdir()
    try:
        extract(io.BytesIO(bytes(whole)), "x", target)
    except DataError as error:
        assert "\n" not in str(error)  # noqa: PT017 - most are refused, some are not
    finally:
        shutil.rmtree(target)
    assert not list(tmp_path.iterdir())


# --- what others unpacked -------------------------------------------------------------------------


def test_a_folder_of_others_is_looked_at(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "a").mkdir(parents=True)
    (root / "a" / "x.png").write_bytes(bytes(1000))
    (root / "a" / "inside").symlink_to("x.png")
    check_folder(root, "kaggle:a/b")
    with pytest.raises(DataError, match="kaggle:a/b is refused: it has over 2 files and folders"):
        check_folder(root, "kaggle:a/b", Caps(members=2))
    with pytest.raises(DataError, match="kaggle:a/b is refused: over 999 bytes come out of it"):
        check_folder(root, "kaggle:a/b", Caps(total_bytes=999))
    for target in ("../../secret", str(tmp_path / "secret"), "../.."):
        (root / "a" / "out").symlink_to(target)
        with pytest.raises(DataError, match=r"'out' is a link that leads out of it"):
            check_folder(root, "kaggle:a/b")
        (root / "a" / "out").unlink()


def test_kaggle_s_folder_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, content in PETS:
        (tmp_path / "root" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "root" / name).write_bytes(content or b"")
    hub = types.ModuleType("kagglehub")
    monkeypatch.setitem(sys.modules, "kagglehub", hub)
    monkeypatch.setattr(hub, "dataset_download", lambda _: str(tmp_path / "root"), raising=False)
    assert len(open_images("kaggle:a/b", SMALL, "all")) == len(PETS)
    (tmp_path / "root" / "cat" / "passwd.png").symlink_to("/etc/passwd")
    with pytest.raises(DataError, match=r"kaggle:a/b is refused: 'passwd.png' is a link"):
        open_images("kaggle:a/b", SMALL, "all")
