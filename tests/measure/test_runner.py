"""Records: complete, right, and the same however the work is cut up."""

from __future__ import annotations

from dataclasses import asdict, replace

import numpy as np
import pandas as pd
import pytest
import torch
from support import (
    CLASSES,
    COUNT,
    SIDE,
    Around,
    conv_network,
    image_set,
    linear_network,
    measured,
    pick,
    random_images,
    same_records,
    seeded,
    small_plan,
    tiny,
)
from torch import Tensor, nn

from steadymap.bench.core.errors import ConfigError, DataError
from steadymap.bench.data.image_set import from_tensor
from steadymap.bench.measure.estimate import count
from steadymap.bench.measure.runner import run
from steadymap.bench.methods import registry as methods_module
from steadymap.bench.methods.baselines import BASELINES
from steadymap.bench.methods.batch import Batch, draws_of
from steadymap.bench.methods.binding import bind_method
from steadymap.bench.methods.method import Method
from steadymap.bench.methods.registry import METHODS
from steadymap.bench.perturbations import registry as perturbations_module
from steadymap.bench.perturbations.apply import perturb
from steadymap.bench.perturbations.cell import Cell
from steadymap.bench.perturbations.registry import PERTURBATIONS, Perturbation
from steadymap.bench.plan.plan import Plan
from steadymap.bench.plan.setup import prepare
from steadymap.bench.records.schema import SCHEMA, SCHEMA_VERSION
from steadymap.metrics import METRICS, Maps, evaluate
from steadymap.models import Classifier, make_classifier

KEY = ["image_id", "method", "family", "severity", "draw", "metric"]
PLAN = Plan(
    controls=False,
    nulls=0,
    severity={
        "bias": (-0.2, 0.2),
        "compensated_bias": (0.3,),
        "shifted_network": (0.3,),
        "gaussian_noise": (0.1,),
        "uniform_noise": (0.1,),
        "salt_and_pepper": (0.1,),
    },
    draws=2,
    steps=8,
)


@pytest.fixture(scope="module")
def records(classifier: Classifier) -> pd.DataFrame:
    return run(classifier, image_set(), PLAN)


def test_the_columns_are_the_documented_ones(records: pd.DataFrame) -> None:
    names = (
        "run_id model dataset image_id label target pred_clean pred_perturbed kept method family "
        "severity draw metric value status detail"
    )
    assert list(records.columns) == names.split() == SCHEMA.names
    assert SCHEMA_VERSION == 1, "a change of the columns needs a new version"


def test_there_is_one_row_for_each_value_that_was_asked_for(records: pd.DataFrame) -> None:
    assert not records.duplicated(KEY).any()
    cells = len(PLAN.cells())
    assert cells == 2 + 1 + 1 + 3 * 2
    pairs = [name for name, metric in METRICS.items() if metric.against == "map"]
    methods, complete = 6, 3
    expected = COUNT * (
        cells * (methods * len(pairs) + 3)  # three about the input
        + (cells + 1) * (methods * 1 + complete * 2)  # mask mass; two of completeness
    )
    assert len(records) == expected
    assert set(pick(records, family="clean")["metric"]) == {
        "mask_mass",
        "completeness_error",
        "completeness_error_relative",
    }
    odd = records[records["status"] != "ok"]
    assert set(zip(odd["metric"], odd["status"], strict=True)) <= {
        ("ssim", "skipped"),
        ("completeness_error_relative", "small_delta"),
    }


def test_rows_are_ordered_image_by_image(records: pd.DataFrame) -> None:
    order = [picture.image_id for picture in image_set().pictures]
    assert records["image_id"].drop_duplicates().tolist() == order
    places = records["image_id"].map(order.index).astype(int)
    assert places.is_monotonic_increasing


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_batch_size_changes_nothing(
    batch_size: int, classifier: Classifier, records: pd.DataFrame
) -> None:
    plan = PLAN.model_copy(update={"batch_size": batch_size})
    other = run(classifier, image_set(), plan)
    assert other["run_id"][0] == records["run_id"][0]
    # Convolutions round differently in batches of another size.
    same_records(other, records)
    exact = records["metric"].isin(["input_change", "saturated_share"])
    assert (other["value"][exact] == records["value"][exact]).all()


def test_the_order_of_the_images_changes_nothing(
    classifier: Classifier, records: pd.DataFrame
) -> None:
    images = image_set()
    order = [3, 0, 4, 1, 2]
    mixed = replace(
        images,
        pictures=tuple(images.pictures[i] for i in order),
        read=lambda index: images.read(order[index]),
    )
    both = [
        frame.astype(dict.fromkeys(KEY, str)).set_index(KEY)["value"].sort_index()
        for frame in (run(classifier, mixed, PLAN), records)
    ]
    pd.testing.assert_series_equal(both[0], both[1], rtol=0, atol=1e-4)
    assert run(classifier, mixed, PLAN)["run_id"][0] == records["run_id"][0]


def test_the_engine_changes_the_last_digits_alone(
    classifier: Classifier, records: pd.DataFrame
) -> None:
    other = run(classifier, image_set(), PLAN.model_copy(update={"engine": "captum"}))
    same_records(other, records)
    assert other["run_id"][0] != records["run_id"][0]


def test_each_method_sees_the_same_noise_alone_and_together(
    classifier: Classifier, records: pd.DataFrame
) -> None:
    alone = run(classifier, image_set(), PLAN.model_copy(update={"method": ("gradient",)}))
    expected = pick(records, method="gradient")["value"].to_numpy()
    np.testing.assert_array_equal(pick(alone, method="gradient")["value"], expected)


def test_values_are_those_of_the_parts_put_together_by_hand(
    classifier: Classifier, records: pd.DataFrame
) -> None:
    images = image_set()
    method = bind_method("integrated_gradients:baseline=random,steps=8")
    cell = Cell("gaussian_noise", 0.1, 1)
    picture = images.pictures[2]
    clean = images.read(2).image[None]
    nudged = perturb(clean[0], cell, picture.image_id, 0)[None]
    target = classifier(clean).argmax(dim=1)
    views = (("clean", 0.0, 0), ("gaussian_noise", 0.1, 1))
    batches = [
        Batch(seen, target, draws_of(0, [picture.image_id], view))
        for seen, view in zip((clean, nudged), views, strict=True)
    ]
    maps = [Maps.from_attributions(method.explain(classifier, batch).numpy()) for batch in batches]
    row = {"image_id": picture.image_id, "method": method.spec, "family": cell.family, "draw": 1}
    for name, metric in METRICS.items():
        if metric.against == "map":
            expected = evaluate(metric, maps[0], maps[1]).values[0]
            found = pick(records, **row, metric=name)["value"].item()
            assert found == pytest.approx(expected, abs=1e-4), name
    assert method.baseline_name == "random"
    baseline = BASELINES["random"].make(batches[1])
    delta = (classifier(nudged) - classifier(baseline))[0, target].item()
    found = pick(records, **row, metric="completeness_error")["value"].item()
    assert found == pytest.approx(abs(maps[1].signed.sum() - delta), abs=1e-4)
    mask = images.read(2).mask
    assert mask is not None
    mass = evaluate(METRICS["mask_mass"], maps[1], mask[None]).values[0]
    assert pick(records, **row, metric="mask_mass")["value"].item() == pytest.approx(mass, abs=1e-4)


def test_where_the_prediction_changes_both_maps_explain_the_clean_one(
    classifier: Classifier,
) -> None:
    images, levels = image_set(), (-1.0, 1.0)
    plan = PLAN.model_copy(
        update={"method": ("gradient",), "family": ("bias",), "severity": levels}
    )
    rows = pick(run(classifier, images, plan), metric="spearman")
    changed = rows[~rows["kept"]].to_dict("records")
    assert changed
    by_id = {picture.image_id: index for index, picture in enumerate(images.pictures)}
    for row in changed:
        clean = images.images([by_id[row["image_id"]]])
        batch = Batch(clean, classifier(clean).argmax(dim=1), draws_of(0, [row["image_id"]]))
        maps = [
            Maps.from_attributions(METHODS["gradient"].explain(classifier, seen).numpy())
            for seen in (batch, replace(batch, images=clean + row["severity"]))
        ]
        expected = evaluate(METRICS["spearman"], *maps).values[0]
        assert row["value"] == pytest.approx(expected, abs=1e-4)


def test_predictions_and_labels_are_those_of_the_classifier(
    classifier: Classifier, records: pd.DataFrame
) -> None:
    images = image_set()
    for index, picture in enumerate(images.pictures):
        rows = pick(records, image_id=picture.image_id)
        clean = images.read(index).image
        expected = int(classifier(clean[None]).argmax())
        assert set(rows["target"]) == set(rows["pred_clean"]) == {expected}
        assert set(rows["label"]) == {picture.label}
        for cell in PLAN.cells():
            chosen = pick(rows, family=cell.family, severity=cell.severity, draw=cell.draw)
            nudged = perturb(clean, cell, picture.image_id, 0)
            seen = nudged - PERTURBATIONS[cell.family].shift(cell.severity)
            predicted = int(classifier(seen[None]).argmax())
            assert set(chosen["pred_perturbed"]) == {predicted}
            assert set(chosen["kept"]) == {predicted == expected}


def test_a_compensated_bias_keeps_gradient_and_grad_cam(records: pd.DataFrame) -> None:
    rows = pick(records, family="compensated_bias")
    assert rows["kept"].all()
    for method in ("gradient", "grad_cam:relu=true"):
        spearman = pick(rows, method=method, metric="spearman")["value"]
        np.testing.assert_allclose(spearman, 1.0, atol=1e-3)
    moved = pick(rows, method="integrated_gradients:baseline=black,steps=8", metric="spearman")
    assert (moved["value"] < 0.99).all()


def test_a_shifted_network_sees_what_it_would_see_of_the_moved_image(
    classifier: Classifier,
) -> None:
    """The fourth cell: a map that reads the network alone moves as it does under the bias."""
    ig = "integrated_gradients:baseline=black,steps=64"
    plan = small_plan(
        "gradient",
        "grad_cam:relu=false",
        ig,
        family=("bias", "shifted_network"),
        severity=(-0.2, 0.3),
        metric=("spearman", "relative_l2", "completeness_error", "completeness_error_relative"),
    )
    setup = prepare(classifier, image_set(), plan)
    expected = count(setup)
    passes, _, outcomes = measured(setup)
    assert passes == (expected.forward, expected.backward)
    found = pd.DataFrame([asdict(record) for outcome in outcomes for record in outcome.records])
    moved, inside = (pick(found, family=family) for family in ("bias", "shifted_network"))
    for column in ("target", "pred_perturbed", "kept"):
        assert moved[column].tolist() == inside[column].tolist()
    for method in ("gradient", "grad_cam:relu=false"):
        values = [pick(rows, method=method)["value"] for rows in (moved, inside)]
        np.testing.assert_allclose(values[0], values[1], rtol=0, atol=5e-4)
        assert (pick(inside, method=method, metric="relative_l2")["value"] > 0.01).any()
    # IG is complete for the network that it explains: of f(x + shift), from black.
    gap = pick(inside, method=ig, metric="completeness_error")["value"]
    clean = pick(found, method=ig, metric="completeness_error", family="clean")["value"]
    assert gap.max() < 3 * clean.max()
    assert (pick(inside, method="input", metric="input_change")["value"] == 0).all()
    for index, picture in enumerate(image_set().pictures):
        image = image_set().read(index).image[None]
        for shift in (-0.2, 0.3):
            rows = pick(inside, image_id=picture.image_id, severity=shift)
            assert set(rows["pred_perturbed"]) == {int(classifier(image + shift).argmax())}


def test_the_realised_change_of_the_input_is_recorded(records: pd.DataFrame) -> None:
    bias = pick(records, method="input", family="bias", metric="input_change")
    np.testing.assert_allclose(bias["value"], 0.2, atol=1e-6)
    images = image_set()
    shares = pick(records, method="input", family="bias", severity=0.2, metric="saturated_share")
    expected = [float((images.read(i).image + 0.2 >= 1).double().mean()) for i in range(COUNT)]
    np.testing.assert_allclose(shares["value"], expected)


def test_unknown_labels_are_missing(classifier: Classifier) -> None:
    plan = small_plan("gradient")
    assert run(classifier, random_images(2), plan)["label"].isna().all()
    other = from_tensor(random_images(2), [0, 1], ("b", "zebra"))
    labels = run(classifier, other, plan).groupby("image_id", sort=False, observed=True)["label"]
    assert [None if pd.isna(x) else x for x in labels.first()] == [1, None]


def test_progress_adds_up(classifier: Classifier) -> None:
    seen: list[int] = []
    plan = PLAN.model_copy(update={"batch_size": 2, "method": ("gradient", "grad_cam")})
    run(classifier, image_set(), plan, seen.append)
    assert sum(seen) == prepare(classifier, image_set(), plan).map_count() == COUNT * 2 * 11


# --- what goes wrong ----------------------------------------------------------------------------


def add_method(monkeypatch: pytest.MonkeyPatch, name: str, method: Method) -> None:
    monkeypatch.setitem(methods_module.METHODS, name, method)


def test_a_method_that_raises_costs_its_own_cells(
    monkeypatch: pytest.MonkeyPatch, classifier: Classifier, records: pd.DataFrame
) -> None:
    def fragile(network: Classifier, batch: Batch) -> Tensor:
        if float(batch.images.max()) > 1.15:
            raise ZeroDivisionError("too\nbright")
        return METHODS["gradient"].explain(network, batch)

    add_method(monkeypatch, "fragile", Method(fragile, "", ""))
    plan = PLAN.model_copy(
        update={"method": ("fragile", "gradient"), "family": ("bias",), "metric": ("ssim",)}
    ).model_copy(update={"severity": {"bias": (-0.2, 0.2)}})
    found = run(classifier, image_set(), plan)
    bright, dark = (pick(found, method="fragile", severity=level) for level in (0.2, -0.2))
    assert set(bright["status"]) == {"error"}
    assert set(bright["detail"]) == {"ZeroDivisionError: too bright"}
    assert bright["value"].isna().all()
    assert set(dark["status"]) == {"ok"}
    expected = pick(records, method="gradient", family="bias", metric="ssim")["value"]
    np.testing.assert_allclose(pick(found, method="gradient")["value"], expected, atol=1e-4)


def test_a_failing_clean_map_is_said_to_be_the_clean_one(
    monkeypatch: pytest.MonkeyPatch, classifier: Classifier
) -> None:
    def dark_only(network: Classifier, batch: Batch) -> Tensor:
        if float(batch.images.min()) >= 0:
            raise RuntimeError("no")
        return METHODS["gradient"].explain(network, batch)

    add_method(monkeypatch, "dark_only", Method(dark_only, "", ""))
    plan = small_plan("dark_only", severity=(-0.5,), metric=("ssim",))
    found = pick(run(classifier, image_set(), plan), method="dark_only")
    assert set(found["detail"]) == {"clean image: RuntimeError: no"}


@pytest.mark.parametrize(
    ("maps", "status", "detail"),
    [
        (torch.zeros(COUNT, 3, SIDE, SIDE), "degenerate", "a map or mask is constant"),
        (torch.full((COUNT, 3, SIDE, SIDE), torch.nan), "nonfinite", "not finite"),
        (torch.zeros(COUNT, SIDE, SIDE), "error", r"returned shape (5, 16, 16), expected (5, cha"),
        (torch.zeros(1, 3, SIDE, SIDE), "error", "returned shape (1, 3, 16, 16)"),
    ],
)
def test_maps_that_say_nothing_have_a_status(
    monkeypatch: pytest.MonkeyPatch, classifier: Classifier, maps: Tensor, status: str, detail: str
) -> None:
    add_method(monkeypatch, "odd", Method(lambda _classifier, _batch: maps, "", ""))
    plan = small_plan("odd")
    found = pick(run(classifier, image_set(), plan), method="odd")
    assert set(found["status"]) == {status}
    assert found["value"].isna().all()
    assert found["detail"].str.contains(detail, regex=False).all()


def test_a_method_may_return_any_float_type_and_forget_to_detach(
    monkeypatch: pytest.MonkeyPatch, classifier: Classifier
) -> None:
    def sloppy(network: Classifier, batch: Batch) -> Tensor:
        return METHODS["gradient"].explain(network, batch).bfloat16().requires_grad_()

    add_method(monkeypatch, "sloppy", Method(sloppy, "", ""))
    plan = small_plan("sloppy", metric=("ssim",))
    assert set(run(classifier, image_set(), plan)["status"]) == {"ok"}


def test_maps_of_another_size_than_the_clean_one_are_an_error(
    monkeypatch: pytest.MonkeyPatch, classifier: Classifier
) -> None:
    def growing(_network: Classifier, batch: Batch) -> Tensor:
        return batch.images[..., : 12 if float(batch.images.min()) >= 0 else 13]

    add_method(monkeypatch, "growing", Method(growing, "", ""))
    plan = small_plan("growing", severity=(-0.5,), metric=("spearman",))
    found = pick(run(classifier, image_set(), plan), method="growing")
    assert set(found["status"]) == {"error"}
    assert found["detail"][found.index[0]] == (
        "returned maps of (3, 16, 13) where the clean image's are (3, 16, 12)"
    )


def test_logits_that_are_not_finite_are_no_prediction() -> None:
    def blow(_inner: nn.Module, images: Tensor) -> Tensor:
        means = images.mean(dim=(2, 3))
        return means / (means.amax(dim=1, keepdim=True) < 1).float() * 0 + means

    fuse = tiny(lambda: Around(blow))
    plan = small_plan("gradient", severity=(0.1, 0.9), metric=("ssim",))
    found = run(fuse, image_set(), plan)
    blown, fine = pick(found, severity=0.9), pick(found, severity=0.1)
    assert fine["pred_perturbed"].notna().all()
    assert blown["pred_perturbed"].isna().all()
    assert not blown["kept"].any()
    assert set(pick(blown, method="gradient")["status"]) == {"nonfinite"}
    assert set(pick(blown, method="gradient")["detail"]) == {"the network's logits are not finite"}
    assert set(pick(blown, method="input")["status"]) == {"ok"}


def test_a_label_whose_name_stands_for_two_classes_is_missing() -> None:
    twins = make_classifier(seeded(conv_network), (SIDE, SIDE), ("crane", "crane", "dog"))
    images = from_tensor(random_images(2), [0, 1], ("crane", "dog"))
    plan = small_plan("gradient", metric=("ssim",))
    labels = run(twins, images, plan).groupby("image_id", sort=False, observed=True)["label"]
    assert [None if pd.isna(x) else x for x in labels.first()] == [None, 2]
    named_none = make_classifier(seeded(conv_network), (SIDE, SIDE), ("None", "cat", "dog"))
    assert run(named_none, random_images(2), plan)["label"].isna().all()


def test_a_network_in_double_precision_is_refused(conv64: Classifier) -> None:
    with pytest.raises(ConfigError, match=r"is torch.float64; a run needs network.float\(\)"):
        run(conv64, image_set(), PLAN)


def test_what_does_not_apply_is_skipped_with_the_reason() -> None:
    linear = tiny(linear_network)
    found = run(linear, image_set(), small_plan("grad_cam", "gradient"))
    skipped = pick(found, method="grad_cam:relu=true")
    assert set(skipped["status"]) == {"skipped"}
    assert set(skipped["detail"]) == {
        "the network has no convolution with a spatial output before tokens are made"
    }
    assert set(pick(found, method="gradient")["status"]) == {"ok"}


def test_a_map_below_the_window_of_ssim_is_skipped(records: pd.DataFrame) -> None:
    # Grad-CAM of this network is 8 x 8; the window is 11 x 11.
    assert set(pick(records, method="grad_cam:relu=true", metric="ssim")["status"]) == {"skipped"}


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (Plan(method=("gradient",), metric=("completeness_error",)), "no method .* is complete"),
        (Plan(method=("gradient",), metric=("mask_mass",)), "this data has no masks"),
    ],
)
def test_a_metric_that_nothing_can_give_is_refused(
    classifier: Classifier, plan: Plan, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        run(classifier, random_images(2), plan)


def test_images_of_another_size_are_refused(classifier: Classifier) -> None:
    with pytest.raises(DataError, match="tiny takes 16 x 16 pixels, these have 20 x 20"):
        run(classifier, random_images(2, 20))


def test_a_new_family_method_and_metric_are_one_entry_each(
    monkeypatch: pytest.MonkeyPatch, classifier: Classifier
) -> None:
    """What CONTRIBUTING says to add is all there is to add."""
    mirror = Perturbation(
        lambda image, severity, _rng: image.flip(2) if severity else image, (1.0,), (0.0, 1.0), "",
        "",
    )  # fmt: skip
    monkeypatch.setitem(perturbations_module.PERTURBATIONS, "mirror", mirror)
    add_method(monkeypatch, "brightness", Method(lambda _classifier, batch: batch.images, "", ""))
    monkeypatch.setitem(METRICS, "always_one", replace(
        METRICS["relative_l2"], compute=lambda first, _: np.ones(len(first)), on_tensors=None
    ))  # fmt: skip
    plan = Plan(controls=False, nulls=0, method=("brightness",), family=("mirror",))
    found = run(classifier, image_set(), plan)
    assert set(found["family"]) == {"clean", "mirror"}
    assert set(pick(found, metric="always_one")["value"]) == {1.0}


def test_the_run_id_names_what_matters(classifier: Classifier, records: pd.DataFrame) -> None:
    name = records["run_id"][0]
    assert name.startswith("tensor-tiny-")

    def other(**changes: object) -> str:
        plan = PLAN.model_copy(update={"method": ("gradient",), "family": ("bias",)} | changes)
        return str(run(classifier, image_set(2), plan)["run_id"][0])

    assert other() == other(batch_size=1)
    names = {other(), other(seed=1), other(severity=(0.1,)), other(metric=("ssim",))}
    assert len(names) == 4


def test_random_draws_of_a_run_hang_on_its_seed(classifier: Classifier) -> None:
    plan = small_plan("gradient", family=("gaussian_noise",), metric=("ssim",))
    values = [
        run(classifier, image_set(), plan.model_copy(update={"seed": seed}))["value"].tolist()
        for seed in (0, 0, 1)
    ]
    assert values[0] == values[1] != values[2]


def test_every_compensated_family_is_additive() -> None:
    image = random_images(1)[0]
    for name, family in PERTURBATIONS.items():
        if family.network_shift == 1:
            for level in family.severities:
                moved = perturb(image, Cell(name, level, 0), "x", 0)
                torch.testing.assert_close(moved - level, image)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device here")
def test_cpu_and_gpu_agree(records: pd.DataFrame) -> None:
    network = seeded(conv_network).cuda()
    on_gpu = replace(make_classifier(network, (SIDE, SIDE), CLASSES), name="tiny")
    found = run(on_gpu, image_set(), PLAN)
    np.testing.assert_allclose(found["value"], records["value"], rtol=0, atol=1e-2)


def test_the_library_leaves_the_global_state_alone(classifier: Classifier) -> None:
    state, threads = torch.random.get_rng_state(), torch.get_num_threads()
    run(classifier, image_set(2), Plan(controls=False, nulls=0, severity=(0.1,), steps=2))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.get_num_threads() == threads
