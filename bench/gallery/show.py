"""One picture in seconds: an image before and after a perturbation, under every method."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from steadymap.bench.core.errors import ConfigError
from steadymap.bench.core.names import file_name, percent, picture_name, severity_text, short_names
from steadymap.bench.data.image_set import ImageSet
from steadymap.bench.gallery.keep import MAPS_ALONE, predictions
from steadymap.bench.measure.runner import measure
from steadymap.bench.perturbations.cell import CLEAN_CELL, Cell
from steadymap.bench.perturbations.registry import FAMILY_SHELF
from steadymap.bench.plan.plan import Plan
from steadymap.bench.plan.setup import prepare
from steadymap.bench.records.vocabulary import INPUT
from steadymap.bench.report.figures import grid_figure
from steadymap.bench.report.pictures import map_levels, photo_levels, scale_of
from steadymap.metrics import Status
from steadymap.models import Classifier

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def show(classifier: Classifier, image: ImageSet, plan: Plan, cell: Cell) -> Figure:
    """Draw one image and its maps, clean above and perturbed below, as the study did.

    The two maps of a method share a scale, which ends at the clean one's 99th percentile.

    Args:
        classifier: what is explained.
        image: a set of one.
        plan: its methods, steps, seed and engine.
        cell: the perturbation.

    Raises:
        ConfigError: the family failed.
    """
    one_cell = {"family": (cell.family,), "severity": (cell.severity,)}
    chosen = plan.model_copy(update=MAPS_ALONE | one_cell)
    setup = prepare(classifier, image, chosen)
    (outcome,) = measure(setup, lambda _count: None, keep_maps=True)
    if outcome.images is None:
        raise TypeError("a run that keeps maps keeps its images")
    pictures = outcome.images[0]
    for record in outcome.records:
        if record.method == INPUT and record.status == Status.ERROR:
            raise ConfigError(f"family {cell.family}: {record.detail}")
    predicted = predictions(classifier, image.pictures[0].image_id, (CLEAN_CELL, cell), pictures)
    names = short_names(list(outcome.attributions))
    columns: list[tuple[str, list[NDArray[np.uint8]], bool | None]] = [
        ("image", [photo_levels(picture) for picture in pictures.numpy()], None)
    ]
    for spec, attributions in outcome.attributions.items():
        if attributions is None:
            columns.append((f"{names[spec]}: no map", [], None))
            continue
        maps: NDArray[np.float32] = attributions[0].sum(dim=1).numpy()
        scale = scale_of(maps[0], list(maps))
        columns.append((names[spec], [map_levels(signed, scale) for signed in maps], scale.signed))
    clean, moved = (
        f"{_class_name(classifier, int(str(row[4])))} {percent(float(str(row[5])))}"
        for row in predicted
    )
    changed = "" if predicted[0][4] == predicted[1][4] else "\nchanged"
    severity = severity_text(cell.severity, FAMILY_SHELF.find(cell.family).unit)
    perturbed = f"{cell.family.replace('_', ' ')} {severity}"
    rows = (f"clean\n{clean}", f"{perturbed}\n{moved}{changed}")
    return grid_figure(rows, columns)


def _class_name(classifier: Classifier, index: int) -> str:
    names = classifier.class_names
    return names[index] if index < len(names) else f"class {index}"


def default_output(image: str, cell: Cell) -> Path:
    """Return where the picture goes unless told otherwise."""
    stem = picture_name(Path(image.replace(":", "-")).stem)
    return Path(f"{stem}-{file_name(cell.family)}-{cell.severity:g}.png")
