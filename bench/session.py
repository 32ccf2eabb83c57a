"""Python's front door: a network and images in, scores, maps and figures out.

import steadymap as sm

result = sm.run(network, images, methods=["grad_cam", captum.attr.Saliency, my_method])
result.calibrated
"""

from __future__ import annotations

import copy
import shutil
import tempfile
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import Module

from steadymap.bench.commands import finish
from steadymap.bench.commands.run import jobs_for, manifest_of
from steadymap.bench.core import console, errors, files, machine, names
from steadymap.bench.data import opening
from steadymap.bench.data.image_set import ImageSet, from_tensor
from steadymap.bench.gallery import keep
from steadymap.bench.gallery.show import show
from steadymap.bench.gallery.steps import subset_of
from steadymap.bench.measure.runner import measure
from steadymap.bench.measure.watch import Watch
from steadymap.bench.perturbations.cell import CLEAN_CELL, Cell
from steadymap.bench.plan import identity, sharding
from steadymap.bench.plan.experiment import Experiment
from steadymap.bench.plan.plan import Plan
from steadymap.bench.plan.setup import Setup, prepare
from steadymap.bench.records import read, vocabulary
from steadymap.bench.report import page
from steadymap.bench.report.finished_run import FinishedRun
from steadymap.bench.report.markdown import fragment_of
from steadymap.bench.report.sections import curves
from steadymap.bench.runs import folder as store
from steadymap.bench.runs import map_files, processes, shard_files
from steadymap.bench.runs import progress as watching
from steadymap.bench.runs.draw_up import draw_up
from steadymap.bench.runs.resume import Work
from steadymap.models import Classifier, ModelError, make_classifier

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CLEAN = vocabulary.CLEAN
# All that a caller gives is measured.
SPLIT = "all"

Spec = str | Callable[..., object]


@dataclass(frozen=True)
class Result:
    """What a run found.

    Tables and figures are made when they are first asked for.

    Attributes:
        folder: of the run, as `steadymap run` leaves it.
        setup: network, images and plan; None where the run was read from its folder.
    """

    folder: Path
    setup: Setup | None = None

    @cached_property
    def _finished(self) -> FinishedRun:
        return FinishedRun.of(self.folder)

    @property
    def manifest(self) -> Mapping[str, Any]:
        """Who, what and where."""
        return self._finished.manifest

    @cached_property
    def records(self) -> pd.DataFrame:
        """One row a value; columns: `steadymap.bench.records.schema.SCHEMA`."""
        records, _ = read.read_run(self.folder)
        return records

    @property
    def summary(self) -> pd.DataFrame:
        """Means over images with 95% intervals, by method, family and metric."""
        return self._finished.findings.summary

    @property
    def calibrated(self) -> pd.DataFrame:
        """Scores: 1 for a map that stays, 0 for an unrelated one; empty without nulls."""
        return self._finished.findings.calibrated

    @property
    def admission(self) -> pd.DataFrame:
        """Who is ranked, and why not; empty where that was not measured."""
        return self._finished.findings.admission

    @property
    def ranks(self) -> pd.DataFrame:
        """Places of the methods that are ranked, with the places that cannot be ruled out."""
        return self._finished.findings.ranks

    def maps(self, method: Spec, view: str | tuple[str, float] = CLEAN) -> NDArray[np.float32]:
        """Return a method's attributions of every image: (N, C, h, w), at its own resolution.

        They are computed again, from the same random numbers; of a run that was read from its
        folder they are those that were kept (`--save-maps`).

        Args:
            method: as it was given to `run`, or its name in the tables.
            view: "clean", or a family of perturbations with a severity: ("bias", 0.1).

        Raises:
            ConfigError: the method did not run here, or has no maps; or the run was read from its
                folder, which kept none.
        """
        if self.setup is None and (self.folder / store.MAPS).is_dir():
            return map_files.read_maps(self.folder / store.MAPS, str(method), *_kept_view(view))
        setup = self._measured("maps")
        spec = self._spec(setup, method)
        cell = _cell(view)
        moved = CLEAN_CELL if cell is None else cell
        plan = setup.plan.model_copy(
            update=keep.MAPS_ALONE
            | {"method": (spec,), "family": (moved.family,), "severity": (moved.severity,)}
            | ({"family": ("bias",), "severity": (0.0,)} if cell is None else {})
        )
        alone = prepare(setup.classifier, setup.images, plan, setup.references)
        place = 0 if cell is None else 1
        parts = []
        for outcome in measure(alone, lambda _count: None, keep_maps=True):
            attributions = outcome.attributions[spec]
            if attributions is None:
                reason = next((r.detail for r in outcome.records if r.detail), "")
                raise errors.ConfigError(f"method: {spec} has no maps here: {reason}")
            parts.append(attributions[:, place].numpy())
        return np.concatenate(parts)

    def report(self, path: str | Path) -> Path:
        """Write the page, one file that needs no network; return its path."""
        target = Path(path)
        files.write_file(target, page.render([self._finished]))
        return target

    def plot(self, metric: str | None = None, family: str | None = None) -> Figure:
        """Return scores against severity: a matplotlib figure.

        Args:
            metric: left out, the first of the run.
            family: left out, the first that has severities.

        Raises:
            ConfigError: the run has none of that name.
        """
        table = self._finished.curves
        rows = table[table[vocabulary.METRIC].isin(self._finished.findings.metrics())]
        metric = _chosen("metric", metric, rows[vocabulary.METRIC])
        drawn = curves.curve_drawings(self._finished, metric)
        families = rows[rows[vocabulary.METRIC] == metric][vocabulary.FAMILY]
        family = _chosen("family", family, families)
        return drawn[list(dict.fromkeys(families)).index(family)].figure

    def show(self, image: int = 0, family: str = "bias", severity: float = 0.1) -> Figure:
        """Return a picture of one image and its maps, clean above and perturbed below.

        Args:
            image: its place among the images.
            family: of perturbations.
            severity: of it.

        Raises:
            ConfigError: as `maps`; or there is no such image.
        """
        setup = self._measured("pictures")
        if not 0 <= image < len(setup.images):
            raise errors.ConfigError(
                f"image: {image} is none of the {len(setup.images)} images; they count from 0"
            )
        one = subset_of(setup.images, [image])
        return show(setup.classifier, one, setup.plan, Cell(family, severity, 0))

    def _repr_html_(self) -> str:
        """Return the answer and the leaderboard, as notebooks show it."""
        return fragment_of(self._finished)

    def _measured(self, what: str) -> Setup:
        if self.setup is None:
            raise errors.ConfigError(
                f"{self.folder} was read, and its network is not at hand: {what} need the result "
                "of steadymap.run, or maps that were kept with --save-maps"
            )
        return self.setup

    @staticmethod
    def _spec(setup: Setup, method: Spec) -> str:
        plan = Plan(method=(method,), steps=setup.plan.steps)  # type: ignore[arg-type] # objects get names
        (bound, *_) = plan.bound_methods()
        specs = [known.spec for known in setup.methods]
        if bound.spec not in specs:
            raise errors.ConfigError(
                f"method: {bound.spec} did not run; {names.nearest(bound.spec, specs)}"
            )
        return bound.spec


def run(  # noqa: PLR0913 - a front door: each is what a caller has in hand
    network: Module | Classifier,
    images: Tensor | ImageSet | str,
    methods: Spec | Sequence[Spec] | None = None,
    families: Spec | Sequence[Spec] | None = None,
    *,
    plan: Plan | None = None,
    output: str | Path | None = None,
    progress: bool = True,
) -> Result:
    """Measure how steady a network's saliency maps are on your images.

    Args:
        network: a network that takes images in [0, 1], of which a copy is explained; one that wants
            them normalised, or pictures of another size, goes through
            `steadymap.make_classifier` first.
        images: (N, 3, H, W), float32 in [0, 1]; or an image set; or, with a classifier, a data spec
            such as "folder:pictures".
        methods: names with their parameters ("integrated_gradients:baseline=white"), functions
            (classifier, batch) of your own, classes of captum's; left out, those of the plan.
        families: names, or functions (image, severity, rng) of your own; likewise.
        plan: everything else: severities, metrics, seed, ...; left out, the defaults.
        output: folder of the run, which goes on there; left out, a temporary one, which goes with
            the result.
        progress: whether a bar is shown.

    Raises:
        ConfigError: a name that nobody knows, or settings that do not go together.
        DataError: images of another type, size or range.
        ModelError: a network that cannot be explained, with the reason.
    """
    given = {"method": _listed(methods), "family": _listed(families)}
    settings: dict[str, Any] = {
        name: getattr(plan, name) for name in (plan.model_fields_set if plan else ())
    } | {name: value for name, value in given.items() if value is not None}
    classifier = _classifier(network, images)
    pictures = _image_set(images, classifier)
    settings = {"jobs": jobs_for(classifier, len(pictures))} | settings
    experiment = Experiment(**settings, model=classifier.name, data=pictures.name, split=SPLIT)
    setup = prepare(classifier, pictures, experiment)
    folder = Path(tempfile.mkdtemp(prefix="steadymap-") if output is None else output).expanduser()
    result = Result(folder, setup)
    if output is None:
        weakref.finalize(result, shutil.rmtree, folder, ignore_errors=True)
    _measure_into(folder, experiment, setup, progress=progress)
    return result


def read_result(folder: str | Path) -> Result:
    """Read a finished run from its folder.

    Raises:
        ConfigError: there is none, or it is damaged.
    """
    read.finished(Path(folder))
    return Result(Path(folder))


def _measure_into(folder: Path, experiment: Experiment, setup: Setup, *, progress: bool) -> None:
    """Compute what of a run is not in its folder yet, and put its table together."""
    name = identity.run_id(experiment, setup.classifier, setup.images)
    ledger = draw_up(setup, name, experiment.split)
    say = console.say if progress else _to_nobody
    files.make_folder(folder)
    with shard_files.only_writer(folder):
        store.claim_folder(folder, ledger)
        store.begin(folder, ledger, manifest_of(experiment, setup), say)
        work = Work(experiment, setup, ledger, processes.Parallel())
        shards = work.shards(folder, say)
        total = sum(sharding.map_count(setup, shard) for shard in shards)
        with watching.progress_bar(total, shown=progress) as advance:
            work.compute(folder, shards, Watch(advance))
        finish.put_together(folder, machine.peak_memory(setup.classifier.module.mean.device))


def _to_nobody(_line: str) -> None:
    """Say nothing."""


def _classifier(network: Module | Classifier, images: Tensor | ImageSet | str) -> Classifier:
    if isinstance(network, Classifier):
        return network
    if not isinstance(network, Module):
        raise ModelError(
            f"network: expected a torch.nn.Module or a classifier, got {type(network).__name__}"
        )
    if not isinstance(images, Tensor) or images.ndim != 4:  # noqa: PLR2004 - (N, 3, H, W)
        raise ModelError(
            f"{type(network).__name__}: how large its images are cannot be told; give a tensor "
            "(N, 3, H, W), or steadymap.make_classifier(network, (height, width))"
        )
    try:
        own = copy.deepcopy(network)
    except Exception as error:  # a module may hold anything; the line says what failed
        raise ModelError(
            f"{type(network).__name__} cannot be copied ({errors.one_line(error)}); "
            "steadymap.make_classifier takes it as it is, and freezes it"
        ) from error
    return make_classifier(own, (int(images.shape[2]), int(images.shape[3])))


def _image_set(images: Tensor | ImageSet | str, classifier: Classifier) -> ImageSet:
    if isinstance(images, ImageSet):
        return images
    if isinstance(images, str):
        return opening.open_images(images, classifier.framing, SPLIT)
    if not isinstance(images, Tensor):
        raise errors.DataError(
            f"images: expected a tensor, an image set or a data spec, got {type(images).__name__}"
        )
    return from_tensor(images)


def _listed(value: Spec | Sequence[Spec] | None) -> tuple[Spec, ...] | None:
    if value is None:
        return None
    return (value,) if isinstance(value, str) or callable(value) else tuple(value)


def _kept_view(view: str | tuple[str, float]) -> tuple[str, float]:
    cell = _cell(view) or CLEAN_CELL
    return cell.family, cell.severity


def _cell(view: str | tuple[str, float]) -> Cell | None:
    """Return the cell of a view; None for the clean one."""
    if view == CLEAN:
        return None
    if isinstance(view, str):
        raise errors.ConfigError(f'view: expected "clean" or (family, severity), got {view!r}')
    family, severity = view
    return Cell(family, float(severity), 0)


def _chosen(key: str, name: str | None, column: pd.Series[Any]) -> str:
    """Return a name of a column, the first where none is given."""
    known = [str(value) for value in dict.fromkeys(column)]
    if name is None and known:
        return known[0]
    if name not in known:
        raise errors.ConfigError(f"unknown {key} {name!r}; {names.nearest(str(name), known)}")
    return name
