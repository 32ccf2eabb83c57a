"""The table of checks."""

from __future__ import annotations

import inspect

import pytest
from support import on_demand

from steadymap.bench.checks.conformance import NETWORKS
from steadymap.bench.checks.registry import CHECKS
from steadymap.bench.checks.subject import Subject


@pytest.mark.parametrize("name", CHECKS)
def test_a_check_is_the_function_of_its_name_and_says_what_that_says(name: str) -> None:
    (function,) = (one.load() for one in on_demand(CHECKS[name]).values())
    assert function.__name__ == name
    assert CHECKS[name].summary == str(inspect.getdoc(function)).partition("\n")[0]
    assert [one.annotation for one in inspect.signature(function).parameters.values()] == [
        Subject.__name__
    ]
    assert CHECKS[name].network in NETWORKS
