"""Planted faults, and what the gate says of each: `tox run -e planted`.

The embedded experiment with fewer severities is run once as the baseline, again with nothing but
rounding changed, and with six faults. Each must have the answer that is stated beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from steadymap.bench.api import measure_side
from steadymap.bench.commands.train import Training, train
from steadymap.bench.data.opening import open_images
from steadymap.bench.gate.comparison import FAIL, INCONCLUSIVE, UNDECIDED
from steadymap.bench.gate.differences import differences
from steadymap.bench.gate.judging import judge
from steadymap.bench.gate.margins import Margins
from steadymap.bench.gate.question import ask
from steadymap.bench.gate.side import Side
from steadymap.bench.methods.batch import Batch
from steadymap.bench.methods.controls import edge
from steadymap.bench.methods.method import Method
from steadymap.bench.methods.registry import METHODS
from steadymap.bench.plan.experiment import make_experiment
from steadymap.bench.plan.packaged_experiments import read_experiment
from steadymap.bench.plan.plan import Plan
from steadymap.models import Classifier, load_classifier, make_classifier

SETTINGS: dict[str, object] = {
    "severity": {
        "bias": (-0.2, 0.2),
        "compensated_bias": (-0.2, 0.2),
        "gaussian_noise": (0.1,),
        "uniform_noise": (0.1,),
        "salt_and_pepper": (0.1,),
    },
    "controls": False,
    "jobs": 2,
}

GREEN = "passes"
RED = "fails"
REFUSED = "refused"


@dataclass(frozen=True)
class Planted:
    """A change of the run.

    Attributes:
        name: what it is.
        answer: what the gate must say.
        why: a word of what must be among its reasons.
        measure: makes the run.
    """

    name: str
    answer: str
    why: str
    measure: Callable[[], Side]


def side(
    classifier: Classifier | None = None, threads: int | None = None, **settings: object
) -> Side:
    """Run the experiment."""
    experiment = make_experiment([read_experiment("hands"), SETTINGS | settings])
    network = classifier or load_classifier("compact")
    images = open_images(experiment.data, network.framing, experiment.split, experiment.limit)
    plan = Plan.model_validate({name: getattr(experiment, name) for name in Plan.model_fields})
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        return measure_side(network, images, plan)
    finally:
        torch.set_num_threads(before)


@contextmanager
def instead(name: str, method: Method) -> Iterator[None]:
    """Put another method in place of a registered one."""
    usual = METHODS[name]
    METHODS[name] = method
    try:
        yield
    finally:
        METHODS[name] = usual


def other_weights() -> Side:
    """Explain a network of another seed, which is right less often."""
    few = Training(data="hands:1500", epochs=6, seed=1)
    network, _ = train(few, torch.device("cpu"), say)
    usual = load_classifier("compact")
    return side(make_classifier(network, usual.framing, usual.class_names))


def fewer_steps() -> Side:
    """Integrate over 4 steps in place of 32, and say so."""
    return side(steps=4)


def hidden_steps() -> Side:
    """Integrate over 4 steps, whatever is asked for."""
    usual = METHODS["integrated_gradients"]

    def hasty(
        classifier: Classifier, batch: Batch, *, baseline: str = "black", steps: int = 50
    ) -> Tensor:
        return usual.explain(classifier, batch, baseline=baseline, steps=min(4, steps))

    with instead("integrated_gradients", replace(usual, explain=hasty, nested=None)):
        return side()


def unsigned() -> Side:
    """Return the absolute values of integrated gradients."""
    usual = METHODS["integrated_gradients"]

    def absolute(
        classifier: Classifier, batch: Batch, *, baseline: str = "black", steps: int = 50
    ) -> Tensor:
        return usual.explain(classifier, batch, baseline=baseline, steps=steps).abs()

    with instead("integrated_gradients", replace(usual, explain=absolute, nested=None)):
        return side()


def earlier_layer() -> Side:
    """Let Grad-CAM read the second convolution."""
    usual = load_classifier("compact")
    return side(usual.reading("network.2"))


def edges() -> Side:
    """Return an edge filter for gradient times image."""
    usual = METHODS["gradient_x_input"]
    with instead("gradient_x_input", Method(edge, usual.summary, usual.source)):
        return side()


PLANTED = (
    Planted("nothing", GREEN, "", side),
    Planted("one thread, batches of 7", GREEN, "", lambda: side(threads=1, batch_size=7)),
    Planted("weights of another seed, right less often", RED, "network / accuracy", other_weights),
    Planted("integrated gradients with 4 steps, not 32", REFUSED, "steps", fewer_steps),
    Planted("4 steps behind the plan's back", RED, "completeness_error", hidden_steps),
    Planted("unsigned integrated gradients", RED, "completeness_error", unsigned),
    Planted("Grad-CAM on an earlier layer", RED, "grad_cam", earlier_layer),
    Planted("an edge filter for gradient x input", RED, "evidence_kept", edges),
)


def say(text: str) -> None:
    """Print a line at once."""
    print(text, flush=True)  # noqa: T201 - the result


def answer(before: Side, after: Side) -> tuple[str, str]:
    """Return what the gate says, and its reasons."""
    found = differences(before.manifest, after.manifest)
    if found.forbidding:
        return REFUSED, "; ".join(found.forbidding)
    judged = judge(ask(before, after, allow_one_seed=True), after, Margins())
    rows = judged.rows
    failed = rows[rows["gate"] == FAIL]
    reasons = [
        f"{row['method']} / {row['family']} / {row['metric']}: "
        f"{row['before']:.3f} -> {row['after']:.3f}, {row['reason']}"
        for row in failed.to_dict("records")
    ]
    fallen = [case for case in judged.network.cases if case.result == FAIL]
    reasons += [f"{case.name}: {case.message}" for case in fallen]
    unsure = int(rows["gate"].isin([INCONCLUSIVE, UNDECIDED]).sum())
    text = (
        f"{len(failed)} of {len(rows)} fail, {len(fallen)} of {len(judged.network.cases)} lines of "
        f"the network, {unsure} inconclusive"
    )
    return (RED if len(failed) or fallen else GREEN), "\n    ".join([text, *reasons])


def main() -> int:
    """Show every planted change; return 1 if the gate's answer to one is wrong."""
    before = side()
    wrong = 0
    for planted in PLANTED:
        found, reasons = answer(before, planted.measure())
        right = found == planted.answer and planted.why in reasons
        wrong += not right
        say(f"{'right' if right else 'WRONG'}: {planted.name}: {found}: {reasons}")
    say(f"{len(PLANTED) - wrong} of {len(PLANTED)} answers are right")
    return int(wrong > 0)


if __name__ == "__main__":
    raise SystemExit(main())
