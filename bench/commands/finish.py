"""How a run ends: its table is put together, its findings are printed, its page is made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from steadymap.bench.analysis.findings import Findings
from steadymap.bench.core.console import EXIT_CELLS_FAILED, console_of, line, say
from steadymap.bench.core.metric_registry import known_metrics
from steadymap.bench.gallery.keep import keep_witnesses
from steadymap.bench.plan.setup import Setup
from steadymap.bench.records.scan import scan_run
from steadymap.bench.report.page import write_report
from steadymap.bench.report.rank_diagrams import rank_diagrams, write_diagrams
from steadymap.bench.report.terminal import footnotes, tables
from steadymap.bench.runs import folder as store
from steadymap.bench.runs.manifest import completed
from steadymap.bench.runs.resume import result_of
from steadymap.bench.runs.shard_files import LOCK
from steadymap.bench.runs.table import Assembled
from steadymap.metrics import Status


def put_together(folder: Path, peak: dict[str, int]) -> Assembled:
    """Put the table of a run together from its shards."""
    ledger, manifest = store.read_ledger(folder)

    def describe(found: Assembled) -> dict[str, Any]:
        more = {"machines": found.machines, "peak_memory_bytes": peak}
        return completed(manifest, result_of(found)) | more

    return store.finish(folder, ledger, say, describe)


def see_errors(found: Assembled, allowed: float) -> None:
    """End with exit code 3 where more than this share of a run's values failed."""
    errors = found.statuses[Status.ERROR.value]
    if errors > allowed * found.rows:
        say(
            f"{errors} values failed: see `detail` in the records; "
            "the same command tries these again"
        )
        raise typer.Exit(EXIT_CELLS_FAILED)


def print_findings(folder: Path, setup: Setup | None) -> None:
    """Summarise a finished run, print its tables, make its page and say where everything is.

    Args:
        folder: of the run.
        setup: of the run, to keep the witnesses' maps and make the page; None for no page.
    """
    scan, manifest = scan_run(folder)
    findings = Findings.of(scan, known_metrics(manifest))
    findings.write(folder)
    diagrams = rank_diagrams(findings)
    write_diagrams(diagrams, folder)
    console = console_of()
    for title, table in tables(findings):
        console.print(title, style="bold", markup=False, highlight=False)
        console.print(table)
    for note in footnotes(findings):
        line(console, f"- {note}")
    if setup is not None:
        keep_witnesses(setup, scan, folder)
        line(console, f"the page to open: {write_report(folder, findings, diagrams)}")
    files = ", ".join(sorted(path.name for path in folder.iterdir() if path.name != LOCK))
    line(console, f"{manifest['wall_seconds']:.0f} s; {folder}: {files}")
