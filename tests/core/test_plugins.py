"""Plug-ins: installed, named, broken, gone."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import shutil
import sys
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file
from support import COUNT, ROOT, SIDE, image_set, pick, python, random_images, small_plan
from torch import Tensor

from steadymap.bench.analysis.findings import Findings
from steadymap.bench.core import metric_registry, plugins
from steadymap.bench.core.errors import ConfigError, PluginError
from steadymap.bench.core.metric_registry import METRIC_SHELF, describe, known_metrics
from steadymap.bench.core.plugins import Shelf
from steadymap.bench.measure.runner import run
from steadymap.bench.methods.binding import METHOD_SHELF, bind_method
from steadymap.bench.methods.registry import METHODS
from steadymap.bench.network.loading import load_model
from steadymap.bench.network.model_shelf import MODEL_SHELF
from steadymap.bench.perturbations.apply import attempt
from steadymap.bench.perturbations.cell import Cell
from steadymap.bench.perturbations.registry import FAMILY_SHELF, PERTURBATIONS
from steadymap.bench.plan.experiment import make_experiment
from steadymap.bench.plan.identity import run_id
from steadymap.bench.plan.plan import Plan
from steadymap.bench.records.read import read_run
from steadymap.bench.records.schema import perturbed_images
from steadymap.bench.records.vocabulary import INPUT_METRICS, MARGIN_NAMES, STEPS, base_metric
from steadymap.bench.report.terminal import footnotes, tables
from steadymap.metrics import METRICS, Maps, Metric, TensorMaps, evaluate
from steadymap.metrics.faithfulness import Responses
from steadymap.models import Classifier, ModelError

HERE = ROOT / "tests"
GOOD, BROKEN = HERE / "plugin", HERE / "broken_plugin"
DOCS = HERE.parent / "docs" / "plugins.md"

# Runs one command after the other in one process, and says of each what came of it.
DRIVER = """
import contextlib, io, json, sys
from steadymap.bench.commands.app import main
done = []
for arguments in json.loads(sys.argv[1]):
    out, err, code = io.StringIO(), io.StringIO(), 0
    sys.argv = ["steadymap", *arguments]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as left:
            code = left.code or 0
    loaded = sorted(name for name in sys.modules if name.startswith(("steadymap_", "own_")))
    done.append((code, out.getvalue(), err.getvalue(), loaded))
sys.__stdout__.write(json.dumps(done))
"""
BUILD = "import sys; from setuptools.build_meta import build_wheel; build_wheel(sys.argv[1])"


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str
    loaded: list[str]


def install(source: Path, site: Path, scratch: Path, **renamed: str) -> Path:
    """Build a wheel as pip would, without network, and unpack it."""
    copied = scratch / site.name / source.name
    shutil.copytree(source, copied)
    project = copied / "pyproject.toml"
    for old, new in renamed.items():
        project.write_text(project.read_text().replace(old.replace("_", "-"), new))
    built = python(BUILD, str(copied.parent), cwd=copied)
    assert built.returncode == 0, built.stderr
    (wheel,) = copied.parent.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    wheel.unlink()
    return site


def commands(folder: Path, path: Sequence[Path], *calls: Sequence[str]) -> list[Done]:
    """Run commands in a folder, with distributions on the path."""
    known = [*map(str, path), *filter(None, [os.environ.get("PYTHONPATH")])]
    done = python(DRIVER, json.dumps(calls), cwd=folder, PYTHONPATH=os.pathsep.join(known))
    assert done.returncode == 0, done.stderr
    return [Done(*each) for each in json.loads(done.stdout)]


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return the folders into which the good and the broken distribution are installed."""
    home = tmp_path_factory.mktemp("sites")
    scratch = tmp_path_factory.mktemp("scratch")
    return install(GOOD, home / "good", scratch), install(BROKEN, home / "broken", scratch)


TINY = ["--model", "tiny", "--limit", "3", "--seed", "5", "--no-report"]
ALL_THREE = ["--method", "gradient_power", "--method", "gradient", "--family", "vignette"]
ALL_THREE += ["--severity", "0.3", "--metric", "sign_agreement", "--metric", "spearman"]
# Three images decide nothing.
UNDECIDED = "--allow-undecided"
BARE = ["--no-controls", "--nulls", "0"]
FAILING = [
    *("--method", "method_raises", "--method", "method_none", "--method", "gradient"),
    *("--family", "family_raises", "--family", "bias", "--severity", "0.2"),
    *("--metric", "metric_raises", "--metric", "spearman"),
]
ASKED = {
    "method": ("unimportable", "number", "other_arguments", "promises_nonsense", "with.dot"),
    "family": ("a_class", "no_bounds", "overall"),
    "metric": ("exits", "upside"),
    "model": ("no_model", "returns_none"),
}
LISTS = ("methods", "families", "metrics", "models")


@dataclass(frozen=True)
class Used:
    folder: Path
    lists: dict[str, Done]
    check: Done
    runs: dict[str, Done]
    asked: dict[str, Done]
    doctor: Done


@pytest.fixture(scope="module")
def used(sites: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Used:
    """Use both distributions in one process after another."""
    folder = tmp_path_factory.mktemp("used")
    (folder / "own_things.py").write_text((GOOD / "steadymap_example.py").read_text())
    own = ["--method", "own_things:gradient_power:power=1", "--family", "own_things:vignette"]
    own += ["--metric", "own_things:sign_agreement"]
    runs = {
        "before": [*TINY, *ALL_THREE, "--nulls", "1", "--save-maps"],
        "own": [*TINY, *own, *BARE, "--severity", "own_things:vignette=0.3"],
        "undecided": [*TINY, *own, *BARE],
        "failing": [*TINY[:-1], *FAILING, "--nulls", "1", "--no-controls"],
        "dry": [*TINY, *FAILING, *BARE, "--dry-run"],
    }
    asked = {
        name: ["run", f"--{kind}", name, "--limit", "1"]
        for kind, names in ASKED.items()
        for name in names
    }
    results = commands(
        folder,
        sites,
        *(["run", *flags, "--output", name] for name, flags in runs.items()),
        *(["list", name] for name in LISTS),
        *asked.values(),
        ["doctor", "--no-self-test", "--format", "json"],
        ["check", "gradient_power", "steadymap_example:gradient_power:power=1"],
        ["baseline", "save", "before", "kept", "--metric", "sign_agreement"],
        ["baseline", "save", "own", "own", "--metric", "own_things:sign_agreement"],
    )
    found = iter(results)
    made = {name: next(found) for name in runs}
    lists = {name: next(found) for name in LISTS}
    told = {name: next(found) for name in asked}
    doctor, check = next(found), next(found)
    for saved in found:
        assert saved.code == 0, saved.err
    return Used(folder, lists, check, made, told, doctor)


# --- installed ------------------------------------------------------------------------------------


def test_plug_ins_are_listed_with_their_distribution(used: Used) -> None:
    shown = {
        "methods": "gradient_power Size of the gradient.* steadymap-example 0.1",
        "families": "vignette darker towards the edges.* steadymap-example 0.1",
        "metrics": "sign_agreement share of pixels.*higher is steadymap-example 0.1 better",
        "models": "tiny Return a network of one convolution.* steadymap-example 0.1",
    }
    for name, pattern in shown.items():
        done = used.lists[name]
        assert done.code == 0, done.err
        assert re.search(pattern, " ".join(done.out.split())), done.out
    assert "family_raises" in used.lists["families"].out
    assert "give its severities" in used.lists["families"].out


def test_a_plug_in_is_checked_like_any_other_method(used: Used) -> None:
    assert used.check.code == 0, used.check.out + used.check.err
    assert "gradient_power:power=2.0" in used.check.out
    assert "steadymap_example.gradient_power:power=1.0" in used.check.out
    assert "FAILED" not in used.check.out


def test_a_run_with_plug_ins_has_their_values(used: Used) -> None:
    assert used.runs["before"].code == 0, used.runs["before"].err
    records, manifest = read_run(used.folder / "before")
    spec = "gradient_power:power=2.0"
    assert {spec, "gradient"} < set(records["method"])
    names = {name for name in records["metric"].unique() if not name.startswith(MARGIN_NAMES)}
    assert set(map(base_metric, names)) == {"sign_agreement", "spearman", *INPUT_METRICS}
    assert {"sign_agreement.rank", "sign_agreement.other_image", "spearman.rank"} < names
    maps = used.folder / "before" / "maps"
    images = load_file(maps / "images.safetensors")["images"]
    gradient = load_file(maps / "gradient.safetensors")["attributions"]
    powered = load_file(maps / "gradient_power-power=2.0.safetensors")["attributions"]
    index = pd.read_csv(maps / "index.csv")
    assert index["family"].tolist() == ["clean", "vignette"] * 3
    places = np.linspace(-1, 1, SIDE)
    light = 1 - 0.3 * (places[:, None] ** 2 + places**2) / 2
    np.testing.assert_allclose(images[1::2], images[::2] * light, atol=1e-6)
    np.testing.assert_allclose(powered, gradient**2, rtol=1e-6)
    for method, attributions in {"gradient": gradient, spec: powered}.items():
        found = np.sign(attributions.sum(axis=1, dtype=np.float64))
        expected = (found[::2] == found[1::2]).mean(axis=(1, 2))
        own = pick(records, method=method, metric="sign_agreement", family="vignette")
        np.testing.assert_allclose(own["value"], expected, atol=1e-12)
        assert 0 < expected.min() < 1
    assert manifest["plugins"] == dict.fromkeys(
        ("method gradient_power", "family vignette", "metric sign_agreement", "model tiny"),
        "steadymap-example 0.1",
    )
    assert manifest["model"]["name"] == "tiny"


def test_code_is_used_without_being_installed(used: Used) -> None:
    done = used.runs["own"]
    assert done.code == 0, done.err
    records, manifest = read_run(used.folder / "own")
    method = "own_things.gradient_power:power=1.0"
    assert set(records["method"]) == {method, "input"}
    assert set(records["family"]) == {"own_things:vignette"}
    assert set(manifest["plugins"].values()) == {"your own", "steadymap-example 0.1"}
    rows = pick(records, metric="own_things:sign_agreement", method=method)
    assert (rows["status"] == "ok").all()
    done = used.runs["undecided"]
    assert done.code == 2
    message = "severity: own_things:vignette declares none; give --severity own_things:vignette="
    assert message in done.err


def test_the_template_of_the_docs_is_what_is_installed() -> None:
    text = DOCS.read_text()
    for language, file in {"toml": "pyproject.toml", "python": "steadymap_example.py"}.items():
        first = re.search(rf"```{language}\n(.*?)```", text, re.DOTALL)
        assert first is not None
        assert first[1] == (GOOD / file).read_text()


# --- broken ---------------------------------------------------------------------------------------

REASONS = {
    "unimportable": "ImportError: needs what is not here",
    "missing": "AttributeError: module 'steadymap_broken' has no attribute 'missing'",
    "number": r"TypeError: is int, expected a function \(classifier, batch\)",
    "other_arguments": r"TypeError: must take \(classifier, batch\): too many positional arguments",
    "promises_nonsense": "TypeError: capabilities or passes: KeyError: 'none'",
    "gradient": "the name is steadymap's own",
    "input": "that is no name for a plug-in; rename its entry point",
    "with.dot": "that is no name for a plug-in; rename its entry point",
    "a_class": r"TypeError: is the class Shape, expected a function \(image, severity, rng\)",
    "no_bounds": "TypeError: bounds: Input should be a valid tuple, got None",
    "overall": "that is no name for a plug-in; rename its entry point",
    "exits": "SystemExit: 0",
    "upside": "TypeError: better: Input should be 'higher' or 'lower', got 'up'",
    "ssim": "the name is steadymap's own",
    "no_model": r"TypeError: is int, expected a function \(\)",
    "compact": "the name is steadymap's own",
}


def test_what_cannot_be_had_is_left_out_with_one_line_each(used: Used) -> None:
    lines = [line for one in used.lists.values() for line in one.err.splitlines()]
    told = dict(
        re.findall(r"left out: \w+ '(.*?)' of steadymap-broken 0.2 \(.*?\): (.*)", "\n".join(lines))
    )
    assert set(told) == set(REASONS)
    assert len(lines) == len(REASONS)
    for name, reason in REASONS.items():
        assert re.fullmatch(reason, told[name]), (name, told[name])
    for one in used.lists.values():
        assert one.code == 0


def test_the_doctor_says_why_plug_ins_cannot_be_had(used: Used) -> None:
    facts = json.loads(used.doctor.out)["sections"]["plug-ins"]
    told = {one["name"].partition(" ")[2]: one for one in facts}
    for name, reason in REASONS.items():
        assert told[name]["result"] == "warning"
        assert re.search(rf"steadymap_\w+:\w+\)?: {reason}$", told[name]["value"]), told[name]
    assert told["vignette"]["result"] == "ok"
    assert told["vignette"]["value"] == "steadymap-example 0.1 (steadymap_example:VIGNETTE)"


def test_to_ask_for_what_cannot_be_had_is_one_line(used: Used) -> None:
    for name, done in used.asked.items():
        assert done.code == 2, name
        (line,) = done.err.splitlines()
        if name == "with.dot":
            assert "cannot import 'with'" in line
        elif name == "returns_none":
            assert "returned NoneType, not a Classifier" in line
        else:
            assert f"{name!r} of steadymap-broken 0.2 (" in line
            assert re.search(REASONS[name], line), line


def test_what_is_ours_stays_ours_whatever_is_installed(used: Used) -> None:
    # A broken `gradient`, `ssim` and `compact` are beside both of these runs.
    for name in ("before", "own"):
        done = used.runs[name]
        assert done.code == 0
        assert "left out" not in done.err


def test_failing_plug_ins_cost_their_own_cells_alone(used: Used) -> None:
    done = used.runs["failing"]
    assert done.code == 3, done.err
    records, manifest = read_run(used.folder / "failing")
    assert manifest["complete"]
    reasons = {
        ("metric", "metric_raises"): "the metric raised RuntimeError: 1 and 1",
        ("method", "method_raises"): r"(clean image: )?RuntimeError: not of \d images by tiny",
        ("method", "method_none"): r"(clean image: )?returned NoneType, expected a tensor",
        ("family", "family_raises"): "the family raised RuntimeError: no 0.2 of 3 and Generator",
    }
    broken = np.zeros(len(records), dtype=bool)
    for (column, name), reason in reasons.items():
        rows = (records[column] == name).to_numpy()
        assert rows.any()
        every = "|".join(f"({one})" for one in reasons.values())
        mine = records[rows & (records["method"] != "input")]
        assert (mine["status"] == "error").all()
        assert mine["detail"].str.fullmatch(every).all()
        assert mine["detail"].str.fullmatch(reason).any()
        broken |= rows
    assert (records[~broken]["status"] == "ok").all()
    assert not pick(records[~broken], family="bias", metric="spearman").empty
    assert records[records["family"] == "family_raises"]["pred_perturbed"].isna().all()
    page = (used.folder / "failing" / "report.html").read_text()
    assert "no image" in page
    assert used.runs["dry"].code == 0, used.runs["dry"].err


# --- gone -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["gone", "there"])
def read(used: Used, sites: tuple[Path, Path], request: pytest.FixtureRequest) -> list[Done]:
    """Read the runs without the distributions, and with them on the path."""
    path = {"gone": (), "there": sites}[request.param]
    (used.folder / "own_things.py").unlink(missing_ok=True)
    return commands(
        used.folder,
        path,
        ["report", "before", "--output", "page.html", "--figures", "figures"],
        ["report", "own", "--format", "md"],
        ["report", "failing", "--output", "failing.html"],
        ["compare", "before", "before", "--all", "--output", "compared"],
        ["gate", "before", "--baseline", "kept", "--margin", "sign_agreement=0.1", UNDECIDED],
        [
            "gate",
            "own",
            "--baseline",
            "own",
            "--margin",
            "own_things:sign_agreement=0.1",
            UNDECIDED,
        ],
        ["baseline", "show", "own"],
    )


def test_results_are_read_without_their_plug_ins(used: Used, read: list[Done]) -> None:
    for done in read:
        assert done.code == 0, done.err
        assert done.loaded == [], "nothing is imported for a name in a file"
    page = (used.folder / "page.html").read_text()
    assert "share of pixels whose sign stays; calibrated" in page
    assert "gradient_power" in page
    text = (used.folder / "own" / "report.md").read_text()
    assert "own\\_things.gradient\\_power" in text
    assert "own\\_things:sign\\_agreement" in text
    rows = pd.read_csv(used.folder / "compared" / "comparison.csv")
    assert set(rows["metric"]) >= {"sign_agreement", "sign_agreement.recognised", "spearman"}
    assert set(rows["better"]) == {"higher"}
    assert set(rows["verdict"]) == {"equivalent"}
    for name, metric in {"before": "sign_agreement", "own": "own_things:sign_agreement"}.items():
        text = (used.folder / name / "gate" / "comparison.json").read_text()
        cases = {case["name"]: case["result"] for case in json.loads(text)["cases"]}
        mine = [result for case, result in cases.items() if case.endswith(f"/ {metric}")]
        assert mine
        assert set(mine) == {"undecided"}  # of three images
    for figure in (used.folder / "figures").iterdir():
        assert re.fullmatch(r"[A-Za-z0-9_.-]+", figure.name)


def test_a_metric_that_is_gone_is_calibrated_as_its_manifest_says(used: Used) -> None:
    records, manifest = read_run(used.folder / "before")
    assert "sign_agreement" not in METRIC_SHELF.loaded()
    known = known_metrics(manifest)
    findings = Findings.of(records, known)
    here = findings.calibrated[findings.calibrated["metric"] == "sign_agreement"]
    kept = pd.read_csv(used.folder / "before" / "calibrated.csv").query(
        "metric == 'sign_agreement'"
    )
    assert len(here) == len(kept) > 0
    np.testing.assert_allclose(here["calibrated"], kept["calibrated"], rtol=1e-5)
    assert here["null"].notna().any()
    # Without the manifest it is unknown, which is said.
    bare = Findings.of(records)
    assert "sign_agreement" not in set(bare.calibrated["metric"])
    assert any("sign_agreement" in note for note in footnotes(bare))
    assert not any("sign_agreement" in note for note in footnotes(findings))
    assert tables(bare)


def evaluate_alone(metric: Metric) -> None:
    compute: Callable[..., object] = metric.compute
    compute(Maps(np.zeros((1, 2, 2))), Maps(np.zeros((1, 2, 2))))


def test_a_description_that_is_none_is_one_line() -> None:
    metric = replace(METRICS["spearman"], identity=None, better="lower")
    described = json.loads(json.dumps(describe({"mine": metric})))
    read = known_metrics({"own_metrics": described})
    assert [getattr(read["mine"], key) for key in metric_registry.DESCRIBED] == [
        getattr(metric, key) for key in metric_registry.DESCRIBED
    ]
    with pytest.raises(TypeError, match="can be read, not computed"):
        evaluate_alone(read["mine"])
    # What is ours is read as we say, whatever a file says.
    ours = {"own_metrics": {"spearman": described["mine"]}}
    assert known_metrics(ours)["spearman"] == METRICS["spearman"]
    for damaged in ({"better": "up"}, {"identity": "one"}, {"against": None}):
        manifest: dict[str, object] = {"own_metrics": {"mine": described["mine"] | damaged}}
        with pytest.raises(PluginError, match="metric 'mine': the manifest does not describe it"):
            known_metrics(manifest)
    for own in ({"mine": 3}, [3]):
        with pytest.raises(PluginError, match="does not describe"):
            known_metrics({"own_metrics": own})


# --- names ----------------------------------------------------------------------------------------


def double(classifier: Classifier, batch: object, *, scale: float = 2.0) -> Tensor:
    """Twice nothing."""
    raise AssertionError((classifier, batch, scale))


def later(classifier: Classifier, batch: object, *, scale: "Unheard" = 2.0) -> Tensor:  # type: ignore[name-defined] # noqa: F821, UP037 - that is the point
    raise AssertionError((classifier, batch, scale))


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> str:
    """Put this module where specs find it."""
    package = type(sys)("things")
    monkeypatch.setitem(sys.modules, "things", package)
    monkeypatch.setitem(sys.modules, "things.inside", sys.modules[__name__])
    monkeypatch.setattr(METHOD_SHELF, "_found", {})
    return "things.inside"


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("{}.double", "{}.double:scale=2.0"),
        ("{}:double", "{}.double:scale=2.0"),
        ("{}.double:scale=3", "{}.double:scale=3.0"),
        ("{}:double:scale=3", "{}.double:scale=3.0"),
        ("{}:double:", "{}.double:scale=2.0"),
    ],
)
def test_a_colon_begins_a_function_or_its_parameters(spec: str, expected: str, module: str) -> None:
    bound = bind_method(spec.format(module))
    assert bound.spec == expected.format(module)
    assert bind_method(bound.spec) == bound
    assert bound.method.summary == "Twice nothing."


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("{}:double:scale", "expected key=value, got 'scale'"),
        ("{}:double:scale=x", "scale=x: Input should be a valid number"),
        ("{}:double:size=3", "unknown parameter 'size'; (did you mean|known:) scale"),
        ("{}:later:scale=3", "its annotations cannot be read: NameError: name 'Unheard'"),
        ("{}:nothing", "things.inside has no 'nothing'"),
        ("gradiant:relu", "cannot import 'gradiant': .* did you mean gradient"),
        ("grad_cam:relu", "expected key=value, got 'relu'"),
    ],
)
def test_a_wrong_name_is_one_line(spec: str, message: str, module: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        make_experiment([{"method": spec.format(module)}])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ["family", "metric"])
def test_families_and_metrics_of_your_own_have_a_colon(key: str) -> None:
    with pytest.raises(ConfigError, match=f"unknown {key} 'a.b'; known: "):
        make_experiment([{key: "a.b", "severity": [0.1]}])
    with pytest.raises(ConfigError, match=f"{key}: cannot import 'no_such_thing': ModuleNotFound"):
        make_experiment([{key: "no_such_thing:b", "severity": [0.1]}])


def test_severities_of_what_does_not_run_load_nothing() -> None:
    plan = Plan(family=("bias",), severity={"bias": (0.1,), "no_such_thing:b": (0.1,)})
    assert plan.cells() == (Cell("bias", 0.1, 0),)


def entry(name: str, value: str, kind: str = "metric") -> importlib.metadata.EntryPoint:
    return importlib.metadata.EntryPoint(name, value, plugins.GROUPS[kind])  # type: ignore[index] # one of them


@pytest.fixture
def offer(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function that says what is installed, in place of what is."""

    def offering(*entries: importlib.metadata.EntryPoint) -> None:
        found: dict[str, tuple[importlib.metadata.EntryPoint, ...]] = {}
        for one in entries:
            found[one.name] = (*found.get(one.name, ()), one)
        monkeypatch.setattr(plugins, "offers", lambda _kind: found)

    return offering


def test_a_name_of_two_distributions_is_of_neither(
    sites: tuple[Path, Path], tmp_path: Path
) -> None:
    site = install(GOOD, tmp_path / "twin", tmp_path / "scratch", steadymap_example="other-example")
    shown, asked = commands(
        tmp_path, [sites[0], site], ["list", "families"], ["run", "--family", "vignette"]
    )
    line = (
        "family 'vignette' of steadymap-example 0.1 (steadymap_example:VIGNETTE) and "
        "other-example 0.1 (steadymap_example:VIGNETTE): two distributions have that name"
    )
    assert shown.code == 0
    assert shown.err.startswith(f"steadymap: left out: {line}")
    assert "vignette" not in shown.out
    assert asked.code == 2
    assert asked.err.startswith(f"steadymap: {line}")
    assert shown.loaded == []


def test_names_with_another_meaning_are_reserved() -> None:
    assert {*INPUT_METRICS, STEPS} == set(METRIC_SHELF.reserved)
    assert not set(FAMILY_SHELF.reserved) & set(PERTURBATIONS)


def test_nobody_looks_for_plug_ins_who_does_not_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    def scan(_kind: str) -> None:
        raise AssertionError("looked at the installed distributions")

    monkeypatch.setattr(plugins, "offers", scan)
    plan = Plan(severity={"bias": (0.1,)}, metric=tuple(METRICS))
    assert plan.cells()
    assert plan.bound_methods()
    load_model("compact")


def test_installed_distributions_that_cannot_be_read_are_none(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def damaged(**_given: str) -> None:
        raise ValueError("no\nway")

    monkeypatch.setattr(importlib.metadata, "entry_points", damaged)
    plugins.offers.cache_clear()
    shelf = Shelf("metric", METRICS, METRIC_SHELF.adapt)
    try:
        with pytest.raises(PluginError, match="unknown metric 'mine'; "):
            shelf.find("mine")
    finally:
        plugins.offers.cache_clear()
    assert capsys.readouterr().err == (
        "steadymap: no plug-ins: the installed distributions cannot be read: ValueError: no way\n"
    )


def test_a_model_s_plug_in_has_its_own_name(offer: Callable[..., None]) -> None:
    offer(entry("mine", "test_plugins_model:make", "model"), entry("bad", "json:loads", "model"))
    with pytest.raises(ModelError, match="model 'mine' of an unnamed distribution"):
        load_model("mine")
    with pytest.raises(ModelError, match=r"must take \(\): missing a required argument: 's'"):
        load_model("bad")
    with pytest.raises(ModelError, match="unknown name 'mean'"):
        load_model("mean")
    assert MODEL_SHELF.where("bad") is None


# --- plug-ins that fail ---------------------------------------------------------------------------

IMAGE = random_images(1)[0]


def in_place(image: Tensor, severity: float, rng: np.random.Generator) -> Tensor:
    return image.mul_(1 + severity * rng.random())


def through_numpy(image: Tensor, severity: float, rng: np.random.Generator) -> Tensor:
    image.numpy()[0, 0, 0] += severity + rng.random()
    return image.clone()


FAMILIES: dict[str, tuple[Callable[..., object], str]] = {
    "raises": (lambda *_given: 1 / 0, "the family raised ZeroDivisionError: division by zero"),
    "array": (lambda image, *_given: image.numpy(), "returned ndarray, expected a tensor"),
    "nothing": (lambda *_given: None, "returned NoneType, expected a tensor"),
    "batched": (lambda image, *_given: image[None], r"float32 \(1, 3, 16, 16\) on cpu, expected"),
    "double": (lambda image, *_given: image.double(), r"torch.float64 \(3, 16, 16\) on cpu"),
    "in_place": (in_place, "changed the image that it was given"),
    "through_numpy": (through_numpy, "changed the image that it was given"),
}


@pytest.fixture
def bad(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, (apply, _reason) in FAMILIES.items():
        family = FAMILY_SHELF.adapt(apply)
        monkeypatch.setitem(PERTURBATIONS, name, replace(family, severities=(0.5,)))


@pytest.mark.usefixtures("bad")
@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_that_fails_says_how_and_harms_no_image(name: str) -> None:
    image = IMAGE.clone()
    reason = attempt(image, Cell(name, 0.5, 0), "x", 0)
    assert isinstance(reason, str)
    assert re.search(FAMILIES[name][1], reason), reason
    assert torch.equal(image, IMAGE)


def test_a_family_may_return_what_it_was_given_and_what_is_not_finite() -> None:
    image = IMAGE.clone()
    image[0, 0, 0] = torch.nan
    found = attempt(image, Cell("bias", 0.0, 0), "x", 0)
    assert isinstance(found, Tensor)
    assert found.isnan().sum() == 1


@pytest.mark.usefixtures("bad")
@pytest.mark.parametrize("batch_size", [1, 2, COUNT])
def test_a_family_costs_the_images_on_which_it_fails(
    batch_size: int, classifier: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = image_set()
    third = pictures.read(2).image

    def picky(image: Tensor, severity: float, _rng: np.random.Generator) -> Tensor:
        if torch.equal(image, third):
            raise RuntimeError("not this one")
        return image + severity

    monkeypatch.setitem(PERTURBATIONS, "picky", replace(PERTURBATIONS["bias"], apply=picky))
    plan = Plan(
        method=("gradient", "integrated_gradients:steps=3"), family=("picky", "bias", "in_place"),
        severity=(0.2,), controls=False, nulls=0, batch_size=batch_size,
    )  # fmt: skip
    records = run(classifier, pictures, plan)
    names = pictures.pictures[2].image_id
    picky_rows = pick(records, family="picky").drop(columns=["family", "run_id"])
    usual = pick(records, family="bias").drop(columns=["family", "run_id"])
    failed = picky_rows["image_id"] == names
    assert set(picky_rows[failed]["status"]) == {"error"}
    assert set(picky_rows[failed]["detail"]) == {"the family raised RuntimeError: not this one"}
    assert picky_rows[failed]["pred_perturbed"].isna().all()
    assert picky_rows[failed]["value"].isna().all()
    pd.testing.assert_frame_equal(
        picky_rows[~failed].reset_index(drop=True),
        usual[usual["image_id"] != names].reset_index(drop=True),
    )
    made = perturbed_images(records)
    assert made["family"].astype(str).value_counts().to_dict() == {
        "bias": COUNT,
        "picky": COUNT - 1,
    }
    assert (pick(records, family="in_place")["status"] == "error").all()


METRICS_THAT_FAIL: dict[str, tuple[Callable[..., object], str]] = {
    "raises": (lambda *_given: 1 / 0, "the metric raised ZeroDivisionError: division by zero"),
    "mean": (lambda *_given: 0.5, r"returned shape \(\) for 1 maps, expected \(maps,\)"),
    "pairs": (lambda clean, _: np.ones((len(clean), 2)), r"returned shape \(1, 2\) for 1 maps"),
    "nothing": (lambda *_given: None, r"returned shape \(\)"),
    "text": (lambda clean, _: ["high"] * len(clean), "ValueError: could not convert"),
}


@pytest.mark.parametrize("name", METRICS_THAT_FAIL)
def test_a_metric_that_fails_says_how(name: str) -> None:
    compute, reason = METRICS_THAT_FAIL[name]
    maps = Maps(random_images(3).numpy().astype(np.float64)[:, 0])
    scores = evaluate(METRIC_SHELF.adapt(compute), maps, maps)
    assert [str(status) for status in scores.statuses] == ["error"] * 3
    assert all(re.search(reason, detail) for detail in scores.details), scores.details
    assert np.isnan(scores.values).all()


def test_a_metric_costs_the_maps_on_which_it_fails() -> None:
    def picky(clean: Maps, perturbed: Maps) -> NDArray[np.float64]:
        if (clean.signed[:, 0, 0] > 1).any():
            raise ValueError("too\nlarge")
        return np.where(clean.signed[:, 0, 0] < 0, np.inf, perturbed.signed[:, 1, 1])

    signed = random_images(4).numpy().astype(np.float64)[:, 0]
    signed[1, 0, 0], signed[2, 0, 0] = 2.0, -1.0
    maps = Maps(signed)
    scores = evaluate(METRIC_SHELF.adapt(picky), maps, maps)
    assert [str(status) for status in scores.statuses] == ["ok", "error", "nonfinite", "ok"]
    assert scores.details[1] == "the metric raised ValueError: too large"
    np.testing.assert_array_equal(scores.values[[0, 3]], signed[[0, 3], 1, 1])


def test_a_metric_works_on_copies() -> None:
    def writes(clean: Maps, perturbed: Maps) -> NDArray[np.float64]:
        for maps in (clean, perturbed):
            maps.signed[:] = 0
            maps.magnitude[:] = 0
        return np.zeros(len(clean))

    signed = random_images(2).numpy().astype(np.float64)[:, 0]
    maps = Maps(signed.copy())
    before = maps.magnitude.copy()
    assert set(evaluate(METRIC_SHELF.adapt(writes), maps, maps).statuses) == {"ok"}
    np.testing.assert_array_equal(maps.signed, signed)
    np.testing.assert_array_equal(maps.magnitude, before)

    def writes_tensors(clean: TensorMaps, perturbed: TensorMaps) -> Tensor:
        perturbed.signed[:] = 0
        return clean.signed.zero_().sum(dim=(1, 2))

    tensors = TensorMaps(torch.from_numpy(signed.copy()))
    metric = METRIC_SHELF.adapt(replace(METRICS["spearman"], on_tensors=writes_tensors))
    assert evaluate(metric, tensors, tensors).values.tolist() == [0, 0]
    np.testing.assert_array_equal(tensors.signed.numpy(), signed)


def test_a_metric_of_the_clean_image_works_on_copies() -> None:
    def writes(maps: Maps, responses: Responses) -> NDArray[np.float64]:
        responses.expected[:] = 0
        return np.zeros(len(maps))

    metric = METRIC_SHELF.adapt(replace(METRICS["infidelity"], compute=writes))
    evidence = Responses(np.ones((2, 3)), np.ones((2, 3)))
    maps = Maps(random_images(2).numpy().astype(np.float64)[:, 0])
    assert evaluate(metric, maps, evidence).details == ("", "")
    np.testing.assert_array_equal(evidence.expected, 1)


def test_of_a_plain_metric_no_perfect_score_is_known() -> None:
    def likeness(clean: Maps, perturbed: Maps) -> NDArray[np.float64]:
        """Say how alike.

        At length.
        """
        raise AssertionError((clean, perturbed))

    metric = METRIC_SHELF.adapt(likeness)
    assert metric.summary == "Say how alike."
    facts = (metric.against, metric.better, metric.identity, metric.symmetric)
    assert facts == ("map", "higher", None, False)


def test_a_metric_without_a_perfect_score_is_raw_and_stops_nothing(
    classifier: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = replace(METRICS["spearman"], identity=None, symmetric=False)
    monkeypatch.setitem(METRICS, "plain", plain)
    plan = Plan(
        method=("gradient", "gradient_x_input", "random"), family=("bias", "compensated_bias"),
        severity=(0.2,), metric=("spearman", "plain"), nulls=2,
    )  # fmt: skip
    records = run(classifier, image_set(), plan)
    both = Findings.of(records)
    alone = Findings.of(records[records["metric"] == "plain"])
    assert set(both.calibrated["metric"]) == {"spearman"}
    assert set(both.faults["metric"]) == {"spearman"}
    usual = Findings.of(records[records["metric"].str.startswith("spearman")])
    pd.testing.assert_frame_equal(both.calibrated, usual.calibrated)
    assert alone.calibrated.empty
    assert alone.ranks.empty
    (title, table), *_ = tables(alone)
    assert title.startswith("plain:")
    assert table.row_count
    assert footnotes(alone)


def test_a_method_that_is_no_tensor_or_cannot_say_whether_it_applies(
    classifier: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(METHODS, "odd", METHOD_SHELF.adapt(lambda _classifier, _batch: None))
    plan = small_plan("odd")
    records = run(classifier, image_set(2), plan)
    odd = pick(records, method="odd")
    assert set(odd["status"]) == {"error"}
    assert odd["detail"].str.contains("returned NoneType, expected a tensor").all()

    def applies(_classifier: Classifier) -> str:
        raise KeyError("layer")

    monkeypatch.setitem(METHODS, "odd", replace(METHODS["gradient"], inapplicable=applies))
    with pytest.raises(ConfigError, match=r"method odd: does it apply\? KeyError: 'layer'"):
        run(classifier, image_set(2), plan)


def test_a_complete_plug_in_names_its_baseline() -> None:
    usual = METHODS["integrated_gradients"]
    assert METHOD_SHELF.adapt(usual) is usual

    def nameless(_classifier: Classifier, _batch: object) -> Tensor:
        raise AssertionError

    promising = replace(usual, explain=nameless, passes=lambda _: 1)
    promising = replace(promising, capabilities=lambda _: frozenset({"complete"}))
    with pytest.raises(TypeError, match="is complete has a parameter baseline: black"):
        METHOD_SHELF.adapt(promising)


SHIFTED = replace(PERTURBATIONS["compensated_bias"], summary="of mine")


def test_what_a_family_of_your_own_declares_holds(
    module: str, classifier: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FAMILY_SHELF, "_found", {})
    name = f"{module}:SHIFTED"
    plan = small_plan("gradient", family=(name,), severity=None, metric=("relative_l2",))
    assert plan.severities()[name] == PERTURBATIONS["compensated_bias"].severities
    records = run(classifier, image_set(2), plan)
    moved = pick(records, metric="relative_l2")
    assert len(moved) == 2 * len(SHIFTED.severities)
    assert moved["value"].max() < 1e-4, "the classifier takes the shift off"
    with pytest.raises(ConfigError, match="takes -1 to 1 in image units, got 2"):
        make_experiment([{"family": name, "severity": [2]}])


def test_a_run_is_named_after_its_plug_ins_too(
    module: str, classifier: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FAMILY_SHELF, "_found", {})
    plan = Plan(family=(f"{module}:SHIFTED",), method=("gradient",))
    first = run_id(plan, classifier, image_set(2))
    found = FAMILY_SHELF._found[f"{module}:SHIFTED"]  # noqa: SLF001 - another version is installed
    FAMILY_SHELF._found[f"{module}:SHIFTED"] = replace(found, source="mine 2.0")  # noqa: SLF001
    assert run_id(plan, classifier, image_set(2)) != first
