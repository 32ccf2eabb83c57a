"""Who did it: the planted cause is named, whatever else changed at other times."""

from __future__ import annotations

import pytest
from histories import CHANGED, OF_EXAMPLE, Planted, Simulation

from steadymap.bench.history import blame
from steadymap.bench.history.timeline import Era, timeline

# Ten histories: the cause, where it is, by how much it moves one method, and what changed elsewhere
# without moving anything.
PLANTED = [
    ("weights", 20, -0.05, {5: "weights", 12: "library", 30: "machine"}),
    ("weights", 35, 0.02, {8: "library", 9: "library", 21: "library"}),
    ("library", 14, -0.03, {6: "weights", 25: "weights", 33: "machine"}),
    ("library", 28, 0.10, {3: "library", 17: "weights", 36: "settings"}),
    ("machine", 19, -0.02, {7: "weights", 11: "library", 26: "weights"}),
    ("machine", 31, 0.06, {4: "machine", 15: "library", 22: "weights"}),
    ("settings", 24, -0.04, {10: "weights", 16: "library", 34: "library"}),
    ("settings", 9, 0.03, {20: "library", 29: "weights", 35: "machine"}),
    ("code", 22, -0.03, {6: "weights", 13: "library", 31: "machine"}),
    ("code", 33, 0.05, {8: "weights", 19: "machine", 27: "library"}),
]


def era_of(key: str, planted: Planted, harmless: dict[int, str]) -> Era:
    (era,) = timeline(Simulation(key, 40, (planted,), harmless).entries())
    return era


@pytest.mark.parametrize(("cause", "run", "by", "harmless"), PLANTED)
def test_the_planted_cause_is_named(
    cause: str, run: int, by: float, harmless: dict[int, str]
) -> None:
    era = era_of(f"{cause} {run}", Planted(run, cause, {"grad_cam": by}), harmless)
    (step,) = era.steps
    assert abs(step.run - run) <= 1
    assert {found.line.method for found in step.lines} == {"grad_cam"}
    (first, *_) = era.causes[0]
    assert (first.kind, first.run) == (cause, run)
    assert era.blamed(0).startswith(f"{cause} changed")


def test_both_steps_of_the_example_are_found_with_their_causes() -> None:
    (era,) = timeline(OF_EXAMPLE.entries())
    assert [step.run for step in era.steps] == [planted.run for planted in OF_EXAMPLE.planted]
    assert [causes[0].kind for causes in era.causes] == ["library", "weights"]
    assert era.causes[0][0].changes == ("torch 2.11 -> 2.22",)
    assert era.name(era.steps[0].run) == OF_EXAMPLE.entries()[22].facts["commit"][:9]


def test_what_changes_with_every_run_comes_after_what_does_not() -> None:
    planted = Planted(20, "library", {"grad_cam": -0.1})
    era = era_of("order", planted, dict.fromkeys((*range(1, 20), *range(21, 40)), "weights"))
    assert [cause.kind for cause in era.causes[0]] == ["library", "code"]
    assert [cause.elsewhere for cause in era.causes[0]] == [0.0, 1.0]


def test_where_nothing_changed_it_is_said() -> None:
    entries = Simulation("none", 20, (Planted(10, "code", {"gradient": 0.2}),)).entries()
    same = [
        type(entry)(
            dict(entry.facts) | {"commit": "a" * 40, "manifest": entries[0].manifest}, entry.scores
        )
        for entry in entries
    ]
    (era,) = timeline(same)
    assert [list(causes) for causes in era.causes] == [[]]
    assert era.blamed(0).startswith("nothing that manifests hold changed")


@pytest.mark.parametrize("cause", CHANGED)
def test_every_cause_is_told_from_what_to_what(cause: str) -> None:
    before, after = Simulation("told", 2, harmless={1: cause}).entries()
    found = {kind: texts for kind, texts in blame.changes(before, after).items() if texts}
    assert set(found) == {cause, "code"}
    assert all(" -> " in text for texts in found.values() for text in texts)


def test_uncommitted_changes_are_code_that_changed() -> None:
    first, second = Simulation("dirty", 2).entries()
    manifest = dict(second.manifest) | {"git": {"commit": "b" * 40, "changed": True}}
    facts = dict(second.facts) | {"manifest": manifest, "commit": first.facts["commit"]}
    found = blame.changes(first, type(second)(facts, second.scores))
    assert found["code"] == ("uncommitted changes after",)
