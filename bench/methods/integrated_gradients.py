"""Integrated gradients along a straight line from a baseline to the image."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor

from steadymap.bench.methods import baselines, gradient, method, paths
from steadymap.bench.methods.batch import Batch
from steadymap.models import Classifier

# Gauss-Legendre nodes take the eigenvalues of a matrix of this side.
MOST_STEPS = 1000


# --- maps -----------------------------------------------------------------------------------------

Steps = Annotated[int, Field(ge=1, le=MOST_STEPS)] | Literal["auto"]


def integrated_gradients(
    classifier: Classifier,
    batch: Batch,
    *,
    baseline: baselines.BaselineName = "black",
    steps: Steps = 50,
) -> Tensor:
    """Gradients averaged on the straight path from a baseline, times the way: (B, 3, H, W).

    Gauss-Legendre quadrature with `steps` points, or, with `auto`, the trapezoid rule doubled until
    map and completeness have settled. Source: Sundararajan et al. 2017, equation 1.

    The same sum as captum's, without its copies: see `steadymap.bench.methods.paths.path_sum`.
    """
    if steps == "auto":
        nested = nested_path(classifier, batch, baseline=baseline)
        return nested.at(nested.settled)
    path = _path(batch, baseline)
    nodes, shares = paths.gauss_legendre(steps, batch.images)
    return paths.path_sum(classifier, path, nodes, shares) * (path.ends - path.starts)


def points_of(parameters: method.Parameters) -> int:
    """Return how many points of a path one map takes; with `auto`, the least there can be."""
    steps = parameters["steps"]
    return steps if isinstance(steps, int) else paths.points_at(1)


def nested_path(
    classifier: Classifier, batch: Batch, *, baseline: baselines.BaselineName = "black"
) -> paths.NestedPath:
    """Integrate until settled, and be able to go on: what a run needs for `steps=auto`."""
    return paths.NestedPath(classifier, _path(batch, baseline))


def _path(batch: Batch, baseline: baselines.BaselineName) -> paths.Line:
    return paths.Line(
        baselines.BASELINES[baseline].make(batch), batch.images, batch.targets, batch.at_once
    )


def captum_integrated_gradients(
    classifier: Classifier,
    batch: Batch,
    *,
    baseline: baselines.BaselineName = "black",
    steps: Steps = 50,
) -> Tensor:
    """Compute the same with captum: the oracle of `integrated_gradients`.

    Raises:
        ValueError: `steps=auto`, which captum does not have.
    """
    if steps == "auto":
        raise ValueError("captum has no steps=auto; give a number of steps")
    maps: Tensor = (
        gradient.captum_attr()
        .IntegratedGradients(classifier.module)
        .attribute(
            gradient.own_copy(batch.images),
            baselines=baselines.BASELINES[baseline].make(batch),
            target=batch.targets,
            n_steps=steps,
            method="gausslegendre",
            internal_batch_size=max(batch.at_once, len(batch.images)),
        )
    )
    return maps.detach()
