"""The folder of a history: one Parquet file a run, whole or not there, never changed again.

Files are named by the run that they hold, so that two people who add to one history, or merge two,
never write different things under one name. All files together are one dataset, which any reader of
Parquet opens by the folder.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict

from steadymap.bench.core import errors, files
from steadymap.bench.history.entry import SCHEMA_VERSION, Entry
from steadymap.bench.history.scores import COLUMNS, KEY
from steadymap.bench.records import read, seal
from steadymap.bench.records.vocabulary import VALUE

HISTORY = Path("results") / "history"
ENDING = ".parquet"
FACTS = b"steadymap"
SEAL = b"steadymap_seal"
# Columns that say of which run a row is.
ABOUT = ("entry", "measured_at", "commit", "label")

_TEXT = pa.dictionary(pa.int32(), pa.string())
SCHEMA = pa.schema(
    [
        *(pa.field(name, _TEXT) for name in (*ABOUT, *KEY)),
        pa.field("images", pa.int32()),
        *(pa.field(name, pa.float64()) for name in (VALUE, "low", "high", "coverage")),
    ]
)
MEND = (
    "take it back from where the history is kept, or delete it and add its run again "
    "(steadymap history add RUN)"
)


UNREADABLE = (pa.ArrowException, OSError, ValueError, KeyError, TypeError, RecursionError)


class _Shape(BaseModel):
    """Keys that are read; others may stand beside them."""

    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False)


class _Model(_Shape):
    name: str


class _Data(_Shape):
    name: str
    pictures: int
    excluded: int


class _Manifest(_Shape):
    configuration: dict[str, Any]
    methods: list[str]
    severities: dict[str, list[float]]
    model: _Model
    data: _Data
    versions: dict[str, str]
    machine: dict[str, Any]
    plugins: dict[str, str] = {}
    own_metrics: dict[str, dict[str, Any]] = {}
    git: dict[str, Any] | None = None


class _Facts(_Shape):
    id: str
    run_id: str
    measured_at: str
    commit: str
    label: str
    renewed: bool
    rules: int
    manifest: _Manifest


def add(folder: Path, entry: Entry) -> bool:
    """Write an entry into a history; return False where the run is in it already.

    Raises:
        ConfigError: it cannot be written, or what is there of the run is damaged.
    """
    files.make_folder(folder)
    files.refuse_links(folder)
    path = _path(folder, entry.id)
    if path.exists():
        read_entry(path)
        return False
    files.write_whole(path, _content(entry))
    return True


def read_history(folder: Path) -> list[Entry]:
    """Return the entries of a history, the oldest first.

    Raises:
        ConfigError: there is none, or a file of it is damaged.
    """
    paths = _paths(folder)
    if not paths:
        raise errors.ConfigError(
            f"history: {folder} holds no entry; add a run with: "
            f"steadymap history add RUN --history {folder}"
        )
    return sorted(map(read_entry, paths), key=lambda entry: entry.order)


def merge(folder: Path, other: Path) -> tuple[int, int]:
    """Copy the entries of another history that are not in this one.

    Nothing is copied unless every file of both is whole.

    Returns:
        How many were copied, and how many are in both.

    Raises:
        ConfigError: the other has none, a file is damaged, or one cannot be written.
    """
    entries = read_history(other)
    damaged = [message for path in _paths(folder) if (message := _wrong_with(path))]
    if damaged:
        raise errors.ConfigError("; ".join(damaged))
    added = sum(add(folder, entry) for entry in entries)
    return added, len(entries) - added


def _wrong_with(path: Path) -> str:
    try:
        read_entry(path)
    except errors.ConfigError as error:
        return str(error)
    return ""


def read_entry(path: Path) -> Entry:
    """Read one entry.

    Raises:
        ConfigError: it is damaged, or of another version of the format.
    """
    try:
        metadata = pq.read_schema(path).metadata or {}
        facts = json.loads(metadata[FACTS])
        version = facts["schema"]
        entry = _parsed(path, facts, metadata[SEAL].decode()) if version == SCHEMA_VERSION else None
    except UNREADABLE as error:
        raise errors.ConfigError(
            f"history: {path} is damaged: {errors.message_of(error)}; {MEND}"
        ) from error
    if entry is None:
        raise errors.ConfigError(
            f"history: {path} has version {version!r} of the format, this steadymap reads "
            f"{SCHEMA_VERSION}; use the steadymap that wrote it"
        )
    return entry


def _parsed(path: Path, facts: dict[str, Any], given: str) -> Entry:
    """Return the entry of a file, once it is known to be what was written.

    Args:
        path: of the file.
        facts: that it holds.
        given: its seal.

    Raises:
        ValueError, ...: it is not that.
    """
    rows, size = pq.read_metadata(path).num_rows, path.stat().st_size
    if rows > read.MOST_ROWS_A_BYTE * size:
        raise ValueError(f"it claims {rows} rows in {size} bytes")
    table = pq.read_table(path, partitioning=None)
    if not table.schema.equals(SCHEMA):
        raise ValueError("its columns are not those of a history")
    scores = table.to_pandas()[COLUMNS].astype(dict.fromkeys(KEY, str))
    _Facts.model_validate(facts)
    entry = Entry(facts, scores)
    if given != _seal(entry) or path.stem != entry.id:
        raise ValueError("it is not what was written")
    return entry


def _paths(folder: Path) -> list[Path]:
    return [
        path
        for path in files.listed(folder)
        if path.suffix == ENDING and not path.name.startswith(".")
    ]


def _path(folder: Path, identity: str) -> Path:
    return folder / f"{identity}{ENDING}"


def _content(entry: Entry) -> bytes:
    """Return the file of an entry: the same entry is always the same bytes."""
    about = (entry.id, entry.measured_at, str(entry.facts["commit"]), str(entry.facts["label"]))
    scores = entry.scores.assign(**dict(zip(ABOUT, about, strict=True)))
    metadata = {FACTS: json.dumps(dict(entry.facts), ensure_ascii=False), SEAL: _seal(entry)}
    columns = [pa.array(scores[field.name]).cast(field.type) for field in SCHEMA]
    table = pa.table(columns, schema=SCHEMA.with_metadata(metadata))
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    return bytes(sink.getvalue().to_pybytes())


def _seal(entry: Entry) -> str:
    """Return the hash of all that an entry says."""
    rows = entry.scores.to_numpy(dtype=object).tolist()
    return seal.seal_of({"facts": dict(entry.facts), "rows": rows})
