"""The section on what the numbers rest on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd
import yaml

from steadymap.bench.analysis.findings import Findings
from steadymap.bench.analysis.leaderboard import Score, board_metrics
from steadymap.bench.core.names import percent
from steadymap.bench.records.vocabulary import DETAIL, FAMILY, KEPT, METHOD, METRIC, OVERALL, STATUS
from steadymap.bench.report import answer, finished_run, grid
from steadymap.metrics import Status

# How many reasons for a missing number are told apart.
MOST_REASONS = 25


def context(run: finished_run.FinishedRun) -> dict[str, Any]:
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


def _status_grid(reasons: pd.DataFrame) -> grid.Grid:
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
    return grid.Grid(
        "All values of the records by status, controls and references among them",
        ("status", "reason", "values"),
        tuple(
            (grid.name_cell(s), grid.name_cell(d), grid.TableCell(f"{n:,}", key=n))
            for s, d, n in lines
        ),
    )


def _flipped_grid(findings: Findings) -> grid.Grid:
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
                grid.TableCell(family.replace("_", " "), key=family),
                grid.TableCell(f"{changed:,} of {len(kept):,}", key=changed),
                grid.TableCell(percent(changed / len(kept)), key=changed / len(kept)),
            )
        )
    return grid.Grid("Predictions that changed", ("family", "changed", "share"), tuple(rows))


def _null_grid(run: finished_run.FinishedRun) -> grid.Grid | None:
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
    return grid.Grid(
        "What unrelated maps score (raw), and the floor: what computing the same in another way "
        "moves maps",
        ("method", "metric", "raw score", "null", "of", "floor", "another seed", "verdict"),
        tuple(
            (
                grid.name_cell(names[r[METHOD]]),
                grid.TableCell(answer.metric_name(r[METRIC]), key=r[METRIC]),
                grid.score_cell(Score(r["score"])),
                grid.score_cell(Score(r["null"])),
                grid.TableCell(str(r["null_of"]).replace("_", " ")),
                grid.TableCell(
                    f"{r['floor']:.1g}" if math.isfinite(r["floor"]) else "-", key=r["floor"]
                ),
                grid.score_cell(Score(r["other_seed"])),
                grid.TableCell(str(r["verdict"])),
            )
            for r in rows.to_dict("records")
        ),
    )
