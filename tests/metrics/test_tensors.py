"""Metrics on tensors against the same metrics on NumPy arrays."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from support import probe_evidence
from torch import Tensor

from steadymap.metrics import (
    METRICS,
    PROBES,
    Maps,
    Metric,
    Scores,
    Status,
    TensorMaps,
    evaluate,
    tensors,
)
from steadymap.metrics.maps import average_ranks, check, magnitude

Array = NDArray[np.float64]
Kinds = dict[str, tuple[Array, Array]]
SIDE = 13
DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
    ),
]
# Those that need the network have no twin: their maps go to the host.
ON_TENSORS = [name for name, metric in METRICS.items() if metric.against not in PROBES]
every_metric = pytest.mark.parametrize("name", ON_TENSORS)
every_device = pytest.mark.parametrize("device", DEVICES)


def random_pair(shape: tuple[int, ...]) -> tuple[Array, Array]:
    rng = np.random.default_rng(0)
    clean = rng.normal(size=shape)
    return clean, clean + rng.normal(size=shape)


def sparse_pair(shape: tuple[int, ...]) -> tuple[Array, Array]:
    clean, perturbed = random_pair(shape)
    return clean * (clean > 1.5), perturbed * (perturbed > 2)


PAIRS: Kinds = {
    "random": random_pair((4, SIDE, SIDE)),
    "tied": (np.rint(random_pair((4, SIDE, SIDE))[0]), np.rint(random_pair((4, SIDE, SIDE))[1])),
    "not square": random_pair((3, 13, 17)),
    "sparse": sparse_pair((4, 20, 20)),
    "one map": random_pair((1, 11, 11)),
}


def evidence(metric: Metric, count: int) -> Array:
    """Deltas, or masks larger than the maps."""
    rng = np.random.default_rng(1)
    if metric.against == "delta":
        return rng.uniform(-2, 2, count)
    return (rng.random((count, 30, 41)) < 0.4).astype(np.float64)


def both(
    metric: Metric, clean: Array, other: Array | None = None, device: str = "cpu"
) -> tuple[Scores, Scores]:
    """Score on arrays, and on tensors of the device."""
    against = evidence(metric, len(clean)) if other is None else other
    maps = TensorMaps(torch.tensor(clean, device=device))
    there = torch.tensor(against, device=device)
    if metric.against == "map":
        return (
            evaluate(metric, Maps(clean), Maps(against)),
            evaluate(metric, maps, TensorMaps(there)),
        )
    return evaluate(metric, Maps(clean), against), evaluate(metric, maps, there)


def assert_same(arrays_: Scores, tensors_: Scores, scale: float = 1.0) -> None:
    assert tensors_.statuses == arrays_.statuses
    assert tensors_.details == arrays_.details
    assert tensors_.values.dtype == np.float64
    np.testing.assert_allclose(tensors_.values, arrays_.values, rtol=1e-9, atol=1e-9 * scale)


@every_device
@pytest.mark.parametrize("kind", PAIRS)
@every_metric
def test_tensors_score_as_arrays_do(name: str, kind: str, device: str) -> None:
    metric = METRICS[name]
    clean, perturbed = PAIRS[kind]
    scores = both(metric, clean, perturbed if metric.against == "map" else None, device)
    assert scores[0].statuses == (Status.OK,) * len(clean)
    assert_same(*scores)


@every_device
@pytest.mark.parametrize("level", [0.0, 0.3, math.nan, math.inf, -math.inf, 1 + 2.0**-23])
@every_metric
def test_bad_maps_get_the_same_status(name: str, level: float, device: str) -> None:
    metric = METRICS[name]
    clean, perturbed = (pair.copy() for pair in PAIRS["random"])
    clean[1] = 1.0 if level > 1 else level
    clean[1, 3, 5] = level
    other = perturbed if metric.against == "map" else evidence(metric, len(clean))
    other[2] = level
    scores = both(metric, clean, other, device)
    assert scores[0].statuses[1] is not Status.OK
    assert_same(*scores)


@every_device
@every_metric
def test_small_maps_and_deltas_get_the_same_status(name: str, device: str) -> None:
    metric = METRICS[name]
    clean, perturbed = (pair[:, :7, :9] for pair in PAIRS["random"])
    other = perturbed
    if metric.against != "map":
        other = evidence(metric, len(clean))
    if metric.against == "delta":
        other[:2] = (0.0099, -0.0099)
    assert_same(*both(metric, clean, other, device))


@every_metric
@given(data=st.data())
def test_whatever_the_maps_both_ways_agree(name: str, data: st.DataObject) -> None:
    metric = METRICS[name]
    anything = arrays(np.float64, (2, 11, 12), elements=st.floats(width=32))
    clean = data.draw(anything)
    other = {
        "map": anything,
        "mask": arrays(np.float64, (2, 13, 12), elements=st.floats(0, 1)),
        "delta": arrays(np.float64, 2, elements=st.floats(width=32)),
    }[metric.against]
    against = data.draw(other)
    scores = both(metric, clean, against)
    # Sums of values of opposite sign are only as good as their largest terms.
    scale = 1.0
    if metric.against == "delta":
        terms = np.abs(clean).sum(axis=(1, 2)) / np.minimum(1, np.maximum(np.abs(against), 0.01))
        scale = max(1.0, *np.nan_to_num(terms, posinf=0))
    assert_same(*scores, scale)


@given(arrays(np.float64, (2, 5, 7), elements=st.floats(width=32)))
def test_magnitudes_are_the_same_bits(signed: Array) -> None:
    # Ranks, ties and statuses hang on the last bit.
    np.testing.assert_array_equal(tensors.magnitude(torch.tensor(signed)), magnitude(signed))


@pytest.mark.parametrize("shape", [(2, 200, 300), (2, 32, 32), (2, 1, 1), (2, 1, 2)])
def test_magnitudes_of_any_size_are_the_same_bits(shape: tuple[int, int, int]) -> None:
    signed = np.random.default_rng(9).normal(size=shape)
    np.testing.assert_array_equal(tensors.magnitude(torch.tensor(signed)), magnitude(signed))


@given(arrays(np.float64, (3, 2, 2), elements=st.sampled_from([1.0, 1 + 2e-6, math.inf, math.nan])))
def test_checks_are_the_same(values: Array) -> None:
    found, expected = tensors.check(torch.tensor(values)), check(values)
    np.testing.assert_array_equal(found.finite, expected.finite)
    np.testing.assert_array_equal(found.constant, expected.constant)


@given(arrays(np.float64, (3, 4, 5), elements=st.sampled_from([-1.0, -0.0, 0.0, 0.5, 2.0])))
def test_ranks_are_the_same(values: Array) -> None:
    ranks = average_ranks(values) - (20 + 1) / 2
    norms = np.sqrt((ranks**2).sum(axis=1, keepdims=True))
    expected = np.divide(ranks, norms, out=np.zeros_like(ranks), where=norms != 0)
    np.testing.assert_allclose(tensors.unit_ranks(torch.tensor(values)), expected, atol=1e-15)


@pytest.mark.parametrize("channels", [1, 3, 40])
def test_channels_are_summed_to_the_same_bits(channels: int) -> None:
    attributions = np.random.default_rng(0).normal(size=(2, channels, 5, 6)).astype(np.float32)
    attributions *= 10.0 ** np.arange(-8, 8, 16 / channels, dtype=np.float32)[:, None, None]
    found = TensorMaps.from_attributions(torch.tensor(attributions))
    assert found.signed.dtype == torch.float64
    np.testing.assert_array_equal(found.signed, Maps.from_attributions(attributions).signed)


def test_kendall_is_the_same_however_many_pairs_are_compared_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clean, perturbed = (TensorMaps(torch.tensor(pair)) for pair in PAIRS["tied"])
    whole = tensors.kendall(clean, perturbed)
    for pairs in (1, 4 * SIDE**2 * 50):
        monkeypatch.setattr(tensors, "PAIRS", pairs)
        assert torch.equal(tensors.kendall(clean, perturbed), whole)


@pytest.mark.parametrize("name", [name for name in ON_TENSORS if METRICS[name].against != "map"])
def test_evidence_comes_from_anywhere(name: str) -> None:
    metric = METRICS[name]
    clean = PAIRS["random"][0]
    other = evidence(metric, len(clean))
    other.flags.writeable = False
    expected = evaluate(metric, Maps(clean), other)
    maps = TensorMaps(torch.tensor(clean))
    assert_same(expected, evaluate(metric, maps, other))
    assert_same(expected, evaluate(metric, Maps(clean), torch.tensor(other)))
    single = torch.tensor(other).float()
    assert_same(
        evaluate(metric, Maps(clean), single.double().numpy()), evaluate(metric, maps, single)
    )


@every_metric
def test_a_metric_without_tensors_gets_arrays(name: str) -> None:
    metric = replace(METRICS[name], on_tensors=None)
    clean, perturbed = PAIRS["not square"]
    assert_same(*both(metric, clean, perturbed if metric.against == "map" else None))


@every_device
@pytest.mark.parametrize("name", [name for name in METRICS if METRICS[name].against in PROBES])
def test_a_metric_of_the_clean_image_takes_maps_from_anywhere(name: str, device: str) -> None:
    metric, clean = METRICS[name], PAIRS["random"][0].copy()
    clean[1] = 0.5
    rng = np.random.default_rng(2)
    other = probe_evidence(metric.against, len(clean), lambda shape: rng.uniform(1, 2, shape))
    maps = TensorMaps(torch.tensor(clean, device=device))
    assert metric.on_tensors is None
    assert_same(evaluate(metric, Maps(clean), other), evaluate(metric, maps, other))


@every_metric
def test_a_metric_on_tensors_sees_tensors_alone(name: str) -> None:
    def forbidden(*_args: object) -> Array:
        raise AssertionError("the arrays' function was called")

    seen: list[object] = []

    def on_tensors(maps: TensorMaps, against: TensorMaps | Tensor) -> Tensor:
        seen.extend((maps, against))
        return torch.ones(len(maps), dtype=torch.float64)

    metric = replace(METRICS[name], compute=forbidden, on_tensors=on_tensors)
    clean, perturbed = PAIRS["random"]
    other = torch.tensor(perturbed) if metric.against == "map" else None
    against = torch.tensor(evidence(metric, len(clean))) if other is None else TensorMaps(other)
    scores = evaluate(metric, TensorMaps(torch.tensor(clean)), against)
    np.testing.assert_array_equal(scores.values, 1.0)
    assert [type(one) for one in seen] == [
        TensorMaps,
        TensorMaps if metric.against == "map" else Tensor,
    ]


def test_what_does_not_belong_together_is_refused() -> None:
    here, there = Maps(PAIRS["random"][0]), TensorMaps(torch.tensor(PAIRS["random"][0]))
    with pytest.raises(ValueError, match="expected 4 of map, got 4 of TensorMaps"):
        evaluate(METRICS["ssim"], here, there)
    with pytest.raises(ValueError, match="expected 4 of map, got 4 of Maps"):
        evaluate(METRICS["ssim"], there, here)
    with pytest.raises(ValueError, match="expected 4 of delta"):
        evaluate(METRICS["completeness_error"], there, there)
    with pytest.raises(ValueError, match=r"different size: \(13, 13\) and \(12, 13\)"):
        evaluate(METRICS["ssim"], there, TensorMaps(torch.zeros(4, 12, 13)))
    with pytest.raises(ValueError, match="batch, channels"):
        TensorMaps.from_attributions(torch.zeros(4, SIDE, SIDE))


def test_flags_are_derived_once(monkeypatch: pytest.MonkeyPatch) -> None:
    clean, perturbed = (TensorMaps(torch.tensor(pair)) for pair in PAIRS["random"])
    expected = evaluate(METRICS["spearman"], clean, perturbed)
    monkeypatch.delattr(tensors, "check")
    assert_same(expected, evaluate(METRICS["spearman"], clean, perturbed))
    with pytest.raises(NameError):
        evaluate(METRICS["spearman"], TensorMaps(clean.signed), perturbed)
