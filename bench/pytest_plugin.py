"""A pytest plugin: hold a model's saliency maps against a committed baseline.

    def test_maps_are_as_steady_as_they_were(steadymap_gate):
        steadymap_gate("mine", classifier, images, plan)

`pytest --steadymap-update-baseline` makes or renews the baselines. Loaded by every pytest of an
environment that has steadymap: it imports nothing large until the fixture is used.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from steadymap.bench.records.vocabulary import FAMILY, IMAGE_ID, METHOD, METRIC, VALUE

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

    from steadymap.bench.data.image_set import ImageSet
    from steadymap.bench.gate.margins import Margins
    from steadymap.bench.gate.side import Side
    from steadymap.bench.plan.plan import Plan
    from steadymap.models import Classifier

WORST = 3


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the plugin's options."""
    group = parser.getgroup("steadymap", "steadiness of saliency maps")
    group.addoption(
        "--steadymap-update-baseline",
        action="store_true",
        help="write the baselines of steadymap_gate anew, and compare nothing",
    )
    group.addoption(
        "--steadymap-allow-undecided",
        action="store_true",
        help="let steadymap_gate pass where the images are too few to decide",
    )
    group.addoption(
        "--steadymap-baselines",
        default="results/baselines",
        metavar="DIR",
        help="folder of the baselines, below pytest's root (default: %(default)s)",
    )


@dataclass(frozen=True)
class Gate:
    """Runs a plan on a model and holds it against a baseline.

    Attributes:
        root: folder of the baselines.
        update: whether to write the baseline and compare nothing.
        allow_undecided: whether a test passes of which the images are too few to decide.
        extra_info: of pytest-benchmark, if the test uses it; the scores go there.
    """

    root: Path
    update: bool
    allow_undecided: bool = False
    extra_info: dict[str, Any] | None = None

    def __call__(  # noqa: PLR0913 - what a test may say
        self,
        name: str,
        classifier: Classifier,
        images: ImageSet | Tensor,
        plan: Plan | None = None,
        margins: Margins | None = None,
        *,
        network: bool = True,
        allow_one_seed: bool = False,
    ) -> pd.DataFrame:
        """Fail the test if maps or network are worse than the baseline by more than the margins.

        It fails, too, where the images are too few to find a loss of twice a margin, unless
        pytest is called with `--steadymap-allow-undecided`.

        Args:
            name: of the baseline.
            classifier: see `steadymap.models.make_classifier`.
            images: an image set, or a tensor (N, 3, H, W), float32 in [0, 1].
            plan: methods, families and severities; left out, all of them.
            margins: left out, the documented ones.
            network: whether the network's predictions are judged, too.
            allow_one_seed: whether new weights may be held against a baseline of one network.

        Returns:
            The comparison, one row a method, family and metric; empty where the baseline was made.
        """
        from steadymap.bench.api import measure_side  # noqa: PLC0415 - large
        from steadymap.bench.core.errors import ConfigError, NoBaselineError  # noqa: PLC0415 - large
        from steadymap.bench.gate import (  # noqa: PLC0415 - large
            baseline_runs,
            comparison,
            judging,
            question,
        )
        from steadymap.bench.gate.differences import differences  # noqa: PLC0415 - large
        from steadymap.bench.gate.margins import Margins  # noqa: PLC0415 - large
        from steadymap.bench.gate.verdict import Verdict  # noqa: PLC0415 - large

        side = measure_side(classifier, images, plan)
        if self.extra_info is not None:
            self.extra_info["steadymap"] = _means(side)
        try:
            folder = baseline_runs.baseline_folder(name, self.root)
            if self.update:
                baseline_runs.write_side(side, folder)
                return comparison.compare(side, side).iloc[:0]
            before = baseline_runs.open_baseline(name, self.root)
        except NoBaselineError:
            pytest.fail(
                f"no baseline {name!r} in {self.root}; make it with --steadymap-update-baseline",
                pytrace=False,
            )
        except ConfigError as error:
            pytest.fail(str(error), pytrace=False)
        differing = differences(before.manifest, side.manifest)
        if differing.forbidding:
            reasons = "\n  ".join(differing.forbidding)
            pytest.fail(f"cannot be compared with {name!r}:\n  {reasons}", pytrace=False)
        try:
            asked = question.ask(before, side, allow_one_seed=allow_one_seed)
        except ConfigError as error:
            pytest.fail(str(error), pytrace=False)
        judged = judging.judge(asked, side, margins or Margins(), network=network)
        rows = judged.rows
        failed = rows[rows["gate"] == comparison.FAIL]
        if len(failed) or judged.network.fell:
            lines = [_failure(row, asked.before, side) for row in failed.to_dict("records")]
            lines += [
                f"  {case.name}: {case.message}"
                for case in judged.network.cases
                if case.result == comparison.FAIL
            ]
            lines += [judged.question]
            lines += [f"differs: {text}" for text in differing.explaining]
            pytest.fail("\n".join([f"worse than baseline {name!r}:", *lines]), pytrace=False)
        reason = Verdict(name, side.name, rows, differing).undecided()
        if reason and not self.allow_undecided:
            pytest.fail(f"baseline {name!r}: {reason}", pytrace=False)
        return rows


def _means(side: Side) -> dict[str, float]:
    means = side.scores.groupby([METHOD, FAMILY, METRIC])[VALUE].mean().dropna()
    table = means.reset_index().to_dict("records")
    return {f"{r[METHOD]} / {r[FAMILY]} / {r[METRIC]}": float(r[VALUE]) for r in table}


def _failure(row: dict[Any, Any], before: Side, after: Side) -> str:
    """Say what became worse, from what to what, and on which images most."""
    from steadymap.bench.gate.verdict import numbers  # noqa: PLC0415 - large

    head = f"  {row[METHOD]} / {row[FAMILY]} / {row[METRIC]}: {numbers(row)}; {row['reason']}"
    key = [METHOD, FAMILY, METRIC]
    sides = []
    for side in (before, after):
        chosen = side.scores
        for name in key:
            chosen = chosen[chosen[name] == row[name]]
        sides.append(chosen.set_index(IMAGE_ID)[VALUE])
    sign = -1.0 if row["better"] == "lower" else 1.0
    gain = (sign * (sides[1] - sides[0])).dropna().sort_values()
    names = after.manifest["data"]["pictures"]
    if sides[0].empty or sides[1].empty:
        # A line of a new training is a mean over families, of which no image has a score.
        return head
    worst = [
        f"    {names.get(image, image)}: {sides[0][image]:.4g} -> {sides[1][image]:.4g}"
        for image in gain.index[:WORST]
    ]
    return "\n".join([head, *worst])


@pytest.fixture
def steadymap_gate(request: pytest.FixtureRequest) -> Callable[..., pd.DataFrame]:
    """Return a function that holds a model against a baseline; see `Gate`."""
    extra_info = None
    if "benchmark" in request.fixturenames:
        extra_info = getattr(request.getfixturevalue("benchmark"), "extra_info", None)
    return Gate(
        request.config.rootpath / str(request.config.getoption("--steadymap-baselines")),
        bool(request.config.getoption("--steadymap-update-baseline")),
        bool(request.config.getoption("--steadymap-allow-undecided")),
        extra_info,
    )
