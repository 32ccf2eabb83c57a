"""A user's mistakes, and what an exception says in one line."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError

MESSAGE_LENGTH = 300


class ConfigError(ValueError):
    """A configuration that cannot be run, with the key, the rule and the value."""


class NoBaselineError(ConfigError):
    """There is no baseline of that name."""


class IncompleteError(ConfigError):
    """Records of a run are not there: which, and what to do."""


class DataError(ValueError):
    """Data that cannot be used, with what to do about it."""


class PluginError(ValueError):
    """A plug-in that cannot be had: which, of whom, and why."""


def one_line(error: BaseException, length: int | None = MESSAGE_LENGTH) -> str:
    """Return an exception's type and message in one line.

    Args:
        error: the exception.
        length: of the message, at most, in characters; None for all of it.
    """
    text = " ".join(str(error).split())[:length]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def message_of(error: BaseException) -> str:
    """Return what an exception says, in one line; its type where it says nothing."""
    return " ".join(str(error).split())[:MESSAGE_LENGTH] or type(error).__name__


def cause_of(error: BaseException) -> str:
    """Return why a file cannot be used: in the system's words, which have no path, or its own."""
    return getattr(error, "strerror", None) or message_of(error)


def first_error(error: ValidationError, fallback: str = "") -> str:
    """Return the first thing that is wrong with values, in one line: the key and the rule.

    Args:
        error: pydantic's.
        fallback: what the key is called where none is wrong, but the values together.
    """
    first = error.errors()[0]
    key = ".".join(map(str, first["loc"])) or fallback
    return " ".join(f"{key}: {first['msg']}".split())
