"""Methods that change the backward pass: oracles, closed forms, and networks of all styles."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from captum.attr import LRP, Deconvolution, DeepLift, GuidedBackprop, GuidedGradCam
from captum.attr._core.lrp import SUPPORTED_LAYERS_WITH_RULES
from captum.attr._utils.lrp_rules import EpsilonRule
from support import CLASSES, SIDE, batch_of, image_set, pick, random_images, seeded
from torch import Tensor, nn
from torch.nn import functional

from steadymap.bench.checks.registry import CHECKS
from steadymap.bench.checks.subject import Subject
from steadymap.bench.measure.runner import run
from steadymap.bench.methods import backprop
from steadymap.bench.methods.backprop import lacks_differences, lacks_relu, lacks_shares
from steadymap.bench.methods.binding import bind_method
from steadymap.bench.methods.registry import METHODS
from steadymap.bench.network.graph import UntraceableError, rewritten, structure
from steadymap.bench.plan.plan import Plan
from steadymap.models import Classifier, Normalization, load_classifier, make_classifier

IMAGES = random_images(3).double()
LIFTING = ("deep_lift:baseline=black", "deep_lift:baseline=random", "deep_lift_shap:baselines=3")
HALF = Normalization((0.5, 0.4, 0.3), (0.2, 0.3, 0.4))


class Awkward(nn.Module):
    """ReLUs in place, functional, as a method and one module used twice; pooling as a function.

    With `plain`, the same with a module for each, called once.
    """

    def __init__(self, *, plain: bool = False) -> None:
        super().__init__()
        self.plain = plain
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.second = nn.Conv2d(4, 4, 3, padding=1)
        self.third = nn.Conv2d(4, 4, 3, padding=1)
        self.last = nn.Linear(4 * (SIDE // 2) ** 2, 3)
        self.reused = nn.ReLU(inplace=True)
        self.one, self.two, self.three, self.four = (nn.ReLU() for _ in range(4))
        self.pool = nn.MaxPool2d(3, 2, 1)

    def forward(self, images: Tensor) -> Tensor:
        if self.plain:
            values = self.one(self.first(images))
            values = self.two(self.second(values) + values)
            # Set apart from the pooling: see `captum_deep_lift`.
            values = self.three(self.third(values)) * 1
            values = self.four(self.pool(values) - 0.1)
            logits: Tensor = self.last(values.flatten(1))
            return logits
        values = self.reused(self.first(images))
        values = self.reused(self.second(values).add_(values))
        values = functional.relu(input=self.third(values))
        values = (functional.max_pool2d(values, 3, stride=2, padding=1) - 0.1).relu_()
        return self.last(values.flatten(1))  # type: ignore[no-any-return] # torch's own modules


def awkward(*, plain: bool = False, normalization: Normalization = HALF) -> Classifier:
    network = seeded(lambda: Awkward(plain=plain)).double()
    return make_classifier(network, (SIDE, SIDE), CLASSES, normalization=normalization)


def of_layers(*layers: Callable[[], nn.Module], **given: Any) -> Classifier:
    network = seeded(lambda: nn.Sequential(*(layer() for layer in layers))).double()
    return make_classifier(network, (SIDE, SIDE), CLASSES, **given)


def conv(activation: Callable[[], nn.Module]) -> tuple[Callable[[], nn.Module], ...]:
    return (
        lambda: nn.Conv2d(3, 4, 3),
        activation,
        lambda: nn.MaxPool2d(3, 2),
        nn.Flatten,
        lambda: nn.Linear(4 * 6 * 6, 3),
    )


def explain(spec: str, classifier: Classifier, images: Tensor = IMAGES) -> Tensor:
    return bind_method(spec).explain(classifier, batch_of(images))


@contextmanager
def noisy_captum() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says each time that it hangs hooks
        yield


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-11 * float(expected.abs().max()))


# --- networks rewritten ---------------------------------------------------------------------------


def test_a_rewritten_network_computes_the_same() -> None:
    classifier = awkward()
    assert torch.equal(awkward(plain=True)(IMAGES), classifier(IMAGES))
    other = rewritten(classifier.shifted(0.2))
    assert torch.equal(other(IMAGES), classifier.shifted(0.2)(IMAGES))
    relus = [part for part in other.module.modules() if isinstance(part, nn.ReLU)]
    assert len(relus) == 4
    assert not any(relu.inplace for relu in relus)
    weights = {tensor.data_ptr() for tensor in classifier.module.parameters()}
    assert {tensor.data_ptr() for tensor in other.module.parameters()} == weights


def test_a_rewritten_network_is_watched_like_the_network() -> None:
    classifier, seen = awkward(), []
    hook = classifier.module.network.register_forward_hook(lambda *_: seen.append(1))
    rewritten(classifier)(IMAGES)
    hook.remove()
    assert seen == [1]


class Made(nn.Module):
    """What a function makes of an image, before a linear layer."""

    def __init__(self, make: Callable[[Made, Tensor], Tensor]) -> None:
        super().__init__()
        self.make = make
        self.conv = nn.Conv2d(3, 4, 3)
        self.linear = nn.Linear(4 * 14 * 14, 3)
        self.register_buffer("scale", torch.tensor(2.0))
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.linear(self.make(self, self.conv(images)).flatten(1))
        return logits


def made(make: Callable[[Made, Tensor], Tensor]) -> Classifier:
    return make_classifier(seeded(lambda: Made(make)).double(), (SIDE, SIDE), CLASSES)


def test_products_with_numbers_and_weights_are_linear_and_others_are_not() -> None:
    found = structure(made(lambda own, x: own.weight * (x * 2) / 3 * own.get_buffer("scale")))
    assert found.scalings == ("mul", "mul", "truediv", "mul")
    assert found.names == {"Conv2d", "Linear", "flatten"}
    assert structure(made(lambda _, x: x * x)).functions == ("mul", "flatten")
    assert structure(made(lambda _, x: 1 / (x + 9))).functions == ("add", "truediv", "flatten")


def branching(_own: Made, values: Tensor) -> Tensor:
    return values if float(values.sum()) > 0 else -values


@pytest.mark.parametrize(
    ("make", "reasons"),
    [
        (lambda _, x: x * 2, ("the network has no ReLU", None, None)),
        (lambda _, x: x.relu(), (None, None, None)),
        (
            lambda _, x: functional.silu(x).relu(),
            ("the rule is for ReLU alone, and the network has silu", None, None),
        ),
        (
            lambda _, x: torch.sigmoid(x).relu(),
            (
                "the rule is for ReLU alone, and the network has sigmoid",
                None,
                "layer-wise relevance propagation does not cover sigmoid",
            ),
        ),
        (
            lambda _, x: x.relu() * x.softmax(dim=1),
            (
                "the rule is for ReLU alone, and the network has mul, softmax",
                "the rescale rule does not cover mul, softmax",
                "layer-wise relevance propagation does not cover mul, softmax",
            ),
        ),
        (
            lambda _, x: functional.group_norm(x, 2).relu(),
            (
                None,
                "the rescale rule does not cover group_norm",
                "layer-wise relevance propagation does not cover group_norm",
            ),
        ),
        (branching, ("its forward cannot be traced",) * 3),
    ],
)
def test_what_cannot_be_explained_so_says_why(
    make: Callable[[Made, Tensor], Tensor], reasons: tuple[str | None, ...]
) -> None:
    classifier = made(make)
    for lacks, reason in zip((lacks_relu, lacks_differences, lacks_shares), reasons, strict=True):
        found = lacks(classifier)
        assert found == reason or (found is not None and reason and found.startswith(reason))
    if reasons[0] and reasons[0].startswith("its"):
        with pytest.raises(UntraceableError):
            rewritten(classifier)


# --- ReLU's rules ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "oracle"), [("guided_backprop", GuidedBackprop), ("deconvolution", Deconvolution)]
)
@pytest.mark.parametrize("plain", [True, False])
def test_rules_for_relu_are_captum_s_on_plain_modules(
    spec: str, oracle: Any, *, plain: bool
) -> None:
    with noisy_captum():
        expected = oracle(awkward(plain=True).module).attribute(
            IMAGES.clone().requires_grad_(), target=batch_of(IMAGES).targets
        )
    close(explain(spec, awkward(plain=plain)), expected)
    assert not torch.allclose(expected, explain("gradient", awkward()))


def test_on_awkward_networks_captum_itself_is_given_the_rewritten_one() -> None:
    batch = batch_of(IMAGES)
    for spec in ("guided_backprop", "deconvolution"):
        bound = bind_method(spec)
        close(bound.explain(awkward(), batch), bound.explain(awkward(), batch, "captum"))
    apart = of_layers(
        lambda: nn.Conv2d(3, 4, 3),
        lambda: nn.ReLU(inplace=True),
        lambda: nn.MaxPool2d(2),
        nn.Flatten,
        lambda: nn.Linear(4 * 7 * 7, 3),
    )
    for spec in LIFTING:
        bound = bind_method(spec)
        close(bound.explain(apart, batch), bound.explain(apart, batch, "captum"))


def test_guided_grad_cam_is_captum_s() -> None:
    network = awkward(plain=True)
    with noisy_captum():
        expected = GuidedGradCam(network.module, network.cam_module).attribute(
            IMAGES.clone().requires_grad_(), target=batch_of(IMAGES).targets
        )
    close(explain("guided_grad_cam", awkward()), expected.detach())
    assert expected.shape == IMAGES.shape


# --- DeepLIFT -------------------------------------------------------------------------------------

ACTIVATIONS = tuple(getattr(nn, name) for name in sorted(backprop.ELEMENTWISE) if name[0].isupper())


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_deep_lift_is_complete_with_every_activation(activation: Callable[[], nn.Module]) -> None:
    classifier = of_layers(*conv(activation), normalization=HALF)
    assert lacks_differences(classifier) is None
    batch = batch_of(IMAGES)
    for spec in LIFTING:
        bound = bind_method(spec)
        assert bound.start is not None
        before = torch.stack([classifier(start) for start in bound.start.images(batch)])
        delta = (classifier(IMAGES) - before.mean(dim=0)).gather(1, batch.targets[:, None])[:, 0]
        sums = bound.explain(classifier, batch).sum(dim=(1, 2, 3))
        torch.testing.assert_close(sums, delta, rtol=0, atol=1e-12)
    lifted = explain("deep_lift", classifier)
    assert not torch.allclose(lifted, explain("gradient_x_input", classifier), atol=1e-6)


@pytest.mark.parametrize(
    "function", [functional.elu, torch.tanh, torch.sigmoid, functional.hardswish, functional.gelu]
)
def test_functions_are_rescaled_like_modules(function: Callable[[Tensor], Tensor]) -> None:
    """captum knows modules alone; where it does not know the module, completeness shows it."""
    classifier, batch = made(lambda _, x: function(x)), batch_of(IMAGES)
    delta = classifier(IMAGES) - classifier(torch.zeros_like(IMAGES))
    sums = explain("deep_lift", classifier).sum(dim=(1, 2, 3))
    torch.testing.assert_close(sums, delta.gather(1, batch.targets[:, None])[:, 0])


def test_deep_lift_is_captum_s_on_plain_modules() -> None:
    """Without a pooling: behind a ReLU, or with windows that overlap, captum's is not complete."""
    layers = (lambda: nn.Conv2d(3, 4, 3), nn.Tanh, nn.Flatten, lambda: nn.Linear(4 * 196, 3))
    network = of_layers(*layers, normalization=HALF)
    batch = batch_of(IMAGES)
    for shift in (0.0, 0.3):
        moved = network.shifted(shift)
        with noisy_captum():
            expected = DeepLift(moved.module).attribute(
                IMAGES.clone().requires_grad_(), torch.ones_like(IMAGES), target=batch.targets
            )
        close(explain("deep_lift:baseline=white", moved), expected.detach())


def test_a_pooling_is_credited_where_either_had_its_largest() -> None:
    """By hand, on one window of four: a gain counts where the image's largest is, a loss there
    where the reference's was."""
    network = nn.Sequential(nn.MaxPool2d(2), nn.Flatten())
    classifier = make_classifier(nn.Sequential(network, nn.Linear(3, 2)).double(), (2, 2))
    layer = classifier.module.network.get_submodule("1")
    assert isinstance(layer, nn.Linear)
    with torch.no_grad():
        layer.weight.fill_(1.0)
    image = torch.tensor([[0.9, 0.1], [0.2, 0.3]]).double().expand(1, 3, 2, 2)
    start = torch.tensor([[0.0, 0.5], [0.1, 0.2]]).double().expand(1, 3, 2, 2)
    batch = replace(batch_of(image), references=start)
    up = bind_method("deep_lift_shap:baselines=1").explain(classifier, batch)
    expected = torch.tensor([[0.9 - 0.5, 0], [0, 0]]).double()
    torch.testing.assert_close(up[0, 0], expected)
    down = bind_method("deep_lift_shap:baselines=1").explain(
        classifier, replace(batch, images=start, references=image)
    )
    torch.testing.assert_close(down[0, 0], -expected)


def test_where_image_and_reference_agree_deep_lift_is_finite() -> None:
    classifier = awkward()
    batch = replace(batch_of(IMAGES), references=IMAGES[:1])
    found = bind_method("deep_lift_shap:baselines=1").explain(classifier, batch)
    assert found.isfinite().all()
    assert not found[0].any()
    assert found[1].any()


def test_a_rewritten_network_keeps_no_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[Classifier] = []

    def keeping(*given: Any) -> Classifier:
        kept.append(rewritten(*given))
        return kept[-1]

    monkeypatch.setattr("steadymap.bench.network.graph.rewritten", keeping)
    explain("deep_lift", awkward())
    tensors = [part.__dict__.get("reference") for part in kept[0].module.modules()]
    assert set(tensors) == {None}
    assert any("reference" in part.__dict__ for part in kept[0].module.modules())


# --- layer-wise relevance propagation -------------------------------------------------------------


def captum_lrp(classifier: Classifier, images: Tensor) -> Tensor:
    """captum's, on a copy: it writes into weights; flattening gets the rule of all layers."""
    module = classifier.module
    network = copy.deepcopy(module.network)
    for part in network.modules():
        if isinstance(part, nn.Flatten | nn.LeakyReLU):
            part.rule = EpsilonRule()  # where captum looks for it
    normalised = ((images - module.shift - module.mean) / module.std).requires_grad_()
    found: Tensor = LRP(network).attribute(normalised, target=batch_of(images).targets)
    return found.detach()


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh])
@pytest.mark.parametrize("shift", [0.0, 0.3])
def test_lrp_is_captum_s_epsilon_rule(activation: Callable[[], nn.Module], shift: float) -> None:
    classifier = of_layers(
        lambda: nn.Conv2d(3, 4, 3),
        activation,
        lambda: nn.BatchNorm2d(4),
        lambda: nn.MaxPool2d(2),
        lambda: nn.Conv2d(4, 5, 3),
        activation,
        lambda: nn.AvgPool2d(2),
        nn.Flatten,
        nn.Dropout,
        lambda: nn.Linear(20, 3),
        normalization=HALF,
    ).shifted(shift)
    assert nn.BatchNorm2d in SUPPORTED_LAYERS_WITH_RULES
    expected = captum_lrp(classifier, IMAGES)
    # Its epsilon is 1e-9 of a logit's sum at every layer.
    torch.testing.assert_close(explain("lrp", classifier), expected, rtol=0, atol=1e-6)
    assert float(expected.abs().max()) > 1e-2


def test_with_relu_alone_lrp_is_gradient_times_normalised_image() -> None:
    classifier = awkward().shifted(0.2)
    mean = torch.tensor(HALF.mean, dtype=torch.float64).view(1, 3, 1, 1)
    expected = explain("gradient", classifier) * (IMAGES - 0.2 - mean)
    close(explain("lrp", classifier), expected)


@pytest.mark.parametrize("activation", [nn.LeakyReLU, nn.ELU, nn.SiLU, nn.GELU, nn.Hardswish])
def test_lrp_hands_on_shares_of_each_sum(activation: Callable[[], nn.Module]) -> None:
    """One hidden layer, by the definition: z_jk / z_k of what each unit k has."""
    classifier = of_layers(
        nn.Flatten, lambda: nn.Linear(3 * SIDE**2, 7), activation, lambda: nn.Linear(7, 3)
    )
    _, first, function, last = classifier.module.network.children()
    assert isinstance(first, nn.Linear)
    assert isinstance(last, nn.Linear)
    flat, targets = IMAGES.flatten(1), batch_of(IMAGES).targets
    sums = first(flat)
    relevance = last.weight[targets] * function(sums)
    shares = flat[:, None, :] * first.weight / sums[:, :, None]
    expected = torch.einsum("bk,bkj->bj", relevance, shares).view_as(IMAGES)
    close(explain("lrp", classifier), expected)


# --- exemptions, and runs -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "check"),
    [(name, check) for name, method in METHODS.items() for check in method.exempt],
)
def test_what_a_method_is_exempt_from_is_really_broken(name: str, check: str) -> None:
    assert METHODS[name].exempt[check]
    assert CHECKS[check].run(Subject(bind_method(name))).result == "failed"


PLAN = Plan(
    method=(
        "guided_backprop",
        "deconvolution",
        "guided_grad_cam",
        "deep_lift",
        "deep_lift_shap:baselines=2",
        "lrp",
    ),
    controls=False,
    nulls=0,
    family=("bias", "compensated_bias"),
    severity=(0.2,),
    metric=("relative_l2",),
    batch_size=1,
)


def test_reasons_are_in_the_records() -> None:
    classifier = made(lambda _, x: functional.silu(x) * x)
    found = run(classifier_32(classifier), image_set(), PLAN)
    rows = pick(found, family="bias", metric="relative_l2")
    reasons = dict(zip(rows["method"], rows["detail"], strict=False))
    assert set(rows["status"]) == {"skipped"}
    relu = "the rule is for ReLU alone, and the network has mul, silu"
    assert reasons == {
        "guided_backprop": relu,
        "deconvolution": relu,
        "guided_grad_cam": relu,
        "deep_lift:baseline=black": "the rescale rule does not cover mul",
        "deep_lift_shap:baselines=2": "the rescale rule does not cover mul",
        "lrp": "layer-wise relevance propagation does not cover mul",
    }


def classifier_32(classifier: Classifier) -> Classifier:
    return classifier.to(torch.device("cpu"), torch.float32)


@pytest.mark.parametrize("engine", ["own", "captum"])
def test_two_workers_make_the_same_maps(engine: str) -> None:
    classifier = classifier_32(awkward())
    plan = PLAN.model_copy(update={"engine": engine})
    one, two = (
        run(classifier, image_set(), plan.model_copy(update={"jobs": workers}))
        for workers in (1, 2)
    )
    assert one["status"].tolist() == two["status"].tolist()
    # Its Grad-CAM is 0 on an image, and behind a function, where captum cannot read it.
    others = one[one["method"] != "guided_grad_cam"]
    assert set(others["status"]) == {"ok"}
    np.testing.assert_allclose(two["value"], one["value"], rtol=1e-3, atol=1e-5)


def test_a_residual_network_of_torchvision_is_explained() -> None:
    classifier = load_classifier("torchvision:resnet18@random")
    images = random_images(2, 224)
    batch = batch_of(images)
    for spec in ("guided_backprop", "deep_lift", "lrp"):
        assert METHODS[spec].inapplicable(classifier) is None
        maps = bind_method(spec).explain(classifier, batch)
        assert maps.shape == images.shape
        assert maps.isfinite().all()
        assert maps.any()
    delta = classifier(images) - classifier(torch.zeros_like(images))
    lifted = explain("deep_lift", classifier, images).sum(dim=(1, 2, 3))
    torch.testing.assert_close(
        lifted, delta.gather(1, batch.targets[:, None])[:, 0], rtol=1e-3, atol=1e-4
    )


@pytest.mark.parametrize(
    "name", ["alexnet", "densenet121", "googlenet", "mnasnet0_5", "shufflenet_v2_x0_5", "vgg11_bn"]
)
def test_networks_of_torchvision_with_relu_alone_are_explained(name: str) -> None:
    torchvision = pytest.importorskip("torchvision")
    given = {"aux_logits": False, "init_weights": False} if name == "googlenet" else {}
    network = seeded(lambda: torchvision.models.get_model(name, weights=None, **given))
    classifier = make_classifier(network, (64, 64))
    batch = batch_of(random_images(2, 64))
    for spec in ("guided_backprop", "deconvolution", "deep_lift", "lrp"):
        method = bind_method(spec)
        assert method.unfit(classifier) is None
        assert method.explain(classifier, batch).isfinite().all()
