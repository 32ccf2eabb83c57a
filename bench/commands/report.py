"""The commands that show: `steadymap report` and `steadymap show`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from steadymap.bench.core import console, errors, files
from steadymap.bench.report import finished_run, page
from steadymap.bench.report.markdown import markdown

MARKDOWN = "report.md"


class Form(StrEnum):
    """What a report is written as."""

    HTML = "html"
    MD = "md"


def report_command(
    run: Annotated[list[Path], typer.Argument(help="Folders of finished runs.")],
    form: Annotated[Form, typer.Option("--format", help="A page, or Markdown.")] = Form.HTML,
    figures: Annotated[Path | None, typer.Option(help="Folder for figures, SVG and PNG.")] = None,
    output: Annotated[
        Path | None, typer.Option(help="The file; left out: in the run, or here for several.")
    ] = None,
) -> None:
    """Make the report of a run, or of several on one page."""
    runs = [finished_run.FinishedRun.of(folder) for folder in run]
    home = run[0] if len(run) == 1 else Path()
    path = output or home / (page.REPORT if form is Form.HTML else MARKDOWN)
    files.make_folder(path.parent)
    if output is None and len(run) == 1:
        files.refuse_links(home)
    if form is Form.HTML:
        text = page.render(runs)
    elif len(runs) > 1:
        raise errors.ConfigError("report: Markdown is of one run; give one folder")
    else:
        text = markdown(runs[0], path.parent)
    files.write_file(path, text)
    console.line(console.console_of(), f"{path}")
    if figures:
        for place, finished in enumerate(runs):
            folder = figures if len(runs) == 1 else figures / f"{place}-{run[place].name}"
            files.make_folder(folder)
            for written in page.write_figures(finished, folder):
                console.line(console.console_of(), f"{written}")
