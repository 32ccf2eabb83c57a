"""Read and write weights without ever unpickling code."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from steadymap.models.classifier import ModelError

TORCH_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt")


@dataclass(frozen=True)
class Weights:
    """Tensors by name, and the class names where the file carries them."""

    tensors: Mapping[str, Tensor]
    class_names: tuple[str, ...] | None = None


def read_weights(path: Path) -> Weights:
    """Read a `.safetensors` file, or a state dict saved by torch.

    torch files are read with `weights_only=True`: a file that holds code is refused, not run.

    Raises:
        ModelError: no such file, an unknown suffix, or a file that is not weights.
    """
    if not path.is_file():
        raise ModelError(f"weights: no such file: {path}")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    if path.suffix in TORCH_SUFFIXES:
        return Weights(_read_torch(path))
    known = ", ".join((".safetensors", *TORCH_SUFFIXES))
    raise ModelError(f"weights: {path.name} has none of the known suffixes: {known}")


def _read_safetensors(path: Path) -> Weights:
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no dict
            text = (file.metadata() or {}).get("class_names")
    except (SafetensorError, OSError) as error:
        raise ModelError(f"weights: {path.name} is not a safetensors file: {error}") from error
    return Weights(tensors, None if text is None else _class_names(path, text))


def _class_names(path: Path, text: str) -> tuple[str, ...]:
    try:
        names = json.loads(text)
    except json.JSONDecodeError:
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ModelError(f"weights: {path.name}: class_names is no list of names: {text[:80]!r}")
    return tuple(names)


def _read_torch(path: Path) -> Mapping[str, Tensor]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # broken files raise anything; each means the same here
        raise ModelError(
            f"weights: {path.name} is refused ({type(error).__name__}): only tensors are read; it "
            "is broken or holds other objects; save the network's state_dict()"
        ) from error
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not all(
        isinstance(value, Tensor) for value in content.values()
    ):
        raise ModelError(f"weights: {path.name} holds no state dict (names and tensors)")
    return {str(name): value for name, value in content.items()}


def fit_weights(network: nn.Module, weights: Weights, source: str) -> None:
    """Copy weights into a network; every name and shape must match.

    Raises:
        ModelError: names the first tensors that are missing, unexpected or of another shape.
    """
    own = network.state_dict()
    problems = [f"missing {name}" for name in own if name not in weights.tensors]
    problems += [f"unexpected {name}" for name in weights.tensors if name not in own]
    problems += [
        f"{name} is {tuple(weights.tensors[name].shape)}, the network's is {tuple(tensor.shape)}"
        for name, tensor in own.items()
        if name in weights.tensors and weights.tensors[name].shape != tensor.shape
    ]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""  # noqa: PLR2004 - a line's worth
        raise ModelError(
            f"weights: {source} does not fit {type(network).__name__}: "
            f"{'; '.join(problems[:3])}{more}"
        )
    network.load_state_dict(dict(weights.tensors))


def write_weights(path: Path, network: nn.Module, class_names: tuple[str, ...]) -> None:
    """Write a network's tensors and its class names as one safetensors file."""
    tensors = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    path.write_bytes(save(tensors, metadata={"class_names": json.dumps(class_names)}))
