"""Archives of pictures, unpacked so that nothing is written anywhere else, nor without an end."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import lzma
import os
import re
import shutil
import stat
import tarfile
import tempfile
import unicodedata
import zipfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TypeVar

from steadymap.bench.core.errors import DataError, one_line

T = TypeVar("T")

# Bytes read at a time, and the most that a tar may tell of one member: that is held in memory.
CHUNK = 2**20

# Characters of a name that a message shows.
LONGEST_SHOWN = 80

ZIP_STARTS = (b"PK\x03\x04", b"PK\x05\x06")
# What else an archive may begin with, and who unpacks it; anything else is taken for a plain tar.
Tar = IO[bytes] | gzip.GzipFile
PACKED: dict[bytes, Callable[[IO[bytes]], AbstractContextManager[Tar]]] = {
    b"\x1f\x8b": lambda file: gzip.GzipFile(fileobj=file),
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ\x00": lzma.LZMAFile,
    b"": nullcontext,
}

# No file of Windows can be called so, whatever stands behind the dot.
RESERVED = re.compile(
    r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[1-9¹²³]) *(\..*)?", re.IGNORECASE | re.DOTALL
)
DRIVE = re.compile(r"[A-Za-z]:")

TAR_KINDS = {
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.LNKTYPE: "a hard link",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a pipe",
}
ZIP_KINDS = {
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
}


@dataclass(frozen=True)
class Caps:
    """How much may come out of an archive, counted as it comes, whatever the archive says of it.

    Attributes:
        members: files and folders.
        member_bytes: size of one file.
        total_bytes: of all together.
        ratio: of what comes out to the archive's own size; a bomb's is in the thousands.
        free_bytes: what may come out whatever the ratio: drawings compress well.
        depth: folders in one another.
    """

    members: int = 2_000_000
    member_bytes: int = 4 * 2**30
    total_bytes: int = 256 * 2**30
    ratio: int = 100
    free_bytes: int = 64 * 2**20
    depth: int = 32


CAPS = Caps()


@dataclass(frozen=True)
class Member:
    """What an archive holds under one name.

    Attributes:
        name: as the archive spells it.
        folder: whether it is one.
        odd: why it is neither a file nor a folder that can be written; None where it is.
        open: gives its content.
    """

    name: str
    folder: bool
    odd: str | None
    open: Callable[[], IO[bytes]]


def unpack(archive: Path, caps: Caps = CAPS) -> Path:
    """Return the folder of classes that a zip or a tar (.gz, .bz2, .xz) holds, unpacked once.

    It lies in the user's cache under the archive's SHA-256. It is written beside that place and
    renamed when it is whole: an extraction that was interrupted leaves nothing that is ever used. A
    single folder around those of the classes is taken off.

    Args:
        archive: a file.
        caps: how much may come out.

    Raises:
        DataError: as `extract`, no such file, or a cache that cannot be written.
    """
    if not os.path.isfile(archive):  # noqa: PTH113 - pathlib raises where a name is too long
        raise DataError(f"data: there is no file {archive}")
    try:
        with archive.open("rb") as file:
            folder = cache_folder() / hashlib.file_digest(file, "sha256").hexdigest()
            if not folder.is_dir():
                _fill(folder, file, archive.name, caps)
        return _inner(folder)
    except OSError as error:
        raise DataError(
            f"data: {archive.name} cannot be unpacked: {error}; set XDG_CACHE_HOME to a folder "
            "with room, or unpack it by hand and use folder:PATH"
        ) from error


def cache_folder() -> Path:
    """Return where unpacked archives lie: `steadymap/archives` in XDG_CACHE_HOME, or in ~/.cache.

    Raises:
        DataError: there is neither.
    """
    chosen = os.environ.get("XDG_CACHE_HOME", "")
    try:
        # The standard has a relative one ignored.
        cache = Path(chosen) if Path(chosen).is_absolute() else Path.home() / ".cache"
    except RuntimeError as error:
        raise DataError(
            "data: archive: there is no home to unpack in; set XDG_CACHE_HOME"
        ) from error
    return cache / "steadymap" / "archives"


def extract(file: IO[bytes], name: str, folder: Path, caps: Caps = CAPS) -> None:
    """Write what an archive holds into an empty folder, and nothing anywhere else.

    A name that means something else on Windows, and two names that it cannot tell apart, are
    refused on every system. Modes, owners and times are left out.

    Args:
        file: the archive; can be read from its beginning.
        name: what messages call it.
        folder: exists and is empty; after an error it may hold some of the files.
        caps: how much may come out.

    Raises:
        DataError: no zip and no tar; broken, cut off or encrypted; a member that is no file or
            folder, whose name is not safe, or is another's but for its case; more than the caps.
        OSError: the folder cannot be written.
    """
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    most = min(caps.total_bytes, max(caps.free_bytes, caps.ratio * size))
    names = _Names(name, caps)
    written = 0
    for member in _reading(name, _members(file, name, most)):
        parts = names.take(member)
        path = folder.joinpath(*parts)
        if member.folder:
            path.mkdir(parents=True, exist_ok=True)
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        own = 0
        with path.open("xb") as target:
            for chunk in _reading(name, _chunks(member)):
                own += len(chunk)
                written += len(chunk)
                if own > caps.member_bytes:
                    raise _refused(name, f"{_shown(member.name)} is over {caps.member_bytes} bytes")
                if written > most:
                    raise _too_much(name, most)
                target.write(chunk)


def check_folder(root: Path, name: str, caps: Caps = CAPS) -> None:
    """Refuse a folder, unpacked by others, that has links out of it or is more than the caps.

    Args:
        root: the folder.
        name: what messages call it.
        caps: how many files and bytes it may have.

    Raises:
        DataError: as above.
    """
    inside = root.resolve()
    count = total = 0
    for parent, folders, files in os.walk(root):
        for entry in (*folders, *files):
            path = Path(parent, entry)
            count += 1
            total += path.lstat().st_size
            if path.is_symlink() and not path.resolve().is_relative_to(inside):
                raise _refused(name, f"{_shown(entry)} is a link that leads out of it")
            if count > caps.members:
                raise _refused(name, f"it has over {caps.members} files and folders")
            if total > caps.total_bytes:
                raise _too_much(name, caps.total_bytes)


# --- names ----------------------------------------------------------------------------------------


def unsafe(name: str) -> str | None:
    """Say why a member of this name may not be written, or return None."""
    parts = _parts(name)
    reasons = {
        "has a NUL in it": "\0" in name,
        "has a backslash in it": "\\" in name,
        "is an absolute path": name.startswith("/"),
        "leads out of the archive": ".." in parts,
        "names a drive": any(map(DRIVE.match, parts)),
        "has a part of dots and spaces": not all(part.strip(". ") for part in parts),
        "is a device on Windows": any(map(RESERVED.fullmatch, parts)),
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def _parts(name: str) -> tuple[str, ...]:
    return tuple(part for part in name.split("/") if part not in ("", "."))


def _folded(part: str) -> str:
    """Return a name as file systems compare them that fold case, accents and trailing dots."""
    return unicodedata.normalize("NFC", part.casefold()).rstrip(". ")


class _Names:
    """Tells good members from bad ones, one after the other."""

    def __init__(self, archive: str, caps: Caps) -> None:
        self.archive = archive
        self.caps = caps
        self.count = 0
        self.seen: dict[str, tuple[str, bool]] = {}

    def take(self, member: Member) -> tuple[str, ...]:
        """Return the parts of a member's path; none for the archive's own folder.

        Raises:
            DataError: as `extract`.
        """
        self.count += 1
        if self.count > self.caps.members:
            raise _refused(self.archive, f"it has over {self.caps.members} files and folders")
        reason = member.odd or unsafe(member.name)
        parts = _parts(member.name)
        if not reason and len(parts) > self.caps.depth:
            reason = f"lies over {self.caps.depth} folders deep"
        if not reason and not parts and not member.folder:
            reason = "is no name for a file"
        if reason:
            raise _refused(self.archive, f"{_shown(member.name)} {reason}")
        for depth in range(1, len(parts) + 1):
            self._see(parts[:depth], folder=member.folder or depth < len(parts))
        return parts

    def _see(self, parts: tuple[str, ...], *, folder: bool) -> None:
        path = "/".join(parts)
        key = "/".join(map(_folded, parts))
        before, was_folder = self.seen.get(key, (None, True))
        if before is None:
            self.seen[key] = (path, folder)
        elif before != path:
            raise _refused(
                self.archive, f"some systems cannot tell {_shown(path)} from {_shown(before)}"
            )
        elif not (folder and was_folder):
            raise _refused(self.archive, f"{_shown(path)} is there twice")


# --- zip and tar ----------------------------------------------------------------------------------


def _members(file: IO[bytes], name: str, most: int) -> Iterator[Member]:
    start = file.read(6)
    file.seek(0)
    if start.startswith(ZIP_STARTS):
        yield from _zip_members(file)
        return
    unpacked = next(unpack for begin, unpack in PACKED.items() if start.startswith(begin))
    with unpacked(file) as opened:
        yield from _tar_members(_Metered(opened, name, most))


def _zip_members(file: IO[bytes]) -> Iterator[Member]:
    with zipfile.ZipFile(file) as opened:
        for info in opened.infolist():
            # `filename` is without what follows a NUL.
            name = info.orig_filename
            kind = stat.S_IFMT(info.external_attr >> 16)
            odd = None
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                odd = f"is {ZIP_KINDS.get(kind, 'no file')}"
            elif info.flag_bits & 1:
                odd = "is encrypted"

            def content(info: zipfile.ZipInfo = info) -> IO[bytes]:
                return opened.open(info)

            yield Member(name, name.endswith("/"), odd, content)


def _tar_members(file: _Metered) -> Iterator[Member]:
    try:
        opened = tarfile.open(fileobj=file, mode="r:")  # noqa: SIM115 - closed below
    except tarfile.ReadError as error:
        raise _refused(file.name, "it is neither a zip nor a tar (.gz, .bz2, .xz)") from error
    with opened:
        while (info := opened.next()) is not None:
            # What came before is not asked for again: a million members would fill the memory.
            opened.members.clear()  # type: ignore[attr-defined] # as old as tarfile, in no stub
            odd = None
            if info.issparse():
                odd = "is a sparse file"
            elif not (info.isreg() or info.isdir()):
                odd = f"is {TAR_KINDS.get(info.type, 'no file')}"

            def content(info: tarfile.TarInfo = info) -> IO[bytes]:
                inside = opened.extractfile(info)
                if inside is None:
                    raise TypeError(f"{info.name!r} is no file")
                return inside

            yield Member(info.name, info.isdir(), odd, content)
    # tarfile takes any end for the end.
    if file.last != bytes(tarfile.BLOCKSIZE):
        raise _refused(file.name, "it is cut off")
    # Only at its own end does a compressed file say whether it is whole.
    while file.read(CHUNK):
        pass


class _Metered(io.RawIOBase):
    """A tar that is read once, forwards, and counted."""

    def __init__(self, file: Tar, name: str, most: int) -> None:
        super().__init__()
        self.file = file
        self.name = name
        self.most = most
        self.count = 0
        self.last = b""

    def tell(self) -> int:
        return self.count

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        if whence != io.SEEK_SET or offset < self.count:
            raise io.UnsupportedOperation("it can be read forwards alone")
        while self.count < offset and self.read(min(CHUNK, offset - self.count)):
            pass
        return self.count

    def read(self, size: int = -1, /) -> bytes:
        if not 0 <= size <= CHUNK:
            raise _refused(self.name, f"it tells {size} bytes of one member")
        self.last = self.file.read(size)
        self.count += len(self.last)
        if self.count > self.most:
            raise _too_much(self.name, self.most)
        return self.last


def _chunks(member: Member) -> Iterator[bytes]:
    with member.open() as content:
        while chunk := content.read(CHUNK):
            yield chunk


def _reading(name: str, items: Iterator[T]) -> Iterator[T]:
    """Yield what comes out of an archive; what the libraries raise meanwhile is its fault."""
    try:
        yield from items
    except DataError:
        raise
    except Exception as error:  # each format's library has several kinds
        raise _refused(name, f"it is broken ({one_line(error)})") from error


# --- folders --------------------------------------------------------------------------------------


def _fill(folder: Path, file: IO[bytes], name: str, caps: Caps) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix="part-", dir=folder.parent))
    try:
        extract(file, name, part, caps)
        try:
            part.rename(folder)
        except OSError:
            # Another process was faster.
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _inner(folder: Path) -> Path:
    """Go down while one folder holds nothing but one that holds folders."""
    inside = _folders(folder)
    while len(inside) == 1 and _folders(inside[0]):
        folder, inside = inside[0], _folders(inside[0])
    return folder


def _folders(folder: Path) -> list[Path]:
    """Return the visible subfolders; macOS' own copy of attributes is none."""
    return [
        path
        for path in folder.iterdir()
        if path.is_dir() and not path.name.startswith(".") and path.name != "__MACOSX"
    ]


def _refused(name: str, reason: str) -> DataError:
    return DataError(f"data: {name} is refused: {' '.join(reason.split())}")


def _too_much(name: str, most: int) -> DataError:
    return _refused(name, f"over {most} bytes come out of it")


def _shown(name: str) -> str:
    """Quote a name on one line, shortened."""
    return f"{name[:LONGEST_SHOWN]!a}{'...' * (len(name) > LONGEST_SHOWN)}"
