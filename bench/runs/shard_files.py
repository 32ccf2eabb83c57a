"""The files in which the shards of a run are kept: written whole or not at all.

A file has the hash of its content in its name, so that whoever reads it sees whether it is whole.
"""

from __future__ import annotations

import errno
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import Any

import filelock
import pyarrow as pa
import pyarrow.parquet as pq

from steadymap.bench.core import errors, files
from steadymap.bench.core.machine import fingerprint
from steadymap.bench.records.schema import PART_SCHEMA

PARTS = "parts"
LOCK = "run.lock"
KEY = b"steadymap"
KEY_LENGTH = 24

ASIDE = ".damaged"

UNREADABLE = (pa.ArrowException, ValueError, TypeError, KeyError)
# A file that cannot be read for another reason than these two, being gone or a fault of the disk,
# may be as whole as it was.
LOST = (errno.ENOENT, errno.EIO)


@dataclass(frozen=True)
class ShardInfo:
    """What is kept of a shard beside its records.

    Attributes:
        units: names of the units that it has, whether they failed or not.
        failed: those of them that are worth another try.
        timings: rows (family, severity, draw, part, images, seconds).
        machine: what the timings depend on.
        seconds: by the clock, since the shard before was written.
        at_once: the fewest images that went through the network together.
        halved: how many times that was halved because memory ran out.
        maps: the SHA-256 of the file of maps beside it; "" where there is none.
        measured_at: when it was computed, UTC, ISO 8601; "" where nobody wrote that down.
    """

    units: tuple[str, ...]
    failed: tuple[str, ...] = ()
    timings: tuple[tuple[object, ...], ...] = ()
    machine: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    at_once: int = 0
    halved: int = 0
    maps: str = ""
    measured_at: str = ""

    @property
    def machine_id(self) -> str:
        """Eight digits that stand for the machine."""
        return fingerprint(self.machine)


@dataclass(frozen=True)
class Part:
    """A file that has a shard's records.

    Attributes:
        path: of the file.
        about: what is kept beside the records.
    """

    path: Path
    about: ShardInfo

    @property
    def maps(self) -> Path | None:
        """The file of maps beside it."""
        return maps_path(self.path, self.about.maps) if self.about.maps else None


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Be the one process that writes into the folder of a run.

    The kernel lets go of the lock when its holder ends, however it ends.

    Raises:
        ConfigError: another one is.
    """
    lock = filelock.FileLock(folder / LOCK, timeout=0)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise errors.ConfigError(
            f"output: another run is writing into {folder}; wait for it, or choose another folder"
        ) from None
    except (OSError, NotImplementedError) as error:
        raise errors.ConfigError(f"output: {folder} cannot be locked: {error}") from error
    try:
        yield
    finally:
        lock.release()


@dataclass(frozen=True)
class Kept:
    """The files of shards that a folder has, each of one block of images.

    Attributes:
        paths: by the key of a block.
        say: called with a line on each file that is damaged.
        is_ours: whether what is damaged is put under another name, out of the way.
        seen: files of maps that have been found whole.
    """

    paths: Mapping[str, tuple[Path, ...]]
    say: Callable[[str], None]
    is_ours: bool = False
    seen: set[Path] = field(default_factory=set)

    def of(self, block: Sequence[str]) -> list[Part]:
        """Return what there is of a block; a file that is damaged is left out, and it is said.

        Raises:
            ConfigError: the system does not let one be read.
        """
        return self.read(self.paths.get(block_key(block), ()))

    def read(self, paths: Sequence[Path]) -> list[Part]:
        """Return what is known of shards, as `of` does."""
        parts = []
        for path in paths:
            try:
                parts.append(self._part(path))
            except errors.ConfigError:  # which says what is short, not what is damaged
                raise
            except UNREADABLE as error:
                self._leave_out(path, errors.message_of(error))
        return parts

    def _part(self, path: Path) -> Part:
        """Return what is known of a shard, once its files are known to be whole.

        Raises:
            ValueError, ...: they are not.
            ConfigError: the system does not let one be read.
        """
        part = Part(path, _about(path, _content(path)))
        if part.maps and part.maps not in self.seen:
            if _hash(part.maps) != part.about.maps:
                raise ValueError(f"{part.maps.name} is not what was written")
            self.seen.add(part.maps)
        return part

    def _leave_out(self, path: Path, reason: str) -> None:
        if not self.is_ours:
            self.say(f"{path} is damaged and left out: {reason}")
            return
        with suppress(FileNotFoundError):
            path.replace(path.with_name(path.name + ASIDE))
        self.say(f"{path.name} is damaged, set aside and will be computed again: {reason}")


def kept(folder: Path, say: Callable[[str], None] | None = None, *, is_ours: bool = False) -> Kept:
    """Return what files there are; nothing is read yet.

    Args:
        folder: of the run.
        say: called with a line on each file that is damaged.
        is_ours: whether this process writes into it, and puts damaged files aside.

    Raises:
        ConfigError: the folder cannot be read.
    """
    by_block: dict[str, list[Path]] = {}
    for path in files.listed(folder / PARTS):
        if path.suffix == ".parquet" and not path.name.startswith("."):
            by_block.setdefault(path.name.partition("-")[0], []).append(path)
    paths = {key: tuple(paths) for key, paths in by_block.items()}
    return Kept(paths, say or (lambda _line: None), is_ours)


def block_key(block: Sequence[str]) -> str:
    """Return what stands for the images of a block in names of files."""
    return _digest(block)[:KEY_LENGTH]


def write_part(folder: Path, block: Sequence[str], table: pa.Table, about: ShardInfo) -> Path:
    """Write what a shard has of one block; return the file.

    Args:
        folder: of the run.
        block: ids of the images.
        table: its records, with `PART_SCHEMA`.
        about: the rest.

    Raises:
        ConfigError: it cannot be written.
    """
    text = json.dumps(
        {
            "units": about.units,
            "failed": about.failed,
            "timings": about.timings,
            "machine": dict(about.machine),
            "seconds": about.seconds,
            "at_once": about.at_once,
            "halved": about.halved,
            "maps": about.maps,
            "measured_at": about.measured_at,
        }
    )
    sink = pa.BufferOutputStream()
    pq.write_table(table.replace_schema_metadata({KEY: text}), sink)
    content = sink.getvalue().to_pybytes()
    stem = part_stem(block, about.units)
    path = folder / PARTS / f"{stem}-{hashlib.sha256(content).hexdigest()[:KEY_LENGTH]}.parquet"
    files.write_whole(path, content)
    # What there was of the same units, and its maps.
    current = {path, maps_path(path, about.maps)}
    for old in files.listed(path.parent):
        if old.name.startswith(f"{stem}-") and old not in current and old.suffix != ASIDE:
            old.unlink()
    return path


def part_stem(block: Sequence[str], units: Sequence[str]) -> str:
    """Return how the names of a shard's files begin: with its block, and its units together."""
    return f"{block_key(block)}-{_digest(sorted(units))[:KEY_LENGTH]}"


def maps_path(path: Path, digest: str) -> Path:
    """Return the file of maps beside that of a shard's records, by the hash of its content."""
    stem = path.name.rpartition("-")[0]
    return path.with_name(f"{stem}-{digest[:KEY_LENGTH]}.safetensors")


def _digest(names: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(names).encode()).hexdigest()


def tidy(folder: Path) -> None:
    """Remove what a process that was killed had begun to write."""
    for home in (folder, folder / PARTS):
        for path in home.glob(f".*{files.TEMPORARY}"):
            with suppress(OSError):
                path.unlink()


def _content(path: Path) -> bytes:
    """Return what is in the file of a shard, of which its name says the hash.

    Raises:
        ValueError: it is not that, or is gone.
        ConfigError: the system does not let it be read.
    """
    with _reading(path):
        content = path.read_bytes()
    if hashlib.sha256(content).hexdigest()[:KEY_LENGTH] != path.stem.rpartition("-")[2]:
        raise ValueError("it is not what was written")
    return content


def _hash(path: Path) -> str:
    """Return the SHA-256 of a file, as `_content` reads one."""
    with _reading(path):
        return files.sha256_of(path)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Tell a file that is lost from a system that lacks something, handles of files for example.

    Raises:
        ValueError: it is gone, or the disk has lost it.
        ConfigError: anything else.
    """
    try:
        yield
    except OSError as error:
        if error.errno in LOST:
            raise ValueError(f"{path.name}: {errors.cause_of(error)}") from error
        raise errors.ConfigError(
            f"{path} cannot be read: {errors.cause_of(error)}; mend that, and the same command "
            "goes on"
        ) from error


def _about(path: Path, content: bytes) -> ShardInfo:
    schema = pq.read_schema(pa.BufferReader(content))
    if not schema.equals(PART_SCHEMA):
        raise ValueError("its columns are not those of records")
    known = json.loads((schema.metadata or {})[KEY])
    about = ShardInfo(
        tuple(map(str, known["units"])),
        tuple(map(str, known["failed"])),
        tuple(map(tuple, known["timings"])),
        dict(known["machine"]),
        float(known["seconds"]),
        int(known["at_once"]),
        int(known["halved"]),
        str(known["maps"]),
        # Files from before 0.2.0 do not say.
        str(known.get("measured_at", "")),
    )
    if path.stem.split("-")[1] != _digest(sorted(about.units))[:KEY_LENGTH]:
        raise ValueError("it is not the shard that its name says")
    return about


def read_records(part: Part) -> pa.Table:
    """Return the records of a shard.

    Raises:
        ConfigError: the file has been damaged since it was looked at.
    """
    try:
        table = pq.read_table(pa.BufferReader(_content(part.path)))
        return table.cast(PART_SCHEMA).replace_schema_metadata()
    except errors.ConfigError:  # as above
        raise
    except UNREADABLE as error:
        raise errors.ConfigError(
            f"{part.path} is damaged ({errors.message_of(error)}); the same command sets it aside "
            "and computes it again"
        ) from error


def timing_rows(timings: Sequence[Any]) -> tuple[tuple[object, ...], ...]:
    """Return timings as they are kept."""
    return tuple((*astuple(t.cell), t.part, t.images, t.seconds) for t in timings)
