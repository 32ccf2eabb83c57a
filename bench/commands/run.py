"""The commands that measure: `steadymap run` and `steadymap merge`."""

from __future__ import annotations

import threading
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from steadymap.bench.analysis.findings import Findings
from steadymap.bench.commands.report import write_report
from steadymap.bench.core.console import (
    EXIT_CELLS_FAILED,
    EXIT_INTERRUPTED,
    RUNS,
    console_of,
    line,
    say,
)
from steadymap.bench.core.plugins import known_metrics, load_model
from steadymap.bench.data.masks import with_masks
from steadymap.bench.data.open import open_images
from steadymap.bench.gallery.keep import keep_witnesses
from steadymap.bench.measure.estimate import count, estimate, estimate_table
from steadymap.bench.measure.shard import map_count
from steadymap.bench.network.passes import is_small
from steadymap.bench.plan.plan import ConfigError, Experiment
from steadymap.bench.plan.setup import Setup, prepare
from steadymap.bench.records.scan import scan_run
from steadymap.bench.report.terminal import footnotes, tables
from steadymap.bench.runs import folder as store
from steadymap.bench.runs.ledger import draw_up, not_the_same
from steadymap.bench.runs.manifest import completed, git_state, make_manifest, peak_memory, run_id
from steadymap.bench.runs.processes import Parallel, read_parallel
from steadymap.bench.runs.resume import Work, interruptible, result_of, summarising
from steadymap.bench.runs.shard_files import LOCK, kept, make_folder, only_writer
from steadymap.bench.runs.table import Assembled, missing
from steadymap.metrics import Status
from steadymap.models import Classifier, ModelError

# Each job holds activations of its own.
MOST_JOBS = 4


def _prepare(experiment: Experiment) -> tuple[Experiment, Setup]:
    """Load model and images; return the experiment with its jobs decided, ready to start."""
    device = device_of(experiment.device)
    if experiment.threads:
        torch.set_num_threads(experiment.threads)
    classifier = load_model(experiment.model, experiment.weights, device)
    images = open_images(experiment.data, classifier.framing, experiment.split, experiment.limit)
    if experiment.mask:
        images = with_masks(images, experiment.mask)
    for name, reason in images.excluded:
        say(f"excluded: {name}: {reason}")
    if "jobs" not in experiment.model_fields_set:
        jobs = _jobs(classifier, len(images))
        experiment = experiment.model_copy(update={"jobs": jobs})
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


def run_experiment(experiment: Experiment, *, dry: bool, page: bool, resume: bool) -> None:
    """Run an experiment, or go on with it, and print what was found.

    Args:
        experiment: what to run.
        dry: estimate what it will cost, and run nothing.
        page: keep the witnesses' maps and make the page.
        resume: leave out what is there already.

    Raises:
        Exit: it was interrupted, or too many values failed.
    """
    experiment, setup = _prepare(experiment)
    how = read_parallel(experiment.parallel_config) if experiment.parallel_config else Parallel()
    source = (run_id(experiment, setup.classifier, setup.images), experiment.split)
    ledger = draw_up(setup, source, maps=experiment.save_maps)
    folder = (experiment.output or RUNS / ledger.run_id).expanduser()
    if dry:
        _announce(experiment, setup)
        console_of().print(estimate_table(estimate(setup)))
        return
    work = Work(experiment, setup, ledger, how)
    # Looked at before anything is written, and again once nobody else can.
    if folder.is_dir():
        store.claim_folder(folder, ledger)
    make_folder(folder)
    with only_writer(folder):
        store.claim_folder(folder, ledger)
        _announce(experiment, setup)
        store.begin(folder, ledger, _manifest(experiment, setup))
        if not resume:
            store.forget(folder, ledger, experiment.is_mine)
        with interruptible(say) as enough:
            done = _measure(work, folder, enough)
        if not done:
            raise typer.Exit(EXIT_INTERRUPTED)
        if experiment.shard is not None:
            say(f"shard {experiment.shard} is done; join them: steadymap merge {folder} ...")
            return
        found = _summarise(folder, setup, page=page)
    _see_errors(found, experiment.allow_failed)


def _summarise(folder: Path, setup: Setup, *, page: bool) -> Assembled:
    try:
        with summarising():
            found = _finish(folder, peak_memory(setup.classifier.module.mean.device))
            _report(folder, setup if page else None)
    except KeyboardInterrupt:
        say(f"interrupted: all is measured, and in {folder}; the same command summarises it")
        raise typer.Exit(EXIT_INTERRUPTED) from None
    return found


def _manifest(experiment: Experiment, setup: Setup) -> dict[str, Any]:
    """Return the manifest of a run that has not been made yet."""
    manifest = make_manifest(experiment, setup.classifier, setup.images)
    passes = {"passes": asdict(count(setup)), "passes_by_method": setup.passes()}
    return manifest | {"metrics": setup.metrics(), **passes, "git": git_state()}


def _finish(folder: Path, peak: dict[str, int]) -> Assembled:
    """Put the table of a run together from its shards."""
    ledger, manifest = store.read_ledger(folder)

    def describe(found: Assembled) -> dict[str, Any]:
        more = {"machines": found.machines, "peak_memory_bytes": peak}
        return completed(manifest, result_of(found)) | more

    return store.finish(folder, ledger, say, describe)


def _see_errors(found: Assembled, allowed: float) -> None:
    errors = found.statuses[Status.ERROR.value]
    if errors > allowed * found.rows:
        say(
            f"{errors} values failed: see `detail` in the records; "
            "the same command tries these again"
        )
        raise typer.Exit(EXIT_CELLS_FAILED)


def merge_command(
    runs: Annotated[list[Path], typer.Argument(help="Folders of one run, of several machines.")],
    output: Annotated[Path, typer.Option(help="Folder of the joined run.")],
) -> None:
    """Join the shards of one run that several machines have computed."""
    ledger, manifest = store.read_ledger(runs[0])
    for other in runs[1:]:
        theirs, _ = store.read_ledger(other)
        if reasons := not_the_same(ledger, theirs):
            raise ConfigError(
                f"merge: {other} is of another run than {runs[0]}: {', '.join(reasons)} differ"
            )
    make_folder(output)
    with only_writer(output):
        store.claim_folder(output, ledger)
        store.begin(output, ledger, manifest)
        for folder in runs:
            if folder.resolve() != output.resolve():
                store.take_over(folder, output, say)
        lost, every = missing(ledger, kept(output, say))
        if lost:
            say(
                f"{lost} of {every} units are missing; {output} has the others: merge it "
                "with the shards that are not there yet, or run the same experiment with "
                f"--output {output}"
            )
            raise typer.Exit(EXIT_CELLS_FAILED)
        found = _finish(output, {})
        _report(output, None)
    _see_errors(found, manifest["configuration"].get("allow_failed", 0.0))


def _jobs(classifier: Classifier, images: int) -> int:
    """Return how many jobs suit a network.

    One a thread on a CPU keeps all cores busy where a network is small: its layers are too short to
    share, and metrics run on one core. The layers of a large one are worth sharing; and its jobs
    would wait for memory.
    """
    if classifier.module.mean.device.type != "cpu" or not is_small(classifier):
        return 1
    try:
        classifier.replica()
    except ModelError:  # a network that cannot be copied has one worker
        return 1
    return min(torch.get_num_threads(), MOST_JOBS, images)


def _measure(work: Work, folder: Path, enough: threading.Event) -> bool:
    """Compute what is missing, with a progress bar; return whether that was all of it."""
    shards = work.shards(folder, say)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console_of(stderr=True)) as progress:
        total = sum(map_count(work.setup, shard) for shard in shards)
        task = progress.add_task("maps", total=total)
        done = work.compute(folder, shards, (lambda n: progress.advance(task, n), enough))
    if done < len(shards):
        say(
            f"interrupted: {done} of {len(shards)} shards are written to {folder}; "
            "the same command goes on"
        )
    return done == len(shards)


def _report(folder: Path, setup: Setup | None) -> None:
    """Summarise a finished run, print its tables, make its page and say where everything is.

    Args:
        folder: of the run.
        setup: of the run, to keep the witnesses' maps and make the page; None for no page.
    """
    scan, manifest = scan_run(folder)
    findings = Findings.of(scan, known_metrics(manifest))
    findings.write(folder)
    console = console_of()
    for title, table in tables(findings):
        console.print(title, style="bold", markup=False, highlight=False)
        console.print(table)
    for note in footnotes(findings):
        line(console, f"- {note}")
    if setup is not None:
        keep_witnesses(setup, scan, folder)
        line(console, f"the page to open: {write_report(folder, findings)}")
    files = ", ".join(sorted(path.name for path in folder.iterdir() if path.name != LOCK))
    line(console, f"{manifest['wall_seconds']:.0f} s; {folder}: {files}")


def device_of(name: str) -> torch.device:
    """Return a device by name.

    Raises:
        ConfigError: there is no such device here.
    """
    kind, device = device_type(name), torch.device(name)
    if kind == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device: cuda was asked for, but torch sees no CUDA device here")
    if kind == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"device: {name}: there are {torch.cuda.device_count()} CUDA devices")
    return device


def device_type(name: str) -> str:
    """Return cpu or cuda, or say that there is no such kind of device."""
    try:
        kind = torch.device(name).type
    except RuntimeError as error:
        raise ConfigError(f"device: unknown name {name!r}; known: cpu, cuda, cuda:1") from error
    if kind not in ("cpu", "cuda"):
        raise ConfigError(f"device: {name!r} is not supported; known: cpu, cuda, cuda:1")
    return kind
