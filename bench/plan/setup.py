"""What a run needs before it can start, and what is refused before anything is computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from steadymap.bench.core import errors, metric_registry, origin
from steadymap.bench.data.image_set import ImageSet, References
from steadymap.bench.methods.batch import DATA_REFERENCES
from steadymap.bench.methods.method import BoundMethod, foreign
from steadymap.bench.network.memory import images_at_once
from steadymap.bench.network.variants import as_deployed
from steadymap.bench.perturbations import apply, registry
from steadymap.bench.perturbations.attack import differentiable_twice
from steadymap.bench.perturbations.cell import Cell
from steadymap.bench.plan.blocks import BLOCK, ON_GPU, batches
from steadymap.bench.plan.plan import Plan
from steadymap.metrics import PROBES, Metric
from steadymap.metrics.neighbours import NEIGHBOURS
from steadymap.models import Classifier, ModelError


@dataclass(frozen=True)
class Setup:
    """A run that is ready to start; made by `prepare`.

    Attributes:
        classifier: what is explained.
        images: the images.
        plan: what to do with them.
        methods: the methods of the plan, each with the metrics that it can have here.
        at_once: how many images each worker sends through the network together.
        references: images of the data set, on the CPU; None where no method takes any.
    """

    classifier: Classifier
    images: ImageSet
    plan: Plan
    methods: dict[BoundMethod, dict[str, Metric]]
    at_once: int
    references: References | None = None

    def classifiers(self) -> list[Classifier]:
        """Return one for each worker; the first is the run's own.

        Raises:
            ModelError: there are several workers, and the network cannot be copied.
        """
        others = [self.another(self.classifier) for _ in range(1, self.plan.jobs)]
        return [self.classifier, *others]

    def another(self, classifier: Classifier) -> Classifier:
        """Return a classifier for one more worker.

        With weights of its own where they are given to something that is not ours, which may write
        into them; the others share them.
        """
        attacks = [registry.FAMILY_SHELF.find(cell.family).attack for cell in self.attacks()]
        apart = any(foreign(method.method) for method in self.methods) or not all(
            origin.is_ours(attack) for attack in attacks if attack is not None
        )
        return classifier.copy() if apart else classifier.replica()

    def attacks(self) -> tuple[Cell, ...]:
        """Return the perturbations that need the classifier, those of severity 0 left out."""
        return tuple(
            cell
            for cell in self.plan.cells()
            if registry.FAMILY_SHELF.find(cell.family).attack is not None and cell.severity
        )

    def blocks(self) -> list[range]:
        """Return the images that are looked at together, in the order of the set."""
        on_gpu = self.classifier.module.mean.is_cuda
        batch_size = self.plan.batch_size or (ON_GPU if on_gpu else BLOCK)
        # Without null maps no image needs others beside it.
        return batches(len(self.images), BLOCK if self.plan.nulls else batch_size, batch_size)

    def view_count(self) -> int:
        """Return how many times the run looks at an image, with every method."""
        near = NEIGHBOURS if "neighbours" in wanted(self.methods) else 0
        own = len(self.images) * (len(self.plan.cells()) + 1 + near)
        device = self.classifier.module.mean.device
        return own + views_beside(self.blocks(), self.plan.nulls, device)

    def couples(self, method: BoundMethod) -> bool:
        """Whether perturbed images are explained once more, with the clean image's draws."""
        return self.plan.coupled and method.can("stochastic")

    def redraws(self) -> dict[BoundMethod, int]:
        """Return how many maps each method makes of views that it has explained already.

        With another seed, of a few images, or of all where it is declared stochastic; and with the
        clean image's draws, of every perturbed one.
        """
        images = len(self.images)
        few = min(len(self.blocks()[0]), NUMERIC_IMAGES) if self.plan.nulls else 0
        every = images if self.plan.nulls else 0
        return {
            method: few
            + every * method.can("stochastic")
            + images * len(self.plan.cells()) * self.couples(method)
            for method in self.methods
        }

    def map_count(self) -> int:
        """Return how many maps the run makes: what `advance` adds up to."""
        return len(self.methods) * self.view_count() + sum(self.redraws().values())

    def metrics(self) -> dict[str, str]:
        """Return the metrics of the run, each with its line."""
        return {
            name: metric.summary
            for metrics in self.methods.values()
            for name, metric in metrics.items()
        }

    def passes(self) -> dict[str, dict[str, object]]:
        """Return, by method, how often an image goes forward and backward for one map.

        `each` is missing where a method takes as many as it needs; `shared` says whether that is
        the pass which the methods have in common; `forward_only` is how often it goes forward and
        does not come back.
        """
        own = self.plan.engine == "own"
        return {
            method.spec: {
                "each": None if method.adaptive else method.passes,
                "shared": own and method.share is not None,
                "forward_only": method.forward_only(self.classifier.input_size),
            }
            for method in self.methods
        }


def prepare(
    classifier: Classifier, images: ImageSet, plan: Plan, references: References | None = None
) -> Setup:
    """Return a run that is ready to start: classifier, images and plan belong together.

    Args:
        classifier: what is explained.
        images: the images.
        plan: what to do with them.
        references: images of the data set for methods that take any; left out, those of `images`.

    Raises:
        ConfigError: a metric that nothing in the plan can give, a family that cannot be had of
            these images or this network, a network that is not float32, or a method that takes
            images of the data set where there is but one.
        DataError: images of another size than the classifier's input.
    """
    dtype = classifier.module.mean.dtype
    if dtype != torch.float32:
        raise errors.ConfigError(
            f"model: {classifier.name} is {dtype}; a run needs network.float()"
        )
    size = tuple(images.read(0).image.shape[1:])
    if size != classifier.input_size:
        height, width = classifier.input_size
        raise errors.DataError(
            f"images: {classifier.name} takes {height} x {width} pixels, "
            f"these have {size[0]} x {size[1]}"
        )
    methods = plan.bound_methods()
    comparing = [method.spec for method in methods if method.needs_references]
    if comparing and references is None:
        # One more than an image is compared with: it may be among them.
        references = images.references(DATA_REFERENCES + 1)
    if comparing and references is not None and len(references.ids) == 1:
        raise errors.ConfigError(
            f"method: {comparing[0]} compares with other images of the data set, and there is "
            "but one"
        )
    setup = Setup(
        classifier,
        images,
        plan,
        {method: _metrics_of(method, images, plan.metrics()) for method in methods},
        images_at_once(classifier, plan.jobs),
        references if comparing else None,
    )
    _refuse_idle_metrics(setup)
    for method in setup.methods:
        try:
            method.unfit(classifier)
        except ModelError as error:
            raise errors.ConfigError(f"method {method.spec}: {error}") from error
        except Exception as error:  # a plug-in may raise anything; the line says what
            reason = errors.one_line(error)
            raise errors.ConfigError(f"method {method.spec}: does it apply? {reason}") from error
    _refuse_small_images(setup)
    _refuse_attacks(setup)
    return setup


# Images by which a variant sets the ranges of activations.
CALIBRATION_IMAGES = 32


def deployed(classifier: Classifier, images: ImageSet, variant: str | None) -> Classifier:
    """Return a classifier as it is deployed, calibrated by the first images of the set.

    Args:
        classifier: what is deployed.
        images: the images of the run.
        variant: a spec of `VARIANTS`; None returns the classifier itself.

    Raises:
        ModelError: the network cannot be changed so.
    """
    if variant is None:
        return classifier
    few = images.images(range(min(len(images), CALIBRATION_IMAGES)))
    return as_deployed(classifier, variant, few.to(classifier.module.mean.device))


def _metrics_of(method: BoundMethod, images: ImageSet, named: Sequence[str]) -> dict[str, Metric]:
    possible = {"map", *PROBES}
    if method.can("complete"):
        possible.add("delta")
    if images.masks:
        possible.add("mask")
    metrics = {name: metric_registry.METRIC_SHELF.find(name) for name in named}
    return {name: metric for name, metric in metrics.items() if metric.against in possible}


def calibrated(metrics: Mapping[str, Metric], plan: Plan) -> list[str]:
    """Return the metrics whose scores are held against those of unrelated maps.

    Those by which a map can be recognised, and others of two maps where the plan names them; but
    not where nobody knows the score of a map compared with itself.
    """
    named = plan.metric or ()
    return [
        name
        for name, metric in metrics.items()
        if metric.recognises
        or (metric.against == "map" and metric.identity is not None and name in named)
    ]


def _refuse_idle_metrics(setup: Setup) -> None:
    reasons = {
        "delta": "no method of this run is complete (integrated_gradients is)",
        "mask": "this data has no masks (hands has; see `steadymap list masks`)",
    }
    for name in setup.plan.metric or ():
        if not any(name in metrics for metrics in setup.methods.values()):
            reason = reasons[metric_registry.METRIC_SHELF.find(name).against]
            raise errors.ConfigError(f"metric: {name} cannot be had here: {reason}")


def _refuse_small_images(setup: Setup) -> None:
    height, width = setup.classifier.input_size
    for name in setup.plan.family:
        side = registry.FAMILY_SHELF.find(name).min_side
        if min(height, width) < side:
            raise errors.ConfigError(
                f"family: {name} takes images of at least {side} x {side} pixels, "
                f"{setup.classifier.name} takes {height} x {width}"
            )


def _refuse_attacks(setup: Setup) -> None:
    """Try each attack on one image: a network may have no second derivative."""
    classifier = setup.classifier
    tried = {cell.family: cell for cell in setup.attacks()}
    for name, cell in tried.items():
        attack = registry.FAMILY_SHELF.find(name).attack
        if attack is None:
            continue
        image = setup.images.read(0).image[None].to(classifier.module.mean.device)
        draw = apply.draw_of(cell, setup.images.pictures[0].image_id, setup.plan.seed)
        try:
            with differentiable_twice(enabled=True):
                target = classifier(image).detach().argmax(dim=1)
                attack(classifier, image, target, cell.severity, draw)
        except Exception as error:  # a network may raise anything; the line says what
            reason = errors.message_of(error)
            raise errors.ConfigError(
                f"family: {name} cannot attack {classifier.name}: {reason}"
            ) from error


NUMERIC_IMAGES = 8


# --- how much that is -----------------------------------------------------------------------------


def views_beside(blocks: Sequence[Sequence[int]], nulls: int, device: torch.device) -> int:
    """Return how many times a run looks at an image to make reference maps with every method."""
    if not nulls:
        return 0
    few = min(len(blocks[0]), NUMERIC_IMAGES)
    ways = 4 if device.type == "cpu" else 5  # in a batch, alone, rounded, in float64, on the CPU
    # By each randomised network, and for another class.
    return sum(map(len, blocks)) * (nulls + 1) + few * ways


def wanted(metrics: Mapping[BoundMethod, Mapping[str, Metric]]) -> set[str]:
    """Return which of `PROBES` a run's metrics need."""
    kinds = {metric.against for by_name in metrics.values() for metric in by_name.values()}
    return {kind for kind in PROBES if kind in kinds}
