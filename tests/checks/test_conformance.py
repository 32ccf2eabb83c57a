"""What a run writes down of the checks of methods that are not ours."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from steadymap.bench.checks.conformance import outcomes
from steadymap.bench.methods.batch import Batch
from steadymap.bench.methods.binding import bind_method
from steadymap.bench.methods.gradient import gradient
from steadymap.bench.methods.method import BoundMethod, Method
from steadymap.models import Classifier


def own(explain: object) -> BoundMethod:
    return BoundMethod("own", Method(explain, "", ""), ())  # type: ignore[arg-type]


def sound(classifier: Classifier, batch: Batch) -> Tensor:
    return gradient(classifier, batch)


def blind_to_the_class(classifier: Classifier, batch: Batch) -> Tensor:
    targets = [torch.full_like(batch.targets, label) for label in range(2)]
    maps = [gradient(classifier, replace(batch, targets=label)) for label in targets]
    return maps[0] + maps[1]


def of_the_batch(classifier: Classifier, batch: Batch) -> Tensor:
    return gradient(classifier, batch) / len(batch.images)


def of_another_network(classifier: Classifier, _batch: Batch) -> Tensor:
    hooked: Tensor = classifier.module.network.features  # type: ignore[assignment]
    return hooked


def test_only_what_is_not_ours_is_checked_and_the_first_failure_is_named() -> None:
    assert outcomes([bind_method("gradient"), own(sound)]) == {"own": "passed"}
    assert outcomes([own(of_the_batch)]) == {"own": "failed: batching"}


def test_a_map_that_is_blind_to_the_class_is_kept_out_by_no_check() -> None:
    assert outcomes([own(blind_to_the_class)]) == {"own": "passed"}


def test_what_is_made_for_a_network_of_its_own_cannot_be_checked() -> None:
    assert outcomes([own(of_another_network)]) == {"own": "skipped"}
