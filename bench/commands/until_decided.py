"""`steadymap gate --until-decided`: measure in looks, and stop when the gate has decided."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from steadymap.bench.commands import run
from steadymap.bench.commands.compare import Asking, refuse_unlike
from steadymap.bench.core import console, errors, safe_yaml
from steadymap.bench.gate import comparison, judging, network_lines, question, sequential, side
from steadymap.bench.gate.margins import Margins
from steadymap.bench.gate.verdict import Verdict
from steadymap.bench.plan.blocks import BLOCK, cut
from steadymap.bench.plan.experiment import Experiment, make_experiment
from steadymap.bench.records.vocabulary import EVIDENCE_KEPT, IMAGE_ID, METHOD, METRIC
from steadymap.bench.runs import folder as store
from steadymap.metrics import Status

# What a manifest says of the looks that its run was made in.
UNTIL_DECIDED = "until_decided"

# Of a baseline's experiment, what says how and where it was computed, and nothing of its scores.
ELSEWHERE = ("shard", "parallel_config", "save_maps", "threads", "jobs", "batch_size")


def experiment_of(before: side.Side, config: Path | None, folder: Path) -> Experiment:
    """Return the experiment that is to be held against a baseline: its own, or one of a file.

    Raises:
        ConfigError: an experiment that is none, or a baseline of a file of weights, which it does
            not know the place of.
    """
    if config is not None:
        settings: Mapping[str, Any] = safe_yaml.read_config(config)
    else:
        settings = before.manifest["configuration"]
        if settings.get("weights"):
            raise errors.ConfigError(
                f"until-decided: {before.name} was measured with the weights "
                f"{settings['weights']}, and does not know where they are now; give the experiment "
                "with --config FILE.yaml"
            )
        settings = {key: value for key, value in settings.items() if key not in ELSEWHERE}
    experiment = make_experiment([settings])
    if experiment.shard is not None:
        raise errors.ConfigError("until-decided: a shard of a run cannot decide; leave shard out")
    return experiment.model_copy(update={"output": folder})


def decide(before: side.Side, margins: Margins, asking: Asking, experiment: Experiment) -> Verdict:
    """Measure block after block, until every comparison has passed or one has failed.

    Only the last look, at all images of the baseline, can leave something open. A look at what is
    there already computes nothing: the same command goes on. The network is judged once, by the
    images of the look that ends it.

    Args:
        before: the baseline.
        margins: of the gate.
        asking: what is asked of the run beside its maps.
        experiment: what to measure; its limit is that of the last look.

    Raises:
        ConfigError: the run cannot be compared with the baseline, or is a new training that is to
            be held against several.
        Exit: it was interrupted, or too many values failed.
    """
    folder = Path(str(experiment.output))
    total = len(before.manifest["data"]["pictures"])
    counts = sequential.looks(total, [block.start for block in cut(total, BLOCK)])
    for place, count in enumerate(counts):
        look = sequential.Look(place, counts)
        limit = experiment.limit if look.is_last else count
        run.measured_folder(run.work_of(experiment.model_copy(update={"limit": limit})))
        after = side.read_side(folder, before.manifest["baseline"]["metrics"])
        if len(after.manifest["data"]["pictures"]) != count and not look.is_last:
            continue  # a picture could not be used: the blocks are others than the baseline's
        asked = question.ask(before, after, allow_one_seed=asking.allow_one_seed)
        if asked.networks:
            raise errors.ConfigError(
                f"until-decided: {before.name} holds {len(asked.networks)} trainings. A new one "
                "is judged by all images at once: leave --until-decided out"
            )
        verdict, stops = _look(asked.before, after, margins, look)
        ending = _ending(verdict, stops=stops)
        facts = {"planned": list(counts), "images": count, "ending": ending}
        store.note(folder, {UNTIL_DECIDED: facts | {"baseline": before.name}})
        console.say(f"look {place + 1} of {len(counts)}, {count} of {total} images: {ending}")
        if stops or look.is_last:
            break
    judged = judging.judge(asked, after, margins, network=asking.network)
    rows = network_lines.uncounted(verdict.rows) if judged.network.fell else verdict.rows
    return replace(verdict, rows=rows, question=judged.question, network=judged.network)


def _look(
    before: side.Side, after: side.Side, margins: Margins, look: sequential.Look
) -> tuple[Verdict, bool]:
    """Return the verdict of a look, and whether it is the last word."""
    first, second = (before, after) if look.is_last else _at_look(before, after)
    differing = refuse_unlike(first, second)
    rows = comparison.compare(first, second, margins, look)
    timing = tuple(comparison.timing_cases(first, second))
    failed = int(after.manifest["statuses"].get(Status.ERROR.value, 0))
    verdict = Verdict(before.name, after.name, rows, differing, timing, errors=failed)
    gated = rows[rows["gate"] != ""]
    if (gated["gate"] == comparison.FAIL).any():
        return verdict, True
    passed = len(gated) > 0 and bool((gated["gate"] == comparison.PASS).all())
    return verdict, passed and (look.is_last or not _put_off(before, rows))


def _at_look(before: side.Side, after: side.Side) -> tuple[side.Side, side.Side]:
    """Return both sides at the images that are measured so far.

    Without the evidence that maps keep: it is a share of the mean over all images. Passes are those
    of fewer images.

    Raises:
        ConfigError: they are not the first of the baseline.
    """
    ids = list(after.manifest["data"]["pictures"])
    if ids != list(before.manifest["data"]["pictures"])[: len(ids)]:
        raise errors.ConfigError(
            f"data: the first {len(ids)} pictures are not those of {before.name}; "
            "give its experiment with --config FILE.yaml"
        )
    chosen = before.scores[before.scores[IMAGE_ID].isin(ids)]
    manifest = dict(before.manifest) | {"data": after.manifest["data"], "passes": None}
    return (
        replace(before, scores=chosen[chosen[METRIC] != EVIDENCE_KEPT], manifest=manifest),
        replace(after, scores=after.scores[after.scores[METRIC] != EVIDENCE_KEPT]),
    )


def _put_off(before: side.Side, rows: pd.DataFrame) -> set[str]:
    """Return the methods whose evidence is judged at the last look alone.

    That of a method whose scores are all as they were is as it was, too.
    """
    moved = set(rows.loc[(rows["low"] != 0) | (rows["high"] != 0), METHOD])
    return moved & set(before.scores.loc[before.scores[METRIC] == EVIDENCE_KEPT, METHOD])


def _ending(verdict: Verdict, *, stops: bool) -> str:
    """Say what a look came to."""
    gates = verdict.rows["gate"]
    if failed := int((gates == comparison.FAIL).sum()):
        return f"{failed} of {int((gates != '').sum())} comparisons failed"
    return "every comparison has passed" if stops else "not decided yet"
