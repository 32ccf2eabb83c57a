"""The tables of the study: a cell for `rps` with its interval, one for the span of the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import claims
import numpy as np
from claims import Network

from steadymap.bench.analysis.calibration import OK
from steadymap.bench.analysis.intervals import Interval
from steadymap.bench.analysis.whose_fault import BIAS
from steadymap.bench.records.vocabulary import CLEAN, COMPENSATED, OVERALL

GXI = "gradient_x_input"
SPLITS = ("train", "validation", "test")
FAMILIES = {BIAS: "bias", COMPENSATED: "compensated bias", "gaussian_noise": "Gaussian noise"}
WORDS = {"ssim": "SSIM", "spearman": "rank correlation", "top_k_intersection": "top 5%"}
PAIRS = (("ssim", "spearman"), ("ssim", "top_k_intersection"), ("spearman", "top_k_intersection"))
# What the parts of `Drift` mean.
DRIFT = {
    "keeps": "images whose map keeps its shape",
    "loses": "images whose map loses the hand",
    "moves": "images whose map moves to the background",
    "empty": "images whose map vanishes",
    "before": "of the clean map inside the hand",
    "after": "of the shifted map inside the hand",
    "even": "of the picture that is hand",
}

# Writes a number or a mean with its interval.
Form = Callable[[Interval | float], str]
# Takes a network to a mean over its images.
Value = Callable[[Network], Interval]


# --- words ----------------------------------------------------------------------------------------

NAMES = {
    "gradient": "gradient",
    "gradient_x_input": "Gradient x Input",
    "integrated_gradients:baseline=black": "IG, black",
    "integrated_gradients:baseline=white": "IG, white",
    "integrated_gradients:baseline=random": "IG, random",
    "grad_cam:relu=true": "Grad-CAM",
}


def called(method: str) -> str:
    """Return how the text calls a method."""
    return NAMES.get(method.partition(",")[0], method.replace("_", " "))


def number(value: Interval | float, digits: int = 2) -> str:
    """Write a number, or a mean with its interval."""
    if not isinstance(value, Interval):
        return "-" if not np.isfinite(value) else f"{value:.{digits}f}"
    if not np.isfinite(value.low):
        return number(value.mean, digits)
    return f"{value.mean:.{digits}f} [{value.low:.{digits}f}, {value.high:.{digits}f}]"


def percent(value: Interval | float) -> str:
    """Write a share, or one with its interval."""
    if not isinstance(value, Interval):
        return "-" if not np.isfinite(value) else f"{100 * value:.0f}%"
    if not np.isfinite(value.low):
        return percent(value.mean)
    return f"{100 * value.mean:.0f}% [{100 * value.low:.0f}, {100 * value.high:.0f}]"


def span(values: Sequence[Interval], form: Form) -> str:
    """Write the least and the largest mean of several networks."""
    means = [one.mean for one in values if np.isfinite(one.mean)]
    if not means:
        return "-"
    least, most = form(min(means)), form(max(means))
    return least if least == most else f"{least.removesuffix('%')} to {most}"


def sides(every: Sequence[Network], value: Value, form: Form) -> list[str]:
    """Return a cell for `rps`, with its interval, and one for the others, least to largest."""
    own, *others = [value(network) for network in every]
    return [form(own), span(others, form)]


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = [f"| {' | '.join(row)} |" for row in (header, *rows)]
    return "\n".join([lines[0], "|---" * len(header) + "|", *lines[1:]])


def calibrated(method: str, metric: str, family: str) -> Value:
    """Return what takes a network to a calibrated score."""

    def value(network: Network) -> Interval:
        row = claims.calibrated_score(network, method, metric, family)
        return Interval(float(row["calibrated"]), float(row["low"]), float(row["high"]), "bca")

    return value


# --- tables ---------------------------------------------------------------------------------------


def networks_table(every: Sequence[Network]) -> str:
    """Who was trained how, and how well."""
    rows = []
    for one in every:
        card = one.card
        accuracy = [f"{100 * card['accuracy'][split]:.1f}%" for split in SPLITS]
        trained = [str(card["recipe"][key]) for key in ("epochs", "seed")]
        measured = [str(len(one.images)), f"`{card['sha256'][:12]}`"]
        rows.append([f"`{one.name}`", f"{card['parameters']:,}", *trained, *accuracy, *measured])
    header = ["network", "parameters", "epochs", "seed", *SPLITS, "images measured", "weights"]
    return table(header, rows)


def stays_table(every: Sequence[Network]) -> str:
    """How often the class stays, and what is left of Gradient x Input's map where it does."""
    rows = []
    for shift in claims.class_stays(every[0]):
        cells = sides(every, _stays(shift), percent)
        for metric in claims.STEADINESS:
            cells += sides(every, _kept(GXI, metric, shift), number)
        rows.append([f"{shift:+g}", *cells])
    return table(["bias", "class stays", "others", "SSIM", "others", "rank corr.", "others"], rows)


def _stays(shift: float) -> Value:
    return lambda network: claims.class_stays(network)[shift]


def _kept(method: str, metric: str, shift: float) -> Value:
    def value(network: Network) -> Interval:
        row = claims.kept_score(network, method, metric, shift)
        return Interval(float(row["score"]), float(row["low"]), float(row["high"]), "bca")

    return value


def methods_table(every: Sequence[Network]) -> str:
    """What is left of each method's maps at either sign, where the class stayed."""
    rows = []
    for method in every[0].methods:
        cells = []
        for shift in claims.SHIFTS:
            for metric in claims.STEADINESS:
                cells += sides(every, _kept(method, metric, shift), number)
        rows.append([called(method), *cells])
    header = [f"{name} at {shift:+g}" for shift in claims.SHIFTS for name in ("SSIM", "rank corr.")]
    return table(["method", *(cell for one in header for cell in (one, "others"))], rows)


def baselines_table(every: Sequence[Network]) -> str:
    """How right and how steady Integrated Gradients is from each baseline."""
    rows = []
    for baseline in claims.BASELINES:
        method = claims.integrated(every[0], baseline)
        cells = []
        for measure in claims.RIGHTNESS:
            cells += sides(every, _clean(method, measure), number)
        for metric in claims.STEADINESS:
            cells += sides(every, calibrated(method, metric, BIAS), number)
        rows.append([baseline, *cells])
    names = ("in the hand", "deletion", "insertion", "SSIM", "rank corr.")
    return table(["baseline", *(cell for one in names for cell in (one, "others"))], rows)


def _clean(method: str, measure: str) -> Value:
    return lambda network: claims.mean(network.by_image(method, measure, CLEAN))


def drift_table(every: Sequence[Network]) -> str:
    """What either shift does to Grad-CAM's maps."""
    rows = []
    for part, text in DRIFT.items():
        cells = []
        for shift in claims.SHIFTS:
            cells += sides(every, _drift(part, shift), percent)
        rows.append([text, *cells])
    header = [f"{'darker' if shift < 0 else 'brighter'}, {shift:+g}" for shift in claims.SHIFTS]
    return table(["share", *(cell for one in header for cell in (one, "others"))], rows)


def _drift(part: str, shift: float) -> Value:
    return lambda network: getattr(claims.drift(network, shift), part)


def signs_table(every: Sequence[Network]) -> str:
    """How much of clean maps is negative."""
    rows = [
        [called(method), *sides(every, _negative(method), percent)] for method in every[0].methods
    ]
    return table(["method", "negative share", "others"], rows)


def _negative(method: str) -> Value:
    return lambda network: claims.negative_share(network, method)


def steps_table(every: Sequence[Network]) -> str:
    """Completeness error by number of steps, and how many are needed."""
    rows = []
    for baseline in claims.BASELINES:
        for name, some in (("`rps`", every[:1]), ("others", every[1:])):
            tables = [claims.step_table(one, baseline)["median"] for one in some]
            cells = [
                span([_point(float(one[count])) for one in tables], _tenths)
                for count in tables[0].index
            ]
            for target in claims.TARGETS:
                needed = [claims.steps_needed(one, baseline, target) for one in some]
                cells.append(_counts(needed))
            worse = [claims.more_is_worse(one, baseline) for one in some]
            rows.append([baseline, name, *cells, span(worse, percent)])
    counts = [f"{count} steps" for count in claims.step_table(every[0], "black").index]
    ends = ["to 5%", "to 1%", "doubling made it worse"]
    return table(["baseline", "network", *counts, *ends], rows)


def _point(value: float) -> Interval:
    return Interval(value, np.nan, np.nan, "none")


def _tenths(value: Interval | float) -> str:
    number_of = value.mean if isinstance(value, Interval) else value
    return f"{100 * number_of:.1f}%"


def _counts(needed: Sequence[int | None]) -> str:
    known = [count for count in needed if count is not None]
    if not known:
        return "more"
    least, most = min(known), "more" if len(known) < len(needed) else str(max(known))
    return str(least) if str(least) == most else f"{least} to {most}"


def evidence_table(every: Sequence[Network]) -> str:
    """How far steadiness speaks for rightness, over images."""
    rows = []
    for method in every[0].methods:
        cells = []
        for measure in claims.RIGHTNESS:
            cells += sides(every, _evidence(method, measure), number)
        rows.append([called(method), *cells])
    names = ("in the hand", "deletion, turned", "insertion")
    return table(["method", *(cell for one in names for cell in (one, "others"))], rows)


def _evidence(method: str, measure: str) -> Value:
    return lambda network: claims.evidences(network)[method, measure]


def faults_table(every: Sequence[Network]) -> str:
    """The network's share of what a bias moves."""
    rows = []
    for method in every[0].methods:
        cells = []
        for metric in claims.STEADINESS:
            cells += sides(every, _fault(method, metric), percent)
        rows.append([called(method), *cells])
    return table(["method", "SSIM", "others", "rank corr.", "others"], rows)


def _fault(method: str, metric: str) -> Value:
    def value(network: Network) -> Interval:
        rows = network.faults
        rows = rows[rows["severity"].isna() & (rows["metric"] == metric)]
        (row,) = rows[rows["method"] == method].to_dict("records")
        return Interval(row["network_share"], row["low"], row["high"], "bca")

    return value


def families_table(every: Sequence[Network]) -> str:
    """Calibrated scores of each method by family."""
    rows = []
    for method in every[0].methods:
        cells = []
        for family in FAMILIES:
            for metric in claims.STEADINESS:
                cells += sides(every, calibrated(method, metric, family), number)
        rows.append([called(method), *cells])
    header = [f"{one}, {two}" for one in FAMILIES.values() for two in ("SSIM", "rank corr.")]
    return table(["method", *(cell for one in header for cell in (one, "others"))], rows)


def controls_table(every: Sequence[Network]) -> str:
    """What the controls score on the study's network."""
    first, rows = every[0], []
    for method in [*first.controls, *first.methods]:
        raw = [number(claims.raw_score(first, method, name)) for name in claims.STEADINESS]
        right = [number(_clean(method, name)(first)) for name in claims.RIGHTNESS]
        scores = [_worth(first, method, name) for name in claims.STEADINESS]
        rows.append([called(method), *raw, *scores, *right])
    header = ["map", "raw SSIM", "raw rank corr.", "calibrated SSIM", "calibrated rank corr."]
    return table([*header, "in the hand", "deletion", "insertion"], rows)


def _worth(network: Network, method: str, metric: str) -> str:
    rows = network.calibrated
    rows = rows[(rows["method"] == method) & (rows["metric"] == metric)]
    rows = rows[rows["family"] == OVERALL]
    if rows.empty:
        return "not defined"
    (row,) = rows.to_dict("records")
    return number(row["calibrated"]) if row["verdict"] == OK else str(row["verdict"])


def agreement_table(every: Sequence[Network]) -> str:
    """How far orders of the methods by different metrics agree, and by different networks."""
    rows = []
    for first, second in PAIRS:
        cells = sides(every, _tau(first, second), number)
        rows.append([f"{WORDS[first]} and {WORDS[second]}", *cells])
    return table(["orders by", "Kendall's tau", "others"], rows)


def _tau(first: str, second: str) -> Value:
    return lambda network: _point(
        claims.agreement(claims.order_of(network, first), claims.order_of(network, second))
    )


def concordances(every: Sequence[Network]) -> dict[str, dict[str, float]]:
    """By metric, how far the seeds agree on the order, and `rps` with their mean order."""
    found = {}
    for metric in claims.RANKED:
        own, *others = [claims.order_of(one, metric) for one in every]
        middle = {name: float(np.mean([order[name] for order in others])) for name in own}
        found[metric] = {
            "seeds": claims.concordance(others),
            "rps": claims.agreement(own, middle),
        }
    return found


def ranks_table(every: Sequence[Network]) -> str:
    """Ranks of the methods under bias: of `rps`, and the span over the others."""
    rows = []
    for method in every[0].methods:
        cells = []
        for metric in claims.RANKED:
            places = []
            for one in every:
                order = claims.order_of(one, metric)
                places.append(1 + sum(value > order[method] for value in order.values()))
            least, most = min(places[1:]), max(places[1:])
            cells += [str(places[0]), str(least) if least == most else f"{least} to {most}"]
        rows.append([called(method), *cells])
    header = [cell for name in claims.RANKED for cell in (WORDS[name], "others")]
    return table(["method", *header], rows)


TABLES: dict[str, Callable[[Sequence[Network]], str]] = {
    "networks": networks_table,
    "stays": stays_table,
    "methods": methods_table,
    "baselines": baselines_table,
    "drift": drift_table,
    "signs": signs_table,
    "steps": steps_table,
    "evidence": evidence_table,
    "faults": faults_table,
    "families": families_table,
    "controls": controls_table,
    "agreement": agreement_table,
    "ranks": ranks_table,
}


def judgements(every: Sequence[Network]) -> dict[str, Any]:
    """Judge every claim."""
    rules: dict[str, Callable[[Network], Sequence[bool]]] = {
        "moved": lambda one: claims.moved_while_kept(one, GXI),
        "best": lambda one: claims.looks_best(one, "black"),
        "sensitive": lambda one: claims.most_sensitive(one, "black"),
        "steadiest": lambda one: claims.steadiest(one, "white"),
        "keeps": lambda one: claims.drifts(one, "keeps"),
        "loses": lambda one: claims.drifts(one, "loses"),
        "moves": lambda one: claims.drifts(one, "moves"),
        "evidence": lambda one: claims.no_evidence(claims.evidences(one)),
    }
    found: dict[str, Any] = {name: claims.judged(every, met) for name, met in rules.items()}
    words = {
        claims.by_size(claims.negative_share(one, method))
        for one in every
        for method in one.methods
        if not method.startswith("grad_cam")
    }
    # The methods, but for Grad-CAM, which cuts negative values off by definition.
    found["signs"] = words.pop() if len(words) == 1 else claims.IN_PART
    return found
