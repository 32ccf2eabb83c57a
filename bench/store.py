"""The folder of a run: records, manifest, summary and, if asked for, the maps themselves."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from steadymap.bench.assembly import Assembled, assemble, write_timings
from steadymap.bench.core.names import printable
from steadymap.bench.core.safe_csv import parse_csv
from steadymap.bench.keeping import write_maps
from steadymap.bench.ledger import Ledger, different
from steadymap.bench.parts import (
    LOCK,
    PARTS,
    kept,
    make_folder,
    read_parts,
    read_records,
    tidy,
    write_whole,
)
from steadymap.bench.plan.plan import ConfigError
from steadymap.bench.records.manifest_schema import NEEDED, misshapen
from steadymap.bench.records.schema import SCHEMA, SCHEMA_VERSION, to_frame

RECORDS = "records.parquet"
MANIFEST = "manifest.json"
LEDGER = "ledger.json"
TIMINGS = "timings.csv"
MAPS = "maps"


MESSAGE_LENGTH = 300

# Columns of CSV files that hold names and identifiers.
TEXTS = ("image_id", "method", "family", "metric", "kind", "part", "machine")
# Columns of the records that may be missing: classes, where there is none.
NULLABLE = ("label", "target", "pred_clean", "pred_perturbed")
# A row takes a byte or two; a file that unpacks to more than this would fill the memory.
MOST_ROWS_A_BYTE = 1000
# Names of files in a message.
MANY = 3


def claim_folder(folder: Path, ledger: Ledger) -> None:
    """See that a folder is empty, or holds a run that this one can go on with; by its only writer.

    Raises:
        ConfigError: the folder holds something else, or a link that leads out of it.
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
    refuse_links(folder)


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


def forget(folder: Path, ledger: Ledger, mine: Callable[[int], bool]) -> None:
    """Remove the shards that have units of a run: they are to be computed again.

    Args:
        folder: of the run.
        ledger: what it consists of.
        mine: by the place of a block, whether it is to be computed here.
    """
    there = kept(folder)
    for place, (block, views) in enumerate(ledger.pieces()):
        # What is computed in other ways comes last, and belongs to the first block.
        if not mine(place if place < len(ledger.blocks) else 0):
            continue
        names = {name for view in views for name in ledger.grid(block, view).values()}
        for part in there.of(block):
            if names & set(part.about.units):
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
    """Copy the shards of another folder of the same run, but for those that are there as good.

    Raises:
        ConfigError: one cannot be read, or not written.
    """
    for paths in kept(source).paths.values():
        for part in read_parts(paths, say):
            there = folder / PARTS / part.path.name
            old = read_parts([there], lambda _line: None) if there.exists() else []
            if old and len(old[0].about.failed) <= len(part.about.failed):
                continue
            read_records(part)
            for path in (part.path.with_suffix(".safetensors"), part.path):
                if path.is_file():
                    content = path.read_bytes()
                    write_whole(folder / PARTS / path.name, _writes(content))


def _writes(content: bytes) -> Callable[[IO[bytes]], object]:
    return lambda file: file.write(content)


def finish(
    folder: Path,
    ledger: Ledger,
    say: Callable[[str], None],
    describe: Callable[[Assembled], dict[str, Any]],
) -> Assembled:
    """Put the table of a run together from its shards, and write it with its manifest.

    A table and a manifest that are there already stay until the new ones are whole.

    Args:
        folder: of the run.
        ledger: what belongs into it.
        say: called with a line on each shard that is damaged.
        describe: returns the manifest.

    Raises:
        ConfigError: something cannot be written, or a shard is damaged.
    """
    coming, there = folder / f".{RECORDS}", kept(folder, say)
    found = assemble(coming, ledger, there)
    write_timings(folder / TIMINGS, ledger, there)
    if found.maps:
        write_maps(folder / MAPS, ledger, there)
    content = (json.dumps(describe(found), indent=2, ensure_ascii=False) + "\n").encode()
    coming.replace(folder / RECORDS)
    write_whole(folder / MANIFEST, _writes(content))
    return found


def _held_run(folder: Path) -> str | None:
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return str(manifest["run_id"]) if isinstance(manifest, dict) and "run_id" in manifest else None


def read_run(folder: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Read a finished run: its records, all in memory, and its manifest.

    Raises:
        ConfigError: no finished run there, or one that is damaged or of another schema version.
    """
    manifest = finished(folder)
    with in_one_line(folder / RECORDS):
        frame = to_frame(as_records(pq.read_table(folder / RECORDS)))
    return frame, manifest


def finished(folder: Path) -> dict[str, Any]:
    """Return the manifest of a finished run, whose records have not been looked at yet.

    Raises:
        ConfigError: no finished run there, one that is damaged or of another schema version, or a
            table of another run, or of more rows than it could hold.
    """
    path = folder / RECORDS
    if not path.is_file() or not (folder / MANIFEST).is_file():
        raise ConfigError(f"{folder} holds no finished run ({RECORDS} and {MANIFEST})")
    manifest = read_manifest(folder / MANIFEST)
    with in_one_line(path):
        whose = _run_of(path)
        rows, size = pq.read_metadata(path).num_rows, path.stat().st_size
        if rows > MOST_ROWS_A_BYTE * size:
            raise ValueError(f"it claims {rows} rows in {size} bytes")
    if whose not in ("", manifest["run_id"]):
        raise ConfigError(
            f"{folder} holds the records of {printable(whose)} and the manifest of "
            f"{printable(manifest['run_id'])}: it was being replaced; run the same command again"
        )
    return manifest


@contextmanager
def in_one_line(path: Path) -> Iterator[None]:
    """Say in one line what is wrong with a file of records, whatever its reader says.

    Raises:
        ConfigError: it is damaged.
    """
    try:
        yield
    except (pa.ArrowException, OSError, ValueError, TypeError, OverflowError) as error:
        raise ConfigError(f"{path} is damaged: {_line(error)}") from error


def read_manifest(path: Path) -> dict[str, Any]:
    """Read the manifest of a run or of a baseline.

    Raises:
        ConfigError: it is damaged, or of another schema version.
    """
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        missing = [key for key in NEEDED if key not in manifest]
        # Escapes of JSON can say what is no text, which no page could be written with.
        json.dumps(manifest, ensure_ascii=False).encode()
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise ConfigError(f"{path} is damaged: {_line(error)}") from error
    if missing:
        raise ConfigError(f"{path} is damaged: it lacks {', '.join(missing)}")
    if manifest["schema_version"] != SCHEMA_VERSION:
        raise ConfigError(
            f"{path} has schema version {manifest['schema_version']!r}, this steadymap "
            f"reads {SCHEMA_VERSION}: run it again"
        )
    if wrong := misshapen(manifest):
        raise ConfigError(f"{path} is damaged: {wrong[:MESSAGE_LENGTH]}")
    return dict(manifest)


def _run_of(path: Path) -> str:
    """Return the run that a file of records is of; empty where it does not say."""
    name = (pq.read_schema(path).metadata or {}).get(b"run_id", b"")
    return str(name.decode(errors="replace"))


def as_records(table: pa.Table) -> pa.Table:
    """Return rows of a file as `SCHEMA` has them.

    Raises:
        pa.ArrowException: as Arrow says.
        ValueError: values are missing.
    """
    records = table.cast(SCHEMA)
    records.validate(full=True)
    gone = [name for name in SCHEMA.names if name not in NULLABLE and records[name].null_count]
    if gone:
        raise ValueError(f"values of {', '.join(gone)} are gone")
    return records


def read_csv(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    """Read a CSV of a run, whose names and identifiers are text and all else numbers.

    Raises:
        ConfigError: it is not there, is cut, or lacks a column.
    """
    try:
        table = parse_csv(path.read_bytes(), TEXTS)
    except (OSError, ValueError, OverflowError) as error:  # pandas' own errors are ValueErrors
        raise ConfigError(f"{path} is damaged: {_line(error)}") from error
    missing = [column for column in columns if column not in table]
    if missing or table[list(columns)].isna().any(axis=None):
        raise ConfigError(f"{path} is damaged: values of {', '.join(missing or columns)} are gone")
    for column in columns:
        if column not in TEXTS and not pd.api.types.is_numeric_dtype(table[column].dtype):
            raise ConfigError(f"{path} is damaged: {column} holds what is no number")
    return table


def write_file(path: Path, content: str | bytes) -> None:
    """Write a file.

    Raises:
        ConfigError: that cannot be done.
    """
    try:
        if isinstance(content, str):
            path.write_text(content, encoding="utf-8", newline="\n")
        else:
            path.write_bytes(content)
    except (OSError, ValueError) as error:  # as above
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"output: cannot write {printable(str(path))}: {reason}") from error


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
            raise ConfigError(
                f"output: {path} is a link that leads out of {folder}; remove it, or choose "
                "another folder"
            )


def _line(error: Exception) -> str:
    """Return what an exception says, in one line."""
    return " ".join(str(error).split())[:MESSAGE_LENGTH] or type(error).__name__
