"""Files that are written whole or not at all, and that stay inside their folder."""

from __future__ import annotations

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


def write_whole(path: Path, content: bytes | Callable[[IO[bytes]], object]) -> None:
    """Write a file under another name, wait until it is on the disk, and rename it.

    Whoever looks sees the old file or the new one, even after a power cut.

    Args:
        path: the file.
        content: what is in it, or writes it into an open file.

    Raises:
        ConfigError: that cannot be done; what was there is as it was.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}{TEMPORARY}")
    try:
        with temporary.open("xb") as file:
            if isinstance(content, bytes):
                file.write(content)
            else:
                content(file)
            file.flush()
            os.fsync(file.fileno())
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


def _sync(folder: Path) -> None:
    """Have the folder's list of files on the disk, where the system can do that."""
    if os.name == "nt":  # a folder cannot be opened there
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
