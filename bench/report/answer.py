"""The answer of a run, in sentences made of its numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import pandas as pd

from steadymap.bench.analysis import calibration, intervals
from steadymap.bench.analysis.agreement import disagreement, winner_sentence
from steadymap.bench.analysis.findings import Findings
from steadymap.bench.analysis.leaderboard import (
    LeaderboardRow,
    board_metrics,
    is_probe,
    leaderboard,
    significant,
)
from steadymap.bench.analysis.whose_fault import SPLIT
from steadymap.bench.core.names import percent
from steadymap.bench.records.vocabulary import (
    FAMILY,
    INPUT,
    KEPT,
    METHOD,
    METRIC,
    OVERALL,
    REFERENCES,
    SEVERITY,
    STATUS,
    is_control,
)
from steadymap.metrics import METRICS, Status

# More are counted: a sentence of twenty names is not read.
MOST_NAMED = 4
# What is less would read as none at all.
LEAST_SHARE = 0.001
# Of what moves with a method: from there on it is worth a sentence that its own draws move it.
MOST_DICE = 0.5


def answer(findings: Findings) -> list[str]:
    """Return three sentences: which method held, what moved it, and what is uncertain."""
    return [_who_held(findings), _what_moved(findings), _what_is_uncertain(findings)]


def metric_name(metric: str) -> str:
    """Return how a sentence calls a metric."""
    if metric in METRICS and METRICS[metric].label:
        return METRICS[metric].label
    # `package.module:name` is a place, and no words.
    return metric if ":" in metric else metric.replace("_", " ")


def _who_held(findings: Findings) -> str:
    metrics = board_metrics(findings)
    first = metrics[0]
    images = len(findings.scan.images)
    lines = [line for line in leaderboard(findings) if not line.control]
    ranked = [line for line in lines if line.ranked]
    numbered = [line for line in ranked if not math.isnan(line.scores[first].value)]
    if not numbered:
        why = "has a score by " + metric_name(first)
        if lines and not ranked:
            why = "is ranked: of none it was shown that its maps know their own image"
        return f"On {images} images no method {why}."
    if findings.known[first].better == "lower" and not findings.calibrates(first):
        numbered = sorted(numbered, key=lambda line: line.scores[first].value)
    elif not findings.calibrates(first):
        numbered = sorted(numbered, key=lambda line: -line.scores[first].value)
    best, worst = numbered[0], numbered[-1]
    if findings.known[first].against != "map":
        # Says nothing of steadiness.
        text = f"On {images} images {best.label} has the best {metric_name(first)}"
        text += f" ({_number(best, first)})"
        if len(numbered) > 1:
            text += f" and {worst.label} the worst ({_number(worst, first)})"
        return text + "; no metric of this run compares two maps."
    kind = "calibrated " if findings.calibrates(first) else "raw, uncalibrated "
    text = (
        f"On {images} images {best.label} held best ({kind}{metric_name(first)} "
        f"{_number(best, first)})"
    )
    if len(numbered) > 1:
        text += f" and {worst.label} least ({_number(worst, first)})"
    text += _by_others(findings, numbered, metrics[1:])
    if unranked := [line.label for line in lines if not line.ranked]:
        stand = "is" if len(unranked) == 1 else "are"
        text += f"; {_listed(unranked)} {stand} not ranked, for the reasons in the table"
    return text + "."


def _by_others(findings: Findings, numbered: list[LeaderboardRow], metrics: list[str]) -> str:
    """Say which methods are first and last by the other metrics."""
    text = ""
    for other in metrics:
        if not findings.calibrates(other):
            continue
        known = [line for line in numbered if not math.isnan(line.scores[other].value)]
        if len(known) > 1:
            by_other = sorted(known, key=lambda line: -line.scores[other].value)
            text += (
                f"; by {metric_name(other)} it is {by_other[0].label} "
                f"({_number(by_other[0], other)}) and {by_other[-1].label} "
                f"({_number(by_other[-1], other)})"
            )
    return text


def _number(line: LeaderboardRow, metric: str) -> str:
    score = line.scores[metric]
    if is_probe(metric):
        return significant(score.value)
    if math.isnan(score.low):
        return f"{score.value:.2f}"
    return f"{score.value:.2f} [{score.low:.2f}, {score.high:.2f}]"


def _what_moved(findings: Findings) -> str:
    kept = findings.scan.pairs[KEPT]
    if kept.empty:
        return "No image was perturbed: every family failed."
    share = percent(float(kept.mean()))
    text = f"The prediction stayed on {share} of {len(kept):,} perturbed images"
    faults = findings.faults
    # What is so by the method's definition is no finding of the run.
    rows = faults[faults[SEVERITY].isna() & (faults["verdict"] == SPLIT)]
    for metric in board_metrics(findings):
        chosen = rows[rows[METRIC] == metric].sort_values("network_share", kind="stable")
        if len(chosen):
            names = {line.spec: line.label for line in leaderboard(findings)}
            least, most = chosen.iloc[0], chosen.iloc[-1]
            text += (
                f"; of what a bias moves in the maps, by {metric_name(metric)}, the network rather "
                f"than the method accounts for {_share(most)} with {names[most[METHOD]]}"
            )
            if len(chosen) > 1:
                none = "none of it, " if least["network_share"] < 0 else ""
                text += f" and {none}{_share(least)} with {names[least[METHOD]]}"
            break
    return text + "."


def _share(row: pd.Series) -> str:
    share = percent(row["network_share"])
    ends = f" [{percent(row['low'])}, {percent(row['high'])}]"
    return share if math.isnan(row["low"]) else share + ends


def _what_is_uncertain(findings: Findings) -> str:
    units, what = findings.units()
    parts = []
    metrics = board_metrics(findings)
    if findings.calibrated.empty and findings.known[metrics[0]].against == "map":
        parts.append("scores are raw: unrelated maps may score as high")
    if units < intervals.ROUGH_BELOW:
        parts.append(f"with fewer than {intervals.ROUGH_BELOW} {what} the intervals are rough")
    lines = [line for line in leaderboard(findings) if line.ranked and not line.control]
    for metric in metrics:
        tied = [line.label for line in lines if _tied(line, metric)]
        if tied:
            parts.append(f"the places of {_listed(tied)} by {metric_name(metric)} are not settled")
        without = [line.label for line in lines if math.isnan(line.scores[metric].value)]
        if without:
            parts.append(f"{_listed(without)} without a number by {metric_name(metric)}")
    names = {line.spec: line.label for line in lines}
    if said := _no_winner(findings, metrics, names):
        parts.append(said)
    parts += _moved_by_themselves(findings, metrics[0])
    lost = _lost(findings)
    if lost:
        share = percent(lost) if lost >= LEAST_SHARE else f"less than {percent(LEAST_SHARE)}"
        parts.append(f"{share} of the scores have no number, with the reasons below")
    if parts:
        return f"What is uncertain: {'; '.join(parts)}."
    ranked = [line for line in lines if line.ranks]
    if len(ranked) > 1:
        return "The order of the methods stays when images are resampled."
    return "Nothing of this run is marked as uncertain."


def _no_winner(findings: Findings, metrics: Sequence[str], names: Mapping[str, str]) -> str:
    """Say why there is no single winner, in the page's own names of metrics and methods."""
    called = {metric: metric_name(metric) for metric in metrics}
    agreement, ranks = (
        frame.assign(**{METRIC: frame[METRIC].map(lambda name: called.get(name, name))})
        for frame in (findings.agreement, findings.ranks)
    )
    ranks[METHOD] = ranks[METHOD].map(names)
    return winner_sentence(disagreement(agreement, ranks, list(called.values())))


def _tied(line: LeaderboardRow, metric: str) -> bool:
    rank = line.ranks.get(metric)
    return rank is not None and rank.low < rank.high


def _moved_by_themselves(findings: Findings, metric: str) -> list[str]:
    calibrated = findings.calibrated
    overall = calibrated[
        (calibrated[FAMILY] == OVERALL) & (calibrated[METRIC] == metric) & ~calibrated["control"]
    ]
    lines = [line for line in leaderboard(findings) if not line.control]
    parts = [
        f"{percent(min(line.dice[metric], 1.0))} of what moves with {line.label} by "
        f"{metric_name(metric)} is its own draws"
        for line in lines
        if line.dice.get(metric, 0.0) >= MOST_DICE
    ]
    names = {line.spec: line.label for line in lines}
    still = [
        names[name] for name in overall[overall["verdict"] == calibration.UNRESOLVABLE][METHOD]
    ]
    return [*parts, *([f"{_listed(still)} moved no more than rounding does"] if still else [])]


def _lost(findings: Findings) -> float:
    """Return the share of the methods' scores without a number."""
    counts = findings.scan.counts
    chosen = counts[
        (counts[METHOD] != INPUT)
        & ~counts[FAMILY].isin(REFERENCES)
        & counts[METRIC].isin(list(findings.known))
    ]
    chosen = chosen[[not is_control(str(spec)) for spec in chosen[METHOD]]]
    lost = chosen[chosen[STATUS] != Status.OK.value]["size"].sum()
    return float(lost / chosen["size"].sum()) if len(chosen) else 0.0


def _listed(names: list[str]) -> str:
    if len(names) > MOST_NAMED:
        return f"{len(names)} methods"
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
