"""What a method, an attack or a network does wrong costs its own cells, and no others'."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from support import (
    CLASSES,
    SIDE,
    batch_of,
    conv_network,
    image_set,
    pick,
    plain,
    random_images,
    small_plan,
    tiny,
)
from torch import Tensor, nn

from steadymap.bench.core.origin import is_ours
from steadymap.bench.measure.runner import run
from steadymap.bench.methods import gradient as attributions
from steadymap.bench.methods import integrated_gradients
from steadymap.bench.methods.batch import Batch
from steadymap.bench.methods.binding import bind_method
from steadymap.bench.methods.method import Engine, Method, Share, foreign
from steadymap.bench.methods.paths import NestedPath
from steadymap.bench.methods.registry import METHODS
from steadymap.bench.network.guard import Guard, left_as_it_was
from steadymap.bench.network.passes import Pass
from steadymap.bench.network.torch_settings import SETTINGS
from steadymap.bench.perturbations.registry import PERTURBATIONS, Perturbation
from steadymap.bench.plan.plan import Plan
from steadymap.models import Classifier, ModelError, make_classifier

BESIDE = ("gradient", "integrated_gradients:baseline=black,steps=4", "grad_cam")
PLAN = small_plan(
    *BESIDE, nulls=1, family=("bias", "compensated_bias"), metric=("spearman", "completeness_error")
)
ALONE = PLAN.model_copy(update={"method": ("rude",), "nulls": 0, "metric": ("spearman",)})


def norm_network() -> nn.Sequential:
    """A network with buffers, dropout, and a layer that is not called by position alone."""
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 4, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(),
        nn.Linear(4 * SIDE * SIDE, len(CLASSES)),
    )


@pytest.fixture
def normed() -> Classifier:
    return replace(tiny(norm_network), name="normed")


def explained(classifier: Classifier, batch: Batch) -> Tensor:
    """Explain as a method that is not ours would."""
    return METHODS["gradient"].explain(classifier, batch)


def add_method(monkeypatch: pytest.MonkeyPatch, method: Method, name: str = "rude") -> None:
    monkeypatch.setitem(METHODS, name, method)


def run_beside(
    monkeypatch: pytest.MonkeyPatch, classifier: Classifier, method: Method, **changes: object
) -> pd.DataFrame:
    """Run a method between ours, and see that ours have the values of a run without it, by bits."""
    add_method(monkeypatch, method)
    plan = PLAN.model_copy(update=changes)
    with_it = plan.model_copy(update={"method": ("gradient", "rude", *BESIDE[1:])})
    before = classifier.weights_hash()
    found = run(classifier, image_set(), with_it)
    assert classifier.weights_hash() == before
    alone = run(classifier, image_set(), plan)
    others = plain(found[found["method"] != "rude"], "run_id")
    pd.testing.assert_frame_equal(others, plain(alone, "run_id"), check_exact=True)
    return pick(found, method="rude")


# --- what is not ours -----------------------------------------------------------------------------


def test_our_own_methods_are_ours() -> None:
    assert not any(map(foreign, METHODS.values()))


def _read(seen: Pass) -> Tensor:
    return attributions.read_gradient(seen)


def _nested(classifier: Classifier, batch: Batch) -> NestedPath:
    return integrated_gradients.nested_path(classifier, batch)


@pytest.mark.parametrize(
    "entry",
    [
        Method(explained, "", ""),
        Method(attributions.gradient, "", "", captum=explained),
        Method(attributions.gradient, "", "", share=Share("gradient", _read)),
        Method(attributions.gradient, "", "", nested=_nested),
    ],
)
def test_a_method_is_foreign_where_any_part_that_is_given_the_network_is(entry: Method) -> None:
    assert foreign(entry)


# --- the network ----------------------------------------------------------------------------------


class Cuckoo(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images * 0


def _flip(network: nn.Sequential) -> None:
    """Put the values of a weight in another order: their sum stays."""
    weight = network.get_parameter("3.weight")
    weight.data = weight.data.flip(0)


def _flip_in_place(network: nn.Sequential) -> None:
    weight = network.get_parameter("3.weight").data
    weight.copy_(weight.flip(3))


def _swap_two(network: nn.Sequential) -> None:
    """Change two values through NumPy: no version counter of torch's moves."""
    values = network.get_parameter("7.weight").detach().numpy()
    values[0, [0, 8]] = values[0, [8, 0]]


def _negative_zero(network: nn.Sequential) -> None:
    network.get_parameter("1.bias").data.neg_()


def _set(network: nn.Sequential, path: str, name: str, value: object) -> None:
    setattr(network.get_submodule(path), name, value)


CHANGES: dict[str, tuple[Callable[[nn.Sequential], object], str]] = {
    "weight": (lambda n: n.get_parameter("0.weight").data.add_(1e-7), "weight 0.weight"),
    "one bit": (_negative_zero, "weight 1.bias"),
    "order": (_flip_in_place, "weight 3.weight"),
    "other memory": (_flip, "weight 3.weight"),
    "by NumPy": (_swap_two, "weight 7.weight"),
    "buffer": (lambda n: n.get_buffer("1.running_mean").add_(1), "buffer 1.running_mean"),
    "new parameter": (
        lambda n: _set(n, "0", "bias", nn.Parameter(torch.zeros(4))),
        "weight 0.bias",
    ),
    "half": (lambda n: n[7].half(), "weight 7.weight, weight 7.bias"),
    "train mode": (lambda n: n.train(), "train mode"),
    "train mode of one": (lambda n: n[6].train(), "train mode of layer 6"),
    "requires_grad": (
        lambda n: n.get_parameter("0.weight").requires_grad_(),
        "requires_grad of 0.weight",
    ),
    "hook": (
        lambda n: n[2].register_forward_hook(lambda _m, _i, output: output * 2),
        "a hook on layer 2",
    ),
    "hook before": (
        lambda n: n[2].register_forward_pre_hook(lambda _m, given: given),
        "a hook on layer 2",
    ),
    "hook on the way back": (
        lambda n: n[2].register_full_backward_hook(lambda _m, grads, _out: grads),
        "a hook on layer 2",
    ),
    "layer": (lambda n: n.__setitem__(4, Cuckoo()), "layer 4"),
    "more layers": (lambda n: n.append(Cuckoo()), "layer 8"),
    "attribute": (lambda n: _set(n, "2", "inplace", True), "attribute inplace of layer 2"),
    "forward": (lambda n: _set(n, "2", "forward", torch.abs), "attribute forward of layer 2"),
    "parametrized": (
        lambda n: nn.utils.parametrizations.weight_norm(n[7]),
        "class of layer 7, weight 7.weight, a hook on layer 7 and 1 more",
    ),
    "several": (
        lambda n: [part.requires_grad_() for part in (n[0], n[1], n[7])],
        "requires_grad of 0.weight, requires_grad of 0.bias, requires_grad of 1.weight and 3 more",
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_method_that_leaves_the_network_changed_costs_its_own_cells(
    monkeypatch: pytest.MonkeyPatch, normed: Classifier, change: str
) -> None:
    do, words = CHANGES[change]

    def rude(classifier: Classifier, batch: Batch) -> Tensor:
        maps = explained(classifier, batch)
        do(classifier.module.network)  # type: ignore[arg-type] # a sequence of layers
        return maps

    rows = run_beside(monkeypatch, normed, Method(rude, "", ""))
    perturbed = pick(rows, family="bias")
    expected = f"left the network changed: {words}"
    assert set(perturbed["status"]) == {"error"}
    assert perturbed["detail"].iloc[0].startswith(expected), perturbed["detail"].iloc[0]
    assert rows["value"].isna().all()


def test_what_is_left_by_a_method_that_raises_is_put_back(
    monkeypatch: pytest.MonkeyPatch, normed: Classifier
) -> None:
    def clumsy(classifier: Classifier, _batch: Batch) -> Tensor:
        classifier.module.network.train()
        next(classifier.module.parameters()).data.zero_()
        raise ZeroDivisionError("halfway")

    rows = run_beside(monkeypatch, normed, Method(clumsy, "", ""))
    assert set(rows["detail"]) == {"ZeroDivisionError: halfway"}


def test_the_module_around_the_network_is_a_view_s_own(
    monkeypatch: pytest.MonkeyPatch, normed: Classifier
) -> None:
    def rude(classifier: Classifier, batch: Batch) -> Tensor:
        maps = explained(classifier, batch)
        if classifier.module.shift:
            classifier.module.shift = 0.7
        return maps

    rows = run_beside(monkeypatch, normed, Method(rude, "", ""))
    assert set(rows["status"]) == {"ok"}


def test_changes_that_a_method_takes_back_are_its_own_affair(
    monkeypatch: pytest.MonkeyPatch, normed: Classifier
) -> None:
    def careful(classifier: Classifier, batch: Batch) -> Tensor:
        weight = next(classifier.module.network.parameters())
        before = weight.detach().clone()
        weight.data.mul_(2)
        handle = classifier.module.register_full_backward_hook(lambda _m, _i, _o: None)
        try:
            return explained(classifier, batch)
        finally:
            handle.remove()
            weight.data.copy_(before)

    rows = run_beside(monkeypatch, normed, Method(careful, "", ""))
    assert set(rows["status"]) == {"ok"}


def test_a_foreign_half_of_a_method_is_watched_too(
    monkeypatch: pytest.MonkeyPatch, normed: Classifier
) -> None:
    kept = normed.module.network

    def reading(seen: Pass) -> Tensor:
        kept.train()
        seen.need_gradient().zero_()
        return seen.need_gradient()

    method = Method(attributions.gradient, "", "", share=Share("gradient", reading))
    rows = run_beside(monkeypatch, normed, method, nulls=0)
    assert set(rows["detail"]) <= {
        "left the network changed: train mode",
        "clean image: left the network changed: train mode",
    }


class Counting(nn.Module):
    """A network that writes into itself, which is not a method's doing."""

    calls: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.inner = conv_network()
        self.register_buffer("calls", torch.zeros(()))
        self.last: tuple[int, ...] = ()

    def forward(self, images: Tensor) -> Tensor:
        self.calls += len(images)
        self.last = tuple(images.shape)
        logits: Tensor = self.inner(images)
        return logits


def test_what_the_network_changes_by_itself_is_held_against_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    add_method(monkeypatch, Method(explained, "", ""))
    rows = pick(run(tiny(Counting), image_set(), ALONE), method="rude")
    assert set(rows["status"]) == {"ok"}


def test_one_of_ours_that_changed_the_network_would_end_the_run(
    monkeypatch: pytest.MonkeyPatch, normed: Classifier
) -> None:
    def faulty(classifier: Classifier, batch: Batch) -> Tensor:
        classifier.module.network.get_parameter("0.weight").data.add_(1)
        return explained(classifier, batch)

    monkeypatch.setattr("steadymap.bench.measure.explain.foreign", lambda _method: False)
    add_method(monkeypatch, Method(faulty, "", ""))
    with pytest.raises(ModelError, match=r"normed changed while .* others: weight 0.weight;"):
        run(normed, image_set(), ALONE)


@pytest.mark.parametrize("engine", ["own", "captum"])
@pytest.mark.parametrize("name", METHODS)
def test_none_of_ours_leaves_anything_changed(name: str, engine: Engine) -> None:
    """As if each were another's: nothing is found, with either engine."""
    classifier = tiny()
    guard, batch = Guard(classifier, keep=True), batch_of(random_images(2))
    method = bind_method(name)
    if method.unfit(classifier, engine) is None:
        with left_as_it_was(guard, batch.images):
            method.explain(classifier, batch, engine)
    assert guard.changed() == []


def test_the_sums_tell_every_change_of_a_value_and_of_an_order() -> None:
    classifier = make_classifier(nn.Sequential(nn.Flatten(), nn.Linear(3, 2)), (1, 1))
    linear = classifier.module.network[1]  # type: ignore[index] # a sequence of layers
    for size in (1, 2, 3, 1023, 1024, 1025, 2500):
        for dtype in (torch.float32, torch.float16, torch.int8):
            values = torch.arange(1, size + 1).to(dtype)
            linear.register_buffer("wide", values)
            guard = Guard(classifier, keep=True)
            generator = torch.Generator().manual_seed(size)
            for place in torch.randint(size, (5,), generator=generator).tolist():
                before = values.clone()
                values[place] += 1
                assert guard.changed() == ["buffer 1.wide"], (size, dtype, place)
                guard.put_back(random_images(1, 1))
                assert torch.equal(values, before)
                other = (place + size // 2) % size
                if values[place] != values[other]:
                    values[[place, other]] = values[[other, place]]
                    assert guard.changed() == ["buffer 1.wide"], (size, dtype, place)
                    guard.put_back(random_images(1, 1))
                    assert torch.equal(values, before)


@pytest.mark.parametrize(("first", "second"), [(0, 2), (0, 2048), (5, 2053), (1, 4099)])
def test_the_sums_tell_an_exchange_within_a_row_and_within_a_column(
    first: int, second: int
) -> None:
    """Sums are of 8 bytes, two values each, in rows of 1024: 2048 values."""
    classifier = make_classifier(nn.Sequential(nn.Flatten(), nn.Linear(3, 2)), (1, 1))
    values = torch.arange(3 * 2048).float()
    classifier.module.network.register_buffer("wide", values)
    guard = Guard(classifier, keep=True)
    values[[first, second]] = values[[second, first]]
    assert guard.changed() == ["buffer wide"]


# --- the process ----------------------------------------------------------------------------------

_held: list[object] = []


def _enter(context: object) -> None:
    context.__enter__()  # type: ignore[attr-defined] # a context manager
    _held.append(context)  # or it would be left when it is collected


@pytest.fixture
def _settings() -> Iterator[None]:
    before = {name: setting.read() for name, setting in SETTINGS.items()}
    yield
    _held.clear()
    for name, setting in SETTINGS.items():
        if setting.read() != before[name]:
            setting.write(before[name])


SWITCHES: dict[str, tuple[Callable[[], object], str]] = {
    "grad mode": (lambda: torch.set_grad_enabled(False), "left grad mode changed"),
    "default dtype": (lambda: torch.set_default_dtype(torch.float64), "left default dtype changed"),
    "inference mode": (lambda: _enter(torch.inference_mode()), "left inference mode changed"),
    "autocast": (lambda: torch.set_autocast_enabled("cpu", True), "left autocast changed"),
    "default device": (lambda: torch.set_default_device("meta"), "left default device changed"),
    "global hook": (
        lambda: nn.modules.module.register_module_forward_hook(lambda _m, _i, output: output * 2),
        "left a hook on all layers",
    ),
    "threads": (lambda: torch.set_num_threads(torch.get_num_threads() + 1), ""),
    "determinism": (lambda: torch.use_deterministic_algorithms(True, warn_only=True), ""),
    "cudnn": (lambda: setattr(torch.backends.cudnn, "benchmark", True), ""),
    "onednn": (lambda: setattr(torch.backends.mkldnn, "enabled", False), ""),
    "attention": (lambda: torch.backends.cuda.enable_flash_sdp(False), ""),
    "numpy's errors": (lambda: np.seterr(all="raise"), ""),
}


@pytest.mark.usefixtures("_settings")
@pytest.mark.parametrize("switch", SWITCHES)
def test_settings_that_a_method_leaves_switched_are_put_back(
    monkeypatch: pytest.MonkeyPatch, classifier: Classifier, switch: str
) -> None:
    do, words = SWITCHES[switch]
    before = {name: setting.read() for name, setting in SETTINGS.items()}

    def rude(network: Classifier, batch: Batch) -> Tensor:
        maps = explained(network, batch)
        do()
        return maps

    rows = run_beside(monkeypatch, classifier, Method(rude, "", ""), nulls=0)
    assert {name: setting.read() for name, setting in SETTINGS.items()} == before
    expected = {words, f"clean image: {words}"} if words else {""}
    assert set(rows["detail"]) <= expected
    assert set(rows["status"]) == ({"error"} if words else {"ok"})


@pytest.mark.filterwarnings("ignore:Anomaly Detection has been enabled")
@pytest.mark.usefixtures("_settings")
def test_anomaly_mode_is_put_back(classifier: Classifier) -> None:
    with left_as_it_was(Guard(classifier, keep=True), random_images(1)):
        torch.autograd.set_detect_anomaly(True)
    assert not torch.is_anomaly_enabled()


def test_random_numbers_are_put_back_and_start_where_they_were(
    monkeypatch: pytest.MonkeyPatch, classifier: Classifier
) -> None:
    """A map and its perturbed self get the same numbers, whatever else has drawn some."""
    drawn = []

    def careless(_network: Classifier, batch: Batch) -> Tensor:
        numbers = np.random.rand(3), random.random()  # noqa: NPY002, S311 - as careless ones do
        drawn.append([torch.rand(3).tolist(), numbers[0].tolist(), numbers[1]])
        torch.manual_seed(5)
        return batch.images

    state = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # type: ignore[index] # noqa: NPY002 - the global one
    rows = run_beside(monkeypatch, classifier, Method(careless, "", ""), nulls=0)
    assert set(rows["status"]) == {"ok"}
    assert torch.equal(torch.get_rng_state(), state[0])
    assert np.random.get_state()[1].tolist() == state[1]  # type: ignore[index] # noqa: NPY002 - the global one
    assert random.getstate() == state[2]
    assert len(drawn) == 3
    assert drawn[0] == drawn[1] == drawn[2]


# --- the batch and the maps -----------------------------------------------------------------------


def test_what_a_method_writes_into_its_batch_nobody_else_sees(
    monkeypatch: pytest.MonkeyPatch, classifier: Classifier
) -> None:
    def scribbler(network: Classifier, batch: Batch) -> Tensor:
        maps = explained(network, batch)
        for one in (batch.images, batch.references, batch.targets):
            if one is not None:
                one.fill_(1)
        return maps

    method = Method(scribbler, "", "", needs_references=lambda _parameters: True)
    rows = run_beside(monkeypatch, classifier, method)
    # The write itself harms nobody, and is not held against the maps; some images have none of
    # their class beside them.
    assert set(rows["status"]) <= {"ok", "skipped"}
    assert set(rows[~rows["metric"].str.contains("same_class")]["status"]) == {"ok"}
    kept = pick(rows, family="compensated_bias", metric="spearman")["value"]
    np.testing.assert_allclose(kept, 1, atol=1e-3)


def test_maps_that_a_method_changes_afterwards_have_been_taken_before(
    monkeypatch: pytest.MonkeyPatch, classifier: Classifier
) -> None:
    """One buffer for all maps, and views of weights, are copied when they come."""
    buffer = torch.empty(0)

    def reusing(network: Classifier, batch: Batch) -> Tensor:
        nonlocal buffer
        maps = explained(network, batch)
        if buffer.shape != maps.shape:
            buffer = torch.empty_like(maps)
        return buffer.copy_(maps)

    add_method(monkeypatch, Method(reusing, "", ""))
    add_method(monkeypatch, Method(explained, "", ""), "fair")
    plan = PLAN.model_copy(update={"method": ("rude", "fair"), "metric": ("spearman",)})
    monkeypatch.setattr(
        "steadymap.bench.plan.setup.images_at_once", lambda _classifier, _workers: 2
    )
    # Four images in parts of two, from the same buffer.
    found = run(classifier, image_set(4), plan)
    np.testing.assert_array_equal(
        pick(found, method="rude")["value"], pick(found, method="fair")["value"]
    )


def test_a_view_of_the_weights_may_be_returned(
    monkeypatch: pytest.MonkeyPatch, classifier: Classifier
) -> None:
    def looking(network: Classifier, batch: Batch) -> Tensor:
        weight = network.module.network.get_parameter("0.weight")
        return weight[: len(batch.images)]

    rows = run_beside(monkeypatch, classifier, Method(looking, "", ""), nulls=0)
    assert set(rows["status"]) == {"ok"}


@pytest.mark.parametrize("nulls", [0, 1])
def test_workers_do_not_see_what_a_method_does_to_the_weights_meanwhile(
    monkeypatch: pytest.MonkeyPatch, nulls: int
) -> None:
    def slow(network: Classifier, batch: Batch) -> Tensor:
        weights = [one.detach() for one in network.module.parameters()]
        kept = [one.clone() for one in weights]
        for one in weights:
            one.zero_()
        time.sleep(0.05)
        for one, before in zip(weights, kept, strict=True):
            one.copy_(before)
        return explained(network, batch)

    rows = run_beside(monkeypatch, tiny(), Method(slow, "", ""), jobs=2, batch_size=1, nulls=nulls)
    ours = rows[~rows["family"].isin(("other_image", "random_network"))]
    ours = ours[~ours["metric"].str.contains("same_class")]
    assert set(ours["status"]) == {"ok"}


def test_a_copy_has_weights_of_its_own(classifier: Classifier) -> None:
    copied, replica = classifier.copy(), classifier.replica()
    for other, shares in ((copied, False), (replica, True)):
        assert other.weights_hash() == classifier.weights_hash()
        pairs = zip(other.module.parameters(), classifier.module.parameters(), strict=True)
        assert {a.data_ptr() == b.data_ptr() for a, b in pairs} == {shares}


# --- what stops, and what does not ----------------------------------------------------------------


def test_an_exit_is_an_error_of_the_cell(
    monkeypatch: pytest.MonkeyPatch, classifier: Classifier
) -> None:
    def leaving(_network: Classifier, _batch: Batch) -> Tensor:
        raise SystemExit(3)

    rows = run_beside(monkeypatch, classifier, Method(leaving, "", ""), nulls=0)
    assert set(rows["detail"]) == {"SystemExit: 3"}


@pytest.mark.parametrize("workers", [1, 2])
def test_an_interrupt_ends_the_run_and_leaves_the_network_as_it_was(
    monkeypatch: pytest.MonkeyPatch, classifier: Classifier, workers: int
) -> None:
    def interrupted(network: Classifier, _batch: Batch) -> Tensor:
        network.module.network.train()
        raise KeyboardInterrupt

    add_method(monkeypatch, Method(interrupted, "", ""))
    with pytest.raises(KeyboardInterrupt):
        run(classifier, image_set(), ALONE.model_copy(update={"jobs": workers}))
    assert not classifier.module.network.training


# --- attacks --------------------------------------------------------------------------------------


def add_attack(
    monkeypatch: pytest.MonkeyPatch, attack: Callable[..., object], name: str = "siege"
) -> None:
    family = replace(PERTURBATIONS["adversarial"], attack=attack, severities=(0.01,))  # type: ignore[arg-type] # some return no tensor
    monkeypatch.setitem(PERTURBATIONS, name, family)


def attack_plan(**changes: object) -> Plan:
    family = {"family": ("siege", "bias"), "severity": {"siege": (0.01,), "bias": (0.1,)}}
    return PLAN.model_copy(update=family | {"nulls": 0} | changes)


def raising(_network: Classifier, image: Tensor, *_rest: object) -> Tensor:
    if float(image.mean()) > float(MEANS.median()):
        raise ZeroDivisionError("too bright")
    return image + 0.01


def writing(_network: Classifier, image: Tensor, *_rest: object) -> Tensor:
    return image.fill_(0.5)


def training(network: Classifier, image: Tensor, *_rest: object) -> Tensor:
    network.module.network.train()
    return image + 0.01


def shrinking(_network: Classifier, image: Tensor, *_rest: object) -> object:
    return image[..., 1:]


def silent(_network: Classifier, _image: Tensor, *_rest: object) -> object:
    return None


TOO_BRIGHT = "the attack raised ZeroDivisionError: too bright"
SHRUNK = (
    "the attack returned torch.float32 (1, 3, 16, 15) on cpu, "
    "expected torch.float32 (1, 3, 16, 16) on cpu"
)
MEANS = image_set().images(range(5)).mean(dim=(1, 2, 3))
ATTACKS: dict[str, tuple[Callable[..., object], list[str]]] = {
    "raising": (raising, [TOO_BRIGHT if mean > MEANS.median() else "" for mean in MEANS]),
    "writing": (writing, [""] * 5),
    "training": (training, ["the attack left the network changed: train mode"] * 5),
    "shrinking": (shrinking, [SHRUNK] * 5),
    "silent": (silent, ["the attack returned NoneType, expected a tensor"] * 5),
}


@pytest.mark.parametrize("batch_size", [1, 5])
@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_that_fails_costs_its_own_images(
    monkeypatch: pytest.MonkeyPatch, classifier: Classifier, name: str, batch_size: int
) -> None:
    attack, reasons = ATTACKS[name]
    add_attack(monkeypatch, attack)
    # It is tried on one image before the run, where it must not fail.
    monkeypatch.setattr("steadymap.bench.plan.setup._refuse_attacks", lambda _setup: None)
    found = run(classifier, image_set(), attack_plan(batch_size=batch_size))
    hit = pick(found, family="siege")
    for picture, reason in zip(image_set().pictures, reasons, strict=True):
        rows = pick(hit, image_id=picture.image_id)
        assert set(rows["detail"]) == {reason}
        assert set(rows["status"]) == ({"error"} if reason else {"ok"})
        assert rows["pred_perturbed"].isna().all() == bool(reason)
    alone = run(classifier, image_set(), attack_plan(batch_size=batch_size, family=("bias",)))
    others = found[found["family"] != "siege"].reset_index(drop=True)
    pd.testing.assert_series_equal(others["value"], alone["value"], check_exact=True)
    assert not classifier.module.network.training


def test_our_own_families_are_ours() -> None:
    attacks = [family.attack for family in PERTURBATIONS.values() if family.attack is not None]
    assert attacks
    assert all(map(is_ours, attacks))
    assert isinstance(PERTURBATIONS["adversarial"], Perturbation)
