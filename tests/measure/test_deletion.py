"""Deletion in cells, by truths that need no code of ours, and slowly, word for word."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import torch
from support import (
    CLASSES,
    SIDE,
    Around,
    conv_network,
    image_set,
    linear_network,
    measured,
    pick,
    random_images,
    small_plan,
    tiny,
)
from torch import nn

from steadymap.bench.core.randomness import generator
from steadymap.bench.data.image_set import from_tensor
from steadymap.bench.measure import deletion, estimate
from steadymap.bench.measure.nulls import show
from steadymap.bench.measure.runner import crew, run
from steadymap.bench.measure.view import Explained, Failure, View, explained, look
from steadymap.bench.network.passes import count_passes
from steadymap.bench.plan import admitting
from steadymap.bench.plan.setup import Setup, prepare
from steadymap.metrics import Status
from steadymap.metrics.cells import NO_ORDER, Grid
from steadymap.metrics.faithfulness import enlarge

GRID = Grid((SIDE, SIDE), 4)


def clean(setup: Setup, share: float = 0.25) -> deletion.Deletion:
    """Return what deletes cells of all images of a run."""
    worker = next(iter(crew(setup)))
    view = look(worker, show(worker, setup.images, range(len(setup.images)), 0), None)
    return deletion.deletion_of(setup.plan.model_copy(update={"cell_share": share}), worker, view)


def of_plan(*methods: str, count: int = 5, **changes: object) -> Setup:
    plan = small_plan(*methods, **({"nulls": 1} | changes))
    return prepare(tiny(), image_set(count), plan)


def as_maps(values: np.ndarray) -> Explained:
    made = explained(torch.from_numpy(values[:, None]), len(values))
    assert isinstance(made, Explained)
    return made


def test_cells_are_square_and_the_last_take_in_what_is_left_over() -> None:
    grid = Grid((7, 5), 2)
    down, across = [0, 0, 1, 1, 2, 2, 2], [0, 0, 1, 1, 1]
    expected = [[row * 2 + column for column in across] for row in down]
    np.testing.assert_array_equal(grid.cells, expected)
    assert grid.count == 6
    assert Grid.of((150, 100), 1 / 14).side == 7
    assert Grid.of((8, 8), 1 / 64).side == 1
    assert Grid((3, 9), 4).count == 2  # one row of cells, though they are not square


def test_a_cell_is_worth_the_mean_of_its_pixels() -> None:
    maps = np.random.default_rng(0).normal(size=(2, 3, 4))
    grid = Grid((7, 9), 2)
    whole = enlarge(maps, (7, 9))
    slowly = [[m[grid.cells == cell].mean() for cell in range(grid.count)] for m in whole]
    np.testing.assert_allclose(grid.means(maps), slowly, rtol=1e-12)


def test_orders() -> None:
    grid = Grid((2, 4), 2)
    ties = np.array([[1, 0]])
    left_low = np.array([[[-3.0, -3.0, 1.0, 1.0]] * 2])
    assert grid.ranks(left_low, "signed", ties).tolist() == [[1, 0]]
    assert grid.ranks(left_low, "magnitude", ties).tolist() == [[0, 1]]
    # Evidence of either sign does not cancel within a cell.
    mixed = np.array([[[-3.0, 3.0, 1.0, 1.0]] * 2])
    assert grid.ranks(mixed, "magnitude", ties).tolist() == [[0, 1]]
    assert grid.ranks(np.ones((1, 2, 4)), "signed", ties).tolist() == [[1, 0]]
    broken = np.full((1, 2, 4), np.nan)
    assert grid.ranks(broken, "signed", ties).tolist() == [[NO_ORDER] * 2]


def slow_area(setup: Setup, image: torch.Tensor, ranks: np.ndarray, target: int) -> float:
    """Return the area under the target's logit, as the definition has it, image by image."""
    plain = image.mean(dim=(1, 2), keepdim=True)
    logits = []
    for step in range(admitting.STEPS + 1):
        gone = ranks < round(step * GRID.count / admitting.STEPS)
        shown = image.clone()
        for cell in np.flatnonzero(gone):
            where = torch.from_numpy(GRID.cells == cell)
            shown[:, where] = plain[:, 0].expand(-1, int(where.sum()))
        logits.append(float(setup.classifier(shown[None])[0, target]))
    halves = [(first + second) / 2 for first, second in pairwise(logits)]
    return sum(halves) / admitting.STEPS


def test_margins_are_those_of_the_definition() -> None:
    setup = of_plan("gradient")
    found = clean(setup)
    rng = np.random.default_rng(1)
    own, twins, second = (rng.normal(size=(5, SIDE, SIDE)) for _ in range(3))
    twin = [as_maps(twins), as_maps(twins[::-1].copy())]
    margins = found.margins(deletion.Held(as_maps(own), twin, as_maps(second)), "signed")
    images, targets = found.view.batch.images, found.view.batch.targets.tolist()

    def area(place: int, maps: np.ndarray) -> float:
        ties = generator(0, found.view.image_ids[place], "ties").permutation(GRID.count)
        ranks = GRID.ranks(maps[place][None].astype(np.float32), "signed", ties[None])[0]
        return slow_area(setup, images[place], ranks, targets[place])

    by_id = sorted(range(5), key=found.view.image_ids.__getitem__)
    for place in range(5):
        mine, at = area(place, own), by_id.index(place)
        others = [by_id[(at + k) % 5] for k in (1, 2)]
        of_others = [area(place, np.broadcast_to(own[other], own.shape)) for other in others]
        expected = {
            "deletion_logit": mine,
            "margin.other_image": sum(of_others) / 2 - mine,
            "margin.random_network": (area(place, twins) + area(place, twins[::-1])) / 2 - mine,
            "margin.other_class": area(place, second) - mine,
        }
        values = {name: margins[name].at(place)[0] for name in expected}
        assert values == pytest.approx(expected, abs=1e-5)


def test_on_a_linear_network_no_order_beats_the_closed_form() -> None:
    """Each cell is worth sum(w (x - mean)); the largest first is the best that can be done."""
    setup = replace(of_plan("gradient"), classifier=tiny(linear_network))
    found = clean(setup)
    images, targets = found.view.batch.images, found.view.batch.targets
    (layer,) = (x for x in setup.classifier.module.modules() if isinstance(x, nn.Linear))
    weights = layer.weight.detach()[targets]
    mean, std = setup.classifier.module.mean, setup.classifier.module.std
    del mean
    worth = weights.reshape(-1, 3, SIDE, SIDE) / std.reshape(1, 3, 1, 1)
    worth = worth * (images - images.mean(dim=(2, 3), keepdim=True))
    best = found.grid.ranks(worth.sum(dim=1).double().numpy(), "signed", found.ties)
    rng = np.random.default_rng(0)
    others = [np.stack([rng.permutation(GRID.count) for _ in images]) for _ in range(20)]
    areas = found.areas([best, *others])
    assert (np.stack(areas[1:]) > areas[0]).all()
    # Backwards is the worst, and both lie as far from the middle of the ends.
    worst = found.areas([GRID.count - 1 - best])[0]
    np.testing.assert_allclose((areas[0] + worst) / 2, sum(found.ends) / 2, atol=1e-5)


def test_a_constant_map_knows_nothing_to_the_last_digit() -> None:
    found = clean(of_plan("gradient"))
    same = as_maps(np.ones((5, SIDE, SIDE)))
    margins = found.margins(deletion.Held(same, [same], same), "signed")
    for name in ("other_image", "random_network", "other_class"):
        assert margins[f"margin.{name}"].values.tolist() == [0.0] * 5


def test_a_method_that_declares_no_order_is_tried_in_both() -> None:
    found = clean(of_plan("gradient"))
    rng = np.random.default_rng(2)
    held = deletion.Held(*(as_maps(rng.normal(size=(5, SIDE, SIDE))),), [], None)
    both, signed, magnitude = (found.margins(held, x) for x in (None, "signed", "magnitude"))
    for kind in ("other_image", "same_class"):
        np.testing.assert_array_equal(
            both[f"margin.{kind}"].values, signed[f"margin.{kind}"].values
        )
        np.testing.assert_array_equal(
            both[f"margin_magnitude.{kind}"].values, magnitude[f"margin.{kind}"].values
        )
    assert set(signed) == {"margin.other_image", "margin.same_class", "deletion_logit"}


def test_others_are_the_next_of_the_block_and_of_its_class() -> None:
    others = deletion.Others.of("abcdef", [0, 1, None, 0, 1, 1], 3)
    assert others.any_image == ((1, 0, 0, 4, 5, 3), (1, 0, 1, 5, 3, 4))
    assert others.same_class == ((0, 1, 2, 3, 5, 4), (0, 1, 2, 3, 5, 4))
    # By their ids: whoever puts the images of a block in another order has the same others.
    turned = deletion.Others.of("fedcba", [1, 1, 0, None, 1, 0], 3)
    for mine, theirs in ((others.any_image, turned.any_image),):
        names = [{"abcdef"[p]: "abcdef"[o] for p, o in enumerate(row)} for row in mine]
        assert names == [{"fedcba"[p]: "fedcba"[o] for p, o in enumerate(row)} for row in theirs]
    # Of the view in hand the fifth is lost, and the fourth has its first other to look at alone.
    assert others.without({4}) == ((1, 0, 0, 5, 5, 3), (1, 0, 1, 5, 3, 3))


def test_who_has_no_other_is_skipped_and_who_is_broken_says_so() -> None:
    setup = of_plan("gradient", count=1)
    margins = clean(setup).margins(deletion.Held(as_maps(np.ones((1, 4, 4))), [], None), "signed")
    assert margins["margin.other_image"].statuses == (Status.SKIPPED,)
    assert margins["margin.same_class"].details == (deletion.NO_OTHER_OF_CLASS,)
    maps = np.random.default_rng(0).normal(size=(5, 4, 4))
    found = clean(of_plan("gradient"))
    by_id = sorted(range(5), key=found.view.image_ids.__getitem__)
    maps[by_id[2]] = np.nan
    margins = found.margins(deletion.Held(as_maps(maps), [], None), "signed")
    # The third has no order of its own, and the two before it are held against it.
    broken = [Status.NONFINITE, Status.NONFINITE, Status.NONFINITE, Status.OK, Status.OK]
    statuses = margins["margin.other_image"].statuses
    assert [statuses[place] for place in by_id] == broken
    lost = Failure(Status.ERROR, "it raised", 5)
    margins = found.margins(deletion.Held(lost, [lost], None), "signed")
    assert {scores.details for scores in margins.values()} == {("it raised",) * 5}


def test_equal_orders_are_deleted_once() -> None:
    setup = of_plan("gradient")
    found = clean(setup)
    rng = np.random.default_rng(0)
    first, second = (np.stack([rng.permutation(GRID.count) for _ in range(5)]) for _ in range(2))
    second[0] = first[0]
    found.ends  # noqa: B018 - computed once, and not counted here
    with count_passes(found.worker.classifier) as counts:
        areas = found.areas([first, second, first])
    assert counts.forward == (admitting.STEPS - 1) * (5 + 4)
    np.testing.assert_array_equal(areas[0], areas[2])
    assert (areas[0] == areas[1]).tolist() == [True, False, False, False, False]


def test_the_estimate_counts_what_there_can_be_at_most() -> None:
    """Where no two orders are the same, and each image has another of its class, it is exact."""
    plan = small_plan("gradient", "deconvolution", nulls=2)
    images = from_tensor(random_images(4), [0] * 4, CLASSES)
    one_class = tiny(lambda: Around(lambda inner, x: inner(x) + torch.tensor([9.0, 0.0, 0.0])))
    setup = prepare(one_class, images, plan)
    without = replace(setup, plan=plan.model_copy(update={"admission": False}))
    # The next images and the next of the class are the same where all are of one class.
    same = 4 * 2 * admitting.PARTNERS * (admitting.STEPS - 1)
    (forward, _), _, _ = measured(setup)
    (plain, _), _, _ = measured(without)
    assert forward - plain == admitting.deletion_passes(setup) - same
    assert admitting.deletion_passes(setup) == 4 * ((8 + 8 + 2 * 3) * 3 + 1)
    assert admitting.deletion_passes(without) == 0
    assert estimate.count(setup).deletions == admitting.deletion_passes(setup)


def values_of(records: pd.DataFrame, metric: str, **where: object) -> np.ndarray:
    return pick(records, metric=metric, **where)["value"].to_numpy(float)


def test_plain_gradient_is_measured_beside_methods_that_run_without_it() -> None:
    images = from_tensor(random_images(5), [i % 3 for i in range(5)], CLASSES)
    own = run(tiny(conv_network), images, small_plan("gradient", nulls=2))
    beside = run(tiny(conv_network), images, small_plan("gradient_x_input", nulls=2))
    for kind in ("other_image", "random_network"):
        np.testing.assert_allclose(
            values_of(beside, f"gradient_margin.{kind}", method="gradient_x_input"),
            values_of(own, f"margin.{kind}", method="gradient"),
            atol=1e-5,
        )
    assert not any("gradient_margin" in str(name) for name in own["metric"].unique())


def test_where_nothing_moves_all_of_the_evidence_is_kept() -> None:
    """A method that explains noise of the image's colours alone keeps all of its margin."""
    setup = of_plan("gradient")
    found = clean(setup)
    maps = as_maps(np.random.default_rng(3).normal(size=(5, SIDE, SIDE)))
    kept = found.evidence_kept(found.view, maps, "signed")
    margins = found.margins(deletion.Held(maps, [], None), "signed")
    np.testing.assert_array_equal(kept.values, margins["margin.other_image"].values)
    vanished = as_maps(np.zeros((5, SIDE, SIDE)))
    assert found.evidence_kept(found.view, vanished, "signed").values.tolist() == [0.0] * 5


def test_evidence_is_asked_for_once_a_family_and_where_it_can_be() -> None:
    plan = small_plan(
        "gradient",
        nulls=1,
        controls=True,
        family=("bias", "rotation", "compensated_bias"),
        severity={"bias": (-0.1, 0.0, 0.1), "rotation": (5.0,), "compensated_bias": (0.1,)},
    )
    records = run(tiny(), image_set(), plan)
    rows = pick(records, metric="evidence_kept")
    cells = rows[["family", "severity", "status"]].astype(str).drop_duplicates()
    # What moves things, or is there for the diagnosis, is not asked.
    assert cells.to_numpy().tolist() == [["bias", "0.1", "ok"]]
    assert set(rows["method"].astype(str)) == {"gradient"}  # a control knows nothing


def test_without_nulls_or_where_it_is_not_wanted_there_is_none() -> None:
    for changes in ({"nulls": 0}, {"nulls": 1, "admission": False}):
        records = run(tiny(), image_set(), small_plan("gradient", **changes))
        names = {str(name) for name in records["metric"].unique()}
        assert not any(name.startswith(("margin", "deletion_logit")) for name in names)


def test_a_view_without_logits_has_no_margins() -> None:
    setup = of_plan("gradient")
    found = clean(setup)
    view: View = replace(found.view, refused={1: "no"})
    margins = replace(found, view=view).margins(
        deletion.Held(as_maps(np.random.default_rng(0).normal(size=(5, 4, 4))), [], None), "signed"
    )
    assert np.isnan(margins["deletion_logit"].values).tolist() == [False, True, False, False, False]
