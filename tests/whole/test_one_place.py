"""All that is known of a metric stands in its entry; what is derived from it is what it was."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from small_run import manifest
from support import ROOT

from steadymap.bench.core.metric_registry import DESCRIBED, HEADLINES, describe, known_metrics
from steadymap.bench.gate.differences import differences
from steadymap.bench.gate.margins import INFORMATIVE, MARGINS, RELATIVE_MARGINS, Margins
from steadymap.bench.gate.side import KEPT_METRICS, read_side
from steadymap.bench.report.answer import metric_name
from steadymap.metrics import METRICS, Metric


def test_headlines_and_what_baselines_keep() -> None:
    assert HEADLINES == ("ssim", "spearman", "completeness_error")
    assert KEPT_METRICS == (
        "ssim", "spearman", "completeness_error", "ssim.recognised", "spearman.recognised",
        "evidence_kept",
    )  # fmt: skip


ABSOLUTE = {
    "ssim": 0.05,
    "spearman": 0.05,
    "spearman_magnitude": 0.05,
    "kendall": 0.05,
    "top_k_intersection": 0.05,
    "cosine": 0.05,
    "pearson": 0.05,
    "centre_shift": 0.01,
    "mask_mass": 0.05,
    "deletion": 0.05,
    "insertion": 0.05,
    "ssim.recognised": 0.1,
    "spearman.recognised": 0.1,
    "spearman_magnitude.recognised": 0.1,
    "top_k_intersection.recognised": 0.1,
    "cosine.recognised": 0.1,
    "pearson.recognised": 0.1,
    "centre_shift.recognised": 0.1,
}
RELATIVE = {
    "relative_l2": 0.2,
    "completeness_error": 0.25,
    "completeness_error_relative": 0.25,
    "max_sensitivity": 0.25,
    "local_lipschitz": 0.25,
    "infidelity": 0.25,
}
NONE = (
    "relative_input_stability",
    "relative_output_stability",
    "relative_representation_stability",
)


def test_margins_are_what_they_were_in_the_order_they_had() -> None:
    """Of the metrics that there were; a new one has its margin from its entry alone."""
    known = {*ABSOLUTE, *RELATIVE, *NONE}
    assert [pair for pair in MARGINS.items() if pair[0] in known] == list(ABSOLUTE.items())
    assert [pair for pair in RELATIVE_MARGINS.items() if pair[0] in known] == list(RELATIVE.items())
    assert tuple(name for name in INFORMATIVE if name in known) == NONE


def test_names_in_sentences() -> None:
    assert metric_name("ssim") == "SSIM"
    assert metric_name("spearman") == "rank correlation"
    assert metric_name("relative_l2") == "relative l2"
    assert metric_name("own_things:sign_agreement") == "own_things:sign_agreement"


@pytest.mark.parametrize("name", METRICS)
def test_a_margin_is_absolute_or_relative(name: str) -> None:
    metric = METRICS[name]
    assert metric.margin is None or metric.relative_margin is None
    assert all(
        margin is None or 0 < margin < 1
        for margin in (metric.margin, metric.relative_margin, metric.recognition_margin)
    )


def of_a_plugin() -> Metric:
    """A metric as a plug-in may make it, of one of ours."""
    return replace(METRICS["ssim"], summary="mine")


def test_manifests_describe_what_they_did() -> None:
    assert DESCRIBED == (
        "reads", "against", "better", "identity", "symmetric", "summary", "source", "min_side",
        "min_delta", "slow", "costly", "undefined", "range",
    )  # fmt: skip
    described = json.loads(json.dumps(describe({"mine": of_a_plugin()})))
    assert tuple(described["mine"]) == DESCRIBED
    before = manifest() | {"own_metrics": described}
    assert differences(before, before).forbidding == ()


def test_a_plugin_s_metric_is_called_by_its_name_and_has_no_margin() -> None:
    read = known_metrics({"own_metrics": describe({"mine": of_a_plugin()})})["mine"]
    assert (read.label, read.headline, read.margin) == ("", False, None)
    assert metric_name("mine") == "mine"
    assert Margins().of("mine", 1.0) != Margins().of("mine", 1.0), "no number"


def test_metrics_of_an_old_manifest_are_read() -> None:
    old = manifest()
    assert set(old["own_metrics"]["own"]) < set(DESCRIBED)
    read = known_metrics(old)["own"]
    assert (read.better, read.identity, read.recognises, read.probes) == (
        "higher",
        1.0,
        True,
        False,
    )


@pytest.mark.parametrize(
    "folder", sorted((ROOT / "results" / "baselines").iterdir()), ids=lambda path: path.name
)
def test_committed_baselines_keep_what_has_a_margin(folder: Path) -> None:
    metrics = set(read_side(folder).scores["metric"])
    assert set(KEPT_METRICS) <= metrics <= {*MARGINS, *RELATIVE_MARGINS}
