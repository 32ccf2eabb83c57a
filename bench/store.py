"""The folder of a run: records, manifest, summary and, if asked for, the maps themselves."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from steadymap.bench.assembly import Assembled, assemble, timing_table
from steadymap.bench.config import ConfigError
from steadymap.bench.keeping import write_maps
from steadymap.bench.ledger import Ledger, different
from steadymap.bench.parts import LOCK, PARTS, Part, make_folder, read_parts, tidy, write_whole
from steadymap.bench.records import SCHEMA, SCHEMA_VERSION, to_frame

RECORDS = "records.parquet"
MANIFEST = "manifest.json"
LEDGER = "ledger.json"
TIMINGS = "timings.csv"
MAPS = "maps"

# What every manifest has.
NEEDED = (
    "schema_version", "run_id", "configuration", "methods", "severities", "model", "data",
    "versions", "machine", "statuses",
)  # fmt: skip

MANY = 3


def claim_folder(folder: Path, ledger: Ledger) -> None:
    """See that a folder is empty, or holds a run that this one can go on with; by its only writer.

    Raises:
        ConfigError: the folder holds something else.
    """
    # Not those with a dot in front: .DS_Store and the like say nothing.
    there = sorted(one.name for one in folder.iterdir() if one.name[0] != "." and one.name != LOCK)
    if LEDGER in there:
        held, _ = read_ledger(folder)
        if differing := different(held, ledger):
            raise ConfigError(
                f"output: {folder} holds {held.run_id}, which has another {', '.join(differing)} "
                f"than this run; choose another folder"
            )
    elif there and _held_run(folder) != ledger.run_id:
        few = ", ".join(there[:MANY]) + (", ..." if len(there) > MANY else "")
        raise ConfigError(
            f"output: {folder} already holds files that are not of this run ({few}); choose "
            "another folder"
        )


def begin(folder: Path, ledger: Ledger, manifest: Mapping[str, Any]) -> None:
    """Write down what a run consists of, before anything of it is computed.

    Args:
        folder: of the run.
        ledger: what it consists of.
        manifest: as far as it is known.
    """
    make_folder(folder / PARTS)
    tidy(folder)
    content = {"ledger": ledger.to_json(), "manifest": dict(manifest)}
    text = json.dumps(content, ensure_ascii=False).encode()
    write_whole(folder / LEDGER, lambda file: file.write(text))


def forget(folder: Path, ledger: Ledger) -> None:
    """Remove the shards that have units of a run: they are to be computed again."""
    units = set(ledger.units())
    for part in read_parts(folder, lambda _line: None):
        if units & set(part.about.units):
            part.path.unlink()


def read_ledger(folder: Path) -> tuple[Ledger, dict[str, Any]]:
    """Read what the run of a folder consists of, and its manifest as far as it was known.

    Raises:
        ConfigError: it is not there, or is damaged.
    """
    path = folder / LEDGER
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        ledger, manifest = content["ledger"], dict(content["manifest"])
    except OSError as error:
        raise ConfigError(f"{folder} holds no run that can go on: no {LEDGER}") from error
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ConfigError(f"{path} is damaged: {_line(error)}") from error
    return Ledger.from_json(ledger, path), manifest


def take_over(source: Path, folder: Path, say: Callable[[str], None]) -> None:
    """Copy the shards of another folder of the same run.

    Raises:
        ConfigError: one cannot be read, or not written.
    """
    for part in read_parts(source, say):
        for path in (part.path.with_suffix(".safetensors"), part.path):
            if path.is_file() and not (folder / PARTS / path.name).exists():
                content = path.read_bytes()
                write_whole(folder / PARTS / path.name, _writes(content))


def _writes(content: bytes) -> Callable[[IO[bytes]], object]:
    return lambda file: file.write(content)


def finish(
    folder: Path,
    ledger: Ledger,
    where: Mapping[str, Part],
    describe: Callable[[Assembled], dict[str, Any]],
) -> Assembled:
    """Put the table of a run together from its shards, and write it with its manifest.

    A table and a manifest that are there already stay until the new ones are whole.

    Args:
        folder: of the run.
        ledger: what belongs into it.
        where: by the name of a unit, the shard that has it.
        describe: returns the manifest.

    Raises:
        ConfigError: something cannot be written, or a shard is damaged.
    """
    coming = folder / f".{RECORDS}"
    found = assemble(coming, ledger, where)
    timings = timing_table(list(found.parts.values()))
    manifest = describe(found)
    text = timings.to_csv(index=False, float_format="%.6f").encode()
    write_whole(folder / TIMINGS, lambda file: file.write(text))
    if any(part.about.maps for part in found.parts.values()):
        write_maps(folder / MAPS, ledger, where)
    coming.replace(folder / RECORDS)
    content = (json.dumps(manifest, indent=2, ensure_ascii=False) + "\n").encode()
    write_whole(folder / MANIFEST, lambda file: file.write(content))
    return found


def _held_run(folder: Path) -> str | None:
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return str(manifest["run_id"]) if isinstance(manifest, dict) and "run_id" in manifest else None


def read_run(folder: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Read a finished run: its records and its manifest.

    Raises:
        ConfigError: no finished run there, or one that is damaged or of another schema version.
    """
    if not (folder / RECORDS).is_file() or not (folder / MANIFEST).is_file():
        raise ConfigError(f"{folder} holds no finished run ({RECORDS} and {MANIFEST})")
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        missing = [key for key in NEEDED if key not in manifest]
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{folder / MANIFEST} is damaged: {_line(error)}") from error
    if missing:
        raise ConfigError(f"{folder / MANIFEST} is damaged: it lacks {', '.join(missing)}")
    if manifest["schema_version"] != SCHEMA_VERSION:
        raise ConfigError(
            f"{folder / MANIFEST} has schema version {manifest['schema_version']}, this steadymap "
            f"reads {SCHEMA_VERSION}: run it again"
        )
    try:
        table = pq.read_table(folder / RECORDS).cast(SCHEMA)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise ConfigError(f"{folder / RECORDS} is damaged: {_line(error)}") from error
    return to_frame(table), manifest


def read_csv(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    """Read a CSV of a run, whose names and identifiers are text.

    Raises:
        ConfigError: it is not there, is cut, or lacks a column.
    """
    text = dict.fromkeys(("image_id", "method", "family", "kind", "part", "machine"), str)
    try:
        table = pd.read_csv(path, dtype=text)
    except (OSError, ValueError) as error:  # pandas' own errors are ValueErrors
        raise ConfigError(f"{path} is damaged: {_line(error)}") from error
    missing = [column for column in columns if column not in table]
    if missing or table[list(columns)].isna().any(axis=None):
        raise ConfigError(f"{path} is damaged: values of {', '.join(missing or columns)} are gone")
    return table


def write_file(path: Path, content: str | bytes) -> None:
    """Write a file.

    Raises:
        ConfigError: that cannot be done.
    """
    try:
        if isinstance(content, str):
            path.write_text(content, encoding="utf-8")
        else:
            path.write_bytes(content)
    except OSError as error:
        raise ConfigError(f"output: cannot write {path}: {error.strerror}") from error


def _line(error: Exception) -> str:
    """Return what an exception says, in one line."""
    return " ".join(str(error).split()) or type(error).__name__
