"""Several workers share a stream's partitions, and whoever is late finds that it is."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Generator, Sequence
from pathlib import Path

import msgspec
import numpy as np
import polars as pl
import pytest

from bedplate.aggregations.arithmetic import Count, Sum
from bedplate.aggregations.ordered import Last
from bedplate.errors import DataError, StoreError
from bedplate.features.view import CompiledView, FeatureView
from bedplate.online import keys as store_keys
from bedplate.online.base import Changes, OnlineStore
from bedplate.online.fetch import OnlineReader
from bedplate.online.files import FileStream
from bedplate.online.ingest import Ingest
from bedplate.online.load import bulk_load
from bedplate.online.memory import MemoryStore
from bedplate.online.state import read_state, states
from bedplate.online.streams import Position
from bedplate.sources.base import Source
from bedplate.testing.columns import plain
from bedplate.testing.online_store import write_files
from bedplate.testing.simulator import START, USER
from bedplate.types import DAY, MINUTE

FRAME = pl.DataFrame(
    {
        "user": [i % 5 for i in range(100)],
        "time": [START + i * MINUTE for i in range(100)],
        "amount": list(range(100)),
        "kind": [f"kind {i}" for i in range(100)],
    }
)
SOURCE = Source("events", FRAME, time="time")
FEATURES = {"n": Count(), "amount": Sum("amount"), "kind": Last("kind")}


def compiled(name: str = "v") -> CompiledView:
    return FeatureView(name, USER, SOURCE, FEATURES).compile()


def empty(store: OnlineStore, *views: CompiledView) -> None:
    for view in views:
        bulk_load(store, view, [], START)


def read(store: OnlineStore, view: CompiledView) -> dict[str, list[object]]:
    keys = np.arange(5, dtype=np.int64).reshape(-1, 1)
    columns = OnlineReader(store).read(view, list(view.features), keys, np.full(5, START + DAY))
    return {name: plain(column) for name, column in columns.items()}


def whole(view: CompiledView, folder: Path) -> dict[str, list[object]]:
    """What a store holds into which one worker took everything in."""
    store = MemoryStore()
    empty(store, view)
    Ingest(store, [view], folder).run()
    return read(store, view)


def by_user(folder: Path, users: int = 5) -> None:
    """A partition a user, in three files each."""
    for user in range(users):
        write_files(FRAME.filter(pl.col("user") == user), folder / f"p{user}", [0, 7, 14])


class Hooked(MemoryStore):
    """A store in which something happens before each step, and claims are not heeded."""

    before: Callable[[], None] | None = None

    @contextlib.contextmanager
    def writing(self, names: Sequence[str]) -> Generator[None]:
        yield

    def commit(self, changes: Changes) -> None:
        before, self.before = self.before, None
        if before is not None:
            before()
        super().commit(changes)


def test_subdirectories_are_partitions_with_a_position_each(tmp_path: Path) -> None:
    view, store = compiled(), MemoryStore()
    empty(store, view)
    by_user(tmp_path)
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "aside.tmp").mkdir()
    FRAME[:0].write_parquet(tmp_path / "000000.parquet")
    done = Ingest(store, [view], tmp_path, batch=4).run()
    assert (done.events, done.files) == (100, 16)
    last = Position("000014.parquet", 6)
    assert read_state(store, view).positions == {"": Position("000000.parquet", 0)} | {f"p{u}": last for u in range(5)}
    assert read(store, view)["v.n"] == [20] * 5
    FRAME[:3].write_parquet(tmp_path / "p1" / "000010.parquet")
    with pytest.raises(DataError, match="comes after it by name") as caught:
        Ingest(store, [view], tmp_path).run()
    assert caught.value.where == f"{tmp_path}/p1/000010.parquet"


def test_files_of_one_name_in_two_partitions_are_two(tmp_path: Path) -> None:
    view, store = compiled(), MemoryStore()
    empty(store, view)
    write_files(FRAME[:10], tmp_path / "a", [0])
    assert Ingest(store, [view], tmp_path).run().events == 10
    write_files(FRAME[10:30], tmp_path / "b", [0])
    assert Ingest(store, [view], tmp_path).run().events == 20


def test_a_worker_that_was_overtaken_in_its_partition_throws_its_work_away(tmp_path: Path) -> None:
    view, store = compiled(), Hooked()
    empty(store, view)
    write_files(FRAME, tmp_path, [0, 50])
    other = Ingest(store, [view], tmp_path, batch=20)
    slow = Ingest(store, [view], tmp_path, batch=30)
    store.before = lambda: other.turn() and None
    done = slow.run()
    assert (other.events, done.events) == (20, 80)
    assert read_state(store, view).events == 100
    assert read(store, view) == whole(view, tmp_path)


def test_a_worker_that_another_partition_overtook_merges_again(tmp_path: Path) -> None:
    view, store = compiled(), Hooked()
    empty(store, view)
    for part, name in ((FRAME[::2], "a"), (FRAME[1::2], "b")):  # every user is in both
        write_files(part, tmp_path / name, [0])
    (tmp_path / "b").rename(tmp_path / "b.tmp")
    slow, other = Ingest(store, [view], tmp_path), Ingest(store, [view], tmp_path)

    def overtake() -> None:
        (tmp_path / "b.tmp").rename(tmp_path / "b")
        (tmp_path / "a").rename(tmp_path / "a.tmp")
        other.run()
        (tmp_path / "a.tmp").rename(tmp_path / "a")

    store.before = overtake
    assert slow.run().events == 50
    assert other.events == 50
    assert read_state(store, view).events == 100
    assert read(store, view) == whole(view, tmp_path)


def test_a_load_that_begins_while_a_worker_is_at_work_stops_it(tmp_path: Path) -> None:
    view, store = compiled(), Hooked()
    empty(store, view)
    write_files(FRAME, tmp_path, [0])
    store.before = lambda: bulk_load(store, view, [], START + MINUTE) and None
    with pytest.raises(DataError, match="would count twice"):
        Ingest(store, [view], tmp_path, batch=10).run()
    assert read(store, view)["v.n"] == [0] * 5


def test_a_partition_at_which_another_is_at_work_is_waited_for(tmp_path: Path) -> None:
    view, store = compiled(), MemoryStore()
    empty(store, view)
    by_user(tmp_path, 2)
    worker = Ingest(store, [view], tmp_path)
    with store.writing([f"{view.id}/p0"]):
        thread = threading.Thread(target=worker.run)
        thread.start()
        while read_state(store, view).position("p1") < Position("000014.parquet", 6):
            pass
        assert read_state(store, view).position("p0") == Position()
    thread.join()
    assert worker.events == 40


def test_a_state_of_another_form_is_refused() -> None:
    view, store = compiled(), MemoryStore()
    empty(store, view)
    fields = msgspec.to_builtins(read_state(store, view)) | {"strange": 1}
    store.commit(Changes([(store_keys.state_of(view), msgspec.json.encode(fields))]))
    for call in (lambda: read_state(store, view), lambda: states(store)):
        with pytest.raises(StoreError, match="strange") as caught:
            call()
        assert "another version of Bedplate" in (caught.value.hint or "")


def test_lag_counts_the_rows_that_are_left(tmp_path: Path) -> None:
    view = compiled()
    write_files(FRAME, tmp_path / "a", [0, 60])
    stream = FileStream(tmp_path, view)
    assert stream.partitions() == ["", "a"]
    after = [Position(), Position("000000.parquet", 25), Position("000060.parquet", 40)]
    assert [stream.lag("a", p) for p in after] == [100, 75, 0]
    assert stream.lag("", Position()) == 0


class Later(MemoryStore):
    """A store in which something happens once, after a worker has listed the files and before it claims a partition."""

    before: Callable[[], None] | None = None

    @contextlib.contextmanager
    def writing(self, names: Sequence[str]) -> Generator[None]:
        before, self.before = self.before, None
        if before is not None:
            before()
        with super().writing(names):
            yield


def test_a_file_that_came_after_the_listing_and_is_begun_by_another_worker_is_not_gone(tmp_path: Path) -> None:
    view, store, stream = compiled(), Later(), tmp_path / "stream"
    write_files(FRAME[:50], stream / "p", [0])
    empty(store, view)
    one, other = Ingest(store, [view], stream, batch=20), Ingest(store, [view], stream, batch=60)

    def overtake() -> None:
        FRAME[50:].write_parquet(stream / "p" / "000050.parquet")
        other.turn(None, None)  # all of the first file
        Ingest(store, [view], stream, batch=20).turn(None, None)  # and 20 rows of the next one

    store.before = overtake
    one.run()
    assert read(store, view) == whole(view, stream)


def test_a_file_that_was_taken_in_in_part_and_is_gone_is_an_error(tmp_path: Path) -> None:
    view, store = compiled(), MemoryStore()
    empty(store, view)
    (path,) = write_files(FRAME, tmp_path / "p", [0])
    Ingest(store, [view], tmp_path, batch=20).turn(None, None)
    path.unlink()
    with pytest.raises(DataError, match="the file is gone, of which only 20 rows were taken in"):
        Ingest(store, [view], tmp_path).run()
