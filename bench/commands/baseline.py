"""`steadymap baseline`: keep runs to compare with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from steadymap.bench.core.console import console_of, line
from steadymap.bench.gate.baseline_runs import (
    BASELINES_FOLDER,
    baseline_names,
    open_baseline,
    save_baseline,
)
from steadymap.bench.gate.side import KEPT_METRICS
from steadymap.bench.records.vocabulary import FAMILY, IMAGE_ID, METHOD, METRIC, VALUE

ROOT_HELP = "Folder of the baselines."
RUN_HELP = "Folder of a finished run."

baseline_app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Keep runs to compare with.",
)


@baseline_app.command("save")
def baseline_save_command(
    run: Annotated[Path, typer.Argument(help=RUN_HELP)],
    name: Annotated[str, typer.Argument(help="What to call it.")],
    metric: Annotated[
        list[str] | None, typer.Option(help=f"Repeat for more; {', '.join(KEPT_METRICS)}.")
    ] = None,
    root: Annotated[Path, typer.Option(help=ROOT_HELP)] = BASELINES_FOLDER,
) -> None:
    """Keep a run's scores by image, and its manifest, for committing."""
    folder = save_baseline(run, name, root, metric or KEPT_METRICS)
    size = sum(path.stat().st_size for path in folder.iterdir())
    side = open_baseline(name, root)
    line(console_of(), f"{len(side.scores)} scores, {size / 1000:,.0f} kB: {folder}")


@baseline_app.command("list")
def baseline_list_command(
    root: Annotated[Path, typer.Option(help=ROOT_HELP)] = BASELINES_FOLDER,
) -> None:
    """Name the baselines there are."""
    for name in baseline_names(root):
        side = open_baseline(name, root)
        model, data = side.manifest["model"]["name"], side.manifest["data"]["name"]
        images = side.scores[IMAGE_ID].nunique()
        line(console_of(), f"{name}: {model} on {data}, {images} images, {len(side.scores)} scores")


@baseline_app.command("show")
def baseline_show_command(
    name: Annotated[str, typer.Argument(help="Of the baseline.")],
    root: Annotated[Path, typer.Option(help=ROOT_HELP)] = BASELINES_FOLDER,
) -> None:
    """Print a baseline's means."""
    side = open_baseline(name, root)
    means = side.scores.groupby([METRIC, METHOD, FAMILY], sort=False)[VALUE].mean()
    line(console_of(), means.unstack(FAMILY).round(4).to_string())
