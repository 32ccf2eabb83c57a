"""Metrics that need the network: against captum, their definitions and closed forms."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from captum.metrics import infidelity as captum_infidelity
from captum.metrics import sensitivity_max
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from rich.console import Console
from support import (
    COUNT,
    SIDE,
    image_set,
    linear_network,
    measured,
    pick,
    plain,
    probe_evidence,
    random_images,
    tiny,
)
from torch import Tensor, nn

from steadymap.bench.analysis.findings import Findings
from steadymap.bench.core.randomness import generator
from steadymap.bench.data.image_set import from_tensor
from steadymap.bench.measure import probes
from steadymap.bench.measure.estimate import count, estimate
from steadymap.bench.measure.probes import PROBES_PART, grey_noise, neighbour
from steadymap.bench.measure.runner import measure, run
from steadymap.bench.methods import registry as methods_module
from steadymap.bench.methods.batch import Batch, draws_of
from steadymap.bench.methods.binding import bind_method
from steadymap.bench.methods.method import Method
from steadymap.bench.methods.paths import NestedPath
from steadymap.bench.methods.registry import METHODS
from steadymap.bench.network.passes import Pass, count_passes, shared_pass
from steadymap.bench.perturbations.corruptions import gaussian_blur
from steadymap.bench.plan.identity import run_id
from steadymap.bench.plan.plan import Plan
from steadymap.bench.plan.setup import prepare
from steadymap.bench.report.answer import answer
from steadymap.bench.report.terminal import footnotes, tables
from steadymap.metrics import METRICS, PROBES, Maps, Status, evaluate
from steadymap.metrics.faithfulness import (
    BLUR_SHARE,
    NOISE_DRAWS,
    NOISE_SPREAD,
    STEPS,
    Curve,
    Responses,
    area,
    enlarge,
    infidelity,
    places,
    taken,
)
from steadymap.metrics.neighbours import NEIGHBOURS, RADIUS, Neighbours, change, relative_change
from steadymap.models import Classifier

Array = NDArray[np.float64]
COSTLY = tuple(name for name, metric in METRICS.items() if metric.costly)
RELATIVE = tuple(name for name in COSTLY if name.startswith("relative"))
SPECS = (
    "gradient",
    "gradient_x_input",
    "integrated_gradients:baseline=black,steps=4",
    "grad_cam:relu=false",
)
PLAN = Plan(method=SPECS, family=("bias",), severity=(0.1,), metric=COSTLY, nulls=0, controls=False)
ANY = Maps(np.array([[[1.0, 2.0]]]))


@pytest.fixture(scope="module")
def records(classifier: Classifier) -> pd.DataFrame:
    return run(classifier, image_set(), PLAN)


@pytest.fixture(scope="module")
def linear() -> Classifier:
    return tiny(linear_network)


def value(records: pd.DataFrame, spec: str, metric: str, index: int) -> float:
    image_id = image_set().pictures[index].image_id
    rows = pick(records, method=spec, metric=metric, image_id=image_id)
    return float(rows["value"].item())


IDS = tuple(picture.image_id for picture in image_set().pictures)


def clean_batch(classifier: Classifier) -> Batch:
    clean = image_set().images(range(COUNT))
    return Batch(clean, classifier(clean).argmax(dim=1), draws_of(PLAN.seed, IDS))


def explained(classifier: Classifier, spec: str, batch: Batch) -> Tensor:
    """Maps as the metrics read them: summed over channels, in double precision."""
    return bind_method(spec).explain(classifier, batch).double().sum(dim=1, keepdim=True)


def neighbours_of(batch: Batch, index: int) -> Tensor:
    near = [neighbour(batch.images[index], IDS[index], 0, k) for k in range(NEIGHBOURS)]
    return torch.stack(near)


def crowd(batch: Batch, index: int) -> Batch:
    """The neighbours of one image, to be explained as it is."""
    return Batch(
        neighbours_of(batch, index),
        batch.targets[index].expand(NEIGHBOURS),
        # Each is a view, and draws its own.
        sum((draws_of(0, [IDS[index]], ("neighbour", 0.0, k)) for k in range(NEIGHBOURS)), ()),
    )


# --- captum ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", SPECS)
def test_max_sensitivity_is_captum_s(
    spec: str, classifier: Classifier, records: pd.DataFrame
) -> None:
    batch = clean_batch(classifier)
    for index in range(COUNT):
        crowded = crowd(batch, index)

        def explain(images: Tensor | tuple[Tensor], crowded: Batch = crowded) -> tuple[Tensor]:
            shown = images[0] if isinstance(images, tuple) else images
            part = crowded.part(slice(len(shown)))
            with torch.enable_grad():  # captum switches it off
                return (explained(classifier, spec, replace(part, images=shown)),)

        def perturb(images: Tensor, _radius: float, crowded: Batch = crowded) -> Tensor:
            assert len(images) == NEIGHBOURS
            return crowded.images

        expected = sensitivity_max(
            explain, batch.images[index : index + 1], perturb, n_perturb_samples=NEIGHBOURS
        )
        found = value(records, spec, "max_sensitivity", index)
        assert found == pytest.approx(expected.item(), rel=1e-4)


def test_max_sensitivity_is_of_the_map_summed_over_channels() -> None:
    """By hand: what moves from one channel to another is a change for captum, and none here."""
    clean = np.array([[[[3.0]], [[0.0]], [[4.0]]]])
    moved = np.array([[[[4.0]], [[0.0]], [[3.0]]]])
    maps = [Maps.from_attributions(part) for part in (clean, moved)]
    found = change(maps[0].signed, maps[1].signed) / np.abs(maps[0].signed).sum()
    assert found == 0
    channelwise = sensitivity_max(
        lambda images: (
            torch.from_numpy(moved if float(images[0].sum()) else clean).expand(
                len(images[0]), -1, -1, -1
            ),
        ),
        torch.zeros(1, 1),
        lambda image, _radius: image + 1,
        n_perturb_samples=1,
    )
    assert channelwise.item() == pytest.approx(math.sqrt(2) / 5)
    # The other way about, the sum is all but gone: its change is large beside it.
    faint = np.array([[[[1.0]], [[-0.9]]]])
    louder = np.array([[[[1.1]], [[-0.9]]]])
    summed = [Maps.from_attributions(part).signed for part in (faint, louder)]
    assert change(*summed) / change(summed[0], 0 * summed[0]) == pytest.approx(1.0)
    assert change(faint, louder) / change(faint, 0 * faint) < 0.1


def test_what_speaks_against_the_class_changes_hands_last() -> None:
    ranks = places(np.array([[[-9.0, 0.5, 0.0, 2.0]]]), np.arange(4)[None])
    assert ranks.tolist() == [[[3, 1, 2, 0]]]


@pytest.mark.parametrize("spec", SPECS)
def test_infidelity_is_captum_s(spec: str, classifier: Classifier, records: pd.DataFrame) -> None:
    batch = clean_batch(classifier)
    attributions = bind_method(spec).explain(classifier, batch)
    if attributions.shape[2:] != (SIDE, SIDE):
        attributions = nn.functional.interpolate(attributions, (SIDE, SIDE), mode="bilinear")
        attributions = attributions.expand(-1, 3, -1, -1)
    for index in range(COUNT):
        noise = np.stack([grey_noise((SIDE, SIDE), IDS[index], 0, k) for k in range(NOISE_DRAWS)])
        grey = torch.from_numpy(noise)[:, None].expand(-1, 3, -1, -1).float()

        def perturb(images: Tensor, grey: Tensor = grey) -> tuple[Tensor, Tensor]:
            return grey, images - grey

        expected = captum_infidelity(
            classifier.module,
            perturb,
            batch.images[index : index + 1],
            attributions[index : index + 1],
            target=batch.targets[index : index + 1],
            n_perturb_samples=NOISE_DRAWS,
            normalize=True,
        )
        found = value(records, spec, "infidelity", index)
        assert found == pytest.approx(expected.item(), rel=1e-3)


# --- definitions ----------------------------------------------------------------------------------


def by_definition(classifier: Classifier, spec: str, index: int) -> dict[str, float]:
    """Lipschitz and the relative stabilities, neighbour by neighbour and value by value."""
    batch = clean_batch(classifier)
    near = crowd(batch, index)

    def flat(values: Tensor) -> list[float]:
        return [float(one) for one in values.double().flatten()]

    def norm(values: list[float]) -> float:
        return math.sqrt(sum(one * one for one in values))

    def relative(values: list[float], others: list[float]) -> float:
        least = 1e-6 * max(map(abs, values))
        pairs = zip(values, others, strict=True)
        return norm([(a - b) / max(abs(a), least) for a, b in pairs])

    def layer(images: Tensor) -> Tensor:
        below: Tensor = nn.Sequential(*list(classifier.module.network.children())[:5])(images)
        return below

    def apart(values: Tensor, others: Tensor) -> float:
        return norm(flat(others.double() - values.double()))

    image, one = batch.images[index], slice(index, index + 1)
    clean = explained(classifier, spec, batch.part(one))[0]
    moved = explained(classifier, spec, near)
    logits, prediction = classifier(image[None])[0], int(batch.targets[index])
    found: dict[str, list[float]] = {name: [] for name in ("local_lipschitz", *RELATIVE)}
    for other, image_near in zip(moved, near.images, strict=True):
        found["local_lipschitz"].append(apart(clean, other) / apart(image, image_near))
        logits_near = classifier(image_near[None])[0]
        if int(logits_near.argmax()) != prediction:
            continue
        top = relative(flat(clean), flat(other))
        below = {
            "relative_input_stability": relative(flat(image), flat(image_near)),
            "relative_output_stability": apart(logits, logits_near),
            "relative_representation_stability": relative(
                flat(layer(image[None])), flat(layer(image_near[None]))
            ),
        }
        for name, size in below.items():
            found[name].append(top / max(size, 1e-6))
    return {name: max(values, default=math.nan) for name, values in found.items()}


@pytest.mark.parametrize("spec", SPECS)
def test_neighbourhoods_are_as_defined(
    spec: str, classifier: Classifier, records: pd.DataFrame
) -> None:
    for index in (0, 3):
        for name, expected in by_definition(classifier, spec, index).items():
            assert value(records, spec, name, index) == pytest.approx(expected, rel=1e-2), name


def test_only_neighbours_of_the_same_prediction_count(
    classifier: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probes, "RADIUS", 2.0)
    found = run(classifier, image_set(), PLAN)
    batch = clean_batch(classifier)
    shares = set()
    for index in range(COUNT):
        kept = classifier(neighbours_of(batch, index)).argmax(dim=1) == batch.targets[index]
        shares.add("all" if kept.all() else "some" if kept.any() else "none")
        expected = by_definition(classifier, "gradient", index)
        for name in RELATIVE:
            (row,) = pick(found, method="gradient", metric=name, image_id=IDS[index]).to_dict(
                "records"
            )
            if kept.any():
                assert row["value"] == pytest.approx(expected[name], rel=1e-2)
            else:
                assert (row["status"], row["detail"]) == (
                    "skipped",
                    "no neighbour keeps the prediction",
                )
    assert shares == {"some", "none"}, "the radius shows both"
    assert set(pick(found, metric="max_sensitivity")["status"]) == {"ok"}


def test_neighbours_are_uniform_within_the_radius_and_belong_to_seed_and_image() -> None:
    image = torch.zeros(3, 40, 40)
    moved = neighbour(image, "a", 0, 0)
    assert RADIUS * 0.99 < float(moved.abs().max()) <= RADIUS
    assert float(moved.std()) == pytest.approx(RADIUS / math.sqrt(3), rel=0.05)
    assert torch.equal(moved, neighbour(image, "a", 0, 0))
    others = [neighbour(image, *key) for key in (("b", 0, 0), ("a", 1, 0), ("a", 0, 1))]
    assert not any(torch.equal(moved, other) for other in others)
    bright = neighbour(image + 1, "a", 0, 0)
    torch.testing.assert_close(bright - 1, moved, rtol=0, atol=1e-6, msg="not clamped")


def curve_by_definition(
    classifier: Classifier, signed: Array, index: int, before: Tensor, after: Tensor
) -> Array:
    batch = clean_batch(classifier)
    ties = generator(0, IDS[index], "ties").permutation(SIDE * SIDE)
    pixels = [(row, column) for row in range(SIDE) for column in range(SIDE)]
    order = sorted(
        range(SIDE * SIDE), key=lambda place: (-float(signed[pixels[place]]), int(ties[place]))
    )
    target = int(batch.targets[index])
    probabilities = []
    for step in range(STEPS + 1):
        mixed = before.clone()
        for place in order[: round(step * SIDE * SIDE / STEPS)]:
            row, column = pixels[place]
            mixed[:, row, column] = after[:, row, column]
        probabilities.append(float(classifier(mixed[None])[0].double().softmax(dim=0)[target]))
    return np.array(probabilities)


@pytest.mark.parametrize("spec", [*SPECS, "grad_cam:relu=true"])
def test_deletion_and_insertion_are_as_defined(spec: str, classifier: Classifier) -> None:
    found = run(
        classifier,
        image_set(),
        PLAN.model_copy(update={"method": (spec,), "metric": ("deletion", "insertion")}),
    )
    batch = clean_batch(classifier)
    maps = explained(classifier, spec, batch).float()
    if maps.shape[2:] != (SIDE, SIDE):
        maps = nn.functional.interpolate(maps.double(), (SIDE, SIDE), mode="bilinear")
    unused = np.random.default_rng(0)
    for index in (1, 4):
        image = batch.images[index]
        grey = image.mean(dim=(1, 2), keepdim=True).expand_as(image)
        blurred = gaussian_blur(image, BLUR_SHARE, unused)
        for name, ends in (("deletion", (image, grey)), ("insertion", (blurred, image))):
            curve = curve_by_definition(classifier, maps[index, 0].numpy(), index, *ends)
            expected = sum((a + b) / 2 for a, b in pairwise(curve)) / STEPS
            assert value(found, spec, name, index) == pytest.approx(expected, abs=1e-4), name


# --- by hand --------------------------------------------------------------------------------------


def test_changes_by_hand() -> None:
    values = np.array([[0.0, 2.0, -4.0], [3.0, 4.0, 0.5]])
    others = np.array([[1.0, 1.0, -2.0], [3.0, 4.0, 0.5]])
    np.testing.assert_allclose(change(values, others), [math.sqrt(1 + 1 + 4), 0])
    # The 0 counts as a millionth of the 4.
    expected = math.sqrt((1 / 4e-6) ** 2 + 0.5**2 + 0.5**2)
    np.testing.assert_allclose(relative_change(values, others), [expected, 0])
    np.testing.assert_allclose(relative_change(np.zeros((1, 2)), np.ones((1, 2))), [1e6 * 2**0.5])


@given(
    arrays(np.float64, (2, 2, 5), elements=st.floats(-8, 8, width=16)), st.floats(2.0**-40, 2.0**40)
)
def test_the_unit_of_a_map_leaves_relative_changes(values: Array, scale: float) -> None:
    first, other = values
    first[:, 0] = 1.0  # a row of zeros has no unit
    np.testing.assert_allclose(
        relative_change(scale * first, scale * other), relative_change(first, other)
    )


def hand_made(**changes: Any) -> Neighbours:
    numbers = np.array([[1.0, 2.0, 8.0]])
    made = Neighbours(
        map_change=numbers,
        map_relative=np.array([[3.0, 5.0, 90.0]]),
        image_change=np.array([[0.5, 4.0, 8.0]]),
        image_relative=np.array([[6.0, 5.0, 1.0]]),
        logit_change=np.array([[0.1, 0.0, 1.0]]),
        layer_relative=np.array([[0.3, 1.0, 1.0]]),
        kept=np.array([[True, True, False]]),
    )
    return replace(made, **changes)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("max_sensitivity", 8 / math.sqrt(5)),
        ("local_lipschitz", 2.0),
        ("relative_input_stability", 1.0),
        ("relative_output_stability", 5e6),
        ("relative_representation_stability", 10.0),
    ],
)
def test_neighbourhoods_by_hand(name: str, expected: float) -> None:
    scores = evaluate(METRICS[name], ANY, hand_made())
    np.testing.assert_allclose(scores.values, [expected])


def test_without_a_representation_that_is_said() -> None:
    made = hand_made(layer_relative=None)
    scores = evaluate(METRICS["relative_representation_stability"], ANY, made)
    assert scores.statuses == (Status.SKIPPED,)
    assert scores.details == ("the network has no convolution with a spatial output",)
    assert evaluate(METRICS["relative_input_stability"], ANY, made).statuses == (Status.OK,)
    with pytest.raises(ValueError, match="no representation"):
        METRICS["relative_representation_stability"].compute(ANY, made)


def test_infidelity_by_hand() -> None:
    made = Responses(np.array([[1.0, 2.0], [0.0, 0.0]]), np.array([[2.0, 2.0], [3.0, 1.0]]))
    two = Maps(np.array([[[1.0, 2.0]], [[1.0, 2.0]]]))
    # beta = 6/5: gaps of 4/5 and 2/5. Where the map meets no noise, all of the change is a gap.
    np.testing.assert_allclose(infidelity(two, made), [(0.8**2 + 0.4**2) / 2, 5.0])


@given(st.floats(-8, 8).filter(lambda scale: abs(scale) > 0.01), st.integers(0, 9))
def test_no_scale_of_a_map_lowers_its_infidelity(scale: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    expected, found = rng.normal(size=(2, 1, 7))
    least = infidelity(ANY, Responses(expected, found))
    np.testing.assert_allclose(infidelity(ANY, Responses(scale * expected, found)), least)
    assert (least <= ((scale * expected - found) ** 2).mean() + 1e-12).all()


def test_an_area_by_hand() -> None:
    np.testing.assert_allclose(area(ANY, Curve(np.array([[1.0, 0.5, 0.5, 0.0]]))), [0.5])
    np.testing.assert_allclose(area(ANY, Curve(np.array([[1.0, 0.0]]))), [0.5])
    np.testing.assert_allclose(area(ANY, Curve(np.full((1, 6), 0.3))), [0.3])


@given(
    arrays(np.float64, (2, 3, 5), elements=st.floats(-8, 8, width=16)),
    st.integers(1, 23),
    st.integers(1, 23),
)
def test_enlarging_is_torch_s(maps: Array, height: int, width: int) -> None:
    expected = nn.functional.interpolate(
        torch.from_numpy(maps)[:, None], (height, width), mode="bilinear", align_corners=False
    )
    np.testing.assert_allclose(enlarge(maps, (height, width)), expected[:, 0], atol=1e-12)


def test_a_map_of_the_image_s_size_stays_as_it_is() -> None:
    maps = np.random.default_rng(0).normal(size=(2, 7, 9))
    np.testing.assert_array_equal(enlarge(maps, (7, 9)), maps)


def test_ties_are_ranked_by_the_permutation_and_all_else_by_relevance() -> None:
    maps = np.array([[[0.0, 3.0, 0.0], [-1.0, 0.0, 5.0]]])
    ties = np.array([[4, 0, 1, 5, 3, 2]])
    np.testing.assert_array_equal(places(maps, ties), [[[4, 1, 2], [5, 3, 0]]])


@given(arrays(np.float64, (2, 4, 5), elements=st.sampled_from([-1.0, 0.0, 2.0])))
def test_every_step_takes_its_share_of_the_pixels(maps: Array) -> None:
    ranks = places(maps, np.stack([np.random.default_rng(k).permutation(20) for k in (0, 1)]))
    for step in range(STEPS + 1):
        gone = taken(ranks, step)
        assert gone.sum(axis=(1, 2)).tolist() == [round(step * 20 / STEPS)] * 2
        for one, values in zip(gone, maps, strict=True):
            assert not one.any() or one.all() or values[one].min() >= values[~one].max()


# --- what is known of a linear network ------------------------------------------------------------


def rounding_of_logit_differences(classifier: Classifier) -> float:
    """By how much f(x) - f(x - I) may miss what is exact, on a linear network in float32.

    Two sums of n products, in whatever order and by whatever instructions a machine adds, are off
    by n u sum(|w x|) each (Higham 2002, section 3.1); a noisy pixel, rounded once, by u |w x| more.
    """
    weights = classifier.module.network.get_parameter("1.weight").double().abs()
    brightest = 1.0 + 6 * NOISE_SPREAD
    unit = torch.finfo(torch.float32).eps / 2
    return float(2 * (weights.shape[1] + 1) * unit * brightest * weights.sum(dim=1).max())


def test_a_linear_network_s_gradient_does_not_move_and_explains_noise(linear: Classifier) -> None:
    plan = PLAN.model_copy(update={"method": ("gradient", "gradient_x_input")})
    found = run(linear, image_set(), plan)
    still = pick(found, method="gradient")
    for name in ("max_sensitivity", "local_lipschitz", *RELATIVE[:2]):
        np.testing.assert_array_equal(pick(still, metric=name)["value"], 0.0)
    gaps = pick(found, metric="infidelity").set_index(["method", "image_id"])["value"]
    assert (gaps["gradient"] <= rounding_of_logit_differences(linear) ** 2).all()
    assert (gaps["gradient_x_input"] > rounding_of_logit_differences(linear) ** 2).all()
    skipped = pick(found, metric="relative_representation_stability")
    assert set(skipped["detail"]) == {"the network has no convolution with a spatial output"}


def test_gradient_x_input_moves_with_the_image_on_a_linear_network(linear: Classifier) -> None:
    found = run(linear, image_set(), PLAN.model_copy(update={"method": ("gradient_x_input",)}))
    batch = clean_batch(linear)
    weights = linear.module.network.get_parameter("1.weight").double().view(-1, 3, SIDE, SIDE)
    for index in range(COUNT):
        slope = weights[batch.targets[index]]
        clean = (slope * batch.images[index]).sum(dim=0)
        steps = (slope * (neighbours_of(batch, index) - batch.images[index])).sum(dim=1)
        expected = float(steps.flatten(1).norm(dim=1).max() / clean.norm())
        assert value(found, "gradient_x_input", "max_sensitivity", index) == pytest.approx(
            expected, rel=1e-4
        )


def test_a_map_of_grey_images_multiplied_by_them_is_as_faithful_as_the_gradient(
    linear: Classifier,
) -> None:
    grey = torch.full((2, 3, SIDE, SIDE), 0.5) + torch.tensor([0.0, 0.2]).view(2, 1, 1, 1)
    plan = PLAN.model_copy(
        update={"method": ("gradient", "gradient_x_input"), "metric": ("infidelity",)}
    )
    gaps = pick(run(linear, from_tensor(grey), plan), metric="infidelity")["value"]
    assert (gaps <= rounding_of_logit_differences(linear) ** 2).all()


# --- in a run -------------------------------------------------------------------------------------


def test_costly_metrics_are_those_that_need_the_network() -> None:
    assert set(COSTLY) == {name for name, one in METRICS.items() if one.against in PROBES}
    assert set(COSTLY) == {
        "max_sensitivity", "local_lipschitz", "relative_input_stability",
        "relative_output_stability", "relative_representation_stability", "infidelity",
        "deletion", "insertion",
    }  # fmt: skip
    assert set(probes.PROBERS) == set(PROBES)


def test_a_plan_has_them_by_name_alone(classifier: Classifier) -> None:
    default = Plan(controls=False, nulls=0)
    assert not set(COSTLY) & set(prepare(classifier, image_set(), default).metrics())
    by_name = Plan(metric=tuple(name for name in METRICS if name not in COSTLY))
    assert run_id(by_name, classifier, image_set()) == run_id(Plan(), classifier, image_set())
    one = prepare(classifier, image_set(), Plan(metric=("deletion",)))
    assert list(one.metrics()) == ["deletion"]
    assert f"{NEIGHBOURS} images within {RADIUS:g}" in METRICS["max_sensitivity"].summary


def test_records_are_of_the_clean_image_one_a_method_metric_and_image(
    records: pd.DataFrame,
) -> None:
    rows = records[records["metric"].isin(COSTLY)]
    assert set(rows["family"]) == {"clean"}
    assert len(rows) == len(COSTLY) * len(SPECS) * COUNT
    assert set(rows["status"]) == {"ok"}
    assert not rows.duplicated(["image_id", "method", "metric"]).any()


def test_controls_are_judged_by_the_same(classifier: Classifier) -> None:
    plan = PLAN.model_copy(update={"method": ("gradient",), "controls": True})
    found = run(classifier, image_set(), plan)
    constant = found[(found["method"] == "constant") & found["metric"].isin(COSTLY)]
    assert set(constant["status"]) == {"degenerate"}
    moved = {
        spec: pick(found, method=spec, metric="max_sensitivity")["value"]
        for spec in ("random", "centre_blob")
    }
    # The map does not look at the image: it stays. Noise is drawn anew, and two draws are as far
    # apart as the root of 2; the largest of several is a little beyond.
    np.testing.assert_array_equal(moved["centre_blob"], 0)
    np.testing.assert_allclose(moved["random"], 2**0.5, rtol=0, atol=0.2)
    for spec in moved:
        assert (pick(found, method=spec, metric="infidelity")["value"] > 0).all()


@pytest.mark.parametrize("changes", [{"batch_size": 2}, {"batch_size": 1, "jobs": 2}])
def test_how_the_work_is_cut_changes_nothing(
    changes: dict[str, object], classifier: Classifier, records: pd.DataFrame
) -> None:
    found = run(classifier, image_set(), PLAN.model_copy(update=changes))
    pd.testing.assert_frame_equal(plain(found, "value"), plain(records, "value"))
    # A relative change hangs on the values of the map that are all but 0, and so on rounding.
    relative = records["metric"].isin(RELATIVE)
    for rows, tolerance in ((relative, 1e-2), (~relative, 1e-4)):
        np.testing.assert_allclose(
            found["value"][rows], records["value"][rows], rtol=tolerance, atol=1e-6
        )


def test_other_methods_and_metrics_of_the_run_change_nothing(
    classifier: Classifier, records: pd.DataFrame
) -> None:
    plan = PLAN.model_copy(update={"method": ("grad_cam:relu=false",), "metric": ("insertion",)})
    alone = run(classifier, image_set(), plan)
    both = pick(records, method="grad_cam:relu=false", metric="insertion")
    np.testing.assert_array_equal(pick(alone, metric="insertion")["value"], both["value"])


@pytest.mark.parametrize("metric", [(name,) for name in COSTLY] + [COSTLY])
@pytest.mark.parametrize("engine", ["own", "captum"])
def test_every_pass_and_map_is_counted_beforehand(metric: tuple[str, ...], engine: str) -> None:
    plan = PLAN.model_copy(
        update={
            "metric": metric, "engine": engine, "batch_size": 2, "nulls": 1, "controls": True,
            "admission": False,
        }
    )  # fmt: skip
    setup = prepare(tiny(), image_set(), plan)
    planned = count(setup)
    passes, maps, _ = measured(setup)
    assert (planned.forward, planned.backward) == passes
    assert maps == setup.map_count()


def test_what_does_not_apply_is_counted_as_nothing(linear: Classifier) -> None:
    plan = PLAN.model_copy(update={"method": ("grad_cam", "gradient")})
    setup = prepare(linear, image_set(), plan)
    planned = count(setup)
    passes, maps, outcomes = measured(setup)
    assert (planned.forward, planned.backward) == passes
    assert maps == setup.map_count()
    skipped = [
        record
        for outcome in outcomes
        for record in outcome.records
        if record.method == "grad_cam:relu=true"
    ]
    assert {record.metric for record in skipped} == set(COSTLY)
    assert {record.status for record in skipped} == {"skipped"}


def test_an_estimate_knows_them(classifier: Classifier) -> None:
    setup = prepare(classifier, image_set(), PLAN)
    assert estimate(setup, 0.05).maps == setup.map_count()
    assert estimate(setup, 0.05).maps == COUNT * len(SPECS) * (2 + NEIGHBOURS)


def test_their_time_is_a_part_of_its_own(classifier: Classifier) -> None:
    setup = prepare(classifier, image_set(), PLAN.model_copy(update={"batch_size": 3}))
    timings = [one for outcome in measure(setup, lambda _count: None) for one in outcome.timings]
    parts = [one.part for one in timings]
    assert parts.count(PROBES_PART) == 2
    assert sum(one.images for one in timings if one.part == PROBES_PART) == COUNT
    for spec in SPECS:
        assert parts.count(spec) == 4, "the clean and the perturbed view of each batch, no more"


def test_the_activations_alone_take_no_backward_pass(conv64: Classifier) -> None:
    images = random_images(5).double()
    with count_passes(conv64) as counts:
        seen = shared_pass(conv64, images, None, ["activations"], 2)
    assert (counts.forward, counts.backward) == (5, 0)
    assert seen.activation_gradient is None
    layer = shared_pass(conv64, images, None, ["layer"], 5)
    torch.testing.assert_close(seen.activations, layer.activations, rtol=0, atol=1e-12)
    with_gradient = shared_pass(conv64, images, None, ["gradient", "activations"], 5)
    assert with_gradient.gradient is not None
    assert with_gradient.activation_gradient is None


# --- what goes wrong ------------------------------------------------------------------------------


def broken_beside(how: Callable[[Tensor], Tensor]) -> Method:
    """A method that fails on images that are not quite grey."""

    def explain(_classifier: Classifier, batch: Batch) -> Tensor:
        maps = (
            torch.arange(SIDE * SIDE).view(1, 1, SIDE, SIDE).expand(len(batch.images), -1, -1, -1)
        )
        flat = batch.images.flatten(1)
        return how(maps.float()) if bool((flat != flat[:, :1]).any()) else maps.float()

    return Method(explain, "", "")


def fail(_maps: Tensor) -> Tensor:
    raise ZeroDivisionError("not grey")


@pytest.mark.parametrize(
    ("how", "status", "detail"),
    [
        (fail, "error", "neighbour: ZeroDivisionError: not grey"),
        (lambda maps: maps[..., 1:], "error", "neighbour: returned maps of (1, 16, 15) where"),
        (lambda maps: maps / 0, "nonfinite", "a map or what it is held against is not finite"),
        (lambda maps: maps.log() * 0, "nonfinite", "a map or what it is held against is not"),
    ],
)
def test_a_method_that_fails_on_a_neighbour_costs_its_neighbourhood_alone(
    how: Callable[[Tensor], Tensor],
    status: str,
    detail: str,
    classifier: Classifier,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(methods_module.METHODS, "fragile", broken_beside(how))
    grey = from_tensor(torch.tensor([0.4, 0.6]).view(2, 1, 1, 1).expand(-1, 3, SIDE, SIDE))
    plan = PLAN.model_copy(update={"method": ("fragile", "edge"), "family": ("compensated_bias",)})
    found = pick(run(classifier, grey, plan), method="fragile")
    for name in COSTLY:
        rows = pick(found, metric=name)
        near = METRICS[name].against == "neighbours"
        assert set(rows["status"]) == {status if near else "ok"}, name
        assert rows["detail"].str.startswith(detail if near else "").all()


@pytest.mark.parametrize("name", COSTLY)
def test_evidence_that_is_not_finite_costs_its_own_image(name: str) -> None:
    rng = np.random.default_rng(0)
    maps = Maps(rng.normal(size=(3, 4, 4)))
    good = probe_evidence(METRICS[name].against, 3, lambda shape: rng.uniform(0.5, 1, shape))
    expected = evaluate(METRICS[name], maps, good)
    for field, rows in good.arrays().items():
        if rows.dtype == bool:
            continue
        spoilt = rows.copy()
        spoilt[1, 2] = np.nan
        scores = evaluate(METRICS[name], maps, replace(good, **{field: spoilt}))
        assert scores.statuses == (Status.OK, Status.NONFINITE, Status.OK)
        np.testing.assert_array_equal(scores.values[[0, 2]], expected.values[[0, 2]])


def test_evidence_of_another_kind_is_refused() -> None:
    curve = Curve(np.ones((1, 3)))
    assert evaluate(METRICS["deletion"], ANY, curve).statuses == (Status.OK,)
    with pytest.raises(ValueError, match="expected 1 of neighbours, got 1 of Curve"):
        evaluate(METRICS["max_sensitivity"], ANY, curve)
    with pytest.raises(ValueError, match="expected 1 of deletion, got 3 of ndarray"):
        evaluate(METRICS["deletion"], ANY, np.ones(3))
    with pytest.raises(ValueError, match="expected 1 of delta, got 1 of Curve"):
        evaluate(METRICS["completeness_error"], ANY, curve)


def test_with_steps_auto_each_map_takes_the_nodes_that_it_needs(classifier: Classifier) -> None:
    spec = "integrated_gradients:baseline=black,steps=auto"
    plan = PLAN.model_copy(update={"method": (spec,), "metric": ("local_lipschitz",)})
    found = run(classifier, image_set(), plan)
    batch = clean_batch(classifier)
    method = bind_method(spec)
    for index in (0, 2):
        clean = method.nested(classifier, batch.part(slice(index, index + 1)))
        near = crowd(batch, index)
        expected = 0.0
        for place in range(NEIGHBOURS):
            path: NestedPath = method.nested(classifier, near.part(slice(place, place + 1)))
            apart = (path.at(path.settled) - clean.at(clean.settled)).sum(dim=1).norm()
            moved = (near.images[place] - batch.images[index]).norm()
            expected = max(expected, float(apart / moved))
        assert value(found, spec, "local_lipschitz", index) == pytest.approx(expected, rel=1e-3)


def test_memory_that_runs_out_halves_what_goes_at_once(
    classifier: Classifier, records: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    def scarce(*arguments: Any) -> Pass:
        if arguments[4] > 2:
            raise torch.OutOfMemoryError("full")
        return shared_pass(*arguments)

    monkeypatch.setattr("steadymap.bench.network.passes.shared_pass", scarce)
    plan = PLAN.model_copy(update={"metric": ("infidelity", "deletion")})
    setup = prepare(classifier, image_set(), plan)
    (outcome,) = measure(setup, lambda _count: None)
    assert outcome.at_once == 2
    assert outcome.halved > 0
    values = [record.value for record in outcome.records if record.metric == "deletion"]
    expected = pick(records, metric="deletion")["value"]
    np.testing.assert_allclose(values, expected, rtol=0, atol=1e-4)


# --- what people read -----------------------------------------------------------------------------


def rendered(findings: Findings) -> str:
    console = Console(width=200, record=True, file=io.StringIO())
    for title, table in tables(findings):
        console.print(title)
        console.print(table)
    return console.export_text()


def test_they_have_a_table_of_their_own(classifier: Classifier) -> None:
    plan = PLAN.model_copy(update={"metric": ("ssim", "deletion", "insertion"), "nulls": 1})
    records = run(classifier, image_set(), plan)
    findings = Findings.of(records)
    assert findings.metrics() == ["ssim"]
    text = rendered(findings)
    assert "at the clean image" in text
    mean = pick(records, method="gradient", metric="deletion")["value"].mean()
    row = text[text.index("at the clean image") :]
    line = next(line for line in row.splitlines() if line.split()[:1] == ["gradient"])
    assert line.split()[1] == f"{mean:.3g}"
    assert set(findings.calibrated["metric"]) == {"ssim"}


def test_a_run_of_nothing_else_can_be_read(classifier: Classifier, records: pd.DataFrame) -> None:
    findings = Findings.of(records)
    assert findings.family_metrics() == []
    text = rendered(findings)
    assert text.count("at the clean image") == 1
    mean = pick(records, method="gradient", metric="max_sensitivity")["value"].mean()
    assert f"{mean:.3g}" in text
    said = " ".join(answer(findings))
    assert "best max sensitivity" in said
    assert "no metric of this run compares two maps" in said
    assert footnotes(findings)
    assert classifier.name == "tiny"


def test_a_method_of_one_s_own_is_probed(
    classifier: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = Method(lambda _classifier, batch: batch.images, "", "")
    monkeypatch.setitem(METHODS, "brightness", mine)
    found = run(classifier, image_set(), PLAN.model_copy(update={"method": ("brightness",)}))
    lipschitz = pick(found, metric="local_lipschitz")["value"]
    # Summed over channels: between no change and all channels moving alike.
    assert ((lipschitz > 0.5) & (lipschitz <= math.sqrt(3))).all()
