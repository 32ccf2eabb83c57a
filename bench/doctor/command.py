"""`steadymap doctor`: what is here, what is broken, what to do, and what to put into an issue.

Whatever may be broken is imported where its failure is one line among others, torch first of all.
"""

from __future__ import annotations

import io
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from steadymap.bench.core.console import EXIT_FAILED, console_of, line
from steadymap.bench.core.names import safe_markdown
from steadymap.bench.doctor import devices, folders, packages
from steadymap.bench.doctor.facts import RESULTS, Fact, Probe, Result, look

if TYPE_CHECKING:
    from steadymap.bench.doctor.selftest import Outcome


DOCTOR_VERSION = 1

TO_REPORT = "trust no number of this installation: install it anew, or report this as an issue"

STYLES: dict[Result, str] = {"ok": "", "missing": "dim", "warning": "yellow", "failed": "bold red"}

TO_ADD = (
    "the command, as you typed it",
    "the configuration file, if there is one (`--config`)",
    "`manifest.json` of the run's folder (`ledger.json` if it did not finish)",
    "the last 30 lines of stderr, the first line of the error among them",
    "what you expected instead",
)


class Form(StrEnum):
    """What the facts are written as."""

    TEXT = "text"
    JSON = "json"
    MD = "md"


# --- the self-test --------------------------------------------------------------------------------


def _self_test() -> Iterator[Fact]:
    started = time.monotonic()
    from steadymap.bench.doctor.selftest import CHECKS, make_trial

    trial = make_trial()
    for name, check in CHECKS.items():
        yield from look(
            Probe(name, partial(_checked, name, partial(check, trial)), True, TO_REPORT)
        )
    seconds = time.monotonic() - started
    yield Fact("time", f"{seconds:.1f} s", number=seconds)


def _checked(name: str, check: Callable[[], Outcome]) -> Iterator[Fact]:
    outcome = check()
    if outcome.holds:
        yield Fact(name, outcome.value)
    else:
        yield Fact(name, outcome.value, "failed", TO_REPORT)


# --- all of it ------------------------------------------------------------------------------------

SELF_TEST = "self-test"

SECTIONS: dict[str, tuple[Probe, ...]] = {
    "versions": (
        Probe("system", packages.probe_system),
        Probe("processor", packages.probe_processor),
        Probe("packages", packages.probe_packages, True, "pip install --force-reinstall steadymap"),
        Probe("torch and torchvision", packages.probe_builds, True, packages.TOGETHER),
    ),
    "devices": (
        Probe("CPU cores", devices.probe_cores),
        Probe("torch's threads", devices.probe_threads),
        Probe("thread variables", devices.probe_thread_variables),
        Probe("load", devices.probe_load),
        Probe("CUDA", devices.probe_cuda, False, devices.WITHOUT_GPU),
    ),
    "memory": (Probe("memory", devices.probe_memory),),
    "caches": (Probe("caches", folders.probe_caches),),
    "folders": (Probe("folders", folders.probe_folders), Probe("network", folders.probe_network)),
    "extras": (Probe("extras", packages.probe_extras),),
    "plug-ins": (Probe("plug-ins", packages.probe_plugins),),
    SELF_TEST: (Probe("a tiny run", _self_test, True, TO_REPORT),),
}

Sections = dict[str, list[Fact]]


def examine(title: str) -> list[Fact]:
    """Return what was found of a section; whatever is broken, nothing is raised."""
    return [fact for probe in SECTIONS[title] for fact in look(probe)]


def exit_code(sections: Mapping[str, Sequence[Fact]]) -> int:
    """Return 1 if something needed is broken, 0 otherwise."""
    results = {fact.result for facts in sections.values() for fact in facts}
    return EXIT_FAILED if "failed" in results else 0


def as_json(sections: Mapping[str, Sequence[Fact]]) -> str:
    """Return everything as JSON: sections, and in each the fields of its `Fact`s."""
    content = {
        "doctor_version": DOCTOR_VERSION,
        "exit_code": exit_code(sections),
        "sections": {title: list(map(asdict, facts)) for title, facts in sections.items()},
    }
    return json.dumps(content, indent=2)


def as_issue(sections: Mapping[str, Sequence[Fact]]) -> str:
    """Return what to paste into an issue, as Markdown: what is ill, what is well, what to add."""
    ill = [
        fact
        for facts in sections.values()
        for fact in facts
        if fact.result in ("warning", "failed")
    ]
    lines = ["### What `steadymap doctor` says", "", closing_line(sections), ""]
    lines += [f"- **{fact.result}**: {_markdown(fact)}" for fact in ill]
    for title, facts in sections.items():
        fine = [_markdown(fact) for fact in facts if fact not in ill]
        if fine:
            lines.append(f"- {title}: {'; '.join(fine)}")
    if SELF_TEST not in sections:
        lines.append(f"- {SELF_TEST}: left out")
    lines += ["", "### To add", ""]
    return "\n".join([*lines, *(f"- [ ] {text}" for text in TO_ADD)])


def _markdown(fact: Fact) -> str:
    return safe_markdown(f"{fact.name}: {fact.value}" + " (missing)" * (fact.result == "missing"))


def closing_line(sections: Mapping[str, Sequence[Fact]]) -> str:
    """Return how many facts are of which result, and what that means."""
    results = [fact.result for facts in sections.values() for fact in facts]
    counts = ", ".join(f"{results.count(result)} {result}" for result in RESULTS)
    broken = "something needed is broken" if exit_code(sections) else "all that is needed works"
    return f"{broken}: {counts}"


def section_table(facts: Sequence[Fact]) -> Table:
    """Return facts down; with advice below those that have some."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for fact in facts:
        style = STYLES[fact.result]
        table.add_row(Text(fact.name), fact.result, Text(fact.value), style=style)
        if fact.advice:
            table.add_row("", "", Text(f"-> {fact.advice}"), style=style)
    return table


def doctor_command(
    form: Annotated[
        Form, typer.Option("--format", help="Tables; JSON; or what to paste into an issue.")
    ] = Form.TEXT,
    self_test: Annotated[
        bool, typer.Option("--self-test/--no-self-test", help="A tiny run, of a few seconds.")
    ] = True,
) -> None:
    """Look at versions, devices, folders and extras, test the rest; exit with 1 if it is broken."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A name that the terminal has no letters for must not end it.
        sys.stdout.reconfigure(errors="backslashreplace")
    console = console_of()
    sections: Sections = {}
    for title in SECTIONS:
        if title == SELF_TEST and not self_test:
            continue
        if form is Form.TEXT:
            console.print(title, style="bold", markup=False, highlight=False)
        sections[title] = examine(title)
        if form is Form.TEXT:
            console.print(section_table(sections[title]))
    if form is Form.JSON:
        line(console, as_json(sections))
    elif form is Form.MD:
        line(console, as_issue(sections))
    else:
        line(console, f"{closing_line(sections)}\n")
        console.print("What to put into an issue", style="bold", markup=False, highlight=False)
        line(console, f"\n{as_issue(sections)}")
    if exit_code(sections):
        raise typer.Exit(EXIT_FAILED)
