"""The folder of a run: records, manifest, summary and, if asked for, the maps themselves."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

from steadymap.bench.core.errors import ConfigError, IncompleteError, cause_of, message_of
from steadymap.bench.core.files import make_folder, refuse_links, sha256_of, write_whole
from steadymap.bench.records import seal
from steadymap.bench.records.read import LEDGER, MANIFEST, RECORDS, TIMINGS, read_manifest
from steadymap.bench.runs import map_files, shard_files, table
from steadymap.bench.runs.ledger import Ledger, answers_apart, different

MAPS = "maps"
# Names of files, or of units, in a message.
MANY = 3
ANEW = "the command of the run writes it anew"


def claim_folder(
    folder: Path, ledger: Ledger, say: Callable[[str], None] = lambda _line: None
) -> None:
    """See that a folder is empty, or holds a run that this one can go on with; by its only writer.

    A ledger that is damaged stands in nobody's way: names of units say what they are of.

    Raises:
        ConfigError: the folder holds something else, or a link that leads out of it.
    """
    # Not those with a dot in front: .DS_Store and the like say nothing.
    names = sorted(
        x.name for x in folder.iterdir() if x.name[0] != "." and x.name != shard_files.LOCK
    )
    if LEDGER in names:
        try:
            held, _ = read_ledger(folder)
        except ConfigError as error:
            if shard_files.PARTS not in names:
                raise
            say(f"{error}; it is written anew")
            held = ledger
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
        try:
            held, _ = read_ledger(folder)
        except ConfigError:
            held = ledger  # damaged, which `claim_folder` has said
        if reason := answers_apart(held, ledger):
            _set_aside(folder, reason, say)
        else:
            # The first answers stay: what is there was measured when they were given.
            ledger = replace(ledger, answers=ledger.answers | held.answers)
    make_folder(folder / shard_files.PARTS)
    shard_files.tidy(folder)
    content = seal.sealed({"ledger": ledger.to_json(), "manifest": dict(manifest)})
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
    files = shard_files.kept(folder, is_ours=True)
    for block, views in ledger.pieces(is_mine):
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
        changed = not seal.is_whole(content)
    except FileNotFoundError as error:
        raise ConfigError(f"{folder} holds no run that can go on: no {LEDGER}") from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {cause_of(error)}") from error
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ConfigError(f"{path} is damaged: {message_of(error)}; {ANEW}") from error
    if changed:
        raise ConfigError(f"{path} {seal.CHANGED}; {ANEW}")
    return Ledger.from_json(ledger, path), manifest


def take_over(source: Path, folder: Path, say: Callable[[str], None]) -> None:
    """Copy the shards of another folder of the same run; which are better is seen when joined.

    Those that are damaged are left out, and it is said.

    Raises:
        ConfigError: one cannot be read, or not written.
    """
    files = shard_files.kept(source, say)
    for paths in files.paths.values():
        for part in files.read(paths):
            for path in (part.maps, part.path):
                if path is not None:
                    write_whole(folder / shard_files.PARTS / path.name, path.read_bytes())


def finish(
    folder: Path,
    ledger: Ledger,
    say: Callable[[str], None],
    describe: Callable[[table.Assembled], dict[str, Any]],
) -> table.Assembled:
    """Write the table of a run, put together from its shards, with its manifest; return it.

    What is planned is counted against what is there, unit by unit. A table and a manifest that are
    there already stay until the new ones are whole.

    Args:
        folder: of the run.
        ledger: what belongs into it.
        say: called with a line on each shard that is damaged.
        describe: returns the manifest.

    Raises:
        IncompleteError: units are not there.
        ConfigError: something cannot be written, or a shard is damaged meanwhile.
    """
    kept = shard_files.kept(folder, say, is_ours=True)
    hashes: dict[str, str] = {}
    assembled, hashes[RECORDS] = table.assemble(_coming(folder, RECORDS), ledger, kept)
    hashes[TIMINGS] = table.write_timings(_coming(folder, TIMINGS), ledger, kept, assembled.lost)
    if assembled.lost:
        for name in hashes:
            _coming(folder, name).unlink()
        see_complete(folder, assembled.lost)
    if assembled.maps:
        map_files.write_maps(folder / MAPS, ledger, kept)
    manifest = seal.sealed(describe(assembled) | {seal.FILES: hashes})
    for name in hashes:
        _coming(folder, name).replace(folder / name)
    _write_manifest(folder, manifest)
    return assembled


def see_complete(folder: Path, lost: Sequence[table.Unit]) -> None:
    """See that all that is planned is there.

    Raises:
        IncompleteError: units are not.
    """
    if not lost:
        return
    units = list(dict.fromkeys(lost))
    few = "; ".join(map(str, units[:MANY]))
    more = f"; and {len(units) - MANY} more" if len(units) > MANY else ""
    raise IncompleteError(
        f"{len(units)} units are missing in {folder}: {few}{more}. The others are there: run the "
        f"same experiment with --output {folder}, which computes these alone, or merge it with the "
        "shards that are not there yet"
    )


def seal_also(folder: Path, names: Sequence[str]) -> None:
    """Have the manifest of a finished run hold the hashes of more of its files.

    Raises:
        ConfigError: one cannot be read, or the manifest not be written.
    """
    manifest = read_manifest(folder / MANIFEST)
    try:
        hashes = {name: sha256_of(folder / name) for name in names}
    except OSError as error:
        raise ConfigError(f"{folder} cannot be read: {cause_of(error)}") from error
    files = manifest[seal.FILES] | hashes
    _write_manifest(folder, seal.sealed(manifest | {seal.FILES: files}))


def note(folder: Path, facts: Mapping[str, Any]) -> None:
    """Have the manifest of a finished run hold more facts about it.

    Raises:
        ConfigError: it cannot be read, or not be written.
    """
    _write_manifest(folder, seal.sealed(read_manifest(folder / MANIFEST) | dict(facts)))


def _coming(folder: Path, name: str) -> Path:
    """Return where a file is written before all of the run's are whole."""
    return folder / f".{name}"


def _write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    content = json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
    write_whole(folder / MANIFEST, content.encode())


def _held_run(folder: Path) -> str | None:
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return str(manifest["run_id"]) if isinstance(manifest, dict) and "run_id" in manifest else None
