"""The report of a run: one page that needs nothing else, or Markdown with two figures."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from steadymap.bench.analysis.curves import THRESHOLD
from steadymap.bench.analysis.findings import Findings
from steadymap.bench.core.files import refuse_links, write_file
from steadymap.bench.report import figures
from steadymap.bench.report.answer import answer, metric_name
from steadymap.bench.report.finished_run import FinishedRun
from steadymap.bench.report.grid import Drawing
from steadymap.bench.report.sections.cost import cost_drawing, cost_grid, memory_text
from steadymap.bench.report.sections.curves import (
    breaking_grid,
    completeness_drawings,
    curve_drawings,
    curve_drawings_of,
    curve_metrics,
    steps_drawing,
)
from steadymap.bench.report.sections.faults import fault_drawings, fault_grid
from steadymap.bench.report.sections.gallery import gallery_context
from steadymap.bench.report.sections.leaderboard import (
    board_grid,
    family_grid,
    probe_grids,
    rank_drawings,
)
from steadymap.bench.report.sections.trust import trust_context

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def render(runs: Sequence[FinishedRun]) -> str:
    """Return the page of one run or several, one below the other."""
    environment = Environment(
        loader=PackageLoader("steadymap.bench", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = environment.get_template("report.js").render()
    # The page's own script runs, and no other: whatever a name got past the escaping would not.
    code = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template("report.html").render(
        runs=[_context(shown, place) for place, shown in enumerate(runs)],
        script=Markup(script),  # noqa: S704 - ours
        script_source=f"'sha256-{code}'",
    )


def _context(shown: FinishedRun, place: int) -> dict[str, Any]:
    """Return what the template needs, in words and numbers that are ready to print."""
    pool: list[str] = []
    return {
        "id": f"run{place}",
        "name": shown.manifest["run_id"],
        "about": about_run(shown),
        "answer": answer(shown.findings),
        "board": board_grid(shown),
        "families": [
            *(family_grid(shown, name) for name in shown.findings.family_metrics()),
            *probe_grids(shown),
        ],
        "ranks": rank_drawings(shown),
        "curves": [
            (metric_name(metric), curve_drawings_of(shown, metric))
            for metric in curve_metrics(shown)
        ],
        "breaking": breaking_grid(shown),
        "threshold": f"{THRESHOLD:g}",
        "gallery": gallery_context(shown, pool),
        "pool": pool,
        "completeness": completeness_drawings(shown),
        "steps": steps_drawing(shown),
        "faults": fault_drawings(shown),
        "fault_grid": fault_grid(shown),
        "cost": cost_drawing(shown),
        "cost_grid": cost_grid(shown),
        "device": shown.manifest["machine"].get("device_name")
        or shown.manifest["machine"]["processor"],
        "memory": memory_text(shown.manifest),
        "trust": trust_context(shown),
    }


def about_run(shown: FinishedRun) -> str:
    manifest, images = shown.manifest, len(shown.findings.scan.images)
    methods = len(shown.names())
    families = len(shown.findings.families())
    return (
        f"{manifest['model']['name']} on {manifest['data']['name']} "
        f"({manifest['data']['split']}): {images} images, {methods} methods, {families} families"
    )


def all_drawings(shown: FinishedRun) -> list[Drawing]:
    """Return every figure of a report."""
    found = [
        *rank_drawings(shown),
        *curve_drawings(shown),
        *completeness_drawings(shown),
        *fault_drawings(shown),
    ]
    return found + [one for one in (steps_drawing(shown), cost_drawing(shown)) if one]


# --- other forms ----------------------------------------------------------------------------------


def write_figures(shown: FinishedRun, folder: Path) -> list[Path]:
    """Write every figure as SVG and PNG."""
    written: list[Path] = []
    for drawing in all_drawings(shown):
        # A metric of somebody's may be called as the first half of a name of ours.
        alike = sum(path.stem.partition("~")[0] == drawing.name for path in written) // 2
        name = f"{drawing.name}~{alike + 1}" if alike else drawing.name
        svg, png = folder / f"{name}.svg", folder / f"{name}.png"
        write_file(svg, figures.as_svg(drawing.figure))
        write_file(png, figures.as_png(drawing.figure))
        written += [svg, png]
    return written


REPORT = "report.html"


def write_report(folder: Path, findings: Findings, diagrams: Mapping[str, Figure]) -> Path:
    """Write the report of a finished run, of which that was found, into its folder."""
    path = folder / REPORT
    refuse_links(folder)
    write_file(path, render([FinishedRun.of(folder, findings, diagrams)]))
    return path
