"""A quiet stream is fresh as long as a worker looks; one that nobody takes in, or not all of, is not."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import numpy as np
import polars as pl
import pytest

from bedplate.aggregations.arithmetic import Count
from bedplate.errors import StoreError
from bedplate.features.reader import Read
from bedplate.features.view import CompiledView, FeatureView
from bedplate.online import ingest, keys
from bedplate.online.adoption import adopt
from bedplate.online.base import Changes, OnlineStore
from bedplate.online.fallback import FallbackReader
from bedplate.online.ingest import Ingest
from bedplate.online.letters import Letter
from bedplate.online.load import bulk_load
from bedplate.online.memory import MemoryStore
from bedplate.online.replay import LetterStream
from bedplate.online.state import read_state
from bedplate.sources.base import Source
from bedplate.testing.columns import plain
from bedplate.testing.online_store import write_files
from bedplate.testing.simulator import START, USER
from bedplate.types import DAY, HOUR, MINUTE

FRAME = pl.DataFrame({"user": [1] * 10, "time": [START + i * MINUTE for i in range(10)]})
VIEW = FeatureView("v", USER, Source("events", FRAME, time="time"), {"n": Count()}, freshness="1h").compile()
FRESH, STALE = START + DAY, START + DAY + HOUR + 1


class Now:
    """A clock that a test sets."""

    def __init__(self, time: int) -> None:
        self.time = time

    def __call__(self) -> int:
        return self.time


@pytest.fixture(autouse=True)
def _always(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingest, "_NOTE_SECONDS", 0.0)


@pytest.fixture
def store() -> OnlineStore:
    store = MemoryStore()
    bulk_load(store, VIEW, [], START)
    return store


def counted(store: OnlineStore, time: int, view: CompiledView = VIEW) -> list[object]:
    read = Read(view, ["v.n"], np.array([[1]]), np.array([time]))
    [columns] = FallbackReader(store).begin().read_all([read])
    return plain(columns["v.n"])


def test_a_view_that_was_only_loaded_is_as_old_as_its_load(store: OnlineStore) -> None:
    assert [counted(store, START + t) for t in (HOUR, HOUR + 1)] == [[0], [None]]


def test_a_quiet_stream_is_fresh_as_long_as_a_worker_looks(store: OnlineStore, tmp_path: Path) -> None:
    write_files(FRAME, tmp_path, [0])
    now = Now(START + HOUR)
    worker = Ingest(store, [VIEW], tmp_path, clock=now)
    assert worker.turn().taken
    assert read_state(store, VIEW).fresh_until == START + 9 * MINUTE
    for time in (START + 2 * HOUR, START + DAY):
        now.time = time
        assert not worker.turn().taken
        assert counted(store, time + HOUR) == [10]
    assert [counted(store, t) for t in (FRESH, STALE)] == [[10], [None]]  # nobody looks any more


def test_a_run_says_at_its_end_that_it_has_taken_in_all(store: OnlineStore, tmp_path: Path) -> None:
    write_files(FRAME, tmp_path, [0])
    Ingest(store, [VIEW], tmp_path, clock=Now(START + DAY)).run()
    assert [counted(store, t) for t in (FRESH + HOUR, STALE)] == [[10], [None]]


def test_a_partition_that_nobody_takes_in_makes_the_view_stale(store: OnlineStore, tmp_path: Path) -> None:
    write_files(FRAME[:2], tmp_path / "a", [0])
    write_files(FRAME[2:4], tmp_path / "b", [0])
    Ingest(store, [VIEW], tmp_path, clock=Now(START + HOUR)).run()
    write_files(FRAME[4:].with_columns(pl.lit(START + DAY).alias("time")), tmp_path / "a", [3])
    worker = Ingest(store, [VIEW], tmp_path, clock=Now(START + DAY))
    with store.writing([f"{VIEW.id}/b"]):  # another worker, which does nothing
        worker.turn()
    assert read_state(store, VIEW).watermark == START + DAY
    assert counted(store, FRESH) == [None]
    worker.turn()
    assert counted(store, FRESH + 1) == [7]
    shutil.rmtree(tmp_path / "b")  # what is gone holds nothing back
    Ingest(store, [VIEW], tmp_path, clock=Now(START + 2 * DAY)).run()
    assert counted(store, START + 2 * DAY) == [7]


def test_what_is_left_out_is_not_said_to_be_taken_in(store: OnlineStore, tmp_path: Path) -> None:
    write_files(FRAME, tmp_path, [0, 5])
    Ingest(store, [VIEW], tmp_path, clock=Now(START + DAY)).run(START + 5 * MINUTE)
    assert read_state(store, VIEW).seen == {"": START + 4 * MINUTE}


def test_letters_say_nothing_of_how_far_a_stream_is(store: OnlineStore, tmp_path: Path) -> None:
    letter = Letter.of("t", 0, 7, "why", b'{"user": 1, "time": %d}' % (START + 1))
    (tmp_path / "a.jsonl").write_bytes(msgspec.json.encode(letter))
    store.commit(Changes([(keys.letter_of(VIEW, letter.name), b"1")]))  # as the step that withheld it
    assert Ingest(store, [VIEW], LetterStream(tmp_path / "a.jsonl", VIEW, store)).run().events == 1
    assert read_state(store, VIEW).seen == {}


def test_a_version_that_was_frozen_is_stale_while_the_changed_one_goes_on(store: OnlineStore, tmp_path: Path) -> None:
    write_files(FRAME, tmp_path, [0])
    now = Now(START + HOUR)
    Ingest(store, [VIEW], tmp_path, clock=now).run()
    feature = {"times": Count()}
    renamed = FeatureView("v", USER, VIEW.view.source, feature, freshness="1h").compile()
    assert adopt(store, [renamed])
    now.time = STALE
    with pytest.raises(StoreError, match="goes on with these rows"):
        Ingest(store, [VIEW], tmp_path, clock=now).run()
    Ingest(store, [renamed], tmp_path, clock=now).run()
    read = Read(VIEW, ["v.n"], np.array([[1]]), np.array([STALE]))
    reading = FallbackReader(store).begin()
    assert plain(reading.read_all([read])[0]["v.n"]) == [None]
    assert reading.degraded["v"].stale == 1
    read = Read(renamed, ["v.times"], np.array([[1]]), np.array([STALE]))
    assert plain(FallbackReader(store).begin().read_all([read])[0]["v.times"]) == [10]
