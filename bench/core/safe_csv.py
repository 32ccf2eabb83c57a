"""CSV files that a spreadsheet opens as text and numbers: no cell of theirs is a formula."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd

from steadymap.bench.core.files import write_file

# What a spreadsheet takes for the beginning of a formula, the full-width signs among it (OWASP, CSV
# injection). It may stand behind apostrophes: one is put before and one taken off again, so that
# each text comes back.
_BEGIN = "[=+\\-@\\t\\r\\n\uff1d\uff0b\uff0d\uff20]"
_FORMULA = re.compile(f"'*{_BEGIN}")
_GUARDED = re.compile(f"'+{_BEGIN}")
# In quotes, or a part of the text would be a cell of its own; semicolons part cells in Europe.
_PARTING = re.compile('[",;\t\r\n]')

DIGITS = "%.6g"


def csv_text(frame: pd.DataFrame, digits: str = DIGITS) -> str:
    """Return a table as CSV, without its index; what is missing is empty.

    A text that a spreadsheet would take for a formula gets an apostrophe before it. Numbers stay as
    they are, negative ones, too.

    Args:
        frame: the table.
        digits: format of the numbers that are not whole.
    """
    rows = frame.itertuples(index=False, name=None)
    return "".join(_line(row, digits) for row in (tuple(frame.columns), *rows))


def write_csv(frame: pd.DataFrame, path: Path, digits: str = DIGITS) -> None:
    """Write a table as `csv_text` says.

    Raises:
        ConfigError: the file cannot be written.
    """
    write_file(path, csv_text(frame, digits))


def parse_csv(content: bytes, texts: Sequence[str]) -> pd.DataFrame:
    """Read what `csv_text` has made, and take the apostrophes off again.

    Args:
        content: of the file.
        texts: columns of text, in which `NA` and `null` are words, and nothing alone is missing.

    Raises:
        ValueError: it is no CSV, or no text.
    """
    head = [str(name) for name in pd.read_csv(io.BytesIO(content), nrows=0).columns]
    words = [name for name in head if _bare(name) in texts]
    table = pd.read_csv(
        io.BytesIO(content),
        dtype=dict.fromkeys(words, str),
        na_values={name: [""] if name in words else ["", "nan"] for name in head},
        keep_default_na=False,
    )
    table.columns = pd.Index([_bare(name) for name in head])
    for place, kind in enumerate(table.dtypes):
        if not pd.api.types.is_numeric_dtype(kind):
            table.isetitem(place, table.iloc[:, place].map(_bare).array)
    return table


def _line(row: Iterable[object], digits: str) -> str:
    return ",".join(_field(value, digits) for value in row) + "\n"


def _field(value: object, digits: str) -> str:
    if isinstance(value, str):
        text = f"'{value}" if _FORMULA.match(value) else value
        return '"' + text.replace('"', '""') + '"' if _PARTING.search(text) else text
    if value is None or value is pd.NA:
        return ""
    if isinstance(value, float):
        return "" if math.isnan(value) else digits % value
    return str(value)


def _bare(value: object) -> object:
    return value[1:] if isinstance(value, str) and _GUARDED.match(value) else value
