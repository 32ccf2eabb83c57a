"""One side of a comparison: the scores of a run or of a baseline, image by image."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from steadymap.bench.analysis.costs import seconds_by_part
from steadymap.bench.core import errors, metric_registry, safe_csv
from steadymap.bench.records import manifest_schema, read, rules, seal, vocabulary
from steadymap.bench.records.scan import Scan, scan_run
from steadymap.bench.records.schema import SCHEMA_VERSION
from steadymap.metrics import METRICS, Metric, Status

SCORES = "scores.csv"

# What a baseline keeps unless told otherwise: the headlines, and whether maps are recognised by
# them, without which a map that ignores the image would pass for a steady one.
KEPT_METRICS = (
    *metric_registry.HEADLINES,
    *(
        name + vocabulary.RECOGNISED
        for name in metric_registry.HEADLINES
        if METRICS[name].recognises
    ),
    vocabulary.EVIDENCE_KEPT,
)
KEY = [vocabulary.METHOD, vocabulary.FAMILY, vocabulary.METRIC, vocabulary.IMAGE_ID]
DIGITS = "%.6g"
COLUMNS = [*KEY, vocabulary.VALUE, "valid", "pairs"]


@dataclass(frozen=True)
class Side:
    """One of two runs that are compared.

    Attributes:
        name: what it is called.
        scores: one row a method, family, metric and image: `value` is the mean over severities and
            draws of the values with status `ok` (missing where there is none), `valid` their
            number, `pairs` how many there could have been.
        manifest: of the run.
        ratios: by method, seconds an image beyond the shared pass over those of that pass, both in
            the same run.
    """

    name: str
    scores: pd.DataFrame
    manifest: Mapping[str, Any]
    ratios: Mapping[str, float]


def image_scores(
    records: pd.DataFrame,
    metrics: Sequence[str] | None = None,
    readable: Mapping[str, Metric] | None = None,
) -> pd.DataFrame:
    """Average records within an image: the scores of a `Side`, sorted.

    Args:
        records: of a run.
        metrics: which to take; None takes all of methods, with what says whether maps are
            recognised by them.
        readable: the metrics whose values can be read; left out, ours and those that are loaded.
    """
    kept = ~records[vocabulary.FAMILY].isin(vocabulary.REFERENCES) & (
        records[vocabulary.METHOD] != vocabulary.INPUT
    )
    kept &= ~records[vocabulary.METHOD].astype(str).map(vocabulary.is_control)
    # Of that, `evidence_scores` has the share.
    kept &= records[vocabulary.METRIC] != vocabulary.EVIDENCE_KEPT
    chosen = _recognitions(records[kept].astype(dict.fromkeys(KEY, str)))
    readable = metric_registry.known_metrics() if readable is None else readable
    # Margins are logits, and no scores: see `evidence_scores`.
    chosen = chosen[~chosen[vocabulary.METRIC].str.startswith(vocabulary.MARGIN_NAMES)]
    known = chosen[vocabulary.METRIC].str.removesuffix(vocabulary.RECOGNISED).isin(readable)
    chosen = chosen[known if metrics is None else chosen[vocabulary.METRIC].isin(metrics)]
    valid = chosen[vocabulary.STATUS] == Status.OK.value
    groups = chosen.assign(
        **{vocabulary.VALUE: chosen[vocabulary.VALUE].where(valid)}, valid=valid
    ).groupby(KEY)
    table = groups.agg(
        **{vocabulary.VALUE: (vocabulary.VALUE, "mean")},
        valid=("valid", "sum"),
        pairs=("valid", "size"),
    )
    # As they will be written, so that a run compared with its own baseline has not changed.
    table[vocabulary.VALUE] = table[vocabulary.VALUE].map(lambda value: float(DIGITS % value))
    return table.reset_index()[COLUMNS]


def evidence_scores(scan: Scan) -> pd.DataFrame:
    """Return what each image's perturbed map still knows, as a share of what clean maps know.

    The share is of the mean over images, so that the mean of the values is the ratio of means. A
    method whose clean margin may be 0 has none, nor has a family under which it is not asked.
    """
    # Intervals bring scipy, which whoever reads a baseline alone does not need.
    from steadymap.bench.analysis import evidence, intervals  # noqa: PLC0415

    records = scan.read([vocabulary.EVIDENCE_KEPT, evidence.CLEAN_MARGIN])
    records = records.astype(dict.fromkeys(KEY, str))
    valid = records[vocabulary.STATUS] == Status.OK.value
    value = records[vocabulary.VALUE].where(valid)
    clean = records[vocabulary.METRIC] == evidence.CLEAN_MARGIN
    margins = {
        method: intervals.mean_of(values.to_numpy(float))
        for method, values in value[clean].groupby(records[vocabulary.METHOD])
    }
    above = {method: mean.mean for method, mean in margins.items() if mean.low > 0}
    asked = ~clean & (records[vocabulary.STATUS] != Status.SKIPPED.value)
    asked &= records[vocabulary.METHOD].isin(above)
    chosen = records[asked]
    # Of no method at all, the margins are no numbers yet.
    shares = value[asked] / chosen[vocabulary.METHOD].map(above).astype(float)
    rounded = shares.map(lambda share: float(DIGITS % share))
    table = chosen.assign(**{vocabulary.VALUE: rounded}, valid=valid[asked].astype(int), pairs=1)
    return table[COLUMNS]


def all_scores(
    scan: Scan, metrics: Sequence[str] | None, readable: Mapping[str, Metric]
) -> pd.DataFrame:
    """Return the scores of a `Side`, metric by metric, with what maps still know.

    Args:
        scan: of the run's records.
        metrics: which to take; None takes all.
        readable: the metrics whose values can be read.
    """
    names = (
        readable
        if metrics is None
        else {metric.removesuffix(vocabulary.RECOGNISED) for metric in metrics}
    )
    tables = [
        image_scores(scan.of(name), metrics, readable) for name in scan.metrics() if name in names
    ]
    if metrics is None or vocabulary.EVIDENCE_KEPT in metrics:
        tables.append(evidence_scores(scan))
    parts = [table for table in tables if len(table)]
    whole = pd.concat(parts) if parts else pd.DataFrame(columns=COLUMNS)
    return whole.sort_values(KEY, ignore_index=True)


def _recognitions(records: pd.DataFrame) -> pd.DataFrame:
    """Turn the places of own maps into whether they are the first: whether maps are recognised."""
    ranked = records[vocabulary.METRIC].str.endswith(vocabulary.RANK)
    names = records[vocabulary.METRIC].str.replace(
        rf"{re.escape(vocabulary.RANK)}$", vocabulary.RECOGNISED, regex=True
    )
    first = (records[vocabulary.VALUE] == 1).astype(float)
    values = records[vocabulary.VALUE].where(~ranked, first)
    return records.assign(**{vocabulary.METRIC: names, vocabulary.VALUE: values})


def read_side(folder: Path, metrics: Sequence[str] | None = None) -> Side:
    """Read a run or a baseline.

    Raises:
        ConfigError: neither is there, or what is there has been cut or edited.
    """
    if (folder / read.RECORDS).is_file():
        scan, manifest = scan_run(folder)
        known = metric_registry.known_metrics(manifest)
        scores = all_scores(scan, metrics, known)
        if not scores[vocabulary.VALUE].notna().any():
            raise errors.ConfigError(f"{folder}: the run has no scores to compare")
        ratios = time_ratios(folder, manifest)
        return Side(folder.name, scores, manifest, ratios)
    if not (folder / SCORES).is_file() or not (folder / read.MANIFEST).is_file():
        raise errors.ConfigError(
            f"{folder} holds neither a finished run ({read.RECORDS}, {read.MANIFEST}) nor a "
            f"baseline ({SCORES}, {read.MANIFEST})"
        )
    manifest = _read_sealed(folder / read.MANIFEST)
    text = (folder / SCORES).read_bytes()
    if hashlib.sha256(text).hexdigest() != manifest["baseline"]["scores_sha256"]:
        raise errors.ConfigError(
            f"{folder / SCORES} is not what was saved (cut or edited): save the baseline again"
        )
    scores = _scores(folder / SCORES, text)
    known = metric_registry.known_metrics(manifest)
    for name, values in scores.groupby(vocabulary.METRIC)[vocabulary.VALUE]:
        # A mean of no value at all is missing; any other is within the range of its values.
        for value in (values.min(), values.max()) if values.notna().any() else ():
            if wrong := read.beyond(str(name), float(value), known):
                raise errors.ConfigError(
                    f"{folder / SCORES} is damaged: {wrong}; save the baseline again"
                )
    if metrics is not None:
        scores = scores[scores[vocabulary.METRIC].isin(metrics)].reset_index(drop=True)
    return Side(folder.name, scores, manifest, manifest["baseline"]["time_ratios"])


def _scores(path: Path, text: bytes) -> pd.DataFrame:
    """Read the scores of a baseline, as `image_scores` makes them.

    Raises:
        ConfigError: that is not what is there.
    """
    try:
        scores = safe_csv.parse_csv(text, KEY)
    except (ValueError, OverflowError) as error:  # pandas' own errors are ValueErrors
        raise errors.ConfigError(
            f"{path} is no table of scores: save the baseline again"
        ) from error
    count_columns = ["valid", "pairs"]
    if (
        list(scores.columns) != COLUMNS
        or scores[[*KEY, *count_columns]].isna().any(axis=None)
        or not all(pd.api.types.is_integer_dtype(scores[name].dtype) for name in count_columns)
        or not pd.api.types.is_numeric_dtype(scores[vocabulary.VALUE].dtype)
    ):
        raise errors.ConfigError(
            f"{path} does not hold {', '.join(COLUMNS)}, names and numbers: save the baseline again"
        )
    return scores.astype({vocabulary.VALUE: float})


def _read_sealed(path: Path) -> dict[str, Any]:
    """Read a baseline's manifest, and see that it is as it was written."""
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        schema = manifest["schema_version"]
        given = manifest["baseline"].pop("manifest_sha256")
        digest = seal.seal_of(manifest)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise errors.ConfigError(f"{path} is no manifest of a baseline: save it again") from error
    if schema != SCHEMA_VERSION:
        raise errors.ConfigError(
            f"{path} has schema version {schema!r}, this steadymap writes {SCHEMA_VERSION}: "
            "save the baseline again"
        )
    rules.refuse_others(manifest, path, f"steadymap baseline save RUN {path.parent.name}")
    if digest != given:
        raise errors.ConfigError(
            f"{path} has been edited since it was saved: save the baseline again"
        )
    if wrong := manifest_schema.misshapen(manifest):
        raise errors.ConfigError(f"{path} is no manifest of a baseline: {wrong}")
    return dict(manifest)


def time_ratios(folder: Path, manifest: Mapping[str, Any]) -> dict[str, float]:
    """Return what each method costs beyond the shared pass, in units of that pass."""
    per_image = seconds_by_part(folder, manifest)
    if not per_image.get(vocabulary.SHARED):
        return {}
    ratios = {
        spec: per_image.get(spec, 0.0) / per_image[vocabulary.SHARED]
        for spec in manifest["methods"]
    }
    # What is read off the shared pass costs next to nothing, and its time is noise.
    return {spec: float(ratio) for spec, ratio in ratios.items() if ratio >= 1}
