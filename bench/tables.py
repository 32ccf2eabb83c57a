"""The summary as tables for a terminal."""

from __future__ import annotations

import math

import pandas as pd
from rich import box
from rich.table import Table

from steadymap.bench.records import CLEAN, INPUT
from steadymap.bench.summary import ROUGH_BELOW
from steadymap.metrics import METRICS, Status

HEADLINES = ("ssim", "spearman", "completeness_error")


def headline_tables(records: pd.DataFrame, summary: pd.DataFrame) -> list[tuple[str, Table]]:
    """Return title and table of each headline metric of the run; of its first if it has none."""
    present = [name for name in METRICS if name in set(summary["metric"])]
    chosen = [name for name in HEADLINES if name in present] or present[:1]
    return [
        (
            f"{name}: {METRICS[name].summary}; {METRICS[name].better} is better",
            _metric_table(name, records, summary),
        )
        for name in chosen
    ]


def _metric_table(name: str, records: pd.DataFrame, summary: pd.DataFrame) -> Table:
    """Methods down, families across; mean and interval in each cell."""
    values = records[records["metric"] == name]
    families = values["family"].unique().tolist()
    methods = values["method"].unique().tolist()
    rows = summary[(summary["subset"] == "all") & (summary["metric"] == name)]
    cells = rows.set_index(["method", "family"])
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("method", no_wrap=True)
    for column in (*families, "coverage"):
        table.add_column(column.replace("_", " "), justify="right")
    names = short_names(methods)
    for method in methods:
        coverage = float((values[values["method"] == method]["status"] == Status.OK).mean())
        line = [_cell(cells.loc[(method, family)]) for family in families]
        table.add_row(names[method], *line, percent(coverage))
    table.add_section()
    table.add_row("[dim]prediction kept[/dim]", *(_kept(values, family) for family in families))
    return table


def _cell(row: pd.Series) -> str:
    if math.isnan(row["mean"]):
        return "-"
    if math.isnan(row["low"]):
        return f"{row['mean']:.2f}"
    return f"{row['mean']:.2f}\n[dim]\\[{row['low']:.2f},{row['high']:.2f}][/dim]"


def _kept(values: pd.DataFrame, family: str) -> str:
    if family == CLEAN:
        return ""
    pairs = values[values["family"] == family]
    cells = pairs.drop_duplicates(["image_id", "severity", "draw"])
    return f"[dim]{percent(float(cells['kept'].mean()))}[/dim]"


def percent(share: float) -> str:
    """Write a share so that only all of it reads 100%."""
    return f"{share:.0%}" if share in (0, 1) else f"{math.floor(share * 1000) / 10:.1f}%"


def short_names(specs: list[str]) -> dict[str, str]:
    """Shorten method specs by the parameters that all specs of the same method share."""
    parts = {spec: spec.partition(":") for spec in specs}
    short = {}
    for spec, (name, _, text) in parts.items():
        alike = [set(rest.split(",")) for other, _, rest in parts.values() if other == name]
        shared = set.intersection(*alike)
        own = [part.partition("=")[2] for part in text.split(",") if part and part not in shared]
        short[spec] = " ".join([name, *own])
    return short


def footnotes(records: pd.DataFrame) -> list[str]:
    """Return what a reader of the tables must know."""
    images = records["image_id"].nunique()
    notes = [
        (
            f"{images} images; mean over images with its 95% bootstrap interval, "
            "severities and draws averaged within an image first"
        ),
        (
            "scores are raw, not calibrated against chance: compare methods down a column "
            "(results/README.md says what each number means)"
        ),
    ]
    if images < ROUGH_BELOW:
        notes.append(f"below {ROUGH_BELOW} images the intervals are rough")
    maps = records[records["method"] != INPUT]
    lost = maps[maps["status"] != Status.OK]
    if len(lost):
        counts = lost.groupby("status", observed=True).size()
        text = ", ".join(f"{count} {status}" for status, count in counts.items())
        notes.append(f"left out of the means: {text} of {len(maps)} values")
    return notes
