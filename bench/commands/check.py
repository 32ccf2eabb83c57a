"""`steadymap check`: is a method what it says it is?"""

from __future__ import annotations

from typing import Annotated, get_args

import typer

from steadymap.bench.checks.checks import CHECKS, Finding, check_method, check_table, registered
from steadymap.bench.checks.checks import Result as CheckResult
from steadymap.bench.core.console import EXIT_FAILED, console_of, line, say
from steadymap.bench.methods.registry import METHOD_SHELF
from steadymap.bench.plan.experiment import make_experiment


def check_command(
    method: Annotated[
        list[str] | None,
        typer.Argument(help="NAME:key=value,... or your own package.module:function; or all."),
    ] = None,
    engine: Annotated[str, typer.Option(help="own, or captum.")] = "own",
) -> None:
    """Check that methods are what they say they are; exit with 1 if one is not."""
    given = {
        "method": method or [*registered(), *METHOD_SHELF.installed()],
        "engine": engine,
        "controls": False,
    }
    bound = make_experiment([given]).bound_methods()
    findings: dict[str, dict[str, Finding]] = {}
    for one in bound:
        say(f"checking {one.spec}")
        findings[one.spec] = check_method(one, "captum" if engine == "captum" else "own")
    console = console_of()
    console.print(check_table(findings))
    results = [found.result for by_check in findings.values() for found in by_check.values()]
    counts = ", ".join(f"{results.count(result)} {result}" for result in get_args(CheckResult))
    line(console, f"{len(findings)} methods, {len(CHECKS)} checks: {counts}")
    if "failed" in results:
        raise typer.Exit(EXIT_FAILED)
