"""Random numbers that belong to what they are for, not to when they are drawn."""

from __future__ import annotations

import hashlib

import numpy as np


def generator(*key: str | float) -> np.random.Generator:
    """Return a CPU generator that depends on the key alone.

    The key names the draw, e.g. `(seed, image id, family, severity, draw)`. Batch size, order,
    device and number of workers therefore change nothing, and all methods see the same noise.
    """
    text = "\x1f".join(repr(_plain(part)) for part in key)
    return np.random.default_rng(int.from_bytes(hashlib.sha256(text.encode()).digest()[:16]))


def _plain(part: str | float) -> str | float:
    """Return a NumPy number as Python's, which is written in another way."""
    return part.item() if isinstance(part, np.generic) else part
