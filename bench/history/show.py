"""A history in a terminal, and as JSON, CSV and Markdown: a row a line, with a sparkline."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from steadymap.bench.core import safe_csv
from steadymap.bench.core.names import safe_markdown
from steadymap.bench.history.lines import Line, titles
from steadymap.bench.history.timeline import Era

BARS = "▁▂▃▄▅▆▇█"
PLAIN_BARS = "_.-=+*%#"
# Terminals that have no signs beyond ASCII, by what TERM says.
DUMB = ("dumb", "unknown")
# A run that has no value.
GAP = " "
# Signs that a table takes beside the names of methods and metrics, and the sparkline.
OTHER_COLUMNS = 27
LEAST_SPARK = 8
MOST_SPARK = 60


def sparkline(values: NDArray[np.float64], bars: str, floor: float = 0.0) -> str:
    """Return a sign a value, the newest last: low to high between the line's own ends.

    Args:
        values: (runs,), NaN where there is none.
        bars: signs from low to high.
        floor: changes of this size are numerics: a line that changes no more is flat, in the
            middle.
    """
    known = values[np.isfinite(values)]
    if not len(known):
        return GAP * len(values)
    low, height = known.min(), np.ptp(known)
    if height <= floor:
        middle = bars[len(bars) // 2 - 1]
        return "".join(middle if np.isfinite(value) else GAP for value in values)
    signs = []
    for value in values:
        share = (value - low) / height
        signs.append(bars[round(share * (len(bars) - 1))] if np.isfinite(value) else GAP)
    return "".join(signs)


def bars_of(console: Console) -> str:
    """Return the signs of a sparkline that a terminal has."""
    has_none = os.environ.get("TERM", "") in DUMB or console.options.ascii_only
    return PLAIN_BARS if has_none else BARS


def era_table(era: Era, width: int, bars: str = BARS) -> Table:
    """Return the lines of a segment as a table for a terminal.

    Args:
        era: the segment.
        width: of the terminal, in signs: of a long history the newest runs are shown.
        bars: signs of the sparklines, from low to high.
    """
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("method", overflow="fold")
    table.add_column("metric", overflow="fold")
    for name in ("newest", "change"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("runs, newest last", no_wrap=True)
    table.add_column("steps", justify="right", no_wrap=True)
    names = titles(era.lines)
    taken = max(map(len, names.values())) + max(len(line.metric) for line in era.lines)
    room = int(np.clip(width - taken - OTHER_COLUMNS, LEAST_SPARK, MOST_SPARK))
    for line in era.lines:
        table.add_row(
            Text(names[line.method]),
            Text(_metric(line)),
            _number(_newest(line)),
            _change(line),
            sparkline(line.values[-room:], bars, line.floor),
            str(_count(era, line) or ""),
        )
    return table


def _metric(line: Line) -> str:
    return line.metric.replace("_", " ")


def _newest(line: Line) -> float:
    known = line.values[np.isfinite(line.values)]
    return float(known[-1])


def _number(value: float) -> str:
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.4g}"  # noqa: PLR2004 - four digits


def _change(line: Line) -> str:
    """Return the change since the run before; nothing where numerics explain it."""
    known = line.values[np.isfinite(line.values)]
    if len(known) < 2 or abs(known[-1] - known[-2]) <= line.floor:  # noqa: PLR2004 - two runs
        return ""
    return f"{known[-1] - known[-2]:+.3f}"


def _count(era: Era, line: Line) -> int:
    return sum(found.line is line for step in era.steps for found in step.lines)


def sentences(era: Era) -> list[str]:
    """Return what there is to say of a segment: how many steps, where, and who did it."""
    told = [era.summary()]
    for place, step in enumerate(era.steps):
        moved = [era.moved(line) for line in step.lines]
        others = "1 other line" if len(moved) == 2 else f"{len(moved) - 1} other lines"  # noqa: PLR2004
        more = f"; and {others}" if len(moved) > 1 else ""
        told.append(f"step {place + 1}, {era.place(step)}: {moved[0]}{more}")
        told.append(f"  {era.blamed(place)}")
    return told


def as_frame(eras: Sequence[Era]) -> pd.DataFrame:
    """Return every value of every line: a row a segment, run, method and metric."""
    rows = []
    for number, era in enumerate(eras, start=1):
        for line in era.lines:
            at = {found.run for step in era.steps for found in step.lines if found.line is line}
            for place, entry in enumerate(era.segment.entries):
                rows.append(
                    {
                        "segment": number,
                        "measured_at": entry.measured_at,
                        "run": entry.name,
                        "commit": entry.facts["commit"],
                        "entry": entry.id,
                        "method": line.method,
                        "metric": line.metric,
                        "kind": line.kind,
                        "family": line.family,
                        "value": line.values[place],
                        "low": line.low[place],
                        "high": line.high[place],
                        "step": place in at,
                    }
                )
    return pd.DataFrame(rows)


def as_csv(eras: Sequence[Era]) -> str:
    """Return every value of every line as CSV."""
    return safe_csv.csv_text(as_frame(eras), "%.6g")


def as_json(eras: Sequence[Era]) -> str:
    """Return the segments with their runs, lines, steps and causes as JSON."""
    content = [
        {
            "borders": era.segment.borders,
            "runs": [
                {
                    key: entry.facts[key]
                    for key in ("id", "run_id", "measured_at", "commit", "label")
                }
                for entry in era.segment.entries
            ],
            "lines": [
                {
                    "method": line.method,
                    "metric": line.metric,
                    "kind": line.kind,
                    "family": line.family,
                    "better": line.better,
                    "values": _plain(line.values),
                    "low": _plain(line.low),
                    "high": _plain(line.high),
                }
                for line in era.lines
            ],
            "steps": [_step(era, place) for place in range(len(era.steps))],
        }
        for era in eras
    ]
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def _plain(values: NDArray[np.float64]) -> list[float | None]:
    return [float(f"{value:.6g}") if np.isfinite(value) else None for value in values]


def _step(era: Era, place: int) -> dict[str, object]:
    step = era.steps[place]
    return {
        "run": step.run,
        "earliest": step.earliest,
        "latest": step.latest,
        "lines": [
            {
                "method": found.line.method,
                "metric": found.line.metric,
                "before": found.before,
                "after": found.after,
                "better": found.is_better,
            }
            for found in step.lines
        ],
        "causes": [
            {"kind": cause.kind, "changes": cause.changes, "run": cause.run}
            for cause in era.causes[place]
        ],
    }


def as_markdown(eras: Sequence[Era]) -> str:
    """Return the tables and sentences as Markdown."""
    texts = []
    for number, era in enumerate(eras, start=1):
        names = titles(era.lines)
        texts += [f"### Segment {number}: {safe_markdown(era.about())}", ""]
        texts += [f"- begins anew: {safe_markdown(reason)}" for reason in era.segment.borders]
        texts += [f"- {safe_markdown(sentence.strip())}" for sentence in sentences(era)]
        texts += ["", "| method | metric | newest | change | runs |", "|---|---|---:|---:|---|"]
        for line in era.lines:
            spark = sparkline(line.values[-MOST_SPARK:], BARS, line.floor)
            cells = (names[line.method], line.metric, _number(_newest(line)), _change(line), spark)
            texts.append(f"| {' | '.join(map(safe_markdown, cells))} |")
        texts.append("")
    return "\n".join(texts)
