"""The command line: its commands, each loaded when it is called."""

from __future__ import annotations

import importlib
import importlib.metadata
import sys
from collections.abc import Sequence
from functools import cached_property
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from steadymap.bench.core import console, errors
from steadymap.models.errors import ModelError

# By name: where the command is, and what `steadymap --help` says of it. Help and completion read
# this table; a module is imported when its command is called.
COMMANDS: dict[str, tuple[str, str]] = {
    "run": ("commands.run:run_command", "Measure how steady saliency maps are."),
    "report": ("commands.report:report_command", "Make the report of one run or of several."),
    "table": ("commands.table:table_command", "Print a run's tables, or write them for a paper."),
    "show": ("commands.show:show_command", "Draw one picture's maps before and after."),
    "list": ("commands.list:list_command", "Show everything that can be named."),
    "check": ("commands.check:check_command", "Check that methods are what they say they are."),
    "time": ("commands.time:time_command", "Time every method on every device."),
    "baseline": ("commands.baseline:baseline_app", "Keep runs to compare with."),
    "compare": ("commands.compare:compare_command", "Say what moved between two runs."),
    "gate": ("commands.gate:gate_command", "Fail if a run is worse than a baseline."),
    "history": ("commands.history:history_app", "Keep the scores of runs over time."),
    "merge": ("commands.merge:merge_command", "Join the shards of one run."),
    "export": ("commands.export:export_app", "Write runs for other tools, such as MLflow."),
    "train": ("commands.train:train_command", "Train a network of the project."),
    "doctor": ("doctor.command:doctor_command", "Say what is here and what is broken."),
}


# Of errors that are no mistake of whoever typed.
EXIT_CODES: dict[type[Exception], int] = {
    errors.IncompleteError: console.EXIT_CELLS_FAILED,
    errors.NoBaselineError: console.EXIT_NO_BASELINE,
}


class CommandOnDemand(TyperCommand):
    """A command of which name and help are known, and the rest is loaded when it is called."""

    def __init__(self, name: str, place: str, summary: str) -> None:
        super().__init__(name, help=summary, short_help=summary, rich_markup_mode=None)
        self.place = place

    @cached_property
    def loaded(self) -> Any:  # noqa: ANN401 - a command of click, which typer may bring itself
        """The command itself."""
        module, _, attribute = self.place.partition(":")
        entry_point = getattr(importlib.import_module(f"steadymap.bench.{module}"), attribute)
        if isinstance(entry_point, typer.Typer):
            command = get_command(entry_point)
        else:
            alone = typer.Typer(
                add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False
            )
            alone.command(self.name)(entry_point)
            command = get_command(alone)
        command.name = self.name
        return command

    # Typer brings a click of its own since 0.26, so that its classes have no one name.
    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: Any = None,  # noqa: ANN401 - as above
        **extra: Any,  # noqa: ANN401 - as above
    ) -> Any:  # noqa: ANN401 - as above
        """Return the context of the command itself: from here on, that one is used."""
        return self.loaded.make_context(info_name, args, parent, **extra)


class CommandsOnDemand(TyperGroup):
    """The group of all commands, none of which is loaded before it is called."""

    def __init__(self, **settings: Any) -> None:  # noqa: ANN401 - typer's own
        super().__init__(**settings)
        self.commands = {
            name: CommandOnDemand(name, place, summary)
            for name, (place, summary) in COMMANDS.items()
        }

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002, ANN401 - as click calls it
        """Return the names in the order of the table."""
        return list(self.commands)


app = typer.Typer(
    cls=CommandsOnDemand,
    no_args_is_help=True,
    invoke_without_command=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="How steady are your saliency maps when the image is nudged?",
)


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
) -> None:
    if version:
        console.line(console.console_of(), importlib.metadata.version("steadymap"))
        raise typer.Exit


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; a user's mistake is one line on stderr and exit code 2."""
    try:
        app(arguments)
    except (errors.ConfigError, errors.DataError, ModelError, errors.PluginError) as error:
        console.say(f"steadymap: {error}")
        sys.exit(EXIT_CODES.get(type(error), console.EXIT_USAGE))
