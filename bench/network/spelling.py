"""What the calls of a traced graph are: ReLU in all its spellings, linear, or about sizes alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Graph, Node

# By the names of functions and tensor methods. Linear in a tensor where all others are constant:
PRODUCTS = ("mul", "mul_", "imul", "matmul", "imatmul", "mm", "bmm", "einsum")
# Likewise, in the first alone.
OF_FIRST = (
    *("div", "div_", "truediv", "itruediv", "linear", "batch_norm"),
    *("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"),
)
# These look at a tensor's shape or kind, not at its values.
OF_SHAPE = frozenset(
    {
        *("size", "dim", "ndimension", "numel", "shape", "ndim", "dtype", "device", "is_cuda"),
        *("zeros_like", "ones_like", "empty_like", "new_zeros", "new_ones", "new_empty"),
    }
)
# ReLU as a call.
RELUS = ("relu", "relu_")
# How else ReLU is written: what is called last, and what leads there from the same tensor.
ENDS = frozenset(
    {
        *("clamp", "clamp_", "clamp_min", "clamp_min_", "clip", "clip_", "threshold", "threshold_"),
        "_threshold",  # as torch.nn.functional calls its own
        *("where", "maximum", "max", "fmax", "mul", "mul_", "imul", "masked_fill", "masked_fill_"),
    }
)
STEPS = frozenset(
    {
        *("gt", "ge", "lt", "le", "greater", "greater_equal", "less", "less_equal"),
        *("logical_not", "invert", "zeros_like", "new_zeros", "clone"),
        *("float", "double", "to", "type", "type_as"),
    }
)
ASSERTIONS = ("_assert",)
# What ReLU is told by: values of all magnitudes on either side of 0.
SAMPLE = torch.logspace(-30, 30, 61)
SAMPLE = torch.cat([-SAMPLE, torch.zeros(1), SAMPLE])
HOMES = ("", "builtins", "math", "_operator", "torch", "torchvision")


@dataclass(frozen=True)
class Relu:
    """A ReLU of a graph.

    Attributes:
        source: of what.
        call: as the network computes it.
    """

    source: Node
    call: Callable[[torch.Tensor], torch.Tensor]


def name_of(node: Node) -> str:
    """Return what a function or a tensor method is called; with its module where it is a user's."""
    if node.target is getattr:
        return str(node.args[1])
    name = str(getattr(node.target, "__name__", node.target))
    home = getattr(node.target, "__module__", None) or ""
    return name if home.partition(".")[0] in HOMES else f"{home}.{name}"


def name_of_type(kind: type[torch.nn.Module]) -> str:
    """Return what a module is called; with its home where torch.nn has another of that name."""
    ours = kind.__module__.startswith("torch.nn.")
    return kind.__name__ if ours else f"{kind.__module__}.{kind.__name__}"


def in_place(network: torch.nn.Module, node: Node) -> bool:
    """Return whether a call writes into its first argument."""
    if not node.all_input_nodes:
        return False
    if node.op == "call_module":
        return bool(getattr(network.get_submodule(str(node.target)), "inplace", False))
    return name_of(node).endswith("_") or bool(node.kwargs.get("inplace", False))


def that_count(graph: Graph, relus: Mapping[Node, Relu]) -> Iterator[tuple[Node, bool]]:
    """Yield the calls that take part in the logits and depend on the values of pixels, in order.

    A call whose outcome nobody uses takes part, too: it may write into a tensor.

    Yields:
        the call, and whether it is linear in its one tensor: all others are numbers or weights.
    """
    reached: set[Node] = set()
    waiting = [node for node in graph.nodes if not node.users and _called(node) not in ASSERTIONS]
    while waiting:
        node = waiting.pop()
        if node not in reached:
            reached.add(node)
            waiting += [relus[node].source] if node in relus else node.all_input_nodes
    seeing = _seeing(graph)
    for node in graph.nodes:
        if node.op.startswith("call_") and node in reached and node in seeing:
            yield node, _scales(node, seeing)


def _scales(node: Node, seeing: set[Node]) -> bool:
    given: list[Node] = []  # a tensor that is given twice counts twice
    torch.fx.node.map_arg((node.args, node.kwargs), given.append)
    tensors = [argument for argument in given if argument in seeing]
    if len(tensors) != 1 or node.op == "call_module":
        return False
    name = name_of(node)
    first = node.args[0] if node.args else node.kwargs.get("input")
    return name in PRODUCTS or (name in OF_FIRST and first is tensors[0])


def _called(node: Node) -> str:
    return name_of(node) if node.op in ("call_function", "call_method") else ""


def _seeing(graph: Graph) -> set[Node]:
    """Return the nodes that depend on the values of pixels."""
    seeing: set[Node] = set()
    for node in graph.nodes:
        if node.op == "placeholder" or (
            _called(node) not in OF_SHAPE and not seeing.isdisjoint(node.all_input_nodes)
        ):
            seeing.add(node)
    return seeing


def of_one_tensor(node: Node) -> Callable[[torch.Tensor], torch.Tensor] | None:
    """Return a call as a function of its first argument; None where it takes more than numbers."""
    if not _called(node) or not node.args:
        return None
    if node.all_input_nodes != [node.args[0]]:
        return None
    rest = node.args[1:]
    named = {name: value for name, value in node.kwargs.items() if name != "inplace"}
    return lambda values: _call(node.target, (values, *rest), named)


def _call(target: Any, args: tuple[Any, ...], named: Mapping[str, Any]) -> Any:  # noqa: ANN401 - whatever a graph calls
    if isinstance(target, str):
        return getattr(args[0], target)(*args[1:], **named)
    return target(*args, **named)


# --- ReLU -----------------------------------------------------------------------------------------


def relus(network: torch.nn.Module, graph: Graph) -> dict[Node, Relu]:
    """Return the ReLUs of a graph, however they are written.

    What is written as a ReLU may be, `where(x > 0, x, 0)` or `x * (x > 0)`, is tried on numbers.
    """
    seeing = _seeing(graph)
    found = {node: _relu(network, node, seeing) for node in graph.nodes if node in seeing}
    return {node: relu for node, relu in found.items() if relu is not None}


def _relu(network: torch.nn.Module, node: Node, seeing: set[Node]) -> Relu | None:
    if node.op == "call_module":
        part = network.get_submodule(str(node.target))
        inputs = node.all_input_nodes
        if not isinstance(part, torch.nn.ReLU | torch.nn.Threshold) or len(inputs) != 1:
            return None
        return _tried(inputs[0], part)
    name = _called(node)
    if name in RELUS and len(node.all_input_nodes) == 1:
        return Relu(node.all_input_nodes[0], torch.relu)
    if name not in ENDS:
        return None
    sources = set(_sources(node, seeing))
    if len(sources) != 1:
        return None
    (source,) = sources
    return _tried(source, lambda values: _computed(network, node, source, values))


def _sources(node: Node, seeing: set[Node]) -> Iterator[Node]:
    """Yield the tensors that a call is made of, by steps that a ReLU may be spelled with."""
    for given in node.all_input_nodes:
        if _called(given) in STEPS:
            yield from _sources(given, seeing)
        elif given in seeing or given.op != "get_attr":
            yield given


def _computed(network: torch.nn.Module, node: Node, source: Node, values: torch.Tensor) -> Any:  # noqa: ANN401 - the value of a node
    """Return what a call, and the steps that lead to it, make of the values of a source."""

    def of(given: Node) -> Any:  # noqa: ANN401 - as above
        if given is source:
            return values.clone()
        if given.op == "get_attr":
            *path, name = str(given.target).split(".")
            held = getattr(network.get_submodule(".".join(path)), name)
            return held.to(values.device)
        return _computed(network, given, source, values)

    args = torch.fx.node.map_arg(node.args, of)
    return _call(node.target, args, torch.fx.node.map_arg(node.kwargs, of))


def _tried(source: Node, call: Callable[[torch.Tensor], Any]) -> Relu | None:
    try:
        outcome = call(SAMPLE.clone())
    except Exception:  # noqa: BLE001 - a call may raise anything of numbers: then it is no ReLU
        return None
    if not torch.is_tensor(outcome) or not torch.equal(outcome.flatten().float(), SAMPLE.relu()):
        return None
    return Relu(source, call)
