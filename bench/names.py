"""Names: what to say to one that nobody knows, and how short one can be."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable


def nearest(name: str, known: Iterable[str]) -> str:
    """Return "did you mean X?", or "known: ..." where nothing is close."""
    options = list(known)
    near = difflib.get_close_matches(name, options, n=1, cutoff=0.5)
    return f"did you mean {near[0]}?" if near else f"known: {', '.join(options)}"


def short_names(specs: list[str]) -> dict[str, str]:
    """Shorten method specs by the parameters that all specs of the same method share."""
    parts = {spec: spec.partition(":") for spec in specs}
    short = {}
    for spec, (name, _, text) in parts.items():
        alike = [set(rest.split(",")) for other, _, rest in parts.values() if other == name]
        shared = set.intersection(*alike)
        own = [part.partition("=")[2] for part in text.split(",") if part and part not in shared]
        short[spec] = " ".join([name, *own])
    return short


def without_steps(spec: str) -> str:
    """Return a method's spec without its number of steps."""
    name, _, text = spec.partition(":")
    kept = ",".join(part for part in text.split(",") if part and not part.startswith("steps="))
    return f"{name}:{kept}" if kept else name


def file_name(text: str) -> str:
    """Return a name with nothing in it that a file's cannot have: `package.module:name` has."""
    return re.sub(r"[^A-Za-z0-9_.=-]+", "-", text)


def safe_markdown(text: str) -> str:
    """Write text so that nothing in it is Markdown, nor HTML, nor another line."""
    for sign in "\\`*_[]|~":
        text = text.replace(sign, f"\\{sign}")
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return " ".join(text.split("\n"))
