"""Figures: what is drawn, and that it is the same each time."""

from __future__ import annotations

from typing import Any

from steadymap.bench.report.figures import as_png, as_svg, new_figure, pareto


def test_the_front_has_those_that_none_beats_in_both() -> None:
    points = [("a", 1.0, 0.3), ("b", 2.0, 0.2), ("c", 3.0, 0.9), ("d", 1.0, 0.1), ("e", 9.0, 0.9)]
    assert [name for name, _, _ in pareto(points)] == ["a", "c"]


def test_a_figure_is_the_same_bytes_every_time() -> None:
    def drawn() -> Any:
        figure = new_figure()
        figure.subplots().plot([0, 1], [1, 0])
        return figure

    assert as_svg(drawn()) == as_svg(drawn())
    assert as_png(drawn()) == as_png(drawn())
    assert "Date" not in as_svg(drawn())
