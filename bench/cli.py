"""The command line."""

from __future__ import annotations

import importlib.metadata
import re
import signal
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, get_args

import torch
import typer
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from steadymap.bench import store
from steadymap.bench.attributions import BASELINES
from steadymap.bench.baselines import NoBaselineError
from steadymap.bench.config import (
    ConfigError,
    Experiment,
    about_experiment,
    experiment_names,
    make_experiment,
    read_config,
    read_experiment,
)
from steadymap.bench.conformance import (
    CHECKS,
    Finding,
    check_method,
    check_table,
    registered,
)
from steadymap.bench.conformance import Result as CheckResult
from steadymap.bench.console import (
    EXIT_CELLS_FAILED,
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_NO_BASELINE,
    EXIT_USAGE,
    RUNS,
    console_of,
    line,
    say,
)
from steadymap.bench.doctor import doctor_command
from steadymap.bench.findings import Findings
from steadymap.bench.gating import baseline_app, compare_command, gate_command
from steadymap.bench.heap import retain_heap
from steadymap.bench.images import DATA_FORMS, SPLITS, DataError, open_images
from steadymap.bench.manifest import (
    Result,
    git_state,
    machine,
    make_manifest,
    run_id,
    write_json,
)
from steadymap.bench.methods import METHOD_SHELF, METHODS
from steadymap.bench.names import nearest
from steadymap.bench.passes import SMALL_ACTIVATIONS, activation_bytes
from steadymap.bench.perturbations import FAMILY_SHELF, PERTURBATIONS, Perturbation
from steadymap.bench.planner import count, estimate, estimate_table
from steadymap.bench.plugins import (
    METRIC_SHELF,
    MODEL_SHELF,
    PluginError,
    known_metrics,
    load_model,
    summary_of,
)
from steadymap.bench.records import Source
from steadymap.bench.reporting import report_command, show_command, write_report
from steadymap.bench.runner import INPUT_METRICS, Setup, measure, prepare
from steadymap.bench.tables import footnotes, tables
from steadymap.bench.timing import (
    Course,
    agreement,
    agreement_table,
    report,
    time_device,
    timing_notes,
    timing_table,
)
from steadymap.bench.train import Recipe, save, train
from steadymap.bench.witnesses import keep_witnesses
from steadymap.metrics import METRICS, Metric, Status
from steadymap.models import MODEL_FORMS, MODELS, Classifier, ModelError

# Each worker holds activations of its own.
MOST_WORKERS = 4
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
    workers: Annotated[int | None, typer.Option(help="Batches worked on at a time.")] = None,
    engine: Annotated[str | None, typer.Option(help="own, or captum for comparison.")] = None,
    precision: Annotated[str | None, typer.Option(help="On a GPU: ieee, or tf32.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ...")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads.")] = None,
    save_maps: Annotated[
        bool, typer.Option("--save-maps", help="Keep images and raw attributions.")
    ] = False,
    output: Annotated[Path | None, typer.Option(help="Folder of the run.")] = None,
    page: Annotated[
        bool, typer.Option("--report/--no-report", help="Keep the witnesses' maps, make the page.")
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
        "workers": workers,
        "engine": engine,
        "precision": precision,
        "device": device,
        "threads": threads,
        "save_maps": save_maps or None,
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
    _run(chosen, dry=dry_run, page=page)


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


def _prepare(experiment: Experiment) -> tuple[Experiment, Setup]:
    """Load model and images; return the experiment with its workers decided, ready to start."""
    device = _device(experiment.device)
    if experiment.threads:
        torch.set_num_threads(experiment.threads)
    classifier = load_model(experiment.model, experiment.weights, device)
    images = open_images(experiment.data, classifier.framing, experiment.split, experiment.limit)
    for name, reason in images.excluded:
        say(f"excluded: {name}: {reason}")
    if "workers" not in experiment.model_fields_set:
        workers = _workers(classifier, len(images))
        experiment = experiment.model_copy(update={"workers": workers})
    return experiment, prepare(classifier, images, experiment)


def _announce(experiment: Experiment, setup: Setup) -> None:
    classifier, images = setup.classifier, setup.images
    if experiment.limit and len(images) < experiment.limit:
        say(f"the {experiment.split} split has {len(images)} usable images of {experiment.limit}")
    say(
        f"{classifier.name} on {images.name} ({experiment.split}): {len(images)} images x "
        f"{len(experiment.cells()) + 1} views x {len(experiment.bound_methods())} methods"
    )
    if classifier.module.mean.is_cuda and experiment.precision != "ieee":
        say(f"precision: {experiment.precision}: products are rounded, maps change with it")


def _run(experiment: Experiment, *, dry: bool, page: bool) -> None:
    experiment, setup = _prepare(experiment)
    classifier, images = setup.classifier, setup.images
    source = Source(run_id(experiment, classifier, images), classifier.name, images.name)
    folder = (experiment.output or RUNS / source.run_id).expanduser()
    if not dry:
        store.claim_folder(folder, source.run_id)
    _announce(experiment, setup)
    if dry:
        console_of().print(estimate_table(estimate(setup)))
        return

    git = git_state()

    def describe(result: Result) -> dict[str, Any]:
        manifest = make_manifest(experiment, classifier, images, result)
        passes = {"passes": asdict(count(setup)), "passes_by_method": setup.passes()}
        return manifest | {"metrics": setup.metrics(), **passes, "git": git}

    # A polite kill (CI cancelling a job, say) ends a run as Ctrl-C does: with what it has.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with store.recorder(folder, source, experiment.cells(), describe) as taking:
            _measure(setup, taking, keep_maps=experiment.save_maps)
    except KeyboardInterrupt:
        say(f"interrupted; what was measured is in {folder / store.PARTIAL}")
        raise typer.Exit(EXIT_INTERRUPTED) from None
    _report(folder, setup, page=page)
    if taking.statuses[Status.ERROR.value]:
        say(f"{taking.statuses[Status.ERROR.value]} values failed: see `detail` in the records")
        raise typer.Exit(EXIT_CELLS_FAILED)


def _workers(classifier: Classifier, images: int) -> int:
    """Return how many workers suit a network.

    One a thread on a CPU keeps all cores busy where a network is small: its layers are too short to
    share, and metrics run on one core. The layers of a large one are worth sharing; and its workers
    would wait for memory.
    """
    small = activation_bytes(classifier) <= SMALL_ACTIVATIONS
    if classifier.module.mean.device.type != "cpu" or not small:
        return 1
    try:
        classifier.replica()
    except ModelError:  # a network that cannot be copied has one worker
        return 1
    return min(torch.get_num_threads(), MOST_WORKERS, images)


def _measure(setup: Setup, taking: store.Recorder, *, keep_maps: bool) -> None:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console_of(stderr=True)) as progress:
        task = progress.add_task("maps", total=setup.map_count())
        for outcome in measure(
            setup, lambda count: progress.advance(task, count), keep_maps=keep_maps
        ):
            taking.add(outcome)


def _report(folder: Path, setup: Setup, *, page: bool) -> None:
    """Summarise a finished run, print its tables, make its page and say where everything is."""
    records, manifest = store.read_run(folder)
    findings = Findings.of(records, known_metrics(manifest))
    findings.write(folder)
    console = console_of()
    for title, table in tables(findings):
        console.print(title, style="bold", markup=False, highlight=False)
        console.print(table)
    for note in footnotes(findings):
        line(console, f"- {note}")
    if page:
        keep_witnesses(setup, records, folder)
        line(console, f"the page to open: {write_report(folder, findings)}")
    files = ", ".join(sorted(path.name for path in folder.iterdir()))
    line(console, f"{manifest['wall_seconds']:.0f} s; {folder}: {files}")


def _device(name: str) -> torch.device:
    kind, device = _device_type(name), torch.device(name)
    if kind == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device: cuda was asked for, but torch sees no CUDA device here")
    if kind == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"device: {name}: there are {torch.cuda.device_count()} CUDA devices")
    return device


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
        _device_type(name)
    path = output or RUNS / f"timing-{re.split('[:/.@]', model)[-1]}.json"
    if path.suffix != ".json":
        raise ConfigError(f"output: figures are written as .json, got {path.name}")
    store.make_folder(path.parent)
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


def _device_type(name: str) -> str:
    """Return cpu or cuda, or say that there is no such kind of device."""
    try:
        kind = torch.device(name).type
    except RuntimeError as error:
        raise ConfigError(f"device: unknown name {name!r}; known: cpu, cuda, cuda:1") from error
    if kind not in ("cpu", "cuda"):
        raise ConfigError(f"device: {name!r} is not supported; known: cpu, cuda, cuda:1")
    return kind


@app.command("train")
def train_command(  # noqa: PLR0913, PLR0917 - typer reads the flags off the signature
    model: Annotated[str, typer.Option(help=", ".join(MODELS))] = "compact",
    data: Annotated[str, typer.Option(help="See `steadymap list data`.")] = "hands:4000",
    output: Annotated[Path | None, typer.Option(help="Weights file, .safetensors.")] = None,
    epochs: Annotated[int, typer.Option(min=1)] = Recipe.epochs,
    batch_size: Annotated[int, typer.Option(min=1)] = Recipe.batch_size,
    learning_rate: Annotated[float, typer.Option(min=0)] = Recipe.learning_rate,
    seed: Annotated[int, typer.Option(min=0)] = Recipe.seed,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...")] = "cpu",
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads.")] = None,
) -> None:
    """Train a network of the project; write its weights and a card."""
    # The data's last name: of folder:a/b it is b.
    path = output or RUNS / f"{model}-{re.split('[:/]', data.rstrip('/'))[-1]}.safetensors"
    if path.suffix != ".safetensors":
        raise ConfigError(f"output: weights are written as .safetensors, got {path.name}")
    for file in (path, path.with_suffix(".json")):
        if file.exists():
            raise ConfigError(f"output: {file} exists; choose another --output")
    store.make_folder(path.parent)
    if threads:
        torch.set_num_threads(threads)
    recipe = Recipe(epochs, batch_size, learning_rate, seed)
    network, card = train(model, data, recipe, _device(device), say)
    save(network, card, path)
    scores = ", ".join(f"{name} {value:.2%}" for name, value in card["accuracy"].items())
    line(console_of(), f"accuracy: {scores}; {path}")


app.add_typer(baseline_app, name="baseline")
app.command("compare")(compare_command)
app.command("gate")(gate_command)
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
