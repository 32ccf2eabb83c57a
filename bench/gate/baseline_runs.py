"""Baseline runs: what is kept of a run to compare later ones with, small enough to be committed."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from steadymap.bench.core import errors, files, machine, metric_registry, names, safe_csv
from steadymap.bench.gate import predictions
from steadymap.bench.gate.differences import differences, value_at
from steadymap.bench.gate.question import LEAST_NETWORKS, weights_of
from steadymap.bench.gate.side import (
    DIGITS,
    KEPT_METRICS,
    MANIFEST_HASH,
    NETWORKS,
    SCORES,
    Side,
    network_folder,
    read_side,
)
from steadymap.bench.records import read, seal, vocabulary

BASELINES_FOLDER = Path("results") / "baselines"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
MOST_NAME = 120


def baseline_folder(name: str, root: Path = BASELINES_FOLDER) -> Path:
    """Return the folder of a baseline of that name.

    Raises:
        ConfigError: a name that is none.
    """
    if not NAME.fullmatch(name) or not names.is_component(name, MOST_NAME):
        raise errors.ConfigError(
            f"baseline: {name!r} is no name; letters, digits, dots, dashes and underscores make "
            f"one, {MOST_NAME} at most, and none of a device"
        )
    return root / name


def open_baseline(name: str, root: Path = BASELINES_FOLDER) -> Side:
    """Read a baseline by its name.

    Raises:
        NoBaselineError: there is none of that name.
        ConfigError: it has been cut or edited.
    """
    folder = baseline_folder(name, root)
    if not folder.is_dir():
        known = ", ".join(baseline_names(root)) or "there are none"
        raise errors.NoBaselineError(
            f"baseline: no {name!r} in {root} (known: {known}); "
            f"make it with: steadymap baseline save RUN {name}"
        )
    side = read_side(folder)
    if "baseline" not in side.manifest:
        raise errors.ConfigError(
            f"baseline: {folder} is a run; make a baseline of it and give its name"
        )
    return side


def baseline_names(root: Path = BASELINES_FOLDER) -> list[str]:
    """Return the names of the baselines in a folder."""
    return sorted(path.parent.name for path in root.glob(f"*/{SCORES}"))


def save_baseline(
    runs: Path | Sequence[Path],
    name: str,
    root: Path = BASELINES_FOLDER,
    metrics: Sequence[str] = KEPT_METRICS,
) -> Path:
    """Keep scores by image, predictions and manifests of runs as a baseline; return its folder.

    Args:
        runs: one run; or at least five, which differ in the weights of their networks alone.
        name: of the baseline.
        root: folder of the baselines.
        metrics: which to keep.

    Raises:
        ConfigError: no finished run there, nothing in it to keep, a name that is none, or runs that
            are no trainings of one recipe.
    """
    folder = baseline_folder(name, root)
    folders = [runs] if isinstance(runs, Path) else list(runs)
    if 1 < len(folders) < LEAST_NETWORKS:
        raise errors.ConfigError(
            f"run: {len(folders)} runs do not say how far trainings of one recipe lie apart; give "
            f"one run, or {LEAST_NETWORKS} of other seeds at least"
        )
    sides = [_kept_of(run, metrics) for run in folders]
    see_one_recipe(sides)
    write_side(replace(sides[0], networks=tuple(sides) if sides[1:] else ()), folder)
    return folder


def _kept_of(run: Path, metrics: Sequence[str]) -> Side:
    """Read what a baseline keeps of a run."""
    if not (run / read.RECORDS).is_file():
        raise errors.ConfigError(
            f"{run} holds no finished run ({read.RECORDS} and {read.MANIFEST})"
        )
    named = metric_registry.known_metrics(read.read_manifest(run / read.MANIFEST))
    known = [*named, *(name + vocabulary.RECOGNISED for name in named), vocabulary.EVIDENCE_KEPT]
    for metric in metrics:
        if metric not in known:
            raise errors.ConfigError(
                f"metric: unknown name {metric!r}; {names.nearest(metric, known)}"
            )
    side = read_side(run, metrics)
    absent = [metric for metric in metrics if metric not in set(side.scores[vocabulary.METRIC])]
    if absent and metrics is not KEPT_METRICS:
        raise errors.ConfigError(f"metric: {run} has no {', '.join(absent)}")
    return side


def see_one_recipe(sides: Sequence[Side]) -> None:
    """See that runs differ in the weights of their networks, and in nothing that scores hang on.

    Raises:
        ConfigError: two have the same weights, or differ otherwise; with every difference.
    """
    seen: dict[str | None, str] = {}
    for side in sides:
        weights = weights_of(side)
        if weights in seen and len(sides) > 1:
            raise errors.ConfigError(
                f"run: {seen[weights]} and {side.name} have the same weights, and a training "
                "counts once; leave one out"
            )
        seen[weights] = side.name
        if others := _unlike(sides[0], side):
            raise errors.ConfigError(
                f"run: {sides[0].name} and {side.name} are no trainings of one recipe: "
                + "; ".join(others)
            )


def _unlike(first: Side, other: Side) -> list[str]:
    """Name what differs between two runs, but for weights, and the processor, which only rounds."""
    found = differences(first.manifest, other.manifest)
    unlike = [*found.forbidding, *found.explaining]
    unlike = [text for text in unlike if not text.startswith(("weights: ", "processor: "))]
    for key in ("methods", "severities", "metrics"):
        sets = [value_at(side.manifest, key) for side in (first, other)]
        names = sorted(set(sets[0] or ()) ^ set(sets[1] or ()))
        unlike += [f"{key}: {', '.join(names)} in one of them alone"] if names else []
    return unlike


def write_side(side: Side, folder: Path) -> None:
    """Write a side as a baseline, with the other networks of its recipe in folders below."""
    others = {
        network_folder(folder, place): network
        for place, network in enumerate(side.networks[1:], start=2)
    }
    digests = [_write_network(network, place, ()) for place, network in others.items()]
    _write_network(side, folder, digests)
    # A baseline of that name may have held more networks.
    for stale in sorted(set(folder.glob(network_folder(folder, "*").name)) - set(others)):
        for name in (SCORES, predictions.PREDICTIONS, read.MANIFEST):
            (stale / name).unlink(missing_ok=True)
        if stale.is_dir() and not any(stale.iterdir()):
            stale.rmdir()


def _write_network(side: Side, folder: Path, others: Sequence[str]) -> str:
    """Write one network's part of a baseline; return the hash of its manifest.

    Args:
        side: of the network.
        folder: where.
        others: hashes of the manifests of the other networks of the baseline.
    """
    files.make_folder(folder)
    files.refuse_links(folder)
    text = safe_csv.csv_text(side.scores, DIGITS).encode()
    # The files of the run stay behind, and their hashes.
    own = (seal.FILES, seal.SEAL)
    sealed = {key: side.manifest[key] for key in side.manifest if key not in own}
    sealed["baseline"] = {
        "metrics": sorted(side.scores[vocabulary.METRIC].unique()),
        "scores_sha256": hashlib.sha256(text).hexdigest(),
        "time_ratios": {spec: round(ratio, 4) for spec, ratio in side.ratios.items()},
        "fingerprint": machine.fingerprint(side.manifest["machine"]),
    }
    if others:
        sealed["baseline"][NETWORKS] = list(others)
    said = None if side.predictions is None else predictions.written(side.predictions)
    if said is not None:
        sealed["baseline"][predictions.PREDICTIONS_HASH] = hashlib.sha256(said).hexdigest()
    # As it will be read: tuples become lists, keys become text.
    sealed = json.loads(json.dumps(sealed))
    digest = seal.seal_of(sealed)
    sealed["baseline"][MANIFEST_HASH] = digest
    (folder / SCORES).write_bytes(text)
    if said is None:
        (folder / predictions.PREDICTIONS).unlink(missing_ok=True)
    else:
        (folder / predictions.PREDICTIONS).write_bytes(said)
    files.write_json(folder / read.MANIFEST, sealed)
    return digest
