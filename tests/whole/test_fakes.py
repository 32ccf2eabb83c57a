"""No method that was made to win without looking is admitted, let alone first."""

from __future__ import annotations

from pathlib import Path

import fakes
import pandas as pd
import pytest
from support import call

from steadymap.bench.analysis.admission import Facts, admissions
from steadymap.bench.analysis.findings import Findings
from steadymap.bench.core.metric_registry import known_metrics
from steadymap.bench.records.scan import scan_run

IMAGES = 60
SOUND = ("gradient", "integrated_gradients:baseline=black")
RUN = ["run", "--limit", str(IMAGES), "--steps", "8", "--no-report", "--output", "run"]


def run_into(folder: Path, names: list[str], *words: str) -> Path:
    """Run sound methods and plug-ins in a folder; return the folder of the run."""
    methods = [*SOUND, *(f"fakes.{name}" for name in names)]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        chosen = [word for method in methods for word in ("--method", method)]
        # Exit code 3 is a fake's that fails on some view, and is its own affair.
        assert call(patch, *RUN, *chosen, *words) in (0, 3)
    return folder / "run"


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """Who is admitted by what its maps know, whatever `steadymap check` says of its code."""
    words = ("--family", "bias", "--severity", "0.1", "--metric", "spearman")
    names = [*fakes.FAKES, "remembering"]
    folder = run_into(tmp_path_factory.mktemp("fakes"), names, *words)
    scan, manifest = scan_run(folder)
    facts = Facts.of(manifest)
    without_checks = Facts(facts.classes, facts.unsigned, facts.by_magnitude)
    return admissions(scan, without_checks).set_index("method")


@pytest.mark.parametrize("name", [*fakes.FAKES, "remembering"])
def test_a_fake_is_not_admitted_by_what_it_knows(name: str, judged: pd.DataFrame) -> None:
    row = judged.loc[f"fakes.{name}"]
    assert row["verdict"] in ("refused", "undecided"), row.to_dict()
    assert not row["ranked"]
    assert row["reason"]


def test_sound_methods_are_admitted_beside_them(judged: pd.DataFrame) -> None:
    rows = judged[[name.startswith(SOUND) for name in judged.index]]
    assert len(rows) == len(SOUND)
    assert rows["verdict"].tolist() == ["admitted"] * len(SOUND)


@pytest.mark.slow
def test_noise_with_ever_more_gradient_is_never_first(tmp_path: Path) -> None:
    names = [f"mixture:share={share}" for share in fakes.SHARES]
    folder = run_into(
        tmp_path, names, "--method", "hires_cam", "--metric", "ssim", "--metric", "spearman"
    )
    scan, manifest = scan_run(folder)
    facts = Facts.of(manifest)
    findings = Findings.of(
        scan, known_metrics(manifest), Facts(facts.classes, facts.unsigned, facts.by_magnitude)
    )
    first = findings.ranks[findings.ranks["rank"] == 1]
    assert set(first["metric"]) == {"ssim", "spearman"}
    assert not any(str(method).startswith("fakes.") for method in first["method"])
