"""Methods that take parts away: held to enumeration, regression by hand and captum."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations
from math import factorial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.spatial.distance import cosine
from skimage.segmentation import slic
from support import (
    CLASSES,
    SIDE,
    batch_of,
    image_set,
    linear_network,
    pick,
    random_images,
    seeded,
    tiny,
)
from torch import Tensor, nn

from steadymap.bench.analysis.costs import method_costs
from steadymap.bench.checks.conformance import check_method
from steadymap.bench.core.randomness import generator
from steadymap.bench.measure.estimate import count
from steadymap.bench.measure.runner import measure, run
from steadymap.bench.methods import registry as methods_module
from steadymap.bench.methods.baselines import BASELINES
from steadymap.bench.methods.batch import Batch
from steadymap.bench.methods.binding import bind_method
from steadymap.bench.methods.coalitions import superpixel_parts
from steadymap.bench.methods.method import Method
from steadymap.bench.methods.superpixels import BLUR, COMPACTNESS, superpixels
from steadymap.bench.methods.surrogates import lime_coalitions
from steadymap.bench.network.passes import count_passes
from steadymap.bench.plan.plan import Plan
from steadymap.bench.plan.setup import prepare
from steadymap.bench.records.vocabulary import MATCHED_CLASS
from steadymap.models import Classifier, make_classifier

IMAGES = random_images(3).double()
FEW = 5
SPECS = (
    "occlusion:window=0.4",
    "feature_ablation:segments=6",
    "shapley_sampling:segments=6,samples=3",
    "lime:segments=6,samples=20",
    "kernel_shap:segments=6,samples=20",
)


def explain(spec: str, classifier: Classifier, batch: Batch) -> Tensor:
    return bind_method(spec).explain(classifier, batch)


def values(maps: Tensor, labels: Tensor) -> Tensor:
    """(B, N): the value of each part, which all its pixels must have."""
    found = []
    for drawn, cut in zip(maps[:, 0], labels, strict=True):
        parts = [drawn[cut == part] for part in range(int(cut.max()) + 1)]
        assert all(bool((part == part[0]).all()) for part in parts)
        found.append(torch.stack([part[0] for part in parts]))
    return torch.stack(found)


def logit(classifier: Classifier, batch: Batch, place: int, there: NDArray[np.bool_]) -> float:
    """Ask for one coalition of one image, the absent parts black."""
    labels = superpixels(batch.images[place : place + 1], len(there))[0]
    image = batch.images[place].clone()
    for part in np.flatnonzero(~there):
        image[:, labels == part] = 0
    with torch.no_grad():
        return float(classifier(image[None])[0, batch.targets[place]])


def game(classifier: Classifier, batch: Batch, place: int) -> dict[frozenset[int], float]:
    """The logit of every coalition of `FEW` parts."""
    found = {}
    for number in range(2**FEW):
        there = (number >> np.arange(FEW)) % 2 == 1
        members = frozenset(np.flatnonzero(there).tolist())
        found[members] = logit(classifier, batch, place, there)
    return found


def shapley(worth: dict[frozenset[int], float]) -> list[float]:
    """The definition."""
    found = [0.0] * FEW
    for members, value in worth.items():
        for part in set(range(FEW)) - members:
            weight = factorial(len(members)) * factorial(FEW - len(members) - 1) / factorial(FEW)
            found[part] += weight * (worth[members | {part}] - value)
    return found


# --- Shapley values -------------------------------------------------------------------------------


def test_kernel_shap_with_every_coalition_is_the_shapley_value(conv64: Classifier) -> None:
    batch = batch_of(IMAGES)
    maps = explain(f"kernel_shap:segments={FEW},samples=30", conv64, batch)
    exact = np.array([shapley(game(conv64, batch, place)) for place in range(len(IMAGES))])
    found = values(maps, superpixels(IMAGES, FEW))
    torch.testing.assert_close(found, torch.from_numpy(exact), rtol=0, atol=1e-12)
    # One less, and it must draw.
    drawn = explain(f"kernel_shap:segments={FEW},samples=29", conv64, batch)
    assert not torch.allclose(drawn, maps, atol=1e-6)


def test_sampled_orders_come_to_the_shapley_value(conv64: Classifier) -> None:
    """Within four standard errors of so many pairs of orders; the worst that pairs can be."""
    samples = 800
    batch = batch_of(IMAGES[:1])
    worth = game(conv64, batch, 0)
    rises = []
    for order in permutations(range(FEW)):
        before = [frozenset(order[:rank]) for rank in range(FEW)]
        rise = [worth[one | {part}] - worth[one] for one, part in zip(before, order, strict=True)]
        rises.append([rise[order.index(part)] for part in range(FEW)])
    error = np.std(rises, axis=0) / np.sqrt(samples / 2)
    maps = explain(f"shapley_sampling:segments={FEW},samples={samples}", conv64, batch)
    found = values(maps, superpixels(IMAGES[:1], FEW))[0].numpy()
    apart = np.abs(found - shapley(worth))
    assert (apart < 4 * error).all()
    # What is known of so few orders is not enough to tell: the game is no simpler than that.
    assert error.min() > 0


class Square(nn.Module):
    """The square of a linear function with an intercept, times 1, 2 and 3."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3 * SIDE**2, 1)

    def forward(self, images: Tensor) -> Tensor:
        squares: Tensor = self.linear(images.flatten(1)).square()
        return squares * torch.tensor([1.0, 2.0, 3.0])


@pytest.mark.parametrize(
    "spec",
    [
        "shapley_sampling:segments=20,samples=2",
        "shapley_sampling:segments=20,samples=4",
        "kernel_shap:segments=20,samples=120",
    ],
)
def test_pairs_are_exact_where_no_more_than_two_parts_interact(spec: str) -> None:
    """An order and itself backwards, a coalition and its complement. Covert and Lee 2021."""
    square = tiny(lambda: Square().double())
    linear = square.module.network.get_submodule("linear")
    assert isinstance(linear, nn.Linear)
    batch = batch_of(IMAGES)
    labels = superpixels(IMAGES, 20)
    pixels = (linear.weight.view(1, 3, SIDE, SIDE) * IMAGES).sum(dim=1)
    own = torch.stack([(pixels * (labels == part)).sum(dim=(1, 2)) for part in range(20)], dim=1)
    # (c + sum)^2: each square, half of each product with another, and of that with c all.
    expected = own * (own.sum(dim=1, keepdim=True) + 2 * linear.bias)
    expected = expected * torch.tensor([[1.0], [2.0], [3.0]])
    found = values(explain(spec, square, batch), labels)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("baseline", ["black", "random"])
@pytest.mark.parametrize("spec", ["kernel_shap:samples=33", "shapley_sampling:samples=1"])
def test_values_add_up_to_what_is_explained(spec: str, baseline: str, conv64: Classifier) -> None:
    """Also where there are fewer coalitions than parts."""
    batch = batch_of(IMAGES)
    maps = explain(f"{spec},segments=40,baseline={baseline}", conv64, batch)
    ends = [conv64(images) for images in (IMAGES, BASELINES[baseline].make(batch))]
    delta = (ends[0] - ends[1]).gather(1, batch.targets[:, None])[:, 0]
    found = values(maps, superpixels(IMAGES, 40)).sum(dim=1)
    torch.testing.assert_close(found, delta, rtol=0, atol=1e-12)


# --- LIME -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("ridge", [0.0, 1.0, 7.0])
def test_lime_is_a_weighted_ridge_regression(ridge: float, conv64: Classifier) -> None:
    """By the normal equations, with an intercept that is not penalised."""
    batch = batch_of(IMAGES)
    maps = explain(f"lime:segments={FEW},samples=40,ridge={ridge}", conv64, batch)
    found = values(maps, superpixels(IMAGES, FEW))
    for place, rng in enumerate(batch.generators("lime")):
        there = lime_coalitions(rng, 40, FEW)
        assert there[0].all()
        assert 0.3 < there[1:].mean() < 0.7
        logits = np.array([logit(conv64, batch, place, row) for row in there])
        far = [cosine(1.0 * row, np.ones(FEW)) if row.any() else 1.0 for row in there]
        kernel = np.exp(-(np.array(far) ** 2) / 0.25**2) ** 0.5
        table = np.column_stack([np.ones(40), there])
        penalty = ridge * np.diag([0.0] + [1.0] * FEW)
        solved = np.linalg.solve(
            table.T @ (kernel[:, None] * table) + penalty, table.T @ (kernel * logits)
        )
        np.testing.assert_allclose(found[place], solved[1:], rtol=0, atol=1e-10)


# --- one part at a time ---------------------------------------------------------------------------


def oblong(size: tuple[int, int]) -> Classifier:
    def build() -> nn.Module:
        convolution = nn.Conv2d(3, 4, 3, padding=1)
        linear = nn.Linear(4 * size[0] * size[1], 3)
        return nn.Sequential(convolution, nn.ReLU(), nn.Flatten(), linear).double()

    return make_classifier(seeded(build), size)


@pytest.mark.parametrize("size", [(13, 18), (9, 7), (16, 16), (2, 5)])
@pytest.mark.parametrize(
    "spec",
    [
        *(f"occlusion:window={window}" for window in (0.05, 0.33, 0.5, 1.0)),
        "occlusion:baseline=random",
        "feature_ablation:segments=9,baseline=white",
        "feature_ablation:baseline=random",
    ],
)
def test_sides_of_any_length_agree_with_captum(spec: str, size: tuple[int, int]) -> None:
    method, classifier = bind_method(spec), oblong(size)
    batch = batch_of(random_images(2, 20)[:, :, : size[0], : size[1]].double())
    with count_passes(classifier) as counts:
        own = method.explain(classifier, batch)
    with count_passes(classifier) as theirs:
        expected = method.explain(classifier, batch, "captum")
    torch.testing.assert_close(own, expected, rtol=1e-6, atol=1e-6 * float(expected.abs().max()))
    assert counts.forward == theirs.forward == 2 * method.forward_only(size)


def test_closed_forms_follow_the_parameters() -> None:
    """The check takes the parameters of a spec, not the defaults."""
    for spec in (
        "occlusion:window=0.5,baseline=white",
        "feature_ablation:segments=9,baseline=random",
        "shapley_sampling:segments=5,baseline=white,samples=1",
        "lime:segments=9,baseline=white,ridge=0",
        "kernel_shap:segments=9,baseline=random,samples=80",
    ):
        findings = check_method(bind_method(spec))
        assert findings["linear"].result == "passed", spec
        assert not [name for name, found in findings.items() if found.result == "failed"], spec
    # With a penalty, or too few coalitions, there is none.
    for spec in ("lime:segments=9", "lime:samples=30,ridge=0", "kernel_shap:samples=60"):
        left_open = check_method(bind_method(spec))["linear"]
        assert left_open.reason == "no closed form is declared", spec


def test_a_map_of_a_part_is_a_closed_form_of_its_own(linear64: Classifier) -> None:
    """On a linear network, in loops: what each superpixel adds, or each window over a pixel."""
    layer = linear64.module.network.get_submodule("1")
    assert isinstance(layer, nn.Linear)
    batch = batch_of(IMAGES[:1])
    product = (layer.weight[0].view(3, SIDE, SIDE) * IMAGES[0]).sum(dim=0).detach().numpy()
    labels = superpixels(IMAGES[:1], 9)[0].numpy()
    sums = np.array([product[labels == part].sum() for part in range(9)])[labels]
    for name in ("feature_ablation", "shapley_sampling", "kernel_shap", "lime:ridge=0"):
        found = explain(f"{name}{',' if ':' in name else ':'}segments=9", linear64, batch)
        np.testing.assert_allclose(found[0, 0], sums, rtol=0, atol=1e-10)
    total, times = np.zeros((SIDE, SIDE)), np.zeros((SIDE, SIDE))
    for top in range(0, SIDE - 2, 2):
        for left in range(0, SIDE - 2, 2):
            window = (slice(top, top + 4), slice(left, left + 4))
            total[window] += product[window].sum()
            times[window] += 1
    found = explain("occlusion:window=0.25", linear64, batch)
    np.testing.assert_allclose(found[0, 0], total / times, rtol=0, atol=1e-10)


# --- superpixels ----------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    height=st.integers(1, 24),
    width=st.integers(1, 24),
    segments=st.integers(2, 120),
    kind=st.sampled_from(["noise", "constant", "beyond", "halves"]),
    seed=st.integers(0, 9),
)
def test_there_are_as_many_superpixels_as_asked_for(
    height: int, width: int, segments: int, kind: str, seed: int
) -> None:
    noise = torch.from_numpy(generator("pixels", seed).random((1, 3, height, width)))
    halves = torch.zeros_like(noise)
    halves[..., width // 2 :] = 1
    images = {
        "noise": noise,
        "constant": torch.full_like(noise, 0.3),
        "beyond": 40 * noise - 20,
        "halves": halves,
    }[kind]
    labels = superpixels(images, segments)
    expected = min(segments, height * width)
    assert labels.shape == (1, height, width)
    assert labels.unique().tolist() == list(range(expected))


def photograph() -> Tensor:
    """Smooth patches of colour with a little noise."""
    coarse = torch.nn.functional.interpolate(random_images(1, 8), (64, 64), mode="bicubic")
    return (coarse + 0.02 * random_images(1, 64, seed=1)).double()


def test_superpixels_are_slic_s_mended_by_halves() -> None:
    image = photograph()
    colours = image[0].float().double().permute(1, 2, 0).numpy()
    plain = slic(colours, n_segments=50, compactness=COMPACTNESS, sigma=BLUR, start_label=0)
    found = int(plain.max()) + 1
    assert found < 50
    labels = superpixels(image, 50)[0].numpy()
    homes = pd.DataFrame({"ours": labels.ravel(), "slic": plain.ravel()}).drop_duplicates()
    # Each of ours lies in one of SLIC's, and no more of them were cut than are missing.
    assert len(homes) == 50
    assert (homes["slic"].value_counts() == 1).sum() >= found - (50 - found)
    sizes = np.bincount(labels.ravel())
    assert sizes.max() <= np.bincount(plain.ravel()).max()


def test_superpixels_are_the_same_in_another_precision_and_batch() -> None:
    images = torch.cat([photograph(), photograph().flip(-1)]).float()
    together = superpixels(images, 30)
    assert torch.equal(superpixels(images.double()[1:], 30), together[1:])
    assert not torch.equal(together[0], together[1])
    # A result is nobody's to change: the next one who asks gets it, too.
    superpixels(images, 30).zero_()
    assert torch.equal(superpixels(images, 30), together)


def test_an_image_with_holes_has_no_superpixels() -> None:
    image = random_images(1)
    image[0, 1, 2, 3] = torch.nan
    with pytest.raises(ValueError, match="superpixels need an image whose values are finite"):
        superpixels(image, 5)


# --- pairs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", SPECS)
def test_a_perturbed_image_has_parts_of_its_own(spec: str, conv64: Classifier) -> None:
    batch = batch_of(IMAGES + 0.4 * random_images(3, seed=9))
    maps = explain(spec, conv64, batch)
    part = explain(spec, conv64, batch.part(slice(1, 3)))
    torch.testing.assert_close(part, maps[1:], rtol=0, atol=1e-12)
    if "segments" in spec:
        values(maps, superpixels(batch.images, 6))
        # Those of the clean image would be others.
        assert not torch.equal(superpixels(IMAGES, 6), superpixels(batch.images, 6))


def parts_alone(_classifier: Classifier, batch: Batch) -> Tensor:
    return superpixel_parts(batch, 7, "black").labels[:, None].to(batch.images.dtype)


def test_every_view_is_cut_by_what_is_to_be_seen_in_it(
    monkeypatch: pytest.MonkeyPatch, classifier: Classifier
) -> None:
    """Noise moves the parts; other weights, another batch and double precision do not."""
    monkeypatch.setitem(methods_module.METHODS, "parts", Method(parts_alone, "", ""))
    plan = Plan(
        controls=False,
        nulls=1,
        method=("parts",),
        metric=("relative_l2",),
        severity={"bias": (0.3,), "compensated_bias": (-0.3,), "gaussian_noise": (0.3,)},
        family=("bias", "compensated_bias", "gaussian_noise"),
        draws=1,
        batch_size=3,
    )
    found = run(classifier, image_set(), plan)
    records = pick(found, metric="relative_l2")
    families = set(records["family"])
    assert {"bias", "compensated_bias", "gaussian_noise"} < families
    assert {"batch_of_one", "rounded_image", "float64"} < families
    apart = records.groupby("family", observed=True)["value"].max()
    assert apart[["batch_of_one", "float64"]].eq(0).all()
    # These are held against each other by their order alone.
    alike = pick(found, metric="spearman").groupby("family", observed=True)["value"].min()
    assert alike["random_network"] == pytest.approx(1)
    assert alike["other_image"] < 1
    # The least there is, over the images: each has other parts.
    noisy = pick(records, family="gaussian_noise")["value"]
    assert noisy.min() > 0


PLAN = Plan(
    controls=False,
    nulls=1,
    method=SPECS,
    metric=("relative_l2", "spearman"),
    family=("compensated_bias", "salt_and_pepper"),
    severity={"compensated_bias": (0.2,), "salt_and_pepper": (0.1,)},
    draws=1,
    batch_size=2,
    admission=False,
)


def test_workers_and_batches_change_nothing(classifier: Classifier) -> None:
    records = run(classifier, image_set(), PLAN).drop(columns="run_id")
    # An image may have no other of its class.
    of_class = records["metric"].astype(str).str.contains(MATCHED_CLASS)
    assert set(records[~of_class]["status"]) == {"ok"}
    for changes in ({"jobs": 2}, {"batch_size": 5}):
        other = run(classifier, image_set(), PLAN.model_copy(update=changes)).drop(columns="run_id")
        names = [name for name in records if name != "value"]
        pd.testing.assert_frame_equal(other[names], records[names])
        np.testing.assert_allclose(other["value"], records["value"], rtol=0, atol=1e-4)


# --- counts ---------------------------------------------------------------------------------------


def test_passes_of_a_run_are_known_beforehand(classifier: Classifier, tmp_path: Path) -> None:
    setup = prepare(classifier, image_set(), PLAN.model_copy(update={"nulls": 0}))
    planned = count(setup)
    with count_passes(classifier) as counts:
        list(measure(setup, lambda _count: None))
    assert (planned.forward, planned.backward) == (counts.forward, counts.backward)
    assert not planned.at_least
    # A window of 6 pixels, by 3; six parts and the image; 3 orders of 5 steps; 20; 20, both ends.
    expected = [25 + 1, 7, 17, 20, 22]
    by_method = setup.passes()
    assert [one["forward_only"] for one in by_method.values()] == expected
    assert {one["each"] for one in by_method.values()} == {0}
    assert planned.forward == 5 * 3 * (1 + sum(expected))
    specs = [method.spec for method in setup.methods]
    costs = method_costs(tmp_path, {"methods": specs, "passes_by_method": by_method})
    assert costs["forward_only"].tolist() == expected
    assert costs["passes"].tolist() == [0] * 5


def test_a_single_pixel_is_a_single_player() -> None:
    """Its value is the whole logit difference."""
    pixel = make_classifier(seeded(lambda: linear_network(1)), (1, 1), CLASSES)
    images = random_images(3, 1)
    targets = pixel(images).argmax(dim=1)
    found = bind_method("shapley_sampling").explain(
        pixel, replace(batch_of(images), targets=targets)
    )
    rise = (pixel(images) - pixel(torch.zeros_like(images))).gather(1, targets[:, None])
    torch.testing.assert_close(found.flatten(1), rise)
