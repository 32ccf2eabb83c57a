"""What Linux says: sizes of its lists, and limits of control groups of either version."""

from __future__ import annotations

from pathlib import Path

import pytest

from steadymap.bench.core.linux import cpu_quota, memory_left, memory_limit, proc_bytes


def group(root: Path, files: dict[str, str]) -> tuple[Path, Path]:
    for name, text in files.items():
        path = root / "group" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    own = root / "own"
    own.write_text("4:memory:/elsewhere\n0::/user/session\n")
    return root / "group", own


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({}, None),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"user/session/cpu.max": "max 100000\n", "user/cpu.max": "200000 50000\n"}, 4.0),
        ({"user/session/cpu.max": "300000 100000\n", "user/cpu.max": "200000 100000\n"}, 2.0),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "50000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 0.5),
        ({"other/cpu.max": "100000 100000\n"}, None),
    ],
)
def test_the_quota_is_the_smallest_of_the_groups_above(
    files: dict[str, str], quota: float | None, tmp_path: Path
) -> None:
    assert cpu_quota(*group(tmp_path, files)) == quota


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        ({}, None),
        ({"memory.max": "max\n"}, None),
        ({"user/memory.max": "4096\n", "user/session/memory.max": "8192\n"}, 4096),
        ({"memory/memory.limit_in_bytes": "9223372036854771712\n"}, None),
        ({"memory/memory.limit_in_bytes": "1048576\n"}, 1 << 20),
    ],
)
def test_the_memory_limit_likewise(
    files: dict[str, str], limit: int | None, tmp_path: Path
) -> None:
    assert memory_limit(*group(tmp_path, files)) == limit


@pytest.mark.parametrize("place", ["", "user/", "user/session/"])
@pytest.mark.parametrize(
    ("limit", "used", "files", "left"),
    [
        ("max", "1", 0, None),
        ("1500000", "500000", 0, 1_000_000),
        ("1500000", "500000", 200_000, 1_200_000),
        ("100", "500", 0, 0),
    ],
)
def test_what_is_left_is_the_limit_less_what_is_used_but_for_files(  # noqa: PLR0913, PLR0917 - a row of the table
    tmp_path: Path, place: str, limit: str, used: str, files: int, left: int | None
) -> None:
    held = {f"{place}memory.max": f"{limit}\n", f"{place}memory.current": f"{used}\n"}
    held[f"{place}memory.stat"] = f"active_file 7\ninactive_file {files}\n"
    assert memory_left(*group(tmp_path, held)) == left
    wider = {"memory.max": "9000000\n", "memory.current": "1\n", "memory.stat": ""}
    if place:
        assert memory_left(*group(tmp_path, wider)) == (8_999_999 if left is None else left)


def test_without_proc_nothing_is_limited(tmp_path: Path) -> None:
    limits = {"cpu.max": "9 9", "memory.max": "9", "memory.current": "1", "memory.stat": ""}
    for name, text in limits.items():
        (tmp_path / name).write_text(text)
    for ask in (cpu_quota, memory_limit, memory_left):
        assert ask(tmp_path, tmp_path / "none") is None


def test_sizes_are_read_off_a_list_of_the_kernel_s(tmp_path: Path) -> None:
    listed = tmp_path / "meminfo"
    listed.write_text("MemTotal: 9999 kB\nMemAvailable:    2048 kB\n")
    assert proc_bytes(listed, "MemAvailable") == 2048 * 1024
    assert proc_bytes(listed, "MemFree") is None
    assert proc_bytes(tmp_path / "none", "MemTotal") is None
