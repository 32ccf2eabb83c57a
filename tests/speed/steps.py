"""What `steps=auto` takes and what it buys: python tests/speed/steps.py --images 30

On the embedded hands and a bias of 0.2: how many gradients a map takes, and how far it is from one
with 1,025 of them, beside fixed numbers of Gauss-Legendre steps.
"""

from __future__ import annotations

import argparse
import json

import numpy as np
import torch
from torch import Tensor

from steadymap.bench.data.opening import open_images
from steadymap.bench.methods.baselines import BASELINES
from steadymap.bench.methods.batch import Batch, draws_of
from steadymap.bench.methods.binding import bind_method
from steadymap.bench.methods.paths import Line, path_sum, points_at
from steadymap.models import load_classifier

INTERVALS = 1024
THREE = ("black", "white", "random")
FIXED = (8, 16, 32, 50, 64, 128)
SHIFT = 0.2


def reference(batch: Batch, baseline: str) -> Tensor:
    """The trapezoid rule with so many points that its own error does not matter."""
    classifier = load_classifier("compact")
    starts = BASELINES[baseline].make(batch)
    nodes = torch.linspace(0, 1, INTERVALS + 1)
    shares = torch.full_like(nodes, 1 / INTERVALS)
    shares[[0, -1]] /= 2
    path = Line(starts, batch.images, batch.targets, batch.at_once)
    return path_sum(classifier, path, nodes, shares) * (batch.images - starts)


def distance(maps: Tensor, exact: Tensor) -> list[float]:
    """Relative L2 of maps summed over channels, in percent: median and 95th percentile."""
    gap = (maps - exact).sum(dim=1).flatten(1).norm(dim=1)
    share = 100 * gap / exact.sum(dim=1).flatten(1).norm(dim=1)
    return [round(float(value), 2) for value in np.percentile(share.numpy(), [50, 95])]


def main() -> None:
    """Print a row a baseline and rule."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=30)
    classifier = load_classifier("compact")
    found = open_images("hands", classifier.framing, "test", parser.parse_args().images)
    clean = found.images(range(len(found)))
    targets = classifier(clean).argmax(dim=1)
    ids = tuple(picture.image_id for picture in found.pictures)
    rows = []
    for baseline in THREE:
        for shift in (0.0, SHIFT):
            batch = Batch(clean + shift, targets, draws_of(0, ids))
            exact = reference(batch, baseline)
            spec = f"integrated_gradients:baseline={baseline},steps="
            nested = bind_method(spec + "auto").nested(classifier, batch)
            points = [points_at(level) for level in nested.settled]
            rows.append(
                {
                    "baseline": baseline,
                    "bias": shift,
                    "rule": "auto",
                    "mean_points": float(np.mean(points)),
                    "most_points": max(points),
                    "error_percent": distance(nested.at(nested.settled), exact),
                }
            )
            rows += [
                {
                    "baseline": baseline,
                    "bias": shift,
                    "rule": f"Gauss-Legendre {steps}",
                    "mean_points": steps,
                    "most_points": steps,
                    "error_percent": distance(
                        bind_method(f"{spec}{steps}").explain(classifier, batch), exact
                    ),
                }
                for steps in FIXED
            ]
    print(json.dumps(rows, indent=1))  # noqa: T201 - the result


if __name__ == "__main__":
    main()
