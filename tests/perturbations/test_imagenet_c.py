"""ImageNet-C's corruptions: the package's own pixels, and nobody's random state moved."""

from __future__ import annotations

import importlib
import io
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image
from support import Command, global_numpy_state, image_set, random_images
from torch import Tensor

from steadymap.bench.core.errors import ConfigError
from steadymap.bench.perturbations import imagenet_c
from steadymap.bench.perturbations.apply import perturb
from steadymap.bench.perturbations.cell import Cell
from steadymap.bench.perturbations.registry import IMAGENET_C, PERTURBATIONS
from steadymap.bench.plan.experiment import make_experiment
from steadymap.bench.plan.plan import Plan
from steadymap.bench.plan.setup import prepare
from steadymap.models import Classifier

IMAGE = random_images(1, 64)[0]
REASON = imagenet_c.missing()
needs_package = pytest.mark.skipif(REASON is not None, reason=str(REASON))


def corrupted(name: str, level: int, image: Tensor = IMAGE, draw: int = 0) -> Tensor:
    return perturb(image, Cell(f"imagenet_c_{name}", level, draw), "x", 0)


def pixels_of(image: Tensor) -> np.ndarray:
    return (image * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()


@needs_package
def test_all_nineteen_are_here() -> None:
    package = importlib.import_module("imagecorruptions")
    assert list(IMAGENET_C) == package.get_corruption_names("all")
    assert len(IMAGENET_C) == 19


@needs_package
@pytest.mark.parametrize("name", [name for name, (_, draws) in IMAGENET_C.items() if not draws])
def test_pixels_are_the_package_s(name: str) -> None:
    package = importlib.import_module("imagecorruptions")
    for level in (1, 5):
        expected = package.corrupt(pixels_of(IMAGE), severity=level, corruption_name=name)
        np.testing.assert_array_equal(pixels_of(corrupted(name, level)), expected)


@needs_package
def test_levels_are_the_paper_s() -> None:
    """Two that can be said in a line: JPEG's quality, and contrast about each channel's mean."""
    file = io.BytesIO()
    Image.fromarray(pixels_of(IMAGE)).save(file, "JPEG", quality=7)
    with Image.open(file) as picture:
        np.testing.assert_array_equal(
            pixels_of(corrupted("jpeg_compression", 5)), np.array(picture)
        )
    eight = torch.from_numpy(pixels_of(IMAGE)).permute(2, 0, 1).double() / 255
    means = eight.mean(dim=(1, 2), keepdim=True)
    expected = 0.3 * (eight - means) + means
    # The package cuts to 8 bits, and does not round.
    torch.testing.assert_close(
        corrupted("contrast", 2).double(), expected - 0.5 / 255, atol=0.51 / 255, rtol=0
    )


@needs_package
@pytest.mark.parametrize("name", [name for name, (_, draws) in IMAGENET_C.items() if draws])
def test_threads_change_no_draw_and_leave_the_global_state(name: str) -> None:
    before = global_numpy_state()
    alone = [corrupted(name, 3, draw=draw) for draw in range(6)]
    with ThreadPoolExecutor(3) as pool:
        together = list(pool.map(lambda draw: corrupted(name, 3, draw=draw), range(6)))
    assert all(torch.equal(*pair) for pair in zip(alone, together, strict=True))
    assert len({one.numpy().tobytes() for one in alone}) == 6
    np.testing.assert_array_equal(global_numpy_state(), before)


@needs_package
def test_where_no_drop_falls_another_draw_is_made() -> None:
    """Of 400 draws on the smallest image, the package fails on seven: 0 / 0."""
    small = random_images(1, 32)[0]
    for draw in range(120):
        corrupted("spatter", 1, small, draw)


@needs_package
@pytest.mark.parametrize("level", [0.5, 5.5, 6.0, -1.0])
def test_levels_are_whole(level: float) -> None:
    message = f"severity: imagenet_c_fog takes 0 to 5 in whole levels, got {level:g}"
    with pytest.raises(ConfigError, match=message):
        make_experiment([{"family": "imagenet_c_fog", "severity": level}])


@needs_package
def test_images_that_are_too_small_are_refused(classifier: Classifier) -> None:
    message = "imagenet_c_fog takes images of at least 32 x 32 pixels, tiny takes 16 x 16"
    with pytest.raises(ConfigError, match=message):
        prepare(classifier, image_set(2), Plan(family=("bias", "imagenet_c_fog")))


@pytest.fixture
def without_package(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.import_module

    def fake(name: str, package: str | None = None) -> ModuleType:
        if name == "imagecorruptions":
            raise ImportError("No module named\n'imagecorruptions'")
        return real(name, package)

    monkeypatch.setattr(importlib, "import_module", fake)


@pytest.mark.usefixtures("without_package")
def test_without_the_extra_one_line_says_what_to_install(steadymap: Command) -> None:
    done = steadymap("run", "--family", "imagenet_c_snow")
    assert done.code == 2
    assert done.err.strip() == (
        "steadymap: family: imagenet_c_snow needs pip install 'steadymap[corruptions]' "
        "(No module named 'imagecorruptions')"
    )


@pytest.mark.usefixtures("without_package")
def test_without_the_extra_the_other_families_run(classifier: Classifier) -> None:
    prepare(classifier, image_set(2), Plan())
    assert PERTURBATIONS["imagenet_c_fog"].missing is not None
