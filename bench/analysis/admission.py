"""Is a method admitted to the ranking? Its map must know more of its image than its own nulls do.

Steadiness alone can be had without looking: noise that was held fixed is as steady as can be. So
before methods are ranked each must pass a test that is about itself alone. Deleting pixels in the
order of its map must hurt the class more than deleting them in the order of its own map of another
image, of another image of the class, and of networks with randomised weights (`margin.*`); and its
maps must move when image or network change (`reacts`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pandas as pd

from steadymap.bench.analysis.intervals import Floats, Mean, images_needed, mean_of
from steadymap.bench.analysis.reactions import Reaction, react
from steadymap.bench.core.randomness import generator
from steadymap.bench.records import grouping, vocabulary
from steadymap.bench.records.scan import Scan
from steadymap.metrics import Status

# Of a method; one that is tried in two orders has half of it for each.
LEVEL = 0.01
# Of plain gradient's margin: what no more than that is refused, what less than that is not ranked.
REFUSED_SHARE = 1 / 3
RANKED_SHARE = 1 / 2
# A null counts where at least so many of the images have it.
LEAST_SHARE = 0.5
RESAMPLES = 2000
# Of more images than that nobody needs to know the number.
MOST_IMAGES = 10_000

Verdict = Literal["admitted", "refused", "undecided", "control"]
Answer = Literal["yes", "no", "undecided", "not judged"]

# What must be beaten, and what its map is called.
GATES = {
    "other_image": "its map of another image",
    "same_class": "its map of another image of the class",
    "random_network": "its map from a network that knows nothing",
}
# Without these nothing is known of a map; a class of its own an image may have.
NEEDED = ("other_image", "random_network")
OTHER_CLASS = "other_class"
YARDSTICK = "gradient"


@dataclass(frozen=True)
class Facts:
    """What records do not say.

    Attributes:
        classes: of the network; None where nobody says.
        unsigned: methods whose maps have no sign.
        by_magnitude: methods whose declared order is by magnitude.
        checks: by method that is not ours, what came of `steadymap check`: passed, skipped, or
            `failed: NAME`.
        groups: of the images, each a subject or a video.
    """

    classes: int | None = None
    unsigned: frozenset[str] = frozenset()
    by_magnitude: frozenset[str] = frozenset()
    checks: Mapping[str, str] = field(default_factory=dict)
    groups: grouping.Groups = field(default_factory=dict)

    @classmethod
    def of(cls, manifest: Mapping[str, Any]) -> Facts:
        """Read them off a manifest; one from before they stood in it says nothing."""
        orders: Mapping[str, str | None] = manifest.get("orders", {})
        return cls(
            len(manifest["model"]["class_names"]),
            frozenset(manifest.get("unsigned", ())),
            frozenset(spec for spec, order in orders.items() if order == "magnitude"),
            manifest.get("checks", {}),
            grouping.groups_of(manifest),
        )

    def blind_by_nature(self, method: str) -> bool:
        """Whether a map for another class is the same one, its sign apart; or there is no other."""
        mute = method in self.unsigned or method in self.by_magnitude
        return self.classes == 1 or (self.classes == 2 and mute)  # noqa: PLR2004 - one and another


@dataclass(frozen=True)
class Margins:
    """The margins of a method in one order.

    Attributes:
        values: by null, (images,), or one number a group of them, see `by_group`; those that too
            few images have are left out.
        level: at which each must be above 0.
        images: how many have a margin.
    """

    values: Mapping[str, Floats]
    level: float
    images: int

    def means(self) -> dict[str, Mean]:
        """Return the means over images."""
        return {kind: mean_of(values) for kind, values in self.values.items()}

    @property
    def smallest(self) -> str | None:
        """The null that is beaten by least; None without any."""
        means = {kind: x.mean for kind, x in self.means().items() if x.count}
        return min(means, key=means.__getitem__) if means else None

    @property
    def p(self) -> float:
        """The largest p: all must be above 0, so nothing is corrected (an intersection-union test).

        1 where it was not held against other images and other networks.
        """
        means = self.means()
        if not set(NEEDED) <= set(means):
            return 1.0
        return max(mean.p for mean in means.values())

    def enough(self, units: int) -> tuple[int, str]:
        """Return how many images that many of the units are, and in words what would do."""
        there = max(mean.count for mean in self.means().values())
        if there == self.images:
            return units, f"{units} images would do"
        images = math.ceil(units * self.images / there)
        return images, f"{units} groups would do, {images} images if they are as large"


@dataclass(frozen=True)
class Table:
    """Values of clean images.

    Attributes:
        values: by method and metric, (images,), or one number a group of them, see `by_group`; NaN
            where there is none.
        images: by method and metric, how many have a value.
        methods: specs.
    """

    values: Mapping[tuple[str, str], Floats]
    images: Mapping[tuple[str, str], int]
    methods: tuple[str, ...]

    @classmethod
    def of(cls, records: pd.DataFrame, groups: grouping.Groups = grouping.NONE) -> Table:
        """Gather them, images in the order of the records."""
        # Records that were joined may have rows of one number.
        chosen = records[records[vocabulary.FAMILY] == vocabulary.CLEAN].reset_index(drop=True)
        names = [vocabulary.METHOD, vocabulary.METRIC, vocabulary.IMAGE_ID]
        chosen = chosen.assign(**{name: chosen[name].astype(str) for name in names})
        valid = chosen[vocabulary.STATUS] == Status.OK.value
        number = chosen[vocabulary.VALUE].where(valid)
        images = list(dict.fromkeys(chosen[vocabulary.IMAGE_ID]))
        values, counts = {}, {}
        for (method, metric), rows in number.groupby(
            [chosen[vocabulary.METHOD], chosen[vocabulary.METRIC]], sort=False
        ):
            by_image = rows.set_axis(chosen.loc[rows.index, vocabulary.IMAGE_ID])
            numbers = by_image.reindex(images).to_numpy(float)
            values[str(method), str(metric)] = grouping.by_group(numbers, images, groups)
            counts[str(method), str(metric)] = int(np.isfinite(numbers).sum())
        return cls(values, counts, tuple(dict.fromkeys(chosen[vocabulary.METHOD])))

    def margins(self, method: str, begin: str, level: float) -> Margins:
        """Return the margins of a method whose names begin so, over the nulls that gate."""
        counts = {kind: self.images.get((method, begin + kind), 0) for kind in GATES}
        most = max(counts.values())
        enough = {
            kind: self.values[method, begin + kind]
            for kind, count in counts.items()
            if count >= max(2, LEAST_SHARE * most)
        }
        return Margins(enough, level, most)

    def tried(self, method: str) -> list[tuple[str, Margins]]:
        """Return the orders in which a method was tried, each with its margins."""
        begins = [vocabulary.MARGIN, vocabulary.MARGIN_OF_MAGNITUDE]
        names = {metric for spec, metric in self.values if spec == method}
        there = [begin for begin in begins if any(name.startswith(begin) for name in names)]
        return [(b, self.margins(method, b, LEVEL / len(there))) for b in there]

    def yardstick(self) -> Margins:
        """Return plain gradient's margins, of its own or measured beside the others."""
        if YARDSTICK in self.methods:
            return self.margins(YARDSTICK, vocabulary.MARGIN, LEVEL)
        for method in self.methods:
            beside = self.margins(method, vocabulary.GRADIENT_MARGIN, LEVEL)
            if beside.values:
                return beside
        return Margins({}, LEVEL, 0)


@dataclass(frozen=True)
class Admission:
    """What is said of one method.

    Attributes:
        method: which.
        verdict: the answer; controls have none.
        reason: in plain words; empty where it is admitted and nothing is to be said.
        needed: of an undecided one, how many images would do (where they come in groups, in groups
            as large); None where none are foreseen.
        order: in which its maps were taken, as the names of its margins begin.
        margins: by null, those of that order.
        class_specific: whether it knows the class from the runner-up.
        reaction: how far its map moves.
    """

    method: str
    verdict: Verdict
    reason: str
    needed: int | None
    order: str
    margins: Margins
    class_specific: Answer
    reaction: Reaction


def admissions(records: pd.DataFrame | Scan, facts: Facts | None = None) -> pd.DataFrame:
    """Return who is admitted, who is ranked, and why not.

    Args:
        records: of a run.
        facts: what the records do not say.

    Returns:
        One row a method, controls last, in the order of the records; empty without margins. Margins
        are in logits; `p` is one-sided, of the largest of its nulls; `faithful` is the smallest
        margin as a share of the best admitted one's; `ranked` is who enters the ranking.
    """
    known = facts or Facts()
    frame = _margins_of(records)
    table = Table.of(frame, known.groups)
    reactions = react(_maps_of(records), known.groups)
    floor = _smallest(table.yardstick())
    judged = [
        judge(table, method, reactions.get(method, Reaction({}, {})), (floor, known))
        for method in table.methods
        if table.tried(method)
    ]
    judged.sort(key=lambda admission: admission.verdict == "control")
    faithful = _faithful(judged)
    rows = []
    for admission in judged:
        smallest = _smallest(admission.margins)
        ranked = admission.verdict == "admitted" and not smallest < RANKED_SHARE * floor
        rows.append(
            _row(admission)
            | {"smallest": smallest, "below_gradient": bool(smallest < floor), "ranked": ranked}
            | faithful[admission.method]
            | {"check": known.checks.get(admission.method, "")}
        )
        if admission.verdict == "admitted" and not ranked:
            rows[-1]["reason"] = "its margin is below half of plain gradient's"
    return pd.DataFrame(rows)


def judge(table: Table, method: str, reaction: Reaction, beside: tuple[float, Facts]) -> Admission:
    """Return what is to be said of a method.

    Args:
        table: the margins.
        method: which.
        reaction: how far its map moves.
        beside: plain gradient's smallest margin, NaN where it is not known, and what the records
            do not say.
    """
    # Of two orders the one that shows more.
    order, margins = min(table.tried(method), key=lambda pair: pair[1].p)
    specific = _class_specific(table, method, order, beside)
    check = beside[1].checks.get(method, "")
    moves, because = reaction.verdict(LEVEL)
    verdict: Verdict
    verdict, reason, needed = _by_margins(margins, beside[0])
    if check.startswith("failed"):
        verdict, reason, needed = "refused", f"`steadymap check` {check}", None
    elif moves == "refused" or (moves == "undecided" and verdict == "admitted"):
        verdict, reason, needed = moves, because, None
    elif verdict == "admitted" and check == "skipped":
        reason = "no check applies to it"
    if vocabulary.is_control(method):
        verdict, needed = "control", None
    return Admission(method, verdict, reason, needed, order, margins, specific, reaction)


def _by_margins(margins: Margins, gradient: float) -> tuple[Verdict, str, int | None]:
    """Return what margins alone say, why, and how many images would do."""
    means = margins.means()
    for kind in NEEDED:
        if kind not in means:
            return "undecided", f"{GATES[kind]} is not there to be held against", None
    unbeaten = [kind for kind, mean in means.items() if mean.p > margins.level]
    if not unbeaten:
        return "admitted", "", None
    worst = max(unbeaten, key=lambda kind: means[kind].p)
    chance = f"as well (p = {means[worst].p:.2g})"
    least = min(unbeaten, key=lambda kind: means[kind].mean)
    # Refused is who is shown to know little, not who was not shown to know.
    if means[least].high <= REFUSED_SHARE * gradient:
        return "refused", f"{GATES[worst]} does {chance}", None
    reason = f"{GATES[worst]} may do {chance}"
    wanted = [images_needed(margins.values[kind], margins.level) for kind in unbeaten]
    known = [count for count in wanted if count is not None]
    if len(known) < len(wanted) or max(known) > MOST_IMAGES:
        return "undecided", reason, None
    images, would_do = margins.enough(max(known))
    return "undecided", f"{reason}; {would_do}", images


def _smallest(margins: Margins) -> float:
    kind = margins.smallest
    return float("nan") if kind is None else margins.means()[kind].mean


def _class_specific(table: Table, method: str, order: str, beside: tuple[float, Facts]) -> Answer:
    gradient, facts = beside
    values = table.values.get((method, order + OTHER_CLASS))
    if values is None or not np.isfinite(values).any() or facts.blind_by_nature(method):
        return "not judged"
    mean = mean_of(values)
    if mean.p <= LEVEL / len(table.tried(method)):
        return "yes"
    return "no" if mean.high <= REFUSED_SHARE * gradient else "undecided"


def _row(admission: Admission) -> dict[str, object]:
    row: dict[str, object] = {
        vocabulary.METHOD: admission.method,
        "verdict": admission.verdict,
        "reason": admission.reason,
        "images_needed": admission.needed,
        "order": "magnitude" if admission.order == vocabulary.MARGIN_OF_MAGNITUDE else "declared",
        "p": admission.margins.p,
        "class_specific": admission.class_specific,
    }
    means = admission.margins.means()
    nothing = Mean(0, np.nan, np.nan, np.nan, np.nan)
    for kind in GATES:
        mean = means.get(kind, nothing)
        row |= {
            kind: mean.mean, f"{kind}_low": mean.low, f"{kind}_high": mean.high, f"{kind}_p": mean.p
        }  # fmt: skip
    row["images"] = admission.margins.images
    for what, mean in admission.reaction.means().items():
        row |= {f"reacts_{what}": mean.mean, f"reacts_{what}_low": mean.low}
        row |= {f"reacts_{what}_high": mean.high}
    return row


def _faithful(judged: Sequence[Admission]) -> dict[str, dict[str, float]]:
    """Return by method its smallest margin as a share of the best admitted one's.

    With its interval: images, or groups of them, are resampled, all methods together; each resample
    has its own best.
    """
    names = ("faithful", "faithful_low", "faithful_high")
    shares = {a.method: dict.fromkeys(names, np.nan) for a in judged}
    measured = [admission for admission in judged if admission.margins.values]
    admitted = [a.verdict == "admitted" for a in measured]
    if not any(admitted):
        return shares
    count = len(next(iter(measured[0].margins.values.values())))
    draws = generator("faithful", count).multinomial(count, [1 / count] * count, RESAMPLES)
    weights = np.vstack([np.ones(count), draws])
    smallest = np.stack([_weighted(a.margins, weights) for a in measured])
    best = smallest[np.array(admitted)].max(axis=0)
    for admission, row in zip(measured, smallest / best, strict=True):
        ends = [float(row[0]), *np.nanquantile(row[1:], [0.025, 0.975]).tolist()]
        shares[admission.method] = dict(zip(names, ends, strict=True))
    return shares


def _weighted(margins: Margins, weights: Floats) -> Floats:
    """Return the smallest mean of margins under weights (rows, images): (rows,)."""
    means = []
    for values in margins.values.values():
        known = np.isfinite(values)
        with np.errstate(invalid="ignore"):  # a resample without a value: NaN
            means.append(weights[:, known] @ values[known] / weights[:, known].sum(axis=1))
    smallest: Floats = np.minimum.reduce(means)
    return smallest


def _margins_of(records: pd.DataFrame | Scan) -> pd.DataFrame:
    if isinstance(records, pd.DataFrame):
        names = records[vocabulary.METRIC].astype(str)
        return records[names.str.startswith(vocabulary.MARGIN_NAMES)]
    names_of = records.counts[vocabulary.METRIC].astype(str).unique()
    return records.read([x for x in names_of if x.startswith(vocabulary.MARGIN_NAMES)])


def _maps_of(records: pd.DataFrame | Scan) -> pd.DataFrame:
    """Return the records of clean maps against others, by the metric that reactions rest on."""
    if isinstance(records, Scan):
        records = records.read(["spearman"])
    chosen = records[records[vocabulary.METRIC] == "spearman"]
    return chosen[chosen[vocabulary.FAMILY].isin(vocabulary.REFERENCES)]
