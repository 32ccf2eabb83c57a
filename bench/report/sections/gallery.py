"""The section with the witnesses: images and their maps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from steadymap.bench.core.names import severity_text
from steadymap.bench.records.manifest_schema import unit_of
from steadymap.bench.records.vocabulary import CLEAN
from steadymap.bench.report import pictures
from steadymap.bench.report.finished_run import FinishedRun
from steadymap.bench.report.gallery_files import Gallery

# --- pictures -------------------------------------------------------------------------------------


def gallery_context(shown: FinishedRun, pool: list[str]) -> list[dict[str, Any]]:
    """Return the witnesses: for each, the clean row and a row of frames a family.

    Pictures go to the pool, and frames hold their places there: the clean ones are in every row.
    """
    gallery = shown.gallery
    if gallery is None:
        return []
    names = {spec: name for spec, name in shown.names().items() if spec in gallery.maps}
    return [_witness(shown, pool, image_id, names) for image_id in gallery.kinds]


def _witness(
    shown: FinishedRun, pool: list[str], image_id: str, names: Mapping[str, str]
) -> dict[str, Any]:
    gallery = _kept(shown)
    rows = gallery.rows[gallery.rows["image_id"] == image_id]
    clean = int(rows.index[rows["family"] == CLEAN][0])
    chosen = gallery.scales[gallery.scales["image_id"] == image_id]
    scales = {str(row["method"]): row for row in chosen.to_dict("records")}
    signed = {spec: bool(scales[spec]["signed"]) for spec in names}
    frames = {place: _frame(shown, pool, place, signed, clean) for place in rows.index}
    labels = shown.findings.scan.images
    found = labels[labels["image_id"] == image_id]["label"].dropna()
    families = []
    for family in [name for name in dict.fromkeys(rows["family"]) if name != CLEAN]:
        unit = unit_of(shown.manifest, family)
        chosen = rows[(rows["family"] == family) & (rows["draw"] == 0)].sort_values("severity")
        levels = [(float(r["severity"]), frames[place]) for place, r in chosen.iterrows()]
        # The clean image has its place among them, so that a slider begins or turns there.
        levels = sorted([*levels, (0.0, frames[clean])], key=lambda level: level[0])
        families.append(
            {
                "name": family,
                "title": family.replace("_", " "),
                "frames": [
                    frame | {"severity": severity_text(level, unit)} for level, frame in levels
                ],
            }
        )
    return {
        "kind": gallery.kinds[image_id],
        "name": shown.manifest["data"]["pictures"].get(image_id, image_id),
        "label": "" if found.empty else _class_name(shown.manifest, int(found.iloc[0])),
        "columns": [
            {"name": name, "most": f"{scales[spec]['most']:.3g}"} for spec, name in names.items()
        ],
        "clean": frames[clean],
        "families": families,
    }


def _frame(
    shown: FinishedRun,
    pool: list[str],
    place: Any,  # noqa: ANN401 - an index of pandas
    signed: Mapping[str, bool],
    clean: int,
) -> dict[str, Any]:
    """Return a picture with its maps, and what the network says of it."""
    gallery = _kept(shown)
    said = gallery.rows.loc[place]
    # A family that failed left no image, of which the network says nothing.
    made = not math.isnan(said["confidence"])
    maps = [
        pictures.map_picture(gallery.maps[spec][place], signed=one)
        if gallery.known[spec][place]
        else None
        for spec, one in signed.items()
    ]
    return {
        "picture": _pooled(pool, pictures.photo(gallery.images[place])),
        "maps": [None if png is None else _pooled(pool, png) for png in maps],
        "says": f"{_class_name(shown.manifest, int(said['prediction']))} {said['confidence']:.0%}"
        if made
        else "no image",
        "changed": made and bool(said["prediction"] != gallery.rows.loc[clean, "prediction"]),
    }


def _pooled(pool: list[str], png: bytes) -> int:
    pool.append(pictures.as_uri(png))
    return len(pool) - 1


def _kept(shown: FinishedRun) -> Gallery:
    if shown.gallery is None:
        raise TypeError("the run kept no witnesses")
    return shown.gallery


def _class_name(manifest: Mapping[str, Any], index: int) -> str:
    names = manifest["model"]["class_names"]
    return str(names[index]) if 0 <= index < len(names) else f"class {index}"
