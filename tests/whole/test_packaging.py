from __future__ import annotations

import ast
import importlib
import importlib.resources
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
from support import ROOT

import steadymap

FOLDERS = ("bench", "metrics", "models")
SOURCES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
DATA = sorted(
    path
    for folder in FOLDERS
    for path in (ROOT / folder).rglob("*")
    if path.suffix in {".yaml", ".json", ".safetensors", ".typed", ".html", ".css", ".js"}
)


# What is the package `steadymap` itself.
FRONT = ("bench", "front")


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    inside = parts[len(FRONT) :] if parts[: len(FRONT)] == FRONT else parts
    return ".".join(("steadymap", *(part for part in inside if part != "__init__")))


def test_every_source_folder_is_packaged() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {path.parent for path in SOURCES}
    assert {module_name(folder / "__init__.py") for folder in folders} == set(settings["packages"])


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_every_module_is_installed_as_it_stands(path: Path) -> None:
    installed = importlib.import_module(module_name(path))
    assert installed.__file__ is not None
    assert Path(installed.__file__).read_text() == path.read_text()


@pytest.mark.parametrize("path", DATA, ids=lambda path: path.name)
def test_every_data_file_is_installed(path: Path) -> None:
    parts = path.relative_to(ROOT).parts
    inside = parts[len(FRONT) :] if parts[: len(FRONT)] == FRONT else parts
    installed = importlib.resources.files("steadymap").joinpath(*inside)
    assert installed.read_bytes() == path.read_bytes()


@pytest.mark.parametrize("path", [*SOURCES, *sorted((ROOT / "tests").rglob("*.py"))], ids=str)
def test_nobody_imports_the_bare_folders(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names = [node.module or ""]
        else:
            continue
        assert not {name.partition(".")[0] for name in names} & set(FOLDERS)


def test_the_package_runs_as_a_module_and_tells_its_version() -> None:
    command = [sys.executable, "-m", "steadymap", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603 - our own
    assert done.stdout.strip() == steadymap.__version__ == version("steadymap")


def test_the_front_says_what_it_does_not_have() -> None:
    with pytest.raises(AttributeError, match="no attribute 'measure'"):
        steadymap.measure  # noqa: B018 - it is asked for


def test_shipped_weights_are_small() -> None:
    assert (ROOT / "models" / "compact-hands.safetensors").stat().st_size < 3_000_000
