"""Settings as YAML: plain values within bounds; nothing runs, explodes or is silently replaced."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from steadymap.bench import ConfigError
from steadymap.bench.core.safe_yaml import (
    MOST_CHARACTERS,
    MOST_DEPTH,
    MOST_NODES,
    parse_yaml,
    read_config,
)
from steadymap.bench.gate.margins import read_margins
from steadymap.bench.plan.packaged_experiments import EXPERIMENTS, experiment_names


def laughs(levels: int) -> str:
    """A list of ten, of each of which the next line holds ten, and so on."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    for level in range(1, levels):
        inner = ", ".join([f"*a{level - 1}"] * 10)
        lines.append(f"a{level}: &a{level} [{inner}]")
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "limit: 5\nseed: 1\nlimit: 6\n",
            "the key 'limit' is given twice, the second time in line 3",
        ),
        ("severity: {bias: [0.1], bias: [0.2]}", "the key 'bias' is given twice"),
        ("a: [{b: 1, c: {d: 1, 'd': 2}}]", "the key 'd' is given twice"),
        ("<<: {a: 1}\n<<: {a: 2}", "the key '<<' is given twice"),
        (laughs(9), f"its aliases stand for more than {MOST_NODES} values"),
        ("a: &a [*a]", "the value of line 1 holds an alias of itself"),
        ("a: &a {b: {c: *a}}", "the value of line 1 holds an alias of itself"),
        ("[" * 100_000, f"nested more than {MOST_DEPTH} levels deep"),
        ("{a: " * 40_000, f"nested more than {MOST_DEPTH} levels deep"),
        ("- " * 90_000, f"nested more than {MOST_DEPTH} levels deep"),
        ("a: " + "x" * MOST_CHARACTERS, "settings at most 200000"),
        ("a: 2026-99-99", "a value is not what its form says"),
        ("a: !!int x", "a value is not what its form says"),
        ("a: !!timestamp x", "a value is not what its form says"),
        ('a: "\\ud800"', "is no text"),
        ("a: [" + "x" * 1001 + "]", "has 1001 characters, settings at most 1000"),
        ("? [a]\n: 1", "found unhashable key"),
        ("a: \x00", "unacceptable character"),
        ("a: !own x", "could not determine a constructor"),
    ],
)
def test_what_settings_are_not_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    begin = time.monotonic()
    for read in (read_config, read_margins):
        with pytest.raises(ConfigError, match=r"run\.yaml is not YAML") as caught:
            read(path)
        assert message in str(caught.value)
        assert len(str(caught.value).splitlines()) == 1
    # A bomb of this kind takes hours; the bound is no measurement.
    assert time.monotonic() - begin < 60


@pytest.mark.parametrize(
    "tag",
    [
        "!!python/object/apply:os.system ['touch {marker}']",
        "!!python/object/apply:pathlib.Path.touch [!!python/tuple ['{marker}']]",
        "!!python/object/new:os.system ['touch {marker}']",
        "!!python/name:os.system",
        "!!python/module:os",
        "!!python/tuple [1]",
        "!<tag:yaml.org,2002:python/object/apply:os.system> ['touch {marker}']",
    ],
)
def test_a_tag_runs_nothing(tmp_path: Path, tag: str) -> None:
    marker, path = tmp_path / "ran", tmp_path / "run.yaml"
    for text in (f"model: {tag}", f"? {tag}\n: 1", f"a: &a {tag}\nb: *a", tag):
        path.write_text(text.format(marker=marker))
        with pytest.raises(ConfigError, match="could not determine a constructor") as caught:
            read_config(path)
        assert len(str(caught.value).splitlines()) == 1
    assert not marker.exists()


def test_a_file_without_end_is_not_read_to_it() -> None:
    with pytest.raises(ConfigError, match=r"is not YAML|cannot read"):
        read_config(Path("/dev/zero"))


def test_a_few_aliases_are_fine() -> None:
    text = (
        "severity:\n  bias: &levels [0.1, 0.3]\n  noise: *levels\nother: {<<: {a: 1, b: 2}, a: 3}"
    )
    assert parse_yaml(text) == {
        "severity": {"bias": [0.1, 0.3], "noise": [0.1, 0.3]},
        "other": {"a": 3, "b": 2},
    }
    assert len(str(parse_yaml(laughs(4)))) > 10_000


VALUES = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=9)
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(VALUES)
def test_plain_values_come_back(value: object) -> None:
    text = yaml.safe_dump(value)
    assert parse_yaml(text) == value == yaml.safe_load(text)


def test_our_own_experiments_are_within_the_bounds() -> None:
    for name in experiment_names():
        text = EXPERIMENTS.joinpath(f"{name}.yaml").read_text(encoding="utf-8")
        assert parse_yaml(text) == yaml.safe_load(text)
