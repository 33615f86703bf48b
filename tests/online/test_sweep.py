"""Rows go by the watermark, never by the clock: a read at the watermark is the same whatever workers do or don't."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import msgspec
import numpy as np
import polars as pl
import pytest
from redis_server import Server, namespace, running

from bedplate.aggregations.arithmetic import Count
from bedplate.features.view import CompiledView, FeatureView
from bedplate.health.verify import verify
from bedplate.offline.history import IndexedHistory
from bedplate.online import keys, sweep
from bedplate.online.base import Changes, OnlineStore
from bedplate.online.codec import PENDING
from bedplate.online.compact import compact
from bedplate.online.fetch import OnlineReader
from bedplate.online.ingest import Ingest
from bedplate.online.lmdb import LmdbStore
from bedplate.online.load import bulk_load
from bedplate.online.memory import MemoryStore
from bedplate.online.redis import RedisStore
from bedplate.online.state import read_state
from bedplate.sources.base import Source
from bedplate.testing.online_store import write_files
from bedplate.testing.simulator import START, USER
from bedplate.types import HOUR, MINUTE

FILES = 12
KEYS = 10  # of a file, all new ones
FRAME = pl.DataFrame(
    {"user": range(FILES * KEYS), "time": [START + i // KEYS * HOUR + i * MINUTE // 10 for i in range(FILES * KEYS)]}
)
CUTS = list(range(0, FILES * KEYS, KEYS))
END = int(FRAME["time"].to_list()[-1])
FEATURES = {"n": Count(windows="1h"), "more": Count(windows="2h")}


def view_of(frame: pl.DataFrame | str = FRAME, **features: Count) -> CompiledView:
    return FeatureView("v", USER, Source("events", frame, time="time"), features or FEATURES).compile()


@pytest.fixture(scope="module")
def server() -> Generator[Server]:
    with running("--appendonly", "no") as server:
        yield server


@pytest.fixture(params=["memory", "lmdb", "redis"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> OnlineStore:
    if request.param == "redis":
        server: Server = request.getfixturevalue("server")
        return RedisStore(f"{server.url}?namespace={namespace(tmp_path)}")
    return MemoryStore() if request.param == "memory" else LmdbStore(tmp_path / "store")


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers that sweep all the time, a few rows at once."""
    for name, value in (("_REST", 0.0), ("_SHARE", 0), ("PAGE", 7)):
        monkeypatch.setattr(sweep, name, value)
    monkeypatch.setattr(sweep.Sweep.__init__, "__defaults__", (0.0,))


def rows(store: OnlineStore) -> int:
    return len(store.scan(keys.ROWS))


def counts(store: OnlineStore, view: CompiledView, time: int) -> list[list[int]]:
    every = np.arange(FILES * KEYS).reshape(-1, 1)
    found = OnlineReader(store).read(view, list(view.features), every, np.full(len(every), time))
    return [found[name].values.tolist() for name in view.features]


def taken(store: OnlineStore, folder: Path, sweeps: int = 0) -> Ingest:
    write_files(FRAME, folder, CUTS)
    worker = Ingest(store, [view_of()], folder)
    while worker.turn().taken:
        pass
    for _ in range(sweeps):
        worker.turn()
    return worker


def test_no_row_of_redis_has_a_time_to_expire(server: Server, tmp_path: Path) -> None:
    """So that none goes while a worker is down or behind."""
    with RedisStore(f"{server.url}?namespace={namespace(tmp_path)}") as store:
        history = IndexedHistoryOf(tmp_path, FRAME[: 3 * KEYS])
        bulk_load(store, history.view, history.grouped(), START + 3 * HOUR)
        write_files(FRAME[3 * KEYS :], tmp_path / "stream", [0])
        Ingest(store, [history.view], tmp_path / "stream").run()
        compact(store, [history.view])
        names = store._names.of([key for key, _ in store.scan(keys.ROWS)])
        assert len(names) > 1
        assert {server.client.pttl(name) for name in names} == {-1}


class IndexedHistoryOf:
    """The as-of index of the first hours."""

    def __init__(self, folder: Path, frame: pl.DataFrame = FRAME) -> None:
        frame.write_parquet(folder / "table.parquet")
        self.view = view_of(str(folder / "table.parquet"))
        self.history = IndexedHistory(folder / "offline")
        self.history.build(self.view).run(lambda _: None)

    def grouped(self):
        return self.history.grouped(self.view)


@pytest.mark.usefixtures("eager")
def test_a_worker_deletes_what_counts_no_more_and_nothing_else(store: OnlineStore, tmp_path: Path) -> None:
    plain = MemoryStore()
    for each in (store, plain):
        bulk_load(each, view_of(), [], START)
    write_files(FRAME, tmp_path / "stream", CUTS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweep.Sweep, "turn", lambda *_: 0)
        Ingest(plain, [view_of()], tmp_path / "stream").run()
    worker, most = Ingest(store, [view_of()], tmp_path / "stream"), 0
    while worker.turn().taken:
        for _ in range(FILES):  # the sweeping of a worker that waits for more
            worker._sweeps[view_of().id].turn(read_state(store, view_of()))
        most = max(most, rows(store))
        watermark = worker.watermark
    assert rows(plain) == FILES * KEYS
    assert most <= 5 * KEYS  # of three hours, and of what came meanwhile
    state = read_state(store, view_of())
    assert state.swept == watermark - MINUTE == END - MINUTE
    for time in (state.swept, watermark, watermark + HOUR):
        assert counts(store, view_of(), time) == counts(plain, view_of(), time)
    store.close()


@pytest.mark.usefixtures("eager")
def test_a_sweep_rests_where_the_watermark_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryStore()
    bulk_load(store, view_of(), [], START)
    worker = taken(store, tmp_path, sweeps=3 * FILES)
    before = store.scan(b"")

    def pages(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(MemoryStore, "pages", pages)
    for _ in range(3):
        worker.turn()
    assert [pair for pair in store.scan(b"") if pair[0][:1] != keys.STATES] == [
        pair for pair in before if pair[0][:1] != keys.STATES
    ]


@pytest.mark.usefixtures("eager")
def test_verification_as_of_an_earlier_time_knows_which_rows_went(tmp_path: Path) -> None:
    history = IndexedHistoryOf(tmp_path, FRAME[: 5 * KEYS])  # seven hours behind the store
    store, view = MemoryStore(), history.view
    bulk_load(store, view, history.grouped(), START + 3 * HOUR)
    write_files(FRAME[3 * KEYS :], tmp_path / "stream", CUTS[: FILES - 3])
    worker = Ingest(store, [view], tmp_path / "stream")
    for _ in range(3 * FILES):
        worker.turn()
    assert rows(store) < 5 * KEYS
    found = verify(store, history.history, [view])
    assert (found.differ, found.views[0].ahead > 2 * KEYS) == (0, True)
    # A row that is missing though something of it counts is still found.
    whole = IndexedHistoryOf(tmp_path)
    again = MemoryStore()
    bulk_load(again, whole.view, whole.grouped(), END + 1)
    compact(again, [whole.view])
    assert read_state(again, whole.view).swept > 0
    assert verify(again, whole.history, [whole.view]).differ == 0
    last = keys.row_keys(whole.view, np.array([[FILES * KEYS - 2]]), 0)
    again.commit(Changes(drops=last))
    assert set(verify(again, whole.history, [whole.view]).causes) == {"row missing"}


def test_a_store_whose_rows_all_went_rightly_is_compared_as_of_when_they_could(tmp_path: Path) -> None:
    """Loaded from history until long after its last event, as where nothing has happened lately."""
    whole, store = IndexedHistoryOf(tmp_path), MemoryStore()
    bulk_load(store, whole.view, whole.grouped(), END + 9 * HOUR)
    compact(store, [whole.view])
    assert rows(store) == 0
    found = verify(store, whole.history, [whole.view])
    assert (found.compared, found.differ, found.causes) == (2 * FILES * KEYS, 0, {})
    [view] = verify(store, whole.history, [whole.view], at=END + HOUR // 2).views
    assert view.cause == "history behind"
    assert f"{view.ahead} have no row since nothing of them counts" in view.evidence


def unswept(store: OnlineStore, folder: Path, monkeypatch: pytest.MonkeyPatch, rewind: int = MINUTE) -> sweep.Sweep:
    """A sweep, a page of seven rows a turn, of rows of which a worker has deleted none."""
    bulk_load(store, view_of(), [], START)
    taken(store, folder)
    assert rows(store) == FILES * KEYS
    for name, value in (("_SHARE", 0), ("PAGE", 7)):
        monkeypatch.setattr(sweep, name, value)
    return sweep.Sweep(store, view_of(), rewind, rest=0.0)


def test_what_can_t_be_read_is_passed_over_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store = MemoryStore()
    sweeping = unswept(store, tmp_path / "stream", monkeypatch)
    names = [key for key, _ in store.scan(keys.ROWS)]
    whole = np.frombuffer(store.read_many(names[2:3]).data, np.int64)
    long, other = whole.copy(), whole.copy()
    long[PENDING], other[0] = 2**62, 17
    bad = {names[0]: whole[:1].tobytes(), names[1]: long.tobytes(), names[2]: other.tobytes()}
    store.commit(Changes(list(bad.items())))
    gone = sum(sweeping.turn(read_state(store, view_of())) for _ in range(3 * FILES))
    assert gone == FILES * KEYS - len(bad) - rows_that_count(tmp_path / "other")
    assert [store.read_many([name]).data for name in bad] == list(bad.values())
    assert "3 rows can't be read" in caplog.text


def rows_that_count(folder: Path) -> int:
    """How many a compaction leaves."""
    store = MemoryStore()
    bulk_load(store, view_of(), [], START)
    taken(store, folder)
    compact(store, [view_of()])
    assert 2 * KEYS <= rows(store) < FILES * KEYS / 2
    return rows(store)


def test_a_view_that_was_loaded_anew_meanwhile_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryStore()
    sweeping = unswept(store, tmp_path / "stream", monkeypatch)
    before = read_state(store, view_of())
    bulk_load(store, view_of(), [], START)
    assert [sweeping.turn(before) for _ in range(3)] == [0, 0, 0]
    assert read_state(store, view_of()).generation != before.generation


class Busy(MemoryStore):
    """A store in which a step of the view comes before each other step, as long as it is busy."""

    busy = False

    def commit(self, changes: Changes) -> None:
        if self.busy:
            state = read_state(self, view_of())
            super().commit(
                Changes([msgspec.structs.replace(state, seen={"p": len(state.seen) + state.made}).put(view_of())])
            )
            self.busy = False
        super().commit(changes)


def test_a_page_that_met_another_step_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Busy()
    sweeping = unswept(store, tmp_path / "stream", monkeypatch)
    for _ in range(3 * FILES):
        store.busy = True
        sweeping.turn(read_state(store, view_of()))
        sweeping.turn(read_state(store, view_of()))
    assert rows(store) == rows_that_count(tmp_path / "other")


def test_a_turn_takes_as_many_pages_as_there_is_time_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryStore()
    sweeping = unswept(store, tmp_path / "stream", monkeypatch)
    monkeypatch.setattr(sweep, "_SHARE", 1e-9)
    monkeypatch.setattr(sweep, "_LONGEST", 60.0)
    sweeping.turn(read_state(store, view_of()))
    assert rows(store) == rows_that_count(tmp_path / "other")


def test_a_walk_over_others_names_ends_with_the_time_of_a_turn(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with RedisStore(f"{server.url}?namespace={namespace(tmp_path)}") as store:
        server.client.mset({f"other:{i}": "x" for i in range(5_000)})
        left, state_of = rows_that_count(tmp_path / "other"), view_of()
        sweeping, turns = unswept(store, tmp_path / "stream", monkeypatch), 0
        monkeypatch.setattr(sweep, "PAGE", 500)
        while rows(store) > left and turns < 100:
            sweeping.turn(read_state(store, state_of))
            turns += 1
        assert rows(store) == left
        assert turns > 5  # a turn walks over some 500 of the 5,000 names, and not over all of them
        server.client.flushall()
