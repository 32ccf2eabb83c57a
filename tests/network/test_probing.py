"""A network is known by its answers, however it is computed, and told from another one."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from support import Around, seeded, tiny
from torch import Tensor, nn

from steadymap.bench.core.answers import Answers, unlike
from steadymap.bench.network.probing import answers_of, probe_images
from steadymap.bench.network.torch_settings import SETTINGS
from steadymap.models import Classifier, PixelNetwork, load_classifier, make_classifier


def batch_network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.SiLU(), nn.Conv2d(16, 32, 3),
        nn.GELU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.LayerNorm(512), nn.Linear(512, 10),
    )  # fmt: skip


NETWORKS: dict[str, Callable[[], Classifier]] = {
    "small": tiny,
    "compact": lambda: load_classifier("compact"),
    "norms": lambda: make_classifier(seeded(batch_network), (32, 32)),
    "resnet": lambda: load_classifier("torchvision:resnet18@random"),
}


@pytest.fixture(params=NETWORKS)
def network(request: pytest.FixtureRequest) -> Classifier:
    return NETWORKS[request.param]()


def in_double(classifier: Classifier) -> Answers:
    """Answers of the same function, exactly: as far from float32's as another machine's may be."""
    double = copy.deepcopy(classifier.module).double()

    def forward(images: Tensor) -> Tensor:
        return double(images.double()).float()  # type: ignore[no-any-return] # a tensor

    return answers_of(replace(classifier, module=_like(classifier, forward)))


def _like(classifier: Classifier, forward: Callable[[Tensor], Tensor]) -> PixelNetwork:
    module = copy.deepcopy(classifier.module)
    module.forward = forward  # type: ignore[method-assign,assignment] # another way to compute the same
    return module


def test_the_same_computed_otherwise_is_the_same(network: Classifier) -> None:
    first = answers_of(network)
    assert unlike(first, answers_of(network)) == ""
    assert unlike(first, in_double(network)) == ""
    threads = torch.get_num_threads()
    torch.set_num_threads(1 if threads > 1 else 2)
    try:
        assert unlike(first, answers_of(network)) == ""
    finally:
        torch.set_num_threads(threads)
    padded = _like(network, lambda images: network(torch.cat([images, images.flip(3)]))[:1])
    assert unlike(first, answers_of(replace(network, module=padded))) == ""
    SETTINGS["onednn"].write(False)
    try:
        assert unlike(first, answers_of(network)) == ""
    finally:
        SETTINGS["onednn"].write(True)


def test_a_percent_is_seen(network: Classifier) -> None:
    first = answers_of(network)
    changes: dict[str, Callable[[Tensor], Tensor]] = {
        "temperature": lambda images: network(images) * 1.01,
        "brightness": lambda images: network(images * 1.01),
        "offset": lambda images: network(images) + 0.01 * network(images).max(),
    }
    for name, forward in changes.items():
        other = answers_of(replace(network, module=_like(network, forward)))
        assert "logits differ" in unlike(first, other), name
    moved = copy.deepcopy(network)
    with torch.no_grad():
        next(moved.module.network.parameters())[0].mul_(1.01)
    assert unlike(first, answers_of(moved)) != ""


def test_another_backward_pass_is_seen() -> None:
    """As of a straight-through estimator: logits as they were, and other gradients."""

    def forward(inner: nn.Module, images: Tensor) -> Tensor:
        return inner(images.detach() + scale[0] * (images - images.detach()))  # type: ignore[no-any-return] # a tensor

    scale = [1.0]
    network = tiny(lambda: Around(forward))
    first = answers_of(network)
    scale[0] = 1.5
    said = unlike(first, answers_of(network))
    assert said.startswith("input gradients differ by 3e-01 of their size")


def test_a_network_nothing_comes_back_through_has_logits_alone() -> None:
    def forward(inner: nn.Module, images: Tensor) -> object:
        return inner(images).detach() * scale[0]

    scale = [1.0]
    network = tiny(lambda: Around(forward))
    first = answers_of(network)
    assert first.gradients == ((),) * 4
    assert unlike(first, answers_of(network)) == ""
    scale[0] = 1.01
    assert "logits differ by 1e-02" in unlike(first, answers_of(network))


def test_a_network_that_raises_on_some_images_has_no_answer_to_those() -> None:
    def forward(inner: nn.Module, images: Tensor) -> object:
        if float(images.mean()) > limits[0]:
            raise RuntimeError("too bright")
        return inner(images)

    limits = [2.0]
    network = tiny(lambda: Around(forward))
    whole = answers_of(network)
    limits[0] = float(probe_images((16, 16)).mean(dim=(1, 2, 3)).median())
    some = answers_of(network)
    assert {len(numbers) for numbers in some.logits} == {0, 16}
    assert "logits differ by inf" in unlike(whole, some)


def test_the_network_and_the_random_numbers_are_left_alone() -> None:
    def forward(inner: nn.Module, images: Tensor) -> object:
        torch.rand(1)
        return inner(images.mul_(2) if images.requires_grad else images * 2)

    network = tiny(lambda: Around(forward))
    weights, state = network.weights_hash(), torch.get_rng_state()
    answers = answers_of(network)
    assert all(map(any, answers.gradients)), "written into in place, the images still have them"
    assert network.weights_hash() == weights
    assert torch.equal(torch.get_rng_state(), state)
    assert all(parameter.grad is None for parameter in network.module.parameters())


def test_the_images_are_pictures_for_any_size() -> None:
    for size in ((1, 1), (16, 16), (33, 70)):
        images = probe_images(size)
        assert images.shape == (4, 3, *size)
        assert 0 <= float(images.min()) <= float(images.max()) <= 1
