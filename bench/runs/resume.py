"""A run and its folder: what is still to be computed, by whom, and what is there already."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steadymap.bench.core.machine import date_now, machine
from steadymap.bench.measure.outcome import Outcome
from steadymap.bench.measure.runner import in_threads
from steadymap.bench.measure.watch import Watch
from steadymap.bench.perturbations.cell import Cell
from steadymap.bench.plan.experiment import Experiment
from steadymap.bench.plan.setup import Setup
from steadymap.bench.plan.sharding import within_memory
from steadymap.bench.plan.shards import Shard, recorded_as
from steadymap.bench.records import schema, vocabulary
from steadymap.bench.runs import map_files, processes, shard_files, table
from steadymap.bench.runs.ledger import Ledger
from steadymap.metrics import Status


@dataclass(frozen=True)
class Work:
    """A run that is ready to start or to go on.

    Attributes:
        experiment: with its jobs decided.
        setup: the same, with model and images.
        ledger: what it consists of.
        how: who computes.
    """

    experiment: Experiment
    setup: Setup
    ledger: Ledger
    how: processes.Parallel

    def shards(self, folder: Path, say: Callable[[str], None]) -> list[Shard]:
        """Return what is still to be computed: what is not there, and what failed.

        Args:
            folder: of the run.
            say: called with a line on each file that is damaged, and on what is there.
        """
        files = shard_files.kept(folder, say, is_ours=True)
        there: set[str] = set()

        def complete_of(block: tuple[str, ...]) -> set[str]:
            parts = files.of(block)
            names = {name for part in parts for name in part.about.units}
            where = table.providers(names, parts)
            complete = {name for name, part in where.items() if name not in part.about.failed}
            there.update(complete)
            return complete

        shards = self.ledger.missing(complete_of, self.experiment.is_mine)
        # Beside them lie units of other code, say, which have other names.
        planned = {
            name
            for block, views in self.ledger.pieces(self.experiment.is_mine)
            for view in views
            for name in self.ledger.grid(block, view).values()
        }
        if count := len(there & planned):
            say(f"going on: {count} units are there already")
        return within_memory(self.setup, shards)

    def compute(self, folder: Path, shards: list[Shard], watch: Watch) -> int:
        """Compute shards and write each as it comes; return how many were.

        Raises:
            ConfigError: one cannot be written; those before are whole.
        """
        written, before = 0, time.monotonic()
        for outcome in self._outcomes(shards, watch):
            after = time.monotonic()
            self._write(folder, outcome, after - before)
            before, written = after, written + 1
        return written

    def _outcomes(self, shards: list[Shard], watch: Watch) -> Iterator[Outcome]:
        """Return the outcomes as they come, from whoever computes."""
        if self.how.backend == "threading":
            return in_threads(self.setup, shards, watch, keep_maps=self.experiment.save_maps)
        blueprint = processes.Blueprint(
            _absolute(self.experiment),
            self.setup.images.pictures,
            self.ledger,
            str(Path.cwd()),
            processes.threads_of(self.how),
        )
        return processes.in_processes(self.setup, shards, blueprint, self.how, watch)

    def _write(self, folder: Path, outcome: Outcome, seconds: float) -> None:
        block = tuple(self.ledger.ids[index] for index in outcome.shard.indices)
        names = self.ledger.names(block, outcome.shard)
        bad = self._failed(block, outcome)
        maps = ""
        if outcome.images is not None:
            stem = shard_files.part_stem(block, names)
            maps = map_files.write_part_maps(folder / shard_files.PARTS, stem, outcome)
        about = shard_files.ShardInfo(
            names,
            tuple(name for name in names if name in bad),
            shard_files.timing_rows(outcome.timings),
            outcome.machine or machine(self.setup.classifier.module.mean.device),
            seconds,
            outcome.at_once,
            outcome.halved,
            maps,
            date_now(),
        )
        shard_files.write_part(folder, block, schema.to_part(outcome.records), about)

    def _failed(self, block: tuple[str, ...], outcome: Outcome) -> set[str]:
        """Return the names of the units with errors: of the whole method where maps are kept."""
        bad = {
            (recorded_as(Cell(record.family, record.severity, record.draw)), record.method)
            for record in outcome.records
            if record.status is Status.ERROR
        }
        failed_specs = (
            {spec for _, spec in bad if spec != vocabulary.INPUT}
            if self.experiment.save_maps
            else set()
        )
        return {
            name
            for view in (outcome.shard.views if bad else ())
            for spec, name in self.ledger.grid(block, view).items()
            if (view, spec) in bad or spec in failed_specs
        }


def _absolute(experiment: Experiment) -> Experiment:
    """Return the experiment with paths that mean the same in any folder."""
    changes: dict[str, Any] = {}
    if experiment.weights is not None:
        changes["weights"] = experiment.weights.expanduser().resolve()
    kind, _, rest = experiment.data.partition(":")
    if rest and (path := Path(rest).expanduser()).exists():
        changes["data"] = f"{kind}:{path.resolve()}"
    return experiment.model_copy(update=changes)
