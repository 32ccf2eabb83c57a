"""Records: one row a value, the same columns everywhere, in Parquet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import pandas as pd
import pyarrow as pa

from steadymap.metrics import Status

SCHEMA_VERSION = 1

# The family of a record that is about the clean image alone, and the method of one that is about
# the input rather than a map.
CLEAN = "clean"
INPUT = "input"

# Families of records that hold the map of the clean image against another map of the same method.
# Unrelated maps, which say what a score is worth: other images', randomised networks'.
OTHER_IMAGE = "other_image"
RANDOM_NETWORK = "random_network"
NULLS = (OTHER_IMAGE, RANDOM_NETWORK)
# The same image, other random numbers; of stochastic methods alone.
OTHER_SEED = "other_seed"
# The same image computed in another way, for a few images: what is smaller than that is rounding.
BATCH_OF_ONE = "batch_of_one"
ROUNDED = "rounded_image"
FLOAT64 = "float64"
ON_CPU = "on_cpu"
NUMERICS = (BATCH_OF_ONE, ROUNDED, FLOAT64, ON_CPU)
REFERENCES = (*NULLS, OTHER_SEED, *NUMERICS)

# In summaries: the mean over the families of perturbations, each counting the same.
OVERALL = "overall"

# What is behind a metric's name where the record says whether a map was recognised by it.
RECOGNISED = ".recognised"

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


# Methods that are there to be beaten: they ignore the network or the image.
CONTROLS = ("constant", "random", "edge", "centre_blob")


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


# About the perturbed image itself, once a cell.
INPUT_METRICS: dict[str, str] = {
    "input_change": "root mean square of perturbed minus clean image, in image units",
    "saturated_share": "share of the perturbed image's values at or beyond black or white",
}

# Of a method with steps=auto: points of the path at which a map took gradients.
STEPS = "steps"

# Names of parts of the work, beside the methods' specs.
SHARED = "shared pass"


def is_control(spec: str) -> bool:
    """Return whether the spec of a method names a control.

    Nothing is loaded to see: specs come from the files of a run.
    """
    return spec.partition(":")[0] in CONTROLS
