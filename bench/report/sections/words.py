"""The words of the page, each explained where it is met."""

from __future__ import annotations

from typing import Any

from steadymap.bench.report.finished_run import FinishedRun

WORDS: dict[str, str] = {
    "calibrated score": "1: the map did not move. 0: it is no closer to the clean map than a map "
    "that has nothing to do with it (of another image, or of a network with random weights).",
    "SSIM, rank correlation": "two ways to compare maps: as pictures, and by the order of their "
    "pixels.",
    "rank": "a place among the methods that are ranked, with the places that cannot be ruled out.",
    "not ranked": "the method's map of an image does not say more about it than its maps of other "
    "images do; how steady it is says little then.",
    "recognised": "how often a perturbed map is closest to its own clean map, among the maps of a "
    "block of images.",
    "faithful": "how much more it hurts the answer to delete what the map marks than what "
    "unrelated maps mark; the best method has 1.",
    "evidence kept": "how much of that is left when the image is perturbed.",
    "coverage": "of how many of the images there is a number at all.",
    "uninformative": "unrelated maps are as close: no score can be given.",
    "other seed": "the score of the same image's maps under two seeds, of methods that draw random "
    "numbers.",
    "in brackets": "a 95% interval.",
}


def context(_run: FinishedRun) -> dict[str, Any]:
    """Return the words with what they mean."""
    return {"words": WORDS}
