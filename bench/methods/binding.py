"""How a method is asked for: a name with parameters, ours, a plug-in's or your own."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast, get_type_hints

from pydantic import TypeAdapter, ValidationError

from steadymap.bench.core import errors, names, on_demand, plugins
from steadymap.bench.methods import baselines, registry
from steadymap.bench.methods.method import BoundMethod, Method, one_baseline
from steadymap.bench.records.vocabulary import INPUT, OVERALL

if TYPE_CHECKING:
    from torch import Tensor

    from steadymap.bench.methods.batch import Batch
    from steadymap.bench.methods.integrated_gradients import Steps
    from steadymap.models import Classifier

# Classes of captum's that hook modules, and would not see a function in a forward.
CAPTUM_ON_MODULES = frozenset(
    {"DeepLift", "DeepLiftShap", "GuidedBackprop", "Deconvolution", "LRP"}
)


def _as_method(plugin: object) -> Method:
    """Make an entry of a `Method`, or of a function that explains.

    Of a function, and of a class of captum's, no promises are known.
    """
    if inspect.isclass(plugin) and plugin.__module__.partition(".")[0] == "captum":
        return _of_captum(plugin)
    if not isinstance(plugin, Method):
        plugins.check_function(plugin, "classifier, batch")
        explain = cast("Callable[..., Tensor]", plugin)
        return Method(explain, plugins.summary_of(plugin), plugins.YOUR_OWN, degree=None)
    plugins.check_function(plugin.explain, "classifier, batch")
    _check_promises(BoundMethod("", plugin, tuple(_defaults(plugin).items())))
    return plugin


def _of_captum(kind: type) -> Method:
    """Make a method of a class of captum's, called as `kind(network).attribute(images, target)`.

    Images go one by one, and captum's draws, which come from torch's own generator, are the
    image's: neither what else is in the batch nor a second call changes a map.

    Raises:
        TypeError: it needs more than a network, an image and a class.
    """
    calls = (kind, ("network",)), (getattr(kind, "attribute", None), ("self", "images"))
    for function, given in calls:
        if function is None:
            raise TypeError(f"{kind.__name__} of captum attributes nothing")
        needed = [
            p.name
            for p in list(inspect.signature(function).parameters.values())[len(given) :]
            if p.default is p.empty and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
        ]
        if needed:
            raise TypeError(
                f"{kind.__name__} needs {', '.join(needed)}, which nobody gives it: write a "
                "function (classifier, batch) that calls it"
            )
    on_modules = kind.__name__ in CAPTUM_ON_MODULES

    def explain(classifier: Classifier, batch: Batch) -> Tensor:
        # Who lists methods needs no torch.
        import torch  # noqa: PLC0415

        from steadymap.bench.methods import gradient  # noqa: PLC0415
        from steadymap.bench.network import graph  # noqa: PLC0415

        network = (graph.rewritten(classifier) if on_modules else classifier).module
        maps = []
        for place, rng in enumerate(batch.generators("captum")):
            image = gradient.own_copy(batch.images[place : place + 1])
            devices = [image.device] if image.is_cuda else []
            with torch.random.fork_rng(devices=devices):
                torch.manual_seed(int(rng.integers(2**63)))
                attributed = kind(network).attribute(image, target=batch.targets[place : place + 1])
            maps.append(attributed.detach())
        return torch.cat(maps)

    return Method(explain, plugins.summary_of(kind), f"captum's {kind.__name__}", degree=None)


def _defaults(method: Method) -> dict[str, object]:
    """Return the parameters of a method: its keyword-only arguments, with their defaults."""
    signature = inspect.signature(on_demand.loaded(method.explain)).parameters.values()
    return {p.name: p.default for p in signature if p.kind is p.KEYWORD_ONLY}


def _check_promises(bound: BoundMethod) -> None:
    """See, before anything is computed, that what a plug-in says of itself can be asked.

    Raises:
        TypeError: it cannot.
    """
    try:
        complete, _ = bound.can("complete"), bound.passes
    except Exception as error:  # a plug-in may raise anything; the line says what
        raise TypeError(f"capabilities or passes: {errors.one_line(error)}") from error
    own_start = bound.method.start is not one_baseline
    if (
        complete
        and not own_start
        and dict(bound.parameters).get("baseline") not in baselines.BASELINES
    ):
        raise TypeError(
            f"a method that is complete has a parameter baseline: {', '.join(baselines.BASELINES)}"
        )


METHOD_SHELF = plugins.Shelf(
    "method", registry.METHODS, _as_method, (INPUT, OVERALL), registry.ALSO_CALLED
)


def bind_method(spec: str, steps: Steps | None = None) -> BoundMethod:
    """Parse `name:key=value,key=value`.

    Args:
        spec: a key of `METHODS`, the name of a plug-in, or `package.module:function` (a dot in the
            colon's place does as well) for one of your own; with parameters where they differ from
            the defaults.
        steps: the number of steps for a method that has them and whose spec does not set them.

    Raises:
        ValueError: an unknown name or parameter, with the nearest known one, or a bad value.
    """
    name, text = _split_spec(spec)
    module, dot, attribute = name.rpartition(".")
    method = METHOD_SHELF.find(f"{module}:{attribute}" if dot else name)
    defaults = _defaults(method)
    texts = dict(_split_parameter(name, part) for part in text.split(",") if part)
    if steps is not None and "steps" in defaults:
        texts.setdefault("steps", str(steps))
    types = _types(name, method) if texts else {}
    values = defaults.copy()
    for key, value in texts.items():
        if key not in defaults:
            known = names.nearest(key, defaults) if defaults else "it has none"
            raise ValueError(f"method {name}: unknown parameter {key!r}; {known}")
        try:
            kind = types.get(key, type(defaults[key]))
            values[key] = TypeAdapter(kind).validate_strings(value)
        except ValidationError as error:
            reason = error.errors()[0]["msg"]
            raise ValueError(f"method {name}: {key}={value}: {reason}") from error
    # Names, of layers say, keep their capitals; what is not given has no text.
    settings = ",".join(
        f"{key}={value if isinstance(value, str) else str(value).lower()}"
        for key, value in values.items()
        if value is not None
    )
    bound = BoundMethod(f"{name}:{settings}" if settings else name, method, tuple(values.items()))
    if name not in registry.METHODS:
        try:
            _check_promises(bound)
        except TypeError as error:
            raise errors.PluginError(f"method {bound.spec}: {error}") from error
    return bound


def _split_spec(spec: str) -> tuple[str, str]:
    """Return a method's name and the text of its parameters.

    A colon begins the parameters, which have an equals sign, or the function of a module, which has
    none; that becomes `package.module.function`.
    """
    name, _, rest = spec.partition(":")
    if name in registry.METHODS or ("." not in name and name in plugins.offers("method")):
        return name, rest
    attribute, _, text = rest.partition(":")
    return (f"{name}.{attribute}", text) if attribute and "=" not in attribute else (name, rest)


def _types(name: str, method: Method) -> dict[str, Any]:
    try:
        return get_type_hints(on_demand.loaded(method.explain), include_extras=True)
    except Exception as error:  # an annotation may be any expression; the line says what
        reason = errors.one_line(error)
        raise ValueError(f"method {name}: its annotations cannot be read: {reason}") from error


def _split_parameter(name: str, part: str) -> tuple[str, str]:
    key, equals, value = part.partition("=")
    if not equals:
        raise ValueError(f"method {name}: expected key=value, got {part!r}")
    return key.strip(), value.strip()
