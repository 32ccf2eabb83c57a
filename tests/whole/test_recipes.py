"""The recipes of the documentation, the action and the hooks: parsed, and run line by line."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from support import ROOT

PAGE = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
ACTION = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))
HOOKS = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text(encoding="utf-8"))
BLOCK = re.compile(r"^```(sh|yaml)\n(.*?)^```", re.MULTILINE | re.DOTALL)
SECTION = re.compile(r"^## (.+)$", re.MULTILINE)
EXPRESSION = re.compile(r"\$\{\{ (.+?) \}\}")
# What would reach the network; each call is written down.
STUB = '#!/bin/bash\necho "uv $*" >> "$INSTALLED"\n'
PYTHON_STUB = f"""#!/bin/bash
if [ "$1 $2" != "-m pip" ]; then exec {sys.executable} "$@"; fi
echo "python $*" >> "$INSTALLED"
"""


@dataclass(frozen=True)
class Recipe:
    """A block of the page that has something to run."""

    section: str
    scripts: tuple[str, ...]
    content: Any


def parts_of(content: object, key: str) -> Iterator[Any]:
    """Yield what stands under a key, however deep, in the order of the file."""
    if isinstance(content, dict):
        for name, value in content.items():
            if name == key:
                yield value
            else:
                yield from parts_of(value, key)
    elif isinstance(content, list):
        for value in content:
            yield from parts_of(value, key)


def recipes() -> list[Recipe]:
    """Return what there is to run, block by block; of YAML `run` and `script`."""
    found = []
    sections = [(match.start(), match[1]) for match in SECTION.finditer(PAGE)]
    for match in BLOCK.finditer(PAGE):
        title = [name for start, name in sections if start < match.start()][-1:]
        if match[1] == "sh":
            scripts, content = (match[2],), None
        else:
            content = yaml.safe_load(match[2])
            listed = ["\n".join(lines) for lines in parts_of(content, "script")]
            scripts = (*parts_of(content, "run"), *listed)
        if scripts:
            found.append(Recipe(title[0], scripts, content))
    return found


RECIPES = {f"{recipe.section} {place}": recipe for place, recipe in enumerate(recipes())}
ONCE = next(name for name in RECIPES if name.startswith("Once"))


def started(script: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a script in bash as CI does, which ends with the first line that fails."""
    stubs = folder.parent / "stubs"
    stubs.mkdir(exist_ok=True)
    for name, text in (("uv", STUB), ("python", PYTHON_STUB)):
        (stubs / name).write_text(text)
        (stubs / name).chmod(0o755)
    path = os.pathsep.join([str(stubs), str(Path(sys.executable).parent), os.environ["PATH"]])
    own = {"PATH": path, "STEADYMAP": str(ROOT), "INSTALLED": str(folder / "installed.txt")}
    return subprocess.run(  # noqa: S603 - our own documentation
        ["bash", "-e", "-c", script],  # noqa: S607 - whichever bash there is
        cwd=folder,
        env=os.environ | own | environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the plan, made small, a run and its baseline: to be copied."""
    folder = tmp_path_factory.mktemp("recipes") / "prepared"
    folder.mkdir()
    plan = next(match[2] for match in BLOCK.finditer(PAGE) if "# saliency.yaml" in match[2])
    small = {"limit": 8, "method": ["gradient"], "family": ["bias"], "severity": [0.1], "nulls": 0}
    (folder / "saliency.yaml").write_text(yaml.safe_dump(yaml.safe_load(plan) | small))
    for script in RECIPES[ONCE].scripts:
        done = started(script, folder)
        assert done.returncode == 0, done.stderr
    # What the recipes measure is there already, under their own names.
    for name in ("ci", "steadymap"):
        shutil.copytree(folder / "runs" / "before", folder / "runs" / name)
    return folder


@pytest.fixture
def folder(prepared: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(prepared, tmp_path / "work"))


# --- the page -------------------------------------------------------------------------------------


def test_there_are_recipes_of_each_kind() -> None:
    titles = {recipe.section for recipe in RECIPES.values()}
    assert titles >= {"GitHub Actions", "GitLab", "A shell", "MLflow", "A history in CI"}


def remote_of(folder: Path) -> None:
    """Put a folder under git, with a remote that takes pushes."""
    script = """
    git init -q --bare ../remote.git
    git init -q . && git remote add origin "$PWD/../remote.git"
    git add saliency.yaml
    git -c user.name=a -c user.email=a@localhost commit -q -m first
    """
    assert started(script, folder).returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in RECIPES if name != ONCE])
def test_each_recipe_runs(name: str, folder: Path) -> None:
    recipe = RECIPES[name]
    if "mlflow" in "".join(recipe.scripts):
        pytest.importorskip("mlflow", reason="the extra `mlflow` is not installed")
    if " push " in "".join(recipe.scripts):
        remote_of(folder)
    for script in recipe.scripts:
        done = started(script, folder)
        assert done.returncode == 0, (script, done.stdout, done.stderr)
    installed = folder / "installed.txt"
    if any("STEADYMAP" in script for script in recipe.scripts):
        lines = installed.read_text().splitlines()
        assert lines[-1] == f"uv pip install --system --torch-backend cpu {ROOT}"
    if recipe.section == "A history in CI":
        # The second run adds to the branch that the first has pushed.
        shutil.rmtree(folder / "kept")
        gone = started("git worktree prune && git branch -D steadymap-history", folder)
        assert gone.returncode == 0, gone.stderr
        again = started(recipe.scripts[0], folder)
        assert "is already in kept/history" in again.stdout
    assert (folder / "runs" / "ci" / "records.parquet").is_file()


def test_recipes_say_where_to_install_from_and_pin_what_they_use() -> None:
    for recipe in RECIPES.values():
        text = "\n".join(recipe.scripts)
        assert not re.search(r"pip install (?:--\S+ (?:cpu )?)*'?steadymap", text)
        if "uv pip install" in text and recipe.content is not None:
            (address,) = {*parts_of(recipe.content, "STEADYMAP")}
            assert address.startswith("git+https://")
    contents = [yaml.safe_load(match[2]) for match in BLOCK.finditer(PAGE) if match[1] == "yaml"]
    for used in parts_of(contents, "uses"):
        assert re.fullmatch(r"actions/[\w-]+@v\d+|OWNER/REPOSITORY@main", used)
    assert "pip install" not in (ROOT / "docs" / "ci.md").read_text(encoding="utf-8")


def test_the_recipe_with_the_action_gives_inputs_that_it_has() -> None:
    contents = [yaml.safe_load(match[2]) for match in BLOCK.finditer(PAGE) if match[1] == "yaml"]
    steps = [step for steps in parts_of(contents, "steps") for step in steps]
    (own,) = [step for step in steps if str(step.get("uses")).startswith("OWNER/")]
    assert own["with"].keys() <= ACTION["inputs"].keys()


# --- the action -----------------------------------------------------------------------------------


def expanded(text: str, inputs: Mapping[str, str]) -> str:
    """Put values for GitHub's expressions: the first of several, by ||, that is not empty."""
    known = {f"inputs.{name}": value for name, value in inputs.items()}
    known["github.action_path"] = str(ROOT)
    return EXPRESSION.sub(
        lambda match: next(filter(None, (known[name] for name in match[1].split(" || "))), ""),
        text,
    )


def act(folder: Path, given: dict[str, str]) -> dict[str, subprocess.CompletedProcess[str]]:
    """Run the action's own steps as GitHub does, up to the first that fails."""
    inputs = {name: one["default"] for name, one in ACTION["inputs"].items()} | given
    ended = {}
    for step in ACTION["runs"]["steps"]:
        unless = re.fullmatch(r"inputs\.(\S+) != ''", step.get("if", ""))
        if "run" not in step or (unless and not inputs[unless[1]]):
            continue
        environment = {key: expanded(value, inputs) for key, value in step["env"].items()}
        summary = str(folder / "summary.md")
        done = started(step["run"], folder, GITHUB_STEP_SUMMARY=summary, **environment)
        ended[step["name"]] = done
        if done.returncode:
            break
    return ended


def test_the_action_is_composite_and_pins_what_it_uses() -> None:
    assert ACTION["runs"]["using"] == "composite"
    steps = ACTION["runs"]["steps"]
    assert all(re.fullmatch(r"actions/[\w-]+@v\d+", used) for used in parts_of(steps, "uses"))
    # Values come by the environment: in the script itself an input could be a command.
    assert not any("${{" in script for script in parts_of(steps, "run"))
    assert all(step["shell"] == "bash" for step in steps if "run" in step)
    assert all(one["description"].endswith(".") for one in ACTION["inputs"].values())
    named = {name for step in steps for name in re.findall(r"inputs\.([\w-]+)", yaml.dump(step))}
    assert named == set(ACTION["inputs"])


def test_the_action_measures_and_judges(folder: Path) -> None:
    given = {"arguments": "--config saliency.yaml --no-report", "baseline": "mine"}
    ended = act(folder, given)
    assert list(ended) == ["Install", "Run", "Gate"]
    for name, done in ended.items():
        assert done.returncode == 0, (name, done.stderr)
    installed = (folder / "installed.txt").read_text()
    assert installed.endswith(f"uv pip install --system --torch-backend cpu {ROOT}\n")
    assert (folder / "summary.md").read_text().startswith("### steadymap: ")
    # What is uploaded is there.
    (upload,) = [step for step in ACTION["runs"]["steps"] if "upload" in str(step.get("uses"))]
    output = {"output": ACTION["inputs"]["output"]["default"], "artifact-name": ""}
    assert (folder / expanded(upload["with"]["path"], output) / "gate" / "junit.xml").is_file()


def test_the_action_fails_as_the_gate_does_and_judges_nothing_without_a_baseline(
    folder: Path,
) -> None:
    given = {"arguments": "--config saliency.yaml --no-report"}
    ended = act(folder, given | {"baseline": "none"})
    assert ended["Gate"].returncode == 4
    assert list(act(folder, given)) == ["Install", "Run"]


# --- pre-commit -----------------------------------------------------------------------------------


def test_each_hook_runs_with_the_arguments_of_the_recipe(folder: Path) -> None:
    contents = [yaml.safe_load(match[2]) for match in BLOCK.finditer(PAGE) if match[1] == "yaml"]
    chosen = [hook for hooks in parts_of(contents, "hooks") for hook in hooks]
    offered = {hook["id"]: hook for hook in HOOKS}
    assert {hook["id"] for hook in chosen} == set(offered)
    for hook in chosen:
        entry = offered[hook["id"]]
        assert {"id", "name", "description", "entry", "language"} <= entry.keys()
        assert entry["language"] == "system"
        assert entry["pass_filenames"] is False
        done = started(" ".join([entry["entry"], *map(str, hook["args"])]), folder)
        assert done.returncode == 0, (hook, done.stderr)
