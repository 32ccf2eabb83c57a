"""Classifiers, and a finished run, that every test file may use."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from finished import run_into
from support import CLASSES, SIDE, conv_network, linear_network, seeded

from steadymap.bench import read_run
from steadymap.bench.report.finished_run import FinishedRun
from steadymap.models import Classifier, make_classifier


@pytest.fixture
def conv() -> Classifier:
    return make_classifier(seeded(conv_network), (SIDE, SIDE), CLASSES)


@pytest.fixture
def conv64() -> Classifier:
    return make_classifier(seeded(conv_network).double(), (SIDE, SIDE), CLASSES)


@pytest.fixture
def linear64() -> Classifier:
    return make_classifier(seeded(linear_network).double(), (SIDE, SIDE), CLASSES)


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    return replace(make_classifier(seeded(conv_network), (SIDE, SIDE), CLASSES), name="tiny")


@pytest.fixture(scope="session")
def finished_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of three methods, with its page and witnesses: to be read alone."""
    return run_into(tmp_path_factory.mktemp("finished"))


@pytest.fixture(scope="session")
def finished_run(finished_folder: Path) -> FinishedRun:
    return FinishedRun.of(finished_folder)


@pytest.fixture(scope="session")
def finished_records(finished_folder: Path) -> pd.DataFrame:
    return read_run(finished_folder)[0]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what tests have measured, and left under `measured`, from every worker."""
    for report in terminalreporter.getreports("passed") + terminalreporter.getreports("failed"):
        for name, value in report.user_properties:
            if name == "measured":
                terminalreporter.write_line(f"{report.nodeid.split('::')[-1]}: {value}")
