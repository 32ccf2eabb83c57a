"""Networks rewritten by their graph: the same function, other activations."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from steadymap.bench.checks import networks as known
from steadymap.bench.network.graph import UntraceableError, rewritten, structure
from steadymap.models import Classifier, make_classifier

SIDE = known.SIDE


class Awkward(nn.Module):
    """Every way to write a ReLU: in place, used twice, as functions, as methods."""

    def __init__(self) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(nn.Conv2d(3, 3, 3, padding=1) for _ in range(6))
        self.relu = nn.ReLU(inplace=True)
        self.drop = nn.Dropout(inplace=True)
        self.scale = nn.Parameter(torch.tensor([1.5]))
        self.head = nn.Linear(3, known.CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        ways: list[Callable[[Tensor], Tensor]] = [
            self.relu,
            self.relu,
            nn.functional.relu,
            lambda x: nn.functional.relu(x, inplace=True),
            torch.relu,
            lambda x: x.relu_(),
        ]
        for convolution, relu in zip(self.convolutions, ways, strict=True):
            images = relu(convolution(images))
        found: Tensor = self.head(self.drop(images * self.scale).mean(dim=(2, 3)))
        return found


class Branching(nn.Module):
    """A forward that looks at values."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, known.CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        found: Tensor = self.head(images.mean(dim=(2, 3)))
        return found * 2 if bool(found.sum() > 0) else found


class Doubling(nn.Module):
    """In a ReLU's place: something that shows."""

    def forward(self, values: Tensor) -> Tensor:
        return values.relu() * 2


def made(network: Callable[[], nn.Module]) -> Classifier:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make_classifier(network(), (SIDE, SIDE))


def test_every_way_to_write_a_relu_is_found() -> None:
    found = structure(made(Awkward))
    assert found.modules.count(nn.ReLU) == 6
    assert found.modules.count(nn.Conv2d) == 6
    assert found.functions == ("mean",)
    assert found.scalings == ("mul",)


def test_rewritten_a_network_computes_the_same_bits_with_the_same_weights() -> None:
    before = made(Awkward)
    after = rewritten(before)
    images = known.images(3).float()
    assert torch.equal(after(images), before(images))
    own = {id(one) for one in before.module.network.parameters()}
    assert {id(one) for one in after.module.network.parameters()} == own
    relus = [part for part in after.module.network.modules() if isinstance(part, nn.ReLU)]
    assert len(relus) == 6
    assert not any(getattr(part, "inplace", False) for part in after.module.network.modules())
    assert not any(part.training for part in after.module.network.modules())


def test_the_network_that_was_given_stays_as_it_was() -> None:
    before = made(Awkward)
    parts = [(name, id(part)) for name, part in before.module.network.named_modules()]
    rewritten(before, Doubling)
    assert [(name, id(part)) for name, part in before.module.network.named_modules()] == parts
    assert isinstance(before.module.network, Awkward)
    assert before.module.network.relu.inplace


def test_another_function_takes_the_place_of_each_relu() -> None:
    before = known.without_bias(known.convolutional())
    images = known.images(2)
    # Two layers of them, each doubling, without biases: four times the logits.
    doubled = rewritten(before, Doubling)(images)
    assert doubled.numpy() == pytest.approx(4 * before(images).numpy(), rel=1e-12)


def test_normalisation_and_shift_are_kept() -> None:
    apart, folded = known.normalising(known.convolutional())
    images = known.images(2)
    found = rewritten(apart.shifted(0.25))(images + 0.25)
    assert found.numpy() == pytest.approx(folded(images).numpy(), rel=1e-9, abs=1e-9)


def test_a_forward_that_looks_at_values_is_refused_with_the_reason() -> None:
    for _ in range(2):  # the reason is kept, too
        with pytest.raises(UntraceableError, match="cannot be traced"):
            structure(made(Branching))
