"""Names and records of a run cannot script its report: HTML, SVG, Markdown, a notebook, JUnit."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET
from zlib import crc32

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pages import Page, parsed
from safetensors.numpy import load_file, save_file
from support import finished_run, seal_again

from steadymap.bench.core.safe_csv import parse_csv, write_csv
from steadymap.bench.records.read import TEXTS, read_run
from steadymap.bench.records.seal import FILES
from steadymap.bench.records.vocabulary import INPUT_METRICS
from steadymap.bench.report.finished_run import FinishedRun
from steadymap.bench.report.markdown import fragment, markdown
from steadymap.bench.report.page import render, write_figures

METHODS = ("gradient", "gradient_x_input", "integrated_gradients:baseline=black,steps=4")
OWN = "own_metric"
RUN = ["--limit", "4", "--steps", "4", "--nulls", "1", "--no-controls"]
RUN += [word for method in METHODS for word in ("--method", method)]
RUN += ["--family", "bias", "--family", "compensated_bias", "--severity", "-0.2,0.3"]

PAYLOADS = (
    "<script>window.pwned=1</script>",
    "</script><script>window.pwned=1</script>",
    "<!--<script>",
    '"><img src=x onerror=window.pwned=1>',
    "' onmouseover='window.pwned=1' x='",
    '" autofocus onfocus="window.pwned=1',
    "javascript:window.pwned=1",
    "]]></text></svg><script>window.pwned=1</script>",
    "</style><style>*{display:none}</style>",
    "</title></pre></textarea><iframe srcdoc='<script>parent.pwned=1</script>'></iframe>",
    "<svg/onload=window.pwned=1>",
    "<a href=javascript:window.pwned=1>x</a>",
    "<base href=//evil.example><meta http-equiv=refresh content=0>",
    "{{ 7 * 7 }}{% raw %}",
    "\x00\x1b[31m\u2028\u202e\x85",
    "[x](javascript:window.pwned=1) ![x](y) `code` | a | b |\r\n# head\n<b>",
)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, with a metric that its manifest alone describes."""
    run = finished_run(tmp_path_factory.mktemp("hostile"), *RUN)
    table = pq.read_table(run / "records.parquet").to_pandas()
    own = table[table["metric"] == "ssim"].astype({"metric": str}).assign(metric=OWN)
    write_records(run, pd.concat([table.astype({"metric": str}), own]))
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["own_metrics"] = {
        OWN: {
            "reads": "signed", "against": "map", "better": "higher", "identity": 1.0,
            "symmetric": True, "summary": "a summary", "source": "a source",
        }
    }  # fmt: skip
    manifest["data"]["excluded"] = [{"name": "a name", "reason": "a reason"}]
    (run / "manifest.json").write_text(json.dumps(manifest))
    seal_again(run)
    return run


def write_records(run: Path, frame: pd.DataFrame) -> None:
    schema = pq.read_schema(run / "records.parquet")
    texts = {name: str for name, kind in zip(schema.names, schema.types, strict=True)
             if pa.types.is_dictionary(kind)}  # fmt: skip
    table = pa.Table.from_pandas(frame.astype(texts), preserve_index=False)
    # In a run a value that is not defined is NaN, of which pandas makes one that is gone.
    values = pa.array(frame["value"].to_numpy(dtype=np.float64))
    table = table.set_column(table.schema.get_field_index("value"), "value", values)
    # It does not say whose records these are: the manifest's name is no longer theirs.
    pq.write_table(table.cast(schema).replace_schema_metadata(), run / "records.parquet")


# Names that mean something to the reader itself, and stay.
KEPT = {"clean", "other_image", "random_network", "other_seed", "input", "ssim", "spearman", "ok"}


def payload_of(text: str, turn: int) -> str:
    """Return the same payload for the same text."""
    return PAYLOADS[(crc32(text.encode()) + 7 * turn) % len(PAYLOADS)]


@dataclass(frozen=True)
class Spoiler:
    """Puts a payload behind every text but those that mean something to the reader itself."""

    turn: int
    stay: frozenset[str]
    structure: frozenset[str]

    def text(self, text: str) -> str:
        stays = not text or text in self.stay
        return text if stays else text + payload_of(text, self.turn)

    def deep(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {
                key if key in self.structure else self.text(key): self.deep(inner)
                for key, inner in value.items()
            }
        if isinstance(value, list):
            return [self.deep(inner) for inner in value]
        return self.text(value) if isinstance(value, str) else value

    def tensor(self, name: str) -> str:
        kind, blank, spec = name.partition(" ")
        return kind + blank + self.text(spec)

    def columns(self, frame: pd.DataFrame, names: Iterable[str]) -> pd.DataFrame:
        return frame.assign(**{name: frame[name].map(self.text) for name in names})


def spoiler(records: pd.DataFrame, manifest: dict[str, Any], turn: int) -> Spoiler:
    stay = KEPT | set(manifest["metrics"]) | {"steps", *INPUT_METRICS}
    stay |= {f"{name}.recognised" for name in stay}
    stay |= set(records["family"].astype(str)) - {"bias", "compensated_bias"}
    named = {*manifest["methods"], OWN, *manifest["data"]["pictures"], *manifest["severities"]}
    return Spoiler(turn, frozenset(stay), frozenset(keys_of(manifest)) - named)


def spoil(home: Path, folder: Path, turn: int) -> Path:
    """Copy a run, with a payload behind every text in all of its files."""
    run = folder / "run"
    shutil.copytree(home, run)
    records, manifest = read_run(run)
    to = spoiler(records, manifest, turn)
    texts = [str(name) for name in records.select_dtypes("category") if name != "status"]
    plain = to.columns(records.astype(dict.fromkeys((*texts, "status"), str)), texts)
    reasons = plain.index[: len(PAYLOADS)]
    plain.loc[reasons, "detail"] = PAYLOADS
    plain.loc[reasons, "status"] = "error"
    write_records(run, plain)
    attacked = to.deep(manifest) | {FILES: manifest[FILES]}
    read = {key: manifest["own_metrics"][OWN][key] for key in ("reads", "against", "better")}
    for metric in attacked["own_metrics"].values():
        metric.update(read)
    (run / "manifest.json").write_text(json.dumps(attacked))
    for path in [run / "timings.csv", *(run / "witnesses").glob("*.csv")]:
        table = parse_csv(path.read_bytes(), TEXTS)
        write_csv(to.columns(table, [name for name in TEXTS if name in table]), path)
    pictures = run / "witnesses" / "pictures.safetensors"
    save_file({to.tensor(name): one for name, one in load_file(pictures).items()}, pictures)
    seal_again(run)
    return run


def keys_of(value: Any) -> list[str]:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    own = list(value) if isinstance(value, dict) else []
    return own + [key for one in inner for key in keys_of(one)]


@dataclass(frozen=True)
class Attack:
    run: Path
    shown: FinishedRun
    text: str


@pytest.fixture(scope="module", params=range(2))
def attack(
    home: Path, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Attack:
    run = spoil(home, tmp_path_factory.mktemp("spoilt"), request.param)
    shown = FinishedRun.of(run)
    return Attack(run, shown, render([shown]))


@pytest.fixture(scope="module")
def usual(home: Path) -> Page:
    return parsed(render([FinishedRun.of(home)]))


def count(page: Page, wanted: str) -> int:
    return sum(tag == wanted for tag, _ in page.tags)


def test_the_page_has_no_other_elements(attack: Attack, usual: Page) -> None:
    page = parsed(attack.text)
    assert {tag for tag, _ in page.tags} <= {tag for tag, _ in usual.tags}
    names = [{name for _, found in one.tags for name in found} for one in (page, usual)]
    assert names[0] <= names[1]
    for tag in ("script", "meta", "article", "title", "details", "img"):
        assert count(page, tag) == count(usual, tag), tag
    # One of the page, and one of each figure.
    assert count(page, "style") == count(page, "svg") + 1
    for _, attributes in page.tags:
        assert not any(name.startswith("on") for name in attributes)
        for name in ("href", "src", "xlink:href", "action", "srcdoc", "formaction"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:image/png;base64,", "#"))
    # It is there, as text.
    cells = (cell for rows in page.tables.values() for row in rows for cell in row)
    visible = "".join([*page.texts, *cells])
    for payload in PAYLOADS:
        assert re.split("[\x00\r]", payload)[0] in visible


def test_figures_are_xml_without_scripts(attack: Attack, tmp_path: Path) -> None:
    files = write_figures(attack.shown, tmp_path)
    attack.shown.findings.write(tmp_path)
    files += sorted(tmp_path.glob("ranks-*.svg"))
    assert any(path.suffix == ".svg" for path in files)
    for path in files:
        assert path.resolve().parent == tmp_path.resolve()
        if path.suffix == ".svg":
            found = {element.tag.rpartition("}")[2] for element in ET.parse(path).iter()}  # noqa: S314 - ours
            assert not found & {"script", "a", "image", "foreignObject", "iframe", "animate"}


def test_markdown_and_notebooks_have_no_elements(attack: Attack, tmp_path: Path) -> None:
    text = markdown(attack.shown, tmp_path)
    assert "<" not in text
    assert not re.search(r"(?<!\\)\]\((?![\w=.~-]+\.svg\))", text)
    # The table is one table, with as many cells in each row.
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in rows}) == 1
    page = parsed(fragment(read_run(attack.run)[0]))
    assert {tag for tag, _ in page.tags} <= {"p", "table", "thead", "tbody", "tr", "th", "td", "br"}
    assert not any(attributes for _, attributes in page.tags)


def test_the_policy_names_the_pages_one_script(home: Path) -> None:
    page = parsed(render([FinishedRun.of(home)]))
    (policy,) = [a["content"] for tag, a in page.tags if tag == "meta" and "http-equiv" in a]
    assert policy is not None
    script = next(part for part in policy.split("; ") if part.startswith("script-src"))
    assert re.fullmatch(r"script-src 'sha256-[A-Za-z0-9+/=]{44}'", script)
    assert "default-src 'none'" in policy


# --- in a browser ---------------------------------------------------------------------------------


def open_page(text: str, browser: Any, folder: Path) -> None:
    (folder / "page.html").write_text(text, encoding="utf-8")
    browser.get((folder / "page.html").as_uri())


def test_a_browser_runs_nothing_of_it(attack: Attack, browser: Any, tmp_path: Path) -> None:
    open_page(attack.text, browser, tmp_path)
    for button in browser.find_elements("css selector", "th button")[:3]:
        button.click()
    for slider in browser.find_elements("css selector", "input[type=range]")[:2]:
        slider.send_keys("\ue012")
    assert browser.execute_script("return window.pwned") is None
    assert not [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]


def test_what_got_past_the_escaping_would_not_run(home: Path, browser: Any, tmp_path: Path) -> None:
    """The page's policy, alone."""
    text = render([FinishedRun.of(home)])
    onload = "<svg onload=pwned=1></svg>"
    for planted in (PAYLOADS[0], '<img src="x" onerror="window.pwned=1">', onload):
        page = text.replace("<main>", f"<main>{planted}")
        open_page(page, browser, tmp_path)
        assert browser.execute_script("return window.pwned") is None
        # Without it, that would have run.
        open_page(
            re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page), browser, tmp_path
        )
        assert browser.execute_script("return window.pwned") == 1
        browser.get_log("browser")
