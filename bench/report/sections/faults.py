"""The section on the method's share and the network's share."""

from __future__ import annotations

from steadymap.bench.analysis.leaderboard import Score, board_metrics
from steadymap.bench.core.names import file_name
from steadymap.bench.report import figures
from steadymap.bench.report.answer import metric_name
from steadymap.bench.report.finished_run import FinishedRun
from steadymap.bench.report.grid import Drawing, Grid, TableCell, score_cell


def fault_grid(shown: FinishedRun) -> Grid | None:
    faults = shown.findings.faults
    rows = faults[faults["severity"].isna() & faults["metric"].isin(board_metrics(shown.findings))]
    if rows.empty:
        return None
    names = shown.names()
    metrics = list(dict.fromkeys(rows["metric"]))
    cells = {(r["method"], r["metric"]): r for r in rows.to_dict("records")}
    columns = ["method"]
    for metric in metrics:
        name = metric_name(metric)
        columns += [f"{name}: total", "method's own", "network's", "network's share"]
    lines = []
    for spec, label in names.items():
        line = [TableCell(label, key=label)]
        for metric in metrics:
            row = cells.get((spec, metric))
            if row is None:
                line += [TableCell("-")] * 4
                continue
            line += [
                TableCell(f"{row[part]:.3f}", key=row[part]) for part in ("total", "own", "network")
            ]
            line.append(score_cell(Score(row["network_share"], row["low"], row["high"])))
        lines.append(tuple(line))
    return Grid(
        "Instability (1 - score) under bias; what is left under compensated bias is the method's "
        "own doing",
        tuple(columns),
        tuple(lines),
    )


def fault_drawings(shown: FinishedRun) -> list[Drawing]:
    """Return whose fault it is, one figure a headline metric."""
    faults, found = shown.findings.faults, []
    for metric in board_metrics(shown.findings):
        rows = faults[(faults["metric"] == metric) & faults["severity"].isna()]
        if len(rows):
            text = (
                f"Instability under bias by {metric_name(metric)}: the method's own, and with what "
                "the network's changed function adds"
            )
            figure = figures.fault_figure(rows, shown.names())
            found.append(Drawing(f"fault-{file_name(metric)}", figure, text))
    return found
