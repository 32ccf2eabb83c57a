"""The lines of a segment: a score of a method from run to run, and the least change that counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from steadymap.bench.core import errors, metric_registry, names
from steadymap.bench.gate.comparison import better
from steadymap.bench.gate.margins import Margins
from steadymap.bench.gate.side import KEPT_METRICS
from steadymap.bench.history.entry import Entry
from steadymap.bench.history.scores import ACCURACY, CALIBRATED, COST, NETWORK, PREDICTION_KEPT, RAW
from steadymap.bench.history.segments import Segment
from steadymap.bench.records.vocabulary import CLEAN, FAMILY, METHOD, METRIC, OVERALL, VALUE

Floats = NDArray[np.float64]

# What is shown and judged unless other metrics are asked for.
DEFAULT_METRICS = (*KEPT_METRICS, ACCURACY, PREDICTION_KEPT)

# Threads, batch sizes and versions move means by less than this share of a margin: see docs/ci.md.
NUMERICS_SHARE = 0.01
# A fall of the network's own shares by two points is what a gate looks for.
NETWORK_MARGIN = 0.02
# Where a metric has no margin, so many digits count.
RELATIVE_FLOOR = 1e-6


@dataclass(frozen=True)
class Line:
    """One score of one method in the runs of a segment.

    Attributes:
        method: its spec, or `network`.
        metric: the score.
        kind: `calibrated`, `raw` or `cost`.
        family: `overall`; `clean` for what is said of the clean image alone.
        values: (runs,), NaN where a run has none.
        low: the lower ends of their 95% intervals, NaN where there is none.
        high: the upper ends.
        floor: changes of this size are numerics: the least noise that a line is taken to have.
        better: `higher` or `lower`.
    """

    method: str
    metric: str
    kind: str
    family: str
    values: Floats
    low: Floats
    high: Floats
    floor: float
    better: str

    @property
    def judged(self) -> bool:
        """Whether steps are looked for: what maps cost hangs on the machine."""
        return self.kind != COST


def check_metrics(entries: Sequence[Entry], metrics: Sequence[str]) -> None:
    """See that some run of a history has each metric.

    Raises:
        ConfigError: none has one.
    """
    present = list(dict.fromkeys(name for entry in entries for name in entry.scores[METRIC]))
    for name in metrics:
        if name not in present:
            raise errors.ConfigError(
                f"metric: no run of the history has {name!r}; {names.nearest(name, present)}"
            )


def lines_of(segment: Segment, metrics: Sequence[str] = ()) -> list[Line]:
    """Return the lines of a segment, method by method within a metric.

    Of a metric that is calibrated the raw score is left out, and of one that has a mean over
    families each family.

    Args:
        segment: of a history.
        metrics: which; left out, those that a baseline keeps, accuracy and predictions kept. Those
            that no run of the segment has are passed over.
    """
    tables = [entry.scores.assign(run=place) for place, entry in enumerate(segment.entries)]
    scores = pd.concat(tables, ignore_index=True)
    present = list(dict.fromkeys(scores[METRIC]))
    chosen = metrics or [name for name in DEFAULT_METRICS if name in present] or present
    scores = scores[scores[FAMILY].isin((OVERALL, CLEAN)) & scores[METRIC].isin(chosen)]
    groups = {
        (str(metric), str(method)): rows
        for (metric, method), rows in scores.groupby([METRIC, METHOD], sort=True)
    }
    found = [
        _line(segment, metric, method, groups[metric, method])
        for metric in dict.fromkeys(chosen)
        for method in _methods(segment)
        if (metric, method) in groups
    ]
    return [line for line in found if np.isfinite(line.values).any()]


def _methods(segment: Segment) -> list[str]:
    """Return the methods of a segment in the order of its last run, and the network."""
    specs = [spec for entry in reversed(segment.entries) for spec in entry.manifest["methods"]]
    return [*dict.fromkeys(specs), NETWORK]


def _line(segment: Segment, metric: str, method: str, rows: pd.DataFrame) -> Line:
    family = OVERALL if (rows[FAMILY] == OVERALL).any() else CLEAN
    rows = rows[rows[FAMILY] == family]
    kinds = set(rows["kind"])
    kind = next(kind for kind in (CALIBRATED, RAW, COST) if kind in kinds)
    of_kind = rows[rows["kind"] == kind].set_index("run").reindex(range(len(segment.entries)))
    values, low, high = (
        of_kind[name].to_numpy(dtype=np.float64) for name in (VALUE, "low", "high")
    )
    known = metric_registry.known_metrics(*(entry.manifest for entry in segment.entries))
    is_higher = method == NETWORK or (kind != COST and better(metric, known) == "higher")
    side = "higher" if is_higher else "lower"
    floor = _floor(metric, method, values)
    return Line(method, metric, kind, family, values, low, high, floor, side)


def _floor(metric: str, method: str, values: Floats) -> float:
    """Return the size of a change that numerics explain; 0 where all values are 0."""
    sizes = np.abs(values[np.isfinite(values)])
    if not len(sizes):
        return 0.0
    margin = NETWORK_MARGIN if method == NETWORK else Margins().of(metric, float(np.median(sizes)))
    if np.isfinite(margin) and margin > 0:
        return float(NUMERICS_SHARE * margin)
    return float(RELATIVE_FLOOR * sizes.max())


def titles(lines: Sequence[Line]) -> Mapping[str, str]:
    """Return short names of the methods of lines."""
    return names.short_names(list(dict.fromkeys(line.method for line in lines)))
