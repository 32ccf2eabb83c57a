"""Records: one row a value, the same columns everywhere, in Parquet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import pandas as pd
import pyarrow as pa

from steadymap.bench.records.vocabulary import (
    CLEAN,
    DATASET,
    DETAIL,
    DRAW,
    FAMILY,
    IMAGE_ID,
    INPUT,
    KEPT,
    LABEL,
    METHOD,
    METRIC,
    MODEL,
    PRED_CLEAN,
    PRED_PERTURBED,
    REFERENCES,
    RUN_ID,
    SEVERITY,
    STATUS,
    TARGET,
    VALUE,
)
from steadymap.metrics import Status

SCHEMA_VERSION = 1

SCHEMA = pa.schema(
    [
        pa.field(RUN_ID, pa.dictionary(pa.int32(), pa.string())),
        pa.field(MODEL, pa.dictionary(pa.int32(), pa.string())),
        pa.field(DATASET, pa.dictionary(pa.int32(), pa.string())),
        pa.field(IMAGE_ID, pa.dictionary(pa.int32(), pa.string())),
        pa.field(LABEL, pa.int32()),
        pa.field(TARGET, pa.int32()),
        pa.field(PRED_CLEAN, pa.int32()),
        pa.field(PRED_PERTURBED, pa.int32()),
        pa.field(KEPT, pa.bool_()),
        pa.field(METHOD, pa.dictionary(pa.int32(), pa.string())),
        pa.field(FAMILY, pa.dictionary(pa.int32(), pa.string())),
        pa.field(SEVERITY, pa.float64()),
        pa.field(DRAW, pa.int32()),
        pa.field(METRIC, pa.dictionary(pa.int32(), pa.string())),
        pa.field(VALUE, pa.float64()),
        pa.field(STATUS, pa.dictionary(pa.int32(), pa.string())),
        pa.field(DETAIL, pa.dictionary(pa.int32(), pa.string())),
    ]
)

# The same without what all records of a run have in common.
COMMON = (RUN_ID, MODEL, DATASET)
PART_SCHEMA = pa.schema([field for field in SCHEMA if field.name not in COMMON])


@dataclass(frozen=True)
class Source:
    """What all records of a run have in common."""

    run_id: str
    model: str
    dataset: str


@dataclass(frozen=True, slots=True)
class Record:
    """One value of one metric for one (image, method, family, severity, draw).

    Classes are indices into the classifier's class names; `label` is None where the data's class
    is none of them, a prediction where the logits are not finite. `value` is NaN unless `status` is
    `ok`, and `detail` then says why.
    """

    image_id: str
    label: int | None
    target: int | None
    pred_clean: int | None
    pred_perturbed: int | None
    kept: bool
    method: str
    family: str
    severity: float
    draw: int
    metric: str
    value: float
    status: Status
    detail: str


def to_part(records: Sequence[Record]) -> pa.Table:
    """Return records as an Arrow table with `PART_SCHEMA`."""
    # Field by field of a record, column by column of the schema.
    columns = [[getattr(record, field.name) for record in records] for field in fields(Record)]
    return pa.table(dict(zip(PART_SCHEMA.names, columns, strict=True)), schema=PART_SCHEMA)


def with_source(part: pa.Table, source: Source) -> pa.Table:
    """Return records with what they have in common: an Arrow table with `SCHEMA`."""
    common = (source.run_id, source.model, source.dataset)
    columns = [
        pa.DictionaryArray.from_arrays(pa.array([0] * len(part), pa.int32()), pa.array([value]))
        for value in common
    ]
    return pa.table([*columns, *part.columns], schema=SCHEMA)


def perturbed_images(records: pd.DataFrame) -> pd.DataFrame:
    """Return one row a perturbed image, leaving out those that a family failed to make."""
    chosen = records[~records[FAMILY].isin((*REFERENCES, CLEAN))]
    perturbed = chosen[(chosen[METHOD] != INPUT) | (chosen[STATUS] != Status.ERROR.value)]
    key = [IMAGE_ID, FAMILY, SEVERITY, DRAW]
    failed = chosen[(chosen[METHOD] == INPUT) & (chosen[STATUS] == Status.ERROR.value)]
    if len(failed):
        names = pd.MultiIndex.from_frame(failed[key])
        perturbed = perturbed[~pd.MultiIndex.from_frame(perturbed[key]).isin(names)]
    return perturbed.drop_duplicates(key)


def to_frame(table: pa.Table) -> pd.DataFrame:
    """Return a table of records for pandas: `label` may be missing, text columns are categories."""
    frame: pd.DataFrame = table.unify_dictionaries().to_pandas(
        types_mapper={pa.int32(): pd.Int32Dtype()}.get
    )
    return frame
