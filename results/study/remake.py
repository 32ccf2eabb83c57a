"""Make `results/study.md` and its figures from the committed scores: remake.py [FOLDER].

Without a folder they go where they are. Nothing is measured; nothing is needed but steadymap.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import claims
import pandas as pd
import pyarrow.parquet as pq
import tables
from claims import Network
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from steadymap.bench.analysis.curves import breaking_points, severity_curves
from steadymap.bench.analysis.whose_fault import BIAS
from steadymap.bench.records.schema import to_frame
from steadymap.bench.report import figures
from steadymap.bench.report.answer import metric_name
from steadymap.bench.report.figures import save_diagram

HERE = Path(__file__).resolve().parent
TEMPLATE = "study.md.jinja"
FIRST = "rps"
DRAWN = ("rps", "compact-0")


def read(name: str) -> Network:
    """Read what was measured of one network."""
    home = HERE / "scores" / name
    return Network(
        name,
        json.loads((home / "card.json").read_text(encoding="utf-8")),
        to_frame(pq.read_table(home / "records.parquet")),
        pd.read_csv(home / "images.csv", dtype={"image_id": str}).set_index("image_id"),
        pd.read_csv(home / "signs.csv", dtype={"image_id": str}),
        pd.read_csv(home / "steps.csv", dtype={"image_id": str}),
    )


def networks() -> list[Network]:
    """Read all networks, `rps` first."""
    names = sorted(path.name for path in (HERE / "scores").iterdir() if path.is_dir())
    return [read(name) for name in sorted(names, key=lambda name: (name != FIRST, name))]


# --- figures --------------------------------------------------------------------------------------


def draw(every: Sequence[Network], folder: Path) -> None:
    """Write the figures."""
    for network in every:
        if network.name in DRAWN:
            _draw_curves(network, folder)
            faults = network.faults[network.faults["metric"] == "spearman"]
            names = {spec: tables.called(spec) for spec in network.methods}
            save_diagram(figures.fault_figure(faults, names), folder / f"faults-{network.name}.svg")
    save_diagram(_training(every), folder / "training.svg")
    save_diagram(_stayed(every), folder / "kept.svg")
    save_diagram(_steps(every), folder / "steps.svg")


def _draw_curves(network: Network, folder: Path) -> None:
    rows = network.records[network.records["family"] == BIAS]
    # By the first rules all pairs count, whatever was predicted.
    curves = severity_curves(rows.assign(kept=True), network.calibrated)
    breaking = breaking_points(curves)
    names = {spec: tables.called(spec) for spec in network.methods}
    for metric in claims.STEADINESS:
        chosen = [table[table["metric"] == metric] for table in (curves, breaking)]
        label = f"calibrated {metric_name(metric)}"
        figure = figures.curve_figure(chosen[0], chosen[1], names, label, "in image units")
        save_diagram(figure, folder / f"bias-{metric}-{network.name}.svg")


def _lines(lines: Mapping[str, tuple[Sequence[float], Sequence[float]]], x: str, y: str) -> Any:  # noqa: ANN401 - matplotlib is loaded late
    figure = figures.new_figure()
    axes = figure.subplots()
    for place, (name, (across, up)) in enumerate(lines.items()):
        axes.plot(
            across,
            up,
            color=figures.COLOURS[place % len(figures.COLOURS)],
            linestyle=figures.DASHES[place % len(figures.DASHES)],
            marker=figures.MARKERS[place % len(figures.MARKERS)],
            markersize=3.5,
            label=name,
        )
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.tick_params(labelsize=8)
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.02, 0.5))
    return figure


def _training(every: Sequence[Network]) -> Any:  # noqa: ANN401 - as above
    lines = {
        network.name: (
            range(1, len(network.card["curve"]) + 1),
            [epoch["validation"] for epoch in network.card["curve"]],
        )
        for network in every
    }
    return _lines(lines, "epoch", "validation accuracy")


def _stayed(every: Sequence[Network]) -> Any:  # noqa: ANN401 - as above
    lines = {}
    for network in every:
        stays = claims.class_stays(network)
        lines[network.name] = (list(stays), [one.mean for one in stays.values()])
    return _lines(lines, "bias", "share whose class stayed")


def _steps(every: Sequence[Network]) -> Any:  # noqa: ANN401 - as above
    lines = {}
    for network in every:
        if network.name in DRAWN:
            for baseline in claims.BASELINES:
                table = claims.step_table(network, baseline)
                lines[f"{network.name}, {baseline}"] = (list(table.index), list(table["median"]))
    figure = _lines(lines, "steps", "relative completeness error")
    (axes,) = figure.axes
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    return figure


# --- the text -------------------------------------------------------------------------------------


def render(every: Sequence[Network]) -> str:
    """Return the text, with every number taken from the scores."""
    environment = Environment(  # noqa: S701 - Markdown of our own
        loader=FileSystemLoader(HERE),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(TEMPLATE).render(
        networks=every,
        claims=claims,
        found=tables.judgements(every),
        tables={name: make(every) for name, make in tables.TABLES.items()},
        concordances=tables.concordances(every),
        number=tables.number,
        percent=tables.percent,
    )


def remake(folder: Path) -> None:
    """Write text and figures: `study.md` into a folder, figures into its `study`."""
    every = networks()
    figures_at = folder / "study"
    figures_at.mkdir(parents=True, exist_ok=True)
    draw(every, figures_at)
    (folder / "study.md").write_text(render(every), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    remake(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE.parent)
