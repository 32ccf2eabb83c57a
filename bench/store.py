"""The folder of a run: records, manifest, summary and, if asked for, the maps themselves."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import save_file
from torch import Tensor

from steadymap.bench.config import ConfigError
from steadymap.bench.manifest import Result, write_json
from steadymap.bench.names import file_name, printable
from steadymap.bench.perturbations import Cell
from steadymap.bench.records import SCHEMA, SCHEMA_VERSION, Source, to_frame, to_table
from steadymap.bench.references import CLEAN_CELL
from steadymap.bench.runner import Outcome
from steadymap.bench.shapes import NEEDED, misshapen
from steadymap.bench.spreadsheets import parse_csv, write_csv

RECORDS = "records.parquet"
PARTIAL = "records.partial.parquet"
MANIFEST = "manifest.json"
PARTIAL_MANIFEST = "manifest.partial.json"
TIMINGS = "timings.csv"
PARTIAL_TIMINGS = "timings.partial.csv"
MAPS = "maps"

MESSAGE_LENGTH = 300

# Columns of CSV files that hold names and identifiers.
TEXTS = ("image_id", "method", "family", "metric", "kind", "part")
# Columns of the records that may be missing: classes, where there is none.
NULLABLE = ("label", "target", "pred_clean", "pred_perturbed")
# A row takes a byte or two; a file that unpacks to more than this would fill the memory.
MOST_ROWS_A_BYTE = 1000


def claim_folder(folder: Path, run_id: str) -> None:
    """Make the folder of a run, or take over one of the same run.

    Raises:
        ConfigError: the folder holds something else.
    """
    if folder.is_dir() and any(folder.iterdir()):
        held = _held_run(folder)
        if held != run_id:
            raise ConfigError(
                f"output: {folder} already holds {held or 'files that are not a run'}, "
                f"this run is {run_id}; choose another folder"
            )
    make_folder(folder)
    refuse_links(folder)


def make_folder(folder: Path) -> None:
    """Make a folder and those above it.

    Raises:
        ConfigError: that cannot be done.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:  # a path with a NUL in it is no value
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(
            f"output: cannot make the folder {printable(str(folder))}: {reason}"
        ) from error


def _held_run(folder: Path) -> str | None:
    for name in (MANIFEST, PARTIAL_MANIFEST):
        try:
            manifest = json.loads((folder / name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(manifest, dict) and "run_id" in manifest:
            return str(manifest["run_id"])
    return None


@dataclass
class Recorder:
    """Takes the outcomes of a run as they come; what it has taken survives an interruption."""

    folder: Path
    source: Source
    writer: pq.ParquetWriter
    started: float = field(default_factory=time.monotonic)
    statuses: Counter[str] = field(default_factory=Counter)
    kept: list[Outcome] = field(default_factory=list)
    timings: list[tuple[object, ...]] = field(default_factory=list)
    batches: int = 0
    at_once: int = 0
    halved: int = 0

    def add(self, outcome: Outcome) -> None:
        """Write the records of a batch, and keep its maps, if it has any, for the end."""
        if outcome.records:
            self.writer.write_table(to_table(outcome.records, self.source))
        self.statuses.update(record.status.value for record in outcome.records)
        if outcome.images is not None:
            self.kept.append(outcome)
        self.timings += [
            (self.batches, *astuple(timing.cell), timing.part, timing.images, timing.seconds)
            for timing in outcome.timings
        ]
        self.batches += 1
        self.at_once = min(self.at_once or outcome.at_once, outcome.at_once)
        self.halved += outcome.halved

    def result(self, *, complete: bool) -> Result:
        """Return how the run went so far."""
        seconds = time.monotonic() - self.started
        return Result(seconds, self.statuses, complete, self.at_once, self.halved)


@contextmanager
def recorder(
    folder: Path,
    source: Source,
    cells: tuple[Cell, ...],
    describe: Callable[[Result], dict[str, Any]],
) -> Iterator[Recorder]:
    """Open the folder of a run for writing.

    Until it has ended in good order a run is called `records.partial.parquet` and
    `manifest.partial.json`; a finished one of the same folder stays until then.
    """
    complete = False
    write_json(folder / PARTIAL_MANIFEST, describe(Result(0.0, {}, complete)))
    with pq.ParquetWriter(folder / PARTIAL, SCHEMA) as writer:
        taking = Recorder(folder, source, writer)
        try:
            yield taking
            complete = True
        finally:
            write_json(folder / PARTIAL_MANIFEST, describe(taking.result(complete=complete)))
            _write_timings(folder / PARTIAL_TIMINGS, taking.timings)
            if taking.kept:
                _write_maps(folder / MAPS, taking.kept, cells)
    (folder / PARTIAL).replace(folder / RECORDS)
    (folder / PARTIAL_TIMINGS).replace(folder / TIMINGS)
    (folder / PARTIAL_MANIFEST).replace(folder / MANIFEST)


def _write_timings(path: Path, rows: list[tuple[object, ...]]) -> None:
    columns = ["batch", "family", "severity", "draw", "part", "images", "seconds"]
    write_csv(pd.DataFrame(rows, columns=columns), path, "%.6f")


def _write_maps(folder: Path, outcomes: list[Outcome], cells: tuple[Cell, ...]) -> None:
    """Write one file of images and one a method: rows (image, cell), as `index.csv` names them.

    Masks have one row an image; deltas, of complete methods, one a row of the attributions.
    """
    folder.mkdir(exist_ok=True)
    ids = dict.fromkeys(record.image_id for outcome in outcomes for record in outcome.records)
    rows = [
        (image_id, cell.family, cell.severity, cell.draw)
        for image_id in ids
        for cell in (CLEAN_CELL, *cells)
    ]
    index = pd.DataFrame(rows, columns=["image_id", "family", "severity", "draw"])
    write_csv(index.rename_axis("row").reset_index(), folder / "index.csv")
    images = [outcome.images for outcome in outcomes if outcome.images is not None]
    masks = [outcome.masks for outcome in outcomes if outcome.masks is not None]
    save_file(
        {"images": _rows(images)} | ({"masks": torch.cat(masks)} if masks else {}),
        folder / "images.safetensors",
    )
    for spec in outcomes[0].attributions:
        made = [outcome.attributions[spec] for outcome in outcomes]
        known = next((maps for maps in made if maps is not None), None)
        if known is None:
            continue
        # A batch in which the method failed throughout is missing like any single map: NaN.
        filled = [
            torch.full((len(image), *known.shape[1:]), torch.nan) if maps is None else maps
            for maps, image in zip(made, images, strict=True)
        ]
        deltas = [outcome.deltas[spec] for outcome in outcomes if spec in outcome.deltas]
        name = file_name(spec)
        save_file(
            {"attributions": _rows(filled)} | ({"deltas": _rows(deltas)} if deltas else {}),
            folder / f"{name}.safetensors",
            metadata={"method": spec},
        )


def _rows(batches: Iterable[Tensor]) -> Tensor:
    """Join batches (B, cells, ...) to rows (N * cells, ...)."""
    return torch.cat([batch.flatten(0, 1) for batch in batches]).contiguous()


def read_run(folder: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Read a finished run: its records and its manifest.

    Raises:
        ConfigError: no finished run there, or one that is damaged or of another schema version.
    """
    if not (folder / RECORDS).is_file() or not (folder / MANIFEST).is_file():
        raise ConfigError(f"{folder} holds no finished run ({RECORDS} and {MANIFEST})")
    manifest = read_manifest(folder / MANIFEST)
    try:
        frame = _read_records(folder / RECORDS)
    except (pa.ArrowException, OSError, ValueError, TypeError, OverflowError) as error:
        raise ConfigError(f"{folder / RECORDS} is damaged: {_line(error)}") from error
    return frame, manifest


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


def _read_records(path: Path) -> pd.DataFrame:
    """Read records, as `SCHEMA` has them.

    Raises:
        pa.ArrowException: as Arrow says.
        ValueError: the file claims more rows than it could hold, or values are missing.
    """
    rows, size = pq.read_metadata(path).num_rows, path.stat().st_size
    if rows > MOST_ROWS_A_BYTE * size:
        raise ValueError(f"it claims {rows} rows in {size} bytes")
    table = pq.read_table(path).cast(SCHEMA)
    table.validate(full=True)
    gone = [name for name in SCHEMA.names if name not in NULLABLE and table[name].null_count]
    if gone:
        raise ValueError(f"values of {', '.join(gone)} are gone")
    return to_frame(table)


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
