"""The report of a run: one page that needs nothing else, or Markdown with two figures."""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from steadymap.bench.analysis.calibration import is_control
from steadymap.bench.analysis.costs import method_costs
from steadymap.bench.analysis.curves import THRESHOLD, breaking_points, severity_curves
from steadymap.bench.analysis.findings import Findings, joined
from steadymap.bench.analysis.leaderboard import (
    PROBES_TITLE,
    Line,
    Score,
    board_metrics,
    is_probe,
    leaderboard,
    percent,
    probe_lines,
    significant,
)
from steadymap.bench.core.names import file_name, safe_markdown, short_names
from steadymap.bench.core.plugins import known_metrics
from steadymap.bench.gallery.keep import Gallery, read_gallery, read_steps
from steadymap.bench.perturbations.registry import severity_text
from steadymap.bench.records.scan import scan_run
from steadymap.bench.records.schema import CLEAN, INPUT, OVERALL
from steadymap.bench.report import figures, pictures
from steadymap.bench.report.answer import answer, metric_name
from steadymap.bench.runs.folder import finished, write_file
from steadymap.metrics import METRICS, Status

if TYPE_CHECKING:
    from matplotlib.figure import Figure


COMPLETENESS = "completeness_error"
# How many reasons for a missing number are told apart.
MOST_REASONS = 25
# Where a method does not break, it is sorted as if at a severity that no family has.
HOLDS = 1000.0


@dataclass(frozen=True)
class Cell:
    """A cell of a table: its text, a second line, and what it is sorted by."""

    text: str
    small: str = ""
    key: float | str = ""


@dataclass(frozen=True)
class Grid:
    """A table of the page; `below` are rows that stay under the others."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    below: tuple[tuple[Cell, ...], ...] = ()


@dataclass(frozen=True)
class Drawing:
    """A figure with its name (of a file), what it shows, and the words below it."""

    name: str
    figure: Figure
    description: str

    @property
    def svg(self) -> Markup:
        """The figure for a page."""
        return Markup(figures.inline(figures.as_svg(self.figure), str(escape(self.description))))  # noqa: S704 - ours, with every text escaped


@dataclass(frozen=True)
class Shown:
    """A finished run with all that a report needs.

    Attributes:
        findings: derived from its records.
        manifest: of the run.
        curves: see `severity_curves`.
        breaking: see `breaking_points`.
        costs: see `method_costs`.
        gallery: the witnesses; None where none were kept.
        steps: completeness errors by number of steps, may be empty.
    """

    findings: Findings
    manifest: Mapping[str, Any]
    curves: pd.DataFrame
    breaking: pd.DataFrame
    costs: pd.DataFrame
    gallery: Gallery | None
    steps: pd.DataFrame

    @classmethod
    def of(cls, folder: Path, findings: Findings | None = None) -> Shown:
        """Read a finished run; what is derived from its records is derived unless it is given.

        Raises:
            ConfigError: no finished run there.
        """
        if findings is None:
            scan, manifest = scan_run(folder)
            findings = Findings.of(scan, known_metrics(manifest))
        else:
            manifest = finished(folder)
        curves = curves_of(findings)
        return cls(
            findings,
            manifest,
            curves,
            breaking_points(curves),
            method_costs(folder, manifest),
            read_gallery(folder),
            read_steps(folder),
        )

    def names(self) -> dict[str, str]:
        """Return short names of the methods, the steadiest first, controls left out."""
        methods, _ = self.findings.methods(board_metrics(self.findings)[0])
        every = dict.fromkeys([*methods, *self._all_methods()])
        return short_names(list(every))

    def _all_methods(self) -> list[str]:
        specs = [str(spec) for spec in self.findings.scan.counts["method"].unique()]
        return [spec for spec in specs if spec != INPUT and not is_control(spec)]


def curves_of(findings: Findings) -> pd.DataFrame:
    """Return scores against severity of every metric of a run; see `severity_curves`."""
    return joined(
        [
            severity_curves(findings.scan.of(name), findings.calibrated, findings.known)
            for name in findings.scan.metrics()
        ]
    )


def render(runs: Sequence[Shown]) -> str:
    """Return the page of one run or several, one below the other."""
    environment = Environment(
        loader=PackageLoader("steadymap.bench", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = environment.get_template("report.js").render()
    # The page's own script runs, and no other: whatever a name got past the escaping would not.
    code = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template("report.html").render(
        runs=[_context(shown, place) for place, shown in enumerate(runs)],
        script=Markup(script),  # noqa: S704 - ours
        script_source=f"'sha256-{code}'",
    )


def _context(shown: Shown, place: int) -> dict[str, Any]:
    """Return what the template needs, in words and numbers that are ready to print."""
    pool: list[str] = []
    return {
        "id": f"run{place}",
        "name": shown.manifest["run_id"],
        "about": _about(shown),
        "answer": answer(shown.findings),
        "board": board_grid(shown),
        "families": [
            *(_family_grid(shown, name) for name in shown.findings.family_metrics()),
            *_probe_grids(shown),
        ],
        "ranks": rank_drawings(shown),
        "curves": [
            (metric_name(metric), _drawn(shown, metric)) for metric in _curve_metrics(shown)
        ],
        "breaking": _breaking_grid(shown),
        "threshold": f"{THRESHOLD:g}",
        "gallery": gallery_context(shown, pool),
        "pool": pool,
        "completeness": completeness_drawings(shown),
        "steps": steps_drawing(shown),
        "faults": fault_drawings(shown),
        "fault_grid": _fault_grid(shown),
        "cost": cost_drawing(shown),
        "cost_grid": _cost_grid(shown),
        "device": shown.manifest["machine"].get("device_name")
        or shown.manifest["machine"]["processor"],
        "memory": _memory(shown.manifest),
        "trust": _trust(shown),
    }


def _about(shown: Shown) -> str:
    manifest, images = shown.manifest, len(shown.findings.scan.images)
    methods = len(shown.names())
    families = len(shown.findings.families())
    return (
        f"{manifest['model']['name']} on {manifest['data']['name']} "
        f"({manifest['data']['split']}): {images} images, {methods} methods, {families} families"
    )


# --- numbers --------------------------------------------------------------------------------------


def _cell(score: Score | None, digits: int = 2) -> Cell:
    if score is None:
        return Cell("")
    if math.isnan(score.value):
        return Cell(score.word or "-")
    text = f"{score.word}{score.value:.{digits}f}"
    if math.isnan(score.low):
        return Cell(text, key=score.value)
    return Cell(text, f"[{score.low:.{digits}f}, {score.high:.{digits}f}]", score.value)


def _probe_cell(score: Score) -> Cell:
    if math.isnan(score.value):
        return Cell(score.word or "-")
    known = not math.isnan(score.low)
    ends = f"[{significant(score.low)}, {significant(score.high)}]" if known else ""
    return Cell(significant(score.value), ends, score.value)


def _share_cell(share: float) -> Cell:
    return Cell("") if math.isnan(share) else Cell(percent(share), key=share)


def board_grid(shown: Shown) -> Grid:
    """Return the leaderboard with what each method costs."""
    findings = shown.findings
    metrics = board_metrics(findings)
    lines = leaderboard(findings)
    complete = any(line.completeness for line in lines) and COMPLETENESS not in metrics
    calibrated = findings.calibrates(metrics[0])
    columns = ["method"]
    for name in metrics:
        columns += [metric_name(name), *(["rank", "recognised"] if calibrated else [])]
    columns += [*(["completeness error"] if complete else []), "ms a map", "passes", "coverage"]
    costs = {str(row["method"]): row for row in shown.costs.to_dict("records")}
    rows = [
        (line, _board_row(line, metrics, calibrated, complete, costs.get(line.spec)))
        for line in lines
    ]
    scale = (
        "calibrated: 1, the maps did not move; 0, no closer than unrelated maps"
        if calibrated
        else "raw scores: unrelated maps may score as high"
    )
    return Grid(
        f"All families together; {scale}",
        tuple(columns),
        tuple(row for line, row in rows if not line.control),
        tuple(row for line, row in rows if line.control),
    )


def _board_row(
    line: Line,
    metrics: Sequence[str],
    calibrated: bool,
    complete: bool,
    cost: Mapping[Any, Any] | None,
) -> tuple[Cell, ...]:
    row = [Cell(line.label, key=line.label)]
    for name in metrics:
        probed = is_probe(name)
        row.append((_probe_cell if probed else _cell)(line.scores[name]))
        if calibrated:
            rank = line.ranks.get(name)
            ends = f"[{rank.low:g}, {rank.high:g}]" if rank and rank.low < rank.high else ""
            row.append(Cell(f"{rank.value:g}", ends, rank.value) if rank else Cell(""))
            row.append(_share_cell(line.recognised.get(name, math.nan)))
    if complete:
        row.append(_cell(line.completeness))
    row += [_milliseconds(cost), _passes(cost), _share_cell(line.coverage)]
    return tuple(row)


def _milliseconds(cost: Mapping[Any, Any] | None) -> Cell:
    if cost is None or math.isnan(cost["milliseconds"]):
        return Cell("")
    return Cell(f"{cost['milliseconds']:.3g}", key=cost["milliseconds"])


def _passes(cost: Mapping[Any, Any] | None) -> Cell:
    if cost is None or math.isnan(cost["passes"]):
        return Cell("")
    count = cost["passes"] + cost["forward_only"]
    small = "shared" if cost["shared"] else ""
    if cost["forward_only"]:
        small = f"{cost['forward_only']:g} forward only" if cost["passes"] else "forward only"
    return Cell(f"{count:g}", small, count)


def _family_grid(shown: Shown, metric: str) -> Grid:
    """Return a metric's scores: methods down, families across."""
    findings = shown.findings
    calibrated = findings.calibrates(metric)
    if calibrated:
        source = findings.calibrated.rename(columns={"calibrated": "mean"})
    else:
        source = findings.summary[findings.summary["subset"] == "all"]
    rows = source[source["metric"] == metric]
    families = [name for name in findings.families() if name in set(rows["family"])]
    cells = {(str(r["method"]), str(r["family"])): r for r in rows.to_dict("records")}
    methods, controls = findings.methods(metric)
    names = short_names([*methods, *controls])

    def line(spec: str) -> tuple[Cell, ...]:
        found = [cells.get((spec, family)) for family in (*families, OVERALL)]
        label = f"control: {names[spec]}" if is_control(spec) else names[spec]
        numbers = [_cell(Score(r["mean"], r["low"], r["high"])) if r else Cell("-") for r in found]
        return (Cell(label, key=label), *numbers)

    scale = "calibrated" if calibrated else f"{shown.findings.known[metric].better} is better"
    return Grid(
        f"{metric}: {shown.findings.known[metric].summary}; {scale}",
        ("method", *(family.replace("_", " ") for family in families), OVERALL),
        tuple(line(spec) for spec in methods),
        tuple(line(spec) for spec in controls),
    )


def _probe_grids(shown: Shown) -> list[Grid]:
    """Return the metrics of the clean image alone, in one table; none where there are none."""
    metrics = shown.findings.probed()
    if not metrics:
        return []
    lines = probe_lines(shown.findings)
    rows = [
        (
            Cell(line.label, key=line.label),
            *(_probe_cell(line.scores[name]) for name in metrics),
            _share_cell(line.coverage),
        )
        for line in lines
    ]
    count = sum(not line.control for line in lines)
    return [
        Grid(
            PROBES_TITLE.capitalize(),
            (
                "method",
                *(f"{metric_name(name)} ({METRICS[name].better} is better)" for name in metrics),
                "coverage",
            ),
            tuple(rows[:count]),
            tuple(rows[count:]),
        )
    ]


def _breaking_grid(shown: Shown) -> Grid | None:
    """Return the severities at which methods break; None without calibrated curves."""
    names, breaking = shown.names(), shown.breaking
    if breaking.empty:
        return None
    metric = board_metrics(shown.findings)[0]
    rows = breaking[breaking["metric"] == metric]
    sides = list(dict.fromkeys(zip(rows["family"], rows["sign"], strict=True)))
    found = {(r["method"], r["family"], r["sign"]): r["severity"] for r in rows.to_dict("records")}

    def cell(spec: str, side: tuple[str, int]) -> Cell:
        if (spec, *side) not in found:
            return Cell("")
        value = found[spec, *side]
        if math.isnan(value):
            return Cell("holds", key=HOLDS)
        # Two digits, and degrees in full.
        return Cell(f"{value:.2g}" if abs(value) < 1 else f"{value:.3g}", key=abs(value))

    return Grid(
        f"Severity at which calibrated {metric_name(metric)} is down to {THRESHOLD:g}, halfway to "
        "unrelated maps; between measured severities taken as a straight line",
        ("method", *(f"{family.replace('_', ' ')} {'-+'[sign > 0]}" for family, sign in sides)),
        tuple(
            (Cell(name, key=name), *(cell(spec, side) for side in sides))
            for spec, name in names.items()
            if spec in set(rows["method"])
        ),
    )


def _fault_grid(shown: Shown) -> Grid | None:
    faults = shown.findings.faults
    rows = faults[faults["severity"].isna() & faults["metric"].isin(board_metrics(shown.findings))]
    if rows.empty:
        return None
    names = shown.names()
    metrics = list(dict.fromkeys(rows["metric"]))
    cells = {(r["method"], r["metric"]): r for r in rows.to_dict("records")}
    columns = ["method"]
    for metric in metrics:
        name = metric_name(metric)
        columns += [f"{name}: total", "method's own", "network's", "network's share"]
    lines = []
    for spec, label in names.items():
        line = [Cell(label, key=label)]
        for metric in metrics:
            row = cells.get((spec, metric))
            if row is None:
                line += [Cell("-")] * 4
                continue
            line += [
                Cell(f"{row[part]:.3f}", key=row[part]) for part in ("total", "own", "network")
            ]
            line.append(_cell(Score(row["network_share"], row["low"], row["high"])))
        lines.append(tuple(line))
    return Grid(
        "Instability (1 - score) under bias; what is left under compensated bias is the method's "
        "own doing",
        tuple(columns),
        tuple(lines),
    )


def _cost_grid(shown: Shown) -> Grid | None:
    costs = shown.costs[~shown.costs["method"].map(is_control)]
    if costs["milliseconds"].isna().all():
        return None
    names = shown.names()
    rows = costs.to_dict("records")
    return Grid(
        "Milliseconds of one worker for one map, and how often an image goes forward and backward; "
        "a shared pass serves all methods that read it",
        ("method", "ms a map", "passes"),
        tuple(
            (Cell(names[row["method"]], key=names[row["method"]]), _milliseconds(row), _passes(row))
            for row in rows
            if row["method"] in names
        ),
    )


def _memory(manifest: Mapping[str, Any]) -> str:
    peak = manifest.get("peak_memory_bytes", {})
    return ", ".join(
        f"{name.replace('_', ' ')} {size / 2**20:,.0f} MiB" for name, size in peak.items()
    )


# --- figures --------------------------------------------------------------------------------------


def rank_drawings(shown: Shown) -> list[Drawing]:
    """Return the critical-difference diagrams."""
    found = []
    for metric, figure in shown.findings.diagrams.items():
        if metric in board_metrics(shown.findings):
            text = (
                f"Mean ranks within an image by {metric_name(metric)}; methods joined by a bar "
                "have not been shown to differ (Nemenyi's test)"
            )
            found.append(Drawing(f"ranks-{file_name(metric)}", figure, text))
    return found


def curve_drawings(shown: Shown) -> list[Drawing]:
    """Return scores against severity, one figure a metric that compares maps and family."""
    return [drawing for metric in _curve_metrics(shown) for drawing in _drawn(shown, metric)]


def _curve_metrics(shown: Shown) -> list[str]:
    every = board_metrics(shown.findings)
    return [metric for metric in every if shown.findings.known[metric].against == "map"]


def completeness_drawings(shown: Shown) -> list[Drawing]:
    """Return the completeness error against severity, one figure a family."""
    return _drawn(shown, COMPLETENESS)


def _drawn(shown: Shown, metric: str) -> list[Drawing]:
    rows = shown.curves[shown.curves["metric"] == metric]
    names, found = shown.names(), []
    for family in dict.fromkeys(rows["family"]):
        chosen = rows[rows["family"] == family]
        broken = shown.breaking[
            (shown.breaking["metric"] == metric) & (shown.breaking["family"] == family)
        ]
        scale = "calibrated " if len(chosen) and bool(chosen["calibrated"].all()) else ""
        label = f"{scale}{metric_name(metric)}"
        unit = ", logits" if metric == COMPLETENESS else ""
        figure = figures.curve_figure(chosen, broken, names, label + unit)
        text = f"{label} against the severity of {family.replace('_', ' ')}, band: 95% interval"
        found.append(Drawing(file_name(str(metric), str(family)), figure, text))
    return found


def steps_drawing(shown: Shown) -> Drawing | None:
    """Return the completeness error against the number of steps; None where it was not measured."""
    if shown.steps.empty:
        return None
    images = shown.steps["image_id"].nunique()
    text = (
        f"Completeness error against the number of steps, {images} clean images: median and middle "
        "half"
    )
    return Drawing("completeness-steps", figures.steps_figure(shown.steps, shown.names()), text)


def fault_drawings(shown: Shown) -> list[Drawing]:
    """Return whose fault it is, one figure a headline metric."""
    faults, found = shown.findings.faults, []
    for metric in board_metrics(shown.findings):
        rows = faults[(faults["metric"] == metric) & faults["severity"].isna()]
        if len(rows):
            text = (
                f"Instability under bias by {metric_name(metric)}: the method's own, and with what "
                "the network's changed function adds"
            )
            figure = figures.fault_figure(rows, shown.names())
            found.append(Drawing(f"fault-{file_name(metric)}", figure, text))
    return found


def cost_drawing(shown: Shown) -> Drawing | None:
    """Return stability against cost; None where neither is known."""
    metric = board_metrics(shown.findings)[0]
    costs = dict(zip(shown.costs["method"], shown.costs["milliseconds"], strict=True))
    points = [
        (line.label, costs[line.spec], line.scores[metric].value)
        for line in leaderboard(shown.findings)
        if not line.control
        and costs.get(line.spec, math.nan) > 0
        and not math.isnan(line.scores[metric].value)
    ]
    if not points or not shown.findings.calibrates(metric):
        return None
    label = f"calibrated {metric_name(metric)}"
    text = (
        f"{label} against milliseconds a map; the dashed line joins those that none beats in both"
    )
    return Drawing("cost", figures.cost_figure(points, label), text)


def all_drawings(shown: Shown) -> list[Drawing]:
    """Return every figure of a report."""
    found = [
        *rank_drawings(shown),
        *curve_drawings(shown),
        *completeness_drawings(shown),
        *fault_drawings(shown),
    ]
    return found + [one for one in (steps_drawing(shown), cost_drawing(shown)) if one]


# --- pictures -------------------------------------------------------------------------------------


def gallery_context(shown: Shown, pool: list[str]) -> list[dict[str, Any]]:
    """Return the witnesses: for each, the clean row and a row of frames a family.

    Pictures go to the pool, and frames hold their places there: the clean ones are in every row.
    """
    gallery = shown.gallery
    if gallery is None:
        return []
    names = {spec: name for spec, name in shown.names().items() if spec in gallery.maps}
    return [_witness(shown, pool, image_id, names) for image_id in gallery.kinds]


def _witness(
    shown: Shown, pool: list[str], image_id: str, names: Mapping[str, str]
) -> dict[str, Any]:
    gallery = _kept(shown)
    rows = gallery.rows[gallery.rows["image_id"] == image_id]
    clean = int(rows.index[rows["family"] == CLEAN][0])
    chosen = gallery.scales[gallery.scales["image_id"] == image_id]
    scales = {str(row["method"]): row for row in chosen.to_dict("records")}
    signed = {spec: bool(scales[spec]["signed"]) for spec in names}
    frames = {place: _frame(shown, pool, place, signed, clean) for place in rows.index}
    labels = shown.findings.scan.images
    found = labels[labels["image_id"] == image_id]["label"].dropna()
    families = []
    for family in [name for name in dict.fromkeys(rows["family"]) if name != CLEAN]:
        chosen = rows[(rows["family"] == family) & (rows["draw"] == 0)].sort_values("severity")
        levels = [(float(r["severity"]), frames[place]) for place, r in chosen.iterrows()]
        # The clean image has its place among them, so that a slider begins or turns there.
        levels = sorted([*levels, (0.0, frames[clean])], key=lambda level: level[0])
        families.append(
            {
                "name": family,
                "title": family.replace("_", " "),
                "frames": [
                    frame | {"severity": severity_text(family, level)} for level, frame in levels
                ],
            }
        )
    return {
        "kind": gallery.kinds[image_id],
        "name": shown.manifest["data"]["pictures"].get(image_id, image_id),
        "label": "" if found.empty else _class_name(shown.manifest, int(found.iloc[0])),
        "columns": [
            {"name": name, "most": f"{scales[spec]['most']:.3g}"} for spec, name in names.items()
        ],
        "clean": frames[clean],
        "families": families,
    }


def _frame(
    shown: Shown,
    pool: list[str],
    place: Any,  # noqa: ANN401 - an index of pandas
    signed: Mapping[str, bool],
    clean: int,
) -> dict[str, Any]:
    """Return a picture with its maps, and what the network says of it."""
    gallery = _kept(shown)
    said = gallery.rows.loc[place]
    # A family that failed left no image, of which the network says nothing.
    made = not math.isnan(said["confidence"])
    maps = [
        pictures.map_picture(gallery.maps[spec][place], signed=one)
        if gallery.known[spec][place]
        else None
        for spec, one in signed.items()
    ]
    return {
        "picture": _pooled(pool, pictures.photo(gallery.images[place])),
        "maps": [None if png is None else _pooled(pool, png) for png in maps],
        "says": f"{_class_name(shown.manifest, int(said['prediction']))} {said['confidence']:.0%}"
        if made
        else "no image",
        "changed": made and bool(said["prediction"] != gallery.rows.loc[clean, "prediction"]),
    }


def _pooled(pool: list[str], png: bytes) -> int:
    pool.append(pictures.as_uri(png))
    return len(pool) - 1


def _kept(shown: Shown) -> Gallery:
    if shown.gallery is None:
        raise TypeError("the run kept no witnesses")
    return shown.gallery


def _class_name(manifest: Mapping[str, Any], index: int) -> str:
    names = manifest["model"]["class_names"]
    return str(names[index]) if 0 <= index < len(names) else f"class {index}"


# --- trust ----------------------------------------------------------------------------------------


def _trust(shown: Shown) -> dict[str, Any]:
    return {
        "statuses": _status_grid(shown.findings.scan.reasons),
        "flipped": _flipped_grid(shown.findings),
        "excluded": [(one["name"], one["reason"]) for one in shown.manifest["data"]["excluded"]],
        "nulls": _null_grid(shown),
        "manifest": yaml.safe_dump(dict(shown.manifest), sort_keys=False, allow_unicode=True),
        "configuration": configuration(shown.manifest),
    }


def configuration(manifest: Mapping[str, Any]) -> str:
    """Return the configuration that repeats a run, as YAML for `steadymap run --config`."""
    given = {key: value for key, value in manifest["configuration"].items() if value is not None}
    return str(yaml.safe_dump(given, sort_keys=False, allow_unicode=True))


def _status_grid(reasons: pd.DataFrame) -> Grid:
    """Return how many values there are of each status and reason."""
    chosen = reasons.astype({"status": str, "detail": str})
    counts = chosen.groupby(["status", "detail"])["size"].sum().sort_values(ascending=False)
    table = counts.reset_index().to_dict("records")
    rows = [(str(row["status"]), str(row["detail"]), int(row["size"])) for row in table]
    first = [row for row in rows if row[0] == Status.OK.value]
    others = [row for row in rows if row[0] != Status.OK.value]
    shown, rest = others[:MOST_REASONS], others[MOST_REASONS:]
    lines = [*first, *shown]
    if rest:
        lines.append(("others", f"{len(rest)} more reasons", sum(row[2] for row in rest)))
    return Grid(
        "All values of the records by status, controls and references among them",
        ("status", "reason", "values"),
        tuple((Cell(s, key=s), Cell(d, key=d), Cell(f"{n:,}", key=n)) for s, d, n in lines),
    )


def _flipped_grid(findings: Findings) -> Grid:
    """Return how often the prediction changed."""
    pairs = findings.scan.pairs
    rows = []
    for family in findings.families():
        kept = pairs[pairs["family"] == family]["kept"]
        if kept.empty:
            continue
        changed = int((~kept).sum())
        rows.append(
            (
                Cell(family.replace("_", " "), key=family),
                Cell(f"{changed:,} of {len(kept):,}", key=changed),
                Cell(percent(changed / len(kept)), key=changed / len(kept)),
            )
        )
    return Grid("Predictions that changed", ("family", "changed", "share"), tuple(rows))


def _null_grid(shown: Shown) -> Grid | None:
    """Return what unrelated maps score, and the noise floor."""
    calibrated, names = shown.findings.calibrated, shown.names()
    metrics = board_metrics(shown.findings)
    rows = calibrated[
        (calibrated["family"] == OVERALL)
        & calibrated["metric"].isin(metrics)
        & calibrated["method"].isin(list(names))
    ]
    if rows.empty:
        return None
    return Grid(
        "What unrelated maps score (raw), and the floor: what computing the same in another way "
        "moves maps",
        ("method", "metric", "raw score", "null", "of", "floor", "another seed", "verdict"),
        tuple(
            (
                Cell(names[r["method"]], key=names[r["method"]]),
                Cell(metric_name(r["metric"]), key=r["metric"]),
                _cell(Score(r["score"])),
                _cell(Score(r["null"])),
                Cell(str(r["null_of"]).replace("_", " ")),
                Cell(f"{r['floor']:.1g}" if math.isfinite(r["floor"]) else "-", key=r["floor"]),
                _cell(Score(r["other_seed"])),
                Cell(str(r["verdict"])),
            )
            for r in rows.to_dict("records")
        ),
    )


# --- other forms ----------------------------------------------------------------------------------


def write_figures(shown: Shown, folder: Path) -> list[Path]:
    """Write every figure as SVG and PNG."""
    written: list[Path] = []
    for drawing in all_drawings(shown):
        # A metric of somebody's may be called as the first half of a name of ours.
        alike = sum(path.stem.partition("~")[0] == drawing.name for path in written) // 2
        name = f"{drawing.name}~{alike + 1}" if alike else drawing.name
        svg, png = folder / f"{name}.svg", folder / f"{name}.png"
        write_file(svg, figures.as_svg(drawing.figure))
        write_file(png, figures.as_png(drawing.figure))
        written += [svg, png]
    return written


def markdown(shown: Shown, folder: Path) -> str:
    """Write two figures into a folder; return Markdown with the answer, the table and these."""
    grid = board_grid(shown)
    drawings = [*curve_drawings(shown)[:1], *[one for one in (cost_drawing(shown),) if one]]
    lines = [f"## {safe_markdown(shown.manifest['run_id'])}", "", safe_markdown(_about(shown)), ""]
    lines += [f"- {safe_markdown(sentence)}" for sentence in answer(shown.findings)]
    lines += [
        "",
        f"| {' | '.join(map(safe_markdown, grid.columns))} |",
        "|---" * len(grid.columns) + "|",
    ]
    for row in (*grid.rows, *grid.below):
        texts = [safe_markdown(f"{cell.text} {cell.small}".strip()) for cell in row]
        lines.append(f"| {' | '.join(texts)} |")
    for drawing in drawings:
        path = folder / f"{drawing.name}.svg"
        write_file(path, figures.as_svg(drawing.figure))
        lines += ["", f"![{safe_markdown(drawing.description)}]({path.name})"]
    return "\n".join(lines) + "\n"


def fragment(records: pd.DataFrame) -> str:
    """Return the answer and the leaderboard of records as HTML, for a notebook."""
    findings = Findings.of(records)
    manifest: dict[str, Any] = {"methods": []}
    shown = Shown(
        findings,
        manifest,
        pd.DataFrame(),
        pd.DataFrame(),
        _no_costs(findings),
        None,
        pd.DataFrame(),
    )
    return _notebook(answer(findings), replace(board_grid(shown)))


def _no_costs(findings: Findings) -> pd.DataFrame:
    specs = [str(spec) for spec in findings.scan.counts["method"].unique()]
    return pd.DataFrame(
        {
            "method": specs,
            "milliseconds": math.nan,
            "passes": math.nan,
            "shared": False,
            "forward_only": 0,
        }
    )


def _notebook(sentences: Iterable[str], grid: Grid) -> str:
    parts = ["".join(f"<p>{escape(text)}</p>" for text in sentences), "<table><thead><tr>"]
    parts += [f"<th>{escape(column)}</th>" for column in grid.columns]
    parts.append("</tr></thead><tbody>")
    for row in (*grid.rows, *grid.below):
        cells = (f"<td>{escape(cell.text)}<br>{escape(cell.small)}</td>" for cell in row)
        parts.append(f"<tr>{''.join(cells)}</tr>")
    parts.append(f"</tbody></table><p>{escape(grid.caption)}</p>")
    return "".join(parts)
