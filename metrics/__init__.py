"""Scores of saliency maps: pure functions of batched maps, and their registry."""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from steadymap.metrics.evidence import Evidence
    from steadymap.metrics.maps import Maps, magnitude
    from steadymap.metrics.matched import Table, tabulate
    from steadymap.metrics.registry import METRICS, PROBES, Metric, Status
    from steadymap.metrics.scoring import Scores, evaluate
    from steadymap.metrics.tensors import TensorMaps

# Loaded when first asked for: whoever reads the results of a run needs no torch.
_HOMES = {
    "METRICS": "registry",
    "PROBES": "registry",
    "Evidence": "evidence",
    "Maps": "maps",
    "Metric": "registry",
    "Scores": "scoring",
    "Status": "registry",
    "Table": "matched",
    "TensorMaps": "tensors",
    "evaluate": "scoring",
    "magnitude": "maps",
    "tabulate": "matched",
}

__all__ = [
    "METRICS",
    "PROBES",
    "Evidence",
    "Maps",
    "Metric",
    "Scores",
    "Status",
    "Table",
    "TensorMaps",
    "evaluate",
    "magnitude",
    "tabulate",
]


def __getattr__(name: str) -> object:
    """Load what is asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    """Return what there is, loaded or not."""
    return __all__
