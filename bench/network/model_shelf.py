"""Models on the shelf of plug-ins: ours, and factories that distributions offer."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from steadymap.bench.core.plugins import Shelf, check_function
from steadymap.models import MODELS

if TYPE_CHECKING:
    from steadymap.models import Classifier, Model


def _as_factory(plugin: object) -> Model | Callable[[], Classifier]:
    check_function(plugin, "")
    return plugin  # type: ignore[return-value] # seen to be a function; what it returns is seen later


MODEL_SHELF: Shelf[Model | Callable[[], Classifier]] = Shelf("model", MODELS, _as_factory)
