"""What a network said of the images: its predictions, and whether they held when images changed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from steadymap.bench.core import errors, safe_csv
from steadymap.bench.records import vocabulary
from steadymap.bench.records.scan import Scan

PREDICTIONS = "predictions.csv"
# In a baseline's manifest: the hash of that file.
PREDICTIONS_HASH = "predictions_sha256"

PREDICTION = "prediction"
PROBABILITY = "probability"
PAIRS = "pairs"
COUNTS = [vocabulary.LABEL, PREDICTION, vocabulary.KEPT, PAIRS]
COLUMNS = [
    vocabulary.IMAGE_ID,
    vocabulary.FAMILY,
    vocabulary.LABEL,
    PREDICTION,
    PROBABILITY,
    vocabulary.KEPT,
    PAIRS,
]
_OF_IMAGE = [vocabulary.LABEL, PREDICTION, PROBABILITY]
DIGITS = "%.6g"


def predictions_of(scan: Scan) -> pd.DataFrame:
    """Return what the network of a run said, one row an image and family, sorted.

    Columns: `label` and `prediction` are class indices of the classifier, missing where there is
    none; `probability` is the softmax probability of the prediction on the clean image, missing in
    runs that did not record it; `kept` is of how many perturbed images the prediction is that of
    the clean image, `pairs` of how many it is known.
    """
    images = scan.images.rename(columns={vocabulary.PRED_CLEAN: PREDICTION})
    images = images.astype({vocabulary.IMAGE_ID: str})
    keys = [vocabulary.IMAGE_ID, vocabulary.FAMILY]
    pairs = scan.pairs.astype(dict.fromkeys(keys, str))
    held = pairs.groupby(keys)[vocabulary.KEPT].agg(["sum", "size"]).reset_index()
    held = held.rename(columns={"sum": vocabulary.KEPT, "size": PAIRS})
    every = images.merge(held[[vocabulary.FAMILY]].drop_duplicates(), how="cross")
    table = every.merge(held, on=keys, how="left").merge(
        _probabilities(scan), on=vocabulary.IMAGE_ID, how="left"
    )
    table[[vocabulary.KEPT, PAIRS]] = table[[vocabulary.KEPT, PAIRS]].fillna(0)
    # As they will be written, so that a run compared with its own baseline has not changed.
    table[PROBABILITY] = table[PROBABILITY].map(lambda value: float(DIGITS % value))
    return table.sort_values(keys, ignore_index=True)[COLUMNS].astype(
        dict.fromkeys(COUNTS, "Int64")
    )


def _probabilities(scan: Scan) -> pd.DataFrame:
    records = scan.read([vocabulary.CLEAN_PROBABILITY]).astype({vocabulary.IMAGE_ID: str})
    values = records.groupby(vocabulary.IMAGE_ID)[vocabulary.VALUE].first().astype(float)
    return values.rename(PROBABILITY).reset_index()


def by_image(predictions: pd.DataFrame) -> pd.DataFrame:
    """Return `label`, `prediction` and `probability`, one row an image, indexed by its id."""
    return predictions.groupby(vocabulary.IMAGE_ID)[_OF_IMAGE].first()


def written(predictions: pd.DataFrame) -> bytes:
    """Return predictions as their file holds them."""
    return safe_csv.csv_text(predictions, DIGITS).encode()


def read_predictions(folder: Path, manifest: Mapping[str, Any]) -> pd.DataFrame | None:
    """Read the predictions of a baseline; None where it was saved without them.

    Raises:
        ConfigError: they are not what was saved.
    """
    digest = manifest["baseline"].get(PREDICTIONS_HASH)
    if digest is None:
        return None
    path = folder / PREDICTIONS
    again = "save the baseline again"
    if not path.is_file():
        raise errors.ConfigError(f"{path} is gone: {again}")
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != digest:
        raise errors.ConfigError(f"{path} is not what was saved (cut or edited): {again}")
    try:
        table = safe_csv.parse_csv(content, [vocabulary.IMAGE_ID, vocabulary.FAMILY])
        table = table[COLUMNS].astype(dict.fromkeys(COUNTS, "Int64")).astype({PROBABILITY: float})
    # pandas' own errors are ValueErrors, and a column that is gone is a KeyError.
    except (ValueError, TypeError, OverflowError, KeyError) as error:
        raise errors.ConfigError(f"{path} is no table of predictions: {again}") from error
    if not _is_sound(table):
        raise errors.ConfigError(f"{path} holds what predictions cannot be: {again}")
    return table


def _is_sound(table: pd.DataFrame) -> bool:
    """Whether there is one row an image and family, with counts and shares in their ranges."""
    keys = table[[vocabulary.IMAGE_ID, vocabulary.FAMILY]]
    held = table[[vocabulary.KEPT, PAIRS]]
    if keys.isna().any(axis=None) or keys.duplicated().any() or held.isna().any(axis=None):
        return False
    classes = table[[vocabulary.LABEL, PREDICTION]].fillna(0)
    return bool(
        (held[vocabulary.KEPT].between(0, held[PAIRS])).all()
        and (classes >= 0).all(axis=None)
        and table[PROBABILITY].dropna().between(0, 1).all()
    )
