"""What the numbers rest on."""

from __future__ import annotations

from pathlib import Path

import yaml

from steadymap.bench import read_run
from steadymap.bench.data.opening import open_images
from steadymap.bench.plan.experiment import make_experiment
from steadymap.bench.plan.identity import run_id
from steadymap.bench.report.sections.trust import configuration
from steadymap.models import load_classifier


def test_the_configuration_on_the_page_repeats_the_run(finished_folder: Path) -> None:
    _, manifest = read_run(finished_folder)
    experiment = make_experiment([yaml.safe_load(configuration(manifest))])
    classifier = load_classifier("compact")
    images = open_images("hands", classifier.framing, experiment.split, experiment.limit)
    assert run_id(experiment, classifier, images) == manifest["run_id"]
