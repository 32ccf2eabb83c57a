"""To rename a column of the records is one edit: a package with other names still works."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from support import ROOT, python

from steadymap.bench.records import vocabulary
from steadymap.bench.records.schema import SCHEMA

COLUMNS = {name.upper(): name for name in SCHEMA.names}
COMMAND = "import sys; from steadymap.bench.start import main; sys.argv[0] = 'steadymap'; main()"
RUN = ["run", "--limit", "3", "--nulls", "1", "--steps", "4", "--method", "gradient"]
RUN += ["--method", "integrated_gradients", "--family", "bias", "--family", "compensated_bias"]
RUN += ["--severity=-0.2,0.3", "--no-controls", "--output", "one"]


@pytest.fixture(scope="module")
def renamed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a copy of the package, in which every column has another name."""
    home = tmp_path_factory.mktemp("renamed")
    shutil.copytree(ROOT / "bench" / "front", home / "steadymap")
    for folder in ("bench", "metrics", "models"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / folder, home / "steadymap" / folder, ignore=ignored)
    path = home / "steadymap" / "bench" / "records" / "vocabulary.py"
    code = path.read_text(encoding="utf-8")
    for constant, name in COLUMNS.items():
        code, edits = re.subn(
            rf'^{constant} = "{name}"$', f'{constant} = "x_{name}"', code, flags=re.MULTILINE
        )
        assert edits == 1, constant
    path.write_text(code, encoding="utf-8")
    return home


def test_each_column_has_its_name_from_one_place() -> None:
    assert {name: getattr(vocabulary, name) for name in COLUMNS} == COLUMNS


def test_a_renamed_column_is_one_edit(renamed: Path, tmp_path: Path) -> None:
    commands = [
        RUN,
        ["report", "one", "--output", "page.html"],
        ["report", "one", "--format", "md"],
        ["baseline", "save", "one", "base"],
        ["gate", "one", "--baseline", "base"],
        ["compare", "one", "one"],
    ]
    for command in commands:
        done = python(COMMAND, *command, cwd=tmp_path, PYTHONPATH=str(renamed))
        assert done.returncode == 0, (command, done.stderr)
    names = pq.read_schema(tmp_path / "one" / "records.parquet").names
    assert names == [f"x_{name}" for name in SCHEMA.names]
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert page == (tmp_path / "one" / "report.html").read_text(encoding="utf-8")
