"""Networks rewritten by their graph: activations as modules of their own, or others in their place.

Methods that change what an activation hands back, or that hang hooks on one, need each activation
to be a module that is called once and not in place. Most networks are not written so; rewritten,
they compute the same with the same weights.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from weakref import WeakKeyDictionary

import torch

from steadymap.bench.core.errors import one_line
from steadymap.models import Classifier, PixelNetwork

RELU_FUNCTIONS = (torch.relu, torch.relu_, torch.nn.functional.relu, torch.nn.functional.relu_)
RELU_METHODS = ("relu", "relu_")
PRODUCTS = ("mul", "mul_", "imul", "div", "div_", "truediv", "itruediv")

# From the name of a function of one tensor, and the function: what takes its place, or None.
Other = Callable[[str, Callable[[torch.Tensor], torch.Tensor]], torch.nn.Module | None]


class UntraceableError(ValueError):
    """A network whose graph cannot be had, with the reason."""


@dataclass(frozen=True)
class Structure:
    """What a network consists of, in the order of its computation.

    Attributes:
        modules: the type of each module that is called, ReLU among them however it is written.
        functions: the name of each other function or tensor method that is called.
        scalings: the name of each product or quotient of a tensor and a number or a weight, which
            are not among the functions.
    """

    modules: tuple[type[torch.nn.Module], ...]
    functions: tuple[str, ...]
    scalings: tuple[str, ...] = ()

    @property
    def names(self) -> frozenset[str]:
        """What there is, by the names of types and functions, scalings left out."""
        return frozenset({kind.__name__ for kind in self.modules} | set(self.functions))


_lock = threading.Lock()
_graphs: WeakKeyDictionary[torch.nn.Module, torch.fx.Graph | str] = WeakKeyDictionary()


def structure(classifier: Classifier) -> Structure:
    """Return what the classifier's network consists of.

    Raises:
        UntraceableError: its forward depends on values, or is no Python that torch.fx can follow.
    """
    network = classifier.module.network
    modules: list[type[torch.nn.Module]] = []
    functions: list[str] = []
    scalings: list[str] = []
    for node in _graph(network).nodes:
        if _is_relu(network, node):
            modules.append(torch.nn.ReLU)
        elif node.op == "call_module":
            modules.append(type(network.get_submodule(node.target)))
        elif node.op in ("call_function", "call_method"):
            (scalings if _scales(node) else functions).append(_name(node))
    return Structure(tuple(modules), tuple(functions), tuple(scalings))


def rewritten(
    classifier: Classifier,
    relu: Callable[[], torch.nn.Module] = torch.nn.ReLU,
    other: Other | None = None,
) -> Classifier:
    """Return the classifier with every activation a module of its own, called once, not in place.

    Weights and all other modules are the given network's own, not copies. What watches the network
    by a forward hook watches this one, too.

    Args:
        classifier: as it is; left alone.
        relu: makes what takes the place of each ReLU, however it is written.
        other: from the name of any other function or module without weights that takes one tensor,
            and from what computes the same, makes what takes its place, or None to leave it.

    Raises:
        UntraceableError: as `structure`.
    """
    network = classifier.module.network
    # A copy of the graph: the nodes of the one that is kept stay as they are.
    graph = torch.fx.Graph()
    graph.output(graph.graph_copy(_graph(network), {}))
    own: dict[str, torch.nn.Module] = {}
    for place, node in enumerate(list(graph.nodes)):
        if not node.args and "input" in node.kwargs:
            node.args = (node.kwargs["input"],)
            node.kwargs = {name: value for name, value in node.kwargs.items() if name != "input"}
        activation = relu() if _is_relu(network, node) else _own(network, node, other)
        if activation is None:
            continue
        own[f"own_{place}"] = activation.eval()
        with graph.inserting_before(node):
            called = graph.call_module(f"own_{place}", node.args[:1])
            if node.op == "call_module":
                called.args, called.kwargs = node.args, node.kwargs
        node.replace_all_uses_with(called)
        graph.erase_node(node)
    modules = {name: part for name, part in network.named_modules() if name}
    made_network = torch.fx.GraphModule(_tree(network, modules | own), graph).eval()
    for hook in network._forward_hooks.values():  # noqa: SLF001 - there is no public view
        made_network.register_forward_hook(hook)
    module = PixelNetwork(made_network, classifier.module.normalization, classifier.module.shift)
    module.mean, module.std = classifier.module.mean, classifier.module.std
    return replace(classifier, module=module.eval())


def _own(
    network: torch.nn.Module, node: torch.fx.Node, other: Other | None
) -> torch.nn.Module | None:
    """Make what takes the place of a node that is no ReLU; None leaves it."""
    if node.op == "call_module":
        part = network.get_submodule(str(node.target))
        if list(part.parameters()):
            return None  # with weights it is not an activation
        # Without weights a copy costs nothing.
        copied = copy.deepcopy(part)
        if getattr(copied, "inplace", False):
            copied.inplace = False  # type: ignore[assignment] # a flag, whatever torch declares
        return copied if other is None else other(type(copied).__name__, copied) or copied
    call = _of_one_tensor(node) if other is not None else None
    return None if other is None or call is None else other(_name(node), call)


def _tree(network: torch.nn.Module, modules: dict[str, torch.nn.Module]) -> dict[str, object]:
    """Return what a graph names: modules, and tensors that belong to none of them."""
    tensors = dict(network.named_parameters()) | dict(network.named_buffers())
    return {**modules, **tensors}


def _is_relu(network: torch.nn.Module, node: torch.fx.Node) -> bool:
    if node.op == "call_module":
        return isinstance(network.get_submodule(str(node.target)), torch.nn.ReLU)
    if node.op == "call_method":
        return node.target in RELU_METHODS
    return node.op == "call_function" and node.target in RELU_FUNCTIONS


def _name(node: torch.fx.Node) -> str:
    """Return what a function or a tensor method is called."""
    return str(getattr(node.target, "__name__", node.target))


def _tensors(node: torch.fx.Node) -> list[torch.fx.Node]:
    """Return the arguments of a call that are computed, not weights or numbers."""
    return [
        argument
        for argument in (*node.args, *node.kwargs.values())
        if isinstance(argument, torch.fx.Node) and argument.op != "get_attr"
    ]


def _scales(node: torch.fx.Node) -> bool:
    """Return whether a call multiplies, or divides, by a number or a weight: that is linear."""
    if _name(node) not in PRODUCTS:
        return False
    tensors = _tensors(node)
    divides = "div" in _name(node)
    return len(tensors) == 1 and (not divides or node.args[0] is tensors[0])


def _of_one_tensor(node: torch.fx.Node) -> Callable[[torch.Tensor], torch.Tensor] | None:
    """Return a call as a function of its first argument; None where it takes more than numbers."""
    if node.op not in ("call_function", "call_method") or not node.args:
        return None
    if node.all_input_nodes != [node.args[0]]:
        return None
    target, rest = node.target, node.args[1:]
    named = {name: value for name, value in node.kwargs.items() if name != "inplace"}
    if isinstance(target, str):
        return lambda values: getattr(values, target)(*rest, **named)
    return lambda values: target(values, *rest, **named)


def _graph(network: torch.nn.Module) -> torch.fx.Graph:
    """Return the network's graph, traced once as long as the network lives.

    torch.fx patches every module of the process while it traces: no other thread may run a network
    meanwhile, so a run has all its networks traced before its workers start.
    """
    with _lock:
        known = _graphs.get(network)
        if known is None:
            try:
                known = torch.fx.Tracer().trace(network)
            except Exception as error:  # noqa: BLE001 - a forward may do anything; the reason is kept
                known = f"its forward cannot be traced ({one_line(error)})"
            _graphs[network] = known
    if isinstance(known, str):
        raise UntraceableError(known)
    return known
