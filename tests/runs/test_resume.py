"""A run goes on where it was: nothing computed twice, nothing lost, the same table in the end."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
from support import SCRIPT, Command, plain, write_noise

from steadymap.bench.measure.watch import Watch
from steadymap.bench.methods.batch import Batch
from steadymap.bench.methods.method import Method
from steadymap.bench.methods.registry import METHODS
from steadymap.bench.plan.shards import Shard
from steadymap.bench.records.read import read_run
from steadymap.bench.runs import folder as store
from steadymap.bench.runs import resume
from steadymap.bench.runs import shard_files as parts
from steadymap.bench.runs.resume import Work
from steadymap.models import Classifier

METHOD = ["--method", "gradient", "--method", "gradient_x_input"]
PLAN = ["--family", "bias", "--severity", "0.1,0.2", "--no-controls", "--no-report"]
RUN = ["run", "--data", "hands:200", "--limit", "18", *METHOD, *PLAN]

NOISE = ["--family", "gaussian_noise"]


def table(folder: str | Path) -> pd.DataFrame:
    """Return the records, in their order, as they are, but for the run's name."""
    records, manifest = read_run(Path(folder))
    assert manifest["complete"]
    assert set(records["run_id"]) == {manifest["run_id"]}
    return plain(records, "run_id")


def all_parts(folder: str | Path) -> list[parts.Part]:
    kept = parts.kept(Path(folder), print)
    return [part for paths in kept.paths.values() for part in kept.read(paths)]


def units_of(folder: Path) -> set[str]:
    ledger, _ = store.read_ledger(folder)
    return {name for block, views in ledger.pieces() for view in views
            for name in ledger.grid(block, view).values()}  # fmt: skip


def maps_made(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Watch what is computed: by method, images times views."""
    made: list[tuple[str, int]] = []
    original = Work.compute

    def compute(self: Work, folder: Path, shards: list[Shard], watch: Watch) -> int:
        for shard in shards:
            made.extend((spec, len(shard.indices) * len(shard.views)) for spec in shard.methods)
        return original(self, folder, shards, watch)

    monkeypatch.setattr(Work, "compute", compute)
    return made


def test_a_finished_run_is_not_computed_again(
    steadymap: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert steadymap(*RUN, "--output", "here").code == 0
    first = table("here")
    made = maps_made(monkeypatch)
    assert steadymap(*RUN, "--output", "here").code == 0
    assert made == []
    pd.testing.assert_frame_equal(table("here"), first)
    assert steadymap(*RUN, "--output", "here", "--no-resume").code == 0
    assert len(made) > 0
    pd.testing.assert_frame_equal(table("here"), first)


@pytest.mark.parametrize(
    ("less", "more"),
    [
        (["--severity", "0.1"], ["--severity", "0.1,0.2"]),
        (["--method", "gradient"], METHOD),
        (["--limit", "16"], ["--limit", "24"]),
        (["--family", "bias"], ["--family", "bias", "--family", "gaussian_noise"]),
        (
            ["--draws", "1", "--family", "gaussian_noise"],
            ["--draws", "2", "--family", "gaussian_noise"],
        ),
    ],
    ids=["severities", "methods", "images", "families", "draws"],
)
def test_what_is_added_is_all_that_is_computed(
    steadymap: Command, less: list[str], more: list[str]
) -> None:
    base = ["run", "--data", "hands:400", "--no-controls", "--no-report", "--batch-size", "16"]
    plain = {"--limit": ["18"], "--method": ["gradient", "gradient_x_input"], "--family": ["bias"],
             "--severity": ["0.1,0.2"]}  # fmt: skip

    def command(changes: list[str]) -> list[str]:
        given = changes[::2]
        rest = [part for key, values in plain.items() if key not in given
                for value in values for part in (key, value)]  # fmt: skip
        return [*base, *changes, *rest]

    assert steadymap(*command(more), "--output", "whole").code == 0
    assert steadymap(*command(less), "--output", "grown").code == 0
    units = {name for part in all_parts("grown") for name in part.about.units}
    kept = {path.name: path.stat().st_mtime_ns for path in Path("grown/parts").iterdir()}
    assert steadymap(*command(more), "--output", "grown").code == 0
    pd.testing.assert_frame_equal(table("grown"), table("whole"))
    for name, when in kept.items():
        assert Path("grown/parts", name).stat().st_mtime_ns == when, "no shard is written again"
    new = [part for part in all_parts("grown") if part.path.name not in kept]
    assert new
    assert not units & {name for part in new for name in part.about.units}


def test_what_a_unit_depends_on_is_in_its_name(steadymap: Command) -> None:
    """A change of anything else than speed computes all anew, or is refused."""
    assert steadymap(*RUN, "--output", "here").code == 0
    units = units_of(Path("here"))

    def other(*changes: str) -> set[str]:
        folder = f"there{len(list(Path().iterdir()))}"
        assert steadymap(*RUN, *changes, "--output", folder).code == 0
        return units_of(Path(folder))

    assert other("--batch-size", "8", "--jobs", "2", "--threads", "1") == units
    for changes in (["--seed", "1"], ["--nulls", "2"], ["--metric", "ssim"], ["--save-maps"]):
        assert not other(*changes) & units, changes


def test_another_seed_or_model_is_refused_in_the_same_folder(steadymap: Command) -> None:
    assert steadymap(*RUN, "--output", "here").code == 0
    first = table("here")
    done = steadymap(*RUN, "--seed", "3", "--output", "here")
    assert done.code == 2
    assert "which has another seed than this run; choose another folder" in done.err
    pd.testing.assert_frame_equal(table("here"), first)


def test_a_damaged_shard_is_computed_again(steadymap: Command) -> None:
    assert steadymap(*RUN, "--output", "here").code == 0
    first = table("here")
    # In the data, in the footer, in the head, and at the end of it all.
    for places in ((200, -20), (1, None)):
        paths = sorted(Path("here/parts").glob("*.parquet"))
        for path, place in zip(paths, places, strict=False):
            content = bytearray(path.read_bytes())
            if place is None:
                del content[-9:]
            else:
                content[place] ^= 4
            path.write_bytes(bytes(content))
        done = steadymap(*RUN, "--output", "here")
        assert done.code == 0
        for path in paths[:2]:
            assert f"{path.name} is damaged, set aside and will be computed again" in done.err
            assert path.with_name(f"{path.name}.damaged").is_file()
        pd.testing.assert_frame_equal(table("here"), first)
    assert "damaged" not in steadymap(*RUN, "--output", "here").err


def lost_after(
    monkeypatch: pytest.MonkeyPatch, folder: Path, harm: Callable[[Path], object]
) -> None:
    """Harm a shard once all are computed, before they are put together."""
    original = Work.compute

    def compute(self: Work, there: Path, shards: list[Shard], watch: Watch) -> int:
        written = original(self, there, shards, watch)
        harm(max((folder / "parts").glob("*.parquet")))
        return written

    monkeypatch.setattr(Work, "compute", compute)


HARMS: dict[str, Callable[[Path], object]] = {
    "gone": lambda path: path.unlink(),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-30]),
    "emptied": lambda path: path.write_bytes(b""),
    "all gone": lambda path: shutil.rmtree(path.parent),
}


@pytest.mark.parametrize("harm", HARMS)
def test_what_is_lost_before_the_summary_is_missed(
    steadymap: Command, monkeypatch: pytest.MonkeyPatch, harm: str
) -> None:
    with monkeypatch.context() as patch:
        lost_after(patch, Path("here"), HARMS[harm])
        done = steadymap(*RUN, "--output", "here")
    assert done.code == 3
    assert " units are missing in here: " in done.err
    assert re.search(r"gradient, \w+ [\d.]+ \(draw 0\), \d images from ", done.err)
    assert "run the same experiment with --output here" in done.err
    left = {path.name for path in Path("here").iterdir()}
    assert not left & {"records.parquet", "manifest.json", ".records.parquet", ".timings.csv"}
    assert steadymap(*RUN, "--output", "here").code == 0
    assert steadymap(*RUN, "--output", "whole").code == 0
    pd.testing.assert_frame_equal(table("here"), table("whole"))


def test_a_part_of_a_run_misses_what_is_lost_too(
    steadymap: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        lost_after(patch, Path("a"), HARMS["gone"])
        done = steadymap(*RUN, "--output", "a", "--shard", "1/2")
    assert done.code == 3
    assert " units are missing in a: " in done.err
    assert "is done" not in done.err
    assert steadymap(*RUN, "--output", "a", "--shard", "1/2").code == 0


def test_damage_in_a_folder_that_is_merged_is_left_there(steadymap: Command) -> None:
    for name in ("1/2", "2/2"):
        assert steadymap(*RUN, "--output", name[0], "--shard", name).code == 0
    path = min(Path("2/parts").glob("*.parquet"))
    path.write_bytes(path.read_bytes()[:-3])
    done = steadymap("merge", "1", "2", "--output", "both")
    assert done.code == 3
    assert f"{path} is damaged and left out: it is not what was written" in done.err
    assert path.is_file()
    assert not Path("both/manifest.json").exists()
    ledger = Path("1/ledger.json")
    ledger.write_text(ledger.read_text().replace('"seed": 0', '"seed": 1'))
    done = steadymap("merge", "1", "2", "--output", "neither")
    assert done.code == 2
    assert "1/ledger.json is damaged: it is not what was written" in done.err


def test_a_damaged_ledger_stands_in_nobody_s_way(steadymap: Command) -> None:
    assert steadymap(*RUN, "--output", "here").code == 0
    first, path = table("here"), Path("here/ledger.json")
    for harmed in (path.read_text()[:-4], path.read_text().replace('"seed": 0', '"seed": 9')):
        path.write_text(harmed)
        done = steadymap(*RUN, "--output", "here")
        assert done.code == 0
        assert "here/ledger.json is damaged: " in done.err
        assert "it is written anew" in done.err
        assert "going on: " in done.err
    pd.testing.assert_frame_equal(table("here"), first)


@pytest.mark.parametrize("what", ["listing", "reading"])
def test_a_shortage_is_no_damage_and_no_empty_table(
    steadymap: Command, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    assert steadymap(*RUN, "--output", "here").code == 0
    first, left = table("here"), sorted(Path("here/parts").iterdir())
    name = {"listing": "iterdir", "reading": "read_bytes"}[what]
    original = getattr(Path, name)

    def short(self: Path) -> object:
        if "parts" in self.parts:
            raise OSError(24, "Too many open files")
        return original(self)

    with monkeypatch.context() as patch:
        patch.setattr(Path, name, short)
        done = steadymap(*RUN, "--output", "here")
        merged = steadymap("merge", "here", "--output", "there")
    assert (done.code, merged.code) == (2, 2)
    assert "cannot be read: Too many open files" in done.err
    assert not Path("there/records.parquet").exists()
    assert sorted(Path("here/parts").iterdir()) == left
    pd.testing.assert_frame_equal(table("here"), first)


@pytest.mark.slow
def test_few_handles_of_files_never_make_an_empty_table(
    steadymap: Command, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    assert steadymap(*RUN, "--output", "here").code == 0
    codes = {}
    for handles in (*range(4, 12), 16, 64):
        limited = f'ulimit -n {handles}; exec "{SCRIPT}" merge here --output there{handles}'
        done = subprocess.run(["bash", "-c", limited], cwd=tmp_path, check=False)  # noqa: S603, S607 - our own
        codes[handles] = done.returncode
        if done.returncode == 0:
            pd.testing.assert_frame_equal(table(f"there{handles}"), table("here"))
        else:
            assert not Path(f"there{handles}/manifest.json").exists()
    # Too few is a refusal, enough is the table: where one ends hangs on what a library opens.
    assert codes[4] != 0
    assert codes[64] == 0
    record_property("measured", f"exit codes by handles: {codes}")


def test_shards_of_several_machines_are_joined(
    steadymap: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert steadymap(*RUN, "--output", "whole").code == 0
    assert steadymap(*RUN, "--output", "a", "--shard", "1/2").code == 0
    assert not Path("a/records.parquet").exists()
    half = steadymap("merge", "a", "--output", "half")
    assert half.code == 3
    assert "units are missing" in half.err
    monkeypatch.setattr(
        "steadymap.bench.runs.resume.machine", lambda _device: {"processor": "another"}
    )
    assert steadymap(*RUN, "--output", "b", "--shard", "2/2").code == 0
    assert steadymap("merge", "a", "b", "--output", "both").code == 0
    pd.testing.assert_frame_equal(table("both"), table("whole"))
    timings = pd.read_csv("both/timings.csv")
    assert timings["machine"].nunique() == 2
    machines = json.loads(Path("both/manifest.json").read_text())["machines"]
    assert set(machines) == set(timings["machine"])
    assert all(one["seconds"] > 0 for one in machines.values())
    # What is missing in a joined folder is computed there, and no more.
    made = maps_made(monkeypatch)
    assert steadymap(*RUN, "--output", "half").code == 0
    assert {count for _, count in made} <= {8 * 4}
    pd.testing.assert_frame_equal(table("half"), table("whole"))
    assert steadymap(*RUN, "--seed", "1", "--output", "other", "--shard", "2/2").code == 0
    done = steadymap("merge", "a", "other", "--output", "no")
    assert done.code == 2
    assert "other is of another run than a: seed" in done.err


def test_merging_again_takes_what_is_better(
    steadymap: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shard of nothing but errors has the name of the one that replaces it."""
    assert steadymap(*RUN, "--output", "a", "--shard", "1/2").code == 0
    with monkeypatch.context() as patch:
        patch.setattr("steadymap.bench.measure.shard._views", lambda *_arguments: 1 / 0)
        assert steadymap(*RUN, "--output", "b", "--shard", "2/2").code == 0
    assert steadymap("merge", "a", "b", "--output", "both").code == 3
    lost = table("both")
    assert set(lost[lost["status"] == "error"]["detail"]) == {"ZeroDivisionError: division by zero"}
    assert steadymap(*RUN, "--output", "b", "--shard", "2/2").code == 0
    assert steadymap("merge", "a", "b", "--output", "both").code == 0
    assert steadymap(*RUN, "--output", "whole").code == 0
    pd.testing.assert_frame_equal(table("both"), table("whole"))


def test_a_shard_computed_anew_leaves_the_others(steadymap: Command) -> None:
    assert steadymap(*RUN, "--output", "here").code == 0
    first = table("here")
    when = {path.name: path.stat().st_mtime_ns for path in Path("here/parts").iterdir()}
    assert steadymap(*RUN, "--output", "here", "--shard", "1/2", "--no-resume").code == 0
    now = {path.name: path.stat().st_mtime_ns for path in Path("here/parts").iterdir()}
    # Names hold the hash of what is in a file, times included.
    stems = [sorted(name.rpartition("-")[0] for name in names) for names in (now, when)]
    assert stems[0] == stems[1]
    assert 0 < sum(now.get(name) == when[name] for name in when) < len(when)
    assert steadymap(*RUN, "--output", "here").code == 0
    pd.testing.assert_frame_equal(table("here"), first)


@pytest.mark.parametrize("harm", ["cut", "gone"])
def test_maps_that_are_damaged_are_made_again(steadymap: Command, harm: str) -> None:
    run = [*RUN, "--save-maps"]
    assert steadymap(*run, "--output", "whole").code == 0
    assert steadymap(*run, "--output", "here").code == 0
    path = min(Path("here/parts").glob("*.safetensors"))
    if harm == "cut":
        path.write_bytes(path.read_bytes()[:-4])
    else:
        path.unlink()
    assert steadymap(*run, "--output", "here").code == 0
    for name in ("images.safetensors", "gradient.safetensors"):
        assert Path("here/maps", name).read_bytes() == Path("whole/maps", name).read_bytes()


def test_maps_of_a_run_that_went_on_are_those_of_one_that_did_not(steadymap: Command) -> None:
    from safetensors.numpy import load_file  # noqa: PLC0415 - here alone

    assert steadymap(*RUN, "--output", "whole", "--save-maps").code == 0
    for shard in ("1/2", "2/2"):
        assert steadymap(*RUN, "--output", "two", "--save-maps", "--shard", shard).code == 0
    assert steadymap(*RUN, "--output", "two", "--save-maps").code == 0
    names = sorted(path.name for path in Path("whole/maps").iterdir())
    assert names == sorted(path.name for path in Path("two/maps").iterdir())
    assert Path("two/maps/index.csv").read_text() == Path("whole/maps/index.csv").read_text()
    for name in names:
        if name.endswith(".safetensors"):
            one, two = load_file(f"whole/maps/{name}"), load_file(f"two/maps/{name}")
            assert set(one) == set(two)
            for key, value in one.items():
                assert (value == two[key]).all()


def test_what_failed_is_tried_again(steadymap: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = [True]

    def fragile(classifier: Classifier, batch: Batch) -> object:
        if broken[0] and float(batch.images.max()) > 1.15:
            raise RuntimeError("too bright")
        return METHODS["gradient"].explain(classifier, batch)

    monkeypatch.setitem(METHODS, "fragile", Method(fragile, "", ""))  # type: ignore[arg-type] # returns a tensor
    run = ["run", "--limit", "9", "--method", "fragile", "--method", "gradient", *PLAN]
    done = steadymap(*run, "--output", "here")
    assert done.code == 3
    assert "the same command tries these again" in done.err
    assert steadymap(*run, "--output", "here", "--allow-failed", "0.5").code == 0
    broken[0] = False
    assert steadymap(*run, "--output", "here").code == 0
    assert set(table("here")["status"]) <= {"ok", "small_delta", "skipped"}
    assert steadymap(*run, "--output", "fresh").code == 0
    pd.testing.assert_frame_equal(table("here"), table("fresh"))


def test_a_disk_that_is_full_harms_nothing(
    steadymap: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = os.fsync, []

    def full(handle: int) -> None:
        calls.append(handle)
        if len(calls) > 6:
            raise OSError(28, "No space left on device")
        real(handle)

    monkeypatch.setattr(os, "fsync", full)
    done = steadymap(*RUN, "--output", "here")
    assert done.code == 2
    said = done.err.replace("\n", "")
    assert "output: cannot write into here/parts: No space left on device" in said
    assert not list(Path("here").rglob("*.tmp"))
    monkeypatch.setattr(os, "fsync", real)
    left = sorted(Path("here/parts").iterdir())
    assert left
    assert all(pq.read_table(path).num_rows for path in left)
    assert steadymap(*RUN, "--output", "here").code == 0
    assert steadymap(*RUN, "--output", "fresh").code == 0
    pd.testing.assert_frame_equal(table("here"), table("fresh"))


def test_an_interruption_of_the_summary_loses_nothing(
    steadymap: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def impatient(*_given: object, **_named: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr("steadymap.bench.commands.finish.Findings.of", impatient)
        done = steadymap(*RUN, "--output", "here")
    assert done.code == 130
    assert "all is measured, and in here" in done.err
    made = maps_made(monkeypatch)
    assert steadymap(*RUN, "--output", "here").code == 0
    assert made == []


def test_a_picture_that_vanishes_costs_its_shard(
    steadymap: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    for index in range(18):
        write_noise(Path("data", "ab"[index % 2], f"{index}.png"), index, 64, 64)
    run = ["run", "--data", "folder:data", "--split", "all", "--limit", "18", *METHOD, *PLAN]
    assert steadymap(*run, "--output", "whole").code == 0
    gone = next(Path("data", "a").iterdir())
    original = Work.compute

    def compute(self: Work, folder: Path, shards: list[Shard], watch: Watch) -> int:
        gone.rename("elsewhere.png")
        try:
            return original(self, folder, shards, watch)
        finally:
            Path("elsewhere.png").rename(gone)

    with monkeypatch.context() as patch:
        patch.setattr(Work, "compute", compute)
        assert steadymap(*run, "--output", "here").code == 3
    found = table("here")
    lost = found[found["status"] == "error"]
    assert lost["detail"].str.contains(f"a/{gone.name} can no longer be read").all()
    assert 8 <= lost["image_id"].nunique() <= 10, "one block"
    assert set(found["image_id"]) == set(table("whole")["image_id"])
    assert steadymap(*run, "--output", "here").code == 0
    pd.testing.assert_frame_equal(table("here"), table("whole"))


def test_a_clock_that_runs_backwards_changes_nothing(
    steadymap: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert steadymap(*RUN, "--output", "whole").code == 0
    hours = iter(range(10**6, 0, -1))
    monkeypatch.setattr(time, "time", lambda: 3600.0 * next(hours))
    assert steadymap(*RUN, "--output", "here").code == 0
    pd.testing.assert_frame_equal(table("here"), table("whole"))
    assert (pd.read_csv("here/timings.csv")["seconds"] >= 0).all()
    assert json.loads(Path("here/manifest.json").read_text())["wall_seconds"] > 0


def measured_at(folder: str) -> str:
    return str(json.loads(Path(folder, "manifest.json").read_text())["measured_at"])


def test_a_run_says_when_the_last_of_it_was_computed(
    steadymap: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the manifest alone: records and names of units are those of any other time."""
    dates = iter(f"2026-03-0{day}T12:00:00+00:00" for day in range(1, 10))
    monkeypatch.setattr(resume, "date_now", lambda: next(dates))
    less = [*RUN, "--limit", "16", "--jobs", "1", "--threads", "1"]
    assert steadymap(*less, "--output", "here").code == 0
    first = measured_at("here")
    units = units_of(Path("here"))
    assert first > "2026-03-01", "of the last of its two shards"
    assert steadymap(*less, "--output", "here").code == 0
    assert measured_at("here") == first, "nothing was computed"
    assert steadymap("report", "here").code == 0
    assert measured_at("here") == first
    assert steadymap(*less, "--output", "later").code == 0
    assert measured_at("later") > first
    assert units_of(Path("later")) == units
    pd.testing.assert_frame_equal(table("later"), table("here"))
    assert steadymap("merge", "later", "here", "--output", "both").code == 0
    # Of each block it has the shard of one of the two.
    assert first <= measured_at("both") <= measured_at("later")


def test_shards_from_before_there_were_dates_are_of_no_known_time(
    steadymap: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resume, "date_now", lambda: "")
    assert steadymap(*RUN, "--output", "here").code == 0
    assert "measured_at" not in json.loads(Path("here/manifest.json").read_text())


@pytest.mark.parametrize("output", ["file/below", "/proc/steadymap", "shut"])
def test_a_folder_that_cannot_be_written_is_one_line(
    steadymap: Command, monkeypatch: pytest.MonkeyPatch, output: str
) -> None:
    Path("file").touch()
    if output == "shut":
        Path(output).mkdir()
        Path(output).chmod(0o500)
        if os.access(output, os.W_OK):  # root may write anyway
            real = os.open

            def refused(path: str, *given: int, **named: int) -> int:
                if str(path).startswith("shut"):
                    raise PermissionError(13, "Permission denied", path)
                return real(path, *given, **named)

            monkeypatch.setattr(os, "open", refused)
    made = maps_made(monkeypatch)
    done = steadymap(*RUN, "--output", output)
    assert done.code == 2
    lines = done.err.strip().splitlines()
    assert len([line for line in lines if line.startswith("steadymap: output: ")]) == 1
    assert made == []


def start(folder: Path, *more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(  # noqa: S603 - our own script
        [SCRIPT, *RUN, "--output", str(folder), "--threads", "1", *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def wait_for_parts(folder: Path, count: int, running: subprocess.Popen[str]) -> None:
    while running.poll() is None and len(list((folder / "parts").glob("*.parquet"))) < count:
        time.sleep(0.01)


def read_until(words: str, running: subprocess.Popen[str]) -> None:
    assert running.stderr is not None
    lines = iter(running.stderr.readline, "")
    assert any(words in line for line in lines), f"it ended without {words!r}"


LONG = ["--limit", "40", "--severity", ",".join(str(level / 100) for level in range(1, 30))]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_finishes_the_shard_in_hand(tmp_path: Path, number: signal.Signals) -> None:
    many = "--split", "all", "--limit", "120"
    with start(tmp_path / "here", *LONG, *many, "--jobs", "1") as running:
        wait_for_parts(tmp_path / "here", 1, running)
        running.send_signal(number)
        read_until("stopping: the shards in hand are finished", running)
        there = len(all_parts(tmp_path / "here"))
        _, err = running.communicate(timeout=120)
    assert running.returncode == 130
    assert "shards are written to" in err
    assert "the same command goes on" in err
    assert not list(tmp_path.rglob("*.tmp"))
    assert 1 <= there <= len(all_parts(tmp_path / "here")) <= there + 1
    ledger, _ = store.read_ledger(tmp_path / "here")
    assert there + 1 < len(list(ledger.pieces()))


def test_a_second_signal_stops_at_once(tmp_path: Path) -> None:
    with start(tmp_path / "here", *LONG, "--jobs", "1") as running:
        wait_for_parts(tmp_path / "here", 1, running)
        running.send_signal(signal.SIGINT)
        read_until("once more", running)
        written = len(list((tmp_path / "here/parts").glob("*.parquet")))
        running.send_signal(signal.SIGINT)
        running.communicate(timeout=60)
    assert running.returncode == 130
    assert len(list((tmp_path / "here/parts").glob("*.parquet"))) <= written + 1


def test_a_second_writer_is_refused(steadymap: Command, tmp_path: Path) -> None:
    with start(tmp_path / "here", *LONG) as running:
        wait_for_parts(tmp_path / "here", 1, running)
        running.send_signal(signal.SIGSTOP)
        try:
            done = steadymap(*RUN, "--output", "here")
        finally:
            # What is stopped would be waited for, for ever.
            running.kill()
    assert done.code == 2
    assert "another run is writing into here; wait for it" in done.err
    # The kernel lets go of the lock.
    assert steadymap(*RUN, "--output", "here").code == 0


@pytest.mark.slow
def test_kill_at_any_moment_loses_nothing(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    with start(tmp_path / "whole") as whole:
        assert whole.wait() == 0
    began = time.monotonic()
    with start(tmp_path / "timed") as timed:
        timed.wait()
    takes = time.monotonic() - began
    rng, killed, folder, runs = random.Random(8), 0, tmp_path / "here", 0  # noqa: S311 - when to kill
    while killed < 50:
        with start(folder) as running:
            try:
                running.wait(rng.uniform(0, takes))
            except subprocess.TimeoutExpired:
                running.kill()
                killed += 1
        if running.returncode == 0:
            runs += 1
            pd.testing.assert_frame_equal(table(folder), table(tmp_path / "whole"))
            folder = tmp_path / f"here{runs}"
    with start(folder) as last:
        assert last.wait() == 0
    records = table(folder)
    pd.testing.assert_frame_equal(records, table(tmp_path / "whole"))
    key = ["image_id", "method", "family", "severity", "draw", "metric"]
    assert not records.duplicated(key).any()
    record_property(
        "measured", f"killed {killed} times, finished {runs + 1} runs, {len(records)} records each"
    )


@pytest.mark.slow
def test_two_writers_twenty_times(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    with start(tmp_path / "whole") as whole:
        assert whole.wait() == 0
    refused = 0
    for turn in range(20):
        folder = tmp_path / f"here{turn}"
        with start(folder) as one, start(folder) as two:
            codes = sorted([one.wait(), two.wait()])
        refused += codes == [0, 2]
        pd.testing.assert_frame_equal(table(folder), table(tmp_path / "whole"))
    assert refused == 20
    record_property("measured", f"20 times two writers: {refused} times one won, one was refused")
