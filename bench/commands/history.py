"""`steadymap history`: keep the scores of runs over time, show them, and say who moved them."""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from steadymap.bench.core import console, files
from steadymap.bench.history import page, show, store
from steadymap.bench.history.entry import Notes, entry_of
from steadymap.bench.history.timeline import Era, timeline

HISTORY_HELP = "Folder of the history."
METRIC_HELP = "Repeat for more; left out: what a baseline keeps, accuracy, predictions kept."
PAGE = Path("history.html")
# Terminals that have no signs beyond ASCII, by what TERM says.
DUMB = ("dumb", "unknown")

history_app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Keep the scores of runs over time.",
)


class Form(StrEnum):
    """What a history is shown as."""

    TEXT = "text"
    JSON = "json"
    CSV = "csv"
    MD = "md"


@history_app.command("add")
def history_add_command(  # noqa: PLR0913, PLR0917 - typer reads the flags off the signature
    run: Annotated[Path, typer.Argument(help="Folder of a finished run.")],
    commit: Annotated[
        str, typer.Option(help="Of the code; left out: that of the folder it was run in.")
    ] = "",
    label: Annotated[str, typer.Option(help="What to call the run; left out: its commit.")] = "",
    at: Annotated[
        str, typer.Option(help="When it was measured, ISO 8601, UTC; left out: as the run says.")
    ] = "",
    renewed: Annotated[
        bool,
        typer.Option("--renewed", help="Scores moved on purpose: a segment begins here."),
    ] = False,
    history: Annotated[Path, typer.Option(help=HISTORY_HELP)] = store.HISTORY,
) -> None:
    """Add the scores of a run; the same run twice is one entry."""
    entry = entry_of(run, Notes(commit, label, at, renewed))
    added = store.add(history, entry)
    told = "added to" if added else "is already in"
    console.line(
        console.console_of(),
        f"{entry.facts['run_id']} of {entry.measured_at} {told} {history}: {entry.id}",
    )
    if not added and (commit or label or at or renewed):
        console.say(
            "what is in a history is never changed: --commit, --label, --at and --renewed had no "
            f"effect; to change them, delete {history / entry.id}{store.ENDING} and add it again"
        )


@history_app.command("show")
def history_show_command(
    metric: Annotated[list[str] | None, typer.Option(help=METRIC_HELP)] = None,
    form: Annotated[Form, typer.Option("--format", help="What to print.")] = Form.TEXT,
    history: Annotated[Path, typer.Option(help=HISTORY_HELP)] = store.HISTORY,
) -> None:
    """Show each method's scores over time, and where they took a step."""
    eras = timeline(store.read_history(history), metric or ())
    texts = {Form.JSON: show.as_json, Form.CSV: show.as_csv, Form.MD: show.as_markdown}
    if form in texts:
        typer.echo(texts[form](eras), nl=False)
        return
    for number, era in enumerate(eras, start=1):
        _print_era(number, era)


def _print_era(number: int, era: Era) -> None:
    stdout = console.console_of()
    console.line(stdout, f"segment {number}: {era.about()}")
    for border in era.segment.borders:
        console.line(stdout, f"  begins anew: {border}")
    stdout.print(show.era_table(era, stdout.width, _bars()))
    for sentence in show.sentences(era):
        console.line(stdout, sentence)


def _bars() -> str:
    """Return the signs of a sparkline that the terminal has."""
    dumb = os.environ.get("TERM", "") in DUMB
    return show.PLAIN_BARS if dumb or console.console_of().options.ascii_only else show.BARS


@history_app.command("page")
def history_page_command(
    output: Annotated[Path, typer.Option(help="The file.")] = PAGE,
    metric: Annotated[list[str] | None, typer.Option(help=METRIC_HELP)] = None,
    history: Annotated[Path, typer.Option(help=HISTORY_HELP)] = store.HISTORY,
) -> None:
    """Make one page of a history, which needs no network."""
    text = page.render(timeline(store.read_history(history), metric or ()))
    files.make_folder(output.parent)
    files.write_file(output, text)
    console.line(console.console_of(), f"{output}")


@history_app.command("blame")
def history_blame_command(
    metric: Annotated[list[str] | None, typer.Option(help=METRIC_HELP)] = None,
    history: Annotated[Path, typer.Option(help=HISTORY_HELP)] = store.HISTORY,
) -> None:
    """Say of each step which runs are on either side, and what changed between them."""
    stdout = console.console_of()
    for number, era in enumerate(timeline(store.read_history(history), metric or ()), start=1):
        console.line(stdout, f"segment {number}: {era.about()}. {era.summary()}")
        for place, step in enumerate(era.steps):
            console.line(stdout, f"\nstep {place + 1}, {era.place(step)}")
            for line in step.lines:
                console.line(stdout, f"  {era.moved(line)}")
            console.line(stdout, f"  likeliest: {era.blamed(place)}")
            for cause in era.causes[place]:
                console.line(
                    stdout,
                    f"  {cause.kind}, with {era.name(cause.run)}: {'; '.join(cause.changes)}",
                )


@history_app.command("merge")
def history_merge_command(
    other: Annotated[Path, typer.Argument(help="Folder of another history.")],
    history: Annotated[Path, typer.Option(help=HISTORY_HELP)] = store.HISTORY,
) -> None:
    """Copy the entries of another history into this one."""
    added, both = store.merge(history, other)
    console.line(
        console.console_of(), f"{history}: {added} entries added, {both} were in both already"
    )
