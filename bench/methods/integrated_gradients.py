"""Integrated gradients along a straight line from a baseline to the image."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor

from steadymap.bench.methods.baselines import BASELINES, BaselineName
from steadymap.bench.methods.batch import Batch
from steadymap.bench.methods.gradient import captum_attr, own_copy
from steadymap.bench.methods.method import Parameters
from steadymap.bench.methods.paths import Line, NestedPath, gauss_legendre, path_sum, points_at
from steadymap.models import Classifier

# Gauss-Legendre nodes take the eigenvalues of a matrix of this side.
MOST_STEPS = 1000


# --- maps -----------------------------------------------------------------------------------------

Steps = Annotated[int, Field(ge=1, le=MOST_STEPS)] | Literal["auto"]


def integrated_gradients(
    classifier: Classifier,
    batch: Batch,
    *,
    baseline: BaselineName = "black",
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
    nodes, shares = gauss_legendre(steps, batch.images)
    return path_sum(classifier, path, nodes, shares) * (path.ends - path.starts)


def points_of(parameters: Parameters) -> int:
    """Return how many points of a path one map takes; with `auto`, the least there can be."""
    steps = parameters["steps"]
    return steps if isinstance(steps, int) else points_at(1)


def nested_path(
    classifier: Classifier, batch: Batch, *, baseline: BaselineName = "black"
) -> NestedPath:
    """Integrate until settled, and be able to go on: what a run needs for `steps=auto`."""
    return NestedPath(classifier, _path(batch, baseline))


def _path(batch: Batch, baseline: BaselineName) -> Line:
    return Line(BASELINES[baseline].make(batch), batch.images, batch.targets, batch.at_once)


def captum_integrated_gradients(
    classifier: Classifier,
    batch: Batch,
    *,
    baseline: BaselineName = "black",
    steps: Steps = 50,
) -> Tensor:
    """Compute the same with captum: the oracle of `integrated_gradients`.

    Raises:
        ValueError: `steps=auto`, which captum does not have.
    """
    if steps == "auto":
        raise ValueError("captum has no steps=auto; give a number of steps")
    maps: Tensor = (
        captum_attr()
        .IntegratedGradients(classifier.module)
        .attribute(
            own_copy(batch.images),
            baselines=BASELINES[baseline].make(batch),
            target=batch.targets,
            n_steps=steps,
            method="gausslegendre",
            internal_batch_size=max(batch.at_once, len(batch.images)),
        )
    )
    return maps.detach()
