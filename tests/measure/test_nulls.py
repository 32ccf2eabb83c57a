"""What clean maps are held against: the right maps, the right images, and all of it counted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support import (
    CLASSES,
    COUNT,
    SIDE,
    Around,
    batch_of,
    conv_network,
    image_set,
    measured,
    pick,
    random_images,
    tiny,
)
from torch import nn

from steadymap.bench.data.image_set import from_tensor
from steadymap.bench.measure import nulls as references_module
from steadymap.bench.measure.estimate import count
from steadymap.bench.measure.nulls import other_seed, randomised_twins
from steadymap.bench.measure.runner import run
from steadymap.bench.methods import registry as methods_module
from steadymap.bench.methods.baselines import BASELINES
from steadymap.bench.methods.batch import Batch, draws_of
from steadymap.bench.methods.binding import bind_method
from steadymap.bench.methods.method import Method
from steadymap.bench.perturbations.registry import PERTURBATIONS
from steadymap.bench.plan import blocks
from steadymap.bench.plan.blocks import batches, block_size, cut
from steadymap.bench.plan.plan import Plan
from steadymap.bench.plan.setup import prepare, recognising
from steadymap.bench.records.vocabulary import (
    BATCH_OF_ONE,
    CLEAN,
    FLOAT64,
    NULLS,
    OTHER_IMAGE,
    OTHER_SEED,
    RANDOM_NETWORK,
    RECOGNISED,
    REFERENCES,
    ROUNDED,
)
from steadymap.metrics import METRICS, Maps, evaluate
from steadymap.models import Classifier, ModelError, make_classifier

IG = "integrated_gradients:baseline=random,steps=4"
PLAN = Plan(
    method=("gradient", "integrated_gradients:baseline=random", "grad_cam"),
    family=("bias", "gaussian_noise"),
    severity=(0.1,),
    steps=4,
    nulls=2,
)
KEY = ["image_id", "method", "family", "severity", "draw", "metric"]


@pytest.fixture(scope="module")
def records(classifier: Classifier) -> pd.DataFrame:
    return run(classifier, image_set(), PLAN)


def one_image(classifier: Classifier, index: int, seed: int = 0) -> Batch:
    """One image as the run explains it: its own target, its own draw."""
    images = image_set()
    image = images.images([index])
    target, name = classifier(image).argmax(dim=1), images.pictures[index].image_id
    return replace(batch_of(image), targets=target, draws=draws_of(seed, [name]))


def explained(spec: str, classifier: Classifier, batch: Batch) -> Maps:
    return Maps.from_attributions(bind_method(spec).explain(classifier, batch).numpy())


def maps_of(spec: str, classifier: Classifier, index: int, seed: int = 0) -> Maps:
    return explained(spec, classifier, one_image(classifier, index, seed))


def value(records: pd.DataFrame, spec: str, index: int, **where: object) -> float:
    image_id = image_set().pictures[index].image_id
    return float(pick(records, method=spec, image_id=image_id, **where)["value"].item())


def test_every_reference_has_its_rows(records: pd.DataFrame) -> None:
    methods, pairs = 3 + 4, [name for name, metric in METRICS.items() if metric.against == "map"]
    assert not records.duplicated(KEY).any()
    counts = records[records["family"].isin(REFERENCES)].groupby("family", observed=True).size()
    expected = {
        OTHER_IMAGE: COUNT * methods * len(pairs) * 2,
        RANDOM_NETWORK: COUNT * methods * len(pairs) * 2,
        # Once for the random baseline and the random control, once for every method.
        OTHER_SEED: COUNT * (2 + methods) * len(pairs),
        BATCH_OF_ONE: COUNT * methods * len(pairs),
        ROUNDED: COUNT * methods * len(pairs),
        FLOAT64: COUNT * methods * len(pairs),
    }
    assert counts.to_dict() == expected
    recognised = records[records["metric"].str.endswith(RECOGNISED)]
    quick = recognising(METRICS)
    # What recognises is said by each metric's entry; of two that must not, one is slow and one
    # has no place of its own to come back to.
    assert {"ssim", "spearman", "centre_shift"} <= set(quick)
    assert not {"kendall", "relative_l2"} & set(quick)
    assert len(recognised) == COUNT * methods * 2 * len(quick)


def test_another_image_s_map_is_its_own_map(records: pd.DataFrame, classifier: Classifier) -> None:
    own = [maps_of("gradient", classifier, index) for index in range(COUNT)]
    table = np.array([[evaluate(METRICS["spearman"], a, b).values[0] for b in own] for a in own])
    for index in range(COUNT):
        found = {
            value(records, "gradient", index, family=OTHER_IMAGE, draw=draw, metric="spearman")
            for draw in (0, 1)
        }
        assert len(found) == 2, "two partners, not the same one twice"
        others = np.delete(table[index], index)
        for similarity in found:
            assert np.abs(others - similarity).min() < 1e-4


def test_a_randomised_network_s_map_is_of_the_same_image_and_class(
    records: pd.DataFrame, classifier: Classifier
) -> None:
    twins = randomised_twins(classifier, 2, PLAN.seed)
    assert len({twin.weights_hash() for twin in (classifier, *twins)}) == 3
    for draw, twin in enumerate(twins):
        for index in range(COUNT):
            batch = one_image(classifier, index)
            for spec in ("gradient", IG):
                own, random = (explained(spec, network, batch) for network in (classifier, twin))
                expected = evaluate(METRICS["spearman"], own, random).values[0]
                where = {"family": RANDOM_NETWORK, "draw": draw, "metric": "spearman"}
                found = value(records, spec, index, **where)
                assert found == pytest.approx(expected, abs=1e-4)


def test_another_seed_is_another_draw_of_the_same_method(
    records: pd.DataFrame, classifier: Classifier
) -> None:
    for draw in (0, 1):
        seed = other_seed(PLAN.seed, draw)
        both = maps_of(IG, classifier, 2), maps_of(IG, classifier, 2, seed)
        expected = evaluate(METRICS["spearman"], *both).values[0]
        found = value(records, IG, 2, family=OTHER_SEED, draw=draw, metric="spearman")
        assert found == pytest.approx(expected, abs=1e-4)
    declared, everyone = (pick(records, family=OTHER_SEED, draw=draw) for draw in (0, 1))
    assert set(declared["method"]) == {IG, "random"}
    assert set(everyone["method"]) == set(pick(records, family=FLOAT64)["method"])
    still = pick(everyone, method="gradient", metric="relative_l2")
    assert still["value"].eq(0).all(), "what draws nothing is the same to the bit"
    first, second = (
        BASELINES["random"].make(batch_of(random_images(1), other_seed(0, draw))) for draw in (0, 1)
    )
    assert not torch.equal(first, second)


def test_a_map_computed_in_another_way_is_the_same_up_to_rounding(records: pd.DataFrame) -> None:
    for family in (BATCH_OF_ONE, ROUNDED, FLOAT64):
        found = records[(records["family"] == family) & (records["status"] == "ok")]
        distance = pick(found, metric="relative_l2")["value"]
        assert 0 <= distance.max() < 1e-4
        # Two neighbours in a map of 8 x 8 that change places move it by 12 / (64^3 - 64) = 5e-5.
        assert (pick(found, metric="spearman")["value"] > 1 - 5e-4).all()
    for family, spec in ((FLOAT64, "gradient"), (ROUNDED, IG)):
        moved = pick(records, family=family, method=spec, metric="relative_l2")["value"]
        assert (moved > 0).all(), "it must have been computed in another way"


def test_a_network_of_one_type_has_one_way_less_and_no_accident() -> None:
    single = tiny(lambda: Around(lambda inner, images: inner(images.float())))
    setup = prepare(single, image_set(), PLAN)
    _, maps, outcomes = measured(setup)
    records = [record for outcome in outcomes for record in outcome.records]
    assert maps == setup.map_count()
    double = [record for record in records if record.family == FLOAT64]
    assert {record.status for record in double} == {"skipped"}
    assert "does not run so" in double[0].detail
    rounded = [record for record in records if record.family == ROUNDED]
    assert "ok" in {record.status for record in rounded}
    assert "error" not in {record.status for record in records}


def test_recognition_is_what_its_definition_says(classifier: Classifier) -> None:
    """Score the perturbed map against every null map by hand."""
    images, spec, shift = image_set(), "gradient_x_input", -0.5
    plan = {"method": (spec,), "family": ("bias",), "severity": (shift,)}
    records = run(classifier, images, PLAN.model_copy(update=plan))
    twins = randomised_twins(classifier, 2, PLAN.seed)
    members = list(range(COUNT))
    ids = tuple(picture.image_id for picture in images.pictures)
    panel = references_module.Panel(ids, (ids,), (), {})
    seen = set()
    for index in range(COUNT):
        batch = one_image(classifier, index)
        perturbed = explained(spec, classifier, replace(batch, images=batch.images + shift))
        places = panel.partners(ids[index], 2, PLAN.seed)
        nulls = [maps_of(spec, classifier, members[place]) for place in places]
        nulls += [explained(spec, twin, batch) for twin in twins]
        for metric in ("spearman", "ssim"):
            own = evaluate(METRICS[metric], maps_of(spec, classifier, index), perturbed).values[0]
            others = [evaluate(METRICS[metric], null, perturbed).values[0] for null in nulls]
            closest = own > max(others)
            found = value(records, spec, index, family="bias", metric=metric + RECOGNISED)
            assert found == float(closest)
            seen.add(found)
    assert seen == {0.0, 1.0}, "both outcomes are seen"


def test_controls_are_not_recognised(records: pd.DataFrame) -> None:
    recognised = records[records["metric"].str.endswith(RECOGNISED)]
    for control in ("random", "edge", "centre_blob"):
        rows = recognised[(recognised["method"] == control) & (recognised["status"] == "ok")]
        assert len(rows) > 0
        assert (rows["value"] == 0).all()
    constant = pick(records, method="constant")
    assert set(constant[constant["metric"] != "mask_mass"]["status"]) <= {"degenerate", "skipped"}


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("batch_size", [1, 2])
def test_references_do_not_depend_on_batches_order_or_workers(
    workers: int, batch_size: int, classifier: Classifier, records: pd.DataFrame
) -> None:
    images, order = image_set(), [3, 0, 4, 1, 2]
    mixed = replace(
        images,
        pictures=tuple(images.pictures[i] for i in order),
        read=lambda index: images.read(order[index]),
    )
    plan = PLAN.model_copy(update={"jobs": workers, "batch_size": batch_size})
    both = [
        frame[~frame["family"].isin((BATCH_OF_ONE, ROUNDED, FLOAT64))]
        .astype(dict.fromkeys(KEY, str))
        .set_index(KEY)["value"]
        .sort_index()
        for frame in (run(classifier, mixed, plan), records)
    ]
    # A swap of two values that are all but equal moves a rank correlation by that much.
    pd.testing.assert_series_equal(both[0], both[1], rtol=0, atol=5e-4)


@pytest.mark.parametrize("engine", ["own", "captum"])
@pytest.mark.parametrize("images", [2, COUNT])
def test_every_pass_and_map_is_counted_beforehand(engine: str, images: int) -> None:
    plan = PLAN.model_copy(update={"engine": engine, "batch_size": 2})
    setup = prepare(tiny(), from_tensor(random_images(images)), plan)
    expected = count(setup)
    passes, maps, _ = measured(setup)
    assert passes == (expected.forward, expected.backward)
    assert maps == setup.map_count()


def test_one_image_has_no_other(classifier: Classifier) -> None:
    records = run(classifier, from_tensor(random_images(1)), PLAN)
    assert OTHER_IMAGE not in set(records["family"])
    assert RANDOM_NETWORK in set(records["family"])


def test_partners_are_of_an_images_own_block_and_never_itself() -> None:
    ids = tuple(f"{index:x}" for index in range(12))
    blocks = (ids[:8], ids[8:])
    panel = references_module.Panel(ids, blocks, (), {})
    for image_id in ids:
        partners = {panel.ids[place] for place in panel.partners(image_id, 3, 0)}
        assert len(partners) == 3
        assert partners <= set(next(block for block in blocks if image_id in block)) - {image_id}
    assert len({tuple(panel.partners(image_id, 3, 0)) for image_id in ids}) > 1
    assert panel.partners("0", 3, 1) != panel.partners("0", 3, 0)
    mixed = references_module.Panel(ids[::-1], (ids[7::-1], ids[8:]), (), {})
    found = [{each.ids[place] for place in each.partners("3", 3, 0)} for each in (panel, mixed)]
    assert found[0] == found[1], "whatever the order in the block"


@given(st.integers(0, 300), st.integers(1, 40), st.integers(0, 60))
def test_blocks_cover_all_and_more_images_change_the_last_alone(
    count: int, size: int, more: int
) -> None:
    blocks = cut(count, size)
    assert [index for block in blocks for index in block] == list(range(count))
    for block in blocks:
        assert len(block) < 1.5 * size
    if count > size / 2:
        assert all(2 * len(block) >= size for block in blocks)
    longer = cut(count + more, size)
    assert longer[: max(0, len(blocks) - 1)] == blocks[:-1]


@given(st.integers(1, 200), st.integers(0, 60), st.integers(1, 100))
def test_batches_are_of_whole_blocks(count: int, nulls: int, batch_size: int) -> None:
    size = block_size(nulls)
    found = batches(count, size, batch_size)
    assert [index for batch in found for index in batch] == list(range(count))
    # The blocks of all are those of each, wherever the cuts between batches lie.
    inside = [
        range(batch.start + block.start, batch.start + block.stop)
        for batch in found
        for block in cut(len(batch), size)
    ]
    assert inside == cut(count, size)
    if count > size:
        assert all(len(block) > nulls for block in inside), "each image has its partners"


def test_the_methods_of_a_shard_are_as_many_as_memory_holds(
    monkeypatch: pytest.MonkeyPatch, classifier: Classifier
) -> None:
    monkeypatch.setattr(blocks, "free_memory", lambda _device: 10**6)
    # 2 kinds x 2 nulls x 5 images x 7 forms x 8 bytes x 16 x 16, and a quarter of a megabyte.
    assert blocks.most_methods(classifier, 5, 2) == 1
    monkeypatch.setattr(blocks, "free_memory", lambda _device: 10**7)
    assert blocks.most_methods(classifier, 5, 2) == 2_500_000 // 286_720
    assert blocks.most_methods(classifier, 5, 0) is None
    monkeypatch.setattr(blocks, "free_memory", lambda _device: None)
    assert blocks.most_methods(classifier, 5, 2) is None


def test_a_method_that_fails_on_unrelated_maps_costs_those_alone(
    classifier: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = methods_module.METHODS["gradient"]
    name = classifier.weights_hash()

    def picky(network: Classifier, batch: Batch) -> torch.Tensor:
        if network.weights_hash() != name:
            raise RuntimeError("not this network")
        return usual.explain(network, batch)

    method = Method(picky, "", "")
    monkeypatch.setitem(methods_module.METHODS, "picky", method)
    plan = PLAN.model_copy(update={"method": ("picky",)})
    records = pick(run(classifier, image_set(), plan), method="picky")
    assert set(pick(records, family=RANDOM_NETWORK)["status"]) == {"error"}
    assert set(pick(records, family="bias", metric="spearman")["status"]) == {"ok"}
    # What is left of the null maps still serves.
    assert set(pick(records, family="bias", metric="spearman" + RECOGNISED)["status"]) == {"ok"}


# --- randomised networks --------------------------------------------------------------------------


def test_a_randomised_network_is_another_one_and_the_same_each_time(conv: Classifier) -> None:
    before = conv.weights_hash()
    state = torch.random.get_rng_state()
    first, again, other = (conv.randomised(seed) for seed in (1, 1, 2))
    assert conv.weights_hash() == before
    assert torch.equal(torch.random.get_rng_state(), state)
    assert first.weights_hash() == again.weights_hash()
    assert len({before, first.weights_hash(), other.weights_hash()}) == 3
    for name, tensor in conv.module.network.state_dict().items():
        assert not torch.equal(first.module.network.state_dict()[name], tensor), name
    assert not any(part.training for part in first.module.modules())
    assert not any(weights.requires_grad for weights in first.module.parameters())


def test_parameters_that_cannot_initialise_themselves_are_shuffled() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = conv_network()
            self.scale = nn.Parameter(torch.linspace(1, 2, len(CLASSES)))

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.inner(images) * self.scale
            return logits

    classifier = tiny(Scaled)
    found = [classifier.randomised(seed).module.network.get_parameter("scale") for seed in range(6)]
    for scale in found:
        assert sorted(scale.tolist()) == pytest.approx([1.0, 1.5, 2.0])
    assert len({tuple(scale.tolist()) for scale in found}) > 1


def test_a_weight_that_is_made_of_others_is_randomised_by_these() -> None:
    network = conv_network()
    with pytest.warns(FutureWarning, match="weight_norm"):
        torch.nn.utils.weight_norm(network[0])
    classifier = make_classifier(network, (SIDE, SIDE), CLASSES)
    image = random_images(1)
    other = classifier.randomised(0).module.network.get_submodule("0")
    assert not torch.allclose(other(image), network[0](image), atol=1e-3)


def test_statistics_of_the_data_are_forgotten_too() -> None:
    twins = []
    for seen in (0.0, 5.0):
        norm = nn.BatchNorm2d(4)
        assert norm.running_mean is not None
        norm.running_mean += seen
        network = nn.Sequential(nn.Conv2d(3, 4, 3), norm, nn.Flatten(), nn.Linear(784, 3))
        twins.append(make_classifier(network, (SIDE, SIDE), CLASSES).randomised(0))
        assert torch.equal(norm.running_mean, torch.full((4,), seen))
    first, second = (twin.module.network.get_buffer("1.running_mean") for twin in twins)
    assert torch.equal(first, second)


def test_a_network_that_cannot_be_initialised_says_what_to_do() -> None:
    class Stubborn(nn.Linear):
        locked = False

        def reset_parameters(self) -> None:
            if self.locked:
                raise RuntimeError("never")
            super().reset_parameters()

    network = nn.Sequential(nn.Flatten(), Stubborn(3 * SIDE * SIDE, 3))
    classifier = make_classifier(network, (SIDE, SIDE), CLASSES)
    Stubborn.locked = True
    with pytest.raises(ModelError, match=r"randomised weights .*never.* use --nulls 0"):
        run(classifier, image_set(), PLAN)
    assert len(run(classifier, image_set(), PLAN.model_copy(update={"nulls": 0}))) > 0


def test_a_network_of_constants_cannot_be_randomised() -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(3))

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images.mean(dim=(2, 3)) * self.weight

    classifier = make_classifier(Fixed(), (SIDE, SIDE), CLASSES)
    with pytest.raises(ModelError, match="all its parameters are constants"):
        classifier.randomised(0)


def test_families_of_references_are_no_perturbations() -> None:
    assert not set(REFERENCES) & set(PERTURBATIONS)
    assert CLEAN not in REFERENCES
    assert set(NULLS) < set(REFERENCES)
