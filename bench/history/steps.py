"""Where a history took a step: change points of its lines, rare where nothing happened.

Change points are those of PELT (Killick, Fearnhead and Eckley 2012) with squared errors, as
`ruptures` has it. The noise of a line is estimated from its first differences, which a step touches
in one place alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy import special

from steadymap.bench.history.lines import Floats, Line

# Below so many runs noise cannot be told from a step.
LEAST_RUNS = 6
# Of first differences so many are taken for noise; the largest others may be steps.
NOISE_SHARE = 0.75
# What a change point must gain, in squared noise, by the number of runs and of lines that are
# looked at together: what flat lines of normal noise exceed in 3% of histories. Simulated, a
# million to 24,000 lines each; tests/history/test_rates.py does it again.
LINES = (1, 10, 100)
PENALTIES: dict[int, tuple[float, float, float]] = {
    6: (14.9, 52.1, 172.5),
    9: (14.1, 37.4, 88.3),
    13: (13.2, 29.2, 57.2),
    17: (12.8, 25.7, 46.2),
    25: (12.3, 22.1, 34.6),
    41: (11.9, 19.5, 28.6),
    81: (11.9, 18.0, 24.6),
    201: (12.0, 16.9, 22.4),
    501: (12.3, 16.9, 22.0),
}
# How much worse another place may fit and still be a place where the step may be, in squared noise.
UNSURE = 6.0
# Steps of several lines this near to each other are one.
NEAR = 1


@dataclass(frozen=True)
class LineStep:
    """A step of one line.

    Attributes:
        line: which.
        run: the place of the first run after it.
        earliest: the first place where it may be, too.
        latest: the last one.
        before: the mean of the line between the step before and this one.
        after: the mean from here to the next one.
        size: the change in units of the line's noise, 0 or more.
        gain: how much better two means fit than one, in squared noise.
    """

    line: Line
    run: int
    earliest: int
    latest: int
    before: float
    after: float
    size: float
    gain: float

    @property
    def is_better(self) -> bool:
        """Whether the score is better after it."""
        return (self.after > self.before) == (self.line.better == "higher")


@dataclass(frozen=True)
class Step:
    """A step of a history: those of its lines that are at one place.

    Attributes:
        run: the place of the first run after it: that of the line that shows it best.
        earliest: the first place where it may be, too.
        latest: the last one.
        lines: the steps of lines, the clearest first.
    """

    run: int
    earliest: int
    latest: int
    lines: tuple[LineStep, ...]


def steps_of(lines: Sequence[Line]) -> list[Step]:
    """Return the steps of a segment, the oldest first.

    Where nothing happened but normal noise, at most 5% of segments have any, whatever the number of
    lines. Lines of what maps cost are not looked at.
    """
    judged = [line for line in lines if line.judged]
    found = [step for line in judged for step in line_steps(line, len(judged))]
    steps: list[Step] = []
    left = sorted(found, key=lambda step: (-step.gain, step.run, step.line.method))
    while left:
        clearest = left[0]
        together = [step for step in left if abs(step.run - clearest.run) <= NEAR]
        left = [step for step in left if abs(step.run - clearest.run) > NEAR]
        steps.append(Step(clearest.run, clearest.earliest, clearest.latest, tuple(together)))
    return sorted(steps, key=lambda step: step.run)


def line_steps(line: Line, count: int) -> list[LineStep]:
    """Return the steps of a line.

    Args:
        line: of a segment; runs without a value are passed over.
        count: how many lines are looked at together.
    """
    places = np.flatnonzero(np.isfinite(line.values))
    values = line.values[places]
    if len(values) < LEAST_RUNS or np.ptp(values) <= line.floor:
        return []
    # Loaded here: it takes a while, and a history whose lines are flat does not need it.
    from ruptures import KernelCPD  # noqa: PLC0415

    spread = max(noise_of(values), line.floor)
    scaled = (values - values.mean()) / spread
    # Squared errors are those of a linear kernel, whose PELT is compiled.
    model = KernelCPD(kernel="linear", min_size=1).fit(scaled[:, None])
    ends = [0, *model.predict(pen=penalty(len(values), count))]
    steps = []
    for start, cut, end in zip(ends, ends[1:], ends[2:], strict=False):
        costs = _costs(scaled[start:end])
        near = np.flatnonzero(costs <= costs[cut - start - 1] + UNSURE) + start + 1
        before, after = float(values[start:cut].mean()), float(values[cut:end].mean())
        gain = float(((scaled[start:end] - scaled[start:end].mean()) ** 2).sum())
        steps.append(
            LineStep(
                line,
                int(places[cut]),
                int(places[near[0]]),
                int(places[near[-1]]),
                before,
                after,
                abs(after - before) / spread,
                gain - float(costs[cut - start - 1]),
            )
        )
    return steps


def noise_of(values: Floats) -> float:
    """Return the standard deviation of a line's noise, steps left out.

    The root mean square of the smallest three quarters of its first differences, as that of normal
    noise would be: a step is in one difference, and so may be up to a quarter of all. Of ten
    differences it is a tenth too large, which the penalties reckon with.

    Args:
        values: (runs,), three or more, all finite.
    """
    differences = np.sort(np.abs(np.diff(values)))
    kept = math.ceil(NOISE_SHARE * len(differences))
    share = kept / len(differences)
    # A normal variable's mean square where its size is below the quantile of that share.
    end = float(special.ndtri((1 + share) / 2))
    shrunk = special.gammainc(1.5, end**2 / 2) / share
    return float(np.sqrt((differences[:kept] ** 2).mean() / (2 * shrunk)))


@cache
def penalty(runs: int, lines: int) -> float:
    """Return what a change point must gain, in squared noise: see `PENALTIES`.

    Between the entries of the table it is linear in the logarithms, and beyond them it goes on so.

    Args:
        runs: of a line, `LEAST_RUNS` or more.
        lines: that are looked at together, 1 or more.
    """
    of_lines = [
        math.exp(_along(np.log(LINES), np.log(row), math.log(max(lines, 1))))
        for row in PENALTIES.values()
    ]
    return math.exp(_along(np.log(list(PENALTIES)), np.log(of_lines), math.log(runs)))


def _along(x: Floats, y: Floats, at: float) -> float:
    """Interpolate; beyond the ends go on straight."""
    place = int(np.clip(np.searchsorted(x, at), 1, len(x) - 1))
    slope = (y[place] - y[place - 1]) / (x[place] - x[place - 1])
    return float(y[place - 1] + slope * (at - x[place - 1]))


def _costs(values: Floats) -> Floats:
    """Return the squared errors of two means by where values are cut: (values - 1,)."""
    left = np.arange(1, len(values))
    sums, squares = np.cumsum(values), float((values**2).sum())
    before, after = sums[:-1], sums[-1] - sums[:-1]
    costs: Floats = squares - before**2 / left - after**2 / (len(values) - left)
    return costs
