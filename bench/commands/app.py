"""The command line."""

from __future__ import annotations

import importlib.metadata
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, get_args

import torch
import typer
from rich.markup import escape
from rich.table import Table

from steadymap.bench.checks.checks import CHECKS, Finding, check_method, check_table, registered
from steadymap.bench.checks.checks import Result as CheckResult
from steadymap.bench.commands.gate import baseline_app, compare_command, gate_command
from steadymap.bench.commands.report import report_command, show_command
from steadymap.bench.commands.run import device_of, device_type, merge_command, run_experiment
from steadymap.bench.commands.train import make_training, save, train
from steadymap.bench.core.console import (
    EXIT_FAILED,
    EXIT_NO_BASELINE,
    EXIT_USAGE,
    RUNS,
    console_of,
    line,
    say,
)
from steadymap.bench.core.machine import retain_heap
from steadymap.bench.core.names import nearest
from steadymap.bench.core.plugins import METRIC_SHELF, MODEL_SHELF, PluginError, summary_of
from steadymap.bench.data.decode import DataError
from steadymap.bench.data.masks import MASKS
from steadymap.bench.data.open import DATA_FORMS, SPLITS, open_images
from steadymap.bench.doctor.command import doctor_command
from steadymap.bench.gate.baseline_runs import NoBaselineError
from steadymap.bench.measure.shard import INPUT_METRICS
from steadymap.bench.measure.timing import (
    Course,
    agreement,
    agreement_table,
    report,
    time_device,
    timing_notes,
    timing_table,
)
from steadymap.bench.methods.gradient import BASELINES
from steadymap.bench.methods.registry import METHOD_SHELF, METHODS
from steadymap.bench.perturbations.registry import FAMILY_SHELF, PERTURBATIONS, Perturbation
from steadymap.bench.plan.plan import (
    ConfigError,
    about_experiment,
    experiment_names,
    make_experiment,
    read_config,
    read_experiment,
)
from steadymap.bench.runs.manifest import machine, write_json
from steadymap.bench.runs.shard_files import make_folder
from steadymap.metrics import METRICS, Metric
from steadymap.models import MODEL_FORMS, MODELS, ModelError

# Each job holds activations of its own.
MOST_JOBS = 4
RETAIN_HELP = "Keep freed memory in the process (Linux with glibc): faster, and never smaller."
DEFAULT_EXPERIMENT = "hands"

app = typer.Typer(
    add_completion=False,
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
        line(console_of(), importlib.metadata.version("steadymap"))
        raise typer.Exit


@app.command("run")
def run_command(  # noqa: PLR0913, PLR0917 - typer reads the flags off the signature
    experiment: Annotated[
        str | None,
        typer.Argument(help="An experiment of the package; the default is the embedded one."),
    ] = None,
    config: Annotated[Path | None, typer.Option(help="YAML file; flags override it.")] = None,
    model: Annotated[str | None, typer.Option(help="See `steadymap list models`.")] = None,
    weights: Annotated[Path | None, typer.Option(help="Weights to load.")] = None,
    data: Annotated[str | None, typer.Option(help="See `steadymap list data`.")] = None,
    split: Annotated[str | None, typer.Option(help=", ".join(SPLITS))] = None,
    mask: Annotated[str | None, typer.Option(help="See `steadymap list masks`.")] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(help="NAME or NAME:key=value,...; repeat for more."),
    ] = None,
    family: Annotated[list[str] | None, typer.Option(help="Repeat for more.")] = None,
    severity: Annotated[
        list[str] | None,
        typer.Option(help="0.1,0.3 for all families, or FAMILY=0.1,0.3; repeat for more."),
    ] = None,
    metric: Annotated[list[str] | None, typer.Option(help="Repeat for more.")] = None,
    controls: Annotated[
        bool | None,
        typer.Option("--controls/--no-controls", help="Run the controls, too; on unless told."),
    ] = None,
    nulls: Annotated[
        int | None, typer.Option(help="Unrelated maps of either kind to calibrate by; 0 for none.")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="How many images at most.")] = None,
    draws: Annotated[int | None, typer.Option(help="Draws of a stochastic family.")] = None,
    steps: Annotated[str | None, typer.Option(help="Steps of path methods, or auto.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of everything random.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images of a batch.")] = None,
    jobs: Annotated[int | None, typer.Option(help="Batches worked on at a time.")] = None,
    engine: Annotated[str | None, typer.Option(help="own, or captum for comparison.")] = None,
    precision: Annotated[str | None, typer.Option(help="On a GPU: ieee, or tf32.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ...")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads.")] = None,
    save_maps: Annotated[
        bool, typer.Option("--save-maps", help="Keep images and raw attributions.")
    ] = False,
    shard: Annotated[
        str | None, typer.Option(help="K/N: one part of N, for `steadymap merge`.")
    ] = None,
    allow_failed: Annotated[
        float | None, typer.Option(help="Share of values that may fail before exit code 3.")
    ] = None,
    parallel_config: Annotated[
        Path | None, typer.Option(help="YAML file: processes, dask or SLURM; docs/scale-out.md.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Folder of the run; goes on there.")] = None,
    page: Annotated[
        bool, typer.Option("--report/--no-report", help="Keep the witnesses' maps, make the page.")
    ] = True,
    resume: Annotated[
        bool, typer.Option("--resume/--no-resume", help="Leave out what is in the folder already.")
    ] = True,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Estimate passes, time and memory; run nothing.")
    ] = False,
    keep_heap: Annotated[
        bool, typer.Option("--retain-heap/--no-retain-heap", help=RETAIN_HELP)
    ] = True,
) -> None:
    """Measure how steady saliency maps are, and print the table."""
    flags = {
        "model": model,
        "weights": weights,
        "data": data,
        "split": split,
        "mask": mask,
        "method": method or None,
        "family": family or None,
        "severity": _severities(severity) if severity else None,
        "metric": metric or None,
        "controls": controls,
        "nulls": nulls,
        "limit": limit,
        "draws": draws,
        "steps": steps,
        "seed": seed,
        "batch_size": batch_size,
        "jobs": jobs,
        "engine": engine,
        "precision": precision,
        "device": device,
        "threads": threads,
        "save_maps": save_maps or None,
        "shard": shard,
        "allow_failed": allow_failed,
        "parallel_config": parallel_config,
        "output": output,
    }
    if experiment is not None and config is not None:
        raise ConfigError("give an experiment or --config, not both; --config may hold all keys")
    base = read_config(config) if config else read_experiment(experiment or DEFAULT_EXPERIMENT)
    given = {key: value for key, value in flags.items() if value is not None}
    chosen = make_experiment([base, given])
    by_family = flags["severity"] if isinstance(flags["severity"], dict) else {}
    for name in by_family:
        if name not in chosen.family:
            raise ConfigError(f"severity: {name} does not run here; {nearest(name, chosen.family)}")
    if keep_heap:
        retain_heap()
    run_experiment(chosen, dry=dry_run, page=page, resume=resume)


def _severities(texts: list[str]) -> dict[str, tuple[float, ...]] | tuple[float, ...]:
    """Parse `0.1,0.3`, or `family=0.1,0.3`, given once or more."""
    by_family: dict[str, tuple[float, ...]] = {}
    for text in texts:
        family, _, levels = text.rpartition("=")
        try:
            parsed = tuple(float(level) for level in levels.split(","))
        except ValueError as error:
            raise ConfigError(f"severity: expected numbers like 0.1,0.3, got {text!r}") from error
        by_family[family] = (*by_family.get(family, ()), *parsed)
    if "" not in by_family:
        return by_family
    if len(by_family) > 1:
        raise ConfigError("severity: give one list for all families, or FAMILY=... for each")
    return by_family[""]


@app.command("time")
def time_command(  # noqa: PLR0913, PLR0917 - typer reads the flags off the signature
    model: Annotated[str, typer.Option(help="See `steadymap list models`.")] = "compact",
    weights: Annotated[Path | None, typer.Option(help="Weights to load.")] = None,
    data: Annotated[str, typer.Option(help="See `steadymap list data`.")] = "hands",
    method: Annotated[
        list[str] | None, typer.Option(help="NAME or NAME:key=value,...; repeat for more.")
    ] = None,
    steps: Annotated[str | None, typer.Option(help="Steps of path methods, or auto.")] = None,
    device: Annotated[
        list[str] | None, typer.Option(help="Repeat for more; cpu and cuda unless told.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images of a batch.")] = 8,
    repeats: Annotated[int, typer.Option(min=2, help="Warm runs of each method.")] = 7,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads.")] = None,
    precision: Annotated[str, typer.Option(help="On a GPU: ieee, or tf32.")] = "ieee",
    fresh: Annotated[
        bool, typer.Option("--fresh/--no-fresh", help="Cold start and memory, in new processes.")
    ] = True,
    keep_heap: Annotated[
        bool, typer.Option("--retain-heap/--no-retain-heap", help=RETAIN_HELP)
    ] = True,
    output: Annotated[Path | None, typer.Option(help="File of the figures, .json.")] = None,
) -> None:
    """Time every method on every device, and compare the devices' maps."""
    given = {"model": model, "data": data, "precision": precision, "controls": False} | (
        {"method": method} if method else {}
    )
    chosen = make_experiment([given | ({"steps": steps} if steps else {})])
    devices = tuple(dict.fromkeys(device or ("cpu", "cuda")))
    for name in devices:
        device_type(name)
    path = output or RUNS / f"timing-{re.split('[:/.@]', model)[-1]}.json"
    if path.suffix != ".json":
        raise ConfigError(f"output: figures are written as .json, got {path.name}")
    make_folder(path.parent)
    if keep_heap:
        retain_heap()
    if threads:
        torch.set_num_threads(threads)
    specs = tuple(bound.spec for bound in chosen.bound_methods())
    course = Course(
        model, weights, specs, batch_size, repeats, fresh, keep_heap, precision == "ieee"
    )
    classifier = course.load("cpu")
    images = open_images(data, classifier.framing, "test", max(batch_size, 8))
    rows = [row for name in devices for row in time_device(course, images, name, say)]
    timed = dict.fromkeys(row.device for row in rows if not row.missing)
    parity = [one for name in timed if name != "cpu" for one in agreement(course, images, name)]
    write_json(path, report(course, rows, parity) | {"weights_sha256": classifier.weights_hash()})
    console = console_of()
    console.print(timing_table(rows))
    if parity:
        console.print(agreement_table(parity))
    facts = machine(torch.device("cpu"))
    for note in timing_notes(course, facts, rows, parity):
        line(console, f"- {note}")
    line(console, f"{path}")


@app.command("train")
def train_command(  # noqa: PLR0913, PLR0917 - typer reads the flags off the signature
    recipe: Annotated[
        Path | None, typer.Option(help="YAML file with the keys of these flags; flags override it.")
    ] = None,
    model: Annotated[str | None, typer.Option(help=", ".join(MODELS))] = None,
    data: Annotated[str | None, typer.Option(help="See `steadymap list data`; hands:4000.")] = None,
    output: Annotated[Path | None, typer.Option(help="Weights file, .safetensors.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training split.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images a step.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Peak of the cycle.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of weights, order and flips.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...")] = "cpu",
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads.")] = None,
) -> None:
    """Train a network of the project; write its weights and a card."""
    flags = {
        "model": model,
        "data": data,
        "epochs": epochs,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "seed": seed,
    }
    given = {key: value for key, value in flags.items() if value is not None}
    chosen = make_training([read_config(recipe) if recipe else {}, given])
    # The data's last name: of folder:a/b it is b.
    last = re.split("[:/]", chosen.data.rstrip("/"))[-1]
    path = output or RUNS / f"{chosen.model}-{last}.safetensors"
    if path.suffix != ".safetensors":
        raise ConfigError(f"output: weights are written as .safetensors, got {path.name}")
    for file in (path, path.with_suffix(".json")):
        if file.exists():
            raise ConfigError(f"output: {file} exists; choose another --output")
    make_folder(path.parent)
    if threads:
        torch.set_num_threads(threads)
    network, card = train(chosen.model, chosen.data, chosen.recipe, device_of(device), say)
    save(network, card, path)
    scores = ", ".join(f"{name} {value:.2%}" for name, value in card["accuracy"].items())
    line(console_of(), f"accuracy: {scores}; {path}")


app.add_typer(baseline_app, name="baseline")
app.command("compare")(compare_command)
app.command("gate")(gate_command)
app.command("merge")(merge_command)
app.command("report")(report_command)
app.command("show")(show_command)
app.command("doctor")(doctor_command)


@app.command("check")
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


@app.command("list")
def list_command(
    what: Annotated[
        str | None,
        typer.Argument(
            help="experiments, models, data, families, methods, baselines, metrics, checks; or all."
        ),
    ] = None,
) -> None:
    """Show what there is, with a line on each and its source."""
    if what is not None and what not in SECTIONS:
        raise ConfigError(f"unknown list {what!r}; {nearest(what, SECTIONS)}")
    console = console_of()
    for title, section in SECTIONS.items():
        if what in (None, title):
            table = Table(title=title, title_justify="left", title_style="bold", box=None)
            last = "needs" if title == "experiments" else "source"
            for column in ("name", "what it is", last):
                table.add_column(column, overflow="fold")
            for row in section():
                table.add_row(*(escape(text) for text in row))
            console.print(table)
            console.print()


Row = tuple[str, str, str]


def _family_row(name: str, family: Perturbation, source: str) -> Row:
    span = f" ({family.limits})" if family.severities else "; give its severities"
    return name, family.summary + span, source


def _metric_row(name: str, metric: Metric, source: str) -> Row:
    costly = "; costly: runs where it is named" if metric.costly else ""
    return name, f"{metric.summary}; {metric.better} is better{costly}", source


def _experiments() -> list[Row]:
    return [
        (name + " (default)" * (name == DEFAULT_EXPERIMENT), about.summary, about.limits)
        for name, about in ((name, about_experiment(name)) for name in experiment_names())
    ]


def _models() -> list[Row]:
    rows = [(name, model.summary, model.source) for name, model in MODELS.items()]
    rows += [
        (name, summary_of(found.entry), found.source)
        for name, found in MODEL_SHELF.installed().items()
    ]
    return [*rows, *((form, text, "") for form, text in MODEL_FORMS.items())]


def _families() -> list[Row]:
    rows = [_family_row(name, one, one.source) for name, one in PERTURBATIONS.items()]
    plugged = FAMILY_SHELF.installed().items()
    return [*rows, *(_family_row(name, one.entry, one.source) for name, one in plugged)]


def _methods() -> list[Row]:
    rows = [(name, method.summary, method.source) for name, method in METHODS.items()]
    plugged = METHOD_SHELF.installed().items()
    return [*rows, *((name, one.entry.summary, one.source) for name, one in plugged)]


def _metrics() -> list[Row]:
    rows = [_metric_row(name, metric, metric.source) for name, metric in METRICS.items()]
    plugged = METRIC_SHELF.installed().items()
    rows += [_metric_row(name, one.entry, one.source) for name, one in plugged]
    return [
        *rows,
        *((name, f"{text}; always recorded", "") for name, text in INPUT_METRICS.items()),
    ]


# Each is looked up when it is shown: plug-ins are loaded for it.
SECTIONS: dict[str, Callable[[], list[Row]]] = {
    "experiments": _experiments,
    "models": _models,
    "data": lambda: [(form, text, "") for form, text in DATA_FORMS.items()],
    "masks": lambda: [(name, mask.summary, mask.source) for name, mask in MASKS.items()],
    "families": _families,
    "methods": _methods,
    "baselines": lambda: [(name, one.summary, one.source) for name, one in BASELINES.items()],
    "metrics": _metrics,
    "checks": lambda: [(name, check.summary, check.source) for name, check in CHECKS.items()],
}


def main() -> None:
    """Run the command line; a user's mistake is one line on stderr and exit code 2."""
    try:
        app()
    except (ConfigError, DataError, ModelError, PluginError) as error:
        say(f"steadymap: {error}")
        sys.exit(EXIT_NO_BASELINE if isinstance(error, NoBaselineError) else EXIT_USAGE)
