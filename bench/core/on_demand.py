"""Functions that are named by where they stand, and loaded when they are first called.

A table that names its functions can be read and listed without what they need, such as torch.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any


@dataclass(frozen=True)
class OnDemand:
    """A function, loaded at its first call; called as itself.

    Its annotations are those of what `load` returns: an instance has none of its own.

    Attributes:
        place: where it stands, as `package.module:name`; a literal of ours, never a user's text.
    """

    place: str

    @cached_property
    def _function(self) -> Callable[..., Any]:
        module, _, name = self.place.partition(":")
        function: Callable[..., Any] = getattr(importlib.import_module(module), name)
        return function

    def load(self) -> Callable[..., Any]:
        """Return the function itself.

        Raises:
            ImportError: the module cannot be imported.
            AttributeError: the module has nothing of that name.
        """
        return self._function

    # What is passed on is the function's own to describe, as with `functools.partial`.
    def __call__(self, *arguments: Any, **parameters: Any) -> Any:  # noqa: ANN401
        """Call the function."""
        return self._function(*arguments, **parameters)

    @property
    def __signature__(self) -> inspect.Signature:
        """The function's signature, for `inspect.signature`."""
        return inspect.signature(self._function)


def loaded(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function itself: what one on demand names, any other as it is."""
    return function.load() if isinstance(function, OnDemand) else function
