"""Laws over every registered family, and what each of ours is by definition."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from support import global_numpy_state, random_images
from torch import Tensor

from steadymap.bench.perturbations import PERTURBATIONS, Cell, perturb

IMAGE = random_images(1, 64)[0]
LARGEST = {name: family.severities[-1] for name, family in PERTURBATIONS.items()}


def change(first: Tensor, second: Tensor) -> float:
    return float((second - first).double().square().mean().sqrt())


@pytest.mark.parametrize("name", PERTURBATIONS)
@given(pixels=arrays(np.float32, (3, 5, 7), elements=st.floats(0, 1, width=32)))
def test_severity_0_is_the_identity(name: str, pixels: np.ndarray) -> None:
    image = torch.from_numpy(pixels)
    assert torch.equal(perturb(image, Cell(name, 0.0, 0), "x", 0), image)


@pytest.mark.parametrize("name", PERTURBATIONS)
def test_the_realised_change_grows_with_the_severity(name: str) -> None:
    levels = [level for level in PERTURBATIONS[name].severities if level > 0]
    changes = [change(IMAGE, perturb(IMAGE, Cell(name, level, 0), "x", 0)) for level in levels]
    assert changes == sorted(changes)
    assert changes[0] > 0


@pytest.mark.parametrize("name", PERTURBATIONS)
def test_there_are_five_levels_inside_the_bounds(name: str) -> None:
    family = PERTURBATIONS[name]
    low, high = family.bounds
    assert len({abs(level) for level in family.severities}) == 5
    assert all(low <= level <= high for level in family.severities)
    assert list(family.severities) == sorted(family.severities)
    if low < 0:
        assert set(family.severities) == {-level for level in family.severities}


@pytest.mark.parametrize("name", PERTURBATIONS)
def test_shape_type_and_the_given_image_stay(name: str) -> None:
    before = IMAGE.clone()
    after = perturb(IMAGE, Cell(name, LARGEST[name], 0), "x", 0)
    assert (after.shape, after.dtype, after.device) == (IMAGE.shape, IMAGE.dtype, IMAGE.device)
    assert torch.equal(IMAGE, before)
    assert after.data_ptr() != IMAGE.data_ptr()


@pytest.mark.parametrize("name", PERTURBATIONS)
def test_a_draw_belongs_to_seed_image_severity_and_number(name: str) -> None:
    level = LARGEST[name]
    first = perturb(IMAGE, Cell(name, level, 0), "x", 0)
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002 - the global state must not matter
    assert torch.equal(perturb(IMAGE, Cell(name, level, 0), "x", 0), first)
    others = (
        perturb(IMAGE, Cell(name, level, 1), "x", 0),
        perturb(IMAGE, Cell(name, level, 0), "y", 0),
        perturb(IMAGE, Cell(name, level, 0), "x", 1),
    )
    lower = PERTURBATIONS[name].severities[-2]
    unit = [(perturb(IMAGE, Cell(name, size, 0), "x", 0) - IMAGE) / size for size in (level, lower)]
    if name != "salt_and_pepper":  # whose change is no multiple of its severity
        same = torch.allclose(unit[0], unit[1], atol=1e-5)
        assert same != PERTURBATIONS[name].stochastic, "another severity is another draw"
    differ = [not torch.equal(other, first) for other in others]
    assert differ == [PERTURBATIONS[name].stochastic] * 3


@pytest.mark.parametrize("name", PERTURBATIONS)
def test_the_global_random_state_stays(name: str) -> None:
    torch_state, numpy_state = torch.random.get_rng_state(), global_numpy_state()
    perturb(IMAGE, Cell(name, LARGEST[name], 0), "x", 0)
    assert torch.equal(torch.random.get_rng_state(), torch_state)
    np.testing.assert_array_equal(global_numpy_state(), numpy_state)


@pytest.mark.parametrize("name", ["bias", "compensated_bias"])
@pytest.mark.parametrize("shift", [0.3, -0.4])
def test_bias_is_a_constant_beyond_the_bounds(name: str, shift: float) -> None:
    after = perturb(IMAGE, Cell(name, shift, 0), "x", 0)
    assert torch.equal(after, IMAGE + shift)
    assert bool(((after < 0) | (after > 1)).any())


def test_gaussian_noise_has_the_severity_as_its_deviation() -> None:
    noise = perturb(IMAGE, Cell("gaussian_noise", 0.2, 0), "x", 0) - IMAGE
    # 12,288 values: standard errors are 0.0018 of the mean and 0.0013 of the deviation.
    assert abs(float(noise.mean())) < 4 * 0.0018
    assert abs(float(noise.std()) - 0.2) < 4 * 0.0013


def test_uniform_noise_fills_its_interval() -> None:
    noise = perturb(IMAGE, Cell("uniform_noise", 0.2, 0), "x", 0) - IMAGE
    assert float(noise.abs().max()) <= 0.2 + 1e-6
    counts = torch.histc(noise, 10, -0.2, 0.2)
    # Each tenth expects 1,229 of 12,288 values, with a deviation of 33.
    assert float((counts - 1228.8).abs().max()) < 5 * 33


def test_salt_and_pepper_hits_that_share_in_all_channels_at_once() -> None:
    grey = torch.full((3, 100, 100), 0.5)
    after = perturb(grey, Cell("salt_and_pepper", 0.2, 0), "x", 0)
    hit = after != 0.5
    assert torch.equal(hit[0], hit[1])
    assert torch.equal(hit[0], hit[2])
    assert set(after[hit].tolist()) == {0.0, 1.0}
    # 10,000 pixels: the share's standard error is 0.004; among 2,000 hit, salt's is 0.011.
    assert abs(float(hit[0].double().mean()) - 0.2) < 4 * 0.004
    assert abs(float(after[hit].mean()) - 0.5) < 4 * 0.011
