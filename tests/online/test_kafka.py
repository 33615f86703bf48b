"""A topic is taken in once, whoever reads it, and what can't be taken in goes aside and stops nothing."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from confluent_kafka import Consumer, TopicPartition
from kafka_broker import VIEW, Broker, event, loaded, stream, turn_until

from bedplate.errors import ConfigError, DataError
from bedplate.online import kafka_connection
from bedplate.online.base import Changes
from bedplate.online.ingest import Ingest
from bedplate.online.kafka import KafkaStream, parse_url
from bedplate.online.letters import Letter, read_letters
from bedplate.online.load import bulk_load
from bedplate.online.memory import MemoryStore
from bedplate.online.state import read_state
from bedplate.online.streams import Position
from bedplate.testing.simulator import START


@pytest.fixture(scope="module")
def broker() -> Broker:
    return Broker()


def test_a_topic_is_taken_in_from_where_the_store_is(broker: Broker, tmp_path: Path) -> None:
    store, topic = loaded(), "positions"
    for partition in range(4):
        broker.send(topic, [event(partition, i) for i in range(25)], partition)
    with_stream = stream(broker, topic, tmp_path)
    worker = Ingest(store, [VIEW], with_stream, batch=10)
    turn_until([worker], lambda: read_state(store, VIEW).events == 100)
    assert read_state(store, VIEW).positions == {f"{topic}/{p}": Position("", 25) for p in range(4)}
    assert [with_stream.lag(f"{topic}/0", Position("", at)) for at in (0, 20, 25)] == [25, 5, 0]
    with_stream.close()
    broker.send(topic, [event(7, i) for i in range(5)], 2)
    again = stream(broker, topic, tmp_path, "another group")
    worker = Ingest(store, [VIEW], again)
    turn_until([worker], lambda: read_state(store, VIEW).events == 105)
    assert worker.events == 5
    again.close()


class Stale:
    """A consumer that gives messages from before a seek after it, the same ones again and again, and some twice."""

    def __init__(self, consumer: Any) -> None:
        self._consumer, self._kept, self._times = consumer, list[Any](), 4

    def __getattr__(self, name: str) -> Any:
        return getattr(self._consumer, name)

    def keep(self) -> None:
        """Reads what there is, to give it again."""
        while len(self._kept) < 10:
            self._kept += self._consumer.consume(100, 0.05)

    def consume(self, count: int, wait: float) -> list[Any]:
        found = self._consumer.consume(count, wait)
        if found and self._times:
            self._times -= 1
            return self._kept[5:] if self._times else [*self._kept[5:], *found, *self._kept[7:]]
        return found


def test_messages_that_are_late_or_come_twice_are_taken_in_once(broker: Broker, tmp_path: Path) -> None:
    store, topic = loaded(), "stale"
    broker.send(topic, [event(1, i) for i in range(10)])
    other = Consumer({"bootstrap.servers": broker.address, "group.id": "other"})
    other.assign([TopicPartition(topic, 0, 0)])
    kept = Stale(other)
    kept.keep()
    opened = stream(broker, topic, tmp_path)
    kept._consumer = opened._connection.consumer
    opened._connection.consumer = kept
    turn_until([Ingest(store, [VIEW], opened)], lambda: read_state(store, VIEW).position(f"{topic}/0").at == 10)
    assert read_state(store, VIEW).events == 10
    opened.close()
    other.close()


class Gap(Consumer):
    """A consumer of a topic that has no event at its first offsets."""

    def consume(self, *args: Any, **more: Any) -> list[Any]:
        return [m for m in super().consume(*args, **more) if m.error() is not None or m.offset() > 2]

    def poll(self, *args: Any, **more: Any) -> Any:
        found = super().poll(*args, **more)
        return found if found is None or found.error() is not None or found.offset() > 2 else None


def test_a_topic_may_have_no_event_at_an_offset(
    broker: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, topic = loaded(), "gap"
    broker.send(topic, [event(1, i) for i in range(10)])
    monkeypatch.setattr(kafka_connection, "Consumer", Gap)
    opened = stream(broker, topic, tmp_path)
    turn_until([Ingest(store, [VIEW], opened)], lambda: read_state(store, VIEW).position(f"{topic}/0").at == 10)
    assert read_state(store, VIEW).events == 7
    opened.close()


def test_poison_events_go_aside_with_the_reason(broker: Broker, tmp_path: Path) -> None:
    store, topic = loaded(), "poison"
    payloads = [
        event(1),
        b"\xff no JSON",
        event("x"),
        event(None),
        event(2),
        event(3, -2 * START),
        None,
        b'{"user": 4, "time": 1, "amount": 1e400}',
        b'{"user": 1, "time": 1, "amount": Infinity}',
        event(5),
    ]
    broker.send(topic, payloads)
    opened = stream(broker, topic, tmp_path, age=0.2)
    worker = Ingest(store, [VIEW], opened)
    turn_until([worker], lambda: read_state(store, VIEW).position(f"{topic}/0").at == len(payloads))
    opened.close()
    letters = [letter for path in sorted((tmp_path / "letters").iterdir()) for letter in read_letters(path)]
    assert read_state(store, VIEW).events + len(letters) == len(payloads)
    assert opened.letters_written == len(letters)
    reasons = {letter.offset: letter.reason for letter in letters}
    assert reasons.keys() == {1, 2, 3, 5, 6, 7, 8}
    assert [letter.data for letter in letters] == [payloads[o] or b"" for o in reasons]
    assert "invalid" in reasons[1] or "malformed" in reasons[1]
    assert "$.user" in reasons[2]
    assert reasons[3] == "the key 'user' is null"
    assert "1970" in reasons[5]
    assert "no payload" in reasons[6]


def test_events_from_before_the_load_are_passed_over(broker: Broker, tmp_path: Path) -> None:
    store, topic = loaded(until=START + 10), "overlap"
    broker.send(topic, [event(1, i) for i in range(20)])
    opened = stream(broker, topic, tmp_path)
    worker = Ingest(store, [VIEW], opened)
    turn_until([worker], lambda: read_state(store, VIEW).position(f"{topic}/0").at == 20)
    opened.close()
    assert read_state(store, VIEW).events == 10


def test_rebalancing_loses_and_doubles_nothing(broker: Broker, tmp_path: Path) -> None:
    store, topic, sent = loaded(), "rebalanced", 0
    opened = [stream(broker, topic, tmp_path)]
    workers = [Ingest(store, [VIEW], opened[0], batch=7)]

    def send(count: int) -> None:
        nonlocal sent
        for partition in range(4):
            broker.send(topic, [event(partition, sent + i) for i in range(count)], partition)
        sent += 4 * count

    send(20)
    turn_until(workers, lambda: read_state(store, VIEW).events > 20)
    opened.append(stream(broker, topic, tmp_path))
    workers.append(Ingest(store, [VIEW], opened[1], batch=5))
    send(50)
    turn_until(workers, lambda: len(opened[1].partitions()) == 2 and workers[1].events > 0)
    turn_until(workers, lambda: read_state(store, VIEW).events > 150)
    opened[0].close()
    send(10)
    turn_until(workers[1:], lambda: read_state(store, VIEW).events >= sent)
    opened[1].close()
    assert read_state(store, VIEW).positions == {f"{topic}/{p}": Position("", 80) for p in range(4)}
    assert sum(worker.events for worker in workers) == sent == 320


def test_a_position_that_the_topic_no_longer_has_is_an_error(broker: Broker, tmp_path: Path) -> None:
    store, topic = loaded(), "gone"
    broker.send(topic, [event(1)])
    opened = stream(broker, topic, tmp_path)
    turn_until([Ingest(store, [VIEW], opened)], lambda: read_state(store, VIEW).events == 1)
    opened.close()
    again = stream(broker, topic, tmp_path)
    other = MemoryStore()
    bulk_load(other, VIEW, [], START)
    state = msgspec.structs.replace(read_state(other, VIEW), positions={f"{topic}/0": Position("", 1_000)})
    other.commit(Changes([state.put(VIEW)]))
    with pytest.raises(DataError, match="no longer holds"):
        turn_until([Ingest(other, [VIEW], again)], lambda: False)
    again.close()


@pytest.mark.parametrize("url", ["kafka://host", "kafka://host:1/a/b", "kafka://me:secret@host/topic", "kafka:///t"])
def test_a_url_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="expected kafka://"):
        parse_url(url)


def test_letters_keep_bytes_that_are_no_text(tmp_path: Path) -> None:
    letter = Letter.of("t", 1, 2, "why", b"\xff\x00")
    (tmp_path / "a.jsonl").write_bytes(msgspec.json.encode(letter) + b"\n\n" + msgspec.json.encode(letter))
    assert read_letters(tmp_path / "a.jsonl") == [letter]
    assert letter.data == b"\xff\x00"
    (tmp_path / "a.jsonl").write_text("{}")
    with pytest.raises(DataError, match="line 1: it is no dead letter"):
        read_letters(tmp_path / "a.jsonl")


def test_a_worker_that_waited_too_long_for_its_store_joins_the_group_again(broker: Broker, tmp_path: Path) -> None:
    store, topic = loaded(), "away"
    broker.send(topic, [event(1)])
    least = {"heartbeat.interval.ms": 100, "session.timeout.ms": 6_000, "max.poll.interval.ms": 6_000}
    opened = KafkaStream(broker.url(topic), VIEW, "g", tmp_path / "letters", age=0.0, settings=least)
    worker = Ingest(store, [VIEW], opened)
    turn_until([worker], lambda: read_state(store, VIEW).events == 1)
    time.sleep(6.5)
    broker.send(topic, [event(1)])
    turn_until([worker], lambda: read_state(store, VIEW).events == 2)
    opened.close()
    assert worker.measures.stream_errors >= 1
