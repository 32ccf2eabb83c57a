"""What a run consists of: its units of work, each with a name made of all that it depends on.

A unit is what one method makes of one view of one block of images: a perturbation at a severity and
draw, the clean view, what clean maps are held against, or, of a few images, their maps computed in
other ways. Equal names mean equal records, whoever computed them, and when; so what is there
already need not be computed again, and what has changed is not taken for what was there.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from steadymap.bench.core.answers import Answers, unlike
from steadymap.bench.core.errors import ConfigError, first_error
from steadymap.bench.perturbations.cell import CLEAN_CELL, Cell
from steadymap.bench.plan.shards import NULL_VIEWS, NUMERIC, Shard
from steadymap.bench.records.vocabulary import INPUT

NAME_LENGTH = 32

# What all runs of a folder have in common, and what a person calls it.
FIXED = {
    "schema": "version of the records",
    "rules": "version of the rules by which scores are made",
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

# Of the others, what counts in the names of some views alone: the severity of each family at which
# it is asked what maps still know, and whether plain gradient's margins stand beside clean maps'.
EVIDENCE, YARDSTICK = "evidence", "yardstick"
OF_VIEWS = (EVIDENCE, YARDSTICK)

# What else names of units hold of the network, and of the code that runs it.
NETWORK = ("classifier", "code", "versions")


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
        answers: by what names of units hold of a network, how it answers: not in their names.
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
    answers: dict[str, Answers] = field(default_factory=dict)

    @property
    def network(self) -> str:
        """What names of units hold of the network, and of the code that runs it."""
        return _digest([self.fixed, *(self.others[key] for key in NETWORK)])

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
        others = {key: value for key, value in self.others.items() if key not in OF_VIEWS}
        base = _digest([self.fixed, others, images, asdict(view), family, self._asked(view)])
        named = {} if view in (CLEAN_CELL, NULL_VIEWS, NUMERIC) else {INPUT: ""}
        return {
            spec: _digest([base, spec, identity])
            for spec, identity in (named | self.methods).items()
        }

    def _asked(self, view: Cell) -> bool:
        """Whether more is asked of a view's maps than of others': what they know of their images.

        It hangs on what else the plan has, which a view's other records do not.
        """
        if view == CLEAN_CELL:
            return bool(self.others.get(YARDSTICK))
        severity = self.others.get(EVIDENCE, {}).get(view.family)
        return view.draw == 0 and severity == view.severity

    def pieces(
        self, is_mine: Callable[[int], bool] = lambda _place: True
    ) -> Iterator[tuple[tuple[str, ...], tuple[Cell, ...]]]:
        """Yield the blocks with their views, in the order of the records.

        Args:
            is_mine: by the place of a block, whether it is looked at; left out, all are. What is
                computed in other ways comes last, and belongs to the first block.
        """
        for place, block in enumerate(self.blocks):
            if is_mine(place):
                yield block, self.views
        if self.numeric and is_mine(0):
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
        complete_of: Callable[[tuple[str, ...]], Container[str]],
        is_mine: Callable[[int], bool],
    ) -> list[Shard]:
        """Return the shards that are still to be computed.

        Args:
            complete_of: by the ids of a block, the names of its units that need not be computed.
            is_mine: by the place of a block, whether it is to be computed here.
        """
        shards, start = [], 0
        for place, block in enumerate(self.blocks):
            indices = tuple(range(start, start + len(block)))
            start += len(block)
            if not is_mine(place):
                continue
            complete = complete_of(block)
            grids = {view: self.grid(block, view) for view in self.views}
            lacking = {
                spec: tuple(
                    v for v, names in grids.items() if spec in names and names[spec] not in complete
                )
                for spec in (INPUT, *self.methods)
            }
            shards += [Shard(indices, specs, views) for views, specs in _together(lacking).items()]
        if self.numeric and is_mine(0):
            complete = complete_of(self.few)
            lost = tuple(
                s for s, name in self.grid(self.few, NUMERIC).items() if name not in complete
            )
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
            ledger: Ledger = TypeAdapter(cls).validate_python(content)
        except ValidationError as error:
            raise ConfigError(f"{source} is damaged: {first_error(error)}") from error
        missing = [key for key in FIXED if key not in ledger.fixed]
        missing += [key for key in ("nulls", *NETWORK) if key not in ledger.others]
        missing += [image_id for image_id in ledger.ids if image_id not in ledger.labels]
        missing += [cell.family for cell in ledger.cells if cell.family not in ledger.families]
        if missing or ledger.numeric > len(ledger.ids):
            raise ConfigError(f"{source} is damaged: it lacks {', '.join(missing) or 'images'}")
        return ledger


def different(first: Ledger, second: Ledger) -> list[str]:
    """Return what two ledgers do not have in common and should, to share a folder."""
    return [text for key, text in FIXED.items() if first.fixed[key] != second.fixed[key]]


def answers_apart(first: Ledger, second: Ledger) -> str:
    """Return how networks answer otherwise that are one by all that names hold; or nothing."""
    shared = [name for name in first.answers if name in second.answers]
    reasons = (unlike(first.answers[name], second.answers[name]) for name in shared)
    return next(filter(None, reasons), "")


def not_the_same(first: Ledger, second: Ledger) -> list[str]:
    """Return in what two ledgers differ that should be of one run."""
    differing = different(first, second)
    if reason := answers_apart(first, second):
        differing.append(f"the network's answers ({reason})")
    differing += [
        f"its {key}" for key in first.others if first.others[key] != second.others.get(key)
    ]
    parts = ("blocks", "labels", "numeric", "methods", "cells", "families")
    texts = {"blocks": "images", "cells": "severities or draws"}
    return differing + [
        texts.get(name, name) for name in parts if getattr(first, name) != getattr(second, name)
    ]


def _digest(content: object) -> str:
    text = json.dumps(content, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:NAME_LENGTH]


def _together(lacking: Mapping[str, tuple[Cell, ...]]) -> dict[tuple[Cell, ...], tuple[str, ...]]:
    """Put the methods together that lack the same views.

    What is recorded of the image itself goes with whatever looks at these views anyway.
    """
    by_views: dict[tuple[Cell, ...], tuple[str, ...]] = {}
    for spec, views in lacking.items():
        if views and spec != INPUT:
            by_views[views] = (*by_views.get(views, ()), spec)
    missed = lacking[INPUT]
    if missed:
        home = next((views for views in by_views if set(missed) <= set(views)), missed)
        by_views[home] = (INPUT, *by_views.get(home, ()))
    return by_views
