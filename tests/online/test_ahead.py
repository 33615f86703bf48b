"""Events far ahead of the clock wait until their time has come, and say nothing of how far a stream is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from test_letters import COUNTS, SCHEMA, Topic, event, letters_in, loaded

from bedplate.aggregations.arithmetic import Count
from bedplate.errors import DataError
from bedplate.features.reader import Read
from bedplate.features.view import CompiledView, FeatureView
from bedplate.offline.reference import Reference
from bedplate.online.base import OnlineStore
from bedplate.online.fallback import FallbackReader
from bedplate.online.fetch import OnlineReader
from bedplate.online.ingest import Ingest
from bedplate.online.ingest_metrics import metrics_text
from bedplate.online.replay import LetterStream
from bedplate.online.state import read_state
from bedplate.sources.base import Source
from bedplate.testing.simulator import START, USER
from bedplate.types import DAY, HOUR, MINUTE

NOW = START + 2 * HOUR
FAR = 365 * DAY
EVENTS = [event(1, MINUTE), event(1, FAR), event(2, 2 * MINUTE), event(1, 3 * MINUTE)]


def replayed(store: OnlineStore, folder: Path, now: int) -> int:
    taken = 0
    for path in sorted(folder.glob("*.jsonl")):
        stream = LetterStream(path, COUNTS, store, clock=lambda: now)
        taken += Ingest(store, [COUNTS], stream, clock=lambda: now).run().events
    return taken


def counts(store: OnlineStore, time: int) -> list[int]:
    found = OnlineReader(store).read(COUNTS, list(COUNTS.features), np.array([[1], [2]]), np.full(2, time))
    return found["counts.n"].values.tolist()


@pytest.mark.parametrize("batch", [1, 2, 10])
def test_an_event_of_a_topic_far_ahead_waits_among_the_letters_until_its_time(tmp_path: Path, batch: int) -> None:
    store, topic = loaded(COUNTS), Topic(EVENTS, tmp_path)
    worker = Ingest(store, [COUNTS], topic, batch=batch, clock=lambda: NOW)
    assert worker.run().watermark == START + 3 * MINUTE
    state = read_state(store, COUNTS)
    assert (state.position("t/0").at, state.events, worker.measures.letters) == (4, 3, 1)
    assert worker.measures.newest == START + 3 * MINUTE
    (letter,) = letters_in(tmp_path).values()
    assert letter.reason.startswith("the time 'time' is 2025-03-01T00:00:00Z, and one after 2024-03-01T02:10:00Z is")
    with pytest.raises(DataError, match="further ahead of the clock than"):
        replayed(store, tmp_path, NOW)
    assert replayed(store, tmp_path, START + FAR) == 1
    assert replayed(store, tmp_path, START + FAR) == 0
    # History counts the event once its time has come, and so does the store by then.
    frame = pl.DataFrame([(1, MINUTE), (1, FAR), (2, 2 * MINUTE), (1, 3 * MINUTE)], ["user", "time"], orient="row")
    rows = frame.select("user", pl.col("time") + START, amount=pl.lit(1), flag=pl.lit(1))
    oracle = Reference(FeatureView("counts", USER, Source("e", rows, time="time"), {"n": Count()}).compile())
    for time in (START + FAR, START + FAR + 1):
        assert counts(store, time) == [oracle.values((user,), time)["counts.n"] for user in (1, 2)]
    assert counts(store, START + FAR + 1) == [3, 1]


def test_an_event_in_a_file_counts_once_its_time_has_come_and_moves_nothing(tmp_path: Path) -> None:
    store = loaded(COUNTS)
    rows = pl.DataFrame([(1, START + t, 1, 1) for t in (MINUTE, FAR, 3 * MINUTE)], SCHEMA, orient="row")
    rows.write_parquet(tmp_path / "1.parquet")
    worker = Ingest(store, [COUNTS], tmp_path, clock=lambda: NOW)
    assert worker.run().watermark == worker.measures.newest == START + 3 * MINUTE
    assert worker.measures.ahead == 1
    assert 'bedplate_ingest_ahead_total{source="events"} 1' in metrics_text([worker.measures])
    assert [counts(store, START + t)[0] for t in (3 * MINUTE, HOUR, FAR, FAR + 1)] == [1, 2, 2, 3]


@pytest.mark.parametrize(("ahead", "watermark", "letters"), [(5 * MINUTE, NOW, 0), (4 * MINUTE, START + 1, 1)])
def test_the_bound_can_be_set(tmp_path: Path, ahead: int, watermark: int, letters: int) -> None:
    topic = Topic([event(1, 1), event(1, NOW - START + 5 * MINUTE)], tmp_path)
    done = Ingest(loaded(COUNTS), [COUNTS], topic, clock=lambda: NOW, ahead=ahead).run()
    assert (done.watermark, len(letters_in(tmp_path))) == (watermark, letters)


def stale(store: OnlineStore, view: CompiledView, time: int) -> bool:
    reading = FallbackReader(store).begin()
    reading.read_all([Read(view, [f"{view.name}.n"], np.array([[1]]), np.array([time]))])
    return view.name in reading.degraded


@pytest.mark.parametrize("kind", ["topic", "file"])
def test_a_view_behind_its_freshness_is_stale_whatever_is_ahead(tmp_path: Path, kind: str) -> None:
    view = FeatureView("fresh", USER, COUNTS.view.source, {"n": Count()}, freshness="10m").compile()
    store, events = loaded(view), [event(1, MINUTE), event(1, FAR)]
    rows = pl.DataFrame([(1, START + t, 1, 1) for t in (MINUTE, FAR)], SCHEMA, orient="row")
    rows.write_parquet(tmp_path / "1.parquet")
    stream = Topic(events, tmp_path) if kind == "topic" else tmp_path
    worker = Ingest(store, [view], stream, clock=lambda: NOW)
    assert worker.turn().taken
    assert not stale(store, view, START + 11 * MINUTE)
    assert stale(store, view, START + 11 * MINUTE + 1)


@pytest.mark.parametrize("prepare", [None, lambda rows: rows.with_columns(pl.col("user") + 0)])
def test_when_a_row_could_be_known_may_be_ahead_too(tmp_path: Path, prepare: object) -> None:
    source = Source("events", pl.DataFrame(schema=SCHEMA), time="time", available="amount", prepare=prepare)
    view = FeatureView("known", USER, source, {"n": Count()}).compile()
    store = loaded(view)
    topic = Topic([event(1, 1, START + 5), event(1, 2, START + FAR), event(1, 3, START + 4)], tmp_path)
    assert Ingest(store, [view], topic, clock=lambda: NOW).run().watermark == START + 5
    (letter,) = letters_in(tmp_path).values()
    assert (letter.offset, "the time 'amount' is 2025" in letter.reason) == (1, True)


def test_all_letters_that_are_still_wrong_are_counted(tmp_path: Path) -> None:
    """Those without a key too, which only the preparing of rows finds."""
    store, topic = loaded(COUNTS), Topic([b'{"time": %d}' % START, b"no", event(1, 1), b'{"user": 1}'], tmp_path)
    Ingest(store, [COUNTS], topic, clock=lambda: NOW).run()
    with pytest.raises(
        DataError, match="3 of 3 letters are still wrong, the first is the one of partition 0 at offset 0"
    ):
        replayed(store, tmp_path, NOW)
