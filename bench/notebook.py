"""What `run` returns in Python: records that show themselves in a notebook."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd
from torch import Tensor

from steadymap.bench.data.open import ImageSet
from steadymap.bench.measure import runner
from steadymap.bench.plan.plan import Plan
from steadymap.bench.report.page import fragment
from steadymap.models import Classifier


class Records(pd.DataFrame):  # type: ignore[misc, unused-ignore] # pandas may come without types
    """The records of a run; what is cut out of them is an ordinary DataFrame."""

    def _repr_html_(self) -> str:
        """Return the answer and the leaderboard, as notebooks show it."""
        return fragment(pd.DataFrame(self))


def run(
    classifier: Classifier,
    images: ImageSet | Tensor,
    plan: Plan | None = None,
    advance: Callable[[int], None] | None = None,
) -> Records:
    """Measure how steady a classifier's saliency maps are on your images.

    Args:
        classifier: see `steadymap.models.make_classifier`.
        images: an image set, or a tensor (N, 3, H, W), float32 in [0, 1], at the input size.
        plan: methods, families, severities and metrics; left out, all of them.
        advance: called with the number of maps just made, for a progress bar.

    Returns:
        One row a value, with the columns of `steadymap.bench.records.schema.SCHEMA`: a pandas DataFrame,
        which a notebook shows as the answer and the leaderboard.

    Raises:
        ConfigError: a metric that nothing in the plan can give.
        DataError: images of another type, size or range.
    """
    return Records(runner.run(classifier, images, plan, advance))
