"""Rows of records of which the calibrated score is known."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from steadymap.bench.records.vocabulary import MATCHED_IMAGE, MATCHED_NETWORK

Row = dict[str, object]
Values = NDArray[np.float64] | Sequence[float]


def scored(
    values: Values, other: Values, randomised: Values, *, name: str = "ssim", **fixed: object
) -> list[Row]:
    """Rows of one method: a score, and those of unrelated maps, of each image."""
    columns = {"": values, MATCHED_IMAGE: other, f"{MATCHED_NETWORK}0": randomised}
    return [
        {"image_id": f"i{place}", "metric": name + suffix, "value": value} | fixed
        for suffix, column in columns.items()
        for place, value in enumerate(column)
    ]


def only(calibrated: pd.DataFrame, **where: object) -> Row:
    for column, value in where.items():
        calibrated = calibrated[calibrated[column] == value]
    (row,) = calibrated.to_dict("records")
    return {str(key): value for key, value in row.items()}
