"""The summary as tables for a terminal."""

from __future__ import annotations

import math

import pandas as pd
from rich.table import Table

from steadymap.bench.records import CLEAN, INPUT
from steadymap.bench.summary import ROUGH_BELOW
from steadymap.metrics import METRICS

HEADLINES = ("ssim", "spearman")


def headline_tables(records: pd.DataFrame, summary: pd.DataFrame) -> list[Table]:
    """Return one table for each headline metric of the run; its first metric if it has neither."""
    present = [name for name in METRICS if name in set(summary["metric"])]
    pairs = [name for name in present if METRICS[name].against == "map"]
    chosen = [name for name in HEADLINES if name in pairs] or pairs[:1] or present[:1]
    return [_metric_table(name, records, summary) for name in chosen]


def _metric_table(metric: str, records: pd.DataFrame, summary: pd.DataFrame) -> Table:
    everything = summary[summary["subset"] == "all"]
    rows = everything[everything["metric"] == metric].set_index(["method", "family"])
    families = [name for name in everything["family"].unique() if name != CLEAN]
    methods = [name for name in everything["method"].unique() if name != INPUT]
    completeness = everything[everything["metric"] == "completeness_error"]
    best = "higher is steadier" if METRICS[metric].better == "higher" else "lower is steadier"
    table = Table(
        title=f"{metric}: {METRICS[metric].summary} ({best})",
        title_justify="left",
        title_style="bold",
        header_style="bold",
    )
    table.add_column("method", no_wrap=True)
    for family in families:
        table.add_column(family.replace("_", " "), justify="right")
    table.add_column("coverage", justify="right")
    if len(completeness):
        table.add_column("completeness error\nclean > perturbed", justify="right")
    names = short_names(methods)
    for method in methods:
        cells = [
            rows.loc[(method, family)] for family in families if (method, family) in rows.index
        ]
        line = [names[method], *(_cell(row) for row in cells)]
        line += ["-"] * (len(families) - len(cells))
        line.append(_percent(_coverage(records, method, metric)))
        if len(completeness):
            line.append(_completeness(completeness[completeness["method"] == method]))
        table.add_row(*line)
    table.add_section()
    table.add_row("prediction kept", *(_percent(_kept(records, family)) for family in families))
    return table


def _cell(row: pd.Series) -> str:
    if math.isnan(row["mean"]):
        return "-"
    if math.isnan(row["low"]):
        return f"{row['mean']:.2f}"
    return f"{row['mean']:.2f}\n[dim]\\[{row['low']:.2f}, {row['high']:.2f}][/dim]"


def _completeness(rows: pd.DataFrame) -> str:
    if rows.empty:
        return ""
    clean = rows[rows["family"] == CLEAN]["mean"].mean()
    perturbed = rows[rows["family"] != CLEAN]["mean"].mean()
    return f"{clean:.2g} > {perturbed:.2g}"


def _coverage(records: pd.DataFrame, method: str, metric: str) -> float:
    chosen = records[(records["method"] == method) & (records["metric"] == metric)]
    return float((chosen["status"] == "ok").mean())


def _kept(records: pd.DataFrame, family: str) -> float:
    pairs = records[records["family"] == family]
    cells = pairs.drop_duplicates(["image_id", "severity", "draw"])
    return float(cells["kept"].mean())


def _percent(share: float) -> str:
    return "-" if math.isnan(share) else f"{share:.0%}" if share in (0, 1) else f"{share:.1%}"


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
    failed = records[~records["status"].isin(["ok"])]
    if len(failed):
        counts = failed.groupby(["status"], observed=True).size()
        text = ", ".join(f"{count} {status}" for status, count in counts.items())
        notes.append(f"left out of the means: {text} of {len(records)} values")
    return notes
