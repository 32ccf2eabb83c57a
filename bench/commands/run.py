"""`steadymap run`: measure how steady saliency maps are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich import box
from rich.table import Table

from steadymap.bench.checks import conformance
from steadymap.bench.commands import finish
from steadymap.bench.core import console, errors, files, machine, names, safe_yaml
from steadymap.bench.data import forms, labelled, masks, opening
from steadymap.bench.gallery.keep import keep_witnesses
from steadymap.bench.measure.estimate import Estimate, count, estimate
from steadymap.bench.measure.watch import Watch
from steadymap.bench.network import devices, loading, memory
from steadymap.bench.network.variants import VARIANTS
from steadymap.bench.plan import admitting, identity, packaged_experiments, sharding
from steadymap.bench.plan.experiment import Experiment, make_experiment
from steadymap.bench.plan.setup import Setup, deployed, prepare
from steadymap.bench.report.page import write_report
from steadymap.bench.runs import folder as store
from steadymap.bench.runs import interrupts, processes, progress, shard_files, table
from steadymap.bench.runs.draw_up import draw_up
from steadymap.bench.runs.manifest import make_manifest
from steadymap.bench.runs.resume import Work
from steadymap.models import Classifier, ModelError

# Each job holds activations of its own.
MOST_JOBS = 4
# Classes in a line.
MOST_NAMED = 5


def _prepare(experiment: Experiment) -> tuple[Experiment, Setup]:
    """Load model and images; return the experiment with its jobs decided, ready to start."""
    device = devices.device_of(experiment.device)
    if experiment.threads:
        torch.set_num_threads(experiment.threads)
    classifier = loading.load_model(experiment.model, experiment.weights, device)
    images = opening.open_images(
        experiment.data, classifier.framing, experiment.split, experiment.limit
    )
    if experiment.mask:
        images = masks.with_masks(images, experiment.mask)
    classifier = deployed(classifier, images, experiment.variant)
    for name, reason in images.excluded:
        console.say(f"excluded: {name}: {reason}")
    if "jobs" not in experiment.model_fields_set:
        jobs = jobs_for(classifier, len(images))
        experiment = experiment.model_copy(update={"jobs": jobs})
    return experiment, prepare(classifier, images, experiment)


def _announce(experiment: Experiment, setup: Setup) -> None:
    classifier, images = setup.classifier, setup.images
    if experiment.limit and len(images) < experiment.limit:
        console.say(
            f"the {experiment.split} split has {len(images)} usable images of {experiment.limit}"
        )
    unknown = labelled.unknown_classes(images.class_names, classifier.class_names)
    if unknown:
        more = f" and {len(unknown) - MOST_NAMED:,} more" if len(unknown) > MOST_NAMED else ""
        console.say(
            f"{classifier.name} has no one class called {', '.join(unknown[:MOST_NAMED])}{more}: "
            "pictures of these are explained, and count as not labelled"
        )
    console.say(
        f"{classifier.name} on {images.name} ({experiment.split}): {len(images)} images x "
        f"{len(experiment.cells()) + 1} views x {len(experiment.bound_methods())} methods"
    )
    if classifier.module.mean.is_cuda and experiment.precision != "ieee":
        console.say(f"precision: {experiment.precision}: products are rounded, maps change with it")


@dataclass(frozen=True)
class Manner:
    """How a run is made and told.

    Attributes:
        dry: estimate what it will cost, and run nothing.
        page: keep the witnesses' maps and make the page.
        resume: leave out what is there already.
        told: how much of what was found is printed.
    """

    dry: bool = False
    page: bool = True
    resume: bool = True
    told: finish.Told = finish.Told.SHORT


def run_experiment(experiment: Experiment, manner: Manner) -> None:
    """Run an experiment, or go on with it, and print what was found.

    Args:
        experiment: what to run.
        manner: how.

    Raises:
        Exit: it was interrupted, or too many values failed.
    """
    work = work_of(experiment)
    experiment = work.experiment
    if manner.dry:
        _announce(experiment, work.setup)
        console.console_of().print(estimate_table(estimate(work.setup)))
        return
    with _folder_of(work) as folder:
        _measure(work, folder, resume=manner.resume)
        if experiment.shard is not None:
            kept = shard_files.kept(folder, console.say, is_ours=True)
            store.see_complete(folder, table.missing(work.ledger, kept, experiment.is_mine))
            console.say(
                f"shard {experiment.shard} is done; join them: steadymap merge {folder} ..."
            )
            return
        assembled = _summarise(folder, work.setup, manner)
    finish.see_errors(assembled, experiment.allow_failed)


def measured_folder(work: Work) -> Path:
    """Carry a run out, or go on with it, and return its folder; no findings are printed.

    Raises:
        Exit: it was interrupted.
    """
    with _folder_of(work) as folder:
        _measure(work, folder, resume=True)
        finish.put_together(folder, machine.peak_memory(work.setup.classifier.module.mean.device))
    return folder


def work_of(experiment: Experiment) -> Work:
    """Load model and images, and draw up what is to be computed."""
    experiment, setup = _prepare(experiment)
    how = (
        processes.read_parallel(experiment.parallel_config)
        if experiment.parallel_config
        else processes.Parallel()
    )
    name = identity.run_id(experiment, setup.classifier, setup.images)
    ledger = draw_up(setup, name, experiment.split, maps=experiment.save_maps)
    return Work(experiment, setup, ledger, how)


@contextmanager
def _folder_of(work: Work) -> Iterator[Path]:
    """Yield the folder of a run, of which no other process writes meanwhile."""
    folder = (work.experiment.output or console.RUNS / work.ledger.run_id).expanduser()
    # Looked at before anything is written, and again once nobody else can.
    if folder.is_dir():
        store.claim_folder(folder, work.ledger)
    files.make_folder(folder)
    with shard_files.only_writer(folder):
        store.claim_folder(folder, work.ledger, console.say)
        yield folder


def _measure(work: Work, folder: Path, *, resume: bool) -> None:
    """Compute what is not in the folder yet.

    Raises:
        Exit: it was interrupted.
    """
    experiment, setup = work.experiment, work.setup
    _announce(experiment, setup)
    store.begin(folder, work.ledger, manifest_of(experiment, setup), console.say)
    if not resume:
        store.forget(folder, work.ledger, experiment.is_mine)
    with interrupts.interruptible(console.say) as stop:
        shards = work.shards(folder, console.say)
        total = sum(sharding.map_count(setup, shard) for shard in shards)
        progress.foretell(setup, total)
        with progress.progress_bar(total) as advance:
            written = work.compute(folder, shards, Watch(advance, stop))
    if written < len(shards):
        console.say(
            f"interrupted: {written} of {len(shards)} shards are written to {folder}; "
            "the same command goes on"
        )
        raise typer.Exit(console.EXIT_INTERRUPTED)


def _summarise(folder: Path, setup: Setup, manner: Manner) -> table.Assembled:
    """Return the table of a run that is measured, with its findings printed."""
    try:
        with interrupts.summarising():
            console.say("all maps are made; now the table, means and intervals")
            assembled = finish.put_together(
                folder, machine.peak_memory(setup.classifier.module.mean.device)
            )
            findings, diagrams = finish.print_findings(folder, manner.told)
            if manner.page:
                console.say("now the page, with three images' maps")
                store.seal_also(folder, keep_witnesses(setup, findings.scan, folder))
                page_path = write_report(folder, findings, diagrams)
                console.line(console.console_of(), f"the page to open: {page_path}")
            finish.print_files(folder, manner.told)
    except KeyboardInterrupt:
        console.say(
            f"interrupted: all is measured, and in {folder}; the same command summarises it"
        )
        raise typer.Exit(console.EXIT_INTERRUPTED) from None
    return assembled


def manifest_of(experiment: Experiment, setup: Setup) -> dict[str, Any]:
    """Return the manifest of a run that has not been made yet."""
    manifest = make_manifest(experiment, setup.classifier, setup.images)
    passes = {"passes": asdict(count(setup)), "passes_by_method": setup.passes()}
    checks = conformance.outcomes(setup.methods) if admitting.wanted(setup.plan) else {}
    also = {"metrics": setup.metrics(), "checks": checks, "git": machine.git_state()}
    return manifest | passes | also


def jobs_for(classifier: Classifier, images: int) -> int:
    """Return how many jobs suit a network.

    One a thread on a CPU keeps all cores busy where a network is small: its layers are too short to
    share, and metrics run on one core. The layers of a large one are worth sharing; and its jobs
    would wait for memory.
    """
    if classifier.module.mean.device.type != "cpu" or not memory.is_small(classifier):
        return 1
    try:
        classifier.replica()
    except ModelError:  # a network that cannot be copied has one worker
        return 1
    return min(torch.get_num_threads(), MOST_JOBS, images)


VARIANT_HELP = "How the network is deployed: " + ", ".join(
    f"{entry.form(name)} ({entry.summary})" for name, entry in VARIANTS.items()
)
RETAIN_HELP = "Keep freed memory in the process (Linux with glibc): faster, and never smaller."


def run_command(  # noqa: PLR0913, PLR0917 - typer reads the flags off the signature
    experiment: Annotated[
        str | None,
        typer.Argument(help="An experiment of the package; the default is the embedded one."),
    ] = None,
    config: Annotated[Path | None, typer.Option(help="YAML file; flags override it.")] = None,
    model: Annotated[str | None, typer.Option(help="See `steadymap list models`.")] = None,
    weights: Annotated[Path | None, typer.Option(help="Weights to load.")] = None,
    variant: Annotated[str | None, typer.Option(help=VARIANT_HELP)] = None,
    data: Annotated[str | None, typer.Option(help="See `steadymap list data`.")] = None,
    split: Annotated[str | None, typer.Option(help=", ".join(forms.SPLITS))] = None,
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
        int | None, typer.Option(help="Randomised networks to calibrate by; 0 for no calibration.")
    ] = None,
    coupled: Annotated[
        bool | None,
        typer.Option(
            "--coupled/--no-coupled",
            help="Score stochastic methods with shared draws, too; off unless told.",
        ),
    ] = None,
    admission: Annotated[
        bool | None,
        typer.Option(
            "--admission/--no-admission",
            help="Measure whether maps know their own image, too; on unless told.",
        ),
    ] = None,
    cell_share: Annotated[
        float | None,
        typer.Option(help="For that: side of a deleted cell, as a share of the shorter side."),
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
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Print every table; see `steadymap table`.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print paths alone.")] = False,
    keep_heap: Annotated[
        bool, typer.Option("--retain-heap/--no-retain-heap", help=RETAIN_HELP)
    ] = True,
) -> None:
    """Measure how steady saliency maps are, and print the table."""
    flags = {
        "model": model,
        "weights": weights,
        "variant": variant,
        "data": data,
        "split": split,
        "mask": mask,
        "method": method or None,
        "family": family or None,
        "severity": parse_severities(severity) if severity else None,
        "metric": metric or None,
        "controls": controls,
        "nulls": nulls,
        "coupled": coupled,
        "admission": admission,
        "cell_share": cell_share,
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
        raise errors.ConfigError(
            "give an experiment or --config, not both; --config may hold all keys"
        )
    base = (
        safe_yaml.read_config(config)
        if config
        else packaged_experiments.read_experiment(
            experiment or packaged_experiments.DEFAULT_EXPERIMENT
        )
    )
    set_flags = {key: value for key, value in flags.items() if value is not None}
    chosen = make_experiment([base, set_flags])
    by_family = flags["severity"] if isinstance(flags["severity"], dict) else {}
    for name in by_family:
        if name not in chosen.family:
            raise errors.ConfigError(
                f"severity: {name} does not run here; {names.nearest(name, chosen.family)}"
            )
    if keep_heap:
        machine.retain_heap()
    told = finish.Told.ALL if verbose else finish.Told.PATHS if quiet else finish.Told.SHORT
    run_experiment(chosen, Manner(dry_run, page, resume, told))


def parse_severities(texts: list[str]) -> dict[str, tuple[float, ...]] | tuple[float, ...]:
    """Parse `0.1,0.3`, or `family=0.1,0.3`, given once or more."""
    by_family: dict[str, tuple[float, ...]] = {}
    for text in texts:
        family, _, levels = text.rpartition("=")
        try:
            parsed = tuple(float(level) for level in levels.split(","))
        except ValueError as error:
            raise errors.ConfigError(
                f"severity: expected numbers like 0.1,0.3, got {text!r}"
            ) from error
        by_family[family] = (*by_family.get(family, ()), *parsed)
    if "" not in by_family:
        return by_family
    if len(by_family) > 1:
        raise errors.ConfigError("severity: give one list for all families, or FAMILY=... for each")
    return by_family[""]


def estimate_table(expected: Estimate) -> Table:
    """Return an estimate as a table for a terminal."""
    passes = expected.passes
    least = "at least " if passes.at_least else ""
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_header=False)
    shown.add_column("what")
    shown.add_column("how much", justify="right")
    shown.add_row("maps", f"{expected.maps:,}")
    shown.add_row("forward passes of an image", f"{least}{passes.forward:,}")
    shown.add_row("backward passes of an image", f"{least}{passes.backward:,}")
    shown.add_row("time in passes", f"{least}{expected.pass_seconds:.1f} s")
    shown.add_row("time in metrics", f"{expected.metric_seconds:.1f} s")
    shown.add_row("time for images", f"{expected.image_seconds:.1f} s")
    if expected.attack_seconds:
        shown.add_row("time in attacks", f"{least}{expected.attack_seconds:.1f} s")
    shown.add_row("time, summary not included", f"{least}{expected.seconds:.0f} s")
    shown.add_row("peak memory", f"{expected.memory / 2**20:,.0f} MiB")
    return shown
