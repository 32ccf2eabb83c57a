"""Networks rewritten by their graph: the same function, other activations."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import pytest
import torch
from torch import Tensor, nn

from steadymap.bench.checks import networks as known
from steadymap.bench.methods.batch import Batch, draws_of
from steadymap.bench.methods.binding import bind_method
from steadymap.bench.network.graph import UntraceableError, check, rewritten, structure
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


# --- as it is now, in whatever thread -------------------------------------------------------------


class Parted(nn.Module):
    """A block, whose hooks would be traced, a ReLU, whose hooks would not, and a head."""

    def __init__(self, act: Callable[[Tensor], Tensor] = torch.relu) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 1))
        self.relu = nn.ReLU()
        self.head = nn.Linear(4, known.CLASSES)
        self.act = act
        self.context: Callable[[], AbstractContextManager[object]] = nullcontext

    def forward(self, images: Tensor) -> Tensor:
        values = self.act(self.relu(self.block(images)))
        with self.context():
            parted = values.mean(dim=2)
        found: Tensor = self.head((parted + values.mean(dim=2)).mean(dim=2))
        return found


def checked(classifier: Classifier, count: int = 3) -> None:
    images = known.images(count).to(classifier.module.mean.dtype)
    check(classifier, images, torch.arange(count) % known.CLASSES, count)


def doubled(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
    return output * 2


def halved(_module: nn.Module, inputs: tuple[Tensor]) -> Tensor:
    return inputs[0] / 2


def autocast() -> AbstractContextManager[object]:
    return torch.autocast("cpu", torch.bfloat16)


HOOKED: dict[str, Callable[[Parted], object]] = {
    "on a ReLU": lambda net: net.relu.register_forward_hook(doubled),
    "on a block": lambda net: net.block.register_forward_hook(doubled),
    "on a convolution": lambda net: net.block[0].register_forward_hook(doubled),
    "before a ReLU": lambda net: net.relu.register_forward_pre_hook(halved),
    "before all": lambda net: net.register_forward_pre_hook(halved),
    "behind all": lambda net: net.register_forward_hook(doubled),
    "on the way back": lambda net: net.relu.register_full_backward_hook(
        lambda _module, _back, out: (out[0] * 2,)  # type: ignore[index] # a tuple
    ),
}
CONTEXTS: dict[str, Callable[[Parted], object]] = {
    "no_grad": lambda net: setattr(net, "context", torch.no_grad),
}


@pytest.mark.parametrize("change", [*HOOKED, *CONTEXTS])
def test_a_rewritten_network_that_is_another_function_is_refused(change: str) -> None:
    classifier = made(Parted)
    checked(classifier)
    (HOOKED | CONTEXTS)[change](classifier.module.network)  # type: ignore[arg-type] # it is one
    with pytest.raises(UntraceableError, match="another"):
        checked(classifier)
    with pytest.raises(UntraceableError, match="another"):
        structure(classifier)


def test_autocast_inside_of_a_forward_is_another_function() -> None:
    class Cast(Parted):
        def forward(self, images: Tensor) -> Tensor:
            with autocast():
                values = self.block(images)
            found: Tensor = self.head(self.relu(values).float().mean(dim=(2, 3)))
            return found

    with pytest.raises(UntraceableError, match=r"another logits \(off by"):
        checked(made(Cast))


def test_hooks_that_only_watch_do_not_matter_and_see_nothing_of_the_tracing() -> None:
    classifier = made(Parted)
    seen: list[object] = []
    for part in classifier.module.network.modules():
        part.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    checked(classifier)
    assert seen
    assert all(type(output) is Tensor for output in seen)


def test_a_difference_within_rounding_is_none() -> None:
    for by, same in ((2e-8, True), (1e-3, False)):
        classifier = made(Parted)
        classifier.module.network.register_forward_hook(
            lambda _module, _inputs, logits, by=by: logits + by
        )
        with nullcontext() if same else pytest.raises(UntraceableError, match="another logits"):
            checked(classifier)
        assert not torch.equal(
            classifier(known.images(3).float()), made(Parted)(known.images(3).float())
        )


def test_an_edited_network_is_traced_anew() -> None:
    classifier = made(Parted)
    network = classifier.module.network
    assert isinstance(network, Parted)
    images = known.images(2).float()
    assert structure(classifier) is structure(classifier), "traced once while it stays the same"
    edits: list[Callable[[], object]] = [
        lambda: setattr(network, "relu", nn.GELU()),
        lambda: setattr(network, "act", torch.tanh),
        lambda: network.block.append(nn.Sigmoid()),
        lambda: setattr(network, "act", nn.functional.silu),
    ]
    for edit, name in zip(edits, ("GELU", "tanh", "Sigmoid", "silu"), strict=True):
        assert name not in structure(classifier).names
        edit()
        assert name in structure(classifier).names
        assert torch.equal(rewritten(classifier)(images), classifier(images))
        checked(classifier)


class Constant(nn.Module):
    """Tensors that are neither parameters nor buffers, of one value and of several."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = torch.tensor(0.5)
        self.kernel = torch.linspace(-1, 1, 108).view(4, 3, 3, 3)
        self.head = nn.Linear(4, known.CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        values = nn.functional.conv2d(images - self.mean, self.kernel)
        values = torch.relu(values - torch.tensor([0.1]))
        found: Tensor = self.head(values.mean(dim=(2, 3)))
        return found


def test_tensors_that_are_no_buffers_move_along_and_nothing_is_left_on_the_network() -> None:
    classifier = made(Constant)
    before = dict(vars(classifier.module.network))
    images = known.images(2)
    for given in (classifier, classifier.to(torch.device("cpu"), torch.float64)):
        points = images.to(given.module.mean.dtype)
        assert given(points).dtype == points.dtype
        checked(given)
        assert torch.equal(rewritten(given)(points), given(points))
        assert torch.nn.ReLU in structure(given).modules
    assert vars(classifier.module.network) == before
    assert classifier.module.network.kernel.dtype == torch.float32


def test_other_threads_run_their_networks_while_one_is_traced() -> None:
    """Each waits for the other: without a look at the thread, the other's modules are traced."""
    inside, outcome = threading.Event(), threading.Event()
    other = made(Awkward)
    images = known.images(2).float()
    expected, found = other(images), []

    class Slow(Parted):
        def forward(self, images: Tensor) -> Tensor:
            if type(images) is not Tensor:  # what stands for them when they are traced
                inside.set()
                outcome.wait(10)
            return super().forward(images)

    def run() -> None:
        inside.wait(10)
        try:
            found.append(other(images))
        finally:
            outcome.set()

    slow = made(Slow)
    thread = threading.Thread(target=run)
    thread.start()
    assert structure(slow).modules.count(nn.Conv2d) == 2
    thread.join()
    assert len(found) == 1
    assert torch.equal(found[0], expected)


# --- ReLU in all its spellings --------------------------------------------------------------------


def stated(values: Tensor) -> Tensor:
    values.relu_()
    return values


RELUS: dict[str, Callable[[Tensor], Tensor]] = {
    "clamp": lambda x: x.clamp(min=0),
    "torch.clamp": lambda x: torch.clamp(x, 0),
    "clamp by name": lambda x: torch.clamp(input=x, min=0.0),
    "clamp_min": lambda x: torch.clamp_min(x, 0),
    "clamp_": lambda x: (x + 0).clamp_(min=0),
    "clip": lambda x: x.clip(0, None),
    "where": lambda x: torch.where(x > 0, x, 0),
    "where else": lambda x: torch.where(x <= 0, torch.zeros_like(x), x),
    "threshold": lambda x: nn.functional.threshold(x, 0, 0),
    "maximum": lambda x: torch.maximum(x, torch.zeros_like(x)),
    "max": lambda x: torch.max(x, torch.tensor(0.0)),
    "product": lambda x: x * (x > 0),
    "product with floats": lambda x: (x >= 0).float() * x,
    "masked_fill": lambda x: x.masked_fill(x < 0, 0.0),
    "statement": lambda x: stated(x + 0),
    "module": nn.Threshold(0.0, 0.0),
}
OTHERS: dict[str, Callable[[Tensor], Tensor]] = {
    "clamp": lambda x: x.clamp(min=0, max=6),
    "clamp_": lambda x: (x + 0).clamp_(min=0.1),
    "where": lambda x: torch.where(x > 0.01, x, 0),
    "mul": lambda x: x * torch.sigmoid(x),
    "_threshold": lambda x: nn.functional.threshold(x, 0.1, 0),
    "tanh_": lambda x: (x + 0).tanh_(),
    "sigmoid_": lambda x: torch.sigmoid_(x + 0),
    "maximum": lambda x: torch.maximum(x, torch.tensor(-0.2)),
    "pow": lambda x: x**2,
    "abs": torch.abs,
    "exp": torch.exp,
    "mul ": lambda x: x * x,
}


@pytest.mark.parametrize("spelling", RELUS)
def test_every_spelling_of_a_relu_is_one(spelling: str) -> None:
    classifier, usual = made(lambda: Parted(RELUS[spelling])), made(lambda: Parted(torch.relu))
    assert structure(classifier).modules.count(nn.ReLU) == 2
    assert (
        structure(classifier).names
        == structure(usual).names | {"add"} & structure(classifier).names
    )
    checked(classifier)
    images, targets = known.images(3).float(), torch.arange(3) % known.CLASSES
    batch = Batch(images, targets, draws_of(0, "abc"))
    for spec in ("guided_backprop", "deconvolution", "deep_lift", "lrp"):
        method = bind_method(spec)
        assert method.unfit(classifier) is None
        expected = method.explain(usual, batch)
        torch.testing.assert_close(method.explain(classifier, batch), expected)


@pytest.mark.parametrize("spelling", OTHERS)
def test_what_is_no_relu_is_named_and_no_rule_covers_it(spelling: str) -> None:
    classifier = made(lambda: Parted(OTHERS[spelling]))
    assert spelling.strip() in structure(classifier).names
    for spec in ("guided_backprop", "deconvolution", "deep_lift", "lrp"):
        reason = bind_method(spec).unfit(classifier)
        assert reason is not None
        assert spelling.strip() in reason


def test_layers_that_nobody_knows_are_no_linear_ones() -> None:
    class Reading(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(3 * SIDE, 5, batch_first=True)
            self.head = nn.Linear(5, known.CLASSES)

        def forward(self, images: Tensor) -> Tensor:
            rows = torch.relu(images).permute(0, 2, 1, 3).flatten(2)
            found: Tensor = self.head(self.lstm(rows)[0].mean(dim=1))
            return found

    for spec in ("guided_backprop", "deep_lift", "lrp"):
        reason = bind_method(spec).unfit(made(Reading))
        assert reason is not None
        assert reason.endswith(" LSTM")
