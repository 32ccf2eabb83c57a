"""A finished run, with everything that a report derives from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from steadymap.bench.analysis.admission import Facts
from steadymap.bench.analysis.costs import method_costs
from steadymap.bench.analysis.curves import breaking_points, severity_curves
from steadymap.bench.analysis.findings import Findings, joined
from steadymap.bench.analysis.leaderboard import board_metrics
from steadymap.bench.core.metric_registry import known_metrics
from steadymap.bench.core.names import short_names
from steadymap.bench.records import read, vocabulary
from steadymap.bench.records.scan import scan_run
from steadymap.bench.report.gallery_files import Gallery, read_gallery, read_steps
from steadymap.bench.report.rank_diagrams import rank_diagrams

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class FinishedRun:
    """A finished run with all that a report needs.

    Attributes:
        findings: derived from its records.
        manifest: of the run.
        curves: see `severity_curves`.
        breaking: see `breaking_points`.
        costs: see `method_costs`.
        gallery: the witnesses; None where none were kept.
        steps: completeness errors by number of steps, may be empty.
        diagrams: of ranks, by metric.
    """

    findings: Findings
    manifest: Mapping[str, Any]
    curves: pd.DataFrame
    breaking: pd.DataFrame
    costs: pd.DataFrame
    gallery: Gallery | None
    steps: pd.DataFrame
    diagrams: Mapping[str, Figure]

    @classmethod
    def of(
        cls,
        folder: Path,
        findings: Findings | None = None,
        diagrams: Mapping[str, Figure] | None = None,
    ) -> FinishedRun:
        """Read a finished run; what is derived from its records is derived unless it is given.

        Raises:
            ConfigError: no finished run there.
        """
        findings = findings_of(folder) if findings is None else findings
        manifest = read.read_manifest(folder / read.MANIFEST)
        curves = curves_of(findings)
        return cls(
            findings,
            manifest,
            curves,
            breaking_points(curves),
            method_costs(folder, manifest),
            read_gallery(folder, manifest),
            read_steps(folder, manifest),
            rank_diagrams(findings) if diagrams is None else diagrams,
        )

    def names(self) -> dict[str, str]:
        """Return short names of the methods; see `method_names`."""
        return method_names(self.findings)

    def costs_by_method(self) -> dict[str, Mapping[Any, Any]]:
        """Return the row of `costs` of each method."""
        return {str(row[vocabulary.METHOD]): row for row in self.costs.to_dict("records")}


def findings_of(folder: Path) -> Findings:
    """Read a finished run, and derive everything from its records.

    Raises:
        ConfigError: no finished run there.
    """
    scan, manifest = scan_run(folder)
    return Findings.of(scan, known_metrics(manifest), Facts.of(manifest))


def method_names(findings: Findings) -> dict[str, str]:
    """Return short names of the methods, the steadiest first, controls left out."""
    methods, _ = findings.methods(board_metrics(findings)[0])
    specs = [str(spec) for spec in findings.scan.counts[vocabulary.METHOD].unique()]
    others = [
        spec for spec in specs if spec != vocabulary.INPUT and not vocabulary.is_control(spec)
    ]
    return short_names(list(dict.fromkeys([*methods, *others])))


def curves_of(findings: Findings) -> pd.DataFrame:
    """Return scores against severity of every metric of a run; see `severity_curves`."""
    return joined(
        [
            severity_curves(
                findings.scan.of(name), findings.calibrated, findings.known, findings.groups
            )
            for name in findings.scan.metrics()
        ]
    )
