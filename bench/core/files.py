"""Files that are written whole or not at all, and that stay inside their folder."""

from __future__ import annotations

import hashlib
import io
import json
import os
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from steadymap.bench.core import errors, names


def write_file(path: Path, content: str | bytes) -> None:
    """Write a file.

    Raises:
        ConfigError: that cannot be done.
    """
    try:
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    except (OSError, ValueError) as error:  # a path with a NUL in it is no value
        name = names.printable(str(path))
        raise errors.ConfigError(
            f"output: cannot write {name}: {errors.cause_of(error)}"
        ) from error


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON that people can read and git can compare.

    Raises:
        ConfigError: that cannot be done.
    """
    write_file(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def refuse_links(folder: Path) -> None:
    """See that nothing that is written into a folder could end up outside.

    The folder itself may be a link: where a run goes is its user's choice. What lies in it may have
    come from elsewhere.

    Raises:
        ConfigError: a link in it leads out of it.
    """
    home = os.path.realpath(folder)
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() and not Path(os.path.realpath(path)).is_relative_to(home):
            raise errors.ConfigError(
                f"output: {path} is a link that leads out of {folder}; remove it, or choose "
                "another folder"
            )


TEMPORARY = ".tmp"


def make_folder(folder: Path) -> None:
    """Make a folder and those above it.

    Raises:
        ConfigError: that cannot be done.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:  # as above
        name = names.printable(str(folder))
        raise errors.ConfigError(
            f"output: cannot make the folder {name}: {errors.cause_of(error)}"
        ) from error


class _Hashed(io.BufferedWriter):
    """A file that is being written, and the hash of what was written into it so far."""

    def __init__(self, raw: io.RawIOBase) -> None:
        super().__init__(raw)
        self.hash = hashlib.sha256()

    def write(self, content: Any, /) -> int:  # noqa: ANN401 - bytes, or what has them
        self.hash.update(content)
        return super().write(content)


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, which is never whole in memory.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_whole(path: Path, content: bytes | Callable[[IO[bytes]], object]) -> str:
    """Write a file under another name, wait until it is on the disk, and rename it.

    Whoever looks sees the old file or the new one, even after a power cut. It is read once more
    before it is renamed: what is there is what was written.

    Args:
        path: the file.
        content: what is in it, or writes it into an open file, from its beginning to its end.

    Returns:
        Its SHA-256.

    Raises:
        ConfigError: that cannot be done; what was there is as it was.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}{TEMPORARY}")
    try:
        with _Hashed(temporary.open("xb", buffering=0)) as file:
            if isinstance(content, bytes):
                file.write(content)
            else:
                content(file)
            file.flush()
            os.fsync(file.fileno())
        digest = file.hash.hexdigest()
        _see_whole(temporary, digest)
        temporary.replace(path)
        _sync(path.parent)
    except (OSError, pa.ArrowException) as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise errors.ConfigError(
            f"output: cannot write into {path.parent}: {errors.cause_of(error)}; what was there is "
            "whole, and the same command goes on"
        ) from error
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    return digest


def _see_whole(path: Path, digest: str) -> None:
    """See that a file has this hash.

    Raises:
        OSError: it has another.
    """
    if sha256_of(path) != digest:
        raise OSError("what is there is not what was written")


def listed(folder: Path) -> list[Path]:
    """Return what is in a folder, by name; of one that is not there, nothing.

    `Path.glob` takes a folder that cannot be read for an empty one.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        return sorted(folder.iterdir())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise errors.ConfigError(
            f"{folder} cannot be read: {errors.cause_of(error)}; mend that, and give the same "
            "command again"
        ) from error


def _sync(folder: Path) -> None:
    """Have the folder's list of files on the disk, where the system can do that."""
    if os.name == "nt":  # a folder cannot be opened there
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
