"""A position in a directory is not taken for one in another, wherever the directory is moved or mounted."""

from __future__ import annotations

import shutil
from pathlib import Path

import duckdb
import numpy as np
import polars as pl
import pyarrow.dataset
import pytest

from bedplate.aggregations.arithmetic import Count
from bedplate.errors import DataError
from bedplate.features.reader import Read
from bedplate.features.view import FeatureView
from bedplate.online import origins
from bedplate.online.fallback import FallbackReader
from bedplate.online.files import FileStream
from bedplate.online.ingest import Ingest
from bedplate.online.load import bulk_load
from bedplate.online.memory import MemoryStore
from bedplate.online.origins import MARKER, move
from bedplate.online.state import read_state
from bedplate.sources.base import Source
from bedplate.testing.columns import plain
from bedplate.testing.online_store import write_files
from bedplate.testing.simulator import START, USER
from bedplate.types import HOUR, MINUTE

FRAME = pl.DataFrame({"user": [1, 2] * 5, "time": [START + i * MINUTE for i in range(10)]})
SOURCE = Source("events", FRAME, time="time")
VIEW = FeatureView("v", USER, SOURCE, {"n": Count()}, freshness="5m").compile()


@pytest.fixture
def store() -> MemoryStore:
    store = MemoryStore()
    bulk_load(store, VIEW, [], START)
    return store


def test_another_directory_with_the_same_names_is_refused(store: MemoryStore, tmp_path: Path) -> None:
    write_files(FRAME[:6], tmp_path / "a", [0])
    write_files(FRAME[6:], tmp_path / "b", [0])
    assert Ingest(store, [VIEW], tmp_path / "a").run().events == 6
    with pytest.raises(DataError, match=r"taken in another stream, '.*/a'") as found:
        Ingest(store, [VIEW], tmp_path / "b").run()
    assert "--moved" in str(found.value)
    assert read_state(store, VIEW).events == 6
    bulk_load(store, VIEW, [], START)
    assert Ingest(store, [VIEW], tmp_path / "b").run().events == 4


def test_a_directory_that_was_moved_goes_on(store: MemoryStore, tmp_path: Path) -> None:
    write_files(FRAME[:6], tmp_path / "a", [0])
    Ingest(store, [VIEW], tmp_path / "a").run()
    (tmp_path / "a").rename(tmp_path / "b")
    write_files(FRAME, tmp_path / "b", [6])
    assert Ingest(store, [VIEW], tmp_path / "b").run().events == 4
    shutil.rmtree(tmp_path / "b")  # and one that was restored from elsewhere
    write_files(FRAME, tmp_path / "b", [6])
    write_files(pl.concat([FRAME, FRAME[:3]]), tmp_path / "b", [10])
    with pytest.raises(DataError, match="another stream"):
        Ingest(store, [VIEW], tmp_path / "b").run()
    move(store, [VIEW], FileStream(tmp_path / "b", VIEW))
    assert Ingest(store, [VIEW], tmp_path / "b").run().events == 3


def test_a_directory_that_cannot_be_marked_is_known_by_its_path(
    store: MemoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError("read-only")

    write_files(FRAME[:6], tmp_path / "a", [0])
    write_files(FRAME[6:], tmp_path / "b", [0])
    monkeypatch.setattr(Path, "rename", refuse)
    Ingest(store, [VIEW], tmp_path / "a").run()
    assert [p.name for p in (tmp_path / "a").iterdir()] == [p.name for p in (tmp_path / "b").iterdir()]
    with pytest.raises(DataError, match="another stream"):
        Ingest(store, [VIEW], tmp_path / "b").run()
    assert Ingest(store, [VIEW], tmp_path / "a").run().events == 0


def test_a_marker_that_is_none_is_an_error(store: MemoryStore, tmp_path: Path) -> None:
    write_files(FRAME, tmp_path, [0])
    (tmp_path / MARKER).write_text("7")
    with pytest.raises(DataError, match="no marker"):
        Ingest(store, [VIEW], tmp_path).run()
    (tmp_path / MARKER).unlink()
    (tmp_path / MARKER).mkdir()
    with pytest.raises(DataError, match="no marker"):
        Ingest(store, [VIEW], tmp_path).run()


def test_the_first_of_two_workers_marks_a_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def second(temporary: Path, path: Path) -> None:
        monkeypatch.undo()
        firsts.append(origins.of_directory(tmp_path))
        temporary.rename(path)

    firsts: list[origins.Origin] = []
    monkeypatch.setattr(Path, "rename", second)
    assert origins.of_directory(tmp_path) == origins.of_directory(tmp_path) == firsts[0]
    assert [p.name for p in tmp_path.iterdir()] == [MARKER]


def test_a_marked_directory_is_still_read_as_a_whole_by_others(store: MemoryStore, tmp_path: Path) -> None:
    write_files(FRAME, tmp_path, [0])
    assert Ingest(store, [VIEW], tmp_path).run().events == 10
    assert (tmp_path / MARKER).exists()
    assert pl.scan_parquet(tmp_path).collect().height == pl.read_parquet(tmp_path).height == 10
    assert duckdb.sql(f"SELECT count(*) FROM read_parquet('{tmp_path}/*')").fetchall() == [(10,)]
    assert pyarrow.dataset.dataset(tmp_path).count_rows() == 10


def test_one_partition_that_stands_still_makes_all_keys_stale(store: MemoryStore, tmp_path: Path) -> None:
    """Also one that nobody has ever looked at."""
    write_files(FRAME.filter(pl.col("user") == 1), tmp_path / "a", [0])
    write_files(FRAME.filter(pl.col("user") == 2), tmp_path / "b", [0])
    later = pl.concat([FRAME[:9], FRAME[:1].with_columns(pl.lit(START + HOUR).alias("time"))])
    worker = Ingest(store, [VIEW], tmp_path, clock=lambda: START + HOUR)
    write_files(later, tmp_path / "a", [9])
    with store.writing([f"{VIEW.id}/b"]):  # another worker, which does nothing
        for _ in range(3):
            worker.turn()
    assert read_state(store, VIEW).watermark == START + HOUR
    assert read_state(store, VIEW).fresh_until == START
    read = Read(VIEW, ["v.n"], np.array([[1], [2]]), np.full(2, START + HOUR))
    answer = FallbackReader(store).begin()
    [columns] = answer.read_all([read])
    assert plain(columns["v.n"]) == [None, None]
    assert answer.degraded["v"].stale == 2
    worker.run()
    [columns] = FallbackReader(store).begin().read_all([read])
    assert plain(columns["v.n"]) == [5, 5]
