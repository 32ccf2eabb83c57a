"""Diagrams of ranks: which methods have been shown to differ."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from steadymap.bench.analysis import ranks
from steadymap.bench.analysis.findings import Findings
from steadymap.bench.analysis.ranks import Field
from steadymap.bench.core.names import clipped, file_name, label, short_names
from steadymap.bench.records.vocabulary import METHOD, METRIC
from steadymap.bench.report.figures import save_diagram

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Characters of a name in the diagram: longer ones would leave no room for it.
MOST_DRAWN = 40


def rank_diagrams(findings: Findings) -> dict[str, Figure]:
    """Return, by headline metric, the diagram of ranks, where there is one."""
    metrics = findings.metrics() if len(findings.ranks) else []
    diagrams = {
        name: difference_figure(
            Field.of(findings.scan.of(name), methods, name, findings.known, findings.groups), name
        )
        for name in metrics
        if (methods := list(findings.ranks[findings.ranks[METRIC] == name][METHOD]))
    }
    return {name: figure for name, figure in diagrams.items() if figure is not None}


def write_diagrams(diagrams: Mapping[str, Figure], folder: Path) -> None:
    """Write diagrams of ranks as SVG, named after their metrics."""
    for metric, figure in diagrams.items():
        save_diagram(figure, folder / f"ranks-{file_name(metric)}.svg")


def difference_figure(field: Field, metric: str) -> Figure | None:
    """Draw which methods differ: a bar over those that pairwise tests do not tell apart.

    They are tested by the very score that they are ranked by, see `differences`; of which other
    methods are drawn beside two nothing of that hangs on but how many they are. Sources: Demsar
    2006 (the diagram), Benavoli et al. 2016 (pairwise tests); scikit-posthocs draws it.

    Args:
        field: the methods.
        metric: the metric by which they are ranked.

    Returns:
        None where there is nothing to compare: fewer than three methods, or than two images that
        have them all.
    """
    within = field.within.copy()
    if len(field.methods) < ranks.LEAST_METHODS or len(within) < ranks.LEAST_IMAGES:
        return None
    # Loaded here: they take seconds, and most of what is run draws nothing.
    from matplotlib.figure import Figure  # noqa: PLC0415
    from matplotlib.text import Text  # noqa: PLC0415
    from scikit_posthocs import critical_difference_diagram  # noqa: PLC0415

    names = [label(name) for name in short_names(field.methods).values()]
    within.columns = pd.Index(clipped(names, MOST_DRAWN))
    differing = pd.DataFrame(1.0, index=within.columns, columns=within.columns)
    place = dict(zip(field.methods, within.columns, strict=True))
    for row in ranks.differences(field).dropna(subset=["p_adjusted"]).to_dict("records"):
        one, other = place[row[METHOD]], place[row["other"]]
        differing.loc[one, other] = differing.loc[other, one] = row["p_adjusted"]
    mean_ranks = within.rank(axis=1).mean()
    figure = Figure(figsize=(8, 0.9 + 0.25 * len(field.methods)), layout="constrained")
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
