"""A Kafka topic: partitions are assigned by the consumer group, positions are the store's, not the broker's.

A partition is read from the position that the store has, whoever read it before. What can't be taken in goes to a file
of dead letters. Fetching is bounded: of a partition that is ahead of the store by two micro-batches no more is fetched.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any, TypeAlias, final
from urllib.parse import urlsplit

import polars as pl
from confluent_kafka import (
    OFFSET_BEGINNING,
    TIMESTAMP_NOT_AVAILABLE,
    Consumer,
    KafkaError,
    KafkaException,
    TopicPartition,
)

from bedplate.clock import Clock, system_clock
from bedplate.config import without_password
from bedplate.errors import ConfigError, DataError
from bedplate.features.view import CompiledView
from bedplate.online.kafka_connection import Connection
from bedplate.online.letters import Letter, write_letters
from bedplate.online.payloads import Payloads
from bedplate.online.streams import BEGINNING, MicroBatch, Origin, Position, Stream
from bedplate.sources.base import AVAILABLE, TIME
from bedplate.types import HOUR, format_time

AGE = 0.5
"""How long events are waited for that would fill a micro-batch, in seconds."""

_WAIT = 0.05  # seconds that one look at the broker may take
_FETCH = 5_000
_ATTEMPTS = 10  # at asking the brokers, of a second each
_KEPT = HOUR
"""So long a topic keeps its events at least."""


_Taken: TypeAlias = tuple[int, "bytes | None"]
"""The offset and the payload of a message."""


@final
@dataclass(slots=True)
class _Buffer:
    """Messages of a partition that were fetched and not taken in yet.

    Attributes:
        at: the position after which they come; None: it was not asked for yet.
        since: when the first of them came, on the monotonic clock.
        is_sought: whether none has come since the position was sought.
        ends: where the partition begins and ends, where it was asked since the beginning was sought; None: it was not.
        oldest: the broker's time of the first message after the position was sought, microseconds; -1: none.
    """

    at: Position | None = None
    messages: deque[_Taken] = field(default_factory=deque[tuple[int, "bytes | None"]])
    since: float = 0.0
    is_paused: bool = True
    is_sought: bool = False
    ends: tuple[int, int] | None = None
    oldest: int = -1


@final
class KafkaStream(Stream):
    """The events of a topic.

    Args:
        url: `kafka://HOST:PORT[,HOST:PORT...]/TOPIC`.
        view: a compiled view of the source whose rows they are.
        group: the consumer group among whose workers the partitions are shared.
        letters: the directory of dead letters.
        form: of the payloads, see `Payloads`.
        settings: of librdkafka beside these, such as `security.protocol`.
        age: how long events are waited for that would fill a micro-batch, in seconds.
        clock: what a topic can have dropped is reckoned by it.

    Attributes:
        group: the consumer group.
        letters_written: events that could not be taken in so far.

    Raises:
        ConfigError: the URL, the form or a setting is wrong.
    """

    def __init__(
        self,
        url: str,
        view: CompiledView,
        group: str,
        letters: Path,
        *,
        form: str = "json",
        settings: Mapping[str, Any] | None = None,
        age: float = AGE,
        clock: Clock = system_clock,
    ) -> None:
        brokers, self._topic = parse_url(url)
        self._url, self._view, self._letters, self._age, self.group = url, view, letters, age, group
        self._payloads = Payloads(form, view.view.source.table(view.root).schema(), view.root)
        self._buffers: dict[str, _Buffer] = {}
        self._wanted = 0
        self.letters_written = 0
        self._clock = clock
        self._connection = Connection(url, brokers, self._topic, group, settings or {}, self._assigned, self._revoked)

    @property
    def name(self) -> str:
        """The URL."""
        return self._url

    @property
    def errors(self) -> int:
        """Errors of the brokers so far that passed."""
        return self._connection.errors

    @property
    def trouble(self) -> str:
        """Why the brokers can't be reached, once they have been away for some seconds."""
        return self._connection.trouble

    @property
    def origin(self) -> Origin | None:
        """The topic and its cluster."""
        return self._connection.origin

    def described(self) -> Origin | None:
        """The topic and its cluster, once the brokers have answered."""
        for _ in range(_ATTEMPTS):
            if self._connection.describe():
                return self.origin
        raise DataError(self.trouble, where=self._url)

    @property
    def overlaps_history(self) -> bool:
        """A topic keeps what history has too."""
        return True

    def partitions(self) -> Sequence[str]:
        """The partitions that the group has assigned to this worker; fetches what is there."""
        self._fetch()
        is_known = not self._buffers or self._connection.is_described()
        return sorted(self._buffers) if is_known else []

    def all_partitions(self) -> Sequence[str]:
        """Those of the topic, as the brokers said."""
        return [f"{self._topic}/{number}" for number in self._connection.partitions]

    def check(self, partition: str, reached: Position, completed: Collection[str], until: int) -> None:
        """Raises `DataError` where the topic may have dropped events that are not in the store.

        All are there of a partition that still has its first offset, or a message from before `until`, or if no topic
        can have dropped what came since then.
        """
        buffer = self._buffers.get(partition)
        if buffer is None or buffer.ends is None or not reached == buffer.at == BEGINNING:
            return
        low, high = buffer.ends
        if low == 0 or until >= self._clock() - _KEPT or (low < high and buffer.oldest < 0):
            return
        if low == high or buffer.oldest > until:
            begin = "holds no event any more" if low == high else f"begins at {format_time(buffer.oldest)}"
            raise DataError(
                f"the views were loaded up to {format_time(until)}, and the topic {begin}: it has dropped {low:,} "
                "events, of which some may be in neither",
                where=f"{self._url}, partition {partition}",
                hint="load the views up to a later time (bedplate materialize --replace --until TIME), at least that "
                "of the topic's oldest event or within the last hour, then run again",
            )

    def read(
        self, partition: str, after: Position, before: Position | None, rows: int, completed: Collection[str] = ()
    ) -> MicroBatch | None:
        """The next events of a partition, when there are enough of them or the first has waited long enough."""
        buffer, self._wanted = self._buffers.get(partition), rows
        if buffer is None:
            return None
        if buffer.at != after:
            self._seek(partition, buffer, after)
            return None
        _resume(self._connection.consumer, partition, buffer, self._wanted)
        if after == BEGINNING and buffer.ends is not None and 0 < buffer.ends[0] == buffer.ends[1]:
            # All was dropped: that it was looked at in time is kept, as later it could not be told any more.
            buffer.at, buffer.since = Position("", buffer.ends[1]), monotonic()
            return self._batch(partition, after, buffer.at, [])
        if not buffer.messages or (len(buffer.messages) < rows and monotonic() < buffer.since + self._age):
            return None
        taken: list[_Taken] = []
        while buffer.messages and len(taken) < rows and (before is None or buffer.messages[0][0] < before.at):
            taken.append(buffer.messages.popleft())
        # A topic may have no event at an offset: of a transaction, or cleaned up.
        buffer.at = Position("", taken[-1][0] + 1) if taken else before
        buffer.since = monotonic()
        return self._batch(partition, after, buffer.at or after, taken)

    def _batch(self, partition: str, begin: Position, end: Position, taken: Sequence[_Taken]) -> MicroBatch:
        frame, wrong = self._payloads.decode([payload for _, payload in taken])
        numbers = [number for number in range(len(taken)) if number not in wrong]

        def refuse(further: Mapping[int, str]) -> Collection[str]:
            letters = wrong | {numbers[row]: why for row, why in further.items()}
            where = int(partition.rpartition("/")[2])
            found = [Letter.of(self._topic, where, taken[n][0], letters[n], taken[n][1]) for n in sorted(letters)]
            if found:
                self.letters_written += write_letters(self._letters, found)
            return [letter.name for letter in found]

        return MicroBatch(
            partition=partition,
            begin=begin,
            end=end,
            rows=frame,
            where=f"{self._url}, partition {partition}",
            row=lambda row: f"the event at offset {taken[numbers[row]][0]:,}",
            newest=lambda: _newest(self._view, frame),
            refuse=refuse,
        )

    def lag(self, partition: str, after: Position) -> int:
        """The offsets between a position and the end of a partition, which the broker tells."""
        low, high = self._connection.ends(_number(partition))
        buffer = self._buffers.get(partition)
        if buffer is not None and buffer.is_sought and buffer.at == BEGINNING:
            buffer.ends = low, high
        return max(0, high - max(after.at, low))

    def has(self, partition: str) -> bool:
        """Whether it is one of the topic."""
        return partition.startswith(f"{self._topic}/")

    def close(self) -> None:
        """Leaves the group, so that its partitions are assigned to other workers at once."""
        self._connection.consumer.close()

    def _assigned(self, consumer: Consumer, places: list[TopicPartition]) -> None:
        """Takes partitions over; they rest until the store has said from where on."""
        for place in places:
            place.offset = OFFSET_BEGINNING
        consumer.assign(places)
        consumer.pause(places)
        self._buffers = {f"{p.topic}/{p.partition}": _Buffer() for p in places}

    def _revoked(self, consumer: Consumer, places: list[TopicPartition]) -> None:
        """Gives partitions up. What was fetched of them and not taken in is for whoever gets them."""
        for place in places:
            self._buffers.pop(f"{place.topic}/{place.partition}", None)
        consumer.unassign()

    def _seek(self, partition: str, buffer: _Buffer, after: Position) -> None:
        """Begins anew at a position."""
        try:
            self._connection.consumer.seek(_place(partition, OFFSET_BEGINNING if after == BEGINNING else after.at))
        except KafkaException as error:
            if error.args[0].code() == KafkaError._STATE:  # not ready yet: it is asked again
                return
            raise self._connection.failure(error.args[0]) from error
        buffer.at, buffer.is_sought, buffer.oldest, buffer.ends = after, True, -1, None
        buffer.messages.clear()
        _resume(self._connection.consumer, partition, buffer, self._wanted)

    def _fetch(self) -> None:
        doubted = set[str]()
        for message in self._connection.consume(_FETCH, _WAIT):
            name, offset = f"{message.topic()}/{message.partition()}", message.offset()
            buffer = self._buffers.get(name)
            if buffer is None or buffer.at is None or offset is None or offset < buffer.at.at or name in doubted:
                continue
            if not self._is_next(name, buffer, offset):
                doubted.add(name)
                continue
            if buffer.is_sought:
                kind, time = message.timestamp()
                buffer.oldest = self._clock() if kind == TIMESTAMP_NOT_AVAILABLE else 1_000 * time
                buffer.is_sought = False
            if not buffer.messages:
                buffer.since = monotonic()
            buffer.messages.append((offset, message.value()))
        full = [p for p, b in self._buffers.items() if not b.is_paused and len(b.messages) >= 2 * max(self._wanted, 1)]
        for partition in full:
            self._connection.consumer.pause([_place(partition)])
            self._buffers[partition].is_paused = True

    def _is_next(self, partition: str, buffer: _Buffer, offset: int) -> bool:
        """Whether a message follows those that are buffered. What was on its way before a seek may come after it."""
        at = buffer.at or BEGINNING
        while buffer.messages and buffer.messages[-1][0] >= offset:
            buffer.messages.pop()  # it is delivered once more, with what comes after it
        if not buffer.is_sought:
            return True
        if offset == at.at:
            buffer.ends = None  # all is there, whatever is dropped from now on
            return True
        with contextlib.suppress(DataError):  # of brokers that do not answer: it is sought once more
            if at == BEGINNING:  # asked only now, as the answer waits behind what is fetched
                buffer.ends = ends = self._connection.ends(_number(partition))
                if offset == ends[0]:
                    return True
            # A topic may have no event at an offset: of a transaction, or cleaned up. Who never sought can tell.
            if offset == self._connection.first(_number(partition), at.at):
                return True
        self._seek(partition, buffer, at)
        return False


def _number(partition: str) -> int:
    return int(partition.rpartition("/")[2])


def _place(partition: str, offset: int = 0) -> TopicPartition:
    return TopicPartition(partition.rpartition("/")[0], _number(partition), offset)


def _resume(consumer: Consumer, partition: str, buffer: _Buffer, wanted: int) -> None:
    if buffer.is_paused and len(buffer.messages) < wanted:
        consumer.resume([_place(partition)])
        buffer.is_paused = False


def _newest(view: CompiledView, frame: pl.DataFrame) -> int:
    source = view.view.source
    known = [pl.col(name).max() for name in (TIME, AVAILABLE) if name in source.order_columns()]
    newest = source.events(frame.lazy()).select(pl.max_horizontal(known)).collect().item()
    return -1 if newest is None else int(newest)


def parse_url(url: str) -> tuple[str, str]:
    """The brokers and the topic of a URL.

    Raises:
        ConfigError: it is none.

    >>> parse_url("kafka://one:9092,two:9092/events")
    ('one:9092,two:9092', 'events')
    """
    parts = urlsplit(url)
    topic = parts.path.strip("/")
    if parts.scheme != "kafka" or not parts.netloc or not topic or "/" in topic or "@" in parts.netloc:
        raise ConfigError(
            f"got the stream '{without_password(url)}', expected kafka://HOST:PORT/TOPIC",
            where="ingest",
            hint="names and passwords are settings of librdkafka: --settings FILE",
        )
    return parts.netloc, topic
