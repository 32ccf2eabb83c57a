"""Witnesses: the few images whose maps a report shows, chosen by rule, with their maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from torch import Tensor

from steadymap.bench.analysis.calibration import Instability, is_control
from steadymap.bench.core.names import without_steps
from steadymap.bench.core.plugins import known_metrics
from steadymap.bench.core.safe_csv import write_csv
from steadymap.bench.data.open import ImageSet
from steadymap.bench.measure.nulls import CLEAN_CELL
from steadymap.bench.measure.runner import measure
from steadymap.bench.measure.shard import Outcome
from steadymap.bench.measure.view import Explained, explained
from steadymap.bench.methods.gradient import Batch
from steadymap.bench.methods.registry import BoundMethod
from steadymap.bench.network.passes import is_small
from steadymap.bench.perturbations.registry import FAMILY_SHELF, Cell
from steadymap.bench.plan.plan import ConfigError
from steadymap.bench.plan.setup import Setup, prepare
from steadymap.bench.records.scan import Scan, as_scan
from steadymap.bench.records.schema import CLEAN, OVERALL, REFERENCES
from steadymap.bench.report.pictures import map_levels, photo_levels, scale_of
from steadymap.bench.runs.folder import read_csv, refuse_links
from steadymap.bench.runs.shard_files import make_folder
from steadymap.metrics import Metric
from steadymap.models import Classifier

FOLDER = "witnesses"
CHOICE = "witnesses.csv"
PREDICTIONS = "predictions.csv"
PICTURES = "pictures.safetensors"
SCALES = "scales.csv"
STEPS = "steps.csv"

MESSAGE_LENGTH = 300
CHANNELS = 3

KINDS = ("steadiest", "typical", "least steady")

# Maps of the witnesses need no score; one is asked for because a plan must have one.
CHEAPEST = "relative_l2"

# Completeness against the number of steps: of so many images, at so many steps. Of a large network
# fewer, or the page would take as long as a run.
STEPS_IMAGES = 8
STEPS_IMAGES_OF_LARGE = 2
STEPS_TRIED = (4, 8, 16, 32, 64)


@dataclass(frozen=True)
class Gallery:
    """Pictures and maps of the witnesses.

    Attributes:
        kinds: what each image stands for, by its id.
        rows: one row a picture: image_id, family, severity, draw, prediction (index of the class),
            confidence; the clean one of an image has family `clean`.
        scales: one row an image and method: image_id, method, signed, most; see `Scale`.
        images: (rows, 3, H, W), in 8 bits.
        maps: by method, places on the scale (rows, h, w), in 8 bits.
        known: by method, (rows,), whether there is a map.
    """

    kinds: Mapping[str, str]
    rows: pd.DataFrame
    scales: pd.DataFrame
    images: NDArray[np.uint8]
    maps: Mapping[str, NDArray[np.uint8]]
    known: Mapping[str, NDArray[np.bool_]]


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
    known = known_metrics() if metrics is None else metrics
    # Of one image that has a value of everything: only what there is matters.
    there = _scored(scan.counts.assign(image_id="", value=0.0), known).pairs()
    scored = {metric for method, metric in there if not is_control(method)}
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
    found: dict[str, str] = {}
    for kind, place in zip(KINDS, places, strict=True):
        found.setdefault(order[place], kind)
    return found


def _scored(records: pd.DataFrame, known: Mapping[str, Metric]) -> Instability:
    return Instability.of(records[~records["family"].isin(REFERENCES)], known)


def keep_witnesses(setup: Setup, records: pd.DataFrame | Scan, folder: Path) -> None:
    """Explain the witnesses of a finished run once more, and keep what a report shows of them.

    Args:
        setup: of the run.
        records: of the run, or what scans them.
        folder: of the run; files go to its `witnesses`.
    """
    kinds = choose_witnesses(records)
    if not kinds:
        return
    home = folder / FOLDER
    refuse_links(folder)
    make_folder(home)
    places = {picture.image_id: place for place, picture in enumerate(setup.images.pictures)}
    images = _subset(setup.images, [places[image_id] for image_id in kinds])
    plan = setup.plan.model_copy(
        update={"metric": (CHEAPEST,), "nulls": 0, "controls": False, "draws": 1, "jobs": 1}
    )
    few = prepare(setup.classifier, images, plan, setup.references)
    outcomes = list(measure(few, lambda _count: None, keep_maps=True))
    scales = _write_pictures(home, list(kinds), outcomes)
    write_csv(scales, home / SCALES)
    write_csv(pd.DataFrame(kinds.items(), columns=["image_id", "kind"]), home / CHOICE)
    shown = [outcome.images for outcome in outcomes if outcome.images is not None]
    rows = [
        row
        for image_id, pictures in zip(kinds, torch.cat(shown), strict=True)
        for row in predictions(setup.classifier, image_id, (CLEAN_CELL, *plan.cells()), pictures)
    ]
    columns = ["image_id", "family", "severity", "draw", "prediction", "confidence"]
    write_csv(pd.DataFrame(rows, columns=columns), home / PREDICTIONS)
    steps = completeness_by_steps(setup)
    if len(steps):
        write_csv(steps, home / STEPS)


def _write_pictures(home: Path, ids: Sequence[str], outcomes: Sequence[Outcome]) -> pd.DataFrame:
    """Write images and maps as they will be shown, in 8 bits; return the scales of the maps."""
    images = torch.cat([one.images for one in outcomes if one.images is not None]).numpy()
    tensors: dict[str, NDArray[Any]] = {
        "images": photo_levels(images.reshape(-1, *images.shape[2:]))
    }
    rows: list[tuple[object, ...]] = []
    for spec in outcomes[0].attributions:
        made = [one.attributions[spec] for one in outcomes]
        if any(maps is None for maps in made):
            continue
        # (images, cells, h, w): signed maps.
        maps = torch.cat([one for one in made if one is not None]).sum(dim=2).numpy()
        levels = []
        for image_id, clean_first in zip(ids, maps, strict=True):
            scale = scale_of(clean_first[0], clean_first)
            rows.append((image_id, spec, scale.signed, scale.most))
            levels.append(map_levels(clean_first, scale))
        tensors[f"map {spec}"] = np.concatenate(levels)
        tensors[f"known {spec}"] = np.isfinite(maps).all(axis=(2, 3)).reshape(-1)
    save_file(tensors, home / PICTURES)
    return pd.DataFrame(rows, columns=["image_id", "method", "signed", "most"])


def _subset(images: ImageSet, places: list[int]) -> ImageSet:
    return replace(
        images,
        pictures=tuple(images.pictures[place] for place in places),
        read=lambda index: images.read(places[index]),
    )


@torch.no_grad()
def predictions(
    classifier: Classifier, image_id: str, cells: tuple[Cell, ...], pictures: Tensor
) -> list[tuple[object, ...]]:
    """Return what the network says of each picture (cells, 3, H, W) of an image."""
    rows: list[tuple[object, ...]] = []
    for cell, picture in zip(cells, pictures, strict=True):
        family = FAMILY_SHELF.known(cell.family)
        seen = classifier.shifted(cell.severity) if family and family.compensated else classifier
        device = classifier.module.mean.device
        chances = seen(picture[None].to(device)).softmax(dim=1)[0].cpu()
        best = int(chances.argmax())
        rows.append((image_id, cell.family, cell.severity, cell.draw, best, float(chances[best])))
    return rows


def completeness_by_steps(setup: Setup) -> pd.DataFrame:
    """Measure the completeness error of path methods at several numbers of steps.

    Returns:
        One row a method (without its steps), number of steps and image: `method`, `steps`,
        `image_id`, `completeness_error`, of the first clean images of the run; empty without such
        methods.
    """
    classifier = setup.classifier
    large = not is_small(classifier)
    count = min(STEPS_IMAGES_OF_LARGE if large else STEPS_IMAGES, len(setup.images))
    images = _subset(setup.images, list(range(count)))
    batch_images = images.images(range(len(images))).to(classifier.module.mean.device)
    ids = tuple(picture.image_id for picture in images.pictures)
    with torch.no_grad():
        targets = classifier(batch_images).argmax(dim=1)
    references = setup.references
    batch = Batch(
        batch_images,
        targets,
        ids,
        setup.plan.seed,
        setup.at_once,
        references=None if references is None else references.to(batch_images),
    )
    rows: list[tuple[object, ...]] = []
    for name, bound in path_methods(setup).items():
        delta = _logit_difference(classifier, batch, bound)
        for steps in STEPS_TRIED:
            tried = replace(
                bound, parameters=tuple((dict(bound.parameters) | {"steps": steps}).items())
            )
            try:
                made = explained(tried.explain(classifier, batch, setup.plan.engine), len(ids))
            except Exception:  # noqa: BLE001 - a method may raise anything; the run's records say what
                break
            if not isinstance(made, Explained):
                break
            found = made.attributions
            error = (found.flatten(1).double().sum(dim=1) - delta).abs().tolist()
            rows += [(name, steps, *pair) for pair in zip(ids, error, strict=True)]
    return pd.DataFrame(rows, columns=["method", "steps", "image_id", "completeness_error"])


def path_methods(setup: Setup) -> dict[str, BoundMethod]:
    """Return the methods of a run that are complete from one baseline and take steps.

    By their spec without these.
    """
    return {
        without_steps(bound.spec): bound
        for bound in setup.methods
        if bound.baseline_name is not None and "steps" in dict(bound.parameters)
    }


@torch.no_grad()
def _logit_difference(classifier: Classifier, batch: Batch, bound: BoundMethod) -> Tensor:
    """Return what attributions must add up to (B,), in logits."""
    if bound.start is None:
        raise TypeError(f"{bound.spec} has no baseline")
    (baseline,) = bound.start.images(batch)
    ends = [classifier(points).double() for points in (batch.images, baseline)]
    both = [logits.gather(1, batch.targets[:, None])[:, 0] for logits in ends]
    return both[0] - both[1]


def read_gallery(folder: Path) -> Gallery | None:
    """Read the witnesses of a run; None where none were kept.

    Raises:
        ConfigError: a file of theirs is gone or damaged.
    """
    home = folder / FOLDER
    if not home.is_dir():
        return None
    kinds = read_csv(home / CHOICE, ("image_id", "kind"))
    rows = read_csv(home / PREDICTIONS, ("image_id", "family", "severity", "draw", "prediction"))
    scales = read_csv(home / SCALES, ("image_id", "method", "signed", "most"))
    try:
        tensors = load_file(home / PICTURES)
    except Exception as error:  # broken files raise anything; each means the same here
        reason = " ".join(str(error).split())[:MESSAGE_LENGTH]
        raise ConfigError(f"{home / PICTURES} is damaged: {reason}") from error
    if not _belong_together(kinds, rows, scales, tensors):
        raise ConfigError(f"{home} is damaged: its files do not belong together; run it again")

    def named(prefix: str) -> dict[str, NDArray[Any]]:
        found = {name: value for name, value in tensors.items() if name.startswith(prefix)}
        return {name.removeprefix(prefix): value for name, value in found.items()}

    return Gallery(
        dict(zip(kinds["image_id"], kinds["kind"], strict=True)),
        rows,
        scales,
        tensors["images"],
        named("map "),
        named("known "),
    )


def _belong_together(
    kinds: pd.DataFrame,
    rows: pd.DataFrame,
    scales: pd.DataFrame,
    tensors: Mapping[str, NDArray[Any]],
) -> bool:
    """Whether the files of a gallery are about the same pictures, and of the types they have."""
    clean = rows[rows["family"] == CLEAN]["image_id"]
    whole = pd.api.types.is_integer_dtype(rows["prediction"].dtype)
    if set(kinds["image_id"]) - set(clean) or not whole or (rows["prediction"] < 0).any():
        return False
    # A picture that could not be made has none, so it may be missing.
    if "confidence" not in rows or not pd.api.types.is_numeric_dtype(rows["confidence"].dtype):
        return False
    expected = {"images": ("uint8", 4), "map": ("uint8", 3), "known": ("bool", 1)}
    for name, tensor in tensors.items():
        found = (str(tensor.dtype), tensor.ndim)
        if found != expected.get(name.partition(" ")[0]) or len(tensor) != len(rows):
            return False
        if tensor.size == 0:
            return False
    methods = {name.removeprefix("map ") for name in tensors if name.startswith("map ")}
    known = {name.removeprefix("known ") for name in tensors if name.startswith("known ")}
    pairs = {(image, method) for image in kinds["image_id"] for method in methods}
    scaled = set(zip(scales["image_id"], scales["method"], strict=True))
    return (
        "images" in tensors
        and tensors["images"].shape[1] == CHANNELS
        and methods == known
        and pairs <= scaled
    )


def read_steps(folder: Path) -> pd.DataFrame:
    """Read the completeness errors by number of steps; empty where none were kept."""
    path = folder / FOLDER / STEPS
    if not path.is_file():
        return pd.DataFrame()
    return read_csv(path, ("method", "steps", "image_id", "completeness_error"))
