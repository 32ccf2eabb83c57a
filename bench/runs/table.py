"""The table of a run, put together from its shards in the order of the plan."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from steadymap.bench.core import files, safe_csv
from steadymap.bench.perturbations.cell import Cell
from steadymap.bench.plan.shards import NUMERIC, recorded_as
from steadymap.bench.records.schema import SCHEMA, Source, with_source
from steadymap.bench.records.vocabulary import (
    DRAW,
    FAMILY,
    IMAGE_ID,
    INPUT,
    METHOD,
    REFERENCES,
    SEVERITY,
    STATUS,
)
from steadymap.bench.runs.ledger import Ledger
from steadymap.bench.runs.shard_files import Kept, Part, ShardInfo, read_records

# Rows of a group of the file: what a reader holds at a time.
ROWS_TOGETHER = 1 << 17

TIMING_COLUMNS = [
    "machine", "batch", FAMILY, SEVERITY, DRAW, "part", "images", "seconds",
]  # fmt: skip


@dataclass(frozen=True)
class Unit:
    """A unit of a run, as people speak of it.

    Attributes:
        method: its spec, or what stands for the image itself.
        view: what is looked at.
        block: ids of the images.
    """

    method: str
    view: Cell
    block: tuple[str, ...]

    def __str__(self) -> str:
        """Return it as messages have it."""
        cell = self.view
        return (
            f"{self.method}, {cell.family} {cell.severity:g} (draw {cell.draw}), "
            f"{len(self.block)} images from {self.block[0]}"
        )


@dataclass
class Assembled:
    """What was put together.

    Attributes:
        rows: how many records.
        statuses: of them, by status.
        machines: by its id, each machine that took part, with the seconds that it took.
        at_once: the fewest images that went through the network together.
        halved: how many times that was halved because memory ran out.
        maps: whether maps are kept.
        lost: the units that are planned and not there.
        measured_at: when the last of its shards was computed; "" where none says so.
    """

    rows: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    machines: dict[str, dict[str, Any]] = field(default_factory=dict)
    at_once: int = 0
    halved: int = 0
    maps: bool = False
    lost: list[Unit] = field(default_factory=list)
    measured_at: str = ""

    def take(self, about: ShardInfo) -> None:
        """Add what is known of a shard."""
        facts = self.machines.setdefault(about.machine_id, dict(about.machine) | {"seconds": 0.0})
        facts["seconds"] = round(facts["seconds"] + about.seconds, 3)
        self.at_once = min(about.at_once or self.at_once, self.at_once or about.at_once)
        self.halved += about.halved
        self.maps |= bool(about.maps)
        self.measured_at = max(self.measured_at, about.measured_at)


def providers(names: Iterable[str], parts: Sequence[Part]) -> dict[str, Part]:
    """Return by the name of a unit the shard that has it; if there is one, one without errors.

    Args:
        names: of the units.
        parts: what there is of their block.
    """
    best: dict[str, Part] = {}
    for part in parts:
        bad = set(part.about.failed)
        for name in part.about.units:
            if name not in best or (name not in bad and name in best[name].about.failed):
                best[name] = part
    return {name: best[name] for name in names if name in best}


def missing(ledger: Ledger, kept: Kept, is_mine: Callable[[int], bool]) -> list[Unit]:
    """Return the units that are planned and not there.

    Args:
        ledger: what is planned.
        kept: what is there.
        is_mine: by the place of a block, whether it is looked at.
    """
    lost: list[Unit] = []
    for block, views in ledger.pieces(is_mine):
        _used(ledger, kept, block, views, lost)
    return lost


def assemble(path: Path, ledger: Ledger, kept: Kept) -> tuple[Assembled, str]:
    """Write the table of a run; return what went into it, and the hash of the file.

    Block by block: memory does not grow with the number of images.

    Args:
        path: the file, Parquet.
        ledger: what belongs into it.
        kept: the shards.

    Raises:
        ConfigError: it cannot be written, or a shard is damaged.
    """
    source = Source(ledger.run_id, ledger.model, ledger.dataset)
    assembled = Assembled()

    def write(file: IO[bytes]) -> None:
        schema = SCHEMA.with_metadata({"run_id": ledger.run_id})
        with pq.ParquetWriter(file, schema, write_page_checksum=True) as writer:
            for table in _together(_blocks(ledger, kept, assembled)):
                records = with_source(table, source)
                counts = table[STATUS].value_counts().to_pylist()
                assembled.statuses.update({row["values"]: row["counts"] for row in counts})
                assembled.rows += len(records)
                writer.write_table(records)

    digest = files.write_whole(path, write)
    return assembled, digest


def write_timings(path: Path, ledger: Ledger, kept: Kept, lost: list[Unit]) -> str:
    """Write where the time went, one row a part of the work on one view of one shard.

    Args:
        path: the file, CSV.
        ledger: what belongs into it.
        kept: the shards.
        lost: the units that are planned and not there are added to it.

    Returns:
        The hash of the file.

    Raises:
        ConfigError: it cannot be written.
    """

    def write(file: IO[bytes]) -> None:
        file.write(safe_csv.csv_text(pd.DataFrame(columns=TIMING_COLUMNS)).encode())
        batch = 0
        for block, views in ledger.pieces():
            for part, _ in _used(ledger, kept, block, views, lost):
                rows = [(part.about.machine_id, batch, *row) for row in part.about.timings]
                text = safe_csv.csv_text(pd.DataFrame(rows, columns=TIMING_COLUMNS), "%.6f")
                file.write(text.partition("\n")[2].encode())
                batch += bool(rows)

    return files.write_whole(path, write)


def _used(
    ledger: Ledger,
    kept: Kept,
    block: tuple[str, ...],
    views: tuple[Cell, ...],
    lost: list[Unit],
) -> list[tuple[Part, set[tuple[Cell, str]]]]:
    """Return the shards that a block's records come from, and the views and methods of each.

    What is planned and not there is added to `lost`.
    """
    parts = kept.of(block)
    by_path: dict[Path, set[tuple[Cell, str]]] = {}
    for view in views:
        grid = ledger.grid(block, view)
        where = providers(grid.values(), parts)
        for spec, name in grid.items():
            if name in where:
                by_path.setdefault(where[name].path, set()).add((view, spec))
            else:
                lost.append(Unit(spec, view, block))
    return [(part, by_path[part.path]) for part in parts if part.path in by_path]


def _together(tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """Yield the same rows in larger tables."""
    held: list[pa.Table] = []
    for table in tables:
        held.append(table)
        if sum(map(len, held)) >= ROWS_TOGETHER:
            yield pa.concat_tables(held).unify_dictionaries().combine_chunks()
            held = []
    if held:
        yield pa.concat_tables(held).unify_dictionaries().combine_chunks()


def _blocks(ledger: Ledger, kept: Kept, assembled: Assembled) -> Iterator[pa.Table]:
    """Yield the records of each block in the order of the plan; count in what they came from."""
    for block, views in ledger.pieces():
        used = _used(ledger, kept, block, views, assembled.lost)
        for part, _ in used:
            assembled.take(part.about)
        pieces = [_chosen(read_records(part), entries) for part, entries in used]
        if pieces:
            yield _ordered(pa.concat_tables(pieces).unify_dictionaries(), ledger, block)


def _chosen(table: pa.Table, entries: set[tuple[Cell, str]]) -> pa.Table:
    """Return the records that belong to some views and methods."""
    keys = _keys(table)
    names = [FAMILY, SEVERITY, DRAW, METHOD]
    number = keys.groupby(names, observed=True, sort=False).ngroup()
    first = keys[~number.duplicated()]
    belongs = [
        (recorded_as(cell), spec) in entries
        for cell, spec in zip(_cells(first), first[METHOD].astype(str), strict=True)
    ]
    mask = np.array(belongs, dtype=bool)[number.to_numpy()]
    return table.filter(pa.array(mask))


def _ordered(table: pa.Table, ledger: Ledger, block: tuple[str, ...]) -> pa.Table:
    """Return records in the order of the plan: by image, view and method, metrics as they are."""
    keys = _keys(table)
    views = {view: place for place, view in enumerate((*ledger.views, NUMERIC))}
    methods = {spec: place for place, spec in enumerate((INPUT, *ledger.methods))}
    images = {image_id: place for place, image_id in enumerate(block)}
    number = keys.groupby([FAMILY, SEVERITY, DRAW], observed=True, sort=False).ngroup()
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
            keys[METHOD].astype(str).map(methods).to_numpy(),
            place_of[number.to_numpy()],
            keys[IMAGE_ID].astype(str).map(images).to_numpy(),
        )
    )
    return table.take(pa.array(order))


def _keys(table: pa.Table) -> pd.DataFrame:
    frame: pd.DataFrame = table.select([IMAGE_ID, METHOD, FAMILY, SEVERITY, DRAW]).to_pandas()
    return frame


def _cells(keys: pd.DataFrame) -> Iterator[Cell]:
    columns = (keys[FAMILY].astype(str), keys[SEVERITY], keys[DRAW])
    for family, severity, draw in zip(*columns, strict=True):
        yield Cell(family, float(severity), int(draw))
