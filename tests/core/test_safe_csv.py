"""CSV: no text in it is a formula, and each comes back as it was."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from steadymap.bench import ConfigError
from steadymap.bench.core.safe_csv import csv_text, parse_csv, write_csv
from steadymap.bench.records.read import read_csv

BEGINNINGS = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")

# All that UTF-8 can hold, with a liking for what hurts.
TEXTS = st.text(
    st.one_of(st.sampled_from("=+-@\t\r\n'\",; aN\x00"), st.characters(codec="utf-8")), min_size=1
)
NUMBERS = st.one_of(st.floats(allow_nan=True, allow_infinity=True, width=32), st.just(-0.0))


@given(st.lists(st.tuples(TEXTS, TEXTS, NUMBERS), min_size=1, max_size=6))
@example([("NA", "null", -1.0), ("nan", "", math.nan), ("a\r=b", "'", 1.0)])
@example([("'=x", "''=x", -1.0), ("=x", "'", math.nan)])
def test_what_is_written_comes_back(rows: list[tuple[str, str, float]]) -> None:
    frame = pd.DataFrame(rows, columns=["method", "=kind", "value"])
    frame["=kind"] = frame["=kind"].replace("", "x").astype("category")
    read = parse_csv(csv_text(frame, "%.17g").encode(), ("method", "=kind"))
    assert list(read.columns) == list(frame.columns)
    for column in ("method", "=kind"):
        assert read[column].tolist() == frame[column].tolist()
    assert pd.api.types.is_numeric_dtype(read["value"].dtype)
    np.testing.assert_array_equal(read["value"], frame["value"])


@given(st.lists(st.tuples(TEXTS, NUMBERS), min_size=1, max_size=6), st.sampled_from(",;\t"))
def test_no_cell_is_a_formula(rows: list[tuple[str, float]], sign: str) -> None:
    """Read by Python's own reader: with commas as they are meant, with others as Excel may."""
    frame = pd.DataFrame(rows, columns=["@name", "value"])
    lines = list(csv.reader(io.StringIO(csv_text(frame), newline=""), delimiter=","))
    assert lines[0] == ["'@name", "value"]
    assert [line[0].startswith(BEGINNINGS) for line in lines] == [False] * (len(rows) + 1)
    # No separator stands outside of quotes but the commas between two cells.
    unquoted = "".join(csv_text(frame).split('"')[::2])
    assert unquoted.count(",") == len(rows) + 1
    assert sign == "," or sign not in unquoted


def test_numbers_stay_numbers() -> None:
    frame = pd.DataFrame(
        {
            "a": [-1.5, 1e-12, math.nan],
            "b": pd.array([-3, None, 5], dtype="Int32"),
            "c": [True, False, True],
            "d": [-0.25, "-0.25", None],
        }
    )
    assert csv_text(frame) == "a,b,c,d\n-1.5,-3,True,-0.25\n1e-12,,False,'-0.25\n,5,True,\n"


def test_a_reader_names_what_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    write_csv(pd.DataFrame({"image_id": ["NA", "-1"], "seconds": [1.0, 2.0]}), path)
    assert read_csv(path, ("image_id", "seconds"))["image_id"].tolist() == ["NA", "-1"]
    for text, words in (
        ("image_id,seconds\n,1\n", "values of image_id, seconds are gone"),
        ("image_id\na\n", "values of seconds are gone"),
        ("", "is damaged"),
        ("image_id,seconds\na,one\n", "seconds holds what is no number"),
    ):
        path.write_text(text)
        with pytest.raises(ConfigError, match=words):
            read_csv(path, ("image_id", "seconds"))
