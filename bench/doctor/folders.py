"""Probes of caches, folders and file systems."""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from steadymap.bench.core import console, errors
from steadymap.bench.doctor import devices, facts

LEAST_DISK = 1 << 30

# What a walk through a cache looks at, at most.
MOST_FILES = 20_000
MOST_SECONDS = 0.5


@dataclass(frozen=True)
class Cache:
    """Where a library keeps what it has downloaded or worked out.

    Attributes:
        holds: what is in it.
        default: makes its folder of the home folder.
    """

    holds: str
    default: Callable[[Path], Path]


def _user_cache(home: Path) -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache")


def _matplotlib_cache(home: Path) -> Path:
    linux = platform.system() == "Linux"
    return _user_cache(home) / "matplotlib" if linux else home / ".matplotlib"


# By the variable that moves it.
CACHES: dict[str, Cache] = {
    "TORCH_HOME": Cache(
        "weights and data of torchvision", lambda home: _user_cache(home) / "torch"
    ),
    "HF_HOME": Cache("timm and the hub", lambda home: _user_cache(home) / "huggingface"),
    "KAGGLEHUB_CACHE": Cache("Kaggle's data", lambda home: home / ".cache" / "kagglehub"),
    "MPLCONFIGDIR": Cache("matplotlib's fonts", _matplotlib_cache),
}


def probe_caches() -> Iterator[facts.Fact]:
    """Yield where libraries keep what they download, how much it is, and whether they can."""
    for variable in CACHES:
        advice = f"set {variable} to a folder that can be written"
        yield from facts.look(facts.Probe(variable, partial(_cache, variable), False, advice))


def _cache(variable: str) -> Iterator[facts.Fact]:
    chosen, cache = os.environ.get(variable), CACHES[variable]
    folder = Path(os.path.expandvars(chosen)).expanduser() if chosen else cache.default(Path.home())
    value = f"{folder} ({cache.holds})"
    advice = f"set {variable} to a folder that can be written"
    if folder.exists():
        size, complete = folder_size(folder)
        value += f": {'' if complete else 'at least '}{devices.size_text(size)}"
        why = why_not_writable(folder)
        if why is None:
            yield facts.Fact(variable, value, number=size)
        else:
            yield facts.Fact(
                variable, f"{value}, cannot be written: {why}", "warning", advice, size
            )
        return
    above = next(path for path in folder.absolute().parents if path.exists())
    if above.is_dir() and os.access(above, os.W_OK):
        yield facts.Fact(variable, f"{value}: not there yet, can be made", "missing")
    else:
        yield facts.Fact(variable, f"{value}: not there, and cannot be made", "warning", advice)


def folder_size(
    folder: Path, most: int = MOST_FILES, seconds: float = MOST_SECONDS
) -> tuple[int, bool]:
    """Return the bytes of a folder's files, and whether all were looked at; links are not followed.

    Args:
        folder: where.
        most: files and folders to look at.
        seconds: to spend on it: a folder of the network may be slow.
    """
    size, seen, waiting, end = 0, 0, [folder], time.monotonic() + seconds
    while waiting:
        try:
            entries = list(os.scandir(waiting.pop()))
        except OSError:  # gone meanwhile, or closed to us: what cannot be seen is not counted
            continue
        for entry in entries:
            seen += 1
            if seen > most or time.monotonic() > end:
                return size, False
            if entry.is_dir(follow_symlinks=False):
                waiting.append(Path(entry.path))
            elif entry.is_file(follow_symlinks=False):
                size += entry.stat(follow_symlinks=False).st_size
    return size, True


def why_not_writable(folder: Path) -> str | None:
    """Return why no file can be made in a folder, None where one can; it is removed again."""
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".steadymap-") as file:
            file.write(b"steadymap")
            file.flush()
    except OSError as error:
        return errors.cause_of(error)
    return None


def probe_folders() -> Iterator[facts.Fact]:
    """Yield what can be done where runs and temporary files go."""
    chosen = "give --output FOLDER, one that can be written"
    places: tuple[tuple[str, Callable[[], Path], str], ...] = (
        ("current folder", Path.cwd, chosen),
        (f"{console.RUNS}/", lambda: console.RUNS, chosen),
        ("temporary folder", lambda: Path(tempfile.gettempdir()), "set TMPDIR to one"),
    )
    for name, where, advice in places:
        if name == f"{console.RUNS}/" and not console.RUNS.exists():
            yield facts.Fact(name, "not there yet: a run makes it in the current folder", "missing")
        else:
            yield from facts.look(
                facts.Probe(name, partial(_folder, name, where, advice), False, advice)
            )


def _folder(name: str, where: Callable[[], Path], advice: str) -> Iterator[facts.Fact]:
    # Where a person works is nobody's business: the path is not shown.
    folder = where()
    free = shutil.disk_usage(folder).free
    value = f"{devices.size_text(free)} free"
    broken = what_fails(folder)
    if broken:
        yield facts.Fact(name, f"{value}; {'; '.join(broken)}", "warning", advice, free)
    elif free < LEAST_DISK:
        advice = "downloads and kept maps may not fit: make room, or go elsewhere with --output"
        yield facts.Fact(name, value, "warning", advice, free)
    else:
        yield facts.Fact(name, f"{value}; files can be written, renamed and locked", number=free)


def what_fails(folder: Path) -> list[str]:
    """Return what cannot be done in a folder of what a run does there; nothing of it stays.

    A run writes files, and renames them over older ones at its end; libraries lock theirs.
    """
    try:
        with tempfile.TemporaryDirectory(dir=folder, prefix=".steadymap-") as home:
            first, second = Path(home) / "first", Path(home) / "second"
            first.write_bytes(b"new")
            second.write_bytes(b"old")
            return [*_fails_to_rename(first, second), *_fails_to_lock(second)]
    except OSError as error:
        return [f"no file can be written: {errors.cause_of(error)}"]


def _fails_to_rename(first: Path, second: Path) -> list[str]:
    try:
        first.replace(second)
    except OSError as error:
        return [f"no file can be renamed: {errors.cause_of(error)}"]
    return [] if second.read_bytes() == b"new" else ["a renamed file has its old content"]


def _fails_to_lock(path: Path) -> list[str]:
    try:
        import fcntl
    except ImportError:  # Windows locks in another way
        return []
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            return [f"no file can be locked (flock): {errors.cause_of(error)}"]
    return []


def probe_network() -> Iterator[facts.Fact]:
    """Yield that the network is left alone."""
    yield facts.Fact("network", "not touched: nothing was asked of it, nothing is known of it")
