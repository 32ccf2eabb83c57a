"""The report of a run: one page that needs nothing else."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from steadymap.bench.analysis.findings import Findings
from steadymap.bench.core.files import refuse_links, write_file
from steadymap.bench.records import manifest_schema
from steadymap.bench.report import figures, finished_run
from steadymap.bench.report.sections.table import SECTIONS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

REPORT = "report.html"


def templates() -> Environment:
    """Return the templates of pages: every text is escaped, a missing name is an error."""
    return Environment(
        loader=PackageLoader("steadymap.bench", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def render(runs: Sequence[finished_run.FinishedRun]) -> str:
    """Return the page of one run or several, one below the other."""
    environment = templates()
    script = environment.get_template("report.js").render()
    # The page's own script runs, and no other: whatever a name got past the escaping would not.
    code = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    anchors = {f"run{place}": run for place, run in enumerate(runs)}
    return environment.get_template("report.html").render(
        runs=[
            {
                "id": anchor,
                "name": run.manifest["run_id"],
                "title": f"{subject_of(run)}{_day_of(run)}",
                "subject": subject_of(run),
                "about": about_run(run),
                "sections": _sections(environment, run, anchor),
            }
            for anchor, run in anchors.items()
        ],
        script=Markup(script),  # noqa: S704 - ours
        script_source=f"'sha256-{code}'",
    )


def _sections(environment: Environment, run: finished_run.FinishedRun, anchor: str) -> Markup:
    """Return the sections of a run, an empty line between them."""
    texts = [
        environment.get_template(f"sections/{name}.html").render(
            section.context(run), anchor=anchor
        )
        for name, section in SECTIONS.items()
    ]
    # Jinja cuts off the last newline of a template, unless a block ends before it.
    lines = [text if not text or text.endswith("\n") else text + "\n" for text in texts]
    return Markup("\n".join(lines))  # noqa: S704 - of our templates, which escape every text


def subject_of(run: finished_run.FinishedRun) -> str:
    """Return the model and the data of a run."""
    return f"{run.manifest['model']['name']} on {run.manifest['data']['name']}"


def _day_of(run: finished_run.FinishedRun) -> str:
    """Return the day on which a run was measured, in brackets; nothing where nobody says."""
    day = str(run.manifest.get(manifest_schema.MEASURED_AT) or "").partition("T")[0]
    return f" ({day})" if day else ""


def about_run(run: finished_run.FinishedRun) -> str:
    """Return a line about the model, the data and the size of a run."""
    manifest, images = run.manifest, len(run.findings.scan.images)
    methods = len(run.names())
    families = len(run.findings.families())
    return (
        f"{subject_of(run)} "
        f"({manifest['data']['split']}): {images} images, {methods} methods, {families} families"
    )


def write_figures(run: finished_run.FinishedRun, folder: Path) -> list[Path]:
    """Write every figure as SVG and PNG."""
    written: list[Path] = []
    for drawing in [drawing for section in SECTIONS.values() for drawing in section.drawings(run)]:
        # A metric of somebody's may be called as the first half of a name of ours.
        alike = sum(path.stem.partition("~")[0] == drawing.name for path in written) // 2
        name = f"{drawing.name}~{alike + 1}" if alike else drawing.name
        svg, png = folder / f"{name}.svg", folder / f"{name}.png"
        write_file(svg, figures.as_svg(drawing.figure))
        write_file(png, figures.as_png(drawing.figure))
        written += [svg, png]
    return written


def write_report(folder: Path, findings: Findings, diagrams: Mapping[str, Figure]) -> Path:
    """Write the report of a finished run, from what was derived of it, into its folder."""
    path = folder / REPORT
    refuse_links(folder)
    write_file(path, render([finished_run.FinishedRun.of(folder, findings, diagrams)]))
    return path
