"""Keeping freed memory in the process, so that each pass does not ask the kernel for it again."""

from __future__ import annotations

import ctypes
import platform

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
