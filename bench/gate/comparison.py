"""Two runs side by side: what moved, by how much, and whether that is beyond doubt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import t as student
from scipy.stats import ttest_1samp

from steadymap.bench.analysis.intervals import CONFIDENCE, intervals
from steadymap.bench.core import errors, machine, metric_registry, names
from steadymap.bench.gate.differences import value_at
from steadymap.bench.gate.margins import TIME_FACTOR, Margins
from steadymap.bench.gate.side import Side
from steadymap.bench.records.vocabulary import (
    EVIDENCE_KEPT,
    FAMILY,
    IMAGE_ID,
    METHOD,
    METRIC,
    RECOGNISED,
    VALUE,
)
from steadymap.metrics import METRICS, Metric
from steadymap.metrics.maps import CONSTANT_SPREAD

ALPHA = 1 - CONFIDENCE
POWER = 0.8
ROUNDING = 1e-9
LEAST_IMAGES = 2

# The values of either side, beside each other.
BEFORE = f"{VALUE}_before"
AFTER = f"{VALUE}_after"

# Verdicts of a comparison.
IMPROVED = "improved"
WORSE = "worse"
EQUIVALENT = "equivalent"
INCONCLUSIVE = "inconclusive"
MISSING = "missing"
NEW = "new"
UNDEFINED = "undefined"

# And of a gate.
PASS = "pass"  # noqa: S105 - no password
FAIL = "fail"

COLUMNS = [
    METHOD,
    FAMILY,
    METRIC,
    "images",
    "before",
    "after",
    "gain",
    "low",
    "high",
    "p_value",
    "better",
    "margin",
    "detectable",
    "coverage_before",
    "coverage_after",
    "verdict",
    "gate",
    "reason",
]


def compare(before: Side, after: Side, margins: Margins | None = None) -> pd.DataFrame:
    """Compare two runs, image by image.

    For each method, family and metric the images that have a value in both are paired. `gain` is
    the mean of the differences, above 0 where `after` is better, with a 95% interval from
    resampling images (BCa). `p_value` is that of a paired t-test for any change, adjusted over the
    family of all comparisons after Holm.

    The verdict is `equivalent` where the interval lies within the margin on both sides; else
    `improved` or `worse` where the adjusted p-value is below 0.05; else `inconclusive`. `missing`
    and `new` have a value on one side alone, `undefined` on none. `detectable` is the smallest
    change that so many images would show, by that test alone, with a power of 80%.

    The gate asks another question: is it worse by more than the margin? `fail` where that is beyond
    doubt (one-sided paired t-test against the margin, adjusted after Holm, below 0.05), where
    coverage fell by more than its margin, or where a value is missing; `pass` where the interval's
    lower end is above minus the margin; else `inconclusive`. Metrics without a margin have no gate.

    Where all images change alike there is no spread to test with: no change is no change (p = 1),
    any other is one (p = 0).

    Args:
        before: the baseline.
        after: the run to judge.
        margins: left out, the documented ones.

    Raises:
        PluginError: neither we nor the manifests say which way a metric is better.
    """
    margins = margins or Margins()
    known = metric_registry.known_metrics(before.manifest, after.manifest)
    keys = [METHOD, FAMILY, METRIC]
    joined = before.scores.merge(
        after.scores, on=[*keys, IMAGE_ID], how="outer", suffixes=("_before", "_after")
    )
    rows: list[dict[str, object]] = []
    gains: list[NDArray[np.float64]] = []
    unmoved: set[int] = set()
    for key, group in joined.groupby(keys, sort=True):
        named = dict(zip(keys, map(str, key), strict=True))
        row, gain = _paired(named, group, better(named[METRIC], known))
        row["margin"] = margins.of(str(row[METRIC]), float(str(row["before"])))
        if len(gain) and not gain.any():
            # No change is no change, of one image, too.
            unmoved.add(len(rows))
        rows.append(row)
        gains.append(gain)
    for row, interval in zip(rows, intervals(gains), strict=True):
        row |= {"gain": interval.mean, "low": interval.low, "high": interval.high}
    for place in unmoved:
        rows[place] |= {"gain": 0.0, "low": 0.0, "high": 0.0}
    any_change = _holm([_p_value(gain, 0.0, "two-sided") for gain in gains])
    too_much = _holm(
        [
            _p_value(gain, -float(str(row["margin"])), "less")
            for row, gain in zip(rows, gains, strict=True)
        ]
    )
    for row, changed, lost in zip(rows, any_change, too_much, strict=True):
        row["p_value"] = changed
        row["verdict"] = _verdict(row, changed)
        row["gate"], row["reason"] = _gate(row, lost, margins.coverage)
    return pd.DataFrame(rows, columns=COLUMNS)


def _paired(
    key: dict[str, str], group: pd.DataFrame, better_is: str
) -> tuple[dict[str, object], NDArray[Any]]:
    """Return what is known of one comparison, and the gain of each image that has both values."""
    both = group.dropna(subset=[BEFORE, AFTER])
    sign = -1.0 if better_is == "lower" else 1.0
    gain = sign * (both[AFTER] - both[BEFORE]).to_numpy(dtype=np.float64)
    spread = gain.std(ddof=1) if len(gain) >= LEAST_IMAGES else np.nan
    reach = student.ppf(1 - ALPHA / 2, len(gain) - 1) + student.ppf(POWER, len(gain) - 1)
    row: dict[str, object] = {
        **key,
        "better": better_is,
        "images": len(both),
        "before": _mean(both if len(both) else group, BEFORE),
        "after": _mean(both if len(both) else group, AFTER),
        "detectable": reach * spread / np.sqrt(len(gain)) if len(gain) >= LEAST_IMAGES else np.nan,
        "coverage_before": _coverage(group, "before"),
        "coverage_after": _coverage(group, "after"),
    }
    return row, gain


def _mean(group: pd.DataFrame, column: str) -> float:
    return float(group[column].mean())


def _coverage(group: pd.DataFrame, side: str) -> float:
    pairs = group[f"pairs_{side}"].sum()
    return float(group[f"valid_{side}"].sum() / pairs) if pairs else np.nan


def better(metric: str, known: Mapping[str, Metric] = METRICS) -> str:
    """Return whether a higher or a lower value of a metric is better.

    Raises:
        PluginError: nobody knows.
    """
    if metric.endswith(RECOGNISED) or metric == EVIDENCE_KEPT:
        return "higher"
    if metric not in known:
        raise errors.PluginError(
            f"metric {metric!r} is unknown: it is none of ours, and the manifest does not say how "
            "to read it"
        )
    return known[metric].better


def _p_value(
    gain: NDArray[np.float64], value: float, alternative: Literal["two-sided", "less"]
) -> float:
    """Test whether the mean gain is `value`; NaN where there is nothing to test."""
    if len(gain) < LEAST_IMAGES or np.isnan(value):
        return np.nan
    if np.ptp(gain) <= CONSTANT_SPREAD * np.abs(gain).max():
        beyond = gain[0] < value if alternative == "less" else gain[0] != value
        return 0.0 if beyond else 1.0
    return float(ttest_1samp(gain, value, alternative=alternative).pvalue)


def _holm(p_values: list[float]) -> list[float]:
    """Adjust p-values after Holm; those that are missing stay so, and do not count."""
    adjusted = np.array(p_values, dtype=np.float64)
    known = np.isfinite(adjusted)
    if known.any():
        # Loaded here: it takes a second, which most commands need not wait for.
        from statsmodels.stats.multitest import multipletests  # noqa: PLC0415

        adjusted[known] = multipletests(adjusted[known], alpha=ALPHA, method="holm")[1]
    return [float(value) for value in adjusted]


def _verdict(row: Mapping[str, Any], p_value: float) -> str:
    lacks = np.isnan(row["before"]), np.isnan(row["after"])
    if any(lacks):
        return {(True, True): UNDEFINED, (True, False): NEW}.get(lacks, MISSING)
    unmoved = row["low"] == row["high"] == 0
    if unmoved or (row["low"] > -row["margin"] and row["high"] < row["margin"]):
        return EQUIVALENT
    if p_value < ALPHA:
        return IMPROVED if row["gain"] > 0 else WORSE
    return INCONCLUSIVE


def _gate(row: Mapping[str, Any], p_value: float, coverage: float) -> tuple[str, str]:
    """Return pass, fail or inconclusive, and why; nothing for a metric without a margin."""
    if row["verdict"] == MISSING:
        return FAIL, "had values, and has none"
    if row["verdict"] in (NEW, UNDEFINED) or np.isnan(row["margin"]):
        return "", ""
    fallen = row["coverage_before"] - row["coverage_after"]
    if fallen - coverage > ROUNDING:
        return (
            FAIL,
            f"coverage fell by {names.percent(fallen)}, more than {names.percent(coverage)}",
        )
    if p_value < ALPHA:
        return FAIL, f"worse by more than {row['margin']:.3g}"
    if row["low"] >= -row["margin"]:
        return PASS, ""
    return INCONCLUSIVE, f"a loss of more than {row['margin']:.3g} cannot be ruled out"


@dataclass(frozen=True)
class Case:
    """One thing that a gate looks at.

    Attributes:
        name: what.
        result: pass, fail or inconclusive.
        message: the numbers.
    """

    name: str
    result: str
    message: str


def timing_cases(before: Side, after: Side) -> list[Case]:
    """Judge what maps cost: passes exactly, time as ratios within a run on the same machine.

    Passes are those that the plans take, where both have the same methods, families, severities and
    metrics; none may be more than it was. Seconds of different runs are never compared: a method's
    are divided by those of the shared pass of its own run, and may double, on a machine of the same
    fingerprint.
    """
    first, second = before.manifest, after.manifest
    cases = []
    passes = value_at(first, "passes"), value_at(second, "passes")
    alike = all(
        value_at(first, key) == value_at(second, key)
        for key in ("methods", "severities", "metrics")
    )
    if alike and all(passes):
        costlier = any(passes[1][way] > passes[0][way] for way in ("forward", "backward"))
        result = FAIL if costlier else PASS
        text = " -> ".join(
            f"{counts['forward']} forward, {counts['backward']} backward" for counts in passes
        )
        cases.append(Case("passes through the network", result, text))
    if machine.fingerprint(first["machine"]) != machine.fingerprint(second["machine"]):
        return cases
    for spec in before.ratios:
        if spec in after.ratios:
            ratio = after.ratios[spec] / before.ratios[spec]
            text = (
                f"{before.ratios[spec]:.1f} -> {after.ratios[spec]:.1f} shared passes, "
                f"{ratio:.2f} times (at most {TIME_FACTOR:g})"
            )
            cases.append(Case(f"time of {spec}", FAIL if ratio > TIME_FACTOR else PASS, text))
    return cases


def plain(row: Mapping[Any, Any]) -> dict[str, Any]:
    """Return a row for JSON, which knows no NaN."""
    return {
        key: None if isinstance(value, float) and not np.isfinite(value) else value
        for key, value in row.items()
    }
