"""`steadymap list` needs none of what computes."""

from __future__ import annotations

import ast
import subprocess
import sys

import pytest

from steadymap.bench.commands.list import SECTIONS

HEAVY = ("torch", "torchvision", "captum", "scipy", "skimage", "pandas", "pyarrow", "matplotlib")

# What a list reads, in a process of its own.
TABLES = {
    "methods": "from steadymap.bench import METHODS, Method\n"
    "from steadymap.bench.methods.binding import METHOD_SHELF\n"
    "rows = [(one.summary, one.source) for one in METHODS.values()]",
    "baselines": "from steadymap.bench.methods.baselines import BASELINES\n"
    "rows = [(one.summary, one.source) for one in BASELINES.values()]",
    "families": "from steadymap.bench import PERTURBATIONS, Perturbation\n"
    "from steadymap.bench.perturbations.registry import FAMILY_SHELF\n"
    "rows = [(one.summary, one.limits) for one in PERTURBATIONS.values()]",
    "models": "from steadymap.bench.network.model_shelf import MODEL_SHELF\n"
    "from steadymap.models import MODELS, MODEL_FORMS, Model, ModelError\n"
    "rows = [(one.summary, one.source) for one in MODELS.values()]",
    "data": "from steadymap.bench.data.forms import DATA_FORMS, SPLITS",
    "masks": "from steadymap.bench.data.masks import MASKS\n"
    "rows = [(one.summary, one.source) for one in MASKS.values()]",
    "checks": "from steadymap.bench.checks.registry import CHECKS\n"
    "rows = [(one.summary, one.source) for one in CHECKS.values()]",
    "experiments": "from steadymap.bench.plan.packaged_experiments import *\n"
    "rows = [about_experiment(name) for name in experiment_names()]",
}

COMMAND = """
import sys
from steadymap.bench.start import main
for name in NAMES:
    sys.argv = ["steadymap", "list", name]
    try:
        main()
    except SystemExit as left:
        assert not left.code, left
"""


def heavy_after(code: str) -> list[str]:
    """Return which of the heavy packages a process has loaded that ran some code."""
    done = subprocess.run(  # noqa: S603 - ours
        [sys.executable, "-c", f"{code}\nimport sys\nsys.stderr.write(repr([*sys.modules]))"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [name for name in HEAVY if name in ast.literal_eval(done.stderr)]


def test_the_look_out_sees_what_it_should() -> None:
    assert heavy_after("import scipy") == ["scipy"]


@pytest.mark.parametrize("name", TABLES)
def test_a_table_is_read_without_what_computes(name: str) -> None:
    assert heavy_after(TABLES[name]) == []


def test_no_list_needs_what_computes() -> None:
    assert set(TABLES) == set(SECTIONS) - {"metrics"}, "those have tests of their own"
    assert heavy_after(COMMAND.replace("NAMES", repr([*SECTIONS]))) == []
