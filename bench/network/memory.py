"""How many images go through a network at once, and what happens where memory runs out."""

from __future__ import annotations

from pathlib import Path

import torch

from steadymap.bench.core.linux import GROUPS, OWN_GROUP, memory_left, proc_bytes
from steadymap.models import Classifier

# Images that go through the network at once. On a CPU more of them fall out of the cache and each
# takes longer; a GPU wants enough to be full.
MOST_AT_ONCE = {"cpu": 32, "cuda": 256}
LIKE_A_CPU = MOST_AT_ONCE["cpu"]

# An image's activations, in bytes: a network with more is a large one. Measured on two cores: with
# 0.6 MiB (`compact`) two workers are 1.1 times as fast as one with two threads, with 23 MiB (`rps`)
# 0.75 to 0.87 times.
SMALL_ACTIVATIONS = 4 << 20

# The share of the free memory that activations may take, and how often they are held: once as
# what the backward pass needs, once more as gradients and workspace.
MEMORY_SHARE = 0.5
TIMES_HELD = 2


def images_at_once(classifier: Classifier, workers: int = 1) -> int:
    """Return how many images each worker sends through the network together.

    A power of two that the free memory holds, of all workers at the same time.
    """
    device = classifier.module.mean.device
    most = MOST_AT_ONCE.get(device.type, LIKE_A_CPU)
    free = free_memory(device)
    if free is None:
        return most
    try:
        fitting = int(MEMORY_SHARE * free / (TIMES_HELD * workers * activation_bytes(classifier)))
    except Exception as error:  # noqa: BLE001 - a network may raise on that image; a run says so where it matters
        # Not even one fits now; or nobody knows, and memory that runs out halves what goes at once.
        return 1 if is_out_of_memory(error) else most
    return 1 << (max(1, min(most, fitting)).bit_length() - 1)


def is_small(classifier: Classifier) -> bool:
    """Whether a network's layers are too short to be shared by several threads.

    One that refuses the black image that is tried is taken for a large one.
    """
    try:
        return activation_bytes(classifier) <= SMALL_ACTIVATIONS
    except Exception:  # noqa: BLE001 - a network may raise on that image; a run says so where it matters
        return False


def activation_bytes(classifier: Classifier) -> int:
    """Return what the backward pass of one image keeps, in bytes, beside the weights."""
    weights = {
        tensor.untyped_storage().data_ptr()
        for tensor in classifier.module.state_dict().values()
        if isinstance(tensor, torch.Tensor)
    }
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    image = classifier.module.mean.new_zeros(1, 3, *classifier.input_size).requires_grad_()
    note(image)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        note(classifier(image))
    return sum(kept.values())


def free_memory(device: torch.device) -> int | None:
    """Return the memory that is free on a device, in bytes; None where nobody says."""
    if device.type == "cuda":
        # What torch has reserved and not handed out is free to us, though not to the driver.
        spare = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + spare
    return free_host_memory(Path("/proc/meminfo"))


def free_host_memory(meminfo: Path, groups: Path = GROUPS, own: Path = OWN_GROUP) -> int | None:
    """Return the smaller of what Linux has left and what the container may still take, in bytes."""
    available = proc_bytes(meminfo, "MemAvailable")
    allowed = memory_left(groups, own)
    return available if available is None or allowed is None else min(available, allowed)


# What those say of it that raise nothing of their own kind.
OUT_OF_MEMORY = (
    "DefaultCPUAllocator: can't allocate memory",
    "DefaultCPUAllocator: not enough memory",
    "std::bad_alloc",
    "could not create a memory object",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "MPS backend out of memory",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an exception says that memory ran out, on a GPU or on the host."""
    message = str(error)
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and any(words in message for words in OUT_OF_MEMORY)
    )
