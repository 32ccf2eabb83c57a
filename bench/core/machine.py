"""The machine: what its speed depends on, its memory, and the state of the code on it."""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import platform
import subprocess
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

from steadymap.bench.core.linux import proc_bytes

# From glibc's malloc.h.
M_TRIM_THRESHOLD = -1
M_TOP_PAD = -2
M_MMAP_MAX = -4
TOP_PAD_BYTES = 64 << 20


def retain_heap() -> bool:
    """Tell glibc to keep what is freed; return whether that was possible.

    By default glibc maps every large block anew and gives it back when freed, and each pass of a
    network pays for the page faults. A process that retains its heap stays as large as it ever
    was, so this is for the command line, never for a library: call it before large tensors. Linux
    with glibc only.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    settings = ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, -1), (M_TOP_PAD, TOP_PAD_BYTES))
    mallopt = ctypes.CDLL(None).mallopt
    return all(mallopt(name, value) == 1 for name, value in settings)


ID_LENGTH = 8


def machine(device: torch.device) -> dict[str, Any]:
    """Return what the speed depends on; nothing that names the machine or its owner."""
    import torch  # noqa: PLC0415 - fingerprints of machines are read without it

    facts: dict[str, Any] = {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": str(device),
    }
    if device.type == "cuda":
        facts["device_name"] = torch.cuda.get_device_name(device)
        facts["cuda"] = torch.version.cuda
    return facts


def peak_memory(device: torch.device) -> dict[str, int]:
    """Return the most memory the process has held so far, in bytes: resident, and on its GPU.

    Where nobody says what is resident, that is left out.
    """
    import torch  # noqa: PLC0415 - as above

    peak = {}
    # The process's own; `getrusage` would give that of the process it came from.
    resident = proc_bytes(Path("/proc/self/status"), "VmHWM")
    if resident is not None:
        peak["resident"] = resident
    if device.type == "cuda":
        peak["cuda_allocated"] = torch.cuda.max_memory_allocated(device)
        peak["cuda_reserved"] = torch.cuda.max_memory_reserved(device)
    return peak


def date_now() -> str:
    """Return the date and the time, UTC, ISO 8601 to the second, as the machine's clock has it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def fingerprint(facts: Mapping[str, Any]) -> str:
    """Return 8 hex digits that stand for a machine; timings of two of them are never pooled."""
    text = json.dumps(facts, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:ID_LENGTH]


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        return platform.processor() or "unknown"
    names = Counter(line.partition(":")[2].strip() for line in lines if "model name" in line)
    return names.most_common(1)[0][0] if names else platform.machine()


def git_state() -> dict[str, Any] | None:
    """Return the commit of the folder that the run was started in; None where it is no checkout."""
    commit = _git("rev-parse", "HEAD")
    if commit is None:
        return None
    return {"commit": commit, "changed": bool(_git("status", "--porcelain"))}


def _git(*arguments: str) -> str | None:
    """Return what git says, None where it fails or is not there."""
    try:
        completed = subprocess.run(  # noqa: S603 - fixed arguments
            ["git", *arguments],  # noqa: S607 - the user's own git
            capture_output=True,
            text=True,
            check=False,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return completed.stdout.strip() if completed.returncode == 0 else None
