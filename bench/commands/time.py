"""`steadymap time`: every method on every device."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich import box
from rich.markup import escape
from rich.table import Table

from steadymap.bench.commands.run import RETAIN_HELP
from steadymap.bench.core import errors, files
from steadymap.bench.core.console import RUNS, console_of, line, say
from steadymap.bench.core.machine import fingerprint, machine, retain_heap
from steadymap.bench.core.names import short_names
from steadymap.bench.data.opening import open_images
from steadymap.bench.measure import cold_start, timing
from steadymap.bench.measure.agreement import Agreement, agreement
from steadymap.bench.measure.course import Course
from steadymap.bench.network.devices import device_type
from steadymap.bench.plan.experiment import make_experiment


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
    settings = {"model": model, "data": data, "precision": precision, "controls": False}
    flags = {"method": method, "steps": steps}
    chosen = make_experiment([settings, {key: value for key, value in flags.items() if value}])
    devices = tuple(dict.fromkeys(device or ("cpu", "cuda")))
    for name in devices:
        device_type(name)
    path = output or RUNS / f"timing-{re.split('[:/.@]', model)[-1]}.json"
    if path.suffix != ".json":
        raise errors.ConfigError(f"output: figures are written as .json, got {path.name}")
    files.make_folder(path.parent)
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
    rows = [row for name in devices for row in timing.time_device(course, images, name, say)]
    timed = dict.fromkeys(row.device for row in rows if not row.missing)
    parity = [row for name in timed if name != "cpu" for row in agreement(course, images, name)]
    files.write_json(
        path, timing.report(course, rows, parity) | {"weights_sha256": classifier.weights_hash()}
    )
    console = console_of()
    console.print(timing_table(rows))
    if parity:
        console.print(agreement_table(parity))
    facts = machine(torch.device("cpu"))
    for note in timing_notes(course, facts, rows, parity):
        line(console, f"- {note}")
    line(console, f"{path}")


def timing_table(rows: Sequence[timing.Timed]) -> Table:
    """Return methods and devices down, figures across; times are of one image."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("method", no_wrap=True)
    table.add_column("device")
    for name in ("ms an image", "[quartiles]", "on device", "best", "passes", "cold", "memory"):
        table.add_column(escape(name), justify="right")
    names = short_names([row.method for row in rows])
    for row in rows:
        table.add_row(names[row.method], row.device, *_figures(row))
    return table


def _figures(row: timing.Timed) -> list[str]:
    if row.missing or row.warm is None or row.best is None:
        return ["-"]
    steady = "" if row.warm.steady else " unstable"
    each = 1000 / row.batch
    inside = row.device_only
    return [
        f"{row.warm.median * each:.3g}{steady}",
        escape(f"[{row.warm.low * each:.3g}, {row.warm.high * each:.3g}]"),
        f"{inside.median * each:.3g}" if inside else "",
        f"{1000 * row.best.median / (row.best_batch or 1):.3g} at {row.best_batch}"
        + ("" if row.best.steady else " unstable"),
        f"{row.forward:g} + {row.backward:g}",
        f"{1000 * row.fresh.seconds:.0f} ms" if row.fresh else "",
        f"{_memory(row.fresh) / 2**20:,.0f} MiB" if row.fresh else "",
    ]


def _memory(fresh: cold_start.ColdStart) -> int:
    return fresh.peak.get("cuda_allocated", fresh.peak.get("resident", 0))


def timing_notes(
    course: Course, facts: dict[str, Any], rows: Sequence[timing.Timed], parity: Sequence[Agreement]
) -> list[str]:
    """Return what a reader of the tables must know."""
    reasons = dict.fromkeys((row.device, row.missing) for row in rows if row.missing)
    notes = [f"-: not timed on {device}: {reason}" for device, reason in reasons]
    notes += [
        f"-: {row.method} on {row.device} not compared: {row.missing}"
        for row in parity
        if row.missing
    ]
    notes += [
        (
            f"times are by the clock, of one image in batches of {course.batch}, from host memory "
            f"to host memory: median and quartiles of {course.repeats} warm runs in turns, on "
            "inputs not seen before; unstable: the quartiles are over 10% apart"
        ),
        (
            "best: at the batch at which an image is fastest; passes: forward + backward of one "
            "image for one map; a run shares one pass between the methods that need no more"
        ),
    ]
    if course.fresh:
        notes.append(
            "cold: the first batch of a process of its own; memory: the most it held, libraries "
            "included on a CPU, tensors alone on a GPU"
        )
    heap = ", heap retained" if course.keep_heap else ""
    precision = "float32" if course.exact else "TF32 on a GPU"
    notes.append(
        f"{facts['processor']}, {facts['threads']} threads{heap}; {precision}; "
        f"fingerprint {fingerprint(facts)}"
    )
    if not parity:
        notes.append("one device: nothing to compare its maps with")
    return notes


def agreement_table(parity: Sequence[Agreement]) -> Table:
    """Return how far the maps of two devices are apart."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("method", no_wrap=True)
    for name in ("device", "largest relative L2 to the CPU", "smallest rank correlation"):
        table.add_column(name, justify="right")
    names = short_names([row.method for row in parity])
    for row in parity:
        figures = (f"{row.relative_l2:.1e}", f"{row.rank:.6f}") if not row.missing else ("-", "-")
        table.add_row(names[row.method], row.device, *figures)
    return table
