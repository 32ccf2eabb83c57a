"""`steadymap check`: is a method what it says it is?"""

from __future__ import annotations

from typing import Annotated, get_args

import typer
from rich import box, markup
from rich.table import Table

from steadymap.bench.checks import conformance, registry, subject
from steadymap.bench.core.console import EXIT_FAILED, console_of, line, say
from steadymap.bench.methods.binding import METHOD_SHELF
from steadymap.bench.plan.experiment import make_experiment


def check_command(
    method: Annotated[
        list[str] | None,
        typer.Argument(help="NAME:key=value,... or your own package.module:function; or all."),
    ] = None,
    engine: Annotated[str, typer.Option(help="own, or captum.")] = "own",
) -> None:
    """Check that methods are what they say they are; exit with 1 if one is not."""
    settings = {
        "method": method or [*conformance.registered(), *METHOD_SHELF.installed()],
        "engine": engine,
        "controls": False,
    }
    methods = make_experiment([settings]).bound_methods()
    findings: dict[str, dict[str, subject.Finding]] = {}
    for bound in methods:
        say(f"checking {bound.spec}")
        findings[bound.spec] = conformance.check_method(
            bound, "captum" if engine == "captum" else "own"
        )
    console = console_of()
    console.print(check_table(findings))
    results = [finding.result for by_check in findings.values() for finding in by_check.values()]
    counts = ", ".join(f"{results.count(result)} {result}" for result in get_args(subject.Result))
    line(console, f"{len(findings)} methods, {len(registry.CHECKS)} checks: {counts}")
    if "failed" in results:
        raise typer.Exit(EXIT_FAILED)


def check_table(findings: dict[str, dict[str, subject.Finding]]) -> Table:
    """Return what came of all checks: a row a method and result, failures one by one.

    Args:
        findings: by method and check.
    """
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("method", no_wrap=True)
    table.add_column("result", no_wrap=True)
    table.add_column("checks", overflow="fold")
    for spec, by_check in findings.items():
        passed = [name for name, finding in by_check.items() if finding.result == "passed"]
        table.add_row(spec, f"{len(passed)} passed", ", ".join(passed))
        by_reason: dict[str, list[str]] = {}
        for name, finding in by_check.items():
            if finding.result == "not applicable":
                by_reason.setdefault(finding.reason, []).append(name)
        count = sum(map(len, by_reason.values()))
        for place, (reason, names) in enumerate(by_reason.items()):
            label = f"{count} not applicable" if not place else ""
            table.add_row("", label, markup.escape(f"{', '.join(names)}: {reason}"), style="dim")
        for name, finding in by_check.items():
            if finding.result == "failed":
                table.add_row(
                    "", "FAILED", markup.escape(f"{name}: {finding.reason}"), style="bold red"
                )
        table.add_section()
    return table
