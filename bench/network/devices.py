"""Devices by name."""

from __future__ import annotations

import torch

from steadymap.bench.core.errors import ConfigError


def device_of(name: str) -> torch.device:
    """Return a device by name.

    Raises:
        ConfigError: there is no such device here.
    """
    kind, device = device_type(name), torch.device(name)
    if kind == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device: cuda was asked for, but torch sees no CUDA device here")
    if kind == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"device: {name}: there are {torch.cuda.device_count()} CUDA devices")
    return device


def device_type(name: str) -> str:
    """Return cpu or cuda, or say that there is no such kind of device."""
    try:
        kind = torch.device(name).type
    except RuntimeError as error:
        raise ConfigError(f"device: unknown name {name!r}; known: cpu, cuda, cuda:1") from error
    if kind not in ("cpu", "cuda"):
        raise ConfigError(f"device: {name!r} is not supported; known: cpu, cuda, cuda:1")
    return kind
