"""The numbers behind each claim of the study, from the scores of single images.

Each function is of one network or of all; `rules.md` says how a claim is judged.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import numpy as np
import pandas as pd
from first_rules import Instability, calibrate, whose_fault
from numpy.typing import NDArray
from scipy.stats import bootstrap, kendalltau, rankdata
from statsmodels.stats.proportion import proportion_confint

from steadymap.bench.analysis.curves import severity_curves
from steadymap.bench.analysis.intervals import CONFIDENCE, RESAMPLES, Interval, intervals
from steadymap.bench.analysis.whose_fault import BIAS
from steadymap.bench.core.randomness import generator
from steadymap.bench.records.schema import perturbed_images
from steadymap.bench.records.vocabulary import CLEAN, NULLS, OVERALL, is_control
from steadymap.metrics import METRICS, Status

Values = NDArray[np.float64]

SHIFTS = (-0.3, 0.3)
STEADINESS = ("ssim", "spearman")
RANKED = ("ssim", "spearman", "top_k_intersection")
RIGHTNESS = {"mask_mass": 1.0, "deletion": -1.0, "insertion": 1.0}
HALFWAY = 0.5
SEEN = 0.05
EVIDENCE = 0.3
FEW = 0.2
SMALL_SHARES = {"holds": 0.05, "holds in part": 0.25}
TARGETS = (0.05, 0.01)

# Of claims that a rule counts.
HOLDS, IN_PART, NOT = "holds", "holds in part", "does not hold"
MOST, LEAST = 0.8, 0.2


@dataclass(frozen=True, eq=False)
class Network:
    """What was measured of one network.

    Attributes:
        name: rps, or compact-SEED.
        card: of its training.
        records: of its run, of all images.
        images: by image_id, the hand's share of the picture (`hand`).
        signs: image_id, method, `negative`: share of a clean map that is negative.
        steps: image_id, method, steps, `relative`: completeness error of the clean image.
    """

    name: str
    card: dict[str, Any]
    records: pd.DataFrame
    images: pd.DataFrame
    signs: pd.DataFrame
    steps: pd.DataFrame

    @cached_property
    def calibrated(self) -> pd.DataFrame:
        """See `calibrate`."""
        return calibrate(self.of(RANKED))

    @cached_property
    def unstable(self) -> Instability:
        """See `Instability`."""
        return Instability.of(self.of(RANKED))

    @cached_property
    def kept_curves(self) -> pd.DataFrame:
        """Calibrated scores by method, metric and bias, of the images whose class stayed."""
        rows = self.of(STEADINESS)
        curves = severity_curves(rows[rows["kept"] & (rows["family"] == BIAS)], self.calibrated)
        return curves.set_index(["method", "metric", "severity"])

    @cached_property
    def faults(self) -> pd.DataFrame:
        """See `whose_fault`."""
        return whose_fault(self.of(STEADINESS))

    @cached_property
    def methods(self) -> list[str]:
        """The methods, in the order of the run, controls left out."""
        every = [str(spec) for spec in self.records["method"].unique()]
        return [spec for spec in every if spec != "input" and not is_control(spec)]

    @cached_property
    def controls(self) -> list[str]:
        """The controls, in the order of the run."""
        return [str(spec) for spec in self.records["method"].unique() if is_control(str(spec))]

    def of(self, metrics: Sequence[str]) -> pd.DataFrame:
        """Return the records of some metrics."""
        return self.records[self.records["metric"].isin(metrics)]

    def method(self, start: str) -> str:
        """Return the one method whose spec begins so."""
        (found,) = [spec for spec in self.methods if spec.startswith(start)]
        return found

    def by_image(self, method: str, metric: str, family: str, severity: float = 0.0) -> pd.Series:
        """Return the values of a method's maps at one severity, by image; defined ones alone."""
        rows = self.records
        rows = rows[
            (rows["method"] == method)
            & (rows["metric"] == metric)
            & (rows["family"] == family)
            & (rows["status"] == Status.OK.value)
        ]
        if family != CLEAN:
            rows = rows[np.isclose(rows["severity"], severity)]
        values = pd.Series(rows["value"].to_numpy(), index=rows["image_id"].astype(str))
        return values.sort_index()


def verdict(own: Sequence[bool], others: Sequence[bool]) -> str:
    """Judge a claim by what it does for `rps`, at each sign, and for each of the others."""
    share = float(np.mean(others))
    if all(own) and share >= MOST:
        return HOLDS
    return NOT if not any(own) and share <= LEAST else IN_PART


def judged(
    networks: Sequence[Network], met: Callable[[Network], Sequence[bool]]
) -> dict[str, object]:
    """Judge a claim over all networks.

    Args:
        networks: `rps` first.
        met: whether a network meets it, at each sign or once.
    """
    own, *others = [list(met(network)) for network in networks]
    return {
        "verdict": verdict(own, [all(one) for one in others]),
        "own": own,
        "others": sum(all(one) for one in others),
        "others_of": len(others),
        "by_sign": [sum(signs) for signs in zip(*others, strict=True)],
    }


def share(count: int, total: int) -> Interval:
    """Return a share with its interval after Wilson."""
    low, high = proportion_confint(count, total, alpha=1 - CONFIDENCE, method="wilson")
    return Interval(count / total, float(low), float(high), "wilson")


def mean(values: pd.Series | Values) -> Interval:
    """Return the mean over images with its interval."""
    return intervals([np.asarray(values, dtype=np.float64)])[0]


def resampled(rows: Sequence[Values], statistic: Callable[..., Values], name: str) -> Interval:
    """Return a statistic of paired values of images, with its interval (BCa).

    Args:
        rows: each (images,).
        statistic: takes them with `axis`.
        name: of what is resampled; it seeds the draws.
    """
    found = bootstrap(
        tuple(rows),
        statistic,
        paired=True,
        vectorized=True,
        confidence_level=CONFIDENCE,
        n_resamples=RESAMPLES,
        method="BCa",
        rng=generator(name, len(rows[0])),
    ).confidence_interval
    return Interval(float(statistic(*rows, axis=-1)), float(found.low), float(found.high), "bca")


# --- 1: the class stays, the map does not ---------------------------------------------------------


@cache
def class_stays(network: Network) -> dict[float, Interval]:
    """By severity of the bias, the share of images whose class stayed."""
    pairs = perturbed_images(network.records)
    pairs = pairs[pairs["family"] == BIAS]
    found = {}
    for level in np.unique(pairs["severity"]):
        kept = pairs[pairs["severity"] == level]["kept"]
        found[float(level)] = share(int(kept.sum()), len(kept))
    return found


def kept_score(network: Network, method: str, metric: str, severity: float) -> pd.Series:
    """Return the row of `kept_curves` of a bias."""
    return network.kept_curves.loc[[(method, metric, severity)]].iloc[0]


def moved_while_kept(network: Network, method: str) -> list[bool]:
    """Whether the class stays, and the map looks completely different, at either sign."""
    stays = class_stays(network)
    return [
        stays[shift].low > HALFWAY
        and all(kept_score(network, method, name, shift)["high"] < HALFWAY for name in STEADINESS)
        for shift in SHIFTS
    ]


# --- 2: baselines ---------------------------------------------------------------------------------

BASELINES = ("black", "white", "random")


def integrated(network: Network, baseline: str) -> str:
    """Return the spec of Integrated Gradients from a baseline."""
    return network.method(f"integrated_gradients:baseline={baseline}")


@cache
def calibrated_gap(network: Network, metric: str, first: str, second: str) -> Interval:
    """How much steadier the first method is under bias: the difference of calibrated scores."""
    rows = [
        network.unstable.at(method, metric, family)
        for method in (first, second)
        for family in (BIAS, *NULLS)
    ]
    known = np.isfinite(rows).all(axis=0)

    def gap(*values: Values, axis: int = -1) -> Values:
        a, *null_a = (one.mean(axis=axis) for one in values[:3])
        b, *null_b = (one.mean(axis=axis) for one in values[3:])
        difference: Values = b / np.minimum(*null_b) - a / np.minimum(*null_a)
        return difference

    return resampled([row[known] for row in rows], gap, "gap")


@cache
def clean_gap(network: Network, metric: str, first: str, second: str) -> Interval:
    """By how much the first method's clean maps score higher, image by image."""
    pair = [network.by_image(method, metric, CLEAN) for method in (first, second)]
    both = pd.concat(pair, axis=1, join="inner")
    return mean((both.iloc[:, 0] - both.iloc[:, 1]).to_numpy())


def looks_best(network: Network, baseline: str) -> list[bool]:
    """Whether a baseline's clean maps have more in the hand than both others'."""
    own = integrated(network, baseline)
    others = [integrated(network, name) for name in BASELINES if name != baseline]
    return [all(clean_gap(network, "mask_mass", own, other).low > 0 for other in others)]


def most_sensitive(network: Network, baseline: str) -> list[bool]:
    """Whether both other baselines are steadier."""
    return [all(_steadier(network, name, baseline) for name in BASELINES if name != baseline)]


def steadiest(network: Network, baseline: str) -> list[bool]:
    """Whether it is steadier than both other baselines."""
    return [all(_steadier(network, baseline, name) for name in BASELINES if name != baseline)]


def _steadier(network: Network, *baselines: str) -> bool:
    first, second = (integrated(network, name) for name in baselines)
    return all(calibrated_gap(network, metric, first, second).low > 0 for metric in STEADINESS)


# --- 3: Grad-CAM ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Drift:
    """What a shift did to the Grad-CAM maps of the images.

    Attributes:
        images: how many.
        keeps: share whose calibrated SSIM is 0.5 or more.
        loses: share whose map has less than half of its share in the hand left.
        moves: share whose map was more in the hand than an even one, and is less.
        empty: share whose map vanished.
        before: mean share inside the hand on the clean image.
        after: the same, shifted.
        even: the hand's share of the picture.
    """

    images: int
    keeps: Interval
    loses: Interval
    moves: Interval
    empty: Interval
    before: Interval
    after: Interval
    even: Interval


@cache
def drift(network: Network, severity: float, method: str = "grad_cam") -> Drift:
    """Follow the maps of a method from the clean to the shifted images."""
    spec = network.method(method)
    null = float(calibrated_score(network, spec, "ssim")["null"])
    table = pd.DataFrame(
        {
            "before": network.by_image(spec, "mask_mass", CLEAN),
            "after": network.by_image(spec, "mask_mass", BIAS, severity),
            "ssim": network.by_image(spec, "ssim", BIAS, severity),
            "even": network.images["hand"],
        }
    )
    table = table[table["before"].notna()]
    total = len(table)
    alike = 1 - (1 - table["ssim"]) / (1 - null)
    seen = table["after"].notna()
    return Drift(
        total,
        share(int((alike >= HALFWAY).sum()), total),
        share(int((seen & (table["after"] < table["before"] / 2)).sum()), total),
        share(
            int(
                (seen & (table["before"] > table["even"]) & (table["after"] < table["even"])).sum()
            ),
            total,
        ),
        share(int((~seen).sum()), total),
        mean(table["before"]),
        mean(table["after"].dropna()),
        mean(table["even"]),
    )


def drifts(network: Network, part: str) -> list[bool]:
    """Whether one image in twenty shows a part of the claim, at either sign."""
    return [getattr(drift(network, shift), part).mean >= SEEN for shift in SHIFTS]


# --- 4: signs -------------------------------------------------------------------------------------


def negative_share(network: Network, method: str) -> Interval:
    """Return the mean negative share of a method's clean maps."""
    rows = network.signs
    return mean(rows[rows["method"] == method].sort_values("image_id")["negative"])


def by_size(value: Interval) -> str:
    """Judge by how small a share is."""
    for word, most in SMALL_SHARES.items():
        if value.high < most:
            return word
    return NOT


# --- 5: steps -------------------------------------------------------------------------------------


def step_table(network: Network, baseline: str) -> pd.DataFrame:
    """By number of steps: median and 90th percentile of the relative completeness error."""
    rows = network.steps
    rows = rows[rows["method"].str.contains(f"baseline={baseline}")]
    groups = rows.groupby("steps")["relative"]
    return pd.DataFrame({"median": groups.median(), "high": groups.quantile(0.9)})


def steps_needed(network: Network, baseline: str, target: float) -> int | None:
    """Return the fewest steps from which on the median error stays within the target."""
    table = step_table(network, baseline)
    outside = table.index[table["median"] > target]
    enough = table.index if outside.empty else table.index[table.index > outside.max()]
    return int(enough.min()) if len(enough) else None


def more_is_worse(network: Network, baseline: str) -> Interval:
    """Return how often twice the steps made an image's error larger."""
    rows = network.steps
    rows = rows[rows["method"].str.contains(f"baseline={baseline}")]
    table = rows.pivot_table(index="image_id", columns="steps", values="relative")
    ahead = np.diff(table.to_numpy(), axis=1)
    known = np.isfinite(ahead)
    return share(int((ahead[known] > 0).sum()), int(known.sum()))


# --- 6: steady and right --------------------------------------------------------------------------


def steadiness(network: Network, method: str) -> pd.Series:
    """Return how steady a method's map of each image is under bias: its mean SSIM."""
    values = 1 - network.unstable.at(method, "ssim", BIAS)
    names = network.unstable.by_image.columns.astype(str)
    return pd.Series(values, index=names).dropna()


def rank_correlation(first: Values, second: Values, axis: int = -1) -> Values:
    """Return Spearman's rank correlation along an axis; NaN where one of the two is constant."""
    ranks = [rankdata(one, axis=axis) for one in (first, second)]
    ranks = [one - one.mean(axis=axis, keepdims=True) for one in ranks]
    spread = np.sqrt((ranks[0] ** 2).sum(axis=axis) * (ranks[1] ** 2).sum(axis=axis))
    with np.errstate(invalid="ignore"):  # a constant has no ranks
        found: Values = (ranks[0] * ranks[1]).sum(axis=axis) / spread
    return found


def evidence(network: Network, method: str, measure: str) -> Interval:
    """Correlate, over images, how steady a map is with how right it is by a measure."""
    right = network.by_image(method, measure, CLEAN) * RIGHTNESS[measure]
    both = pd.concat([steadiness(network, method), right], axis=1, join="inner")
    return resampled(list(both.to_numpy().T), rank_correlation, f"evidence {measure}")


@cache
def evidences(network: Network) -> dict[tuple[str, str], Interval]:
    """Return `evidence` for each method and measure."""
    return {
        (method, measure): evidence(network, method, measure)
        for method in network.methods
        for measure in RIGHTNESS
    }


def no_evidence(found: dict[tuple[str, str], Interval]) -> list[bool]:
    """Whether steadiness speaks for rightness in at most one pair of five."""
    return [float(np.mean([one.low > EVIDENCE for one in found.values()])) <= FEW]


# --- what the study could not see -----------------------------------------------------------------


def calibrated_score(
    network: Network, method: str, metric: str, family: str = OVERALL
) -> pd.Series:
    """Return a row of the calibrated scores."""
    rows = network.calibrated
    (place,) = np.flatnonzero(
        (rows["method"] == method) & (rows["metric"] == metric) & (rows["family"] == family)
    )
    found: pd.Series = rows.iloc[place]
    return found


def order_of(network: Network, metric: str, family: str = BIAS) -> dict[str, float]:
    """By method, its calibrated score."""
    return {
        method: float(calibrated_score(network, method, metric, family)["calibrated"])
        for method in network.methods
    }


def agreement(first: dict[str, float], second: dict[str, float]) -> float:
    """Kendall's tau-b between two orders of the same methods."""
    names = [name for name in first if np.isfinite([first[name], second[name]]).all()]
    return float(kendalltau([first[n] for n in names], [second[n] for n in names]).statistic)


def concordance(orders: Sequence[dict[str, float]]) -> float:
    """Kendall's W of several orders of the same methods: 1, all agree; 0, none.

    Source: Kendall and Babington Smith 1939; W = 12 S / (m^2 (n^3 - n)), without ties.
    """
    names = list(orders[0])
    ranks = np.array([rankdata([order[name] for name in names]) for order in orders])
    judges, items = ranks.shape
    sums = ranks.sum(axis=0)
    spread = float(((sums - sums.mean()) ** 2).sum())
    return float(12 * spread / (judges**2 * (items**3 - items)))


def raw_score(network: Network, method: str, metric: str) -> Interval:
    """Return the mean raw score of a method or control over all families."""
    perfect = METRICS[metric].identity or 0.0
    values = network.unstable.at(method, metric, OVERALL)
    found = mean(values[np.isfinite(values)])
    return Interval(perfect - found.mean, perfect - found.high, perfect - found.low, found.kind)
