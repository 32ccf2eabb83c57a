"""Forward and backward passes: shared between methods, cut to what memory holds, and counted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from steadymap.models import Classifier

Read = Literal["gradient", "layer", "activations"]

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


class LogitsError(ValueError):
    """A network that has returned something other than logits (B, K)."""


@dataclass(frozen=True)
class Pass:
    """One forward and one backward pass of a batch: what several methods read.

    Attributes:
        images: (B, 3, H, W), what went in.
        targets: (B,), the classes explained.
        logits: (B, K).
        gradient: (B, 3, H, W), of the target's logit; None unless asked for.
        activations: (B, C, h, w), output of the classifier's layer for Grad-CAM, as planes; None
            unless asked for.
        activation_gradient: (B, C, h, w), of the target's logit, likewise; None unless asked for.
    """

    images: Tensor
    targets: Tensor
    logits: Tensor
    gradient: Tensor | None = None
    activations: Tensor | None = None
    activation_gradient: Tensor | None = None

    def part(self, chosen: slice) -> Pass:
        """Return some of the images with all that belongs to them."""
        known = {name: one[chosen] for name, one in vars(self).items() if one is not None}
        return replace(self, **known)

    def need_gradient(self) -> Tensor:
        """Return the gradient.

        Raises:
            ValueError: the logits do not depend on the image.
        """
        if self.gradient is None:
            raise ValueError("the target's logit does not depend on the image")
        return self.gradient

    def need_layer(self) -> tuple[Tensor, Tensor]:
        """Return activations and their gradient.

        Raises:
            ValueError: the logits do not depend on the layer.
        """
        if self.activations is None or self.activation_gradient is None:
            raise ValueError("the target's logit does not depend on the layer for Grad-CAM")
        return self.activations, self.activation_gradient


def shared_pass(
    classifier: Classifier,
    images: Tensor,
    targets: Tensor | None,
    reads: Iterable[Read],
    at_once: int,
) -> Pass:
    """Run a batch forward, and backward for what is read.

    Args:
        classifier: what is explained.
        images: (B, 3, H, W), on the classifier's device.
        targets: (B,), the classes explained; None takes those predicted.
        reads: what the methods need, `gradient` or `layer` (Grad-CAM's, with its gradient); or that
            layer's `activations` alone, for which nothing goes backward.
        at_once: images that go through the network together.

    Raises:
        LogitsError: the network has returned something else.
    """
    wanted = frozenset(reads)
    parts = [
        _one_pass(classifier, few, None if targets is None else chosen, wanted)
        for few, chosen in zip(
            images.split(at_once),
            (images if targets is None else targets).split(at_once),
            strict=True,
        )
    ]
    return parts[0] if len(parts) == 1 else _joined(parts)


def _one_pass(
    classifier: Classifier, images: Tensor, targets: Tensor | None, reads: frozenset[Read]
) -> Pass:
    # Channels last at the entrance keeps the first convolution from copying.
    points = images.detach().clone(memory_format=torch.channels_last)
    back = bool(reads - {"activations"})
    points.requires_grad_(back)
    with torch.set_grad_enabled(back), _output_of_layer(classifier, reads) as seen:
        logits = classifier(points)
    _check_logits(logits, (len(points), len(classifier.class_names)))
    chosen = logits.detach().argmax(dim=1) if targets is None else targets
    activations = classifier.cam_planes(seen[-1].detach()) if seen else None
    sources = ([points] if "gradient" in reads else []) + (seen[-1:] if "layer" in reads else [])
    if not sources:
        return Pass(images, chosen, logits.detach(), activations=activations)
    picked = logits.gather(1, chosen[:, None]).sum()
    found = list(torch.autograd.grad(picked, sources, allow_unused=True))
    slope = found[-1] if seen and "layer" in reads else None
    return Pass(
        images,
        chosen,
        logits.detach(),
        found[0] if "gradient" in reads else None,
        activations,
        None if slope is None else classifier.cam_planes(slope),
    )


def _check_logits(logits: object, shape: tuple[int, int]) -> None:
    if not isinstance(logits, Tensor):
        raise LogitsError(f"the network returned {type(logits).__name__}, expected a tensor")
    if logits.shape != shape:
        raise LogitsError(
            f"the network returned logits of shape {tuple(logits.shape)}, expected {shape}"
        )


@contextmanager
def _output_of_layer(classifier: Classifier, reads: frozenset[Read]) -> Iterator[list[Tensor]]:
    """Collect what the layer for Grad-CAM puts out, as long as the context lasts."""
    seen: list[Tensor] = []
    if not {"layer", "activations"} & reads:
        yield seen
        return

    def keep(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        seen.append(output)
        # A layer behind it that works in place must not change what was seen.
        return output.clone()

    hook = classifier.cam_module.register_forward_hook(keep)
    try:
        yield seen
    finally:
        hook.remove()


def _joined(parts: list[Pass]) -> Pass:
    def join(values: list[Tensor | None]) -> Tensor | None:
        known = [value for value in values if value is not None]
        return torch.cat(known) if len(known) == len(values) else None

    return Pass(
        torch.cat([part.images for part in parts]),
        torch.cat([part.targets for part in parts]),
        torch.cat([part.logits for part in parts]),
        join([part.gradient for part in parts]),
        join([part.activations for part in parts]),
        join([part.activation_gradient for part in parts]),
    )


# --- how many at once -----------------------------------------------------------------------------


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
        tensor.untyped_storage().data_ptr() for tensor in classifier.module.state_dict().values()
    }
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
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
    return free_host_memory(Path("/proc/meminfo"), Path("/sys/fs/cgroup"))


def free_host_memory(meminfo: Path, group: Path) -> int | None:
    """Return the smaller of what Linux has left and what the container may still take, in bytes."""
    try:
        lines = meminfo.read_text(encoding="ascii").splitlines()
    except OSError:  # not Linux
        return None
    left = [1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    try:
        limit = (group / "memory.max").read_text(encoding="ascii").strip()
        used = int((group / "memory.current").read_text(encoding="ascii"))
        stat = (group / "memory.stat").read_text(encoding="ascii").splitlines()
    except OSError:  # no control group of version 2
        limit, used, stat = "max", 0, []
    # Files that the kernel keeps in memory until somebody needs it.
    used -= sum(int(line.split()[1]) for line in stat if line.startswith("inactive_file "))
    if limit != "max":
        left.append(max(0, int(limit) - used))
    return min(left, default=None)


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
    said = str(error)
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and any(words in said for words in OUT_OF_MEMORY)
    )


# --- how many there were --------------------------------------------------------------------------


@dataclass
class Counts:
    """Images that went through the network.

    Attributes:
        forward: how many times an image went forward.
        backward: how many of these came back.
    """

    forward: int = 0
    backward: int = 0


@contextmanager
def count_passes(classifier: Classifier) -> Iterator[Counts]:
    """Count what passes through the network, or through one that shares it by `shifted`.

    A network run by other threads at the same time would be counted, too.
    """
    counts = Counts()

    def note(_module: nn.Module, _inputs: object, logits: Tensor) -> None:
        counts.forward += len(logits)
        if logits.requires_grad:
            logits.register_hook(_adds(counts))

    hook = classifier.module.network.register_forward_hook(note)
    try:
        yield counts
    finally:
        hook.remove()


def _adds(counts: Counts) -> Callable[[Tensor], None]:
    def add(gradient: Tensor) -> None:
        counts.backward += len(gradient)

    return add
