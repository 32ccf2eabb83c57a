"""The commands that show: `steadymap report` and `steadymap show`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import torch
import typer

from steadymap.bench.analysis.findings import Findings
from steadymap.bench.core.console import console_of, line
from steadymap.bench.core.plugins import load_model
from steadymap.bench.data.open import open_image
from steadymap.bench.gallery.show import default_output, show
from steadymap.bench.plan.plan import ConfigError, make_experiment
from steadymap.bench.report.figures import as_png
from steadymap.bench.report.page import Shown, markdown, render, write_figures
from steadymap.bench.runs import folder as store
from steadymap.bench.runs.shard_files import make_folder

REPORT = "report.html"
MARKDOWN = "report.md"


class Form(StrEnum):
    """What a report is written as."""

    HTML = "html"
    MD = "md"


def write_report(folder: Path, findings: Findings) -> Path:
    """Write the report of a finished run, of which that was found, into its folder."""
    path = folder / REPORT
    store.refuse_links(folder)
    store.write_file(path, render([Shown.of(folder, findings)]))
    return path


def show_command(  # noqa: PLR0913, PLR0917 - typer reads the flags off the signature
    image: Annotated[str, typer.Argument(help="A picture's file, or hands:NUMBER.")],
    model: Annotated[str, typer.Option(help="See `steadymap list models`.")] = "compact",
    weights: Annotated[Path | None, typer.Option(help="Weights to load.")] = None,
    method: Annotated[
        list[str] | None, typer.Option(help="NAME or NAME:key=value,...; repeat for more.")
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Steps of path methods.")] = 50,
    family: Annotated[str, typer.Option(help="See `steadymap list families`.")] = "bias",
    severity: Annotated[
        float, typer.Option(help="In the family's unit; see `steadymap list families`.")
    ] = 0.3,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    output: Annotated[Path | None, typer.Option(help="The file, .png.")] = None,
) -> None:
    """Draw one picture and its maps under every method, before and after a perturbation."""
    given = {"family": family, "severity": severity, "steps": steps, "seed": seed}
    plan = make_experiment([given | ({"method": method} if method else {})])
    cell = plan.cells()[0]
    path = output or default_output(image, cell)
    if path.suffix != ".png":
        raise ConfigError(f"output: the picture is written as .png, got {path.name}")
    classifier = load_model(model, weights, torch.device("cpu"))
    figure = show(classifier, open_image(image, classifier.framing), plan, cell)
    make_folder(path.parent)
    store.write_file(path, as_png(figure))
    line(console_of(), f"{path}")


def report_command(
    run: Annotated[list[Path], typer.Argument(help="Folders of finished runs.")],
    form: Annotated[Form, typer.Option("--format", help="A page, or Markdown.")] = Form.HTML,
    figures: Annotated[Path | None, typer.Option(help="Folder for figures, SVG and PNG.")] = None,
    output: Annotated[
        Path | None, typer.Option(help="The file; left out: in the run, or here for several.")
    ] = None,
) -> None:
    """Make the report of a run, or of several on one page."""
    shown = [Shown.of(folder) for folder in run]
    home = run[0] if len(run) == 1 else Path()
    path = output or home / (REPORT if form is Form.HTML else MARKDOWN)
    make_folder(path.parent)
    if output is None and len(run) == 1:
        store.refuse_links(home)
    if form is Form.HTML:
        text = render(shown)
    elif len(shown) > 1:
        raise ConfigError("report: Markdown is of one run; give one folder")
    else:
        text = markdown(shown[0], path.parent)
    store.write_file(path, text)
    line(console_of(), f"{path}")
    if figures:
        for place, one in enumerate(shown):
            folder = figures if len(shown) == 1 else figures / f"{place}-{run[place].name}"
            make_folder(folder)
            for written in write_figures(one, folder):
                line(console_of(), f"{written}")
