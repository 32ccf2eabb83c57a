"""The documentation is held to what there is: paths, links, counts, names, commands."""

from __future__ import annotations

import configparser
import pkgutil
import re
import tomllib
from collections.abc import Collection
from pathlib import Path

import pandas as pd
import pytest
from mutants import MUTANTS
from support import ROOT

from steadymap.bench import METHODS, PERTURBATIONS
from steadymap.bench.commands.app import COMMANDS
from steadymap.bench.commands.list import SECTIONS
from steadymap.bench.methods.registry import DEFAULT_METHODS
from steadymap.bench.perturbations.registry import DEFAULT_FAMILIES
from steadymap.bench.records.schema import SCHEMA
from steadymap.bench.records.vocabulary import (
    CONTROLS,
    COUPLED,
    DELETION_LOGIT,
    EVIDENCE_KEPT,
    INPUT_METRICS,
    MARGIN,
    MARGIN_NAMES,
    MARGINS,
    MATCHED_CLASS,
    MATCHED_IMAGE,
    MATCHED_NETWORK,
    PARTNER,
    PERFECT,
    RANK,
    REFERENCES,
    STEPS,
)
from steadymap.metrics import METRICS, Status
from steadymap.models import MODEL_FORMS, MODELS

GUIDES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "results/README.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
# What has changed may name what is gone; its links may not lead there.
PAGES = sorted({*GUIDES, *ROOT.glob("*.md"), *(ROOT / "results").rglob("*.md")})
NUMBERS = (
    "no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven",
    "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
    "twenty",
)  # fmt: skip
EXPLAINING = [name for name in METHODS if name not in CONTROLS]
CHEAP_METRICS = [name for name, metric in METRICS.items() if not metric.costly]
IMAGENET_C = [name for name in PERTURBATIONS if name.startswith("imagenet_c_")]
OTHER_FAMILIES = [name for name in PERTURBATIONS if name not in IMAGENET_C]
LISTED = {kind: [row[0] for row in SECTIONS[kind]()] for kind in ("baselines", "checks", "data")}
EXPERIMENTS = sorted(path.stem for path in (ROOT / "bench" / "experiments").glob("*.yaml"))

PATH = re.compile(r"(?<![\w./-])(?:bench|metrics|models|tests)/[\w./*-]*")
LINK = re.compile(r"\]\(([^)\s]+)\)")
MODULE = re.compile(r"(?<![\w.])steadymap\.(?:bench|metrics|models)(?:\.\w+)*")


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


README = text_of(ROOT / "README.md")
REFERENCE = text_of(ROOT / "docs" / "reference.md")
FIRST_RUN = text_of(ROOT / "docs" / "first-run.md")
CHECKS_AND_SPEED = text_of(ROOT / "docs" / "checks-and-speed.md")
# What a newcomer reads.
ENTRANCE = f"{README}\n{FIRST_RUN}\n{REFERENCE}\n{CHECKS_AND_SPEED}"
RESULTS = text_of(ROOT / "results" / "README.md")
MODELS_AND_DATA = text_of(ROOT / "docs" / "models-and-data.md")
ARCHITECTURE = text_of(ROOT / "docs" / "architecture.md")


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def in_code(text: str) -> list[str]:
    """Return what stands between backticks."""
    return re.findall(r"`([^`\n]+)`", text)


def table(text: str, first_column: str) -> list[list[str]]:
    """Return the cells of all tables whose first column is called so, row by row."""
    rows: list[list[str]] = []
    inside = False
    for line in text.splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if not cells:
            inside = False
        elif not inside:
            inside = cells[0] == first_column
        elif not set("".join(cells)) <= set("-:"):
            rows.append(cells)
    return rows


def first_names(text: str, first_column: str) -> list[str]:
    """Return what the first cells of such tables name in code."""
    return [name for row in table(text, first_column) for name in in_code(row[0])]


# --- paths, links, modules ------------------------------------------------------------------------


def missing_paths(text: str) -> list[str]:
    """Return the paths in a text that lead nowhere; capitals in one stand for any name."""
    named = {path.rstrip(".") for path in PATH.findall(text)}
    return sorted(
        path
        for path in named
        if not any(ROOT.glob(re.sub(r"(?<![a-z])[A-Z]+(?![a-z])", "*", path.rstrip("/"))))
    )


@pytest.mark.parametrize("page", GUIDES, ids=name_of)
def test_every_path_that_is_named_exists(page: Path) -> None:
    assert missing_paths(text_of(page)) == []


def test_a_path_that_leads_nowhere_is_seen() -> None:
    assert missing_paths("see `bench/cli.py`, tests/ROOM/none_*.py and models/.") == [
        "bench/cli.py",
        "tests/ROOM/none_*.py",
    ]
    assert missing_paths("`bench/*/registry.py`, tests/ROOM/test_MODULE.py, a/bench/none.py") == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_relative_link_resolves(page: Path) -> None:
    links = [link for link in LINK.findall(text_of(page)) if not re.match(r"\w+:|#", link)]
    assert [link for link in links if not (page.parent / link.partition("#")[0]).exists()] == []


@pytest.mark.parametrize("page", GUIDES, ids=name_of)
def test_every_module_and_name_of_the_package_can_be_imported(page: Path) -> None:
    for name in sorted(set(MODULE.findall(text_of(page)))):
        pkgutil.resolve_name(name)


def test_there_are_links_paths_and_modules() -> None:
    every = "\n".join(map(text_of, GUIDES))
    for pattern, least in ((LINK, 20), (PATH, 50), (MODULE, 5)):
        assert len(set(pattern.findall(every))) >= least


# --- counts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "counted"),
    [
        (r"\b(\d+) methods", EXPLAINING),
        (r"\b(\d+) families", PERTURBATIONS),
        (r"\b(\d+) metrics", METRICS),
        (r"\b(\d+) properties", LISTED["checks"]),
        (r"in\s(\d+) ways", MUTANTS),
    ],
)
def test_the_entrance_counts_right(pattern: str, counted: Collection[object]) -> None:
    assert {int(count) for count in re.findall(pattern, ENTRANCE)} == {len(counted)}


@pytest.mark.parametrize(
    ("sentence", "counted"),
    [
        ("{} saliency methods", DEFAULT_METHODS),
        ("methods and {} controls", CONTROLS),
        ("{} families of perturbations", DEFAULT_FAMILIES),
        ("perturbations, {} metrics", CHEAP_METRICS),
        ("from {} baselines", LISTED["baselines"]),
        ("ImageNet-C's {}", IMAGENET_C),
    ],
)
def test_the_entrance_counts_right_in_words(sentence: str, counted: Collection[object]) -> None:
    said = re.findall(sentence.format(r"(\w+)"), " ".join(ENTRANCE.split()))
    assert set(said) == {NUMBERS[len(counted)]}


def test_the_readme_is_short() -> None:
    assert len(README.encode()) < 6_000


# --- numbers --------------------------------------------------------------------------------------

SPECS = {
    "integrated gradients, black": "integrated_gradients:baseline=black,steps=32",
    "integrated gradients, white": "integrated_gradients:baseline=white,steps=32",
    "integrated gradients, random": "integrated_gradients:baseline=random,steps=32",
    "gradient x input": "gradient_x_input",
    "gradient": "gradient",
    "Grad-CAM": "grad_cam:relu=true",
}
PLACES = {"1st": 1, "2nd": 2, "3rd": 3}


def test_the_table_of_the_readme_is_that_of_the_committed_run() -> None:
    folder = ROOT / "results" / "hands"
    calibrated = pd.read_csv(folder / "calibrated.csv")
    scores = {
        (row["method"], row["metric"]): row
        for row in calibrated[calibrated["family"] == "overall"].to_dict("records")
    }
    ranks = {
        (row["method"], row["metric"]): row["rank"]
        for row in pd.read_csv(folder / "ranks.csv").to_dict("records")
    }
    admission = {
        row["method"]: row for row in pd.read_csv(folder / "admission.csv").to_dict("records")
    }
    rows = table(README, "method")
    assert {row[0] for row in rows} == set(SPECS)
    for name, ssim, spearman, words in rows:
        spec = SPECS[name]
        for shown, metric in ((ssim, "ssim"), (spearman, "spearman")):
            row = scores[spec, metric]
            ends = f"[{row['low']:.2f}, {row['high']:.2f}]"
            assert shown == f"{row['calibrated']:.2f} {ends}", (name, metric)
        if words in PLACES:
            assert ranks[spec, "ssim"] == ranks[spec, "spearman"] == PLACES[words]
        else:
            assert not admission[spec]["ranked"]
            assert words.startswith("not ranked")
            needed = re.findall(r"(\d+) images would do", words)
            assert [float(n) for n in needed] in ([admission[spec]["images_needed"]], [])
    # The page that reads the table line by line has the same numbers.
    for _, ssim, spearman, _ in rows:
        for shown in (ssim, spearman):
            assert shown.partition(" ")[0] in FIRST_RUN
            assert shown.partition(" ")[2].replace(" ", "") in FIRST_RUN


# --- names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "names"),
    [("methods", EXPLAINING), ("families", OTHER_FAMILIES), ("metrics", [*METRICS])],
)
def test_the_reference_names_all_that_is_registered(kind: str, names: list[str]) -> None:
    (row,) = [row for row in table(REFERENCE, "") if row[0].endswith(f"{kind}**")]
    named = {name for name in in_code(row[1]) if re.fullmatch(r"\w+", name)}
    # Of ImageNet-C's one is an example.
    assert named - set(IMAGENET_C) == set(names)


def test_the_reference_has_every_command_and_experiment() -> None:
    assert {name.split()[1] for name in first_names(REFERENCE, "command")} == set(COMMANDS)
    named = [name.split()[2:] for name in first_names(REFERENCE, "experiment")]
    assert sorted(words[0] if words else "hands" for words in named) == EXPERIMENTS


def test_every_metric_is_explained_beside_the_results() -> None:
    explained = set(first_names(RESULTS, "metric"))
    # Margins are records of their own, and no metric that a plan could name.
    own = {margin for margin in explained if margin.startswith(MARGIN_NAMES)}
    assert own == {MARGIN + kind for kind in MARGINS} | {DELETION_LOGIT, EVIDENCE_KEPT}
    assert explained - own == {*METRICS, *INPUT_METRICS, STEPS}


def test_what_is_behind_a_metric_s_name_is_explained_beside_the_results() -> None:
    rows = table(RESULTS, "behind the name")
    named = {name.removesuffix("0") for row in rows for name in in_code(row[0])}
    single = {MATCHED_IMAGE, MATCHED_CLASS}
    both = single | {name + PARTNER for name in single}
    assert named == {*both, MATCHED_NETWORK, RANK, PERFECT, COUPLED}


def test_every_column_status_and_family_of_records_is_explained_beside_the_results() -> None:
    rows = [row for row in table(RESULTS, "column") if set(in_code(row[0])) <= set(SCHEMA.names)]
    named = [name for row in rows for name in in_code(row[0])]
    # A column of other tables may be called the same.
    assert [*dict.fromkeys(named)] == SCHEMA.names
    (statuses,) = [row[1] for row in rows if "`status`" in row[0]]
    assert [name for name in in_code(statuses) if name in set(Status)] == [*Status]
    assert first_names(RESULTS, "family") == [*REFERENCES]
    assert set(CONTROLS) <= set(in_code(RESULTS))


def test_every_form_of_model_and_data_is_explained() -> None:
    forms = {form.partition("[")[0] for form in (*MODELS, *MODEL_FORMS, *LISTED["data"])}
    assert forms <= set(first_names(MODELS_AND_DATA, "form"))


# --- how to work, and the house -------------------------------------------------------------------


def test_the_environments_of_tox_are_those_that_are_named() -> None:
    settings = configparser.ConfigParser()
    settings.read(ROOT / "tox.ini")
    there = {name.removeprefix("testenv:") for name in settings.sections() if ":" in name}
    named = {page: set(re.findall(r"tox run -e (\w+)", text_of(page))) for page in GUIDES}
    assert named[ROOT / "CONTRIBUTING.md"] == there | {"py"}
    assert set.union(*named.values()) == there | {"py"}


def test_every_room_is_on_the_map_and_every_module_named_there_exists() -> None:
    rooms = table(ARCHITECTURE, "room")
    for room, _, modules in rooms:
        for module in re.findall(r"`([a-z_0-9]+)`", modules):
            assert (ROOT / room.strip("`") / f"{module}.py").is_file(), (room, module)
    settings = tomllib.loads(text_of(ROOT / "pyproject.toml"))["tool"]["importlinter"]
    (layers,) = [one["layers"] for one in settings["contracts"] if one["type"] == "layers"]
    names = {name.strip() for layer in layers for name in layer.split("|")}
    doors = {"start", "pytest_plugin", "api", "session"}
    assert {row[0] for row in rooms} == {f"`bench/{name}/`" for name in names - doors}
