"""Deployed twins of a network: what each changes, and that the exact ones change nothing."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from nets import CLASSES, SIDE, build
from support import conv_network, seeded
from torch import Tensor, nn

from steadymap.bench.commands import gate
from steadymap.bench.core.errors import ConfigError
from steadymap.bench.network.passes import rounded, shared_pass
from steadymap.bench.network.variants import VARIANTS, as_deployed, parse_variant
from steadymap.models import Classifier, ModelError, Normalization, make_classifier

CPU = torch.device("cpu")
SPECS = ("folded", "bfloat16", "int8-fake", "rounded=2", "pruned=0.3")


@pytest.fixture(scope="module")
def residual() -> Classifier:
    network = build("residual")
    return make_classifier(network, (SIDE, SIDE), CLASSES, Normalization(network.mean, network.std))


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.rand(8, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


def maps_of(classifier: Classifier, images: Tensor, targets: Tensor, at_once: int) -> list[Tensor]:
    """Return logits, gradients and, where there is a layer, Grad-CAM's sums, as float64."""
    reads = ("gradient", "layer") if classifier.cam else ("gradient",)
    seen = shared_pass(classifier, images, targets, reads, at_once)  # type: ignore[arg-type] # literals
    maps = [seen.logits, seen.need_gradient()]
    if classifier.cam:
        layer, slope = seen.need_layer()
        maps.append((layer * slope.mean((2, 3), keepdim=True)).sum(1))
    return [values.double() for values in maps]


def apart(one: list[Tensor], other: list[Tensor]) -> list[float]:
    """Return, by kind of map, the largest distance of an image's, relative to its size."""
    return [
        float(((a - b).flatten(1).norm(dim=1) / b.flatten(1).norm(dim=1)).max())
        for a, b in zip(one, other, strict=False)
    ]


def see_the_same(twin: Classifier, given: Classifier, images: Tensor) -> None:
    """See that a twin is no further from the network than rounding explains.

    Of the exact maps the network is off by the floor, and the twin as much: twice that in all.
    """
    targets = given(images).argmax(1)
    plain = maps_of(given, images, targets, len(images))
    ways = [
        maps_of(given, images, targets, 1),
        maps_of(given, rounded(images), targets, len(images)),
        maps_of(given.to(CPU, torch.float64), images.double(), targets, len(images)),
    ]
    floor = np.max([apart(way, plain) for way in ways], axis=0)
    found = apart(maps_of(twin, images, targets, len(images)), plain)
    assert 0 < floor.max() < 1e-5
    assert all(distance <= 2 * most for distance, most in zip(found, floor, strict=False)), found


@pytest.mark.parametrize("spec", SPECS)
def test_the_network_that_is_given_is_left_alone(
    residual: Classifier, images: Tensor, spec: str
) -> None:
    before = residual.weights_hash(), residual(images)
    twin = as_deployed(residual, spec, images)
    assert twin.weights_hash() != before[0]
    assert (twin.name, twin.class_names) == (residual.name, residual.class_names)
    assert residual.weights_hash() == before[0]
    assert torch.equal(residual(images), before[1])
    # It can be copied for a worker and randomised for null maps, as any other.
    assert torch.equal(twin.replica()(images), twin(images))
    assert not torch.equal(twin.randomised(0)(images), twin(images))


# --- the same function ----------------------------------------------------------------------------


def test_batch_norms_folded_change_nothing_but_rounding(
    residual: Classifier, images: Tensor
) -> None:
    twin = as_deployed(residual, "folded", images)
    kinds = [type(part) for part in twin.module.network.modules()]
    assert nn.BatchNorm2d not in kinds
    assert kinds.count(nn.Identity) == 5
    assert twin.cam == residual.cam
    see_the_same(twin, residual, images)


class Tangled(nn.Module):
    """A convolution that two read, a norm that stands behind two, and one pair alone."""

    def __init__(self) -> None:
        super().__init__()
        self.read_twice = nn.Conv2d(3, 4, 3)
        self.second, self.third, self.fourth = (nn.Conv2d(4, 4, 1) for _ in range(3))
        self.behind, self.shared, self.single = (nn.BatchNorm2d(4) for _ in range(3))
        for norm in (self.behind, self.shared, self.single):
            nn.init.uniform_(norm.running_var, 0.2, 0.8)  # type: ignore[arg-type] # it has one
            nn.init.normal_(norm.running_mean)  # type: ignore[arg-type] # as above

    def forward(self, images: Tensor) -> Tensor:
        first = self.read_twice(images)
        values = self.behind(first) + first
        values = self.shared(self.third(self.shared(self.second(values)).relu()))
        logits: Tensor = self.single(self.fourth(values)).mean((2, 3))
        return logits


def test_a_norm_is_folded_only_where_nobody_else_reads_between(images: Tensor) -> None:
    given = make_classifier(seeded(Tangled), (SIDE, SIDE))
    twin = as_deployed(given, "folded", images)
    left = {
        name for name, part in twin.module.network.named_children() if type(part) is nn.BatchNorm2d
    }
    assert left == {"behind", "shared"}
    assert isinstance(twin.module.network.get_submodule("single"), nn.Identity)
    torch.testing.assert_close(twin(images), given(images), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
@pytest.mark.filterwarnings("ignore")  # torch's own, while it compiles
def test_a_compiled_network_changes_nothing_but_rounding(
    residual: Classifier, images: Tensor, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    try:
        twin = as_deployed(residual, "compiled", images)
    except ModelError as error:
        if backend == "aot_eager":
            raise
        pytest.skip(f"torch.compile does not work here: {error}")
    assert twin.cam is None  # hooks do not reach its layers
    see_the_same(twin, residual, images)


# --- fewer bits -----------------------------------------------------------------------------------


def test_bfloat16_is_the_network_in_bfloat16_between_images_and_logits_of_float32(
    images: Tensor,
) -> None:
    network = seeded(lambda: conv_network(SIDE))
    twin = as_deployed(make_classifier(network, (SIDE, SIDE)), "bfloat16", images)
    expected = network.bfloat16()(images.bfloat16())
    found = twin(images)
    assert found.dtype == twin.module.mean.dtype == torch.float32
    torch.testing.assert_close(found, expected.float(), rtol=2**-6, atol=2**-6)
    # Half the bits are gone, so that each value is one of bfloat16.
    assert torch.equal(found, found.bfloat16().float())
    seen = shared_pass(twin, images, None, ("gradient", "layer"), 8)
    assert {part.dtype for part in (seen.need_gradient(), *seen.need_layer())} == {torch.float32}


@pytest.mark.parametrize("bits", [2, 8])
def test_rounded_weights_are_whole_multiples_of_a_scale_for_each_output(
    residual: Classifier, images: Tensor, bits: int
) -> None:
    twin = as_deployed(residual, f"rounded={bits}", images)
    top = 2 ** (bits - 1) - 1
    for given, made in zip(
        residual.module.network.modules(), twin.module.network.modules(), strict=True
    ):
        if isinstance(given, nn.Conv2d | nn.Linear):
            before = given.weight.flatten(1).double().numpy()
            scale = np.abs(before).max(axis=1, keepdims=True) / top
            expected = np.clip(np.round(before / scale), -top, top) * scale
            found = made.weight.flatten(1).numpy()  # type: ignore[operator] # a layer, too
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
            assert len(np.unique(np.round(found / scale))) <= 2 * top + 1


def test_int8_rounds_the_input_of_each_layer_to_256_values_and_lets_slopes_pass() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 4, 2))
    calibration = torch.rand(8, 3, 4, 4, generator=torch.Generator().manual_seed(3))
    given = make_classifier(seeded(lambda: network), (4, 4))
    twin = as_deployed(given, "int8-fake", calibration)
    layer = network[1]
    weight = layer.weight.detach().double().numpy()  # type: ignore[operator] # a layer
    steps = np.abs(weight).max(axis=1, keepdims=True) / 127
    whole = np.round(weight / steps) * steps
    scale = float(calibration.max()) / 255
    values = calibration.flatten(1).double().numpy()
    expected = np.clip(np.round(values / scale), 0, 255) * scale @ whole.T
    expected += layer.bias.detach().double().numpy()  # type: ignore[operator] # as above
    # One value in the middle of two may go either way.
    np.testing.assert_allclose(twin(calibration).numpy(), expected, rtol=0, atol=2e-3)
    assert float((twin(calibration) - given(calibration)).abs().max()) > 1e-5
    # Beyond the ends that were seen there is no slope.
    outside = torch.full((1, 3, 4, 4), 2.0)
    inside = calibration[:1] * 0.5
    slopes = [
        shared_pass(twin, points, torch.tensor([1]), ("gradient",), 1).need_gradient()
        for points in (inside, outside)
    ]
    np.testing.assert_allclose(slopes[0].flatten().numpy(), whole[1], rtol=0, atol=1e-6)
    assert not slopes[1].any()


# --- fewer weights --------------------------------------------------------------------------------


def test_pruning_sets_the_smallest_weights_of_all_layers_to_0(
    residual: Classifier, images: Tensor
) -> None:
    twin = as_deployed(residual, "pruned=0.3", images)
    pairs = [
        (given.weight.flatten(), made.weight.flatten())  # type: ignore[operator] # layers
        for given, made in zip(
            residual.module.network.modules(), twin.module.network.modules(), strict=True
        )
        if isinstance(given, nn.Conv2d | nn.Linear)
    ]
    before, after = (torch.cat(list(part)) for part in zip(*pairs, strict=True))
    gone = after == 0
    assert int(gone.sum()) == round(0.3 * len(before))
    assert before[gone].abs().max() <= before[~gone].abs().min()
    assert torch.equal(after[~gone], before[~gone])


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ("fold", "variant: unknown name 'fold'; did you mean folded?"),
        ("folded=1", "variant: folded takes no number, got 'folded=1'"),
        ("pruned", "variant: expected pruned=SHARE, got 'pruned'"),
        ("pruned=1.5", "variant: pruned=SHARE takes numbers from 0 to 1, got 1.5"),
        ("pruned=nan", "variant: pruned=SHARE takes numbers from 0 to 1, got nan"),
        ("rounded=2.5", "variant: rounded=BITS takes whole numbers from 2 to 16, got 2.5"),
    ],
)
def test_a_spec_that_is_none_is_refused_with_the_rule(spec: str, reason: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse_variant(spec)
    assert str(refused.value).startswith(reason)


def test_what_cannot_be_changed_so_is_refused(images: Tensor) -> None:
    plain = make_classifier(seeded(lambda: conv_network(SIDE)), (SIDE, SIDE))
    with pytest.raises(ModelError, match=r"folded of Sequential: .*nothing to fold"):
        as_deployed(plain, "folded", images)
    bare = make_classifier(nn.Sequential(nn.AvgPool2d(SIDE), nn.Flatten()), (SIDE, SIDE))
    with pytest.raises(ModelError, match=r"rounded=2 of Sequential: .*no convolution"):
        as_deployed(bare, "rounded=2", images)


def test_every_variant_says_what_it_is() -> None:
    assert all(entry.summary and entry.make.__doc__ for entry in VARIANTS.values())
    # The gate's help, which is read without torch, names each.
    named = gate.VARIANT_HELP.partition(": ")[2].partition(";")[0].replace(" or ", ", ")
    assert [*named.split(", ")] == [entry.form(name) for name, entry in VARIANTS.items()]
