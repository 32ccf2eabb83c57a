"""Everything that is derived from the records of a run, and the files that hold it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from steadymap.bench.analysis import agreement, cells
from steadymap.bench.analysis.admission import Facts, admissions
from steadymap.bench.analysis.calibration import calibrate, order
from steadymap.bench.analysis.dice import seed_share
from steadymap.bench.analysis.evidence import evidence_kept
from steadymap.bench.analysis.instability import Instability
from steadymap.bench.analysis.ranks import Field, rank_methods, ranked_methods
from steadymap.bench.analysis.summary import full_summary
from steadymap.bench.analysis.whose_fault import whose_fault
from steadymap.bench.core import files, metric_registry, safe_csv
from steadymap.bench.records.grouping import Groups, places_of
from steadymap.bench.records.scan import Scan, as_scan
from steadymap.bench.records.vocabulary import (
    CLEAN,
    FAMILY,
    IMAGE_ID,
    INPUT,
    MARGIN_NAMES,
    METHOD,
    METRIC,
    REFERENCES,
    SEVERITY,
    STEPS,
    base_metric,
    is_control,
)
from steadymap.metrics import METRICS, Metric

SUMMARISED = ["subset", METHOD, FAMILY, METRIC]


@dataclass(frozen=True)
class Findings:
    """All that is derived from the records of a run.

    Attributes:
        scan: the records of the run.
        summary: see `full_summary`.
        calibrated: see `calibrate`; empty where the run has no null maps.
        ranks: see `rank_methods`; empty likewise.
        pairs: see `differences`: each pair of methods that are ranked; empty likewise.
        agreement: see `agreement_row`: among metrics, families and images; empty likewise.
        admission: see `admissions`: who is ranked, and why not; empty where the run measured no
            margins.
        evidence: see `evidence_kept`; empty likewise.
        dice: see `seed_share`; empty without a method that draws.
        faults: see `whose_fault`; empty without both families.
        known: the metrics whose values can be read.
        groups: of the images; intervals are over these where there are some.
    """

    scan: Scan
    summary: pd.DataFrame
    calibrated: pd.DataFrame
    ranks: pd.DataFrame
    pairs: pd.DataFrame
    agreement: pd.DataFrame
    admission: pd.DataFrame
    evidence: pd.DataFrame
    dice: pd.DataFrame
    faults: pd.DataFrame
    known: Mapping[str, Metric]
    groups: Groups

    @classmethod
    def of(
        cls,
        records: pd.DataFrame | Scan,
        metrics: Mapping[str, Metric] | None = None,
        facts: Facts | None = None,
    ) -> Findings:
        """Derive everything, metric by metric, in the order of the records.

        Args:
            records: of a run, or what scans them.
            metrics: those whose values can be read (see `known_metrics`); left out, ours and those
                that are loaded.
            facts: what the records do not say of methods and images; left out, nothing.
        """
        known = metric_registry.known_metrics() if metrics is None else metrics
        scan, groups = as_scan(records), (facts or Facts()).groups
        # What is derived of one image that has a value of everything has all rows, in their order.
        everything = scan.as_one_image()
        compared = Instability.of(everything, known)
        has_nulls = any(map(cells.is_unrelated, map(str, scan.counts[METRIC].unique())))
        families = compared.families() if has_nulls else None
        admission, evidence = admissions(scan, facts), evidence_kept(scan, groups)
        # Without margins nobody can say who knows what: then all are ranked, and the run says so.
        admitted = set(admission[METHOD][admission["ranked"]]) if len(admission) else None
        parts = [
            _derived(scan.of(name), (known, groups), families, admitted)
            for name in scan.metrics()
            if not name.startswith(MARGIN_NAMES)
        ]
        summary, calibrated, ranks, pairs, agreed, dice, faults = map(
            joined, zip(*parts, strict=True)
        )
        names = pd.DataFrame(compared.pairs(), columns=[METHOD, METRIC])
        calibrated = _in_order(calibrated, names)
        by_metric = calibrated[[METRIC]].drop_duplicates()
        ranks = _in_order(_in_order(ranks, names), by_metric)
        return cls(
            scan,
            _in_order(summary, full_summary(everything)[SUMMARISED]),
            calibrated,
            ranks,
            _in_order(pairs, by_metric),
            joined([_among_metrics(calibrated, ranks), _in_order(agreed, by_metric)]),
            admission,
            evidence,
            dice,
            _in_order(faults, names).sort_values(
                SEVERITY, na_position="first", kind="stable", ignore_index=True
            ),
            known,
            groups,
        )

    def units(self) -> tuple[int, str]:
        """Return how many images, or groups of them, are resampled, and what they are called."""
        images = self.scan.images[IMAGE_ID].astype(str).tolist()
        count = int(places_of(images, self.groups).max(initial=-1)) + 1
        return count, "images" if count == len(images) else "groups"

    def over(self) -> str:
        """Return over what intervals are, in words."""
        (count, what), images = self.units(), len(self.scan.images)
        if count < 2:  # noqa: PLR2004 - one varies with no other
            of_one = f"all {images} images are of one group" if what == "groups" else "of one image"
            return f"there are no intervals: {of_one}"
        sample = f"{count} images" if what == "images" else f"{count} groups of {images} images"
        networks = cells.networks_in(self.scan.counts[METRIC].astype(str).unique())
        if networks == 1:
            return (
                f"95% intervals over {sample}; of randomised networks there is 1, and how much "
                "others would differ is not known"
            )
        return f"95% intervals over {sample}" + (
            f" and {networks} randomised networks" if networks else ""
        )

    def metrics(self) -> list[str]:
        """Return the metrics of the run that have a table: headlines and plug-ins, or its first."""
        present = [name for name in self.known if name in set(self.summary[METRIC])]
        # A plug-in is there because somebody asked for it.
        plugged = [name for name in present if name not in METRICS]
        return [name for name in metric_registry.HEADLINES if name in present] + plugged or present[
            :1
        ]

    def unknown(self) -> list[str]:
        """Return the metrics of the records of which nobody says how to read them."""
        counts = self.scan.counts
        plain = counts[counts[METHOD] != INPUT][METRIC].astype(str)
        names = list(dict.fromkeys(map(base_metric, plain.unique())))
        return [
            name
            for name in names
            if name not in self.known and name != STEPS and not name.startswith(MARGIN_NAMES)
        ]

    def family_metrics(self) -> list[str]:
        """Return those of them that have values by family of perturbations."""
        probed = self.probed()
        return [name for name in self.metrics() if name not in probed]

    def probed(self) -> list[str]:
        """Return the metrics of the run that are of the clean image alone and need the network."""
        present = set(self.summary[METRIC])
        return [name for name, metric in METRICS.items() if metric.probes and name in present]

    def ranked(self, method: str) -> bool:
        """Whether a method may be ranked: it was admitted, or nobody has asked."""
        if self.admission.empty:
            return not is_control(method)
        rows = self.admission[self.admission[METHOD] == method]
        return bool(rows["ranked"].any())

    def calibrates(self, metric: str) -> bool:
        """Whether a metric has calibrated scores."""
        return metric in set(self.calibrated[METRIC])

    def families(self) -> list[str]:
        """Return the families of perturbations, in the order of the run."""
        names = self.scan.counts[FAMILY].unique().tolist()
        return [name for name in names if name not in (*REFERENCES, CLEAN)]

    def methods(self, metric: str) -> tuple[list[str], list[str]]:
        """Return methods and controls that have a metric, the steadiest first where it is known.

        Methods that are not ranked come after those that are.
        """
        rows = self.scan.counts[self.scan.counts[METRIC] == metric]
        specs = [str(spec) for spec in rows[METHOD].unique()]
        if self.calibrates(metric):
            specs = order(self.calibrated, metric, specs)
        specs.sort(key=lambda spec: not self.ranked(spec))
        return [s for s in specs if not is_control(s)], [s for s in specs if is_control(s)]

    def write(self, folder: Path) -> None:
        """Write what there is as CSV.

        Raises:
            ConfigError: a link in the folder leads out of it.
        """
        files.refuse_links(folder)
        named = {
            "summary": self.summary,
            "calibrated": self.calibrated,
            "ranks": self.ranks,
            "pairs": self.pairs,
            "agreement": self.agreement,
            "admission": self.admission,
            "evidence_kept": self.evidence,
            "seed_share": self.dice,
            "whose_fault": self.faults,
        }
        for name, frame in named.items():
            if len(frame):
                safe_csv.write_csv(frame, folder / f"{name}.csv")


def _derived(
    records: pd.DataFrame,
    beside: tuple[Mapping[str, Metric], Groups],
    families: Sequence[str] | None,
    admitted: Collection[str] | None,
) -> tuple[pd.DataFrame, ...]:
    """Return summary, calibrated scores, ranks, pairs, agreement, dice and faults of a metric.

    Args:
        records: of the metric.
        beside: the metrics whose values can be read, and the groups of images.
        families: of perturbations, of the run; None where it has no null maps.
        admitted: the methods that may be ranked; None for all but controls.
    """
    known, groups = beside
    held = records.iloc[:0] if families is None else records
    calibrated = calibrate(held, known, families, groups)
    ranks, pairs = rank_methods(records, calibrated, known, admitted, groups)
    agreed: list[dict[str, object]] = []
    for metric in dict.fromkeys(ranks[METRIC]):
        methods = ranked_methods(calibrated, metric, admitted)
        by_family = agreement.among_families(calibrated, metric, methods).to_numpy()
        # Less is steadier: the order is the same seen from the other end.
        by_image = Field.of(records, methods, metric, known).within.to_numpy()
        agreed += [
            agreement.agreement_row(metric, agreement.FAMILIES_AGREE, by_family),
            agreement.agreement_row(metric, agreement.IMAGES_AGREE, by_image),
        ]
    agreements = pd.DataFrame(agreed, columns=agreement.COLUMNS)
    faults = whose_fault(records, known, groups)
    dice = seed_share(records, known)
    return full_summary(records, groups), calibrated, ranks, pairs, agreements, dice, faults


def _among_metrics(calibrated: pd.DataFrame, ranks: pd.DataFrame) -> pd.DataFrame:
    """Return how far the headlines agree in the order of the methods that all of them rank."""
    headlines = [name for name in metric_registry.HEADLINES if name in set(ranks[METRIC])]
    ranked = [set(ranks[ranks[METRIC] == name][METHOD]) for name in headlines]
    if not ranked:
        return pd.DataFrame([], columns=agreement.COLUMNS)
    methods = [name for name in ranks[METHOD].unique() if all(name in some for some in ranked)]
    table = agreement.among_metrics(calibrated, headlines, methods)
    row = agreement.agreement_row(agreement.HEADLINES, agreement.METRICS_AGREE, table.to_numpy())
    return pd.DataFrame([row], columns=agreement.COLUMNS)


def joined(parts: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Join small tables of the same columns, one at least; those without rows say nothing."""
    rows = [row for part in parts for row in part.to_dict("records")]
    return pd.DataFrame(rows, columns=parts[0].columns)


def _in_order(rows: pd.DataFrame, ordered: pd.DataFrame) -> pd.DataFrame:
    """Put rows in the order of another table, by its columns; equal ones stay as they are."""
    places = {key: place for place, key in enumerate(ordered.itertuples(index=False, name=None))}
    keys = rows[list(ordered)].itertuples(index=False, name=None)
    order = np.argsort([places[key] for key in keys], kind="stable")
    return rows.iloc[order].reset_index(drop=True)
