"""Words of records: their columns, and names in them that mean something of their own.

Whoever needs the words alone needs neither pandas nor Arrow.
"""

from __future__ import annotations

import re

# Columns. To rename one, change it here.
RUN_ID = "run_id"
MODEL = "model"
DATASET = "dataset"
IMAGE_ID = "image_id"
LABEL = "label"
TARGET = "target"
PRED_CLEAN = "pred_clean"
PRED_PERTURBED = "pred_perturbed"
KEPT = "kept"
METHOD = "method"
FAMILY = "family"
SEVERITY = "severity"
DRAW = "draw"
METRIC = "metric"
VALUE = "value"
STATUS = "status"
DETAIL = "detail"

# The family of a record that is about the clean image alone, and the method of one that is about
# the input rather than a map.
CLEAN = "clean"
INPUT = "input"

# Families of records that hold the map of the clean image against another map of the same method.
# Unrelated maps, which say what a score is worth: other images', randomised networks'.
OTHER_IMAGE = "other_image"
RANDOM_NETWORK = "random_network"
NULLS = (OTHER_IMAGE, RANDOM_NETWORK)
# The same image, explained for another class: the runner-up.
OTHER_CLASS = "other_class"
# The same image, other random numbers. Its draw says of which methods: of all images those that are
# declared stochastic; of a few images every method, to see which are.
OTHER_SEED = "other_seed"
OF_STOCHASTIC = 0
OF_EVERY_METHOD = 1
# The same image computed in another way, for a few images: what is smaller than that is rounding.
BATCH_OF_ONE = "batch_of_one"
ROUNDED = "rounded_image"
FLOAT64 = "float64"
ON_CPU = "on_cpu"
NUMERICS = (BATCH_OF_ONE, ROUNDED, FLOAT64, ON_CPU)
REFERENCES = (*NULLS, OTHER_CLASS, OTHER_SEED, *NUMERICS)
# Of these a clean map must differ, if it says anything of image, network and class. By how much is
# told in signed maps: with two classes the runner-up's map is often the target's with its sign
# turned, and magnitudes are equal.
MUST_DIFFER = (*NULLS, OTHER_CLASS)
REACTS_BY = "spearman"

# Families that tell whose fault a change is; nobody's pictures are changed so, and no headline
# counts them. In the second the image stays, and the network computes f(x + severity).
COMPENSATED = "compensated_bias"
SHIFTED = "shifted_network"
DIAGNOSIS = (COMPENSATED, SHIFTED)

# In summaries: the mean over the families of perturbations, each counting the same.
OVERALL = "overall"

# What is behind a metric's name where the record says whether a map was recognised by it.
RECOGNISED = ".recognised"

# Likewise where it is the place of the image's own clean map among those of its block, the closest
# to the perturbed map first.
RANK = ".rank"

# Likewise where it is the score of a clean map that has nothing to do with the perturbed one: those
# of the other images of the block, and of its predicted class; with `.partner` behind it, of this
# image's clean map against the perturbed maps of the others; and those of randomised networks,
# each with its number.
MATCHED_IMAGE = ".other_image"
MATCHED_CLASS = ".same_class"
PARTNER = ".partner"
MATCHED_NETWORK = ".random_network."

# Likewise where the perturbed map was made with the draws of the clean one.
COUPLED = ".coupled"

# Likewise where it is the value of a map that moved exactly as the image did: warped there and back
# it is no longer quite itself.
PERFECT = ".perfect"

_BEHIND = re.compile(
    r"\.(recognised|rank|perfect|coupled|(other_image|same_class)(\.partner)?|random_network\.\d+)$"
)

# By how much deleting what a map marks hurts the class more than deleting in the order of another
# map: how these names begin, and what the other map is of. In the second the order is by magnitude,
# where a method declares none.
MARGIN = "margin."
MARGIN_OF_MAGNITUDE = "margin_magnitude."
MARGINS = ("other_image", "same_class", "random_network", "other_class")
# The margins of plain gradient, with every method of a run that does not have it: the yardstick.
GRADIENT_MARGIN = "gradient_margin."
# The area under the target's logit while pixels are deleted in a map's own order.
DELETION_LOGIT = "deletion_logit"
# The first margin again, where both maps are of perturbed images and the deletion of the clean one.
EVIDENCE_KEPT = "evidence_kept"

# How the names of all of these begin: metrics of records that stand for no way to compare two maps.
MARGIN_NAMES = (MARGIN, MARGIN_OF_MAGNITUDE, GRADIENT_MARGIN, DELETION_LOGIT, EVIDENCE_KEPT)

# Methods that are there to be beaten: they ignore the network or the image.
CONTROLS = ("constant", "random", "edge", "centre_blob")

# What the network says of the clean image; recorded with every cell, so that whatever piece of a
# run is there knows it.
CLEAN_PROBABILITY = "clean_probability"

# About the image itself, once a cell.
INPUT_METRICS: dict[str, str] = {
    "input_change": "root mean square of perturbed minus clean image, in image units",
    "saturated_share": "share of the perturbed image's values at or beyond black or white",
    CLEAN_PROBABILITY: "softmax probability of the class explained, on the clean image",
}

# What values of these can be, as `Metric.range` says of metrics of maps.
INPUT_RANGES: dict[str, tuple[float | None, float | None]] = {
    "input_change": (0.0, None),
    "saturated_share": (0.0, 1.0),
    CLEAN_PROBABILITY: (0.0, 1.0),
}

# Of a method with steps=auto: points of the path at which a map took gradients.
STEPS = "steps"

# Names of parts of the work, beside the methods' specs.
SHARED = "shared pass"


def base_metric(name: str) -> str:
    """Return the metric that a record is about, without what is behind its name."""
    return name if name.startswith(MARGIN_NAMES) else _BEHIND.sub("", name)


def is_control(spec: str) -> bool:
    """Return whether the spec of a method names a control.

    Nothing is loaded to see: specs come from the files of a run.
    """
    return spec.partition(":")[0] in CONTROLS
