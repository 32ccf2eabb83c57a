"""Old weights with new code tell which of the two did it."""

from __future__ import annotations

import importlib.resources
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from histories import Planted, Simulation, written
from safetensors.torch import load_file, save_file
from support import Command

from steadymap.bench.core.errors import ConfigError
from steadymap.bench.history import crossing
from steadymap.bench.history.entry import Entry, entry_of
from steadymap.bench.history.timeline import timeline

SIMULATED = Simulation("cross", 20, (Planted(12, "weights", {"gradient": -0.1}),), noise=0.0)
SMALL = (
    "--limit", "4", "--method", "gradient", "--family", "bias", "--severity", "0.2", "--nulls", "1",
    "--no-controls", "--no-admission", "--no-report",
)  # fmt: skip


def scores_at(value: float) -> Entry:
    """Return a run in which the method that moved has this score."""
    (entry, *_) = SIMULATED.entries()
    is_moved = entry.scores["method"] == "gradient"
    return replace(
        entry, scores=entry.scores.assign(value=entry.scores["value"].where(~is_moved, value))
    )


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (0.24, "the weights did it"),
        (0.22, "the weights did it"),
        (0.14, "the weights did not do it"),
        (0.19, "neither alone"),
        (0.34, "neither alone"),
    ],
)
def test_where_the_old_weights_are_says_who_did_it(value: float, said: str) -> None:
    step = crossing.crossing_of(timeline(SIMULATED.entries()))
    told = crossing.sentences(step, scores_at(value))
    assert told[0].endswith(f"0.24 -> 0.14 (worse); the old weights here: {value:g}")
    assert told[-1].startswith(said)


def test_what_is_installed_otherwise_than_after_the_step_is_said() -> None:
    step = crossing.crossing_of(timeline(SIMULATED.entries()))
    measured = scores_at(0.24)
    versions = dict(measured.manifest["versions"]) | {"torch": "9"}
    manifest = dict(measured.manifest) | {"versions": versions}
    told = crossing.sentences(
        step, Entry(dict(measured.facts) | {"manifest": manifest}, measured.scores)
    )
    assert "here, and not as in the run after the step: torch 2.11 -> 9" in told


def test_what_cannot_be_crossed_is_one_line() -> None:
    eras = timeline(SIMULATED.entries())
    with pytest.raises(ConfigError, match="has steps 1 to 1, got 2"):
        crossing.crossing_of(eras, 2)
    with pytest.raises(ConfigError, match="no line took a step"):
        crossing.crossing_of(timeline(SIMULATED.entries()[:10]))
    code = Simulation("code", 20, (Planted(12, "code", {"gradient": -0.1}),)).entries()
    with pytest.raises(ConfigError, match="the weights are the same on both sides of step 1"):
        crossing.crossing_of(timeline(code))
    step = crossing.crossing_of(eras)
    with pytest.raises(ConfigError, match="has weights 000000000000, and these are ffff"):
        crossing.see_weights(step.before, "f" * 64)


def test_the_command_for_the_rest_has_the_old_commit_and_versions() -> None:
    both = (Planted(12, "weights", {"gradient": -0.1}), Planted(12, "library", {}))
    step = crossing.crossing_of(timeline(Simulation("rest", 20, both).entries()))
    text = "\n".join(crossing.other_command(step, "runs/x.json"))
    assert f"git worktree add ../before {step.before.facts['commit']}" in text
    assert "uv pip install torch==2.11" in text
    assert "steadymap run --config runs/x.json --weights FILE-OF-" in text


def again(entry: Entry, day: int, **facts: object) -> Entry:
    """Return a run as if it had been measured once more, another day."""
    own = {"id": f"{day:024d}", "measured_at": f"2026-01-{day:02d}T00:00:00+00:00"}
    return Entry(dict(entry.facts) | own | facts, entry.scores)


def test_old_weights_are_measured_and_compared(steadymap: Command) -> None:
    own = importlib.resources.files("steadymap.models").joinpath("compact-hands.safetensors")
    with importlib.resources.as_file(own) as path:
        tensors = load_file(path)
    # Half of its first layers' weights are gone: another network.
    pruned = {
        name: tensor * (torch.arange(tensor.numel()).reshape(tensor.shape) % 2)
        if tensor.ndim == 4
        else tensor
        for name, tensor in tensors.items()
    }
    classes = {"class_names": '["paper", "rock", "scissors"]'}
    save_file(pruned, "other.safetensors", classes)
    assert steadymap("run", *SMALL, "--output", "old").code == 0
    assert steadymap("run", *SMALL, "--weights", "other.safetensors", "--output", "new").code == 0
    old, new = entry_of(Path("old")), entry_of(Path("new"))
    runs = [again(old, day) for day in range(1, 8)] + [again(new, day) for day in range(8, 12)]
    written(Path("history"), runs)
    at = ("--history", "history", "--metric", "ssim")
    refused = steadymap("history", "blame", "--run", "--weights", "other.safetensors", *at)
    assert refused.code == 2
    assert "give its file with --weights" in refused.err
    done = steadymap("history", "blame", "--run", *at)
    assert done.code == 0
    assert "the weights did it: the old ones still give what was before the step" in done.out
    (settings,) = Path("runs").glob("old-weights-*.json")
    assert f"steadymap run --config {settings} --weights FILE-OF-" in done.out
    measured = entry_of(settings.with_suffix(""))
    costs = measured.scores["kind"] != "cost"
    pd.testing.assert_frame_equal(measured.scores[costs], old.scores[costs])
    assert steadymap("run", "--config", str(settings), "--no-report", "--dry-run").code == 0
