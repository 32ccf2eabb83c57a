"""A small run as its files hold it, for tests of what reads them."""

from __future__ import annotations

from typing import Any

import pandas as pd

METHODS = ("gradient", "integrated_gradients:baseline=black,steps=4")


def manifest() -> dict[str, Any]:
    return {
        "schema_version": 1, "rules": 2, "run_id": "hands-compact-00000000", "complete": True,
        "configuration": {"method": list(METHODS), "draws": 1, "nulls": 1, "seed": 0},
        "methods": list(METHODS), "severities": {"bias": [-0.1, 0.3]}, "seed": 0, "plugins": {},
        "own_metrics": {"own": {
            "reads": "signed", "against": "map", "better": "higher", "identity": 1.0,
            "symmetric": True, "summary": "s", "source": "s"}},
        "model": {"name": "compact", "weights_sha256": "0" * 64, "input_size": [8, 8],
                  "class_names": ["a", "b"], "cam_layer": "3"},
        "data": {"name": "hands", "split": "test", "sha256": "0" * 64, "class_names": ["a", "b"],
                 "pictures": {"i0": "one", "i1": "two"},
                 "excluded": [{"name": "n", "reason": "r"}]},
        "versions": {"torch": "2.11"},
        "machine": {"processor": "x", "cores": 2, "threads": 2, "device": "cpu"},
        "wall_seconds": 1.5, "peak_memory_bytes": {"resident": 10}, "statuses": {"ok": 8},
        "metrics": {"ssim": "structural"}, "passes": {"forward": 10, "backward": 8},
        "passes_by_method": {METHODS[0]: {"each": 1, "shared": True, "forward_only": 0}},
        "git": {"commit": "c" * 40, "changed": False},
    }  # fmt: skip


def records() -> pd.DataFrame:
    rows = [
        {"run_id": "r", "model": "m", "dataset": "d", "image_id": image, "label": 0, "target": 0,
         "pred_clean": 0, "pred_perturbed": 1, "kept": False, "method": method, "family": "bias",
         "severity": severity, "draw": 0, "metric": "ssim", "value": 0.5, "status": "ok",
         "detail": ""}
        for image in ("i0", "i1") for method in METHODS for severity in (-0.1, 0.3)
    ]  # fmt: skip
    return pd.DataFrame(rows)
