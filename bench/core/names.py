"""Names: what to say to one that nobody knows, how short one can be, and where it is safe."""

from __future__ import annotations

import difflib
import hashlib
import math
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


def clipped(names: list[str], most: int) -> list[str]:
    """Cut names that are too long to be drawn; each stays another than the others."""
    cut = [
        name if len(name) <= most else f"{name[: most - 1]}\N{HORIZONTAL ELLIPSIS}"
        for name in names
    ]
    return [
        name if cut.count(name) == 1 else f"{name[: most - 4]} {place}"
        for place, name in enumerate(cut, start=1)
    ]


def without_steps(spec: str) -> str:
    """Return a method's spec without its number of steps."""
    name, _, text = spec.partition(":")
    kept = ",".join(part for part in text.split(",") if part and not part.startswith("steps="))
    return f"{name}:{kept}" if kept else name


# A spec as ours are: its colon and commas become dashes, of which it has none, so that two specs
# never share a file.
_PART = "[a-z0-9_=][a-z0-9_.=]*"
_PLAIN = re.compile(f"{_PART}(:{_PART}(,{_PART})*)?")
# Names of devices in Windows, whatever their ending.
_DEVICES = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9]|conin\$|conout\$)(\..*)?", re.IGNORECASE)
_MOST_PLAIN = 120
_MOST_KEPT = 60
_HASH_DIGITS = 16


def file_name(*parts: str) -> str:
    """Return names as one component of a path, without its ending; other names give another one.

    Names as ours are stay readable: `integrated_gradients:baseline=black,steps=4` becomes
    `integrated_gradients-baseline=black-steps=4`. Of any other the odd signs become dashes, and the
    hash of the whole goes behind: also of those with capitals, which some file systems do not tell
    from small letters.
    """
    plain = re.sub("[:,]", "-", "-".join(parts))
    # Of several names, the dash that joins them is the only one.
    known = all(re.fullmatch(_PLAIN if len(parts) == 1 else _PART, part) for part in parts)
    if known and is_component(plain, _MOST_PLAIN):
        return plain
    return _hashed("-".join(parts), repr(parts))


def picture_name(text: str) -> str:
    """Return a picture's name as one component of a path, without its ending.

    Letters, digits, dots, dashes and underscores stay; anything else is a dash, with a hash behind.
    """
    odd = re.search("[^A-Za-z0-9._-]", text) or not is_component(text, _MOST_PLAIN)
    return _hashed(text, text) if odd else text


def is_component(text: str, most: int) -> bool:
    """Whether a name of letters, digits and dots, with any ending, is one that every system has."""
    return (
        0 < len(text) <= most
        and not text.startswith((".", "-"))
        and not text.endswith(".")
        and not _DEVICES.fullmatch(text)
    )


def _hashed(text: str, content: str) -> str:
    # Two dashes are in no plain name, nor is what begins with a device's.
    kept = re.sub("[^A-Za-z0-9_=]+", "-", text)[:_MOST_KEPT].strip("-")
    code = hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()[:_HASH_DIGITS]
    return f"{kept or 'name'}--{code}"


def printable(text: str) -> str:
    """Write text without what is no sign: line breaks and controls of a terminal become blanks."""
    return "".join(sign if sign.isprintable() else " " for sign in text)


def label(text: str, most: int = _MOST_KEPT) -> str:
    """Write a name so that a figure has room for it: no more than so many signs."""
    line = printable(text)
    return line if len(line) <= most else f"{line[: most - 3]}..."


def safe_markdown(text: str) -> str:
    """Write text so that nothing in it is Markdown, nor HTML, nor another line."""
    for sign in "\\`*_[]|~":
        text = text.replace(sign, f"\\{sign}")
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return printable(text)


def percent(share: float) -> str:
    """Write a share in per cent, rounded to a tenth; all alone reads 100%, and nothing 0%."""
    if share in (0, 1):
        return f"{abs(share):.0%}"
    tenths = round(1000 * share) if math.isfinite(share) else share
    # What rounding would make all, or nothing, stays a tenth on its own side of that.
    if tenths in (0, 1000):
        tenths += 1 if share > tenths / 1000 else -1
    return f"{tenths / 10:.1f}%"


IN_DEGREES = "in degrees"


def severity_text(severity: float, unit: str | None) -> str:
    """Return a severity as people read it: degrees have their sign.

    Args:
        severity: of a family of perturbations.
        unit: of the family's severities; None where nobody says.
    """
    return f"{severity:g}{'°' if unit == IN_DEGREES else ''}"


def duration(seconds: float) -> str:
    """Write a time as people say it: 40 s, 12 min, 3.5 h, 2.1 days."""
    for size, unit in ((86400.0, "days"), (3600.0, "h")):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"  # noqa: PLR2004 - below, seconds say more
