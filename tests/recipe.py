"""Networks of one recipe: the study's five, as sides of a comparison, and sides made of numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from numpy.typing import NDArray
from support import ROOT

from steadymap.bench.gate.predictions import predictions_of
from steadymap.bench.gate.side import Side, image_scores
from steadymap.bench.records.scan import as_scan
from steadymap.bench.records.schema import to_frame

Values = NDArray[np.float64]

STUDY = ROOT / "results" / "study" / "scores"
METRICS = ("ssim", "spearman", "completeness_error")


def study_sides() -> list[Side]:
    """The five networks of the study that differ in their seed alone, on 229 photographs.

    Their scores are those of the rules' first version.
    """
    sides = []
    for seed in range(5):
        folder = STUDY / f"compact-{seed}"
        records = to_frame(pq.read_table(folder / "records.parquet"))
        scores = image_scores(records, METRICS)
        said = predictions_of(as_scan(records))
        sides.append(Side(f"compact-{seed}", scores, manifest(str(seed)), {}, said))
    return sides


def manifest(weights: str, **changes: object) -> dict[str, Any]:
    return {
        "model": {"name": "m", "weights_sha256": weights, "class_names": ["a", "b", "c"]},
        "data": {"pictures": {}},
        "machine": {},
    } | changes


def images_of(side: Side, images: Sequence[str]) -> Side:
    """The same side, of some images alone."""
    scores = side.scores[side.scores["image_id"].isin(images)]
    said = side.predictions
    assert said is not None
    chosen = said[said["image_id"].isin(images)]
    return Side(side.name, scores, side.manifest, side.ratios, chosen)


def predictions(
    labels: Sequence[int | None],
    said: Sequence[int | None],
    kept: Mapping[str, Sequence[int]] | None = None,
    pairs: int = 4,
) -> pd.DataFrame:
    """What a network said of images, and of how many of their pairs the prediction held."""
    held = {"bias": [pairs] * len(said)} if kept is None else kept
    rows = [
        {
            "image_id": f"i{place:03d}",
            "family": family,
            "label": label,
            "prediction": prediction,
            "probability": 0.9,
            "kept": counts[place],
            "pairs": pairs,
        }
        for family, counts in held.items()
        for place, (label, prediction) in enumerate(zip(labels, said, strict=True))
    ]
    kinds = dict.fromkeys(("label", "prediction", "kept", "pairs"), "Int64")
    return pd.DataFrame(rows).astype(kinds)


def side_of(
    values: Mapping[tuple[str, str, str], Values | Sequence[float]],
    weights: str = "w",
    said: pd.DataFrame | None = None,
) -> Side:
    """A side with the given scores by method, family and metric, NaN where there is none."""
    rows = [
        {
            "method": method,
            "family": family,
            "metric": metric,
            "image_id": f"i{place:03d}",
            "value": float(value),
            "valid": int(np.isfinite(value)),
            "pairs": 1,
        }
        for (method, family, metric), column in values.items()
        for place, value in enumerate(column)
    ]
    return Side("run", pd.DataFrame(rows), manifest(weights), {}, said)
