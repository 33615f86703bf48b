"""The connection to the brokers of a topic: its settings, what they say of the topic, and why they can't be reached."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence
from time import monotonic
from typing import Any, TypeAlias, final

from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient

from bedplate.errors import ConfigError, DataError
from bedplate.online.streams import Origin

PATIENCE = 5.0
"""How long brokers may be away before somebody hears of it, in seconds."""

_ASKED = 1.0  # seconds that the brokers may take to answer a question
_AGAIN = 10.0  # seconds after which it is asked again whether the topic is the same
_NO_ID = "A" * 22  # of brokers that give topics none
_FIRST = 10.0  # seconds that the first message of a partition may take
_PASSING = (
    KafkaError._ALL_BROKERS_DOWN,
    KafkaError._TRANSPORT,
    KafkaError._TIMED_OUT,
    KafkaError._PARTITION_EOF,
    # The group went on without this worker, which was waiting for the store; its partitions are assigned anew.
    KafkaError._MAX_POLL_EXCEEDED,
)
_SILENT = logging.getLogger("bedplate.kafka")
_SILENT.addHandler(logging.NullHandler())
_SILENT.propagate = False  # what librdkafka writes, many lines a second where brokers are away

Assigned: TypeAlias = Callable[[Consumer, list[TopicPartition]], None]
"""Called with partitions that the group assigns or revokes."""


@final
class Connection:
    """A member of a consumer group, and what the brokers say.

    Args:
        url: of the stream, for messages.
        brokers: their addresses.
        topic: the topic.
        group: the consumer group.
        settings: of librdkafka beside those that a stream needs.
        assigned: called with partitions that the group has assigned.
        revoked: called with partitions that it takes away.

    Attributes:
        consumer: the member.
        errors: errors of the brokers so far that passed.
        trouble: why the brokers can't be reached, once they have been away for `PATIENCE`; empty: they can, as far as
            is known.
        origin: which stream the topic is, once `describe` has come back with it.
        partitions: the numbers of all its partitions, as `origin`.

    Raises:
        ConfigError: a setting is wrong.
    """

    def __init__(
        self,
        url: str,
        brokers: str,
        topic: str,
        group: str,
        settings: Mapping[str, Any],
        assigned: Assigned,
        revoked: Assigned,
    ) -> None:
        _check_settings(settings)
        self._url, self._topic = url, topic
        fixed = {
            "bootstrap.servers": brokers,
            "group.id": group,
            "enable.auto.commit": False,
            "auto.offset.reset": "error",
        }
        self._settings = {"queued.max.messages.kbytes": 65_536, **settings, **fixed}
        self.errors, self.trouble, self._said, self._denied = 0, "", "", ""
        self.origin: Origin | None = None
        self.partitions: Sequence[int] = ()
        self._look_due: float | None = monotonic() + PATIENCE
        self._describe_due = 0.0
        try:
            self.consumer = Consumer({**self._settings, "error_cb": self._heard}, logger=_SILENT)
            self.consumer.subscribe([topic], on_assign=assigned, on_revoke=revoked, on_lost=revoked)
            self._topic_id = TopicId({**self._settings, "error_cb": self._heard}, topic)
        except KafkaException as error:
            raise ConfigError(f"can't open the stream: {error.args[0].str()}", where=url) from error

    def consume(self, count: int, wait: float) -> list[Message]:
        """At most `count` messages that came, after at most `wait` seconds.

        Raises:
            DataError: the topic can't be read, and waiting does not help.
            ConfigError: the brokers refuse the name or the password, and did for `PATIENCE`.
        """
        try:
            found = self.consumer.consume(count, wait)
        except KafkaException as error:
            raise self.failure(error.args[0]) from error
        messages = list[Message]()
        for message in found:
            error = message.error()
            if error is None:
                messages.append(message)
            elif error.code() in _PASSING or error.retriable():
                if error.code() != KafkaError._PARTITION_EOF:
                    self.errors += 1
                    self._describe_due = 0.0  # the topic may be deleted
            else:
                raise self.failure(error)
        if messages:
            self._reached()
        elif self._look_due is not None and monotonic() >= self._look_due:
            self.describe()
        return messages

    def describe(self) -> bool:
        """Asks for the topic's partitions and the cluster that it is of; False: the brokers did not answer.

        Raises:
            ConfigError: they refuse the name or the password.
        """
        try:
            found = self.consumer.list_topics(self._topic, timeout=_ASKED)
        except KafkaException as error:
            if self._denied:
                raise ConfigError(
                    f"the brokers refuse the name or the password: {self._denied}",
                    where=self._url,
                    hint="check sasl.username, sasl.password and sasl.mechanism (--settings); the same command goes on "
                    "from where it was",
                ) from error
            self.trouble = (
                f"can't reach the brokers of '{self._url}': {self._said or error.args[0].str()}; check the addresses, "
                "that a broker listens there, and security.protocol and the sasl.* and ssl.* settings (--settings)"
            )
            self._look_due = monotonic() + PATIENCE
            return False
        self._reached()
        self.partitions = sorted(found.topics[self._topic].partitions)
        name = f"kafka:{found.cluster_id or ''}/{self._topic}"
        self.origin = Origin(name, self._url, self._topic_id.read())
        self._describe_due = monotonic() + _AGAIN
        return True

    def is_described(self) -> bool:
        """Whether it is known which stream the topic is; asks now and then whether it is still the same."""
        is_due = self.origin is None or (monotonic() >= self._describe_due and not self.trouble)
        return self.describe() if is_due else True

    def ends(self, partition: int) -> tuple[int, int]:
        """The first offset that a partition holds, and the one after its last.

        Raises:
            DataError: the brokers did not say.
        """
        try:
            low, high = self.consumer.get_watermark_offsets(TopicPartition(self._topic, partition), timeout=_ASKED)
        except KafkaException as error:
            raise self.failure(error.args[0]) from error
        return low, high

    def first(self, partition: int, at: int) -> int:
        """The offset of the first message of a partition from an offset on, found by a consumer that never sought.

        Returns:
            it; -1: none came.
        """
        probe = Consumer({**self._settings, "error_cb": self._heard}, logger=_SILENT)
        try:
            probe.assign([TopicPartition(self._topic, partition, at or OFFSET_BEGINNING)])
            end = monotonic() + _FIRST
            while monotonic() < end:
                message = probe.poll(0.1)
                if message is not None and message.error() is None:
                    return message.offset() or 0
            return -1
        finally:
            probe.close()

    def failure(self, error: KafkaError) -> DataError:
        """What to raise for an error."""
        if error.code() == KafkaError._AUTO_OFFSET_RESET:
            return DataError(
                f"the topic no longer holds the events after the store's position: {error.str()}",
                where=self._url,
                hint="load the views again (bedplate materialize --replace), then run again; let the topic keep more",
            )
        return DataError(f"can't read the stream: {error.str()}", where=self._url)

    def _heard(self, error: KafkaError) -> None:
        self.errors += 1
        if error.code() != KafkaError._ALL_BROKERS_DOWN or not self._said:
            self._said = error.str()
        if error.code() == KafkaError._AUTHENTICATION:
            self._denied = error.str()
        if self._look_due is None:
            self._look_due = monotonic() + PATIENCE

    def _reached(self) -> None:
        self.trouble, self._said, self._denied, self._look_due = "", "", "", None


@final
class TopicId:
    """The id that brokers give a topic when it is made. It is asked for while the member joins its group.

    Args:
        settings: of librdkafka.
        topic: the topic.
    """

    def __init__(self, settings: Mapping[str, Any], topic: str) -> None:
        self._admin: Any = AdminClient(dict(settings), logger=_SILENT)
        self._topic, self._known = topic, ""
        self._asked, self._until = self._ask()

    def read(self) -> str:
        """The id as it is now; empty: the brokers don't say, or not in time."""
        if self._known:
            self._asked, self._until = self._ask()
        with contextlib.suppress(KafkaException, TimeoutError):
            found = str(self._asked.result(max(0.0, self._until - monotonic())).topic_id)
            self._known = "" if found == _NO_ID else found
        return self._known

    def _ask(self) -> tuple[Any, float]:
        asked = self._admin.describe_topics(TopicCollection([self._topic]), request_timeout=2 * _ASKED)
        return asked[self._topic], monotonic() + _ASKED


def _check_settings(settings: Mapping[str, Any]) -> None:
    """Raises `ConfigError` where partitions would be assigned one by one, which a worker does not know."""
    for name, value in (
        ("partition.assignment.strategy", "cooperative-sticky"),
        ("group.protocol", "consumer"),
    ):
        if value in str(settings.get(name, "")).lower():
            raise ConfigError(
                f"got {name} = '{settings[name]}', expected partitions to be assigned all at once",
                where="settings of librdkafka",
                hint="leave it out; 'range' and 'roundrobin' are fine" if "strategy" in name else "leave it out",
            )
