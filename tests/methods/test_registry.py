"""Analytic truths, and laws over every registered method."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from captum.attr import IntegratedGradients
from support import (
    CLASSES,
    SIDE,
    batch_of,
    conv_network,
    global_numpy_state,
    hook_counts,
    linear_network,
    on_demand,
    random_images,
    seeded,
)
from torch import Tensor, nn

from steadymap.bench.checks.conformance import check_method, registered
from steadymap.bench.checks.registry import CHECKS
from steadymap.bench.methods.baselines import BASELINES
from steadymap.bench.methods.batch import Batch
from steadymap.bench.methods.binding import bind_method
from steadymap.bench.methods.method import BoundMethod, Engine, Method, Share
from steadymap.bench.methods.registry import DEFAULT_METHODS, METHODS
from steadymap.metrics import METRICS, Maps, evaluate
from steadymap.models import Classifier, load_classifier, make_classifier

IMAGES = random_images(4)
IMAGES64 = random_images(4).double()
SHIFT = 0.3
AUTO = "integrated_gradients:steps=auto"
SPECS = (*METHODS, *DEFAULT_METHODS, AUTO)
EVERY = {method.spec: method for method in map(bind_method, SPECS)}
REAL = [spec for spec, method in EVERY.items() if not method.control]
COMPLETE = [spec for spec, method in EVERY.items() if method.can("complete")]
# What captum does, too.
CAPTUM = [spec for spec, method in EVERY.items() if method.method.captum and not method.adaptive]


def explain(spec: str, classifier: Classifier, images: Tensor) -> Tensor:
    return bind_method(spec).explain(classifier, batch_of(images))


def target_weights(classifier: Classifier) -> Tensor:
    """(B, 3, H, W): the row of the linear layer that belongs to each image's target."""
    linear = classifier.module.network.get_submodule("1")
    assert isinstance(linear, nn.Linear)
    return linear.weight[batch_of(IMAGES64).targets].view_as(IMAGES64)


def target_logits(classifier: Classifier, images: Tensor) -> Tensor:
    return classifier(images).gather(1, batch_of(images).targets[:, None])[:, 0]


# --- a linear network, where everything is known ------------------------------------------------


@pytest.mark.parametrize(
    ("name", "field"), [(name, field) for name in METHODS for field in on_demand(METHODS[name])]
)
def test_what_an_entry_names_is_a_function_of_the_room(name: str, field: str) -> None:
    function = on_demand(METHODS[name])[field]
    assert function.place.startswith("steadymap.bench.methods.")
    assert inspect.isfunction(function.load())


def parameters_of(function: Callable[..., object]) -> dict[str, object]:
    signature = inspect.signature(function).parameters.values()
    return {one.name: one.default for one in signature if one.kind is one.KEYWORD_ONLY}


@pytest.mark.parametrize("name", METHODS)
def test_what_stands_in_for_a_method_takes_its_parameters(name: str) -> None:
    entry = METHODS[name]
    assert "explain" in on_demand(entry), "loaded with the table"
    own = parameters_of(entry.explain)
    assert entry.captum is None or parameters_of(entry.captum) == own
    if entry.share is not None:
        # The pass has read the classifier's own layer.
        layer = {"layer": None} if entry.layered else {}
        assert parameters_of(entry.share.read) | layer == own
    if entry.nested is not None:
        assert parameters_of(entry.nested) | {"steps": own["steps"]} == own
    if entry.on_linear is not None:
        assert set(parameters_of(entry.on_linear)) <= set(own)


def test_gradient_of_a_linear_network_is_its_weights(linear64: Classifier) -> None:
    torch.testing.assert_close(
        explain("gradient", linear64, IMAGES64), target_weights(linear64), rtol=0, atol=1e-12
    )


def test_gradient_x_input_of_a_linear_network(linear64: Classifier) -> None:
    torch.testing.assert_close(
        explain("gradient_x_input", linear64, IMAGES64),
        target_weights(linear64) * IMAGES64,
        rtol=0,
        atol=1e-12,
    )


@pytest.mark.parametrize("baseline", BASELINES)
@pytest.mark.parametrize("steps", [1, 2, 50])
def test_integrated_gradients_of_a_linear_network(
    linear64: Classifier, baseline: str, steps: int
) -> None:
    reference = BASELINES[baseline].make(batch_of(IMAGES64))
    maps = explain(f"integrated_gradients:baseline={baseline},steps={steps}", linear64, IMAGES64)
    expected = target_weights(linear64) * (IMAGES64 - reference)
    torch.testing.assert_close(maps, expected, rtol=0, atol=1e-12)
    delta = target_logits(linear64, IMAGES64) - target_logits(linear64, reference)
    torch.testing.assert_close(maps.sum(dim=(1, 2, 3)), delta, rtol=0, atol=1e-12)


def test_baselines_are_what_they_are_called() -> None:
    batch = batch_of(IMAGES)
    assert torch.equal(BASELINES["black"].make(batch), torch.zeros_like(IMAGES))
    assert torch.equal(BASELINES["white"].make(batch), torch.ones_like(IMAGES))
    noise = BASELINES["random"].make(batch)
    assert noise.shape == IMAGES.shape
    assert 0 <= float(noise.min()) < 0.01
    assert 0.99 < float(noise.max()) <= 1
    assert not torch.equal(noise[0], noise[1])


def test_the_random_baseline_belongs_to_the_image_and_the_seed() -> None:
    batch = batch_of(IMAGES)
    noise = BASELINES["random"].make(batch)
    # Alone, in another place, and asked again it has the same baseline.
    assert torch.equal(BASELINES["random"].make(batch.part([2])), noise[2:3])
    assert torch.equal(BASELINES["random"].make(batch.part([2, 0])), noise[[2, 0]])
    assert torch.equal(BASELINES["random"].make(batch), noise)
    assert not torch.equal(BASELINES["random"].make(batch_of(IMAGES, seed=1)), noise)


def test_gradients_agree_with_finite_differences() -> None:
    smooth = make_classifier(
        seeded(
            lambda: nn.Sequential(nn.Conv2d(3, 2, 3), nn.Tanh(), nn.Flatten(), nn.Linear(32, 3))
        ).double(),
        (6, 6),
    )
    images = random_images(1, 6).double()
    maps = explain("gradient", smooth, images)
    step = 1e-6
    for place in [(0, 0, 0), (1, 3, 4), (2, 5, 5)]:
        nudge = torch.zeros_like(images)
        nudge[0, *place] = step
        above, below = smooth(images + nudge)[0, 0], smooth(images - nudge)[0, 0]
        assert float(maps[0, *place]) == pytest.approx(
            float((above - below) / (2 * step)), abs=1e-8
        )


def test_integrated_gradients_become_complete_on_a_smooth_network() -> None:
    smooth = make_classifier(
        seeded(
            lambda: nn.Sequential(nn.Conv2d(3, 2, 3), nn.Tanh(), nn.Flatten(), nn.Linear(32, 3))
        ).double(),
        (6, 6),
    )
    images = random_images(3, 6).double()
    maps = explain("integrated_gradients:steps=24", smooth, images)
    delta = target_logits(smooth, images) - target_logits(smooth, torch.zeros_like(images))
    torch.testing.assert_close(maps.sum(dim=(1, 2, 3)), delta, rtol=0, atol=1e-12)


def test_grad_cam_follows_its_two_equations(conv64: Classifier) -> None:
    network = conv64.module.network
    assert isinstance(network, nn.Sequential)
    images = IMAGES64.clone().requires_grad_()
    activations = network[:5](images)
    logits = network[5:](activations)
    picked = logits.gather(1, batch_of(IMAGES64).targets[:, None]).sum()
    gradients = torch.autograd.grad(picked, activations)[0]
    weights = gradients.mean(dim=(2, 3), keepdim=True)
    raw = (weights * activations).sum(dim=1, keepdim=True)
    assert conv64.cam_layer == "4"
    torch.testing.assert_close(explain("grad_cam", conv64, IMAGES64), raw.relu())
    torch.testing.assert_close(explain("grad_cam:relu=false", conv64, IMAGES64), raw)
    assert raw.shape == (4, 1, SIDE // 2, SIDE // 2)


# --- the compensated bias, where closed forms hold ----------------------------------------------


@pytest.mark.parametrize("spec", ["gradient", "grad_cam"])
def test_a_compensated_bias_leaves_gradient_and_grad_cam(spec: str, conv64: Classifier) -> None:
    moved = explain(spec, conv64.shifted(SHIFT), IMAGES64 + SHIFT)
    torch.testing.assert_close(moved, explain(spec, conv64, IMAGES64), rtol=0, atol=1e-12)


def test_a_compensated_bias_moves_gradient_x_input_by_shift_x_gradient(conv64: Classifier) -> None:
    moved = explain("gradient_x_input", conv64.shifted(SHIFT), IMAGES64 + SHIFT)
    still = explain("gradient_x_input", conv64, IMAGES64)
    torch.testing.assert_close(
        moved - still, SHIFT * explain("gradient", conv64, IMAGES64), rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("baseline", BASELINES)
def test_a_compensated_bias_is_a_shifted_baseline(baseline: str, conv64: Classifier) -> None:
    spec = f"integrated_gradients:baseline={baseline},steps=32"
    batch, moved_batch = batch_of(IMAGES64), batch_of(IMAGES64 + SHIFT)
    expected = IntegratedGradients(conv64.module).attribute(
        IMAGES64,
        baselines=BASELINES[baseline].make(moved_batch) - SHIFT,
        target=batch.targets,
        n_steps=32,
        method="gausslegendre",
    )
    moved = explain(spec, conv64.shifted(SHIFT), IMAGES64 + SHIFT)
    # captum's Gauss-Legendre weights add up to 1 within 1e-9.
    torch.testing.assert_close(moved, expected, rtol=0, atol=1e-9)
    # Where the baseline moves along, the two shifts cancel: the map is that of the clean image.
    same = torch.allclose(moved, explain(spec, conv64, IMAGES64), rtol=0, atol=1e-12)
    near = torch.allclose(moved, explain(spec, conv64, IMAGES64), atol=1e-3)
    assert same == near == BASELINES[baseline].moves_along


# --- the fourth cell: the image stays, and the network computes f(x + shift) ---------------------


@pytest.mark.parametrize("spec", ["gradient", "grad_cam", "grad_cam:relu=false", "layer_cam"])
def test_a_shifted_network_s_gradient_and_grad_cam_are_those_of_the_moved_image(
    spec: str, conv64: Classifier
) -> None:
    shifted = explain(spec, conv64.shifted(-SHIFT), IMAGES64)
    torch.testing.assert_close(shifted, explain(spec, conv64, IMAGES64 + SHIFT), rtol=0, atol=1e-12)


def test_a_shifted_network_s_gradient_x_input_takes_the_image_as_it_is(conv64: Classifier) -> None:
    shifted = explain("gradient_x_input", conv64.shifted(-SHIFT), IMAGES64)
    slope = explain("gradient", conv64, IMAGES64 + SHIFT)
    torch.testing.assert_close(shifted, slope * IMAGES64, rtol=0, atol=1e-12)
    # So the three differences add up but for the slope's own change times the shift.
    clean, moved = (explain("gradient_x_input", conv64, x) for x in (IMAGES64, IMAGES64 + SHIFT))
    still = explain("gradient", conv64, IMAGES64)
    compensated = explain("gradient_x_input", conv64.shifted(SHIFT), IMAGES64 + SHIFT)
    interaction = (moved - clean) - (shifted - clean) - (compensated - clean)
    torch.testing.assert_close(interaction, (slope - still) * SHIFT, rtol=0, atol=1e-12)


# --- our own paths against captum's ---------------------------------------------------------------


@pytest.mark.parametrize("spec", CAPTUM)
@pytest.mark.parametrize("steps", [1, 5, 31, 32, 33, 100])
def test_our_own_engine_gives_captum_s_maps(spec: str, steps: int, conv64: Classifier) -> None:
    method = bind_method(re.sub(r"steps=\d+", f"steps={steps}", spec))
    batch = batch_of(IMAGES64)
    own, theirs = method.explain(conv64, batch), method.explain(conv64, batch, "captum")
    assert method.method.captum is not method.method.explain
    # captum's means over windows are in single precision.
    tolerance = 1e-6 if spec.startswith("occlusion") else 1e-8
    assert float((own - theirs).norm() / theirs.norm()) < tolerance


def test_our_own_engine_gives_captum_s_maps_in_single_precision() -> None:
    classifier = load_classifier("compact")
    batch = batch_of(random_images(8, 64))
    for spec in CAPTUM:
        own = EVERY[spec].explain(classifier, batch)
        theirs = EVERY[spec].explain(classifier, batch, "captum")
        assert float((own - theirs).norm() / theirs.norm()) < 3e-3
        ranks = Maps.from_attributions(own.numpy()), Maps.from_attributions(theirs.numpy())
        scores = evaluate(METRICS["spearman"], *ranks)
        # Grad-CAM of random images is zero throughout where all the evidence is negative.
        defined = [status == "ok" for status in scores.statuses]
        assert sum(defined) >= 4
        # Two neighbours in a map of 8 x 8 that change places move it by 12 / (64^3 - 64) = 5e-5.
        assert float((1 - scores.values[defined]).max()) < 5e-4


# --- laws over every registered method ----------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "engine"),
    [
        *((spec, "own") for spec in (*registered(), "grad_cam:relu=false", AUTO)),
        *((spec, "captum") for spec in (*registered(), "grad_cam:relu=false")),
    ],
)
def test_every_method_passes_every_check(spec: str, engine: Engine) -> None:
    findings = check_method(bind_method(spec), engine)
    assert list(findings) == list(CHECKS)
    failed = {name: found.reason for name, found in findings.items() if found.result == "failed"}
    assert not failed
    reasons = [found.reason for found in findings.values() if found.result == "not applicable"]
    assert all(reasons)


def wrong(reason: str, method: Method) -> tuple[str, str]:
    """Return which checks fail, and what they say."""
    findings = check_method(BoundMethod("wrong", method, ()))
    failed = {name: found.reason for name, found in findings.items() if found.result == "failed"}
    assert any(reason in text for text in failed.values()), failed
    return ", ".join(failed), reason


def test_a_method_that_changes_the_network_is_found_out() -> None:
    def guided(classifier: Classifier, batch: Batch) -> Tensor:
        network = classifier.module.network
        assert isinstance(network, nn.Sequential)
        network[1] = nn.ReLU()
        return METHODS["gradient"].explain(classifier, batch)

    assert "state" in wrong("changed: modules", Method(guided, "", ""))[0]

    def retargeting(classifier: Classifier, batch: Batch) -> Tensor:
        batch.targets[:] = 0
        return METHODS["gradient"].explain(classifier, batch)

    assert "state" in wrong("targets", Method(retargeting, "", ""))[0]


def test_a_shared_reading_that_is_not_the_method_is_found_out() -> None:
    usual = METHODS["gradient"]
    share = Share("gradient", lambda seen: 2 * seen.need_gradient())
    names, _ = wrong("off by", replace(usual, share=share, captum=None))
    assert names == "shortcut"


def test_a_method_that_raises_has_failed_every_check_and_stopped_none() -> None:
    def broken(_classifier: Classifier, _batch: Batch) -> Tensor:
        raise RuntimeError("not today")

    findings = check_method(BoundMethod("broken", Method(broken, "", ""), ()))
    assert list(findings) == list(CHECKS)
    assert findings["form"].reason == "RuntimeError: not today"
    assert "passed" not in {found.result for found in findings.values()}


@pytest.mark.parametrize("spec", COMPLETE)
def test_a_complete_method_names_where_it_starts(spec: str) -> None:
    start = EVERY[spec].start
    assert start is not None
    starts = list(start.images(batch_of(IMAGES)))
    assert [images.shape for images in starts] == [IMAGES.shape] * start.draws


class Bomb:
    """Watches a network; once armed, its forward or its backward raises."""

    armed = ""

    def __call__(self, _network: nn.Module, _inputs: object, logits: Tensor) -> None:
        if self.armed == "forward":
            raise RuntimeError("boom")
        if self.armed == "backward" and logits.requires_grad:
            logits.register_hook(self._explode)

    def _explode(self, _gradient: Tensor) -> Tensor:
        raise RuntimeError("boom")


@pytest.mark.parametrize("armed", ["", "forward", "backward"])
@pytest.mark.parametrize("spec", REAL)
def test_nothing_is_left_changed(spec: str, armed: str) -> None:
    bomb = Bomb()
    network = seeded(conv_network)
    network.register_forward_hook(bomb)
    classifier = make_classifier(network, (SIDE, SIDE), CLASSES)
    weights = classifier.weights_hash()
    hooks = hook_counts(classifier.module)
    torch_state, numpy_state = torch.random.get_rng_state(), global_numpy_state()
    images = IMAGES.clone()
    bomb.armed = armed
    # Some methods run the network forward alone.
    if armed and (armed == "forward" or EVERY[spec].passes):
        with pytest.raises(RuntimeError, match="boom"):
            explain(spec, classifier, images)
    else:
        explain(spec, classifier, images)
    assert classifier.weights_hash() == weights
    assert not any(part.training for part in classifier.module.modules())
    assert all(
        part.grad is None and not part.requires_grad for part in classifier.module.parameters()
    )
    assert hook_counts(classifier.module) == hooks
    assert torch.equal(images, IMAGES)
    assert not images.requires_grad
    assert images.grad is None
    assert torch.equal(torch.random.get_rng_state(), torch_state)
    np.testing.assert_array_equal(global_numpy_state(), numpy_state)
    assert torch.is_grad_enabled()


# --- specs ------------------------------------------------------------------------------------


def test_a_spec_names_every_parameter() -> None:
    bound = bind_method("integrated_gradients:steps=32")
    assert bound.spec == "integrated_gradients:baseline=black,steps=32"
    assert bind_method(bound.spec) == bound
    assert bind_method("grad_cam").spec == "grad_cam:relu=true"
    assert bind_method("gradient").spec == "gradient"


def test_steps_fill_in_where_a_spec_is_silent() -> None:
    def steps(method: BoundMethod) -> object:
        return dict(method.parameters)["steps"]

    assert steps(bind_method("integrated_gradients", 7)) == 7
    assert steps(bind_method("integrated_gradients:steps=3", 7)) == 3
    assert bind_method("gradient", 7).spec == "gradient"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("gradiant", "unknown method 'gradiant'; did you mean gradient?"),
        ("integrated_gradients:step=3", "unknown parameter 'step'; did you mean steps?"),
        ("integrated_gradients:baseline=grey", "baseline=grey: Input should be 'black', 'white'"),
        ("integrated_gradients:steps=0", "steps=0: Input should be greater than or equal to 1"),
        ("integrated_gradients:steps=many", "steps=many: Input should be a valid integer"),
        ("gradient:steps=3", "unknown parameter 'steps'; it has none"),
        ("grad_cam:relu", "expected key=value, got 'relu'"),
    ],
)
def test_a_bad_spec_names_what_is_wrong(spec: str, message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("?", r"\?")):
        bind_method(spec)


def test_linear_network_has_no_layer_for_grad_cam() -> None:
    linear = make_classifier(linear_network(), (SIDE, SIDE))
    reason = METHODS["grad_cam"].inapplicable(linear)
    assert reason == "the network has no convolution with a spatial output before tokens are made"


# --- noisy copies, and the family of Grad-CAM -----------------------------------------------------


def noisy_gradients(classifier: Classifier, images: Tensor, samples: int, noise: float) -> Tensor:
    """Take gradients one image and one copy at a time: (samples, B, 3, H, W)."""
    batch = batch_of(images)
    found = []
    for place, rng in enumerate(batch.generators("smoothing")):
        copies = []
        for _ in range(samples):
            drawn = torch.from_numpy(rng.standard_normal(tuple(images.shape[1:])))
            copy = (images[place : place + 1] + noise * drawn).requires_grad_()
            logit = classifier(copy)[0, batch.targets[place]]
            copies.append(torch.autograd.grad(logit, copy)[0][0])
        found.append(torch.stack(copies))
    return torch.stack(found, dim=1)


@pytest.mark.parametrize(
    ("name", "moment"),
    [
        ("smooth_grad", lambda gradients: gradients.mean(dim=0)),
        ("smooth_grad_squared", lambda gradients: gradients.square().mean(dim=0)),
        ("var_grad", lambda gradients: gradients.var(dim=0, correction=0)),
    ],
)
def test_a_moment_of_noisy_gradients_is_that_moment(
    name: str, moment: Callable[[Tensor], Tensor], conv64: Classifier
) -> None:
    gradients = noisy_gradients(conv64, IMAGES64, 5, 0.2)
    maps = explain(f"{name}:samples=5,noise=0.2", conv64, IMAGES64)
    torch.testing.assert_close(maps, moment(gradients), rtol=1e-9, atol=1e-12)


def test_without_noise_smoothgrad_is_the_gradient(conv64: Classifier) -> None:
    maps = explain("smooth_grad:samples=3,noise=0", conv64, IMAGES64)
    torch.testing.assert_close(maps, explain("gradient", conv64, IMAGES64))
    assert not explain("var_grad:samples=3,noise=0", conv64, IMAGES64).any()


def layer_of(classifier: Classifier, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return activations of the layer for Grad-CAM and their gradient, by a hook of its own."""
    seen: list[Tensor] = []
    hook = classifier.cam_module.register_forward_hook(lambda *given: seen.append(given[2]))
    logits = classifier(images.clone().requires_grad_())
    hook.remove()
    chosen = logits.gather(1, batch_of(images).targets[:, None]).sum()
    return seen[0].detach(), torch.autograd.grad(chosen, seen[0])[0]


def test_maps_of_the_last_convolution_are_their_definitions(conv64: Classifier) -> None:
    """Place by place, in loops."""
    activations, slope = layer_of(conv64, IMAGES64)
    count, channels, height, width = activations.shape
    plus_plus, hires, layer = (torch.zeros(count, 1, height, width).double() for _ in range(3))
    for image in range(count):
        for k in range(channels):
            total = float(activations[image, k].sum())
            weight = 0.0
            for y in range(height):
                for x in range(width):
                    g, a = float(slope[image, k, y, x]), float(activations[image, k, y, x])
                    below = 2 * g**2 + total * g**3
                    if below != 0:
                        weight += g**2 / below * max(g, 0)
                    hires[image, 0, y, x] += g * a
                    layer[image, 0, y, x] += max(g, 0) * a
            plus_plus[image, 0] += weight * activations[image, k]
    for name, expected in (
        ("grad_cam_plus_plus", plus_plus.relu()),
        ("hires_cam", hires.relu()),
        ("hires_cam:relu=false", hires),
        ("layer_cam", layer.relu()),
    ):
        torch.testing.assert_close(explain(name, conv64, IMAGES64), expected, rtol=1e-9, atol=1e-12)


def test_before_an_average_over_places_hires_cam_is_grad_cam() -> None:
    """There the gradient is the same at every place."""
    averaging = make_classifier(
        seeded(
            lambda: nn.Sequential(
                nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
            )
        ).double(),
        (6, 6),
    )
    images = random_images(3, 6).double()
    torch.testing.assert_close(
        explain("hires_cam", averaging, images), explain("grad_cam", averaging, images)
    )
