"""A history as people look at it: its segments with their lines, steps and causes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from steadymap.bench.core import names
from steadymap.bench.history import blame
from steadymap.bench.history.entry import Entry
from steadymap.bench.history.lines import Line, check_metrics, lines_of, titles
from steadymap.bench.history.segments import Segment, segments
from steadymap.bench.history.steps import LEAST_RUNS, LineStep, Step, steps_of

DAY = 10


@dataclass(frozen=True)
class Era:
    """A segment with all that is derived of it.

    Attributes:
        segment: its runs.
        lines: its scores from run to run.
        steps: where they took a step, the oldest first.
        causes: of each step, the likeliest first.
    """

    segment: Segment
    lines: tuple[Line, ...]
    steps: tuple[Step, ...]
    causes: tuple[tuple[blame.Cause, ...], ...]

    def name(self, run: int) -> str:
        """Return what a run is called, by its place."""
        return names.printable(self.segment.entries[run].name)

    def span(self) -> str:
        """Return the days of its first and last run."""
        first, last = (self.segment.entries[place].measured_at[:DAY] for place in (0, -1))
        return first if first == last else f"{first} to {last}"

    def about(self) -> str:
        """Return what was measured, and how many runs there are, in a line."""
        entries = self.segment.entries
        manifest = entries[-1].manifest
        runs = "1 run" if len(entries) == 1 else f"{len(entries)} runs"
        return names.printable(
            f"{runs} of {manifest['model']['name']} on {manifest['data']['name']}, {self.span()}"
        )

    def summary(self) -> str:
        """Return how many steps there are, in a sentence."""
        if len(self.segment.entries) < LEAST_RUNS:
            return f"Steps are looked for from {LEAST_RUNS} runs on."
        if not self.steps:
            return "No line took a step."
        return "1 step." if len(self.steps) == 1 else f"{len(self.steps)} steps."

    def place(self, step: Step) -> str:
        """Return where a step is: the runs either side, and where else it may be."""
        text = f"between {self.name(step.run - 1)} and {self.name(step.run)}"
        if step.earliest == step.latest:
            return text
        return (
            f"{text} (surely after {self.name(step.earliest - 1)}, up to {self.name(step.latest)})"
        )

    def moved(self, step: LineStep) -> str:
        """Return which line took a step, from what to what."""
        short = titles(self.lines)
        verb = "better" if step.is_better else "worse"
        return names.printable(
            f"{short[step.line.method]} {step.line.metric}: "
            f"{step.before:.4g} -> {step.after:.4g} ({verb})"
        )

    def blamed(self, place: int) -> str:
        """Return in a sentence what is likeliest to have done a step, by its place."""
        return names.printable(blame.verdict(self.causes[place], self.steps[place], self.name))


def timeline(entries: Sequence[Entry], metrics: Sequence[str] = ()) -> list[Era]:
    """Return the segments of a history, the oldest first.

    Those that have none of the metrics are left out.

    Args:
        entries: of the history.
        metrics: whose lines; left out, those that a baseline keeps, accuracy and predictions kept.

    Raises:
        ConfigError: no run has one of the metrics.
    """
    check_metrics(entries, metrics)
    eras = []
    for segment in segments(entries):
        lines = lines_of(segment, metrics)
        if not lines:
            continue
        steps = steps_of(lines)
        causes = tuple(tuple(blame.causes_of(segment, step, steps)) for step in steps)
        eras.append(Era(segment, tuple(lines), tuple(steps), causes))
    return eras
