"""The version of the rules by which scores are made, and what each version changed.

Scores made by different rules mean different things, even where every record is equal. Manifests
and baselines hold the version, and whoever reads them refuses another one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from steadymap.bench.core.errors import ConfigError

# The key of a manifest; without it the run was made by the first rules.
RULES = "rules"

CHANGED = {
    1: "scores of 0.1.0: draws shared by the clean and the perturbed map, nulls among clean maps",
    2: "fresh draws for each view, nulls matched to the comparison, admission before rank, a "
    "headline over pairs whose prediction held",
}
CURRENT = max(CHANGED)


def refuse_others(manifest: Mapping[str, Any], place: object, renew: str) -> None:
    """See that a run or a baseline was made by the rules of this steadymap.

    Args:
        manifest: of it.
        place: where it lies, for the message.
        renew: the command that makes it again.

    Raises:
        ConfigError: it was made by others.
    """
    found = manifest.get(RULES, 1)
    if found != CURRENT:
        raise ConfigError(
            f"{place} was scored by version {found} of the rules, and this steadymap scores by "
            f"version {CURRENT}: make it again with: {renew}"
        )
