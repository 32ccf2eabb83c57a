"""The section on the method's share and the network's share."""

from __future__ import annotations

import math
from typing import Any

from steadymap.bench.analysis.findings import Findings
from steadymap.bench.analysis.leaderboard import Score, board_metrics
from steadymap.bench.analysis.whose_fault import SPLIT
from steadymap.bench.core.names import file_name
from steadymap.bench.records.vocabulary import COMPENSATED, METHOD, METRIC, SEVERITY, SHIFTED
from steadymap.bench.report import answer, figures, finished_run, grid

# What is shown of a method, whose fourth cell is 0; and the names of the columns but the first.
PARTS = ("total", COMPENSATED, SHIFTED)
COLUMN_NAMES = ("image alone", "network alone", "network's share")


def context(run: finished_run.FinishedRun) -> dict[str, Any]:
    """Return whose fault it is, as figures and as a table."""
    return {"figures": drawings(run), "table": fault_grid(run.findings)}


def drawings(run: finished_run.FinishedRun) -> list[grid.Drawing]:
    """Return whose fault it is, one figure a headline metric."""
    faults = run.findings.faults
    of_all = faults[faults[SEVERITY].isna()]
    rows_of = {name: of_all[of_all[METRIC] == name] for name in board_metrics(run.findings)}
    return [
        grid.Drawing(
            f"fault-{file_name(metric)}",
            figures.fault_figure(rows, run.names()),
            f"Instability under bias by {answer.metric_name(metric)}: the method's own, and "
            "with what the network's changed function adds",
        )
        for metric, rows in rows_of.items()
        if len(rows)
    ]


def distance_words(findings: Findings) -> str:
    """Return in words how far a score is from a perfect one, of the metrics of the table."""
    words = {1.0: "1 - score", 0.0: "the score itself, 0 where nothing moves"}
    metrics = [name for name in board_metrics(findings) if name in set(findings.faults[METRIC])]
    perfect = {name: findings.known[name].identity or 0.0 for name in metrics}
    said = {
        name: words.get(value, f"distance of the score from {value:g}")
        for name, value in perfect.items()
    }
    if len(set(said.values())) <= 1:
        return "".join(set(said.values()))
    return "; ".join(f"{answer.metric_name(name)}: {text}" for name, text in said.items())


def fault_grid(findings: Findings) -> grid.Grid | None:
    """Return the instability under a bias, split in two; None without both families of bias."""
    faults = findings.faults
    rows = faults[faults[SEVERITY].isna() & faults[METRIC].isin(board_metrics(findings))]
    if rows.empty:
        return None
    metrics = [name for name in board_metrics(findings) if name in set(rows[METRIC])]
    row_of = {(row[METHOD], row[METRIC]): row for row in rows.to_dict("records")}

    def cells(spec: str, metric: str) -> list[grid.TableCell]:
        row = row_of.get((spec, metric))
        if row is None:
            return [grid.TableCell("-")] * (len(PARTS) + 1)
        parts = [row[part] for part in PARTS]
        # Without a share the words say why; the cells stand beside them.
        word = "" if row["verdict"] == SPLIT else str(row["verdict"]).partition(":")[0]
        share = grid.score_cell(Score(row["network_share"], row["low"], row["high"], word))
        if word:
            share = grid.TableCell(word)
        return [*map(_number, parts), share]

    totals = {f"{answer.metric_name(metric)}: total": f"{metric}\ntotal" for metric in metrics}
    return grid.Grid(
        f"Instability ({distance_words(findings)}) under bias; where the image alone is shifted "
        "(compensated bias), and where the network alone is",
        (
            "method",
            *(column for total in totals for column in (total, *COLUMN_NAMES)),
        ),
        tuple(
            (grid.name_cell(name), *(cell for metric in metrics for cell in cells(spec, metric)))
            for spec, name in finished_run.method_names(findings).items()
        ),
        heads=totals | {name: name.replace(" ", "\n") for name in COLUMN_NAMES},
    )


def _number(value: float) -> grid.TableCell:
    return grid.TableCell("-") if math.isnan(value) else grid.TableCell(f"{value:.3f}", key=value)
