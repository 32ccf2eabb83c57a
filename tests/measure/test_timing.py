"""What a timing says; never how long anything took."""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from rich.console import Console
from support import linear_network, python, random_images, tiny
from torch import Tensor

from steadymap.bench.commands.time import agreement_table, timing_notes, timing_table
from steadymap.bench.core.machine import fingerprint, machine, peak_memory
from steadymap.bench.data.image_set import from_tensor
from steadymap.bench.measure import timing
from steadymap.bench.measure.agreement import Agreement, agreement
from steadymap.bench.measure.course import Course
from steadymap.bench.measure.timing import Stopwatch, Timed, report, time_device
from steadymap.bench.methods.batch import Batch
from steadymap.bench.methods.method import BoundMethod, Method
from steadymap.bench.methods.registry import METHODS
from steadymap.models import Classifier

SPECS = ("gradient", "integrated_gradients:baseline=black,steps=3", "grad_cam:relu=true")
COURSE = Course("compact", None, SPECS, batch=2, repeats=3, fresh=False, keep_heap=False)
IMAGES = from_tensor(random_images(4, 64))


def quiet(_text: str) -> None:
    """Say nothing."""


def shown(table: object) -> str:
    console = Console(width=200)
    with console.capture() as captured:
        console.print(table)
    return captured.get()


@pytest.fixture(scope="module")
def rows() -> list[Timed]:
    return time_device(COURSE, IMAGES, "cpu", quiet)


def test_a_stopwatch_gives_median_quartiles_and_least() -> None:
    seconds = [5.0, 1.0, 4.0, 2.0, 3.0]
    watch = Stopwatch.of(seconds)
    assert (watch.median, watch.least, watch.runs) == (statistics.median(seconds), 1.0, 5)
    low, high = np.percentile(seconds, [25, 75])
    assert (watch.low, watch.high) == (low, high) == (2.0, 4.0)


@pytest.mark.parametrize(("width", "steady"), [(0.05, True), (0.06, False)])
def test_a_timing_is_unstable_where_its_quartiles_are_a_tenth_apart(
    width: float, *, steady: bool
) -> None:
    watch = Stopwatch(1.0, 1.0 - width, 1.0 + width - 1e-9, 0.5, 9)
    assert watch.steady == steady
    row = Timed("gradient", "cpu", "", 4, watch, None, 4, watch, 1.0, 1.0)
    assert ("unstable" in shown(timing_table([row]))) != steady


def test_every_method_is_timed_with_its_passes(rows: list[Timed]) -> None:
    assert [row.method for row in rows] == list(SPECS)
    assert [(row.forward, row.backward) for row in rows] == [(1, 1), (3, 3), (1, 1)]
    for row in rows:
        assert not row.missing
        assert row.warm is not None
        assert row.warm.runs == COURSE.repeats
        assert row.device_only is None  # there are no events on a CPU
        assert row.best_batch in timing.BATCHES["cpu"]
        assert row.fresh is None


def test_methods_take_turns_on_inputs_never_seen_before(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, bytes]] = []
    explain = BoundMethod.explain

    def note(self: BoundMethod, classifier: Classifier, batch: Batch) -> Tensor:
        seen.append((self.spec, batch.images.numpy().tobytes()))
        return explain(self, classifier, batch)

    monkeypatch.setattr(BoundMethod, "explain", note)
    monkeypatch.setitem(timing.BATCHES, "cpu", (2,))
    time_device(COURSE, IMAGES, "cpu", quiet)
    assert len({pixels for _, pixels in seen}) == len(seen)
    # After one warm-up each, three rounds of all three.
    assert [spec for spec, _ in seen][:12] == list(SPECS) * 4


def test_where_there_is_no_such_device_every_row_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    rows = time_device(COURSE, IMAGES, "cuda", quiet)
    assert {row.missing for row in rows} == {"torch sees no CUDA device here"}
    assert all(row.warm is None and row.forward is None for row in rows)
    assert len(rows) == len(SPECS)
    facts = machine(torch.device("cpu"))
    notes = timing_notes(COURSE, facts, rows, [])
    assert notes[0] == "-: not timed on cuda: torch sees no CUDA device here"
    shown(timing_table(rows))


def test_what_does_not_apply_is_not_timed() -> None:
    class Linear(Course):
        def load(self, device: str) -> Classifier:
            assert device == "cpu"
            return tiny(linear_network)

    course = Linear(
        "", None, ("grad_cam:relu=true", "gradient"), 2, 2, fresh=False, keep_heap=False
    )
    rows = time_device(course, from_tensor(random_images(3)), "cpu", quiet)
    assert {row.method: bool(row.missing) for row in rows} == {
        "grad_cam:relu=true": True,
        "gradient": False,
    }


def test_everything_goes_into_json(rows: list[Timed]) -> None:
    parity = [Agreement("gradient", "cpu", 0.0, 1.0)]
    text = json.dumps(report(COURSE, rows, parity))
    found = json.loads(text)
    assert [row["method"] for row in found["rows"]] == list(SPECS)
    assert found["rows"][0]["warm"]["runs"] == 3
    assert found["machines"]["cpu"]["threads"] == torch.get_num_threads()
    assert found["agreement"] == [
        {"method": "gradient", "device": "cpu", "relative_l2": 0.0, "rank": 1.0, "missing": ""}
    ]


def test_a_fingerprint_stands_for_all_facts() -> None:
    facts = machine(torch.device("cpu"))
    assert fingerprint(facts) == fingerprint(dict(reversed(facts.items())))
    assert fingerprint(facts) != fingerprint(facts | {"threads": 99})


def test_the_memory_of_a_fresh_process_is_its_own() -> None:
    """A child begins with its parent's peak in `getrusage`; ours must not."""
    if "resident" not in peak_memory(torch.device("cpu")):
        pytest.skip("nobody says here what is resident")
    large = torch.ones(1 << 28)  # 1 GiB, touched
    code = """
        from steadymap.bench.core.machine import peak_memory
        import torch
        print(peak_memory(torch.device("cpu"))["resident"])
    """
    assert int(python(code).stdout) < large.nbytes < peak_memory(torch.device("cpu"))["resident"]


@pytest.mark.skipif(sys.platform != "linux", reason="page faults are counted on Linux")
def test_a_retained_heap_asks_the_kernel_for_less() -> None:
    """The faults of repeated large allocations: counted by the kernel, not timed."""
    code = """
        import resource, torch
        from steadymap.bench.core.machine import retain_heap
        if {retain} and not retain_heap():
            print(-1)
            raise SystemExit
        def once():
            return (torch.ones(1 << 24) + 1).sum()  # 64 MiB: beyond any threshold of glibc
        for _ in range(5):
            once()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(20):
            once()
        print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    """
    kept, given_back = (int(python(code.format(retain=keep)).stdout) for keep in (True, False))
    if kept < 0:
        pytest.skip("this is not glibc")
    assert kept * 10 < given_back


def test_the_library_leaves_the_heap_alone() -> None:
    code = """
        import steadymap.bench.core.machine as machine
        machine.retain_heap = None  # a call would raise
        import torch
        from steadymap.bench import Plan, run
        from steadymap.models import load_classifier
        plan = Plan(
            method=("gradient",), family=("bias",), severity=(0.1,), metric=("ssim",),
            controls=False, nulls=0,
        )
        print(len(run(load_classifier("compact"), torch.rand(2, 3, 64, 64), plan)))
    """
    done = python(code)
    assert done.stdout == "8\n", done.stderr


def test_importing_the_package_alone_loads_no_torch() -> None:
    code = """
        import sys
        import steadymap.bench.start
        print("torch" in sys.modules)
    """
    assert python(code).stdout == "False\n"


def test_every_name_of_the_package_is_there() -> None:
    import steadymap.bench as package  # noqa: PLC0415 - the subject

    for name in package.__all__:
        assert getattr(package, name) is not None
    assert set(dir(package)) == set(package.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        package.nothing  # noqa: B018 - the access is the test


# --- methods that go wrong ------------------------------------------------------------------------


def raising(_classifier: Classifier, _batch: Batch) -> Tensor:
    raise ZeroDivisionError("no\nmap")


def leaving(_classifier: Classifier, _batch: Batch) -> Tensor:
    raise SystemExit(3)


def training(classifier: Classifier, batch: Batch) -> Tensor:
    maps = METHODS["gradient"].explain(classifier, batch)
    classifier.module.train()
    return maps


def large_ones(classifier: Classifier, batch: Batch) -> Tensor:
    if len(batch.images) > 4:
        raise ZeroDivisionError("too many")
    return METHODS["gradient"].explain(classifier, batch)


def hungry(classifier: Classifier, batch: Batch) -> Tensor:
    if len(batch.images) > 4:
        raise torch.OutOfMemoryError("full")
    return METHODS["gradient"].explain(classifier, batch)


def starving(_classifier: Classifier, _batch: Batch) -> Tensor:
    raise MemoryError("full")


FAULTS: dict[str, tuple[Callable[..., Tensor], str]] = {
    "raising": (raising, "ZeroDivisionError: no map"),
    "leaving": (leaving, "SystemExit: 3"),
    "training": (training, "left the network changed: train mode"),
    "large_ones": (large_ones, "ZeroDivisionError: too many"),
    "starving": (starving, "MemoryError: full (batch of 2)"),
    "hungry": (hungry, ""),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_method_that_goes_wrong_is_told_in_its_row_and_the_others_are_timed(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    explain, reason = FAULTS[name]
    monkeypatch.setitem(METHODS, name, Method(explain, "", ""))
    course = replace(COURSE, methods=(name, *SPECS[:2]), repeats=2)
    monkeypatch.setitem(timing.BATCHES, "cpu", (1, 4, 5))
    found = {row.method: row for row in time_device(course, IMAGES, "cpu", quiet)}
    assert set(found) == {name, *SPECS[:2]}
    assert found[name].missing == reason
    assert (found[name].warm is None) == bool(reason)
    for spec in SPECS[:2]:
        assert not found[spec].missing
        assert found[spec].warm is not None
    assert [(found[spec].forward, found[spec].backward) for spec in SPECS[:2]] == [(1, 1), (3, 3)]
    if not reason:
        assert found[name].best_batch in (1, 4)
        assert (found[name].forward, found[name].backward) == (1, 1)
    else:
        notes = timing_notes(course, machine(torch.device("cpu")), list(found.values()), [])
        assert notes[0] == f"-: not timed on cpu: {reason}"
    shown(timing_table(list(found.values())))


@pytest.mark.parametrize("name", ["raising", "leaving", "training"])
def test_a_method_that_goes_wrong_is_compared_with_nothing(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    explain, reason = FAULTS[name]
    monkeypatch.setitem(METHODS, name, Method(explain, "", ""))
    course = replace(COURSE, methods=(name, "gradient"))
    wrong, fine = agreement(course, IMAGES, "cpu")
    assert wrong.missing == reason
    assert (fine.missing, fine.relative_l2) == ("", 0.0)
    notes = timing_notes(course, machine(torch.device("cpu")), [], [wrong, fine])
    assert f"-: {name} on cpu not compared: {reason}" in notes
    assert "0.0e+00" in shown(agreement_table([wrong, fine]))


def test_a_method_that_cannot_say_whether_it_applies_is_not_timed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def unsure(_classifier: Classifier) -> str | None:
        raise ZeroDivisionError("who knows")

    monkeypatch.setitem(METHODS, "unsure", Method(hungry, "", "", inapplicable=unsure))
    course = replace(COURSE, methods=("unsure", "gradient"), repeats=2)
    monkeypatch.setitem(timing.BATCHES, "cpu", (1,))
    unfit, fine = time_device(course, IMAGES, "cpu", quiet)
    assert unfit.missing == "does it apply? ZeroDivisionError: who knows"
    assert not fine.missing


def test_a_cold_start_that_goes_wrong_is_told_in_its_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process of its own knows nothing of a method that was put in by hand."""
    monkeypatch.setitem(METHODS, "hungry", Method(hungry, "", ""))
    monkeypatch.setitem(timing.BATCHES, "cpu", (1,))
    course = replace(COURSE, methods=("hungry",), repeats=2, fresh=True)
    (row,) = time_device(course, IMAGES, "cpu", quiet)
    assert row.missing.startswith("in a process of its own: PluginError: unknown method 'hungry'")
