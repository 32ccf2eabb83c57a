"""Shared passes, paths, memory and counts: the same numbers however the work is cut up."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from support import (
    SIDE,
    batch_of,
    conv_network,
    hook_counts,
    linear_network,
    random_images,
    seeded,
    tiny,
)
from torch import Tensor, nn

from steadymap.bench.methods.baselines import BASELINES
from steadymap.bench.methods.binding import bind_method
from steadymap.bench.methods.paths import (
    MOST_DOUBLINGS,
    SETTLED,
    SMALL_ERROR,
    Line,
    NestedPath,
    points_at,
)
from steadymap.bench.methods.registry import DEFAULT_METHODS, METHODS
from steadymap.bench.network.memory import (
    activation_bytes,
    free_host_memory,
    images_at_once,
    is_out_of_memory,
)
from steadymap.bench.network.passes import count_passes, shared_pass
from steadymap.models import Classifier, make_classifier

IMAGES64 = random_images(5).double()
SPECS = (*METHODS, *DEFAULT_METHODS, "integrated_gradients:steps=7")
AUTO = bind_method("integrated_gradients:steps=auto")
EVERY = {method.spec: method for method in map(bind_method, SPECS)}
REAL = [spec for spec, method in EVERY.items() if not method.control]
SHARED = {spec: method for spec, method in EVERY.items() if method.method.share}


# --- one pass for all -----------------------------------------------------------------------------


@pytest.mark.parametrize("at_once", [1, 2, 5, 32])
@pytest.mark.parametrize("spec", SHARED)
def test_what_is_read_off_the_shared_pass_is_captum_s(
    spec: str, at_once: int, conv64: Classifier
) -> None:
    batch = batch_of(IMAGES64)
    seen = shared_pass(conv64, batch.images, batch.targets, ("gradient", "layer"), at_once)
    expected = SHARED[spec].explain(conv64, batch, "captum")
    torch.testing.assert_close(SHARED[spec].read(seen), expected, rtol=0, atol=1e-12)


def test_one_pass_gives_the_logits_and_the_predicted_targets(conv64: Classifier) -> None:
    seen = shared_pass(conv64, IMAGES64, None, ("gradient",), 2)
    torch.testing.assert_close(seen.logits, conv64(IMAGES64), rtol=0, atol=1e-12)
    assert torch.equal(seen.targets, conv64(IMAGES64).argmax(dim=1))
    picked = shared_pass(conv64, IMAGES64, seen.targets, ("gradient",), 5)
    torch.testing.assert_close(seen.gradient, picked.gradient, rtol=0, atol=1e-12)
    assert seen.activations is None
    assert not seen.logits.requires_grad


def test_a_pass_without_readers_goes_forward_alone(conv64: Classifier) -> None:
    with count_passes(conv64) as counts:
        seen = shared_pass(conv64, IMAGES64, None, (), 2)
    assert (counts.forward, counts.backward) == (5, 0)
    with pytest.raises(ValueError, match="does not depend on the image"):
        seen.need_gradient()


def test_a_layer_that_works_in_place_does_not_change_what_grad_cam_sees() -> None:
    def maps(*, inplace: bool) -> Tensor:
        def build() -> nn.Module:
            layers = list(conv_network())
            layers[4] = nn.ReLU(inplace=inplace)
            return nn.Sequential(*layers).double()

        return bind_method("grad_cam:relu=false").explain(tiny(build), batch_of(IMAGES64))

    assert torch.equal(maps(inplace=False), maps(inplace=True))


def test_what_the_logits_do_not_depend_on_costs_its_own_readers() -> None:
    class Detour(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.unused = nn.Conv2d(3, 2, 3)
            self.last = linear_network()

        def forward(self, images: Tensor) -> Tensor:
            self.unused(images)
            logits: Tensor = self.last(images)
            return logits

    detour = tiny(lambda: Detour().double())
    batch = batch_of(IMAGES64)
    seen = shared_pass(detour, batch.images, batch.targets, ("gradient", "layer"), 8)
    assert EVERY["gradient"].read(seen).shape == IMAGES64.shape
    with pytest.raises(ValueError, match="does not depend on the layer"):
        EVERY["grad_cam:relu=true"].read(seen)


def test_a_method_that_takes_more_cannot_be_read_off_a_pass(conv64: Classifier) -> None:
    seen = shared_pass(conv64, IMAGES64, None, ("gradient",), 8)
    with pytest.raises(TypeError, match="cannot be read off one pass"):
        EVERY["integrated_gradients:baseline=black,steps=7"].read(seen)


@pytest.mark.parametrize("spec", EVERY)
def test_a_method_takes_the_passes_that_it_declares(spec: str, conv64: Classifier) -> None:
    with count_passes(conv64) as counts:
        EVERY[spec].explain(conv64, batch_of(IMAGES64))
    back, there = EVERY[spec].passes, EVERY[spec].forward_only((16, 16))
    assert (counts.forward, counts.backward) == (5 * (back + there), 5 * back)


@pytest.mark.parametrize("spec", EVERY)
def test_how_many_go_at_once_changes_nothing(spec: str, conv64: Classifier) -> None:
    batch = batch_of(IMAGES64)
    maps = EVERY[spec].explain(conv64, batch)
    for at_once in (1, 3, 64):
        other = EVERY[spec].explain(conv64, replace(batch, at_once=at_once))
        torch.testing.assert_close(other, maps, rtol=0, atol=1e-12)


# What goes through the network one after the other: baselines, references, and Grad-CAM.
ROUNDS = {
    "integrated_gradients_averaged": 8,
    "guided_grad_cam": 2,
    "deep_lift": 2,
    "deep_lift_shap": 16,
}


@pytest.mark.parametrize("spec", [*REAL, AUTO.spec])
def test_no_more_than_at_once_go_through_the_network(spec: str, conv64: Classifier) -> None:
    method = EVERY.get(spec, AUTO)
    sizes: list[int] = []
    hook = conv64.module.network.register_forward_hook(lambda _m, _i, out: sizes.append(len(out)))
    for _ in range(2):
        sizes.clear()  # the first time a rewritten network is compared with the network, too
        method.explain(conv64, replace(batch_of(IMAGES64), at_once=3))
        assert max(sizes) == 3
    hook.remove()
    if method.adaptive:
        return
    # All pieces of a round but the last are full: lines of a path share a piece.
    rounds = ROUNDS.get(spec.partition(":")[0], 1)
    points = len(IMAGES64) * (method.passes + method.forward_only((16, 16))) // rounds
    assert sum(sizes) == rounds * points
    assert len(sizes) == rounds * math.ceil(points / 3)


# --- as many steps as needed ----------------------------------------------------------------------


def smooth(side: int = 6) -> Classifier:
    def build() -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(4 * (side - 2) ** 2, 3)
        ).double()

    return make_classifier(seeded(build), (side, side))


def trapezoid(classifier: Classifier, images: Tensor, intervals: int) -> Tensor:
    """The definition, point by point."""
    targets = batch_of(images).targets
    total = torch.zeros_like(images)
    for place in range(intervals + 1):
        points = (images * (place / intervals)).requires_grad_()
        picked = classifier(points).gather(1, targets[:, None]).sum()
        weight = 0.5 if place in {0, intervals} else 1.0
        total += weight * torch.autograd.grad(picked, points)[0] / intervals
    return total * images


def nested(classifier: Classifier, images: Tensor) -> NestedPath:
    line = Line(torch.zeros_like(images), images, batch_of(images).targets, 32)
    return NestedPath(classifier, line)


@pytest.mark.parametrize("level", [0, 1, 3, MOST_DOUBLINGS])
def test_each_level_is_the_trapezoid_rule(level: int, conv64: Classifier) -> None:
    path = nested(conv64, IMAGES64)
    expected = trapezoid(conv64, IMAGES64, 4 << level)
    torch.testing.assert_close(path.at([level] * 5), expected, rtol=0, atol=1e-12)


def test_doubling_reuses_all_its_points(conv64: Classifier) -> None:
    with count_passes(conv64) as counts:
        path = nested(conv64, IMAGES64)
    assert counts.backward == sum(points_at(level) for level in path.settled)
    assert counts.forward == counts.backward + 2 * 5  # and both ends, for the logit difference
    with count_passes(conv64) as more:
        path.at([level + 1 for level in path.settled])
    assert more.backward == sum(points_at(level + 1) - points_at(level) for level in path.settled)
    with count_passes(conv64) as again:
        path.at(path.settled)
    assert again.backward == 0


def test_a_line_stops_where_map_and_completeness_have_settled() -> None:
    classifier = tiny(lambda: conv_network().double())
    images = random_images(12).double() * torch.linspace(0.05, 3, 12).double().view(-1, 1, 1, 1)
    path = nested(classifier, images)
    targets = batch_of(images).targets[:, None]
    deltas = (classifier(images) - classifier(images * 0)).gather(1, targets)[:, 0]
    found: list[float] = deltas.tolist()
    for line, settled in enumerate(path.settled):
        maps = [path.at([k] * 12)[line].sum(dim=0) for k in range(settled + 1)]
        met = [
            bool((now - before).norm() <= SETTLED * now.norm())
            and bool(
                abs(float(now.sum()) - found[line]) <= max(SETTLED * abs(found[line]), SMALL_ERROR)
            )
            for before, now in pairwise(maps)
        ]
        assert met == [False] * (settled - 1) + [True], line
    assert len(set(path.settled)) > 1


def test_a_line_that_never_settles_takes_the_last_level() -> None:
    class Comb(nn.Module):
        """Steep steps, so close that no number of nodes sees them all."""

        def forward(self, images: Tensor) -> Tensor:
            waves = torch.sin(1e5 * images).mean(dim=(1, 2, 3))
            return torch.stack([waves, -waves], dim=1)

    comb = make_classifier(Comb().double(), (6, 6))
    images = random_images(2, 6).double()
    path = NestedPath(comb, Line(torch.zeros_like(images), images, torch.tensor([0, 1]), 8))
    assert path.settled == [MOST_DOUBLINGS] * 2
    assert path.reached == [MOST_DOUBLINGS] * 2


def test_a_linear_network_is_settled_at_the_first_comparison(linear64: Classifier) -> None:
    path = nested(linear64, IMAGES64)
    assert path.settled == [1] * 5
    maps = bind_method("integrated_gradients:steps=auto").explain(linear64, batch_of(IMAGES64))
    fixed = bind_method("integrated_gradients:steps=2").explain(linear64, batch_of(IMAGES64))
    torch.testing.assert_close(maps, fixed, rtol=0, atol=1e-12)


def test_steps_auto_meets_gauss_legendre_on_a_smooth_network() -> None:
    classifier, images = smooth(), random_images(4, 6).double()
    auto = bind_method("integrated_gradients:steps=auto").explain(classifier, batch_of(images))
    exact = bind_method("integrated_gradients:steps=64").explain(classifier, batch_of(images))
    error = (auto - exact).flatten(1).norm(dim=1) / exact.flatten(1).norm(dim=1)
    assert float(error.max()) < SETTLED


@pytest.mark.parametrize("baseline", BASELINES)
def test_steps_auto_takes_every_baseline(baseline: str) -> None:
    classifier, images = smooth(), random_images(4, 6).double()
    spec = f"integrated_gradients:baseline={baseline},steps="
    auto = bind_method(spec + "auto").explain(classifier, batch_of(images))
    exact = bind_method(spec + "64").explain(classifier, batch_of(images))
    assert float((auto - exact).norm() / exact.norm()) < SETTLED


# --- memory ---------------------------------------------------------------------------------------


def test_activations_are_what_the_backward_pass_keeps() -> None:
    network = tiny()
    pixels = SIDE * SIDE
    by_hand = (
        6 * pixels  # first ReLU, as output; the pooling reads the same memory
        + 2 * 6 * pixels // 4  # places of the largest (8 bytes each)
        + 6 * pixels // 4  # what the second convolution reads
        + 8 * pixels // 4  # second ReLU
        + 3 * pixels  # the image
        + 3  # the logits
    )
    assert activation_bytes(network) == 4 * by_hand


@pytest.mark.parametrize(("free", "expected"), [(10**15, 32), (None, 32), (10, 1)])
def test_as_many_go_at_once_as_memory_holds(
    monkeypatch: pytest.MonkeyPatch, conv: Classifier, free: int | None, expected: int
) -> None:
    monkeypatch.setattr("steadymap.bench.network.memory.free_memory", lambda _device: free)
    assert images_at_once(conv) == expected


def test_at_once_is_a_power_of_two_below_what_fits(
    monkeypatch: pytest.MonkeyPatch, conv: Classifier
) -> None:
    seven = int(7.9 * activation_bytes(conv) * 2 / 0.5)
    monkeypatch.setattr("steadymap.bench.network.memory.free_memory", lambda _device: seven)
    assert images_at_once(conv) == 4


@pytest.mark.parametrize(
    ("limit", "expected"),
    [("max", 2048 * 1024), ("1500000", 1_000_000), ("9999999", 2048 * 1024), ("100", 0)],
)
def test_free_memory_minds_the_container(tmp_path: Path, limit: str, expected: int) -> None:
    files = {"meminfo": "MemAvailable:    2048 kB\n", "own": "0::/\n", "memory.max": limit}
    for name, text in (files | {"memory.current": "500000", "memory.stat": ""}).items():
        (tmp_path / name).write_text(text)
    own = tmp_path / "own"
    assert free_host_memory(tmp_path / "meminfo", tmp_path, own) == expected
    assert free_host_memory(tmp_path / "meminfo", tmp_path / "nothing", own) == 2048 * 1024
    assert free_host_memory(tmp_path / "nothing", tmp_path, own) is None


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (MemoryError(), True),
        (RuntimeError("[enforce fail] . DefaultCPUAllocator: can't allocate memory: you"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
    ],
)
def test_out_of_memory_is_told_from_other_errors(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) == expected


def test_the_real_allocator_s_error_is_known() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**55)
    assert is_out_of_memory(caught.value)


def test_counting_leaves_no_hook(conv: Classifier) -> None:
    before = hook_counts(conv.module)
    with count_passes(conv.shifted(0.2)) as counts:
        conv(random_images(3))
    assert counts.forward == 3
    assert hook_counts(conv.module) == before
