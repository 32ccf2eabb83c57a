"""The worst case: within its bound, with the prediction held, and worse than chance."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from support import (
    CLASSES,
    SIDE,
    Around,
    conv_network,
    hook_counts,
    image_set,
    measured,
    pick,
    random_images,
    seeded,
    small_plan,
    tiny,
)
from torch import Tensor, nn

from steadymap.bench.commands.run import estimate_table
from steadymap.bench.core.errors import ConfigError
from steadymap.bench.core.randomness import generator
from steadymap.bench.data.opening import open_images
from steadymap.bench.measure.estimate import count, estimate
from steadymap.bench.measure.runner import run
from steadymap.bench.measure.worker import ATTACK_PART
from steadymap.bench.network.passes import shared_pass
from steadymap.bench.perturbations import attack as adversarial
from steadymap.bench.perturbations.attack import STEPS, away_from_gradient, smoothed
from steadymap.bench.perturbations.noise import random_sign
from steadymap.bench.perturbations.registry import PERTURBATIONS
from steadymap.bench.plan.setup import prepare
from steadymap.models import Classifier, load_classifier, make_classifier

PLAN = small_plan(
    "gradient",
    family=("adversarial", "random_sign"),
    severity=(0.0, 0.05),
    metric=("cosine", "ssim"),
)


def gradient_map(classifier: Classifier, image: Tensor, target: Tensor) -> Tensor:
    seen = shared_pass(classifier, image, target, ("gradient",), 1)
    return seen.need_gradient().sum(dim=1).flatten().double()


def cosine(first: Tensor, second: Tensor) -> float:
    return float(first @ second / (first.norm() * second.norm()))


def test_the_worst_case_is_worse_than_the_typical_one_and_keeps_the_prediction() -> None:
    """On the embedded network and images; measured: 0.38 against 0.76 of the same size."""
    classifier = load_classifier("compact", None, torch.device("cpu"))
    images = open_images("hands", classifier.framing, "test", 6)
    cosines = []
    for index in range(6):
        image = images.read(index).image[None]
        target = classifier(image).argmax(dim=1)
        clean = gradient_map(classifier, image, target)
        worst = away_from_gradient(classifier, image, target, 0.02, generator(0, index))
        typical = random_sign(image[0], 0.02, generator(0, index))[None]
        for moved in (worst, typical):
            assert float((moved - image).abs().max()) <= 0.02 + 1e-6
        assert torch.equal(classifier(worst).argmax(dim=1), target)
        found = [
            cosine(clean, gradient_map(classifier, moved, target)) for moved in (worst, typical)
        ]
        # The same draw: where the ascent began, and one of the points to choose from.
        assert found[0] <= found[1] + 1e-4 or not torch.equal(
            classifier(typical).argmax(dim=1), target
        )
        cosines.append(found)
    means = np.mean(cosines, axis=0)
    assert means[0] < means[1] - 0.2


def test_random_sign_moves_every_value_by_the_severity_either_way() -> None:
    image = random_images(1, 64)[0]
    moved = random_sign(image, 0.03, generator("x")) - image
    torch.testing.assert_close(moved.abs(), torch.full_like(image, 0.03), atol=1e-6, rtol=0)
    # 12,288 coins: the share's standard error is 0.0045.
    assert abs(float((moved > 0).double().mean()) - 0.5) < 4 * 0.0045


def test_the_slope_is_that_of_the_cosine_by_differences() -> None:
    """In double precision, against central differences of the softplus network's own map."""
    classifier = tiny(lambda: conv_network().double())
    image = random_images(1).double()
    target = torch.tensor([1])
    reference = torch.randn(1, SIDE, SIDE, generator=torch.Generator().manual_seed(0)).double()
    slope = adversarial.ascent(smoothed(classifier), image, target, reference)
    direction = torch.randn(image.shape, generator=torch.Generator().manual_seed(1)).double()
    step = 1e-6

    def distance(point: Tensor) -> float:
        return 1 - cosine(gradient_map(smoothed(classifier), point, target), reference.flatten())

    expected = (distance(image + step * direction) - distance(image - step * direction)) / 2 / step
    assert float((slope * direction).sum()) == pytest.approx(expected, rel=1e-4)


def test_the_softplus_network_is_near_the_network(conv: Classifier) -> None:
    smooth = smoothed(conv)
    assert not any(isinstance(part, nn.ReLU) for part in smooth.module.modules())
    images = random_images(3)
    # A softplus of sharpness 100 is at most log(2) / 100 above ReLU.
    torch.testing.assert_close(smooth(images), conv(images), atol=0.05, rtol=0)
    assert any(isinstance(part, nn.ReLU) for part in conv.module.modules())


def test_where_no_point_keeps_the_prediction_the_image_stays(conv: Classifier) -> None:
    image = random_images(1)
    other = (conv(image).argmax(dim=1) + 1) % len(CLASSES)
    found = away_from_gradient(conv, image, other, 1e-4, generator(0))
    assert torch.equal(found, image)


def test_a_network_that_cannot_be_traced_is_used_as_it_is() -> None:
    def choose(inner: nn.Module, images: Tensor) -> object:
        return inner(images if float(images.detach().sum()) > 0 else -images)

    classifier = tiny(lambda: Around(choose))
    assert smoothed(classifier) is classifier
    image = random_images(1)
    target = classifier(image).argmax(dim=1)
    found = away_from_gradient(classifier, image, target, 0.02, generator(0))
    # Its map is constant in pieces: the ascent stays at the corner where it began.
    moved = (found - image).abs()
    torch.testing.assert_close(moved, torch.full_like(image, 0.02), atol=1e-6, rtol=0)
    plan = PLAN.model_copy(update={"family": ("adversarial",)})
    assert count(prepare(classifier, image_set(2), plan)).at_least


def test_a_transformer_can_be_attacked() -> None:
    """Attention has a second derivative in one of its forms alone."""
    from torchvision.models import VisionTransformer  # noqa: PLC0415 - takes a second

    def build() -> nn.Module:
        sizes = {"image_size": 16, "patch_size": 8, "hidden_dim": 8, "mlp_dim": 8}
        transformer: nn.Module = VisionTransformer(
            num_layers=1, num_heads=2, num_classes=3, **sizes
        )
        return transformer

    network = seeded(build)
    # Its last layer begins as zeros, which say nothing.
    head = network.get_submodule("heads.head")
    assert isinstance(head, nn.Linear)
    head.weight.data = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    classifier = make_classifier(network, (SIDE, SIDE), CLASSES)
    flags = torch.backends.cuda.flash_sdp_enabled()
    rows = pick(run(classifier, image_set(2), PLAN), metric="cosine", severity=0.05)
    worst, typical = (
        pick(rows, family=name)["value"].mean() for name in ("adversarial", "random_sign")
    )
    assert worst < typical
    assert torch.backends.cuda.flash_sdp_enabled() == flags


# --- runs -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def records(classifier: Classifier) -> pd.DataFrame:
    return run(classifier, image_set(), PLAN)


def test_a_run_attacks_what_it_explains(classifier: Classifier, records: pd.DataFrame) -> None:
    """Every record as the parts give it by hand."""
    images = image_set()
    for index, picture in enumerate(images.pictures):
        image = images.read(index).image[None]
        target = classifier(image).argmax(dim=1)
        draw = generator(0, picture.image_id, "adversarial", 0.05, 0)
        moved = away_from_gradient(classifier, image, target, 0.05, draw)
        maps = [gradient_map(classifier, seen, target) for seen in (image, moved)]
        row = pick(records, image_id=picture.image_id, family="adversarial", severity=0.05)
        value = pick(row, method="gradient", metric="cosine")["value"].item()
        assert value == pytest.approx(cosine(*maps), abs=1e-4)
        assert row["kept"].all()
    still = pick(records, severity=0.0, metric="input_change")
    assert set(still["value"]) == {0.0}


@pytest.mark.parametrize("changes", [{"batch_size": 1}, {"batch_size": 2, "jobs": 2}])
def test_batch_size_and_workers_change_nothing(
    changes: dict[str, int], classifier: Classifier, records: pd.DataFrame
) -> None:
    found = run(classifier, image_set(), PLAN.model_copy(update=changes))
    exact = records["metric"] == "input_change"
    assert (found["value"][exact] == records["value"][exact]).all()
    np.testing.assert_allclose(found["value"], records["value"], rtol=0, atol=1e-4)


@pytest.mark.parametrize("draws", [1, 2])
def test_what_goes_through_the_network_is_counted(classifier: Classifier, draws: int) -> None:
    setup = prepare(classifier, image_set(), PLAN.model_copy(update={"draws": draws}))
    planned = count(setup)
    passes, _, (outcome,) = measured(setup)
    assert (planned.forward, planned.backward) == passes
    assert PERTURBATIONS["adversarial"].passes == STEPS + 2
    assert planned.attacks == 5 * draws * (STEPS + 2)
    clocked = [timing for timing in outcome.timings if timing.part == ATTACK_PART]
    assert [timing.cell.severity for timing in clocked] == [0.0] * draws + [0.05] * draws
    assert {timing.images for timing in clocked} == {5}


def test_an_estimate_has_the_time_of_attacks(classifier: Classifier) -> None:
    setup = prepare(classifier, image_set(), PLAN.model_copy(update={"jobs": 2}))
    expected = estimate(setup, seconds=0.05)
    assert expected.attack_seconds > 0
    assert expected.seconds > expected.attack_seconds
    assert "time in attacks" in list(estimate_table(expected).columns[0].cells)


def test_a_run_leaves_the_network_alone(classifier: Classifier) -> None:
    before = hook_counts(classifier.module)
    run(classifier, image_set(2), PLAN)
    assert hook_counts(classifier.module) == before
    assert not any(weight.requires_grad for weight in classifier.module.parameters())


def test_a_network_that_cannot_be_attacked_is_refused_before_anything_runs() -> None:
    constant = tiny(lambda: Around(lambda _inner, images: torch.ones(len(images), 3)))
    classifier = replace(constant, name="constant")
    with pytest.raises(ConfigError, match="family: adversarial cannot attack constant: "):
        prepare(classifier, image_set(2), PLAN)


def test_the_family_needs_the_classifier() -> None:
    with pytest.raises(TypeError, match="call its `attack`"):
        PERTURBATIONS["adversarial"].apply(random_images(1)[0], 0.1, generator(0))
