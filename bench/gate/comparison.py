"""Two runs side by side: what moved, by how much, and whether that is beyond doubt."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from steadymap.bench.analysis.intervals import CONFIDENCE
from steadymap.bench.core import errors, machine, metric_registry, names
from steadymap.bench.gate import mean_test
from steadymap.bench.gate.differences import value_at
from steadymap.bench.gate.margins import TIME_FACTOR, Margins
from steadymap.bench.gate.sequential import Look
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

ALPHA = 1 - CONFIDENCE
ROUNDING = 1e-9

# What a gate must be able to see, to have judged: a loss of so many margins.
SEEN = 2

# Scores of so many kinds, none of them a share of maps, show any change of a map: SSIM looks at
# sizes, rank correlations at order.
TELLING = 2

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
UNDECIDED = "undecided"

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
    "needed",
    "coverage_before",
    "coverage_after",
    "verdict",
    "gate",
    "reason",
]


def compare(
    before: Side, after: Side, margins: Margins | None = None, look: Look | None = None
) -> pd.DataFrame:
    """Compare two runs, image by image.

    For each method, family and metric the images that have a value in both are paired. `gain` is
    the mean of the differences, above 0 where `after` is better, with a 95% interval. `p_value` is
    that of no change, adjusted over the family of all comparisons after Holm. Both are of the one
    test in `steadymap.bench.gate.mean_test`.

    The verdict is `equivalent` where the interval lies within the margin on both sides; else
    `improved` or `worse` where the adjusted p-value is below 0.05; else `inconclusive`. `missing`
    and `new` have a value on one side alone, `undefined` on none.

    The gate asks another question: is it worse by more than the margin? `fail` where that is beyond
    doubt (the test against the margin, adjusted after Holm, so that one gate in twenty errs at
    most), where coverage fell by more than its margin, or where a value is missing; `pass` where
    the interval's lower end is above minus the margin. Else `inconclusive`, if the gate could have
    found a loss of twice the margin, and `undecided` if not. `detectable` is the loss that it would
    have found with a power of 80%, at the strictest step of the adjustment; `needed`, where it is
    undecided, of how many images it would find twice the margin. Metrics without a margin have no
    gate.

    Below 28 images nothing is `equivalent` and nothing passes, and below 5 nothing is tested. The
    exception is a method that is as it was: all its scores, of two kinds or more, are the same in
    every digit. No image of a sample would tell more of it.

    Args:
        before: the baseline.
        after: the run to judge.
        margins: left out, the documented ones.
        look: which of several looks this is, where the images come one block after another.

    Raises:
        PluginError: neither we nor the manifests say which way a metric is better.
    """
    margins = margins or Margins()
    known = metric_registry.known_metrics(before.manifest, after.manifest)
    keys = [METHOD, FAMILY, METRIC]
    joined = before.scores.merge(
        after.scores, on=[*keys, IMAGE_ID], how="outer", suffixes=("_before", "_after")
    )
    rows: list[dict[str, Any]] = []
    gains: list[NDArray[np.float64]] = []
    for key, group in joined.groupby(keys, sort=True):
        named = dict(zip(keys, map(str, key), strict=True))
        row, gain = _paired(named, group, better(named[METRIC], known))
        row["margin"] = margins.of(row[METRIC], row["before"])
        rows.append(row)
        gains.append(gain)
    any_change = holm([_tested(mean_test.p_changed, gain) for gain in gains])
    too_much = [
        _tested(mean_test.p_below, gain, -row["margin"]) if np.isfinite(row["margin"]) else np.nan
        for row, gain in zip(rows, gains, strict=True)
    ]
    tested = max(1, int(np.isfinite(too_much).sum()))
    strictest = look.fail_level(tested) if look else mean_test.FAIL_LEVEL / tested
    if look is None:
        failing = np.array(holm(too_much)) < mean_test.FAIL_LEVEL
    else:
        failing = np.array(too_much) < strictest
    bound = look.pass_level if look else mean_test.PASS_LEVEL
    same = _as_they_were(rows)
    for row, gain, changed, lost in zip(rows, gains, any_change, failing, strict=True):
        row["same"] = row[METHOD] in same
        row["p_value"] = changed
        row["low"], row["high"] = (0.0, 0.0) if row["same"] else mean_test.interval(gain, bound)
        row["detectable"] = mean_test.detectable(gain, row["margin"], strictest)
        row["verdict"] = _verdict(row, changed)
        row["gate"], row["reason"] = _gate(row, margins.coverage, is_worse=bool(lost))
        undecided = row["gate"] == UNDECIDED
        row["needed"] = (
            mean_test.images_needed(gain, row["margin"], strictest) if undecided else np.nan
        )
    return pd.DataFrame(rows, columns=COLUMNS)


def _paired(
    key: dict[str, str], group: pd.DataFrame, better_is: str
) -> tuple[dict[str, Any], NDArray[np.float64]]:
    """Return what is known of one comparison, and the gain of each image that has both values."""
    both = group.dropna(subset=[BEFORE, AFTER])
    sign = -1.0 if better_is == "lower" else 1.0
    gain = sign * (both[AFTER] - both[BEFORE]).to_numpy(dtype=np.float64)
    row: dict[str, Any] = {
        **key,
        "same": group[BEFORE].equals(group[AFTER]),
        "better": better_is,
        "images": len(both),
        "before": _mean(both if len(both) else group, BEFORE),
        "after": _mean(both if len(both) else group, AFTER),
        "gain": float(gain.mean()) if len(gain) else np.nan,
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


def _as_they_were(rows: list[dict[str, Any]]) -> frozenset[str]:
    """Return the methods whose scores are the same in every digit, of two kinds or more.

    Whether maps are recognised may well stay the same by chance. That it is so with SSIM and with
    rank correlation, under every family, to six digits, is no matter of chance: what was computed
    is what was computed before.
    """
    moved = {row[METHOD] for row in rows if not row["same"]}
    kinds: dict[str, set[str]] = {}
    for row in rows:
        if row["images"] and not row[METRIC].endswith(RECOGNISED):
            kinds.setdefault(row[METHOD], set()).add(row[METRIC])
    telling = {method for method, metrics in kinds.items() if len(metrics) >= TELLING}
    return frozenset(telling - moved)


def _tested(
    test: Callable[..., NDArray[np.float64]], gain: NDArray[np.float64], *value: float
) -> float:
    """Return the p-value of a test; NaN of fewer images than it is good for."""
    return float(test(gain, *value)) if len(gain) >= mean_test.LEAST_TO_FAIL else np.nan


def holm(p_values: list[float]) -> list[float]:
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
    enough = row["images"] >= mean_test.LEAST_TO_PASS
    unmoved = row["low"] == row["high"] == 0
    within = unmoved or (row["low"] > -row["margin"] and row["high"] < row["margin"])
    if row["same"] or (enough and within):
        return EQUIVALENT
    if p_value < ALPHA:
        return IMPROVED if row["gain"] > 0 else WORSE
    return INCONCLUSIVE


def _gate(row: Mapping[str, Any], coverage: float, *, is_worse: bool) -> tuple[str, str]:
    """Return what the gate says, and why; nothing for a metric without a margin."""
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
    if is_worse:
        return FAIL, f"worse by more than {row['margin']:.3g}"
    few = row["images"] < mean_test.LEAST_TO_PASS
    if row["same"] or (not few and row["low"] >= -row["margin"]):
        return PASS, ""
    doubt = f"a loss of more than {row['margin']:.3g} cannot be ruled out"
    if few:
        doubt += f" by fewer than {mean_test.LEAST_TO_PASS} images"
    seen = row["detectable"] <= SEEN * row["margin"] + ROUNDING
    return (INCONCLUSIVE if seen else UNDECIDED), doubt


@dataclass(frozen=True)
class Case:
    """One thing that a gate looks at.

    Attributes:
        name: what.
        result: pass, fail, inconclusive or undecided.
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
