"""What a topic has dropped or holds twice is said, its brokers' absence too, and no two stores share a group."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest
from kafka_broker import SCHEMA, VIEW, Broker, event, loaded, stream, turn_until

from bedplate.aggregations.arithmetic import Count
from bedplate.clock import system_clock
from bedplate.errors import ConfigError, DataError
from bedplate.features.view import FeatureView
from bedplate.online import kafka_connection
from bedplate.online.groups import group_name
from bedplate.online.ingest import Ingest
from bedplate.online.ingest_metrics import metrics_text
from bedplate.online.kafka import KafkaStream
from bedplate.online.lmdb import LmdbStore
from bedplate.online.load import bulk_load
from bedplate.online.memory import MemoryStore
from bedplate.online.state import read_state
from bedplate.online.streams import Position
from bedplate.sources.base import Source
from bedplate.testing.simulator import START, USER
from bedplate.types import DAY, MINUTE


@pytest.fixture(scope="module")
def broker() -> Broker:
    return Broker()


def test_events_that_the_load_had_or_missed_are_counted_apart(broker: Broker, tmp_path: Path) -> None:
    store = loaded(until=START + 10)
    broker.send("late", [event(1, i) for i in range(12)] + [event(1, 3)])  # the last one is late
    opened = stream(broker, "late", tmp_path)
    worker = Ingest(store, [VIEW], opened)
    turn_until([worker], lambda: read_state(store, VIEW).position("late/0").at == 13)
    assert (worker.events, worker.measures.passed_over, read_state(store, VIEW).events) == (2, 11, 2)
    assert 'bedplate_ingest_passed_over_total{source="events",partition="late/0"} 11' in metrics_text([worker.measures])
    with pytest.raises(ConfigError, match="would count twice") as refused:
        Ingest(store, [VIEW], opened, late=True)
    assert "available=" in str(refused.value)
    opened.close()


def test_what_one_view_takes_in_is_not_passed_over(broker: Broker, tmp_path: Path) -> None:
    store, other = loaded(until=START + 10), FeatureView("w", USER, VIEW.view.source, {"m": Count()}).compile()
    bulk_load(store, other, [], START + 4)
    broker.send("two", [event(1, i) for i in range(12)])
    opened = stream(broker, "two", tmp_path)
    worker = Ingest(store, [VIEW, other], opened)
    turn_until([worker], lambda: read_state(store, other).position("two/0").at == 12)
    assert (worker.events, worker.measures.passed_over) == (8, 4)
    opened.close()


def test_where_the_source_says_when_a_row_could_be_known_late_events_count_once(broker: Broker, tmp_path: Path) -> None:
    frame = pl.DataFrame(schema={**SCHEMA, "came": pl.Int64()})
    view = FeatureView("v", USER, Source("events", frame, time="time", available="came"), {"n": Count()}).compile()
    store = MemoryStore()
    bulk_load(store, view, [], START + 10)
    rows = [(i, i) for i in range(12)] + [(3, 11), (4, 9)]  # of which the last but one came too late for the load
    payloads = [b'{"user": 1, "time": %d, "amount": 1.0, "came": %d}' % (START + t, START + c) for t, c in rows]
    broker.send("known", payloads)
    opened = KafkaStream(broker.url("known"), view, "known", tmp_path, age=0.0)
    turn_until([Ingest(store, [view], opened)], lambda: read_state(store, view).position("known/0").at == 14)
    assert read_state(store, view).events == 3
    opened.close()


def dropping(broker: Broker, topic: str) -> None:
    """Sends so much that the mock cluster, which keeps five megabytes a partition, drops the first."""
    payload = event(1)[:-1] + b', "x": "' + b"x" * 900_000 + b'"}'
    broker.send(topic, [payload] * 8)


def test_a_topic_that_has_dropped_events_since_the_load_is_refused(broker: Broker, tmp_path: Path) -> None:
    dropping(broker, "dropped")
    opened = stream(broker, "dropped", tmp_path)
    with pytest.raises(DataError, match=r"has dropped [1-7] events") as found:
        turn_until([Ingest(loaded(), [VIEW], opened)], lambda: False)
    assert "later time" in str(found.value)
    store = loaded(until=system_clock() + MINUTE)  # the oldest is from before
    worker = Ingest(store, [VIEW], opened)
    turn_until([worker], lambda: read_state(store, VIEW).position("dropped/0").at == 8)
    assert 0 < worker.measures.passed_over < 8
    opened.close()
    later = stream(broker, "dropped", tmp_path, clock=lambda: system_clock() + DAY)
    store = loaded(until=system_clock() + MINUTE)  # a day ago, but the oldest is older
    turn_until([Ingest(store, [VIEW], later)], lambda: read_state(store, VIEW).position("dropped/0").at == 8)
    later.close()


@pytest.mark.parametrize("hours", [0.5, 2])
def test_a_partition_of_which_all_was_dropped(
    broker: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hours: float
) -> None:
    topic, now = f"empty{hours:.0f}", START + int(hours * 60) * MINUTE
    broker.send(topic, [event(1, 1)] * 3)
    monkeypatch.setattr(kafka_connection.Connection, "ends", lambda _, number: (3, 3) if number == 0 else (0, 0))
    monkeypatch.setattr(kafka_connection.Connection, "consume", _none(kafka_connection.Connection.consume))
    opened = stream(broker, topic, tmp_path, clock=lambda: now)
    store = loaded()
    if hours > 1:
        with pytest.raises(DataError, match="holds no event any more"):
            turn_until([Ingest(store, [VIEW], opened)], lambda: False)
    else:
        turn_until([Ingest(store, [VIEW], opened)], lambda: read_state(store, VIEW).position(f"{topic}/0").at == 3)
    opened.close()


def _none(consume):
    def consumed(self, count: int, wait: float):
        return [m for m in consume(self, count, wait) if m.offset() > 2]

    return consumed


def test_a_topic_of_another_cluster_is_refused(broker: Broker, tmp_path: Path) -> None:
    store, other = loaded(), Broker()
    for each in (broker, other):
        each.send("same", [event(1, i) for i in range(5)])
    opened = stream(broker, "same", tmp_path)
    turn_until([Ingest(store, [VIEW], opened)], lambda: read_state(store, VIEW).events == 5)
    opened.close()
    elsewhere = stream(other, "same", tmp_path)
    with pytest.raises(DataError, match="has taken in another stream"):
        turn_until([Ingest(store, [VIEW], elsewhere)], lambda: False)
    elsewhere.close()


def test_a_topic_that_was_deleted_and_made_anew_is_refused(
    broker: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though it has more events than were taken in of the one before. The mock cluster gives topics no ids."""
    store, ids = loaded(), ["one"]
    monkeypatch.setattr(kafka_connection.TopicId, "read", lambda _: ids[-1])
    monkeypatch.setattr(kafka_connection, "_AGAIN", 0.0)
    broker.send("anew", [event(1, i) for i in range(5)])
    opened = stream(broker, "anew", tmp_path)
    worker = Ingest(store, [VIEW], opened)
    turn_until([worker], lambda: read_state(store, VIEW).events == 5)
    ids.append("")  # brokers that don't say so once, or don't answer in time
    broker.send("anew", [event(1, 6)] * 2)
    turn_until([worker], lambda: read_state(store, VIEW).events == 7)
    ids.append("two")
    broker.send("anew", [event(1, 7)])
    with pytest.raises(DataError, match="was deleted and made anew"):
        turn_until([worker], lambda: False)
    assert read_state(store, VIEW).events == 7
    bulk_load(store, VIEW, [], START)
    turn_until([worker], lambda: read_state(store, VIEW).events == 8)
    opened.close()


def test_two_stores_and_two_versions_of_a_view_have_groups_of_their_own(tmp_path: Path) -> None:
    changed = FeatureView("v", USER, VIEW.view.source, {"n": Count(), "m": Count()}).compile()
    with LmdbStore(tmp_path / "a") as one, LmdbStore(tmp_path / "b") as other:
        names = {group_name(one, [VIEW]), group_name(other, [VIEW]), group_name(one, [changed])}
        assert len(names) == 3
        assert all(name.startswith("bedplate-events-") for name in names)
        assert group_name(one, [VIEW]) in names
        assert group_name(one, [VIEW], "mine") == "mine-events"
    (tmp_path / "a").rename(tmp_path / "c")
    with LmdbStore(tmp_path / "c") as one:
        assert group_name(one, [VIEW]) in names


def test_two_stores_take_in_all_of_a_topic(broker: Broker, tmp_path: Path) -> None:
    stores = [loaded(), loaded()]
    for partition in range(4):
        broker.send("shared", [event(partition)] * 5, partition)
    opened = [stream(broker, "shared", tmp_path, group_name(store, [VIEW])) for store in stores]
    workers = [Ingest(s, [VIEW], o) for s, o in zip(stores, opened, strict=True)]
    turn_until(workers, lambda: all(read_state(s, VIEW).events == 20 for s in stores))
    for each in opened:
        each.close()


def test_a_partition_that_is_ahead_of_the_store_rests(broker: Broker, tmp_path: Path) -> None:
    broker.send("ahead", [event(1)] * 400)
    opened, topic = stream(broker, "ahead", tmp_path), "ahead/0"
    paused = list[str]()
    consumer = opened._connection.consumer

    class Watched:
        def __getattr__(self, name: str) -> object:
            return getattr(consumer, name)

        def consume(self, count: int, wait: float) -> object:
            return consumer.consume(min(count, 10), wait)

        def pause(self, places: list) -> None:
            paused.extend(f"{p.topic}/{p.partition}" for p in places)
            consumer.pause(places)

    opened._connection.consumer = Watched()
    worker, store = Ingest(loaded(), [VIEW], opened, batch=10), MemoryStore()
    turn_until([worker], lambda: worker.events == 10)
    held = 0
    for _ in range(40):  # of a store that takes nothing in
        opened.partitions()
        held = max(held, len(opened._buffers[topic].messages))
    assert topic in paused
    assert 20 <= held <= 30
    turn_until([worker], lambda: worker.events == 400)  # it goes on
    opened.close()
    store.close()


def test_what_is_buffered_goes_where_the_store_is_elsewhere(broker: Broker, tmp_path: Path) -> None:
    broker.send("elsewhere", [event(1, i) for i in range(30)])
    opened, topic = stream(broker, "elsewhere", tmp_path), "elsewhere/0"
    worker = Ingest(store := loaded(), [VIEW], opened, batch=5)
    turn_until([worker], lambda: worker.events == 5)
    turn_until([worker], lambda: len(opened._buffers[topic].messages) > 0 or worker.events == 30)
    bulk_load(store, VIEW, [], START)  # its position is the beginning again
    turn_until([worker], lambda: read_state(store, VIEW).position(topic).at == 30)
    assert read_state(store, VIEW).events == 30
    opened.close()


WORKER = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from kafka_broker import VIEW, stream
from bedplate.online.ingest import Ingest
from bedplate.online.lmdb import LmdbStore
class Named:
    url = staticmethod(lambda topic: f"kafka://{address}/{{topic}}")
with LmdbStore(Path({store!r})) as store:
    Ingest(store, [VIEW], stream(Named, "killed", Path({folder!r})), batch=7).run(follow=True, poll=0.0)
"""


def test_partitions_of_a_worker_that_was_killed_are_taken_over(broker: Broker, tmp_path: Path) -> None:
    for partition in range(4):
        broker.send("killed", [event(partition, i) for i in range(50)], partition)
    with LmdbStore(tmp_path / "store") as store:
        bulk_load(store, VIEW, [], START)
        words = {"tests": str(Path(__file__).parent), "store": str(tmp_path / "store"), "folder": str(tmp_path)}
        code = WORKER.format(address=broker.address, **words)
        with subprocess.Popen([sys.executable, "-c", code], env=os.environ.copy()) as killed:
            end = time.monotonic() + 60
            while read_state(store, VIEW).events < 20:
                assert time.monotonic() < end
                assert killed.poll() is None
                time.sleep(0.02)
            killed.send_signal(signal.SIGKILL)
        broker.send("killed", [event(3)] * 10, 3)
        opened = stream(broker, "killed", tmp_path)
        worker = Ingest(store, [VIEW], opened)
        turn_until([worker], lambda: read_state(store, VIEW).events >= 210)
        assert [read_state(store, VIEW).position(f"killed/{p}") for p in range(4)] == [
            Position("", n) for n in (50, 50, 50, 60)
        ]
        assert read_state(store, VIEW).events == 210
        opened.close()


@pytest.mark.parametrize("security", ["plaintext", "ssl"])
def test_brokers_that_are_away_are_one_message(
    broker: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], security: str
) -> None:
    monkeypatch.setattr(kafka_connection, "PATIENCE", 0.3)
    address = "127.0.0.1:9" if security == "plaintext" else broker.address
    opened = KafkaStream(f"kafka://{address}/t", VIEW, "g", tmp_path, settings={"security.protocol": security})
    worker = Ingest(loaded(), [VIEW], opened)
    turn_until([worker], lambda: bool(worker.measures.stream_trouble))
    assert "can't reach the brokers" in worker.measures.stream_trouble
    assert ("refused" if security == "plaintext" else "SSL") in worker.measures.stream_trouble
    assert "security.protocol" in worker.measures.stream_trouble
    assert 'bedplate_ingest_stream_up{source="events"} 0' in metrics_text([worker.measures])
    said = capfd.readouterr().err.splitlines()
    assert not [line for line in said if "rdkafka#producer" not in line]  # the mock cluster's own
    opened.close()


@pytest.mark.parametrize(
    "setting", [("partition.assignment.strategy", "cooperative-sticky"), ("group.protocol", "consumer")]
)
def test_settings_that_would_assign_partitions_one_by_one_are_refused(
    broker: Broker, tmp_path: Path, setting: tuple[str, str]
) -> None:
    with pytest.raises(ConfigError, match="all at once"):
        KafkaStream(broker.url("t"), VIEW, "g", tmp_path, settings=dict([setting]))
