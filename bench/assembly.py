"""The table of a run, put together from its shards in the order of the plan."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from steadymap.bench.ledger import Ledger
from steadymap.bench.parts import Part, read_records, write_whole
from steadymap.bench.perturbations import Cell
from steadymap.bench.records import INPUT, REFERENCES, SCHEMA, Source, with_source
from steadymap.bench.references import NUMERIC
from steadymap.bench.shards import recorded_as

# Rows of a group of the file: what a reader holds at a time.
ROWS_TOGETHER = 1 << 17

# Files of shards that are held at a time: the blocks of a batch follow each other.
FILES_HELD = 8

TIMING_COLUMNS = [
    "machine", "batch", "family", "severity", "draw", "part", "images", "seconds",
]  # fmt: skip

Places = NDArray[np.int64]


@dataclass
class Assembled:
    """What was put together.

    Attributes:
        rows: how many records.
        statuses: of them, by status.
        parts: the shards that they came from.
    """

    rows: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    parts: dict[Path, Part] = field(default_factory=dict)

    def machines(self) -> dict[str, dict[str, Any]]:
        """Return by its id each machine that took part, with the seconds that it took."""
        found: dict[str, dict[str, Any]] = {}
        for part in self.parts.values():
            facts = dict(part.about.machine)
            one = found.setdefault(part.about.machine_id, facts | {"seconds": 0.0})
            one["seconds"] = round(one["seconds"] + part.about.seconds, 3)
        return dict(sorted(found.items()))


def providers(ledger: Ledger, parts: Sequence[Part]) -> dict[str, Part]:
    """Return by the name of a unit the shard that has it; if there is one, one without errors."""
    found: dict[str, Part] = {}
    for part in parts:
        bad = set(part.about.failed)
        for name in part.about.units:
            if name not in found or (name not in bad and name in found[name].about.failed):
                found[name] = part
    wanted = set(ledger.units())
    return {name: part for name, part in found.items() if name in wanted}


def assemble(path: Path, ledger: Ledger, where: Mapping[str, Part]) -> Assembled:
    """Write the table of a run, block by block: memory does not grow with the number of images.

    Args:
        path: the file, Parquet.
        ledger: what belongs into it.
        where: by the name of a unit, the shard that has it.

    Raises:
        ConfigError: it cannot be written, or a shard is damaged.
    """
    source = Source(ledger.run_id, ledger.model, ledger.dataset)
    found = Assembled()
    read = lru_cache(maxsize=FILES_HELD)(lambda path: read_records(found.parts[path]))

    def write(file: IO[bytes]) -> None:
        schema = SCHEMA.with_metadata({"run_id": ledger.run_id})
        with pq.ParquetWriter(file, schema, write_page_checksum=True) as writer:
            for table in _together(_blocks(ledger, where, found.parts, read)):
                whole = with_source(table, source)
                statuses = table["status"].value_counts().to_pylist()
                found.statuses.update({one["values"]: one["counts"] for one in statuses})
                found.rows += len(whole)
                writer.write_table(whole)

    write_whole(path, write)
    return found


def _together(tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """Join small tables to larger ones."""
    held: list[pa.Table] = []
    for table in tables:
        held.append(table)
        if sum(map(len, held)) >= ROWS_TOGETHER:
            yield pa.concat_tables(held).unify_dictionaries().combine_chunks()
            held = []
    if held:
        yield pa.concat_tables(held).unify_dictionaries().combine_chunks()


def _blocks(
    ledger: Ledger,
    where: Mapping[str, Part],
    used: dict[Path, Part],
    read: Any,  # noqa: ANN401 - lru_cache has no narrower type
) -> Iterator[pa.Table]:
    for block, views in [
        *((block, ledger.views) for block in ledger.blocks),
        *([(ledger.few, (NUMERIC,))] if ledger.numeric else []),
    ]:
        wanted: dict[Path, set[tuple[Cell, str]]] = {}
        for view in views:
            for spec, name in ledger.grid(block, view).items():
                if name in where:
                    part = where[name]
                    used[part.path] = part
                    wanted.setdefault(part.path, set()).add((view, spec))
        pieces = [_chosen(read(path), block, some) for path, some in wanted.items()]
        if pieces:
            yield _ordered(pa.concat_tables(pieces).unify_dictionaries(), ledger, block)


def _chosen(table: pa.Table, block: tuple[str, ...], wanted: set[tuple[Cell, str]]) -> pa.Table:
    """Keep the records of a block's images that belong to some views and methods."""
    keys = _keys(table)
    names = ["family", "severity", "draw", "method"]
    number = keys.groupby(names, observed=True, sort=False).ngroup()
    first = keys[~number.duplicated()]
    belongs = [
        (recorded_as(cell), spec) in wanted
        for cell, spec in zip(_cells(first), first["method"].astype(str), strict=True)
    ]
    mask = np.array(belongs, dtype=bool)[number.to_numpy()]
    return table.filter(pa.array(mask & keys["image_id"].isin(block).to_numpy()))


def _ordered(table: pa.Table, ledger: Ledger, block: tuple[str, ...]) -> pa.Table:
    """Put records in the order of the plan: by image, view and method; metrics stay as they are."""
    keys = _keys(table)
    views = {view: place for place, view in enumerate((*ledger.views, NUMERIC))}
    methods = {spec: place for place, spec in enumerate((INPUT, *ledger.methods))}
    images = {image_id: place for place, image_id in enumerate(block)}
    number = keys.groupby(["family", "severity", "draw"], observed=True, sort=False).ngroup()
    cells = list(_cells(keys[~number.duplicated()]))
    ranks = [
        (views[recorded_as(cell)], REFERENCES.index(cell.family), cell.draw)
        if cell.family in REFERENCES
        else (views[cell], 0, 0)
        for cell in cells
    ]
    place_of = np.array([sorted(set(ranks)).index(rank) for rank in ranks])
    order = np.lexsort(
        (
            keys["method"].astype(str).map(methods).to_numpy(),
            place_of[number.to_numpy()],
            keys["image_id"].astype(str).map(images).to_numpy(),
        )
    )
    return table.take(pa.array(order))


def _keys(table: pa.Table) -> pd.DataFrame:
    frame: pd.DataFrame = table.select(
        ["image_id", "method", "family", "severity", "draw"]
    ).to_pandas()
    return frame


def _cells(keys: pd.DataFrame) -> Iterator[Cell]:
    columns = (keys["family"].astype(str), keys["severity"], keys["draw"])
    for family, severity, draw in zip(*columns, strict=True):
        yield Cell(family, float(severity), int(draw))


def timing_table(parts: Sequence[Part]) -> pd.DataFrame:
    """Return where the time went, one row a part of the work on one view of one shard."""
    rows = [
        (part.about.machine_id, batch, *row)
        for batch, part in enumerate(parts)
        for row in part.about.timings
    ]
    return pd.DataFrame(rows, columns=TIMING_COLUMNS)
