"""`steadymap show`: one picture under every method, before and after a perturbation."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer

from steadymap.bench.core import console, errors, files
from steadymap.bench.data.opening import open_image
from steadymap.bench.gallery.show import default_output, show
from steadymap.bench.network.loading import load_model
from steadymap.bench.plan.experiment import make_experiment
from steadymap.bench.report.figures import as_png


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
    settings = {"family": family, "severity": severity, "steps": steps, "seed": seed}
    plan = make_experiment([settings | ({"method": method} if method else {})])
    cell = plan.cells()[0]
    path = output or default_output(image, cell)
    if path.suffix != ".png":
        raise errors.ConfigError(f"output: the picture is written as .png, got {path.name}")
    classifier = load_model(model, weights, torch.device("cpu"))
    figure = show(classifier, open_image(image, classifier.framing), plan, cell)
    files.make_folder(path.parent)
    files.write_file(path, as_png(figure))
    console.line(console.console_of(), f"{path}")
