"""What metrics of the clean image read beside its map: rows of numbers, one row an image."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Self

import numpy as np

from steadymap.metrics.maps import Array, Flags


@dataclass(frozen=True)
class Evidence:
    """Arrays of B rows each, by image; None where there is nothing of the kind."""

    def arrays(self) -> dict[str, Array | Flags]:
        """Return what there is, by name."""
        arrays = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: values for name, values in arrays.items() if values is not None}

    def __len__(self) -> int:
        """Return the number of images."""
        return len(next(iter(self.arrays().values())))

    def copy(self) -> Self:
        """Return the rows once more."""
        return replace(self, **{name: values.copy() for name, values in self.arrays().items()})

    def select(self, chosen: Flags) -> Self:
        """Return the rows of some images, by flags (B,)."""
        return replace(self, **{name: values[chosen] for name, values in self.arrays().items()})

    @property
    def finite(self) -> Flags:
        """(B,), whether all numbers of a row are finite."""
        rows = [np.isfinite(values).all(axis=1) for values in self.arrays().values()]
        finite: Flags = np.logical_and.reduce(rows)
        return finite
