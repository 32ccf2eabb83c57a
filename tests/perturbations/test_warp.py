"""Warps against their closed forms and SciPy, and maps brought back in place."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import affine_transform
from support import CLASSES, SIDE, image_set, pick, random_images, small_plan
from torch import Tensor, nn

from steadymap.bench.analysis.calibration import calibrate
from steadymap.bench.data.image_set import from_tensor
from steadymap.bench.measure.runner import measure, run
from steadymap.bench.methods import registry as methods_module
from steadymap.bench.methods.method import Method
from steadymap.bench.perturbations.apply import perturb
from steadymap.bench.perturbations.cell import Cell
from steadymap.bench.perturbations.registry import PERTURBATIONS
from steadymap.bench.perturbations.warp import (
    Warp,
    Window,
    enlarged,
    in_common,
    maps_back,
    maps_inside,
    masks_inside,
    shifted,
    turned,
    warped,
    warped_back,
)
from steadymap.bench.plan.plan import Plan
from steadymap.bench.plan.setup import prepare
from steadymap.bench.records.vocabulary import PERFECT, RANK
from steadymap.metrics import METRICS, Maps, TensorMaps, evaluate
from steadymap.metrics.single import area_average
from steadymap.models import Classifier, make_classifier

IMAGE = random_images(1, 24)[0]
WARPS = {name: family.warp for name, family in PERTURBATIONS.items() if family.warp}
PAIRS = [name for name, metric in METRICS.items() if metric.against == "map"]


def identity_of(metric: str) -> float:
    identity = METRICS[metric].identity
    assert identity is not None
    return identity


def smooth(side: int) -> Tensor:
    """Return waves (1, side, side) of four and more cells' length, the same at every resolution."""
    place = (torch.arange(side, dtype=torch.float64) + 0.5) / side
    down, across = place[:, None], place[None]
    return (torch.sin(5 * down + 2 * across) + torch.cos(4 * across - 3 * down))[None]


# --- images ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "warp",
    [
        shifted(0.3, (24, 24)),
        shifted(-0.1, (24, 24)),
        turned(20, (24, 24)),
        turned(-75, (24, 24)),
        enlarged(0.4, (24, 24)),
        enlarged(-0.6, (24, 24)),
    ],
)
def test_a_warp_is_scipy_s_affine_transform_mirrored_at_the_border(warp: Warp) -> None:
    centre = np.full(2, 11.5)
    matrix = np.array(warp.matrix)
    offset = centre - matrix @ centre + np.array(warp.shift)
    for channel, found in zip(IMAGE.double(), warped(IMAGE.double(), warp), strict=True):
        expected = affine_transform(channel.numpy(), matrix, offset=offset, order=1, mode="reflect")
        np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-7)


def test_a_translation_moves_whole_pixels_down_and_to_the_right() -> None:
    image = random_images(1, 20)[0][:, :, :15]
    moved = perturb(image, Cell("translation", 0.2, 0), "x", 0)
    assert torch.equal(moved[:, 4:, 3:], image[:, :-4, :-3])
    assert torch.equal(moved[:, :4, 3:], image[:, :4, :-3].flip(1)), "mirrored, the border repeated"
    back = perturb(image, Cell("translation", -0.2, 0), "x", 0)
    assert torch.equal(back[:, :-4, :-3], image[:, 4:, 3:])


@pytest.mark.parametrize(("degrees", "quarters"), [(90, 1), (-90, -1), (180, 2), (-180, 2)])
def test_quarter_turns_are_exact(degrees: float, quarters: int) -> None:
    moved = perturb(IMAGE, Cell("rotation", degrees, 0), "x", 0)
    assert torch.equal(moved, IMAGE.rot90(quarters, (1, 2))), "counter-clockwise"


def test_zoom_twice_shows_the_middle_half_and_half_shows_all_of_it() -> None:
    ramp = torch.arange(16, dtype=torch.float64).expand(1, 16, 16)
    large = warped(ramp, enlarged(1.0, (16, 16)))
    # Pixel i lies (i - 7.5) / 2 from the centre.
    torch.testing.assert_close(large[0, 3], 7.5 + (torch.arange(16) - 7.5).double() / 2)
    small = warped(ramp, enlarged(-0.5, (16, 16)))
    torch.testing.assert_close(small[0, 3, 4:12], 7.5 + (torch.arange(4, 12) - 7.5).double() * 2)


# --- maps -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WARPS)
def test_severity_0_has_everything_in_common(name: str) -> None:
    warp = WARPS[name](0.0, (24, 24))
    for size in ((24, 24), (7, 5)):
        assert in_common(warp, size) == Window(slice(0, size[0]), slice(0, size[1]))
        maps = torch.rand(2, *size)
        assert torch.equal(
            warped_back(maps, warp, Window(slice(0, size[0]), slice(0, size[1]))), maps
        )


@pytest.mark.parametrize("on_tensors", [False, True])
@pytest.mark.parametrize("cells", [24, 12, 6])
def test_maps_come_back_exactly_from_a_translation_by_whole_cells(
    cells: int, on_tensors: bool
) -> None:
    warp = shifted(-1 / 3, (24, 24))
    moved = cells // 3
    window = in_common(warp, (cells, cells))
    assert window == Window(slice(moved, cells), slice(moved, cells))
    signed = torch.randn(2, cells, cells, dtype=torch.float64)
    # What the method would show of the moved image: things lie a third further up and left.
    there = torch.full_like(signed, 7.0)
    there[:, : cells - moved, : cells - moved] = signed[:, moved:, moved:]
    maps = TensorMaps(there) if on_tensors else Maps(there.numpy())
    clean = TensorMaps(signed) if on_tensors else Maps(signed.numpy())
    np.testing.assert_array_equal(
        np.asarray(maps_back(maps, warp, window).signed),
        np.asarray(maps_inside(clean, window).signed),
    )


@pytest.mark.parametrize(("degrees", "quarters"), [(90, 1), (-90, -1), (180, 2)])
@pytest.mark.parametrize("cells", [24, 7])
def test_maps_come_back_exactly_from_a_quarter_turn(
    cells: int, degrees: float, quarters: int
) -> None:
    maps = torch.randn(2, cells, cells)
    warp = turned(degrees, (24, 24))
    window = in_common(warp, (cells, cells))
    assert window == Window(slice(0, cells), slice(0, cells))
    assert torch.equal(warped_back(maps.rot90(quarters, (1, 2)), warp, window), maps)


@pytest.mark.parametrize(
    "warp",
    [enlarged(0.25, (48, 48)), enlarged(-0.2, (48, 48)), turned(20, (48, 48))],
    ids=["larger", "smaller", "turned"],
)
def test_there_and_back_a_smooth_map_is_itself(warp: Warp) -> None:
    """Twice interpolated, waves of 48 cells and 5 radians a side are off by (5 / 48)^2 / 4."""
    maps = smooth(48)
    window = in_common(warp, (48, 48))
    assert window is not None
    back = warped_back(warped(maps, warp), warp, window)
    inside = maps[:, window.rows, window.columns]
    # At the border of a smaller image its mirror is as near, and a cell is that much off.
    core = (slice(None), slice(3, -3), slice(3, -3))
    torch.testing.assert_close(back[core], inside[core], rtol=0, atol=0.008)
    (a, b), (c, d) = warp.matrix
    wrong = replace(warp, matrix=((a, c), (b, d)))
    if wrong.matrix != warp.matrix:
        away = warped_back(warped(maps, warp), wrong, window)
        assert float((away - inside).abs().max()) > 0.5


@given(
    name=st.sampled_from(sorted(WARPS)),
    # Where a turn is as small as rounding, what lies inside is a matter of it.
    share=st.floats(-1, 1).map(lambda share: round(share, 4)),
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
)
def test_the_window_is_the_largest_that_lies_inside(
    name: str, share: float, size: tuple[int, int]
) -> None:
    """Word for word: of all rectangles, those with every cell from between cells of the other map.

    About the centre where things are turned or enlarged; of these the largest, or what several
    equally large ones have in common.
    """
    low, high = PERTURBATIONS[name].bounds
    severity = share * (high if share > 0 else -low)
    pixels = (40, 30)
    warp = WARPS[name](severity, pixels)
    down, across = (
        ((np.arange(count) + 0.5) / count - 0.5) * side
        for count, side in zip(size, pixels, strict=True)
    )
    inverse = np.linalg.inv(np.array(warp.matrix))
    seen = np.zeros(size, dtype=bool)
    for row, y in enumerate(down):
        for column, x in enumerate(across):
            place = inverse @ (np.array([y, x]) - np.array(warp.shift))
            cells = (place / np.array(pixels) + 0.5) * np.array(size) - 0.5
            seen[row, column] = bool(
                (cells >= -1e-9).all() and (cells <= np.array(size) - 1 + 1e-9).all()
            )
    inside = [
        (top, bottom, left, right)
        for top in range(size[0])
        for bottom in range(top + 1, size[0] + 1)
        for left in range(size[1])
        for right in range(left + 1, size[1] + 1)
        if seen[top:bottom, left:right].all()
        if name == "translation" or (top + bottom == size[0] and left + right == size[1])
    ]
    window = in_common(warp, size)
    if window is None:
        assert not inside
        return
    areas = [(bottom - top) * (right - left) for top, bottom, left, right in inside]
    best = np.array([one for one, area in zip(inside, areas, strict=True) if area == max(areas)])
    assert window == Window(
        slice(best[:, 0].max(), best[:, 1].min()), slice(best[:, 2].max(), best[:, 3].min())
    )


@pytest.mark.parametrize("side", [7, 8, 14, 16, 37, 50, 56])
def test_a_turn_prefers_neither_rows_nor_columns(side: int) -> None:
    """Of a square map a tall window and the wide one are equally large: neither is a choice."""
    for degrees in np.arange(-180, 180.5, 0.5):
        window = in_common(turned(float(degrees), (224, 224)), (side, side))
        assert window is not None
        assert window.rows == window.columns, degrees


@pytest.mark.parametrize("size", [(24, 24), (6, 6), (5, 7)])
def test_masks_are_averaged_to_the_map_and_cut_with_it(size: tuple[int, int]) -> None:
    masks = np.random.default_rng(0).random((2, 24, 24))
    window = Window(slice(1, 4), slice(2, 5))
    expected = area_average(masks, size)[:, 1:4, 2:5]
    np.testing.assert_array_equal(masks_inside(masks, size, window), expected)
    on_tensors = masks_inside(torch.from_numpy(masks), size, window)
    np.testing.assert_allclose(on_tensors, expected, rtol=0, atol=1e-12)


# --- runs -----------------------------------------------------------------------------------------


@pytest.fixture
def brightness(monkeypatch: pytest.MonkeyPatch) -> None:
    """Register a method that shows what it sees: it moves with the image, exactly."""
    method = Method(lambda _classifier, batch: batch.images[:, :1] - 0.5, "", "")
    monkeypatch.setitem(methods_module.METHODS, "brightness", method)


def plan_of(family: str, *levels: float, **changes: object) -> Plan:
    return small_plan("brightness", family=(family,), severity=levels, **changes)


@pytest.mark.usefixtures("brightness")
@pytest.mark.parametrize(
    ("family", "level"), [("translation", 0.25), ("translation", -0.125), ("rotation", 90)]
)
def test_what_moves_with_the_image_scores_as_unmoved(
    family: str, level: float, classifier: Classifier
) -> None:
    found = run(classifier, image_set(), plan_of(family, level))
    rows = pick(found, method="brightness")
    for name in PAIRS:
        values = pick(rows, metric=name)
        assert set(values["status"]) == {"ok"}, name
        np.testing.assert_allclose(values["value"], identity_of(name), atol=1e-12)


@pytest.mark.usefixtures("brightness")
def test_a_way_back_in_the_wrong_direction_is_far_off(
    monkeypatch: pytest.MonkeyPatch, classifier: Classifier
) -> None:
    family = PERTURBATIONS["translation"]
    wrong = replace(family, warp=lambda severity, size: shifted(-severity, size))
    monkeypatch.setitem(PERTURBATIONS, "translation", wrong)
    rows = pick(run(classifier, image_set(), plan_of("translation", 0.125)), method="brightness")
    assert pick(rows, metric="spearman")["value"].abs().max() < 0.4
    assert pick(rows, metric="ssim")["value"].max() < 0.4
    assert pick(rows, metric="relative_l2")["value"].min() > 1


@pytest.mark.usefixtures("brightness")
def test_masks_are_cut_to_what_is_in_common(classifier: Classifier) -> None:
    """A quarter of each side moved: rows and columns 0 to 11 of the clean image are left."""
    images = image_set()
    plan = plan_of("translation", 0.25)
    rows = pick(run(classifier, images, plan), method="brightness")
    frames = [images.read(index) for index in range(5)]
    maps = Maps(np.stack([frame.image[0].double().numpy() - 0.5 for frame in frames])[:, :12, :12])
    masks = np.stack([frame.mask for frame in frames if frame.mask is not None])[:, :12, :12]
    expected = evaluate(METRICS["mask_mass"], maps, masks).values
    found = pick(rows, family="translation", metric="mask_mass")["value"]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_completeness_is_of_all_attributions(classifier: Classifier) -> None:
    errors = {"metric": ("completeness_error",)}
    plan = small_plan("integrated_gradients", family=("translation",), severity=(0.25,), **errors)
    setup = prepare(classifier, image_set(), plan)
    (outcome,) = measure(setup, lambda _count: None, keep_maps=True)
    (spec,) = outcome.attributions
    attributions = outcome.attributions[spec]
    assert attributions is not None
    expected = (attributions[:, 1].double().sum(dim=(1, 2, 3)) - outcome.deltas[spec][:, 1]).abs()
    found = [
        record.value
        for record in outcome.records
        if (record.family, record.metric) == ("translation", "completeness_error")
    ]
    np.testing.assert_allclose(found, expected, atol=1e-9)


@pytest.mark.usefixtures("brightness")
def test_kept_maps_are_as_the_method_made_them(classifier: Classifier) -> None:
    setup = prepare(classifier, image_set(), plan_of("translation", 0.25))
    (outcome,) = measure(setup, lambda _count: None, keep_maps=True)
    assert outcome.images is not None
    kept = outcome.attributions["brightness"]
    assert kept is not None
    assert torch.equal(kept[:, 1], outcome.images[:, 1, :1] - 0.5)


@pytest.mark.usefixtures("brightness")
def test_what_leaves_too_little_is_skipped_with_the_reason(classifier: Classifier) -> None:
    found = pick(
        run(classifier, image_set(), plan_of("translation", 0.5, 1.0)), method="brightness"
    )
    gone = pick(found, severity=1.0)
    assert set(gone["status"]) == {"skipped"}
    assert set(gone["detail"]) == {
        f"a map of {SIDE} x {SIDE} has nothing in common with the clean one"
    }
    half = pick(found, severity=0.5)
    assert set(pick(half, metric="ssim")["status"]) == {"skipped"}
    assert set(pick(half, metric="ssim")["detail"]) == {
        "a map of 8 x 8 is smaller than the window of 11 x 11"
    }
    assert set(pick(half, metric="spearman")["status"]) == {"ok"}


def test_the_gradient_of_an_equivariant_network_moves_with_the_image() -> None:
    """Convolution, ReLU, square and mean; a figure on black that stays away from the border."""

    class Square(nn.Module):
        def forward(self, values: Tensor) -> Tensor:
            return (values**2).mean(dim=(2, 3))

    layer = nn.Conv2d(3, 3, 3, padding=1, bias=False)
    layer.weight.data = torch.randn(layer.weight.shape, generator=torch.Generator().manual_seed(0))
    network = make_classifier(nn.Sequential(layer, nn.ReLU(), Square()), (32, 32), CLASSES)
    images = torch.zeros(2, 3, 32, 32)
    images[:, :, 12:20, 12:20] = random_images(2, 8)
    plan = small_plan("gradient", family=("translation",), severity=(0.125, -0.125), nulls=2)
    rows = pick(run(network, from_tensor(images), plan), method="gradient")
    rows = pick(rows, family="translation")
    for name in PAIRS:
        values = pick(rows, metric=name)["value"]
        np.testing.assert_allclose(values, identity_of(name), atol=1e-5, err_msg=name)
    # The unrelated maps are cut, too: those of the other image, and of networks without knowledge.
    for name in (name for name, metric in METRICS.items() if metric.recognises):
        assert set(pick(rows, metric=name + RANK)["value"]) == {1.0}, name


@pytest.mark.usefixtures("brightness")
@pytest.mark.parametrize(
    ("family", "severities"),
    [("rotation", (20.0, -7.0)), ("zoom", (0.3, -0.2)), ("translation", (0.1,))],
)
def test_maps_that_move_as_the_image_does_have_the_perfect_score(
    family: str, severities: tuple[float, ...], classifier: Classifier
) -> None:
    """Brightness is warped as the image is: interpolated, not as it was, and as good as any."""
    records = run(classifier, image_set(), plan_of(family, *severities))
    rows = pick(records, method="brightness", family=family)
    costly = set()
    for name in PAIRS:
        own, best = pick(rows, metric=name), pick(rows, metric=name + PERFECT)
        assert own["status"].tolist() == best["status"].tolist()
        np.testing.assert_allclose(own["value"], best["value"], atol=1e-5, err_msg=name)
        if (best["value"] - identity_of(name)).abs().max() > 0.01:
            costly.add(name)
        row = calibrate(records).query("method == 'brightness' and family == @family")
        calibrated = row[row["metric"] == name].iloc[0]
        assert calibrated["calibrated"] == pytest.approx(1, abs=1e-4) or np.isnan(
            calibrated["calibrated"]
        )
    # Whole pixels are moved without a loss; what is turned or enlarged is not.
    assert ("ssim" in costly) == (family != "translation")


@pytest.mark.usefixtures("brightness")
def test_nothing_else_has_a_perfect_score_of_its_own(classifier: Classifier) -> None:
    records = run(classifier, image_set(), plan_of("bias", 0.2))
    assert not records["metric"].str.endswith(PERFECT).any()
