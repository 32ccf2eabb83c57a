"""The leaderboard: what people read first, as numbers; terminal and report write them out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypedDict

import numpy as np
import pandas as pd

from steadymap.bench.analysis.calibration import OK, UNRESOLVABLE, null_score
from steadymap.bench.analysis.findings import Findings
from steadymap.bench.core.names import short_names
from steadymap.bench.records.vocabulary import (
    CLEAN,
    FAMILY,
    METHOD,
    METRIC,
    OVERALL,
    REFERENCES,
    STATUS,
    is_control,
)
from steadymap.metrics import METRICS, Status

NULL_NAMES = {
    "other_image": "another image's map",
    "same_class": "another's of its class",
    "random_network": "randomised network's map",
}

PROBES_TITLE = (
    "at the clean image, raw means: a metric by which a control is as good says little alone"
)


@dataclass(frozen=True)
class Score:
    """A number with its interval, or the word that stands in its place.

    Attributes:
        value: NaN where there is none.
        low: lower end of the 95% interval, or NaN.
        high: upper end, or NaN.
        word: why there is no number, or a mark before it (`~`: within rounding).
    """

    value: float
    low: float = math.nan
    high: float = math.nan
    word: str = ""


@dataclass(frozen=True)
class LeaderboardRow:
    """One line of the leaderboard.

    Attributes:
        label: what it is called.
        spec: of the method; "" for a null.
        control: whether it is there to be beaten.
        scores: by metric, calibrated over all families.
        ranks: by metric.
        recognised: by metric, a share; NaN where it is not known.
        completeness: mean error in logits over all families; None where it does not apply.
        coverage: share of the pairs that count, the mean over the metrics: see `coverage`; NaN
            for a null.
        ranked: whether it may be ranked.
        reason: why it may not, or what limits it, in words; empty where nothing does.
        faithful: its smallest margin as a share of the run's best; None where none was measured.
        evidence: what its maps still know under perturbation, as a share of what the clean ones
            know; None likewise.
        dice: by metric, how much of what moves is its own draws; of methods that draw alone.
    """

    label: str
    spec: str
    control: bool
    scores: Mapping[str, Score]
    ranks: Mapping[str, Score]
    recognised: Mapping[str, float]
    completeness: Score | None
    coverage: float
    ranked: bool = True
    reason: str = ""
    faithful: Score | None = None
    evidence: Score | None = None
    dice: Mapping[str, float] = field(default_factory=dict)


def leaderboard(findings: Findings) -> list[LeaderboardRow]:
    """Return the methods, the steadiest first and those that are not ranked last; then controls.

    The nulls stand at the end.

    Scores are those of the headline metrics that are calibrated; without any, the raw means.
    """
    metrics = board_metrics(findings)
    methods, controls = findings.methods(metrics[0])
    names = short_names([*methods, *controls])
    lines = [_line(findings, metrics, spec, names[spec]) for spec in [*methods, *controls]]
    if findings.calibrates(metrics[0]):
        nulls = [_null_line(findings, metrics, kind) for kind in NULL_NAMES]
        # One that no method's scores could be held against is no line of the board.
        lines += [line for line in nulls if any(np.isfinite(s.value) for s in line.scores.values())]
    return lines


def probe_lines(findings: Findings) -> list[LeaderboardRow]:
    """Return methods and controls with the raw means of the metrics of the clean image alone.

    The steadiest come first, as on the leaderboard; empty where the run has no such metric.
    """
    metrics = findings.probed()
    if not metrics:
        return []
    methods, controls = findings.methods(findings.metrics()[0])
    names = short_names([*methods, *controls])
    lines = []
    for spec in [*methods, *controls]:
        control = is_control(spec)
        lines.append(
            LeaderboardRow(
                f"control: {names[spec]}" if control else names[spec],
                spec,
                control,
                {name: _score(findings, spec, name, None) for name in metrics},
                ranks={},
                recognised={},
                completeness=None,
                coverage=coverage(findings, spec, metrics),
            )
        )
    return lines


def significant(value: float) -> str:
    """Write a number whose size nobody knows beforehand: three digits."""
    return f"{value:.3g}"


def board_metrics(findings: Findings) -> list[str]:
    """Return the metrics of the leaderboard: calibrated headlines, or else all headlines."""
    calibrated = [name for name in findings.metrics() if findings.calibrates(name)]
    return calibrated or findings.metrics()


def _line(findings: Findings, metrics: list[str], spec: str, name: str) -> LeaderboardRow:
    calibrated, ranks = findings.calibrated, findings.ranks
    rows = {
        str(row[METRIC]): row
        for row in calibrated[
            (calibrated[METHOD] == spec) & (calibrated[FAMILY] == OVERALL)
        ].to_dict("records")
    }
    placed = {str(row[METRIC]): row for row in ranks[ranks[METHOD] == spec].to_dict("records")}
    control = is_control(spec)
    return LeaderboardRow(
        f"control: {name}" if control else name,
        spec,
        control,
        {metric: _score(findings, spec, metric, rows.get(metric)) for metric in metrics},
        {
            metric: Score(placed[metric]["rank"], placed[metric]["low"], placed[metric]["high"])
            for metric in metrics
            if metric in placed
        },
        {metric: rows[metric]["recognised"] for metric in metrics if metric in rows},
        _mean(findings.summary, spec, "completeness_error"),
        coverage(findings, spec, metrics),
        findings.ranked(spec),
        **_knowledge(findings, spec, metrics),
    )


class _Knowledge(TypedDict):
    """Of a line of the leaderboard, what is known of its maps beside their steadiness."""

    reason: str
    faithful: Score | None
    evidence: Score | None
    dice: Mapping[str, float]


def _knowledge(findings: Findings, spec: str, metrics: Sequence[str]) -> _Knowledge:
    said: _Knowledge = {"reason": "", "faithful": None, "evidence": None, "dice": {}}
    if len(findings.admission):
        for row in findings.admission[findings.admission[METHOD] == spec].to_dict("records"):
            said["reason"] = "" if row["verdict"] == "control" else str(row["reason"])
            said["faithful"] = Score(*(row[f"faithful{end}"] for end in ("", "_low", "_high")))
            if row["ranked"] and row["below_gradient"] and not said["reason"]:
                said["reason"] = "it knows less of its image than plain gradient"
    kept = findings.evidence
    for row in kept[(kept[METHOD] == spec) & (kept[FAMILY] == OVERALL)].to_dict("records"):
        said["evidence"] = Score(row["kept"], row["low"], row["high"])
    dice = findings.dice
    rows = dice[(dice[METHOD] == spec) & (dice[FAMILY] == OVERALL) & dice[METRIC].isin(metrics)]
    said["dice"] = {str(row[METRIC]): row["seed_share"] for row in rows.to_dict("records")}
    return said


def _score(findings: Findings, spec: str, metric: str, row: dict[Any, Any] | None) -> Score:
    """Return the calibrated score, the verdict in its place, or the raw mean."""
    if row is None:
        raw = None if findings.calibrates(metric) else _mean(findings.summary, spec, metric)
        return raw or Score(math.nan, word=missing_word(findings.scan.counts, spec, metric))
    if row["verdict"] not in (OK, UNRESOLVABLE):
        return Score(math.nan, word=str(row["verdict"]))
    mark = "~" if row["verdict"] == UNRESOLVABLE else ""
    return Score(row["calibrated"], row["low"], row["high"], mark)


def missing_word(counts: pd.DataFrame, spec: str, metric: str) -> str:
    """Return the status that most of a method's values have, where none has a number."""
    chosen = counts[(counts[METHOD] == spec) & (counts[METRIC] == metric)]
    sizes = chosen.groupby(STATUS, observed=True)["size"].sum()
    return "-" if sizes.empty else str(sizes.idxmax())


def _mean(summary: pd.DataFrame, spec: str, metric: str) -> Score | None:
    rows = summary[
        (summary["subset"] == "all")
        & (summary[METHOD] == spec)
        & (summary[METRIC] == metric)
        & (summary[FAMILY] == _whole(metric))
    ]
    if rows.empty or math.isnan(rows.iloc[0]["mean"]):
        return None
    return Score(*rows.iloc[0][["mean", "low", "high"]].astype(float))


def _whole(metric: str) -> str:
    """Return the family whose mean stands for all that a metric says."""
    return CLEAN if is_probe(metric) else OVERALL


def is_probe(metric: str) -> bool:
    """Return whether a metric is one of ours that is of the clean image alone, with the network."""
    return metric in METRICS and METRICS[metric].probes


def coverage(findings: Findings, spec: str, metrics: Sequence[str]) -> float:
    """Return the share of a method's pairs that count, the mean over the metrics.

    Of calibrated scores it is that of the headline: pairs whose prediction held, families of
    diagnosis left out, and a map that vanished counts. Without any it is the share of all pairs
    that have a value. NaN where there are none.
    """
    calibrated, counts = findings.calibrated, findings.scan.counts
    rows = calibrated[
        (calibrated[METHOD] == spec)
        & (calibrated[FAMILY] == OVERALL)
        & calibrated[METRIC].isin(metrics)
    ]
    if len(rows):
        return float(rows["coverage"].mean())
    chosen = counts[
        (counts[METHOD] == spec) & counts[METRIC].isin(metrics) & ~counts[FAMILY].isin(REFERENCES)
    ]
    known = chosen[chosen[STATUS] == Status.OK.value]["size"].sum()
    return float(known / chosen["size"].sum()) if len(chosen) else np.nan


def _null_line(findings: Findings, metrics: list[str], family: str) -> LeaderboardRow:
    scores = {metric: Score(null_score(findings.calibrated, metric, family)) for metric in metrics}
    return LeaderboardRow(
        f"control: {NULL_NAMES[family]}", "", control=True, scores=scores,
        ranks={}, recognised={}, completeness=None, coverage=math.nan,
    )  # fmt: skip
