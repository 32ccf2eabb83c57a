"""What the maps of a run cost: seconds an image, and passes through the network."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from steadymap.bench.records import read, seal, vocabulary

COLUMNS = [vocabulary.METHOD, "milliseconds", "passes", "shared", "forward_only"]


def seconds_by_part(folder: Path, manifest: Mapping[str, Any]) -> dict[str, float]:
    """Return the seconds an image of each part of a run, over the perturbed views; may be empty.

    Of several machines the one that did most counts: their timings are never pooled.
    """
    path = seal.trusted(folder, manifest, read.TIMINGS)
    if path is None:
        return {}
    timings = read.read_csv(path, ("machine", vocabulary.FAMILY, "part", "images", "seconds"))
    if len(timings):
        most = timings.groupby("machine")["images"].sum().idxmax()
        timings = timings[timings["machine"] == most]
    timings = timings[~timings[vocabulary.FAMILY].isin((*vocabulary.REFERENCES, vocabulary.CLEAN))]
    spent = timings.groupby("part")[["seconds", "images"]].sum()
    each = spent["seconds"] / spent["images"]
    return {str(part): float(seconds) for part, seconds in each.items()}


def method_costs(folder: Path, manifest: Mapping[str, Any]) -> pd.DataFrame:
    """Say what one map of each method costs.

    Returns:
        One row a method: `milliseconds` a map by the clock of one worker, the shared pass counted
        in full where the method reads that; `passes`, how many times an image goes forward and
        backward for one map; `shared`, whether that is the pass which other methods use, too;
        `forward_only`, how many times beside these it goes forward alone.
    """
    spent = seconds_by_part(folder, manifest)
    known = manifest.get("passes_by_method", {})
    rows = []
    for spec in manifest["methods"]:
        passes = known.get(spec, {})
        shared = bool(passes.get("shared"))
        seconds = spent.get(spec, np.nan)
        if shared:
            seconds = np.nansum([seconds, spent.get(vocabulary.SHARED, np.nan)])
        count = passes.get("each", np.nan)
        each = np.nan if count is None else count
        rows.append((spec, 1000 * seconds, each, shared, passes.get("forward_only", 0)))
    return pd.DataFrame(rows, columns=COLUMNS)
