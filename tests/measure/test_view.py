"""A network that raises on an image costs that image's cells, whatever else is in the batch."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
import torch
from support import COUNT, Around, image_set, pick, same_records, tiny
from torch import Tensor, nn

from steadymap.bench.measure.runner import measure, run
from steadymap.bench.plan.plan import Plan
from steadymap.bench.plan.setup import prepare
from steadymap.bench.records.vocabulary import PARTNER, base_metric
from steadymap.metrics import METRICS
from steadymap.models import Classifier, ModelError

METHOD = ("gradient", "integrated_gradients:baseline=black,steps=4", "constant", "lime:samples=8")
MEANS = image_set().images(range(COUNT)).mean(dim=(1, 2, 3))
LEVEL = 0.3
# Of five images the two brightest are refused once they are moved, by this much more or less.
EDGE = float(MEANS.sort().values[-3:-1].mean())
PLAN = Plan(
    controls=False,
    nulls=1,
    # What an image's map is deleted against hangs on the others of its block.
    admission=False,
    method=METHOD,
    family=("bias",),
    severity=(-0.1, LEVEL),
    metric=("spearman", "completeness_error"),
)


def raises(_logits: Tensor) -> Tensor:
    raise ZeroDivisionError("too bright")


def leaves(_logits: Tensor) -> Tensor:
    raise SystemExit("too bright")


FAULTS: dict[str, tuple[Callable[[Tensor], object], str]] = {
    "raises": (raises, "the network raised ZeroDivisionError: too bright"),
    "exits": (leaves, "the network raised SystemExit: too bright"),
    "one class more": (
        lambda logits: torch.cat([logits, logits[:, :1]], dim=1),
        "the network returned logits of shape (1, 4), expected (1, 3)",
    ),
    "flat": (
        lambda logits: logits.flatten(),
        "the network returned logits of shape (3,), expected (1, 3)",
    ),
    "a pair": (lambda logits: (logits, logits), "the network returned tuple, expected a tensor"),
}


def picky(
    limit: float, refuse: Callable[[Tensor], object] = raises, *, from_the_start: bool = False
) -> Classifier:
    """Make a classifier that takes no image whose mean is above a limit.

    Args:
        limit: in image units.
        refuse: what becomes of a batch with such an image; raises, or returns something.
        from_the_start: whether it refuses them already when it is looked at.
    """
    limits = [limit if from_the_start else torch.inf]

    def forward(inner: nn.Module, images: Tensor) -> object:
        logits: Tensor = inner(images)
        too_bright = bool((images.mean(dim=(1, 2, 3)) > limits[-1]).any())
        return refuse(logits) if too_bright else logits

    classifier = tiny(lambda: Around(forward))
    limits.append(limit)
    return classifier


@pytest.fixture(scope="module")
def easy() -> pd.DataFrame:
    """The records of the same network, which takes everything."""
    return run(picky(100.0), image_set(), PLAN)


@pytest.mark.parametrize("batch_size", [1, 2, 5])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_perturbed_image_that_the_network_refuses_costs_its_cell(
    easy: pd.DataFrame, fault: str, batch_size: int
) -> None:
    refuse, reason = FAULTS[fault]
    plan = PLAN.model_copy(update={"batch_size": batch_size})
    found = run(picky(EDGE + LEVEL, refuse), image_set(), plan)
    refused = (MEANS > EDGE).tolist()
    assert sum(refused) == 2
    ids = [picture.image_id for picture in image_set().pictures]
    hit = (
        found["image_id"].isin([name for name, gone in zip(ids, refused, strict=True) if gone])
        & (found["family"] == "bias")
        & (found["severity"] == LEVEL)
    )
    assert found.loc[hit, "pred_perturbed"].isna().all()
    assert not found.loc[hit, "kept"].any()
    maps = found[hit & (found["method"] != "input")]
    assert set(maps["status"]) == {"error"}
    assert set(maps["detail"]) == {reason}
    assert maps["value"].isna().all()
    # The image was made, and what it changed is known.
    about_input = found[hit & (found["method"] == "input")]
    assert set(about_input["status"]) == {"ok"}
    change = pick(about_input, metric="input_change")["value"]
    np.testing.assert_allclose(change, LEVEL, atol=1e-6)
    # What is refused is no perturbed map any more that others' clean maps are held against.
    hit |= found["metric"].str.endswith(PARTNER)
    same_records(found[~hit], easy[~hit.to_numpy()])


@pytest.mark.parametrize("batch_size", [1, 5])
def test_a_clean_image_that_the_network_refuses_costs_all_its_cells(
    easy: pd.DataFrame, batch_size: int
) -> None:
    plan = PLAN.model_copy(update={"batch_size": batch_size, "severity": (-0.1,), "nulls": 0})
    found = run(picky(EDGE), image_set(), plan)
    gone = found["target"].isna()
    ids = [picture.image_id for picture in image_set().pictures]
    assert set(found[gone]["image_id"]) == {
        name for name, mean in zip(ids, MEANS, strict=True) if mean > EDGE
    }
    assert set(found[gone]["status"]) == {"error"}
    assert set(found[gone]["detail"]) == {
        "clean image: the network raised ZeroDivisionError: too bright"
    }
    assert not found[gone]["kept"].any()
    assert found[gone]["value"].isna().all()
    others = easy["image_id"].isin(set(found[~gone]["image_id"]))
    few = easy[others & (easy["severity"] != LEVEL) & easy["family"].isin(("clean", "bias"))]
    few = few[few["metric"].map(base_metric) == few["metric"]]
    same_records(found[~gone], few)


def test_refused_clean_images_are_no_null_maps_of_others() -> None:
    found = run(picky(EDGE), image_set(), PLAN)
    fine = found[found["target"].notna()]
    beside = pick(fine, family="other_image", metric="spearman")
    assert set(beside["status"]) <= {"ok", "degenerate"}
    predicted = set(fine[fine["family"] == "clean"]["target"])
    assert set(beside["pred_perturbed"]) <= predicted
    assert set(fine[fine["family"] == "batch_of_one"]["status"]) <= {"ok", "degenerate", "error"}
    assert set(pick(fine, family="rounded_image", method="gradient")["status"]) == {"ok"}
    assert set(pick(fine, family="float64", method="gradient")["status"]) == {"ok"}


def test_where_the_network_refuses_everything_the_run_comes_to_its_end() -> None:
    dark = picky(-1.0)
    plan = PLAN.model_copy(update={"method": ("gradient", "integrated_gradients:steps=auto")})
    found = run(dark, image_set(), plan)
    assert set(found["status"]) == {"error"}
    assert set(found["detail"]) == {"clean image: the network raised ZeroDivisionError: too bright"}
    assert found["pred_clean"].isna().all()


def test_maps_that_are_kept_are_missing_where_the_network_refuses() -> None:
    plan = PLAN.model_copy(update={"nulls": 0, "method": METHOD[:2]})
    setup = prepare(picky(EDGE + LEVEL), image_set(), plan)
    (outcome,) = measure(setup, lambda _count: None, keep_maps=True)
    for maps in outcome.attributions.values():
        assert maps is not None
        missing = maps.isnan().flatten(2).all(dim=2)
        assert torch.equal(missing[:, 2], MEANS > EDGE)
        assert not missing[:, :2].any()
        assert torch.equal(missing, maps.isnan().flatten(2).any(dim=2))
    assert not outcome.images.isnan().any() if outcome.images is not None else False


@pytest.mark.parametrize(
    "metric", [name for name, metric in METRICS.items() if metric.against != "map"]
)
def test_what_metrics_show_the_network_beside_the_image_may_be_refused(metric: str) -> None:
    """Neighbours, noise and mixtures on which it raises: no number, and the run goes on."""
    method = ("integrated_gradients:baseline=white,steps=4",)
    changes = {"metric": (metric,), "method": method, "severity": (-0.1,), "nulls": 0}
    edge = float(MEANS.sort().values[-1]) + 1e-5
    found = run(picky(edge), image_set(), PLAN.model_copy(update=changes))
    rows = found[found["metric"] == metric]
    assert len(rows)
    assert set(rows["status"]) <= {"ok", "nonfinite", "error", "skipped", "degenerate"}
    assert rows["pred_clean"].notna().all()
    assert rows[rows["status"] != "ok"]["detail"].ne("").all()


def test_logits_at_a_baseline_that_the_network_refuses_are_no_number() -> None:
    white = ("integrated_gradients:baseline=white,steps=4", "gradient")
    plan = PLAN.model_copy(update={"method": white, "nulls": 0})
    found = run(picky(0.99), image_set(), plan)
    error = pick(found, metric="completeness_error")
    assert set(error["status"]) == {"nonfinite"}
    # Its own path ends before white.
    assert set(pick(found, family="bias", metric="spearman")["status"]) == {"ok"}


def test_a_network_whose_backward_fails_still_predicts() -> None:
    class Broken(torch.autograd.Function):
        @staticmethod
        def forward(_ctx: object, images: Tensor) -> Tensor:
            return images.clone()

        @staticmethod
        def backward(_ctx: object, *_grads: Tensor) -> Tensor:
            raise ZeroDivisionError("no way back")

    one_way = tiny(lambda: Around(lambda inner, images: inner(Broken.apply(images))))
    changes = {"method": ("gradient", "constant"), "nulls": 0, "metric": ("relative_l2",)}
    found = run(one_way, image_set(), PLAN.model_copy(update=changes))
    assert found["pred_perturbed"].notna().all()
    assert set(pick(found, method="constant:")["status"]) <= {"ok"}
    assert pick(found, method="gradient")["detail"].str.contains("no way back").all()


def test_a_network_that_refuses_noise_from_the_start_is_refused_itself() -> None:
    with pytest.raises(ModelError, match="fails on images of 16 x 16 pixels: too bright"):
        picky(-1.0, from_the_start=True)
