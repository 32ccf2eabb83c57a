"""A module's hash is that of all of a user's own that it runs on, and of nothing else."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from steadymap.bench.core.dependencies import source_hash
from steadymap.bench.core.errors import ConfigError

FILES = {
    "own_main.py": """
        import json, torch.nn.functional
        import own_plain
        from own_package import inner
        from own_package.deep.leaf import VALUE
        from own_namespace import part
        kept = __import__("importlib").import_module("own_by_name")
        def lazily():
            import own_lazy
            from own_lazy_package import below
        """,
    "own_plain.py": "import own_behind\n",
    "own_behind.py": "VALUE = 1\n",
    "own_package/__init__.py": "",
    "own_package/inner.py": "from . import sibling\nfrom .deep import leaf as other\n",
    "own_package/sibling.py": "VALUE = 1\n",
    "own_package/unrelated.py": "VALUE = 1\n",
    "own_package/deep/__init__.py": "",
    "own_package/deep/leaf.py": "from ..cousin import VALUE\n",
    "own_package/cousin.py": "VALUE = 1\n",
    "own_namespace/part.py": "VALUE = 1\n",
    "own_by_name.py": "VALUE = 1\n",
    "own_lazy.py": "import own_lazier\n",
    "own_lazier.py": "VALUE = 1\n",
    "own_lazy_package/__init__.py": "",
    "own_lazy_package/below.py": "VALUE = 1\n",
    "own_unrelated.py": "VALUE = 1\n",
}
UNRELATED = {"own_package/unrelated.py", "own_unrelated.py"}

Load = Callable[..., str]


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Iterator[Load]:
    """Return what loads `own_main` of a folder as a new process would, and hashes it."""
    before = set(sys.modules)

    def forget() -> None:
        for name in [name for name in sys.modules if name.startswith("own_")]:
            if name not in before:
                del sys.modules[name]

    def loaded(folder: Path, *also: str) -> str:
        forget()
        importlib.invalidate_caches()
        with monkeypatch.context() as patch:
            patch.syspath_prepend(str(folder))
            patch.setattr(sys, "dont_write_bytecode", True)
            for name in ("own_main", *also):
                importlib.import_module(name)
            return source_hash("own_main")

    yield loaded
    forget()


def write(folder: Path, **changed: str) -> Path:
    for name, text in (FILES | changed).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = text.splitlines()
        path.write_text("\n".join(line.removeprefix(" " * 8) for line in lines) + "\n")
    return folder


@pytest.mark.parametrize("name", FILES)
def test_what_is_imported_counts_and_nothing_else(name: str, tmp_path: Path, load: Load) -> None:
    first = load(write(tmp_path / "a"))
    changed = {name: FILES[name] + "\nCHANGED = True\n"}
    other = load(write(tmp_path / "b", **changed))
    assert len(first) == 64
    assert (other == first) == (name in UNRELATED)


def test_neither_the_place_nor_line_endings_nor_what_others_load_counts(
    tmp_path: Path, load: Load
) -> None:
    first = load(write(tmp_path / "a"))
    folder = write(tmp_path / "elsewhere" / "b")
    for path in folder.rglob("*.py"):
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert load(folder) == first
    # Loaded by others, a module is in its package's globals; loaded at last, a lazy one is found.
    also = ("own_package.unrelated", "own_unrelated", "own_lazy", "own_lazy_package.below")
    assert load(folder, *also) == first


def test_nothing_is_imported_to_be_looked_at(tmp_path: Path, load: Load) -> None:
    load(write(tmp_path))
    assert "own_lazy" not in sys.modules
    assert "own_lazy_package" not in sys.modules


def test_a_constant_moved_between_modules_counts(tmp_path: Path, load: Load) -> None:
    swapped = {"own_lazier.py": "VALUE = 2\n", "own_behind.py": "VALUE = 3\n"}
    back = {"own_lazier.py": "VALUE = 3\n", "own_behind.py": "VALUE = 2\n"}
    assert load(write(tmp_path / "a", **swapped)) != load(write(tmp_path / "b", **back))


def test_what_is_installed_counts_by_its_version_but_for_the_package_asked_for(
    tmp_path: Path, load: Load
) -> None:
    site = tmp_path / "lib" / "site-packages"
    main = {"own_main.py": "import own_package.inner, own_installed, json, torch\n"}
    folder = write(tmp_path / "own", **main)
    for name in ("own_installed.py", "own_package/extra.py"):
        (site / name).parent.mkdir(parents=True, exist_ok=True)
        (site / name).write_text("VALUE = 1\n")
    sys.path.append(str(site))
    try:
        first = load(folder)
        (site / "own_installed.py").write_text("VALUE = 2\n")
        assert load(folder) == first
        # Installed itself, all of its package counts: it may be installed anew under one version.
        assert source_hash("own_installed") != ""
        before = source_hash("own_installed")
        (site / "own_installed.py").write_text("VALUE = 3\n")
        load(folder)
        assert source_hash("own_installed") != before
    finally:
        sys.path.remove(str(site))


def test_ours_the_librarys_and_nobodys_have_none() -> None:
    assert source_hash("steadymap.bench.core.errors") == ""
    assert source_hash("", ("json", "torch.nn", "sys", "no_such_module")) == ""
    assert source_hash("no.such.module") == ""


def test_a_process_goes_on_with_what_it_has_loaded(
    tmp_path: Path, load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that has loaded a module before it was edited does not compute what it says now."""
    first = load(write(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path))
    write(tmp_path, **{"own_behind.py": "VALUE = 2\n"})
    assert source_hash("own_main") == first
    assert load(tmp_path) != first


def test_a_module_edited_between_a_first_reading_and_its_load_has_a_name_of_its_own(
    tmp_path: Path, load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loaded before the edit or after it: nobody knows, so neither name may be taken for it."""
    before = write(tmp_path / "before", **{"own_lazier.py": "VALUE = 3\n"})
    after = write(tmp_path / "after", **{"own_lazier.py": "VALUE = 4\n"})
    names = {load(before), load(after)}
    monkeypatch.syspath_prepend(str(after))
    load(before)
    importlib.import_module("own_lazier")
    assert source_hash("own_main") not in names


def test_a_source_that_is_gone_is_one_line(tmp_path: Path, load: Load) -> None:
    folder = write(tmp_path)
    load(folder)
    (folder / "own_plain.py").unlink()
    fresh = importlib.machinery.ModuleSpec("own_plain", None)
    sys.modules["own_plain"].__spec__ = fresh
    with pytest.raises(ConfigError, match="module own_plain: its source cannot be read"):
        source_hash("own_main")
