"""Methods that take one part of an image away at a time, and see how far the logit drops.

See `steadymap.bench.coalitions` for what a part is and what stands in for it.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Annotated

import torch
from pydantic import Field

from steadymap.bench.methods import baselines, coalitions
from steadymap.bench.methods.batch import Batch
from steadymap.models import Classifier

Window = Annotated[float, Field(ge=0.05, le=1)]


def occlusion(
    classifier: Classifier,
    batch: Batch,
    *,
    window: Window = 0.125,
    baseline: baselines.BaselineName = "black",
) -> torch.Tensor:
    """Drop of the target's logit behind a square window, a mean over windows: (B, 1, H, W).

    The window is `window` of the shorter side, an even number of pixels, and moves by half of
    itself; at the far sides it stands out of the image. A pixel has the mean of the windows that
    cover it. Source: Zeiler and Fergus 2014, section 4.2.
    """
    parts, covered = _windows(batch, window, baseline)
    members = torch.cat([torch.ones_like(covered[:1]), ~covered])
    logits = coalitions.ask(
        classifier, batch, parts, lambda _, numbers: members[numbers], len(members)
    )
    return parts.paint(_mean_cover(logits[:, :1] - logits[:, 1:], covered))


def occlusion_passes(parameters: Mapping[str, object], size: coalitions.Size) -> int:
    """Return how many times one image goes forward: once a window, and once as it is."""
    rows, columns = _grid(_stride(float(str(parameters["window"])), size), size)
    return max(rows - 1, 1) * max(columns - 1, 1) + 1


def occlusion_on_linear(
    weights: torch.Tensor, batch: Batch, *, window: float, baseline: baselines.BaselineName
) -> torch.Tensor:
    """Return the map on a linear network: means of what the windows cover of w (x - baseline)."""
    parts, covered = _windows(batch, window, baseline)
    cells = parts.sums((weights * (batch.images - parts.baselines)).sum(dim=1)).double()
    return parts.paint(_mean_cover(cells @ covered.double().T, covered))


def _mean_cover(drops: torch.Tensor, covered: torch.Tensor) -> torch.Tensor:
    """Take drops (B, windows) to their means over the windows that cover each cell: (B, cells)."""
    return drops @ covered.double() / covered.sum(dim=0)


def _stride(window: float, size: coalitions.Size) -> int:
    shorter = min(size)
    return max(1, min(round(window * shorter / 2), shorter // 2))


def _grid(stride: int, size: coalitions.Size) -> tuple[int, int]:
    return -(-size[0] // stride), -(-size[1] // stride)


def _windows(
    batch: Batch, window: float, baseline: baselines.BaselineName
) -> tuple[coalitions.Parts, torch.Tensor]:
    """Return cells of half a window, and which of them each window covers: (windows, cells).

    A window is two cells by two.
    """
    size, device = coalitions.size_of(batch), batch.images.device
    stride = _stride(window, size)
    rows, columns = _grid(stride, size)
    down, right = (torch.arange(side, device=device) // stride for side in size)
    labels = (down[:, None] * columns + right).expand(len(batch.images), *size)
    places = (torch.arange(max(side - 1, 1), device=device)[:, None] for side in (rows, columns))
    cells = (torch.arange(side, device=device) for side in (rows, columns))
    in_row, in_column = (
        (cell == place) | (cell == place + 1) for place, cell in zip(places, cells, strict=True)
    )
    covered = torch.einsum("ir,jc->ijrc", in_row.int(), in_column.int()).bool()
    parts = coalitions.Parts(labels, rows * columns, baselines.BASELINES[baseline].make(batch))
    return parts, covered.flatten(2).flatten(0, 1)


def captum_occlusion(
    classifier: Classifier,
    batch: Batch,
    *,
    window: Window = 0.125,
    baseline: baselines.BaselineName = "black",
) -> torch.Tensor:
    """Compute the same with captum: the oracle of `occlusion`; in single precision."""
    stride = _stride(window, coalitions.size_of(batch))
    maps: torch.Tensor = (
        importlib.import_module("captum.attr")
        .Occlusion(classifier.module)
        .attribute(
            batch.images,
            sliding_window_shapes=(3, 2 * stride, 2 * stride),
            strides=(3, stride, stride),
            baselines=baselines.BASELINES[baseline].make(batch),
            target=batch.targets,
            perturbations_per_eval=max(1, batch.at_once // len(batch.images)),
        )
    )
    return maps[:, :1].to(batch.images.dtype)


def feature_ablation(
    classifier: Classifier,
    batch: Batch,
    *,
    segments: coalitions.Segments = 50,
    baseline: baselines.BaselineName = "black",
) -> torch.Tensor:
    """Drop of the target's logit with one superpixel absent: (B, 1, H, W).

    Source: captum's FeatureAblation.
    """
    parts = coalitions.superpixel_parts(batch, segments, baseline)
    members = torch.ones(1 + parts.count, parts.count, dtype=torch.bool, device=batch.images.device)
    members[1:].fill_diagonal_(fill_value=False)
    logits = coalitions.ask(
        classifier, batch, parts, lambda _, numbers: members[numbers], len(members)
    )
    return parts.paint(logits[:, :1] - logits[:, 1:])


def feature_ablation_passes(parameters: Mapping[str, object], size: coalitions.Size) -> int:
    """Return how many times one image goes forward: once a superpixel, and once as it is."""
    return coalitions.count_of(parameters, size) + 1


def captum_feature_ablation(
    classifier: Classifier,
    batch: Batch,
    *,
    segments: coalitions.Segments = 50,
    baseline: baselines.BaselineName = "black",
) -> torch.Tensor:
    """Compute the same with captum: the oracle of `feature_ablation`."""
    parts = coalitions.superpixel_parts(batch, segments, baseline)
    maps: torch.Tensor = (
        importlib.import_module("captum.attr")
        .FeatureAblation(classifier.module)
        .attribute(
            batch.images,
            baselines=parts.baselines,
            target=batch.targets,
            feature_mask=parts.labels[:, None],
            perturbations_per_eval=max(1, batch.at_once // len(batch.images)),
        )
    )
    return maps[:, :1]
