"""Whoever reads results waits for no torch, and for nothing else that the answer does not need."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from support import call

from steadymap.metrics import METRICS, tensors
from steadymap.metrics.registry import OnTensors

HEAVY = (
    "torch", "torchvision", "captum", "PIL", "numpy", "pandas", "pyarrow", "scipy", "statsmodels",
    "matplotlib", "scikit_posthocs", "skimage",
)  # fmt: skip
NOTHING = frozenset[str]()
TABLES = frozenset({"numpy", "pandas", "pyarrow"})
TESTS = TABLES | {"scipy", "statsmodels"}
FIGURES = TESTS | {"matplotlib", "PIL", "scikit_posthocs"}

# Runs what it is given and says, last on stderr, what of `HEAVY` was loaded.
PROBE = f"""
import sys
try:
    exec(sys.argv.pop(1))
finally:
    print(*(name for name in {HEAVY!r} if name in sys.modules), file=sys.stderr)
"""
COMMAND = "from steadymap.bench.start import main; sys.argv[0] = 'steadymap'; main()"

# Arguments, the exit code, and what may be loaded. `run`, `other` and `base` are in the folder.
READING: dict[str, tuple[int, frozenset[str]]] = {
    "--help": (0, NOTHING),
    "--version": (0, NOTHING),
    "compare run other": (0, TESTS),
    "compare run kept --root base": (0, TESTS),
    "gate other --baseline kept --root base": (0, TESTS),
    "gate other --baseline none --root base": (4, TESTS),
    "report run --figures figures": (0, FIGURES),
    "report run --format md": (0, FIGURES),
    "report base": (2, FIGURES),
    # What maps still know is a share of a margin that an interval keeps above 0.
    "baseline save other second --root base": (0, TABLES | {"scipy"}),
    "baseline list --root base": (0, TABLES),
    "baseline show kept --root base": (0, TABLES),
    "history add other --history another": (0, FIGURES),
    "history show --history told": (0, FIGURES - {"matplotlib"}),
    "history blame --history told": (0, FIGURES - {"matplotlib"}),
    "history page --history told": (0, FIGURES),
}  # fmt: skip


@dataclass(frozen=True)
class Ended:
    """How a process ended.

    Attributes:
        code: its exit code.
        loaded: what of `HEAVY` it had loaded.
        text: what it printed.
    """

    code: int
    loaded: frozenset[str]
    text: str


def in_a_process(code: str, folder: Path, *arguments: str) -> Ended:
    """Run code in a process of its own, in a folder."""
    done = subprocess.run(  # noqa: S603 - our own code
        [sys.executable, "-c", PROBE, code, *arguments],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    last = done.stderr.strip("\n").rpartition("\n")[2]
    return Ended(done.returncode, frozenset(last.split()), done.stdout + done.stderr)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two runs that differ in nothing, and a baseline of them."""
    home = tmp_path_factory.mktemp("reading")
    quick = [
        "--limit", "3", "--method", "gradient", "--method", "integrated_gradients", "--steps", "2",
        "--family", "bias", "--severity", "0.1", "--nulls", "1", "--no-controls", "--save-maps",
    ]  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        assert call(patch, "run", *quick, "--output", "run") == 0
        assert call(patch, "run", *quick, "--output", "other", "--no-report") == 0
        assert call(patch, "baseline", "save", "run", "kept", "--root", "base") == 0
        assert call(patch, "history", "add", "run", "--history", "told") == 0
    return home


@pytest.mark.parametrize("arguments", READING)
def test_reading_commands_load_what_they_need_and_no_torch(folder: Path, arguments: str) -> None:
    code, may = READING[arguments]
    ended = in_a_process(COMMAND, folder, *arguments.split())
    assert ended.code == code, ended.text
    assert ended.loaded <= may


def test_merging_needs_no_torch_and_joins_maps_to_the_same_bytes(folder: Path) -> None:
    ended = in_a_process(COMMAND, folder, "merge", "run", "other", "--output", "merged")
    assert ended.code == 0, ended.text
    assert ended.loaded <= FIGURES
    first, second = (folder / name / "maps" for name in ("run", "merged"))
    names = sorted(path.name for path in first.iterdir())
    assert len(names) == 4
    assert names == sorted(path.name for path in second.iterdir())
    assert all((first / name).read_bytes() == (second / name).read_bytes() for name in names)


def test_the_look_out_sees_torch(folder: Path) -> None:
    assert in_a_process("import torch", folder).loaded >= {"torch", "numpy"}


def test_a_metric_is_looked_up_with_numpy_alone(folder: Path) -> None:
    code = "from steadymap.metrics import METRICS; assert METRICS['ssim'].margin == 0.05"
    assert in_a_process(code, folder) == Ended(0, frozenset({"numpy"}), "numpy\n")


@pytest.mark.parametrize(("kendall", "may"), [(False, {"numpy"}), (True, {"numpy", "scipy"})])
def test_maps_of_numpy_are_scored_without_torch(folder: Path, kendall: bool, may: set[str]) -> None:
    names = [
        name
        for name, metric in METRICS.items()
        if not metric.probes and (name == "kendall") is kendall
    ]
    code = f"""
import numpy as np
from steadymap.metrics import METRICS, Maps, evaluate
first, second = (np.random.default_rng(seed).random((2, 13, 13)) for seed in (0, 1))
others = {{"map": Maps(second), "mask": second, "delta": second[:, 0, 0]}}
for name in {names!r}:
    metric = METRICS[name]
    assert set(evaluate(metric, Maps(first), others[metric.against]).statuses) == {{"ok"}}
"""
    ended = in_a_process(code, folder)
    assert ended.code == 0, ended.text
    assert ended.loaded == may


def test_every_function_that_a_metric_names_is_there() -> None:
    named = [metric.on_tensors for metric in METRICS.values() if metric.on_tensors is not None]
    assert named
    for function in named:
        assert isinstance(function, OnTensors)
        assert callable(getattr(tensors, function.name))
    for metric in METRICS.values():
        assert metric.compute.__module__.startswith("steadymap.metrics.")
