"""Coverage of the intervals of calibrated scores on maps that methods really made.

The images of a run of 96 drawn hands are the population, and twelve randomised networks another.
Images are drawn from it with replacement, cut into blocks as a run cuts them, and held against each
other by their stored maps; three networks are drawn likewise. What the score of the population is
follows from all its pairs. Two draws of one image are never held against each other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file
from support import call

from steadymap.bench.analysis.calibration import calibrate
from steadymap.bench.analysis.cells import Cells
from steadymap.bench.analysis.estimates import Averages, estimate
from steadymap.bench.analysis.intervals import mean_of_known
from steadymap.bench.analysis.jackknife import interval_of
from steadymap.bench.core.names import file_name
from steadymap.bench.plan.blocks import BLOCK, cut
from steadymap.bench.records.read import read_run
from steadymap.bench.records.vocabulary import MATCHED_NETWORK
from steadymap.metrics import METRICS
from steadymap.metrics.maps import Maps
from steadymap.metrics.matched import tabulate
from steadymap.metrics.scoring import PERTURBED_CONSTANT

pytestmark = pytest.mark.slow

Floats = NDArray[np.float64]
Places = NDArray[np.intp]

IMAGES = 96
NETWORKS = 12
DRAWN_NETWORKS = 3
RUNS = 1000
METHODS = (
    "gradient",
    "gradient_x_input",
    "integrated_gradients:baseline=black,steps=8",
    "grad_cam:relu=true",
)
FAMILIES = {"bias": (-0.2, 0.1), "gaussian_noise": (0.05, 0.15)}
HEADLINES = ("ssim", "spearman")

COMMAND = ["run", "--data", "hands", "--split", "all", "--limit", str(IMAGES), "--save-maps"]
COMMAND += ["--nulls", str(NETWORKS), "--no-controls", "--no-admission", "--no-report"]
COMMAND += [word for method in METHODS for word in ("--method", method)]
COMMAND += [word for metric in HEADLINES for word in ("--metric", metric)]
COMMAND += [word for family in FAMILIES for word in ("--family", family)]
for name, levels in FAMILIES.items():
    COMMAND += ["--severity", f"{name}={','.join(map(str, levels))}"]


@dataclass(frozen=True)
class Population:
    """What is known of every pair of images by one metric; M methods, F families, S severities.

    Attributes:
        pairs: (M, F, S, N, N), distance of each perturbed map (rows) from each clean one.
        networks: (M, F, S, K, N), of each perturbed map from the image's own of each network.
        vanished: (M, F, S, N), whether the perturbed map did, and the clean one did not.
        kept: (F, S, N), whether the prediction held.
        label: (N,), the predicted class.
    """

    pairs: Floats
    networks: Floats
    vanished: NDArray[np.bool_]
    kept: NDArray[np.bool_]
    label: Places

    def draw(self, images: Places, networks: Places) -> Cells:
        """Return the pairs of a run of these images, in their order, and these networks."""
        count, (methods, families, levels) = len(images), self.pairs.shape[:3]
        block = np.empty(count, dtype=int)
        for place, piece in enumerate(cut(count, BLOCK)):
            block[piece.start : piece.stop] = place
        others = (block[:, None] == block) & (images[:, None] != images)
        alike = others & (self.label[images][:, None] == self.label[images])
        table = self.pairs[..., images[:, None], images]
        masked = {
            kind: np.where(mask, table, np.nan)
            for kind, mask in (("other_image", others), ("same_class", alike))
        }
        shape = (methods, families, levels, count)
        method, family, _, image = (place.ravel() for place in np.indices(shape))
        distance = np.diagonal(table, axis1=-2, axis2=-1).reshape(-1)
        nothing = np.zeros(len(distance))
        drawn = np.moveaxis(self.networks[..., networks, :][..., images], -2, 0)
        return Cells(
            list(METHODS),
            list(FAMILIES),
            [f"i{place}" for place in range(count)],
            np.arange(count),
            method,
            family,
            image,
            np.broadcast_to(self.kept[..., images], shape).ravel(),
            nothing == 0,
            distance,
            self.vanished[..., images].ravel(),
            nothing,
            {kind: mean_of_known(values, axis=-1).ravel() for kind, values in masked.items()},
            {kind: mean_of_known(values, axis=-2).ravel() for kind, values in masked.items()},
            drawn.reshape(len(networks), -1),
            np.full(len(distance), np.nan),
            np.full(len(distance), np.nan),
        )

    def truth(self, images: int) -> Floats:
        """Return the score of each method, (M,), that runs of so many images estimate.

        The mean over partners of a class counts where an image has one: more often the more there
        are of its class, by so much as blocks of that size have it.
        """
        own = np.eye(IMAGES, dtype=bool)
        alike = (self.label[:, None] == self.label) & ~own
        sizes = np.array([len(piece) for piece in cut(images, BLOCK) for _ in piece])
        some = 1 - (1 - alike.mean(axis=1)[:, None]) ** (sizes - 1)

        distance = np.diagonal(self.pairs, axis1=-2, axis2=-1)
        entering = self.kept & (np.isfinite(distance) | self.vanished)

        def over(values: Floats) -> Floats:
            """Average severities within images: (M, F, N)."""
            return mean_of_known(np.where(entering, values, np.nan), axis=2)

        masked = (np.where(mask, self.pairs, np.nan) for mask in (~own, alike))
        other_image, same_class = (over(mean_of_known(table, axis=-1)) for table in masked)
        known = np.isfinite(same_class) * some.mean(axis=1)
        nulls = np.stack(
            [
                np.nanmean(other_image, axis=-1),
                (np.nan_to_num(same_class) * known).sum(axis=-1) / known.sum(axis=-1),
                np.nanmean(over(mean_of_known(self.networks, axis=3)), axis=-1),
            ]
        )
        # Families count the same; a map that vanished is as far as the null.
        null = np.take_along_axis(nulls, nulls.mean(axis=-1).argmin(axis=0)[None, :, None], 0)[0]
        gone = over(self.vanished.astype(float))
        moved = np.nanmean((1 - gone) * np.nan_to_num(over(distance)), axis=-1)
        lost: Floats = (moved + np.nanmean(gone, axis=-1) * null).mean(axis=-1)
        scores: Floats = 1 - lost / null.mean(axis=-1)
        return scores


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stored")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert call(patch, *COMMAND, "--output", "run") == 0
    return folder / "run"


@pytest.fixture(scope="module", params=HEADLINES)
def population(request: pytest.FixtureRequest, stored: Path) -> tuple[str, Population]:
    metric = METRICS[request.param]
    records, _ = read_run(stored)
    records = records.astype({"image_id": str, "method": str, "family": str, "metric": str})
    index = pd.read_csv(stored / "maps" / "index.csv")
    rows = index.set_index(["family", "severity", "image_id"])["row"]
    images = list(dict.fromkeys(index["image_id"]))
    cells = [(family, level) for family, levels in FAMILIES.items() for level in levels]
    shape = (len(FAMILIES), len(cells) // len(FAMILIES))
    pairs = []
    for method in METHODS:
        path = stored / "maps" / f"{file_name(method)}.safetensors"
        maps = Maps.from_attributions(load_file(path)["attributions"])
        at = {cell: [rows[(*cell, image)] for image in images] for cell in [("clean", 0), *cells]}
        shown = {cell: Maps(maps.signed[place]) for cell, place in at.items()}
        pairs.append(
            [
                tabulate(metric, shown["clean", 0], shown[cell], [np.arange(IMAGES)]).values.T
                for cell in cells
            ]
        )
    table = records.pivot_table(
        "value", ["method", "family", "severity", "metric"], "image_id", dropna=False
    )[images]
    held_against = [f"{request.param}{MATCHED_NETWORK}{place}" for place in range(NETWORKS)]
    keys = [(method, *cell, name) for method in METHODS for cell in cells for name in held_against]
    once = records[(records["method"] == METHODS[0]) & (records["metric"] == request.param)]
    kept = once.pivot_table("kept", ["family", "severity"], "image_id")[images]
    labels = once.drop_duplicates("image_id").set_index("image_id")["pred_clean"]
    scored = [(method, *cell, request.param) for method in METHODS for cell in cells]
    said = records.assign(vanished=records["detail"].astype(str) == PERTURBED_CONSTANT)
    said = said.pivot_table("vanished", ["method", "family", "severity", "metric"], "image_id")
    vanished = said[images].loc[scored].to_numpy(dtype=bool).reshape(len(METHODS), *shape, IMAGES)
    networks = table.loc[keys].to_numpy().reshape(len(METHODS), *shape, NETWORKS, IMAGES)
    whole = Population(
        1 - np.array(pairs).reshape(len(METHODS), *shape, IMAGES, IMAGES),
        1 - networks,
        vanished,
        kept.loc[cells].to_numpy(dtype=bool).reshape(*shape, IMAGES),
        labels[images].to_numpy(),
    )
    # What is drawn in the order of the run is the run.
    drawn = whole.draw(np.arange(IMAGES), np.arange(NETWORKS))
    of_all = Averages.of(drawn, drawn.kept)
    calibrated = calibrate(records[records["metric"].str.startswith(request.param)])
    scores = calibrated[calibrated["family"] == "overall"].set_index("method")
    for place, method in enumerate(METHODS):
        found = interval_of(estimate(of_all, place, [0, 1]).calibrated)
        expected = [float(scores[name][method]) for name in ("calibrated", "low", "high")]
        assert [found.mean, found.low, found.high] == pytest.approx(expected, rel=1e-6)
    return request.param, whole


@pytest.mark.parametrize("images", [20, 40])
def test_intervals_hold_on_stored_maps(
    population: tuple[str, Population], images: int, record_property: Callable[..., None]
) -> None:
    name, whole = population
    rng = np.random.default_rng(5)
    truth = whole.truth(images)
    below, above = np.zeros(len(METHODS)), np.zeros(len(METHODS))
    for _ in range(RUNS):
        drawn = rng.integers(IMAGES, size=images), rng.integers(NETWORKS, size=DRAWN_NETWORKS)
        cells = whole.draw(*drawn)
        averages = Averages.of(cells, cells.kept)
        for place, score in enumerate(truth):
            found = interval_of(estimate(averages, place, [0, 1]).calibrated)
            below[place] += found.high < score
            above[place] += found.low > score
    held = 1 - (below + above) / RUNS
    text = ", ".join(
        f"{method.partition(':')[0]} {share:.1%} (score {score:.2f})"
        for method, share, score in zip(METHODS, held, truth, strict=True)
    )
    record_property("measured", f"{name}, {images} images: {text}")
    # Of 1000 draws of a 95% chance the standard error is 0.7%.
    assert held == pytest.approx(0.95, abs=0.025)
