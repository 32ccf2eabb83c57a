"""Networks whose weights know nothing, and weights that are none of a network's parameters."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from types import FunctionType

import torch

from steadymap.models.held import is_quantised

SETTLING_SEED = 20
SETTLING_IMAGES = 4

# Said where other parameters leave the logits as they are.
UNTOUCHED = (
    "with other parameters its logits stay the same: its weights are not in parameters() but in a "
    "plain list, a closure or buffers; use torch.nn.ModuleList, register_module or "
    "torch.nn.Parameter"
)


@contextmanager
def strangers(network: torch.nn.Module) -> Iterator[list[torch.nn.Module]]:
    """Collect what runs, has weights, and is held by a network without being one of its modules."""
    own = set(network.modules())
    found: list[torch.nn.Module] = []
    hooks = [
        part.register_forward_hook(lambda part, _inputs, _output: found.append(part))
        for stranger in {held for module in own for held in _held(vars(module), own)}
        for part in stranger.modules()
        # No hook can be hung on a scripted one.
        if not isinstance(part, torch.jit.ScriptModule)
        if [*part.parameters(recurse=False), *part.buffers(recurse=False)]
    ]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def _held(value: object, own: set[torch.nn.Module]) -> Iterator[torch.nn.Module]:
    """Yield the modules that containers and functions hold, but for those that are known."""
    if isinstance(value, torch.nn.Module):
        if value not in own:
            yield value
    elif isinstance(value, dict):
        yield from _held(list(value.values()), own)
    elif isinstance(value, list | tuple | set):
        for item in value:
            yield from _held(item, own)
    elif isinstance(value, partial):
        yield from _held([value.func, value.args, value.keywords], own)
    elif isinstance(value, FunctionType):
        for cell in value.__closure__ or ():
            yield from _held(cell.cell_contents, own)


def see_difference(trained: torch.Tensor | None, randomised: torch.Tensor | None) -> None:
    """See that a network's logits (B, K) are not what they were with its own weights.

    Of a network that has none of the images that are tried, nothing is said.

    Raises:
        ValueError: they are, bit by bit.
    """
    if trained is not None and randomised is not None and torch.equal(trained, randomised):
        raise ValueError(UNTOUCHED)


def initialise(network: torch.nn.Module) -> None:
    """Draw all parameters anew from torch's global generator.

    Raises:
        ValueError: the network has parameters, and all are as they were; or it is quantised.
    """
    for path, part in network.named_modules():
        if is_quantised(part):
            raise ValueError(f"the weights of its quantised layer {path!r} are no parameters")
    before = {name: parameter.clone() for name, parameter in network.named_parameters()}
    with torch.no_grad():
        for part in network.modules():
            reset = getattr(part, "reset_parameters", None)
            if callable(reset):
                reset()
        # What no layer has touched: a parameter outside of layers, or a norm and a direction of
        # which a layer's weight is made.
        for name, parameter in network.named_parameters():
            if torch.equal(parameter, before[name]):
                shuffled = parameter.flatten()[torch.randperm(parameter.numel())]
                parameter.copy_(shuffled.view_as(parameter))
    if before and all(
        torch.equal(parameter, before[name]) for name, parameter in network.named_parameters()
    ):
        raise ValueError("all its parameters are constants")


def settle_norms(network: torch.nn.Module, size: tuple[int, int]) -> None:
    """Let batch norms measure what passes through weights that know nothing.

    Freshly initialised, they take everything for normal; in eval mode the signals of a deep network
    then vanish or burst. One pass of noise gives them means and variances. A network without such
    norms is left as it is. Its mode is put back.

    Args:
        network: takes images (B, 3, H, W), on the CPU.
        size: height and width of its input.
    """
    norms = [
        (part, part.momentum, part.training)
        for part in network.modules()
        if isinstance(part, torch.nn.modules.batchnorm._BatchNorm)  # noqa: SLF001 - torch names no other
        and part.track_running_stats
    ]
    if not norms:
        return
    training = network.training
    network.eval()
    for norm, _, _ in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain average of what passes, not a moving one
        norm.train()
    generator = torch.Generator().manual_seed(SETTLING_SEED)
    noise = torch.randn(SETTLING_IMAGES, 3, *size, generator=generator)
    try:
        with torch.no_grad():
            network(noise.to(next(network.parameters()).dtype))
    finally:
        network.train(training)
        for norm, momentum, before in norms:
            norm.momentum = momentum
            norm.train(before)
