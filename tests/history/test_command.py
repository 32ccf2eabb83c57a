"""`steadymap history`, as it is typed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from histories import OF_EXAMPLE, written
from support import Command, finished_run, seal_again


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished_run(
        tmp_path_factory.mktemp("run"), "--limit", "3", "--method", "gradient", "--family", "bias",
        "--severity", "0.1", "--nulls", "1", "--no-controls", "--no-report",
    )  # fmt: skip


def test_a_run_is_added_once_and_shown(steadymap: Command, run: Path) -> None:
    first = steadymap("history", "add", str(run), "--commit", "abcdef0123456", "--label", "first")
    assert first.code == 0
    (path,) = Path("results/history").iterdir()
    assert first.out.strip().endswith(f"added to results/history: {path.stem}")
    again = steadymap("history", "add", str(run))
    assert (again.code, again.err) == (0, "")
    assert "is already in results/history" in again.out
    relabelled = steadymap("history", "add", str(run), "--label", "other")
    assert "had no effect; to change them, delete results/history" in " ".join(
        relabelled.err.split()
    )
    assert len(list(Path("results/history").iterdir())) == 1
    shown = steadymap("history", "show")
    assert shown.code == 0
    assert "segment 1: 1 run of compact on hands" in shown.out
    assert "Steps are looked for from 6 runs on." in shown.out
    (segment,) = json.loads(steadymap("history", "show", "--format", "json").out)
    assert segment["runs"][0]["label"] == "first"
    assert segment["runs"][0]["commit"] == "abcdef0123456"


def test_a_run_without_a_date_is_asked_for_one(steadymap: Command, run: Path) -> None:
    manifest = run / "manifest.json"
    before = manifest.read_bytes()
    content = json.loads(before)
    del content["measured_at"]
    manifest.write_text(json.dumps(content))
    seal_again(run)
    try:
        refused = steadymap("history", "add", str(run))
        assert refused.code == 2
        assert refused.err.count("\n") == 1
        assert "say it with --at" in refused.err
        assert not Path("results").exists()
        assert steadymap("history", "add", str(run), "--at", "2026-01-02T03:04").code == 0
    finally:
        manifest.write_bytes(before)
    (segment,) = json.loads(steadymap("history", "show", "--format", "json").out)
    assert segment["runs"][0]["measured_at"] == "2026-01-02T03:04:00+00:00"


def test_the_whole_way_of_a_history(steadymap: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    entries = OF_EXAMPLE.entries()
    written(Path("one"), entries[:40])
    written(Path("two"), entries[30:])
    merged = steadymap("history", "merge", "two", "--history", "one")
    assert merged.out == "one: 20 entries added, 10 were in both already\n"
    at = ("--history", "one")
    commits = [entry.facts["commit"][:9] for entry in entries]
    blamed = steadymap("history", "blame", *at).out
    assert f"step 1, between {commits[21]} and {commits[22]}" in blamed
    assert "likeliest: library changed: torch 2.11 -> 2.22; code changed with it" in blamed
    assert f"step 2, between {commits[42]} and {commits[43]}" in blamed
    assert "likeliest: weights changed" in blamed
    assert steadymap("history", "page", *at, "--output", "new/page.html").out == "new/page.html\n"
    assert Path("new/page.html").read_text().count("<svg") == 3
    monkeypatch.setenv("TERM", "dumb")
    assert "█" not in steadymap("history", "show", *at).out
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("PYTHONIOENCODING", "utf-8")
    assert "█" in steadymap("history", "show", *at).out
    text = steadymap("history", "show", *at, "--format", "csv", "--metric", "accuracy").out
    assert text.count("\n") == 61


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("show",), "results/history holds no entry; add a run with"),
        (("add", "none"), "none holds no finished run"),
        (("show", "--history", "one", "--metric", "sim"), "did you mean ssim?"),
        (("merge", "none", "--history", "one"), "none holds no entry"),
    ],
)
def test_a_mistake_is_one_line(steadymap: Command, arguments: tuple[str, ...], said: str) -> None:
    written(Path("one"), OF_EXAMPLE.entries()[:2])
    done = steadymap("history", *arguments)
    assert done.code == 2
    assert done.err.count("\n") == 1
    assert said in done.err


def test_a_damaged_entry_is_one_line(steadymap: Command) -> None:
    written(Path("one"), OF_EXAMPLE.entries()[:3])
    path = sorted(Path("one").iterdir())[1]
    path.write_bytes(path.read_bytes()[:-9])
    for command in ("show", "blame", "page"):
        done = steadymap("history", command, "--history", "one")
        assert (done.code, done.out) == (2, "")
        assert f"{path} is damaged" in done.err
