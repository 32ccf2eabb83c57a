"""What Linux says of memory, and what its control groups let a process have of memory and time.

Anywhere else, and where a container hides the files, nothing is said.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

GROUPS = Path("/sys/fs/cgroup")
OWN_GROUP = Path("/proc/self/cgroup")
# From here on a limit of the first version of control groups is none.
NO_LIMIT = 1 << 60


def proc_bytes(path: Path, name: str) -> int | None:
    """Return a size of `/proc/meminfo` or `/proc/self/status`, in bytes; None where it has none."""
    lines = (_read(path) or "").splitlines()
    sizes = [int(line.split()[1]) for line in lines if line.startswith(f"{name}:")]
    return 1024 * sizes[0] if sizes else None


def cpu_quota(groups: Path = GROUPS, own: Path = OWN_GROUP) -> float | None:
    """Return the cores' worth of time that control groups allow; None where they set no limit.

    Args:
        groups: where they are.
        own: which one the process is in.
    """
    shares = [text.split() for group in _above(groups, own) if (text := _read(group / "cpu.max"))]
    quotas = [int(most) / int(period) for most, period in shares if most != "max"]
    # The first version of control groups.
    most, period = (_read(groups / "cpu" / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
    if most and period and int(most) > 0:
        quotas.append(int(most) / int(period))
    return min(quotas, default=None)


def memory_limit(groups: Path = GROUPS, own: Path = OWN_GROUP) -> int | None:
    """Return the memory that control groups allow, in bytes; None where they set no limit."""
    texts = [_read(group / "memory.max") for group in _above(groups, own)]
    texts.append(_read(groups / "memory" / "memory.limit_in_bytes"))  # of the first version
    limits = [int(text) for text in texts if text and text != "max"]
    return min((limit for limit in limits if limit < NO_LIMIT), default=None)


def memory_left(groups: Path = GROUPS, own: Path = OWN_GROUP) -> int | None:
    """Return the memory that control groups still leave, in bytes; None where they set no limit."""
    remaining = []
    for group in _above(groups, own):
        limit, used, stat = (_read(group / f"memory.{name}") for name in ("max", "current", "stat"))
        if limit and limit != "max" and used and stat is not None:
            # Files that the kernel keeps in memory until somebody needs it.
            files = [line for line in stat.splitlines() if line.startswith("inactive_file ")]
            spare = sum(int(line.split()[1]) for line in files)
            remaining.append(max(0, int(limit) - int(used) + spare))
    return min(remaining, default=None)


def _above(groups: Path, own: Path) -> Iterator[Path]:
    """Yield the process's control group (of the second version) and each one above it."""
    for entry in (_read(own) or "").splitlines():
        if entry.startswith("0::"):
            inner = groups / entry.removeprefix("0::").lstrip("/")
            yield from (group for group in (inner, *inner.parents) if group.is_relative_to(groups))


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:  # not Linux; a group without limits; what a container cannot see
        return None
