"""Diagrams of ranks: which methods have been shown to differ."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from steadymap.bench.analysis import calibration, ranks
from steadymap.bench.analysis.findings import Findings
from steadymap.bench.core.names import clipped, file_name, label, short_names
from steadymap.bench.report.figures import save_diagram
from steadymap.metrics import Metric

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Characters of a name in the diagram: longer ones would leave no room for it.
MOST_DRAWN = 40


def rank_diagrams(findings: Findings) -> dict[str, Figure]:
    """Return, by headline metric, the diagram of ranks, where there is one."""
    metrics = findings.metrics() if len(findings.ranks) else []
    diagrams = {
        name: difference_figure(findings.scan.of(name), findings.calibrated, name, findings.known)
        for name in metrics
    }
    return {name: figure for name, figure in diagrams.items() if figure is not None}


def write_diagrams(diagrams: Mapping[str, Figure], folder: Path) -> None:
    """Write diagrams of ranks as SVG, named after their metrics."""
    for metric, figure in diagrams.items():
        save_diagram(figure, folder / f"ranks-{file_name(metric)}.svg")


def difference_figure(
    records: pd.DataFrame,
    calibrated: pd.DataFrame,
    metric: str,
    metrics: Mapping[str, Metric] | None = None,
) -> Figure | None:
    """Draw which methods differ: Nemenyi's test after Friedman's, a bar over those that do not.

    Source: Demsar 2006; scikit-posthocs draws it.

    Args:
        records: of the run.
        calibrated: as `calibrate` returns it for them.
        metric: the metric by which methods are ranked.
        metrics: as for `calibrate`.

    Returns:
        None where there is nothing to compare: fewer than three methods, or than two images that
        have them all.
    """
    methods = ranks.ranked_methods(calibrated, metric)
    within = ranks.within_image(calibration.Instability.of(records, metrics), metric, methods)
    if len(methods) < ranks.LEAST_METHODS or len(within) < ranks.LEAST_IMAGES:
        return None
    # Loaded here: they take seconds, and most of what is run draws nothing.
    from matplotlib.figure import Figure  # noqa: PLC0415
    from matplotlib.text import Text  # noqa: PLC0415
    from scikit_posthocs import (  # noqa: PLC0415
        critical_difference_diagram,
        posthoc_nemenyi_friedman,
    )

    names = [label(name) for name in short_names(methods).values()]
    within.columns = pd.Index(clipped(names, MOST_DRAWN))
    differing = posthoc_nemenyi_friedman(within)
    mean_ranks = within.rank(axis=1).mean()
    figure = Figure(figsize=(8, 0.9 + 0.25 * len(methods)), layout="constrained")
    drawn = critical_difference_diagram(
        mean_ranks,
        differing,
        ax=figure.subplots(),
        # In ink: bright colours are hard to read as text.
        color_palette=dict.fromkeys(within.columns, "black"),
    )
    for (bar,) in drawn["crossbars"]:
        # It joins the methods in the order of a set, which changes from process to process.
        bar.set_xdata(sorted(bar.get_xdata()))
    title = clipped([label(metric)], MOST_DRAWN)[0]
    figure.suptitle(f"{title}: mean rank within an image; joined: not shown to differ")
    for text in figure.findobj(Text):
        text.set_parse_math(False)  # a dollar sign in a name is a dollar sign
    # Laid out once: each drawing would lay it out anew, a little otherwise than the one before.
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    return figure
