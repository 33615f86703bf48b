"""A broker for tests: librdkafka's mock cluster, a topic of it, and workers that take it in in turns."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import polars as pl
from confluent_kafka import Producer

from bedplate.aggregations.arithmetic import Count, Sum
from bedplate.features.view import CompiledView, FeatureView
from bedplate.online.ingest import Ingest
from bedplate.online.kafka import KafkaStream
from bedplate.online.load import bulk_load
from bedplate.online.memory import MemoryStore
from bedplate.sources.base import Source
from bedplate.testing.simulator import START, USER

SCHEMA = {"user": pl.Int64(), "time": pl.Int64(), "amount": pl.Float64()}
SOURCE = Source("events", pl.DataFrame(schema=SCHEMA), time="time")
VIEW = FeatureView("v", USER, SOURCE, {"n": Count(), "amount": Sum("amount")}).compile()


class Broker:
    """librdkafka's mock cluster, which lives in its producer; a topic has four partitions."""

    def __init__(self) -> None:
        self.producer = Producer({"bootstrap.servers": "mock", "test.mock.num.brokers": 1})
        brokers = self.producer.list_topics(timeout=10).brokers
        self.address = ",".join(f"{b.host}:{b.port}" for b in brokers.values())

    def url(self, topic: str) -> str:
        return f"kafka://{self.address}/{topic}"

    def send(self, topic: str, payloads: list[bytes | None], partition: int = 0) -> None:
        for payload in payloads:
            self.producer.produce(topic, payload, partition=partition)
        assert self.producer.flush(10) == 0


def event(user: object, at: int = 0, amount: object = 1.0) -> bytes:
    return msgspec.json.encode({"user": user, "time": START + at, "amount": amount, "more": "left out"})


def loaded(view: CompiledView = VIEW, until: int = START) -> MemoryStore:
    store = MemoryStore()
    bulk_load(store, view, [], until)
    return store


def turn_until(workers: list[Ingest], done: Callable[[], bool]) -> None:
    """Lets workers take turns, as processes beside each other would."""
    began = time.monotonic()
    while not done():
        assert time.monotonic() < began + 60, "it takes too long"
        for worker in workers:
            worker.turn()


def stream(broker: Broker, topic: str, folder: Path, group: str = "", age: float = 0.0, **more: Any) -> KafkaStream:
    quick = {"heartbeat.interval.ms": 100, "session.timeout.ms": 6_000}
    return KafkaStream(broker.url(topic), VIEW, group or topic, folder / "letters", age=age, settings=quick, **more)
