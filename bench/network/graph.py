"""Networks rewritten by their graph: activations as modules of their own, or others in their place.

Methods that change what an activation hands back, or that hang hooks on one, need each activation
to be a module that is called once and not in place. Most networks are not written so; rewritten,
they compute the same with the same weights. Whether they do is seen on images: `check`.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from operator import attrgetter
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch.nn.utils import parametrize

from steadymap.bench.core.errors import one_line
from steadymap.bench.core.origin import is_ours
from steadymap.bench.network import memory, passes, spelling
from steadymap.bench.network.guard import same
from steadymap.models import Classifier

Call = Callable[[torch.Tensor], torch.Tensor]
# From the name of a function of one tensor, and the function: what takes its place, or None.
Other = Callable[[str, Call], torch.nn.Module | None]

HOOKS = tuple(name for name in vars(torch.nn.Module()) if "hook" in name)


class UntraceableError(ValueError):
    """A network that cannot be rewritten, with the reason."""


@dataclass(frozen=True)
class Structure:
    """What a network consists of, in the order of its computation.

    What does not depend on the values of pixels, such as sizes, is left out.

    Attributes:
        modules: the type of each module that is called, ReLU among them however it is written.
        functions: the name of each other function or tensor method that is called.
        scalings: the name of each function that is linear in its one tensor, because all others are
            numbers or weights; they are not among the functions.
    """

    modules: tuple[type[torch.nn.Module], ...]
    functions: tuple[str, ...]
    scalings: tuple[str, ...] = ()

    @property
    def names(self) -> frozenset[str]:
        """What there is, by the names of types and functions, scalings left out."""
        return frozenset({spelling.name_of_type(kind) for kind in self.modules}) | set(
            self.functions
        )


@dataclass(frozen=True, eq=False)
class _Traced:
    """A network's graph, and what it was when it was traced.

    Attributes:
        state: of the network.
        bare: a copy without hooks that shares all tensors; the graph names what it has.
        graph: of the copy; None where it cannot be had.
        relus: each ReLU of the graph, however it is written.
        structure: what it consists of.
        reason: why there is no graph.
        compared: by the size of images (3, H, W), what `check` has found; empty where it agrees.
    """

    state: list[object]
    bare: torch.nn.Module
    graph: torch.fx.Graph | None = None
    relus: Mapping[torch.fx.Node, spelling.Relu] = field(default_factory=dict)
    structure: Structure = Structure((), ())
    reason: str = ""
    compared: dict[tuple[int, ...], str] = field(default_factory=dict)


_lock = threading.Lock()
_known: WeakKeyDictionary[torch.nn.Module, _Traced] = WeakKeyDictionary()


# --- what there is --------------------------------------------------------------------------------


def structure(classifier: Classifier) -> Structure:
    """Return what the classifier's network consists of.

    Raises:
        UntraceableError: its forward depends on values, or is no Python that torch.fx can follow;
            or `check` has found that it does not compute what its graph says.
    """
    traced, _ = _traced(classifier)
    if different := next(filter(None, traced.compared.values()), ""):
        raise UntraceableError(different)
    return traced.structure


def check(
    classifier: Classifier, images: torch.Tensor, targets: torch.Tensor, at_once: int
) -> None:
    """See that the network rewritten is the same function: the same logits, and their gradient.

    A graph knows neither hooks nor contexts, such as `no_grad` or `autocast`, nor what Python looks
    at. As long as the network stays as it is, it is looked at once for each size of images, on the
    first ones. Where not all bits agree, they may differ by what rounding makes of this network: as
    images one by one differ from all together, and rounded ones from themselves; or by the last bit
    of the largest value.

    Args:
        classifier: whose network.
        images: (B, 3, H, W), those at hand.
        targets: (B,), the classes explained.
        at_once: images that go through the network together.

    Raises:
        UntraceableError: it is another, or as `structure`.
    """
    traced, _ = _traced(classifier)
    size = tuple(images.shape[1:])
    if size not in traced.compared:
        few = slice(0, at_once)
        with passes.aside():
            traced.compared[size] = _difference(classifier, traced, images[few], targets[few])
    if traced.compared[size]:
        raise UntraceableError(traced.compared[size])


def _difference(
    classifier: Classifier, traced: _Traced, images: torch.Tensor, targets: torch.Tensor
) -> str:
    """Return in what the rewritten network differs; empty where it does not."""
    size = len(images)
    given = _values(classifier, images, targets, size)
    plain = _made(classifier, traced, _Called, None)
    try:
        found = _values(plain, images, targets, size)
    except Exception as error:  # a graph may be wrong in any way; the reason says how
        if memory.is_out_of_memory(error):
            raise
        return f"rewritten by its graph the network does not run ({one_line(error)})"
    apart = [_distance(one, other) for one, other in zip(found, given, strict=True)]
    if not any(apart):
        return ""
    rounded = (passes.rounded(images), size), (images, 1)
    ways = [_values(classifier, points, targets, at_once) for points, at_once in rounded]
    for place, (name, distance) in enumerate(zip(("logits", "gradient"), apart, strict=True)):
        last_bit = torch.finfo(images.dtype).eps * float(given[place].abs().max())
        floor = max(last_bit, *(_distance(way[place], given[place]) for way in ways))
        if distance > floor:
            return (
                f"rewritten by its graph the network has another {name} (off by {distance:.2g}, "
                f"rounding makes {floor:.2g}): its forward has a hook, no_grad, autocast or a "
                "state that the graph does not show"
            )
    return ""


def _values(
    classifier: Classifier, images: torch.Tensor, targets: torch.Tensor, at_once: int
) -> tuple[torch.Tensor, torch.Tensor]:
    seen = passes.shared_pass(classifier, images, targets, ("gradient",), at_once)
    return seen.logits, seen.need_gradient()


def _distance(one: torch.Tensor, other: torch.Tensor) -> float:
    """Return the largest difference; infinite where one alone is not finite."""
    equal = (one == other) | (one.isnan() & other.isnan())
    apart = torch.where(equal, 0, (one - other).abs())
    return float(torch.where(apart.isnan(), torch.inf, apart).max())


# --- rewriting ------------------------------------------------------------------------------------


def rewritten(
    classifier: Classifier,
    relu: Callable[[], torch.nn.Module] = torch.nn.ReLU,
    other: Other | None = None,
    *,
    watched: bool = True,
) -> Classifier:
    """Return the classifier with every activation a module of its own, called once, not in place.

    Weights are the given network's own, not copies. Hooks on its modules are left out.

    Args:
        classifier: as it is; left alone.
        relu: makes what takes the place of each ReLU, however it is written.
        other: from the name of any other function or module without weights that takes one tensor,
            and from what computes the same, makes what takes its place, or None to leave it.
        watched: whether what watches the network by a forward hook watches this one, too.

    Raises:
        UntraceableError: as `structure`.
    """
    traced, _ = _traced(classifier)
    made = _made(classifier, traced, lambda _call: relu(), other)
    hooks = classifier.module.network._forward_hooks  # noqa: SLF001 - there is no public view
    for hook in hooks.values() if watched else ():
        made.module.network.register_forward_hook(hook)
    return made


class _Called(torch.nn.Module):
    """A function as a module, which leaves what it is given as it is."""

    def __init__(self, call: Call) -> None:
        super().__init__()
        self.call = call

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Compute what the function computes."""
        return self.call(values.clone())


def _made(
    classifier: Classifier,
    traced: _Traced,
    relu: Callable[[Call], torch.nn.Module],
    other: Other | None,
) -> Classifier:
    """Return the classifier around a network that is made of the graph; hooks are left out."""
    # A copy of the graph: the nodes of the one that is kept stay as they are.
    graph = torch.fx.Graph()
    copies: dict[torch.fx.Node, torch.fx.Node] = {}
    if traced.graph is None:
        raise UntraceableError(traced.reason)
    graph.output(graph.graph_copy(traced.graph, copies))
    places = {node: place for place, node in enumerate(traced.graph.nodes)}
    own: dict[str, object] = {}
    for given, place in places.items():
        node = copies.get(given)
        if node is None:
            continue  # the output, which is made above
        known = traced.relus.get(given)
        activation = relu(known.call) if known else _own(traced.bare, node, other)
        if activation is None:
            continue
        source: Any = copies[known.source] if known else node.args[0]
        own[f"own_{place}"] = activation.eval()
        with graph.inserting_before(node):
            called = graph.call_module(f"own_{place}", (source,))
            if node.op == "call_module":
                called.args, called.kwargs = node.args, node.kwargs
        if spelling.in_place(traced.bare, given):
            # Whoever looks at its input later sees what has become of it.
            for user in _later(places, given):
                if user in copies:
                    copies[user].replace_input_with(source, called)
        node.replace_all_uses_with(called)
        graph.erase_node(node)
        copies[given] = called
    named = [str(node.target) for node in graph.nodes if node.op in ("call_module", "get_attr")]
    own |= {name: attrgetter(name)(traced.bare) for name in named if name not in own}
    made = torch.fx.GraphModule(own, graph).eval()
    return replace(classifier, module=classifier.module.around(made))


def _later(places: Mapping[torch.fx.Node, int], node: torch.fx.Node) -> Iterator[torch.fx.Node]:
    """Yield what uses the input of a node after it."""
    for user in node.all_input_nodes[0].users:
        if places[user] > places[node]:
            yield user


def _own(
    network: torch.nn.Module, node: torch.fx.Node, other: Other | None
) -> torch.nn.Module | None:
    """Make what takes the place of a node that is no ReLU; None leaves it."""
    if not node.args and "input" in node.kwargs:
        node.args = (node.kwargs["input"],)
        node.kwargs = {name: value for name, value in node.kwargs.items() if name != "input"}
    if node.op == "call_module":
        part = network.get_submodule(str(node.target))
        if list(part.parameters()):
            return None  # with weights it is not an activation
        # Without weights a copy costs nothing.
        copied = copy.deepcopy(part)
        if getattr(copied, "inplace", False):
            copied.inplace = False  # type: ignore[assignment] # a flag, whatever torch declares
        return copied if other is None else other(type(copied).__name__, copied) or copied
    call = spelling.of_one_tensor(node) if other is not None else None
    return None if other is None or call is None else other(spelling.name_of(node), call)


# --- tracing --------------------------------------------------------------------------------------


class _Tracer(torch.fx.Tracer):
    """Traces in the thread that makes it.

    torch.fx patches every module of the process while it traces. What other threads call meanwhile
    is called as ever.
    """

    def __init__(self) -> None:
        super().__init__()
        self._thread = threading.get_ident()

    def call_module(
        self,
        m: torch.nn.Module,
        forward: Callable[..., object],
        args: tuple[object, ...],
        kwargs: dict[str, object],
    ) -> object:
        """Note a module that is called, or call it."""
        if threading.get_ident() != self._thread:
            return forward(*args, **kwargs)
        return super().call_module(m, forward, args, kwargs)

    def getattr(
        self,
        attr: str,
        attr_val: Any,  # noqa: ANN401 - as torch.fx has it
        parameter_proxy_cache: dict[str, Any],
    ) -> Any:  # noqa: ANN401 - as above
        """Return what stands for a module's attribute, or the attribute."""
        if threading.get_ident() != self._thread:
            return attr_val
        return super().getattr(attr, attr_val, parameter_proxy_cache)


def _traced(classifier: Classifier) -> tuple[_Traced, torch.fx.Graph]:
    """Return the network's graph, traced anew where the network is no longer what it was."""
    network = classifier.module.network
    with _lock:
        known, state = _known.get(network), list(_state(network))
        if known is None or not _equal(known.state, state):
            known = _known[network] = _trace(classifier, state)
    if known.graph is None:
        raise UntraceableError(known.reason)
    return known, known.graph


def _trace(classifier: Classifier, state: list[object]) -> _Traced:
    """Trace a copy: what torch.fx leaves on it, and what its forward does, stays there."""
    if isinstance(classifier.module.network, torch.jit.ScriptModule):
        return _Traced(state, torch.nn.Module(), reason="its forward is TorchScript, not Python")
    try:
        bare = _bare(classifier)
        graph = _Tracer().trace(bare)
        relus = spelling.relus(bare, graph)
        return _Traced(state, bare, graph, relus, _structure(bare, graph, relus))
    except Exception as error:  # noqa: BLE001 - a forward may do anything; the reason is kept
        reason = f"its forward cannot be traced ({one_line(error)})"
        return _Traced(state, torch.nn.Module(), reason=reason)


def _structure(
    bare: torch.nn.Module, graph: torch.fx.Graph, relus: Mapping[torch.fx.Node, spelling.Relu]
) -> Structure:
    modules: list[type[torch.nn.Module]] = []
    functions: list[str] = []
    scalings: list[str] = []
    for node, scales in spelling.that_count(graph, relus):
        if node in relus:
            modules.append(torch.nn.ReLU)
        elif node.op == "call_module":
            part = bare.get_submodule(str(node.target))
            modules.append(parametrize.type_before_parametrizations(part))
        else:
            (scalings if scales else functions).append(spelling.name_of(node))
    return Structure(tuple(modules), tuple(functions), tuple(scalings))


def _bare(classifier: Classifier) -> torch.nn.Module:
    """Return a copy of the network without hooks that shares all tensors."""
    bare: torch.nn.Module = classifier.replica().module.network
    for part in bare.modules():
        for name in HOOKS:
            if isinstance(hooks := vars(part).get(name), dict):
                hooks.clear()
    return bare


def _state(network: torch.nn.Module) -> Iterator[object]:
    """Yield what a network consists of, and what its modules hold, hooks of others among it."""
    for path, part in network.named_modules():
        yield path
        yield type(part)
        for name, value in vars(part).items():
            yield name
            if name in HOOKS and isinstance(value, dict):
                yield from (hook for hook in value.values() if not is_ours(hook))
            elif isinstance(value, dict):
                yield from value
                yield from value.values()
            elif isinstance(value, list | set):
                yield from value
            else:
                yield value


def _equal(before: list[object], current: list[object]) -> bool:
    return len(before) == len(current) and all(map(same, before, current))
