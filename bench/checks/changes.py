"""Checks by changes of network, image or target whose effect on the map is known."""

from __future__ import annotations

from dataclasses import replace

import torch

from steadymap.bench.checks import networks as known
from steadymap.bench.checks.subject import IMAGES, PASSED, Finding, Subject, batch_of, inapplicable
from steadymap.bench.methods.method import Capability

SHIFT = 0.3


def scaling(subject: Subject) -> Finding:
    """The map of 3 f + 7 is three times that of f, or nine times, as the method's degree says."""
    if subject.method.control:
        return inapplicable("a control ignores the network")
    degree = subject.method.method.degree
    if degree is None:
        return inapplicable("its map has no fixed power of the logits")
    network, batch = known.convolutional(), batch_of(known.images(IMAGES))
    maps = subject.explain(known.scaled(network, 3.0, 7.0), batch)
    return subject.agree(maps, 3**degree * subject.explain(network, batch))


def reparametrisation(subject: Subject) -> Finding:
    """Hidden channels in another order and scale make the same function, and the same map."""
    network, batch = known.convolutional(), batch_of(known.images(IMAGES))
    maps = subject.explain(known.reparametrised(network), batch)
    return subject.agree(maps, subject.explain(network, batch))


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
        chosen = batch.part(rows)
        for at_once in (1, 3, 1000):
            maps = subject.explain(network, replace(chosen, at_once=at_once))
            finding = subject.agree(maps, together[rows])
            if finding.result == "failed":
                reason = f"images {rows}, {at_once} at once: {finding.reason}"
                return Finding("failed", reason)
    return PASSED


def target(subject: Subject) -> Finding:
    """Another target has another map; of a control it has the same."""
    network, batch = known.convolutional(), batch_of(known.images(IMAGES))
    other = replace(batch, targets=(batch.targets + 1) % known.CLASSES)
    maps = subject.explain(network, batch), subject.explain(network, other)
    return _depends(*maps, expected=not subject.method.control, factor="the target")


def weights(subject: Subject) -> Finding:
    """A network with other weights has another map; of a control it has the same."""
    batch = batch_of(known.images(IMAGES))
    maps = [subject.explain(known.convolutional(seed), batch) for seed in (0, 1)]
    return _depends(*maps, expected=not subject.method.control, factor="the weights")


def shift_invariant(subject: Subject) -> Finding:
    """An image moved by a constant, to a network that takes it off: as declared, or not."""
    network, batch = known.convolutional(), batch_of(known.images(IMAGES))
    moved = subject.explain(network.shifted(SHIFT), replace(batch, images=batch.images + SHIFT))
    return _declared(subject, "shift_invariant", moved, subject.explain(network, batch))


def stochastic(subject: Subject) -> Finding:
    """Another seed has another map: as declared, or not."""
    network, batch = known.convolutional(), batch_of(known.images(IMAGES))
    other = subject.explain(network, batch_of(batch.images, seed=1))
    return _declared(subject, "stochastic", other, subject.explain(network, batch))


def _depends(maps: torch.Tensor, other: torch.Tensor, *, expected: bool, factor: str) -> Finding:
    same = maps.shape == other.shape and torch.equal(maps, other)
    if same != expected:
        return PASSED
    return Finding("failed", f"{'does not depend' if expected else 'depends'} on {factor}")


def _declared(
    subject: Subject, capability: Capability, maps: torch.Tensor, usual: torch.Tensor
) -> Finding:
    """Pass where maps stay, or change, as the method declares."""
    if subject.method.method.capabilities is None:
        return inapplicable("no capabilities are declared")
    agreed = subject.agree(maps, usual)
    moves = agreed.result == "failed"
    expected = {"shift_invariant": False, "stochastic": True}[capability]
    if moves == (subject.method.can(capability) == expected):
        return PASSED
    declared = "declared" if subject.method.can(capability) else "not declared"
    return Finding(
        "failed", f"{declared} {capability}, but {agreed.reason or 'the map stays as it is'}"
    )
