"""Scores of saliency maps: pure functions of batched maps, and their registry."""

from steadymap.metrics.evidence import Evidence
from steadymap.metrics.maps import Maps, magnitude
from steadymap.metrics.registry import METRICS, PROBES, Metric, Scores, Status, evaluate, recognise
from steadymap.metrics.tensors import TensorMaps

__all__ = [
    "METRICS",
    "PROBES",
    "Evidence",
    "Maps",
    "Metric",
    "Scores",
    "Status",
    "TensorMaps",
    "evaluate",
    "magnitude",
    "recognise",
]
