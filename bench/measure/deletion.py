"""Does a map know more about its image than maps that have nothing to do with it?

The image is cut into square cells, and these take on the image's mean colour, those that the map
marks most first. The sooner the target's logit falls, the more the map knows. A curve alone says
little (hands are in the middle, so a blob in the middle does well), hence margins: the area under
the logit in the order of another map of the same method, of another image or a network that knows
nothing, less the area in the order of the image's own map. What is the same for both, where things
lie and how images are cropped, cancels. Deletion: Petsiuk, Das and Saenko 2018, section 4.1.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch

from steadymap.bench.core import randomness
from steadymap.bench.measure.explain import explain
from steadymap.bench.measure.nulls import predictions, reshown
from steadymap.bench.measure.view import Explained, Failure, View, logits_of, look
from steadymap.bench.measure.worker import Worker
from steadymap.bench.methods.binding import bind_method
from steadymap.bench.methods.method import BoundMethod
from steadymap.bench.perturbations.cell import Cell
from steadymap.bench.plan import admitting, blocks
from steadymap.bench.plan.plan import Plan
from steadymap.bench.records import vocabulary
from steadymap.metrics import Scores, Status, TensorMaps
from steadymap.metrics.cells import NO_ORDER, Grid, Order, Ranks
from steadymap.metrics.maps import Array, Flags

# The name of this part of the work.
DELETION_PART = "deletion"

NO_OTHER = "no other image of the block can be explained"
NO_OTHER_OF_CLASS = "no other image of the block is predicted as the same class"


def deleted(step: int, cells: int) -> int:
    """Return how many cells are gone after a step of `STEPS`."""
    return round(step * cells / admitting.STEPS)


# Places of B images.
Places = tuple[int, ...]


@dataclass(frozen=True)
class Others:
    """The images that each of a batch is held against: the next of its block, and of its class.

    Attributes:
        any_image: `PARTNERS` times B places; fewer others are repeated, and the image's own place
            stands where there is none.
        same_class: likewise, of those with the same predicted class.
    """

    any_image: tuple[Places, ...]
    same_class: tuple[Places, ...]

    @classmethod
    def of(cls, ids: Sequence[str], predictions: Sequence[int | None], size: int) -> Others:
        """Find them: those that follow in the order of ids, so that the set's order says nothing.

        Args:
            ids: B ids.
            predictions: B classes; None of an image that cannot be explained: it is nobody's other.
            size: how many images that follow each other make a block.
        """
        any_image, same_class = [], []
        for block in blocks.cut(len(predictions), size):
            ordered = sorted(block, key=ids.__getitem__)
            for place in block:
                own = ordered.index(place)
                after = [*ordered[own + 1 :], *ordered[:own]]
                others = [other for other in after if predictions[other] is not None]
                alike = [other for other in others if predictions[other] == predictions[place]]
                any_image.append(_first(others or [place]))
                same_class.append(_first(alike or [place]))
        return cls(tuple(zip(*any_image, strict=True)), tuple(zip(*same_class, strict=True)))

    def without(self, lost: Collection[int]) -> tuple[Places, ...]:
        """Return the places of any other image, less those that are lost in a view."""
        rows = []
        for place, others in enumerate(zip(*self.any_image, strict=True)):
            rows.append(_first([other for other in others if other not in lost] or [place]))
        return tuple(zip(*rows, strict=True))


def _first(others: Sequence[int]) -> list[int]:
    """Return the first `PARTNERS` of some places, over again where they are fewer."""
    return [others[draw % len(others)] for draw in range(admitting.PARTNERS)]


@dataclass(frozen=True)
class Held:
    """The maps of one method that margins are made of.

    Attributes:
        own: of the clean images.
        networks: of the same from each randomised network.
        other_class: of the same for the runner-up class; None where there is none.
    """

    own: Explained | Failure
    networks: Sequence[Explained | Failure]
    other_class: Explained | Failure | None


@dataclass(frozen=True)
class Deletion:
    """Clean images whose cells are deleted.

    Attributes:
        worker: who does it.
        view: the clean one.
        others: of each image.
        grid: the cells.
    """

    worker: Worker
    view: View
    others: Others
    grid: Grid

    @cached_property
    def ties(self) -> Ranks:
        """(B, cells), in which order cells go of which a map says the same."""
        view, cells = self.view, self.grid.count
        return np.stack(
            [
                randomness.generator(view.seed, image_id, "ties").permutation(cells)
                for image_id in view.image_ids
            ]
        )

    @cached_property
    def ends(self) -> tuple[Array, Array]:
        """(B,) twice, the targets' logits with nothing and with everything deleted."""
        plain = self._plain.expand_as(self.view.batch.images)
        whole = self._picked(self.view.logits, range(len(plain)))
        return whole, self._picked(self._logits(plain), range(len(plain)))

    @cached_property
    def _plain(self) -> torch.Tensor:
        """(B, 3, 1, 1), the mean colour of each image."""
        return self.view.batch.images.mean(dim=(2, 3), keepdim=True)

    def margins(self, held: Held, order: Order | None) -> dict[str, Scores]:
        """Return the margins of a method's maps over others, and the area of their own curve.

        Args:
            held: the maps.
            order: the one declared; None tries both.
        """
        orders: tuple[Order, ...] = ("signed", "magnitude") if order is None else (order,)
        begins = (vocabulary.MARGIN, vocabulary.MARGIN_OF_MAGNITUDE)
        scores: dict[str, Scores] = {}
        for beginning, chosen in zip(begins, orders, strict=False):
            found = self._margins(held, chosen)
            if vocabulary.DELETION_LOGIT in scores:
                found.pop(vocabulary.DELETION_LOGIT)
            scores |= {
                name if name == vocabulary.DELETION_LOGIT else beginning + name: value
                for name, value in found.items()
            }
        return scores

    def _margins(self, held: Held, order: Order) -> dict[str, Scores]:
        names = ["other_image", "same_class"]
        names += ["random_network"] if held.networks else []
        names += [] if held.other_class is None else ["other_class"]
        if isinstance(held.own, Failure):
            return dict.fromkeys((*names, vocabulary.DELETION_LOGIT), held.own.scores())
        maps = _host(held.own)
        orders = {"own": self.grid.ranks(maps, order, self.ties)}
        orders |= {
            f"{kind}.{draw}": self.grid.ranks(maps[list(places_of)], order, self.ties)
            for kind, draws in self._partners.items()
            for draw, places_of in enumerate(draws)
        }
        further = {f"random_network.{k}": x for k, x in enumerate(held.networks)}
        if held.other_class is not None:
            further["other_class"] = held.other_class
        for name, explanation in further.items():
            if isinstance(explanation, Explained):
                orders[name] = self.grid.ranks(_host(explanation), order, self.ties)
        areas = dict(zip(orders, self.areas(list(orders.values())), strict=True))
        own = areas.pop("own")
        scores = {}
        for kind, reason in (("other_image", NO_OTHER), ("same_class", NO_OTHER_OF_CLASS)):
            draws = self._partners[kind]
            area = np.mean([areas[f"{kind}.{draw}"] for draw in range(len(draws))], axis=0)
            scores[kind] = _paired(area - own, draws[0], reason)
        twins = [name for name in further if name.startswith("random_network.")]
        for name, parts in (("random_network", twins), ("other_class", ["other_class"])):
            if name not in names:
                continue
            lost = [further[part] for part in parts if part not in areas]
            if lost and isinstance(lost[0], Failure):
                scores[name] = lost[0].scores()
            else:
                scores[name] = _numbers(np.mean([areas[part] for part in parts], axis=0) - own)
        return scores | {vocabulary.DELETION_LOGIT: _numbers(own)}

    def evidence_kept(self, view: View, maps: Explained | Failure, order: Order) -> Scores:
        """Return the margin on the clean images of perturbed images' maps over each other's.

        A map that vanished knows nothing: its cells go in the order of ties.

        Args:
            view: the perturbed one.
            maps: of its images.
            order: the one that the method declares.
        """
        if isinstance(maps, Failure):
            return maps.scores()
        signed = _host(maps)
        draws = self.others.without({*view.failed, *view.refused})
        orders = [signed, *(signed[list(places_of)] for places_of in draws)]
        own, *others = self.areas([self.grid.ranks(x, order, self.ties) for x in orders])
        return _paired(np.mean(others, axis=0) - own, draws[0], NO_OTHER)

    @property
    def _partners(self) -> dict[str, tuple[Places, ...]]:
        return {"other_image": self.others.any_image, "same_class": self.others.same_class}

    def areas(self, orders: Sequence[Ranks]) -> list[Array]:
        """Return, for each order (B, cells), the areas (B,) under the targets' logits.

        By the trapezoid rule over `STEPS` equal steps, the whole being 1 wide. Equal orders of an
        image are deleted once. NaN without an order, or where a logit is not finite.
        """
        first, last = self.ends
        known: dict[tuple[int, bytes], int] = {}
        kept: list[tuple[int, Ranks]] = []
        where = np.full((len(orders), len(first)), NO_ORDER)
        for row, ranks in enumerate(orders):
            for place, ranking in enumerate(ranks):
                if ranking[0] == NO_ORDER or place in self.view.refused:
                    continue
                key = (place, ranking.tobytes())
                if key not in known:
                    known[key] = len(kept)
                    kept.append((place, ranking))
                where[row, place] = known[key]
        between = self._between(kept).sum(axis=1)
        inner = np.append(between, np.nan)[where]
        return list((inner + (first + last) / 2) / admitting.STEPS)

    def _between(self, kept: Sequence[tuple[int, Ranks]]) -> Array:
        """(n, STEPS - 1), the targets' logits of n images, each with its order, at inner steps."""
        curves = np.empty((len(kept), admitting.STEPS - 1))
        points = [(row, step) for row in range(len(kept)) for step in range(1, admitting.STEPS)]
        for low in range(0, len(points), self.worker.at_once):
            few = points[low : low + self.worker.at_once]
            rows = [kept[row][0] for row, _ in few]
            gone: Flags = np.stack(
                [kept[row][1] < deleted(step, self.grid.count) for row, step in few]
            )
            gone = np.take(gone, self.grid.cells, axis=1)
            images = torch.where(
                torch.from_numpy(gone).to(self._plain.device)[:, None],
                self._plain[rows],
                self.view.batch.images[rows],
            )
            logits = self._picked(self._logits(images), rows)
            for (row, step), logit in zip(few, logits, strict=True):
                curves[row, step - 1] = logit
        return curves

    def _logits(self, images: torch.Tensor) -> torch.Tensor:
        """(n, K), NaN where the network raises on an image (n, 3, H, W)."""
        return logits_of(self.worker, self.view.classifier, images)

    def _picked(self, logits: torch.Tensor, rows: Sequence[int]) -> Array:
        """(n,), of logits (n, K) those of the targets of images in these rows."""
        targets = self.view.batch.targets[list(rows)]
        picked: Array = logits.gather(1, targets[:, None])[:, 0].detach().double().cpu().numpy()
        return np.where(np.isfinite(picked), picked, np.nan)


# --- what a run asks ------------------------------------------------------------------------------

# By view (other networks', another class's), and by method: the maps of the clean images.
MapsOf = Mapping[Cell, Mapping[BoundMethod, Explained | Failure]]


def deletion_of(plan: Plan, worker: Worker, view: View) -> Deletion:
    """Return what deletes cells of clean images.

    Args:
        plan: of the run.
        worker: who does it.
        view: the clean one.
    """
    height, width = view.images.shape[2:]
    others = Others.of(view.image_ids, predictions(view), blocks.BLOCK)
    return Deletion(worker, view, others, Grid.of((height, width), plan.cell_share))


def clean_scores(
    deletion: Deletion, plan: Plan, clean: Mapping[BoundMethod, Explained | Failure], held: MapsOf
) -> dict[str, dict[str, Scores]]:
    """Return, by method, the margins of clean maps, and plain gradient's where it does not run.

    Args:
        deletion: of the batch.
        plan: of the run.
        clean: the maps.
        held: those of randomised networks and for another class.
    """
    worker, view = deletion.worker, deletion.view
    with worker.clock(view.cell, DELETION_PART, len(view.images)):
        scores = {
            method.spec: deletion.margins(_held(method, maps, held), method.method.order)
            for method, maps in clean.items()
        }
        if all(method.spec != admitting.YARDSTICK for method in plan.bound_methods()):
            measured = _yardstick(deletion)
            scores = {spec: by_metric | measured for spec, by_metric in scores.items()}
    return scores


def _held(method: BoundMethod, own: Explained | Failure, held: MapsOf) -> Held:
    networks = [
        maps[method] for cell, maps in held.items() if cell.family == vocabulary.RANDOM_NETWORK
    ]
    other = [maps[method] for cell, maps in held.items() if cell.family == vocabulary.OTHER_CLASS]
    return Held(own, networks, next(iter(other), None))


def _yardstick(deletion: Deletion) -> dict[str, Scores]:
    """Return the margins of plain gradient; none where the network has no gradient."""
    method = bind_method(admitting.YARDSTICK)
    view, worker = deletion.view, deletion.worker
    if method.unfit(view.classifier):
        return {}

    def maps(by: Worker) -> Explained | Failure:
        alone = replace(by, methods=(method,), engine="own")
        return explain(alone, method, look(alone, reshown(view, view.cell), view.batch.targets))

    held = Held(maps(worker), [maps(twin) for twin in worker.twins], None)
    return {
        name.replace(vocabulary.MARGIN, vocabulary.GRADIENT_MARGIN): scores
        for name, scores in deletion.margins(held, method.method.order).items()
        if name != vocabulary.DELETION_LOGIT
    }


def kept_scores(
    deletion: Deletion, method: BoundMethod, view: View, maps: Explained | Failure
) -> dict[str, Scores]:
    """Return what the maps of perturbed images still know of the clean ones.

    Args:
        deletion: of the batch.
        method: whose maps; of a control nothing, which knows nothing.
        view: the perturbed one.
        maps: of its images.
    """
    if method.control:
        return {}
    with deletion.worker.clock(view.cell, DELETION_PART, len(view.images)):
        order = method.method.order or "signed"
        return {vocabulary.EVIDENCE_KEPT: deletion.evidence_kept(view, maps, order)}


def _numbers(values: Array) -> Scores:
    """Return values (B,) as scores; of some that are not finite why."""
    finite = np.isfinite(values)
    return Scores(
        np.where(finite, values, np.nan),
        tuple(Status.OK if x else Status.NONFINITE for x in finite),
        tuple("" if x else "a map or a logit is not finite" for x in finite),
    )


def _paired(values: Array, others: Sequence[int], reason: str) -> Scores:
    """Return values (B,) as scores; skipped where an image's other is the image itself."""
    alone = [place == other for place, other in enumerate(others)]
    scores = _numbers(values)
    return Scores(
        np.where(alone, np.nan, scores.values),
        tuple(Status.SKIPPED if x else s for x, s in zip(alone, scores.statuses, strict=True)),
        tuple(reason if x else d for x, d in zip(alone, scores.details, strict=True)),
    )


def _host(explained: Explained) -> Array:
    maps = explained.maps
    return (maps.on_host if isinstance(maps, TensorMaps) else maps).signed
