"""Checks that a method is what it says it is: `steadymap check`.

Each holds maps against a truth that needs no reference implementation: a closed form, or a change
of network or image whose effect on the map is known. All in double precision, on small networks.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from rich import box
from rich.markup import escape
from rich.table import Table
from torch import Tensor, nn

from steadymap.bench.checks import networks as known
from steadymap.bench.core.errors import one_line
from steadymap.bench.methods.baselines import BASELINES
from steadymap.bench.methods.batch import Batch
from steadymap.bench.methods.method import BoundMethod, Capability, Engine
from steadymap.bench.methods.paths import SETTLED
from steadymap.bench.methods.registry import DEFAULT_METHODS, METHODS, bind_method
from steadymap.bench.network.passes import shared_pass
from steadymap.models import Classifier

# What maps may differ by, as a share of their largest value.
TOLERANCE = 1e-6
IMAGES = 4
REFERENCES = 3
SHIFT = 0.3
STEPS_ENOUGH = 64
STEPS_FEW = 2

Result = Literal["passed", "failed", "not applicable"]


@dataclass(frozen=True)
class Finding:
    """What came of one check of one method.

    Attributes:
        result: passed, failed or not applicable.
        reason: empty where it passed.
    """

    result: Result
    reason: str = ""


PASSED = Finding("passed")


@dataclass(frozen=True)
class Subject:
    """A method under check.

    Attributes:
        method: which one.
        engine: own, or captum.
    """

    method: BoundMethod
    engine: Engine = "own"

    def explain(self, classifier: Classifier, batch: Batch) -> Tensor:
        """Return attributions (B, C, h, w)."""
        return self.method.explain(classifier, batch, self.engine)

    def parameter(self, name: str) -> object:
        """Return the value of a parameter; None where the method has none of that name."""
        return dict(self.method.parameters).get(name)

    def having(self, name: str, value: object) -> Subject:
        """Return the same with another value of a parameter."""
        parameters = tuple(
            (key, value if key == name else old) for key, old in self.method.parameters
        )
        return replace(self, method=replace(self.method, parameters=parameters))

    def agree(self, maps: Tensor, expected: Tensor) -> Finding:
        """Pass where maps are the same up to rounding, relative to the largest expected value.

        A method that takes as many steps as it needs promises no more than it stops at.
        """
        if maps.shape != expected.shape:
            return Finding("failed", f"shape {tuple(maps.shape)}, not {tuple(expected.shape)}")
        tolerance = SETTLED if self.method.adaptive else TOLERANCE
        distance = float((maps - expected).abs().max())
        largest = float(expected.abs().max())
        if distance <= tolerance * largest:
            return PASSED
        return Finding("failed", f"off by {distance:.3g} where the largest value is {largest:.3g}")


def batch_of(images: Tensor, seed: int = 0) -> Batch:
    """Return images with targets 0, 1, 2, ... and names of their own, and other images beside."""
    count = len(images)
    ids = tuple(f"image-{place}" for place in range(count))
    targets = torch.arange(count) % known.CLASSES
    return Batch(images, targets, ids, seed, references=known.images(REFERENCES, seed=2))


def _inapplicable(reason: str) -> Finding:
    return Finding("not applicable", reason)


def form(subject: Subject) -> Finding:
    """Maps are (B, C, h, w), finite and detached."""
    maps = subject.explain(known.convolutional(), batch_of(known.images(IMAGES)))
    if maps.ndim != 4 or len(maps) != IMAGES:  # noqa: PLR2004 - (B, C, h, w)
        shape = tuple(maps.shape)
        return Finding("failed", f"shape {shape}, expected ({IMAGES}, channels, height, width)")
    if not torch.isfinite(maps).all():
        return Finding("failed", "values that are not finite")
    return Finding("failed", "still attached to the graph") if maps.requires_grad else PASSED


def linear(subject: Subject) -> Finding:
    """On a linear network the map is known: w for the gradient, w (x - baseline) if complete."""
    method = subject.method
    batch, network = batch_of(known.images(IMAGES)), known.linear()
    weights = known.linear_weights(network, batch.targets)
    if method.start is not None:
        starts = torch.stack(list(method.start.images(batch)))
        expected: Tensor | None = weights * (batch.images - starts.mean(dim=0))
    else:
        expected = _closed_form(method, weights, batch)
    if expected is None:
        return _inapplicable("no closed form is declared")
    return subject.agree(subject.explain(network, batch), expected)


def _closed_form(method: BoundMethod, weights: Tensor, batch: Batch) -> Tensor | None:
    """Return what `on_linear` says, of the parameters that it asks for."""
    form = method.method.on_linear
    if form is None:
        return None
    asked = inspect.signature(form).parameters.values()
    names = {parameter.name for parameter in asked if parameter.kind is parameter.KEYWORD_ONLY}
    return form(weights, batch, **{key: v for key, v in method.parameters if key in names})


def dummy_channel(subject: Subject) -> Finding:
    """A colour that the network does not look at gets nothing."""
    if subject.method.control:
        return _inapplicable("a control ignores the network")
    network = known.deaf_to_blue(known.convolutional())
    maps = subject.explain(network, batch_of(known.images(IMAGES)))
    if maps.shape[1] != 3:  # noqa: PLR2004 - red, green, blue
        return _inapplicable("maps have no colours")
    most = float(maps[:, 2].abs().max())
    return Finding("failed", f"{most:.3g} on that colour") if most else PASSED


def homogeneous(subject: Subject) -> Finding:
    """On a ReLU network without biases, integrating from black is gradient times image."""
    if not subject.method.can("complete"):
        return _inapplicable("not complete")
    if subject.method.baseline_name != "black":
        return _inapplicable("it does not start from black")
    network, batch = known.without_bias(known.convolutional()), batch_of(known.images(IMAGES))
    expected = bind_method("gradient_x_input").explain(network, batch, "own")
    return subject.agree(subject.explain(network, batch), expected)


def antisymmetric(subject: Subject) -> Finding:
    """From image to baseline instead of from baseline to image: the same, with the other sign."""
    if not subject.method.can("complete"):
        return _inapplicable("not complete")
    if subject.parameter("baseline") is None:
        return _inapplicable("there is no baseline to choose")
    start, end = known.images(2, seed=1).split(1)
    network = known.between(known.convolutional(), start, end)
    to_white = batch_of(torch.ones_like(end))
    to_black = replace(to_white, images=torch.zeros_like(end))
    back = subject.having("baseline", "white").explain(network, to_black)
    return subject.agree(back, -subject.having("baseline", "black").explain(network, to_white))


def at_baseline(subject: Subject) -> Finding:
    """Pixels that are as in the baseline get nothing."""
    name = subject.parameter("baseline")
    if not subject.method.can("needs_baseline") or not isinstance(name, str):
        return _inapplicable("nothing is promised about pixels of the baseline")
    if BASELINES[name].of_image:
        return _inapplicable("with other pixels the image has another baseline")
    batch = batch_of(known.images(IMAGES))
    patch = (slice(None), slice(None), slice(3, 7), slice(2, 9))
    mixed = batch.images.clone()
    mixed[patch] = BASELINES[name].make(batch)[patch]
    maps = subject.explain(known.convolutional(), replace(batch, images=mixed))
    most = float(maps[patch].abs().max())
    return Finding("failed", f"{most:.3g} on such a pixel") if most else PASSED


def completeness(subject: Subject) -> Finding:
    """On a smooth network attributions add up to the logit difference, the better with steps."""
    start = subject.method.start
    if start is None:
        return _inapplicable("not complete")
    network, batch = known.smooth(), batch_of(known.images(IMAGES))
    before = torch.stack([network(images) for images in start.images(batch)]).mean(dim=0)
    delta = (network(batch.images) - before).gather(1, batch.targets[:, None])[:, 0]

    def error(tried: Subject) -> Tensor:
        return (tried.explain(network, batch).sum(dim=(1, 2, 3)) - delta).abs()

    if not isinstance(subject.parameter("steps"), int):
        return subject.agree(subject.explain(network, batch).sum(dim=(1, 2, 3)), delta)
    few, enough = (error(subject.having("steps", steps)) for steps in (STEPS_FEW, STEPS_ENOUGH))
    if not bool((enough <= TOLERANCE * delta.abs()).all()):
        worst = float((enough / delta.abs()).max())
        return Finding("failed", f"{STEPS_ENOUGH} steps miss by {worst:.3g} of the difference")
    return PASSED if bool((enough <= few).all()) else Finding("failed", "steps do not help")


def scaling(subject: Subject) -> Finding:
    """The map of 3 f + 7 is three times that of f, or nine times, as the method's degree says."""
    if subject.method.control:
        return _inapplicable("a control ignores the network")
    degree = subject.method.method.degree
    if degree is None:
        return _inapplicable("its map has no fixed power of the logits")
    network, batch = known.convolutional(), batch_of(known.images(IMAGES))
    scaled = subject.explain(known.scaled(network, 3.0, 7.0), batch)
    return subject.agree(scaled, 3**degree * subject.explain(network, batch))


def reparametrisation(subject: Subject) -> Finding:
    """Hidden channels in another order and scale make the same function, and the same map."""
    network, batch = known.convolutional(), batch_of(known.images(IMAGES))
    other = subject.explain(known.reparametrised(network), batch)
    return subject.agree(other, subject.explain(network, batch))


def normalisation(subject: Subject) -> Finding:
    """A normalisation folded into the first layer changes nothing: maps are in image space."""
    apart, folded = known.normalising(known.convolutional())
    batch = batch_of(known.images(IMAGES))
    return subject.agree(subject.explain(apart, batch), subject.explain(folded, batch))


def batching(subject: Subject) -> Finding:
    """The other images of a batch, their order, and how many go at once change nothing."""
    network, batch = known.convolutional(), batch_of(known.images(IMAGES))
    together = subject.explain(network, batch)
    for rows in ([2, 0, 3, 1], [3], [1, 2]):
        chosen = replace(
            batch,
            images=batch.images[rows],
            targets=batch.targets[rows],
            image_ids=tuple(batch.image_ids[row] for row in rows),
        )
        for at_once in (1, 3, 1000):
            maps = subject.explain(network, replace(chosen, at_once=at_once))
            finding = subject.agree(maps, together[rows])
            if finding.result == "failed":
                return Finding("failed", f"images {rows}, {at_once} at once: {finding.reason}")
    return PASSED


def repeat(subject: Subject) -> Finding:
    """Asked again, the method gives the same bits."""
    network, batch = known.convolutional(), batch_of(known.images(IMAGES))
    same = torch.equal(subject.explain(network, batch), subject.explain(network, batch))
    return PASSED if same else Finding("failed", "another map for the same image and seed")


def state(subject: Subject) -> Finding:
    """Network, images, random numbers and gradient mode are left as they were."""
    network, batch = known.convolutional(), batch_of(known.images(IMAGES))
    images, targets = batch.images.clone(), batch.targets.clone()
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")

    def named() -> list[tuple[str, nn.Module]]:
        return list(network.module.named_modules())

    def look() -> dict[str, object]:
        numpy_state = np.random.get_state(legacy=False)  # noqa: NPY002 - it is the one to watch
        return {
            "weights": network.weights_hash(),
            # Found anew each time: a method may have put other modules in their place.
            "modules": [(name, id(part), part.training) for name, part in named()],
            "hooks": [[len(getattr(part, kind)) for kind in hooks] for _, part in named()],
            "gradients": [
                (weight.requires_grad, weight.grad is None)
                for weight in network.module.parameters()
            ],
            "images": (batch.images.requires_grad, torch.equal(batch.images, images)),
            "targets": torch.equal(batch.targets, targets),
            "torch's random numbers": torch.random.get_rng_state().tolist(),
            "NumPy's random numbers": repr(numpy_state),
            "gradient mode": torch.is_grad_enabled(),
        }

    before = look()
    subject.explain(network, batch)
    changed = [name for name, value in look().items() if value != before[name]]
    return Finding("failed", f"changed: {', '.join(changed)}") if changed else PASSED


def target(subject: Subject) -> Finding:
    """Another target has another map; of a control it has the same."""
    network, batch = known.convolutional(), batch_of(known.images(IMAGES))
    other = replace(batch, targets=(batch.targets + 1) % known.CLASSES)
    maps = subject.explain(network, batch), subject.explain(network, other)
    return _depends(*maps, expected=not subject.method.control, what="the target")


def weights(subject: Subject) -> Finding:
    """A network with other weights has another map; of a control it has the same."""
    batch = batch_of(known.images(IMAGES))
    maps = [subject.explain(known.convolutional(seed), batch) for seed in (0, 1)]
    return _depends(*maps, expected=not subject.method.control, what="the weights")


def shift_invariant(subject: Subject) -> Finding:
    """An image moved by a constant, to a network that takes it off: as declared, or not."""
    network, batch = known.convolutional(), batch_of(known.images(IMAGES))
    moved = subject.explain(network.shifted(SHIFT), replace(batch, images=batch.images + SHIFT))
    return _declared(subject, "shift_invariant", moved, subject.explain(network, batch))


def stochastic(subject: Subject) -> Finding:
    """Another seed has another map: as declared, or not."""
    network, batch = known.convolutional(), batch_of(known.images(IMAGES))
    other = subject.explain(network, replace(batch, seed=1))
    return _declared(subject, "stochastic", other, subject.explain(network, batch))


def signed(subject: Subject) -> Finding:
    """Maps have values of either sign, if so declared; otherwise none below 0."""
    if subject.method.method.capabilities is None:
        return _inapplicable("no capabilities are declared")
    maps = subject.explain(known.convolutional(), batch_of(known.images(IMAGES)))
    below, above = bool((maps < 0).any()), bool((maps > 0).any())
    if subject.method.can("signed"):
        return PASSED if below and above else Finding("failed", "signed, but all of one sign")
    return Finding("failed", "not signed, but there are values below 0") if below else PASSED


def shortcut(subject: Subject) -> Finding:
    """What a run reads off the pass that methods share, or off nested paths, is the map."""
    method = subject.method
    network, batch = known.convolutional(), batch_of(known.images(IMAGES))
    if subject.engine == "own" and method.method.share is not None:
        reads = [method.method.share.reads]
        maps = method.read(shared_pass(network, batch.images, batch.targets, reads, 3))
    elif method.adaptive:
        path = method.nested(network, batch)
        maps = path.at(path.settled)
    else:
        return _inapplicable("a run takes the map as it is explained")
    return subject.agree(maps, subject.explain(network, batch))


def captum(subject: Subject) -> Finding:
    """Our own path gives captum's numbers."""
    if subject.method.method.captum is None or subject.method.adaptive:
        return _inapplicable("captum has no method that is the same")
    if subject.engine == "captum":
        return _inapplicable("it is captum's already")
    network, batch = known.convolutional(), batch_of(known.images(IMAGES))
    theirs = replace(subject, engine="captum").explain(network, batch)
    return subject.agree(subject.explain(network, batch), theirs)


def _depends(maps: Tensor, other: Tensor, *, expected: bool, what: str) -> Finding:
    same = maps.shape == other.shape and torch.equal(maps, other)
    if same != expected:
        return PASSED
    return Finding("failed", f"{'does not depend' if expected else 'depends'} on {what}")


def _declared(subject: Subject, capability: Capability, maps: Tensor, usual: Tensor) -> Finding:
    """Pass where maps stay, or change, as the method declares."""
    if subject.method.method.capabilities is None:
        return _inapplicable("no capabilities are declared")
    agreed = subject.agree(maps, usual)
    moves = agreed.result == "failed"
    expected = {"shift_invariant": False, "stochastic": True}[capability]
    if moves == (subject.method.can(capability) == expected):
        return PASSED
    declared = "declared" if subject.method.can(capability) else "not declared"
    return Finding(
        "failed", f"{declared} {capability}, but {agreed.reason or 'the map stays as it is'}"
    )


@dataclass(frozen=True)
class Check:
    """One property.

    Attributes:
        run: takes a method, returns what came of it.
        source: where the property comes from.
    """

    run: Callable[[Subject], Finding]
    source: str = ""

    @property
    def summary(self) -> str:
        """One line on what must hold."""
        return (self.run.__doc__ or "").partition("\n")[0]


CHECKS: dict[str, Check] = {
    "form": Check(form),
    "linear": Check(linear, "Sundararajan et al. 2017, section 4 (linearity)"),
    "dummy_channel": Check(dummy_channel, "Sundararajan et al. 2017, section 4 (dummy)"),
    "homogeneous": Check(homogeneous, "Ancona et al. 2018, proposition 2"),
    "antisymmetric": Check(antisymmetric, "Sundararajan et al. 2017, equation 1"),
    "at_baseline": Check(at_baseline, "Sundararajan et al. 2017, equation 1"),
    "completeness": Check(completeness, "Sundararajan et al. 2017, proposition 1"),
    "scaling": Check(scaling, "Sundararajan et al. 2017, section 4 (linearity)"),
    "reparametrisation": Check(
        reparametrisation, "Sundararajan et al. 2017, section 2.2 (implementation invariance)"
    ),
    "normalisation": Check(normalisation),
    "batching": Check(batching),
    "repeat": Check(repeat),
    "state": Check(state),
    "target": Check(target, "Adebayo et al. 2018"),
    "weights": Check(weights, "Adebayo et al. 2018"),
    "shift_invariant": Check(shift_invariant, "Kindermans et al. 2019"),
    "stochastic": Check(stochastic),
    "signed": Check(signed),
    "shortcut": Check(shortcut),
    "captum": Check(captum),
}


def registered() -> tuple[str, ...]:
    """Return a spec of every registered method; of those that a run has by default, all of them."""
    named = {spec.partition(":")[0] for spec in DEFAULT_METHODS}
    return (*DEFAULT_METHODS, *(name for name in METHODS if name not in named))


def check_method(method: BoundMethod, engine: Engine = "own") -> dict[str, Finding]:
    """Run every check on a method; one that raises has failed, and the others go on."""
    subject = Subject(method, engine)
    exempt = method.method.exempt
    return {
        name: _inapplicable(exempt[name]) if name in exempt else _carried_out(check, subject)
        for name, check in CHECKS.items()
    }


def _carried_out(check: Check, subject: Subject) -> Finding:
    applies = subject.method.method.inapplicable
    network = known.linear() if check.run is linear else known.convolutional()
    if reason := applies(network):
        return _inapplicable(reason)
    try:
        return check.run(subject)
    except Exception as error:  # noqa: BLE001 - a method may raise anything; the table says what
        return Finding("failed", one_line(error))


def check_table(findings: dict[str, dict[str, Finding]]) -> Table:
    """Return what came of all checks: a row a method and result, failures one by one.

    Args:
        findings: by method and check.
    """
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("method", no_wrap=True)
    table.add_column("result", no_wrap=True)
    table.add_column("checks", overflow="fold")
    for spec, by_check in findings.items():
        passed = [name for name, finding in by_check.items() if finding.result == "passed"]
        table.add_row(spec, f"{len(passed)} passed", ", ".join(passed))
        by_reason: dict[str, list[str]] = {}
        for name, finding in by_check.items():
            if finding.result == "not applicable":
                by_reason.setdefault(finding.reason, []).append(name)
        count = sum(map(len, by_reason.values()))
        for place, (reason, names) in enumerate(by_reason.items()):
            label = f"{count} not applicable" if not place else ""
            table.add_row("", label, escape(f"{', '.join(names)}: {reason}"), style="dim")
        for name, finding in by_check.items():
            if finding.result == "failed":
                table.add_row("", "FAILED", escape(f"{name}: {finding.reason}"), style="bold red")
        table.add_section()
    return table
