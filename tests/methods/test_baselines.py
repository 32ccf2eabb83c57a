"""Where paths start: baselines, several draws of one, and images of the data set."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.ndimage import gaussian_filter
from scipy.stats import kstest
from support import SIDE, batch_of, image_set, on_demand, pick, random_images, write_noise
from torch import Tensor, nn

from steadymap.bench.checks import networks as known
from steadymap.bench.checks.registry import CHECKS
from steadymap.bench.checks.subject import Subject
from steadymap.bench.checks.subject import batch_of as known_batch
from steadymap.bench.core.errors import ConfigError
from steadymap.bench.data.image_set import ImageSet
from steadymap.bench.data.opening import open_images
from steadymap.bench.gallery.steps import completeness_by_steps
from steadymap.bench.measure.estimate import count
from steadymap.bench.measure.runner import measure, run
from steadymap.bench.methods.baselines import BASELINES, NOISY_BASELINE
from steadymap.bench.methods.batch import Batch, draws_of, places_of_others
from steadymap.bench.methods.binding import bind_method
from steadymap.bench.methods.registry import METHODS
from steadymap.bench.network.passes import count_passes
from steadymap.bench.perturbations.apply import perturb
from steadymap.bench.perturbations.cell import CLEAN_CELL, Cell
from steadymap.bench.plan.plan import Plan
from steadymap.bench.plan.setup import prepare
from steadymap.bench.records.vocabulary import FLOAT64
from steadymap.bench.runs.draw_up import draw_up
from steadymap.models import Classifier

IMAGES64 = random_images(4).double()
DRAWN = [name for name, baseline in BASELINES.items() if baseline.drawn]
COMPARING = (
    "expected_gradients:samples=5",
    "gradient_shap:samples=5",
    "deep_lift_shap:baselines=3",
)


def explain(spec: str, classifier: Classifier, batch: Batch) -> Tensor:
    return bind_method(spec).explain(classifier, batch)


# --- baselines ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BASELINES)
def test_a_baseline_is_made_by_the_function_of_its_name(name: str) -> None:
    assert on_demand(BASELINES[name])["make"].load().__name__ == name


def test_baselines_are_their_definitions() -> None:
    images = torch.rand(2, 3, 14, 22, generator=torch.Generator().manual_seed(1)).double()
    others = torch.rand(5, 3, 14, 22, generator=torch.Generator().manual_seed(2)).double()
    batch = replace(batch_of(IMAGES64[:2]), images=images, references=others)
    made = {name: baseline.make(batch) for name, baseline in BASELINES.items()}
    blurred = gaussian_filter(images.numpy(), (0, 0, 14 * 10 / 224, 14 * 10 / 224), mode="nearest")
    np.testing.assert_allclose(made["blur"], blurred, rtol=0, atol=1e-12)
    for image, mean, farthest in zip(images, made["mean"], made["max_distance"], strict=True):
        for channel in range(3):
            assert mean[channel].unique().item() == pytest.approx(float(image[channel].mean()))
        assert set(farthest.unique().tolist()) == {0.0, 1.0}
        distances = torch.stack([image, 1 - image])
        assert torch.equal((farthest - image).abs(), distances.max(dim=0).values)
    for row in made["average"]:
        torch.testing.assert_close(row, sum(others) / 5)


def test_noises_have_their_distribution() -> None:
    batch = batch_of(random_images(2, 64))
    for name in ("random", "uniform"):
        assert kstest(BASELINES[name].make(batch).flatten().numpy(), "uniform").pvalue > 0.01
    assert not torch.equal(BASELINES["random"].make(batch), BASELINES["uniform"].make(batch))
    noise = (BASELINES["gaussian"].make(batch) - batch.images) / NOISY_BASELINE
    assert kstest(noise.flatten().numpy(), "norm").pvalue > 0.01
    assert not torch.equal(noise[0], noise[1])


@pytest.mark.parametrize("name", BASELINES)
def test_what_a_baseline_depends_on_is_what_it_declares(name: str) -> None:
    baseline, batch = BASELINES[name], batch_of(IMAGES64)
    usual = baseline.make(batch)
    assert usual.shape == IMAGES64.shape
    other_image = baseline.make(replace(batch, images=IMAGES64.flip(3)))
    moved = baseline.make(replace(batch, images=IMAGES64 + 0.3))
    other_seed = baseline.make(replace(batch, draws=batch_of(IMAGES64, seed=1).draws))
    other_data = baseline.make(replace(batch, references=random_images(3, seed=7).double()))
    # An image turned about has the same mean colour.
    assert torch.allclose(usual, other_image) != (baseline.of_image and name != "mean")
    assert torch.allclose(usual, moved) != baseline.of_image
    assert torch.allclose(usual + 0.3, moved) == baseline.moves_along
    assert torch.equal(usual, other_seed) != baseline.drawn
    assert torch.allclose(usual, other_data) != baseline.of_data
    # It belongs to the image, not to its place.
    alone = batch.part(slice(2, 3))
    torch.testing.assert_close(baseline.make(alone), usual[2:3], rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "spec", ["integrated_gradients:baseline=average", "expected_gradients", "deep_lift_shap"]
)
def test_without_images_of_the_data_set_the_error_says_what_to_give(
    spec: str, conv64: Classifier
) -> None:
    assert bind_method(spec).needs_references
    with pytest.raises(ValueError, match=r"images of the data set .* Batch\(\.\.\., references="):
        explain(spec, conv64, replace(batch_of(IMAGES64), references=None))


# What a baseline can change; the others are in the test of all methods.
OF_BASELINES = (
    *("linear", "homogeneous", "antisymmetric", "at_baseline", "completeness"),
    *("normalisation", "batching", "repeat", "shift_invariant", "stochastic", "captum"),
)


@pytest.mark.parametrize("baseline", BASELINES)
@pytest.mark.parametrize("method", ["integrated_gradients", "deep_lift"])
def test_the_checks_hold_with_every_baseline(method: str, baseline: str) -> None:
    subject = Subject(bind_method(f"{method}:baseline={baseline}"))
    findings = {name: CHECKS[name].run(subject) for name in OF_BASELINES}
    assert not {name: one.reason for name, one in findings.items() if one.result == "failed"}
    left_out = {name for name, one in findings.items() if one.result == "not applicable"}
    expected = {"homogeneous"} if baseline != "black" else set()
    assert left_out == expected | ({"at_baseline"} if BASELINES[baseline].of_image else set())
    assert all(one.reason for one in findings.values() if one.result == "not applicable")


# --- several starts -------------------------------------------------------------------------------


@pytest.mark.parametrize("baseline", DRAWN)
def test_averaged_integrated_gradients_are_the_mean_over_draws(
    baseline: str, conv64: Classifier
) -> None:
    bound = bind_method(f"integrated_gradients_averaged:baseline={baseline},baselines=3,steps=4")
    batch = batch_of(IMAGES64)
    assert bound.start is not None
    starts = list(bound.start.images(batch))
    assert torch.equal(starts[0], BASELINES[baseline].make(batch))
    assert len({float(start.sum()) for start in starts}) == 3
    nodes, weights = np.polynomial.legendre.leggauss(4)
    expected = torch.zeros_like(IMAGES64)
    for start in starts:
        for node, weight in zip((1 + nodes) / 2, weights / 2, strict=True):
            points = (start + node * (IMAGES64 - start)).requires_grad_()
            picked = conv64(points).gather(1, batch.targets[:, None]).sum()
            slope = torch.autograd.grad(picked, points)[0]
            expected += weight * slope * (IMAGES64 - start) / 3
    torch.testing.assert_close(bound.explain(conv64, batch), expected, rtol=0, atol=1e-12)


def test_of_one_draw_they_are_integrated_gradients(conv64: Classifier) -> None:
    batch = batch_of(IMAGES64)
    one = explain("integrated_gradients_averaged:baselines=1,steps=9", conv64, batch)
    usual = explain("integrated_gradients:baseline=uniform,steps=9", conv64, batch)
    torch.testing.assert_close(one, usual, rtol=0, atol=1e-12)


def test_fewer_images_of_the_data_set_take_turns() -> None:
    start = bind_method("deep_lift_shap:baselines=5").start
    assert start is not None
    batch = replace(batch_of(IMAGES64), references=random_images(2, seed=5).double())
    found = [int((one[0] == batch.need_references()[1]).all()) for one in start.images(batch)]
    assert found == [0, 1, 0, 1, 0]


def samples_of(
    batch: Batch, samples: int, noise: float
) -> list[list[tuple[Tensor, Tensor, float]]]:
    """Draw, image by image: where a path starts, where it ends, and the place on it."""
    references = batch.need_references()
    found = []
    for image, rng in zip(batch.images, batch.generators("expected gradients"), strict=True):
        rows = []
        for _ in range(samples):
            start, place = references[rng.integers(len(references))], rng.random()
            drawn = torch.from_numpy(np.asarray(rng.normal(size=image.shape if noise else ())))
            rows.append((start, image + noise * drawn, place))
        found.append(rows)
    return found


@pytest.mark.parametrize(
    ("spec", "noise"), [("expected_gradients:", 0.0), ("gradient_shap:noise=0.2,", 0.2)]
)
def test_expected_gradients_are_their_definition(
    spec: str, noise: float, conv64: Classifier, linear64: Classifier
) -> None:
    """On a linear network in closed form: its weights times the mean way."""
    batch = batch_of(IMAGES64)
    drawn = samples_of(batch, 7, noise)
    expected = torch.zeros_like(IMAGES64)
    for row, samples in enumerate(drawn):
        for start, end, place in samples:
            point = (start + place * (end - start))[None].requires_grad_()
            slope = torch.autograd.grad(conv64(point)[0, batch.targets[row]], point)[0][0]
            expected[row] += slope * (end - start) / 7
    for at_once in (1, 4, 32):
        maps = explain(f"{spec}samples=7", conv64, replace(batch, at_once=at_once))
        torch.testing.assert_close(maps, expected, rtol=0, atol=1e-12)
    layer = linear64.module.network.get_submodule("1")
    assert isinstance(layer, nn.Linear)
    way = torch.stack(
        [torch.stack([end - start for start, end, _ in one]).mean(dim=0) for one in drawn]
    )
    closed = layer.weight[batch.targets].view_as(way) * way
    maps = explain(f"{spec}samples=7", linear64, batch)
    torch.testing.assert_close(maps, closed, rtol=0, atol=1e-12)


def test_gradient_shap_without_noise_is_expected_gradients(conv64: Classifier) -> None:
    batch = batch_of(IMAGES64)
    found = explain("gradient_shap:noise=0,samples=6", conv64, batch)
    assert torch.equal(found, explain("expected_gradients:samples=6", conv64, batch))


def test_expected_gradients_are_complete_in_expectation() -> None:
    """The error of the mean is of the order of its standard error."""
    network, batch = known.smooth(), known_batch(known.images(2))
    references = batch.need_references()
    before = torch.stack([network(one[None]) for one in references]).mean(dim=0)
    delta = (network(batch.images) - before).gather(1, batch.targets[:, None])[:, 0]
    found = [
        explain("expected_gradients:samples=50", network, batch.redrawn(number))
        for number in range(20)
    ]
    sums = torch.stack(found).sum(dim=(2, 3, 4))
    error = (sums.mean(dim=0) - delta).abs() / (sums.std(dim=0) / 20**0.5)
    assert float(error.max()) < 3


# --- in a run -------------------------------------------------------------------------------------

PLAN = Plan(
    controls=False,
    nulls=0,
    family=("bias", "compensated_bias", "gaussian_noise"),
    severity={"bias": (-0.2, 0.2), "compensated_bias": (0.3,), "gaussian_noise": (0.1,)},
    draws=2,
    batch_size=2,
    metric=("relative_l2", "completeness_error"),
)
STARTING = (
    *(f"integrated_gradients:steps=3,baseline={name}" for name in BASELINES),
    "deep_lift:baseline=gaussian",
    "integrated_gradients_averaged:baseline=gaussian,baselines=3,steps=2",
    "integrated_gradients_averaged:baseline=uniform,baselines=2,steps=2",
    *COMPARING,
)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        *({"method": (method,)} for method in STARTING[5:]),
        {"metric": ("ssim",), "method": STARTING[-5:]},
        {"nulls": 2, "method": STARTING[-5:], "metric": None, "admission": False},
        {"engine": "captum", "method": STARTING[:3]},
    ],
)
def test_the_planner_counts_every_start(classifier: Classifier, changes: dict[str, Any]) -> None:
    plan = PLAN.model_copy(update={"method": STARTING} | changes)
    if plan.method and plan.method[0].startswith(("expected", "gradient_shap")):
        plan = plan.model_copy(update={"metric": ("relative_l2",)})
    setup = prepare(classifier, image_set(), plan)
    planned = count(setup)
    with count_passes(classifier) as counts:  # copies of the network bring the counter along
        list(measure(setup, lambda _count: None))
    assert (planned.forward, planned.backward) == (counts.forward, counts.backward)


def shuffled(images: ImageSet, order: list[int]) -> ImageSet:
    return replace(
        images,
        pictures=tuple(images.pictures[place] for place in order),
        read=lambda index: images.read(order[index]),
    )


def test_workers_batches_and_order_change_nothing(classifier: Classifier) -> None:
    plan = PLAN.model_copy(update={"method": STARTING})
    keys = ["image_id", "method", "family", "severity", "draw", "metric"]
    found = run(classifier, image_set(), plan)
    assert set(found["status"]) == {"ok"}
    types = dict.fromkeys(keys, str)
    expected = found.astype(types).set_index(keys)["value"].astype(float).sort_index()
    for images, changes in (
        (image_set(), {"jobs": 2}),
        (image_set(), {"batch_size": 5}),
        (shuffled(image_set(), [3, 1, 4, 0, 2]), {}),
    ):
        other = run(classifier, images, plan.model_copy(update=changes)).astype(types)
        values = other.set_index(keys)["value"].astype(float).sort_index()
        pd.testing.assert_series_equal(values, expected, rtol=1e-3, atol=1e-5)


def test_completeness_is_held_against_the_baseline_of_each_view(classifier: Classifier) -> None:
    specs = (
        "integrated_gradients:baseline=max_distance,steps=3",
        "integrated_gradients_averaged:baseline=gaussian,baselines=2,steps=3",
        "deep_lift_shap:baselines=3",
    )
    plan = PLAN.model_copy(update={"method": specs})
    images, cell = image_set(), Cell("gaussian_noise", 0.1, 1)
    setup = prepare(classifier, images, plan)
    found = run(classifier, images, plan)
    picture = images.pictures[2]
    clean = images.read(2).image[None]
    nudged = perturb(clean[0], cell, picture.image_id, 0)[None]
    target = classifier(clean).argmax(dim=1)
    assert setup.references is not None
    batch = Batch(
        nudged,
        target,
        draws_of(0, [picture.image_id], (cell.family, cell.severity, cell.draw)),
        references=setup.references.images,
        reference_places=places_of_others([picture.image_id], setup.references.ids),
    )
    for method in setup.methods:
        assert method.start is not None
        before = torch.stack([classifier(start) for start in method.start.images(batch)])
        delta = (classifier(nudged) - before.mean(dim=0))[0, target].item()
        error = abs(float(method.explain(classifier, batch).double().sum()) - delta)
        row = {"image_id": picture.image_id, "method": method.spec, "draw": 1}
        value = pick(found, **row, family=cell.family, metric="completeness_error")["value"].item()
        assert value == pytest.approx(error, abs=1e-4)
    deep = pick(found, method="deep_lift_shap:baselines=3", metric="completeness_error")
    assert deep["value"].max() < 1e-4, "exact but for rounding"


def test_completeness_by_steps_is_tried_from_every_baseline(classifier: Classifier) -> None:
    specs = tuple(f"integrated_gradients:baseline={name},steps=4" for name in BASELINES)
    setup = prepare(classifier, image_set(), PLAN.model_copy(update={"method": specs}))
    tried = completeness_by_steps(setup)
    assert set(tried["method"]) == {f"integrated_gradients:baseline={name}" for name in BASELINES}
    assert tried["completeness_error"].notna().all()


def test_images_of_the_data_set_are_read_only_for_methods_that_take_them(
    classifier: Classifier,
) -> None:
    def plan(*methods: str) -> Plan:
        return PLAN.model_copy(update={"method": methods, "metric": ("relative_l2",)})

    images = image_set(20)
    usual = prepare(classifier, images, plan("gradient"))
    assert usual.references is None
    setup = prepare(classifier, images, plan(*COMPARING))
    assert setup.references is not None
    # One more than an image is compared with, in the order of their ids.
    assert setup.references.images.shape == (17, 3, SIDE, SIDE)
    expected = sorted(picture.image_id for picture in images.pictures)[:17]
    assert list(setup.references.ids) == expected
    # A part of the set, or another order, has the same.
    other = prepare(classifier, shuffled(images, [19, 3, 7]), plan(*COMPARING)).references
    assert other is not None
    assert other.ids == setup.references.ids
    assert torch.equal(other.images, setup.references.images)


def test_no_image_is_compared_with_itself_nor_with_a_copy() -> None:
    images = random_images(20)
    ids = tuple(f"id-{place}" for place in range(20))
    targets = torch.zeros(3, dtype=torch.int64)
    # The first and the last are among the references, under the same ids; the other is not.
    own = ("id-0", "id-19", "id-16")
    batch = Batch(
        images[[0, 19, 16]],
        targets,
        draws_of(0, own),
        references=images[[*range(16), 19]],
        reference_places=places_of_others(own, (*ids[:16], ids[19])),
    )
    assert batch.others() == [[*range(1, 17)], [*range(16)], [*range(16)]]
    average = BASELINES["average"].make(batch)
    torch.testing.assert_close(average[0], (images[1:16].sum(dim=0) + images[19]) / 16)
    torch.testing.assert_close(average[1], images[:16].mean(dim=0))
    beginning = bind_method("deep_lift_shap:baselines=40").start
    assert beginning is not None
    for start in beginning.images(batch):
        assert not any(torch.equal(*pair) for pair in zip(start, batch.images, strict=True))
    few = replace(batch, references=images[:1], reference_places=places_of_others(own, ids[:1]))
    with pytest.raises(ValueError, match="no other image of the data set"):
        few.others()


@pytest.mark.parametrize("spec", COMPARING)
def test_an_image_among_few_others_has_the_others_alone(spec: str, linear64: Classifier) -> None:
    """On two images each is compared with the other: both ways sum to 0 on a linear network."""
    images = IMAGES64[:2]
    ids = ("a", "b")
    targets = torch.zeros(2, dtype=torch.int64)
    batch = Batch(
        images,
        targets,
        draws_of(0, ids),
        references=images,
        reference_places=places_of_others(ids, ids),
    )
    maps = explain(spec.replace("gradient_shap:", "gradient_shap:noise=0,"), linear64, batch)
    layer = linear64.module.network.get_submodule("1")
    assert isinstance(layer, nn.Linear)
    weights = layer.weight[0].view(3, SIDE, SIDE)
    torch.testing.assert_close(maps[0], weights * (images[0] - images[1]), rtol=0, atol=1e-12)
    torch.testing.assert_close(maps[1], weights * (images[1] - images[0]), rtol=0, atol=1e-12)


def test_a_unit_is_named_for_the_images_that_it_was_compared_with(
    tmp_path: Path, classifier: Classifier
) -> None:
    """The same within any limit; others as soon as one of them has other pixels."""
    for number in range(40):
        write_noise(tmp_path / "ab"[number % 2] / f"{number}.png", number)
    plan = PLAN.model_copy(
        update={"method": ("gradient", "expected_gradients:samples=5"), "metric": ("relative_l2",)}
    )

    def named(limit: int) -> dict[str, str]:
        images = open_images(f"folder:{tmp_path}", classifier.framing, "all", limit)
        ledger = draw_up(prepare(classifier, images, plan), "r", "all")
        return ledger.grid(ledger.blocks[0], CLEAN_CELL)

    before = named(2)
    assert named(6) == before, "batches of two: the first block is the same"
    chosen = open_images(f"folder:{tmp_path}", classifier.framing, "all")
    compared = chosen.references(17).ids[10]
    place = next(one.name for one in chosen.pictures if one.image_id == compared)
    write_noise(tmp_path / place, 99)
    after = named(2)
    assert after["gradient"] == before["gradient"]
    expected = bind_method("expected_gradients:samples=5").spec
    assert after[expected] != before[expected]


# Of all methods with every baseline that they can have; those of many passes with few.
EVERY = (
    *(name for name in METHODS if name not in {"expected_gradients", "gradient_shap"}),
    *(f"integrated_gradients:steps=3,baseline={name}" for name in BASELINES),
    *(f"deep_lift:baseline={name}" for name in BASELINES),
    *COMPARING,
)


@pytest.mark.parametrize("form", ["hands", "folder"])
def test_a_limit_changes_no_record_of_the_images_within_it(
    form: str, tmp_path: Path, classifier: Classifier
) -> None:
    """To the bit, of all methods with every baseline: none looks at the run's other images."""
    for number in range(40 if form == "folder" else 0):
        write_noise(tmp_path / "ab"[number % 2] / f"{number}.png", number)
    spec = f"folder:{tmp_path}" if form == "folder" else "hands"
    split = "all" if form == "folder" else "test"
    # Batches of the same images, so that nothing is rounded otherwise.
    plan = PLAN.model_copy(
        update={"method": EVERY, "steps": 3, "batch_size": 2, "metric": None, "draws": 1}
    )
    keys = ["image_id", "method", "family", "severity", "metric"]
    found = [
        run(classifier, open_images(spec, classifier.framing, split, limit), plan)
        for limit in (2, 20)
    ]
    few, many = (
        records.astype(dict.fromkeys(keys, str)).set_index(keys)[["value", "status", "detail"]]
        for records in found
    )
    assert few.index.get_level_values("image_id").nunique() == 2
    assert many.index.get_level_values("image_id").nunique() == 20
    pd.testing.assert_frame_equal(many.loc[few.index], few, check_exact=True)
    assert (few["status"] == "ok").mean() > 0.7


def test_one_picture_has_no_others_to_compare_with(classifier: Classifier) -> None:
    plan = PLAN.model_copy(update={"method": ("expected_gradients",)})
    with pytest.raises(ConfigError, match="expected_gradients:samples=32 compares with other"):
        prepare(classifier, image_set(1), plan)


def test_references_follow_images_into_another_type(classifier: Classifier) -> None:
    plan = PLAN.model_copy(update={"method": COMPARING, "nulls": 1, "metric": ("relative_l2",)})
    found = pick(run(classifier, image_set(), plan), family=FLOAT64)
    assert set(found["method"]) == {bind_method(spec).spec for spec in COMPARING}
    assert set(found["status"]) == {"ok"}
    assert float(found["value"].max()) < 1e-4
