"""One entry of a history: the scores of a run, and all that may be why they are what they are."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from steadymap.bench.core import errors, files
from steadymap.bench.history.scores import scores_of
from steadymap.bench.records import read, rules, seal
from steadymap.bench.records.manifest_schema import MEASURED_AT
from steadymap.bench.records.scan import scan_run

SCHEMA_VERSION = 1
ID_LENGTH = 24
SHORT = 9
MOST_TEXT = 100

# Keys of a manifest that no comparison and no search for a cause reads.
_LONG = ("files", "seal", "ledger", "machines", "checks")


@dataclass(frozen=True)
class Notes:
    """What a user says of a run that is added.

    Attributes:
        commit: of the code that it measured; "" takes that of its manifest.
        label: what to call it; "" for none.
        at: when it was measured; "" takes the date of its manifest.
        renewed: whether it is not to be compared with those before, on purpose.
    """

    commit: str = ""
    label: str = ""
    at: str = ""
    renewed: bool = False


@dataclass(frozen=True)
class Entry:
    """A run as a history keeps it.

    Attributes:
        facts: what is said of it: `id`, `run_id`, `measured_at`, `commit`, `label`, `renewed`,
            `rules`, and `manifest`, without what is long.
        scores: see `scores_of`.
    """

    facts: Mapping[str, Any]
    scores: pd.DataFrame

    @property
    def id(self) -> str:
        """What stands for the run, by what it measured and when."""
        return str(self.facts["id"])

    @property
    def measured_at(self) -> str:
        """When it was measured, UTC, ISO 8601."""
        return str(self.facts["measured_at"])

    @property
    def manifest(self) -> Mapping[str, Any]:
        """What the manifest of the run says."""
        manifest: Mapping[str, Any] = self.facts["manifest"]
        return manifest

    @property
    def name(self) -> str:
        """What people call it: its label, else its commit, else its id."""
        commit = str(self.facts["commit"])
        return str(self.facts["label"]) or commit[:SHORT] or self.id[:SHORT]

    @property
    def order(self) -> tuple[str, str]:
        """Its place in time."""
        return self.measured_at, self.id


def entry_of(folder: Path, notes: Notes | None = None) -> Entry:
    """Make an entry of a finished run.

    Raises:
        ConfigError: no finished run there, one that is damaged, or nobody says when it was
            measured.
    """
    notes = notes or Notes()
    scan, manifest = scan_run(folder)
    git = manifest.get("git") or {}
    facts = {
        "schema": SCHEMA_VERSION,
        "id": _identity(folder, manifest),
        "run_id": manifest["run_id"],
        "measured_at": _measured_at(folder, manifest, notes.at),
        "commit": _text("commit", notes.commit) or str(git.get("commit", "")),
        "label": _text("label", notes.label),
        "renewed": notes.renewed,
        "rules": manifest.get(rules.RULES, 1),
        "manifest": _shortened(manifest),
    }
    # As it will be read: tuples become lists, keys become text.
    return Entry(json.loads(json.dumps(facts)), scores_of(folder, manifest, scan))


def _text(name: str, text: str) -> str:
    if len(text) > MOST_TEXT or not all(sign.isprintable() for sign in text):
        raise errors.ConfigError(
            f"history: --{name} must be one line of at most {MOST_TEXT} signs, got {text!r}"
        )
    return text


def _identity(folder: Path, manifest: Mapping[str, Any]) -> str:
    """Return what stands for a run: its records and timings, and what they were measured with.

    A report or pictures that are made later change nothing of it.
    """
    held = manifest.get(seal.FILES, {})
    try:
        hashes = [
            held.get(name) or files.sha256_of(folder / name)
            for name in (read.RECORDS, read.TIMINGS)
        ]
    except OSError as error:
        raise errors.ConfigError(f"{folder} cannot be read: {errors.cause_of(error)}") from error
    keys = ("run_id", rules.RULES, MEASURED_AT, "git", "versions", "machine")
    content = json.dumps([hashes, [manifest.get(key) for key in keys]], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:ID_LENGTH]


def _measured_at(folder: Path, manifest: Mapping[str, Any], given: str) -> str:
    """Return when a run was measured, UTC, ISO 8601 to the second.

    Raises:
        ConfigError: neither the manifest nor the user says so, or what is said is no date.
    """
    text = given or str(manifest.get(MEASURED_AT, ""))
    if not text:
        raise errors.ConfigError(
            f"history: the manifest of {folder} does not say when the run was measured; say it "
            "with --at, for example --at 2026-03-01T12:00"
        )
    try:
        date = datetime.fromisoformat(text)
    except ValueError as error:
        raise errors.ConfigError(
            f"history: {text!r} is no date in ISO 8601; an example: 2026-03-01T12:00"
        ) from error
    # Without a zone it is UTC: that of the machine would order a history by who adds to it.
    aware = date if date.tzinfo else date.replace(tzinfo=UTC)
    return aware.astimezone(UTC).isoformat(timespec="seconds")


def _shortened(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return a manifest without what is long and read by nobody here."""
    kept = {key: value for key, value in manifest.items() if key not in _LONG}
    data = dict(manifest["data"])
    data["pictures"] = len(data["pictures"])
    data["excluded"] = len(data["excluded"])
    return kept | {"data": data}
