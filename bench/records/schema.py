"""Records: one row a value, the same columns everywhere, in Parquet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import pandas as pd
import pyarrow as pa

from steadymap.bench.records.vocabulary import (
    BATCH_OF_ONE,
    CLEAN,
    CONTROLS,
    FLOAT64,
    INPUT,
    INPUT_METRICS,
    NULLS,
    NUMERICS,
    ON_CPU,
    OTHER_IMAGE,
    OTHER_SEED,
    OVERALL,
    RANDOM_NETWORK,
    RECOGNISED,
    REFERENCES,
    ROUNDED,
    SHARED,
    STEPS,
    is_control,
)
from steadymap.metrics import Status

# Who reads or writes records finds the words they hold here, too.
__all__ = [
    "BATCH_OF_ONE",
    "CLEAN",
    "COMMON",
    "CONTROLS",
    "FLOAT64",
    "INPUT",
    "INPUT_METRICS",
    "NULLS",
    "NUMERICS",
    "ON_CPU",
    "OTHER_IMAGE",
    "OTHER_SEED",
    "OVERALL",
    "PART_SCHEMA",
    "RANDOM_NETWORK",
    "RECOGNISED",
    "REFERENCES",
    "ROUNDED",
    "SCHEMA",
    "SCHEMA_VERSION",
    "SHARED",
    "STEPS",
    "Record",
    "Source",
    "is_control",
    "perturbed_images",
    "to_frame",
    "to_part",
    "with_source",
]

SCHEMA_VERSION = 1

SCHEMA = pa.schema(
    [
        pa.field("run_id", pa.dictionary(pa.int32(), pa.string())),
        pa.field("model", pa.dictionary(pa.int32(), pa.string())),
        pa.field("dataset", pa.dictionary(pa.int32(), pa.string())),
        pa.field("image_id", pa.dictionary(pa.int32(), pa.string())),
        pa.field("label", pa.int32()),
        pa.field("target", pa.int32()),
        pa.field("pred_clean", pa.int32()),
        pa.field("pred_perturbed", pa.int32()),
        pa.field("kept", pa.bool_()),
        pa.field("method", pa.dictionary(pa.int32(), pa.string())),
        pa.field("family", pa.dictionary(pa.int32(), pa.string())),
        pa.field("severity", pa.float64()),
        pa.field("draw", pa.int32()),
        pa.field("metric", pa.dictionary(pa.int32(), pa.string())),
        pa.field("value", pa.float64()),
        pa.field("status", pa.dictionary(pa.int32(), pa.string())),
        pa.field("detail", pa.dictionary(pa.int32(), pa.string())),
    ]
)

# The same without what all records of a run have in common.
COMMON = ("run_id", "model", "dataset")
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
    columns = {
        field.name: [getattr(record, field.name) for record in records] for field in fields(Record)
    }
    return pa.table(columns, schema=PART_SCHEMA)


def with_source(part: pa.Table, source: Source) -> pa.Table:
    """Return records with what they have in common: an Arrow table with `SCHEMA`."""
    common = [getattr(source, name) for name in COMMON]
    columns = [
        pa.DictionaryArray.from_arrays(pa.array([0] * len(part), pa.int32()), pa.array([value]))
        for value in common
    ]
    return pa.table([*columns, *part.columns], schema=SCHEMA)


def perturbed_images(records: pd.DataFrame) -> pd.DataFrame:
    """Return one row a perturbed image, leaving out those that a family failed to make."""
    chosen = records[~records["family"].isin((*REFERENCES, CLEAN))]
    made = chosen[(chosen["method"] != INPUT) | (chosen["status"] != Status.ERROR.value)]
    key = ["image_id", "family", "severity", "draw"]
    failed = chosen[(chosen["method"] == INPUT) & (chosen["status"] == Status.ERROR.value)]
    if len(failed):
        names = pd.MultiIndex.from_frame(failed[key])
        made = made[~pd.MultiIndex.from_frame(made[key]).isin(names)]
    return made.drop_duplicates(key)


def to_frame(table: pa.Table) -> pd.DataFrame:
    """Return a table of records for pandas: `label` may be missing, text columns are categories."""
    frame: pd.DataFrame = table.unify_dictionaries().to_pandas(
        types_mapper={pa.int32(): pd.Int32Dtype()}.get
    )
    return frame
