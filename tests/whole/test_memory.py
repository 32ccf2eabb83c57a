"""Memory that runs out: wherever it does, the records are those of a machine that has enough."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support import (
    CLASSES,
    Around,
    cramped,
    image_set,
    measured,
    pick,
    python,
    same_records,
    seeded,
    tiny,
)
from torch import Tensor, nn

from steadymap.bench.data.image_set import from_tensor
from steadymap.bench.measure import probes
from steadymap.bench.measure.outcome import Outcome
from steadymap.bench.measure.runner import run
from steadymap.bench.methods import registry as methods_module
from steadymap.bench.methods.batch import Batch
from steadymap.bench.methods.method import Method
from steadymap.bench.methods.registry import METHODS
from steadymap.bench.network.memory import is_out_of_memory
from steadymap.bench.perturbations import registry as perturbations_module
from steadymap.bench.perturbations.registry import PERTURBATIONS
from steadymap.bench.plan.plan import Plan
from steadymap.bench.plan.setup import prepare
from steadymap.bench.records.vocabulary import INPUT_METRICS
from steadymap.metrics import METRICS, Maps
from steadymap.models import Classifier, make_classifier

PLAN = Plan(
    controls=False,
    nulls=0,
    method=("gradient", "grad_cam", "integrated_gradients:baseline=black,steps=4"),
    family=("bias",),
    severity=(0.1,),
    metric=("spearman", "completeness_error"),
)
ON_A_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")


def outcomes(classifier: Classifier, plan: Plan) -> list[Outcome]:
    return measured(prepare(classifier, image_set(), plan))[2]


@pytest.mark.parametrize("every", [True, False])
@pytest.mark.parametrize("engine", ["own", "captum"])
def test_in_the_network(engine: str, *, every: bool) -> None:
    plan = PLAN.model_copy(update={"engine": engine, "nulls": 1})
    narrow = cramped(2, every=every)
    same_records(run(narrow, image_set(), plan), run(cramped(99), image_set(), plan))
    found = outcomes(narrow, plan)
    assert found[-1].at_once in (1, 2)
    assert sum(outcome.halved for outcome in found) > 0


def hungry(limit: int, error: Callable[[], BaseException]) -> Callable[..., Tensor]:
    def explain(classifier: Classifier, batch: Batch) -> Tensor:
        if len(batch.images) > limit:
            # What it leaves behind when it gives up must not be there when it is called again.
            classifier.module.network.train()
            batch.images.zero_()
            raise error()
        return METHODS["gradient"].explain(classifier, batch)

    return explain


ERRORS: dict[str, Callable[[], BaseException]] = {
    "on a GPU": lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate a lot"),
    "of NumPy": lambda: MemoryError("Unable to allocate 9 GiB for an array"),
    "of torch on the CPU": lambda: RuntimeError(
        "[enforce fail at alloc_cpu.cpp] . DefaultCPUAllocator: can't allocate memory: you tried"
    ),
    "of C++": lambda: RuntimeError("std::bad_alloc"),
    "of cuBLAS": lambda: RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"),
}


@pytest.mark.parametrize("error", ERRORS)
def test_in_a_method_that_is_not_ours(
    monkeypatch: pytest.MonkeyPatch, classifier: Classifier, error: str
) -> None:
    monkeypatch.setitem(methods_module.METHODS, "hungry", Method(hungry(2, ERRORS[error]), "", ""))
    plan = PLAN.model_copy(update={"method": ("hungry", "gradient"), "metric": ("spearman",)})
    found = run(classifier, image_set(), plan)
    np.testing.assert_allclose(
        pick(found, method="hungry")["value"], pick(found, method="gradient")["value"], atol=1e-4
    )
    assert set(found["status"]) == {"ok"}
    assert outcomes(classifier, plan)[0].halved == 4  # 32, 16, 8, 4, 2


@pytest.mark.parametrize("error", ERRORS)
def test_where_one_image_is_too_many_its_cells_say_so(
    monkeypatch: pytest.MonkeyPatch, classifier: Classifier, error: str
) -> None:
    monkeypatch.setitem(methods_module.METHODS, "hungry", Method(hungry(0, ERRORS[error]), "", ""))
    plan = PLAN.model_copy(update={"method": ("hungry", "gradient"), "metric": ("spearman",)})
    found = run(classifier, image_set(), plan)
    lost = pick(found, method="hungry")
    assert set(lost["status"]) == {"error"}
    assert lost["detail"].str.endswith("(with one image at a time)").all()
    assert set(pick(found, method="gradient")["status"]) == {"ok"}


def test_in_a_network_that_has_no_room_for_one_image() -> None:
    found = run(cramped(0, every=True), image_set(), PLAN)
    assert set(found["status"]) == {"error"}
    (reason,) = set(found["detail"])
    assert reason == (
        "clean image: the network raised OutOfMemoryError: CUDA out of memory. Tried to allocate "
        "a lot (with one image at a time)"
    )


@pytest.mark.parametrize("limit", [0, 1, 3])
@pytest.mark.parametrize("part", ["magnitude_checks", "magnitude_ranks"])
def test_in_metrics(
    monkeypatch: pytest.MonkeyPatch, classifier: Classifier, part: str, limit: int
) -> None:
    """While maps are looked at, and while they are compared."""
    plan = PLAN.model_copy(update={"metric": ("spearman_magnitude", "spearman"), "nulls": 1})
    expected = run(classifier, image_set(), plan)
    real = getattr(Maps, part).func

    def scarce(maps: Maps) -> object:
        if len(maps) > limit:
            raise MemoryError("Unable to allocate 9 GiB for an array")
        return real(maps)

    monkeypatch.setattr(Maps, part, property(scarce))
    found = run(classifier, image_set(), plan)
    signed = found["metric"].isin(["spearman", *INPUT_METRICS])
    same_records(found[signed], expected[signed])
    rest = found["metric"] == "spearman_magnitude"
    if limit:
        same_records(found[rest], expected[rest])
    else:
        assert set(found[rest]["status"]) == {"error"}
        assert found[rest]["detail"].str.contains("MemoryError: Unable to allocate").all()


def test_in_an_attack(monkeypatch: pytest.MonkeyPatch, classifier: Classifier) -> None:
    def hungry_attack(_network: Classifier, _image: Tensor, *_rest: object) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    family = replace(PERTURBATIONS["adversarial"], attack=hungry_attack)
    monkeypatch.setitem(perturbations_module.PERTURBATIONS, "siege", family)
    monkeypatch.setattr("steadymap.bench.plan.setup._refuse_attacks", lambda _setup: None)
    levels = {"siege": (0.01,), "bias": (0.1,)}
    plan = PLAN.model_copy(update={"family": ("siege", "bias"), "severity": levels})
    found = run(classifier, image_set(), plan)
    lost = pick(found, family="siege")
    assert set(lost["status"]) == {"error"}
    assert set(lost["detail"]) == {
        "the attack raised OutOfMemoryError: CUDA out of memory (with one image at a time)"
    }
    assert set(pick(found, family="bias")["status"]) == {"ok"}


@pytest.mark.parametrize("kind", probes.PROBERS)
def test_in_the_evidence_of_probes(
    monkeypatch: pytest.MonkeyPatch, classifier: Classifier, kind: str
) -> None:
    def full(_clean: probes.CleanBatch) -> probes.EvidenceOf:
        raise MemoryError("Unable to allocate 9 GiB for an array")

    monkeypatch.setitem(probes.PROBERS, kind, full)
    names = tuple(name for name, metric in METRICS.items() if metric.against in probes.PROBERS)
    plan = PLAN.model_copy(update={"metric": (*names, "spearman"), "method": ("gradient",)})
    found = pick(run(classifier, image_set(), plan), method="gradient")
    lost = {name for name in names if METRICS[name].against == kind}
    assert lost
    for name in names:
        rows = pick(found, metric=name)
        assert (set(rows["status"]) == {"error"}) == (name in lost)
    assert pick(found, metric=min(lost))["detail"].str.contains("MemoryError: Unable").all()


def test_in_the_baseline_logits() -> None:
    """Which are forward passes alone; the maps themselves went through two by two."""
    narrow, wide = (run(cramped(room, every=True), image_set(), PLAN) for room in (1, 99))
    same_records(narrow, wide)


def test_numerics_have_room_of_their_own() -> None:
    def float64_has_none(inner: nn.Module, images: Tensor) -> object:
        if images.dtype == torch.float64:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return inner(images)

    network = tiny(lambda: Around(float64_has_none))
    found = run(network, image_set(), PLAN.model_copy(update={"nulls": 1}))
    double = pick(found, family="float64")
    assert set(double["status"]) == {"skipped"}
    assert double["detail"].str.startswith("the network does not run so: ").all()
    assert set(pick(found, family="rounded_image", metric="spearman")["status"]) == {"ok"}


def test_other_errors_are_not_taken_for_it() -> None:
    assert not is_out_of_memory(ValueError("std::bad_alloc"))
    assert not is_out_of_memory(RuntimeError("out of range"))
    assert all(is_out_of_memory(error()) for error in ERRORS.values())


UNDER_A_LIMIT = """
import json, resource, sys
import numpy as np, torch
from torch import nn
from steadymap.bench.plan.plan import Plan
from steadymap.bench.data.image_set import from_tensor
from steadymap.bench.measure.runner import measure
from steadymap.bench.plan.setup import prepare
from steadymap.models import make_classifier

torch.set_num_threads(1)
generator = torch.Generator().manual_seed(0)
torch.manual_seed(0)
side = 96
network = nn.Sequential(
    nn.Conv2d(3, 256, 1), nn.Tanh(), nn.Conv2d(256, 8, 1), nn.Tanh(),
    nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(128, 3),
)
classifier = make_classifier(network, (side, side))
images = from_tensor(torch.rand(4, 3, side, side, generator=generator))
plan = Plan(
    controls=False, nulls=0, family=("bias",), severity=(0.1,), metric=("relative_l2",),
    method=("gradient", "gradient_x_input"),
)
setup = prepare(classifier, images, plan)
assert setup.at_once == 32, setup.at_once

def go():
    outcomes = list(measure(setup, lambda count: None))
    rows = [record for outcome in outcomes for record in outcome.records]
    return [o.halved for o in outcomes], [r.value for r in rows], sorted({r.status for r in rows})

def under(margin):
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (margin << 20), resource.RLIM_INFINITY))
    found = go()
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    return found

# Between too little for one image and enough for all; how much that is hangs on the machine.
tight = [under(margin) for margin in range(40, 121, 8)]
print(json.dumps([tight, go()]))
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="only Linux says what is used")
def test_a_process_that_may_not_have_more_takes_fewer_images_at_a_time() -> None:
    """The real thing: torch's own allocator fails, and the run goes on with what there is."""
    done = python(UNDER_A_LIMIT)
    assert done.returncode == 0, done.stderr
    tight, (not_halved, expected, _) = json.loads(done.stdout)
    assert sum(not_halved) == 0
    halved = [values for halved, values, statuses in tight if sum(halved) and statuses == ["ok"]]
    assert halved, "under some limit it halves, and has all values"
    for values in halved:
        np.testing.assert_allclose(values, expected, rtol=1e-3, atol=1e-5)


# --- on a GPU -------------------------------------------------------------------------------------


@ON_A_GPU
def test_a_gpu_that_is_full_takes_fewer_images_at_a_time() -> None:
    """Most of the GPU is taken by others: torch's share of it is cut until batches do not fit."""
    plan = PLAN.model_copy(update={"method": ("gradient", "smooth_grad:samples=4")})
    wide = seeded(lambda: nn.Sequential(nn.Conv2d(3, 256, 3, padding=1), nn.Tanh(), conv_end()))
    classifier = make_classifier(wide.cuda(), (128, 128), CLASSES)
    images = torch.rand(64, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    plan = plan.model_copy(update={"metric": ("relative_l2",)})
    expected = run(classifier, images, plan)
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    held = torch.cuda.memory_allocated()
    torch.cuda.set_per_process_memory_fraction((held + (400 << 20)) / total)
    try:
        _, _, batches = measured(prepare(classifier, from_tensor(images), plan))
        found = run(classifier, images, plan)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert sum(batch.halved for batch in batches) > 0
    assert set(found["status"]) == {"ok"}
    np.testing.assert_allclose(found["value"], expected["value"], rtol=1e-3, atol=1e-4)


def conv_end() -> nn.Module:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(256, len(CLASSES)))
