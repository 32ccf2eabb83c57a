"""The same command after an edit: what hangs on the edit is computed again, nothing else."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
from support import Done, console, plain

from steadymap.bench.records import seal
from steadymap.bench.records.read import read_run
from steadymap.bench.runs import folder as store

# A model, a method, a family and a metric, each of which hangs on another file.
FILES = {
    "own_model.py": """
from own_nets import build
def make():
    from steadymap.models import make_classifier
    return make_classifier(build(), (16, 16), ("paper", "rock", "scissors"))
""",
    "own_nets.py": """
import json
from pathlib import Path
import torch
from torch import nn
SCALE = 1.0
CONFIG = json.loads(Path(__file__).with_name("own_config.json").read_text())
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.SiLU(), nn.Flatten(), nn.Linear(784, 3))
        self.register_buffer("gain", torch.tensor(CONFIG["gain"]), persistent=False)
    def forward(self, images):
        from own_lazy import BIAS
        return self.body(images * SCALE + BIAS) * self.gain * CONFIG["heat"]
def build():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Net()
""",
    "own_lazy.py": "BIAS = 0.1\n",
    "own_config.json": '{"gain": 1.0, "heat": 1.0}',
    "own_tools/__init__.py": "",
    "own_tools/method.py": """
from steadymap.bench.methods.registry import METHODS
def explain(classifier, batch):
    from .power import POWER
    return METHODS["gradient"].explain(classifier, batch).abs() ** POWER
""",
    "own_tools/power.py": "POWER = 1.0\n",
    "own_tools/family.py": """
from . import light
def brighter(image, severity, rng):
    return image + severity * light.LIGHT
""",
    "own_tools/light.py": "LIGHT = 1.0\n",
    "own_tools/metric.py": """
import own_tools.norms
def likeness(clean, perturbed):
    return own_tools.norms.TOP - abs(clean.signed - perturbed.signed).mean(axis=(1, 2))
""",
    "own_tools/norms.py": "TOP = 1.0\n",
    "own_tools/unrelated.py": "NOTHING = 1\n",
}
RUN = (
    "run", "--model", "own_model:make", "--data", "hands:60", "--split", "all", "--limit", "4",
    "--method", "own_tools.method:explain", "--method", "gradient", "--no-controls", "--nulls", "0",
    "--family", "bias", "--family", "own_tools.family:brighter", "--severity", "0.2",
    "--metric", "spearman", "--metric", "own_tools.metric:likeness", "--no-report", "--jobs", "1",
)  # fmt: skip


def run(home: Path, *arguments: str) -> Done:
    """Run a command in a process of its own, as a user does after an edit."""
    named = arguments or RUN
    # Edits follow each other within a second, which byte code would not see.
    settings = {"PYTHONPATH": str(home), "PYTHONDONTWRITEBYTECODE": "1"}
    done = console(*named, *OUTPUT[named[0]], cwd=home, **settings)
    return Done(done.returncode, done.stdout, done.stderr)


OUTPUT = {"run": ("--output", "here"), "merge": ("--output", "here"), "baseline": (), "gate": ()}


def ledger_names(home: Path) -> dict[str, set[str]]:
    """Return the names of units by what they are of: a method and a family."""
    ledger, _ = store.read_ledger(home / "here")
    names: dict[str, set[str]] = {}
    for block, views in ledger.pieces():
        for view in views:
            for spec, name in ledger.grid(block, view).items():
                names.setdefault(f"{spec} {view.family}", set()).add(name)
    return names


def edit(home: Path, name: str, old: str, new: str) -> None:
    text = (home / name).read_text()
    assert old in text
    (home / name).write_text(text.replace(old, new))


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a user's modules, where a run was made."""
    home = tmp_path_factory.mktemp("user")
    for name, text in FILES.items():
        (home / name).parent.mkdir(exist_ok=True)
        (home / name).write_text(text)
    done = run(home)
    assert done.code == 0, done.err
    return home


@pytest.fixture
def home(first: Path, tmp_path: Path) -> Path:
    """A copy of it elsewhere."""
    return Path(shutil.copytree(first, tmp_path / "moved"))


def maps_made(done: Done) -> int:
    assert done.code == 0, done.err
    made = re.findall(r"maps: ([\d,]+) of", done.err)
    return int(made[-1].replace(",", "")) if made else 0


@pytest.mark.parametrize(
    ("name", "old", "new", "kept"),
    [
        ("own_nets.py", "SCALE = 1.0", "SCALE = 1.3", set()),
        ("own_lazy.py", "0.1", "0.2", set()),
        ("own_tools/power.py", "1.0", "2.0", {"gradient", "input"}),
        ("own_tools/light.py", "1.0", "2.0", {"clean", "bias"}),
        ("own_tools/norms.py", "1.0", "2.0", set()),
        ("own_tools/unrelated.py", "1", "2", {"gradient", "input", "explain"}),
    ],
)
def test_what_hangs_on_an_edited_helper_has_another_name(
    home: Path, name: str, old: str, new: str, kept: set[str]
) -> None:
    before = ledger_names(home)
    edit(home, name, old, new)
    done = run(home)
    after = ledger_names(home)
    assert set(after) == set(before)
    for key, names in after.items():
        same = any(word in key.replace("own_tools.method.", "") for word in kept)
        assert (names == before[key]) == same, key
    assert (maps_made(done) == 0) == (name == "own_tools/unrelated.py")
    said = re.search(r"going on: (\d+) units", done.err)
    assert int(said[1] if said else 0) == sum(len(after[key] & before[key]) for key in after)
    records = plain(read_run(home / "here")[0])
    shutil.rmtree(home / "here")
    assert run(home).code == 0
    pd.testing.assert_frame_equal(plain(read_run(home / "here")[0]), records)


@pytest.mark.parametrize("key", ["gain", "heat"])
def test_a_file_read_at_import_is_seen_by_the_answers(home: Path, key: str) -> None:
    before = ledger_names(home)
    edit(home, "own_config.json", f'"{key}": 1.0', f'"{key}": 1.01')
    done = run(home)
    assert ledger_names(home) == before
    assert maps_made(done) == maps_made(run(home, *RUN, "--no-resume"))
    said = " ".join(done.err.split())
    assert "the network answers otherwise than the one that here was begun with (logits" in said
    assert "its shards are set aside as parts-1, and all is computed again" in said
    records = plain(read_run(home / "here")[0])
    assert maps_made(run(home)) == 0, "and once only"
    shutil.rmtree(home / "here")
    assert run(home).code == 0
    pd.testing.assert_frame_equal(plain(read_run(home / "here")[0]), records)


def test_an_edit_taken_back_finds_what_was_there(home: Path) -> None:
    edit(home, "own_nets.py", "SCALE = 1.0", "SCALE = 1.3")
    assert maps_made(run(home)) > 0
    edit(home, "own_nets.py", "SCALE = 1.3", "SCALE = 1.0")
    assert maps_made(run(home)) == 0
    # Nor does what was there come back where a file has changed meanwhile.
    edit(home, "own_nets.py", "SCALE = 1.0", "SCALE = 1.3")
    run(home)
    edit(home, "own_nets.py", "SCALE = 1.3", "SCALE = 1.0")
    edit(home, "own_config.json", '"heat": 1.0', '"heat": 2.0')
    assert maps_made(run(home)) > 0


def test_shards_are_merged_within_rounding_and_refused_beyond(home: Path) -> None:
    for name, text in {"a": "1/2", "b": "2/2"}.items():
        shutil.rmtree(home / "here")
        assert run(home, *RUN, "--shard", text, "--batch-size", "2").code == 0
        (home / "here").rename(home / name)
        (home / "here").mkdir()
    path = home / "b" / "ledger.json"
    content = json.loads(path.read_text())
    ((key, answers),) = content["ledger"]["answers"].items()
    logits = answers["logits"]
    for factor, code in ((1 + 1e-7, 0), (1.01, 2)):
        answers["logits"] = [[number * factor for number in image] for image in logits]
        content["ledger"]["answers"] = {key: answers}
        path.write_text(json.dumps(seal.sealed(content)))
        done = run(home, "merge", "a", "b")
        assert done.code == code, done.err
    said = " ".join(done.err.split())
    assert "b is of another run than a: the network's answers (logits differ by 1e-02" in said


def test_a_gate_judges_an_edited_network_and_does_not_refuse_it(home: Path) -> None:
    saved = run(home, "baseline", "save", "here", "kept")
    assert saved.code == 0, saved.err
    edit(home, "own_lazy.py", "0.1", "0.4")
    assert run(home).code == 0
    judged = run(home, "gate", "here", "--baseline", "kept")
    assert judged.code == 5, judged.out + judged.err  # of four images
    assert (home / "here" / "gate").exists()
