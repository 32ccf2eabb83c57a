"""A user's mistakes about networks; torch need not be there to speak of them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

MOST_SHOWN = 200


class ModelError(ValueError):
    """A network, a model name or a weights file that cannot be used, with what to do about it."""


def one_line(error: BaseException) -> str:
    """Return an exception's type and the beginning of its message, in one line."""
    text = " ".join(str(error).split())[:MOST_SHOWN]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def shown(text: str) -> str:
    """Write a text of a file so that it is one line, and no more than one."""
    line = "".join(sign if sign.isprintable() else " " for sign in text)
    return line if len(line) <= MOST_SHOWN else f"{line[:MOST_SHOWN]}..."


def did_you_mean(name: str, known: Iterable[str], otherwise: str) -> str:
    """Return "did you mean X?" for a name that nobody knows, or what to say where none is close."""
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {near[0]}?" if near else otherwise
