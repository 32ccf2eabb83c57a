"""Classifiers that every test file may use."""

from __future__ import annotations

from dataclasses import replace

import pytest
from support import CLASSES, SIDE, conv_network, linear_network, seeded

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


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what tests have measured, and left under `measured`, from every worker."""
    for report in terminalreporter.getreports("passed") + terminalreporter.getreports("failed"):
        for name, value in report.user_properties:
            if name == "measured":
                terminalreporter.write_line(f"{report.nodeid.split('::')[-1]}: {value}")
