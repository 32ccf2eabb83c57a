"""How a run is cut into shards, so that each fits into memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from steadymap.bench.perturbations.cell import CLEAN_CELL
from steadymap.bench.plan.blocks import most_methods
from steadymap.bench.plan.setup import NUMERIC_IMAGES, Setup, wanted
from steadymap.bench.plan.shards import NULL_VIEWS, NUMERIC, Shard
from steadymap.bench.records.vocabulary import INPUT
from steadymap.metrics.neighbours import NEIGHBOURS


def whole(setup: Setup) -> list[Shard]:
    """Return the shards of a run, in the order of the records."""
    specs = tuple(method.spec for method in setup.methods)
    beside = (NULL_VIEWS,) if setup.plan.nulls else ()
    views = (CLEAN_CELL, *beside, *setup.plan.cells())
    shards = [Shard(tuple(block), (INPUT, *specs), views) for block in setup.blocks()]
    few = numeric_images(setup)
    return within_memory(setup, [*shards, Shard(few, specs, (NUMERIC,))] if few else shards)


def within_memory(setup: Setup, shards: Sequence[Shard]) -> list[Shard]:
    """Return shards of fewer methods, where memory does not hold the null maps of all."""
    pieces = []
    for shard in shards:
        kept = setup.plan.jobs * (setup.plan.nulls + 2) if setup.plan.nulls else 0
        most = most_methods(setup.classifier, len(shard.indices), kept) or len(shard.methods)
        parts = range(0, len(shard.methods), most)
        pieces += [replace(shard, methods=shard.methods[low : low + most]) for low in parts]
    return pieces


def numeric_images(setup: Setup) -> tuple[int, ...]:
    """Return the places of the few images whose maps are computed in several ways."""
    return tuple(setup.blocks()[0])[:NUMERIC_IMAGES] if setup.plan.nulls else ()


def map_count(setup: Setup, shard: Shard) -> int:
    """Return how many maps a shard makes: what `advance` adds up to."""
    chosen = [method for method in setup.methods if method.spec in shard.methods]
    count = len(shard.indices)
    if shard.views == (NUMERIC,):
        ways = 4 if setup.classifier.module.mean.device.type == "cpu" else 5
        return len(chosen) * count * (ways + 1)
    near = NEIGHBOURS if CLEAN_CELL in shard.views and "neighbours" in wanted(setup.methods) else 0
    drawing = sum(method.can("stochastic") for method in chosen)
    nulls = setup.plan.nulls
    # Of each randomised network, and for another class.
    views = 1 + len(shard.cells) + near + (nulls + 1 if nulls else 0)
    coupled = len(shard.cells) if setup.plan.coupled else 0
    return count * (len(chosen) * views + drawing * (bool(nulls) + coupled))
