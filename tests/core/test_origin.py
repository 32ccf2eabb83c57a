"""Whose a function is."""

from __future__ import annotations

import functools

from steadymap.bench.core.on_demand import OnDemand
from steadymap.bench.core.origin import is_ours
from steadymap.bench.methods import gradient as attributions
from steadymap.bench.methods.batch import Batch
from steadymap.models import Classifier


def test_what_is_ours_is_told_by_where_its_code_stands() -> None:
    @functools.wraps(attributions.gradient)
    def disguised(classifier: Classifier, batch: Batch) -> object:
        return attributions.gradient(classifier, batch)

    class Explainer:
        def __call__(self, classifier: Classifier, batch: Batch) -> object:
            return attributions.gradient(classifier, batch)

    assert disguised.__module__ == attributions.__name__
    assert is_ours(attributions.gradient)
    assert is_ours(functools.partial(attributions.gradient))
    assert not is_ours(disguised)
    assert not is_ours(Explainer())
    assert not is_ours(functools.partial(disguised))


def test_a_function_on_demand_is_whose_it_will_be() -> None:
    ours, theirs = OnDemand(f"{attributions.__name__}:gradient"), OnDemand("json:loads")
    assert is_ours(ours)
    assert is_ours(functools.partial(ours))
    assert not is_ours(theirs)
    assert not is_ours(functools.partial(theirs))
