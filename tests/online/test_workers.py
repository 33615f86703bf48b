"""Workers go on by themselves when their store was away, lose nothing and count nothing twice."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from troubled_store import TroubledStore

from bedplate.aggregations.arithmetic import Count, Sum
from bedplate.errors import ConflictError, DataError, StoreError, UnavailableError
from bedplate.features.view import CompiledView, FeatureView
from bedplate.online import workers
from bedplate.online.fetch import OnlineReader
from bedplate.online.files import FileStream
from bedplate.online.ingest import Ingest
from bedplate.online.load import bulk_load
from bedplate.online.measures import Measures
from bedplate.online.memory import MemoryStore
from bedplate.online.redis import RedisStore
from bedplate.online.state import read_state
from bedplate.online.workers import run_workers
from bedplate.sources.base import Source
from bedplate.stopping import Stop
from bedplate.testing.columns import plain
from bedplate.testing.online_store import write_files
from bedplate.testing.simulator import START, USER
from bedplate.types import DAY, MINUTE

FRAME = pl.DataFrame(
    {
        "user": [i % 5 for i in range(100)],
        "time": [START + i * MINUTE for i in range(100)],
        "amount": list(range(100)),
    }
)
SOURCE = Source("events", FRAME, time="time")


def compiled(name: str = "v") -> CompiledView:
    return FeatureView(name, USER, SOURCE, {"n": Count(), "amount": Sum("amount")}).compile()


VIEWS = [compiled(), compiled("w")]


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "_FIRST_WAIT", 0.001)


@pytest.fixture
def store(tmp_path: Path) -> TroubledStore:
    store = TroubledStore(MemoryStore())
    for view in VIEWS:
        bulk_load(store, view, [], START)
    write_files(FRAME, tmp_path / "files", [0, 40])
    return store


def ingest(store: TroubledStore, folder: Path, batch: int = 30) -> Ingest:
    return Ingest(store, VIEWS, folder / "files", batch=batch)


def assert_whole(store: TroubledStore | RedisStore, worker: Ingest) -> None:
    keys, now = np.arange(5, dtype=np.int64).reshape(-1, 1), np.full(5, START + DAY)
    for view in VIEWS:
        assert read_state(store, view).events == 100
        found = OnlineReader(store).read(view, list(view.features), keys, now)
        assert [plain(c) for c in found.values()] == [[20] * 5, [sum(range(u, 100, 5)) for u in range(5)]]
    assert (worker.events, worker.files) == (100, 2)


@pytest.mark.parametrize("mood", ["down", "taken", "lost"])
@pytest.mark.parametrize("before", range(8))  # two views, each in four micro-batches
def test_a_step_that_went_wrong_is_counted_once(store: TroubledStore, tmp_path: Path, mood: str, before: int) -> None:
    store.steps = ["well"] * before + [mood, mood]
    worker = ingest(store, tmp_path)
    worker.run()
    assert_whole(store, worker)
    assert worker.measures.store_errors == 2 - len(store.steps)
    assert worker.measures.trouble == ""


def test_a_store_that_is_away_is_waited_for_a_while(store: TroubledStore, tmp_path: Path) -> None:
    worker, seen = ingest(store, tmp_path), list[str]()
    store.mood = "down"

    def show(measures: Measures) -> None:
        seen.append(measures.trouble)

    with pytest.raises(UnavailableError, match=r"^troubled:: connection lost; it was tried again for 0 s$"):
        run_workers([worker], progress=show, patience=0.05)
    assert len(seen) == worker.measures.store_errors >= 3
    assert set(seen) == {"troubled:: connection lost"}
    assert worker.events == 0
    store.mood = "well"
    assert not run_workers([worker], patience=0.0)
    assert_whole(store, worker)


def test_waits_grow_up_to_a_bound(store: TroubledStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []

    def wait(stop: Stop, seconds: float) -> bool:
        waits.append(seconds)
        if len(waits) == 8:
            store.mood = "well"
        if len(waits) == 12:
            stop.asked = True
        return stop.asked

    monkeypatch.setattr(Stop, "wait", wait)
    monkeypatch.setattr(workers.random, "uniform", lambda low, high: high)
    monkeypatch.setattr(workers, "_LONGEST_WAIT", 0.02)
    store.mood = "down"
    worker = ingest(store, tmp_path)
    assert run_workers([worker], follow=True, poll=7.0, patience=0.0)
    assert waits == [0.001, 0.002, 0.004, 0.008, 0.016, 0.02, 0.02, 0.02, 7.0, 7.0, 7.0, 7.0]
    assert_whole(store, worker)


def test_a_signal_ends_a_worker_whose_store_is_away(store: TroubledStore, tmp_path: Path) -> None:
    worker = ingest(store, tmp_path)
    store.mood = "down"

    def stop(measures: Measures) -> None:
        if measures.store_errors == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    assert run_workers([worker], follow=True, progress=stop)
    assert worker.measures.store_errors == 3


def test_what_does_not_pass_is_an_error_at_once(tmp_path: Path) -> None:
    write_files(FRAME, tmp_path / "files", [0])
    with pytest.raises(StoreError, match="does not hold this version"):
        ingest(TroubledStore(MemoryStore()), tmp_path).run(follow=True)


def test_a_conflict_in_a_turn_is_tried_again(
    store: TroubledStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan, failed = MemoryStore.scan, list[bytes]()

    def conflicting(store: MemoryStore, prefix: bytes) -> list[tuple[bytes, bytes]]:
        if not failed:
            failed.append(prefix)
            raise ConflictError("all rows were taken over meanwhile")
        return scan(store, prefix)

    monkeypatch.setattr(MemoryStore, "scan", conflicting)
    worker = ingest(store, tmp_path)
    worker.run()
    assert_whole(store, worker)
    assert (worker.measures.conflicts, worker.measures.store_errors) == (1, 0)


def test_measures_say_how_a_worker_stands(store: TroubledStore, tmp_path: Path) -> None:
    write_files(FRAME[:7], tmp_path / "files" / "part", [0])
    worker = ingest(store, tmp_path)
    measures = worker.measures
    assert (measures.lag, measures.freshness(START), measures.rate) == (None, None, 0.0)
    worker.turn()
    assert measures.lag == 107 - 37
    assert {name: (p.events, p.lag) for name, p in measures.partitions.items()} == {"": (30, 70), "part": (7, 0)}
    assert measures.place == "part/000000.parquet, 7 rows"
    assert measures.newest == START + 6 * MINUTE
    assert measures.partitions[""].newest == START + 29 * MINUTE
    assert measures.freshness(START + 7 * MINUTE) == 60.0
    assert measures.watermarks == {"v": START + 29 * MINUTE, "w": START + 29 * MINUTE}
    assert measures.rate > 0
    worker.run()
    worker.measure_lag()
    assert measures.lag == 0
    assert (measures.source, measures.events, measures.files) == ("events", 107, 3)


def test_a_lag_that_is_not_known_stops_nothing(
    store: TroubledStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(*_: object) -> int:
        raise DataError("the broker does not say")

    monkeypatch.setattr(FileStream, "lag", unknown)
    worker = ingest(store, tmp_path)
    worker.run()
    assert_whole(store, worker)
    assert worker.measures.lag is None


def test_a_step_has_as_many_events_as_suit_the_store(store: TroubledStore, tmp_path: Path) -> None:
    class Small(MemoryStore):
        step_events = 15

    small = Small()
    bulk_load(small, VIEWS[0], [], START)
    worker = Ingest(small, VIEWS[:1], tmp_path / "files")
    worker.turn()
    assert worker.events == 15
    assert RedisStore.step_events < MemoryStore.step_events
