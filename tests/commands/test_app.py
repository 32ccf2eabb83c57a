"""The command line as a user meets it: outputs, files and exit codes."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import math
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from support import CLASSES, Command, console, conv_network, random_images, write_noise

from steadymap.bench.checks.registry import CHECKS
from steadymap.bench.commands import run as running
from steadymap.bench.methods.baselines import BASELINES
from steadymap.bench.methods.batch import Batch
from steadymap.bench.methods.method import Method
from steadymap.bench.methods.registry import METHODS
from steadymap.bench.network import memory
from steadymap.bench.network.memory import SMALL_ACTIVATIONS
from steadymap.bench.perturbations.registry import PERTURBATIONS, Perturbation
from steadymap.bench.records.read import read_run
from steadymap.bench.records.schema import SCHEMA
from steadymap.bench.records.vocabulary import INPUT_METRICS, REFERENCES
from steadymap.metrics import METRICS, Maps, Metric, evaluate
from steadymap.models import MODELS, Classifier, load_classifier, write_weights

QUICK = ["--limit", "3", "--method", "gradient", "--family", "bias", "--severity", "0.1"]
# Nothing beside what was asked for: no controls, no null maps.
QUICK += ["--no-controls", "--nulls", "0", "--no-report"]


def test_a_run_leaves_records_manifest_summary_and_a_table(
    steadymap: Command, tmp_path: Path
) -> None:
    done = steadymap("run", *QUICK, "--output", "here", "--verbose")
    assert done.code == 0, done.err
    assert "ssim" in done.out
    assert "gradient" in done.out
    assert "compact on hands (test): 3 images x 2 views x 1 methods" in done.err
    folder = tmp_path / "here"
    assert {path.name for path in folder.iterdir()} == {
        "records.parquet", "manifest.json", "summary.csv", "timings.csv", "ledger.json", "parts",
        "run.lock",
    }  # fmt: skip
    records, manifest = read_run(folder)
    assert list(records.columns) == SCHEMA.names
    assert manifest["complete"]
    assert manifest["run_id"] == records["run_id"][0]
    assert manifest["configuration"]["limit"] == 3
    assert set(manifest["data"]["pictures"]) == set(records["image_id"])
    assert manifest["statuses"] == {"ok": len(records)}
    assert set(manifest["versions"]) >= {"python", "torch", "captum", "steadymap"}
    for key in ("git", "machine", "seed", "severities", "wall_seconds", "schema_version"):
        assert key in manifest
    assert len(manifest["model"]["weights_sha256"]) == 64
    assert str(tmp_path) not in (folder / "manifest.json").read_text()
    summary = pd.read_csv(folder / "summary.csv")
    rows = summary.query("metric == 'ssim' and subset == 'all'").set_index("family")["mean"]
    shown = rows["bias"]
    assert rows["overall"] == shown, "it is the one family there is"
    assert f"{shown:.2f}" in done.out


def test_a_run_with_nulls_calibrates_and_has_the_controls_below(
    steadymap: Command, tmp_path: Path
) -> None:
    done = steadymap(
        "run", "--limit", "6", "--steps", "4", "--family", "bias", "--family", "compensated_bias",
        "--family", "shifted_network", "--severity", "0.2", "--nulls", "2", "--no-admission",
        "--output", "here", "--verbose",
    )  # fmt: skip
    assert done.code == 0, done.err
    folder = tmp_path / "here"
    names = {path.name for path in folder.iterdir()}
    assert names >= {"calibrated.csv", "ranks.csv", "whose_fault.csv", "ranks-ssim.svg"}
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["images_at_once"] == 32
    calibrated = pd.read_csv(folder / "calibrated.csv")
    best = calibrated.query("metric == 'ssim' and family == 'overall'")["calibrated"].max()
    first, rest = done.out.split("ssim: structural similarity", 1)
    assert f"{best:.2f}" in first
    for control in ("constant", "random", "edge", "centre_blob", "another image's map"):
        assert first.index(f"control: {control}") > first.index("grad_cam")
    assert "uninformative" in first
    assert "degenerate" in first
    assert "whose fault" in rest
    assert "score = (mean score - null) / (perfect score - null) over pairs" in rest
    assert "by chance" in rest
    assert "other seed: the calibrated score of clean maps under two seeds" in rest
    assert "every method is ranked" in rest
    share = pd.read_csv(folder / "whose_fault.csv").query(
        "metric == 'ssim' and method == 'gradient_x_input' and severity.isna()"
    )
    assert f"{share['network_share'].item():.2f}" in rest


def test_check_prints_what_passed_and_fails_for_a_wrong_method(
    steadymap: Command, tmp_path: Path
) -> None:
    done = steadymap("check", "gradient", "edge")
    assert done.code == 0, done.err
    assert "16 passed" in done.out
    assert "not complete" in done.out
    assert "2 methods, 20 checks" in done.out
    # A user's own method, as a function and as an entry with its promises.
    (tmp_path / "my_methods.py").write_text(
        "from steadymap.bench import METHODS, Method\n"
        "def good(classifier, batch, *, scale=2):\n"
        "    'Twice the gradient.'\n"
        "    return scale * METHODS['gradient'].explain(classifier, batch)\n"
        "def mixed(classifier, batch):\n"
        "    return METHODS['gradient'].explain(classifier, batch).roll(1, 0)\n"
        "liar = Method(good, '', '', lambda _: frozenset({'signed', 'stochastic'}))\n"
        "number = 3\n"
    )
    assert steadymap("check", "my_methods.good").code == 0
    done = steadymap("check", "my_methods.mixed")
    assert done.code == 1
    assert "FAILED" in done.out
    assert "batching" in done.out
    done = steadymap("check", "my_methods.liar")
    assert done.code == 1
    assert "declared stochastic, but the map stays as it is" in done.out
    assert "not declared shift_invariant, but the map stays" in done.out
    done = steadymap("run", *QUICK, "--method", "my_methods.good:scale=3", "--output", "own")
    assert done.code == 0, done.err
    own = read_run(tmp_path / "own")[0]
    assert set(own["method"]) == {"gradient", "my_methods.good:scale=3", "input"}
    for spec, message in {
        "my_methods.none": "method: my_methods has no 'none'",
        "my_methods.number": "my_methods:number: is int, expected a function",
        "no_such.thing": "cannot import 'no_such'",
    }.items():
        done = steadymap("check", spec)
        assert done.code == 2
        assert message in done.err


def test_a_second_time_the_records_are_the_same(steadymap: Command, tmp_path: Path) -> None:
    steadymap("run", *QUICK, "--output", "here")
    first, _ = read_run(tmp_path / "here")
    assert steadymap("run", *QUICK, "--output", "here").code == 0
    second, _ = read_run(tmp_path / "here")
    pd.testing.assert_frame_equal(first, second)


def test_without_output_the_folder_is_named_after_the_run(
    steadymap: Command, tmp_path: Path
) -> None:
    assert steadymap("run", *QUICK).code == 0
    (folder,) = (tmp_path / "runs").iterdir()
    assert re.fullmatch(r"hands-compact-[0-9a-f]{8}", folder.name)
    assert read_run(folder)[1]["run_id"] == folder.name


def test_a_configuration_file_and_flags_over_it(steadymap: Command, tmp_path: Path) -> None:
    settings = {
        "limit": 2,
        "nulls": 0,
        "controls": False,
        "method": ["gradient"],
        "family": ["bias", "gaussian_noise"],
        "severity": {"bias": [-0.1, 0.1], "gaussian_noise": [0.1]},
        "metric": ["spearman"],
        "output": "from-file",
    }
    (tmp_path / "x.yaml").write_text(yaml.safe_dump(settings))
    assert steadymap("run", "--config", "x.yaml").code == 0
    assert steadymap(
        "run", "--config", "x.yaml", "--output", "flags", "--severity", "bias=-0.3",
        "--draws", "2", "--batch-size", "1", "--threads", str(torch.get_num_threads()),
    ).code == 0  # fmt: skip
    assert read_run(tmp_path / "from-file")[1]["severities"]["bias"] == [-0.1, 0.1]
    records, manifest = read_run(tmp_path / "flags")
    assert manifest["severities"] == {"bias": [-0.3], "gaussian_noise": [0.1]}
    assert set(records["draw"]) == {0, 1}
    assert set(records["metric"]) == {"spearman", *INPUT_METRICS}


def test_saved_maps_give_the_scores_again(steadymap: Command, tmp_path: Path) -> None:
    done = steadymap(
        "run", "--limit", "5", "--method", "gradient_x_input", "--method", "grad_cam",
        "--method", "integrated_gradients:baseline=white,steps=4",
        "--family", "bias", "--family", "gaussian_noise", "--severity", "0.1,0.2",
        "--draws", "2", "--batch-size", "2", "--save-maps", "--output", "here", "--nulls", "1",
    )  # fmt: skip
    assert done.code == 0, done.err
    records, _ = read_run(tmp_path / "here")
    folder = tmp_path / "here" / "maps"
    index = pd.read_csv(folder / "index.csv")
    key = ["image_id", "family", "severity", "draw"]
    records = records[~records["family"].isin(REFERENCES)]
    in_order = records.astype({"image_id": str, "family": str})[key].drop_duplicates()
    assert index[key].to_numpy().tolist() == in_order.to_numpy().tolist()
    images = load_file(folder / "images.safetensors")["images"]
    assert images.shape == (5 * 7, 3, 64, 64)
    rows = index.set_index(key)["row"]
    for path in sorted(folder.glob("gra*.safetensors")):
        with safe_open(path, framework="pt") as file:
            spec = file.metadata()["method"]
            maps = Maps.from_attributions(file.get_tensor("attributions").numpy())
        for metric in ("ssim", "spearman", "relative_l2"):
            chosen = records[(records["method"] == spec) & (records["metric"] == metric)]
            assert len(chosen) == 5 * 6
            here = [rows[tuple(row)] for row in chosen[key].to_numpy()]
            clean = [rows[(image_id, "clean", 0.0, 0)] for image_id in chosen["image_id"]]
            again = evaluate(METRICS[metric], Maps(maps.signed[clean]), Maps(maps.signed[here]))
            np.testing.assert_array_equal(again.values, chosen["value"])
    path = folder / "integrated_gradients-baseline=white-steps=4.safetensors"
    stored = load_file(path)
    maps = Maps.from_attributions(stored["attributions"].numpy())
    masks = np.repeat(load_file(folder / "images.safetensors")["masks"].numpy(), 7, axis=0)
    for metric, against in (("completeness_error", stored["deltas"].numpy()), ("mask_mass", masks)):
        chosen = records[
            records["method"].str.startswith("integrated") & (records["metric"] == metric)
        ]
        here = [rows[tuple(row)] for row in chosen[key].to_numpy()]
        again = evaluate(METRICS[metric], maps, against)
        np.testing.assert_array_equal(again.values[here], chosen["value"])
    change = records[records["metric"] == "input_change"]
    here = [rows[tuple(row)] for row in change[key].to_numpy()]
    clean = [rows[(image_id, "clean", 0.0, 0)] for image_id in change["image_id"]]
    realised = (images[here] - images[clean]).double().square().mean(dim=(1, 2, 3)).sqrt()
    np.testing.assert_array_equal(realised.numpy(), change["value"])


def write_folder(root: Path, classes: tuple[str, ...]) -> None:
    for label, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for index in range(30):
            image = random_images(1, 24, seed=100 * label + index)[0].numpy().transpose(1, 2, 0)
            level = (60 * image + 90 * label).astype(np.uint8)
            Image.fromarray(level).save(root / name / f"{name}-{index}.png")


def test_train_then_run_on_one_s_own_pictures(steadymap: Command, tmp_path: Path) -> None:
    write_folder(tmp_path / "data", ("dark", "grey", "pale"))
    done = steadymap("train", "--data", "folder:data", "--epochs", "2", "--output", "w.safetensors")
    assert done.code == 0, done.err
    assert "epoch 2/2" in done.err
    card = json.loads((tmp_path / "w.json").read_text())
    assert card["class_names"] == ["dark", "grey", "pale"]
    assert sum(split["images"] for split in card["splits"].values()) == 90
    assert card["recipe"] == {"epochs": 2, "batch_size": 32, "learning_rate": 0.001, "seed": 0}
    assert set(card["accuracy"]) == {"train", "validation", "test"}
    assert [set(epoch) for epoch in card["curve"]] == [{"loss", "train", "validation"}] * 2
    assert card["curve"][-1]["validation"] == card["accuracy"]["validation"]
    assert card["sha256"] == hashlib.sha256((tmp_path / "w.safetensors").read_bytes()).hexdigest()
    (tmp_path / "data" / "dark" / "broken.png").write_text("no picture")
    done = steadymap(
        "run", *QUICK, "--weights", "w.safetensors", "--data", "folder:data", "--split", "all",
        "--limit", "91", "--output", "here",
    )  # fmt: skip
    assert done.code == 0, done.err
    records, manifest = read_run(tmp_path / "here")
    assert [entry["name"] for entry in manifest["data"]["excluded"]] == ["dark/broken.png"]
    assert "excluded: dark/broken.png" in done.err
    assert "the all split has 90 usable images of 91" in done.err
    assert str(tmp_path) not in (tmp_path / "here" / "manifest.json").read_text()
    configuration = manifest["configuration"]
    assert (configuration["data"], configuration["weights"]) == ("folder:data", "w.safetensors")
    assert manifest["model"]["class_names"] == ["dark", "grey", "pale"]
    assert set(records["label"]) == {0, 1, 2}


def test_a_network_is_trained_for_the_classes_that_the_data_has(
    steadymap: Command, tmp_path: Path
) -> None:
    write_folder(tmp_path / "two", ("dark", "pale"))
    assert steadymap("train", "--data", "folder:two", "--epochs", "1").code == 0
    weights = "runs/compact-two.safetensors"
    done = steadymap("run", *QUICK, "--data", "folder:two", "--weights", weights)
    assert done.code == 0, done.err


def test_a_recipe_says_what_to_train_and_flags_override_it(
    steadymap: Command, tmp_path: Path
) -> None:
    write_folder(tmp_path / "two", ("dark", "pale"))
    lines = "data: folder:two", "epochs: 1", "batch_size: 8", "learning_rate: 2e-3", "seed: 5"
    (tmp_path / "recipe.yaml").write_text("\n".join(lines))
    for flags, seed in (((), 5), (("--seed", "6"), 6)):
        name = f"w{seed}.safetensors"
        done = steadymap("train", "--recipe", "recipe.yaml", *flags, "--output", name)
        assert done.code == 0, done.err
        card = json.loads((tmp_path / f"w{seed}.json").read_text())
        recipe = {"epochs": 1, "batch_size": 8, "learning_rate": 0.002, "seed": seed}
        assert card["recipe"] == recipe
        assert card["data"] == "folder:two"


def test_the_curve_holds_the_loss_that_was_minimised(steadymap: Command, tmp_path: Path) -> None:
    """With a step too small to learn anything the loss is that of the initial weights."""
    write_folder(tmp_path / "two", ("dark", "pale"))
    tiny = "--learning-rate", "1e-12", "--epochs", "2", "--output", "w.safetensors"
    assert steadymap("train", "--data", "folder:two", *tiny).code == 0
    card = json.loads((tmp_path / "w.json").read_text())
    first, second = (epoch["loss"] for epoch in card["curve"])
    assert first == pytest.approx(math.log(2), abs=0.05)
    # The flips are drawn anew.
    assert second == pytest.approx(first, abs=0.002)


def test_groups_of_a_table_reach_intervals_page_and_manifest(
    steadymap: Command, tmp_path: Path
) -> None:
    names = [f"{number}.png" for number in range(6)]
    for number, name in enumerate(names):
        write_noise(tmp_path / name, number)
    rows = [f"{name},{'rock' if n % 2 else 'paper'}" for n, name in enumerate(names)]
    lines = [f"{row},{'anna' if n < 4 else 'ben'}" for n, row in enumerate(rows)]
    (tmp_path / "t.csv").write_text("\n".join(["path,label,group", *lines]))
    command = ["run", "--data", "csv:t.csv", "--split", "all", "--method", "gradient"]
    command += ["--family", "bias", "--severity", "0.1", "--no-controls", "--no-admission"]
    done = steadymap(*command, "--nulls", "1", "--output", "grouped", "--verbose")
    assert done.code == 0, done.err
    said = "95% intervals over 2 groups of 6 images; of randomised networks there is 1"
    assert said in " ".join(done.out.split())
    assert "below 30 groups the intervals are rough" in done.out
    assert said in (tmp_path / "grouped" / "report.html").read_text()
    _, manifest = read_run(tmp_path / "grouped")
    groups, pictures = manifest["data"]["groups"], manifest["data"]["pictures"]
    assert {pictures[image]: group for image, group in groups.items()} == dict(
        zip(names, ["anna"] * 4 + ["ben"] * 2, strict=True)
    )
    # The same maps, and intervals that take each image for a subject.
    (tmp_path / "t.csv").write_text("\n".join(["path,label", *rows]))
    assert steadymap(*command, "--nulls", "1", "--output", "plain", "--no-report").code == 0
    _, other = read_run(tmp_path / "plain")
    assert (other["run_id"], "groups" in other["data"]) == (manifest["run_id"], False)
    alone, together = (
        pd.read_csv(tmp_path / name / "calibrated.csv") for name in ("plain", "grouped")
    )
    scores = alone["calibrated"].tolist()
    assert together["calibrated"].tolist() == pytest.approx(scores, nan_ok=True)
    ends = alone["interval"] == "jackknife"
    assert ends.any()
    assert (together["low"][ends] != alone["low"][ends]).all()


def test_masks_by_colour_make_mask_mass_possible(steadymap: Command, tmp_path: Path) -> None:
    write_folder(tmp_path / "two", ("dark", "pale"))
    for path in (tmp_path / "two").rglob("*.png"):
        pixels = np.asarray(Image.open(path)).copy()
        pixels[:, :12] = 30, 150, 60
        pixels[:, 12:] = pixels[:, 12:, :1]
        Image.fromarray(pixels).save(path)
    wanted = ["run", "--metric", "mask_mass", "--metric", "ssim", "--method", "gradient"]
    wanted += ["--family", "bias", "--severity", "0.1", "--limit", "9", "--data", "folder:two"]
    assert steadymap("train", "--data", "folder:two", "--epochs", "1").code == 0
    wanted += ["--weights", "runs/compact-two.safetensors", "--split", "all", "--output", "here"]
    without = steadymap(*wanted)
    assert without.code == 2
    assert "this data has no masks (hands has; see `steadymap list masks`)" in without.err
    done = steadymap(*wanted, "--mask", "green_screen")
    assert done.code == 0, done.err
    records, manifest = read_run(tmp_path / "here")
    assert manifest["configuration"]["mask"] == "green_screen"
    blob = records[(records["method"] == "centre_blob") & (records["metric"] == "mask_mass")]
    # A blob in the middle of a picture whose left half is screen, a blended column more of it.
    np.testing.assert_allclose(blob["value"], 0.5, atol=0.03)
    assert len(blob) == 18


def test_training_that_diverges_writes_no_weights(steadymap: Command, tmp_path: Path) -> None:
    write_folder(tmp_path / "two", ("dark", "pale"))
    done = steadymap("train", "--data", "folder:two", "--epochs", "2", "--learning-rate", "1e30")
    assert done.code == 2
    assert "training diverged at 1e+30" in done.err
    assert not list((tmp_path / "runs").iterdir())


def test_the_version(steadymap: Command) -> None:
    assert steadymap("--version").out.strip() == importlib.metadata.version("steadymap")


def test_training_is_repeatable_and_overwrites_nothing(steadymap: Command, tmp_path: Path) -> None:
    write_folder(tmp_path / "data", ("dark", "grey", "pale"))
    train = ["train", "--data", "folder:data", "--epochs", "1", "--output"]
    for name in ("one.safetensors", "two.safetensors"):
        assert steadymap(*train, name).code == 0
    one, two = (load_file(tmp_path / f"{name}.safetensors") for name in ("one", "two"))
    assert all(torch.equal(one[name], two[name]) for name in one)
    done = steadymap(*train, "one.safetensors")
    assert (done.code, "one.safetensors exists" in done.err) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "hand"], "unknown experiment 'hand'; did you mean hands?"),
        (["run", "--method", "gradiant"], "unknown method 'gradiant'; did you mean gradient?"),
        (["run", "--family", "bais"], "unknown family 'bais'; did you mean bias?"),
        (["run", "--metric", "sim"], "unknown metric 'sim'; did you mean ssim?"),
        (["run", "--config", "key.yaml"], "unknown key 'limti'; did you mean limit?"),
        (["run", "--config", "no.yaml"], "config: cannot read no.yaml"),
        (["run", "hands", "--config", "key.yaml"], "not both"),
        (["run", "--data", "folder:nowhere"], "no such folder: nowhere"),
        (["run", "--data", "folder:empty"], "no images under empty"),
        (["run", "--data", "folder:single"], "single has one class (cat)"),
        (["run", "--model", "compakt"], "unknown name 'compakt'; did you mean compact?"),
        (["run", "--weights", "other.safetensors"], "other.safetensors does not fit HandNetwork"),
        (["run", "--weights", "no.safetensors"], "no such file: no.safetensors"),
        (["run", "--limit", "0"], "limit: Input should be greater than or equal to 1, got 0"),
        (["run", "--severity", "1.5"], "severity: bias takes -1 to 1 in image units, got 1.5"),
        (["run", "--severity", "bias=9"], "severity: bias takes -1 to 1 in image units, got 9"),
        (["run", "--severity", "lots"], "expected numbers like 0.1,0.3, got 'lots'"),
        (["run", "--severity", "0.1", "--severity", "bias=0.1"], "give one list for all families"),
        (["run", "--family", "bias", "--severity", "uniform_noise=0.1"], "does not run here"),
        (["run", "--device", "cuda"], "torch sees no CUDA device here"),
        (["run", "--device", "gpu"], "device: unknown name 'gpu'"),
        (["run", "--device", "meta"], "device: 'meta' is not supported"),
        (["run", "--split", "tset"], "unknown name 'tset'; did you mean test?"),
        (["run", *QUICK, "--output", "other"], "other already holds files that are not of"),
        (["run", *QUICK, "--output", "single"], "single already holds files that are not of this"),
        (["run", *QUICK, "--output", "key.yaml"], "cannot make the folder key.yaml"),
        (["run", "--method", "gradient", "--metric", "completeness_error"], "cannot be had here"),
        (["train", "--model", "compakt"], "'compakt' to train; did you mean compact?"),
        (["train", "--recipe", "no.yaml"], "config: cannot read no.yaml"),
        (["train", "--recipe", "key.yaml"], "unknown key 'limti'; known: model, data"),
        (["train", "--epochs", "0"], "epochs: Input should be greater than or equal to 1, got 0"),
        (["train", "--learning-rate", "0"], "learning_rate: Input should be greater than 0"),
        (["train", "--output", "w.pt"], "weights are written as .safetensors, got w.pt"),
        (["train", "--data", "folder:lacking"], "folder:lacking has no training image of pale"),
        (["train", "--output", "key.yaml/w.safetensors"], "cannot make the folder key.yaml"),
        (["train", "--output", "card.safetensors"], "card.json exists; choose another"),
        (["run", "--metric", "input_change"], "unknown metric 'input_change'"),
        (["list", "metric"], "unknown list 'metric'; did you mean metrics?"),
        (["run", "--steps", "many"], "steps: "),
        (["run", "--steps", "auto", "--engine", "captum"], "captum has no steps=auto"),
        (["run", "--precision", "half"], "precision: Input should be 'ieee' or 'tf32', got 'half'"),
        (["run", "--jobs", "0"], "jobs: Input should be greater than or equal to 1, got 0"),
        (["time", "--device", "gpu"], "device: unknown name 'gpu'"),
        (["time", "--method", "gradiant"], "unknown method 'gradiant'; did you mean gradient?"),
        (["time", "--model", "compakt"], "unknown name 'compakt'; did you mean compact?"),
        (["time", "--output", "t.txt"], "figures are written as .json, got t.txt"),
        (["time", "--output", "key.yaml/t.json"], "cannot make the folder key.yaml"),
    ],
)  # fmt: skip
def test_a_mistake_gives_one_line_and_exit_code_2(
    steadymap: Command, tmp_path: Path, arguments: list[str], message: str
) -> None:
    if "cuda" in arguments and torch.cuda.is_available():
        pytest.skip("there is a CUDA device here")
    (tmp_path / "key.yaml").write_text("limti: 3\n")
    for name in ("empty", "single/cat", "other"):
        (tmp_path / name).mkdir(parents=True)
    Image.new("RGB", (4, 4)).save(tmp_path / "single" / "cat" / "x.png")
    (tmp_path / "other" / "manifest.json").write_text('{"run_id": "hands-other-00000000"}')
    write_weights(tmp_path / "other.safetensors", conv_network(), CLASSES)
    (tmp_path / "card.json").write_text("{}")
    write_folder(tmp_path / "lacking", ("dark", "pale"))
    for path in (tmp_path / "lacking" / "pale").iterdir():
        if path.stem != "pale-1":  # which is in the validation split
            path.unlink()
    before = sorted(tmp_path.rglob("*"))
    done = steadymap(*arguments)
    assert done.code == 2
    assert message in done.err
    assert done.out == ""
    (line,) = done.err.splitlines()
    assert line.startswith("steadymap: ")
    left = set(tmp_path.rglob("*")) - set(before) - {tmp_path / "runs"}
    assert not left, "a mistake leaves nothing behind"


def test_a_dry_run_estimates_and_leaves_nothing(steadymap: Command, tmp_path: Path) -> None:
    done = steadymap("run", *QUICK, "--dry-run", "--jobs", "1")
    assert done.code == 0, done.err
    # Three images, two views, one pass each; no baseline, because nothing is complete.
    assert re.search(r"forward passes of an image +6 *\n", done.out)
    assert re.search(r"backward passes of an image +6 *\n", done.out)
    assert "peak memory" in done.out
    assert not list(tmp_path.iterdir())


def test_steps_as_needed_are_recorded(steadymap: Command, tmp_path: Path) -> None:
    quick = [*QUICK[:2], "--method", "integrated_gradients", *QUICK[4:]]
    done = steadymap("run", *quick, "--steps", "auto", "--output", "here")
    assert done.code == 0, done.err
    records, manifest = read_run(tmp_path / "here")
    assert manifest["methods"] == ["integrated_gradients:baseline=black,steps=auto"]
    assert (records[records["metric"] == "steps"]["value"] >= 9).all()


def test_where_the_time_of_a_run_went_is_kept(steadymap: Command, tmp_path: Path) -> None:
    assert steadymap("run", *QUICK, "--jobs", "1", "--output", "here").code == 0
    timings = pd.read_csv(tmp_path / "here" / "timings.csv")
    columns = ["machine", "batch", "family", "severity", "draw", "part", "images", "seconds"]
    assert list(timings.columns) == columns
    assert set(timings["part"]) == {"shared pass", "gradient", "metrics"}
    assert timings.groupby("part")["images"].sum().tolist() == [6, 6, 6]
    manifest = json.loads((tmp_path / "here" / "manifest.json").read_text())
    assert (manifest["images_at_once"], manifest["halved_for_memory"]) == (32, 0)
    assert manifest["configuration"]["jobs"] == 1
    assert manifest["peak_memory_bytes"]["resident"] > 2**20


def test_small_networks_get_a_worker_a_thread_and_large_ones_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    small = load_classifier("compact")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert running.jobs_for(small, 60) == 3
    assert running.jobs_for(small, 2) == 2
    monkeypatch.setattr(memory, "activation_bytes", lambda _classifier: SMALL_ACTIVATIONS + 1)
    assert running.jobs_for(small, 60) == 1


def test_time_prints_a_table_and_keeps_the_figures(steadymap: Command, tmp_path: Path) -> None:
    methods = ["--method", "gradient", "--method", "integrated_gradients:steps=2"]
    quick = ["--batch-size", "1", "--repeats", "2", "--device", "cpu"]
    done = steadymap("time", *methods, *quick, "--output", "t.json")
    assert done.code == 0, done.err
    assert "gradient" in done.out
    assert "fingerprint" in done.out
    found = json.loads((tmp_path / "t.json").read_text())
    assert [(row["forward"], row["backward"]) for row in found["rows"]] == [(1, 1), (2, 2)]
    for row in found["rows"]:
        assert row["fresh"]["seconds"] > 0
        assert row["fresh"]["peak"]["resident"] >= row["fresh"]["before"]["resident"]
    assert not found["agreement"]


def test_failed_cells_give_exit_code_3_and_keep_the_rest(
    steadymap: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_classifier: Classifier, _batch: Batch) -> torch.Tensor:
        raise RuntimeError("not today")

    monkeypatch.setitem(METHODS, "broken", Method(broken, "", ""))
    done = steadymap("run", *QUICK, "--method", "broken", "--output", "here")
    assert done.code == 3
    assert "values failed" in done.err
    assert "RuntimeError" in read_run(tmp_path / "here")[0]["detail"].astype(str).str.cat()
    assert "gradient" in done.out


def test_list_shows_every_registered_thing(steadymap: Command) -> None:
    done = steadymap("list")
    assert done.code == 0
    for name in [*METHODS, *METRICS, *PERTURBATIONS, *MODELS, *CHECKS, "hands", "folder:PATH"]:
        assert name in done.out
    for name, baseline in BASELINES.items():
        assert name in done.out
        assert baseline.summary
    entries: list[Method | Metric | Perturbation] = [*METHODS.values(), *METRICS.values()]
    for entry in [*entries, *PERTURBATIONS.values()]:
        assert entry.summary
        assert entry.source or (isinstance(entry, Method) and entry.control)
    metrics_alone = steadymap("list", "metrics").out
    assert "kendall" in metrics_alone
    assert "grad_cam" not in metrics_alone


def test_the_console_script_is_installed() -> None:
    done = console("run", "--limit", "0")
    assert done.returncode == 2
    said = "steadymap: limit: Input should be greater than or equal to 1, got 0"
    assert done.stderr.strip() == said
