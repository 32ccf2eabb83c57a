"""What a run will cost: passes counted exactly, time and memory from a calibration of seconds."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

from steadymap.bench.core.machine import peak_memory
from steadymap.bench.data.image_set import ImageSet
from steadymap.bench.measure import probes, scores, view
from steadymap.bench.methods.method import BoundMethod
from steadymap.bench.network.memory import TIMES_HELD, activation_bytes
from steadymap.bench.network.passes import Pass, Read, shared_pass
from steadymap.bench.network.torch_settings import float32, threads_each
from steadymap.bench.perturbations import apply, registry
from steadymap.bench.perturbations.attack import differentiable_twice, smoothed
from steadymap.bench.plan.admitting import deletion_passes, yardstick_maps
from steadymap.bench.plan.blocks import BLOCK
from steadymap.bench.plan.setup import Setup, calibrated, wanted
from steadymap.metrics import PROBES
from steadymap.models import Classifier

# Shares of the seconds that the calibration may take, after one warm-up of each.
PASS_SHARE = 0.6
METRIC_SHARE = 0.25
IMAGE_SHARE = 0.15
METRIC_IMAGES = BLOCK


@dataclass(frozen=True)
class Passes:
    """Images that go through the network in a run.

    What an attack sends through its own copy with softplus in ReLU's place is not counted.

    Attributes:
        forward: how many times an image goes forward.
        backward: how many of these come back.
        at_least: whether that is a lower bound, because a method takes what it needs, or an attack
            finds no such copy.
        attacks: how many of both an attack sends.
        deletions: how many of those that go forward alone have cells deleted, at most.
    """

    forward: int
    backward: int
    at_least: bool
    attacks: int = 0
    deletions: int = 0


@dataclass(frozen=True)
class Estimate:
    """What a run will cost on this machine.

    Attributes:
        passes: through the network.
        maps: how many there will be.
        pass_seconds: for the passes.
        metric_seconds: for the metrics.
        image_seconds: for reading and perturbing images.
        attack_seconds: for attacks, with all their passes; `pass_seconds` is without these.
        memory: bytes that the process will hold at its peak, resident or on the GPU.
    """

    passes: Passes
    maps: int
    pass_seconds: float
    metric_seconds: float
    image_seconds: float
    attack_seconds: float
    memory: int

    @property
    def seconds(self) -> float:
        """By the clock."""
        return self.pass_seconds + self.metric_seconds + self.image_seconds + self.attack_seconds


def count(setup: Setup) -> Passes:
    """Count the passes of a run: exactly, unless a method takes as many steps as it needs.

    A method that is not ours counts as often as it declares; through captum, as ours would.
    """
    plan, methods = setup.plan, list(setup.methods)
    cells = plan.cells()
    views = setup.view_count()
    applied = [m for m in methods if m.unfit(setup.classifier, plan.engine) is None]
    alone = [m for m in applied if plan.engine == "captum" or m.share is None]
    shared = len(alone) < len(applied)
    apart = views * sum(method.passes for method in alone)
    redraws = {method: times for method, times in setup.redraws().items() if method in alone}
    apart += sum(times * method.passes for method, times in redraws.items())
    backward = views * shared + apart
    size = setup.classifier.input_size
    forward = views + apart + views * sum(method.forward_only(size) for method in alone)
    forward += sum(times * method.forward_only(size) for method, times in redraws.items())
    shifts = {registry.FAMILY_SHELF.find(c.family).shift(c.severity) for c in cells} - {0.0}
    starts = {
        method.start
        for method, metrics in setup.methods.items()
        if any(metric.against == "delta" for metric in metrics.values())
    }
    for start in filter(None, starts):
        # Of the clean image, and of what changes them: every cell, or a shift alone.
        others = len(cells) if start.of_view else len(shifts)
        forward += len(setup.images) * start.draws * (1 + others)
    forward += (deletions := deletion_passes(setup))
    # Plain gradient's own maps, of the network and the randomised ones, where it does not run.
    yardstick = yardstick_maps(setup)
    forward, backward = forward + yardstick, backward + yardstick
    forward += probes.probe_passes(wanted(setup.methods), len(setup.images), len(applied))
    adaptive = [method for method in alone if method.adaptive]
    # Both ends of a path, for the logit difference that its sum is held against.
    redrawn = sum(times for method, times in redraws.items() if method.adaptive)
    forward += 2 * (views * len(adaptive) + redrawn)
    attacking = len(setup.images) * sum(
        registry.FAMILY_SHELF.find(c.family).passes for c in setup.attacks()
    )
    unknown = bool(attacking) and smoothed(setup.classifier) is setup.classifier
    return Passes(
        forward + attacking, backward + attacking, bool(adaptive) or unknown, attacking, deletions
    )


def estimate(setup: Setup, seconds: float = 2.0) -> Estimate:
    """Calibrate for about so many seconds, and say what a run will cost.

    The calibration runs as many workers as the run will, each on passes of the run's own size.
    """
    passes = count(setup)
    device = setup.classifier.module.mean.device
    # Before the calibration, whose own passes would be counted twice.
    held = peak_memory(device)
    classifiers = setup.classifiers()
    at_once = setup.at_once
    exact = setup.plan.precision == "ieee"
    attacks = setup.attacks()
    with (
        threads_each(setup.plan.jobs),
        float32(device, exact=exact),
        differentiable_twice(enabled=bool(attacks)),
    ):
        rate = _throughput(
            [_pass_work(own, setup.images, at_once, reads_of(own)) for own in classifiers],
            seconds * PASS_SHARE * 0.75,
        )
        forward_rate = _throughput(
            [_pass_work(own, setup.images, at_once, ()) for own in classifiers],
            seconds * PASS_SHARE * 0.25,
        )
        metric_rate = _throughput(
            [_metric_work(own, setup) for own in classifiers], seconds * METRIC_SHARE
        )
        image_rate = _throughput([_image_work(setup)] * len(classifiers), seconds * IMAGE_SHARE)
        attack_seconds = 0.0
        if attacks:
            works = [_attack_work(own, setup) for own in classifiers]
            attack_seconds = len(setup.images) * len(attacks) / _throughput(works, 0.0)
    activations = setup.plan.jobs * at_once * activation_bytes(setup.classifier) * TIMES_HELD
    views = setup.view_count()
    return Estimate(
        passes,
        setup.map_count(),
        (passes.backward - passes.attacks) / rate
        + (passes.forward - passes.backward) / forward_rate,
        views / metric_rate,
        views / image_rate,
        attack_seconds,
        held.get("cuda_allocated", held.get("resident", 0)) + activations,
    )


def reads_of(classifier: Classifier) -> tuple[Read, ...]:
    """Return what a pass is timed with: there and back, where the network has a way back."""
    return ("gradient",) if classifier.differentiable else ()


def rough_seconds(setup: Setup) -> float:
    """Return about how long the passes of a run take, from one batch of each worker."""
    device = setup.classifier.module.mean.device
    exact = setup.plan.precision == "ieee"
    with threads_each(setup.plan.jobs), float32(device, exact=exact):
        works = [
            _pass_work(own, setup.images, setup.at_once, reads_of(own))
            for own in setup.classifiers()
        ]
        rate = _throughput(works, 0.0)
    passes = count(setup)
    # One that does not come back takes about a third of one that does.
    return (passes.backward + (passes.forward - passes.backward) / 3) / rate


def _throughput(works: list[Callable[[], int]], seconds: float) -> float:
    """Return how many units a second all works do together, each in a thread of its own."""
    together = threading.Barrier(len(works))

    def repeat(work: Callable[[], int]) -> float:
        try:
            work()
        except BaseException:
            together.abort()  # or the others would wait for ever
            raise
        together.wait()
        started, units = time.perf_counter(), 0
        while (elapsed := time.perf_counter() - started) < seconds or not units:
            units += work()
        return units / elapsed

    with ThreadPoolExecutor(len(works)) as pool:
        return sum(pool.map(repeat, works))


def _pass_work(
    classifier: Classifier, images: ImageSet, at_once: int, reads: tuple[Read, ...]
) -> Callable[[], int]:
    """Return a pass of `at_once` copies of an image: what is in them changes no speed."""
    device = classifier.module.mean.device
    points = images.read(0).image.to(device).expand(at_once, -1, -1, -1)

    def work() -> int:
        seen = shared_pass(classifier, points, None, reads, at_once)
        seen.logits.cpu()  # on a GPU: waits for the end
        return at_once

    return work


def _metric_work(classifier: Classifier, setup: Setup) -> Callable[[], int]:
    """Return the metrics of one view of a few images, with maps as large as each method's."""
    frames = [setup.images.read(index) for index in range(min(METRIC_IMAGES, len(setup.images)))]
    count = len(frames)
    images = torch.stack([frame.image for frame in frames]).to(classifier.module.mean.device)
    reads: tuple[Read, ...] = ("gradient", "layer") if classifier.cam_layer else ("gradient",)
    clean = shared_pass(classifier, images, None, reads, count)
    moved = shared_pass(classifier, images + 0.1, clean.targets, reads, count)
    masks = [frame.mask for frame in frames if frame.mask is not None]
    evidence = {"delta": np.ones(count)} | ({"mask": np.stack(masks)} if masks else {})

    def attributions(method: BoundMethod, seen: Pass) -> torch.Tensor:
        coarse = method.method.share is not None and method.method.share.reads == "layer"
        return seen.need_layer()[0][:, :1] if coarse else seen.need_gradient()

    applied = {m: x for m, x in setup.methods.items() if not m.unfit(classifier)}
    known = {method: view.explained(attributions(method, clean), count) for method in applied}
    everyone = np.arange(count)
    others = ~np.eye(count, dtype=bool)
    beside = scores.Beside((everyone,), others, others)

    def work() -> int:
        for method, metrics in applied.items():
            current = view.explained(attributions(method, moved), count)
            for metric in metrics.values():
                if metric.against in PROBES:
                    continue  # their passes are counted; the rest is little beside them
                scores.score(metric, known[method], current, evidence)
            twins = (known[method],) * setup.plan.nulls
            placed = scores.Compared(known[method], current, twins, evidence)
            for name in calibrated(metrics, setup.plan) if setup.plan.nulls else ():
                scores.matched(metrics[name], placed, beside)
        return count

    return work


def _image_work(setup: Setup) -> Callable[[], int]:
    """Return reading an image and perturbing it for every cell, as views."""
    picture = setup.images.pictures[0]
    cells = setup.plan.cells()
    alone = [cell for cell in cells if registry.FAMILY_SHELF.find(cell.family).attack is None]

    def work() -> int:
        image = setup.images.read(0).image
        for cell in alone:
            apply.attempt(image, cell, picture.image_id, setup.plan.seed)
        return len(cells) + 1

    return work


def _attack_work(classifier: Classifier, setup: Setup) -> Callable[[], int]:
    """Return one attack on one image: it takes as long whatever the severity."""
    cell = setup.attacks()[0]
    attack = registry.FAMILY_SHELF.find(cell.family).attack
    if attack is None:
        raise TypeError(f"{cell.family} has no attack")
    image = setup.images.read(0).image[None].to(classifier.module.mean.device)
    target = classifier(image).detach().argmax(dim=1)
    image_id = setup.images.pictures[0].image_id

    def work() -> int:
        draw = apply.draw_of(cell, image_id, setup.plan.seed)
        attack(classifier, image, target, cell.severity, draw).cpu()
        return 1

    return work
