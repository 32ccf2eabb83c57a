"""Whose a function is: the package's own, or a user's or another distribution's."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from steadymap.bench.core.on_demand import OnDemand, loaded

PACKAGE = "steadymap"


def is_ours(function: Callable[..., object]) -> bool:
    """Return whether a function is the package's own: by the module that its code stands in.

    `__module__` would not do: a wrapper made by `functools.wraps` bears that of what it wraps.
    """
    while isinstance(function, partial | OnDemand):
        function = function.func if isinstance(function, partial) else loaded(function)
    home = getattr(function, "__globals__", {}).get("__name__") or type(function).__module__
    return str(home).partition(".")[0] == PACKAGE
