"""The section with scores: the leaderboard, by family, and ranks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from steadymap.bench.analysis.calibration import UNRESOLVABLE
from steadymap.bench.analysis.findings import Findings
from steadymap.bench.analysis.leaderboard import (
    PROBES_TITLE,
    LeaderboardRow,
    Score,
    board_metrics,
    is_probe,
    leaderboard,
    probe_lines,
)
from steadymap.bench.core.names import file_name, short_names
from steadymap.bench.records.vocabulary import FAMILY, METHOD, METRIC, OVERALL, is_control
from steadymap.bench.report import answer, finished_run, grid
from steadymap.bench.report.sections.completeness import COMPLETENESS
from steadymap.metrics import METRICS


def context(run: finished_run.FinishedRun) -> dict[str, Any]:
    """Return the leaderboard, over what its intervals are, other tables, diagrams of ranks."""
    findings = run.findings
    families = [page_family_grid(findings, metric) for metric in findings.family_metrics()]
    probes = probe_grid(findings)
    return {
        "board": board_grid(findings, run.costs_by_method()),
        "over": findings.over(),
        "families": [*families, *([probes] if probes else [])],
        "figures": drawings(run),
    }


def drawings(run: finished_run.FinishedRun) -> list[grid.Drawing]:
    """Return the critical-difference diagrams, one a metric of the leaderboard."""
    return [
        grid.Drawing(
            f"ranks-{file_name(metric)}",
            figure,
            f"Mean ranks within an image by {answer.metric_name(metric)}; methods joined by a bar "
            "have not been shown to differ",
        )
        for metric, figure in run.diagrams.items()
        if metric in board_metrics(run.findings)
    ]


def board_grid(
    findings: Findings, costs: Mapping[str, Mapping[Any, Any]] | None = None
) -> grid.Grid:
    """Return the leaderboard.

    Args:
        findings: of the run.
        costs: by method, its row of `method_costs`; None for a table without costs.
    """
    metrics = board_metrics(findings)
    lines = leaderboard(findings)
    # A terminal is narrow, and has a table of it below.
    complete = costs is not None and any(line.completeness for line in lines)
    complete = complete and COMPLETENESS not in metrics
    calibrated = findings.calibrates(metrics[0])
    columns = [METHOD]
    for name in metrics:
        columns += [answer.metric_name(name), *(["rank", "recognised"] if calibrated else [])]
    judged = any(line.faithful for line in lines)
    columns += ["faithful", "evidence kept"] if judged else []
    columns += ["completeness error"] if complete else []
    columns += [] if costs is None else ["ms a map", "passes"]

    def cells(line: LeaderboardRow) -> tuple[grid.TableCell, ...]:
        # On a terminal the reasons stand below the table.
        reason = "" if costs is None else line.reason
        row = [grid.TableCell(line.label, reason, line.label)]
        for name in metrics:
            row.append((grid.probe_cell if is_probe(name) else grid.score_cell)(line.scores[name]))
            if calibrated:
                unranked = not line.ranked and not line.control
                rank = grid.TableCell("none") if unranked else grid.rank_cell(line.ranks.get(name))
                row.append(rank)
                row.append(grid.share_cell(line.recognised.get(name, math.nan)))
        row += [grid.score_cell(line.faithful), grid.score_cell(line.evidence)] if judged else []
        row += [grid.score_cell(line.completeness)] if complete else []
        if costs is not None:
            cost = costs.get(line.spec)
            row += [grid.milliseconds_cell(cost), grid.passes_cell(cost)]
        return (*row, grid.share_cell(line.coverage))

    scale = (
        "calibrated: 1, the maps did not move; 0, no closer than unrelated maps"
        if calibrated
        else "raw scores: unrelated maps may score as high"
    )
    return grid.Grid(
        f"All families together; {scale}",
        (*columns, "coverage"),
        tuple(cells(line) for line in lines if line.ranked and not line.control),
        tuple(
            [cells(line) for line in lines if not line.ranked and not line.control]
            + [cells(line) for line in lines if line.control]
        ),
        {
            "recognised": "recog-\nnised",
            "coverage": "cover-\nage",
            "faithful": "faith-\nful",
            "evidence kept": "evidence\nkept",
        }
        | {answer.metric_name(name): name for name in metrics},
    )


def family_grid(
    findings: Findings,
    metric: str,
    families: Sequence[str],
    closing: Mapping[str, Mapping[str, grid.TableCell]],
    within_rounding: str,
) -> grid.Grid:
    """Return a metric's scores: methods down, families across.

    Args:
        findings: of the run.
        metric: whose scores.
        families: which.
        closing: by column at their right, what stands there of a method or control.
        within_rounding: the mark of a method that moved no more than rounding moves its maps.
    """
    calibrated = findings.calibrates(metric)
    if calibrated:
        source = findings.calibrated.rename(columns={"calibrated": "mean"})
    else:
        source = findings.summary[findings.summary["subset"] == "all"]
    rows = source[source[METRIC] == metric].to_dict("records")
    scores = {
        (str(row[METHOD]), str(row[FAMILY])): _family_cell(row, within_rounding) for row in rows
    }
    methods, controls = findings.methods(metric)
    names = short_names([*methods, *controls])

    def cells(spec: str) -> tuple[grid.TableCell, ...]:
        label = f"control: {names[spec]}" if is_control(spec) else names[spec]
        numbers = [scores.get((spec, family), grid.TableCell("-")) for family in families]
        return (grid.name_cell(label), *numbers, *(column[spec] for column in closing.values()))

    scale = "calibrated" if calibrated else f"{findings.known[metric].better} is better"
    return grid.Grid(
        f"{metric}: {findings.known[metric].summary}; {scale}",
        ("method", *(family.replace("_", " ") for family in families), *closing),
        tuple(cells(spec) for spec in methods),
        tuple(cells(spec) for spec in controls),
    )


def _family_cell(row: Mapping[Any, Any], within_rounding: str) -> grid.TableCell:
    marked = row.get("verdict") == UNRESOLVABLE and not math.isnan(row["mean"])
    word = within_rounding if marked else ""
    return grid.score_cell(Score(row["mean"], row["low"], row["high"], word))


def page_family_grid(findings: Findings, metric: str) -> grid.Grid:
    """Return a metric's scores, families across and all of them together at the right."""
    source = findings.calibrated if findings.calibrates(metric) else findings.summary
    measured = set(source[source[METRIC] == metric][FAMILY])
    families = [name for name in findings.families() if name in measured]
    return family_grid(findings, metric, [*families, OVERALL], {}, "")


def probe_grid(findings: Findings) -> grid.Grid | None:
    """Return the metrics of the clean image alone, in one table; None where there are none."""
    metrics = findings.probed()
    if not metrics:
        return None

    def cells(line: LeaderboardRow) -> tuple[grid.TableCell, ...]:
        scores = [grid.probe_cell(line.scores[name]) for name in metrics]
        return (grid.name_cell(line.label), *scores, grid.share_cell(line.coverage))

    lines = probe_lines(findings)
    columns = {
        f"{answer.metric_name(name)} ({METRICS[name].better} is better)": (
            f"{name}_({METRICS[name].better})".replace("_", "\n")
        )
        for name in metrics
    }
    return grid.Grid(
        PROBES_TITLE.capitalize(),
        ("method", *columns, "coverage"),
        tuple(cells(line) for line in lines if not line.control),
        tuple(cells(line) for line in lines if line.control),
        columns,
    )
