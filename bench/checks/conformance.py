"""All checks of a method, one after the other."""

from __future__ import annotations

from steadymap.bench.checks import networks as known
from steadymap.bench.checks import registry
from steadymap.bench.checks.subject import Finding, Subject, inapplicable
from steadymap.bench.methods.method import BoundMethod, Engine
from steadymap.bench.methods.registry import DEFAULT_METHODS, METHODS

NETWORKS = {"convolutional": known.convolutional, "linear": known.linear}


def registered() -> tuple[str, ...]:
    """Return a spec of every registered method; of those that a run has by default, all of them."""
    named = {spec.partition(":")[0] for spec in DEFAULT_METHODS}
    return (*DEFAULT_METHODS, *(name for name in METHODS if name not in named))


def check_method(method: BoundMethod, engine: Engine = "own") -> dict[str, Finding]:
    """Run every check on a method; one that raises has failed, and the others go on."""
    subject = Subject(method, engine)
    exempt = method.method.exempt
    return {
        name: inapplicable(exempt[name]) if name in exempt else _carried_out(check, subject)
        for name, check in registry.CHECKS.items()
    }


def _carried_out(check: registry.Check, subject: Subject) -> Finding:
    if reason := subject.method.unfit(NETWORKS[check.network]()):
        return inapplicable(reason)
    try:
        return check.run(subject)
    except Exception as error:  # noqa: BLE001 - a method may raise anything; the table says what
        text = " ".join(str(error).split())
        return Finding("failed", f"{type(error).__name__}: {text}")
