"""Classifiers, a finished run and the command line, for every test file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from finished import JUDGED, run_into
from pages import BROWSER, DRIVER
from support import Command, Done, call, conv_network, linear_network, tiny

from steadymap.bench import read_run
from steadymap.bench.report.finished_run import FinishedRun
from steadymap.models import Classifier

# tox says how wide its own terminal is; what is printed here is as wide as a log.
os.environ.pop("COLUMNS", None)


@pytest.fixture
def conv() -> Classifier:
    return tiny()


@pytest.fixture
def conv64() -> Classifier:
    return tiny(lambda: conv_network().double())


@pytest.fixture
def linear64() -> Classifier:
    return tiny(lambda: linear_network().double())


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    return replace(tiny(), name="tiny")


@pytest.fixture
def steadymap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    """Return what runs a command in this process, in an empty folder unless it is left."""
    monkeypatch.chdir(tmp_path)

    def command(*arguments: str) -> Done:
        capsys.readouterr()
        code = call(monkeypatch, *arguments)
        return Done(code, *capsys.readouterr())

    return command


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Yield a browser without a window."""
    if not BROWSER or not DRIVER:
        pytest.skip("no Chromium with its driver here (Debian: chromium chromium-driver)")
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for word in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    try:
        yield driver
    finally:
        driver.quit()


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


@pytest.fixture(scope="session")
def judged_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that says whose maps know their image: to be read alone."""
    return run_into(tmp_path_factory.mktemp("judged"), JUDGED)


@pytest.fixture(scope="session")
def judged_run(judged_folder: Path) -> FinishedRun:
    return FinishedRun.of(judged_folder)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what tests have measured, and left under `measured`, from every worker."""
    for report in terminalreporter.getreports("passed") + terminalreporter.getreports("failed"):
        for name, value in report.user_properties:
            if name == "measured":
                terminalreporter.write_line(f"{report.nodeid.split('::')[-1]}: {value}")
