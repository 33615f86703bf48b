"""Ingest takes in every event once, whatever is killed or broken, and readers see whole steps."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bedplate.aggregations.arithmetic import Count, Sum
from bedplate.aggregations.ordered import Last
from bedplate.errors import DataError, DefinitionError, StoreError
from bedplate.features.rows import prepare_rows
from bedplate.features.view import CompiledView, FeatureView
from bedplate.offline.reference import Reference
from bedplate.online.base import Changes
from bedplate.online.fetch import OnlineReader
from bedplate.online.ingest import Ingest
from bedplate.online.lmdb import LmdbStore
from bedplate.online.load import bulk_load
from bedplate.online.memory import MemoryStore
from bedplate.online.state import read_state
from bedplate.sources.base import Source
from bedplate.testing.columns import mismatches, plain
from bedplate.testing.online_store import grouped, write_files
from bedplate.testing.simulator import (
    ITEM,
    START,
    USER,
    delays,
    simulate,
    simulated_view,
    simulations,
    ttls,
)
from bedplate.types import DAY, HOUR, MINUTE


def loaded(view: CompiledView, events: pl.DataFrame, store=None):
    store = MemoryStore() if store is None else store
    until = max(START, int(prepare_rows(view, events.lazy()).visible.max(initial=0)) + 1)
    bulk_load(store, view, [grouped(view, events)], until)
    return store


def assert_equals_oracle(store, view, simulation, watermark):
    asked = simulation.since(watermark)
    keys = asked.keys(view.view.entities)
    got = OnlineReader(store).read(view, list(view.features), keys, asked.times)
    assert mismatches(got, Reference(view).read(view, list(view.features), keys, asked.times)) == []


@settings(max_examples=30)
@given(
    simulation=simulations(),
    delay=delays(),
    ttl=ttls(),
    cuts=st.lists(st.integers(0, 100), min_size=1, max_size=6),
    batch=st.integers(1, 60),
    order=st.sampled_from([(None, None), ("known", None), ("known", "rank")]),
)
def test_equals_the_oracle(tmp_path_factory, simulation, delay, ttl, cuts, batch, order):
    folder = tmp_path_factory.mktemp("stream")
    rows = sorted(c * len(simulation.events) // 100 for c in cuts)
    available, sequence = order
    views = [
        simulated_view(
            simulation, e, delay=None if available else delay, ttl=ttl, available=available, sequence=sequence
        )
        for e in ((USER,), (ITEM, USER))
    ]
    store = MemoryStore()
    for view in views:
        loaded(view, simulation.events[: rows[0]], store)
    write_files(simulation.events, folder, rows)
    done = Ingest(store, views, folder, batch=batch, late=True).run()
    assert done.events == len(simulation.events) - rows[0]
    for view in views:
        assert_equals_oracle(store, view, simulation, done.watermark)


def _counted(delay=None, events=None):
    """A view that counts, over a stream of 100 rows: row i is user i % 5 at START + i minutes."""
    frame = pl.DataFrame(
        {
            "user": [i % 5 for i in range(100)],
            "time": [START + i * MINUTE for i in range(100)],
            "kind": [f"kind {i}" for i in range(100)],
        }
    )
    source = Source("events", frame if events is None else events, time="time", delay=delay)
    features = {"n": Count(), "n_in": Count(windows="1h"), "kind": Last("kind")}
    return frame, FeatureView("v", USER, source, features).compile()


def _read(store, view, time, users=(0, 1, 2, 3, 4)):
    keys = np.array(users, np.int64).reshape(-1, 1)
    columns = OnlineReader(store).read(view, list(view.features), keys, np.full(len(users), time))
    return {n.removeprefix("v."): plain(c) for n, c in columns.items()}


def test_reads_a_little_before_the_watermark_and_no_further(tmp_path):
    frame, view = _counted()
    store = loaded(view, frame[:0])
    write_files(frame, tmp_path, [0])
    done = Ingest(store, [view], tmp_path, rewind=3 * MINUTE).run()
    assert done.watermark == START + 99 * MINUTE
    assert _read(store, view, START + 200 * MINUTE)["n"] == [20] * 5
    assert _read(store, view, done.watermark)["n"] == [20, 20, 20, 20, 19]
    assert _read(store, view, START + 97 * MINUTE)["n"] == [20, 20, 19, 19, 19]
    with pytest.raises(StoreError, match="ahead of the time asked for") as caught:
        _read(store, view, START + 90 * MINUTE)
    assert "history" in caught.value.hint


def test_an_event_ahead_of_the_clock_is_not_seen_before_its_time(tmp_path):
    frame, view = _counted()
    store = loaded(view, frame[:0])
    early = pl.DataFrame({"user": [0], "time": [START + 30 * DAY], "kind": ["far"]})
    write_files(pl.concat([early, frame]), tmp_path, [0, 1])
    now = START + 101 * MINUTE
    done = Ingest(store, [view], tmp_path, clock=lambda: now).run()
    assert done.watermark == START + 99 * MINUTE
    assert _read(store, view, now, [0]) == {"n": [20], "n_in_1h": [12], "kind": ["kind 95"]}
    assert _read(store, view, START + 31 * DAY, [0])["kind"] == ["far"]


def test_until_stops_before_a_file(tmp_path):
    frame, view = _counted()
    store = loaded(view, frame[:0])
    write_files(frame, tmp_path, [0, 30, 60])
    ingest = Ingest(store, [view], tmp_path)
    assert ingest.run(until=START + 60 * MINUTE).events == 60
    assert ingest.run(until=START + 60 * MINUTE).events == 0
    assert ingest.run().files == 1


def test_a_view_loaded_later_takes_in_the_stream_from_its_beginning(tmp_path):
    frame, view = _counted()
    store = loaded(view, frame[:0])
    write_files(frame, tmp_path, [0, 40])
    Ingest(store, [view], tmp_path, batch=7).run(until=START + 40 * MINUTE)
    features = {"n": Count()}
    late = FeatureView("late", USER, view.view.source, features).compile()
    loaded(late, frame[:0], store)
    assert Ingest(store, [late, view], tmp_path, batch=7).run().files == 2
    now = np.array([START + DAY])
    for v in (view, late):
        column = OnlineReader(store).read(v, [f"{v.name}.n"], np.array([[3]]), now)[f"{v.name}.n"]
        assert column.values.tolist() == [20]


def test_a_cleaning_step_sees_whole_files(tmp_path):
    frame, _ = _counted()
    source = Source("events", frame, time="time", prepare=lambda rows: rows.unique(maintain_order=True))
    view = FeatureView("v", USER, source, {"n": Count()}).compile()
    store = loaded(view, frame[:0])
    write_files(pl.concat([frame, frame]), tmp_path, [0])
    Ingest(store, [view], tmp_path, batch=3).run()
    assert _read(store, view, START + DAY)["n"] == [20] * 5


def test_poison_files_stop_it_and_do_not_move_the_position(tmp_path):
    frame, view = _counted()
    store = loaded(view, frame[:0])
    write_files(frame, tmp_path, [0, 50])
    bad = tmp_path / "000025.parquet"
    wrong = {
        "column 'kind'": frame.drop("kind"),
        "column 'time'": frame.with_columns(pl.col("time").cast(pl.Float64)),
        "source 'events'": frame.with_columns(pl.lit(None, pl.Int64).alias("user")),
    }
    for place, rows in wrong.items():
        rows.write_parquet(bad)
        with pytest.raises(DataError) as caught:
            Ingest(store, [view], tmp_path).run()
        assert "000025.parquet" in caught.value.where
        assert place in caught.value.where
        assert read_state(store, view).position("").name == "000000.parquet"
    bad.write_bytes(b"PAR1 this is no Parquet file")
    with pytest.raises(DataError, match="can't read the file"):
        Ingest(store, [view], tmp_path).run()
    bad.unlink()
    assert Ingest(store, [view], tmp_path).run().events == 50
    assert _read(store, view, START + DAY)["n"] == [20] * 5


def test_a_file_that_says_in_another_unit_when_rows_could_be_known_is_refused(tmp_path):
    frame, _ = _counted()
    frame = frame.with_columns(known=pl.col("time") + MINUTE)
    source = Source("events", frame, time="time", available="known")
    view = FeatureView("v", USER, source, {"n": Count()}).compile()
    store = loaded(view, frame[:0])
    write_files(frame.with_columns(pl.col("known") // 1000), tmp_path, [0])
    with pytest.raises(DataError, match=r"column 'known': the greatest time is .*\n  milliseconds\?"):
        Ingest(store, [view], tmp_path).run()
    assert read_state(store, view).position("").name != "000000.parquet"


def test_files_being_written_and_other_files_are_left_alone(tmp_path):
    frame, view = _counted()
    store = loaded(view, frame[:0])
    for name in (".hidden.parquet", "a.parquet.tmp", "notes.txt"):
        (tmp_path / name).write_bytes(b"half")
    assert Ingest(store, [view], tmp_path).run().events == 0


def test_a_file_that_comes_too_late_by_name_is_not_passed_over(tmp_path):
    frame, view = _counted()
    store = loaded(view, frame[:0])
    write_files(frame[50:], tmp_path, [20])
    Ingest(store, [view], tmp_path).run()
    write_files(frame[:50], tmp_path, [0])
    with pytest.raises(DataError, match="comes after it by name"):
        Ingest(store, [view], tmp_path).run()


def test_a_file_may_be_deleted_once_it_is_in(tmp_path):
    frame, view = _counted()
    store = loaded(view, frame[:0])
    for path in write_files(frame, tmp_path, [0, 50]):
        path.unlink()
    assert Ingest(store, [view], tmp_path).run().events == 0


def test_a_view_must_be_loaded_and_of_the_source(tmp_path):
    frame, view = _counted()
    with pytest.raises(StoreError, match="does not hold"):
        Ingest(MemoryStore(), [view], tmp_path).run()
    other = FeatureView("w", USER, Source("others", frame, time="time"), {"n": Count()}).compile()
    with pytest.raises(DefinitionError, match="one source"):
        Ingest(MemoryStore(), [view, other], tmp_path)


WORKER = """
import sys
from pathlib import Path
import polars as pl
from bedplate.online.ingest import Ingest
from bedplate.online.lmdb import LmdbStore
from bedplate.testing.simulator import USER, ITEM, simulate, simulated_view
simulation = simulate(5, events=400)
views = [simulated_view(simulation, e, delay=3_600_000_000) for e in ((USER,), (ITEM, USER))]
ingest = Ingest(LmdbStore(Path(sys.argv[1])), views, Path(sys.argv[2]), batch=3, late=True)
print("ready", flush=True)
done = ingest.run(follow="follow" in sys.argv, poll=0.01)
print(done.events, done.interrupted, flush=True)
"""


def _worker(tmp_path: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WORKER, str(tmp_path / "store"), str(tmp_path / "files"), *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    return process


def _prepared(tmp_path: Path):
    simulation = simulate(5, events=400)
    views = [simulated_view(simulation, e, delay=HOUR) for e in ((USER,), (ITEM, USER))]
    store = LmdbStore(tmp_path / "store")
    for view in views:
        loaded(view, simulation.events[:40], store)
    write_files(simulation.events, tmp_path / "files", range(40, 400, 30))
    return simulation, views, store


def test_a_signal_ends_a_worker_after_its_micro_batch(tmp_path):
    simulation, views, store = _prepared(tmp_path)
    process = _worker(tmp_path, "follow")
    while read_state(store, views[1]).events < 60 and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    out = process.communicate()[0].split()
    assert process.returncode == 0
    assert out[1] == "True"
    assert read_state(store, views[0]).events == 40 + int(out[0])
    done = Ingest(store, views, tmp_path / "files", late=True).run()
    assert_equals_oracle(store, views[0], simulation, done.watermark)
    store.close()


def test_following_takes_in_what_comes_and_readers_see_whole_steps(tmp_path):
    frame = pl.DataFrame({"user": [0, 1], "time": [START, START], "amount": [1, -1]})
    source = Source("events", frame, time="time")
    view = FeatureView("v", USER, source, {"total": Sum("amount"), "last": Last("amount")}).compile()
    store = LmdbStore(tmp_path / "store")
    loaded(view, frame[:0], store)
    ingest, errors = Ingest(store, [view], tmp_path / "files"), []
    (tmp_path / "files").mkdir()

    def publish(rows: pl.DataFrame, name: str) -> None:
        rows.write_parquet(tmp_path / "files" / f"{name}.parquet.tmp")
        (tmp_path / "files" / f"{name}.parquet.tmp").rename(tmp_path / "files" / f"{name}.parquet")

    worker = threading.Thread(target=lambda: ingest.run(follow=True, until=START + DAY, poll=0.001))
    worker.start()
    reader, total, written = OnlineReader(store), 0, 0
    while total < 30:
        if written == total:
            written += 1
            publish(frame.with_columns(pl.col("time") + written), f"{written:06}")
        columns = reader.read(view, list(view.features), np.array([[0], [1]]), np.full(2, START + DAY))
        a, b = columns["v.total"].values.tolist()
        if a != -b:
            errors.append((a, b))
        total = a
    publish(frame.with_columns(pl.col("time") + DAY), "last")
    worker.join()
    assert errors == []
    store.close()


def _early(tmp_path, **options):
    """A view loaded with the first 60 rows, and the worker over a stream in which the row at 20 comes again."""
    frame, view = _counted(**options)
    store = loaded(view, frame[:60])
    write_files(pl.concat([frame[60:70], frame[20:21], frame[70:]]), tmp_path, [0, 5, 15])
    return frame, view, store


def test_an_event_from_before_the_load_is_not_counted_twice(tmp_path):
    _, view, store = _early(tmp_path)
    with pytest.raises(DataError) as caught:
        Ingest(store, [view], tmp_path).run()
    error = caught.value
    assert error.where == f"{tmp_path}/000005.parquet: view 'v', source 'events', column 'time'"
    assert error.message == (
        "row 5 is of 2024-03-01T00:20:00Z, and events before 2024-03-01T00:59:00.000001Z were loaded from history: "
        "it would count twice (1 of 10 events)"
    )
    assert "--late" in error.hint
    assert read_state(store, view).position("").name == "000000.parquet"
    assert _read(store, view, START + DAY)["n"] == [13] * 5


def test_the_row_is_the_files_also_in_a_later_micro_batch_and_after_a_condition(tmp_path):
    frame, _ = _counted()
    source = Source("events", frame, time="time")
    view = FeatureView("v", USER, source, {"n": Count()}, where=pl.col("user") != 0).compile()
    store = loaded(view, frame[:60])
    write_files(pl.concat([frame[60:90], frame[21:22]]), tmp_path, [0])
    with pytest.raises(DataError, match=r"^.*000000.parquet: view 'v'.*: row 30 is of .*\(1 of 1 events\)"):
        Ingest(store, [view], tmp_path, batch=6).run()


def test_no_view_takes_in_a_micro_batch_that_one_refuses(tmp_path):
    frame, view = _counted()
    other = FeatureView("w", USER, view.view.source, {"n": Count()}).compile()
    store = loaded(view, frame[:10])
    loaded(other, frame[:60], store)
    write_files(frame, tmp_path, [10])
    with pytest.raises(DataError, match="view 'w'"):
        Ingest(store, [view, other], tmp_path).run()
    assert [read_state(store, v).position("").at for v in (view, other)] == [0, 0]
    assert _read(store, view, START + DAY)["n"] == [2] * 5


@pytest.mark.parametrize("delay", [None, "2h"])
def test_late_events_change_values_from_when_they_are_taken_in(tmp_path, delay):
    frame, view, store = _early(tmp_path, delay=delay)
    now = START + DAY
    before = _read(store, view, now)
    done = Ingest(store, [view], tmp_path, late=True).run()
    assert (done.events, read_state(store, view).events) == (41, 101)
    assert before["n"] == [12] * 5
    assert _read(store, view, now)["n"] == [21, 20, 20, 20, 20]
    whole = Reference(view, pl.concat([frame, frame[20:21]]).lazy())
    keys, times = np.arange(5).reshape(-1, 1), np.full(5, done.watermark)
    got = OnlineReader(store).read(view, list(view.features), keys, times)
    assert mismatches(got, whole.read(view, list(view.features), keys, times)) == []


def test_rows_from_the_load_on_are_the_streams(tmp_path):
    frame, view = _counted()
    store = MemoryStore()
    bulk_load(store, view, [grouped(view, frame)], START + 60 * MINUTE)
    write_files(frame, tmp_path, [60])
    assert Ingest(store, [view], tmp_path).run().events == 40
    assert _read(store, view, START + DAY)["n"] == [20] * 5


class Failing(MemoryStore):
    """A store whose next commit fails."""

    fails = False

    def commit(self, changes: Changes) -> None:
        if self.fails:
            self.fails = False
            raise StoreError("the disk is full", where=self.url)
        super().commit(changes)


def test_a_step_that_failed_is_taken_in_whole_by_the_same_worker(tmp_path: Path) -> None:
    simulation = simulate(5, events=80)
    view, end = simulated_view(simulation, (USER,)), int(simulation.times.max()) + DAY
    whole, store = MemoryStore(), Failing()
    for each in (whole, store):
        bulk_load(each, view, [], int(simulation.times.min()))
    write_files(simulation.events, tmp_path, [0, 80])
    Ingest(whole, [view], tmp_path).run()
    worker = Ingest(store, [view], tmp_path)
    store.fails = True
    with pytest.raises(StoreError, match="disk is full"):
        worker.run()
    worker.run()
    keys = simulation.keys([USER])
    times = np.full(len(keys), end)
    got, expected = (OnlineReader(s).read(view, list(view.features), keys, times) for s in (store, whole))
    assert mismatches(dict(got), dict(expected)) == []
    assert dict(OnlineReader(store).texts) == dict(OnlineReader(whole).texts)
