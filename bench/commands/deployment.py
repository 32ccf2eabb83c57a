"""Two networks on the same images, measured on the spot: the sides of a deployment gate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from steadymap.bench.commands import run
from steadymap.bench.commands.compare import verdict_of
from steadymap.bench.core import console, errors, safe_yaml
from steadymap.bench.gate.margins import Margins
from steadymap.bench.gate.network_lines import AGREEMENT, agreement_of_twins
from steadymap.bench.gate.side import KEPT_METRICS, Side, read_side
from steadymap.bench.gate.verdict import Verdict
from steadymap.bench.plan import packaged_experiments
from steadymap.bench.plan.experiment import Experiment, make_experiment
from steadymap.bench.records import vocabulary
from steadymap.bench.records.scan import Scan, scan_run
from steadymap.metrics import Status

# What two runs of one gate may not set: controls are not compared, and each has its own folder.
FIXED: dict[str, Any] = {"controls": False, "output": None, "shard": None, "save_maps": False}


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


def judged(two: TwoNetworks, margins: Margins, *, network: bool) -> Verdict:
    """Measure two networks, and judge the one that is deployed.

    Values that failed count on both sides: each is as good a reason not to trust the comparison.
    A twin must give the classes that the network itself gives; another network may give others.

    Args:
        two: what to measure.
        margins: how much worse is still as good.
        network: whether the predictions are judged, too.

    Raises:
        ConfigError, Exit: as `measure_two`.
    """
    before, after = measure_two(two)
    verdict = verdict_of(before, after, margins, allow_one_seed=True, network=network)
    failed = [side.manifest["statuses"].get(Status.ERROR.value, 0) for side in (before, after)]
    lines = verdict.network
    if network and two.is_a_twin and not any(case.name == AGREEMENT for case in lines.cases):
        agreement = agreement_of_twins(before, after, margins)
        lines = replace(lines, cases=(*lines.cases, *agreement))
    return replace(verdict, question=two.question, network=lines, errors=sum(failed))


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
