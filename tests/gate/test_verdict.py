"""The commands that compare, and the pytest plugin, as a user meets them."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pandas as pd
import pytest
from support import Command, call, seal_again

from steadymap.bench.gate import side
from steadymap.bench.gate.baseline_runs import open_baseline, write_side

pytest_plugins = ["pytester"]

RUN = [
    "run", "--limit", "6", "--steps", "2", "--no-controls", "--nulls", "1", "--no-report",
    "--method", "gradient", "--method", "integrated_gradients", "--family", "bias",
    "--severity", "0.2",
]  # fmt: skip


READ_TIMES = side.time_ratios


def no_times(folder: Path, manifest: dict[str, Any]) -> dict[str, float]:
    """Read the times, and leave them out: of runs of milliseconds a busy machine doubles them."""
    READ_TIMES(folder, manifest)
    return {}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two runs of one plan, another of another, and a baseline of the first."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(side, "time_ratios", no_times)
        for name, extra in (("a", []), ("b", ["--batch-size", "2"]), ("c", ["--seed", "3"])):
            assert call(patch, *RUN, *extra, "--output", f"runs/{name}") == 0
        assert call(patch, "baseline", "save", "runs/a", "first") == 0
    return folder


@pytest.fixture
def steadymap(steadymap: Command, home: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    monkeypatch.chdir(home)
    monkeypatch.setattr(side, "time_ratios", no_times)
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    return steadymap


def test_a_run_passes_its_own_gate(steadymap: Command, home: Path) -> None:
    for run in ("runs/a", "runs/b"):
        done = steadymap("gate", run, "--baseline", "first", "--margin", "ssim=0.2")
        assert done.code == 0, done.out + done.err
        assert "0 fail" in done.out
    suite = ET.parse(home / "runs/b/gate/junit.xml").getroot().find("testsuite")  # noqa: S314 - our own
    assert suite is not None
    assert suite.get("failures") == "0"
    assert int(str(suite.get("tests"))) > 5
    names = {path.name for path in (home / "runs/b/gate").iterdir()}
    assert names == {
        "comparison.csv", "comparison.json", "comparison.md", "junit.xml",
        "bigger-is-better.json", "smaller-is-better.json", "bencher.json",
    }  # fmt: skip


def altered(home: Path, name: str, change: float, spread: float = 0.0) -> None:
    """Save the baseline once more: SSIM changed by about so much, errors spread by a factor.

    An error has no upper end, so that it may be spread as far as it is to be. All scores move a
    little, as on another machine.
    """
    root = home / "results/baselines"
    side = open_baseline("first", root)
    rng = np.random.default_rng(0)
    values = side.scores["value"] - 1e-4 * rng.random(len(side.scores))
    values += change * side.scores["metric"].eq("ssim")
    noise = rng.lognormal(0.0, spread, len(side.scores))
    errors = side.scores["metric"].eq("completeness_error")
    values *= np.where(errors, noise, 1.0)
    # Shares of evidence have no end.
    values = values.where(errors | side.scores["metric"].eq("evidence_kept"), values.clip(0, 1))
    write_side(replace(side, scores=side.scores.assign(value=values)), root / name)


def test_a_loss_beyond_doubt_fails_and_says_where(
    steadymap: Command, home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    altered(home, "better", 0.3)
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    done = steadymap("gate", "runs/b", "--baseline", "better", "--output", str(tmp_path / "out"))
    assert done.code == 1
    assert "FAIL gradient / bias / ssim" in done.out
    assert "gain -0.3" in done.out
    assert "worse by more than 0.05" in done.out
    summary = (tmp_path / "summary.md").read_text()
    assert summary.startswith("### steadymap: failed")
    content = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert {case["result"] for case in content["cases"]} >= {"fail", "pass"}
    # The same within a margin of half a unit.
    assert steadymap("gate", "runs/b", "--baseline", "better", "--margin", "ssim=0.5").code == 0
    (tmp_path / "margins.yaml").write_text("relative: {ssim: 3.0}\n")
    given = ["--margins", str(tmp_path / "margins.yaml")]
    assert steadymap("gate", "runs/b", "--baseline", "better", *given).code == 0


def test_what_is_inconclusive_fails_under_strict(steadymap: Command, home: Path) -> None:
    """Six images that hardly move would have shown a loss of two margins, and rule out none."""
    altered(home, "near", 0.0)
    given = ["gate", "runs/a", "--baseline", "near", "--output", "out"]
    done = steadymap(*given)
    assert done.code == 0, done.out + done.err
    # Two of the network, and the passes.
    assert "gate: 3 pass, 0 fail, 11 inconclusive, 0 undecided" in done.out
    assert steadymap(*given, "--strict").code == 1
    assert steadymap(*given, "--allow-undecided").code == 0


def test_what_so_few_images_cannot_see_is_undecided(steadymap: Command, home: Path) -> None:
    altered(home, "noisy", 0.0, 1.0)
    given = ["gate", "runs/a", "--baseline", "noisy", "--output", "out"]
    done = steadymap(*given)
    assert done.code == 5
    assert re.fullmatch(
        r"undecided: 6 images find a loss of \S+, \d+ are needed \(integrated_gradients / clean / "
        r"completeness_error: the margin is \S+, and a loss of twice that must be found; 2 of 11 "
        r"comparisons are undecided\)",
        done.err.splitlines()[-1],
    )
    assert "would have found in four of five such runs: a loss of " in done.out
    assert steadymap(*given, "--strict").code == 1
    assert steadymap(*given, "--allow-undecided").code == 0
    done = steadymap(*given, "--strict", "--allow-undecided")
    assert (done.code, done.err.count("\n")) == (2, 1)
    # A failure goes before it.
    altered(home, "both", 0.3, 1.0)
    assert steadymap("gate", "runs/a", "--baseline", "both", "--output", "out").code == 1


def test_what_cannot_be_compared_is_refused_with_every_reason(steadymap: Command) -> None:
    done = steadymap("gate", "runs/c", "--baseline", "first")
    assert done.code == 2
    assert done.err.count("\n") == 1
    assert "cannot be compared: seed: 0 and 3" in done.err
    assert steadymap("compare", "runs/a", "runs/c").code == 2


def test_misuse_has_one_line_and_its_code(steadymap: Command) -> None:
    for arguments, code, message in (
        (["gate", "--baseline", "none"], 4, "no 'none' in"),
        (["gate"], 2, "give its name with --baseline NAME"),
        (["gate", "nowhere", "--baseline", "first"], 2, "holds neither a finished run"),
        (["baseline", "save", "nowhere", "x"], 2, "holds no finished run"),
        (["baseline", "save", "runs/a", "../x"], 2, "is no name"),
        (["baseline", "show", "none"], 4, "(known: "),
        (["compare", "runs/a", "none"], 4, "no 'none' in"),
        (["gate", "--baseline", "first", "--margin", "sim=1"], 2, "did you mean ssim?"),
    ):
        done = steadymap(*arguments)
        assert (done.code, message in done.err) == (code, True), (arguments, done)
        assert done.err.count("\n") == 1


def test_a_run_without_a_score_is_refused(steadymap: Command) -> None:
    quick = [*RUN[:5], "--method", "gradient", "--no-controls", "--nulls", "0"]
    given = [*quick, "--family", "bias", "--severity", "0.1", "--metric", "mask_mass"]
    assert steadymap(*given, "--output", "runs/empty").code == 0
    done = steadymap("gate", "runs/empty", "--baseline", "first")
    assert done.code == 2
    assert "no scores to compare" in done.err


def test_without_a_run_the_newest_is_judged(
    steadymap: Command, home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for place, name in enumerate(("c", "empty", "b", "a")):
        for file in ("records.parquet", "ledger.json"):
            path = home / "runs" / name / file
            if path.exists():
                os.utime(path, (place, place))
    done = steadymap("gate", "--baseline", "first")
    assert done.code == 0
    assert "first -> a" in done.out
    # One that was begun later and did not come to its end is not passed over.
    begun = home / "runs" / "begun"
    begun.mkdir()
    shutil.copy(home / "runs/a/ledger.json", begun)
    done = steadymap("gate", "--baseline", "first")
    assert done.code == 2
    assert "runs/begun holds neither a finished run" in done.err
    shutil.rmtree(begun)
    monkeypatch.chdir(tmp_path)
    done = steadymap("gate", "--baseline", "first", "--root", str(home / "results/baselines"))
    assert done.code == 2
    assert "no finished run below runs" in done.err


def unvalued(home: Path, name: str, chosen: Callable[[pd.DataFrame], pd.Series]) -> None:
    """Save the baseline once more without the values of some rows."""
    root = home / "results/baselines"
    side = open_baseline("first", root)
    gone = chosen(side.scores)
    scores = side.scores.assign(
        value=side.scores["value"].mask(gone), valid=side.scores["valid"].mask(gone, 0)
    )
    write_side(replace(side, scores=scores), root / name)


def test_a_gate_with_nothing_to_judge_is_no_pass(
    steadymap: Command, home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    unvalued(home, "hollow", lambda scores: scores["value"].notna())
    for words, code in (([], 5), (["--strict"], 1), (["--allow-undecided"], 0)):
        done = steadymap("gate", "runs/a", "--baseline", "hollow", "--output", "out", *words)
        assert done.code == code
        assert done.err.splitlines()[-1] == "nothing to judge: hollow has no value at all"
    heads = (tmp_path / "summary.md").read_text().splitlines()
    assert heads[0] == "### steadymap: nothing to judge: hollow has no value at all"
    # With one kind of values there is something to judge, though six images are too few.
    unvalued(home, "one", lambda scores: scores["metric"] != "ssim")
    done = steadymap("gate", "runs/a", "--baseline", "one", "--output", "out")
    assert done.code == 5
    assert "undecided: 6 images find a loss of 0.798, 28 are needed" in done.err


def test_compare_says_what_moved(steadymap: Command, home: Path, tmp_path: Path) -> None:
    altered(home, "best", 0.3)
    done = steadymap("compare", "best", "runs/a", "--output", str(tmp_path / "x"))
    assert done.code == 0
    assert "worse" in done.out
    assert (tmp_path / "x" / "comparison.csv").is_file()
    done = steadymap("compare", "runs/a", "runs/a")
    assert "equivalent" in done.out
    assert "worse" not in done.out
    done = steadymap("compare", "runs/a", "runs/a", "--all")
    assert "gradient" in done.out


@pytest.mark.parametrize("width", [60, 80, 128, 200])
def test_no_name_and_no_number_of_a_gate_is_cut(
    steadymap: Command, home: Path, monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    altered(home, "best", 0.3)
    monkeypatch.setenv("COLUMNS", str(width))
    done = steadymap("compare", "best", "runs/a", "--all")
    table = done.out[: done.out.index("best -> a")]
    assert "…" not in table
    words = table.split()
    assert {"gradient", "ssim", "fail"} <= set(words)
    rows = [line for line in table.splitlines() if line.startswith(" ")]
    assert max(map(len, rows)) <= width


def test_baselines_are_listed_and_shown(steadymap: Command) -> None:
    done = steadymap("baseline", "list")
    assert "first: compact on hands, 6 images" in done.out
    done = steadymap("baseline", "show", "first")
    assert "gradient" in done.out
    assert "ssim" in done.out


# --- the plugin -----------------------------------------------------------------------------------

TESTS = """
import pytest, torch
from torch import nn
from steadymap.bench import Plan
from steadymap.models import make_classifier

def network(seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.{activation}(), nn.Flatten(), nn.Linear(784, 3))
    net[0].weight.data *= 8
    return make_classifier(net, (16, 16))

IMAGES = torch.rand(12, 3, 16, 16, generator=torch.Generator().manual_seed(1))
PLAN = Plan(method=("gradient",), family=("bias",), severity=(0.5,), controls=False, nulls=1)

def test_maps(steadymap_gate):
    rows = steadymap_gate("mine", network(), IMAGES, PLAN)

def test_fast(steadymap_gate, benchmark):
    steadymap_gate("other", network(1), IMAGES, PLAN)
    benchmark(lambda: None)
"""


@pytest.fixture
def as_a_user(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let pytest-benchmark not take a session below an xdist worker for one itself."""
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)


@pytest.mark.usefixtures("as_a_user")
def test_the_fixture_makes_a_baseline_and_holds_a_model_to_it(pytester: pytest.Pytester) -> None:
    # A line has the same gradient at every bias; that of a steep tanh moves.
    pytester.makepyfile(test_mine=TESTS.replace("{activation}", "Identity"))
    update = ["-q", "-n", "2", "-k", "maps", "--steadymap-update-baseline"]
    pytester.runpytest_subprocess(*update).assert_outcomes(passed=1)
    assert (pytester.path / "results/baselines/mine/scores.csv").is_file()
    found = pytester.runpytest_subprocess("-q")
    found.assert_outcomes(passed=1, failed=1)
    found.stdout.fnmatch_lines(
        ["*no baseline 'other' in*make it with --steadymap-update-baseline*"]
    )
    pytester.makepyfile(test_mine=TESTS.replace("{activation}", "Tanh"))
    found = pytester.runpytest_subprocess("-q", "-n", "2", "-k", "maps")
    found.assert_outcomes(failed=1)
    found.stdout.fnmatch_lines(
        [
            "*worse than baseline 'mine':*",
            "*gradient / bias / spearman: 1 -> 0.*(higher is better; gain -0.*margin 0.05, 12*",
            "*image-*: 1 -> *",
        ]
    )


@pytest.mark.usefixtures("as_a_user")
def test_the_fixture_fails_as_undecided_where_images_are_too_few(
    pytester: pytest.Pytester,
) -> None:
    """Of one kind of scores; of two, a method that is as it was passes."""
    alone = 'nulls=1, metric=("spearman",))'
    pytester.makepyfile(
        test_mine=TESTS.replace("{activation}", "Identity").replace("nulls=1)", alone)
    )
    given = ["-q", "-k", "maps", "-p", "no:xdist"]
    pytester.runpytest_subprocess(*given, "--steadymap-update-baseline").assert_outcomes(passed=1)
    found = pytester.runpytest_subprocess(*given)
    found.assert_outcomes(failed=1)
    found.stdout.fnmatch_lines(["*baseline 'mine': undecided: 12 images find *28 are needed*"])
    pytester.runpytest_subprocess(*given, "--steadymap-allow-undecided").assert_outcomes(passed=1)


@pytest.mark.usefixtures("as_a_user")
def test_the_scores_travel_with_pytest_benchmark(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_mine=TESTS.replace("{activation}", "Tanh"))
    arguments = ["-q", "-k", "fast", "--steadymap-update-baseline", "--benchmark-json", "b.json"]
    pytester.runpytest_subprocess(*arguments).assert_outcomes(passed=1)
    (entry,) = json.loads((pytester.path / "b.json").read_text())["benchmarks"]
    assert -1 < entry["extra_info"]["steadymap"]["gradient / bias / spearman"] < 1


def test_the_plugin_costs_nothing_unless_it_is_used(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        "import sys\ndef test_light():\n    assert 'steadymap.bench.pytest_plugin' in sys.modules\n"
        "    assert 'torch' not in sys.modules and 'pandas' not in sys.modules\n"
    )
    pytester.runpytest_subprocess("-q", "-p", "no:hypothesispytest").assert_outcomes(passed=1)


def test_a_run_and_its_baseline_are_compared_by_what_both_have(steadymap: Command) -> None:
    for pair in (("runs/a", "first"), ("first", "runs/a")):
        done = steadymap("compare", *pair)
        assert done.code == 0
        assert "missing" not in done.out
        assert " new" not in done.out


def test_the_words_of_a_verdict_are_those_of_its_exit_code(
    steadymap: Command, home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    altered(home, "near", 0.0)
    altered(home, "noisy", 0.0, 1.0)
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))

    def said(baseline: str, *words: str) -> tuple[int, str, int]:
        """Return the exit code, the head of the summary, and how many cases of JUnit failed."""
        given = ["gate", "runs/a", "--baseline", baseline, "--output", str(tmp_path / "out")]
        code = steadymap(*given, *words).code
        suite = ET.parse(tmp_path / "out" / "junit.xml").getroot().find("testsuite")  # noqa: S314 - our own
        assert suite is not None
        heads = [
            line
            for line in (tmp_path / "summary.md").read_text().splitlines()
            if line.startswith("###")
        ]
        return code, heads[-1].removeprefix("### steadymap: "), int(str(suite.get("failures")))

    assert said("near") == (0, "passed, 11 inconclusive", 0)
    assert said("near", "--strict") == (1, "failed", 11)
    code, head, failures = said("noisy")
    assert (code, failures) == (5, 2)
    assert head.startswith("undecided: 6 images find a loss of ")
    assert said("noisy", "--allow-undecided") == (0, "passed, 9 inconclusive, 2 undecided", 0)
    assert said("noisy", "--strict") == (1, "failed", 11)
    shutil.copytree(home / "runs/a", tmp_path / "erring")
    manifest = json.loads((tmp_path / "erring" / "manifest.json").read_text())
    manifest["statuses"]["error"] = 3
    (tmp_path / "erring" / "manifest.json").write_text(json.dumps(manifest))
    seal_again(tmp_path / "erring")
    erring = ["gate", str(tmp_path / "erring"), "--baseline", "noisy"]
    assert steadymap(*erring, "--output", str(tmp_path / "out")).code == 3
    heads = [x for x in (tmp_path / "summary.md").read_text().splitlines() if x.startswith("###")]
    assert heads[-1] == "### steadymap: the run had errors (3 values)"


def test_a_summary_that_cannot_be_written_changes_no_verdict(
    steadymap: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "gone" / "summary.md"))
    done = steadymap("gate", "runs/a", "--baseline", "first", "--output", str(tmp_path / "out"))
    assert done.code == 0
    assert "cannot write the step summary" in done.err


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def emptied(path: Path) -> None:
    path.write_text("{}" if path.suffix == ".json" else "")


@pytest.mark.parametrize("command", ["gate", "compare", "report"])
@pytest.mark.parametrize(
    "damage",
    [
        (name, harm)
        for name in ("records.parquet", "manifest.json", "timings.csv")
        for harm in (cut, emptied)
    ],
    ids=lambda damage: f"{damage[0]}-{damage[1].__name__}",
)
def test_a_damaged_run_is_named_in_one_line(
    steadymap: Command,
    home: Path,
    tmp_path: Path,
    command: str,
    damage: tuple[str, Callable[[Path], None]],
) -> None:
    name, harm = damage
    shutil.copytree(home / "runs/a", tmp_path / "harmed")
    harm(tmp_path / "harmed" / name)
    run = str(tmp_path / "harmed")
    words = {"gate": [run, "--baseline", "first"], "compare": ["first", run], "report": [run]}
    done = steadymap(command, *words[command])
    if name == "timings.csv" and harm is cut and done.code == 0:
        return  # cut between two lines it is whole
    assert done.code == 2
    assert name in done.err
    assert len(done.err.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("gate", "runs/a", "--baseline", "a", "--root", "runs"), "is a run"),
        (("baseline", "save", "runs/a", "typo", "--metric", "spearmn"), "did you mean spearman?"),
        (("baseline", "save", "runs/a", "none", "--metric", "mask_mass.recognised"), "has no"),
        (("report", "runs/a", "--output", "."), "cannot write"),
    ],
)
def test_misuse_is_answered_in_a_line(
    steadymap: Command, words: tuple[str, ...], text: str
) -> None:
    done = steadymap(*words)
    assert done.code == 2
    assert text in done.err
    assert "Traceback" not in done.err


# --- until decided --------------------------------------------------------------------------------

LOOKS = [
    "run", "--limit", "16", "--no-controls", "--nulls", "1", "--no-report", "--no-admission",
    "--method", "gradient", "--family", "bias", "--severity", "0.2",
]  # fmt: skip


def test_a_gate_that_measures_stops_when_it_has_decided(
    steadymap: Command, home: Path, tmp_path: Path
) -> None:
    """Of 16 images it looks at 8: unchanged they pass, spoilt they fail; the rest goes on."""
    assert steadymap(*LOOKS, "--output", "runs/sixteen").code == 0
    assert steadymap("baseline", "save", "runs/sixteen", "sixteen").code == 0
    folder = str(tmp_path / "ci")
    given = ["gate", folder, "--until-decided", "--baseline"]
    done = steadymap(*given, "sixteen")
    assert done.code == 0, done.err
    assert "look 1 of 2, 8 of 16 images: every comparison has passed" in done.err
    manifest = json.loads((tmp_path / "ci" / "manifest.json").read_text())
    assert manifest["until_decided"] == {
        "planned": [8, 16], "images": 8, "ending": "every comparison has passed",
        "baseline": "sixteen",
    }  # fmt: skip
    # What is not as it was goes on; the blocks that are there are not computed again, and what is
    # not decided by all images is undecided.
    root = home / "results/baselines"
    side = open_baseline("sixteen", root)
    noise = np.random.default_rng(1).standard_normal(len(side.scores))
    for name, change, code, ending in (
        ("moved", 0.15 * noise, 5, "look 2 of 2, 16 of 16 images: not decided yet"),
        ("spoilt", 0.3 + 1e-3 * noise, 1, "look 1 of 2, 8 of 16 images: 1 of 4 comparisons failed"),
    ):
        ssim = side.scores["metric"].eq("ssim")
        moved = side.scores.assign(value=side.scores["value"] + change * ssim)
        write_side(replace(side, scores=moved), root / name)
        done = steadymap(*given, name)
        assert done.code == code, done.err
        assert ending in done.err
        assert "going on: " in done.err
    # The last look is at the images of a run that was never cut short.
    assert steadymap(*given, "moved").code == 5
    pd.testing.assert_frame_equal(
        pd.read_parquet(tmp_path / "ci" / "records.parquet"),
        pd.read_parquet(home / "runs/sixteen/records.parquet"),
    )


def test_a_gate_that_measures_refuses_what_it_cannot_hold_against_its_baseline(
    steadymap: Command, tmp_path: Path
) -> None:
    given = ["gate", str(tmp_path / "ci"), "--baseline", "first", "--config", "x.yaml"]
    done = steadymap(*given)
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "goes with --until-decided" in done.err
    (tmp_path / "x.yaml").write_text("shard: 1/2\n")
    done = steadymap(*given[:-1], str(tmp_path / "x.yaml"), "--until-decided")
    assert done.code == 2
    assert "a shard of a run cannot decide" in done.err
