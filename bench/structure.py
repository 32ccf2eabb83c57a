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
from torch import fx, nn

from steadymap.models import Classifier, PixelNetwork

RELU_FUNCTIONS = (torch.relu, torch.relu_, nn.functional.relu, nn.functional.relu_)
RELU_METHODS = ("relu", "relu_")


class UntraceableError(ValueError):
    """A network whose graph cannot be had, with the reason."""


@dataclass(frozen=True)
class Structure:
    """What a network consists of, in the order of its computation.

    Attributes:
        modules: the type of each module that is called, ReLU among them however it is written.
        functions: the name of each other function or tensor method that is called.
    """

    modules: tuple[type[nn.Module], ...]
    functions: tuple[str, ...]


_lock = threading.Lock()
_graphs: WeakKeyDictionary[nn.Module, fx.Graph | str] = WeakKeyDictionary()


def structure(classifier: Classifier) -> Structure:
    """Return what the classifier's network consists of.

    Raises:
        UntraceableError: its forward depends on values, or is no Python that torch.fx can follow.
    """
    network = classifier.module.network
    modules: list[type[nn.Module]] = []
    functions: list[str] = []
    for node in _graph(network).nodes:
        if _is_relu(network, node):
            modules.append(nn.ReLU)
        elif node.op == "call_module":
            modules.append(type(network.get_submodule(node.target)))
        elif node.op in ("call_function", "call_method"):
            functions.append(str(getattr(node.target, "__name__", node.target)))
    return Structure(tuple(modules), tuple(functions))


def rewritten(classifier: Classifier, relu: Callable[[], nn.Module] = nn.ReLU) -> Classifier:
    """Return the classifier with every activation a module of its own, called once, not in place.

    Weights and all other modules are the given network's own, not copies.

    Args:
        classifier: as it is; left alone.
        relu: makes what takes the place of each ReLU, however it is written.

    Raises:
        UntraceableError: as `structure`.
    """
    network = classifier.module.network
    # A copy of the graph: the nodes of the one that is kept stay as they are.
    graph = fx.Graph()
    graph.output(graph.graph_copy(_graph(network), {}))
    own: dict[str, nn.Module] = {}
    for place, node in enumerate(list(graph.nodes)):
        if _is_relu(network, node):
            made = relu()
        elif node.op == "call_module" and not list(network.get_submodule(node.target).parameters()):
            # Without weights a copy costs nothing; with them it is not an activation.
            made = copy.deepcopy(network.get_submodule(node.target))
            if getattr(made, "inplace", False):
                made.inplace = False  # type: ignore[assignment] # a flag, whatever torch declares
        else:
            continue
        own[f"own_{place}"] = made.eval()
        with graph.inserting_before(node):
            called = graph.call_module(f"own_{place}", node.args[:1])
            if node.op == "call_module":
                called.args, called.kwargs = node.args, node.kwargs
        node.replace_all_uses_with(called)
        graph.erase_node(node)
    modules = {name: part for name, part in network.named_modules() if name}
    made_network = fx.GraphModule(_tree(network, modules | own), graph).eval()
    module = PixelNetwork(made_network, classifier.module.normalization, classifier.module.shift)
    module.mean, module.std = classifier.module.mean, classifier.module.std
    return replace(classifier, module=module.eval())


def _tree(network: nn.Module, modules: dict[str, nn.Module]) -> dict[str, object]:
    """Return what a graph names: modules, and tensors that belong to none of them."""
    tensors = dict(network.named_parameters()) | dict(network.named_buffers())
    return {**modules, **tensors}


def _is_relu(network: nn.Module, node: fx.Node) -> bool:
    if node.op == "call_module":
        return isinstance(network.get_submodule(str(node.target)), nn.ReLU)
    if node.op == "call_method":
        return node.target in RELU_METHODS
    return node.op == "call_function" and node.target in RELU_FUNCTIONS


def _graph(network: nn.Module) -> fx.Graph:
    """Return the network's graph, traced once as long as the network lives.

    torch.fx patches every module of the process while it traces: no other thread may run a network
    meanwhile, so a run has all its networks traced before its workers start.
    """
    with _lock:
        known = _graphs.get(network)
        if known is None:
            try:
                known = fx.Tracer().trace(network)
            except Exception as error:  # noqa: BLE001 - a forward may do anything; the reason is kept
                text = " ".join(str(error).split())[:200]
                known = f"its forward cannot be traced ({type(error).__name__}: {text})"
            _graphs[network] = known
    if isinstance(known, str):
        raise UntraceableError(known)
    return known
