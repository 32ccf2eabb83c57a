"""Gradients along straight paths: sums over given nodes, and a rule that doubles them as needed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from steadymap.models import Classifier

# The first comparison is between 4 and 8 intervals; the last doubling ends at 512.
FIRST_INTERVALS = 4
MOST_DOUBLINGS = 7

# A path is settled when doubling moves the map by no more than this share of its norm, and the sum
# misses the logit difference by no more than this share of it, or than a hundredth of a logit,
# below which there is nothing to explain.
SETTLED = 0.05
SMALL_ERROR = 0.01


@dataclass(frozen=True)
class Line:
    """Straight lines from baselines to images.

    Attributes:
        starts: baselines, (B, 3, H, W).
        ends: images, (B, 3, H, W).
        targets: (B,), the classes whose logits are differentiated.
        at_once: points that go through the network together.
    """

    starts: torch.Tensor
    ends: torch.Tensor
    targets: torch.Tensor
    at_once: int

    def __len__(self) -> int:
        """Return the number of lines."""
        return len(self.starts)

    def select(self, rows: Sequence[int]) -> Line:
        """Return some of the lines."""
        chosen = list(rows)
        return Line(self.starts[chosen], self.ends[chosen], self.targets[chosen], self.at_once)


def path_sum(
    classifier: Classifier, path: Line, nodes: torch.Tensor, shares: torch.Tensor
) -> torch.Tensor:
    """Sum weighted gradients at the nodes of each line.

    All points of all lines are one queue, cut into pieces of `at_once`, so that the network always
    sees pieces of the same size, whatever the number of lines and nodes.

    Args:
        classifier: whose target logits are differentiated.
        path: B lines.
        nodes: n places on them, 0 at the start and 1 at the end.
        shares: their n weights.

    Returns:
        (B, 3, H, W).
    """
    # Channels last throughout: the points are written where the first convolution reads them.
    starts = path.starts.contiguous(memory_format=torch.channels_last)
    way = (path.ends - path.starts).contiguous(memory_format=torch.channels_last)
    places = nodes.view(-1, 1, 1, 1)
    total = torch.zeros_like(way)
    count = len(nodes)
    buffer = torch.empty_like(way[:1].expand(min(path.at_once, len(path) * count), -1, -1, -1))
    buffer = buffer.contiguous(memory_format=torch.channels_last)
    for low in range(0, len(path) * count, path.at_once):
        pieces = list(_pieces(low, min(low + path.at_once, len(path) * count), count))
        points = buffer[: pieces[-1].stop]
        for piece in pieces:
            line = slice(piece.line, piece.line + 1)
            torch.addcmul(
                starts[line],
                places[piece.first : piece.last],
                way[line],
                out=points[piece.start : piece.stop],
            )
        targets = torch.cat(
            [path.targets[piece.line].expand(piece.stop - piece.start) for piece in pieces]
        )
        gradients = _gradients(classifier, points, targets)
        for piece in pieces:
            total[piece.line] += torch.tensordot(
                shares[piece.first : piece.last], gradients[piece.start : piece.stop], dims=1
            )
    return total


@dataclass(frozen=True)
class _Piece:
    """Nodes `first` to `last` of a line, at `start` to `stop` among the points of a pass."""

    line: int
    first: int
    last: int
    start: int
    stop: int


def _pieces(low: int, high: int, count: int) -> Iterator[_Piece]:
    """Cut points low to high of the queue where one line ends and the next begins."""
    place = low
    while place < high:
        line, first = divmod(place, count)
        length = min(count - first, high - place)
        yield _Piece(line, first, first + length, place - low, place - low + length)
        place += length


def _gradients(classifier: Classifier, points: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    leaves = points.detach().requires_grad_()
    picked = classifier(leaves).gather(1, targets[:, None]).sum()
    (gradients,) = torch.autograd.grad(picked, leaves)
    return gradients


def gauss_legendre(steps: int, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return `steps` nodes in (0, 1) and weights that add up to 1, in the type of `like`."""
    places, weights = np.polynomial.legendre.leggauss(steps)
    return torch.from_numpy((1 + places) / 2).to(like), torch.from_numpy(weights / 2).to(like)


@dataclass
class NestedPath:
    """Integrated gradients by the trapezoid rule, doubled line by line until they are settled.

    Doubling keeps all points: at level k a line has 4 * 2^k intervals, one point more than that,
    and has cost no more. The map and its completeness must both have settled: on a ReLU network
    the error of either goes down as 1 / intervals, and the sum can be right where the map is not.

    Attributes:
        classifier: whose target logits are differentiated.
        path: B lines.
        maps: by level, (B, 3, H, W); a line that has not reached the level has NaN there.
        settled: B levels, the first at which each line was settled, or the last there is.
        reached: B levels, how far each line has been evaluated.
    """

    classifier: Classifier
    path: Line
    maps: list[torch.Tensor] = field(init=False)
    settled: list[int] = field(init=False)
    reached: list[int] = field(init=False)
    _deltas: torch.Tensor = field(init=False)
    _ends: torch.Tensor = field(init=False)
    _inner: torch.Tensor = field(init=False)

    def __post_init__(self) -> None:
        """Evaluate the first level, and go on until every line is settled."""
        path = self.path
        self._deltas = self._picked(path.ends) - self._picked(path.starts)
        inside = torch.arange(1, FIRST_INTERVALS, device=path.ends.device) / FIRST_INTERVALS
        self._ends = self._sum(range(len(path)), torch.tensor([0.0, 1.0]), 0.5)
        self._inner = self._sum(range(len(path)), inside, 1.0)
        self.maps = [(path.ends - path.starts) * (self._ends + self._inner) / FIRST_INTERVALS]
        self.settled = [MOST_DOUBLINGS] * len(path)
        self.reached = [0] * len(path)
        open_lines = list(range(len(path)))
        for level in range(1, MOST_DOUBLINGS):
            self.reach(level, open_lines)
            for line in self._settled_at(level, open_lines):
                self.settled[line] = level
                open_lines.remove(line)
        self.reach(MOST_DOUBLINGS, open_lines)

    def at(self, levels: Sequence[int], at_once: int | None = None) -> torch.Tensor:
        """Return the map of each line at a level of its own: (B, 3, H, W).

        Args:
            levels: B of them.
            at_once: points that go through the network together from now on.
        """
        if at_once is not None:
            self.path = replace(self.path, at_once=at_once)
        for level in range(1, max(levels) + 1):
            self.reach(level, [line for line, goal in enumerate(levels) if goal >= level])
        return torch.stack([self.maps[level][line] for line, level in enumerate(levels)])

    def reach(self, level: int, lines: Sequence[int]) -> None:
        """Take lines that are at level - 1 to `level`; those that have been there stay."""
        if level == len(self.maps):
            self.maps.append(torch.full_like(self.maps[0], torch.nan))
        missing = [line for line in lines if self.reached[line] < level]
        if not missing:
            return
        intervals = FIRST_INTERVALS << level
        between = torch.arange(1, intervals, 2, device=self.path.ends.device) / intervals
        self._inner[missing] += self._sum(missing, between, 1.0)
        way = self.path.ends[missing] - self.path.starts[missing]
        sums = self._ends[missing] + self._inner[missing]
        self.maps[level][missing] = way * sums / intervals
        for line in missing:
            self.reached[line] = level

    def _picked(self, images: torch.Tensor) -> torch.Tensor:
        """(B,): the targets' logits."""
        with torch.no_grad():
            logits = torch.cat([self.classifier(few) for few in images.split(self.path.at_once)])
        return logits.gather(1, self.path.targets[:, None])[:, 0]

    def _sum(self, lines: Sequence[int], nodes: torch.Tensor, share: float) -> torch.Tensor:
        places = nodes.to(self.path.ends)
        shares = torch.full_like(places, share)
        return path_sum(self.classifier, self.path.select(lines), places, shares)

    def _settled_at(self, level: int, lines: Sequence[int]) -> list[int]:
        """Return which of the lines are settled at a level that they have reached."""
        if not lines:
            return []
        chosen = list(lines)
        # Summed over channels, as the metrics read them.
        finer, coarser = (self.maps[place][chosen].sum(dim=1) for place in (level, level - 1))
        change = (finer - coarser).flatten(1).norm(dim=1)
        still = change <= SETTLED * finer.flatten(1).norm(dim=1)
        error = (finer.sum(dim=(1, 2)) - self._deltas[chosen]).abs()
        complete = (error <= SETTLED * self._deltas[chosen].abs()) | (error <= SMALL_ERROR)
        return [
            line
            for line, settled in zip(chosen, (still & complete).tolist(), strict=True)
            if settled
        ]


def points_at(level: int) -> int:
    """Return how many points of a line a level has, all levels before it included."""
    return (FIRST_INTERVALS << level) + 1
