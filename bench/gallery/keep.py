"""Witnesses: the few images whose maps a report shows, chosen by rule, with their maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from safetensors.numpy import save_file

from steadymap.bench.analysis.instability import Instability
from steadymap.bench.core import files, metric_registry, safe_csv
from steadymap.bench.gallery.steps import completeness_by_steps, subset_of
from steadymap.bench.measure.outcome import Outcome
from steadymap.bench.measure.runner import measure
from steadymap.bench.perturbations.cell import CLEAN_CELL, Cell
from steadymap.bench.perturbations.registry import FAMILY_SHELF
from steadymap.bench.plan.setup import Setup, prepare
from steadymap.bench.records.scan import Scan, as_scan
from steadymap.bench.records.vocabulary import (
    DRAW,
    FAMILY,
    IMAGE_ID,
    METHOD,
    OVERALL,
    REFERENCES,
    SEVERITY,
    is_control,
)
from steadymap.bench.report.gallery_files import (
    CHOICE,
    FOLDER,
    PICTURES,
    PREDICTIONS,
    SCALES,
    STEPS,
)
from steadymap.bench.report.pictures import map_levels, photo_levels, scale_of
from steadymap.metrics import Metric
from steadymap.models import Classifier

KINDS = ("steadiest", "typical", "least steady")

# Of a plan whose maps alone are looked at: a metric is asked for because a plan must have one.
MAPS_ALONE = {
    "metric": ("relative_l2",), "nulls": 0, "coupled": False, "controls": False, "draws": 1,
    "jobs": 1,
}  # fmt: skip


def choose_witnesses(
    records: pd.DataFrame | Scan, metrics: Mapping[str, Metric] | None = None
) -> dict[str, str]:
    """Choose the images that a report shows: by id, what each stands for.

    An image's steadiness is the mean, over methods (not controls) and families, of its own score by
    SSIM, or by the first metric that compares maps. The witnesses are the steadiest image, the one
    at the median, and the least steady; ties go to the smaller id. Fewer where there are fewer
    images.
    """
    scan = as_scan(records)
    known = metric_registry.known_metrics() if metrics is None else metrics
    # Of one image that has a value of everything: only which pairs there are matters.
    measured = _scored(scan.as_one_image(), known).pairs()
    scored = {metric for method, metric in measured if not is_control(method)}
    if not scored:
        return {}
    chosen = next(name for name in known if name in scored)
    unstable = _scored(scan.of(chosen), known)
    pairs = [(method, metric) for method, metric in unstable.pairs() if not is_control(method)]
    rows = np.stack([unstable.at(method, metric, OVERALL) for method, metric in pairs])
    valid = np.asarray(np.isfinite(rows).any(axis=0))
    names = unstable.by_image.columns.astype(str).tolist()
    ids = [names[place] for place in np.flatnonzero(valid)]
    moved = np.nanmean(rows[:, valid], axis=0)
    order = [ids[place] for place in np.lexsort((ids, moved))]
    if not order:
        return {}
    places = (0, (len(order) - 1) // 2, len(order) - 1)
    witnesses: dict[str, str] = {}
    for kind, place in zip(KINDS, places, strict=True):
        witnesses.setdefault(order[place], kind)
    return witnesses


def _scored(records: pd.DataFrame, known: Mapping[str, Metric]) -> Instability:
    return Instability.of(records[~records[FAMILY].isin(REFERENCES)], known)


def keep_witnesses(setup: Setup, records: pd.DataFrame | Scan, folder: Path) -> tuple[str, ...]:
    """Explain the witnesses of a finished run once more, and keep what a report shows of them.

    Args:
        setup: of the run.
        records: of the run, or what scans them.
        folder: of the run; files go to its `witnesses`.

    Returns:
        The files that were written, as they lie in the folder.
    """
    kinds = choose_witnesses(records)
    if not kinds:
        return ()
    home = folder / FOLDER
    files.refuse_links(folder)
    files.make_folder(home)
    places = {picture.image_id: place for place, picture in enumerate(setup.images.pictures)}
    images = subset_of(setup.images, [places[image_id] for image_id in kinds])
    plan = setup.plan.model_copy(update=MAPS_ALONE)
    few = prepare(setup.classifier, images, plan, setup.references)
    outcomes = list(measure(few, lambda _count: None, keep_maps=True))
    scales = _write_pictures(home, list(kinds), outcomes)
    safe_csv.write_csv(scales, home / SCALES)
    safe_csv.write_csv(pd.DataFrame(kinds.items(), columns=[IMAGE_ID, "kind"]), home / CHOICE)
    shown = [outcome.images for outcome in outcomes if outcome.images is not None]
    rows = [
        row
        for image_id, pictures in zip(kinds, torch.cat(shown), strict=True)
        for row in predictions(setup.classifier, image_id, (CLEAN_CELL, *plan.cells()), pictures)
    ]
    columns = [IMAGE_ID, FAMILY, SEVERITY, DRAW, "prediction", "confidence"]
    safe_csv.write_csv(pd.DataFrame(rows, columns=columns), home / PREDICTIONS)
    written = [PICTURES, SCALES, CHOICE, PREDICTIONS]
    steps = completeness_by_steps(setup)
    if len(steps):
        safe_csv.write_csv(steps, home / STEPS)
        written.append(STEPS)
    return tuple(f"{FOLDER}/{name}" for name in written)


def _write_pictures(home: Path, ids: Sequence[str], outcomes: Sequence[Outcome]) -> pd.DataFrame:
    """Write images and maps as they will be shown, in 8 bits; return the scales of the maps."""
    images = torch.cat([shown.images for shown in outcomes if shown.images is not None]).numpy()
    tensors: dict[str, NDArray[Any]] = {
        "images": photo_levels(images.reshape(-1, *images.shape[2:]))
    }
    rows: list[tuple[object, ...]] = []
    for spec in outcomes[0].attributions:
        attributions = [outcome.attributions[spec] for outcome in outcomes]
        known = [part for part in attributions if part is not None]
        if len(known) < len(attributions):
            continue
        # (images, cells, h, w): signed maps.
        maps = torch.cat(known).sum(dim=2).numpy()
        levels = []
        for image_id, clean_first in zip(ids, maps, strict=True):
            scale = scale_of(clean_first[0], clean_first)
            rows.append((image_id, spec, scale.signed, scale.most))
            levels.append(map_levels(clean_first, scale))
        tensors[f"map {spec}"] = np.concatenate(levels)
        tensors[f"known {spec}"] = np.isfinite(maps).all(axis=(2, 3)).reshape(-1)
    save_file(tensors, home / PICTURES)
    return pd.DataFrame(rows, columns=[IMAGE_ID, METHOD, "signed", "most"])


@torch.no_grad()
def predictions(
    classifier: Classifier, image_id: str, cells: tuple[Cell, ...], pictures: torch.Tensor
) -> list[tuple[object, ...]]:
    """Return what the network says of each picture (cells, 3, H, W) of an image."""
    rows: list[tuple[object, ...]] = []
    for cell, picture in zip(cells, pictures, strict=True):
        family = FAMILY_SHELF.known(cell.family)
        seen = classifier.shifted(family.shift(cell.severity)) if family else classifier
        device = classifier.module.mean.device
        chances = seen(picture[None].to(device)).softmax(dim=1)[0].cpu()
        best = int(chances.argmax())
        rows.append((image_id, cell.family, cell.severity, cell.draw, best, float(chances[best])))
    return rows
