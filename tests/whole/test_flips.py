"""Damage to a file of a run or of a baseline is seen wherever the file is read."""

from __future__ import annotations

import itertools
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from support import Command, Done, call

from steadymap.bench.records.read import read_run

RUN = [
    "run", "--limit", "3", "--steps", "2", "--nulls", "1", "--no-controls", "--save-maps",
    "--method", "gradient", "--method", "integrated_gradients", "--family", "bias",
    "--severity", "0.2", "--jobs", "1", "--metric", "ssim",
]  # fmt: skip
BASELINE = "results/baselines/kept"
FEW, MANY = 32, 400

# Kinds of files by how they are found; `run` and the baseline lie in one folder.
KINDS = {
    "records": "run/records.parquet",
    "manifest": "run/manifest.json",
    "timings": "run/timings.csv",
    "ledger": "run/ledger.json",
    "records of a shard": "run/parts/*.parquet",
    "maps of a shard": "run/parts/*.safetensors",
    "tables of witnesses": "run/witnesses/*.csv",
    "pictures of witnesses": "run/witnesses/*.safetensors",
    "scores of a baseline": f"{BASELINE}/scores.csv",
    "manifest of a baseline": f"{BASELINE}/manifest.json",
    "kept maps": "run/maps/*",
    "what follows": "run/*.[chs][stv][vmg]*",
}
# Files that no command reads, but people: there are fewer of these among the damages.
UNREAD = ("kept maps", "what follows")


def damages(count: int, home: Path) -> Iterator[tuple[str, Path, bytes]]:
    """Yield kinds, files and what is in them once they are damaged."""
    rng = np.random.default_rng(16)
    kinds = [kind for kind in KINDS if kind not in UNREAD] * 3 + list(UNREAD)
    made = 0
    for turn in itertools.count():
        if made == count:
            return
        kind = kinds[turn % len(kinds)]
        files = sorted(home.glob(KINDS[kind]))
        path = files[int(rng.integers(len(files)))]
        content = bytearray(path.read_bytes())
        place = int(rng.integers(len(content)))
        # A third of all bits are flipped near an end, where heads and footers are.
        if rng.random() < 1 / 3:
            place = int(rng.integers(min(64, len(content)))) * int(rng.choice((1, -1)))
        harm = rng.choice(("flip", "flip", "cut", "zeros"))
        if harm == "flip":
            content[place] ^= 1 << int(rng.integers(8))
        elif harm == "cut":
            del content[place:]
        else:
            length = int(rng.integers(1, 513))
            content[place : place + length] = bytes(len(content[place : place + length]))
        # What a bit or zeros leave as it was is no damage.
        if content != path.read_bytes():
            made += 1
            yield kind, path, bytes(content)


def resumed(steadymap: Command, home: Path) -> tuple[Done, object]:
    """Go on with a copy of the run; return what came of it."""
    shutil.rmtree(home / "again", ignore_errors=True)
    shutil.copytree(home / "run", home / "again")
    done = steadymap(*RUN, "--no-report", "--output", "again")
    if done.code:
        return done, None
    records, _ = read_run(home / "again")
    maps = {path.name: path.read_bytes() for path in sorted((home / "again/maps").iterdir())}
    return done, (records.drop(columns="run_id").to_csv(), maps)


def reading(*words: str) -> Callable[[Command, Path], tuple[Done, object]]:
    """Return what gives a command and returns what it printed and wrote."""

    def read(steadymap: Command, home: Path) -> tuple[Done, object]:
        shutil.rmtree(home / "out", ignore_errors=True)
        (home / "out").mkdir()
        done = steadymap(*words)
        return done, (done.out, {path.name: path.read_bytes() for path in home.glob("out/*")})

    return read


COMMANDS: dict[str, Callable[[Command, Path], tuple[Done, object]]] = {
    "resume": resumed,
    "gate": reading("gate", "run", "--baseline", "kept", "--output", "out", "--allow-undecided"),
    "compare": reading("compare", "kept", "run", "--all", "--output", "out"),
    "report": reading("report", "run", "--output", "out/page.html"),
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("flips")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert call(patch, *RUN, "--output", "run") == 0
        assert call(patch, "baseline", "save", "run", "kept") == 0
    return folder


def believed(
    steadymap: Command, home: Path, count: int, monkeypatch: pytest.MonkeyPatch
) -> tuple[Counter[tuple[str, str, str]], list[str]]:
    """Try every command on every damage.

    Returns:
        How many ended how, by kind of file and command; and what was believed.
    """
    monkeypatch.chdir(home)
    # What follows from a table takes longest, and is the report's to show.
    monkeypatch.setattr("steadymap.bench.commands.finish.print_findings", lambda *_: (None, {}))
    whole = {name: command(steadymap, home)[1] for name, command in COMMANDS.items()}
    ends: Counter[tuple[str, str, str]] = Counter()
    wrong = []
    for kind, path, content in damages(count, home):
        before = path.read_bytes()
        path.write_bytes(content)
        try:
            for name, command in COMMANDS.items():
                done, found = command(steadymap, home)
                lines = done.err.strip().splitlines()
                if done.code == 2 and len(lines) == 1 and path.name in lines[0]:
                    end = "refused"
                elif done.code == 0 and found == whole[name]:
                    end = "made again" if "damaged" in done.err else "the same"
                else:
                    end = "believed"
                    wrong.append(f"{name}: {path}: {done}")
                ends[kind, name, end] += 1
        finally:
            path.write_bytes(before)
    return ends, wrong


def counted(ends: Counter[tuple[str, str, str]]) -> str:
    """Say how many ended how."""
    lines = []
    for kind in KINDS:
        texts = []
        for name in COMMANDS:
            found = {end: n for (k, c, end), n in ends.items() if (k, c) == (kind, name)}
            texts.append(f"{name} " + " ".join(f"{n} {end}" for end, n in sorted(found.items())))
        lines.append(f"{kind}: {'; '.join(texts)}")
    return "\n" + "\n".join(lines)


def test_damaged_files_are_not_believed(
    steadymap: Command, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends, wrong = believed(steadymap, home, FEW, monkeypatch)
    assert not wrong
    assert {end for _, _, end in ends} == {"refused", "made again", "the same"}


@pytest.mark.slow
def test_four_hundred_damaged_files_are_not_believed(
    steadymap: Command,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    record_property: Callable[[str, object], None],
) -> None:
    ends, wrong = believed(steadymap, home, MANY, monkeypatch)
    tried = sum(ends.values()) // len(COMMANDS)
    record_property("measured", f"{tried} damages, {len(wrong)} believed:{counted(ends)}")
    assert tried == MANY
    assert not wrong
