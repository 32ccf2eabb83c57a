"""Baselines of several trainings, and gates that ask of a new one, as a user meets them."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from support import Command, call

from steadymap.bench.core.errors import ConfigError
from steadymap.bench.gate.baseline_runs import open_baseline, save_baseline, write_side
from steadymap.bench.gate.predictions import COLUMNS, PREDICTIONS
from steadymap.bench.gate.side import read_side
from steadymap.bench.records.read import read_run
from steadymap.models import load_classifier, write_weights

RUN = [
    "run", "--limit", "12", "--no-controls", "--nulls", "1", "--no-report", "--no-admission",
    "--method", "gradient", "--family", "bias", "--family", "gaussian_noise", "--severity", "0.2",
]  # fmt: skip
SEEDS = [f"runs/seed-{seed}" for seed in range(5)]


def weights(path: Path, seed: int, *, ruined: bool = False) -> Path:
    """Write the shipped weights, moved a little as another training might; or with one answer."""
    classifier = load_classifier("compact")
    network = classifier.module.network
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.add_(0.01 * parameter.std() * noise)
        if ruined:
            *_, last = (p for p in network.parameters() if p.ndim == 1)
            last[0] += 1000
    write_weights(path, network, classifier.class_names)
    return path


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with runs of seven trainings, one of them ruined, and a baseline of five."""
    folder = tmp_path_factory.mktemp("recipe")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for seed in range(7):
            path = weights(folder / f"{seed}.safetensors", seed, ruined=seed == 6)
            given = ["--model", "compact", "--weights", str(path)]
            assert call(patch, *RUN, *given, "--output", f"runs/seed-{seed}") == 0
        other = ["--model", "compact", "--weights", str(folder / "4.safetensors"), "--draws", "2"]
        assert call(patch, *RUN, *other, "--output", "runs/drawn") == 0
        assert call(patch, "baseline", "save", *SEEDS, "five") == 0
        assert call(patch, "baseline", "save", "runs/seed-0", "one") == 0
    return folder


@pytest.fixture
def steadymap(steadymap: Command, home: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    monkeypatch.chdir(home)
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    return steadymap


def test_a_baseline_says_how_many_networks_it_holds(steadymap: Command) -> None:
    done = steadymap("baseline", "list")
    assert "five: compact on hands, 5 networks, of each 12 images, " in done.out
    assert "one: compact on hands, 12 images, " in done.out
    assert steadymap("baseline", "show", "five").out.startswith("means over 5 networks\n")


def test_each_network_comes_back_as_its_run_is(home: Path) -> None:
    root = home / "results/baselines"
    five = open_baseline("five", root)
    assert len(five.networks) == 5
    assert open_baseline("one", root).networks == ()
    for network, run in zip(five.networks, SEEDS, strict=True):
        kept = five.manifest["baseline"]["metrics"]
        side = read_side(home / run, kept)
        pd.testing.assert_frame_equal(network.scores, side.scores, check_dtype=False)
        assert network.predictions is not None
        assert side.predictions is not None
        pd.testing.assert_frame_equal(network.predictions, side.predictions, check_dtype=False)


def test_predictions_are_those_of_the_records(home: Path) -> None:
    records, _ = read_run(home / SEEDS[0])
    said = read_side(home / SEEDS[0]).predictions
    assert said is not None
    assert list(said.columns) == COLUMNS
    assert len(said) == 12 * 2
    once = records[records["metric"] == "input_change"]
    for row in said.to_dict("records"):
        mine = once[(once["image_id"] == row["image_id"]) & (once["family"] == row["family"])]
        assert row["pairs"] == len(mine) == 1
        assert row["kept"] == mine["kept"].sum()
        assert {row["label"]} == set(mine["label"])
        assert {row["prediction"]} == set(mine["pred_clean"])
    sure = records[records["metric"] == "clean_probability"].groupby("image_id")["value"].first()
    found = said.groupby("image_id")["probability"].first()
    assert found.to_dict() == pytest.approx(sure.to_dict(), rel=1e-5)
    assert 1 / 3 <= found.min() < found.max() <= 1


def test_the_same_weights_are_held_against_their_own_network(steadymap: Command) -> None:
    done = steadymap("gate", "runs/seed-3", "--baseline", "five", "--output", "out")
    assert done.code == 0
    first = done.out.splitlines()[0]
    assert first.startswith("Question: the same weights as five, of one of its 5 networks.")
    assert "Every prediction is as it was." in done.out


def test_an_honest_training_passes_and_a_ruined_one_does_not(
    steadymap: Command, home: Path
) -> None:
    done = steadymap("gate", "runs/seed-5", "--baseline", "five", "--output", "out")
    assert done.code == 0, done.out
    assert done.out.startswith("Question: a new training. Is this network as good as one more of")
    assert "is found in 80%" in done.out
    done = steadymap("gate", "runs/seed-6", "--baseline", "five", "--output", "out")
    assert done.code == 1
    assert "FAIL network / accuracy" in done.out
    assert "The network fell: what improved in its maps is not counted." in done.out
    assert "network / accuracy" in (home / "out" / "junit.xml").read_text()
    said = (home / "out" / "comparison.md").read_text()
    assert "Question: a new training." in said
    rows = pd.read_csv(home / "out" / "comparison.csv")
    assert set(rows["family"]) == {"overall", "bias", "gaussian_noise"}
    done = steadymap("gate", "runs/seed-6", "--baseline", "five", "--output", "out", "--no-network")
    assert "network / accuracy" not in done.out
    assert "Maps alone are judged (--no-network)." in done.out.splitlines()[0]


def test_new_weights_and_one_network_need_to_be_allowed(steadymap: Command) -> None:
    given = ["gate", "runs/seed-1", "--baseline", "one", "--output", "out"]
    done = steadymap(*given)
    assert done.code == 2
    assert "which holds one network" in done.err
    done = steadymap(*given, "--allow-one-seed")
    assert done.code == 5
    assert "at 60 images" in done.out.splitlines()[0]
    done = steadymap("compare", "one", "runs/seed-1")
    assert done.code == 0
    assert done.out.startswith("Question: a new training, against one network.")


@pytest.mark.parametrize(
    ("runs", "text"),
    [
        (SEEDS[:2], "2 runs do not say how far trainings of one recipe lie apart"),
        ([*SEEDS, SEEDS[1]], "seed-1 and seed-1 have the same weights"),
        (
            [*SEEDS[:4], "runs/drawn"],
            "seed-0 and drawn are no trainings of one recipe: draws: 1 and",
        ),
        ([], "give the folder of a run before the name"),
    ],
)
def test_what_is_no_recipe_is_refused(steadymap: Command, runs: list[str], text: str) -> None:
    done = steadymap("baseline", "save", *runs, "wrong")
    assert done.code == 2
    assert text in done.err
    assert done.err.count("\n") == 1
    assert steadymap("baseline", "show", "wrong").code == 4


def copied(home: Path, tmp_path: Path) -> Path:
    shutil.copytree(home / "results/baselines/five", tmp_path / "five")
    return tmp_path / "five"


def test_a_baseline_that_lost_a_network_is_refused(home: Path, tmp_path: Path) -> None:
    folder = copied(home, tmp_path)
    shutil.rmtree(folder / "network-3")
    with pytest.raises(ConfigError, match="network-3 holds neither"):
        open_baseline("five", tmp_path)
    shutil.copytree(folder / "network-2", folder / "network-3")
    with pytest.raises(ConfigError, match="network-3 is of another baseline: save five again"):
        open_baseline("five", tmp_path)


@pytest.mark.parametrize("folder", [".", "network-4"])
def test_predictions_that_were_edited_are_refused(home: Path, tmp_path: Path, folder: str) -> None:
    path = copied(home, tmp_path) / folder / PREDICTIONS
    text = path.read_text()
    path.write_text(text.replace(",1,1\n", ",0,1\n", 1))
    assert path.read_text() != text
    with pytest.raises(ConfigError, match="is not what was saved"):
        open_baseline("five", tmp_path)
    path.unlink()
    with pytest.raises(ConfigError, match="is gone: save the baseline again"):
        open_baseline("five", tmp_path)


def test_a_baseline_of_fewer_networks_leaves_none_behind(home: Path, tmp_path: Path) -> None:
    folder = copied(home, tmp_path)
    save_baseline(home / SEEDS[0], "five", tmp_path)
    assert sorted(path.name for path in folder.iterdir()) == [
        "manifest.json", "predictions.csv", "scores.csv",
    ]  # fmt: skip
    assert open_baseline("five", tmp_path).networks == ()


def test_one_from_before_predictions_is_judged_on_maps_alone(
    steadymap: Command, home: Path
) -> None:
    root = home / "results/baselines"
    write_side(replace(open_baseline("one", root), predictions=None), root / "old")
    assert not (root / "old" / PREDICTIONS).exists()
    done = steadymap("gate", "runs/seed-0", "--baseline", "old", "--output", "out")
    assert done.code == 0
    assert "renew it: steadymap baseline save RUN old" in done.out.splitlines()[0]
    assert "network / " not in done.out
