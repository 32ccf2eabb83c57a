"""What is left out of a report that people post: names of users, hosts and homes, secrets."""

from __future__ import annotations

import getpass
import os
import platform
import re
from collections.abc import Iterable
from pathlib import Path

# Environment variables whose values nobody shall read, and the length from which a value is sought.
SECRET = re.compile("TOKEN|SECRET|PASSW|CREDENTIAL|KEY|AUTH", re.IGNORECASE)
SECRET_LENGTH = 6
# Shorter ones are words of every text: they are hidden in paths alone.
NAME_LENGTH = 3
NOT_PERSONAL = ("root", "localhost")


def private_words() -> list[tuple[re.Pattern[str], str]]:
    """Return patterns of what is nobody's business, and what to write instead.

    In this order: values of variables that are called a token, key or password; the home folder;
    credentials in addresses; the user's and the machine's name.
    """
    secrets = [
        (re.escape(value), f"${name}")
        for name, value in os.environ.items()
        if SECRET.search(name) and len(value) >= SECRET_LENGTH
    ]
    homes = [(rf"{re.escape(home)}(?![\w.-])", "~") for home in _homes()]
    names = [(_word(name), "USER") for name in _users()]
    hosts = [(_word(name), "HOST") for name in _hosts()]
    patterns = [*sorted(secrets, key=_longest_first), *homes, (r"(?<=://)[^/\s@]+@", "")]
    return [(re.compile(pattern), text) for pattern, text in (*patterns, *names, *hosts)]


def hide(text: str, hidden: Iterable[tuple[re.Pattern[str], str]]) -> str:
    """Write a text without what is private: see `private_words`."""
    for pattern, instead in hidden:
        text = pattern.sub(lambda _match, instead=instead: instead, text)  # type: ignore[misc] # mypy cannot infer a lambda's default
    return text


def _longest_first(secret: tuple[str, str]) -> int:
    return -len(secret[0])


def _homes() -> list[str]:
    try:
        home = Path.home()
        spellings = dict.fromkeys((str(home.resolve()), str(home)))
    except (OSError, RuntimeError):  # there is none to hide
        return []
    return sorted((path for path in spellings if path != home.anchor), key=len, reverse=True)


def _users() -> list[str]:
    try:
        account = getpass.getuser()
    except (ImportError, KeyError, OSError):  # a number without a name
        account = ""
    try:
        folder = Path.home().name
    except RuntimeError:
        folder = ""
    asked = (os.environ.get(name, "") for name in ("USER", "LOGNAME", "USERNAME", "SUDO_USER"))
    return _personal((account, folder, *asked))


def _hosts() -> list[str]:
    name = platform.node()
    return _personal((name, name.partition(".")[0]))


def _personal(names: Iterable[str]) -> list[str]:
    kept = {name for name in names if name and name not in NOT_PERSONAL}
    return sorted(kept, key=len, reverse=True)


def _word(name: str) -> str:
    """Return a pattern of a name as a word of its own; of a short one, as a part of a path."""
    word = re.escape(name)
    if len(name) < NAME_LENGTH:
        return rf"(?<=[/\\]){word}(?=[/\\]|$)"
    return rf"(?<![A-Za-z0-9]){word}(?![A-Za-z0-9])"
