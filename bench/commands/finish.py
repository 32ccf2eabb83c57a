"""How a run ends: its table is put together, its findings are printed, its page is made."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from steadymap.bench.analysis.admission import Facts
from steadymap.bench.analysis.dice import seed_moves, wrong_declarations
from steadymap.bench.analysis.findings import Findings
from steadymap.bench.core.console import EXIT_CELLS_FAILED, console_of, line, say
from steadymap.bench.core.metric_registry import known_metrics
from steadymap.bench.records.read import MANIFEST, read_manifest
from steadymap.bench.records.scan import scan_run
from steadymap.bench.report.rank_diagrams import rank_diagrams, write_diagrams
from steadymap.bench.report.terminal import footnotes, tables
from steadymap.bench.runs import folder as store
from steadymap.bench.runs import result, shard_files
from steadymap.bench.runs.table import Assembled
from steadymap.metrics import Status

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def put_together(folder: Path, peak: dict[str, int]) -> Assembled:
    """Put the table of a run together from its shards."""
    ledger, manifest = store.read_ledger(folder)

    def describe(assembled: Assembled) -> dict[str, Any]:
        facts = {"machines": assembled.machines, "peak_memory_bytes": peak}
        return result.completed(manifest, result.result_of(assembled)) | facts

    return store.finish(folder, ledger, say, describe)


def see_errors(assembled: Assembled, allowed: float) -> None:
    """End with exit code 3 where more than this share of a run's values failed."""
    errors = assembled.statuses[Status.ERROR.value]
    if errors > allowed * assembled.rows:
        say(
            f"{errors} values failed: see `detail` in the records; "
            "the same command tries these again"
        )
        raise typer.Exit(EXIT_CELLS_FAILED)


def print_findings(folder: Path) -> tuple[Findings, dict[str, Figure]]:
    """Summarise a finished run, print its tables, and return what they say.

    Returns:
        The findings, and the rank diagrams that were written.
    """
    scan, manifest = scan_run(folder)
    findings = Findings.of(scan, known_metrics(manifest), Facts.of(manifest))
    findings.write(folder)
    diagrams = rank_diagrams(findings)
    write_diagrams(diagrams, folder)
    console = console_of()
    for title, table in tables(findings):
        console.print(title, style="bold", markup=False, highlight=False)
        console.print(table)
    for note in footnotes(findings):
        line(console, f"- {note}")
    for note in _wrong_declarations(findings):
        line(console, f"- {note}")
    return findings, diagrams


def _wrong_declarations(findings: Findings) -> list[str]:
    """Return a sentence for each method that draws and does not say so, or the other way round.

    By the first metric of two maps that the run has: one is enough, and its records alone are read.
    """
    present = set(findings.scan.metrics())
    name = next(
        (
            name
            for name, metric in findings.known.items()
            if metric.against == "map" and metric.identity is not None and name in present
        ),
        None,
    )
    if name is None:
        return []
    moves = seed_moves(findings.scan.of(name), findings.known)
    return list(wrong_declarations(moves).values())


def print_files(folder: Path) -> None:
    """Print how long a finished run took, and what its folder holds."""
    files = ", ".join(
        sorted(path.name for path in folder.iterdir() if path.name != shard_files.LOCK)
    )
    seconds = read_manifest(folder / MANIFEST)["wall_seconds"]
    line(console_of(), f"{seconds:.0f} s; {folder}: {files}")
