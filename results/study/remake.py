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
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from claims import Network
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from steadymap.bench import figures
from steadymap.bench.answer import metric_name
from steadymap.bench.curves import breaking_points, severity_curves
from steadymap.bench.faults import BIAS
from steadymap.bench.names import short_names
from steadymap.bench.ranks import save_diagram
from steadymap.bench.records import to_frame
from steadymap.bench.summary import Interval

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


# --- words ----------------------------------------------------------------------------------------


def number(value: Interval | float, digits: int = 2) -> str:
    """Write a number, or a mean with its interval."""
    if not isinstance(value, Interval):
        return "-" if not np.isfinite(value) else f"{value:.{digits}f}"
    if not np.isfinite(value.low):
        return number(value.mean, digits)
    return f"{value.mean:.{digits}f} [{value.low:.{digits}f}, {value.high:.{digits}f}]"


def percent(value: Interval | float) -> str:
    """Write a share, or one with its interval."""
    if not isinstance(value, Interval):
        return f"{value:.0%}"
    return f"{value.mean:.0%} [{100 * value.low:.0f}, {100 * value.high:.0f}]"


def row_of(row: pd.Series) -> Interval:
    """Return a row of calibrated scores or of curves as an interval."""
    middle = (
        row["score"] if "calibrated" not in row or row["calibrated"] is True else row["calibrated"]
    )
    return Interval(float(middle), float(row["low"]), float(row["high"]), "bca")


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Write the least and the largest of some values."""
    return f"{min(values):.{digits}f} to {max(values):.{digits}f}"


def percents(values: Sequence[float]) -> str:
    """Write the least and the largest of some shares."""
    return f"{100 * min(values):.0f} to {100 * max(values):.0f}%"


def called(method: str) -> str:
    """Return how the text calls a method."""
    return NAMES.get(method.partition(",")[0], method.replace("_", " "))


NAMES = {
    "gradient": "gradient",
    "gradient_x_input": "Gradient x Input",
    "integrated_gradients:baseline=black": "IG, black",
    "integrated_gradients:baseline=white": "IG, white",
    "integrated_gradients:baseline=random": "IG, random",
    "grad_cam": "Grad-CAM",
    "constant": "constant",
    "random": "random",
    "edge": "edge",
    "centre_blob": "centre blob",
}


# --- figures --------------------------------------------------------------------------------------


def draw(every: Sequence[Network], folder: Path) -> None:
    """Write the figures."""
    for network in every:
        if network.name in DRAWN:
            _draw_curves(network, folder)
            faults = network.faults[network.faults["metric"] == "spearman"]
            names = {spec: called(spec) for spec in network.methods}
            save_diagram(figures.fault_figure(faults, names), folder / f"faults-{network.name}.svg")
    save_diagram(_training(every), folder / "training.svg")
    save_diagram(_kept(every), folder / "kept.svg")
    save_diagram(_steps(every), folder / "steps.svg")


def _draw_curves(network: Network, folder: Path) -> None:
    rows = network.records[network.records["family"] == BIAS]
    curves = severity_curves(rows, network.calibrated)
    breaking = breaking_points(curves)
    names = {spec: called(spec) for spec in network.methods}
    for metric in claims.STEADINESS:
        chosen = [table[table["metric"] == metric] for table in (curves, breaking)]
        label = f"calibrated {metric_name(metric)}"
        figure = figures.curve_figure(chosen[0], chosen[1], names, label)
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


def _kept(every: Sequence[Network]) -> Any:  # noqa: ANN401 - as above
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
    environment.filters |= {
        "number": number,
        "percent": percent,
        "interval": row_of,
        "spread": spread,
        "percents": percents,
        "called": called,
    }
    return environment.get_template(TEMPLATE).render(
        networks=every,
        first=every[0],
        others=every[1:],
        claims=claims,
        short_names=short_names,
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
