"""What a network holds: its tensors, whether it learns, and whether it has a gradient."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator

import torch

from steadymap.models.errors import ModelError


def plain_tensors(
    network: torch.nn.Module,
) -> Iterator[tuple[torch.nn.Module, str, torch.Tensor]]:
    """Yield tensors that are neither parameters nor buffers, with their module and dotted name."""
    for path, part in network.named_modules():
        for name, value in vars(part).items():
            if isinstance(value, torch.Tensor):
                yield part, f"{path}.{name}", value


def digest_into(digest: hashlib._Hash, name: str, value: object) -> None:
    """Add a tensor to a hash; or, of a quantised layer, several, or what is none."""
    if isinstance(value, tuple):
        for part in value:
            digest_into(digest, name, part)
    elif isinstance(value, torch.Tensor):
        tensor = value.detach().cpu()
        array = (tensor.dequantize() if tensor.is_quantized else tensor).contiguous()
        digest.update(f"{name} {tuple(array.shape)} {array.dtype}\n".encode())
        digest.update(array.flatten().view(torch.uint8).numpy().tobytes())
    else:
        digest.update(f"{name} {value}\n".encode())


def of_fixed_mode(network: torch.nn.Module) -> bool:
    """Return whether a network was exported, for training or not; the probe sees which."""
    return isinstance(network, torch.fx.GraphModule) and "eval" in vars(network)


def freeze(network: object) -> None:
    """Put a network in eval mode, with parameters that require no gradients."""
    if not isinstance(network, torch.nn.Module):
        hint = "; use its .module()" if hasattr(network, "module") else ""
        raise ModelError(f"a network is a torch.nn.Module, not {type(network).__name__}{hint}")
    if not of_fixed_mode(network):
        network.eval()
    for parameter in network.parameters():
        parameter.requires_grad = False


def is_quantised(part: torch.nn.Module) -> bool:
    """Return whether a layer computes with whole numbers, on weights that are no parameters."""
    return type(part).__module__.startswith("torch.ao.nn.quantized")


def has_gradient(module: torch.nn.Module, image: torch.Tensor) -> bool:
    """Return whether the logits of an image (1, 3, H, W) depend on it in torch's own graph."""
    # Beside one, autograd goes on without a word.
    if any(map(is_quantised, module.modules())):
        return False
    try:
        with torch.random.fork_rng(), torch.enable_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of tensors that are read as numbers
            given = image.clone().requires_grad_()
            logits = module(given)
            if not logits.requires_grad:
                return False
            (slope,) = torch.autograd.grad(logits.sum(), given, allow_unused=True)
            return slope is not None
    except RuntimeError:  # what computes outside of torch refuses; some has no derivative
        return False
    except Exception:  # noqa: BLE001 - a network's own fault: the cells that it costs say what
        return True
