"""What a map of a perturbed image still knows of the clean one, by the clean map's knowledge.

Pixels may move and the map still say the same. The margin on the clean image of the perturbed
image's map over the perturbed map of another image, by the clean maps' margin: 1 where nothing that
matters was lost, 0 where the map knows no more than another image's. Noise cannot buy it.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from steadymap.bench.analysis.intervals import Ratio, ratio_of_means
from steadymap.bench.records import grouping, vocabulary
from steadymap.bench.records.scan import Scan
from steadymap.metrics import Status

KEY = [vocabulary.METHOD, vocabulary.FAMILY, vocabulary.SEVERITY]
COLUMNS = [*KEY, "kept", "low", "high", "images", "reason"]
CLEAN_MARGIN = vocabulary.MARGIN + "other_image"
NO_MARGIN = "the clean map's own margin may be 0"


def evidence_kept(
    records: pd.DataFrame | Scan, groups: grouping.Groups = grouping.NONE
) -> pd.DataFrame:
    """Return what maps still know, method by method and family by family, and `overall`.

    A ratio of means over images, with its 95% interval by Fieller's theorem. There is no number
    where the interval of the clean margin reaches 0: nothing is there to take a share of.

    Args:
        records: of a run; those of its margins are enough.
        groups: of images.
    """
    if isinstance(records, Scan):
        records = records.read([vocabulary.EVIDENCE_KEPT, CLEAN_MARGIN])
    texts = records.astype(dict.fromkeys((*KEY[:2], vocabulary.METRIC), str))
    valid = texts[vocabulary.STATUS] == Status.OK.value
    texts = texts.assign(**{vocabulary.VALUE: texts[vocabulary.VALUE].where(valid)})
    kept = texts[texts[vocabulary.METRIC] == vocabulary.EVIDENCE_KEPT]
    clean = texts[texts[vocabulary.METRIC] == CLEAN_MARGIN]
    margins = {
        str(method): rows.set_index(vocabulary.IMAGE_ID)[vocabulary.VALUE]
        for method, rows in clean.groupby(vocabulary.METHOD, sort=False)
    }
    # All families together: an image's mean over those that it has.
    together = kept.groupby([vocabulary.METHOD, vocabulary.IMAGE_ID], sort=False)
    overall = together[vocabulary.VALUE].mean().reset_index()
    overall[vocabulary.FAMILY] = vocabulary.OVERALL
    overall[vocabulary.SEVERITY] = np.nan
    rows = []
    for key, group in pd.concat([kept, overall]).groupby(KEY, sort=False, dropna=False):
        values = group.set_index(vocabulary.IMAGE_ID)[vocabulary.VALUE]
        if not values.notna().any() or key[0] not in margins:
            continue
        both = pd.DataFrame({"upper": values, "lower": margins[key[0]].reindex(values.index)})
        # Of images that have both: else the two numbers of a group would be of different images.
        both = both.dropna()
        upper, lower = (
            grouping.by_group(both[name].to_numpy(float), both.index.astype(str).tolist(), groups)
            for name in both
        )
        ratio = ratio_of_means(upper, lower)
        rows.append((*key, ratio.value, ratio.low, ratio.high, len(both), _reason(ratio)))
    return pd.DataFrame(rows, columns=COLUMNS)


def _reason(ratio: Ratio) -> str:
    return NO_MARGIN if np.isnan(ratio.value) else ""
