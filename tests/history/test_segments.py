"""Runs that cannot be compared with each other are in segments of their own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from histories import Simulation

from steadymap.bench.core.errors import ConfigError
from steadymap.bench.history.entry import Entry
from steadymap.bench.history.lines import lines_of
from steadymap.bench.history.segments import RENEWED, segments
from steadymap.bench.history.timeline import timeline

ENTRIES = Simulation("segments", 12).entries()


def changed(entry: Entry, change: Callable[[dict[str, Any]], object]) -> Entry:
    manifest = {
        key: dict(value) if isinstance(value, Mapping) else value
        for key, value in entry.manifest.items()
    }
    change(manifest)
    return replace(entry, facts=dict(entry.facts) | {"manifest": manifest})


def sizes(entries: list[Entry]) -> list[int]:
    return [len(segment.entries) for segment in segments(entries)]


def test_runs_that_can_be_compared_are_one_segment_in_order_of_time() -> None:
    (segment,) = segments(ENTRIES[::-1])
    assert list(segment.entries) == ENTRIES
    assert segment.borders == ()


@pytest.mark.parametrize(
    ("change", "border"),
    [
        (lambda m: m["data"].update(sha256="1" * 64), "data: 000000000000 and 111111111111"),
        (lambda m: m["severities"].update(bias=[0.5]), "severities of bias: [-0.1, 0.3] and [0.5]"),
        (lambda m: m["configuration"].update(nulls=7), "null maps: 1 and 7"),
        (lambda m: m.update(seed=3), "seed: 0 and 3"),
    ],
)
def test_what_forbids_a_comparison_is_a_border(
    change: Callable[[dict[str, Any]], object], border: str
) -> None:
    entries = [*ENTRIES[:7], *(changed(entry, change) for entry in ENTRIES[7:])]
    first, second = segments(entries)
    assert (len(first.entries), len(second.entries)) == (7, 5)
    assert second.borders == (border,)


def test_other_rules_are_a_border() -> None:
    later = [replace(entry, facts=dict(entry.facts) | {"rules": 3}) for entry in ENTRIES[7:]]
    first, second = segments([*ENTRIES[:7], *later])
    assert (len(first.entries), second.borders) == (7, ("rules: 2 and 3",))


def test_other_weights_versions_and_machines_are_none() -> None:
    other = changed(ENTRIES[7], lambda m: m["model"].update(weights_sha256="1" * 64))
    another = changed(ENTRIES[8], lambda m: m["versions"].update(torch="9"))
    assert sizes([*ENTRIES[:7], other, another, *ENTRIES[9:]]) == [12]


def test_a_baseline_renewed_on_purpose_is_a_border() -> None:
    renewed = replace(ENTRIES[5], facts=dict(ENTRIES[5].facts) | {"renewed": True})
    first, second = segments([*ENTRIES[:5], renewed, *ENTRIES[6:]])
    assert (len(first.entries), len(second.entries), second.borders) == (5, 7, (RENEWED,))
    # The first run of all begins a segment anyway.
    (alone,) = segments([renewed])
    assert alone.borders == ()


def test_two_experiments_by_turns_are_two_segments() -> None:
    entries = [
        changed(entry, lambda m: m["data"].update(sha256="1" * 64)) if place % 2 else entry
        for place, entry in enumerate(ENTRIES)
    ]
    assert sizes(entries) == [6, 6]


def test_a_step_across_a_border_is_none() -> None:
    moved = [
        replace(
            entry,
            facts=dict(entry.facts) | {"rules": 3},
            scores=entry.scores.assign(value=entry.scores["value"] - 0.2),
        )
        for entry in ENTRIES[6:]
    ]
    assert [era.steps for era in timeline([*ENTRIES[:6], *moved])] == [(), ()]
    within = [replace(entry, facts=dict(entry.facts) | {"rules": 2}) for entry in moved]
    (era,) = timeline([*ENTRIES[:6], *within])
    assert [step.run for step in era.steps] == [6]


def test_a_method_that_comes_later_has_no_values_before() -> None:
    without = [
        replace(entry, scores=entry.scores[entry.scores["method"] != "grad_cam"])
        for entry in ENTRIES[:4]
    ]
    (segment,) = segments([*without, *ENTRIES[4:]])
    lines = {(line.method, line.metric): line for line in lines_of(segment)}
    late = lines["grad_cam", "ssim"].values
    assert np.isnan(late[:4]).all()
    assert np.isfinite(late[4:]).all()


def test_lines_are_those_of_a_baseline_and_the_network_in_the_order_of_the_run() -> None:
    (segment,) = segments(ENTRIES)
    lines = lines_of(segment)
    assert [(line.method.partition(":")[0], line.metric) for line in lines] == [
        ("grad_cam", "ssim"), ("integrated_gradients", "ssim"), ("gradient", "ssim"),
        ("grad_cam", "spearman"), ("integrated_gradients", "spearman"), ("gradient", "spearman"),
        ("network", "accuracy"),
    ]  # fmt: skip
    floors = {line.metric: line.floor for line in lines}
    assert floors == pytest.approx({"ssim": 0.0005, "spearman": 0.0005, "accuracy": 0.0002})


def test_a_metric_that_no_run_has_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"no run of the history has 'sim'; did you mean ssim\?"):
        timeline(ENTRIES, ["sim"])
    (era,) = timeline(ENTRIES, ["accuracy"])
    assert [line.metric for line in era.lines] == ["accuracy"]
