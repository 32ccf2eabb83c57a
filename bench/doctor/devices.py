"""Probes of processors, threads, memory and GPUs."""

from __future__ import annotations

import math
import os
import re
import shutil
import subprocess
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from steadymap.bench.core.linux import cpu_quota, memory_limit
from steadymap.bench.doctor import facts, packages

if TYPE_CHECKING:
    import torch


WITHOUT_GPU = "--device cpu works; for the GPU see https://pytorch.org/get-started"

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

DRIVER = Path("/proc/driver/nvidia/version")
PATIENCE = 5.0


# --- devices --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cores:
    """CPU cores.

    Attributes:
        installed: of the machine.
        bound: those that the process may be scheduled on.
        quota: cores' worth of time that the container has; None where nobody limits it.
    """

    installed: int
    bound: int
    quota: float | None

    @property
    def usable(self) -> int:
        """How many threads can run at a time."""
        return self.bound if self.quota is None else min(self.bound, max(1, math.ceil(self.quota)))


def cores_here() -> Cores:
    """Count the cores of the machine, and those that this process may use."""
    installed = os.cpu_count() or 1
    bound = getattr(os, "sched_getaffinity", None)  # Linux has it
    return Cores(installed, len(bound(0)) if bound else installed, cpu_quota())


def probe_cores() -> Iterator[facts.Fact]:
    """Yield how many cores the machine has, and how many of them this process may use."""
    cores = cores_here()
    parts = [f"{cores.installed}"]
    if cores.bound < cores.installed:
        parts.append(f"{cores.bound} that this process is bound to")
    if cores.quota is not None:
        parts.append(f"the container's quota is {cores.quota:g}")
    yield facts.Fact("CPU cores", ", ".join(parts), number=cores.usable)


def probe_threads() -> Iterator[facts.Fact]:
    """Yield torch's threads, and whether they are more than can run."""
    import torch

    threads, usable = torch.get_num_threads(), cores_here().usable
    value = f"{threads} in an operation, {torch.get_num_interop_threads()} operations at a time"
    if threads > usable:
        yield facts.Fact(
            "torch's threads",
            f"{value}; {usable} can run",
            "warning",
            f"they wait for each other: give --threads {usable}, or set OMP_NUM_THREADS={usable}",
            threads,
        )
    else:
        yield facts.Fact("torch's threads", value, number=threads)


def probe_thread_variables() -> Iterator[facts.Fact]:
    """Yield what is set of the variables that say how many threads there are, and how they wait."""
    known = {name: os.environ[name] for name in THREAD_VARIABLES if name in os.environ}
    # What is neither a number nor a word is not shown: nobody knows what it is.
    odd = [name for name, value in known.items() if not THREAD_VALUE.fullmatch(value)]
    parts = [f"{name}={value}" for name, value in known.items() if name not in odd]
    if odd:
        yield facts.Fact(
            "thread variables",
            ", ".join([*parts, *(f"{name} is set to no number" for name in odd)]),
            "warning",
            f"unset {' '.join(odd)}, or give a number",
        )
    else:
        yield facts.Fact("thread variables", ", ".join(parts) or "none set")


def probe_load() -> Iterator[facts.Fact]:
    """Yield how many others want the cores."""
    ask = getattr(os, "getloadavg", None)
    if ask is None:  # Windows
        yield facts.Fact("load", "this system does not say", "missing")
        return
    load, cores = ask()[0], os.cpu_count() or 1
    if load > cores:
        value = f"{load:.1f}, on {cores} cores: others are working here"
        advice = "runs take longer and timings are not steady: wait, or time elsewhere"
        yield facts.Fact("load", value, "warning", advice, load)
    else:
        yield facts.Fact("load", f"{load:.1f}, on {cores} cores", number=load)


def probe_cuda() -> Iterator[facts.Fact]:
    """Yield CUDA's driver and devices, each tried, or why there is none."""
    import torch

    driver = driver_version(DRIVER)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not count:
        built = packages.torch_build(torch.version.cuda, getattr(torch.version, "hip", None))
        spoken = " ".join(str(caught[-1].message).split()) if caught else ""
        yield why_no_cuda(built, driver, os.environ.get("CUDA_VISIBLE_DEVICES"), spoken)
        return
    yield facts.Fact("CUDA driver", driver or "of an unknown version")
    for index in range(count):
        yield from facts.look(
            facts.Probe(f"cuda:{index}", partial(_cuda_device, index), False, WITHOUT_GPU)
        )


def why_no_cuda(built: str, driver: str | None, visible: str | None, warning: str) -> facts.Fact:
    """Say why there is no CUDA device.

    Args:
        built: what torch was built for.
        driver: the version of the driver; None where there is none.
        visible: CUDA_VISIBLE_DEVICES; None where it is not set.
        warning: what torch warned of when asked.
    """
    if not built.startswith("CUDA"):
        advice = WITHOUT_GPU if driver else ""
        return facts.Fact("CUDA", f"none: this torch is for {built}", "missing", advice)
    if driver is None:
        return facts.Fact("CUDA", "none: there is no NVIDIA driver here", "missing")
    note = f" ({warning})" if warning else ""
    if visible is not None:
        value = f"none: CUDA_VISIBLE_DEVICES leaves none to be seen{note}"
        advice = "unset CUDA_VISIBLE_DEVICES, or name a device in it (0)"
        return facts.Fact("CUDA", value, "warning", advice)
    value = f"none: driver {driver} is there, and torch sees no device{note}"
    advice = "does nvidia-smi list one? Is the driver new enough for this torch? " + WITHOUT_GPU
    return facts.Fact("CUDA", value, "warning", advice)


def driver_version(path: Path) -> str | None:
    """Return the version of NVIDIA's driver, as the kernel or else nvidia-smi says it."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError:  # not Linux, no driver, or a container that does not show it
        text = _nvidia_smi()
    version = re.search(r"\b\d{3,}\.\d+(\.\d+)?\b", text)
    return version[0] if version else None


def _nvidia_smi() -> str:
    program = shutil.which("nvidia-smi")
    if program is None:
        return ""
    try:
        completed = subprocess.run(  # noqa: S603 - fixed arguments
            [program, "--query-gpu=driver_version", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return completed.stdout if completed.returncode == 0 else ""


def _cuda_device(index: int) -> Iterator[facts.Fact]:
    import torch

    device = torch.device("cuda", index)
    about = torch.cuda.get_device_properties(device)
    free, total = torch.cuda.mem_get_info(device)
    value = (
        f"{about.name}, {size_text(free)} of {size_text(total)} free, "
        f"compute capability {about.major}.{about.minor}"
    )
    yield convolution(f"cuda:{index}", value, device)


def convolution(name: str, value: str, device: torch.device) -> facts.Fact:
    """Return whether a convolution of ones gives nine, as it must with any precision.

    Args:
        name: of the fact.
        value: what is known of the device.
        device: where.
    """
    import torch

    image = torch.ones(1, 1, 5, 5, device=device)
    kernel = torch.ones(1, 1, 3, 3, device=device)
    sums = torch.nn.functional.conv2d(image, kernel).cpu()
    if bool((sums == kernel.numel()).all()):
        return facts.Fact(name, f"{value}; a convolution runs there")
    value += f"; a convolution of ones gives {float(sums[0, 0, 1, 1]):g}, not 9"
    return facts.Fact(name, value, "warning", f"trust no number of it; {WITHOUT_GPU}")


# --- memory ---------------------------------------------------------------------------------------


def size_text(size: float) -> str:
    """Return bytes for people."""
    for unit, bytes_of in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if size >= bytes_of:
            return f"{size / bytes_of:.1f} {unit}"
    return f"{size:.0f} bytes"


def probe_memory() -> Iterator[facts.Fact]:
    """Yield the container's limit and the free memory."""
    limit = memory_limit()
    value = "none" if limit is None else size_text(limit)
    yield facts.Fact("the container's limit", value, number=limit)
    import torch

    from steadymap.bench.network.memory import free_memory

    free = free_memory(torch.device("cpu"))
    if free is None:
        yield facts.Fact("free memory", "this system does not say", "missing")
    elif free < LEAST_MEMORY:
        advice = "close other programs, or give --jobs 1 --batch-size 4"
        yield facts.Fact("free memory", size_text(free), "warning", advice, free)
    else:
        yield facts.Fact("free memory", size_text(free), number=free)
