"""What is not ours and is given the network must leave it as it was, and torch's settings, too.

A method that a user or another distribution brings may change the weights, leave a hook or a mode
behind, or switch a setting of the whole process. Each of its explanations is followed by a look at
all of these; what has changed is put back before anybody else sees it, and its cells say what it
was. Our own methods are looked at once a batch.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from steadymap.bench.network.torch_settings import SETTINGS, keep_generators, put_back, refill
from steadymap.models import Classifier, ModelError

# Values of 8 bytes that are added up together, down and across.
WIDTH = 1024

# How many changes a record names.
MOST_NAMED = 3

# What leaves a module's `vars` in another state and changes nothing: torch sets it with the first
# backward hook, and keeps it when that is removed.
HARMLESS = ("_is_full_backward_hook",)
PLAIN = (bool, int, float, str, tuple, torch.dtype, torch.device)

# Settings and random numbers belong to the process: what is not ours takes turns.
_turn = threading.RLock()


class LeftChangedError(Exception):
    """Something that is not ours has left changed what belongs to all."""


@contextmanager
def left_as_it_was(guard: Guard, images: torch.Tensor) -> Iterator[None]:
    """Put back what the code inside changes of the network and of the process.

    No other thread is inside meanwhile. Random numbers are put back, and nothing is said of it;
    nor of settings that can change no number of others.

    Args:
        guard: of the network.
        images: (B, 3, H, W), what the network can be tried on.

    Raises:
        LeftChangedError: the code has come to its end, and left something changed; says what.
    """
    with _turn:
        generators = keep_generators()
        before = {name: setting.read() for name, setting in SETTINGS.items()}
        try:
            yield
        finally:
            generators()
            changed = put_back(before)
            of_network = guard.put_back(images)
    if of_network:
        changed.insert(0, f"the network changed: {_few(of_network)}")
    if changed:
        raise LeftChangedError(f"left {', '.join(changed)}")


def _few(changed: list[str]) -> str:
    unnamed = len(changed) - MOST_NAMED
    return ", ".join(changed[:MOST_NAMED]) + (f" and {unnamed} more" if unnamed > 0 else "")


# --- the network ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Part:
    """A module as it was: its class, its `vars`, and what those that are containers held."""

    path: str
    module: torch.nn.Module
    kind: type[torch.nn.Module]
    values: Mapping[str, object]
    held: Mapping[str, tuple[Any, ...]]


@dataclass(frozen=True)
class _Kept:
    """A tensor of the network as it was; `alias` shares its memory."""

    name: str
    tensor: torch.Tensor
    alias: torch.Tensor
    trained: bool

    def moved(self) -> bool:
        """Return whether it is made of other memory, or read in another way."""
        return _place(self.tensor) != _place(self.alias)


def _place(tensor: torch.Tensor) -> tuple[object, ...]:
    kind = tensor.dtype, tensor.device, tensor.shape, tensor.stride()
    return (tensor.data_ptr(), *kind)


class Guard:
    """A network as it is now, to be compared with what it is later, bit by bit.

    Args:
        classifier: whose network, with what normalises.
        keep: whether a copy of all values is kept, on the CPU, so that they can be put back.
    """

    def __init__(self, classifier: Classifier, *, keep: bool) -> None:
        self.classifier = classifier
        self.keep = keep
        self._parts = [
            _Part(
                path.removeprefix("network").removeprefix("."),
                part,
                type(part),
                dict(vars(part)),
                {name: tuple(_held(value)) for name, value in vars(part).items() if _holds(value)},
            )
            for path, part in classifier.module.named_modules()
        ]
        self._tensors = [
            _Kept(name, tensor, tensor.detach(), tensor.requires_grad)
            for name, tensor in _tensors(self._parts)
        ]
        # Memory once, whoever shares it; strides do not matter.
        self._flat: dict[str, torch.Tensor] = {}
        seen: set[int] = set()
        for kept in self._tensors:
            storage = kept.alias.untyped_storage()
            if storage.nbytes() and storage.data_ptr() not in seen:
                seen.add(storage.data_ptr())
                flat = torch.empty(0, dtype=torch.uint8, device=kept.alias.device)
                self._flat[kept.name] = flat.set_(storage)
        self._bits = self._read()
        self._copies = {name: flat.cpu().clone() for name, flat in self._flat.items() if keep}
        self._own_doing: set[str] = set()

    def changed(self) -> list[str]:
        """Return what is not as it was, in words; nothing is put back."""
        return [change for change in self._differences() if change not in self._own_doing]

    def put_back(self, images: torch.Tensor) -> list[str]:
        """Put back what is not as it was, and return it, in words.

        What the network changes when it runs, such as a counter of its own, is nobody's fault.

        Args:
            images: (B, 3, H, W), on which that is tried.
        """
        if not self.keep:
            raise TypeError("there is no copy to put back")
        changes = self.changed()
        if not changes:
            return []
        self._restore()
        self._own_doing |= self._changes_by_itself(images)
        return [change for change in changes if change not in self._own_doing]

    def check(self, images: torch.Tensor) -> None:
        """See that nothing but the network itself has changed it.

        Args:
            images: (B, 3, H, W), on which that is tried.

        Raises:
            ModelError: it is no longer what was to be explained.
        """
        changes = self.changed()
        if not changes:
            return
        current = Guard(self.classifier, keep=True)
        self._own_doing |= current._changes_by_itself(images)
        changes = [change for change in changes if change not in self._own_doing]
        if changes:
            raise ModelError(
                f"{self.classifier.name} changed while it was explained, by no method of others: "
                f"{_few(changes)}; what it computes must not depend on what it has seen"
            )

    def _changes_by_itself(self, images: torch.Tensor) -> set[str]:
        """Return what runs of the network change, put back."""
        try:
            with torch.no_grad():
                self.classifier(images)
                self.classifier(images[:1])
        except Exception:  # noqa: BLE001 - one that cannot run here is not shown to change anything
            return set()
        finally:
            changes = self._differences()
            if changes:
                self._restore()
        return set(changes)

    def _read(self) -> list[torch.Tensor]:
        """Return sums over the bits of each tensor: another order gives others."""
        sums = [_sums(flat) for flat in self._flat.values()]
        sizes = [len(part) for part in sums]
        return list(torch.cat(sums).cpu().split(sizes)) if sums else []

    def _differences(self) -> list[str]:
        changes = [words for part in self._parts for words in _part_differences(part)]
        for kept in self._tensors:
            if kept.moved():
                changes.append(kept.name)
            if kept.tensor.requires_grad != kept.trained:
                changes.append(f"requires_grad of {kept.name.partition(' ')[2]}")
        for name, before, current in zip(self._flat, self._bits, self._read(), strict=True):
            if not torch.equal(before, current):
                changes.append(name)
        # A mode is set for all layers at once.
        of_layers = tuple(f"{mode} of" for mode in ("train mode", "eval mode") if mode in changes)
        return list(dict.fromkeys(text for text in changes if not text.startswith(of_layers)))

    def _restore(self) -> None:
        for part in self._parts:
            if type(part.module) is not part.kind:
                part.module.__class__ = part.kind
            own = vars(part.module)
            for name in [name for name in own if name not in part.values]:
                del own[name]
            own.update(part.values)
            for name, held in part.held.items():
                refill(own[name], held)
        for kept in self._tensors:
            if kept.tensor.grad_fn is not None:
                kept.tensor.detach_()
            if kept.moved():
                kept.tensor.data = kept.alias
            kept.tensor.requires_grad_(kept.trained)
            kept.tensor.grad = None
        for flat, before, current, copy in zip(
            self._flat.values(), self._bits, self._read(), self._copies.values(), strict=True
        ):
            if not torch.equal(before, current):
                flat.copy_(copy)


def _tensors(parts: list[_Part]) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield parameters, buffers, and what else modules hold as plain attributes."""
    seen: set[int] = set()
    for part in parts:
        for kind, word in (("_parameters", "weight"), ("_buffers", "buffer"), ("", "tensor")):
            # A scripted module keeps its own elsewhere.
            held = getattr(part.module, kind) if kind else part.values
            for name, tensor in held.items():
                if isinstance(tensor, torch.Tensor) and id(tensor) not in seen:
                    seen.add(id(tensor))
                    yield f"{word} {_dotted(part.path, name)}", tensor


def _dotted(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _holds(value: object) -> bool:
    return isinstance(value, dict | list | set)


def _held(value: Any) -> Iterator[Any]:  # noqa: ANN401 - what a module holds may be anything
    """Yield what is in a container; of a dict the keys and the values."""
    if isinstance(value, dict):
        for name, item in value.items():
            yield name
            yield item
    else:
        yield from value


def same(before: object, current: object) -> bool:
    """Return whether what a module holds is the same object, or a plain value that is equal."""
    return current is before or (
        type(current) is type(before) and isinstance(current, PLAIN) and current == before
    )


def _part_differences(part: _Part) -> Iterator[str]:
    """Yield what of a module is not as it was, in words; of its tensors, which they are alone."""
    if type(part.module) is not part.kind:
        yield f"class of {_layer(part.path)}"
    own = vars(part.module)
    for name in {**part.values, **own}:
        before, current = part.values.get(name, part), own.get(name, part)
        unchanged = same(before, current)
        if unchanged and name in part.held:
            held, holds = part.held[name], tuple(_held(current))
            unchanged = len(held) == len(holds) and all(map(same, held, holds))
        if not unchanged and name not in HARMLESS:
            yield from _in_words(part, name, own.get(name))


def _in_words(part: _Part, name: str, current: object) -> Iterator[str]:
    layer = _layer(part.path)
    kinds = {"_parameters": "weight", "_buffers": "buffer", "_modules": "layer"}
    if name == "training":
        mode = "train" if current else "eval"
        yield f"{mode} mode of {layer}" if part.path else f"{mode} mode"
    elif "hook" in name:
        yield f"a hook on {layer}"
    elif name in kinds and isinstance(current, Mapping):
        held = part.held[name]
        before = dict(zip(held[::2], held[1::2], strict=True))
        for key in {**before, **current}:
            if key not in before or key not in current or before[key] is not current[key]:
                yield f"{kinds[name]} {_dotted(part.path, key)}"
    else:
        yield f"attribute {name} of {layer}"


def _layer(path: str) -> str:
    return f"layer {path}" if path else "the network"


def _sums(flat: torch.Tensor) -> torch.Tensor:
    """Return the sums of bytes (N,), taken by eights as whole numbers, in rows and in columns."""
    body = flat[: len(flat) // 8 * 8].view(torch.int64)
    square = body[: len(body) // WIDTH * WIDTH].view(-1, WIDTH)
    rest = body[square.numel() :], flat[8 * len(body) :].to(torch.int64)
    return torch.cat([square.sum(dim=0), square.sum(dim=1), *rest])
