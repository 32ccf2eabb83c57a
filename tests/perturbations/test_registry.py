"""Laws over every registered family, and what each of ours is by definition."""

from __future__ import annotations

import inspect
import io
from collections.abc import Callable

import numpy as np
import pytest
import torch
from _pytest.mark import ParameterSet
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from support import (
    CLASSES,
    conv_network,
    global_numpy_state,
    on_demand,
    random_images,
    seeded,
)
from torch import Tensor
from torchvision.transforms.v2 import functional

from steadymap.bench.core.names import severity_text
from steadymap.bench.perturbations.apply import draw_of
from steadymap.bench.perturbations.apply import perturb as apply_cell
from steadymap.bench.perturbations.cell import Cell
from steadymap.bench.perturbations.registry import PERTURBATIONS
from steadymap.bench.records.manifest_schema import unit_of
from steadymap.bench.records.vocabulary import DIAGNOSIS, SHIFTED
from steadymap.models import make_classifier

IMAGE = random_images(1, 64)[0]
# What moves changes a smooth image the more the farther it goes; of noise it makes other noise.
SMOOTH = functional.gaussian_blur(random_images(1, 96), 31, 8.0)[0, :, 16:80, 16:80]
CLASSIFIER = make_classifier(seeded(lambda: conv_network(64)), (64, 64), CLASSES)


def family_or_skip(name: str) -> str | ParameterSet:
    """A family whose package is missing here is skipped, and says why."""
    missing = PERTURBATIONS[name].missing
    reason = missing() if missing else None
    return pytest.param(name, marks=pytest.mark.skip(reason=reason)) if reason else name


FAMILIES = [family_or_skip(name) for name in PERTURBATIONS]
# In this one the severity is the network's; the image stays.
MOVING = [family_or_skip(name) for name in PERTURBATIONS if name != SHIFTED]
LARGEST = {name: family.severities[-1] for name, family in PERTURBATIONS.items()}


def perturb(image: Tensor, cell: Cell, image_id: str, seed: int) -> Tensor:
    """Apply a cell as a run does: an attack gets a classifier and what that predicts."""
    attack = PERTURBATIONS[cell.family].attack
    if attack is None:
        return apply_cell(image, cell, image_id, seed)
    draw = draw_of(cell, image_id, seed)
    target = torch.zeros(1, dtype=torch.int64)
    if image.shape[1:] == CLASSIFIER.input_size:
        target = CLASSIFIER(image[None]).argmax(dim=1)
    return attack(CLASSIFIER, image[None], target, cell.severity, draw)[0]


@pytest.mark.parametrize(
    ("name", "field"),
    [(name, field) for name in PERTURBATIONS for field in on_demand(PERTURBATIONS[name])],
)
def test_what_an_entry_names_is_a_function_of_the_room(name: str, field: str) -> None:
    function = on_demand(PERTURBATIONS[name])[field]
    assert function.place.startswith("steadymap.bench.perturbations.")
    assert inspect.isfunction(function.load())


@pytest.mark.parametrize("name", PERTURBATIONS)
def test_nothing_of_a_family_is_loaded_with_the_table(name: str) -> None:
    family = PERTURBATIONS[name]
    optional = {"missing": family.missing, "warp": family.warp, "attack": family.attack}
    has = {"apply", *(field for field, function in optional.items() if function is not None)}
    assert set(on_demand(family)) == has
    inspect.signature(family.apply).bind("image", "severity", "rng")


def change(first: Tensor, second: Tensor) -> float:
    return float((second - first).double().square().mean().sqrt())


@pytest.mark.parametrize("name", FAMILIES)
@given(pixels=arrays(np.float32, (3, 5, 7), elements=st.floats(0, 1, width=32)))
def test_severity_0_is_the_identity(name: str, pixels: np.ndarray) -> None:
    image = torch.from_numpy(pixels)
    assert torch.equal(perturb(image, Cell(name, 0.0, 0), "x", 0), image)


@pytest.mark.parametrize("name", MOVING)
def test_the_realised_change_grows_with_the_severity(name: str) -> None:
    family = PERTURBATIONS[name]
    image = SMOOTH if family.warp else IMAGE
    for sign in (1, -1) if family.bounds[0] < 0 else (1,):
        levels = sorted(sign * level for level in family.severities if sign * level > 0)
        cells = [Cell(name, sign * level, 0) for level in levels]
        changes = [change(image, perturb(image, cell, "x", 0)) for cell in cells]
        # ImageNet-C's levels are in the order of their authors.
        assert name.startswith("imagenet_c_") or changes == sorted(changes)
        assert min(changes) > 0
        assert len(set(changes)) == len(levels)


def test_where_the_network_is_shifted_the_image_stays() -> None:
    for severity in PERTURBATIONS[SHIFTED].severities:
        assert torch.equal(perturb(IMAGE, Cell(SHIFTED, severity, 0), "x", 0), IMAGE)


def test_what_a_network_is_shifted_by() -> None:
    """Of two families: in one it takes off what the image has, in the other it adds it."""
    shifts = {name: family.shift(0.2) for name, family in PERTURBATIONS.items()}
    assert {name: shift for name, shift in shifts.items() if shift} == {
        "compensated_bias": 0.2,
        SHIFTED: -0.2,
    }
    assert set(DIAGNOSIS) == {name for name, shift in shifts.items() if shift}


@pytest.mark.parametrize("name", FAMILIES)
def test_there_are_five_levels_inside_the_bounds(name: str) -> None:
    family = PERTURBATIONS[name]
    low, high = family.bounds
    assert len({abs(level) for level in family.severities}) == (1 if name == SHIFTED else 5)
    assert all(low <= level <= high for level in family.severities)
    assert list(family.severities) == sorted(family.severities)
    if low < 0:
        assert set(family.severities) == {-level for level in family.severities}


@pytest.mark.parametrize("name", PERTURBATIONS)
def test_the_limits_have_a_unit_and_moving_families_degrees_or_shares(name: str) -> None:
    family = PERTURBATIONS[name]
    low, high = family.bounds
    assert family.limits == f"{low:g} to {high:g} {family.unit}"
    assert family.unit.split()[0] in {"in", "as"}
    assert severity_text(20.0, family.unit) == ("20°" if name == "rotation" else "20")
    if family.whole:
        assert all(level == int(level) for level in family.severities)


def test_units_are_known_of_runs_whose_manifest_holds_none() -> None:
    """Those of 0.1.0: families that came later are in no such run."""
    known = {name: unit_of({}, name) for name in PERTURBATIONS if unit_of({}, name) is not None}
    assert known == {name: PERTURBATIONS[name].unit for name in known}
    assert len(known) == 41


@pytest.mark.parametrize("name", FAMILIES)
def test_shape_type_and_the_given_image_stay(name: str) -> None:
    before = IMAGE.clone()
    after = perturb(IMAGE, Cell(name, LARGEST[name], 0), "x", 0)
    assert (after.shape, after.dtype, after.device) == (IMAGE.shape, IMAGE.dtype, IMAGE.device)
    assert torch.equal(IMAGE, before)
    assert after.data_ptr() != IMAGE.data_ptr()


@pytest.mark.parametrize("name", FAMILIES)
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
    if PERTURBATIONS[name].stochastic:
        assert not torch.allclose(unit[0], unit[1], atol=1e-5), "another severity is another draw"
    differ = [not torch.equal(other, first) for other in others]
    assert differ == [PERTURBATIONS[name].stochastic] * 3


@pytest.mark.parametrize("name", FAMILIES)
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


# --- light, colour and sharpness ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "oracle"),
    [
        ("brightness", functional.adjust_brightness),
        ("contrast", functional.adjust_contrast),
        ("saturation", functional.adjust_saturation),
    ],
)
def test_light_and_colour_are_torchvision_s_where_nothing_is_clamped(
    name: str, oracle: Callable[[Tensor, float], Tensor]
) -> None:
    for level in (-0.5, -0.1):
        after = perturb(IMAGE, Cell(name, level, 0), "x", 0)
        torch.testing.assert_close(after, oracle(IMAGE, 1 + level))
    # And beyond the bounds, where torchvision clamps.
    after = perturb(IMAGE, Cell(name, 0.5, 0), "x", 0)
    assert float(after.max()) > 1
    torch.testing.assert_close(after.clamp(0, 1), oracle(IMAGE, 1.5))


def test_hue_is_turned_as_torchvision_turns_it() -> None:
    red = torch.tensor([1.0, 0.0, 0.0])[:, None, None].expand(3, 2, 2)
    after = perturb(red, Cell("hue", 1 / 3, 0), "x", 0)
    torch.testing.assert_close(after[:, 0, 0], torch.tensor([0.0, 1.0, 0.0]), atol=1e-5, rtol=0)
    turned = perturb(IMAGE, Cell("hue", 0.2, 0), "x", 0)
    torch.testing.assert_close(turned, functional.adjust_hue(IMAGE, 0.2))


@pytest.mark.parametrize("place", range(3))
def test_a_channel_s_bias_moves_that_channel_alone(place: int) -> None:
    name = ("red_bias", "green_bias", "blue_bias")[place]
    moved = perturb(IMAGE, Cell(name, 0.3, 0), "x", 0) - IMAGE
    expected = torch.zeros(3)
    expected[place] = 0.3
    torch.testing.assert_close(moved, expected[:, None, None].expand_as(IMAGE))


def test_blur_keeps_a_plain_image_and_has_its_deviation_in_shares_of_the_side() -> None:
    plain = torch.full((3, 40, 60), 0.3)
    torch.testing.assert_close(perturb(plain, Cell("gaussian_blur", 0.05, 0), "x", 0), plain)
    point = torch.zeros(3, 101, 121)
    point[:, 50, 60] = 1
    after = perturb(point, Cell("gaussian_blur", 0.03, 0), "x", 0)[0].double()
    across = after.sum(dim=0)
    spread = (across * (torch.arange(121) - 60) ** 2).sum() / across.sum()
    assert float(spread.sqrt()) == pytest.approx(0.03 * 101, rel=0.01)


def test_pixels_are_means_of_their_blocks() -> None:
    after = perturb(IMAGE, Cell("pixelate", 0.75, 0), "x", 0)
    blocks = torch.nn.functional.avg_pool2d(IMAGE[None], 4)[0]
    large = blocks.repeat_interleave(4, dim=1).repeat_interleave(4, dim=2)
    # Through 8 bits before and after.
    torch.testing.assert_close(after, large, atol=1.01 / 255, rtol=0)


def test_jpeg_has_the_quality_that_the_severity_says() -> None:
    """A smooth picture, as JPEG is for these: the error grows, and quality 100 is nearly none."""
    ramp = torch.linspace(0, 1, 64)
    smooth = torch.stack([ramp.expand(64, 64), ramp[:, None].expand(64, 64), ramp.expand(64, 64)])
    assert change(smooth, perturb(smooth, Cell("jpeg", 0.001, 0), "x", 0)) < 0.01
    file = io.BytesIO()
    pixels = (smooth * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    Image.fromarray(pixels).save(file, "JPEG", quality=10)
    with Image.open(file) as picture:
        expected = torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255
    assert torch.equal(perturb(smooth, Cell("jpeg", 0.9, 0), "x", 0), expected)


def test_shot_noise_has_the_variance_of_light_and_no_bias() -> None:
    for light in (0.2, 1.0):
        image = torch.full((3, 100, 100), light)
        noise = (perturb(image, Cell("shot_noise", 0.05, 0), "x", 0) - image).double()
        # 30,000 values: the mean's standard error is sqrt(variance / n), the variance's about 1%.
        variance = 0.05 * light
        assert abs(float(noise.mean())) < 4 * (variance / 30_000) ** 0.5
        assert float(noise.var()) == pytest.approx(variance, rel=0.05)


def test_speckle_leaves_black_alone_and_grows_with_the_light() -> None:
    image = torch.stack([torch.full((100, 100), light) for light in (0.0, 0.5, 1.0)])
    noise = (perturb(image, Cell("speckle_noise", 0.2, 0), "x", 0) - image).double()
    assert not noise[0].any()
    # 10,000 values each: a deviation's standard error is 0.7% of it.
    assert float(noise[1].std()) == pytest.approx(0.1, rel=0.03)
    assert float(noise[2].std()) == pytest.approx(0.2, rel=0.03)
