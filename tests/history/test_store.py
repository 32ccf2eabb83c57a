"""The folder of a history: entries whole or not there, never changed, and united."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
from histories import Simulation, written
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from steadymap.bench.core.errors import ConfigError
from steadymap.bench.history import store
from steadymap.bench.history.entry import Entry

ENTRIES = Simulation("store", 4).entries()


def test_what_is_added_comes_back_the_oldest_first(tmp_path: Path) -> None:
    written(tmp_path / "new" / "history", ENTRIES[::-1])
    back = store.read_history(tmp_path / "new" / "history")
    assert [dict(entry.facts) for entry in back] == [dict(entry.facts) for entry in ENTRIES]
    for entry, given_entry in zip(back, ENTRIES, strict=True):
        pd.testing.assert_frame_equal(entry.scores, given_entry.scores, check_dtype=False)


def test_the_same_run_twice_is_one_entry_and_stays_as_it_is(tmp_path: Path) -> None:
    (entry, *_) = ENTRIES
    assert store.add(tmp_path, entry)
    (path,) = tmp_path.iterdir()
    before = path.read_bytes()
    other = replace(entry, facts=dict(entry.facts) | {"label": "another"})
    assert not store.add(tmp_path, other)
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [before]


def test_the_same_entry_is_the_same_bytes(tmp_path: Path) -> None:
    first, second = (written(tmp_path / name, ENTRIES) for name in "ab")
    for path in first.iterdir():
        assert path.read_bytes() == (second / path.name).read_bytes()


def test_two_writers_at_once_lose_nothing(tmp_path: Path) -> None:
    jobs = [*ENTRIES, *ENTRIES] * 5
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda entry: store.add(tmp_path, entry), jobs))
    assert len(store.read_history(tmp_path)) == len(ENTRIES)
    assert len(list(tmp_path.iterdir())) == len(ENTRIES), "nothing half is left"


def test_any_reader_of_parquet_opens_the_folder(tmp_path: Path) -> None:
    written(tmp_path, ENTRIES)
    table = pd.read_parquet(tmp_path)
    assert set(table["entry"]) == {entry.id for entry in ENTRIES}
    assert set(table["commit"]) == {entry.facts["commit"] for entry in ENTRIES}
    assert len(table) == sum(len(entry.scores) for entry in ENTRIES)


def test_what_is_being_written_and_what_is_no_entry_is_passed_over(tmp_path: Path) -> None:
    written(tmp_path, ENTRIES)
    (tmp_path / ".0123.parquet.abc.tmp").write_bytes(b"half")
    (tmp_path / ".0123.parquet").write_bytes(b"half")
    (tmp_path / "README.md").write_text("ours")
    assert len(store.read_history(tmp_path)) == len(ENTRIES)


def test_an_empty_history_says_how_to_add(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(ConfigError, match="holds no entry; add a run with: steadymap history"):
            store.read_history(folder)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    (path,) = written(tmp_path_factory.mktemp("whole"), ENTRIES[:1]).iterdir()
    return path.read_bytes()


@settings(
    max_examples=80,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(share=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_no_flipped_bit_is_believed(tmp_path: Path, whole: bytes, share: float, bit: int) -> None:
    content = bytearray(whole)
    content[int(share * len(content))] ^= 1 << bit
    path = tmp_path / f"{ENTRIES[0].id}.parquet"
    path.write_bytes(content)
    try:
        entry = store.read_entry(path)
    except ConfigError as error:
        assert str(path) in str(error)  # noqa: PT017 - whatever bit it is
        assert "\n" not in str(error)  # noqa: PT017 - as above
    else:  # a bit that no reader looks at
        assert dict(entry.facts) == dict(ENTRIES[0].facts)
        pd.testing.assert_frame_equal(entry.scores, ENTRIES[0].scores, check_dtype=False)


def spoil(path: Path, kind: str) -> None:
    content = path.read_bytes()
    if kind == "cut":
        path.write_bytes(content[:-100])
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "renamed":
        path.rename(path.with_name("0" * 24 + ".parquet"))
    else:
        table = pq.read_table(path)
        metadata = dict(table.schema.metadata)
        facts = json.loads(metadata[store.FACTS])
        facts["label" if kind == "edited" else "schema"] = "v9" if kind == "edited" else 99
        metadata[store.FACTS] = json.dumps(facts).encode()
        pq.write_table(table.replace_schema_metadata(metadata), path)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("cut", "is damaged"),
        ("empty", "is damaged"),
        ("renamed", "is damaged: it is not what was written"),
        ("edited", "is damaged: it is not what was written"),
        ("newer", "has version 99 of the format, this steadymap reads 1"),
    ],
)
def test_a_damaged_entry_is_named_and_refused(tmp_path: Path, kind: str, said: str) -> None:
    written(tmp_path / "one", ENTRIES)
    path = tmp_path / "one" / f"{ENTRIES[1].id}.parquet"
    spoil(path, kind)
    with pytest.raises(ConfigError, match=said):
        store.read_history(tmp_path / "one")
    with pytest.raises(ConfigError, match=said):
        store.merge(tmp_path / "two", tmp_path / "one")
    assert not (tmp_path / "two").exists(), "nothing was copied"
    with pytest.raises(ConfigError, match=said):
        store.merge(tmp_path / "one", written(tmp_path / "three", ENTRIES))


def test_histories_are_united(tmp_path: Path) -> None:
    first = written(tmp_path / "a", ENTRIES[:3])
    second = written(tmp_path / "b", ENTRIES[2:])
    assert store.merge(first, second) == (1, 1)
    assert store.merge(first, second) == (0, 2)
    both = store.read_history(first)
    assert [entry.id for entry in both] == [entry.id for entry in ENTRIES]
    for path in second.iterdir():
        assert (first / path.name).read_bytes() == path.read_bytes()


def test_a_link_out_of_the_folder_is_not_written_through(tmp_path: Path) -> None:
    written(tmp_path / "history", ENTRIES[:1])
    (tmp_path / "history" / f"{ENTRIES[1].id}.parquet").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="leads out of"):
        store.add(tmp_path / "history", ENTRIES[1])


def test_a_forged_entry_is_one_line(tmp_path: Path) -> None:
    """Its seal is right: whoever forges one can make it."""
    (entry, *_) = ENTRIES
    manifest = dict(entry.manifest) | {"versions": ["torch"]}
    forged = Entry(dict(entry.facts) | {"manifest": manifest}, entry.scores)
    assert store.add(tmp_path, forged)
    with pytest.raises(ConfigError, match=r"versions.*valid dictionary"):
        store.read_history(tmp_path)
