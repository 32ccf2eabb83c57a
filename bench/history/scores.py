"""The scores of a run that a history keeps: a row a method, family, metric and kind of score."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.dataset as ds

from steadymap.bench.analysis.admission import Facts
from steadymap.bench.analysis.findings import Findings
from steadymap.bench.analysis.intervals import CONFIDENCE, Interval, intervals
from steadymap.bench.core.metric_registry import known_metrics
from steadymap.bench.gate.side import time_ratios
from steadymap.bench.records import read, vocabulary
from steadymap.bench.records.scan import Scan
from steadymap.bench.records.vocabulary import CLEAN, FAMILY, METHOD, METRIC, OVERALL, VALUE

# Kinds of scores. Where both are, the calibrated one is what people read.
CALIBRATED = "calibrated"
RAW = "raw"
COST = "cost"

# The method of what is said of the network, and its metrics.
NETWORK = "network"
ACCURACY = "accuracy"
PREDICTION_KEPT = "prediction_kept"
# What maps cost: passes for one map, and time beyond the shared pass, in times of that pass.
PASSES = "passes"
TIME_RATIO = "time_ratio"

KEY = [METHOD, FAMILY, METRIC, "kind"]
COLUMNS = [*KEY, "images", VALUE, "low", "high", "coverage"]

Row = tuple[str, str, str, str, int, float, float, float, float]


def scores_of(folder: Path, manifest: Mapping[str, Any], scan: Scan) -> pd.DataFrame:
    """Return what a history keeps of the scores of a run.

    Args:
        folder: of the finished run.
        manifest: of it.
        scan: of its records.

    Returns:
        One row a method, family, metric and kind, sorted: `value` is a mean over images with its
        95% interval (`low`, `high`; NaN where there is none), of so many `images`, `coverage` the
        share of values that are defined. Kinds are `calibrated`, `raw` and `cost`. The network's
        own accuracy and the share of predictions kept are rows of the method `network`.
    """
    findings = Findings.of(scan, known_metrics(manifest), Facts.of(manifest))
    rows = [
        *_calibrated(findings),
        *_raw(findings),
        *_evidence(findings),
        *_accuracy(folder),
        *_kept(scan),
        *_costs(folder, manifest),
    ]
    table = pd.DataFrame(rows, columns=COLUMNS)
    return table.sort_values(KEY, ignore_index=True)


def _told(frame: pd.DataFrame) -> pd.DataFrame:
    """Leave out controls, the input itself, unrelated maps, and what is no metric of maps."""
    methods = frame[METHOD].astype(str)
    names = frame[METRIC].astype(str)
    # Of no row at all, what a function makes of texts would be texts.
    other = methods.map(vocabulary.is_control).astype(bool) | (methods == vocabulary.INPUT)
    other |= frame[FAMILY].isin(vocabulary.REFERENCES)
    other |= names.map(vocabulary.base_metric) != names
    other |= names.str.startswith(vocabulary.MARGIN_NAMES) | (names == vocabulary.STEPS)
    return frame[~other].astype(dict.fromkeys((METHOD, FAMILY, METRIC), str))


def _calibrated(findings: Findings) -> list[Row]:
    rows: list[Row] = []
    for row in _told(findings.calibrated).to_dict("records"):
        key, images, coverage = _key(row), int(row["images"]), float(row["coverage"])
        ends = (float(row["low"]), float(row["high"]))
        rows.append((*key, CALIBRATED, images, float(row["calibrated"]), *ends, coverage))
        method, family, metric = key
        recognised = float(row["recognised"])
        if np.isfinite(recognised):
            behind = metric + vocabulary.RECOGNISED
            rows.append((method, family, behind, RAW, images, recognised, np.nan, np.nan, coverage))
    return rows


def _raw(findings: Findings) -> list[Row]:
    summary = findings.summary[findings.summary["subset"] == "all"]
    return [
        (
            *_key(row), RAW, int(row["images"]), float(row["mean"]), float(row["low"]),
            float(row["high"]), float(row["coverage"]),
        )
        for row in _told(summary).to_dict("records")
    ]  # fmt: skip


def _evidence(findings: Findings) -> list[Row]:
    if findings.evidence.empty:
        return []
    # One severity a family is asked.
    rows = findings.evidence.drop_duplicates([METHOD, FAMILY])
    rows = rows.assign(**{METRIC: vocabulary.EVIDENCE_KEPT})
    rows = rows[~rows[METHOD].map(vocabulary.is_control)]
    return [
        (
            *_key(row), RAW, int(row["images"]), float(row["kept"]), float(row["low"]),
            float(row["high"]), np.nan,
        )
        for row in rows.to_dict("records")
    ]  # fmt: skip


def _key(row: Mapping[Any, Any]) -> tuple[str, str, str]:
    return str(row[METHOD]), str(row[FAMILY]), str(row[METRIC])


def _accuracy(folder: Path) -> list[Row]:
    """Return the share of clean images that the network is right about, of those with a label.

    The interval is exact. Source: Clopper and Pearson 1934.
    """
    columns = [vocabulary.IMAGE_ID, vocabulary.LABEL, vocabulary.PRED_CLEAN]
    path = folder / read.RECORDS
    with read.in_one_line(path):
        parts = [
            batch.to_pandas().astype({vocabulary.IMAGE_ID: str}).drop_duplicates()
            for batch in ds.dataset(path, format="parquet").to_batches(columns=columns)
        ]
    images = pd.concat(parts).drop_duplicates(vocabulary.IMAGE_ID)
    known = images.dropna(subset=[vocabulary.LABEL])
    if known.empty:
        return []
    # A prediction is missing where logits are not finite: then it is not right.
    right = int((known[vocabulary.LABEL] == known[vocabulary.PRED_CLEAN]).sum())
    from statsmodels.stats.proportion import proportion_confint  # noqa: PLC0415 - takes a second

    low, high = proportion_confint(right, len(known), 1 - CONFIDENCE, method="beta")
    share, coverage = right / len(known), len(known) / len(images)
    return [(NETWORK, CLEAN, ACCURACY, RAW, len(known), share, float(low), float(high), coverage)]


def _kept(scan: Scan) -> list[Row]:
    """Return the share of predictions kept, by family and over all, each counting the same."""
    pairs = scan.pairs[~scan.pairs[FAMILY].isin(vocabulary.DIAGNOSIS)]
    if pairs.empty:
        return []
    pairs = pairs.astype({FAMILY: str, vocabulary.IMAGE_ID: str, vocabulary.KEPT: float})
    by_image = pairs.pivot_table(vocabulary.KEPT, vocabulary.IMAGE_ID, FAMILY)
    samples = {str(family): by_image[family].dropna() for family in by_image}
    samples[OVERALL] = by_image.mean(axis=1)
    found = intervals([sample.to_numpy(dtype=np.float64) for sample in samples.values()])
    return [
        _share(family, len(sample), interval)
        for (family, sample), interval in zip(samples.items(), found, strict=True)
    ]


def _share(family: str, images: int, share: Interval) -> Row:
    ends = (share.mean, share.low, share.high)
    return (NETWORK, family, PREDICTION_KEPT, RAW, images, *ends, 1.0)


def _costs(folder: Path, manifest: Mapping[str, Any]) -> list[Row]:
    """Return passes for one map, and time ratios, by method; they have no intervals."""
    passes = {
        spec: cost["each"]
        for spec, cost in manifest.get("passes_by_method", {}).items()
        if cost.get("each") is not None
    }
    named = ((PASSES, passes), (TIME_RATIO, time_ratios(folder, manifest)))
    return [
        (spec, OVERALL, metric, COST, 0, float(value), np.nan, np.nan, np.nan)
        for metric, values in named
        for spec, value in values.items()
        if not vocabulary.is_control(spec)
    ]
