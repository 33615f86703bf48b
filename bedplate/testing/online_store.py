"""The contract suite of online stores: what an implementation of `OnlineStore` must do, as a test class to inherit.

class TestMyStore(OnlineStoreContract):
    def open(self, folder: Path) -> OnlineStore:
        return MyStore(folder)
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from time import monotonic, sleep

import numpy as np
import polars as pl
import pytest

from bedplate.aggregations.ordered import Last
from bedplate.batch import Column
from bedplate.errors import ConflictError, DeadlineError, StoreError
from bedplate.features.entity import Entity
from bedplate.features.rows import GroupedRows, SelectedValues, prepare_rows
from bedplate.features.view import CompiledView, FeatureView
from bedplate.online import keys
from bedplate.online.base import Changes, OnlineStore, text_puts
from bedplate.online.codec import Layout
from bedplate.online.fetch import OnlineReader
from bedplate.online.ingest import Ingest
from bedplate.online.load import bulk_load
from bedplate.online.memory import MemoryStore
from bedplate.online.rows import group, merged_rows, texts_of
from bedplate.online.state import states
from bedplate.online.texts import drop_texts
from bedplate.sources.base import Source
from bedplate.testing.columns import mismatches, plain
from bedplate.testing.simulator import ITEM, START, USER, Simulation, simulate, simulated_view
from bedplate.types import HOUR, Int64s


def grouped(view: CompiledView, raw: pl.DataFrame) -> GroupedRows:
    """The events of a frame as a bulk load takes them: by key, in order of time, ties and arrival."""
    rows = prepare_rows(view, raw.lazy())
    order = rows.order()
    keys, counts = np.unique(rows.keys, axis=0, return_counts=True)
    selections = tuple(
        SelectedValues(None if s.valid is None else s.valid[order], tuple(v[order] for v in s.inputs), s.texts)
        for s in rows.selections
    )
    known, sequence = (None if x is None else x[order] for x in (rows.known, rows.sequence))
    offsets = np.append(0, counts.cumsum())
    return GroupedRows(keys, offsets, rows.times[order], selections, rows.key_texts, known, sequence)


def fill(view: CompiledView, events: pl.DataFrame, cuts: Sequence[int], rewind: int) -> tuple[MemoryStore, int]:
    """A store in memory with a view's events: up to the first cut loaded in bulk, each further part merged into it.

    Args:
        view: the compiled view.
        events: rows as its source's table holds them, with integer times in the column `time`.
        cuts: numbers of rows, ascending.
        rewind: as for `bulk_load`.

    Returns:
        the store, and the time from which on its reads are exact.
    """
    store, layout = MemoryStore(), Layout(view)
    bulk = events[: cuts[0]]
    watermark = int(prepare_rows(view, bulk.lazy()).visible.max(initial=0)) + 1
    bulk_load(store, view, [grouped(view, bulk)], watermark, rewind=rewind, batch=30)
    for begin, end in zip(cuts, [*cuts[1:], len(events)], strict=True):
        rows = prepare_rows(view, events[begin:end].lazy())
        watermark = max(watermark, int(rows.visible.max(initial=0)))
        puts = merged_rows(store, layout, group(layout, rows), watermark - rewind)
        store.commit(Changes(puts + texts_of(rows, set())))
    return store, watermark


def write_files(events: pl.DataFrame, folder: Path, cuts: Sequence[int]) -> list[Path]:
    """The rows from the first cut on as the files of a stream, one from each cut to the next; empty ones left out."""
    folder.mkdir(parents=True, exist_ok=True)
    paths: list[Path] = []
    for begin, end in zip(cuts, [*cuts[1:], len(events)], strict=True):
        if end > begin:
            aside = folder / f"{begin:06}.parquet.tmp"
            events[begin:end].write_parquet(aside)
            paths.append(aside.rename(folder / f"{begin:06}.parquet"))
    return paths


def raises_store_error(call: Callable[[], object]) -> bool:
    """Whether a call raises `StoreError`."""
    try:
        call()
    except StoreError:
        return True
    return False


@contextlib.contextmanager
def _switching_often() -> Generator[None]:
    """Lets threads take turns so often that they meet within a step."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


class OnlineStoreContract:
    """Inherit, say how a store is opened, and run with pytest."""

    def open(self, folder: Path) -> OnlineStore:
        """A store that is empty the first time that it is opened for a folder."""
        raise StoreError("a contract suite says how its store is opened", where=type(self).__name__)

    def test_values_are_read_as_written(self, tmp_path: Path) -> None:
        """Values come back in the order asked for, empty for what is not there; a later one replaces an earlier one."""
        with self.open(tmp_path) as store:
            store.commit(Changes([(b"a", b"1"), (b"b", b"22")]))
            store.commit(Changes([(b"b", b"3" * 5000)]))
            assert list(store.read_many([b"b", b"x", b"a", b"b"])) == [b"3" * 5000, b"", b"1", b"3" * 5000]
            assert list(store.read_many([])) == []

    def test_runs_are_a_hint(self, tmp_path: Path) -> None:
        """Values are the same with and without runs: short and long ones, with strangers among their keys, and none."""
        keys = [b"run" + i.to_bytes(8, "big") for i in range(60)]
        others = [b"run" + i.to_bytes(8, "big") for i in range(1000, 1100)]
        with self.open(tmp_path) as store:
            store.commit(Changes([(k, k[-2:]) for k in (*keys[::2], b"a", b"s")]))
            wanted = [b"s", *reversed(keys), b"a", b"x", *keys[:3]]
            runs = [slice(1, 61), slice(63, 66), slice(66, 66)]
            expected = [k[-2:] if k in (*keys[::2], b"a", b"s") else b"" for k in wanted]
            for _ in range(3):
                assert list(store.read_many(wanted, runs)) == list(store.read_many(wanted)) == expected
            store.commit(Changes([(k, k[-2:]) for k in others]))
            assert list(store.read_many(wanted, runs)) == expected

    def test_a_step_is_seen_by_the_next_read(self, tmp_path: Path) -> None:
        """However often a value was read before, a read after a step gives the step's."""
        with self.open(tmp_path) as store:
            for step in (b"1", b"22", b"", b"4"):
                store.commit(Changes([(b"other", step + b"-")], [b"k"]))
                store.commit(Changes([(b"k", step)] if step else []))
                for _ in range(3):
                    assert list(store.read_many([b"k", b"none"])) == [step, b""]

    def test_a_scan_gives_a_prefix(self, tmp_path: Path) -> None:
        """A scan is ascending and stays within the prefix; a delete too, and it comes before the puts of its step."""
        with self.open(tmp_path) as store:
            store.commit(Changes([(k, k) for k in (b"p2", b"p1", b"q", b"o", b"p\xff")]))
            assert [k for k, _ in store.scan(b"p")] == [b"p1", b"p2", b"p\xff"]
            store.commit(Changes([(b"p3", b"3")], [b"p"]))
            assert [k for k, _ in store.scan(b"p")] == [b"p3"]
            assert list(store.read_many([b"q", b"o"])) == [b"q", b"o"]

    def test_keys_are_dropped_before_values_are_put(self, tmp_path: Path) -> None:
        """Keys that are dropped are gone, others that begin alike are not; one may be dropped and put in a step."""
        with self.open(tmp_path) as store:
            store.commit(Changes([(k, b"1") for k in (b"r12345678a", b"r12345678ab", b"r12345678b", b"r12345678c")]))
            store.commit(Changes([(b"r12345678b", b"2")], drops=[b"r12345678a", b"r12345678b", b"r12345678x"]))
            assert store.scan(b"r12345678") == [(b"r12345678ab", b"1"), (b"r12345678b", b"2"), (b"r12345678c", b"1")]

    def test_pages_go_on_while_others_write(self, tmp_path: Path) -> None:
        """Every key that is there all the time is in the pages, though those of earlier pages are dropped meanwhile."""
        names = [b"r12345678" + bytes([i]) for i in range(100)]
        with self.open(tmp_path) as store:
            store.commit(Changes([(n, n[-1:]) for n in (*names, b"r1234567", b"r12345679", b"s")]))
            seen: dict[bytes, bytes] = {}
            for page in store.pages(b"r12345678", 7):
                store.commit(Changes([(b"other", b"1")], drops=[n for n in names if n in seen]))
                seen.update(page)
            assert seen == {n: n[-1:] for n in names}
            assert list(store.pages(b"none")) == []

    def test_a_step_that_expects_something_else_is_not_taken(self, tmp_path: Path) -> None:
        """A step is taken only while all values that it expects are there, missing ones included."""
        state, row = b"v12345678", b"r12345678-"
        with self.open(tmp_path) as store:
            store.commit(Changes([(state, b"1"), (row, b"a")], expects=[(state, b"")]))
            for expected in ([(state, b"")], [(state, b"2")], [(state, b"1"), (row, b"b")], [(b"v12345678x", b"1")]):
                with pytest.raises(ConflictError):
                    store.commit(Changes([(state, b"3"), (row, b"c")], [b"r12345678"], expects=expected))
                assert list(store.read_many([state, row])) == [b"1", b"a"]
            store.commit(
                Changes([(state, b"2")], [b"r12345678"], expects=[(state, b"1"), (row, b"a"), (b"v1234567", b"")])
            )
            assert list(store.read_many([state, row])) == [b"2", b""]

    def test_writers_in_turn_lose_nothing(self, tmp_path: Path) -> None:
        """Threads that each read, add and expect what they read add up to all their steps."""
        name = b"v12345678"
        with self.open(tmp_path) as store:

            def add() -> None:
                done = 0
                while done < 25:
                    (value,) = store.read_many([name])
                    try:
                        store.commit(Changes([(name, b"%d" % (int(value or b"0") + 1))], expects=[(name, value)]))
                    except ConflictError:
                        continue
                    done += 1

            writers = [threading.Thread(target=add) for _ in range(3)]
            for writer in writers:
                writer.start()
            for writer in writers:
                writer.join()
            assert list(store.read_many([name])) == [b"75"]

    def test_a_deadline_that_has_passed_is_an_error(self, tmp_path: Path) -> None:
        """A read that can't be in time is not begun; one that has time gives its values."""
        with self.open(tmp_path) as store:
            store.commit(Changes([(b"a", b"1")]))
            with pytest.raises(DeadlineError):
                store.read_many([b"a"], deadline=monotonic() - 1.0)
            assert list(store.read_many([b"a"], deadline=monotonic() + 60.0)) == [b"1"]

    def test_one_writer_a_name(self, tmp_path: Path) -> None:
        """A name can be claimed once at a time, and again after an error."""
        with self.open(tmp_path) as store:
            with store.writing(["a", "b"]):
                assert raises_store_error(lambda: store.writing(["b", "c"]).__enter__())
                with store.writing(["c"]):
                    assert raises_store_error(lambda: store.writing(["a"]).__enter__())
            with store.writing(["a"]):
                store.commit(Changes([(b"k", b"v")]))

    def test_texts_change_only_where_they_are_as_expected(self, tmp_path: Path) -> None:
        """A step of texts that expects some to be as they were is not taken where one was put again meanwhile."""
        one, two, three = text_puts({1: "one", 2: "two", 3: ""})
        names = [one[0], two[0], three[0]]
        with self.open(tmp_path) as store:
            store.commit(Changes([one, two]))
            for expected in ([one, (two[0], b"")], [(one[0], two[1]), two], [(three[0], three[1])]):
                with pytest.raises(ConflictError):
                    store.commit(Changes([three], drops=names, expects=expected))
                assert list(store.read_many(names)) == [one[1], two[1], b""]
            store.commit(Changes([three], drops=[one[0], two[0]], expects=[one, (three[0], b"")]))
            assert list(store.read_many(names)) == [b"", b"", three[1]]

    def test_texts_are_dropped_while_workers_name_them(self, tmp_path: Path) -> None:
        """Texts that no row names any more are dropped beside workers, and none that a row names is ever missing."""
        at = range(90)
        frame = pl.DataFrame(
            {"user": [i % 3 for i in at], "time": [START + i * HOUR for i in at], "page": [f"page {i % 5}" for i in at]}
        )
        source = Source("events", frame, time="time")
        view = FeatureView("v", USER, source, {"page": Last("page")}).compile()
        for part in range(3):
            write_files(frame.filter(pl.col("user") == part), tmp_path / "files" / f"{part}", [0])
        with self.open(tmp_path) as store:
            bulk_load(store, view, [], START)
            workers = [Ingest(store, [view], tmp_path / "files", batch=1) for _ in range(2)]
            threads = [threading.Thread(target=worker.run) for worker in workers]
            for thread in threads:
                thread.start()
            while any(thread.is_alive() for thread in threads):
                drop_texts(store)
                sleep(0.001)
            drop_texts(store)
            columns = OnlineReader(store).read(
                view, ["v.page"], np.arange(3).reshape(-1, 1), np.full(3, START + 90 * HOUR)
            )
            assert plain(columns["v.page"]) == ["page 2", "page 3", "page 4"]

    def test_readers_see_whole_steps(self, tmp_path: Path) -> None:
        """While steps of a view are written, every read sees one of them whole."""
        names = [b"r12345678%04d" % i for i in range(200)]
        torn: list[set[bytes]] = []
        seen: list[set[bytes]] = [set(), set()]
        with self.open(tmp_path) as store, _switching_often():
            store.commit(Changes([(n, b"0") for n in names]))
            is_over = threading.Event()

            def read(of_reader: set[bytes]) -> None:
                while not is_over.is_set():
                    values = set(store.read_many(names))
                    of_reader.update(values)
                    if len(values) != 1:
                        torn.append(values)

            readers = [threading.Thread(target=read, args=(of_reader,)) for of_reader in seen]
            for reader in readers:
                reader.start()
            step, until = 0, monotonic() + 60.0
            while step < 40 or (min(map(len, seen)) < 40 and not torn and monotonic() < until):
                step += 1
                store.commit(Changes([(n, b"%d" % step) for n in names]))
            is_over.set()
            for reader in readers:
                reader.join()
        assert torn == []
        assert min(map(len, seen)) >= 40

    def test_a_view_is_readable_once_loaded(self, tmp_path: Path) -> None:
        """Before its load is complete a view can't be read; an interrupted load is started again from nothing."""
        simulation, view = _simulated()
        with self.open(tmp_path) as store:
            assert raises_store_error(lambda: _read(store, view, simulation))
            blocks = [grouped(view, simulation.events)]

            def broken() -> Iterator[GroupedRows]:
                yield from blocks
                raise KeyboardInterrupt

            try:
                bulk_load(store, view, broken(), _end(simulation))
            except KeyboardInterrupt:
                assert [s.complete for s in states(store)] == [False]
            assert raises_store_error(lambda: _read(store, view, simulation))
            bulk_load(store, view, blocks, _end(simulation))
            assert len(_read(store, view, simulation)) == len(view.features)

    def test_a_view_is_loaded_again_beside_what_is_read(self, tmp_path: Path) -> None:
        """Until a second load is whole, and where it is interrupted, the first one is read; then only the second is."""
        simulation, view = _simulated()
        first, rows = grouped(view, simulation.events), len(np.unique(grouped(view, simulation.events[:40]).keys))
        with self.open(tmp_path) as store:
            bulk_load(store, view, [first], _end(simulation))
            before = _read(store, view, simulation)

            def broken() -> Iterator[GroupedRows]:
                yield grouped(view, simulation.events[:20])
                assert mismatches(_read(store, view, simulation), before) == []
                raise KeyboardInterrupt

            with pytest.raises(KeyboardInterrupt):
                bulk_load(store, view, broken(), _end(simulation), batch=10)
            assert mismatches(_read(store, view, simulation), before) == []
            bulk_load(store, view, [grouped(view, simulation.events[:40])], _end(simulation), batch=10)
            assert mismatches(_read(store, view, simulation), before) != []
            assert sum(map(len, store.pages(keys.rows_of(view)))) == rows

    def test_a_changed_view_is_another(self, tmp_path: Path) -> None:
        """Rows of one definition are not read as rows of another."""
        simulation, view = _simulated()
        changed = simulated_view(simulation, (USER,), ttl=HOUR)
        with self.open(tmp_path) as store:
            bulk_load(store, view, [grouped(view, simulation.events)], _end(simulation))
            assert raises_store_error(lambda: _read(store, changed, simulation))

    def test_load_and_stream_give_the_same(self, tmp_path: Path) -> None:
        """A stream taken in after a load gives what a load of everything gives, texts included."""
        simulation, _ = _simulated()
        for entities in ((USER,), (ITEM, USER)):
            view = simulated_view(simulation, entities)
            folder = tmp_path / f"{len(entities)}"
            with self.open(folder / "whole") as whole, self.open(folder / "streamed") as streamed:
                bulk_load(whole, view, [grouped(view, simulation.events)], _end(simulation))
                bulk_load(streamed, view, [grouped(view, simulation.events[:50])], _end(simulation))
                write_files(simulation.events, folder / "files", [50, 90, 120])
                done = Ingest(streamed, [view], folder / "files", batch=20, late=True).run()
                assert (done.events, done.files) == (len(simulation.events) - 50, 3)
                again = Ingest(streamed, [view], folder / "files").run()
                assert (again.events, again.files) == (0, 0)
                got, expected = _read(streamed, view, simulation), _read(whole, view, simulation)
            assert mismatches(got, expected) == []


def _simulated() -> tuple[Simulation, CompiledView]:
    simulation = simulate(11, events=160)
    return simulation, simulated_view(simulation, (USER,))


def _end(simulation: Simulation) -> int:
    times: Int64s = simulation.events["time"].to_numpy()
    return int(times.max()) + 1


def _read(store: OnlineStore, view: CompiledView, simulation: Simulation) -> dict[str, Column]:
    """The values of every feature after the end, read through to plain columns while the store is open."""
    reader, entities = OnlineReader(store), list[Entity](view.view.entities)
    keys = simulation.keys(entities)
    columns = reader.read(view, list(view.features), keys, np.maximum(simulation.times, _end(simulation)))
    reader.texts.load(list(reader.texts))
    return dict(columns)
