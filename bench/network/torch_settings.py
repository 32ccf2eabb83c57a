"""torch's global settings: what they are, and how they are put back."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch


@contextmanager
def threads_each(jobs: int) -> Iterator[None]:
    """Share torch's threads among the jobs, as long as the context lasts."""
    before = torch.get_num_threads()
    each = max(1, before // jobs)
    if each == before:
        yield
        return
    torch.set_num_threads(each)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def float32(device: torch.device, *, exact: bool) -> Iterator[None]:
    """Compute in float32 proper on a GPU, or in TF32, as long as the context lasts.

    Convolutions are in TF32 there unless told otherwise, and its rounding is as large as the effect
    of a small perturbation.
    """
    if device.type != "cuda":
        yield
        return
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.allow_tf32, matmul.allow_tf32
    cudnn.allow_tf32 = matmul.allow_tf32 = not exact
    try:
        yield
    finally:
        cudnn.allow_tf32, matmul.allow_tf32 = before


def refill(value: Any, held: tuple[Any, ...]) -> None:  # noqa: ANN401 - what a module holds may be anything
    """Put back what a container held: items; of a dict keys and values in turns."""
    value.clear()
    if isinstance(value, dict):
        value.update(zip(held[::2], held[1::2], strict=True))
    elif isinstance(value, set):
        value.update(held)
    else:
        value.extend(held)


# --- the process ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Setting:
    """Something that holds for all that a thread or the process computes.

    Attributes:
        read: returns it.
        write: sets it.
        told: whether a record says that it was left changed: where others' numbers would differ.
    """

    read: Callable[[], Any]
    write: Callable[[Any], object]
    told: bool = False


AUTOCAST = ("cpu", "cuda")


def _set_autocast(enabled: tuple[bool, ...]) -> None:
    for kind, on in zip(AUTOCAST, enabled, strict=True):
        torch.set_autocast_enabled(kind, on)
    torch.clear_autocast_cache()


# A context of inference mode that was entered and never left can only be covered by another.
_covers: list[torch.inference_mode] = []


def _set_inference_mode(enabled: bool) -> None:
    cover = torch.inference_mode(mode=enabled)
    cover.__enter__()
    _covers.append(cover)


def _set_default_device(device: torch.device) -> None:
    # A default of "cpu" that is set slows every call; the default without one is the CPU.
    torch.set_default_device(None if device.type == "cpu" else device)


GLOBAL_HOOKS = (
    "_global_forward_hooks",
    "_global_forward_pre_hooks",
    "_global_backward_hooks",
    "_global_backward_pre_hooks",
)


def _global_hooks() -> tuple[tuple[tuple[int, object], ...], ...]:
    # No public name reads them.
    return tuple(tuple(getattr(torch.nn.modules.module, name).items()) for name in GLOBAL_HOOKS)


def _set_global_hooks(hooks: tuple[tuple[tuple[int, object], ...], ...]) -> None:
    for name, items in zip(GLOBAL_HOOKS, hooks, strict=True):
        refill(getattr(torch.nn.modules.module, name), tuple(x for pair in items for x in pair))


def _attribute(owner: object, name: str) -> Setting:
    return Setting(partial(getattr, owner, name), partial(setattr, owner, name))


def _anomaly() -> tuple[bool, bool]:
    return torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()


def _determinism() -> tuple[bool, bool]:
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    return torch.are_deterministic_algorithms_enabled(), warn_only


_cuda, _cudnn = torch.backends.cuda, torch.backends.cudnn

SETTINGS: dict[str, Setting] = {
    # First: what follows may compute.
    "inference mode": Setting(torch.is_inference_mode_enabled, _set_inference_mode, told=True),
    "grad mode": Setting(torch.is_grad_enabled, torch.set_grad_enabled, told=True),
    "autocast": Setting(
        lambda: tuple(torch.is_autocast_enabled(kind) for kind in AUTOCAST),
        _set_autocast,
        told=True,
    ),
    "default device": Setting(lambda: torch.empty(0).device, _set_default_device, told=True),
    "default dtype": Setting(torch.get_default_dtype, torch.set_default_dtype, told=True),
    "a hook on all layers": Setting(_global_hooks, _set_global_hooks, told=True),
    "threads": Setting(torch.get_num_threads, torch.set_num_threads),
    "determinism": Setting(
        _determinism,
        lambda on: torch.use_deterministic_algorithms(on[0], warn_only=on[1]),
    ),
    "anomaly mode": Setting(
        _anomaly, lambda on: torch.autograd.set_detect_anomaly(on[0], check_nan=on[1])
    ),
    "cudnn": _attribute(_cudnn, "enabled"),
    "cudnn's search": _attribute(_cudnn, "benchmark"),
    "cudnn's determinism": _attribute(_cudnn, "deterministic"),
    "onednn": _attribute(torch.backends.mkldnn, "enabled"),
    "flash attention": Setting(_cuda.flash_sdp_enabled, _cuda.enable_flash_sdp),
    "lean attention": Setting(_cuda.mem_efficient_sdp_enabled, _cuda.enable_mem_efficient_sdp),
    "plain attention": Setting(_cuda.math_sdp_enabled, _cuda.enable_math_sdp),
    "cudnn's attention": Setting(_cuda.cudnn_sdp_enabled, _cuda.enable_cudnn_sdp),
    "TF32 in convolutions": _attribute(_cudnn, "allow_tf32"),
    "TF32 in products": _attribute(_cuda.matmul, "allow_tf32"),
    "numpy's errors": Setting(np.geterr, lambda on: np.seterr(**on)),
}


def put_back(before: Mapping[str, object]) -> list[str]:
    """Put settings back, and return those of which a record must say that they were changed."""
    changed = []
    for name, setting in SETTINGS.items():
        if setting.read() != before[name]:
            setting.write(before[name])
            if setting.told:
                changed.append(name if name.startswith("a ") else f"{name} changed")
    return changed


def keep_generators() -> Callable[[], None]:
    """Return what puts the global random numbers back to where they are now."""
    numbers = random.getstate()
    words = np.random.get_state()  # noqa: NPY002 - the global generator is the one to put back
    state = torch.get_rng_state()
    on_gpu = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []

    def put_back() -> None:
        random.setstate(numbers)
        np.random.set_state(words)  # noqa: NPY002 - as above
        torch.set_rng_state(state)
        if on_gpu:
            torch.cuda.set_rng_state_all(on_gpu)

    return put_back
