"""The files in which the shards of a run are kept: written whole or not at all."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import Any

import filelock
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import SafetensorError, safe_open

from steadymap.bench.core import errors, files
from steadymap.bench.core.machine import fingerprint
from steadymap.bench.records.schema import PART_SCHEMA

PARTS = "parts"
LOCK = "run.lock"
KEY = b"steadymap"
KEY_LENGTH = 24

UNREADABLE = (pa.ArrowException, OSError, ValueError, TypeError, KeyError)


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
        maps: whether there is a file of maps beside it.
    """

    units: tuple[str, ...]
    failed: tuple[str, ...] = ()
    timings: tuple[tuple[object, ...], ...] = ()
    machine: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    at_once: int = 0
    halved: int = 0
    maps: bool = False

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
    """

    paths: Mapping[str, tuple[Path, ...]]
    say: Callable[[str], None]

    def of(self, block: Sequence[str]) -> list[Part]:
        """Return what there is of a block; a file that is damaged is left out, and it is said."""
        return read_parts(self.paths.get(block_key(block), ()), self.say)


def kept(folder: Path, say: Callable[[str], None] | None = None) -> Kept:
    """Return what files there are; nothing is read yet."""
    by_block: dict[str, list[Path]] = {}
    for path in sorted((folder / PARTS).glob("*.parquet")):
        by_block.setdefault(path.name.partition("-")[0], []).append(path)
    return Kept({key: tuple(paths) for key, paths in by_block.items()}, say or (lambda _line: None))


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
        }
    )
    described = table.replace_schema_metadata({KEY: text})
    path = folder / PARTS / f"{part_name(block, about.units)}.parquet"
    files.write_whole(path, lambda file: pq.write_table(described, file, write_page_checksum=True))
    return path


def part_name(block: Sequence[str], units: Sequence[str]) -> str:
    """Return the name of a file: that of its block, and of its units together."""
    return f"{block_key(block)}-{_digest(sorted(units))[:KEY_LENGTH]}"


def _digest(names: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(names).encode()).hexdigest()


def tidy(folder: Path) -> None:
    """Remove what a process that was killed had begun to write."""
    for home in (folder, folder / PARTS):
        for path in home.glob(f".*{files.TEMPORARY}"):
            with suppress(OSError):
                path.unlink()


def read_parts(paths: Iterable[Path], say: Callable[[str], None]) -> list[Part]:
    """Return what is known of shards; one that is damaged is left out, and it is said."""
    parts = []
    for path in paths:
        try:
            parts.append(Part(path, _about(path)))
        except (*UNREADABLE, SafetensorError) as error:
            say(f"{path.name} is damaged and will be computed again: {errors.message_of(error)}")
    return parts


def _about(path: Path) -> ShardInfo:
    schema = pq.read_schema(path)
    if not schema.equals(PART_SCHEMA):
        raise ValueError("its columns are not those of records")
    content = json.loads((schema.metadata or {})[KEY])
    about = ShardInfo(
        tuple(map(str, content["units"])),
        tuple(map(str, content["failed"])),
        tuple(map(tuple, content["timings"])),
        dict(content["machine"]),
        float(content["seconds"]),
        int(content["at_once"]),
        int(content["halved"]),
        bool(content["maps"]),
    )
    if about.maps:
        with safe_open(path.with_suffix(".safetensors"), framework="np"):
            pass  # its length is what its header says
    if path.stem.partition("-")[2] != _digest(sorted(about.units))[:KEY_LENGTH]:
        raise ValueError("it is not the shard that its name says")
    return about


def read_records(part: Part) -> pa.Table:
    """Return the records of a shard.

    Raises:
        ConfigError: the file is damaged; it is set aside, and missing from then on.
    """
    try:
        table = pq.read_table(part.path, page_checksum_verification=True)
        return table.cast(PART_SCHEMA).replace_schema_metadata()
    except (pa.ArrowException, OSError, ValueError) as error:
        with suppress(OSError):
            part.path.replace(part.path.with_suffix(".damaged"))
        raise errors.ConfigError(
            f"{part.path} is damaged ({errors.message_of(error)}) and set aside; the same command "
            "computes it again"
        ) from error


def timing_rows(timings: Sequence[Any]) -> tuple[tuple[object, ...], ...]:
    """Return timings as they are kept."""
    return tuple((*astuple(t.cell), t.part, t.images, t.seconds) for t in timings)
