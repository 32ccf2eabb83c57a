"""Methods that were made to win are not admitted, and those that know are: with a real network."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from fakes import FAKES, SHARES
from support import call

from steadymap.bench.analysis.admission import Facts, admissions
from steadymap.bench.analysis.findings import Findings
from steadymap.bench.core.metric_registry import known_metrics
from steadymap.bench.data.opening import open_images
from steadymap.bench.measure.runner import run
from steadymap.bench.plan.plan import Plan
from steadymap.bench.records.scan import scan_run
from steadymap.models.loading import load_classifier

SOUND = ("gradient_x_input", "integrated_gradients:baseline=black,steps=8", "hires_cam")


def judged(methods: tuple[str, ...], limit: int) -> pd.DataFrame:
    classifier = load_classifier("compact")
    plan = Plan(
        method=methods, family=("bias",), severity=(0.1,), metric=("spearman",), controls=False
    )
    images = open_images("hands", classifier.framing, split="test", limit=limit)
    return admissions(run(classifier, images, plan)).set_index("method")


def test_with_few_images_already_what_knows_is_told_from_what_does_not() -> None:
    fakes = tuple(f"fakes:{name}" for name in (*FAKES, "remembering"))
    found = judged((*SOUND, *fakes), 24)
    verdicts = found["verdict"].tolist()
    assert verdicts[: len(SOUND)] == ["admitted"] * len(SOUND)
    assert set(verdicts[len(SOUND) :]) <= {"refused", "undecided"}
    assert found["ranked"].sum() == len(SOUND)
    assert (found["reason"].str.len() > 0)[len(SOUND) :].all()


@pytest.mark.slow
def test_no_fake_is_admitted_on_the_hands_of_the_embedded_experiment() -> None:
    fakes = tuple(f"fakes:{name}" for name in FAKES)
    found = judged(("gradient", *SOUND, *fakes), 60)
    admitted = found.index[found["verdict"] == "admitted"].tolist()
    assert len(admitted) == 1 + len(SOUND)
    assert not [name for name in admitted if "fakes" in name]


@pytest.mark.slow
def test_mixtures_have_no_more_than_the_gradient_that_they_hide() -> None:
    mixtures = tuple(f"fakes:mixture:share={share}" for share in SHARES)
    found = judged(("gradient", *SOUND, *mixtures), 60)
    rows = found[found.index.str.startswith("fakes")]
    assert rows["verdict"].iloc[0] == "refused"  # noise alone
    assert rows["below_gradient"].all()
    assert not rows["ranked"].iloc[:2].any()


@pytest.mark.slow
def test_noise_with_ever_more_gradient_is_never_first(tmp_path: Path) -> None:
    methods = ("gradient", *SOUND, *(f"fakes:mixture:share={share}" for share in SHARES))
    words = [word for method in methods for word in ("--method", method)]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        assert call(patch, "run", *words, "--limit", "60", "--no-report", "--output", "run") == 0
    scan, manifest = scan_run(tmp_path / "run")
    # Whatever `steadymap check` says of their code.
    facts = Facts.of(manifest)
    alone = Facts(facts.classes, facts.unsigned, facts.by_magnitude)
    ranks = Findings.of(scan, known_metrics(manifest), alone).ranks
    first = ranks[(ranks["rank"] == 1) & ranks["metric"].isin(("ssim", "spearman"))]
    assert set(first["metric"]) == {"ssim", "spearman"}
    assert not any(str(method).startswith("fakes.") for method in first["method"])
