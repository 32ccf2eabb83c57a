"""Every metric, with all that is known of it: how to compute it, to read it, to judge it by."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal

import numpy as np

from steadymap.metrics import faithfulness, neighbours, similarity, single
from steadymap.metrics.evidence import Evidence
from steadymap.metrics.faithfulness import Curve, Responses
from steadymap.metrics.maps import Array, Flags, Maps
from steadymap.metrics.neighbours import NEIGHBOURS, RADIUS, Neighbours

# What metrics of the clean image alone are against: it takes the network to make.
PROBES: dict[str, type[Evidence]] = {
    "neighbours": Neighbours,
    "noise": Responses,
    "deletion": Curve,
    "insertion": Curve,
}


Range = tuple[float | None, float | None]

# Of correlations and likenesses; of shares; of distances and errors.
SIGNED_UNIT: Range = (-1.0, 1.0)
UNIT: Range = (0.0, 1.0)
NOT_NEGATIVE: Range = (0.0, None)
# How far a value may be beyond its range: sums are rounded, and a plug-in's may be in float32.
ROUNDING = 1e-6


def within(values: Array | float, ends: Range) -> Flags:
    """Whether values are numbers within a range, but for rounding."""
    lowest, highest = ends
    least = -np.inf if lowest is None else lowest - ROUNDING
    most = np.inf if highest is None else highest + ROUNDING
    return np.isfinite(values) & (values >= least) & (values <= most)


class Status(StrEnum):
    """What became of one value; only `OK` enters a mean."""

    OK = "ok"
    DEGENERATE = "degenerate"
    NONFINITE = "nonfinite"
    SMALL_DELTA = "small_delta"
    SKIPPED = "skipped"
    ERROR = "error"


@dataclass(frozen=True)
class OnTensors:
    """A function of `steadymap.metrics.tensors`, which is loaded, with torch, at the first call.

    Attributes:
        name: of the function.
    """

    name: str

    def __call__(self, maps: Any, against: Any) -> Any:  # noqa: ANN401 - torch's types are not loaded
        """Return what the function returns of `TensorMaps` and what they are held against."""
        module = importlib.import_module("steadymap.metrics.tensors")
        return getattr(module, self.name)(maps, against)


@dataclass(frozen=True)
class Metric:
    """A pure function of batched maps, with what it reads and how to read it.

    Attributes:
        compute: takes the maps and `against`, returns (B,).
        reads: what it must find varying: signed maps, or magnitudes in [0, 1].
        against: the map of the perturbed image; or, for a metric of one map, the logit difference
            that it should add up to (`delta`), the object's mask, or one of `PROBES`: of the clean
            image alone.
        better: whether a steadier, truer map scores higher or lower.
        identity: the value of a map compared with itself; None for a metric of one map.
        symmetric: whether swapping the two maps leaves the value.
        summary: one line for `steadymap list`.
        source: paper, equation or library.
        min_side: the smallest height and width of a map that it is defined on, in pixels.
        min_delta: the smallest |delta| that it is defined on, in logits.
        slow: whether it takes milliseconds a pair. Nulls and recognition take as many comparisons a
            map as a block has images: nulls leave it out unless a plan names it, recognition does.
        pairwise: whether `compute` and `on_tensors` take maps with one axis more, (C, 1, h, w)
            beside (1, B, h, w), and return (C, B): all pairs at once.
        costly: whether it takes more of the network than the maps do; a plan has it by name alone.
        undefined: from one of `PROBES`, why the metric is undefined on each image, "" where it is
            not; such values are skipped.
        range: the least and the largest value that it can have; None where there is no such end.
            What is beyond is a fault of whatever made it.
        on_tensors: the same on `TensorMaps`, and deltas or masks as tensors; None sends the maps to
            the CPU.
        label: what sentences and figures call it; its name where that is "". From here on of our
            metrics alone: a plug-in's is called by its name, and has no margin until a gate is
            given one.
        headline: whether tables and sentences have it wherever a run has it, and baselines keep it.
        margin: how much worse is still as good for a gate, in the metric's own unit.
        relative_margin: the same as a share of the baseline's mean, in the place of `margin`; with
            neither, the metric is informative only.
        recognition_margin: the same of the share of maps that are recognised by it.
    """

    compute: Callable[[Maps, Any], Array]
    reads: Literal["signed", "magnitude"]
    against: Literal["map", "delta", "mask", "neighbours", "noise", "deletion", "insertion"]
    better: Literal["higher", "lower"]
    identity: float | None
    symmetric: bool
    summary: str
    source: str
    min_side: int = 1
    min_delta: float = 0.0
    slow: bool = False
    pairwise: bool = False
    costly: bool = False
    undefined: Callable[[Any], list[str]] | None = None
    range: Range = (None, None)
    on_tensors: Callable[[Any, Any], Any] | None = None
    label: str = ""
    headline: bool = False
    margin: float | None = None
    relative_margin: float | None = None
    # One image in ten.
    recognition_margin: float = 0.1

    @property
    def probes(self) -> bool:
        """Whether it is of the clean image alone, and against what the network says around it."""
        return self.against in PROBES

    @property
    def recognises(self) -> bool:
        """Whether a map can be recognised by it.

        It compares two maps, quickly, and in the same unit whatever the maps: a distance over the
        norm of one of them, which is not symmetric, would favour the largest.
        """
        return self.against == "map" and self.symmetric and not self.slow


_AROUND = f"of {NEIGHBOURS} images within {RADIUS:g}"

# How much worse is still as good? Margins are absolute where the scale is the same for every
# network: a twentieth of the way from no likeness to identity is hardly seen, and of an area under
# a probability it is one step, wholly lost. They are shares of the baseline's own mean where the
# scale is the network's, or has no upper end.
METRICS: dict[str, Metric] = {
    "ssim": Metric(
        similarity.ssim,
        "magnitude",
        "map",
        "higher",
        1.0,
        symmetric=True,
        range=SIGNED_UNIT,
        summary="structural similarity of magnitudes (sigma 1.5, data range 1)",
        source="Wang et al. 2004",
        min_side=similarity.SSIM_WINDOW,
        pairwise=True,
        on_tensors=OnTensors("ssim"),
        label="SSIM",
        headline=True,
        margin=0.05,
    ),
    "spearman": Metric(
        similarity.spearman,
        "signed",
        "map",
        "higher",
        1.0,
        symmetric=True,
        range=SIGNED_UNIT,
        summary="rank correlation of signed maps",
        source="Spearman 1904",
        pairwise=True,
        on_tensors=OnTensors("spearman"),
        label="rank correlation",
        headline=True,
        margin=0.05,
    ),
    "spearman_magnitude": Metric(
        similarity.spearman_magnitude,
        "magnitude",
        "map",
        "higher",
        1.0,
        symmetric=True,
        range=SIGNED_UNIT,
        summary="rank correlation of magnitudes",
        source="Spearman 1904",
        pairwise=True,
        on_tensors=OnTensors("spearman_magnitude"),
        margin=0.05,
    ),
    "kendall": Metric(
        similarity.kendall,
        "signed",
        "map",
        "higher",
        1.0,
        symmetric=True,
        range=SIGNED_UNIT,
        summary="tau-b of signed maps",
        source="Kendall 1945",
        slow=True,
        on_tensors=OnTensors("kendall"),
        margin=0.05,
    ),
    "top_k_intersection": Metric(
        similarity.top_k_intersection,
        "magnitude",
        "map",
        "higher",
        1.0,
        symmetric=True,
        range=UNIT,
        summary="share of the strongest 5% of pixels in common",
        source="Ghorbani et al. 2019",
        pairwise=True,
        on_tensors=OnTensors("top_k_intersection"),
        margin=0.05,
    ),
    "relative_l2": Metric(
        similarity.relative_l2,
        "signed",
        "map",
        "lower",
        0.0,
        symmetric=False,
        range=NOT_NEGATIVE,
        summary="distance of signed maps over the norm of the clean one",
        source="Euclid",
        pairwise=True,
        on_tensors=OnTensors("relative_l2"),
        relative_margin=0.2,
    ),
    "cosine": Metric(
        similarity.cosine,
        "signed",
        "map",
        "higher",
        1.0,
        symmetric=True,
        range=SIGNED_UNIT,
        summary="cosine of the angle between signed maps",
        source="Euclid",
        pairwise=True,
        on_tensors=OnTensors("cosine"),
        margin=0.05,
    ),
    "pearson": Metric(
        similarity.pearson,
        "signed",
        "map",
        "higher",
        1.0,
        symmetric=True,
        range=SIGNED_UNIT,
        summary="Pearson's correlation of signed maps",
        source="Pearson 1895",
        pairwise=True,
        on_tensors=OnTensors("pearson"),
        margin=0.05,
    ),
    "centre_shift": Metric(
        similarity.centre_shift,
        "magnitude",
        "map",
        "lower",
        0.0,
        symmetric=True,
        range=UNIT,
        summary="distance of the centres of mass of magnitudes over the diagonal",
        source="Ghorbani et al. 2019",
        pairwise=True,
        on_tensors=OnTensors("centre_shift"),
        # Of the diagonal: on the embedded hands unrelated maps have their centres 0.03 to 0.1
        # apart.
        margin=0.01,
    ),
    "completeness_error": Metric(
        single.completeness_error,
        "signed",
        "delta",
        "lower",
        None,
        symmetric=False,
        range=NOT_NEGATIVE,
        summary="|sum of attributions - (logit at image - logit at baseline)|, in logits",
        source="Sundararajan et al. 2017, proposition 1",
        on_tensors=OnTensors("completeness_error"),
        headline=True,
        relative_margin=0.25,
    ),
    "completeness_error_relative": Metric(
        single.completeness_error_relative,
        "signed",
        "delta",
        "lower",
        None,
        symmetric=False,
        range=NOT_NEGATIVE,
        summary="completeness error over |logit at image - logit at baseline|",
        source="Sundararajan et al. 2017, proposition 1",
        min_delta=single.SMALL_DELTA,
        on_tensors=OnTensors("completeness_error_relative"),
        relative_margin=0.25,
    ),
    "mask_mass": Metric(
        single.mask_mass,
        "magnitude",
        "mask",
        "higher",
        None,
        symmetric=False,
        range=UNIT,
        summary="share of the magnitude inside the object's mask",
        source="Arras, Osman and Samek 2022 (relevance mass accuracy)",
        on_tensors=OnTensors("mask_mass"),
        margin=0.05,
    ),
    "max_sensitivity": Metric(
        neighbours.max_sensitivity,
        "signed",
        "neighbours",
        "lower",
        None,
        symmetric=False,
        range=NOT_NEGATIVE,
        summary=f"largest change of the summed map over its norm, {_AROUND}",
        source="Yeh et al. 2019, definition 2; over the norm as in captum",
        costly=True,
        # A largest of few neighbours wanders more than a mean.
        relative_margin=0.25,
    ),
    "local_lipschitz": Metric(
        neighbours.local_lipschitz,
        "signed",
        "neighbours",
        "lower",
        None,
        symmetric=False,
        range=NOT_NEGATIVE,
        summary=f"largest change of the map over that of the image, a lower bound, {_AROUND}",
        source="Alvarez-Melis and Jaakkola 2018",
        costly=True,
        relative_margin=0.25,
    ),
    # The next three have no margin: a pixel that was all but 0 decides a relative change, and from
    # one image to the next such values differ by powers of ten. A mean of them gates nothing.
    "relative_input_stability": Metric(
        neighbours.relative_input_stability,
        "signed",
        "neighbours",
        "lower",
        None,
        symmetric=False,
        range=NOT_NEGATIVE,
        summary=f"largest relative change of the map over that of the image, {_AROUND}",
        source="Agarwal et al. 2022",
        costly=True,
        undefined=neighbours.without_prediction,
    ),
    "relative_output_stability": Metric(
        neighbours.relative_output_stability,
        "signed",
        "neighbours",
        "lower",
        None,
        symmetric=False,
        range=NOT_NEGATIVE,
        summary=f"largest relative change of the map over that of the logits, {_AROUND}",
        source="Agarwal et al. 2022",
        costly=True,
        undefined=neighbours.without_prediction,
    ),
    "relative_representation_stability": Metric(
        neighbours.relative_representation_stability,
        "signed",
        "neighbours",
        "lower",
        None,
        symmetric=False,
        range=NOT_NEGATIVE,
        summary=f"largest relative change of the map over that of Grad-CAM's layer, {_AROUND}",
        source="Agarwal et al. 2022",
        costly=True,
        undefined=neighbours.without_layer,
    ),
    "infidelity": Metric(
        faithfulness.infidelity,
        "signed",
        "noise",
        "lower",
        None,
        symmetric=False,
        range=NOT_NEGATIVE,
        summary=(
            "mean squared gap between noise times map, scaled best, and the logit's change "
            f"({faithfulness.NOISE_DRAWS} draws, grey, of standard deviation "
            f"{faithfulness.NOISE_SPREAD:g})"
        ),
        source="Yeh et al. 2019, definition 1; captum",
        costly=True,
        # It is in logits squared.
        relative_margin=0.25,
    ),
    "deletion": Metric(
        faithfulness.area,
        "signed",
        "deletion",
        "lower",
        None,
        symmetric=False,
        range=UNIT,
        summary=(
            "area under the class's probability while pixels turn to the image's mean colour, the "
            f"highest signed value first ({faithfulness.STEPS} steps)"
        ),
        source="Petsiuk et al. 2018",
        costly=True,
        margin=0.05,
    ),
    "insertion": Metric(
        faithfulness.area,
        "signed",
        "insertion",
        "higher",
        None,
        symmetric=False,
        range=UNIT,
        summary=(
            "area under the class's probability while pixels return to the image, blurred by "
            f"{faithfulness.BLUR_SHARE:g} of a side, the highest signed value first "
            f"({faithfulness.STEPS} steps)"
        ),
        source="Petsiuk et al. 2018",
        costly=True,
        margin=0.05,
    ),
}
