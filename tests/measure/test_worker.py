"""How a run is carried out: passes counted, workers, memory, and steps as needed."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pandas as pd
import pytest
import torch
from support import (
    COUNT,
    cramped,
    hook_counts,
    image_set,
    linear_network,
    measured,
    pick,
    random_images,
    same_records,
    small_plan,
    tiny,
)
from torch import Tensor

from steadymap.bench.core.errors import ConfigError
from steadymap.bench.core.machine import peak_memory
from steadymap.bench.measure.estimate import count, estimate
from steadymap.bench.measure.outcome import Outcome
from steadymap.bench.measure.runner import measure, run
from steadymap.bench.measure.worker import BASELINE_PART, METRICS_PART, ahead
from steadymap.bench.methods import registry as methods_module
from steadymap.bench.methods.batch import Batch
from steadymap.bench.methods.method import Method
from steadymap.bench.methods.paths import Line, NestedPath, points_at
from steadymap.bench.methods.registry import METHODS
from steadymap.bench.network.memory import activation_bytes
from steadymap.bench.plan.experiment import make_experiment
from steadymap.bench.plan.plan import Plan
from steadymap.bench.plan.setup import prepare
from steadymap.bench.records.vocabulary import SHARED
from steadymap.models import Classifier, ModelError

PLAN = Plan(
    controls=False,
    nulls=0,
    family=("bias", "compensated_bias", "gaussian_noise"),
    severity={"bias": (-0.2, 0.2), "compensated_bias": (0.3, 0.1), "gaussian_noise": (0.1,)},
    draws=2,
    steps=6,
    batch_size=2,
)
AUTO = PLAN.model_copy(update={"method": ("gradient", "integrated_gradients:steps=auto")})


@pytest.fixture(scope="module")
def records(classifier: Classifier) -> pd.DataFrame:
    return run(classifier, image_set(), PLAN)


def outcomes(classifier: Classifier, plan: Plan) -> list[Outcome]:
    return measured(prepare(classifier, image_set(), plan))[2]


# --- passes: counted, never timed -----------------------------------------------------------------


def test_a_run_takes_one_pass_a_view_and_the_steps_of_the_paths(classifier: Classifier) -> None:
    """The counts that CI holds the engine to; a change of them is a change of the product."""
    setup = prepare(classifier, image_set(), PLAN)
    views = COUNT * (1 + 2 + 2 + 2)
    (forward, backward), _, _ = measured(setup)
    assert backward == views * (1 + 3 * 6)
    # Black and white baseline once an image, and once more for each of the two shifts; the random
    # one is another in every view.
    assert forward == backward + COUNT * (2 * (1 + 2) + 7)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"method": ("gradient",)},
        {"method": ("grad_cam",)},
        {"method": ("integrated_gradients",)},
        {"method": ("gradient", "gradient_x_input", "grad_cam"), "metric": ("ssim", "spearman")},
        {"metric": ("ssim",)},
        {"family": ("bias",), "severity": (0.1,)},
        {"family": ("compensated_bias",), "severity": (0.0, 0.2)},
        {"engine": "captum", "method": ("gradient", "gradient_x_input")},
        {"precision": "tf32", "seed": 3},
        {"batch_size": 16},
        {"coupled": True},
        {
            "coupled": True,
            "nulls": 2,
            "admission": False,
            "method": ("smooth_grad:samples=3", "gradient"),
        },
        {
            "nulls": 1,
            "admission": False,
            "method": ("lime:samples=9", "feature_ablation:segments=7"),
        },
        {"method": ("occlusion:window=0.5", "feature_ablation:segments=7,baseline=random")},
        {
            "method": (
                "gradient",
                "lime:samples=9",
                "kernel_shap:segments=3",
                "kernel_shap:samples=9",
            )
        },
        {"engine": "captum", "method": ("shapley_sampling:samples=1", "occlusion:window=0.3")},
        {"engine": "captum", "method": ("feature_ablation:segments=20",)},
    ],
)
def test_the_planner_counts_the_passes_exactly(
    classifier: Classifier, changes: dict[str, Any]
) -> None:
    setup = prepare(classifier, image_set(), PLAN.model_copy(update=changes))
    planned = count(setup)
    passes, _, _ = measured(setup)
    assert (planned.forward, planned.backward) == passes
    assert not planned.at_least


def test_the_planner_counts_what_does_not_apply_as_nothing() -> None:
    plan = PLAN.model_copy(update={"method": ("grad_cam",)})
    setup = prepare(tiny(linear_network), image_set(), plan)
    planned = count(setup)
    passes, _, _ = measured(setup)
    assert (planned.forward, planned.backward) == passes == (COUNT * 7, 0)


def test_with_steps_auto_the_planner_gives_a_lower_bound(classifier: Classifier) -> None:
    setup = prepare(classifier, image_set(), AUTO)
    planned = count(setup)
    (forward, backward), _, _ = measured(setup)
    assert planned.at_least
    assert planned.backward <= backward
    assert planned.forward <= forward


@pytest.mark.parametrize("workers", [1, 2])
def test_an_estimate_is_finite_and_counts_the_maps(classifier: Classifier, workers: int) -> None:
    setup = prepare(classifier, image_set(), PLAN.model_copy(update={"jobs": workers}))
    expected = estimate(setup, seconds=0.05)
    assert expected.maps == setup.map_count()
    parts = expected.pass_seconds, expected.metric_seconds, expected.image_seconds
    assert all(part > 0 for part in parts)
    assert expected.seconds == pytest.approx(sum(parts))
    # At least what the process holds already, and the activations of a pass for each worker.
    held = peak_memory(torch.device("cpu"))["resident"]
    assert expected.memory >= workers * setup.at_once * activation_bytes(classifier)
    assert expected.memory < held + 2**30


# --- workers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [2, 3])
@pytest.mark.parametrize("engine", ["own", "captum"])
def test_workers_change_nothing(
    classifier: Classifier, records: pd.DataFrame, workers: int, engine: str
) -> None:
    plan = PLAN.model_copy(update={"jobs": workers, "engine": engine})
    same_records(run(classifier, image_set(), plan), records)


def test_workers_leave_threads_and_hooks_as_they_were(classifier: Classifier) -> None:
    before, hooks = torch.get_num_threads(), hook_counts(classifier.module)
    seen: set[int] = set()
    torch.set_num_threads(4)
    try:
        setup = prepare(classifier, image_set(), PLAN.model_copy(update={"jobs": 2}))
        list(measure(setup, lambda _count: seen.add(torch.get_num_threads())))
        assert torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(before)
    assert seen == {2}, "each of two workers has its share"
    assert hook_counts(classifier.module) == hooks


def test_outcomes_come_in_order_however_long_each_takes(
    monkeypatch: pytest.MonkeyPatch, classifier: Classifier
) -> None:
    def slow_at_first(network: Classifier, batch: Batch) -> Tensor:
        if torch.equal(batch.images[0], random_images(COUNT)[0]):
            time.sleep(0.3)
        return METHODS["gradient"].explain(network, batch)

    monkeypatch.setitem(methods_module.METHODS, "slow", Method(slow_at_first, "", ""))
    plan = small_plan("slow", batch_size=1, jobs=3)
    found = run(classifier, image_set(), plan)["image_id"].drop_duplicates().tolist()
    assert found == [picture.image_id for picture in image_set().pictures]


def test_an_error_in_a_worker_ends_the_run(classifier: Classifier) -> None:
    def broken(_count: int) -> None:
        raise ZeroDivisionError

    before = threading.active_count()
    setup = prepare(classifier, image_set(), PLAN.model_copy(update={"jobs": 2}))
    with pytest.raises(ZeroDivisionError):
        list(measure(setup, broken))
    deadline = time.monotonic() + 30  # the pool's threads are told to end, and do so by and by
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() == before


def test_a_run_that_is_given_up_stops_its_workers(
    monkeypatch: pytest.MonkeyPatch, classifier: Classifier
) -> None:
    def slow(network: Classifier, batch: Batch) -> Tensor:
        time.sleep(0.05)
        return METHODS["gradient"].explain(network, batch)

    monkeypatch.setitem(methods_module.METHODS, "slow", Method(slow, "", ""))
    seen: list[int] = []
    plan = Plan(controls=False, nulls=0, method=("slow",), metric=("ssim",), batch_size=1, jobs=2)
    going = measure(prepare(classifier, image_set(), plan), seen.append)
    next(going)
    while len(seen) < 1.5 * (len(plan.cells()) + 1):  # both are in the middle of a batch
        time.sleep(0.01)
    made = len(seen)
    going.close()  # type: ignore[attr-defined]
    assert len(seen) <= made + 2, "each drops its batch at the next map"


def test_a_replica_shares_weights_and_nothing_else(classifier: Classifier) -> None:
    copy = classifier.replica()
    for own, other in zip(
        classifier.module.state_dict().values(), copy.module.state_dict().values(), strict=True
    ):
        assert own.data_ptr() == other.data_ptr()
    assert copy.cam_module is not classifier.cam_module
    hook = copy.cam_module.register_forward_hook(lambda *_: None)
    assert hook_counts(classifier.module) != hook_counts(copy.module)
    hook.remove()
    assert torch.equal(copy(random_images(2)), classifier(random_images(2)))


def test_a_network_that_cannot_be_copied_says_so() -> None:
    locked = tiny()
    locked.module.network.lock = threading.Lock()  # type: ignore[assignment] # no copy of it
    plan = PLAN.model_copy(update={"jobs": 2})
    with pytest.raises(ModelError, match=r"cannot be copied .* use --jobs 1"):
        run(locked, image_set(), plan)
    assert len(run(locked, image_set(), PLAN)) > 0
    assert estimate(prepare(locked, image_set(), PLAN), seconds=0.05).maps > 0


@pytest.mark.parametrize("in_thread", [True, False])
def test_looking_ahead_changes_nothing(*, in_thread: bool) -> None:
    made: list[int] = []

    second = threading.Event()

    def items() -> Iterator[int]:
        for item in range(1, 6):
            made.append(item)
            if item == 2:
                second.set()
            yield item

    taken = ahead(items(), in_thread=in_thread)
    assert next(taken) == 1
    # The second is made while the first is held, or only when it is asked for.
    assert second.wait(10 if in_thread else 0) == in_thread
    assert [1, *taken] == [1, 2, 3, 4, 5] == made


# --- memory ---------------------------------------------------------------------------------------


def test_a_halving_is_told_once() -> None:
    found = outcomes(cramped(2), PLAN.model_copy(update={"batch_size": 3}))
    # 32, 16, 8, 4, 2 for the paths of the first batch; the second begins where that ended.
    assert [(outcome.at_once, outcome.halved) for outcome in found] == [(2, 4), (2, 0)]


@pytest.mark.parametrize("steps", [6, "auto"])
def test_where_memory_runs_out_paths_are_cut_smaller(steps: object) -> None:
    method = f"integrated_gradients:steps={steps}"
    plan = PLAN.model_copy(update={"batch_size": 5, "method": (method,)})
    narrow = cramped(3)
    same_records(run(narrow, image_set(), plan), run(cramped(99), image_set(), plan))
    assert outcomes(narrow, plan)[0].at_once == 2


@pytest.mark.parametrize("engine", ["own", "captum"])
def test_where_memory_runs_out_fewer_go_at_once(engine: str) -> None:
    plan = PLAN.model_copy(update={"batch_size": 5, "engine": engine})
    narrow = cramped(3)
    same_records(run(narrow, image_set(), plan), run(cramped(99), image_set(), plan))
    (outcome,) = outcomes(narrow, plan)
    assert outcome.at_once == 2
    assert outcome.halved == 4  # 32, 16, 8, 4, 2


def test_where_one_image_is_too_many_its_cells_say_so() -> None:
    found = run(cramped(0), image_set(), PLAN)
    maps = found[found["method"] != "input"]
    assert set(maps["status"]) == {"error"}
    assert maps["detail"].str.startswith("OutOfMemoryError: CUDA out of memory").all()
    assert maps["kept"].any()  # predictions need no gradient


# --- steps as needed ------------------------------------------------------------------------------


def test_every_view_takes_the_steps_that_it_needs(classifier: Classifier) -> None:
    """Scores are those of the two paths each at its own level, whatever the other needed."""
    plan = AUTO.model_copy(
        update={"metric": ("relative_l2",), "family": ("bias",), "severity": (-0.5, 0.5)}
    )
    spec = "integrated_gradients:baseline=black,steps=auto"
    rows = pick(run(classifier, image_set(), plan), method=spec)
    assert set(pick(rows, metric="steps")["family"]) == {"clean", "bias"}
    images = image_set()
    more_demanding: set[bool] = set()
    for index, picture in enumerate(images.pictures):
        clean = images.read(index).image[None]
        target = classifier(clean).argmax(dim=1)
        for severity in (-0.5, 0.5):
            paths = [
                NestedPath(classifier, Line(torch.zeros_like(x), x, target, 32))
                for x in (clean, clean + severity)
            ]
            levels = [path.settled[0] for path in paths]
            if levels[0] != levels[1]:
                more_demanding.add(levels[0] > levels[1])
            first, second = (path.at(path.settled)[0].sum(dim=0) for path in paths)
            pair = pick(rows, image_id=picture.image_id, family="bias", severity=severity)
            expected = float((second - first).norm() / first.norm())
            distance = pick(pair, metric="relative_l2")["value"].item()
            assert distance == pytest.approx(expected, rel=1e-4)
            assert pick(pair, metric="steps")["value"].item() == points_at(levels[1])
        own = pick(rows, image_id=picture.image_id, family="clean", metric="steps")
        assert own["value"].item() == points_at(levels[0])
    assert more_demanding == {True, False}, "now the clean one, now the other"


def test_captum_has_no_steps_auto() -> None:
    with pytest.raises(ConfigError, match="engine: captum has no steps=auto"):
        make_experiment([{"engine": "captum", "steps": "auto"}])


def break_paths(monkeypatch: pytest.MonkeyPatch, broken: set[int]) -> None:
    """Let the paths of some views raise; 0 is the clean one."""
    method, calls = METHODS["integrated_gradients"], iter(range(99))
    assert method.nested is not None
    whole = method.nested

    def fragile(classifier: Classifier, batch: Batch, **given: Any) -> NestedPath:
        if next(calls) in broken:
            raise ArithmeticError("no way")
        return whole(classifier, batch, **given)

    replacement = replace(method, nested=fragile)
    monkeypatch.setitem(methods_module.METHODS, "integrated_gradients", replacement)


def test_a_clean_path_that_fails_is_not_replaced_by_a_perturbed_one(
    monkeypatch: pytest.MonkeyPatch, classifier: Classifier
) -> None:
    break_paths(monkeypatch, {0})
    found = run(classifier, image_set(), AUTO.model_copy(update={"batch_size": COUNT}))
    rows = pick(found, method="integrated_gradients:baseline=black,steps=auto")
    assert set(pick(rows, family="clean")["status"]) == {"error"}
    against_clean = pick(rows, family="bias", metric="spearman")
    assert set(against_clean["detail"]) == {"clean image: ArithmeticError: no way"}
    # What is about the perturbed map alone has its value.
    assert set(pick(rows, family="bias", metric="completeness_error")["status"]) == {"ok"}


def test_a_perturbed_path_that_fails_costs_its_view_alone(
    monkeypatch: pytest.MonkeyPatch, classifier: Classifier
) -> None:
    plan = AUTO.model_copy(update={"batch_size": COUNT})
    expected = run(classifier, image_set(), plan)
    break_paths(monkeypatch, {1})
    found = run(classifier, image_set(), plan)
    spec = "integrated_gradients:baseline=black,steps=auto"
    lost = pick(found, method=spec, family="bias", severity=-0.2)
    assert set(lost["status"]) == {"error"}
    rest = (found["method"] == spec) & (found["family"] != "bias")
    same_records(found[rest], expected[rest])


def test_a_failure_of_steps_auto_costs_its_own_cells(
    monkeypatch: pytest.MonkeyPatch, classifier: Classifier
) -> None:
    break_paths(monkeypatch, set(range(99)))
    found = run(classifier, image_set(), AUTO)
    bad = pick(found, method="integrated_gradients:baseline=black,steps=auto")
    assert set(bad["status"]) == {"error"}
    assert set(pick(bad, family="bias")["detail"]) == {"ArithmeticError: no way"}
    assert set(pick(found, method="gradient", metric="spearman")["status"]) == {"ok"}


# --- where the time goes --------------------------------------------------------------------------


def test_every_part_of_the_work_is_timed(classifier: Classifier) -> None:
    made = outcomes(classifier, PLAN)
    assert len(made) == 3
    for outcome in made:
        by_part: dict[str, list[int]] = {}
        for timing in outcome.timings:
            by_part.setdefault(timing.part, []).append(timing.images)
            assert timing.seconds > 0
        specs = {method.spec for method in PLAN.bound_methods()}
        assert set(by_part) == {SHARED, BASELINE_PART, METRICS_PART, *specs}
        images = len({record.image_id for record in outcome.records})
        # Two baselines of the network as it is, and of each of its shifts; a third in each view.
        assert by_part.pop(BASELINE_PART) == [images] * (2 * 3 + 7)
        for part, sizes in by_part.items():
            assert sizes == [images] * 7 * (len(specs) if part == METRICS_PART else 1)
