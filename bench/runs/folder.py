"""The folder of a run: records, manifest, summary and, if asked for, the maps themselves."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

from steadymap.bench.core.errors import ConfigError, message_of
from steadymap.bench.core.files import make_folder, refuse_links, write_whole
from steadymap.bench.records.read import MANIFEST, RECORDS, TIMINGS
from steadymap.bench.runs import map_files, shard_files
from steadymap.bench.runs.ledger import Ledger, answers_apart, different
from steadymap.bench.runs.table import Assembled, assemble, write_timings

LEDGER = "ledger.json"
MAPS = "maps"
# Names of files in a message.
MANY = 3


def claim_folder(folder: Path, ledger: Ledger) -> None:
    """See that a folder is empty, or holds a run that this one can go on with; by its only writer.

    Raises:
        ConfigError: the folder holds something else, or a link that leads out of it.
    """
    # Not those with a dot in front: .DS_Store and the like say nothing.
    names = sorted(
        x.name for x in folder.iterdir() if x.name[0] != "." and x.name != shard_files.LOCK
    )
    if LEDGER in names:
        held, _ = read_ledger(folder)
        if differing := different(held, ledger):
            raise ConfigError(
                f"output: {folder} holds {held.run_id}, which has another {', '.join(differing)} "
                f"than this run; choose another folder"
            )
    elif names and _held_run(folder) != ledger.run_id:
        few = ", ".join(names[:MANY]) + (", ..." if len(names) > MANY else "")
        raise ConfigError(
            f"output: {folder} already holds files that are not of this run ({few}); choose "
            "another folder"
        )
    refuse_links(folder)


def begin(
    folder: Path, ledger: Ledger, manifest: Mapping[str, Any], say: Callable[[str], None]
) -> None:
    """Write down what a run consists of, before anything of it is computed.

    Shards of a network that answers otherwise than this one, though by its weights and its code it
    is the same, are set aside.

    Args:
        folder: of the run.
        ledger: what it consists of.
        manifest: as far as it is known.
        say: called with a line where shards are set aside.
    """
    if (folder / LEDGER).exists():
        held, _ = read_ledger(folder)
        if reason := answers_apart(held, ledger):
            _set_aside(folder, reason, say)
        else:
            # The first answers stay: what is there was measured when they were given.
            ledger = replace(ledger, answers=ledger.answers | held.answers)
    make_folder(folder / shard_files.PARTS)
    shard_files.tidy(folder)
    content = {"ledger": ledger.to_json(), "manifest": dict(manifest)}
    write_whole(folder / LEDGER, json.dumps(content, ensure_ascii=False).encode())


def _set_aside(folder: Path, reason: str, say: Callable[[str], None]) -> None:
    """Give the shards of a folder another name, in one step: none is the run's."""
    parts = folder / shard_files.PARTS
    if not parts.exists():
        return
    places = (folder / f"{shard_files.PARTS}-{number}" for number in count(1))
    place = next(place for place in places if not place.exists())
    parts.replace(place)
    say(
        f"the network answers otherwise than the one that {folder} was begun with ({reason}): "
        f"its shards are set aside as {place.name}, and all is computed again"
    )


def forget(folder: Path, ledger: Ledger, is_mine: Callable[[int], bool]) -> None:
    """Remove the shards that have units of a run: they are to be computed again.

    Args:
        folder: of the run.
        ledger: what it consists of.
        is_mine: by the place of a block, whether it is to be computed here.
    """
    files = shard_files.kept(folder)
    for place, (block, views) in enumerate(ledger.pieces()):
        # What is computed in other ways comes last, and belongs to the first block.
        if not is_mine(place if place < len(ledger.blocks) else 0):
            continue
        names = {name for view in views for name in ledger.grid(block, view).values()}
        for part in files.of(block):
            if names & set(part.about.units):
                part.path.unlink()


def read_ledger(folder: Path) -> tuple[Ledger, dict[str, Any]]:
    """Return what the run of a folder consists of, and its manifest as far as it was known.

    Raises:
        ConfigError: it is not there, or is damaged.
    """
    path = folder / LEDGER
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        ledger, manifest = content["ledger"], dict(content["manifest"])
    except OSError as error:
        raise ConfigError(f"{folder} holds no run that can go on: no {LEDGER}") from error
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ConfigError(f"{path} is damaged: {message_of(error)}") from error
    return Ledger.from_json(ledger, path), manifest


def take_over(source: Path, folder: Path, say: Callable[[str], None]) -> None:
    """Copy the shards of another folder of the same run, but for those that are there as good.

    Raises:
        ConfigError: one cannot be read, or not written.
    """
    for paths in shard_files.kept(source).paths.values():
        for part in shard_files.read_parts(paths, say):
            target = folder / shard_files.PARTS / part.path.name
            old = shard_files.read_parts([target], lambda _line: None) if target.exists() else []
            if old and len(old[0].about.failed) <= len(part.about.failed):
                continue
            shard_files.read_records(part)
            for path in (part.path.with_suffix(".safetensors"), part.path):
                if path.is_file():
                    write_whole(folder / shard_files.PARTS / path.name, path.read_bytes())


def finish(
    folder: Path,
    ledger: Ledger,
    say: Callable[[str], None],
    describe: Callable[[Assembled], dict[str, Any]],
) -> Assembled:
    """Write the table of a run, put together from its shards, with its manifest; return it.

    A table and a manifest that are there already stay until the new ones are whole.

    Args:
        folder: of the run.
        ledger: what belongs into it.
        say: called with a line on each shard that is damaged.
        describe: returns the manifest.

    Raises:
        ConfigError: something cannot be written, or a shard is damaged.
    """
    coming, files = folder / f".{RECORDS}", shard_files.kept(folder, say)
    table = assemble(coming, ledger, files)
    write_timings(folder / TIMINGS, ledger, files)
    if table.maps:
        map_files.write_maps(folder / MAPS, ledger, files)
    content = (json.dumps(describe(table), indent=2, ensure_ascii=False) + "\n").encode()
    coming.replace(folder / RECORDS)
    write_whole(folder / MANIFEST, content)
    return table


def _held_run(folder: Path) -> str | None:
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return str(manifest["run_id"]) if isinstance(manifest, dict) and "run_id" in manifest else None
