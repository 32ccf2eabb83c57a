"""The records of a run one metric at a time, and what is counted over all: never all in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from pandas.api.types import union_categoricals
from pyarrow.fs import LocalFileSystem

from steadymap.bench.core import metric_registry
from steadymap.bench.records import schema, vocabulary
from steadymap.bench.records.read import RECORDS, as_records, finished, in_one_line, see_scores
from steadymap.metrics import Status

# Rows of a file that are looked at together.
ROWS_AT_ONCE = 1 << 16

# What a metric's numbers are derived from.
COLUMNS = [
    vocabulary.IMAGE_ID,
    vocabulary.KEPT,
    vocabulary.METHOD,
    vocabulary.FAMILY,
    vocabulary.SEVERITY,
    vocabulary.DRAW,
    vocabulary.METRIC,
    vocabulary.VALUE,
    vocabulary.STATUS,
    vocabulary.DETAIL,
]
KINDS = [
    vocabulary.METHOD,
    vocabulary.FAMILY,
    vocabulary.METRIC,
    vocabulary.KEPT,
    vocabulary.STATUS,
]
REASONS = [vocabulary.STATUS, vocabulary.DETAIL]
OF_IMAGE = [vocabulary.LABEL, vocabulary.PRED_CLEAN]
PAIR = [vocabulary.IMAGE_ID, vocabulary.FAMILY, vocabulary.SEVERITY, vocabulary.DRAW]


@dataclass(frozen=True)
class Scan:
    """The records of a run, to be had metric by metric, and what is counted over all of them.

    Everything is in the order of the records.

    Attributes:
        counts: how many records there are of what: method, family, metric, kept, status, size.
        reasons: how many there are of each status and detail: status, detail, size; of values that
            are there the detail is left out.
        images: image_id, with label and pred_clean as far as they are known.
        pairs: one row a perturbed image, see `perturbed_images`: image_id, family, severity, draw,
            kept.
        read: returns the records of metrics with these names, in `COLUMNS`.
    """

    counts: pd.DataFrame
    reasons: pd.DataFrame
    images: pd.DataFrame
    pairs: pd.DataFrame
    read: Callable[[Sequence[str]], pd.DataFrame]

    def metrics(self) -> list[str]:
        """Return the metrics of the records, those of the input among them.

        What maps react by is no metric of a run that is recorded of nothing else.
        """
        told = self.counts[~self.counts[vocabulary.FAMILY].isin(vocabulary.MUST_DIFFER)]
        names = (str(name) for name in told[vocabulary.METRIC].unique())
        return list(dict.fromkeys(map(vocabulary.base_metric, names)))

    def as_one_image(self) -> pd.DataFrame:
        """Return records of one image that has a value of everything, in the order of the run.

        All are of one severity and draw: what is paired by these finds its partner.
        """
        one: dict[str, Any] = {vocabulary.IMAGE_ID: "", vocabulary.SEVERITY: 0.0}
        values = one | {vocabulary.DRAW: 0, vocabulary.VALUE: 0.0}
        return self.counts.assign(**values)

    def of(self, metric: str) -> pd.DataFrame:
        """Return a metric's records, and those about it: unrelated maps', ranks, perfect scores.

        Raises:
            ConfigError: the file has been damaged since it was opened.
        """
        return self.read([name for name in self._names() if vocabulary.base_metric(name) == metric])

    def _names(self) -> list[str]:
        return [str(name) for name in self.counts[vocabulary.METRIC].unique()]


def as_scan(records: pd.DataFrame | Scan) -> Scan:
    """Return records that are in memory as what is scanned."""
    if isinstance(records, Scan):
        return records
    frame = records
    return _counted(
        [frame], lambda _: lambda names: frame[frame[vocabulary.METRIC].isin(names)][COLUMNS]
    )


def scan_run(folder: Path) -> tuple[Scan, dict[str, Any]]:
    """Open a finished run: look at each of its records once; return them and its manifest.

    Raises:
        ConfigError: no finished run there, or one that is damaged or of another schema version.
    """
    manifest = finished(folder)
    path, metrics = folder / RECORDS, metric_registry.known_metrics(manifest)

    def batches() -> Iterator[pd.DataFrame]:
        source = _dataset(path)
        tables = _batches(source)
        # Of a file without rows its columns are looked at.
        first = next(tables, source.schema.empty_table())
        for table in chain([first], tables):
            frame = schema.to_frame(as_records(table))
            see_scores(frame, metrics)
            yield frame

    def reader(known: dict[str, pd.CategoricalDtype]) -> Callable[[Sequence[str]], pd.DataFrame]:
        def read(names: Sequence[str]) -> pd.DataFrame:
            with in_one_line(path):
                source = _dataset(path)
                selection = pc.field(vocabulary.METRIC).isin(pa.array(names, pa.string()))
                # Each with the same categories, in as few bytes as they fit into: joined as it is.
                parts = [
                    schema.to_frame(batch).astype(known)
                    for batch in _batches(source, columns=COLUMNS, filter=selection)
                ]
                if parts:
                    return pd.concat(parts, ignore_index=True)
                return schema.to_frame(source.schema.empty_table().select(COLUMNS)).astype(known)

        return read

    with in_one_line(path):
        return _counted(batches(), reader), manifest


def _dataset(path: Path) -> ds.Dataset:
    # With its file system: a name like `s3:` would else be taken for a place elsewhere.
    return ds.dataset(str(path.absolute()), format="parquet", filesystem=LocalFileSystem())


def _batches(
    source: ds.Dataset,
    columns: Sequence[str] | None = None,
    filter: ds.Expression | None = None,  # noqa: A002 - as Arrow calls it
) -> Iterator[pa.Table]:
    """Yield a file's rows in their order, so many at once; batches without rows are left out."""
    # Group by group of rows: a scanner of the whole file reads ahead, up to a GiB of it, while what
    # it has read is looked at; and what it has in buffers it keeps to the end.
    options = ds.ParquetFragmentScanOptions(pre_buffer=False)
    for file in source.get_fragments():
        for group in file.split_by_row_group():
            scanner = group.scanner(
                schema=source.schema,
                columns=columns,
                filter=filter,
                batch_size=ROWS_AT_ONCE,
                fragment_scan_options=options,
            )
            for batch in scanner.to_batches():
                if batch.num_rows:
                    yield pa.Table.from_batches([batch])


@dataclass(frozen=True)
class _Fold:
    """Tables that come one by one, and are joined and made small as soon as they are alike in size.

    Attributes:
        small: makes a table small; of tables joined it makes what it would of all at once.
        held: small tables, each less than half as long as the one before.
    """

    small: Callable[[pd.DataFrame], pd.DataFrame]
    held: list[pd.DataFrame] = field(default_factory=list)

    def add(self, part: pd.DataFrame) -> None:
        """Take a part of the records."""
        self.held.append(self.small(part))
        while len(self.held) > 1 and 2 * len(self.held[-1]) >= len(self.held[-2]):
            self._join(2)

    def whole(self) -> pd.DataFrame:
        """Return what there is of all parts."""
        self._join(len(self.held))
        return self.held[0]

    def _join(self, count: int) -> None:
        """Make the last tables one."""
        last = self.held[-count:]
        del self.held[-count:]
        columns = {str(name): _joined([part[name] for part in last]) for name in last[0]}
        self.held.append(self.small(pd.DataFrame(columns)) if count > 1 else last[0])


def _joined(parts: list[pd.Series]) -> pd.Series:
    """Join columns; categories stay categories, in the order in which they come up."""
    if isinstance(parts[0].dtype, pd.CategoricalDtype):
        return pd.Series(union_categoricals(parts))
    return pd.concat(parts, ignore_index=True)


def _counted(
    parts: Iterable[pd.DataFrame],
    reader: Callable[[dict[str, pd.CategoricalDtype]], Callable[[Sequence[str]], pd.DataFrame]],
) -> Scan:
    """Count over all records, which come in parts.

    Args:
        parts: of the records, one at least.
        reader: makes what reads metrics, given the columns that are categories.
    """
    kinds, reasons, images, pairs = map(
        _Fold, (_sizes(KINDS), _sizes(REASONS), _labels, _first_of_pairs)
    )
    for part in parts:
        kinds.add(part[KINDS].assign(size=1))
        reasons.add(part[REASONS].assign(size=1))
        images.add(part[[vocabulary.IMAGE_ID, *OF_IMAGE]])
        pairs.add(part[[*PAIR, vocabulary.KEPT, vocabulary.METHOD, vocabulary.STATUS]])
    counts, why, pictures = kinds.whole(), reasons.whole(), images.whole()
    known = {
        str(name): dtype
        for frame in (counts, why, pictures)
        for name, dtype in frame.dtypes.items()
        if isinstance(dtype, pd.CategoricalDtype)
    }
    perturbed = schema.perturbed_images(pairs.whole())[[*PAIR, vocabulary.KEPT]]
    return Scan(counts, _told(why), pictures, perturbed, reader(known))


def _told(why: pd.DataFrame) -> pd.DataFrame:
    """Leave out what a value that is there says of itself: it needs no reason."""
    there = why[vocabulary.STATUS] == Status.OK.value
    details = why[vocabulary.DETAIL].astype(str).where(~there, "")
    return _sizes(REASONS)(why.assign(**{vocabulary.DETAIL: details}))


def _sizes(keys: list[str]) -> Callable[[pd.DataFrame], pd.DataFrame]:
    def small(frame: pd.DataFrame) -> pd.DataFrame:
        groups = frame.groupby(keys, observed=True, sort=False)
        return groups["size"].sum().reset_index()

    return small


def _labels(frame: pd.DataFrame) -> pd.DataFrame:
    groups = frame.groupby(vocabulary.IMAGE_ID, observed=True, sort=False)
    return groups[OF_IMAGE].first().reset_index()


def _first_of_pairs(frame: pd.DataFrame) -> pd.DataFrame:
    """Keep as many records of each perturbed image as `perturbed_images` looks at."""
    chosen = frame[~frame[vocabulary.FAMILY].isin((*vocabulary.REFERENCES, vocabulary.CLEAN))]
    failed = (chosen[vocabulary.METHOD] == vocabulary.INPUT) & (
        chosen[vocabulary.STATUS] == Status.ERROR.value
    )
    once = ~chosen[PAIR].assign(failed=failed).duplicated()
    return chosen[once]
