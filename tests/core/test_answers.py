"""Answers are the same within rounding, and others beyond it."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace

import pytest
from pydantic import TypeAdapter

from steadymap.bench.core.answers import LEAST_ROUNDING, TIMES_ROUNDING, Answers, unlike

ONE = Answers(((3.0, 4.0), (0.0, 5.0)), ((1.0, 0.0), (2.0, 0.0)), 1e-6, 1e-3)
MOST = TIMES_ROUNDING * 1e-6


def test_as_far_as_rounding_reaches_answers_are_the_same() -> None:
    assert unlike(ONE, ONE) == ""
    assert unlike(ONE, replace(ONE, logits=((3.0, 4.0), (0.0, 5.0 * (1 - 0.9 * MOST))))) == ""
    other = replace(ONE, logits=((3.0, 4.0), (0.0, 5.0 * (1 - 1.1 * MOST))))
    assert unlike(ONE, other) == unlike(other, ONE)
    assert unlike(ONE, other) == "logits differ by 2e-05 of their size, rounding explains 2e-05"
    # Whoever rounds more says how far it reaches.
    assert unlike(replace(ONE, logits_rounding=1e-5), other) == ""


def test_a_gradient_may_jump_on_an_image_but_not_on_all() -> None:
    assert unlike(ONE, replace(ONE, gradients=((-1.0, 0.0), (2.0, 0.0)))) == ""
    other = replace(ONE, gradients=((-1.0, 0.0), (2.1, 0.0)))
    assert "input gradients differ by 5e-02 of their size" in unlike(ONE, other)


def test_rounding_that_left_no_trace_is_still_float32s() -> None:
    exact = replace(ONE, logits_rounding=0.0)
    near = replace(exact, logits=((3.0, 4.0), (0.0, 5.0 * (1 + 4 * LEAST_ROUNDING))))
    assert unlike(exact, near) == ""


@pytest.mark.parametrize("lost", [((), (2.0, 0.0)), ((), ())])
def test_what_has_no_answer_is_unlike_what_has(lost: tuple[tuple[float, ...], ...]) -> None:
    assert unlike(replace(ONE, logits=lost), replace(ONE, logits=lost)) == ""
    assert "logits differ by inf" in unlike(ONE, replace(ONE, logits=lost))
    assert ("gradients" in unlike(ONE, replace(ONE, gradients=lost))) == (not any(lost))


def test_zero_is_an_answer() -> None:
    dead = replace(ONE, gradients=((0.0, 0.0), (0.0, 0.0)))
    assert unlike(dead, dead) == ""
    assert "input gradients differ by 1e+00" in unlike(ONE, dead)


def test_answers_come_back_from_json_as_they_were() -> None:
    text = json.dumps(asdict(replace(ONE, logits=((math.pi, 1 / 3), ()))))
    back = TypeAdapter(Answers).validate_python(json.loads(text))
    assert back == replace(ONE, logits=((math.pi, 1 / 3), ()))
