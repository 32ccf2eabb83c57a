"""Is a newly trained network as good as one more network of its recipe? Bounds of prediction.

A baseline of several trainings says how far networks of one recipe lie apart on these same images.
One more may lie as far away without being worse.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import nctdtrinc
from scipy.stats import bartlett
from scipy.stats import t as student

from steadymap.bench.analysis.intervals import POWER
from steadymap.bench.core import metric_registry, names
from steadymap.bench.gate import comparison
from steadymap.bench.gate.comparison import ALPHA, FAIL, PASS, ROUNDING
from steadymap.bench.gate.margins import Margins
from steadymap.bench.gate.side import Side
from steadymap.bench.records.vocabulary import (
    DIAGNOSIS,
    FAMILY,
    IMAGE_ID,
    METHOD,
    METRIC,
    OVERALL,
    VALUE,
)

# Spreads are pooled over the lines of a metric unless they differ at this level (Bartlett 1937).
# It is a wide one, as a preliminary test needs: of few networks differences are hard to see.
POOL_LEVEL = 0.25
LEAST_POOLED = 2

# Verdicts of a line beside `worse` and `improved`, and of what is shown and not judged.
EXPECTED = "as expected"
NOT_JUDGED = "not judged"

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Bound:
    """Where one more network of a recipe may lie, higher being better.

    Attributes:
        mean: of the networks.
        spread: standard deviation between networks.
        freedom: degrees of freedom of the spread.
        networks: how many there are.
        margin: how much worse is still as good.
        pooled: over how many lines the spread was pooled.
    """

    mean: float
    spread: float
    freedom: float
    networks: int
    margin: float
    pooled: int = 1

    @property
    def scale(self) -> float:
        """Standard deviation of one more network about the mean of the others."""
        return self.spread * float(np.sqrt(1 + 1 / self.networks))

    def reach(self, level: float) -> float:
        """Return how far below the mean the bound of one more network is, without the margin."""
        return float(student.ppf(1 - level, self.freedom)) * self.scale

    def p_value(self, value: float, margin: float) -> float:
        """Return how likely one more network of the recipe is as bad, were all worse by a margin.

        Where networks do not differ at all there is nothing to be lucky with.
        """
        beyond = self.mean - margin - value
        if self.scale == 0:
            return 0.0 if beyond > ROUNDING else 1.0
        return float(student.sf(beyond / self.scale, self.freedom))

    def found(self, level: float) -> float:
        """Return the loss that the bound finds with a power of 80%.

        The noncentral t distribution gives it, with the spread for the true one.
        """
        if self.scale == 0:
            return self.margin
        quantile = student.ppf(1 - level, self.freedom)
        return self.margin + self.scale * float(nctdtrinc(self.freedom, 1 - POWER, quantile))


def bounds_of(values: Values, margins: Values) -> list[Bound]:
    """Return the bounds of lines of one metric, whose spread is pooled where it does not differ.

    Lines of the same networks hang together, so that k of them hold less than k times as much of
    their spread: degrees of freedom are Satterthwaite's, k (S - 1) / (1 + (k - 1) r2), where r2 is
    the mean squared correlation between lines (Satterthwaite 1946, Biometrics Bulletin 2:110-114).

    Args:
        values: (k, S), of k lines and S networks.
        margins: (k,).
    """
    lines, networks = values.shape
    means, spreads = values.mean(axis=1), values.std(axis=1, ddof=1)
    freedom = np.full(lines, float(networks - 1))
    pooled = 1
    if _alike(values, spreads):
        squared = np.corrcoef(values) ** 2
        r2 = (squared.sum() - lines) / (lines * (lines - 1))
        freedom = freedom * lines / (1 + (lines - 1) * r2)
        spreads = np.full(lines, float(np.sqrt((spreads**2).mean())))
        pooled = lines
    return [
        Bound(float(mean), float(spread), float(df), networks, float(margin), pooled)
        for mean, spread, df, margin in zip(means, spreads, freedom, margins, strict=True)
    ]


def _alike(values: Values, spreads: Values) -> bool:
    """Whether lines spread alike, as far as can be told."""
    if len(values) < LEAST_POOLED or not (spreads > 0).all():
        return False
    return float(bartlett(*values).pvalue) > POOL_LEVEL


@dataclass(frozen=True)
class Line:
    """One method and metric: means over images and families.

    Attributes:
        key: method and metric.
        before: (S,), of the networks.
        after: of the run; NaN where it has none.
        coverage: (S + 1,), shares of values that are defined, the run's last.
        images: how many images have a value in the run.
        better: higher or lower.
        relative: whether the margin is a share, so that values are compared by their logarithms.
        margin: in the unit of the values.
        families: by family the means (S + 1,), the run's last.
    """

    key: tuple[str, str]
    before: Values
    after: float
    coverage: Values
    images: int
    better: str
    relative: bool
    margin: float
    families: dict[str, Values]

    @property
    def sign(self) -> float:
        """1 where higher is better, else -1."""
        return -1.0 if self.better == "lower" else 1.0

    def scaled(self, values: Values) -> Values:
        """Return values on the scale on which they are compared, higher being better."""
        with np.errstate(divide="ignore"):  # an error of 0 is infinitely good
            return self.sign * (np.log(values) if self.relative else values)

    def unscaled(self, value: float) -> float:
        """Return a value as the metric has it."""
        return float(np.exp(self.sign * value)) if self.relative else self.sign * value

    @property
    def scaled_margin(self) -> float:
        """The margin on that scale."""
        return float(np.log1p(self.margin / self.mean)) if self.relative else self.margin

    @property
    def mean(self) -> float:
        """Of the networks: on the scale on which they are compared, as the metric has it."""
        return self.unscaled(float(self.scaled(self.before).mean()))


def lines_of(networks: Sequence[Side], after: Side, margins: Margins) -> list[Line]:
    """Return the lines that are judged: those with a margin and a value in every network.

    A line's value is the mean, over the families of perturbations, of the mean over images. A
    family counts where every network of the baseline has a value; those of a diagnosis do not,
    unless there are no others.
    """
    sides = [*networks, after]
    known = metric_registry.known_metrics(*(side.manifest for side in sides))
    keys = [METHOD, METRIC, FAMILY]
    grouped = [side.scores.groupby(keys) for side in sides]
    averages = pd.concat([groups[VALUE].mean() for groups in grouped], axis=1)
    means = averages.to_numpy(dtype=float)
    counts = [
        pd.concat([groups[name].sum() for groups in grouped], axis=1)
        .fillna(0)
        .to_numpy(dtype=float)
        for name in ("valid", "pairs")
    ]
    images = after.scores.dropna(subset=VALUE).groupby([METHOD, METRIC])[IMAGE_ID].nunique()
    table = pd.DataFrame(index=averages.index).reset_index()
    in_all = np.isfinite(means[:, :-1]).all(axis=1)
    lines = []
    for key, group in table[in_all].groupby([METHOD, METRIC]):
        method, metric = map(str, key)
        ours = ~group[FAMILY].isin(DIAGNOSIS)
        chosen = group[ours] if ours.any() else group
        rows = chosen.index.to_numpy()
        before = means[rows, :-1].mean(axis=0)
        better = comparison.better(metric, known)
        relative = metric not in margins.absolute and better == "lower" and bool((before > 0).all())
        centre = np.exp(np.log(before).mean()) if relative else before.mean()
        margin = margins.of(metric, float(centre))
        if np.isnan(margin):
            continue
        valid, pairs = (table_of[rows].sum(axis=0) for table_of in counts)
        coverage = np.divide(valid, pairs, out=np.zeros_like(valid), where=pairs > 0)
        families = {
            str(name): means[row] for name, row in zip(chosen[FAMILY], rows.tolist(), strict=True)
        }
        lines.append(
            Line(
                (method, metric),
                before,
                float(means[rows, -1].mean()),
                coverage,
                int(images.get((method, metric), 0)),
                better,
                relative,
                margin,
                families,
            )
        )
    return lines


def bound_lines(lines: Sequence[Line]) -> list[Bound]:
    """Return a bound for each line; spreads are pooled within a metric and scale."""
    found: dict[int, Bound] = {}
    kinds = dict.fromkeys((line.key[1], line.relative) for line in lines)
    for kind in kinds:
        places = [n for n, line in enumerate(lines) if (line.key[1], line.relative) == kind]
        values = np.stack([lines[n].scaled(lines[n].before) for n in places])
        margins = np.array([lines[n].scaled_margin for n in places])
        found |= dict(zip(places, bounds_of(values, margins), strict=True))
    return [found[n] for n in range(len(lines))]


def judged(lines: Sequence[Line], margins: Margins, others: int = 0) -> pd.DataFrame:
    """Judge one more network, line by line: the rows of a comparison.

    A line fails where the network is below mean - margin - t s sqrt(1 + 1/S), with t at a level of
    0.05 over the number of all lines of the gate (Bonferroni), so that of honest trainings at most
    5% fail the whole gate however lines hang together; where its coverage is below that of every
    network by more than the margin; or where it has no value any more. `low` and `high` are the
    gains over networks as bad, and as good, as the recipe makes them. `detectable` is the loss
    found with a power of 80%.

    Args:
        lines: see `lines_of`.
        margins: of which `coverage` is read.
        others: how many lines the gate has beside these.
    """
    total = len(lines) + others
    rows: list[dict[str, object]] = []
    for line, bound in zip(lines, bound_lines(lines), strict=True):
        rows.append(_judged(line, bound, total, margins.coverage))
        rows += [_shown(line, family, values) for family, values in line.families.items()]
    return pd.DataFrame(rows, columns=comparison.COLUMNS)


def _judged(line: Line, bound: Bound, total: int, coverage: float) -> dict[str, object]:
    level = ALPHA / total
    value = float(line.scaled(np.array([line.after]))[0])
    reach = bound.reach(level)
    ends = [line.unscaled(bound.mean + step) for step in (reach, -reach)]
    lost = min(1.0, total * bound.p_value(value, bound.margin))
    gained = min(1.0, total * (1 - bound.p_value(value, 0.0)))
    worst = line.unscaled(bound.mean - reach - bound.margin)
    fallen = float(line.coverage[:-1].min() - line.coverage[-1])
    verdict, gate, reason = EXPECTED, PASS, ""
    if np.isnan(line.after):
        verdict, gate, reason = comparison.MISSING, FAIL, "had values, and has none"
    elif lost < ALPHA:
        verdict, gate = comparison.WORSE, FAIL
        least, most = line.before.min(), line.before.max()
        shown = ", ".join(f"{name} {ends[-1]:.3g}" for name, ends in line.families.items())
        reason = (
            f"beyond {worst:.3g}, the bound of one more network ({bound.networks} had {least:.3g} "
            f"to {most:.3g}); by family: {shown}"
        )
    elif fallen - coverage > ROUNDING:
        gate = FAIL
        reason = (
            f"coverage is {names.percent(fallen)} below that of every network, more than "
            f"{names.percent(coverage)}"
        )
    elif gained < ALPHA:
        verdict = comparison.IMPROVED
    found = line.unscaled(bound.mean - bound.found(level))
    return {
        **_row(line, OVERALL, np.array([line.mean, line.after])),
        "low": line.sign * (line.after - ends[0]),
        "high": line.sign * (line.after - ends[1]),
        "p_value": lost,
        "detectable": abs(found - line.mean),
        "coverage_before": float(line.coverage[:-1].mean()),
        "coverage_after": float(line.coverage[-1]),
        "verdict": verdict,
        "gate": gate,
        "reason": reason,
    }


def _shown(line: Line, family: str, values: Values) -> dict[str, object]:
    """Return the row of a family, which is shown and not judged."""
    means = np.array([values[:-1].mean(), values[-1]])
    return _row(line, family, means) | {"verdict": NOT_JUDGED, "gate": "", "reason": ""}


def _row(line: Line, family: str, means: Values) -> dict[str, object]:
    before, after = means.tolist()
    return {
        METHOD: line.key[0],
        FAMILY: family,
        METRIC: line.key[1],
        "images": line.images,
        "before": before,
        "after": after,
        "gain": line.sign * (after - before),
        "better": line.better,
        "margin": line.margin,
    }


def power_notes(lines: Sequence[Line], others: int = 0) -> list[str]:
    """Say, metric by metric, which loss is found with a power of 80%."""
    level = ALPHA / max(len(lines) + others, 1)
    by_metric: dict[str, list[tuple[Line, Bound]]] = {}
    for line, bound in zip(lines, bound_lines(lines), strict=True):
        by_metric.setdefault(line.key[1], []).append((line, bound))
    notes = []
    for metric, pairs in by_metric.items():
        losses = [
            abs(line.unscaled(bound.mean - bound.found(level)) - line.mean) for line, bound in pairs
        ]
        spreads = [bound.spread for _, bound in pairs]
        kind = "in logarithms" if pairs[0][0].relative else "between networks"
        how = (
            f"pooled over {pairs[0][1].pooled} lines"
            if pairs[0][1].pooled > 1
            else "of each line alone"
        )
        notes.append(
            f"{metric}: a loss of {_span(losses)} is found in 80% (margin "
            f"{_span([line.margin for line, _ in pairs])}; spread {kind} {_span(spreads)}, {how})"
        )
    return notes


def _span(values: Sequence[float]) -> str:
    least, most = f"{min(values):.2g}", f"{max(values):.2g}"
    return least if least == most else f"{least} to {most}"
