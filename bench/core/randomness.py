"""Random numbers that belong to what they are for, not to when they are drawn."""

from __future__ import annotations

import hashlib

import numpy as np


def generator(*key: str | float) -> np.random.Generator:
    """Return a CPU generator that depends on the key alone.

    The key names the draw, e.g. `(seed, image id, family, severity, draw)`. Batch size, order,
    device and number of workers therefore change nothing, and all methods see the same noise.
    """
    return np.random.default_rng(int.from_bytes(_digest(key)))


def key_of(*key: str | float) -> str:
    """Return a hash of a key, which can be a part of another and does not tell what it is of."""
    return _digest(key).hex()


def _digest(key: tuple[str | float, ...]) -> bytes:
    """Return the first 16 bytes of the SHA-256 of a key."""
    text = "\x1f".join(repr(_plain(part)) for part in key)
    return hashlib.sha256(text.encode()).digest()[:16]


def _plain(part: str | float) -> str | float:
    """Return a NumPy number as Python's, which is written in another way."""
    return part.item() if isinstance(part, np.generic) else part
