"""How a run ends: its table is put together, its findings are printed, its page is made."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from steadymap.bench.analysis.dice import seed_moves, wrong_declarations
from steadymap.bench.analysis.findings import Findings
from steadymap.bench.core.console import EXIT_CELLS_FAILED, console_of, line, say
from steadymap.bench.records.read import MANIFEST, read_manifest
from steadymap.bench.report.answer import answer
from steadymap.bench.report.finished_run import findings_of
from steadymap.bench.report.rank_diagrams import rank_diagrams, write_diagrams
from steadymap.bench.report.terminal import footnotes, short_table, tables
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


class Told(Enum):
    """How much of what was found is printed."""

    PATHS = "paths alone"
    SHORT = "the answer and one table"
    ALL = "every table"


def print_findings(folder: Path, told: Told = Told.SHORT) -> tuple[Findings, dict[str, Figure]]:
    """Summarise a finished run, print what it found, and return that.

    Returns:
        The findings, and the rank diagrams that were written.
    """
    findings = findings_of(folder)
    findings.write(folder)
    diagrams = rank_diagrams(findings)
    write_diagrams(diagrams, folder)
    console = console_of()
    if told is Told.SHORT:
        for sentence in answer(findings)[:2]:
            line(console, sentence)
        shown, notes = short_table(findings, console.width)
        console.print(shown)
        for note in notes:
            line(console, f"- {note}")
    if told is Told.ALL:
        for title, table in tables(findings, console.width):
            console.print(title, style="bold", markup=False, highlight=False)
            console.print(table)
        for note in footnotes(findings):
            line(console, f"- {note}")
    if told is not Told.PATHS:
        for note in _wrong_declarations(findings):
            line(console, f"- {note}")
    if told is Told.SHORT:
        line(console, f"more: steadymap table {folder}")
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


def print_files(folder: Path, told: Told) -> None:
    """Print how long a finished run took, and what its folder holds."""
    if told is Told.PATHS:
        line(console_of(), f"{folder}")
        return
    files = ", ".join(
        sorted(path.name for path in folder.iterdir() if path.name != shard_files.LOCK)
    )
    seconds = read_manifest(folder / MANIFEST)["wall_seconds"]
    line(console_of(), f"{seconds:.0f} s; {folder}: {files}")
