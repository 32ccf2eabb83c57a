"""Read and write weights without ever unpickling code."""

from __future__ import annotations

import json
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save

from steadymap.models.errors import ModelError, shown

TORCH_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt")


@dataclass(frozen=True)
class Weights:
    """Tensors by name, and the class names where the file carries them."""

    tensors: Mapping[str, torch.Tensor]
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
    except Exception as error:  # broken files raise anything; each means the same here
        raise ModelError(
            f"weights: {shown(path.name)} is not a safetensors file: {shown(str(error))}"
        ) from error
    return Weights(tensors, None if text is None else _class_names(path, text))


def _class_names(path: Path, text: str) -> tuple[str, ...]:
    try:
        names = json.loads(text)
        # Escapes of JSON can say what is no text.
        json.dumps(names, ensure_ascii=False).encode()
    except (ValueError, TypeError, RecursionError):
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ModelError(f"weights: {path.name}: class_names is no list of names: {text[:80]!r}")
    return tuple(names)


def _read_torch(path: Path) -> Mapping[str, torch.Tensor]:
    _refuse_bomb(path)
    try:
        with warnings.catch_warnings():
            # Of forms that torch gave up; what they hold is looked at below.
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # broken files raise anything; each means the same here
        raise ModelError(
            f"weights: {path.name} is refused ({type(error).__name__}): only tensors are read; it "
            "is broken or holds other objects; save the network's state_dict()"
        ) from error
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in content.items()
    ):
        raise ModelError(f"weights: {path.name} holds no state dict (names and tensors)")
    return dict(content)


def _refuse_bomb(path: Path) -> None:
    """See that a file does not unpack to more than it is: torch writes tensors as they are.

    Raises:
        ModelError: it does, and could fill the memory.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
    except Exception:  # noqa: BLE001 - not a zip file, or a broken one: torch says what it is
        return
    if size > path.stat().st_size:
        raise ModelError(
            f"weights: {path.name} is refused: it unpacks to {size:,} bytes, more than the file "
            "has; save the network's state_dict() with torch.save"
        )


def _plain(tensor: torch.Tensor) -> bool:
    """Whether a tensor holds its own numbers, one after the other, and real ones."""
    return (
        tensor.layout == torch.strided
        and tensor.device.type == "cpu"
        and not tensor.is_quantized
        and not tensor.is_complex()
    )


def fit_weights(network: torch.nn.Module, weights: Weights, source: str) -> None:
    """Copy weights into a network; every name and shape must match.

    Raises:
        ModelError: names the first tensors that are missing, unexpected or of another shape.
    """
    own = network.state_dict()
    problems = [f"missing {name}" for name in own if name not in weights.tensors]
    problems += [f"unexpected {shown(name)}" for name in weights.tensors if name not in own]
    problems += [
        f"{shown(name)} is not a dense tensor of real numbers"
        for name, tensor in weights.tensors.items()
        if not _plain(tensor)
    ]
    problems += [
        f"{name} is {tuple(weights.tensors[name].shape)}, the network's is {tuple(tensor.shape)}"
        for name, tensor in own.items()
        if name in weights.tensors and weights.tensors[name].shape != tensor.shape
    ]
    if problems:
        suffix = f" and {len(problems) - 3} more" if len(problems) > 3 else ""  # noqa: PLR2004 - a line's worth
        raise ModelError(
            f"weights: {source} does not fit {type(network).__name__}: "
            f"{'; '.join(problems[:3])}{suffix}"
        )
    network.load_state_dict(dict(weights.tensors))


def write_weights(path: Path, network: torch.nn.Module, class_names: tuple[str, ...]) -> None:
    """Write a network's tensors and its class names as one safetensors file."""
    tensors = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    path.write_bytes(save(tensors, metadata={"class_names": json.dumps(class_names)}))
