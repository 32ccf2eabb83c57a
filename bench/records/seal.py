"""Checksums: a manifest holds those of the files that are read later, and is sealed itself."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from steadymap.bench.core import errors, files

# By the name of a file, as it lies in the folder of the run, its SHA-256.
FILES = "files"
SEAL = "seal"

# What is wrong with a file whose hash is another, and what to do about it.
CHANGED = "is damaged: it is not what was written (cut, edited, or bits of it flipped)"
AGAIN = "the command that made the run makes it again"


def seal_of(content: Mapping[str, Any]) -> str:
    """Return the SHA-256 of what JSON holds, in whatever order and layout."""
    text = json.dumps(content, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return content for JSON with its seal."""
    # As it will be read: tuples become lists, keys become text.
    plain: dict[str, Any] = json.loads(
        json.dumps({key: content[key] for key in content if key != SEAL})
    )
    return plain | {SEAL: seal_of(plain)}


def is_whole(content: Mapping[str, Any]) -> bool:
    """Whether what JSON held is what was sealed."""
    rest = {key: content[key] for key in content if key != SEAL}
    return content.get(SEAL) == seal_of(rest)


def trusted(folder: Path, manifest: Mapping[str, Any], name: str) -> Path | None:
    """Return a file of a run, once its hash is that which the manifest holds.

    Args:
        folder: of the run.
        manifest: of the run; one from before 0.2.0 holds no hashes, and the file is taken as it is.
        name: of the file.

    Returns:
        Its path; None where the run has no such file.

    Raises:
        ConfigError: it is another, or is gone.
    """
    path = folder / name
    if FILES not in manifest:
        return path if path.is_file() else None
    if name not in manifest[FILES]:
        return None
    try:
        digest = files.sha256_of(path)
    except OSError as error:
        raise errors.ConfigError(
            f"{path} cannot be read: {errors.cause_of(error)}; {AGAIN}"
        ) from error
    if digest != manifest[FILES][name]:
        raise errors.ConfigError(f"{path} {CHANGED}; {AGAIN}")
    return path
