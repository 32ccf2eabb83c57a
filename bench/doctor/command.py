"""`steadymap doctor`: what is here, what is broken, what to do, and what to put into an issue.

Whatever may be broken is imported where its failure is one line among others, torch first of all.
"""

from __future__ import annotations

import importlib.metadata
import io
import json
import math
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from packaging.requirements import Requirement
from rich import box
from rich.table import Table
from rich.text import Text

from steadymap.bench.core.console import EXIT_FAILED, RUNS, console_of, line
from steadymap.bench.core.names import safe_markdown
from steadymap.bench.doctor.facts import RESULTS, Fact, Probe, Result, look

if TYPE_CHECKING:
    import torch

    from steadymap.bench.core.plugins import Shelf
    from steadymap.bench.doctor.selftest import Outcome


DOCTOR_VERSION = 1

TOGETHER = (
    "install torch and torchvision together, from one index: pip install --force-reinstall torch "
    "torchvision (for CPU alone with --index-url https://download.pytorch.org/whl/cpu)"
)
WITHOUT_GPU = "--device cpu works; for the GPU see https://pytorch.org/get-started"

TO_REPORT = "trust no number of this installation: install it anew, or report this as an issue"

STYLES: dict[Result, str] = {"ok": "", "missing": "dim", "warning": "yellow", "failed": "bold red"}

# Of OpenMP, its two implementations, MKL and OpenBLAS: how many threads, and how they wait.
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OMP_PROC_BIND",
    "OMP_WAIT_POLICY",
    "GOMP_SPINCOUNT",
    "GOMP_CPU_AFFINITY",
    "KMP_BLOCKTIME",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
)
THREAD_VALUE = re.compile(r"[0-9][0-9, -]*|[A-Za-z]{1,12}")

# The embedded experiment held 1.2 to 1.4 GiB, libraries included.
LEAST_MEMORY = 3 << 29
LEAST_DISK = 1 << 30

# What a walk through a cache looks at, at most.
MOST_FILES = 20_000
MOST_SECONDS = 0.5

GROUP = Path("/sys/fs/cgroup")
OWN_GROUP = Path("/proc/self/cgroup")
DRIVER = Path("/proc/driver/nvidia/version")
# From here on a limit of the first version of control groups is none.
NO_LIMIT = 1 << 60
PATIENCE = 5.0

TO_ADD = (
    "the command, as you typed it",
    "the configuration file, if there is one (`--config`)",
    "`manifest.json` of the run's folder (`ledger.json` if it did not finish)",
    "the last 30 lines of stderr, the first line of the error among them",
    "what you expected instead",
)


class Form(StrEnum):
    """What the facts are written as."""

    TEXT = "text"
    JSON = "json"
    MD = "md"


# --- versions -------------------------------------------------------------------------------------


def _system() -> Iterator[Fact]:
    kind = "in a virtual environment" if sys.prefix != sys.base_prefix else "of the system"
    if (Path(sys.prefix) / "conda-meta").is_dir():
        kind = "of conda"
    yield Fact("Python", f"{platform.python_implementation()} {platform.python_version()}, {kind}")
    yield Fact("system", platform.platform())


def _processor() -> Iterator[Fact]:
    import torch

    from steadymap.bench.runs.manifest import machine

    yield Fact("processor", str(machine(torch.device("cpu"))["processor"]))


def requirements(extra: str = "") -> list[Requirement]:
    """Return what the package needs by its own metadata; or what an extra adds."""
    found = map(Requirement, importlib.metadata.requires("steadymap") or ())
    return [
        one
        for one in found
        if (one.marker is None or one.marker.evaluate({"extra": extra}))
        and not (extra and (one.marker is None or one.marker.evaluate({"extra": ""})))
    ]


def _packages() -> Iterator[Fact]:
    yield Fact("steadymap", importlib.metadata.version("steadymap"))
    for needed in requirements():
        yield from look(Probe(needed.name, partial(_package, needed), True, _get(needed)))


def _package(needed: Requirement) -> Iterator[Fact]:
    lacking = what_lacks(needed)
    if lacking is None:
        yield Fact(needed.name, importlib.metadata.version(needed.name))
    else:
        yield Fact(needed.name, lacking, "failed", _get(needed))


def what_lacks(needed: Requirement) -> str | None:
    """Return why a requirement is not met; None where it is. Nothing is imported."""
    try:
        version = importlib.metadata.version(needed.name)
    except importlib.metadata.PackageNotFoundError:
        return f"{needed.name} is not installed"
    if needed.specifier.contains(version, prereleases=True):
        return None
    return f"{needed.name} {version} is installed, needed is {needed.specifier}"


def _get(needed: Requirement) -> str:
    return f"pip install '{needed.name}{needed.specifier}'"


def _builds() -> Iterator[Fact]:
    import torch

    ours = torch_build(torch.version.cuda, getattr(torch.version, "hip", None))
    yield Fact("torch's build", f"{torch.__version__}, for {ours}")
    import torchvision

    theirs = torchvision_build(torchvision.__version__)
    if theirs is not None and not same_build(ours, theirs):
        value = f"{torchvision.__version__}, for {theirs}: torch is for {ours}"
        yield Fact("torchvision's build", value, "failed", TOGETHER)
    else:
        value = f"{torchvision.__version__}, for {theirs or 'no known device'}"
        yield Fact("torchvision's build", value)
    boxes = torch.tensor([[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 2.0, 1.9], [5.0, 5.0, 6.0, 6.0]])
    kept = torchvision.ops.nms(boxes, torch.tensor([0.9, 0.8, 0.7]), 0.5).tolist()
    if kept == [0, 2]:
        yield Fact("torchvision::nms", "can be called, keeps boxes 0 and 2 of three")
    else:
        value = f"keeps boxes {kept} of three, not 0 and 2"
        yield Fact("torchvision::nms", value, "failed", TOGETHER)


def torch_build(cuda: str | None, rocm: str | None) -> str:
    """Return what torch was built for: CPU, CUDA 13.2, ROCm 6.4."""
    return f"CUDA {cuda}" if cuda else f"ROCm {rocm}" if rocm else "CPU"


def torchvision_build(version: str) -> str | None:
    """Return what torchvision was built for, by its version's label or what it says itself.

    None where it says nothing.
    """
    label = version.partition("+")[2]
    if label == "cpu":
        return "CPU"
    if found := re.fullmatch(r"cu(\d+)(\d)", label):
        return f"CUDA {found[1]}.{found[2]}"
    if label.startswith("rocm"):
        return f"ROCm {label.removeprefix('rocm')}"
    import torch

    number = int(torch.ops.torchvision._cuda_version())  # noqa: SLF001 - it is what torchvision's own check asks
    # 13020 is 13.2; without CUDA it is -1, with ROCm, too.
    return f"CUDA {number // 1000}.{number % 1000 // 10}" if number > 0 else None


def same_build(one: str, other: str) -> bool:
    """Return whether both are for the same kind of device, and the same first number of it.

    torch and torchvision run together across CUDA 13.0 and 13.2, not across 12 and 13.
    """
    return one.partition(".")[0] == other.partition(".")[0]


# --- devices --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cores:
    """CPU cores.

    Attributes:
        there: of the machine.
        bound: those that the process may be scheduled on.
        quota: cores' worth of time that the container has; None where nobody limits it.
    """

    there: int
    bound: int
    quota: float | None

    @property
    def usable(self) -> int:
        """How many threads can run at a time."""
        return self.bound if self.quota is None else min(self.bound, max(1, math.ceil(self.quota)))


def cores_here() -> Cores:
    """Count the cores of the machine, and those that this process may use."""
    there = os.cpu_count() or 1
    bound = getattr(os, "sched_getaffinity", None)  # Linux has it
    return Cores(there, len(bound(0)) if bound else there, cpu_quota(GROUP, OWN_GROUP))


def cpu_quota(group: Path, own: Path) -> float | None:
    """Return the cores' worth of time that control groups allow; None where they set no limit."""
    quotas = []
    for text in _limits(group, own, "cpu.max"):
        most, _, period = text.partition(" ")
        if most != "max":
            quotas.append(int(most) / int(period))
    try:
        most = (group / "cpu/cpu.cfs_quota_us").read_text(encoding="ascii")
        period = (group / "cpu/cpu.cfs_period_us").read_text(encoding="ascii")
    except OSError:  # not the first version of control groups
        return min(quotas, default=None)
    if int(most) > 0:
        quotas.append(int(most) / int(period))
    return min(quotas, default=None)


def memory_limit(group: Path, own: Path) -> int | None:
    """Return the memory that control groups allow, in bytes; None where they set no limit."""
    found = [int(text) for text in _limits(group, own, "memory.max") if text != "max"]
    with suppress(OSError):  # not the first version of control groups
        found.append(int((group / "memory/memory.limit_in_bytes").read_text(encoding="ascii")))
    return min((limit for limit in found if limit < NO_LIMIT), default=None)


def _limits(group: Path, own: Path, name: str) -> Iterator[str]:
    """Yield a limit of the process's control group (version 2) and of each one above it."""
    try:
        lines = own.read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        return
    for entry in lines:
        if not entry.startswith("0::"):
            continue
        inner = group / entry.removeprefix("0::").lstrip("/")
        for folder in (inner, *inner.parents):
            with suppress(OSError):  # the root has none, and what a container cannot see
                yield (folder / name).read_text(encoding="ascii").strip()
            if folder == group:
                break


def _cores() -> Iterator[Fact]:
    cores = cores_here()
    parts = [f"{cores.there}"]
    if cores.bound < cores.there:
        parts.append(f"{cores.bound} that this process is bound to")
    if cores.quota is not None:
        parts.append(f"the container's quota is {cores.quota:g}")
    yield Fact("CPU cores", ", ".join(parts), number=cores.usable)


def _threads() -> Iterator[Fact]:
    import torch

    threads, usable = torch.get_num_threads(), cores_here().usable
    value = f"{threads} in an operation, {torch.get_num_interop_threads()} operations at a time"
    if threads > usable:
        yield Fact(
            "torch's threads",
            f"{value}; {usable} can run",
            "warning",
            f"they wait for each other: give --threads {usable}, or set OMP_NUM_THREADS={usable}",
            threads,
        )
    else:
        yield Fact("torch's threads", value, number=threads)


def _thread_variables() -> Iterator[Fact]:
    known = {name: os.environ[name] for name in THREAD_VARIABLES if name in os.environ}
    # What is neither a number nor a word is not shown: nobody knows what it is.
    odd = [name for name, value in known.items() if not THREAD_VALUE.fullmatch(value)]
    parts = [f"{name}={value}" for name, value in known.items() if name not in odd]
    if odd:
        yield Fact(
            "thread variables",
            ", ".join([*parts, *(f"{name} is set to no number" for name in odd)]),
            "warning",
            f"unset {' '.join(odd)}, or give a number",
        )
    else:
        yield Fact("thread variables", ", ".join(parts) or "none set")


def _load() -> Iterator[Fact]:
    ask = getattr(os, "getloadavg", None)
    if ask is None:  # Windows
        yield Fact("load", "this system does not say", "missing")
        return
    now, cores = ask()[0], os.cpu_count() or 1
    if now > cores:
        value = f"{now:.1f}, on {cores} cores: others are working here"
        advice = "runs take longer and timings are not steady: wait, or time elsewhere"
        yield Fact("load", value, "warning", advice, now)
    else:
        yield Fact("load", f"{now:.1f}, on {cores} cores", number=now)


def _cuda() -> Iterator[Fact]:
    import torch

    driver = driver_version(DRIVER)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not count:
        built = torch_build(torch.version.cuda, getattr(torch.version, "hip", None))
        spoken = " ".join(str(said[-1].message).split()) if said else ""
        yield why_no_cuda(built, driver, os.environ.get("CUDA_VISIBLE_DEVICES"), spoken)
        return
    yield Fact("CUDA driver", driver or "of an unknown version")
    for index in range(count):
        yield from look(Probe(f"cuda:{index}", partial(_cuda_device, index), False, WITHOUT_GPU))


def why_no_cuda(built: str, driver: str | None, visible: str | None, said: str) -> Fact:
    """Say why there is no CUDA device.

    Args:
        built: what torch was built for.
        driver: the version of the driver; None where there is none.
        visible: CUDA_VISIBLE_DEVICES; None where it is not set.
        said: what torch warned of when asked.
    """
    if not built.startswith("CUDA"):
        advice = WITHOUT_GPU if driver else ""
        return Fact("CUDA", f"none: this torch is for {built}", "missing", advice)
    if driver is None:
        return Fact("CUDA", "none: there is no NVIDIA driver here", "missing")
    note = f" ({said})" if said else ""
    if visible is not None:
        value = f"none: CUDA_VISIBLE_DEVICES leaves none to be seen{note}"
        advice = "unset CUDA_VISIBLE_DEVICES, or name a device in it (0)"
        return Fact("CUDA", value, "warning", advice)
    value = f"none: driver {driver} is there, and torch sees no device{note}"
    advice = "does nvidia-smi list one? Is the driver new enough for this torch? " + WITHOUT_GPU
    return Fact("CUDA", value, "warning", advice)


def driver_version(path: Path) -> str | None:
    """Return the version of NVIDIA's driver, as the kernel or else nvidia-smi says it."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError:  # not Linux, no driver, or a container that does not show it
        text = _nvidia_smi()
    found = re.search(r"\b\d{3,}\.\d+(\.\d+)?\b", text)
    return found[0] if found else None


def _nvidia_smi() -> str:
    program = shutil.which("nvidia-smi")
    if program is None:
        return ""
    try:
        done = subprocess.run(  # noqa: S603 - fixed arguments
            [program, "--query-gpu=driver_version", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


def _cuda_device(index: int) -> Iterator[Fact]:
    import torch

    device = torch.device("cuda", index)
    about = torch.cuda.get_device_properties(device)
    free, total = torch.cuda.mem_get_info(device)
    value = (
        f"{about.name}, {size_text(free)} of {size_text(total)} free, "
        f"compute capability {about.major}.{about.minor}"
    )
    yield convolution(f"cuda:{index}", value, device)


def convolution(name: str, value: str, device: torch.device) -> Fact:
    """Return whether a convolution of ones gives nine, as it must with any precision.

    Args:
        name: of the fact.
        value: what is known of the device.
        device: where.
    """
    import torch

    ones = torch.ones(1, 1, 5, 5, device=device)
    kernel = torch.ones(1, 1, 3, 3, device=device)
    sums = torch.nn.functional.conv2d(ones, kernel).cpu()
    if bool((sums == kernel.numel()).all()):
        return Fact(name, f"{value}; a convolution runs there")
    value += f"; a convolution of ones gives {float(sums[0, 0, 1, 1]):g}, not 9"
    return Fact(name, value, "warning", f"trust no number of it; {WITHOUT_GPU}")


# --- memory, caches, folders ----------------------------------------------------------------------


def size_text(size: float) -> str:
    """Return bytes for people."""
    for unit, bytes_of in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if size >= bytes_of:
            return f"{size / bytes_of:.1f} {unit}"
    return f"{size:.0f} bytes"


def _memory() -> Iterator[Fact]:
    limit = memory_limit(GROUP, OWN_GROUP)
    value = "none" if limit is None else size_text(limit)
    yield Fact("the container's limit", value, number=limit)
    import torch

    from steadymap.bench.network.passes import free_memory

    free = free_memory(torch.device("cpu"))
    if free is None:
        yield Fact("free memory", "this system does not say", "missing")
    elif free < LEAST_MEMORY:
        advice = "close other programs, or give --jobs 1 --batch-size 4"
        yield Fact("free memory", size_text(free), "warning", advice, free)
    else:
        yield Fact("free memory", size_text(free), number=free)


@dataclass(frozen=True)
class Cache:
    """Where a library keeps what it has downloaded or worked out.

    Attributes:
        holds: what is in it.
        default: makes its folder of the home folder.
    """

    holds: str
    default: Callable[[Path], Path]


def _user_cache(home: Path) -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache")


def _matplotlib_cache(home: Path) -> Path:
    linux = platform.system() == "Linux"
    return _user_cache(home) / "matplotlib" if linux else home / ".matplotlib"


# By the variable that moves it.
CACHES: dict[str, Cache] = {
    "TORCH_HOME": Cache(
        "weights and data of torchvision", lambda home: _user_cache(home) / "torch"
    ),
    "HF_HOME": Cache("timm and the hub", lambda home: _user_cache(home) / "huggingface"),
    "KAGGLEHUB_CACHE": Cache("Kaggle's data", lambda home: home / ".cache" / "kagglehub"),
    "MPLCONFIGDIR": Cache("matplotlib's fonts", _matplotlib_cache),
}


def _caches() -> Iterator[Fact]:
    for variable in CACHES:
        advice = f"set {variable} to a folder that can be written"
        yield from look(Probe(variable, partial(_cache, variable), False, advice))


def _cache(variable: str) -> Iterator[Fact]:
    given, cache = os.environ.get(variable), CACHES[variable]
    folder = Path(os.path.expandvars(given)).expanduser() if given else cache.default(Path.home())
    value = f"{folder} ({cache.holds})"
    advice = f"set {variable} to a folder that can be written"
    if folder.exists():
        size, whole = folder_size(folder)
        value += f": {'' if whole else 'at least '}{size_text(size)}"
        why = why_not_writable(folder)
        if why is None:
            yield Fact(variable, value, number=size)
        else:
            yield Fact(variable, f"{value}, cannot be written: {why}", "warning", advice, size)
        return
    above = next(path for path in folder.absolute().parents if path.exists())
    if above.is_dir() and os.access(above, os.W_OK):
        yield Fact(variable, f"{value}: not there yet, can be made", "missing")
    else:
        yield Fact(variable, f"{value}: not there, and cannot be made", "warning", advice)


def folder_size(
    folder: Path, most: int = MOST_FILES, seconds: float = MOST_SECONDS
) -> tuple[int, bool]:
    """Return the bytes of a folder's files, and whether all were looked at; links are not followed.

    Args:
        folder: where.
        most: files and folders to look at.
        seconds: to spend on it: a folder of the network may be slow.
    """
    size, seen, waiting, end = 0, 0, [folder], time.monotonic() + seconds
    while waiting:
        try:
            entries = list(os.scandir(waiting.pop()))
        except OSError:  # gone meanwhile, or closed to us: what cannot be seen is not counted
            continue
        for entry in entries:
            seen += 1
            if seen > most or time.monotonic() > end:
                return size, False
            if entry.is_dir(follow_symlinks=False):
                waiting.append(Path(entry.path))
            elif entry.is_file(follow_symlinks=False):
                size += entry.stat(follow_symlinks=False).st_size
    return size, True


def why_not_writable(folder: Path) -> str | None:
    """Return why no file can be made in a folder, None where one can; it is removed again."""
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".steadymap-") as file:
            file.write(b"steadymap")
            file.flush()
    except OSError as error:
        return error.strerror or type(error).__name__
    return None


def _folders() -> Iterator[Fact]:
    chosen = "give --output FOLDER, one that can be written"
    places: tuple[tuple[str, Callable[[], Path], str], ...] = (
        ("current folder", Path.cwd, chosen),
        (f"{RUNS}/", lambda: RUNS, chosen),
        ("temporary folder", lambda: Path(tempfile.gettempdir()), "set TMPDIR to one"),
    )
    for name, where, advice in places:
        if name == f"{RUNS}/" and not RUNS.exists():
            yield Fact(name, "not there yet: a run makes it in the current folder", "missing")
        else:
            yield from look(Probe(name, partial(_folder, name, where, advice), False, advice))


def _folder(name: str, where: Callable[[], Path], advice: str) -> Iterator[Fact]:
    # Where a person works is nobody's business: the path is not shown.
    folder = where()
    free = shutil.disk_usage(folder).free
    value = f"{size_text(free)} free"
    broken = what_fails(folder)
    if broken:
        yield Fact(name, f"{value}; {'; '.join(broken)}", "warning", advice, free)
    elif free < LEAST_DISK:
        advice = "downloads and kept maps may not fit: make room, or go elsewhere with --output"
        yield Fact(name, value, "warning", advice, free)
    else:
        yield Fact(name, f"{value}; files can be written, renamed and locked", number=free)


def what_fails(folder: Path) -> list[str]:
    """Return what cannot be done in a folder of what a run does there; nothing of it stays.

    A run writes files, and renames them over older ones at its end; libraries lock theirs.
    """
    try:
        with tempfile.TemporaryDirectory(dir=folder, prefix=".steadymap-") as made:
            first, second = Path(made) / "first", Path(made) / "second"
            first.write_bytes(b"new")
            second.write_bytes(b"old")
            return [*_fails_to_rename(first, second), *_fails_to_lock(second)]
    except OSError as error:
        return [f"no file can be written: {error.strerror or type(error).__name__}"]


def _fails_to_rename(first: Path, second: Path) -> list[str]:
    try:
        first.replace(second)
    except OSError as error:
        return [f"no file can be renamed: {error.strerror}"]
    return [] if second.read_bytes() == b"new" else ["a renamed file has its old content"]


def _fails_to_lock(path: Path) -> list[str]:
    try:
        import fcntl
    except ImportError:  # Windows locks in another way
        return []
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            return [f"no file can be locked (flock): {error.strerror}"]
    return []


def _network() -> Iterator[Fact]:
    yield Fact("network", "not touched: nothing was asked of it, nothing is known of it")


# --- extras and plug-ins --------------------------------------------------------------------------


def _extras() -> Iterator[Fact]:
    names = importlib.metadata.metadata("steadymap").get_all("Provides-Extra") or []
    for extra in names:
        advice = f"pip install 'steadymap[{extra}]'"
        yield from look(Probe(extra, partial(_extra, extra, advice), False, advice))


def _extra(extra: str, advice: str) -> Iterator[Fact]:
    needed = requirements(extra)
    lacking = [reason for one in needed if (reason := what_lacks(one)) is not None]
    if lacking:
        yield Fact(extra, "; ".join(lacking), "missing", advice)
    else:
        versions = (f"{one.name} {importlib.metadata.version(one.name)}" for one in needed)
        yield Fact(extra, ", ".join(versions))


def _plugins() -> Iterator[Fact]:
    from steadymap.bench.core.plugins import GROUPS, METRIC_SHELF, MODEL_SHELF, offers
    from steadymap.bench.methods.registry import METHOD_SHELF
    from steadymap.bench.perturbations.registry import FAMILY_SHELF

    for group in GROUPS.values():
        importlib.metadata.entry_points(group=group)  # `offers` would take damage for no plug-ins
    shelves: tuple[Shelf[Any], ...] = (METHOD_SHELF, FAMILY_SHELF, METRIC_SHELF, MODEL_SHELF)
    found = [(shelf, name) for shelf in shelves for name in offers(shelf.kind)]
    for shelf, name in found:
        label = f"{shelf.kind} {name}"
        advice = "it is left out: upgrade or uninstall its distribution, or tell its authors"
        yield from look(Probe(label, partial(_plugin, shelf, name, label), False, advice))
    if not found:
        yield Fact("plug-ins", "none installed")


def _plugin(shelf: Shelf[Any], name: str, label: str) -> Iterator[Fact]:
    if name in shelf.ours:
        from steadymap.bench.core.plugins import PluginError, offers

        places = " and ".join(entry.value for entry in offers(shelf.kind)[name])
        raise PluginError(f"{places}: the name is steadymap's own")
    shelf.find(name)
    where = shelf.where(name)
    yield Fact(label, f"{where.source} ({where.place})" if where else "loaded")


# --- the self-test --------------------------------------------------------------------------------


def _self_test() -> Iterator[Fact]:
    started = time.monotonic()
    from steadymap.bench.doctor.selftest import CHECKS, make_trial

    trial = make_trial()
    for name, check in CHECKS.items():
        yield from look(
            Probe(name, partial(_checked, name, partial(check, trial)), True, TO_REPORT)
        )
    seconds = time.monotonic() - started
    yield Fact("time", f"{seconds:.1f} s", number=seconds)


def _checked(name: str, check: Callable[[], Outcome]) -> Iterator[Fact]:
    outcome = check()
    if outcome.holds:
        yield Fact(name, outcome.value)
    else:
        yield Fact(name, outcome.value, "failed", TO_REPORT)


# --- all of it ------------------------------------------------------------------------------------

SELF_TEST = "self-test"

SECTIONS: dict[str, tuple[Probe, ...]] = {
    "versions": (
        Probe("system", _system),
        Probe("processor", _processor),
        Probe("packages", _packages, True, "pip install --force-reinstall steadymap"),
        Probe("torch and torchvision", _builds, True, TOGETHER),
    ),
    "devices": (
        Probe("CPU cores", _cores),
        Probe("torch's threads", _threads),
        Probe("thread variables", _thread_variables),
        Probe("load", _load),
        Probe("CUDA", _cuda, False, WITHOUT_GPU),
    ),
    "memory": (Probe("memory", _memory),),
    "caches": (Probe("caches", _caches),),
    "folders": (Probe("folders", _folders), Probe("network", _network)),
    "extras": (Probe("extras", _extras),),
    "plug-ins": (Probe("plug-ins", _plugins),),
    SELF_TEST: (Probe("a tiny run", _self_test, True, TO_REPORT),),
}

Sections = dict[str, list[Fact]]


def examine(title: str) -> list[Fact]:
    """Return what was found of a section; whatever is broken, nothing is raised."""
    return [fact for probe in SECTIONS[title] for fact in look(probe)]


def exit_code(sections: Mapping[str, Sequence[Fact]]) -> int:
    """Return 1 if something needed is broken, 0 otherwise."""
    results = {fact.result for facts in sections.values() for fact in facts}
    return EXIT_FAILED if "failed" in results else 0


def as_json(sections: Mapping[str, Sequence[Fact]]) -> str:
    """Return everything as JSON: sections, and in each the fields of its `Fact`s."""
    content = {
        "doctor_version": DOCTOR_VERSION,
        "exit_code": exit_code(sections),
        "sections": {title: list(map(asdict, facts)) for title, facts in sections.items()},
    }
    return json.dumps(content, indent=2)


def as_issue(sections: Mapping[str, Sequence[Fact]]) -> str:
    """Return what to paste into an issue, as Markdown: what is ill, what is well, what to add."""
    ill = [
        fact
        for facts in sections.values()
        for fact in facts
        if fact.result in ("warning", "failed")
    ]
    lines = ["### What `steadymap doctor` says", "", closing_line(sections), ""]
    lines += [f"- **{fact.result}**: {_markdown(fact)}" for fact in ill]
    for title, facts in sections.items():
        fine = [_markdown(fact) for fact in facts if fact not in ill]
        if fine:
            lines.append(f"- {title}: {'; '.join(fine)}")
    if SELF_TEST not in sections:
        lines.append(f"- {SELF_TEST}: left out")
    lines += ["", "### To add", ""]
    return "\n".join([*lines, *(f"- [ ] {text}" for text in TO_ADD)])


def _markdown(fact: Fact) -> str:
    return safe_markdown(f"{fact.name}: {fact.value}" + " (missing)" * (fact.result == "missing"))


def closing_line(sections: Mapping[str, Sequence[Fact]]) -> str:
    """Return how many facts are of which result, and what that means."""
    results = [fact.result for facts in sections.values() for fact in facts]
    counts = ", ".join(f"{results.count(result)} {result}" for result in RESULTS)
    broken = "something needed is broken" if exit_code(sections) else "all that is needed works"
    return f"{broken}: {counts}"


def section_table(facts: Sequence[Fact]) -> Table:
    """Return facts down; with advice below those that have some."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for fact in facts:
        style = STYLES[fact.result]
        table.add_row(Text(fact.name), fact.result, Text(fact.value), style=style)
        if fact.advice:
            table.add_row("", "", Text(f"-> {fact.advice}"), style=style)
    return table


def doctor_command(
    form: Annotated[
        Form, typer.Option("--format", help="Tables; JSON; or what to paste into an issue.")
    ] = Form.TEXT,
    self_test: Annotated[
        bool, typer.Option("--self-test/--no-self-test", help="A tiny run, of a few seconds.")
    ] = True,
) -> None:
    """Look at versions, devices, folders and extras, test the rest; exit with 1 if it is broken."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A name that the terminal has no letters for must not end it.
        sys.stdout.reconfigure(errors="backslashreplace")
    console = console_of()
    sections: Sections = {}
    for title in SECTIONS if self_test else [one for one in SECTIONS if one != SELF_TEST]:
        if form is Form.TEXT:
            console.print(title, style="bold", markup=False, highlight=False)
        sections[title] = examine(title)
        if form is Form.TEXT:
            console.print(section_table(sections[title]))
    if form is Form.JSON:
        line(console, as_json(sections))
    elif form is Form.MD:
        line(console, as_issue(sections))
    else:
        line(console, f"{closing_line(sections)}\n")
        console.print("What to put into an issue", style="bold", markup=False, highlight=False)
        line(console, f"\n{as_issue(sections)}")
    if exit_code(sections):
        raise typer.Exit(EXIT_FAILED)


def main() -> None:
    """Run this command without the others, which need all that it looks at."""
    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    app.command("doctor")(doctor_command)
    app.callback()(lambda: None)  # keeps `doctor` a command with one alone
    app()
