"""The same records, whoever computes them: threads, processes, dask, jobs of a cluster."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import pandas as pd
import pytest
import yaml
from support import console, plain

from steadymap.bench.core.errors import ConfigError
from steadymap.bench.data.opening import open_images
from steadymap.bench.measure.outcome import Outcome
from steadymap.bench.plan.shards import Shard
from steadymap.bench.records.read import read_run
from steadymap.bench.runs import processes as elsewhere
from steadymap.bench.runs.processes import Parallel, read_parallel
from steadymap.models import load_classifier

RUN = [
    "run", "--limit", "20", "--method", "gradient", "--method", "gradient_x_input",
    "--family", "bias", "--family", "gaussian_noise", "--severity", "0.1", "--nulls", "1",
    "--no-controls", "--no-report",
]  # fmt: skip
# A method of one's own that ends its process.
DYING = """
import hashlib
import multiprocessing
import os
from pathlib import Path
from steadymap.bench.methods.registry import METHODS

def once(classifier, batch):
    \"\"\"Die the first time of a worker; the run's own process checks it before.\"\"\"
    marker = Path(__file__).with_name("died")
    worker = multiprocessing.current_process().name != "MainProcess"
    if worker and not marker.exists():
        marker.touch()
        os._exit(9)
    return METHODS["gradient"].explain(classifier, batch)

def always(classifier, batch):
    \"\"\"Die of one image.\"\"\"
    victim = Path(__file__).with_name("victim").read_text()
    if any(hashlib.sha256(image.numpy()).hexdigest() == victim for image in batch.images):
        os._exit(9)
    return METHODS["gradient"].explain(classifier, batch)
"""

needs_dask = pytest.mark.skipif(not find_spec("distributed"), reason="extra dask not installed")
needs_submitit = pytest.mark.skipif(not find_spec("submitit"), reason="extra slurm not installed")


def carried_out(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the plan in a process of its own, from a folder into `here` below it."""
    return console(*RUN, *arguments, "--output", "here", cwd=folder, OMP_NUM_THREADS="2")


def by_others(
    folder: Path, *arguments: str, **parallel: object
) -> subprocess.CompletedProcess[str]:
    """Run the plan so, by whom a file says."""
    (folder / "who.yaml").write_text(yaml.safe_dump(parallel))
    return carried_out(folder, *arguments, "--parallel-config", "who.yaml")


def table(folder: Path) -> pd.DataFrame:
    return plain(read_run(folder / "here")[0])


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """Return the records that one thread computes."""
    folder = tmp_path_factory.mktemp("one")
    done = carried_out(folder, "--jobs", "1", "--threads", "1")
    assert done.returncode == 0, done.stderr
    return table(folder)


@pytest.mark.parametrize("jobs", [2, 4])
def test_threads_compute_the_same_bits(tmp_path: Path, expected: pd.DataFrame, jobs: int) -> None:
    done = carried_out(tmp_path, "--jobs", str(jobs))
    assert done.returncode == 0, done.stderr
    pd.testing.assert_frame_equal(table(tmp_path), expected, check_exact=True)


@pytest.mark.parametrize(
    ("backend", "jobs"),
    [
        ("loky", 2),
        pytest.param("loky", 4, marks=pytest.mark.slow),
        pytest.param("dask", 2, marks=[needs_dask, pytest.mark.slow]),
        pytest.param("submitit", 2, marks=[needs_submitit, pytest.mark.slow]),
    ],
)
def test_processes_compute_the_same_bits(
    tmp_path: Path, expected: pd.DataFrame, backend: str, jobs: int
) -> None:
    own = {"cluster": "local", "folder": "jobs"} if backend == "submitit" else {}
    done = by_others(tmp_path, backend=backend, jobs=jobs, **own)
    assert done.returncode == 0, done.stderr
    pd.testing.assert_frame_equal(table(tmp_path), expected, check_exact=True)


def test_a_shard_whose_worker_died_is_tried_again(tmp_path: Path, expected: pd.DataFrame) -> None:
    (tmp_path / "dying.py").write_text(DYING)
    done = by_others(tmp_path, "--method", "dying:once", backend="loky", jobs=2)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "died").exists()
    records = table(tmp_path)
    ours = plain(records[records["method"] != "dying.once"], "run_id")
    pd.testing.assert_frame_equal(ours, plain(expected, "run_id"), check_exact=True)


def test_a_shard_that_kills_its_workers_is_marked(tmp_path: Path, expected: pd.DataFrame) -> None:
    (tmp_path / "dying.py").write_text(DYING)
    victim = expected["image_id"].iloc[-1]
    # No method is told the names of images, but it sees them.
    images = open_images("hands", load_classifier("compact").framing, "test", 20)
    (place,) = (n for n, picture in enumerate(images.pictures) if picture.image_id == victim)
    pixels = hashlib.sha256(images.read(place).image.numpy().tobytes()).hexdigest()
    (tmp_path / "victim").write_text(pixels)
    who = {"backend": "loky", "jobs": 2, "tries": 2}
    done = by_others(tmp_path, "--method", "dying:always", **who)
    assert done.returncode == 3, done.stderr
    records = table(tmp_path)
    lost = records[records["status"] == "error"]
    assert victim in set(lost["image_id"])
    assert lost["image_id"].nunique() <= 8, "one shard"
    assert lost["detail"].str.contains("its worker died 2 times").all()
    kept = records[~records["image_id"].isin(set(lost["image_id"]))]
    assert set(kept["status"]) <= {"ok", "skipped", "small_delta"}
    assert kept["image_id"].nunique() == 20 - lost["image_id"].nunique()
    # Nothing of what was computed is computed again once the cause is gone.
    (tmp_path / "victim").write_text("nobody")
    again = by_others(tmp_path, "--method", "dying:always", **who)
    assert again.returncode == 0, again.stderr
    assert "units are there already" in again.stderr
    assert set(table(tmp_path)["status"]) <= {"ok", "skipped", "small_delta"}


CLUSTER = """
from distributed import LocalCluster
if __name__ == "__main__":
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        pids = [worker.process.pid for worker in cluster.workers.values()]
        print(cluster.scheduler_address, *pids, flush=True)
        input()
"""


@contextmanager
def cluster(folder: Path) -> Iterator[tuple[str, list[int]]]:
    """Start a cluster of dask; yield its address and its workers."""
    (folder / "cluster.py").write_text(CLUSTER)
    with subprocess.Popen(
        [sys.executable, "cluster.py"],
        cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as started:  # fmt: skip
        assert started.stdout is not None
        address, *workers = started.stdout.readline().split()
        try:
            yield address, list(map(int, workers))
        finally:
            started.communicate("\n", timeout=60)


@needs_dask
def test_a_worker_of_dask_that_is_killed_changes_nothing(
    tmp_path: Path, expected: pd.DataFrame
) -> None:
    with cluster(tmp_path) as (address, workers):
        who = {"backend": "dask", "address": address}
        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(by_others, tmp_path, **who)
            parts = tmp_path / "here" / "parts"
            while not running.done() and not list(parts.glob("*.parquet")):
                time.sleep(0.02)
            os.kill(workers[0], signal.SIGKILL)
            done = running.result()
    assert done.returncode == 0, done.stderr
    pd.testing.assert_frame_equal(table(tmp_path), expected, check_exact=True)


@needs_dask
def test_a_resource_that_no_worker_has_is_refused(tmp_path: Path) -> None:
    with cluster(tmp_path) as (address, _):
        done = by_others(tmp_path, backend="dask", address=address, resources={"GPU": 1})
    assert done.returncode == 2
    assert "GPU: 1 is asked for, and no worker offers more than 0" in done.stderr
    assert "Traceback" not in done.stderr


@needs_dask
def test_a_scheduler_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    done = by_others(tmp_path, backend="dask", address="tcp://127.0.0.1:9", patience=1)
    assert done.returncode == 2
    assert "tcp://127.0.0.1:9 has no scheduler with workers" in done.stderr
    assert "Traceback" not in done.stderr


def test_workers_are_checked_for_resources_before_anything_is_sent() -> None:
    how = Parallel(backend="dask", resources={"GPU": 2})
    offers: dict[str, dict[str, dict[str, int]]] = {
        "a": {"resources": {"GPU": 1}},
        "b": {"resources": {}},
        "c": {},
    }
    with pytest.raises(ConfigError, match=r"GPU: 2 is asked for, and no worker offers more than 1"):
        elsewhere._check_resources(how, offers)  # noqa: SLF001 - without a cluster
    elsewhere._check_resources(how, offers | {"d": {"resources": {"GPU": 2}}})  # noqa: SLF001 - as above


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("backend: fog", "backend: Input should be 'threading', 'loky', 'dask' or 'submitit'"),
        ("jobs: 0", "jobs: Input should be greater than or equal to 1"),
        ("job: 2", "job: Extra inputs are not permitted"),
        ("- 1", "the file: Input should be a valid dictionary"),
        ("a: [", "cannot read"),
    ],
)
def test_a_file_that_says_who_computes_is_checked(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "who.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as error:
        read_parallel(path)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def never(_shard: Shard, _tries: int, _reason: str) -> Outcome:
    raise AssertionError("nothing is given up")


@pytest.mark.parametrize(("module", "extra"), [("distributed", "dask"), ("submitit", "slurm")])
def test_an_extra_that_is_missing_is_named(
    monkeypatch: pytest.MonkeyPatch, module: str, extra: str
) -> None:
    monkeypatch.setattr(elsewhere, "find_spec", lambda name: None if name == module else True)
    backend = {"distributed": elsewhere.ENGINES["dask"], "submitit": elsewhere.ENGINES["submitit"]}
    with (
        pytest.raises(ConfigError, match=rf"missing: pip install 'steadymap\[{extra}\]'"),
        backend[module](Parallel(), never),
    ):
        pass
