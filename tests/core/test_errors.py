"""What an error says in one line."""

from __future__ import annotations

import pytest
from pydantic import BaseModel, ValidationError, model_validator

from steadymap.bench.core.errors import cause_of, first_error, message_of, one_line


class Pair(BaseModel):
    """Two numbers, the first below the second."""

    low: int
    high: int

    @model_validator(mode="after")
    def _ordered(self) -> Pair:
        if self.low >= self.high:
            raise ValueError("low must be\nbelow high")
        return self


def wrong(low: object, high: object) -> ValidationError:
    with pytest.raises(ValidationError) as caught:
        Pair.model_validate({"low": low, "high": high})
    return caught.value


def test_of_several_errors_the_first_is_told() -> None:
    error = wrong("x", "y")
    assert error.error_count() == 2
    assert first_error(error).startswith("low: Input should be a valid integer")


def test_what_is_wrong_with_all_together_has_the_name_that_is_given() -> None:
    assert first_error(wrong(2, 1), "pair") == "pair: Value error, low must be below high"


def test_an_error_is_one_line_of_its_type_and_message() -> None:
    assert one_line(ValueError("too\n  bright")) == "ValueError: too bright"
    assert one_line(ValueError()) == message_of(ValueError()) == "ValueError"
    assert len(one_line(ValueError("x" * 999))) < len(one_line(ValueError("x" * 999), length=None))


def test_a_file_s_cause_is_the_system_s_word_without_the_path() -> None:
    assert cause_of(FileNotFoundError(2, "No such file", "/home/someone/x")) == "No such file"
    assert cause_of(OSError("half\na header")) == "half a header"
