"""Who, what and where: all that is needed to repeat a run, and to refuse a false comparison."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import re
import subprocess
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from steadymap.bench.core.plugins import METRIC_SHELF, MODEL_SHELF, Shelf, describe
from steadymap.bench.data.masks import MASKS
from steadymap.bench.data.open import ImageSet
from steadymap.bench.methods.registry import METHOD_SHELF
from steadymap.bench.perturbations.registry import FAMILY_SHELF
from steadymap.bench.plan.plan import Experiment, Plan
from steadymap.bench.records.schema import SCHEMA_VERSION
from steadymap.metrics import METRICS
from steadymap.models import Classifier

PACKAGES = (
    "steadymap",
    "torch",
    "torchvision",
    "captum",
    "numpy",
    "scipy",
    "scikit-image",
    "pandas",
    "pillow",
    "pyarrow",
)
ID_LENGTH = 8
# A file system has names of 255 bytes, and a letter has up to four.
MOST_NAME = 60


def run_id(plan: Plan, classifier: Classifier, images: ImageSet) -> str:
    """Name a run by what it computes: data set, model, and a hash of everything that matters.

    Threads and batch size are left out: they change the speed alone.
    """
    parts = [
        re.sub("^(folder|kaggle|torchvision):", "", part) for part in (images.name, classifier.name)
    ]
    name = re.sub(r"[^\w-]+", "-", "-".join(parts))[:MOST_NAME]
    text = json.dumps(_identity(plan, classifier, images), sort_keys=True)
    return f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:ID_LENGTH]}"


def _identity(plan: Plan, classifier: Classifier, images: ImageSet) -> dict[str, Any]:
    plugins = _plugins(plan, classifier)
    found = {"masks": images.masks} if images.masks in MASKS else {}
    return (
        found
        | ({"plugins": plugins} if plugins else {})
        | {
            "schema": SCHEMA_VERSION,
            "steadymap": importlib.metadata.version("steadymap"),
            "methods": [method.spec for method in plan.bound_methods()],
            "cells": [asdict(cell) for cell in plan.cells()],
            "metrics": sorted(plan.metrics()),
            "nulls": plan.nulls,
            "seed": plan.seed,
            "engine": plan.engine,
            "precision": plan.precision,
            "weights": classifier.weights_hash(),
            "framing": asdict(classifier.framing),
            "normalization": asdict(classifier.module.normalization),
            "cam_layer": classifier.cam_layer,
            "data": images.data_hash(),
            "device": classifier.module.mean.device.type,
        }
    )


@dataclass(frozen=True)
class Result:
    """How a run went.

    Attributes:
        seconds: by the clock.
        statuses: values by status.
        complete: whether it got to its end.
        at_once: the fewest images that went through the network together.
        halved: how many times that was halved because memory ran out.
    """

    seconds: float
    statuses: Mapping[str, int]
    complete: bool
    at_once: int = 0
    halved: int = 0


def make_manifest(
    experiment: Experiment, classifier: Classifier, images: ImageSet
) -> dict[str, Any]:
    """Return what is known of a run before it has been made, ready for JSON."""
    return {
        "schema_version": SCHEMA_VERSION,
        "run_id": run_id(experiment, classifier, images),
        "complete": False,
        "configuration": experiment.model_dump(mode="json", exclude={"output"})
        # Names, not where things lie on this machine; hashes say what they were.
        | {"data": images.name, "weights": experiment.weights and experiment.weights.name},
        "methods": [method.spec for method in experiment.bound_methods()],
        "severities": experiment.severities(),
        "seed": experiment.seed,
        "plugins": _plugins(experiment, classifier),
        # All that is needed to read the values of metrics which another machine may not have.
        "own_metrics": describe(
            {
                name: METRIC_SHELF.find(name)
                for name in experiment.metric or ()
                if name not in METRICS
            }
        ),
        "model": {
            "name": classifier.name,
            "weights_sha256": classifier.weights_hash(),
            "input_size": list(classifier.input_size),
            "class_names": list(classifier.class_names),
            "cam_layer": classifier.cam_layer,
        },
        "data": {
            "name": images.name,
            "split": experiment.split,
            "sha256": images.data_hash(),
            "class_names": list(images.class_names),
            "pictures": {picture.image_id: picture.name for picture in images.pictures},
            "excluded": [{"name": name, "reason": reason} for name, reason in images.excluded],
        },
        "versions": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in PACKAGES},
        "machine": machine(classifier.module.mean.device),
    }


def completed(manifest: Mapping[str, Any], result: Result) -> dict[str, Any]:
    """Return the manifest of a run that has been made."""
    return dict(manifest) | {
        "complete": result.complete,
        "wall_seconds": round(result.seconds, 2),
        "images_at_once": result.at_once,
        "halved_for_memory": result.halved,
        "statuses": dict(sorted(result.statuses.items())),
    }


def _plugins(plan: Plan, classifier: Classifier) -> dict[str, str]:
    """Return the plug-ins of a run, with their distribution and its version."""
    methods = [method.spec.partition(":")[0] for method in plan.bound_methods()]
    places = [":".join(name.rsplit(".", 1)) for name in methods]
    asked: tuple[tuple[Shelf[Any], list[str]], ...] = (
        (METHOD_SHELF, places),
        (FAMILY_SHELF, list(plan.family)),
        (METRIC_SHELF, list(plan.metric or ())),
        (MODEL_SHELF, [classifier.name]),
    )
    return {
        f"{shelf.kind} {name}": found.source
        for shelf, names in asked
        for name in names
        if (found := shelf.where(name)) is not None
    }


def machine(device: torch.device) -> dict[str, Any]:
    """Return what the speed depends on; nothing that names the machine or its owner."""
    facts: dict[str, Any] = {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": str(device),
    }
    if device.type == "cuda":
        facts["device_name"] = torch.cuda.get_device_name(device)
        facts["cuda"] = torch.version.cuda
    return facts


def peak_memory(device: torch.device) -> dict[str, int]:
    """Return the most memory the process has held so far, in bytes: resident, and on its GPU.

    Where nobody says what is resident, that is left out.
    """
    peak = {}
    resident = _peak_resident(Path("/proc/self/status"))
    if resident is not None:
        peak["resident"] = resident
    if device.type == "cuda":
        peak["cuda_allocated"] = torch.cuda.max_memory_allocated(device)
        peak["cuda_reserved"] = torch.cuda.max_memory_reserved(device)
    return peak


def _peak_resident(status: Path) -> int | None:
    """Return the process's own peak; `getrusage` would give that of the process it came from."""
    try:
        lines = status.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:  # not Linux
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), None)


def fingerprint(facts: Mapping[str, Any]) -> str:
    """Return 8 hex digits that stand for a machine; timings of two of them are never pooled."""
    text = json.dumps(facts, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:ID_LENGTH]


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        return platform.processor() or "unknown"
    names = Counter(line.partition(":")[2].strip() for line in lines if "model name" in line)
    return names.most_common(1)[0][0] if names else platform.machine()


def git_state() -> dict[str, Any] | None:
    """Return the commit of the folder that the run was started in; None where it is no checkout."""
    commit = _git("rev-parse", "HEAD")
    if commit is None:
        return None
    return {"commit": commit, "changed": bool(_git("status", "--porcelain"))}


def _git(*arguments: str) -> str | None:
    """Return what git says, None where it fails or is not there."""
    try:
        done = subprocess.run(  # noqa: S603 - fixed arguments
            ["git", *arguments],  # noqa: S607 - the user's own git
            capture_output=True,
            text=True,
            check=False,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON that people can read and git can compare."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
