"""How far it is from the command to a score: the frames of ours that a value passes on its way."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import pytest
from support import call

from steadymap.bench.commands.run import run_command
from steadymap.metrics.similarity import ssim

# Who follows a score from the command on must hold so many functions in mind.
MOST_FRAMES = 12
RUN = (
    "run", "--data", "hands:40", "--limit", "2", "--method", "gradient", "--family", "bias",
    "--severity", "0.1", "--metric", "ssim", "--nulls", "0", "--no-controls", "--jobs", "1",
    "--no-report",
)  # fmt: skip


def chain_to(frame: FrameType | None) -> tuple[str, ...]:
    """Return our own frames from the command to this one: file and function."""
    steps: list[str] = []
    while frame is not None:
        code = frame.f_code
        _outside, ours, module = code.co_filename.rpartition("/steadymap/")
        if ours:
            steps.append(f"{module}: {code.co_qualname}")
        if code is run_command.__code__:
            return tuple(reversed(steps))
        frame = frame.f_back
    raise AssertionError("it was not called by the command")


def test_a_score_is_few_frames_from_the_command(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    record_property: Callable[[str, object], None],
) -> None:
    chains: set[tuple[str, ...]] = set()

    def profile(frame: FrameType, event: str, _argument: object) -> None:
        if event == "call" and frame.f_code is ssim.__code__:
            chains.add(chain_to(frame))

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        assert call(monkeypatch, *RUN, "--output", str(tmp_path / "run")) == 0
    finally:
        sys.setprofile(before)
    assert chains, "the metric was computed"
    for chain in chains:
        files = {step.partition(":")[0] for step in chain}
        measured = f"{len(chain)} frames in {len(files)} files: {' > '.join(chain)}"
        record_property("measured", measured)
        assert len(chain) <= MOST_FRAMES, measured
