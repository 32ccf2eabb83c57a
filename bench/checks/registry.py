"""Checks that a method is what it says it is: `steadymap check`.

Each holds maps against a truth that needs no reference implementation: a closed form, or a change
of network or image whose effect on the map is known. All in double precision, on small networks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from steadymap.bench.core.on_demand import OnDemand

if TYPE_CHECKING:
    from steadymap.bench.checks.subject import Finding, Subject


@dataclass(frozen=True)
class Check:
    """One property.

    Attributes:
        run: takes a method, returns what came of it.
        summary: one line on what must hold, the first of what `run` says of itself.
        source: where the property comes from.
        network: the one of `networks` that the check begins with; a method that does not apply to
            it is not checked.
    """

    run: Callable[[Subject], Finding]
    summary: str
    source: str = ""
    network: Literal["convolutional", "linear"] = "convolutional"


def _ours(place: str) -> OnDemand:
    """Return a function of a module beside this one, which loads torch when it is called."""
    return OnDemand(f"steadymap.bench.checks.{place}")


CHECKS: dict[str, Check] = {
    "form": Check(_ours("contract:form"), "Maps are (B, C, h, w), finite and detached."),
    "linear": Check(
        _ours("closed_forms:linear"),
        "On a linear network the map is known: w for the gradient, w (x - baseline) if complete.",
        "Sundararajan et al. 2017, section 4 (linearity)",
        network="linear",
    ),
    "dummy_channel": Check(
        _ours("closed_forms:dummy_channel"),
        "A colour that the network does not look at gets nothing.",
        "Sundararajan et al. 2017, section 4 (dummy)",
    ),
    "homogeneous": Check(
        _ours("closed_forms:homogeneous"),
        "On a ReLU network without biases, integrating from black is gradient times image.",
        "Ancona et al. 2018, proposition 2",
    ),
    "antisymmetric": Check(
        _ours("closed_forms:antisymmetric"),
        "From image to baseline instead of from baseline to image: the same, with the other sign.",
        "Sundararajan et al. 2017, equation 1",
    ),
    "at_baseline": Check(
        _ours("closed_forms:at_baseline"),
        "Pixels that are as in the baseline get nothing.",
        "Sundararajan et al. 2017, equation 1",
    ),
    "completeness": Check(
        _ours("closed_forms:completeness"),
        "On a smooth network attributions add up to the logit difference, the better with steps.",
        "Sundararajan et al. 2017, proposition 1",
    ),
    "scaling": Check(
        _ours("changes:scaling"),
        "The map of 3 f + 7 is three times that of f, or nine times, as the method's degree says.",
        "Sundararajan et al. 2017, section 4 (linearity)",
    ),
    "reparametrisation": Check(
        _ours("changes:reparametrisation"),
        "Hidden channels in another order and scale make the same function, and the same map.",
        "Sundararajan et al. 2017, section 2.2 (implementation invariance)",
    ),
    "normalisation": Check(
        _ours("changes:normalisation"),
        "A normalisation folded into the first layer changes nothing: maps are in image space.",
    ),
    "batching": Check(
        _ours("changes:batching"),
        "The other images of a batch, their order, and how many go at once change nothing.",
    ),
    "repeat": Check(
        _ours("contract:repeat"),
        "Asked again, after other images, the method gives the same bits.",
    ),
    "state": Check(
        _ours("contract:state"),
        "Network, images, random numbers and gradient mode are left as they were.",
    ),
    "target": Check(
        _ours("changes:target"),
        "Another target has another map; of a control it has the same.",
        "Adebayo et al. 2018",
    ),
    "weights": Check(
        _ours("changes:weights"),
        "A network with other weights has another map; of a control it has the same.",
        "Adebayo et al. 2018",
    ),
    "shift_invariant": Check(
        _ours("changes:shift_invariant"),
        "An image moved by a constant, to a network that takes it off: as declared, or not.",
        "Kindermans et al. 2019",
    ),
    "stochastic": Check(
        _ours("changes:stochastic"), "Another seed has another map: as declared, or not."
    ),
    "signed": Check(
        _ours("contract:signed"),
        "Maps have values of either sign, if so declared; otherwise none below 0.",
    ),
    "shortcut": Check(
        _ours("contract:shortcut"),
        "What a run reads off the pass that methods share, or off nested paths, is the map.",
    ),
    "captum": Check(_ours("contract:captum"), "Our own path gives captum's numbers."),
}
