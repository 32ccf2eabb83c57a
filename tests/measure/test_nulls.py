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
    seeded,
    tiny,
)
from torch import nn

from steadymap.bench.data.image_set import from_tensor
from steadymap.bench.measure.estimate import count
from steadymap.bench.measure.nulls import (
    ALONE,
    Panel,
    other_seed,
    randomised_twins,
    runner_up,
    show,
)
from steadymap.bench.measure.runner import crew, run, surroundings
from steadymap.bench.measure.scores import NO_OTHER, NO_OTHER_OF_CLASS, matched_names
from steadymap.bench.measure.shard import measure_shard
from steadymap.bench.measure.view import View, look
from steadymap.bench.measure.watch import Watch
from steadymap.bench.measure.worker import Worker
from steadymap.bench.methods import registry as methods_module
from steadymap.bench.methods.baselines import BASELINES
from steadymap.bench.methods.batch import Batch, draws_of
from steadymap.bench.methods.binding import bind_method
from steadymap.bench.methods.method import Method
from steadymap.bench.perturbations.registry import PERTURBATIONS
from steadymap.bench.perturbations.warp import in_common, maps_back, maps_inside
from steadymap.bench.plan import blocks
from steadymap.bench.plan.blocks import BLOCK, batches, cut
from steadymap.bench.plan.plan import Plan
from steadymap.bench.plan.setup import calibrated, prepare
from steadymap.bench.plan.sharding import whole
from steadymap.bench.records.vocabulary import (
    BATCH_OF_ONE,
    CLEAN,
    FLOAT64,
    MARGIN_NAMES,
    MATCHED_CLASS,
    MATCHED_IMAGE,
    MATCHED_NETWORK,
    MUST_DIFFER,
    NULLS,
    OTHER_CLASS,
    OTHER_IMAGE,
    OTHER_SEED,
    PARTNER,
    RANDOM_NETWORK,
    RANK,
    REFERENCES,
    ROUNDED,
    base_metric,
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


def look_at(worker: Worker) -> View:
    """The clean view of the first three images."""
    return look(worker, show(worker, image_set(), range(3), 0), None)


def value(records: pd.DataFrame, spec: str, index: int, **where: object) -> float:
    image_id = image_set().pictures[index].image_id
    return float(pick(records, method=spec, image_id=image_id, **where)["value"].item())


def test_every_reference_has_its_rows(records: pd.DataFrame) -> None:
    methods, pairs = 3 + 4, [name for name, metric in METRICS.items() if metric.against == "map"]
    assert not records.duplicated(KEY).any()
    counts = records[records["family"].isin(REFERENCES)].groupby("family", observed=True).size()
    expected = {
        # By one metric, which says how far a map reacts.
        OTHER_IMAGE: COUNT * methods,
        RANDOM_NETWORK: COUNT * methods * 2,
        OTHER_CLASS: COUNT * methods,
        # Once for the random baseline and the random control, once for every method.
        OTHER_SEED: COUNT * (2 + methods) * len(pairs),
        BATCH_OF_ONE: COUNT * methods * len(pairs),
        ROUNDED: COUNT * methods * len(pairs),
        FLOAT64: COUNT * methods * len(pairs),
    }
    assert counts.to_dict() == expected
    assert set(records[records["family"].isin(MUST_DIFFER)]["metric"]) == {"spearman"}


QUICK = calibrated(METRICS, PLAN)


def test_unrelated_maps_have_their_rows_where_a_map_is_perturbed(records: pd.DataFrame) -> None:
    # What recognises is said by each metric's entry; of two that must not, one is slow and one
    # has no place of its own to come back to.
    assert {"ssim", "spearman", "centre_shift"} <= set(QUICK)
    assert not {"kendall", "relative_l2"} & set(QUICK)
    behind = {MATCHED_IMAGE, MATCHED_IMAGE + PARTNER, MATCHED_CLASS, MATCHED_CLASS + PARTNER}
    behind |= {f"{MATCHED_NETWORK}{draw}" for draw in (0, 1)} | {RANK}
    names = {name + suffix for name in QUICK for suffix in behind}
    found = records[records["metric"].map(base_metric) != records["metric"]]
    assert set(found["metric"]) == names
    assert set(found["family"]) == {"bias", "gaussian_noise"}
    assert len(found) == len(names) * COUNT * 7 * 2


def test_other_metrics_have_unrelated_maps_where_the_plan_names_them(
    classifier: Classifier,
) -> None:
    def half_known(clean: Maps, perturbed: Maps) -> np.ndarray:
        return evaluate(METRICS["spearman"], clean, perturbed).values

    named = ("spearman", "kendall", "relative_l2")
    changes = {"metric": named, "method": ("gradient",), "controls": False}
    plan = PLAN.model_copy(update=changes)
    unknown = replace(METRICS["kendall"], compute=half_known, identity=None)
    metrics = {name: METRICS[name] for name in named} | {"unknown": unknown}
    both = plan.model_copy(update={"metric": (*named, "unknown")})
    assert calibrated(metrics, both) == list(named), "nobody knows a perfect score of the last"
    assert calibrated(metrics, PLAN) == ["spearman"]
    found = run(classifier, image_set(), plan)
    names = set(found["metric"])
    assert {f"{name}{MATCHED_IMAGE}" for name in named} <= names
    assert {name for name in names if name.endswith(RANK)} == {"spearman" + RANK}


# --- what unrelated maps score --------------------------------------------------------------------


class ByHand:
    """The maps of one method under a bias, and scores of any two of them.

    Args:
        classifier: what is explained.
        spec: the method, which draws nothing.
        shift: of the bias.
    """

    def __init__(self, classifier: Classifier, spec: str, shift: float) -> None:
        self.clean = [maps_of(spec, classifier, index) for index in range(COUNT)]
        batches = [one_image(classifier, index) for index in range(COUNT)]
        self.classes = [int(batch.targets) for batch in batches]
        self.perturbed = [
            explained(spec, classifier, replace(batch, images=batch.images + shift))
            for batch in batches
        ]
        self.twins = [
            [explained(spec, twin, batch) for batch in batches]
            for twin in randomised_twins(classifier, 2, PLAN.seed)
        ]

    def table(self, metric: str) -> np.ndarray:
        """(COUNT, COUNT): the score of each clean map with each perturbed one."""
        return np.array(
            [
                [evaluate(METRICS[metric], clean, moved).values[0] for moved in self.perturbed]
                for clean in self.clean
            ]
        )

    def said_of(self, metric: str, index: int) -> dict[str, float]:
        """Return what records say of an image, by what is behind the metric's name."""
        table = self.table(metric)
        others = [other for other in range(COUNT) if other != index]
        alike = [other for other in others if self.classes[other] == self.classes[index]]
        sign = 1 if METRICS[metric].better == "higher" else -1
        closer = [
            other for other in others if sign * table[other, index] >= sign * table[index, index]
        ]
        said = {
            MATCHED_IMAGE: np.mean([table[other, index] for other in others]),
            MATCHED_IMAGE + PARTNER: np.mean([table[index, other] for other in others]),
            RANK: 1 + len(closer),
        }
        if alike:
            said[MATCHED_CLASS] = np.mean([table[other, index] for other in alike])
            said[MATCHED_CLASS + PARTNER] = np.mean([table[index, other] for other in alike])
        for draw, twins in enumerate(self.twins):
            both = twins[index], self.perturbed[index]
            said[f"{MATCHED_NETWORK}{draw}"] = evaluate(METRICS[metric], *both).values[0]
        return {name: float(value) for name, value in said.items()}


@pytest.mark.parametrize("spec", ["gradient_x_input", "grad_cam:relu=false"])
def test_what_unrelated_maps_score_is_what_its_definition_says(
    spec: str, classifier: Classifier
) -> None:
    """Score every clean map with every perturbed one by hand."""
    shift, named = -0.5, ("spearman", "ssim", "centre_shift", "kendall", "relative_l2")
    plan = {"method": (spec,), "family": ("bias",), "severity": (shift,), "metric": named}
    records = run(classifier, image_set(), PLAN.model_copy(update=plan))
    by_hand = ByHand(classifier, spec, shift)
    ranks, skipped = set(), 0
    for index in range(COUNT):
        for metric in named:
            if metric == "ssim" and "cam" in spec:
                continue  # maps of 8 x 8 are smaller than its window
            expected = by_hand.said_of(metric, index)
            for behind in matched_names(METRICS[metric], 2):
                where = {"method": spec, "family": "bias", "metric": metric + behind}
                row = pick(records, image_id=image_set().pictures[index].image_id, **where)
                if behind not in expected:
                    assert row["status"].tolist() == ["skipped"]
                    assert row["detail"].tolist() == [NO_OTHER_OF_CLASS]
                    skipped += 1
                elif behind == RANK:
                    assert row["value"].item() == expected[behind]
                    ranks.add(expected[behind])
                else:
                    assert row["value"].item() == pytest.approx(expected[behind], abs=2e-4)
    assert len(ranks) > 1, "some are recognised, and some are not"
    assert skipped, "one image is the only one of its class"


def test_moved_things_are_held_against_unrelated_maps_in_their_window(
    classifier: Classifier,
) -> None:
    spec, severity = "gradient", 0.25
    plan = PLAN.model_copy(
        update={"method": (spec,), "family": ("translation",), "severity": (severity,)}
    )
    records = run(classifier, image_set(), plan)
    family = PERTURBATIONS["translation"]
    assert family.warp is not None
    warp = family.warp(severity, (SIDE, SIDE))
    window = in_common(warp, (SIDE, SIDE))
    assert window is not None
    draw = np.random.default_rng(0)
    batches = [one_image(classifier, index) for index in range(COUNT)]
    moved = [
        explained(
            spec,
            classifier,
            replace(batch, images=family.apply(batch.images[0], severity, draw)[None]),
        )
        for batch in batches
    ]
    back = [maps_back(maps, warp, window) for maps in moved]
    clean = [maps_inside(maps_of(spec, classifier, index), window) for index in range(COUNT)]
    twin = randomised_twins(classifier, 2, PLAN.seed)[1]
    for index in range(COUNT):
        scores = [
            evaluate(METRICS["spearman"], clean[other], back[index]).values[0]
            for other in range(COUNT)
            if other != index
        ]
        where = {"family": "translation", "metric": "spearman" + MATCHED_IMAGE}
        assert value(records, spec, index, **where) == pytest.approx(np.mean(scores), abs=2e-4)
        unknown = maps_inside(explained(spec, twin, batches[index]), window)
        expected = evaluate(METRICS["spearman"], unknown, back[index]).values[0]
        where = {"family": "translation", "metric": f"spearman{MATCHED_NETWORK}1"}
        assert value(records, spec, index, **where) == pytest.approx(expected, abs=2e-4)


def test_images_that_cannot_be_shown_are_nobody_s_partner(
    classifier: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The family fails on one image: its own cells are lost, and its map is in no mean."""
    fails = image_set().read(2).image
    shift, spec = -0.5, "gradient_x_input"

    def picky(image: torch.Tensor, severity: float, _rng: np.random.Generator) -> torch.Tensor:
        if torch.equal(image, fails):
            raise RuntimeError("not this one")
        return image + severity

    monkeypatch.setitem(PERTURBATIONS, "bias", replace(PERTURBATIONS["bias"], apply=picky))
    plan = {"method": (spec,), "family": ("bias",), "severity": (shift,), "metric": ("spearman",)}
    records = run(classifier, image_set(), PLAN.model_copy(update=plan))
    lost = pick(records, image_id=image_set().pictures[2].image_id, family="bias", method=spec)
    assert set(lost["status"]) == {"error"}
    table = ByHand(classifier, spec, shift).table("spearman")
    for index in (0, 1, 3, 4):
        columns = [other for other in range(COUNT) if other not in (index, 2)]
        where = {"family": "bias", "metric": "spearman" + MATCHED_IMAGE + PARTNER}
        expected = table[index, columns].mean()
        assert value(records, spec, index, **where) == pytest.approx(expected, abs=2e-4)
        # Its clean map is there, and serves.
        rows = [other for other in range(COUNT) if other != index]
        where = {"family": "bias", "metric": "spearman" + MATCHED_IMAGE}
        assert value(records, spec, index, **where) == pytest.approx(
            table[rows, index].mean(), abs=2e-4
        )


def test_another_image_s_map_is_the_next_one_s(
    records: pd.DataFrame, classifier: Classifier
) -> None:
    own = [maps_of("gradient", classifier, index) for index in range(COUNT)]
    ids = [picture.image_id for picture in image_set().pictures]
    ordered = sorted(range(COUNT), key=ids.__getitem__)
    for place, index in enumerate(ordered):
        following = ordered[(place + 1) % COUNT]
        expected = evaluate(METRICS["spearman"], own[index], own[following]).values[0]
        found = value(records, "gradient", index, family=OTHER_IMAGE, metric="spearman")
        assert found == pytest.approx(expected, abs=1e-4)
        label = pick(records, image_id=ids[following])["pred_clean"].iloc[0]
        row = pick(records, image_id=ids[index], family=OTHER_IMAGE)
        assert set(row["pred_perturbed"]) == {label}


@pytest.mark.parametrize("spec", ["gradient", "grad_cam:relu=true"])
def test_the_map_of_another_class_is_the_runner_up_s(
    spec: str, records: pd.DataFrame, classifier: Classifier
) -> None:
    for index in range(COUNT):
        batch = one_image(classifier, index)
        second = classifier(batch.images).sort(dim=1, descending=True).indices[:, 1]
        assert int(second) != int(batch.targets)
        other = explained(spec, classifier, replace(batch, targets=second))
        expected = evaluate(METRICS["spearman"], maps_of(spec, classifier, index), other).values[0]
        row = pick(
            records,
            image_id=image_set().pictures[index].image_id,
            family=OTHER_CLASS,
            method=spec,
        )
        if np.isnan(expected):
            assert row["status"].tolist() == ["degenerate"]
        else:
            assert row["value"].tolist() == pytest.approx([expected], abs=1e-4)
        # What the network sees is the same.
        assert row["pred_perturbed"].tolist() == row["pred_clean"].tolist()


def test_with_two_classes_the_other_one_s_map_has_the_sign_turned() -> None:
    network = conv_network()
    network.load_state_dict(seeded(conv_network).state_dict())
    network[-1] = seeded(lambda: nn.Linear(8 * (SIDE // 2) ** 2, 1))

    def negated_beside(inner: nn.Module, images: torch.Tensor) -> torch.Tensor:
        logit = inner(images)
        return torch.cat([-logit, logit], dim=1)

    both = Around(negated_beside, network)
    classifier = make_classifier(both, (SIDE, SIDE), ("no", "yes"))
    found = run(classifier, image_set(), PLAN)
    for spec in ("gradient", "grad_cam:relu=false", IG):
        rows = pick(found, method=spec, family=OTHER_CLASS)
        if "cam" not in spec:
            np.testing.assert_allclose(rows["value"], -1.0, atol=1e-6)
    constant = pick(found, method="edge", family=OTHER_CLASS)
    np.testing.assert_allclose(constant["value"], 1.0, atol=1e-12)


def test_the_runner_up_is_no_target_even_where_all_logits_are_equal(
    classifier: Classifier,
) -> None:
    (worker,) = crew(prepare(classifier, image_set(), PLAN))
    view = look_at(worker)
    logits = torch.tensor([[3.0, 1.0, 2.0], [0.0, 0.0, 0.0], [1.0, 5.0, 1.0]])
    seen = replace(view.seen, logits=logits)
    batch = replace(view.batch, targets=torch.tensor([0, 0, 1]))
    assert runner_up(replace(view, seen=seen, batch=batch)).tolist() == [2, 1, 0]


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


def test_controls_are_not_recognised(records: pd.DataFrame) -> None:
    ranks = records[records["metric"].str.endswith(RANK)]
    for control in ("edge", "centre_blob"):
        rows = ranks[(ranks["method"] == control) & (ranks["status"] == "ok")]
        assert len(rows) > 0
    # The blob is the same whatever the image: a tie with all the others.
    blob = ranks[(ranks["method"] == "centre_blob") & (ranks["status"] == "ok")]
    assert set(blob["value"]) == {float(COUNT)}
    constant = pick(records, method="constant")
    # Deleted in the order of ties, a constant map has margins, which are exactly 0.
    margins = constant["metric"].astype(str).str.startswith(MARGIN_NAMES)
    constant = constant[(constant["metric"] != "mask_mass") & ~margins]
    assert set(constant["status"]) <= {"degenerate", "skipped"}


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
    changes = {"engine": engine, "batch_size": 2, "admission": False}
    setup = prepare(tiny(), from_tensor(random_images(images)), PLAN.model_copy(update=changes))
    expected = count(setup)
    passes, maps, _ = measured(setup)
    assert passes == (expected.forward, expected.backward)
    assert maps == setup.map_count()


@pytest.mark.parametrize("methods", [PLAN.method, ("grad_cam", "lime:samples=9")])
def test_deletions_are_counted_as_what_they_are_at_most(methods: tuple[str, ...]) -> None:
    plan = PLAN.model_copy(update={"method": methods})
    setup = prepare(tiny(), from_tensor(random_images(5)), plan)
    expected = count(setup)
    (forward, backward), _, _ = measured(setup)
    assert backward == expected.backward
    assert expected.forward - expected.deletions < forward <= expected.forward


def test_one_image_has_no_other(classifier: Classifier) -> None:
    records = run(classifier, from_tensor(random_images(1)), PLAN)
    alone = pick(records, family=OTHER_IMAGE)
    assert len(alone)
    assert set(alone["status"]) == {"skipped"}
    assert set(alone["detail"]) == {ALONE}
    for behind, reason in (
        (MATCHED_IMAGE, NO_OTHER),
        (MATCHED_CLASS + PARTNER, NO_OTHER_OF_CLASS),
        (RANK, NO_OTHER),
    ):
        rows = pick(records, method="gradient", family="bias", metric="spearman" + behind)
        assert rows["detail"].tolist() == [reason]
    rows = pick(records, method="gradient", metric=f"spearman{MATCHED_NETWORK}0")
    assert set(rows["status"]) == {"ok"}


def test_a_panel_says_who_stands_beside_whom() -> None:
    blocks = (np.array([0, 2, 3]), np.array([4]))
    panel = Panel(("c", "e", "a", "b", "d"), blocks, (1, None, 1, 2, 1))
    assert panel.next_of() == [2, 1, 3, 0, 4]
    beside = panel.others(lost=[3])
    # Rows are clean maps, columns perturbed ones; the third has none of these.
    assert {tuple(pair) for pair in np.argwhere(beside).tolist()} == {
        (0, 2),
        (2, 0),
        (3, 0),
        (3, 2),
    }
    alike = panel.of_same_class(beside)
    assert {tuple(pair) for pair in np.argwhere(alike).tolist()} == {(0, 2), (2, 0)}


def test_a_shard_of_which_nothing_can_be_computed_has_the_records_of_one_that_can(
    classifier: Classifier, records: pd.DataFrame
) -> None:
    def gone(_index: int) -> object:
        raise OSError("gone")

    setup = prepare(classifier, image_set(), PLAN)
    lost = replace(setup, images=replace(setup.images, read=gone))  # type: ignore[arg-type]
    (worker,) = crew(setup)
    with surroundings(setup, 1):
        outcome = measure_shard(lost, worker, whole(setup)[0], Watch(), keep_maps=False)
    key = ["image_id", "method", "family", "severity", "draw", "metric"]
    names = [tuple(getattr(record, name) for name in key) for record in outcome.records]
    assert outcome.failed
    expected = records[~records["family"].isin((BATCH_OF_ONE, ROUNDED, FLOAT64, OTHER_SEED))]
    assert sorted(names) == sorted(
        tuple(row) for row in expected[key].astype({"image_id": str}).itertuples(index=False)
    )


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


@given(st.integers(1, 200), st.integers(1, 100))
def test_batches_are_of_whole_blocks(count: int, batch_size: int) -> None:
    size = BLOCK
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
        assert all(2 * len(block) >= size for block in inside), "each image has its partners"


def test_the_methods_of_a_shard_are_as_many_as_memory_holds(
    monkeypatch: pytest.MonkeyPatch, classifier: Classifier
) -> None:
    monkeypatch.setattr(blocks, "free_memory", lambda _device: 10**6)
    # 4 maps of 5 images in 7 forms x 8 bytes x 16 x 16, and a quarter of a megabyte.
    assert blocks.most_methods(classifier, 5, 4) == 1
    monkeypatch.setattr(blocks, "free_memory", lambda _device: 10**7)
    assert blocks.most_methods(classifier, 5, 4) == 2_500_000 // 286_720
    assert blocks.most_methods(classifier, 5, 0) is None
    monkeypatch.setattr(blocks, "free_memory", lambda _device: None)
    assert blocks.most_methods(classifier, 5, 4) is None


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
    lost = pick(records, family="bias", metric=f"spearman{MATCHED_NETWORK}1")
    assert set(lost["status"]) == {"error"}
    assert set(lost["detail"]) == {"randomised network: RuntimeError: not this network"}
    # What is left of the null maps still serves.
    assert set(pick(records, family="bias", metric="spearman" + MATCHED_IMAGE)["status"]) == {"ok"}
    assert set(pick(records, family="bias", metric="spearman" + RANK)["status"]) == {"ok"}


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
