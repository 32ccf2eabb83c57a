"""`steadymap baseline`: keep runs to compare with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import pandas as pd
import typer

from steadymap.bench.core import console, errors
from steadymap.bench.gate.baseline_runs import (
    BASELINES_FOLDER,
    baseline_names,
    open_baseline,
    save_baseline,
)
from steadymap.bench.gate.side import KEPT_METRICS, Side
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
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN [RUN ...] NAME",
            help="Folders of finished runs, and what to call the baseline. One run; or five at "
            "least, whose networks are trainings of one recipe and differ in their seed alone.",
        ),
    ],
    metric: Annotated[
        list[str] | None, typer.Option(help=f"Repeat for more; {', '.join(KEPT_METRICS)}.")
    ] = None,
    root: Annotated[Path, typer.Option(help=ROOT_HELP)] = BASELINES_FOLDER,
) -> None:
    """Keep scores by image, predictions and manifests, for committing."""
    *folders, name = runs
    if not folders:
        raise errors.ConfigError(f"run: give the folder of a run before the name {name!r}")
    chosen = [Path(text) for text in folders]
    folder = save_baseline(chosen, name, root, metric or KEPT_METRICS)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    side = open_baseline(name, root)
    text = f"{networks_text(side)}{len(side.scores)} scores, {size / 1000:,.0f} kB: {folder}"
    console.line(console.console_of(), text)


def networks_text(side: Side) -> str:
    """Say how many networks a baseline holds; nothing where it is one."""
    return f"{len(side.networks)} networks, of each " if side.networks else ""


@baseline_app.command("list")
def baseline_list_command(
    root: Annotated[Path, typer.Option(help=ROOT_HELP)] = BASELINES_FOLDER,
) -> None:
    """Name the baselines there are."""
    for name in baseline_names(root):
        side = open_baseline(name, root)
        model, data = side.manifest["model"]["name"], side.manifest["data"]["name"]
        images = side.scores[IMAGE_ID].nunique()
        text = f"{model} on {data}, {networks_text(side)}{images} images, {len(side.scores)} scores"
        console.line(console.console_of(), f"{name}: {text}")


@baseline_app.command("show")
def baseline_show_command(
    name: Annotated[str, typer.Argument(help="Of the baseline.")],
    root: Annotated[Path, typer.Option(help=ROOT_HELP)] = BASELINES_FOLDER,
) -> None:
    """Print a baseline's means."""
    side = open_baseline(name, root)
    if side.networks:
        console.line(console.console_of(), f"means over {len(side.networks)} networks")
    scores = pd.concat([network.scores for network in side.networks or (side,)])
    means = scores.groupby([METRIC, METHOD, FAMILY], sort=False)[VALUE].mean()
    table = means.unstack(FAMILY)  # noqa: PD010 - of a series
    console.line(console.console_of(), table.round(4).to_string())
