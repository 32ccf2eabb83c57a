"""Baseline runs: what is kept of a run to compare later ones with, small enough to be committed."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path

from steadymap.bench.core import errors, files, machine, metric_registry, names, safe_csv
from steadymap.bench.gate.side import DIGITS, KEPT_METRICS, SCORES, Side, read_side
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
    run: Path, name: str, root: Path = BASELINES_FOLDER, metrics: Sequence[str] = KEPT_METRICS
) -> Path:
    """Keep a run's scores by image, and its manifest, as a baseline; return its folder.

    Raises:
        ConfigError: no finished run there, nothing in it to keep, or a name that is none.
    """
    folder = baseline_folder(name, root)
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
    write_side(side, folder)
    return folder


def write_side(side: Side, folder: Path) -> None:
    """Write a side as a baseline."""
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
    # As it will be read: tuples become lists, keys become text.
    sealed = json.loads(json.dumps(sealed))
    sealed["baseline"]["manifest_sha256"] = seal.seal_of(sealed)
    (folder / SCORES).write_bytes(text)
    files.write_json(folder / read.MANIFEST, sealed)
