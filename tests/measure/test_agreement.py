"""How far the maps of two devices are apart."""

from __future__ import annotations

import math

import pytest
import torch
from support import random_images

from steadymap.bench.data.image_set import from_tensor
from steadymap.bench.measure.agreement import agreement, difference
from steadymap.bench.measure.course import Course


def test_a_device_agrees_with_itself() -> None:
    specs = ("gradient", "integrated_gradients:baseline=black,steps=3", "grad_cam:relu=true")
    course = Course("compact", None, specs, batch=2, repeats=3, fresh=False, keep_heap=False)
    agreements = agreement(course, from_tensor(random_images(4, 64)), "cpu")
    assert [own.method for own in agreements] == list(specs)
    for own in agreements:
        assert (own.device, own.relative_l2) == ("cpu", 0.0)
        assert own.rank == pytest.approx(1.0, abs=1e-12)


def test_disagreement_is_the_worst_of_the_images() -> None:
    first = torch.eye(4).view(1, 1, 4, 4).repeat(2, 1, 1, 1).double()
    second = first.clone()
    second[1] *= -1
    assert difference(first, second) == pytest.approx((2.0, -1.0))


@pytest.mark.parametrize(("bad", "expected"), [(torch.nan, torch.inf), (torch.inf, torch.inf)])
def test_a_map_that_is_not_finite_is_as_far_away_as_can_be(bad: float, expected: float) -> None:
    maps = torch.rand(2, 3, 4, 4).double()
    other = maps.clone()
    other[0, 0, 0, 0] = bad
    assert difference(maps, other) == pytest.approx((expected, 1.0))


def test_maps_of_zeros_agree_and_have_no_ranks() -> None:
    zeros = torch.zeros(2, 1, 4, 4).double()
    distance, rank = difference(zeros, zeros)
    assert distance == 0
    assert math.isnan(rank)
    assert difference(zeros, zeros + 1)[0] == math.inf
