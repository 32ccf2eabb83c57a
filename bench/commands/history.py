"""`steadymap history`: keep the scores of runs over time, show them, and say who moved them."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from steadymap.bench.core import console, files
from steadymap.bench.history import crossing, page, show, store
from steadymap.bench.history.entry import SHORT, Notes, entry_of
from steadymap.bench.history.timeline import Era, timeline

HISTORY_HELP = "Folder of the history."
METRIC_HELP = "Repeat for more; left out: what a baseline keeps, accuracy, predictions kept."
PAGE = Path("history.html")

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
    stdout.print(show.era_table(era, stdout.width, show.bars_of(stdout)))
    for sentence in show.sentences(era):
        console.line(stdout, sentence)


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
def history_blame_command(  # noqa: PLR0913, PLR0917 - typer reads the flags off the signature
    metric: Annotated[list[str] | None, typer.Option(help=METRIC_HELP)] = None,
    run: Annotated[
        bool, typer.Option("--run", help="Measure the weights from before a step, here and now.")
    ] = False,
    step: Annotated[int, typer.Option(help="For --run: which; left out, the newest.")] = 0,
    weights: Annotated[
        Path | None, typer.Option(help="For --run: those before; left out, the model's own.")
    ] = None,
    data: Annotated[str, typer.Option(help="For --run: spec; left out, as the run has it.")] = "",
    history: Annotated[Path, typer.Option(help=HISTORY_HELP)] = store.HISTORY,
) -> None:
    """Say of each step which runs are on either side, and what changed between them."""
    eras = timeline(store.read_history(history), metric or ())
    if run:
        _cross(crossing.crossing_of(eras, step), weights, data)
    else:
        _print_causes(eras)


def _print_causes(eras: Sequence[Era]) -> None:
    stdout = console.console_of()
    for number, era in enumerate(eras, start=1):
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


def _cross(step: crossing.Crossing, weights: Path | None, data: str) -> None:
    """Measure the weights from before a step with what is installed, and say who did it."""
    # Torch is loaded where something is measured, and nowhere else.
    from steadymap.bench.commands.run import run_experiment  # noqa: PLC0415
    from steadymap.bench.network.loading import load_model  # noqa: PLC0415
    from steadymap.bench.plan.experiment import make_experiment  # noqa: PLC0415

    settings = crossing.settings_of(step.before, data)
    crossing.see_weights(step.before, load_model(settings["model"], weights).weights_hash())
    folder = console.RUNS / f"old-weights-{step.before.id[:SHORT]}-{step.after.id[:SHORT]}"
    experiment = make_experiment([settings, {"weights": weights, "output": folder}])
    run_experiment(experiment, dry=False, page=False, resume=True)
    measured = entry_of(folder)
    crossing.see_data(step.before, measured)
    file = folder.with_suffix(".json")
    files.write_json(file, settings)
    stdout = console.console_of()
    console.line(stdout, f"\nstep {step.number}, {step.era.place(step.era.steps[step.number - 1])}")
    for text in (*crossing.sentences(step, measured), *crossing.other_command(step, f"{file}")):
        console.line(stdout, text)


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
