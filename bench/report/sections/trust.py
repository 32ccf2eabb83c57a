"""The section on what the numbers rest on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd
import yaml

from steadymap.bench.analysis.findings import Findings
from steadymap.bench.analysis.leaderboard import Score, board_metrics, percent
from steadymap.bench.records.vocabulary import DETAIL, FAMILY, KEPT, METHOD, METRIC, OVERALL, STATUS
from steadymap.bench.report.answer import metric_name
from steadymap.bench.report.finished_run import FinishedRun
from steadymap.bench.report.grid import Grid, TableCell, name_cell, score_cell
from steadymap.metrics import Status

# How many reasons for a missing number are told apart.
MOST_REASONS = 25


def context(run: FinishedRun) -> dict[str, Any]:
    """Return statuses, changed predictions, nulls, excluded files, and how to repeat the run."""
    return {
        "statuses": _status_grid(run.findings.scan.reasons),
        "flipped": _flipped_grid(run.findings),
        "excluded": [(file["name"], file["reason"]) for file in run.manifest["data"]["excluded"]],
        "nulls": _null_grid(run),
        "manifest": yaml.safe_dump(dict(run.manifest), sort_keys=False, allow_unicode=True),
        "configuration": configuration(run.manifest),
    }


def configuration(manifest: Mapping[str, Any]) -> str:
    """Return the configuration that repeats a run, as YAML for `steadymap run --config`."""
    options = {key: value for key, value in manifest["configuration"].items() if value is not None}
    return str(yaml.safe_dump(options, sort_keys=False, allow_unicode=True))


def _status_grid(reasons: pd.DataFrame) -> Grid:
    """Return how many values there are of each status and reason."""
    chosen = reasons.astype({STATUS: str, DETAIL: str})
    counts = chosen.groupby([STATUS, DETAIL])["size"].sum().sort_values(ascending=False)
    table = counts.reset_index().to_dict("records")
    rows = [(str(row[STATUS]), str(row[DETAIL]), int(row["size"])) for row in table]
    first = [row for row in rows if row[0] == Status.OK.value]
    others = [row for row in rows if row[0] != Status.OK.value]
    rest = others[MOST_REASONS:]
    lines = [*first, *others[:MOST_REASONS]]
    if rest:
        lines.append(("others", f"{len(rest)} more reasons", sum(row[2] for row in rest)))
    return Grid(
        "All values of the records by status, controls and references among them",
        ("status", "reason", "values"),
        tuple((name_cell(s), name_cell(d), TableCell(f"{n:,}", key=n)) for s, d, n in lines),
    )


def _flipped_grid(findings: Findings) -> Grid:
    """Return how often the prediction changed."""
    pairs = findings.scan.pairs
    rows = []
    for family in findings.families():
        kept = pairs[pairs[FAMILY] == family][KEPT]
        if kept.empty:
            continue
        changed = int((~kept).sum())
        rows.append(
            (
                TableCell(family.replace("_", " "), key=family),
                TableCell(f"{changed:,} of {len(kept):,}", key=changed),
                TableCell(percent(changed / len(kept)), key=changed / len(kept)),
            )
        )
    return Grid("Predictions that changed", ("family", "changed", "share"), tuple(rows))


def _null_grid(run: FinishedRun) -> Grid | None:
    """Return what unrelated maps score, and the noise floor."""
    calibrated, names = run.findings.calibrated, run.names()
    metrics = board_metrics(run.findings)
    rows = calibrated[
        (calibrated[FAMILY] == OVERALL)
        & calibrated[METRIC].isin(metrics)
        & calibrated[METHOD].isin(list(names))
    ]
    if rows.empty:
        return None
    return Grid(
        "What unrelated maps score (raw), and the floor: what computing the same in another way "
        "moves maps",
        ("method", "metric", "raw score", "null", "of", "floor", "another seed", "verdict"),
        tuple(
            (
                name_cell(names[r[METHOD]]),
                TableCell(metric_name(r[METRIC]), key=r[METRIC]),
                score_cell(Score(r["score"])),
                score_cell(Score(r["null"])),
                TableCell(str(r["null_of"]).replace("_", " ")),
                TableCell(
                    f"{r['floor']:.1g}" if math.isfinite(r["floor"]) else "-", key=r["floor"]
                ),
                score_cell(Score(r["other_seed"])),
                TableCell(str(r["verdict"])),
            )
            for r in rows.to_dict("records")
        ),
    )
