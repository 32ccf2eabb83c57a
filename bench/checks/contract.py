"""Checks of what every caller relies on: the form of maps, and that nothing is left behind."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from steadymap.bench.checks import networks as known
from steadymap.bench.checks.subject import IMAGES, PASSED, Finding, Subject, batch_of, inapplicable
from steadymap.bench.network.passes import shared_pass


def form(subject: Subject) -> Finding:
    """Maps are (B, C, h, w), finite and detached."""
    maps = subject.explain(known.convolutional(), batch_of(known.images(IMAGES)))
    if maps.ndim != 4 or len(maps) != IMAGES:  # noqa: PLR2004 - (B, C, h, w)
        shape = tuple(maps.shape)
        return Finding("failed", f"shape {shape}, expected ({IMAGES}, channels, height, width)")
    if not torch.isfinite(maps).all():
        return Finding("failed", "values that are not finite")
    return Finding("failed", "still attached to the graph") if maps.requires_grad else PASSED


def repeat(subject: Subject) -> Finding:
    """Asked again, after other images, the method gives the same bits."""
    network, batch = known.convolutional(), batch_of(known.images(IMAGES))
    first = subject.explain(network, batch)
    subject.explain(network, batch_of(known.images(IMAGES, seed=1), seed=1))
    if torch.equal(first, subject.explain(network, batch)):
        return PASSED
    return Finding("failed", "another map for the same image and the same draws")


def state(subject: Subject) -> Finding:
    """Network, images, random numbers and gradient mode are left as they were."""
    network, batch = known.convolutional(), batch_of(known.images(IMAGES))
    images, targets = batch.images.clone(), batch.targets.clone()
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")

    def named() -> list[tuple[str, torch.nn.Module]]:
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


def signed(subject: Subject) -> Finding:
    """Maps have values of either sign, if so declared; otherwise none below 0."""
    if subject.method.method.capabilities is None:
        return inapplicable("no capabilities are declared")
    maps = subject.explain(known.convolutional(), batch_of(known.images(IMAGES)))
    below, above = bool((maps < 0).any()), bool((maps > 0).any())
    if subject.method.can("signed"):
        return PASSED if below and above else Finding("failed", "signed, but all of one sign")
    return Finding("failed", "not signed, but there are values below 0") if below else PASSED


def shortcut(subject: Subject) -> Finding:
    """What a run reads off the pass that methods share, or off nested paths, is the map."""
    method = subject.method
    network, batch = known.convolutional(), batch_of(known.images(IMAGES))
    if subject.engine == "own" and method.share is not None:
        reads = [method.share.reads]
        maps = method.read(shared_pass(network, batch.images, batch.targets, reads, 3))
    elif method.adaptive:
        path = method.nested(network, batch)
        maps = path.at(path.settled)
    else:
        return inapplicable("a run takes the map as it is explained")
    return subject.agree(maps, subject.explain(network, batch))


def captum(subject: Subject) -> Finding:
    """Our own path gives captum's numbers."""
    if subject.method.method.captum is None or subject.method.adaptive:
        return inapplicable("captum has no method that is the same")
    if subject.engine == "captum":
        return inapplicable("it is captum's already")
    network, batch = known.convolutional(), batch_of(known.images(IMAGES))
    captum_maps = replace(subject, engine="captum").explain(network, batch)
    return subject.agree(subject.explain(network, batch), captum_maps)
