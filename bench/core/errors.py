"""A user's mistakes, and what an exception says in one line."""

from __future__ import annotations

MESSAGE_LENGTH = 300


class ConfigError(ValueError):
    """A configuration that cannot be run, with the key, the rule and the value."""


class NoBaselineError(ConfigError):
    """There is no baseline of that name."""


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
