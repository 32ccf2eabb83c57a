"""All checks of a method, one after the other."""

from __future__ import annotations

from collections.abc import Iterable

from steadymap.bench.checks import networks as known
from steadymap.bench.checks import registry
from steadymap.bench.checks.subject import IMAGES, Finding, Subject, batch_of, inapplicable
from steadymap.bench.methods.method import BoundMethod, Engine, foreign
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


# A map may be blind to the class: that is told, and keeps nobody out.
GATES_NOTHING = ("target",)


def outcomes(methods: Iterable[BoundMethod]) -> dict[str, str]:
    """Return what came of the checks of methods that are not ours, as a manifest holds it.

    By spec: `passed`, `failed: NAME` of the first that did, or `skipped` where no check applies, or
    where the method does not run on the networks of the checks.
    """
    return {method.spec: _outcome(method) for method in methods if foreign(method.method)}


def _outcome(method: BoundMethod) -> str:
    try:
        Subject(method).explain(known.convolutional(), batch_of(known.images(IMAGES)))
    except Exception:  # noqa: BLE001 - made for a network of its own, perhaps; the run says if it raises there
        return "skipped"
    findings = check_method(method)
    failed = [
        name
        for name, finding in findings.items()
        if finding.result == "failed" and name not in GATES_NOTHING
    ]
    if failed:
        return f"failed: {failed[0]}"
    passed = any(finding.result == "passed" for finding in findings.values())
    return "passed" if passed else "skipped"


def _carried_out(check: registry.Check, subject: Subject) -> Finding:
    if reason := subject.method.unfit(NETWORKS[check.network]()):
        return inapplicable(reason)
    try:
        return check.run(subject)
    except Exception as error:  # noqa: BLE001 - a method may raise anything; the table says what
        text = " ".join(str(error).split())
        return Finding("failed", f"{type(error).__name__}: {text}")
