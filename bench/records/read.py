"""The reader of a finished run, of its manifest and of its CSV files."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from steadymap.bench.core import console, errors, metric_registry, names, safe_csv
from steadymap.bench.records import manifest_schema, rules, schema, seal, vocabulary
from steadymap.metrics import Metric, Status
from steadymap.metrics.registry import UNIT, within

RECORDS = "records.parquet"
MANIFEST = "manifest.json"
TIMINGS = "timings.csv"
LEDGER = "ledger.json"

# Columns of CSV files that hold names and identifiers.
TEXTS = (
    vocabulary.IMAGE_ID,
    vocabulary.METHOD,
    vocabulary.FAMILY,
    vocabulary.METRIC,
    "kind",
    "part",
    "machine",
)
# Columns of the records that may be missing: classes, where there is none.
NULLABLE = (vocabulary.LABEL, vocabulary.TARGET, vocabulary.PRED_CLEAN, vocabulary.PRED_PERTURBED)
# Where a range has no end.
FAR = (-np.inf, np.inf)
# A row takes a byte or two; a file that unpacks to more than this would fill the memory.
MOST_ROWS_A_BYTE = 1000


def read_run(folder: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Read a finished run: its records, all in memory, and its manifest.

    Raises:
        ConfigError: no finished run there, or one that is damaged or of another schema version.
    """
    manifest = finished(folder)
    with in_one_line(folder / RECORDS):
        frame = schema.to_frame(as_records(pq.read_table(folder / RECORDS)))
        see_scores(frame, metric_registry.known_metrics(manifest))
    return frame, manifest


def finished(folder: Path) -> dict[str, Any]:
    """Return the manifest of a finished run, whose records are those that were written.

    They have not been looked at yet. Of a run from before there were checksums it is said that it
    has none.

    Raises:
        ConfigError: no finished run there, one that is damaged or of another schema version, or a
            table of another run, or of more rows than it could hold.
    """
    path = folder / RECORDS
    if not path.is_file() or not (folder / MANIFEST).is_file():
        raise errors.ConfigError(f"{folder} holds no finished run ({RECORDS} and {MANIFEST})")
    manifest = read_manifest(folder / MANIFEST)
    if seal.FILES not in manifest:
        console.say(f"{folder} carries no checksums: damage to its files would not be seen")
    elif seal.trusted(folder, manifest, RECORDS) is None:
        raise errors.ConfigError(f"{folder / MANIFEST} is damaged: it names no {RECORDS}")
    with in_one_line(path):
        whose = _run_of(path)
        rows, size = pq.read_metadata(path).num_rows, path.stat().st_size
        if rows > MOST_ROWS_A_BYTE * size:
            raise ValueError(f"it claims {rows} rows in {size} bytes")
    if whose not in ("", manifest["run_id"]):
        raise errors.ConfigError(
            f"{folder} holds the records of {names.printable(whose)} and the manifest of "
            f"{names.printable(manifest['run_id'])}: it was being replaced; run the same "
            "command again"
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
        raise errors.ConfigError(f"{path} is damaged: {errors.message_of(error)}") from error


def read_manifest(path: Path) -> dict[str, Any]:
    """Read the manifest of a run or of a baseline.

    Raises:
        ConfigError: it is damaged, or of another schema version.
    """
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        missing = [key for key in manifest_schema.NEEDED if key not in manifest]
        is_sealed = seal.FILES in manifest or seal.SEAL in manifest
        changed = is_sealed and not seal.is_whole(manifest)
        # Escapes of JSON can say what is no text, which no page could be written with.
        json.dumps(manifest, ensure_ascii=False).encode()
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise errors.ConfigError(f"{path} is damaged: {errors.message_of(error)}") from error
    if changed:
        raise errors.ConfigError(f"{path} {seal.CHANGED}; {seal.AGAIN}")
    if missing:
        raise errors.ConfigError(f"{path} is damaged: it lacks {', '.join(missing)}")
    if manifest["schema_version"] != schema.SCHEMA_VERSION:
        raise errors.ConfigError(
            f"{path} has schema version {manifest['schema_version']!r}, this steadymap "
            f"reads {schema.SCHEMA_VERSION}: run it again"
        )
    rules.refuse_others(manifest, path, f"steadymap run EXPERIMENT --output {path.parent}")
    if wrong := manifest_schema.misshapen(manifest):
        raise errors.ConfigError(f"{path} is damaged: {wrong[: errors.MESSAGE_LENGTH]}")
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
    records = table.cast(schema.SCHEMA)
    records.validate(full=True)
    missing = [
        name for name in schema.SCHEMA.names if name not in NULLABLE and records[name].null_count
    ]
    if missing:
        raise ValueError(f"values of {', '.join(missing)} are gone")
    return records


def see_scores(records: pd.DataFrame, known: Mapping[str, Metric]) -> None:
    """See that scores which count are numbers, each within the range of its metric.

    Args:
        records: of a run, or means of them.
        known: the metrics whose ranges are known; of another any number will do.

    Raises:
        ValueError: one is not.
    """
    valid = records[records[vocabulary.STATUS] == Status.OK.value]
    for name, values in valid.groupby(vocabulary.METRIC, observed=True)[vocabulary.VALUE]:
        for value in (values.min(skipna=False), values.max(skipna=False)):
            if wrong := beyond(str(name), float(value), known):
                raise ValueError(f"{wrong}; {seal.AGAIN}")


def beyond(name: str, value: float, known: Mapping[str, Metric]) -> str:
    """Say of a value that its metric cannot have what it is; nothing of any other.

    Args:
        name: of the metric.
        value: of it.
        known: the metrics whose ranges are known; of another any number will do.
    """
    ends = vocabulary.INPUT_RANGES.get(name, (None, None))
    about = known.get(name) or known.get(vocabulary.base_metric(name))
    if name not in known and name.endswith(vocabulary.RECOGNISED):
        ends = UNIT
    elif name not in known and name.endswith(vocabulary.RANK):
        ends = (1.0, None)
    elif about is not None:
        ends = about.range
    if within(value, ends):
        return ""
    lowest, highest = (end if end is not None else far for end, far in zip(ends, FAR, strict=True))
    return (
        f"{names.printable(name)} is {value:g} somewhere, and its values are numbers from "
        f"{lowest:g} to {highest:g}"
    )


def read_csv(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    """Read a CSV of a run, whose names and identifiers are text and all else numbers.

    Raises:
        ConfigError: it is not there, is cut, or lacks a column.
    """
    try:
        table = safe_csv.parse_csv(path.read_bytes(), TEXTS)
    except (OSError, ValueError, OverflowError) as error:  # pandas' own errors are ValueErrors
        raise errors.ConfigError(f"{path} is damaged: {errors.message_of(error)}") from error
    missing = [column for column in columns if column not in table]
    if missing or table[list(columns)].isna().any(axis=None):
        raise errors.ConfigError(
            f"{path} is damaged: values of {', '.join(missing or columns)} are gone"
        )
    for column in columns:
        if column not in TEXTS and not pd.api.types.is_numeric_dtype(table[column].dtype):
            raise errors.ConfigError(f"{path} is damaged: {column} holds what is no number")
    return table
