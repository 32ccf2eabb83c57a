"""Masks that are found by colour."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from steadymap.bench.core.errors import ConfigError, DataError
from steadymap.bench.data.hands import hand
from steadymap.bench.data.masks import MASKS, green_screen, with_masks
from steadymap.bench.data.opening import open_images
from steadymap.bench.plan.experiment import make_experiment
from steadymap.models import Framing

FRAMING = Framing((8, 6))
SCREEN, SKIN, SLEEVE, SHADOW = (30, 150, 60), (200, 150, 120), (225, 235, 228), (20, 70, 30)


@pytest.mark.parametrize("name", MASKS)
def test_a_mask_is_of_zeros_and_ones_at_the_size_of_the_image(name: str) -> None:
    image = torch.rand(3, 5, 7, generator=torch.Generator().manual_seed(0))
    found = MASKS[name].find(image)
    assert found.shape == (5, 7)
    assert found.dtype == np.float64
    assert set(np.unique(found)) == {0.0, 1.0}


def test_the_screen_and_shadows_on_it_are_outside_skin_and_a_white_sleeve_inside() -> None:
    pixels = torch.tensor([SCREEN, SHADOW, SKIN, SLEEVE], dtype=torch.float32) / 255
    assert green_screen(pixels.T[:, None]).tolist() == [[0, 0, 1, 1]]


def test_the_screen_ends_where_green_is_a_twentieth_above_the_other_colours() -> None:
    greens = torch.tensor([0.5, 0.549, 0.551, 0.6])
    image = torch.stack([torch.full_like(greens, 0.5), greens, torch.full_like(greens, 0.2)])
    assert green_screen(image[:, None]).tolist() == [[1, 1, 0, 0]]


def test_keying_finds_the_drawn_hands_whose_masks_are_known() -> None:
    """The embedded hands lie on a green ground: what is keyed is what was drawn."""
    overlaps = []
    for index in range(30):
        pixels, truth, _ = hand(index)
        found = green_screen(torch.from_numpy(pixels.transpose(2, 0, 1) / 255)) > 0
        overlaps.append((found & truth).sum() / (found | truth).sum())
    assert np.median(overlaps) > 0.95


def folder(root: Path) -> Path:
    for name in ("flat", "fist"):
        (root / name).mkdir(parents=True)
        for index in range(12):
            pixels = np.full((8, 6, 3), SCREEN, dtype=np.uint8)
            pixels[2:6, 1 + index % 3 :] = SKIN
            pixels[0, 0] = index, 200, 10 if name == "flat" else 20
            Image.fromarray(pixels).save(root / name / f"{index}.png")
    return root


def test_the_mask_goes_with_its_picture(tmp_path: Path) -> None:
    plain = open_images(f"folder:{folder(tmp_path / 'data')}", FRAMING, "all")
    images = with_masks(plain, "green_screen")
    assert images.pictures == plain.pictures
    for index in range(len(images)):
        mask = images.read(index).mask
        assert mask is not None
        start = 1 + int(Path(images.pictures[index].name).stem) % 3
        expected = np.zeros((8, 6))
        expected[2:6, start:] = 1
        np.testing.assert_array_equal(mask, expected)


def test_data_that_has_masks_keeps_them() -> None:
    hands = open_images("hands", FRAMING, "test", 3)
    with pytest.raises(DataError, match="hands has masks of its own; leave green_screen out"):
        with_masks(hands, "green_screen")


def test_an_unknown_mask_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="unknown mask 'green_scren'; did you mean green_screen"):
        make_experiment([{"mask": "green_scren"}])
