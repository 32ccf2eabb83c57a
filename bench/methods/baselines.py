"""Baselines: the images at which paths start, and what stands in for parts of an image."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from steadymap.bench.core import on_demand

if TYPE_CHECKING:
    from torch import Tensor

    from steadymap.bench.methods.batch import Batch

# Half of an image's range: twice as strong as what most pictures differ by from their mean, so that
# little of the picture is left in the baseline.
NOISY_BASELINE = 0.5


@dataclass(frozen=True)
class Baseline:
    """A reference image of path methods.

    Attributes:
        make: from a batch, (B, 3, H, W).
        summary: one line for `steadymap list`.
        source: the paper.
        of_image: it depends on the image given, so that its logits change with a perturbation.
        moves_along: an image moved by a constant has its baseline moved by the same: a path between
            the two does not notice a bias.
        drawn: another seed gives another, and every view of an image has its own.
        of_data: it depends on images of the data set.
    """

    make: Callable[[Batch], Tensor]
    summary: str
    source: str
    of_image: bool = False
    moves_along: bool = False
    drawn: bool = False
    of_data: bool = False


def _ours(name: str) -> on_demand.OnDemand:
    return on_demand.OnDemand(f"steadymap.bench.methods.baseline_images:{name}")


BASELINES: dict[str, Baseline] = {
    "black": Baseline(_ours("black"), "every value 0", "Sundararajan et al. 2017"),
    "white": Baseline(
        _ours("white"), "every value 1", "Sturmfels et al. 2020, for constant colours"
    ),
    "random": Baseline(
        _ours("random"),
        "uniform noise in [0, 1]; the same distribution as uniform",
        "Sundararajan et al. 2017",
        drawn=True,
    ),
    "uniform": Baseline(
        _ours("uniform"),
        "uniform noise in [0, 1]; the same distribution as random, another draw",
        "Sturmfels et al. 2020",
        drawn=True,
    ),
    "gaussian": Baseline(
        _ours("gaussian"),
        f"the image plus normal noise of standard deviation {NOISY_BASELINE}",
        "Sturmfels et al. 2020",
        of_image=True,
        moves_along=True,
        drawn=True,
    ),
    "blur": Baseline(
        _ours("blur"),
        "the image blurred by a Gaussian, 10 pixels wide where its shorter side has 224",
        "Fong and Vedaldi 2017; Sturmfels et al. 2020",
        of_image=True,
        moves_along=True,
    ),
    "mean": Baseline(
        _ours("mean"), "the image's own mean colour", "", of_image=True, moves_along=True
    ),
    "max_distance": Baseline(
        _ours("max_distance"),
        "black or white, value by value: whichever is farther from the image",
        "Sturmfels et al. 2020",
        of_image=True,
    ),
    "average": Baseline(
        _ours("average"),
        "the mean of other images of the data set",
        "Lundberg and Lee 2017",
        of_data=True,
    ),
}
BaselineName = Literal[
    "black",
    "white",
    "random",
    "uniform",
    "gaussian",
    "blur",
    "mean",
    "max_distance",
    "average",
]


@dataclass(frozen=True)
class Start:
    """Where a complete method starts from: its maps add up to the logit minus the mean logit there.

    Attributes:
        baseline: a key of `BASELINES`; None for images of the data set themselves.
        draws: how many draws of the baseline, or images of the data set.
    """

    baseline: BaselineName | None
    draws: int = 1

    @property
    def of_view(self) -> bool:
        """Whether it is another for every view of an image: made of the image given, or drawn."""
        made = None if self.baseline is None else BASELINES[self.baseline]
        return made is not None and (made.of_image or made.drawn)

    def images(self, batch: Batch) -> Iterator[Tensor]:
        """Yield one (B, 3, H, W) after the other.

        Where there are fewer images of the data set than asked for, they take turns.
        """
        for draw in range(self.draws):
            if self.baseline is None:
                places = [others[draw % len(others)] for others in batch.others()]
                yield batch.need_references()[places]
            else:
                yield BASELINES[self.baseline].make(batch.redrawn(draw))
