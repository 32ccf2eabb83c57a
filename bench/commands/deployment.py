"""Two networks on the same images, measured on the spot: the sides of a deployment gate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
from scipy.stats import binomtest

from steadymap.bench.commands import run
from steadymap.bench.commands.compare import verdict_of
from steadymap.bench.core import console, errors, names, safe_yaml
from steadymap.bench.gate.comparison import FAIL, PASS, Case
from steadymap.bench.gate.margins import Margins
from steadymap.bench.gate.side import KEPT_METRICS, Side, read_side
from steadymap.bench.gate.verdict import Verdict
from steadymap.bench.plan import packaged_experiments
from steadymap.bench.plan.experiment import Experiment, make_experiment
from steadymap.bench.records import vocabulary
from steadymap.bench.records.read import RECORDS
from steadymap.bench.records.scan import Scan, scan_run
from steadymap.metrics import Status

# What two runs of one gate may not set: controls are not compared, and each has its own folder.
FIXED: dict[str, Any] = {"controls": False, "output": None, "shard": None, "save_maps": False}

# Of the images, a deployed network gives the class that it gave before.
LEAST_AGREEMENT = 0.9


@dataclass(frozen=True)
class TwoNetworks:
    """What is measured for a deployment gate.

    Attributes:
        reference: the network that is trusted, with the plan.
        deployed: the network that is to be judged, with the same plan.
    """

    reference: Experiment
    deployed: Experiment

    @property
    def question(self) -> str:
        """What the gate asks, in one line."""
        return (
            f"Question: two networks, same images. Is {named(self.deployed)} worse than "
            f"{named(self.reference)}?"
        )

    @property
    def is_a_twin(self) -> bool:
        """Whether both are the same trained network, one of them changed for deployment."""
        first, second = self.reference, self.deployed
        return (first.model, first.weights) == (second.model, second.weights)


def named(experiment: Experiment) -> str:
    """Return what a person calls the network of an experiment."""
    weights = f" with {experiment.weights.name}" if experiment.weights else ""
    variant = f" as {experiment.variant}" if experiment.variant else ""
    return f"{experiment.model}{weights}{variant}"


def two_networks(
    config: Path | None, flags: Mapping[str, Any], against: str | None, weights: Path | None
) -> TwoNetworks:
    """Return what measures a reference and the network that is deployed.

    Args:
        config: YAML file of the plan, with the keys of `steadymap run`; left out, the embedded
            experiment.
        flags: keys over it: the deployed network and the plan; severities as they are typed.
        against: the reference; left out, the deployed network without its variant.
        weights: of the reference; left out, those that it brings, or the deployed network's where
            it is the same one.

    Raises:
        ConfigError: one line for the first thing wrong.
    """
    base = (
        safe_yaml.read_config(config)
        if config
        else packaged_experiments.read_experiment(packaged_experiments.DEFAULT_EXPERIMENT)
    )
    if "severity" in flags:
        flags = {**flags, "severity": run.parse_severities(flags["severity"])}
    deployed = make_experiment([base, flags, FIXED])
    if against is None:
        weights = weights or deployed.weights
    changes = {"model": against or deployed.model, "weights": weights, "variant": None}
    return TwoNetworks(make_experiment([base, flags, FIXED, changes]), deployed)


def kept_metrics(two: TwoNetworks) -> list[str]:
    """Return the metrics that are compared: those of a baseline, and those named in the plan."""
    return list(dict.fromkeys((*KEPT_METRICS, *(two.deployed.metric or ()))))


def judged(two: TwoNetworks, margins: Margins) -> Verdict:
    """Measure two networks, print the question, and judge the one that is deployed.

    Values that failed count on both sides: each is as good a reason not to trust the comparison.

    Raises:
        ConfigError, Exit: as `measure_two`.
    """
    before, after = measure_two(two)
    console.line(console.console_of(), two.question)
    verdict = verdict_of(before, after, margins)
    cases = agreement_cases(two, console.RUNS / before.name, console.RUNS / after.name)
    failed = [side.manifest["statuses"].get(Status.ERROR.value, 0) for side in (before, after)]
    return replace(verdict, timing=(*verdict.timing, *cases), errors=sum(failed))


def measure_two(two: TwoNetworks) -> tuple[Side, Side]:
    """Measure two networks on the same images, or go on with it; return their sides.

    Each is a run of its own below `runs/`, so that nothing is computed twice. What maps cost is
    left out: two networks cost what they cost. So are methods that do not apply to one of the two,
    and it is said which and why.

    Returns:
        The reference's, and that of the network that is deployed.

    Raises:
        ConfigError: both are the same network, or one cannot be measured so.
        Exit: it was interrupted.
    """
    both = (two.reference, two.deployed)
    # Both are opened before either is measured: a slip in one name costs no time.
    works = [run.work_of(experiment) for experiment in both]
    if works[0].ledger.run_id == works[1].ledger.run_id:
        raise errors.ConfigError(
            f"against: {named(two.reference)} is the network that is to be deployed; give another "
            "with --against or --against-weights, or change it with --variant"
        )
    folders = [run.measured_folder(work) for work in works]
    skipped: set[str] = set()
    for folder, experiment in zip(folders, both, strict=True):
        for method, reason in skipped_methods(scan_run(folder)[0]).items():
            console.say(f"skipped: {method} does not apply to {named(experiment)}: {reason}")
            skipped.add(method)
    first, second = (_without(read_side(path, kept_metrics(two)), skipped) for path in folders)
    return first, second


def skipped_methods(scan: Scan) -> dict[str, str]:
    """Return the methods of which every value was skipped, each with the reason."""
    counts = scan.counts[~scan.counts[vocabulary.METHOD].astype(str).map(vocabulary.is_control)]
    methods = counts[vocabulary.METHOD].astype(str)
    all_skipped = (counts[vocabulary.STATUS] == Status.SKIPPED.value).groupby(methods).all()
    reasons = {}
    for method in all_skipped.index[all_skipped]:
        metric = counts.loc[methods == method, vocabulary.METRIC].iloc[0]
        records = scan.read([str(metric)])
        own = records[records[vocabulary.METHOD] == method]
        reasons[str(method)] = str(own[vocabulary.DETAIL].iloc[0])
    return reasons


def _without(side: Side, methods: set[str]) -> Side:
    """Return a side without some methods, and without what its maps cost."""
    scores = side.scores[~side.scores[vocabulary.METHOD].isin(methods)].reset_index(drop=True)
    manifest = {key: value for key, value in side.manifest.items() if key != "passes"}
    return replace(side, scores=scores, manifest=manifest, ratios={})


def agreement_cases(two: TwoNetworks, reference: Path, deployed: Path) -> tuple[Case, ...]:
    """Judge whether a twin gives the classes that the network itself gives, on the clean images.

    It fails where the upper end of the exact 95% interval of the share (Clopper and Pearson 1934)
    is below 90%. Another network may well give others: of that nothing is said here.

    Args:
        two: what was measured.
        reference: folder of its run.
        deployed: folder of its run.
    """
    if not two.is_a_twin:
        return ()
    first, second = _predictions(reference).align(_predictions(deployed), join="inner")
    same, count = int((first == second).sum()), len(first)
    if not count:
        return ()
    high = binomtest(same, count).proportion_ci(0.95, "exact").high
    message = (
        f"{same} of {count} images keep their class; at most {names.percent(high)} would over all "
        f"such images, and {names.percent(LEAST_AGREEMENT)} should"
    )
    return (Case("same predictions", FAIL if high < LEAST_AGREEMENT else PASS, message),)


def _predictions(folder: Path) -> pd.Series:
    """Return the class of each clean image, by its id; images without one are left out."""
    columns = [vocabulary.IMAGE_ID, vocabulary.PRED_CLEAN]
    table = pq.read_table(folder / RECORDS, columns=columns).to_pandas().dropna()
    classes: pd.Series = table.astype({columns[0]: str}).groupby(columns[0])[columns[1]].first()
    return classes
