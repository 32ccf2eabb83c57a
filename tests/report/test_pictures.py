"""Images and maps as pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from steadymap.bench.report.pictures import map_levels, map_picture, photo_levels, scale_of


def test_maps_of_a_row_share_the_scale_of_the_clean_one() -> None:
    clean = np.linspace(-1, 1, 10000, dtype=np.float32).reshape(100, 100)
    scale = scale_of(clean, [0.5 * clean])
    assert scale.signed
    assert scale.most == pytest.approx(0.99, abs=1e-3)
    levels = map_levels(0.5 * clean, scale)
    # Half as strong: halfway from the middle to the ends.
    assert (levels.min(), levels.max()) == (63, 192)
    assert levels[50, 0] == pytest.approx(127.5, abs=1)
    plain = scale_of(np.abs(clean), [])
    assert not plain.signed
    assert map_levels(np.zeros((2, 2), np.float32), plain).max() == 0
    flat = scale_of(np.zeros((2, 2), np.float32), [np.zeros((2, 2), np.float32)])
    assert flat.most == 0
    assert map_levels(np.zeros((2, 2), np.float32), flat).max() == 0


def test_a_picture_of_a_map_has_the_colours_of_its_sign(tmp_path: Path) -> None:
    levels = np.array([[0, 128, 255]], np.uint8)
    (tmp_path / "map.png").write_bytes(map_picture(levels, signed=True))
    with Image.open(tmp_path / "map.png") as picture:
        against, none, towards = np.asarray(picture.convert("RGB"))[0].astype(int)
    assert against[2] > against[0] + 50
    assert none.min() > 240
    assert towards[0] > towards[2] + 50
    image = np.array([-0.5, 0.5, 1.5], np.float32).reshape(3, 1, 1)
    assert photo_levels(image).ravel().tolist() == [0, 128, 255]
