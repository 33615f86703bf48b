"""A Kafka topic: partitions are assigned by the consumer group, positions are the store's, not the broker's.

A partition is read from the position that the store has, whoever read it before. What can't be taken in goes to a file
of dead letters. Fetching is bounded: of a partition that is ahead of the store by two micro-batches no more is fetched.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any, final
from urllib.parse import urlsplit

import polars as pl
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, TopicPartition

from bedplate.config import without_password
from bedplate.errors import ConfigError, DataError
from bedplate.features.view import CompiledView
from bedplate.online.letters import Letter, write_letters
from bedplate.online.payloads import Payloads
from bedplate.online.streams import BEGINNING, MicroBatch, Position, Stream
from bedplate.sources.base import AVAILABLE, TIME

AGE = 0.5
"""How long events are waited for that would fill a micro-batch, in seconds."""

_WAIT = 0.05  # seconds that one look at the broker may take
_FETCH = 5_000
_LAG_TIME = 1.0  # seconds that the broker may take to say where a partition ends
_PASSING = (
    KafkaError._ALL_BROKERS_DOWN,
    KafkaError._TRANSPORT,
    KafkaError._TIMED_OUT,
    KafkaError._PARTITION_EOF,
    # The group went on without this worker, which was waiting for the store; its partitions are assigned anew.
    KafkaError._MAX_POLL_EXCEEDED,
)


@final
@dataclass(slots=True)
class _Buffer:
    """Messages of a partition that were fetched and not taken in yet.

    Attributes:
        at: the position after which they come; None: it was not asked for yet.
        since: when the first of them came, on the monotonic clock.
        is_sought: whether none has come since the position was sought.
        first: the offset that came first after that, if it was a later one than was asked for; -1: none.
    """

    at: Position | None = None
    messages: deque[tuple[int, bytes | None]] = field(default_factory=deque[tuple[int, "bytes | None"]])
    since: float = 0.0
    is_paused: bool = True
    is_sought: bool = False
    first: int = -1


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

    Attributes:
        letters_written: events that could not be taken in so far.
        errors: errors of the broker so far that passed.

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
    ) -> None:
        brokers, self._topic = parse_url(url)
        self._url, self._view, self._letters, self._age = url, view, letters, age
        self._payloads = Payloads(form, view.view.source.table(view.root).schema(), view.root)
        self._buffers: dict[str, _Buffer] = {}
        self._wanted = 0
        self.letters_written = self.errors = 0
        fixed = {
            "bootstrap.servers": brokers,
            "group.id": group,
            "enable.auto.commit": False,
            "auto.offset.reset": "error",
        }
        try:
            self._consumer = Consumer({"queued.max.messages.kbytes": 65_536, **(settings or {}), **fixed})
            self._consumer.subscribe(
                [self._topic], on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._revoked
            )
        except KafkaException as error:
            raise ConfigError(f"can't open the stream: {error.args[0].str()}", where=url) from error

    @property
    def name(self) -> str:
        """The URL."""
        return self._url

    @property
    def overlaps_history(self) -> bool:
        """A topic keeps what history has too."""
        return True

    def partitions(self) -> Sequence[str]:
        """The partitions that the group has assigned to this worker; fetches what is there."""
        self._fetch()
        return sorted(self._buffers)

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
        self._resume(partition, buffer)
        if not buffer.messages or (len(buffer.messages) < rows and monotonic() < buffer.since + self._age):
            return None
        taken: list[tuple[int, bytes | None]] = []
        while buffer.messages and len(taken) < rows and (before is None or buffer.messages[0][0] < before.at):
            taken.append(buffer.messages.popleft())
        # A topic may have no event at an offset: of a transaction, or cleaned up.
        buffer.at = Position("", taken[-1][0] + 1) if taken else before
        buffer.since = monotonic()
        return self._batch(partition, after, buffer.at or after, taken)

    def _batch(
        self, partition: str, begin: Position, end: Position, taken: Sequence[tuple[int, bytes | None]]
    ) -> MicroBatch:
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
            newest=lambda: self._newest(frame),
            refuse=refuse,
        )

    def _newest(self, frame: pl.DataFrame) -> int:
        source = self._view.view.source
        known = [pl.col(name).max() for name in (TIME, AVAILABLE) if name in source.order_columns()]
        newest = source.events(frame.lazy()).select(pl.max_horizontal(known)).collect().item()
        return -1 if newest is None else int(newest)

    def lag(self, partition: str, after: Position) -> int:
        """The offsets between a position and the end of a partition, which the broker tells."""
        try:
            low, high = self._consumer.get_watermark_offsets(self._place(partition), timeout=_LAG_TIME)
        except KafkaException as error:
            raise self._failure(error.args[0]) from error
        return max(0, high - max(after.at, low))

    def has(self, partition: str) -> bool:
        """Whether it is one of the topic."""
        return partition.startswith(f"{self._topic}/")

    def close(self) -> None:
        """Leaves the group, so that its partitions are assigned to other workers at once."""
        self._consumer.close()

    def _place(self, partition: str, offset: int = 0) -> TopicPartition:
        return TopicPartition(self._topic, int(partition.rpartition("/")[2]), offset)

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
            self._consumer.seek(self._place(partition, OFFSET_BEGINNING if after == BEGINNING else after.at))
        except KafkaException as error:
            if error.args[0].code() == KafkaError._STATE:  # not ready yet: it is asked again
                return
            raise self._failure(error.args[0]) from error
        buffer.at, buffer.is_sought = after, True
        buffer.messages.clear()
        self._resume(partition, buffer)

    def _resume(self, partition: str, buffer: _Buffer) -> None:
        if buffer.is_paused and len(buffer.messages) < self._wanted:
            self._consumer.resume([self._place(partition)])
            buffer.is_paused = False

    def _fetch(self) -> None:
        for message in self._consumer.consume(_FETCH, _WAIT):
            error = message.error()
            if error is not None:
                self._check(error)
                continue
            buffer = self._buffers.get(f"{message.topic()}/{message.partition()}")
            offset = message.offset()
            if buffer is None or buffer.at is None or offset is None or offset < buffer.at.at:
                continue
            if not self._is_next(f"{message.topic()}/{message.partition()}", buffer, offset):
                continue
            if not buffer.messages:
                buffer.since = monotonic()
            buffer.messages.append((offset, message.value()))
        full = [p for p, b in self._buffers.items() if not b.is_paused and len(b.messages) >= 2 * max(self._wanted, 1)]
        for partition in full:
            self._consumer.pause([self._place(partition)])
            self._buffers[partition].is_paused = True

    def _is_next(self, partition: str, buffer: _Buffer, offset: int) -> bool:
        """Whether a message follows those that are buffered. What was on its way before a seek may come after it."""
        at = buffer.at or BEGINNING
        while buffer.messages and buffer.messages[-1][0] >= offset:
            buffer.messages.pop()  # it is delivered once more, with what comes after it
        if buffer.is_sought and offset > at.at and buffer.first != offset:
            if buffer.first < 0 or offset < buffer.first:
                buffer.first = offset  # believed when it comes again: a topic may have no event at an offset
                self._seek(partition, buffer, at)
            return False
        buffer.is_sought, buffer.first = False, -1
        return True

    def _check(self, error: KafkaError) -> None:
        if error.code() in _PASSING or error.retriable():
            self.errors += error.code() != KafkaError._PARTITION_EOF
            return
        raise self._failure(error)

    def _failure(self, error: KafkaError) -> DataError:
        if error.code() == KafkaError._AUTO_OFFSET_RESET:
            return DataError(
                f"the topic no longer holds the events after the store's position: {error.str()}",
                where=self._url,
                hint="load the views again (bedplate materialize --replace), then run again; let the topic keep more",
            )
        return DataError(f"can't read the stream: {error.str()}", where=self._url)


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
