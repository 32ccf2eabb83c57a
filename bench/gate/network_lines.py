"""Is what is explained still the same network? Its predictions, against those of a baseline.

A constant answer is steady: a gate that looks at maps alone lets a ruined network pass.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import binomtest

from steadymap.bench.core import names
from steadymap.bench.gate.comparison import ALPHA, FAIL, IMPROVED, PASS, Case, holm
from steadymap.bench.gate.margins import Margins
from steadymap.bench.gate.predictions import PAIRS, PREDICTION, PROBABILITY, by_image
from steadymap.bench.gate.side import Side
from steadymap.bench.records.vocabulary import DIAGNOSIS, FAMILY, IMAGE_ID, KEPT, LABEL

# How far a share may fall: two points.
FALL = 0.02
# Beyond this a fall is more than its last binary digit.
ROUNDING = 1e-9
ACCURACY = "network / accuracy"
AGREEMENT = "network / agreement"
# Verdict of a comparison that would have improved, had its network not fallen.
NOT_COUNTED = "not counted"

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class NetworkLines:
    """What a gate says of the network itself.

    Attributes:
        cases: the lines it is judged by.
        notes: what is said and not judged, in sentences.
    """

    cases: tuple[Case, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def fell(self) -> bool:
        """Whether a line failed."""
        return any(case.result == FAIL for case in self.cases)


@dataclass(frozen=True)
class Line:
    """Counts by image of two networks, of which more is better.

    Attributes:
        name: of the line.
        before: (N,), of the baseline's network.
        after: (N,), of the other.
        most: (N,), how many there could be.
    """

    name: str
    before: Counts
    after: Counts
    most: Counts

    def share(self, counts: Counts) -> float:
        """Return the share of what there could be."""
        return float(counts.sum() / self.most.sum())


def fall_p_value(lost: Counts) -> float:
    """Return the exact one-sided p-value of a fall, from paired counts.

    Were both networks alike, each image's difference would be as likely with the other sign. Of all
    2^N signs this is the share whose sum is at least the one seen. Where each image counts 0 or 1
    it is McNemar's exact test (McNemar 1947, Psychometrika 12:153-157), a binomial test of the
    images that differ. An image's several pairs change sign together, so that they may hang
    together as they will.

    Args:
        lost: (N,), counts before minus counts after.
    """
    sizes = np.abs(lost[lost != 0])
    if not len(sizes):
        return 1.0
    if (sizes == sizes[0]).all():
        falls = int((lost > 0).sum())
        return float(binomtest(falls, len(sizes), 0.5, alternative="greater").pvalue)
    # The distribution of the sum, image by image; place k stands for the sum k - total.
    total = int(sizes.sum())
    chances = np.zeros(2 * total + 1)
    chances[total] = 1.0
    for size in sizes.tolist():
        chances = (np.roll(chances, size) + np.roll(chances, -size)) / 2
    return float(min(chances[total + int(lost.sum()) :].sum(), 1.0))


def lines_of(before: pd.DataFrame, after: pd.DataFrame) -> tuple[list[Line], Line | None]:
    """Return the lines that compare counts, and how often unlabelled images are predicted alike.

    Images that both have are paired. A missing prediction is wrong, and agrees with a missing one.

    Args:
        before: predictions of the baseline, see `predictions_of`.
        after: those of the run.

    Returns:
        Accuracy where labels are known, and the share kept under each family that is no diagnosis,
        over the images with as many pairs in both. And the agreement, whose `before` is 1 for each
        image; None where every image has a label.
    """
    paired = _paired(before, after)
    label, said = paired[LABEL].fillna(-1), paired[PREDICTION].fillna(-1)
    now = paired[f"{PREDICTION}_after"].fillna(-1)
    known = label >= 0
    lines = []
    if known.any():
        right, right_now = (_counts((x == label)[known]) for x in (said, now))
        lines.append(Line(ACCURACY, right, right_now, np.ones_like(right)))
    keys = [IMAGE_ID, FAMILY]
    held = before.merge(after, on=keys, suffixes=("", "_after"))
    held = held[(held[PAIRS] == held[f"{PAIRS}_after"]) & (held[PAIRS] > 0)]
    for family, group in held[~held[FAMILY].isin(DIAGNOSIS)].groupby(FAMILY):
        first, second, most = (_counts(group[name]) for name in (KEPT, f"{KEPT}_after", PAIRS))
        lines.append(Line(kept_name(str(family)), first, second, most))
    if known.all():
        return lines, None
    alike = _counts((said == now)[~known])
    return lines, Line(AGREEMENT, np.ones_like(alike), alike, np.ones_like(alike))


def _paired(before: pd.DataFrame, after: pd.DataFrame) -> pd.DataFrame:
    """Return what is said of each image that both have, indexed by its id."""
    return by_image(before).merge(
        by_image(after), left_index=True, right_index=True, suffixes=("", "_after")
    )


def kept_name(family: str) -> str:
    """Return what the line is called that compares how often predictions held under a family."""
    return f"network / {family} / share kept"


def _counts(values: pd.Series) -> Counts:
    return values.to_numpy(dtype=np.int64)


def network_lines(before: Side, after: Side, margins: Margins) -> NetworkLines:
    """Judge a network by the predictions of another on the same images.

    A line of accuracy, or of the share kept under a family, fails where it fell by more than two
    points and its exact p-value (`fall_p_value`), adjusted after Holm over these lines, is below
    0.05. Agreement on images without a label fails where the upper end of its exact 95% interval
    (Clopper and Pearson 1934) is below the margin. What does not fail passes.

    Args:
        before: the baseline.
        after: the run to judge.
        margins: of which `agreement` is read.
    """
    if before.predictions is None or after.predictions is None:
        return NetworkLines()
    lines, agreement = lines_of(before.predictions, after.predictions)
    adjusted = holm([fall_p_value(line.before - line.after) for line in lines])
    cases = [_fall(line, p, len(lines)) for line, p in zip(lines, adjusted, strict=True)]
    if agreement is not None:
        cases.append(_agreement(agreement, margins.agreement))
    return NetworkLines(tuple(cases), (confidence(before, after),))


def _fall(line: Line, p_value: float, lines: int) -> Case:
    shares = line.share(line.before), line.share(line.after)
    fell = shares[0] - shares[1] - FALL > ROUNDING and p_value < ALPHA
    text = f"{_points(shares[0])} -> {_points(shares[1])} of {len(line.most)} images"
    if fell:
        return Case(
            line.name,
            FAIL,
            f"{text}; fell by more than {_points(FALL)} (exact p = {p_value:.2g}, after Holm)",
        )
    found = smallest_fall(len(line.most), lines)
    if found is None:
        return Case(line.name, PASS, f"{text}; too few images to find any fall")
    return Case(
        line.name, PASS, f"{text}; a fall of {_points(found)} would be found if no image gained"
    )


def smallest_fall(images: int, lines: int) -> float | None:
    """Return the fall that so many images find at the least where none of them gains.

    So many images, all on one side, have a p-value of 2^-n, which must be below 0.05 after the
    hardest of Holm's steps.

    Args:
        images: number of images.
        lines: over which p-values are adjusted.

    Returns:
        As a share; None where no fall of so many images is found.
    """
    needed = math.floor(math.log2(lines / ALPHA)) + 1
    if needed > images:
        return None
    return max(needed, math.floor(FALL * images + ROUNDING) + 1) / images


def agreement_of_twins(before: Side, after: Side, margins: Margins) -> tuple[Case, ...]:
    """Judge whether a network that was changed for deployment gives the classes that it gave.

    Of every image, labelled or not; empty where nothing is known of the predictions.
    """
    if before.predictions is None or after.predictions is None:
        return ()
    paired = _paired(before.predictions, after.predictions)
    alike = _counts(paired[PREDICTION].fillna(-1) == paired[f"{PREDICTION}_after"].fillna(-1))
    if not len(alike):
        return ()
    ones = np.ones_like(alike)
    return (_agreement(Line(AGREEMENT, ones, alike, ones), margins.agreement, "images"),)


def _agreement(line: Line, least: float, which: str = "images without a label") -> Case:
    alike, images = int(line.after.sum()), len(line.after)
    interval = binomtest(alike, images).proportion_ci(confidence_level=1 - ALPHA, method="exact")
    text = (
        f"{alike} of {images} {which} are predicted as before "
        f"[{_points(float(interval.low))}, {_points(float(interval.high))}]"
    )
    if float(interval.high) < least - ROUNDING:
        return Case(AGREEMENT, FAIL, f"{text}; fewer than {_points(least)}")
    return Case(AGREEMENT, PASS, text)


def _points(share: float) -> str:
    return names.percent(share)


def confidence(before: Side, after: Side) -> str:
    """Say how sure either network is of its predictions on clean images; it is not judged."""
    means = [
        "unknown" if np.isnan(mean) else f"{mean:.3f}"
        for mean in (
            math.nan if side.predictions is None else by_image(side.predictions)[PROBABILITY].mean()
            for side in (before, after)
        )
    ]
    return f"Mean confidence in the predicted class: {means[0]} -> {means[1]} (not judged)."


def changed_predictions(before: Side, after: Side) -> tuple[str, ...]:
    """Name each image that is predicted otherwise: picture, class before, class after."""
    if before.predictions is None or after.predictions is None:
        return ()
    paired = _paired(before.predictions, after.predictions)
    first, second = (paired[name].fillna(-1) for name in (PREDICTION, f"{PREDICTION}_after"))
    moved = paired.index[first != second]
    pictures = after.manifest["data"]["pictures"]
    classes = [side.manifest["model"]["class_names"] for side in (before, after)]
    return tuple(
        f"{pictures.get(image, image)}: {_called(first[image], classes[0])} -> "
        f"{_called(second[image], classes[1])}"
        for image in moved
    )


def _called(place: int, classes: list[str]) -> str:
    if place < 0:
        return "no prediction"
    return classes[place] if place < len(classes) else f"class {place}"


def uncounted(rows: pd.DataFrame) -> pd.DataFrame:
    """Return comparisons of a network that fell: what improved is not counted as improved."""
    return rows.assign(verdict=rows["verdict"].replace(IMPROVED, NOT_COUNTED))
