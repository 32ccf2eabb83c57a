"""The first thing on the page: what this is in one sentence, and one picture."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from steadymap.bench.analysis.leaderboard import board_metrics, leaderboard
from steadymap.bench.core.names import severity_text
from steadymap.bench.records import manifest_schema, vocabulary
from steadymap.bench.report import finished_run, gallery_files, pictures

# The image in the middle stands for the others.
TYPICAL = "typical"


def context(run: finished_run.FinishedRun) -> dict[str, Any]:
    """Return an image before and after a nudge, with the maps of the best and the worst method.

    The nudge is the largest of the first family under which the prediction of the image held.
    `picture` is None where the run kept no maps, or no such image.
    """
    gallery = run.gallery
    if gallery is None:
        return {"picture": None}
    image_id = next(
        (name for name, kind in gallery.kinds.items() if kind == TYPICAL), next(iter(gallery.kinds))
    )
    table = gallery.rows.reset_index(names="place")
    rows = table[table[vocabulary.IMAGE_ID] == image_id].to_dict("records")
    clean = next(row for row in rows if row[vocabulary.FAMILY] == vocabulary.CLEAN)
    said = int(clean["prediction"])
    nudged = _nudged(rows, said)
    if nudged is None:
        return {"picture": None}
    places = [int(clean["place"]), int(nudged["place"])]
    methods = [
        {"name": name, "role": role, "maps": [_map(gallery, spec, image_id, at) for at in places]}
        for role, spec, name in _best_and_worst(run, gallery, places)
    ]
    severity = float(nudged[vocabulary.SEVERITY])
    family = str(nudged[vocabulary.FAMILY])
    classes = run.manifest["model"]["class_names"]
    return {
        "picture": {
            "images": [pictures.as_uri(pictures.photo(gallery.images[at])) for at in places],
            "methods": methods,
            "nudge": f"{family.replace('_', ' ')} "
            f"{severity_text(severity, manifest_schema.unit_of(run.manifest, family))}",
            "says": classes[said] if said < len(classes) else f"class {said}",
            "name": run.manifest["data"]["pictures"].get(image_id, image_id),
        }
    }


def _nudged(rows: Sequence[Mapping[Any, Any]], prediction: int) -> Mapping[Any, Any] | None:
    """Return the row of the strongest nudge of one family that left the prediction as it was."""
    unmoved = (vocabulary.CLEAN, *vocabulary.DIAGNOSIS)
    held = [
        row
        for row in rows
        if row[vocabulary.FAMILY] not in unmoved
        and row["prediction"] == prediction
        and math.isfinite(row["confidence"])
    ]
    of_first = [row for row in held if row[vocabulary.FAMILY] == held[0][vocabulary.FAMILY]]
    return max(of_first, key=lambda row: abs(row[vocabulary.SEVERITY]), default=None)


def _best_and_worst(
    run: finished_run.FinishedRun, gallery: gallery_files.Gallery, places: list[int]
) -> list[tuple[str, str, str]]:
    """Return role, spec and name of the steadiest and the least steady method that have maps.

    Of the methods that are ranked, where there are two.
    """
    metric = board_metrics(run.findings)[0]
    lines = [
        line
        for line in leaderboard(run.findings)
        if line.spec in gallery.maps
        and not line.control
        and not math.isnan(line.scores[metric].value)
        and gallery.known[line.spec][places].all()
    ]
    ranked = [line for line in lines if line.ranked]
    chosen = ranked if len(ranked) > 1 else lines
    if run.findings.known[metric].better == "lower" and not run.findings.calibrates(metric):
        chosen = sorted(chosen, key=lambda line: line.scores[metric].value)
    else:
        chosen = sorted(chosen, key=lambda line: -line.scores[metric].value)
    ends = chosen if len(chosen) < 2 else [chosen[0], chosen[-1]]  # noqa: PLR2004 - best and worst
    roles = ("held best", "held least")
    return [
        (role, line.spec, f"{line.label}, {line.scores[metric].value:.2f}")
        for role, line in zip(roles, ends, strict=False)
    ]


def _map(gallery: gallery_files.Gallery, spec: str, image_id: str, place: int) -> str:
    scales = gallery.scales
    row = scales[
        (scales[vocabulary.IMAGE_ID] == image_id) & (scales[vocabulary.METHOD] == spec)
    ].iloc[0]
    png = pictures.map_picture(gallery.maps[spec][place], signed=bool(row["signed"]))
    return pictures.as_uri(png)
