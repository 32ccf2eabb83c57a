"""The section on what maps know: who is ranked, who is not, and why."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from steadymap.bench.analysis.admission import GATES
from steadymap.bench.analysis.leaderboard import Score
from steadymap.bench.core.names import short_names
from steadymap.bench.records.vocabulary import FAMILY, METHOD, OVERALL, is_control
from steadymap.bench.report import finished_run, grid

# How far a map moves, by what changes.
REACTIONS = ("image", "network", "class")


def context(run: finished_run.FinishedRun) -> dict[str, Any]:
    """Return the margins of each method with the verdict, and what perturbed maps still know."""
    return {"margins": margin_grid(run), "evidence": evidence_grid(run)}


def margin_grid(run: finished_run.FinishedRun) -> grid.Grid | None:
    """Return who is admitted, by how much, and who is not; None where no margins were measured."""
    frame = run.findings.admission
    if frame.empty:
        return None
    rows = frame.to_dict("records")
    names = short_names([str(row[METHOD]) for row in rows])

    def cells(row: Mapping[Any, Any]) -> tuple[grid.TableCell, ...]:
        method = str(row[METHOD])
        label = f"control: {names[method]}" if is_control(method) else names[method]
        verdict = "-" if row["verdict"] == "control" else str(row["verdict"])
        return (
            grid.TableCell(label, "" if verdict == "-" else str(row["reason"]), label),
            grid.TableCell(verdict if row["ranked"] or verdict != "admitted" else "not ranked"),
            *(grid.score_cell(_score(row, kind)) for kind in GATES),
            grid.TableCell(f"{row['p']:.1g}" if math.isfinite(row["p"]) else "-", key=row["p"]),
            grid.score_cell(_score(row, "faithful")),
            grid.TableCell(str(row["class_specific"])),
            *(grid.score_cell(_score(row, f"reacts_{what}")) for what in REACTIONS),
        )

    return grid.Grid(
        "By how many logits deleting what a map marks hurts the class more than deleting what the "
        "method's other maps mark; p of the smallest; and how far a map moves (1 - rank "
        "correlation) when image, network or class is another",
        (
            "method",
            "verdict",
            "over another image's",
            "over another's of its class",
            "over a randomised network's",
            "p",
            "faithful",
            "class-specific",
            *(f"moves with the {what}" for what in REACTIONS),
        ),
        tuple(cells(row) for row in rows if not is_control(str(row[METHOD]))),
        tuple(cells(row) for row in rows if is_control(str(row[METHOD]))),
    )


def _score(row: Mapping[Any, Any], name: str) -> Score:
    ends = (row.get(f"{name}_low", math.nan), row.get(f"{name}_high", math.nan))
    return Score(row.get(name, math.nan), *ends)


def evidence_grid(run: finished_run.FinishedRun) -> grid.Grid | None:
    """Return what maps of perturbed images still know, families across; None without margins."""
    frame = run.findings.evidence
    if frame.empty:
        return None
    names = run.names()
    scores = {
        (str(row[METHOD]), str(row[FAMILY])): Score(row["kept"], row["low"], row["high"])
        for row in frame.to_dict("records")
    }
    families = [name for name in dict.fromkeys(frame[FAMILY]) if name != OVERALL] + [OVERALL]
    methods = [name for name in names if (name, OVERALL) in scores]
    return grid.Grid(
        "Evidence kept: the margin of the perturbed image's map over another's, on the clean "
        "image, as a share of the clean map's; empty where that one may be 0",
        ("method", *(str(family).replace("_", " ") for family in families)),
        tuple(
            (
                grid.name_cell(names[method]),
                *(grid.score_cell(scores.get((method, str(family)))) for family in families),
            )
            for method in methods
        ),
    )
