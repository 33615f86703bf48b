"""A view is loaded again beside the rows that are read; one step switches, and no reader sees an error or a mix."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from bedplate.aggregations.ordered import Last
from bedplate.errors import ConflictError
from bedplate.features.entity import Entity
from bedplate.features.rows import GroupedRows
from bedplate.features.view import CompiledView, FeatureView
from bedplate.online import keys
from bedplate.online.base import Changes, OnlineStore
from bedplate.online.compact import drop
from bedplate.online.fetch import OnlineReader
from bedplate.online.ingest import Ingest
from bedplate.online.lmdb import LmdbStore
from bedplate.online.load import bulk_load
from bedplate.online.memory import MemoryStore
from bedplate.online.state import read_state
from bedplate.sources.base import Source
from bedplate.testing.online_store import grouped, write_files
from bedplate.types import DAY

NOW, KEYS = 20_000 * DAY, 300

READ = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_generations import compiled, value
from bedplate.online.fetch import OnlineReader
from bedplate.online.lmdb import LmdbStore

with LmdbStore(Path(sys.argv[1])) as store:
    reader, view = OnlineReader(store), compiled()
    print(value(reader, view), flush=True)
    seen = 0.0
    while seen < 3.0:
        seen = value(reader, view)
print(seen)
"""


def events(value: float, count: int = KEYS) -> pl.DataFrame:
    """One event a key, all of one value."""
    return pl.DataFrame({"user": np.arange(count), "time": np.full(count, NOW - 1), "x": np.full(count, value)})


def compiled() -> CompiledView:
    """A view whose values say by which load they came."""
    source = Source("events", events(0.0, 1), time="time")
    return FeatureView("v", Entity("user", key="user"), source, {"x": Last("x")}).compile()


def load(store: OnlineStore, value: float) -> None:
    """A bulk load in small steps."""
    bulk_load(store, compiled(), [grouped(compiled(), events(value))], NOW, batch=40)


def value(reader: OnlineReader, view: CompiledView) -> float:
    """The value of all keys, which are of one load."""
    column = reader.read(view, ["v.x"], np.arange(KEYS).reshape(-1, 1), np.full(KEYS, NOW))["v.x"]
    assert column.present is None or column.present.all()
    (found,) = set(column.values.tolist())
    return float(found)


def generations(store: OnlineStore) -> list[int]:
    """The generations of which there are rows."""
    return sorted({key[9] for key, _ in store.scan(keys.ROWS)})


def broken(value: float) -> Iterator[GroupedRows]:
    """A load that is interrupted."""
    yield grouped(compiled(), events(value))
    raise KeyboardInterrupt


def test_readers_in_threads_and_in_another_process_see_one_load_or_the_next(tmp_path: Path) -> None:
    view, over = compiled(), threading.Event()
    with ExitStack() as stack:
        store = stack.enter_context(LmdbStore(tmp_path / "store", map_size=1 << 20))
        load(store, 1.0)
        command = [sys.executable, "-c", READ, str(tmp_path / "store"), str(Path(__file__).parent)]
        other = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        stack.callback(other.kill)
        assert other.stdout is not None
        assert other.stdout.readline() == "1.0\n"

        def read() -> list[float]:
            reader, seen = OnlineReader(store), list[float]()
            while not over.is_set() or seen[-1] != 3.0:
                seen.append(value(reader, view))
            return seen

        pool = stack.enter_context(ThreadPoolExecutor(2))
        stack.callback(over.set)
        reading = [pool.submit(read) for _ in range(2)]
        for number in (2.0, 3.0):
            load(store, number)
        over.set()
        for seen in reading:
            assert seen.result() == sorted(seen.result())
        assert other.communicate(timeout=60)[0] == "3.0\n"
        assert other.returncode == 0
        assert len(store.scan(keys.ROWS)) == KEYS


def test_an_interrupted_load_leaves_what_is_read_and_the_next_one_cleans_up() -> None:
    store, view = MemoryStore(), compiled()
    load(store, 1.0)
    with pytest.raises(KeyboardInterrupt):
        bulk_load(store, view, broken(2.0), NOW, batch=40)
    assert value(OnlineReader(store), view) == 1.0
    assert generations(store) == [0, 1]
    bulk_load(store, view, [grouped(view, events(3.0)[: KEYS // 2])], NOW)
    assert generations(store) == [1]
    column = OnlineReader(store).read(view, ["v.x"], np.arange(KEYS).reshape(-1, 1), np.full(KEYS, NOW))["v.x"]
    assert column.present is not None
    assert column.present.sum() == KEYS // 2
    assert store.scan(keys.LOADS) == []


def test_generations_go_round() -> None:
    store, view = MemoryStore(), compiled()
    reader = OnlineReader(store)
    for number in range(keys.GENERATIONS + 3):
        bulk_load(store, view, [grouped(view, events(float(number), 2))], NOW)
        assert generations(store) == [number % keys.GENERATIONS]
    found = reader.read(view, ["v.x"], np.array([[0], [1]]), np.full(2, NOW))["v.x"]
    assert found.values.tolist() == [keys.GENERATIONS + 2.0] * 2


def test_a_load_that_another_one_followed_writes_nothing_more() -> None:
    store, view = MemoryStore(), compiled()
    load(store, 1.0)

    def overtaken() -> Iterator[GroupedRows]:
        yield grouped(view, events(2.0))
        store._claimed.clear()  # its lease has ended
        load(store, 3.0)
        yield grouped(view, events(4.0).with_columns(pl.col("user") + KEYS))

    with pytest.raises(ConflictError):
        bulk_load(store, view, overtaken(), NOW)
    assert value(OnlineReader(store), view) == 3.0
    assert len(store.scan(keys.ROWS)) == KEYS


def lose(store: MemoryStore, before: list[tuple[bytes, bytes]]) -> None:
    """Takes a store back to what it was, as a server that is started again and has lost its last steps."""
    store.commit(Changes(before, deletes=[b""]))


def test_a_load_whose_steps_the_store_has_lost_is_not_switched_to() -> None:
    store, view = MemoryStore(), compiled()
    load(store, 1.0)
    kept: list[list[tuple[bytes, bytes]]] = []

    def troubled(_: int) -> None:
        kept.append(store.scan(b""))
        if len(kept) == 3:
            lose(store, kept[1])

    with pytest.raises(ConflictError, match="has lost steps of the load"):
        bulk_load(store, view, [grouped(view, events(2.0))], NOW, batch=10, progress=troubled)
    assert value(OnlineReader(store), view) == 1.0
    load(store, 3.0)
    assert value(OnlineReader(store), view) == 3.0


@pytest.mark.parametrize("act", [lambda store: load(store, 2.0), lambda store: drop(store, "v")])
def test_rows_that_are_read_again_as_the_store_has_lost_a_step_are_not_deleted(
    monkeypatch: pytest.MonkeyPatch, act: Callable[[MemoryStore], object]
) -> None:
    store, view = MemoryStore(), compiled()
    load(store, 1.0)
    before, commit = store.scan(b""), MemoryStore.commit

    def losing(store: MemoryStore, changes: Changes) -> None:
        commit(store, changes)
        if keys.load_of(view) in changes.drops:  # a switch to a load, or the step that drops a view
            commit(store, Changes(before, deletes=[b""]))

    monkeypatch.setattr(MemoryStore, "commit", losing)
    with pytest.raises(ConflictError, match="were not deleted"):
        act(store)
    assert value(OnlineReader(store), view) == 1.0


def test_a_stream_goes_on_in_the_new_generation(tmp_path: Path) -> None:
    store, view = MemoryStore(), compiled()
    load(store, 1.0)
    write_files(events(2.0).with_columns(time=pl.lit(NOW)), tmp_path, [0, 100])
    assert Ingest(store, [view], tmp_path).run().events == KEYS
    load(store, 3.0)
    assert value(OnlineReader(store), view) == 3.0
    state = read_state(store, view)
    assert (state.generation, state.positions) == (1, {})
    assert Ingest(store, [view], tmp_path).run().events == KEYS
    reader = OnlineReader(store)
    found = reader.read(view, ["v.x"], np.arange(KEYS).reshape(-1, 1), np.full(KEYS, NOW + 1))["v.x"]
    assert set(found.values.tolist()) == {2.0}
    assert generations(store) == [1]
