"""What methods draw, and what they are told: nothing that they could know an image by."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
import torch
from support import COUNT, SIDE, batch_of, image_set, pick, random_images, small_plan
from torch import Tensor

from steadymap.bench.analysis.dice import seed_moves, seed_share, wrong_declarations
from steadymap.bench.core.randomness import generator
from steadymap.bench.measure.runner import run
from steadymap.bench.methods import registry as methods_module
from steadymap.bench.methods.batch import Batch, draws_of
from steadymap.bench.methods.binding import bind_method
from steadymap.bench.methods.method import Method, Share, always
from steadymap.bench.methods.registry import METHODS
from steadymap.bench.network.passes import Pass
from steadymap.bench.perturbations.apply import perturb
from steadymap.bench.perturbations.cell import CLEAN_CELL, Cell
from steadymap.bench.records.vocabulary import (
    BATCH_OF_ONE,
    CLEAN_PROBABILITY,
    COUPLED,
    FLOAT64,
    OTHER_CLASS,
    OTHER_IMAGE,
    OTHER_SEED,
    RANDOM_NETWORK,
    ROUNDED,
)
from steadymap.metrics import METRICS, Maps, evaluate
from steadymap.models import Classifier

CELLS = (Cell("bias", 0.1, 0), Cell("gaussian_noise", 0.1, 0), Cell("gaussian_noise", 0.1, 1))
FAMILIES = {"family": ("bias", "gaussian_noise"), "draws": 2, "batch_size": 3}
IDS = [picture.image_id for picture in image_set().pictures]


def dice(_classifier: Classifier, batch: Batch) -> Tensor:
    drawn = [rng.standard_normal((1, SIDE, SIDE)) for rng in batch.generators("dice")]
    return torch.from_numpy(np.stack(drawn)).to(batch.images)


def thrown(image_id: str, cell: Cell, seed: int = 0) -> Maps:
    """The map that `dice` makes of an image in a view, by hand."""
    (draw,) = draws_of(seed, [image_id], (cell.family, cell.severity, cell.draw))
    drawn = generator(draw, "dice").standard_normal((1, 1, SIDE, SIDE))
    return Maps.from_attributions(drawn.astype(np.float32))


def similarity(first: Maps, second: Maps) -> float:
    return float(evaluate(METRICS["spearman"], first, second).values[0])


def run_with(
    monkeypatch: pytest.MonkeyPatch, classifier: Classifier, method: Method, **changes: object
) -> pd.DataFrame:
    monkeypatch.setitem(methods_module.METHODS, "own", method)
    return run(classifier, image_set(), small_plan("own", **(FAMILIES | changes)))


DICE = Method(dice, "", "", always("signed", "stochastic"))


# --- draws ----------------------------------------------------------------------------------------


def test_every_view_draws_its_own(monkeypatch: pytest.MonkeyPatch, classifier: Classifier) -> None:
    found = pick(run_with(monkeypatch, classifier, DICE), metric="spearman")
    assert len(found) == COUNT * len(CELLS)
    for image_id in IDS:
        clean = thrown(image_id, CLEAN_CELL)
        for cell in CELLS:
            row = pick(found, image_id=image_id, **vars(cell))["value"].item()
            assert row == pytest.approx(similarity(clean, thrown(image_id, cell)), abs=1e-6)
    # Neither the other cells nor the run's own are the same draw again.
    assert found["value"].nunique() == len(found)


def test_what_measures_rounding_draws_the_clean_numbers(
    monkeypatch: pytest.MonkeyPatch, classifier: Classifier
) -> None:
    found = pick(run_with(monkeypatch, classifier, DICE, nulls=1), metric="relative_l2")
    for family in (BATCH_OF_ONE, ROUNDED, FLOAT64):
        rows = pick(found, family=family)
        assert len(rows) == COUNT
        # In double precision noise has more digits.
        assert rows["value"].max() < 1e-6, family
    assert pick(found, family=OTHER_SEED)["value"].min() > 0.5


def test_maps_that_must_differ_draw_the_clean_numbers_of_their_image(
    monkeypatch: pytest.MonkeyPatch, classifier: Classifier
) -> None:
    """So they differ by what they are to differ by, and not by their dice: of noise not at all."""
    found = pick(run_with(monkeypatch, classifier, DICE, nulls=1), metric="spearman")
    for family in (RANDOM_NETWORK, OTHER_CLASS):
        rows = pick(found, family=family)
        assert len(rows) == COUNT
        assert rows["value"].to_numpy() == pytest.approx(1.0)
    assert pick(found, family=OTHER_IMAGE)["value"].max() < 0.5


@pytest.mark.parametrize("changes", [{"batch_size": 5}, {"batch_size": 1}, {"jobs": 2}])
def test_neither_batches_nor_workers_change_a_draw(
    monkeypatch: pytest.MonkeyPatch, classifier: Classifier, changes: dict[str, object]
) -> None:
    usual, other = (
        run_with(monkeypatch, classifier, DICE, **more).drop(columns="run_id")
        for more in ({}, changes)
    )
    # What the network says of an image is rounded otherwise in another batch.
    said = usual["metric"] == CLEAN_PROBABILITY
    assert (said == (other["metric"] == CLEAN_PROBABILITY)).all()
    pd.testing.assert_frame_equal(usual[~said], other[~said], check_exact=True)
    pd.testing.assert_frame_equal(usual[said], other[said], rtol=1e-5)


def test_coupled_maps_have_the_clean_draws_and_stand_beside(
    monkeypatch: pytest.MonkeyPatch, classifier: Classifier
) -> None:
    usual = run_with(monkeypatch, classifier, DICE)
    assert not usual["metric"].str.endswith(COUPLED).any()
    found = run_with(monkeypatch, classifier, DICE, coupled=True)
    coupled = found[found["metric"].str.endswith(COUPLED)]
    compares = [name for name, metric in METRICS.items() if metric.against == "map"]
    assert len(coupled) == COUNT * len(CELLS) * len(compares)
    assert set(coupled["family"]) == {"bias", "gaussian_noise"}
    assert pick(coupled, metric=f"spearman{COUPLED}")["value"].to_numpy() == pytest.approx(1)
    # What stands there without it stays.
    rest = found[~found["metric"].str.endswith(COUPLED)].reset_index(drop=True)
    one, other = (frame.drop(columns="run_id").astype({"metric": str}) for frame in (rest, usual))
    pd.testing.assert_frame_equal(one, other, check_exact=True)


def test_only_what_draws_is_coupled(classifier: Classifier) -> None:
    specs = ("gradient", "smooth_grad:noise=0.15,samples=3")
    found = run(classifier, image_set(), small_plan(*specs, coupled=True, **FAMILIES))
    coupled = pick(found, metric=f"spearman{COUPLED}")
    assert set(coupled["method"]) == {
        specs[1].replace("noise=0.15,samples=3", "samples=3,noise=0.15")
    }
    method = bind_method(specs[1])
    for place, image_id in enumerate(IDS):
        clean = image_set().images([place])
        target = classifier(clean).argmax(dim=1)
        for cell in CELLS:
            nudged = perturb(clean[0], cell, image_id, 0)[None]
            maps = [
                Maps.from_attributions(
                    method.explain(classifier, Batch(x, target, draws_of(0, [image_id]))).numpy()
                )
                for x in (clean, nudged)
            ]
            row = pick(coupled, image_id=image_id, **vars(cell))["value"].item()
            assert row == pytest.approx(similarity(*maps), abs=1e-4)


def test_a_method_that_draws_and_does_not_say_so_is_named_by_a_run(
    monkeypatch: pytest.MonkeyPatch, classifier: Classifier
) -> None:
    quiet = Method(dice, "", "")
    monkeypatch.setitem(
        methods_module.METHODS, "loud", Method(_gradient, "", "", DICE.capabilities)
    )
    monkeypatch.setitem(methods_module.METHODS, "own", quiet)
    plan = small_plan("own", "loud", "gradient", "lime:samples=9", nulls=1, **FAMILIES)
    records = run(classifier, image_set(), plan)
    assert wrong_declarations(seed_moves(records)) == {
        "own": "own is declared deterministic, and another seed moves its map",
        "loud": "loud is declared stochastic, and another seed does not move its map",
    }


def test_a_map_of_dice_alone_owes_them_all_that_it_moves(
    monkeypatch: pytest.MonkeyPatch, classifier: Classifier
) -> None:
    shares = seed_share(run_with(monkeypatch, classifier, DICE, nulls=1))
    spearman = shares[shares["metric"] == "spearman"]
    assert set(spearman["family"]) == {"bias", "gaussian_noise", "overall"}
    # Of 5 images of 256 pixels: a mean correlation strays from 0 by .03.
    np.testing.assert_allclose(spearman["seed_share"], 1, rtol=0, atol=0.15)


# --- what a method is told ------------------------------------------------------------------------


def test_generators_are_made_anew_and_belong_to_the_image() -> None:
    batch = batch_of(random_images(3))

    def drawn(of: Batch, purpose: str = "noise") -> list[float]:
        return [float(rng.random()) for rng in of.generators(purpose)]

    usual = drawn(batch)
    assert drawn(batch) == usual
    assert drawn(batch.part([2, 0])) == [usual[2], usual[0]]
    assert drawn(batch.part(slice(1, 3))) == usual[1:]
    others = drawn(batch, "more noise"), drawn(batch.redrawn(1)), drawn(batch.redrawn(2))
    numbers = [number for row in (usual, *others) for number in row]
    assert len(set(numbers)) == len(numbers)
    assert drawn(batch.redrawn(0)) == usual


def test_a_draw_does_not_tell_of_what_it_is() -> None:
    draws = draws_of(12345, ["scissors-007"], ("gaussian_noise", 0.25, 3))
    assert len(set(draws_of(0, ["a", "a", "b"]))) == 2
    assert len(draws[0]) == 32
    assert int(draws[0], 16) >= 0, "a hash, and no readable key"


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("seed", "a batch has no seed: batch.generators(purpose) gives a NumPy generator"),
        ("image_ids", "a batch has no image_ids: batch.generators(purpose) gives a NumPy"),
        ("clean", "a batch has no clean: a method explains batch.images"),
        ("reference_ids", "a batch has no reference_ids: batch.others() gives the references"),
        ("severity", "a batch has no severity"),
    ],
)
def test_what_a_batch_no_longer_has_is_replaced_in_a_sentence(
    monkeypatch: pytest.MonkeyPatch, classifier: Classifier, name: str, sentence: str
) -> None:
    def nosy(network: Classifier, batch: Batch) -> Tensor:
        assert getattr(batch, name) is not None
        return METHODS["gradient"].explain(network, batch)

    found = run_with(monkeypatch, classifier, Method(nosy, "", ""))
    maps = found[found["method"] == "own"]
    assert set(maps["status"]) == {"error"}
    details = maps["detail"].astype(str)
    assert details.str.contains(f"AttributeError: {sentence}", regex=False).all()


def _gradient(network: Classifier, batch: Batch) -> Tensor:
    return METHODS["gradient"].explain(network, batch)


def remembering(into: list[Tensor]) -> Callable[[Classifier, Batch], Tensor]:
    def method(network: Classifier, batch: Batch) -> Tensor:
        into.append(batch.images.clone())
        return METHODS["gradient"].explain(network, batch)

    return method


def test_the_order_of_a_batch_is_another_in_every_view(
    monkeypatch: pytest.MonkeyPatch, classifier: Classifier
) -> None:
    seen: list[Tensor] = []
    method = Method(remembering(seen), "", "")
    plan = {"family": ("bias",), "severity": (0.0, 0.01, 0.02, 0.03), "batch_size": COUNT}
    run_with(monkeypatch, classifier, method, **plan)
    clean = image_set().images(range(COUNT))
    # By the image that each is nearest to: a bias of so little leaves it the nearest.
    orders = [
        tuple(int((clean - one).flatten(1).norm(dim=1).argmin()) for one in images)
        for images in seen
    ]
    assert all(sorted(order) == list(range(COUNT)) for order in orders)
    assert len(set(orders)) > 2, orders
    assert set(orders) != {tuple(range(COUNT))}


def test_every_map_comes_back_to_its_own_image(
    monkeypatch: pytest.MonkeyPatch, classifier: Classifier
) -> None:
    def copied(network: Classifier, batch: Batch) -> Tensor:
        return METHODS["gradient"].explain(network, batch)

    def read(seen: Pass) -> Tensor:
        return seen.need_gradient()

    own = Method(copied, "", "")
    monkeypatch.setitem(
        methods_module.METHODS, "read", Method(copied, "", "", share=Share("gradient", read))
    )
    monkeypatch.setitem(methods_module.METHODS, "own", own)
    metrics = ("spearman", "ssim")
    # Without margins, which are tried in two orders where a method declares none.
    plan = small_plan(
        "gradient", "own", "read", metric=metrics, nulls=1, admission=False, **FAMILIES
    )
    found = run(classifier, image_set(), plan)
    expected = pick(found, method="gradient")["value"].to_numpy()
    for name in ("own", "read"):
        np.testing.assert_allclose(pick(found, method=name)["value"], expected, rtol=0, atol=1e-4)


def test_images_of_the_data_set_are_there_for_who_asks(
    monkeypatch: pytest.MonkeyPatch, classifier: Classifier
) -> None:
    had: list[bool] = []

    def curious(network: Classifier, batch: Batch) -> Tensor:
        had.append(batch.references is not None)
        return METHODS["gradient"].explain(network, batch)

    monkeypatch.setitem(methods_module.METHODS, "own", Method(curious, "", ""))
    plan = small_plan("own", "expected_gradients:samples=2", metric=("spearman",))
    run(classifier, image_set(), plan)
    assert had
    assert not any(had)
    had.clear()
    asking = Method(curious, "", "", needs_references=lambda _parameters: True)
    monkeypatch.setitem(methods_module.METHODS, "own", asking)
    run(classifier, image_set(), plan)
    assert had
    assert all(had)
