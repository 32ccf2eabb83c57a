"""Scores made by other rules mean something else, and nobody takes them for today's."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import small_run
from support import Command

from steadymap.bench.core.errors import ConfigError
from steadymap.bench.gate import baseline_runs
from steadymap.bench.records import read, rules, seal, vocabulary

MADE_BY = [None, 1, rules.CURRENT + 1]


def write_manifest(folder: Path, version: int | None) -> Path:
    manifest = small_run.manifest()
    manifest.pop(rules.RULES)
    if version is not None:
        manifest[rules.RULES] = version
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "manifest.json").write_text(json.dumps(seal.sealed(manifest)))
    return folder / "manifest.json"


def test_each_version_says_what_it_changed() -> None:
    assert sorted(rules.CHANGED) == list(range(1, rules.CURRENT + 1))
    changelog = (Path(__file__).parents[2] / "CHANGELOG.md").read_text()
    assert f"version {rules.CURRENT} of the rules" in " ".join(changelog.split()).lower()


@pytest.mark.parametrize("version", MADE_BY)
def test_a_run_of_other_rules_is_refused_with_what_renews_it(
    version: int | None, tmp_path: Path
) -> None:
    path = write_manifest(tmp_path / "run", version)
    with pytest.raises(ConfigError) as caught:
        read.read_manifest(path)
    text = str(caught.value)
    assert f"scored by version {version or 1} of the rules" in text
    assert text.endswith(f"steadymap run EXPERIMENT --output {tmp_path / 'run'}")


def test_a_run_of_these_rules_is_read(tmp_path: Path) -> None:
    path = write_manifest(tmp_path / "run", rules.CURRENT)
    assert read.read_manifest(path)[rules.RULES] == rules.CURRENT


@pytest.mark.parametrize("version", MADE_BY)
def test_a_baseline_of_other_rules_is_refused_with_what_renews_it(
    version: int | None, tmp_path: Path
) -> None:
    folder = tmp_path / "mine"
    manifest = json.loads(write_manifest(folder, version).read_text())
    own = (seal.FILES, seal.SEAL)
    manifest = {key: value for key, value in manifest.items() if key not in own}
    manifest["baseline"] = {"metrics": [], "scores_sha256": "0" * 64, "time_ratios": {}}
    manifest["baseline"]["manifest_sha256"] = seal.seal_of(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / "scores.csv").write_text("")
    with pytest.raises(ConfigError, match=r"make it again with: steadymap baseline save RUN mine$"):
        baseline_runs.open_baseline("mine", tmp_path)


@pytest.mark.parametrize(
    "words", [("report", "run"), ("compare", "run", "run"), ("baseline", "save", "run", "mine")]
)
def test_every_reader_refuses_in_one_line(
    words: tuple[str, ...],
    steadymap: Command,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    write_run: Callable[[Path], Path],
) -> None:
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path)
    write_manifest(tmp_path / "run", 1)
    done = steadymap(*words)
    assert (done.code, len(done.err.strip().splitlines())) == (2, 1)
    assert "scored by version 1 of the rules" in done.err


@pytest.fixture
def write_run() -> Callable[[Path], Path]:
    """Return what writes a small finished run into a folder."""

    def write(folder: Path) -> Path:
        run = folder / "run"
        run.mkdir()
        small_run.records().to_parquet(run / "records.parquet")
        return run

    return write


def test_runs_of_different_rules_share_no_folder() -> None:
    from steadymap.bench.runs.ledger import FIXED  # noqa: PLC0415 - the one line that needs torch

    assert rules.RULES in FIXED


def test_a_name_of_a_metric_loses_all_that_is_behind_it() -> None:
    behind = [vocabulary.RANK, vocabulary.MATCHED_IMAGE, vocabulary.MATCHED_CLASS]
    behind += [vocabulary.MATCHED_IMAGE + vocabulary.PARTNER, vocabulary.MATCHED_NETWORK + "12"]
    behind += [vocabulary.PERFECT, vocabulary.COUPLED]
    for name in ("ssim", "own.module:metric.rank_of"):
        assert [vocabulary.base_metric(name + end) for end in ["", *behind]] == [name] * 8
