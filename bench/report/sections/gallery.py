"""The section with the witnesses: images and their maps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from steadymap.bench.core.names import percent, severity_text
from steadymap.bench.records import manifest_schema, vocabulary
from steadymap.bench.report import finished_run, gallery_files, pictures


def context(run: finished_run.FinishedRun) -> dict[str, Any]:
    """Return the witnesses: for each, the clean row and a row of frames a family.

    Pictures are in a pool, and frames hold their places there: the clean ones are in every row.
    """
    pool: list[str] = []
    kinds = {} if run.gallery is None else run.gallery.kinds
    return {"witnesses": [_witness(run, pool, image_id) for image_id in kinds], "pool": pool}


def _witness(run: finished_run.FinishedRun, pool: list[str], image_id: str) -> dict[str, Any]:
    gallery = _gallery_of(run)
    names = {spec: name for spec, name in run.names().items() if spec in gallery.maps}
    rows = gallery.rows[gallery.rows[vocabulary.IMAGE_ID] == image_id]
    clean = int(rows.index[rows[vocabulary.FAMILY] == vocabulary.CLEAN][0])
    chosen = gallery.scales[gallery.scales[vocabulary.IMAGE_ID] == image_id]
    scales = {str(row[vocabulary.METHOD]): row for row in chosen.to_dict("records")}
    signed = {spec: bool(scales[spec]["signed"]) for spec in names}
    frames = {place: _frame(run, pool, place, signed, clean) for place in rows.index}
    labels = run.findings.scan.images
    label = labels[labels[vocabulary.IMAGE_ID] == image_id][vocabulary.LABEL].dropna()
    families = []
    for family in [
        name for name in dict.fromkeys(rows[vocabulary.FAMILY]) if name != vocabulary.CLEAN
    ]:
        unit = manifest_schema.unit_of(run.manifest, family)
        chosen = rows[
            (rows[vocabulary.FAMILY] == family) & (rows[vocabulary.DRAW] == 0)
        ].sort_values(vocabulary.SEVERITY)
        levels = [(float(r[vocabulary.SEVERITY]), frames[place]) for place, r in chosen.iterrows()]
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
        "name": run.manifest["data"]["pictures"].get(image_id, image_id),
        "label": "" if label.empty else _class_name(run.manifest, int(label.iloc[0])),
        "columns": [
            {"name": name, "most": f"{scales[spec]['most']:.3g}"} for spec, name in names.items()
        ],
        "clean": frames[clean],
        "families": families,
    }


def _frame(
    run: finished_run.FinishedRun,
    pool: list[str],
    place: Any,  # noqa: ANN401 - an index of pandas
    signed: Mapping[str, bool],
    clean: int,
) -> dict[str, Any]:
    """Return a picture with its maps, and what the network says of it."""
    gallery = _gallery_of(run)
    row = gallery.rows.loc[place]
    # A family that failed left no image, of which the network says nothing.
    is_image = not math.isnan(row["confidence"])
    maps = [
        pictures.map_picture(gallery.maps[spec][place], signed=is_signed)
        if gallery.known[spec][place]
        else None
        for spec, is_signed in signed.items()
    ]
    return {
        "picture": _pooled(pool, pictures.photo(gallery.images[place])),
        "maps": [None if png is None else _pooled(pool, png) for png in maps],
        "says": f"{_class_name(run.manifest, int(row['prediction']))} {percent(row['confidence'])}"
        if is_image
        else "no image",
        "changed": is_image and bool(row["prediction"] != gallery.rows.loc[clean, "prediction"]),
    }


def _pooled(pool: list[str], png: bytes) -> int:
    pool.append(pictures.as_uri(png))
    return len(pool) - 1


def _gallery_of(run: finished_run.FinishedRun) -> gallery_files.Gallery:
    if run.gallery is None:
        raise TypeError("the run kept no witnesses")
    return run.gallery


def _class_name(manifest: Mapping[str, Any], index: int) -> str:
    names = manifest["model"]["class_names"]
    return str(names[index]) if 0 <= index < len(names) else f"class {index}"
